//! Paths of a container that read as empty or cannot be written.

use crate::error::{Result, StartError, Step};
use crate::mounts::Layout;
use crate::rootfs::{self, Links};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::io;
use yare_oci::runtime::Spec;
use yare_sys::mount::{Attributes, attach, clone_tree, new_filesystem, set_attributes};

/// Covers the masked paths that exist: files with the null device, directories with an empty filesystem.
///
/// `null` is the device that [`crate::devices::populate`] made or checked.
pub(crate) fn mask(layout: &Layout, spec: &Spec, null: &OwnedFd) -> Result<()> {
    let mut empty = None;
    for path in spec.linux.iter().flat_map(|linux| &linux.masked_paths) {
        cover(layout, path, null, &mut empty)
            .map_err(|error| StartError::io(Step::Mounts, format!("cannot mask {path}"), error))?;
    }
    Ok(())
}

fn cover(layout: &Layout, path: &str, null: &OwnedFd, empty: &mut Option<OwnedFd>) -> io::Result<()> {
    let Some(target) = find(layout, path)? else { return Ok(()) };
    if rootfs::file_type(target.as_fd())? != FileType::Directory {
        return attach(clone_tree(null, c"", false)?, target);
    }
    // All masked directories share one filesystem: the first attaches it, the others clone that mount.
    match empty {
        Some(first) => attach(clone_tree(first, c"", false)?, target),
        None => {
            let made = empty_filesystem()?;
            attach(&made, target)?;
            *empty = Some(made);
            Ok(())
        }
    }
}

fn empty_filesystem() -> io::Result<OwnedFd> {
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let options = [("mode", Some("755")), ("size", Some("4k")), ("nr_inodes", Some("2"))];
    new_filesystem("tmpfs", Some("tmpfs"), &options, flags)
}

/// Makes the read-only paths that exist read-only, with the mounts beneath them.
pub(crate) fn make_readonly(layout: &Layout, spec: &Spec) -> Result<()> {
    for path in spec.linux.iter().flat_map(|linux| &linux.readonly_paths) {
        protect(layout, path)
            .map_err(|error| StartError::io(Step::Mounts, format!("cannot make {path} read-only"), error))?;
    }
    Ok(())
}

fn protect(layout: &Layout, path: &str) -> io::Result<()> {
    let Some(target) = find(layout, path)? else { return Ok(()) };
    let clone = clone_tree(&target, c"", true)?;
    set_attributes(&clone, &Attributes::set(MountAttrFlags::MOUNT_ATTR_RDONLY), true)?;
    attach(clone, target)
}

/// The path as the container sees it; links on the way are refused, a missing path is `None`.
fn find(layout: &Layout, path: &str) -> io::Result<Option<OwnedFd>> {
    match rootfs::locate(&layout.root, path, Links::Refused) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
