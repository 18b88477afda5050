//! Loading of filter programs.
#![expect(unsafe_code, reason = "seccomp has no safe wrapper")]

use std::io;

/// One instruction of a classic BPF program: the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip when true.
    pub jt: u8,
    /// Instructions to skip when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Most instructions the kernel takes.
pub const MAX_LENGTH: usize = 4096;

/// Installs a filter on this process, for good. Needs `no_new_privs` or CAP_SYS_ADMIN.
///
/// `flags` are the kernel's `SECCOMP_FILTER_FLAG_…`.
pub fn load(program: &[Instruction], flags: u32) -> io::Result<()> {
    if program.is_empty() || program.len() > MAX_LENGTH {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions, laid out as sock_filter, out of a live slice.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
