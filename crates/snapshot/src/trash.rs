//! Removal in the background, when nobody else wants the disk.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;
use yare_sys::fs as files;

/// How long until what could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(5);

enum Job {
    Remove(PathBuf),
    Tell(SyncSender<()>),
}

/// The folder of things to be removed, and the thread that removes them.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    jobs: Sender<Job>,
}

impl Trash {
    /// Takes up what an earlier process left.
    pub(crate) fn open(dir: PathBuf) -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        for entry in std::fs::read_dir(&dir)? {
            // The receiver lives: this function holds it.
            let _ = jobs.send(Job::Remove(entry?.path()));
        }
        std::thread::Builder::new().name("yare-trash".into()).spawn(move || work(&queue))?;
        Ok(Self { dir, jobs })
    }

    /// Moves the path out of sight and has it removed later. Nothing there is no error.
    pub(crate) fn put(&self, path: &Path) -> std::io::Result<()> {
        if let Some(path) = files::rename_to_trash(path, &self.dir)? {
            // Should the thread be gone, the next start takes it up.
            let _ = self.jobs.send(Job::Remove(path));
        }
        Ok(())
    }

    /// Waits until everything put so far is removed.
    pub(crate) fn wait(&self) {
        let (tell, told) = sync_channel(1);
        if self.jobs.send(Job::Tell(tell)).is_ok() {
            let _ = told.recv();
        }
    }
}

fn work(queue: &Receiver<Job>) {
    if let Err(error) = files::become_idle() {
        tracing::debug!(%error, "removal runs at normal priority");
    }
    let mut failed: Vec<PathBuf> = Vec::new();
    loop {
        let next = if failed.is_empty() {
            queue.recv().map_err(RecvTimeoutError::from)
        } else {
            queue.recv_timeout(RETRY)
        };
        match next {
            Ok(Job::Remove(path)) => {
                if let Err(error) = files::remove_tree(&path) {
                    tracing::warn!(%error, "cannot empty the trash, trying again");
                    failed.push(path);
                }
            }
            Ok(Job::Tell(tell)) => drop(tell.send(())),
            // The reason may have passed, as too many open files do.
            Err(RecvTimeoutError::Timeout) => failed.retain(|path| files::remove_tree(path).is_err()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
