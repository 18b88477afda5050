//! Network namespaces.
//!
//! A namespace belongs to a thread, so each new one is made in a thread of its own that ends at once; the
//! descriptor keeps the namespace alive. Once no process is in it and every descriptor is closed, the kernel
//! takes it down in the background, with the cable that leads into it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::thread;

use crate::error::NetError;
use crate::link::Route;

const LOOPBACK_INDEX: u32 = 1;

/// A new namespace whose loopback interface is up and that has no other: `--network none`.
pub fn fresh() -> Result<OwnedFd, NetError> {
    let (netns, mut inside) = create()?;
    inside
        .change(|changes| changes.up(LOOPBACK_INDEX))
        .map_err(|refused| NetError::kernel("bring up loopback in a network namespace", refused))?;
    Ok(netns)
}

/// The namespace that a process is in.
pub fn of_process(pid: i32) -> Result<OwnedFd, NetError> {
    open(&format!("/proc/{pid}/ns/net"))
        .map_err(|error| NetError::kernel(format!("open the network namespace of process {pid}"), error))
}

/// The namespace that the calling thread is in.
pub fn of_this_thread() -> Result<OwnedFd, NetError> {
    open("/proc/thread-self/ns/net").map_err(|error| NetError::kernel("open the network namespace", error))
}

/// A new namespace, everything down, and a socket that talks to it.
pub(crate) fn create() -> Result<(OwnedFd, Route), NetError> {
    let born = thread::scope(|scope| {
        let name = "netns".to_owned();
        thread::Builder::new()
            .name(name)
            .stack_size(128 * 1024)
            .spawn_scoped(scope, birth)?
            .join()
            .map_err(|_| io::Error::other("the thread that makes it panicked"))?
    });
    born.map_err(|error| NetError::kernel("create a network namespace", error))
}

fn birth() -> io::Result<(OwnedFd, Route)> {
    yare_sys::netlink::unshare_network()?;
    // Interfaces born here from now on have no IPv6, so neither router advertisements nor link-local
    // neighbours reach a container of an IPv4 network. Loopback keeps ::1. A kernel without IPv6 has no file.
    for (name, value) in [("disable_ipv6", "1"), ("accept_ra", "0")] {
        match fs::write(format!("/proc/sys/net/ipv6/conf/default/{name}"), value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok((open("/proc/thread-self/ns/net")?, Route::open()?))
}

fn open(path: &str) -> io::Result<OwnedFd> {
    File::open(path).map(OwnedFd::from)
}
