//! The mount that becomes a container's root: made here, attached nowhere.

use crate::protocol::Rootfs;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use yare_errdefs::{Error, Result};
use yare_runtime::Root;
use yare_sys::mount::{Attributes, new_filesystem};

/// `fsconfig` takes values up to this many bytes.
const LONGEST: usize = 255;

/// Makes the root mount. `scratch` is an empty directory that may be mounted on for a moment on old kernels.
///
/// # Errors
/// A directory is missing, or the kernel refuses the mount.
pub(crate) fn open(rootfs: &Rootfs, scratch: &Path) -> Result<Root> {
    match rootfs {
        Rootfs::Bind(path) => Ok(Root::Path(path.clone())),
        Rootfs::Overlay { lower, upper, work } => {
            let upper = upper.as_deref().zip(work.as_deref());
            let made = overlay(lower, upper, scratch);
            made.map(Root::Detached).map_err(|error| explain(lower, upper, error))
        }
    }
}

/// Names the directory that is missing, if that is the reason.
fn explain(lower: &[PathBuf], upper: Option<(&Path, &Path)>, error: io::Error) -> Error {
    if let Some((_, work)) = upper.filter(|(_, work)| work.join("work/incompat/volatile").exists()) {
        let marked =
            format!("cannot mount the root filesystem: {} was in use in a volatile mount", work.display());
        return Error::precondition(marked).caused_by(error);
    }
    let upper = upper.into_iter().flat_map(|(upper, work)| [upper, work]);
    for directory in lower.iter().map(PathBuf::as_path).chain(upper) {
        if !directory.is_dir() {
            return Error::not_found(format!(
                "cannot mount the root filesystem: {} is missing",
                directory.display()
            ));
        }
    }
    Error::internal("cannot mount the root filesystem").caused_by(error)
}

/// An overlay mount: layer by layer where the kernel can (6.5), by one string otherwise.
///
/// It is volatile: nothing is synced when it goes; whoever promised that something lasts syncs it then.
/// What a distribution may have switched on and would make the upper directory unreadable by itself is off.
fn overlay(lower: &[PathBuf], upper: Option<(&Path, &Path)>, scratch: &Path) -> io::Result<OwnedFd> {
    if let ([single], None) = (lower, upper) {
        return read_only(single);
    }
    let mut short = ShortPaths::default();
    let layers = lower.iter().map(|path| short.name(path)).collect::<io::Result<Vec<_>>>()?;
    let upper_names = upper.map(|(upper, work)| Ok::<_, io::Error>((short.name(upper)?, short.name(work)?)));
    let upper_names = upper_names.transpose()?;
    let mut options = vec![("index", Some("off")), ("redirect_dir", Some("off")), ("metacopy", Some("off"))];
    options.extend(layers.iter().map(|path| ("lowerdir+", Some(path.as_str()))));
    let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    if let Some((upper, work)) = &upper_names {
        options.extend([("upperdir", Some(upper.as_str())), ("workdir", Some(work)), ("volatile", None)]);
        attributes = MountAttrFlags::empty();
    }
    match new_filesystem("overlay", Some("overlay"), &options, attributes) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            old_overlay(lower, upper, scratch).map_err(|old| if is_refusal(&old) { error } else { old })
        }
        other => other,
    }
}

/// One directory alone needs no overlay.
fn read_only(directory: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let clone = yare_sys::mount::clone_tree(rustix::fs::CWD, &path, false)?;
    let attributes = Attributes::set(MountAttrFlags::MOUNT_ATTR_RDONLY);
    yare_sys::mount::set_attributes(&clone, &attributes, false)?;
    Ok(clone)
}

/// Whether the older way was refused for the same reason, of which the newer one says more.
fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

/// Keeps directories open whose paths are too long to be passed, and names them by descriptor.
#[derive(Debug, Default)]
struct ShortPaths {
    open: Vec<OwnedFd>,
}

impl ShortPaths {
    fn name(&mut self, path: &Path) -> io::Result<String> {
        if let Some(text) = path.to_str().filter(|text| text.len() <= LONGEST) {
            return Ok(text.to_owned());
        }
        self.by_descriptor(path)
    }

    fn by_descriptor(&mut self, path: &Path) -> io::Result<String> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        self.open.push(fd);
        Ok(name)
    }
}

/// For kernels before 6.5: `mount(2)` with one string of options, which holds 200 layers when they are named
/// by descriptor, in a mount namespace of this process alone, and a detached copy of that.
fn old_overlay(lower: &[PathBuf], upper: Option<(&Path, &Path)>, scratch: &Path) -> io::Result<OwnedFd> {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
    let mut short = ShortPaths::default();
    let layers = lower.iter().map(|path| short.by_descriptor(path)).collect::<io::Result<Vec<_>>>()?;
    let mut options = format!("index=off,lowerdir={}", layers.join(":"));
    let mut flags = MountFlags::RDONLY;
    if let Some((upper, work)) = upper {
        let (upper, work) = (short.by_descriptor(upper)?, short.by_descriptor(work)?);
        options.push_str(&format!(",upperdir={upper},workdir={work},volatile"));
        flags = MountFlags::empty();
    }
    yare_sys::process::unshare(yare_sys::process::NEWNS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let options = CString::new(options)?;
    rustix::mount::mount("overlay", scratch, "overlay", flags, options.as_c_str())?;
    let name = CString::new(scratch.as_os_str().as_bytes())?;
    let clone = yare_sys::mount::clone_tree(rustix::fs::CWD, &name, false);
    rustix::mount::unmount(scratch, UnmountFlags::DETACH)?;
    clone
}
