//! Progress lines of pull and push, as the docker command line draws them.

use super::Output;
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use yare_api::progress::JSONMessage;

/// Lines that wait for the client.
const LINES: usize = 64;
/// A bar moves at most this often.
const EVERY: Duration = Duration::from_millis(100);

/// Where the lines of one operation go.
#[derive(Debug, Clone)]
pub(super) struct Lines(mpsc::Sender<io::Result<Bytes>>);

impl Lines {
    /// The lines, and the reply that they become.
    pub(super) fn new() -> (Self, Output) {
        let (lines, out) = mpsc::channel(LINES);
        (Self(lines), super::receive(out))
    }

    /// Lines that go where others go already.
    pub(super) fn over(lines: &mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self(lines.clone())
    }

    /// Sends a line. A client that left misses it.
    pub(super) async fn send(&self, message: JSONMessage) {
        let _ = self.0.send(Ok(message.to_line().into())).await;
    }

    /// Sends a line if the client keeps up: of a bar, the next position tells as much.
    fn offer(&self, message: &JSONMessage) {
        let _ = self.0.try_send(Ok(message.to_line().into()));
    }

    pub(super) async fn status(&self, id: &str, status: impl Into<String>) {
        self.send(JSONMessage::status(id, status)).await;
    }

    /// A state of something that has a bar at other times.
    pub(super) async fn state(&self, id: &str, state: &str) {
        self.send(JSONMessage::progress(id, state, 0, 0)).await;
    }

    /// Completes when the client has left.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Whether the client has left.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// A bar for something of `total` bytes.
    pub(super) fn bar(&self, id: &str, action: &'static str, total: u64) -> Bar {
        let told = Arc::new(Mutex::new(None));
        Bar { lines: self.clone(), id: id.to_owned(), action, total: signed(total), told }
    }
}

/// A bar that moves.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    lines: Lines,
    id: String,
    action: &'static str,
    total: i64,
    told: Arc<Mutex<Option<Instant>>>,
}

impl Bar {
    /// Moves it to this many bytes.
    pub(super) fn at(&self, current: u64) {
        let mut told = self.told.lock();
        if told.is_some_and(|told| told.elapsed() < EVERY) {
            return;
        }
        *told = Some(Instant::now());
        self.lines.offer(&JSONMessage::progress(&self.id, self.action, signed(current), self.total));
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
