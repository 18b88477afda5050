//! The audit log: one line of JSON for each request, in a file.
//!
//! A disk that takes no bytes must not keep requests waiting: lines wait for it in a bounded queue, what does
//! not fit there is lost, and how much that was is in the metrics. What could not be written is tried again.

use crate::serve::Peer;
use http::header::USER_AGENT;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::Path;
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
}

impl Audit {
    /// Opens the file for appending; a file that was moved away is made again for the next line.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = append_to(path)
            .map_err(|error| Error::invalid(format!("cannot open {}", path.display())).caused_by(error))?;
        let (lines, waiting) = sync_channel(QUEUE);
        let (path, state) = (path.to_owned(), Arc::new(State::default()));
        let known = Arc::clone(&state);
        let writer = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || write_all(&path, file, &waiting, &known))
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

fn append_to(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

fn write_all(path: &Path, mut file: File, waiting: &Receiver<Vec<u8>>, state: &State) {
    while let Ok(first) = waiting.recv() {
        let mut batch = first;
        waiting.try_iter().take(QUEUE).for_each(|line| batch.extend(line));
        let mut is_told = false;
        while let Err(error) = write_batch(path, &mut file, &mut batch) {
            if state.ending.load(Ordering::Relaxed) {
                let lines = batch.iter().filter(|byte| **byte == b'\n').count();
                tracing::error!(path = %path.display(), %error, lines, "the end of the audit log is lost");
                state.lost.fetch_add(lines as u64, Ordering::Relaxed);
                break;
            }
            if !std::mem::replace(&mut is_told, true) {
                tracing::error!(path = %path.display(), %error, "cannot write the audit log; it is tried again");
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Writes all of a batch, and takes from it what was written.
fn write_batch(path: &Path, file: &mut File, batch: &mut Vec<u8>) -> std::io::Result<()> {
    if was_moved(path, file) {
        *file = append_to(path)?;
    }
    drain(file, batch)
}

fn drain(out: &mut impl Write, batch: &mut Vec<u8>) -> std::io::Result<()> {
    while !batch.is_empty() {
        match out.write(batch) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(count) => drop(batch.drain(..count)),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the log was rotated.
fn was_moved(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
        (Err(_), _) => true,
        (_, Err(_)) => false,
    }
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
        let audit = Audit::open(Path::new("/dev/full")).unwrap();
        for number in 0..4 * QUEUE {
            audit.write(&line(number));
        }
        let lost = audit.lost();
        assert!(lost >= QUEUE as u64, "{lost}");
        let state = Arc::clone(&audit.state);
        drop(audit);
        assert_eq!(state.lost.load(Ordering::Relaxed), 4 * QUEUE as u64, "each line is written or counted");
    }

    /// Takes three bytes, fails, and takes three more.
    struct Stuttering(Vec<u8>, bool);

    impl Write for Stuttering {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1 = !self.1;
            if !self.1 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(3);
            self.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_failed_write_left_is_written_later() {
        let (mut out, mut batch) = (Stuttering(Vec::new(), false), b"one\ntwo\nthree\n".to_vec());
        while drain(&mut out, &mut batch).is_err() {}
        assert_eq!(out.0, b"one\ntwo\nthree\n");
    }
}
