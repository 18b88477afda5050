//! How a container ended, and the file that keeps it until an engine has taken it.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Name of the file in the run directory.
pub const FILE: &str = "exit.json";

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, 128+n for signal n.
    pub code: i32,
    /// Whether the kernel killed something in it for want of memory.
    pub oom: bool,
    /// When, RFC 3339 with nanoseconds, UTC.
    pub at: String,
    /// What went wrong in the shim meanwhile, when something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Exit {
    /// Reads the exit from a run directory; `None` when there is none (yet).
    ///
    /// # Errors
    /// The file cannot be read, or is not an exit.
    pub fn read(run_dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(run_dir.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it beside its place and renames it there: a reader sees all of it or nothing. It is not
    /// synced: after a power cut no container runs, and the engine knows that from the boot id.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(io::Error::from)?;
        let temporary = run_dir.join("exit.json.tmp");
        std::fs::write(&temporary, bytes)?;
        std::fs::rename(&temporary, run_dir.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_and_absent_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Exit::read(dir.path()).unwrap(), None);
        let exit = Exit { code: 137, oom: true, at: "2026-01-02T03:04:05.000000006Z".into(), error: None };
        exit.write(dir.path()).unwrap();
        assert_eq!(Exit::read(dir.path()).unwrap(), Some(exit));
        assert!(!dir.path().join("exit.json.tmp").exists());
    }
}
