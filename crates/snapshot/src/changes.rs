//! What a container changed, as `docker diff` lists it.

use crate::merged::{Merged, Node};
use crate::{Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
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

/// Compares an upper directory with the merged layers below it (top first). Sorted by path.
pub(crate) fn of(upper: &Path, lower: &[PathBuf]) -> Result<Vec<Change>> {
    let failed = |operation| move |error| Error::io(operation, upper, error);
    let top = files::open_dir(upper).map_err(failed("open"))?;
    let below = Merged::open(lower)?;
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let shown = if directory.as_os_str().is_empty() { Path::new(".") } else { directory.as_path() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd = files::open_strict(top.as_fd(), shown, flags, Mode::empty()).map_err(failed("open"))?;
        let dirs = below.dirs(directory.as_os_str().as_bytes())?;
        for entry in rustix::fs::Dir::read_from(&fd).map_err(|error| failed("list")(error.into()))? {
            let entry = entry.map_err(|error| failed("list")(error.into()))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| failed("stat")(error.into()))?;
            let existed = !matches!(Merged::lookup(&dirs, name)?, Node::Missing);
            let kind = FileType::from_raw_mode(stat.st_mode);
            let path = directory.join(OsStr::from_bytes(name));
            let change = match existed {
                _ if kind == FileType::CharacterDevice && stat.st_rdev == 0 => ChangeKind::Deleted,
                true => ChangeKind::Modified,
                false => ChangeKind::Added,
            };
            if change == ChangeKind::Deleted && !existed {
                continue;
            }
            found.push(Change { kind: change, path: Path::new("/").join(&path) });
            if kind == FileType::Directory {
                directories.push(path);
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}
