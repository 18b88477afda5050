//! Paths inside a container's root: opened beneath a descriptor of it, never by a path of the host.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, Result};

/// How links on the way are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Followed, inside the root.
    Inside,
    /// Refused (`ELOOP`).
    Refused,
}

impl Links {
    fn flags(self) -> ResolveFlags {
        let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match self {
            Self::Inside => flags,
            Self::Refused => flags | ResolveFlags::NO_SYMLINKS,
        }
    }
}

/// Opens a path beneath the root.
pub(crate) fn open(root: impl AsFd, path: &str, flags: OFlags, links: Links) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    loop {
        match openat2(&root, path, flags, Mode::empty(), links.flags()) {
            // The kernel gives up when a rename happens beside the walk.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// A descriptor that names what is at a path, without opening it.
pub(crate) fn locate(root: impl AsFd, path: &str, links: Links) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH, links)
}

/// A directory beneath the root, made with its missing parents.
pub(crate) fn make_directory(root: impl AsFd, path: &str, links: Links) -> Result<OwnedFd> {
    make_directory_in(root.as_fd(), path, links)
}

fn make_directory_in(root: BorrowedFd<'_>, path: &str, links: Links) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open(root, path, flags, links) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (above, Some(name)) = split(path) else { return Err(Errno::NOENT) };
    let parent = make_directory_in(root, &above, links)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        // Somebody else's directory will do; a dangling link fails to open.
        Ok(()) | Err(Errno::EXIST) => open(root, path, flags, links),
        Err(error) => Err(error),
    }
}

/// What is at a path, or else an empty file made there with its missing parents.
pub(crate) fn make_file(root: impl AsFd, path: &str, links: Links) -> Result<OwnedFd> {
    match locate(&root, path, links) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (directory, name) = split(path);
    let name = name.ok_or(Errno::ISDIR)?;
    let parent = make_directory(&root, &directory, links)?;
    make_file_at(parent.as_fd(), name)?;
    locate(&root, path, links)
}

/// What is at a name of a directory, or else an empty file made there; a link is not followed.
pub(crate) fn make_file_at(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The path's components; `.` and empty ones are dropped.
pub(crate) fn components(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// Parent and last component of a path.
pub(crate) fn split(path: &str) -> (String, Option<&str>) {
    let mut parts = components(path);
    let name = parts.next_back();
    let parent: Vec<&str> = parts.collect();
    (format!("/{}", parent.join("/")), name)
}

/// Whether a descriptor is on a filesystem with this magic number.
pub(crate) fn is_on(fd: BorrowedFd<'_>, magic: i64) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|stat| stat.f_type == magic)
}

/// Magic number of procfs.
pub(crate) const PROC: i64 = 0x9fa0;

/// Type of the file behind a descriptor.
pub(crate) fn file_type(fd: BorrowedFd<'_>) -> Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Reads a regular file of at most `limit` bytes; `None` when there is none.
///
/// A FIFO or device in its place is not waited for and not read: `EINVAL`. Longer is `EFBIG`.
pub(crate) fn read_regular(root: impl AsFd, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    // Without opening it first: opening a device may do something.
    let located = match locate(&root, path, Links::Inside) {
        Ok(located) => located,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error),
    };
    if file_type(located.as_fd())? != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let file = open(&root, path, flags, Links::Inside)?;
    if file_type(file.as_fd())? != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut bytes = Vec::new();
    loop {
        bytes.reserve(4096);
        if rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))? == 0 {
            return Ok(Some(bytes));
        }
        if bytes.len() > limit {
            return Err(Errno::FBIG);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(directory.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (directory, fd)
    }

    #[test]
    fn directories_are_made_inside_the_root_only() {
        let (directory, fd) = root();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), directory.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/../../../elsewhere", directory.path().join("up")).unwrap();
        make_directory(&fd, "/a/b/c", Links::Inside).unwrap();
        assert!(directory.path().join("a/b/c").is_dir());
        assert!(make_directory(&fd, "/link/x", Links::Inside).is_err());
        assert!(make_directory(&fd, "/up/x", Links::Inside).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert_eq!(make_directory(&fd, "/link", Links::Refused).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn files_are_made_with_their_parents() {
        let (directory, fd) = root();
        make_file(&fd, "/etc/deep/hosts", Links::Inside).unwrap();
        assert!(directory.path().join("etc/deep/hosts").is_file());
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let (directory, fd) = root();
        let path = directory.path().join("passwd");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        assert_eq!(read_regular(&fd, "/passwd", 10).unwrap_err(), Errno::INVAL);
        std::fs::write(directory.path().join("long"), [0; 100]).unwrap();
        assert_eq!(read_regular(&fd, "/long", 10).unwrap_err(), Errno::FBIG);
        assert_eq!(read_regular(&fd, "/none", 10).unwrap(), None);
    }

    #[test]
    fn paths_split_into_parent_and_name() {
        assert_eq!(split("/a//b/./c/"), ("/a/b".to_string(), Some("c")));
        assert_eq!(split("/"), ("/".to_string(), None));
    }
}
