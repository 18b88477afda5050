//! What every container finds in its root whatever its image: the places that its runtime mounts on, and
//! the mark by which programs tell that they run in a container.
//!
//! With overlay it is one folder at the bottom of every root. What an image has at a path, a link or a
//! whiteout too, covers it, and no container has to make these files in a writable layer of its own: that
//! would be a dozen inodes to allocate at each start and to free at each end, the dearest part of a short
//! run on ext4.

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

const DIRECTORIES: [&str; 4] = ["dev", "etc", "proc", "sys"];
/// Docker's mark is executable as well.
const MARK: (&str, u32) = (".dockerenv", 0o755);
/// Beneath `etc`: replaced by mounts.
const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// Makes what is missing of it in `root`. What is there stays, the time of the root too, and no link is
/// followed.
pub(crate) fn furnish(root: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let before = rustix::fs::fstat(root)?;
    let time = |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 };
    let times = Timestamps {
        last_access: time(before.st_atime, before.st_atime_nsec),
        last_modification: time(before.st_mtime, before.st_mtime_nsec),
    };
    make(root)?;
    rustix::fs::futimens(root, &times)
}

fn make(root: BorrowedFd<'_>) -> rustix::io::Result<()> {
    for name in DIRECTORIES {
        match rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => rustix::fs::chmodat(root, name, Mode::from_raw_mode(0o755), AtFlags::empty())?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    make_file(root, MARK.0, MARK.1)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let etc = match rustix::fs::openat(root, "etc", flags, Mode::empty()) {
        Ok(etc) => etc,
        // A file or a link of the image's: then the runtime finds the places behind it.
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(error),
    };
    FILES.iter().try_for_each(|name| make_file(etc.as_fd(), name, 0o644))
}

fn make_file(directory: BorrowedFd<'_>, name: &str, mode: u32) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(mode)) {
        Ok(file) => rustix::fs::fchmod(file, Mode::from_raw_mode(mode)),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}
