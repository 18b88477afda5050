//! The kernel, and files that last.
//!
//! The one crate of Yare in which `unsafe` is allowed. Each unsafe block does one operation and says why
//! it is sound. What rustix wraps safely is used from there; what it lacks is here.

pub mod bpf;
pub mod companion;
pub mod fs;
pub mod inherit;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod outside;
pub mod packet;
pub mod privilege;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod signal;
pub mod socket;
