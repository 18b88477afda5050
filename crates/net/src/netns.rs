//! Network namespaces.
//!
//! A namespace belongs to a thread, so each new one is made in a thread of its own that ends at once; the
//! descriptor keeps the namespace alive. Once no process is in it and every descriptor is closed, the kernel
//! takes it down in the background, with the cable that leads into it.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::NetError;
use crate::link::Route;

const LOOPBACK_INDEX: u32 = 1;

/// A new namespace whose loopback interface is up and that has no other: `--network none`.
pub fn fresh() -> Result<OwnedFd, NetError> {
    let (netns, mut inside) = create(false)?;
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
pub(crate) fn create(ipv6: bool) -> Result<(OwnedFd, Route), NetError> {
    on_a_thread(|| birth(ipv6)).map_err(|error| NetError::kernel("create a network namespace", error))
}

/// Does `work` on a thread that is in the namespace.
pub(crate) fn within<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_a_thread(|| {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
        work()
    })
}

/// Where a namespace sends what it has no better route for: `None` is nowhere.
pub fn set_gateways(
    netns: BorrowedFd<'_>,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
) -> Result<(), NetError> {
    within(netns, || {
        let mut route = Route::open()?;
        for (gateway, any) in [
            (ipv4.map(IpAddr::from), IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            (ipv6.map(IpAddr::from), IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        ] {
            let outcome = route.change(|changes| match gateway {
                Some(gateway) => changes.replace_default_route(gateway),
                None => changes.remove_default_route(any),
            });
            match outcome {
                // There was none, or the kernel has no IPv6.
                Err(refused) if gateway.is_none() && !matches!(refused.errno, Errno::PERM) => {}
                other => other?,
            }
        }
        Ok(())
    })
    .map_err(|error| NetError::kernel("change the default route of a container", error))
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, work)?
            .join()
            .map_err(|_| io::Error::other("the thread in a network namespace panicked"))?
    })
}

fn birth(ipv6: bool) -> io::Result<(OwnedFd, Route)> {
    yare_sys::netlink::unshare_network()?;
    // Interfaces born here from now on have no IPv6, so neither router advertisements nor link-local
    // neighbours reach a container of an IPv4 network. Loopback keeps ::1. A kernel without IPv6 has no file.
    for (name, value) in [("disable_ipv6", if ipv6 { "0" } else { "1" }), ("accept_ra", "0")] {
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
