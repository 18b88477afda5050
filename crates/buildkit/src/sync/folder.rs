//! Folders for clients' files, kept between builds so that only changes have to be sent.
//!
//! On disk: `<folder>/<32 hex digits of the key's SHA-256>-<place>/`. Two builds at a time with the same key
//! get a folder each. The modification time of a folder is when it was last used; what is more than the limit
//! goes, the longest unused first.

use super::Tree;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use yare_errdefs::{Error, Result};
use yare_oci::Digest;

/// Folders that are kept.
const KEPT: usize = 64;

/// All folders of an engine.
#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    used: Mutex<HashSet<PathBuf>>,
}

/// A folder that nobody else uses meanwhile.
#[derive(Debug)]
pub(crate) struct Folder {
    folders: Arc<Folders>,
    path: PathBuf,
    keep: bool,
}

impl Folders {
    pub(crate) fn new(root: PathBuf) -> Arc<Self> {
        Arc::new(Self { root, used: Mutex::default() })
    }

    /// A folder for files of this key; an empty key is never met again.
    pub(crate) fn take(self: &Arc<Self>, key: &str) -> Result<Folder> {
        let name = match key {
            "" => yare_sys::fs::unique_name("once-"),
            key => Digest::of(key).hex()[..32].to_owned(),
        };
        let path = {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            let mut places = (0..).map(|place: u32| self.root.join(format!("{name}-{place}")));
            let path = places.find(|path| !used.contains(path)).unwrap_or_else(|| self.root.join(&name));
            used.insert(path.clone());
            path
        };
        let folder = Folder { folders: Arc::clone(self), path, keep: !key.is_empty() };
        match std::fs::DirBuilder::new().mode(0o700).create(&folder.path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                let path = folder.path.display();
                Err(Error::internal(format!("cannot make the folder {path}")).caused_by(error))
            }
            _ => Ok(folder),
        }
    }

    /// Removes folders that nobody uses until so many are left, the longest unused first. Returns how many.
    pub(crate) fn shrink(&self, most: usize) -> usize {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        found.sort();
        let mut removed = 0;
        for (_, path) in found.iter().take(found.len().saturating_sub(most)) {
            {
                let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
                if !used.insert(path.clone()) {
                    continue;
                }
            }
            remove(path);
            removed += 1;
            self.used.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        }
        removed
    }
}

fn remove(path: &Path) {
    if let Err(error) = yare_sys::fs::remove_tree(path) {
        tracing::warn!(%error, "a folder of a client's files stays");
    }
}

impl Folder {
    /// What is in it.
    pub(crate) fn tree(&self) -> Result<Tree> {
        Tree::open(self.open()?)
    }

    /// The folder itself.
    pub(crate) fn open(&self) -> Result<OwnedFd> {
        yare_sys::fs::open_dir(&self.path)
            .map_err(|error| Error::internal("cannot open the folder of a build context").caused_by(error))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether files in it keep their inodes for the next build.
    pub(crate) fn lasting(&self) -> bool {
        self.keep
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.keep {
            let now = rustix::fs::UTIME_NOW;
            let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: now };
            let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
            // It only decides which one goes first.
            let _ = rustix::fs::utimensat(rustix::fs::CWD, &self.path, &times, rustix::fs::AtFlags::empty());
        } else {
            remove(&self.path);
        }
        self.folders.used.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
        if self.keep {
            self.folders.shrink(KEPT);
        }
    }
}
