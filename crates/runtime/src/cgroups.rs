//! The cgroup filesystem as a container sees it.

use crate::mounts::Failure;
use crate::options::Options;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::mount::MountAttrFlags;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use yare_cgroup::{Group, MountPoint};
use yare_sys::mount::{Attributes, attach, clone_tree, new_filesystem, set_attributes};

/// Mounts cgroup2, or on v1 a tmpfs with the container's group of every hierarchy.
pub(crate) fn attach_cgroup(target: &OwnedFd, options: &Options, group: &Group) -> Result<(), Failure> {
    let points = group.mount_points();
    let flags = options.own.flags();
    if points.iter().any(|point| point.controllers.is_empty()) {
        let made = new_filesystem("cgroup2", Some("cgroup"), &[], flags)?;
        return Ok(attach(&made, target)?);
    }
    let plain = flags & !MountAttrFlags::MOUNT_ATTR_RDONLY;
    let made = new_filesystem("tmpfs", Some("tmpfs"), &[("mode", Some("755"))], plain)?;
    attach(&made, target)?;
    for point in &points {
        let name = point.controllers.as_str();
        mkdirat(&made, name, Mode::from_raw_mode(0o755))?;
        let directory = openat(&made, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        attach(hierarchy(point, options)?, &directory)?;
        // Each controller is found by its own name too.
        for name in point.controllers.split(',').filter(|name| *name != point.controllers) {
            rustix::fs::symlinkat(point.controllers.as_str(), &made, name)?;
        }
    }
    if options.own.is_readonly() {
        set_attributes(&made, &Attributes::set(MountAttrFlags::MOUNT_ATTR_RDONLY), false)?;
    }
    Ok(())
}

/// The container's group of one v1 hierarchy.
///
/// A clone of the host's mount, or where that is not visible from here a mount of the same hierarchy.
fn hierarchy(point: &MountPoint, options: &Options) -> Result<OwnedFd, Failure> {
    let path = CString::new(point.path.as_os_str().as_bytes())
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    let clone = clone_tree(CWD, &path, false).or_else(|_| {
        let controllers: Vec<_> = point.controllers.split(',').map(|name| (name, None)).collect();
        let whole = new_filesystem("cgroup", Some("cgroup"), &controllers, options.own.flags())?;
        let group = CString::new(point.group.as_str()).map_err(std::io::Error::other)?;
        clone_tree(&whole, &group, false)
    })?;
    set_attributes(&clone, &options.own.attributes(), false)?;
    Ok(clone)
}
