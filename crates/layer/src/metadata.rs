//! Owner, mode, times and attributes of one file.

use crate::tar::Timestamp;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use yare_sys::fs as files;
use yare_sys::privilege::Privilege;

/// What an entry is besides its content.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Modification time; the access time is set to it as well.
    pub mtime: Timestamp,
    /// Those that an image may have.
    pub xattrs: Xattrs,
}

/// Names and values of extended attributes.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A step that failed: what was tried, and why.
pub(crate) type Failure = (&'static str, io::Error);

fn step<T>(operation: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T, Failure> {
    result.map_err(|error| (operation, error.into()))
}

/// Attributes that may be in an image: none that overlayfs acts on, and of the security ones only file
/// capabilities (labels are the host's business).
pub fn permitted_xattr(name: &[u8], unprivileged: bool) -> bool {
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    if unprivileged {
        return user;
    }
    let trusted = name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay.");
    let acl = name == b"system.posix_acl_access" || name == b"system.posix_acl_default";
    (user || trusted || acl || name == b"security.capability") && name.len() <= 255 && !name.contains(&0)
}

/// The attributes of an open file that may be in an image, sorted.
pub fn image_xattrs(fd: BorrowedFd<'_>) -> io::Result<Xattrs> {
    let mut xattrs = files::xattrs(fd)?;
    xattrs.retain(|(name, _)| permitted_xattr(name, false));
    Ok(xattrs)
}

impl Metadata {
    /// What a directory has until somebody says otherwise.
    pub fn implied() -> Self {
        Self { mode: 0o755, ..Self::default() }
    }

    /// What a file has, with the attributes of [`image_xattrs`].
    pub fn of(stat: &Stat, xattrs: Xattrs) -> Self {
        let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Timestamp { seconds: stat.st_mtime, nanos },
            xattrs,
        }
    }

    fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.mtime.seconds, tv_nsec: self.mtime.nanos.into() };
        Timestamps { last_access: time, last_modification: time }
    }

    /// Sets everything on an open file or directory; an error says what was tried. The order matters: chown clears set-id bits and
    /// capabilities.
    pub fn set_open(&self, fd: &OwnedFd, unprivileged: bool) -> Result<(), (&'static str, io::Error)> {
        if !unprivileged {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            step("change the owner of", rustix::fs::fchown(fd, Some(uid), Some(gid)))?;
        }
        step("change the mode of", rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode)))?;
        for (name, value) in &self.xattrs {
            let set = rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty());
            accept_xattr(name, unprivileged, set.map_err(io::Error::from))?;
        }
        step("set the times of", rustix::fs::futimens(fd, &self.times()))
    }

    /// Sets everything on a link, device or fifo; an error says what was tried.
    pub fn set_special(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        is_link: bool,
        unprivileged: bool,
    ) -> Result<(), (&'static str, io::Error)> {
        if !unprivileged {
            let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
            let changed = rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
            step("change the owner of", changed)?;
        }
        if !is_link || !self.xattrs.is_empty() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = step("open", rustix::fs::openat(parent, name, flags, Mode::empty()))?;
            if !is_link {
                let (path, mode) = (files::proc_path(fd.as_fd()), Mode::from_raw_mode(self.mode));
                step("change the mode of", rustix::fs::chmodat(CWD, path, mode, AtFlags::empty()))?;
            }
            for (xattr, value) in &self.xattrs {
                accept_xattr(xattr, unprivileged, files::set_xattr(fd.as_fd(), xattr, value))?;
            }
        }
        step(
            "set the times of",
            rustix::fs::utimensat(parent, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW),
        )
    }
}

/// A file system without such attributes, or a kind of file that cannot have `user.` ones, is no reason to
/// refuse an image.
fn accept_xattr(name: &[u8], unprivileged: bool, result: io::Result<()>) -> Result<(), Failure> {
    let Err(error) = result else {
        return Ok(());
    };
    match Errno::from_io_error(&error) {
        Some(Errno::NOTSUP) => {}
        Some(Errno::PERM) if name.starts_with(b"user.") || unprivileged => {}
        // `trusted.` ones are for root of the host alone.
        Some(Errno::PERM) if Privilege::current() == Privilege::Namespace => {}
        _ => return Err(("set an extended attribute of", error)),
    }
    tracing::debug!(name = %String::from_utf8_lossy(name), "attribute passed over");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_and_security_attributes_are_not_taken_from_images() {
        for good in ["user.a", "trusted.a", "security.capability", "system.posix_acl_access"] {
            assert!(permitted_xattr(good.as_bytes(), false), "{good}");
        }
        let bad = [
            "trusted.overlay.opaque",
            "trusted.overlay.overlay.opaque",
            "user.overlay.redirect",
            "security.selinux",
            "security.ima",
            "system.nfs4_acl",
            "other",
        ];
        for bad in bad {
            assert!(!permitted_xattr(bad.as_bytes(), false), "{bad}");
        }
        assert!(!permitted_xattr(b"security.capability", true));
    }
}
