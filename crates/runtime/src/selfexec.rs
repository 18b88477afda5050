//! Protection of our own binary: run from a read-only clone of its file.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::mount::MountAttrFlags;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use yare_sys::mount::{Attributes, clone_tree, set_attributes};
use yare_sys::process::execve_fd;

/// Set for the second life of the process, so that a failed protection cannot loop.
const MARK: &str = "_YARE_READONLY_SELF";

/// Executes this binary again from a read-only detached mount of its file, or a sealed copy in memory.
///
/// Returns `Ok` when the process already runs from such a file. A container that gets hold of
/// `/proc/PID/exe` can then not write to the file (CVE-2019-5736). Call it before any thread exists.
pub fn reexec_readonly(args: &[OsString]) -> io::Result<()> {
    let this = rustix::fs::open(c"/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if is_protected(&this)? {
        return Ok(());
    }
    if std::env::var_os(MARK).is_some() {
        return Err(io::Error::other("the program file could not be made read-only"));
    }
    let arguments: Vec<CString> = args.iter().map(|arg| text(arg.clone())).collect::<io::Result<_>>()?;
    let mut environment: Vec<CString> = std::env::vars_os()
        .map(|(mut key, value)| {
            key.push("=");
            key.push(value);
            text(key)
        })
        .collect::<io::Result<_>>()?;
    environment.push(text(format!("{MARK}=1").into())?);
    let file = readonly_clone(&this).or_else(|_| sealed_copy())?;
    Err(execve_fd(file, &arguments, &environment))
}

fn text(string: OsString) -> io::Result<CString> {
    CString::new(string.into_vec()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn is_protected(this: &OwnedFd) -> io::Result<bool> {
    if rustix::fs::fstatvfs(this)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    // A sealed memfd: its seals are readable on a descriptor opened for reading.
    let file = File::open("/proc/self/exe")?;
    Ok(rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
}

fn readonly_clone(this: impl AsFd) -> io::Result<OwnedFd> {
    let clone = clone_tree(this, c"", false)?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID;
    set_attributes(&clone, &Attributes::set(flags), false)?;
    Ok(clone)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(rustix::fs::memfd_create(c"yare", flags)?);
    io::copy(&mut File::open("/proc/self/exe")?, &mut memory)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    // The writable description must be gone before the kernel executes the file.
    let readable = rustix::fs::open(
        format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&memory)),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(readable)
}
