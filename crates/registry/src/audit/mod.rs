//! The audit log: one line of JSON for each request, in a file.
//!
//! A disk that takes no bytes must not keep requests waiting: lines wait for it in a bounded queue, what does
//! not fit there is lost, and how much that was is in the metrics. What could not be written is tried again.

mod file;

pub(crate) use file::Log;

use crate::serve::Peer;
use file::{Appender, Batch};
use http::header::USER_AGENT;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use yare_errdefs::{Error, Result};

/// Lines that wait for the disk; what comes beyond them is lost, and counted.
const QUEUE: usize = 4096;
/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// A request, as the log has it. Control characters of clients are escaped by JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) time: String,
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) method: String,
    pub(crate) path: String,
    /// What the path names.
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repository: Option<String>,
    pub(crate) status: u16,
    /// Microseconds until the head of the reply.
    pub(crate) micros: u64,
    pub(crate) agent: String,
}

impl Line {
    /// What is known when the request comes in.
    pub(crate) fn new(peer: &Peer, parts: &http::request::Parts) -> Self {
        let agent = parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        Self {
            time: String::new(),
            address: peer.address.clone(),
            user: String::new(),
            method: parts.method.as_str().chars().take(16).collect(),
            path: parts.uri.path().chars().take(1024).collect(),
            kind: "other",
            repository: None,
            status: 0,
            micros: 0,
            agent: agent.chars().take(256).collect(),
        }
    }
}

/// The file and the way to its writer.
#[derive(Debug)]
pub(crate) struct Audit {
    lines: Option<SyncSender<Vec<u8>>>,
    writer: Option<std::thread::JoinHandle<()>>,
    state: Arc<State>,
}

/// What the writer and those who have lines for it know of each other.
#[derive(Debug, Default)]
struct State {
    lost: AtomicU64,
    /// Nobody waits any more for a disk to recover.
    ending: AtomicBool,
    /// The file is to be opened anew.
    reopens: AtomicBool,
}

impl Audit {
    /// Opens the file for appending.
    pub(crate) fn open(log: &Log) -> Result<Self> {
        let file = Appender::open(log.clone()).map_err(|error| {
            Error::invalid(format!("cannot open the audit log {}", log.path.display())).caused_by(error)
        })?;
        let (lines, waiting) = sync_channel(QUEUE);
        let state = Arc::new(State::default());
        let known = Arc::clone(&state);
        let writer = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || write_all(file, &waiting, &known))
            .map_err(Error::from)?;
        Ok(Self { lines: Some(lines), writer: Some(writer), state })
    }

    /// Adds a line, or counts it as lost. Never waits.
    pub(crate) fn write(&self, line: &Line) {
        let now = crate::events::rfc3339(crate::clock::now());
        let Ok(mut value) = serde_json::to_value(line) else { return };
        value["time"] = now.into();
        let mut text = value.to_string().into_bytes();
        text.push(b'\n');
        if let Some(lines) = &self.lines {
            // The writer only ends with this: it is full.
            if lines.try_send(text).is_err() && self.state.lost.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::error!("the audit log is not written as fast as requests come: lines are lost");
            }
        }
    }

    /// Opens the file anew, as who rotates it wants to have it: the former one is let go of at once.
    pub(crate) fn reopen(&self) {
        self.state.reopens.store(true, Ordering::Relaxed);
        if let Some(lines) = &self.lines {
            // To wake the writer; when there is no room it is awake.
            let _ = lines.try_send(Vec::new());
        }
    }

    /// Lines that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.state.ending.store(true, Ordering::Relaxed);
        drop(self.lines.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_all(mut file: Appender, waiting: &Receiver<Vec<u8>>, state: &State) {
    while let Ok(first) = waiting.recv() {
        let mut batch = Batch::default();
        batch.push(&first);
        waiting.try_iter().take(QUEUE).for_each(|line| batch.push(&line));
        let mut is_told = false;
        while let Err(error) = write_batch(&mut file, &mut batch, state) {
            let path = file.path().display();
            if state.ending.load(Ordering::Relaxed) {
                let lines = batch.lines();
                tracing::error!(%path, %error, lines, "the end of the audit log is lost");
                state.lost.fetch_add(lines as u64, Ordering::Relaxed);
                break;
            }
            if !std::mem::replace(&mut is_told, true) {
                tracing::error!(%path, %error, "cannot write the audit log; it is tried again");
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn write_batch(file: &mut Appender, batch: &mut Batch, state: &State) -> std::io::Result<()> {
    if state.reopens.load(Ordering::Relaxed) {
        file.reopen(batch)?;
        state.reopens.store(false, Ordering::Relaxed);
    }
    file.write(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> Line {
        let (parts, ()) = http::Request::get(format!("/v2/{number}")).body(()).unwrap().into_parts();
        let (address, client) = ("192.0.2.1".to_owned(), "192.0.2.1".to_owned());
        Line::new(&Peer { address, client, user: None, tls: false, control: false }, &parts)
    }

    #[test]
    fn a_disk_that_takes_nothing_keeps_nobody_waiting() {
        let audit = Audit::open(&Log::at("/dev/full")).unwrap();
        for number in 0..4 * QUEUE {
            audit.write(&line(number));
        }
        let lost = audit.lost();
        assert!(lost >= QUEUE as u64, "{lost}");
        let state = Arc::clone(&audit.state);
        drop(audit);
        assert_eq!(state.lost.load(Ordering::Relaxed), 4 * QUEUE as u64, "each line is written or counted");
    }
}
