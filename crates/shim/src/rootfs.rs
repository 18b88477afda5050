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

/// Makes a tree that is only looked at, see [`open`].
pub(crate) fn tree(rootfs: &Rootfs, scratch: &Path) -> Result<OwnedFd> {
    match open(rootfs, scratch)? {
        Root::Detached(tree) => Ok(tree),
        Root::Path(path) => read_only(&path)
            .map_err(|error| Error::internal(format!("cannot mount {}", path.display())).caused_by(error)),
    }
}

/// Names the directory that is missing, if that is the reason.
fn explain(lower: &[PathBuf], upper: Option<(&Path, &Path)>, error: io::Error) -> Error {
    if let Some((_, work)) = upper.filter(|(_, work)| work.join("work/incompat/volatile").exists()) {
        let marked =
            format!("cannot mount the root filesystem: {} was in use in a volatile mount", work.display());
        return Error::precondition(marked).caused_by(error);
    }
    if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) {
        let text = "cannot mount the root filesystem: the kernel has no overlay filesystem";
        return Error::precondition(text).caused_by(error).with_hint("load its module: modprobe overlay");
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

/// What a distribution may have switched on and would make the upper directory unreadable by itself is off,
/// and what only overlay could have written into a layer is not followed.
const OPTIONS: [(&str, &str); 3] = [("index", "off"), ("redirect_dir", "nofollow"), ("metacopy", "off")];

/// An overlay mount: layer by layer where the kernel can, by one string otherwise.
///
/// It is volatile: nothing is synced when it goes; whoever promised that something lasts syncs it then.
fn overlay(lower: &[PathBuf], upper: Option<(&Path, &Path)>, scratch: &Path) -> io::Result<OwnedFd> {
    match lower {
        [single] if upper.is_none() => read_only(single),
        _ if yare_sys::mount::has_single_lower_dirs() => new_overlay(lower, upper),
        _ => yare_sys::mount::overlay_by_string(&OPTIONS, lower, upper, scratch),
    }
}

fn new_overlay(lower: &[PathBuf], upper: Option<(&Path, &Path)>) -> io::Result<OwnedFd> {
    let mut short = ShortPaths::default();
    let layers = lower.iter().map(|path| short.name(path)).collect::<io::Result<Vec<_>>>()?;
    let upper_names = upper.map(|(upper, work)| Ok::<_, io::Error>((short.name(upper)?, short.name(work)?)));
    let upper_names = upper_names.transpose()?;
    let mut options: Vec<_> = OPTIONS.iter().map(|(key, value)| (*key, Some(*value))).collect();
    options.extend(yare_sys::mount::overlay_is_users().then_some(("userxattr", None)));
    options.extend(layers.iter().map(|path| ("lowerdir+", Some(path.as_str()))));
    let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    if let Some((upper, work)) = &upper_names {
        options.extend([("upperdir", Some(upper.as_str())), ("workdir", Some(work)), ("volatile", None)]);
        attributes = MountAttrFlags::empty();
    }
    new_filesystem("overlay", Some("overlay"), &options, attributes)
}

/// One directory alone needs no overlay.
fn read_only(directory: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let clone = yare_sys::mount::clone_tree(rustix::fs::CWD, &path, false)?;
    let attributes = Attributes::set(MountAttrFlags::MOUNT_ATTR_RDONLY);
    yare_sys::mount::set_attributes(&clone, &attributes, false)?;
    Ok(clone)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;

    fn is_root(name: &str) -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "root is required");
            println!("SKIP {name}: needs root");
        }
        root
    }

    /// Two layers, an upper and a work directory, and an empty one, beneath a path of at least `length` bytes.
    fn directories(length: usize) -> (tempfile::TempDir, [PathBuf; 5]) {
        let dir = tempfile::tempdir().unwrap();
        let mut base = dir.path().to_owned();
        while base.as_os_str().len() < length {
            base.push("x".repeat(100));
        }
        let paths = ["top", "bottom", "upper", "work", "scratch"].map(|name| base.join(name));
        paths.iter().for_each(|path| fs::create_dir_all(path).unwrap());
        fs::write(paths[0].join("both"), "top").unwrap();
        fs::write(paths[1].join("both"), "bottom").unwrap();
        fs::write(paths[1].join("only"), "bottom").unwrap();
        (dir, paths)
    }

    fn read(mount: &OwnedFd, name: &str) -> String {
        let fd = rustix::fs::openat(mount, name, OFlags::RDONLY, Mode::empty()).unwrap();
        let mut text = String::new();
        fs::File::from(fd).read_to_string(&mut text).unwrap();
        text
    }

    fn write(mount: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(mount, name, OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o644))
    }

    #[test]
    fn layers_lie_on_top_of_each_other_on_new_and_old_kernels() {
        if !is_root("layers_lie_on_top_of_each_other_on_new_and_old_kernels") {
            return;
        }
        for (length, old) in [(0, false), (400, false), (0, true), (400, true)] {
            let (_dir, [top, bottom, upper, work, scratch]) = directories(length);
            let lower = [top, bottom];
            let by_string = |lower: &[PathBuf], upper, scratch: &Path| {
                yare_sys::mount::overlay_by_string(&OPTIONS, lower, upper, scratch)
            };
            let make = if old { by_string } else { overlay };
            let mount = make(&lower, Some((&upper, &work)), &scratch)
                .unwrap_or_else(|error| panic!("{error}, {length} bytes, old: {old}"));
            assert_eq!((read(&mount, "both"), read(&mount, "only")), ("top".into(), "bottom".into()));
            write(&mount, "new").unwrap();
            assert!(upper.join("new").exists());
            let mount = make(&lower, None, &scratch).unwrap();
            assert_eq!(read(&mount, "both"), "top");
            assert!(write(&mount, "new").is_err(), "without an upper directory it is read-only");
        }
    }

    #[test]
    fn one_layer_alone_is_read_only() {
        if !is_root("one_layer_alone_is_read_only") {
            return;
        }
        let (_dir, [top, _, _, _, scratch]) = directories(0);
        let mount = overlay(&[top], None, &scratch).unwrap();
        assert_eq!(read(&mount, "both"), "top");
        assert!(write(&mount, "new").is_err());
    }

    #[test]
    fn says_what_is_in_the_way() {
        if !is_root("says_what_is_in_the_way") {
            return;
        }
        let (_dir, [top, bottom, upper, work, scratch]) = directories(0);
        let rootfs = Rootfs::Overlay {
            lower: vec![top.clone(), bottom],
            upper: Some(upper),
            work: Some(work.clone()),
        };
        drop(open(&rootfs, &scratch).unwrap());
        let error = open(&rootfs, &scratch).unwrap_err().to_string();
        assert!(error.contains("was in use in a volatile mount"), "{error}");
        fs::remove_dir_all(work.join("work/incompat/volatile")).unwrap();
        drop(open(&rootfs, &scratch).unwrap());
        fs::remove_dir_all(&top).unwrap();
        fs::remove_dir_all(work.join("work/incompat/volatile")).unwrap();
        let error = open(&rootfs, &scratch).unwrap_err().to_string();
        assert!(error.ends_with("top is missing"), "{error}");
    }
}
