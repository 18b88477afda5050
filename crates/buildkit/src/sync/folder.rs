//! Folders for clients' files, kept between builds so that only changes have to be sent.
//!
//! On disk: `<folder>/<32 hex digits of the key's SHA-256>-<place>/`. Two builds at a time with the same key
//! get a folder each. The modification time of a folder is when it was last used; what is more than the limit
//! goes, the longest unused first.

use super::Tree;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use yare_build::cache::{Kept, Step, Usage};
use yare_errdefs::{Error, Result};
use yare_layer::tree_size;
use yare_oci::Digest;

/// Folders that are kept.
const KEPT: usize = 64;

/// All folders of an engine.
#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    used: Mutex<HashSet<PathBuf>>,
    /// Bytes of those that were measured.
    sizes: Mutex<HashMap<PathBuf, u64>>,
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
        Arc::new(Self { root, used: Mutex::default(), sizes: Mutex::default() })
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
        let surplus = found.len().saturating_sub(most);
        found.iter().take(surplus).filter(|(_, path)| self.remove_unused(path)).count()
    }

    /// Removes one, unless a build has it.
    fn remove_unused(&self, path: &Path) -> bool {
        if !self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
            return false;
        }
        remove(path);
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        self.used.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        true
    }

    /// Bytes of a folder: as the last transfer found them, else walked, once.
    fn size(&self, path: &Path) -> u64 {
        if let Some(size) = self.sizes.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return *size;
        }
        let walked = yare_sys::fs::open_dir(path).ok().and_then(|dir| tree_size(dir.as_fd()).ok());
        let size = walked.unwrap_or_default();
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), size);
        size
    }
}

fn key(path: &Path) -> Digest {
    Digest::of(format!("synced {}", path.display()))
}

impl Kept for Folders {
    fn rows(&self) -> Vec<Usage> {
        let seconds = |time: std::io::Result<SystemTime>| {
            let since = time.ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            since.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
        };
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let rows = entries.filter_map(|entry| {
            let (path, metadata) = (entry.path(), entry.metadata().ok()?);
            let in_use = self.used.lock().unwrap_or_else(PoisonError::into_inner).contains(&path);
            let step = Step {
                description: "local source for a client's directory".to_owned(),
                kind: "source.local".to_owned(),
                created: seconds(metadata.created()),
                last_used: seconds(metadata.modified()),
                ..Step::default()
            };
            Some(Usage { key: key(&path), step, size: self.size(&path), in_use, shared: false })
        });
        rows.collect()
    }

    fn remove(&self, wanted: &Digest) -> bool {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut paths = entries.map(|entry| entry.path());
        paths.find(|path| key(path) == *wanted).is_some_and(|path| self.remove_unused(&path))
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

    /// Notes what a transfer made of it.
    pub(crate) fn measured(&self, bytes: u64) {
        if self.keep {
            let mut sizes = self.folders.sizes.lock().unwrap_or_else(PoisonError::into_inner);
            sizes.insert(self.path.clone(), bytes);
        }
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
