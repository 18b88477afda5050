//! Cgroup v2 device programs.
#![expect(unsafe_code, reason = "bpf has no safe wrapper")]

use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::io;

/// One instruction of an eBPF program: the kernel's `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u8,
    /// Destination register in the low, source register in the high four bits.
    pub registers: u8,
    /// Jump or memory offset.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const PROG_QUERY: i32 = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// The leading members of `union bpf_attr` for the commands used here, as 32-bit words.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C, align(8))]
struct Words([u32; 16]);

fn set_pointer(words: &mut Words, index: usize, pointer: u64) {
    words.0[index] = pointer as u32;
    words.0[index + 1] = (pointer >> 32) as u32;
}

fn call(command: i32, words: &mut Words) -> io::Result<i64> {
    // SAFETY: bpf reads (and for queries writes) `size` bytes of the attribute block, which lives through
    // the call; pointers stored in it are to live slices of the callers below.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, words as *mut Words, size_of::<Words>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`, close-on-exec. An error carries what the kernel's
/// verifier says.
pub fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut words = Words::default();
    words.0[0] = PROG_TYPE_CGROUP_DEVICE;
    words.0[1] = program.len() as u32;
    set_pointer(&mut words, 2, program.as_ptr() as u64);
    set_pointer(&mut words, 4, license.as_ptr() as u64);
    let fd = call(PROG_LOAD, &mut words).map_err(|error| verdict(words, error))? as RawFd;
    // SAFETY: the kernel returned a fresh descriptor that nothing else owns (it is close-on-exec already).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks the verifier again, for its reason.
fn verdict(mut words: Words, error: io::Error) -> io::Error {
    let mut log = vec![0_u8; 64 << 10];
    words.0[6] = 1;
    words.0[7] = log.len() as u32;
    set_pointer(&mut words, 8, log.as_mut_ptr() as u64);
    if let Ok(fd) = call(PROG_LOAD, &mut words) {
        // SAFETY: the kernel returned a fresh descriptor that nothing else owns.
        drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
    }
    let text = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = text.trim_end_matches('\0').trim().lines().collect();
    // The last lines are the reason and statistics; those before list the program.
    match lines[lines.len().saturating_sub(3)..].join("; ") {
        said if said.is_empty() => error,
        said => io::Error::new(error.kind(), format!("{error}: {said}")),
    }
}

/// Attaches a device program to a cgroup v2 directory, beside those already there.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut words = Words::default();
    words.0[0] = cgroup.as_fd().as_raw_fd() as u32;
    words.0[1] = program.as_fd().as_raw_fd() as u32;
    words.0[2] = ATTACH_CGROUP_DEVICE;
    words.0[3] = ALLOW_MULTI;
    call(PROG_ATTACH, &mut words).map(drop)
}

/// Detaches a device program.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut words = Words::default();
    words.0[0] = cgroup.as_fd().as_raw_fd() as u32;
    words.0[1] = program.as_fd().as_raw_fd() as u32;
    words.0[2] = ATTACH_CGROUP_DEVICE;
    call(PROG_DETACH, &mut words).map(drop)
}

/// The device programs attached to a cgroup v2 directory (the first 16).
pub fn device_programs(cgroup: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; 16];
    let mut words = Words::default();
    words.0[0] = cgroup.as_fd().as_raw_fd() as u32;
    words.0[1] = ATTACH_CGROUP_DEVICE;
    set_pointer(&mut words, 4, ids.as_mut_ptr() as u64);
    words.0[6] = ids.len() as u32;
    call(PROG_QUERY, &mut words)?;
    let count = (words.0[6] as usize).min(ids.len());
    ids[..count].iter().map(|id| program_by_id(*id)).collect()
}

fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut words = Words::default();
    words.0[0] = id;
    let fd = call(PROG_GET_FD_BY_ID, &mut words)? as RawFd;
    // SAFETY: the kernel returned a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "needs root");
            println!("SKIP a_refusal_says_why: needs root");
            return;
        }
        let exit_without_a_result = Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 };
        let error = load_device_program(&[exit_without_a_result]).unwrap_err().to_string();
        assert!(error.contains("R0"), "{error}");
    }
}
