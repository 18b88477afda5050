//! What comes from outside this process: sockets that a service manager opened, ends of processes that are
//! nobody's child here.
#![expect(unsafe_code, reason = "descriptors by number, and an ioctl that has no safe wrapper")]

use crate::process::Exit;
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::io;

/// Takes over a descriptor that was open when the program began, and makes it close-on-exec.
///
/// Fails when nothing is open under that number. Take each number once, at the start of `main`: two owners
/// of one number would close each other's files.
pub fn descriptor(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_SETFD takes no pointers; a number that is not open is an error.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as fcntl has just shown, and by the rule above nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// `struct pidfd_info` of linux/pidfd.h, as far as the exit code (its first version).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`.
const INFO_EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xff, 11, struct pidfd_info)`.
const GET_INFO: libc::c_ulong = 0xC000_0000 | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | 0xFF0B;

/// How a process ended that has been reaped by its parent; anybody with a descriptor may ask (Linux 6.15).
/// `None` where the kernel is older or the process has not been reaped.
pub fn exit_of(pidfd: impl AsFd) -> Option<Exit> {
    let mut info = PidfdInfo { mask: INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the ioctl writes at most the number of bytes that its number carries, which is the size of
    // the struct, and `info` lives through the call.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO, &raw mut info) };
    if result != 0 || info.mask & INFO_EXIT == 0 {
        return None;
    }
    let signal = info.exit_code & 0x7f;
    Some(if signal == 0 { Exit::Code((info.exit_code >> 8) & 0xff) } else { Exit::Signal(signal) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        assert!(descriptor(987_654).is_err());
    }

    #[test]
    fn tells_the_exit_code_after_the_parent_reaped() {
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
        let pidfd = crate::process::pidfd_open(child.id() as i32).unwrap();
        child.wait().unwrap();
        // Older kernels do not tell: then there is nothing to compare.
        if let Some(exit) = exit_of(&pidfd) {
            assert_eq!(exit, Exit::Code(7));
        }
    }
}
