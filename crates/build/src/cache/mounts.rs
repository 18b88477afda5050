//! Directories that outlive builds: `RUN --mount=type=cache`.

use super::{Cache, Step, now};
use crate::graph::Sharing;
use crate::{Cancel, Error, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use yare_oci::Digest;

/// The kind of such a row.
pub(super) const KIND: &str = "exec.cachemount";

/// Marks a directory that is used by one step alone.
const ALONE: u32 = u32::MAX;

/// A directory in use by a step; given back when dropped.
#[derive(Debug)]
pub struct MountLease {
    cache: Cache,
    name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// What a new directory is like.
#[derive(Debug, Clone, Copy)]
pub struct NewMount {
    /// Mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Cache {
    /// Finds or makes the directory of this id and keeps it as `sharing` wants. A new one begins with what
    /// `fill` puts there; its owner and mode are those of `new` whatever that does.
    ///
    /// # Errors
    /// The build was cancelled while it waited for another, or the directory cannot be made.
    pub fn mount(
        &self,
        id: &str,
        sharing: Sharing,
        new: NewMount,
        fill: &dyn Fn(&Path) -> Result<()>,
        cancel: &Cancel,
    ) -> Result<MountLease> {
        let name = self.reserve(&Digest::of(id).hex(), sharing, cancel)?;
        let path = self.inner.folder.join("mounts").join(&name);
        let lease = MountLease { cache: self.clone(), name, path };
        if !lease.path.is_dir() {
            self.make(&lease.path, new, fill)?;
        }
        let key = key_of(&lease.name);
        let step = {
            let mut state = self.state();
            let fresh = || Step {
                description: format!("cached mount {id}"),
                kind: KIND.to_owned(),
                created: now(),
                ..Step::default()
            };
            let step = state.steps.entry(key).or_insert_with(fresh);
            step.last_used = now();
            step.uses += 1;
            step.clone()
        };
        self.inner.writer.send(super::db::Edits::step(key, Some(step)));
        Ok(lease)
    }

    /// The directory of this id, once nobody uses it; steps that want it wait then. `None` when there is
    /// none: nothing is made.
    ///
    /// # Errors
    /// The build was cancelled while it waited for another.
    pub(crate) fn mount_alone(&self, id: &str, cancel: &Cancel) -> Result<Option<MountLease>> {
        let name = self.reserve(&Digest::of(id).hex(), Sharing::Locked, cancel)?;
        let path = self.inner.folder.join("mounts").join(&name);
        let lease = MountLease { cache: self.clone(), name, path };
        Ok(lease.path.is_dir().then_some(lease))
    }

    /// Waits until the directory may be used, and notes its use.
    fn reserve(&self, name: &str, sharing: Sharing, cancel: &Cancel) -> Result<String> {
        let mut state = self.state();
        if sharing == Sharing::Private {
            let free = (0..)
                .map(|number| if number == 0 { name.to_owned() } else { format!("{name}-{number}") })
                .find(|name| !state.mounts.contains_key(name));
            let free = free.unwrap_or_default();
            state.mounts.insert(free.clone(), ALONE);
            return Ok(free);
        }
        loop {
            let users = state.mounts.get(name).copied().unwrap_or_default();
            match sharing {
                Sharing::Locked if users == 0 => {
                    state.mounts.insert(name.to_owned(), ALONE);
                    return Ok(name.to_owned());
                }
                Sharing::Shared if users != ALONE => {
                    state.mounts.insert(name.to_owned(), users + 1);
                    return Ok(name.to_owned());
                }
                _ => {}
            }
            cancel.check()?;
            let waited = self.inner.changed.wait_timeout(state, super::LOOK);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Makes a directory beside its place and moves it there: one that was half filled at a crash has
    /// another name and is swept. Steps that share it may do so at the same time, each under a name of its
    /// own; the first to finish wins, and what it has put there is never replaced, since a step may run on it.
    fn make(&self, path: &Path, new: NewMount, fill: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let temporary = path.with_extension(format!("new{}", MADE.fetch_add(1, Ordering::Relaxed)));
        let failed = |error: std::io::Error| {
            Error::internal(format!("cannot make the cache directory {}", path.display())).caused_by(error)
        };
        yare_sys::fs::remove_tree(&temporary).map_err(failed)?;
        std::fs::create_dir(&temporary).map_err(failed)?;
        fill(&temporary)?;
        let dir = yare_sys::fs::open_dir(&temporary).map_err(failed)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(new.uid), rustix::fs::Gid::from_raw(new.gid));
        rustix::fs::fchown(&dir, Some(uid), Some(gid)).map_err(|error| failed(error.into()))?;
        rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(new.mode))
            .map_err(|error| failed(error.into()))?;
        match renameat_with(CWD, &temporary, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => yare_sys::fs::remove_tree(&temporary).map_err(failed),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Removes directories that have no row, and rows that have no directory.
    pub(super) fn sweep_mounts(&self) {
        let folder = self.inner.folder.join("mounts");
        let mut there = std::collections::HashSet::new();
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.look(&key_of(&name)).is_some() {
                there.insert(key_of(&name));
            } else if let Err(error) = yare_sys::fs::remove_tree(entry.path()) {
                tracing::warn!(%error, "an unfinished cache directory stays");
            }
        }
        let mut gone = super::db::Edits::default();
        self.state().steps.retain(|key, step| {
            let keep = step.kind != KIND || there.contains(key);
            if !keep {
                gone.steps.push((*key, None));
            }
            keep
        });
        self.inner.writer.send(gone);
    }

    /// Removes the directory of a row, unless it is in use.
    pub(super) fn remove_mount(&self, key: &Digest) -> bool {
        let folder = self.inner.folder.join("mounts");
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let Some(name) = names.into_iter().find(|name| key_of(name) == *key) else { return true };
        let old = folder.join(format!("{name}.old"));
        let renamed = {
            // Held until it has another name: whoever wants the directory then makes a new one.
            let state = self.state();
            if state.mounts.contains_key(&name) {
                return false;
            }
            rustix::fs::rename(folder.join(&name), &old)
        };
        let removed = renamed.map_err(std::io::Error::from).and_then(|()| yare_sys::fs::remove_tree(&old));
        if let Err(error) = &removed {
            tracing::warn!(%error, "a cache directory stays until the next start");
        }
        removed.is_ok()
    }

    /// Bytes in the directory of a row.
    pub(super) fn mount_size(&self, key: &Digest) -> u64 {
        let folder = self.inner.folder.join("mounts");
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let found = entries
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| key_of(&name.to_string_lossy()) == *key));
        found
            .and_then(|path| yare_sys::fs::open_dir(path).ok())
            .and_then(|dir| yare_layer::tree_size(dir.as_fd()).ok())
            .unwrap_or_default()
    }
}

/// The key of a directory's row.
fn key_of(name: &str) -> Digest {
    Digest::of(format!("cache mount {name}"))
}

impl Drop for MountLease {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        match state.mounts.get_mut(&self.name) {
            Some(users) if *users != ALONE && *users > 1 => *users -= 1,
            _ => drop(state.mounts.remove(&self.name)),
        }
        drop(state);
        self.cache.inner.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Barrier;

    /// A new directory is made by whoever needs it first, often by several steps at once, and all must get
    /// the same one. A prune at the same time takes none that is in use.
    #[test]
    fn steps_that_share_a_new_directory_get_the_same_one() {
        let folder = tempfile::tempdir().unwrap();
        let database =
            std::sync::Arc::new(yare_image::Database::open(&folder.path().join("db"), 1 << 20).unwrap());
        let kind = yare_snapshot::Kind::Copy;
        let snapshots = yare_snapshot::Snapshots::open(&folder.path().join("snapshots"), kind).unwrap();
        let cache = Cache::open(database, snapshots, &folder.path().join("build")).unwrap();
        let new = NewMount { mode: 0o700, uid: 0, gid: 0 };
        for round in 0..50 {
            let (id, together) = (format!("id{round}"), Barrier::new(8));
            let step = || {
                together.wait();
                let lease = cache.mount(&id, Sharing::Shared, new, &|_| Ok(()), &Cancel::default()).unwrap();
                cache.remove_mount(&key_of(&lease.name));
                let inode = std::fs::metadata(&lease.path).unwrap().ino();
                together.wait();
                assert_eq!(
                    std::fs::metadata(&lease.path).unwrap().ino(),
                    inode,
                    "the directory was replaced"
                );
                inode
            };
            let inodes: Vec<u64> = std::thread::scope(|scope| {
                let steps: Vec<_> = (0..8).map(|_| scope.spawn(step)).collect();
                steps.into_iter().map(|step| step.join().unwrap()).collect()
            });
            assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{inodes:?}");
        }
        assert_eq!(
            std::fs::read_dir(folder.path().join("build/mounts")).unwrap().count(),
            50,
            "nothing else stays"
        );
    }
}
