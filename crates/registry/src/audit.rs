//! The audit log: one line of JSON for each request, in a file.

use crate::serve::Peer;
use http::header::USER_AGENT;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use yare_errdefs::{Error, Result};

/// Lines that wait for the disk; beyond them requests wait, so that none goes unrecorded.
const QUEUE: usize = 4096;

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
}

impl Audit {
    /// Opens the file for appending; a file that was moved away is made again for the next line.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = append_to(path)
            .map_err(|error| Error::invalid(format!("cannot open {}", path.display())).caused_by(error))?;
        let (lines, waiting) = sync_channel(QUEUE);
        let path = path.to_owned();
        let writer = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || write_all(&path, file, &waiting))
            .map_err(Error::from)?;
        Ok(Self { lines: Some(lines), writer: Some(writer) })
    }

    /// Adds a line.
    pub(crate) fn write(&self, line: &Line) {
        let now = crate::events::rfc3339(crate::clock::now());
        let Ok(mut value) = serde_json::to_value(line) else { return };
        value["time"] = now.into();
        let mut text = value.to_string().into_bytes();
        text.push(b'\n');
        if let Some(lines) = &self.lines {
            // The writer only ends with this.
            let _ = lines.send(text);
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
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

fn write_all(path: &Path, mut file: File, waiting: &Receiver<Vec<u8>>) {
    while let Ok(first) = waiting.recv() {
        let mut batch = first;
        waiting.try_iter().take(QUEUE).for_each(|line| batch.extend(line));
        if was_moved(path, &file) {
            match append_to(path) {
                Ok(made) => file = made,
                Err(error) => tracing::error!(path = %path.display(), %error, "cannot open the audit log"),
            }
        }
        if let Err(error) = file.write_all(&batch) {
            tracing::error!(path = %path.display(), %error, "cannot write the audit log");
        }
    }
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
