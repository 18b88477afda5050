//! What mounts leave behind: the files and directories that had to be made so that something could be
//! mounted on them are no work of the process, and no part of its layer.

use crate::graph::RunOp;
use crate::{Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use yare_sys::privilege::Privilege;

/// Where every process has something mounted.
const ALWAYS: [&str; 6] = ["etc/resolv.conf", "etc/hosts", "etc/hostname", "proc", "sys", "dev"];

/// Places of mounts that were not there before the process, and directories around them that were.
pub(super) struct Stubs {
    /// Relative paths, the deepest first.
    missing: Vec<PathBuf>,
    /// Directories that a stub may have been copied up for, with what they were like.
    around: Vec<(PathBuf, Stat)>,
}

impl Stubs {
    /// Looks at the file system before the process; its devices have mounts at `places`.
    pub(super) fn look(root: &OwnedFd, op: &RunOp, places: &[String]) -> Result<Self> {
        let targets = op.spec.mounts.iter().map(|mount| mount.target.as_str());
        let files = op.spec.files.iter().map(|(path, _)| path.as_str());
        let mut missing = BTreeSet::new();
        let mut around = BTreeSet::new();
        for target in ALWAYS.into_iter().chain(targets).chain(files).chain(places.iter().map(String::as_str))
        {
            let mut path = Path::new(target.trim_start_matches('/'));
            while !path.as_os_str().is_empty() {
                if stat(root.as_fd(), path)?.is_none() {
                    missing.insert(path.to_owned());
                } else {
                    around.insert(path.to_owned());
                }
                path = path.parent().unwrap_or(Path::new(""));
            }
        }
        let mut known = Vec::new();
        for path in around.into_iter().rev() {
            if let Some(stat) = stat(root.as_fd(), &path)?.filter(is_dir) {
                known.push((path, stat));
            }
        }
        Ok(Self { missing: missing.into_iter().rev().collect(), around: known })
    }

    /// Takes them out of what the process changed, where nothing was put into them.
    pub(super) fn remove(&self, upper: &Path) -> Result<()> {
        let dir = yare_sys::fs::open_dir(upper)
            .map_err(|error| Error::internal(format!("cannot open {}", upper.display())).caused_by(error))?;
        for path in &self.missing {
            let Some(found) = stat(dir.as_fd(), path)? else { continue };
            if is_dir(&found) {
                remove(dir.as_fd(), path, AtFlags::REMOVEDIR)?;
            } else if found.st_size == 0 && FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
                remove(dir.as_fd(), path, AtFlags::empty())?;
            }
        }
        for (path, before) in &self.around {
            let Some(now) = stat(dir.as_fd(), path)?.filter(is_dir) else { continue };
            let same =
                (now.st_mode, now.st_uid, now.st_gid) == (before.st_mode, before.st_uid, before.st_gid);
            if same && !self.hides(dir.as_fd(), path)? {
                remove(dir.as_fd(), path, AtFlags::REMOVEDIR)?;
            }
        }
        Ok(())
    }

    /// Whether an empty directory says that what was in it is gone.
    fn hides(&self, root: BorrowedFd<'_>, path: &Path) -> Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match yare_sys::fs::open_strict(root, path, flags, Mode::empty()) {
            Ok(fd) => {
                let opaque = yare_sys::fs::xattr(fd.as_fd(), Privilege::current().opaque_xattr());
                opaque.map(|value| value.is_some()).map_err(|error| failed("read", path, error))
            }
            Err(_) => Ok(true),
        }
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn failed(what: &str, path: &Path, error: impl Into<std::io::Error>) -> Error {
    Error::internal(format!("cannot {what} {} of the stage", path.display())).caused_by(error.into())
}

/// What is at a path without links; a link on the way counts as something that is not ours.
fn stat(root: BorrowedFd<'_>, path: &Path) -> Result<Option<Stat>> {
    match yare_sys::fs::open_strict(
        root,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(fd) => rustix::fs::fstat(&fd).map(Some).map_err(|error| failed("stat", path, error)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            _ => Err(failed("look up", path, error)),
        },
    }
}

/// Removes an entry; a directory with something in it stays.
fn remove(root: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> Result<()> {
    let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let above = yare_sys::fs::open_strict(root, parent, dir, Mode::empty())
        .map_err(|error| failed("open", parent, error))?;
    match rustix::fs::unlinkat(&above, name, flags) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(error) => Err(failed("remove", path, error)),
    }
}
