//! Folders on their way out: renamed away at once, unlinked later by an idle thread.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use yare_errdefs::{Error, Result};
use yare_sys::fs::{become_idle, remove_tree, rename_to_trash};

/// The trash of a root. What is in it at the start is what a crash left; it goes too.
#[derive(Debug)]
pub(crate) struct Trash {
    folder: PathBuf,
    thrown: Sender<PathBuf>,
}

/// How long until what could not be unlinked is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Unlinks what comes until nothing can come any more. What fails is tried again: the reason may pass, as
/// too many open files do.
fn empty(incoming: &Receiver<PathBuf>) {
    let mut failed: Vec<PathBuf> = Vec::new();
    loop {
        let next = if failed.is_empty() {
            incoming.recv().map_err(RecvTimeoutError::from)
        } else {
            incoming.recv_timeout(RETRY)
        };
        match next {
            Ok(path) => {
                if let Err(error) = remove_tree(&path) {
                    tracing::warn!(%error, "cannot empty {}, trying again", path.display());
                    failed.push(path);
                }
            }
            Err(RecvTimeoutError::Timeout) => failed.retain(|path| remove_tree(path).is_err()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Trash {
    /// Opens `<root>/trash`.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let folder = root.join("trash");
        let failed = |error: std::io::Error| {
            Error::internal(format!("cannot open the trash at {}", folder.display())).caused_by(error)
        };
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let (thrown, incoming) = channel::<PathBuf>();
        for left in std::fs::read_dir(&folder).map_err(failed)?.flatten() {
            let _ = thrown.send(left.path());
        }
        std::thread::Builder::new()
            .name("trash".into())
            .spawn(move || {
                if let Err(error) = become_idle() {
                    tracing::debug!(%error, "trash is unlinked at normal priority");
                }
                empty(&incoming);
            })
            .map_err(failed)?;
        Ok(Self { folder, thrown })
    }

    /// Takes a folder away. When this returns it is not where it was; its space comes back later. A folder
    /// that isn't there is no error.
    pub(crate) fn take(&self, path: &Path) -> Result<()> {
        let moved = rename_to_trash(path, &self.folder).map_err(|error| {
            Error::internal(format!("cannot move {} to the trash", path.display())).caused_by(error)
        })?;
        if let Some(moved) = moved {
            let _ = self.thrown.send(moved);
        }
        Ok(())
    }
}
