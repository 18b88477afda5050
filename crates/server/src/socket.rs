//! One client's connection, shared by the HTTP half and by whoever must know that the client left.
//!
//! Hyper is told to allow half-closed connections (a client that ends its stdin still reads), and so does
//! not notice by itself that a silent client is gone. [`Socket::gone`] does, from the readiness of the
//! descriptor and without reading from it.
//!
//! ```text
//! Socket ─ TLS session, if any ─ Line (the descriptor)
//! ```
//! Over TLS a client ends its input with an alert, in place of half a close: a read tells of it, the
//! descriptor does not.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use crate::policy::Policy;

/// A connected stream socket; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    line: Line,
    /// Held only while one of the two sides is polled: reading and writing wait for different wakers.
    tls: Option<Arc<Mutex<TlsStream<Line>>>>,
    policy: Option<Arc<Policy>>,
    ending: Arc<watch::Sender<bool>>,
}

/// The bytes on the wire; clones share the descriptor.
#[derive(Debug, Clone)]
pub(crate) struct Line(Arc<Stream>);

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

macro_rules! either {
    ($line:expr, $stream:ident => $call:expr) => {
        match &*$line.0 {
            Stream::Unix($stream) => $call,
            Stream::Tcp($stream) => $call,
        }
    };
}

impl Line {
    /// Takes a connection of a TCP listener.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        // Frames of an interactive session are small; waiting to merge them is felt.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot switch Nagle's algorithm off");
        }
        Self(Arc::new(Stream::Tcp(stream)))
    }

    /// Ends our half: the client reads end of file after what was written.
    fn end_writing(&self) -> io::Result<()> {
        let fd = either!(self, stream => stream.as_fd());
        match rustix::net::shutdown(fd, rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Socket {
    /// Takes a connection of a unix listener.
    pub(crate) fn unix(stream: UnixStream) -> Self {
        Self::plain(Line(Arc::new(Stream::Unix(stream))))
    }

    /// Speaks on a line as it is.
    pub(crate) fn plain(line: Line) -> Self {
        Self { line, tls: None, policy: None, ending: Arc::default() }
    }

    /// Speaks through a TLS session.
    pub(crate) fn tls(session: TlsStream<Line>) -> Self {
        let line = session.get_ref().0.clone();
        Self { tls: Some(Arc::new(Mutex::new(session))), ..Self::plain(line) }
    }

    /// Its client has the rights of this policy; without one, all.
    pub(crate) fn under(self, policy: Option<Arc<Policy>>) -> Self {
        Self { policy, ..self }
    }

    /// The policy of its client.
    pub(crate) fn policy(&self) -> Option<&Policy> {
        self.policy.as_deref()
    }

    /// User and process of the client of a unix socket when it connected.
    pub(crate) fn client(&self) -> Option<(u32, i32)> {
        let Stream::Unix(stream) = &*self.line.0 else { return None };
        let client = stream.peer_cred().ok()?;
        // 0 where it is in a namespace that cannot be seen from here.
        Some((client.uid(), client.pid().unwrap_or(0)))
    }

    /// Whether this is a TCP connection, which web pages can reach.
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(&*self.line.0, Stream::Tcp(_))
    }

    /// Whether the client knows by a certificate whom it talks to.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The other end of a TCP connection.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match &*self.line.0 {
            Stream::Unix(_) => None,
            Stream::Tcp(stream) => stream.peer_addr().ok(),
        }
    }

    /// Waits until the client sends no more: it closed the connection or its half of it, or the server ends
    /// and has [let it go](Socket::let_go).
    pub(crate) async fn gone(&self) {
        let mut ending = self.ending.subscribe();
        tokio::select! {
            // Only the state "no more to read" is of interest, and it comes along with priority.
            ready = async { either!(self.line, stream => stream.ready(Interest::PRIORITY).await) } => {
                if ready.is_err() {
                    tracing::debug!("lost sight of a client");
                }
            }
            _ = ending.wait_for(|ending| *ending) => {}
        }
    }

    /// Ends what is sent for as long as the client stays.
    pub(crate) fn let_go(&self) {
        self.ending.send_replace(true);
    }

    /// Whether the client closed both directions.
    pub(crate) fn hung_up(&self) -> bool {
        let fd = either!(self.line, stream => stream.as_fd());
        is_hung_up(fd)
    }
}

fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
        Err(_) => false,
    }
}

/// Calls a function of the session, or of the line where there is none.
macro_rules! through {
    ($socket:expr, $stream:ident => $call:expr) => {{
        let socket = $socket.get_mut();
        match &socket.tls {
            Some(session) => {
                let mut session = session.lock();
                let $stream = Pin::new(&mut *session);
                $call
            }
            None => {
                let $stream = Pin::new(&mut socket.line);
                $call
            }
        }
    }};
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        through!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        through!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        through!(self, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        through!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        through!(self, stream => stream.poll_shutdown(context))
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(either!(self, stream => stream.poll_read_ready(context)))?;
            match either!(self, stream => stream.try_read_buf(buffer)) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(either!(self, stream => stream.poll_write_ready(context)))?;
            match either!(self, stream => stream.try_write_vectored(slices)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end_writing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_half_closed_client_is_not_hung_up() {
        let (client, server) = UnixStream::pair().expect("a pair");
        let mut socket = Socket::unix(server);
        let mut client = client;
        assert!(timeout(Duration::from_millis(30), socket.gone()).await.is_err());
        client.write_all(b"last words").await.expect("written");
        client.shutdown().await.expect("half closed");
        timeout(Duration::from_secs(5), socket.gone()).await.expect("it says nothing more");
        assert!(!socket.hung_up());
        let mut words = String::new();
        socket.read_to_string(&mut words).await.expect("read");
        assert_eq!(words, "last words");
        drop(client);
        assert!(socket.hung_up());
    }
}
