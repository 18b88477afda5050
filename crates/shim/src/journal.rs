//! What went wrong in the shim itself: `shim.log` in the run directory.

use jiff::Timestamp;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use yare_logs::LogError;

/// Name of the file in the run directory.
pub(crate) const FILE: &str = "shim.log";

/// Bytes beyond which nothing more is written.
const LIMIT: usize = 64 << 10;

/// How often lost log entries are mentioned.
const EVERY: Duration = Duration::from_secs(10);

/// Notes of one shim. The run directory is in memory, so it works with a full disk.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    written: usize,
    /// Log entries lost so far.
    lost: usize,
    mentioned: Option<Instant>,
}

impl Journal {
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self { path: run_dir.join(FILE), written: 0, lost: 0, mentioned: None }
    }

    /// Adds a line. There is nobody to tell when that fails.
    pub(crate) fn note(&mut self, text: &str) {
        let line = format!("{} {}\n", yare_logs::time::to_string(Timestamp::now()), text.replace('\n', " "));
        if self.written + line.len() > LIMIT {
            return;
        }
        self.written += line.len();
        if let Ok(mut file) = File::options().append(true).create(true).open(&self.path) {
            let _ = file.write_all(line.as_bytes());
        }
    }

    /// Counts lost entries and mentions them now and then.
    pub(crate) fn log_failed(&mut self, error: &LogError) {
        let lost = if let LogError::Lost { lost, .. } = error { *lost } else { 0 };
        self.entries_lost(lost, &yare_errdefs::chain(error));
    }

    /// The same, whatever the reason.
    pub(crate) fn entries_lost(&mut self, lost: usize, why: &dyn std::fmt::Display) {
        self.lost += lost;
        if self.mentioned.is_none_or(|before| before.elapsed() >= EVERY) {
            self.mentioned = Some(Instant::now());
            self.note(&format!("{why} ({} entries lost so far)", self.lost));
        }
    }

    /// One sentence for the exit record, when log entries were lost.
    pub(crate) fn summary(&self) -> Option<String> {
        (self.lost > 0).then(|| format!("{} log entries were lost, see {}", self.lost, self.path.display()))
    }
}
