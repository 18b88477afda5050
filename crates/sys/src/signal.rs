//! Signals as something to read.
#![expect(unsafe_code, reason = "signalfd and what runs before exec have no safe wrappers")]

use rustix::fd::{FromRawFd, OwnedFd};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// Bytes that are read for a signal: the kernel's `struct signalfd_siginfo`.
pub const INFO: usize = 128;

/// Blocks signals, by number, for this thread and those it makes from now on, and gives a descriptor from which
/// they are read instead, [`INFO`] bytes each; it never blocks.
///
/// Programs that are run later inherit it; see [`unblocked`].
pub fn catch(signals: impl IntoIterator<Item = i32>) -> io::Result<OwnedFd> {
    let mask = signals.into_iter().fold(0_u64, |mask, signal| mask | 1 << (signal - 1));
    let flags = libc::SFD_NONBLOCK | libc::SFD_CLOEXEC;
    // SAFETY: signalfd4 reads 8 bytes of a mask that is alive.
    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, size_of::<u64>(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    let caught = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: rt_sigprocmask reads 8 bytes of a mask that is alive; a null old mask is allowed.
    let blocked = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_BLOCK,
            &raw const mask,
            ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
    if blocked != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(caught)
}

/// Makes a program start with no signal blocked, whatever its parent has done for itself.
pub fn unblocked(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec this makes one system call, and touches no memory but its own stack.
    unsafe { command.pre_exec(crate::process::unblock_signals) }
}

/// The number of the signal that was read; `None` for anything but [`INFO`] bytes.
pub fn number(info: &[u8]) -> Option<i32> {
    let number = info.first_chunk().filter(|_| info.len() == INFO)?;
    Some(u32::from_ne_bytes(*number) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(caught: &OwnedFd) -> Option<i32> {
        let mut info = [0; INFO];
        let read = rustix::io::read(caught, &mut info).ok()?;
        number(&info[..read])
    }

    #[test]
    fn what_is_caught_here_ends_a_program_that_is_run_unblocked() {
        let _caught = catch([15]).unwrap();
        let ended = |command: &mut Command| command.args(["-c", "kill -TERM $$; exit 3"]).status().unwrap();
        assert_eq!(ended(&mut Command::new("sh")).code(), Some(3), "a program inherits what is blocked");
        assert_eq!(ended(unblocked(&mut Command::new("sh"))).code(), None);
    }

    #[test]
    fn a_signal_is_read_once() {
        let caught = catch([10, 64]).unwrap();
        assert_eq!(read(&caught), None);
        for number in [64, 10] {
            let (process, thread) = (std::process::id(), rustix::thread::gettid().as_raw_nonzero().get());
            // SAFETY: tgkill takes no pointers; the signal is blocked in this thread.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, number) };
            assert_eq!(read(&caught), Some(number));
        }
        assert_eq!(read(&caught), None);
    }
}
