//! Ports for servers that are told theirs before they listen, or come back at the same one.

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::slot;

/// Above those that the kernel gives out by itself: no connection of anybody's has one by chance, and who tries
/// to connect to a server that is not there yet does not meet himself.
const FIRST: u16 = 61_000;

/// Ports that are given out together.
const BLOCK: u16 = 4;

/// A port as of [`free_ports`].
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of so many ports in a row that nobody has, on all addresses, over TCP and UDP. As long as this
/// process lives, no other test of this machine is given one of them.
///
/// # Panics
/// When there are none, or more than four are asked for.
#[must_use]
pub fn free_ports(count: u16) -> u16 {
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    static NEXT: AtomicU16 = AtomicU16::new(0);
    assert!(count <= BLOCK, "{count} ports are too many");
    let blocks = (u16::MAX - FIRST) / BLOCK;
    let begin =
        (std::process::id() as u16).wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    let ports = (0..blocks).map(|step| FIRST + (begin % blocks + step) % blocks * BLOCK);
    let mut free = ports.filter_map(|port| {
        let lock = slot::claim_name(&format!("port-{port}"))?;
        (port..port + BLOCK).all(is_free).then_some((port, lock))
    });
    let (port, lock) = free.next().expect("there are free ports");
    HELD.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
    port
}

fn is_free(port: u16) -> bool {
    // Where there is IPv6, its address stands for those of IPv4 too.
    let any = if TcpListener::bind("[::]:0").is_ok() { "::" } else { "0.0.0.0" };
    TcpListener::bind((any, port)).is_ok() && UdpSocket::bind((any, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_out_once() {
        let one = free_ports(BLOCK);
        let two = free_port();
        assert!(!(one..one + BLOCK).contains(&two), "{one} {two}");
        let held = TcpListener::bind(("127.0.0.1", two)).expect("it is free");
        assert!(!is_free(two));
        drop(held);
        assert!(is_free(one) && one >= FIRST);
    }
}
