//! HTTP/2 (RFC 9113): over TLS for clients that choose it there, without TLS for those that begin with it.

use super::connection::{Connection, Stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Its name in TLS (ALPN).
pub(super) const PROTOCOL: &[u8] = b"h2";
/// How its preface begins, as no method of HTTP/1 does.
const PREFACE: &[u8; 3] = b"PRI";
/// The pause before a preface that came in part is looked at again: nothing tells that more of it is there.
const PAUSE: Duration = Duration::from_millis(5);
/// Requests at a time on one connection; RFC 9113 recommends no fewer.
const STREAMS: u32 = 100;
/// Bytes that a client may send of one body, and of all on its connection, before somebody has taken them.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);
/// Bytes of one reply that wait for its client.
const WAITING: usize = 256 << 10;

/// The settings of a connection.
pub(super) fn builder(max_head: u32) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(max_head)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(WAITING);
    builder
}

/// Whether the client speaks HTTP/2: by what was agreed upon in TLS, without TLS by its first bytes.
pub(super) async fn is_spoken(stream: &Stream) -> io::Result<bool> {
    match stream {
        Stream::Tls(stream) => Ok(stream.get_ref().1.alpn_protocol() == Some(PROTOCOL)),
        Stream::Plain(stream) => begins(stream).await,
        Stream::Control(_) => Ok(false),
    }
}

async fn begins(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut start).await?;
        if seen == 0 || seen == start.len() || !PREFACE.starts_with(&start[..seen]) {
            return Ok(start == *PREFACE);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a connection does, to tell when it does nothing.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    /// Requests whose replies have not begun.
    requests: Arc<AtomicUsize>,
    /// When a byte last went through.
    last: Arc<Mutex<Instant>>,
}

impl Activity {
    /// A connection, and what it does from now on.
    pub(super) fn watch(connection: Connection) -> (Connection, Self) {
        let last = Arc::new(Mutex::new(Instant::now()));
        (connection.noting(Arc::clone(&last)), Self { requests: Arc::default(), last })
    }

    /// Counts a request until its reply begins.
    pub(super) async fn of<T>(self, answering: impl Future<Output = T>) -> T {
        /// Counts down also where the client takes its request back.
        struct Counted(Activity);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.requests.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let _counted = Counted(self);
        answering.await
    }

    /// Completes when no request waits for its reply and no byte has gone either way for `silence`.
    pub(super) async fn ends(&self, silence: Duration) {
        loop {
            let rest = silence.saturating_sub(self.last.lock().elapsed());
            if rest.is_zero() && self.requests.load(Ordering::Relaxed) == 0 {
                return;
            }
            // While only a request is waited for, this is how often it is looked at.
            tokio::time::sleep(rest.max(silence / 4)).await;
        }
    }
}
