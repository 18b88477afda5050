//! The mount API by descriptor: what rustix lacks.
#![expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use crate::privilege::Privilege;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// Propagation in `mount_setattr`: `MS_PRIVATE`, `MS_SLAVE`, … of `mount(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Neither sends nor receives.
    Private,
    /// Receives only.
    Slave,
    /// Sends and receives.
    Shared,
    /// Private, and cannot be bind mounted.
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// What [`set_attributes`] changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_…` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_…` bits to clear.
    pub clear: u64,
    /// New propagation.
    pub propagation: Option<Propagation>,
}

impl Attributes {
    /// Sets these attributes and clears none.
    pub fn set(flags: MountAttrFlags) -> Self {
        Self { set: u64::from(flags.bits()), clear: 0, propagation: None }
    }

    /// Changes only the propagation.
    pub fn propagation(propagation: Propagation) -> Self {
        Self { propagation: Some(propagation), ..Self::default() }
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Changes the mount that `mount` is open on (and those beneath it, if `recursive`).
pub fn set_attributes(mount: impl AsFd, attributes: &Attributes, recursive: bool) -> io::Result<()> {
    set_attributes_at(mount, c"", attributes, recursive)
}

/// As [`set_attributes`] for the mount at `path`; symbolic links are not followed.
///
/// An empty path names the descriptor itself.
pub fn set_attributes_at(
    directory: impl AsFd,
    path: &CStr,
    attributes: &Attributes,
    recursive: bool,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation.map_or(0, Propagation::bits),
        userns_fd: 0,
    };
    mount_setattr(directory, path, &attr, recursive)
}

/// Gives a detached mount (and those beneath it, if `recursive`) the mapping of a user namespace: ids inside are
/// those on the disk, ids outside are as who they appear. All of them, or none and an error.
pub fn map_ids(mount: impl AsFd, namespace: impl AsFd, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_fd().as_raw_fd() as u64,
    };
    mount_setattr(mount, c"", &attr, recursive)
}

fn mount_setattr(
    directory: impl AsFd,
    path: &CStr,
    attr: &libc::mount_attr,
    recursive: bool,
) -> io::Result<()> {
    let mut flags = libc::AT_SYMLINK_NOFOLLOW;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: mount_setattr reads a NUL-terminated path and `size` bytes of a mount_attr; both outlive the
    // call, and the descriptors are borrowed for its length.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
            ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a filesystem and a detached mount of it: `fsopen`, options, `fsmount`.
///
/// An option with a value is set as a string, one without as a flag. The kernel's own words about a refusal
/// are part of the error.
pub fn new_filesystem(
    kind: &str,
    source: Option<&str>,
    options: &[(&str, Option<&str>)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let made = configure(&context, source, options)
        .and_then(|()| Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?));
    made.map_err(|error| with_kernel_log(&context, error))
}

fn configure(context: &OwnedFd, source: Option<&str>, options: &[(&str, Option<&str>)]) -> io::Result<()> {
    if let Some(source) = source {
        rustix::mount::fsconfig_set_string(context, "source", source)?;
    }
    for (key, value) in options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(context, *key, *value)?,
            None => rustix::mount::fsconfig_set_flag(context, *key)?,
        }
    }
    Ok(rustix::mount::fsconfig_create(context)?)
}

/// Adds what the kernel logged on a filesystem context to the error of a call on it.
pub fn with_kernel_log(context: impl AsFd, error: io::Error) -> io::Error {
    let mut buffer = [0u8; 512];
    match rustix::io::read(context, &mut buffer) {
        Ok(count) if count > 2 => {
            let text = String::from_utf8_lossy(&buffer[2..count]);
            io::Error::new(error.kind(), format!("{error}: {}", text.trim_end()))
        }
        _ => error,
    }
}

/// A detached copy of the mount that holds `path` beneath `directory`, rooted there.
///
/// `recursive` copies mounts beneath it too. An empty path copies what the descriptor is open on.
pub fn clone_tree(directory: impl AsFd, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(directory, path, flags)?)
}

/// A detached copy of what lies at `path` within the detached mount `tree`, see [`crate::fs::open_within`].
///
/// Before Linux 6.15 nothing of a mount can be copied that is attached nowhere: it is attached over the
/// root of the calling thread's mount namespace for a moment, which has to be private.
pub fn clone_within(tree: &OwnedFd, path: &str, recursive: bool) -> io::Result<OwnedFd> {
    use rustix::mount::UnmountFlags;
    let slash = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    attach(tree, &slash)?;
    let cloned = crate::fs::open_within(tree.as_fd(), path, OFlags::PATH, Mode::empty())
        .and_then(|found| clone_tree(&found, c"", recursive));
    rustix::process::fchdir(tree)?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::fchdir(&slash)?;
    cloned
}

/// Attaches a detached mount on what `target` is open on.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    use rustix::mount::MoveMountFlags as Flags;
    let flags = Flags::MOVE_MOUNT_F_EMPTY_PATH | Flags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", target, c"", flags)?)
}

/// Whether overlay takes its lower directories one by one (`lowerdir+`, Linux 6.7). To try it out instead
/// would leave a line in the kernel's log every time.
pub fn has_single_lower_dirs() -> bool {
    is_since(&rustix::system::uname().release().to_string_lossy(), (6, 7))
}

fn is_since(release: &str, (major, minor): (u32, u32)) -> bool {
    let mut numbers =
        release.split(|byte: char| !byte.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// Whether overlay has to be told (`userxattr`) to keep its notes in attributes that are not root's alone.
pub fn overlay_is_users() -> bool {
    Privilege::current() != Privilege::Host
}

/// Makes an overlay by `mount(2)`, for kernels without [`has_single_lower_dirs`], and gives it detached.
///
/// The one string that all options are passed in holds 200 lower directories (top first), as they are named
/// by descriptor. With `upper` and its work directory the overlay is volatile, without it read-only. The
/// calling thread moves to a mount namespace of its own, where `mount_point`, any directory, is mounted on for
/// a moment.
pub fn overlay_by_string(
    options: &[(&str, &str)],
    lower: &[impl AsRef<Path>],
    upper: Option<(&Path, &Path)>,
    mount_point: &Path,
) -> io::Result<OwnedFd> {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
    // First: directories that were opened in another namespace are not taken.
    crate::process::unshare(crate::process::NEWNS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let mut open = Vec::new();
    let mut name = |path: &Path| -> io::Result<String> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        open.push(fd);
        Ok(name)
    };
    let layers = lower.iter().map(|path| name(path.as_ref())).collect::<io::Result<Vec<_>>>()?;
    let mut text = format!("lowerdir={}", layers.join(":"));
    for (key, value) in options {
        text.push_str(&format!(",{key}={value}"));
    }
    if overlay_is_users() {
        text.push_str(",userxattr");
    }
    let mut flags = MountFlags::RDONLY;
    if let Some((upper, work)) = upper {
        text.push_str(&format!(",upperdir={},workdir={},volatile", name(upper)?, name(work)?));
        flags = MountFlags::empty();
    }
    let text = CString::new(text)?;
    rustix::mount::mount("overlay", mount_point, "overlay", flags, text.as_c_str())?;
    let path = CString::new(mount_point.as_os_str().as_bytes())?;
    let clone = clone_tree(rustix::fs::CWD, &path, false);
    rustix::mount::unmount(mount_point, UnmountFlags::DETACH)?;
    clone
}

#[cfg(test)]
mod tests {
    use super::is_since;

    #[test]
    fn releases_compare_by_number() {
        for (release, is) in [
            ("6.7.0", true),
            ("6.10-rc1", true),
            ("7.0", true),
            ("6.1.0-56-cloud", false),
            ("5.14.0-503.el9", false),
            ("", false),
        ] {
            assert_eq!(is_since(release, (6, 7)), is, "{release}");
        }
    }
}
