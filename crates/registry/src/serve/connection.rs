//! One client's connection, plain or TLS, which ends when the client takes nothing, or too little, for too long.

use super::intake::TRICKLE;
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

/// A stream to a client.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Control(UnixStream),
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Plain(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
            Stream::Tls(stream) => {
                let $inner = Pin::new(stream.as_mut());
                $call
            }
            Stream::Control(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
        }
    };
}

/// A connection that fails when a write makes no progress for `silence`. (Reads are bounded where they
/// belong to something: the head by hyper, bodies by [`super::intake::Intake`].)
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    silence: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
    pace: Pace,
    /// When a byte last went through, for those who ask.
    last: Option<Arc<Mutex<std::time::Instant>>>,
}

impl Connection {
    pub(crate) fn new(stream: Stream, silence: Duration) -> Self {
        Self { stream, silence, stuck: None, pace: Pace::default(), last: None }
    }

    /// Notes in `last` when a byte goes through.
    pub(crate) fn noting(self, last: Arc<Mutex<std::time::Instant>>) -> Self {
        Self { last: Some(last), ..self }
    }

    /// A flush of nothing is ready, too, and is no sign of life: only what moves bytes is noted.
    fn note(&self, went: bool) {
        if let Some(last) = self.last.as_ref().filter(|_| went) {
            *last.lock() = std::time::Instant::now();
        }
    }

    /// Turns a write that has waited for too long into an error.
    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        taken: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = polled {
            self.stuck = None;
            let taken = done.as_ref().map_or(0, taken);
            if self.pace.is_too_slow(taken, self.silence, Instant::now()) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Ready(done);
        }
        self.pace.waits(Instant::now());
        let silence = self.silence;
        let stuck =
            self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + silence)));
        match stuck.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// How fast a client takes what it is sent, measured over the time that is spent waiting for it: a reply that
/// is slow to be made is not its fault.
#[derive(Debug, Default)]
struct Pace {
    since: Option<Instant>,
    waited: Duration,
    taken: u64,
}

impl Pace {
    /// A write has to wait.
    fn waits(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Notes a write that was done; whether in a whole stretch of waiting less than a trickle was taken.
    fn is_too_slow(&mut self, taken: usize, silence: Duration, now: Instant) -> bool {
        self.waited += self.since.take().map_or(Duration::ZERO, |since| now - since);
        self.taken += taken as u64;
        if self.waited < silence {
            return false;
        }
        let is_too_slow = self.taken < TRICKLE;
        *self = Self::default();
        is_too_slow
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = each!(&mut self.stream, stream => stream.poll_read(context, buffer));
        self.note(polled.is_ready());
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = each!(&mut self.stream, stream => stream.poll_write(context, bytes));
        self.note(polled.is_ready());
        self.bounded(context, polled, |count| *count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = each!(&mut self.stream, stream => stream.poll_write_vectored(context, slices));
        self.note(polled.is_ready());
        self.bounded(context, polled, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Control(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = each!(&mut self.stream, stream => stream.poll_flush(context));
        self.bounded(context, polled, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = each!(&mut self.stream, stream => stream.poll_shutdown(context));
        self.bounded(context, polled, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a client is shown out that takes `bytes` after every wait of five seconds.
    fn is_shown_out(bytes: usize) -> bool {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        (0..100).any(|_| {
            pace.waits(now);
            now += Duration::from_secs(5);
            pace.is_too_slow(bytes, Duration::from_secs(60), now)
        })
    }

    #[test]
    fn who_takes_a_trickle_is_shown_out() {
        assert!(is_shown_out(1));
        assert!(!is_shown_out(1000));
    }

    #[test]
    fn only_the_time_that_is_waited_for_the_client_counts() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for minutes in 0..100 {
            let now = start + Duration::from_secs(60 * minutes);
            assert!(!pace.is_too_slow(1, Duration::from_secs(60), now), "nothing had to wait");
        }
    }
}
