//! A root file system as data, and as a mount that is attached nowhere.

use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What has to be mounted as a container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay; without `upper` it is read-only.
    Overlay {
        /// The lower directories, top first; never empty.
        lower: Vec<PathBuf>,
        /// The writable layer.
        upper: Option<PathBuf>,
        /// Overlay's own directory beside it.
        work: Option<PathBuf>,
    },
    /// This directory as it is.
    Bind(PathBuf),
}

/// Options of every overlay of ours (name, value). A layer is complete in itself and safe to read without
/// overlay: no redirects, no metadata-only copies, and none that a layer might carry is followed.
pub const OVERLAY_OPTIONS: &[(&str, &str)] =
    &[("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow")];

impl Rootfs {
    /// Mounts it attached nowhere. The descriptor is the mount: `move_mount` puts it somewhere, closing it
    /// unmounts it. With `upper` the overlay is `volatile`.
    pub fn mount(&self) -> Result<OwnedFd> {
        match self {
            Self::Bind(path) => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                open_tree(rustix::fs::CWD, path, flags)
                    .map_err(|error| Error::io("clone the mount of", path, error))
            }
            Self::Overlay { lower, upper, work } => mount_overlay(lower, upper.as_deref(), work.as_deref()),
        }
    }
}

fn mount_overlay(lower: &[PathBuf], upper: Option<&Path>, work: Option<&Path>) -> Result<OwnedFd> {
    if !yare_sys::mount::has_single_lower_dirs() {
        return mount_overlay_by_string(lower, upper, work);
    }
    let fs = open_overlay()?;
    set_lower_dirs(fs.as_fd(), lower)?;
    finish_overlay(fs.as_fd(), upper, work)
}

/// For older kernels. It changes the mount namespace of the thread, hence one of its own.
fn mount_overlay_by_string(lower: &[PathBuf], upper: Option<&Path>, work: Option<&Path>) -> Result<OwnedFd> {
    let failed = |source| Error::Mount { step: "mount overlay".into(), source };
    let bottom = lower.last().ok_or_else(|| failed(Errno::INVAL.into()))?;
    let mount = || {
        yare_sys::mount::overlay_by_string(OVERLAY_OPTIONS, lower, upper.zip(work), bottom).map_err(failed)
    };
    let joined = std::thread::scope(|scope| scope.spawn(mount).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn open_overlay() -> Result<OwnedFd> {
    fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|error| Error::Mount { step: "fsopen overlay".into(), source: error.into() })
}

/// Gives the lower directories one by one.
fn set_lower_dirs(fs: BorrowedFd<'_>, lower: &[PathBuf]) -> Result<()> {
    for path in lower {
        fsconfig_set_string(fs, "lowerdir+", path)
            .map_err(|error| failure(fs, &format!("lowerdir {}", path.display()), error))?;
    }
    Ok(())
}

/// A path in the form in which overlay takes `upperdir` and `workdir` (but not `lowerdir+`): a backslash
/// before colons and backslashes.
pub fn escape_overlay_path(path: &Path) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(path.as_os_str().len());
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

fn finish_overlay(fs: BorrowedFd<'_>, upper: Option<&Path>, work: Option<&Path>) -> Result<OwnedFd> {
    for (name, value) in OVERLAY_OPTIONS {
        set(fs, name, value.as_bytes())?;
    }
    if yare_sys::mount::overlay_is_users() {
        fsconfig_set_flag(fs, "userxattr").map_err(|error| failure(fs, "userxattr", error))?;
    }
    let mut attributes = MountAttrFlags::empty();
    if let (Some(upper), Some(work)) = (upper, work) {
        set(fs, "upperdir", &escape_overlay_path(upper))?;
        set(fs, "workdir", &escape_overlay_path(work))?;
        fsconfig_set_flag(fs, "volatile").map_err(|error| failure(fs, "volatile", error))?;
    } else {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    fsconfig_create(fs).map_err(|error| failure(fs, "create", error))?;
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|error| failure(fs, "fsmount", error))
}

fn set(fs: BorrowedFd<'_>, name: &str, value: &[u8]) -> Result<()> {
    fsconfig_set_string(fs, name, value).map_err(|error| failure(fs, name, error))
}

/// The error with what the kernel wrote into the context's log.
fn failure(fs: BorrowedFd<'_>, step: &str, error: Errno) -> Error {
    let mut said = Vec::new();
    let mut line = [0_u8; 1024];
    // Each read gives one message (`e text`) until ENODATA; the bound only guards against surprises.
    for _ in 0..16 {
        match rustix::io::read(fs, &mut line) {
            Ok(count) if count > 0 => {
                let text = String::from_utf8_lossy(line.get(..count).unwrap_or_default());
                said.push(text.trim_start_matches(['e', 'w', 'i']).trim().to_owned());
            }
            _ => break,
        }
    }
    let step = if said.is_empty() { step.to_owned() } else { format!("{step}: {}", said.join("; ")) };
    Error::Mount { step, source: error.into() }
}

/// Lets a work directory that a volatile mount left behind be mounted again. Overlay refuses that because
/// the upper directory may be incomplete after a crash of the machine; whoever promised durability synced.
pub(crate) fn clear_volatile_mark(work: &Path) -> Result<()> {
    let incompat = work.join("work/incompat");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(&incompat, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(Error::io("open", &incompat, error)),
    };
    yare_sys::fs::remove_tree_at(dir.as_fd(), "volatile")
        .map_err(|error| Error::io("remove", incompat.join("volatile"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_and_backslashes_are_escaped() {
        assert_eq!(escape_overlay_path(Path::new("/a:b/c\\d/e")), b"/a\\:b/c\\\\d/e");
    }

    #[test]
    fn older_kernels_get_one_string() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "needs root");
            return;
        }
        let top = tempfile::TempDir::with_prefix("a:b\\c-").unwrap();
        let lower: Vec<PathBuf> = ["one", "two:", "u", "w"].map(|name| top.path().join(name)).into();
        for path in &lower {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join(path.file_name().unwrap()), "x").unwrap();
        }
        let tree = mount_overlay_by_string(&lower[..2], Some(&lower[2]), Some(&lower[3])).unwrap();
        for name in ["one", "two:", "u"] {
            assert!(rustix::fs::statat(&tree, name, rustix::fs::AtFlags::empty()).is_ok(), "{name}");
        }
    }

    #[test]
    fn serde_form_is_stable() {
        let overlay = Rootfs::Overlay { lower: vec!["/l".into()], upper: Some("/u".into()), work: None };
        let text = serde_json::to_string(&overlay).unwrap();
        assert_eq!(text, r#"{"Overlay":{"lower":["/l"],"upper":"/u","work":null}}"#);
        assert_eq!(serde_json::to_string(&Rootfs::Bind("/x".into())).unwrap(), r#"{"Bind":"/x"}"#);
    }
}
