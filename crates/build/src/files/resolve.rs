//! Paths to what they lead to, links expanded with the tree as their root.

use super::{as_path, is_dir, join, kind_of, split};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use yare_sys::fs as files;

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;
/// The longest path, in bytes: the kernel's, less room for a name.
const MOST_PATH: usize = 4095;

/// Where a path leads to.
#[derive(Debug)]
pub(super) struct Located {
    /// Relative to the root, without links, `.` and `..`; empty for the root.
    pub(super) path: Vec<u8>,
    /// What is there.
    pub(super) stat: Option<Stat>,
}

/// Follows a path from the root. `visible` is asked for everything on the way, with its path and whether it
/// is a directory that is passed through; what is not visible is not there. Names below what is not there
/// are kept as they are.
pub(super) fn locate(
    root: BorrowedFd<'_>,
    path: &[u8],
    visible: &dyn Fn(&[u8], &Stat) -> bool,
) -> io::Result<Located> {
    let mut current = Located { path: Vec::new(), stat: Some(rustix::fs::fstat(root)?) };
    let mut ahead = VecDeque::new();
    push(&mut ahead, path);
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == b".." {
            let parent = split(&current.path).0.to_vec();
            let stat = look(root, &parent)?.map(|(stat, _)| stat);
            current = Located { path: parent, stat };
            continue;
        }
        let child = join(&current.path, &name);
        if child.len() > MOST_PATH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let found = match &current.stat {
            Some(stat) if is_dir(stat) => look(root, &child)?.filter(|(stat, _)| visible(&child, stat)),
            _ => None,
        };
        let Some((stat, link)) = found else {
            current = Located { path: child, stat: None };
            continue;
        };
        let Some(target) = link else {
            current = Located { path: child, stat: Some(stat) };
            continue;
        };
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP.into());
        }
        if target.first() == Some(&b'/') {
            current = Located { path: Vec::new(), stat: Some(rustix::fs::fstat(root)?) };
        }
        push(&mut ahead, &target);
        if ahead.len() > MOST_PATH {
            return Err(Errno::NAMETOOLONG.into());
        }
    }
    Ok(current)
}

/// What is at a path without links: its stat, and where it leads if it is a link itself.
pub(super) fn look(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<(Stat, Option<Vec<u8>>)>> {
    let fd = match files::open_strict(root, as_path(path), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => fd,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            _ => return Err(error),
        },
    };
    let stat = rustix::fs::fstat(&fd)?;
    let link = match kind_of(&stat) {
        FileType::Symlink => Some(rustix::fs::readlinkat(fd.as_fd(), c"", Vec::new())?.into_bytes()),
        _ => None,
    };
    Ok(Some((stat, link)))
}

/// Puts the names of a path before those that are still to be walked.
fn push(ahead: &mut VecDeque<Vec<u8>>, path: &[u8]) {
    for name in path.split(|byte| *byte == b'/').rev() {
        if !name.is_empty() && name != b"." {
            ahead.push_front(name.to_vec());
        }
    }
}

/// The names of a path as it is written, `..` taken back and never above the root.
pub(super) fn lexical(path: &[u8]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name.to_vec()),
        }
    }
    names
}

/// Opens paths without links below a root, quickly when they come directory by directory.
pub(super) struct Opener<'r> {
    root: BorrowedFd<'r>,
    /// The directory that was used last.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

impl<'r> Opener<'r> {
    pub(super) fn new(root: BorrowedFd<'r>) -> Self {
        Self { root, parent: None }
    }

    /// The directory at a path.
    pub(super) fn directory(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        if self.parent.as_ref().is_none_or(|(known, _)| known != path) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let fd = files::open_strict(self.root, as_path(path), flags, Mode::empty())?;
            self.parent = Some((path.to_vec(), fd));
        }
        Ok(self.parent.as_ref().map_or(self.root, |(_, fd)| fd.as_fd()))
    }

    /// What is at a path; a link is refused with `ELOOP`, unless `O_PATH` asks for it.
    pub(super) fn open(&mut self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let (parent, name) = split(path);
        let parent = self.directory(parent)?;
        files::open_strict(parent, as_path(name), flags | OFlags::NOFOLLOW, Mode::empty())
    }
}
