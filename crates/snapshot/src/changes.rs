//! What a container changed, as `docker diff` lists it.

use crate::merged::{self, Merged, Node};
use crate::{Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use yare_sys::fs as files;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was there and is different, or something below it is.
    Modified,
    /// It is new.
    Added,
    /// It was there and is not.
    Deleted,
}

/// A path of a container that differs from its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Absolute, as inside the container.
    pub path: PathBuf,
}

/// Compares an upper directory with the merged layers below it (top first), of which only the places that the
/// upper directory has are looked at. Sorted by path.
pub(crate) fn of(upper: &Path, lower: &[PathBuf]) -> Result<Vec<Change>> {
    let failed = |operation| move |error| Error::io(operation, upper, error);
    let top = files::open_dir(upper).map_err(failed("open"))?;
    let below = Merged::open(lower)?;
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let shown = if directory.as_os_str().is_empty() { Path::new(".") } else { directory.as_path() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd = match files::open_strict(top.as_fd(), shown, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(failed("open")(error)),
        };
        let dirs = below.dirs(directory.as_os_str().as_bytes())?;
        let opaque = merged::is_opaque(&fd).map_err(failed("read an attribute of"))?;
        let mut hidden = if opaque { Merged::names(&dirs)? } else { BTreeSet::new() };
        for entry in rustix::fs::Dir::read_from(&fd).map_err(|error| failed("list")(error.into()))? {
            let entry = entry.map_err(|error| failed("list")(error.into()))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            hidden.remove(name);
            let path = directory.join(OsStr::from_bytes(name));
            let stat = match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed("stat")(error.into())),
            };
            let before = stat_of(&Merged::lookup(&dirs, name)?, &path)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            let difference = match before {
                _ if kind == FileType::CharacterDevice && stat.st_rdev == 0 => {
                    before.map(|_| Difference::Sure(ChangeKind::Deleted))
                }
                Some(before) if is_different(&before, &stat) => Some(Difference::Sure(ChangeKind::Modified)),
                Some(_) if kind == FileType::Directory => Some(Difference::Within),
                Some(_) => None,
                None => Some(Difference::Sure(ChangeKind::Added)),
            };
            found.extend(difference.map(|difference| (path.clone(), difference)));
            if kind == FileType::Directory {
                directories.push(path);
            }
        }
        let gone = hidden.iter().map(|name| directory.join(OsStr::from_bytes(name)));
        found.extend(gone.map(|path| (path, Difference::Sure(ChangeKind::Deleted))));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(settle(found))
}

/// Whether a directory that was listed is not there any more: who writes to the snapshot may go on.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// How an entry of the upper directory differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    Sure(ChangeKind),
    /// A directory that is as it was: it counts when something in it differs.
    Within,
}

/// Decides about directories; parents come before what they have.
fn settle(found: Vec<(PathBuf, Difference)>) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::with_capacity(found.len());
    for (path, difference) in found.into_iter().rev() {
        let path = Path::new("/").join(path);
        let kind = match difference {
            Difference::Sure(kind) => kind,
            Difference::Within if changes.last().is_some_and(|next| next.path.starts_with(&path)) => {
                ChangeKind::Modified
            }
            Difference::Within => continue,
        };
        changes.push(Change { kind, path });
    }
    changes.reverse();
    changes
}

fn stat_of(node: &Node, path: &Path) -> Result<Option<Stat>> {
    match node {
        Node::Missing => Ok(None),
        Node::File { stat, .. } => Ok(Some(**stat)),
        Node::Dirs(dirs) => {
            dirs.first().map(rustix::fs::fstat).transpose().map_err(|error| Error::io("stat", path, error))
        }
    }
}

/// What Docker takes for a change: overlay copies a file up as soon as it is opened for writing. Size and time
/// of a directory say nothing.
fn is_different(before: &Stat, after: &Stat) -> bool {
    let kind = FileType::from_raw_mode(after.st_mode);
    before.st_mode != after.st_mode
        || (before.st_uid, before.st_gid) != (after.st_uid, after.st_gid)
        || before.st_rdev != after.st_rdev
        || kind != FileType::Directory
            && (before.st_size, before.st_mtime, before.st_mtime_nsec)
                != (after.st_size, after.st_mtime, after.st_mtime_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_counts_when_something_in_it_does() {
        let sure = |kind| Difference::Sure(kind);
        let found = [
            ("a", Difference::Within),
            ("a/b", Difference::Within),
            ("a/b/c", sure(ChangeKind::Added)),
            ("ab", Difference::Within),
            ("d", Difference::Within),
            ("d/e", Difference::Within),
        ];
        let settled = settle(found.map(|(path, difference)| (path.into(), difference)).into());
        let change = |kind, path: &str| Change { kind, path: path.into() };
        assert_eq!(
            settled,
            [
                change(ChangeKind::Modified, "/a"),
                change(ChangeKind::Modified, "/a/b"),
                change(ChangeKind::Added, "/a/b/c")
            ]
        );
    }
}
