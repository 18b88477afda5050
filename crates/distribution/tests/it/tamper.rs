//! A server's side of a connection whose answer can be spoilt below HTTP.

use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is done to the next piece that is written. After it the connection is over.
#[derive(Clone, Copy)]
pub(crate) enum Tamper {
    /// Other bytes take its place.
    Raw(&'static str),
    /// Its last byte is missing.
    Short,
}

/// Where the one who answers leaves word.
#[derive(Clone, Default)]
pub(crate) struct Tampering(Arc<Mutex<Option<Tamper>>>);

impl Tampering {
    pub(crate) fn set(&self, tamper: Tamper) {
        *self.0.lock() = Some(tamper);
    }
}

/// The connection.
pub(crate) struct Tampered<S> {
    stream: S,
    tampering: Tampering,
    is_over: bool,
}

impl<S> Tampered<S> {
    pub(crate) fn new(stream: S) -> (Self, Tampering) {
        let tampering = Tampering::default();
        (Self { stream, tampering: tampering.clone(), is_over: false }, tampering)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tampered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tampered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_over {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let spoilt = match *self.tampering.0.lock() {
            None => None,
            Some(Tamper::Raw(other)) => Some(other.as_bytes()),
            Some(Tamper::Short) => bytes.split_last().map(|(_, rest)| rest),
        };
        let Some(spoilt) = spoilt else { return Pin::new(&mut self.stream).poll_write(cx, bytes) };
        // A few hundred bytes at the start of an answer always fit.
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, spoilt))?;
        assert_eq!(written, spoilt.len(), "the spoilt piece was written in part");
        self.is_over = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // The server goes on waiting for the next request unless it hears that the line is gone.
        Poll::Ready(if self.is_over { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
