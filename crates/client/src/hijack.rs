//! The raw stream of attach and exec, after the engine has handed the connection over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};

use crate::connection::Stream;

/// A connection that no longer speaks HTTP.
#[derive(Debug)]
pub struct Hijacked {
    /// Whether the stream is multiplexed with Docker's eight-byte headers; `None` when the engine did not say.
    pub multiplexed: Option<bool>,
    /// What the engine sends, the bytes that came together with the reply's head first.
    pub reader: Reader,
    /// What the engine gets.
    pub writer: Writer,
}

impl Hijacked {
    pub(crate) fn new(stream: Stream, early: Bytes, multiplexed: Option<bool>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { multiplexed, reader: Reader { early, half: reader }, writer: Writer(writer) }
    }
}

/// The half that reads.
#[derive(Debug)]
pub struct Reader {
    early: Bytes,
    half: ReadHalf<Stream>,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.has_remaining() {
            let count = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.half).poll_read(cx, buffer)
    }
}

/// The half that writes.
#[derive(Debug)]
pub struct Writer(WriteHalf<Stream>);

impl Writer {
    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        // Over TLS, what the socket did not take would wait for the next bytes.
        self.0.flush().await
    }

    /// Says that nothing more will be sent (end of stdin); reading goes on.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
