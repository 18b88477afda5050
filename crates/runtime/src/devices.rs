//! /dev: nodes, links and the console.

use crate::error::{Result, StartError, Step};
use crate::mounts::Layout;
use crate::rootfs::{self, Links};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev, mknodat, symlinkat};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use yare_oci::runtime::{Device, Spec};
use yare_sys::mount::{attach, clone_tree};
use yare_sys::privilege::Privilege;
use yare_sys::pty::{self, Pty};

/// Name, major and minor of what every container has.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

fn failed(path: &str, error: Errno) -> StartError {
    match error {
        Errno::LOOP => {
            let text = "/dev of the image is a symbolic link, nothing is made through it";
            StartError::invalid(Step::Mounts, text).with_hint("use an image in which it is a directory")
        }
        error => StartError::io(Step::Mounts, format!("cannot make {path}"), error),
    }
}

/// Makes the standard nodes and links and those of the specification; the null device, for masks.
///
/// What is returned is certain to be character device 1:3, whatever an image has put at its place.
pub(crate) fn populate(layout: &Layout, spec: &Spec) -> Result<OwnedFd> {
    let dev = rootfs::make_directory(&layout.root, "/dev", Links::Refused)
        .map_err(|error| failed("/dev", error))?;
    if !layout.foreign_dev {
        for (name, major, minor) in NODES {
            let node = Node { kind: FileType::CharacterDevice, mode: 0o666, device: makedev(major, minor) };
            node.place(dev.as_fd(), name, &format!("/dev/{name}"))?;
        }
        for (name, target) in LINKS {
            // Not every kernel has it.
            if name == "core" && rustix::fs::access(target, rustix::fs::Access::EXISTS).is_err() {
                continue;
            }
            match symlinkat(target, &dev, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(&format!("/dev/{name}"), error)),
            }
        }
    }
    let devices = spec.linux.iter().flat_map(|linux| &linux.devices);
    for device in devices {
        make_device(layout, device)?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = rustix::fs::openat(&dev, c"null", flags, Mode::empty())
        .map_err(|error| failed("/dev/null", error))?;
    let stat = rustix::fs::fstat(&null).map_err(|error| failed("/dev/null", error))?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !device || stat.st_rdev != makedev(1, 3) {
        return Err(StartError::invalid(Step::Mounts, "/dev/null of the container is not the null device"));
    }
    Ok(null)
}

/// A special file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    kind: FileType,
    mode: u32,
    device: u64,
}

impl Node {
    /// Puts it at a name, or finds the same there already. `path` is where that is in the container.
    fn place(self, directory: BorrowedFd<'_>, name: &str, path: &str) -> Result<()> {
        let is_device = self.kind != FileType::Fifo;
        if is_device && !Privilege::current().makes_devices() {
            return self.bind(directory, name, path);
        }
        match mknodat(directory, name, self.kind, Mode::from_raw_mode(self.mode), self.device) {
            Err(Errno::EXIST) if self.stands_at(directory, name).map_err(|error| failed(path, error))? => {
                Ok(())
            }
            other => other.map_err(|error| failed(path, error)),
        }
    }

    fn stands_at(self, directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<bool> {
        let known = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(self.is(known.st_mode, known.st_rdev))
    }

    fn is(self, mode: u32, device: u64) -> bool {
        FileType::from_raw_mode(mode) == self.kind && device == self.device
    }

    /// Mounts the host's node there: who cannot make one has what it allows to this user.
    fn bind(self, directory: BorrowedFd<'_>, name: &str, path: &str) -> Result<()> {
        let node = self.of_the_host(path)?;
        let target = rootfs::make_file_at(directory, name).map_err(|error| failed(path, error))?;
        clone_tree(&node, c"", false).and_then(|clone| attach(&clone, &target)).map_err(|error| {
            StartError::io(Step::Mounts, format!("cannot bind the host's device at {path}"), error)
        })
    }

    /// The host's node: where it has the container's name, or where the kernel has put it.
    fn of_the_host(self, path: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = [Some(PathBuf::from(path)), self.name_in_sysfs()].into_iter().flatten();
        let mut opened = own.filter_map(|path| rustix::fs::open(path, flags, Mode::empty()).ok());
        let found =
            opened.find(|node| rustix::fs::fstat(node).is_ok_and(|stat| self.is(stat.st_mode, stat.st_rdev)));
        found.ok_or_else(|| {
            let (major, minor) = (rustix::fs::major(self.device), rustix::fs::minor(self.device));
            let text =
                format!("the host has no node of device {major}:{minor} for {path} that can be mounted");
            StartError::invalid(Step::Mounts, text)
                .with_hint("without root devices cannot be made, only the nodes of the host be shared")
        })
    }

    fn name_in_sysfs(self) -> Option<PathBuf> {
        let folder = if self.kind == FileType::BlockDevice { "block" } else { "char" };
        let (major, minor) = (rustix::fs::major(self.device), rustix::fs::minor(self.device));
        let text = std::fs::read_to_string(format!("/sys/dev/{folder}/{major}:{minor}/uevent")).ok()?;
        let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(Path::new("/dev").join(name))
    }
}

fn make_device(layout: &Layout, device: &Device) -> Result<()> {
    let bad = |what: &str| StartError::invalid(Step::Spec, format!("device {:?}: {what}", device.path));
    let (parent, name) = rootfs::split(&device.path);
    let name = name.filter(|name| *name != "..").ok_or_else(|| bad("not the path of a file"))?;
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        _ => return Err(bad("its type is none of c, b, u, p")),
    };
    let number = |value: i64| u32::try_from(value).map_err(|_| bad("its number is out of range"));
    let rdev = if kind == FileType::Fifo { 0 } else { makedev(number(device.major)?, number(device.minor)?) };
    let links = if parent == "/dev" { Links::Refused } else { Links::Inside };
    let parent =
        rootfs::make_directory(&layout.root, &parent, links).map_err(|error| failed(&device.path, error))?;
    let mode = device.file_mode.unwrap_or(0o666) & 0o777;
    Node { kind, mode, device: rdev }.place(parent.as_fd(), name, &device.path)?;
    let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
    // What is the host's keeps its owner.
    if (uid, gid) != (0, 0) && (kind == FileType::Fifo || Privilege::current().makes_devices()) {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed(&device.path, error))?;
    }
    Ok(())
}

/// Opens a terminal of the container's own devpts.
pub(crate) fn open_terminal(devpts: impl AsFd, size: Option<(u16, u16)>) -> Result<Pty> {
    let failed = |error| StartError::io(Step::Terminal, "cannot open a terminal", error);
    let pty = pty::open_beneath(devpts).map_err(failed)?;
    if let Some((rows, columns)) = size {
        pty::resize(&pty.master, rows, columns).map_err(failed)?;
    }
    Ok(pty)
}

/// The terminal's devpts, wherever the specification put it.
pub(crate) fn find_devpts(root: impl AsFd) -> Result<OwnedFd> {
    rootfs::locate(root, "/dev/pts", Links::Refused)
        .map_err(|error| StartError::io(Step::Terminal, "cannot open /dev/pts of the container", error))
}

/// Makes the terminal /dev/console.
pub(crate) fn attach_console(layout: &Layout, terminal: &OwnedFd) -> Result<()> {
    let target = rootfs::make_file(&layout.root, "/dev/console", Links::Refused)
        .map_err(|error| failed("/dev/console", error))?;
    clone_tree(terminal, c"", false)
        .and_then(|clone| attach(&clone, &target))
        .map_err(|error| StartError::io(Step::Terminal, "cannot make /dev/console", error))
}
