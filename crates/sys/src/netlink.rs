//! What netlink users need of the kernel beyond sockets.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Gives the calling thread, and no other, a new network namespace.
///
/// Threads started from it later share it. Errors: `EPERM` without `CAP_SYS_ADMIN`, `ENOSPC` above
/// `user.max_net_namespaces`.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: unshare_unsafe asks that descriptors are not used across unshared descriptor tables; the flag
    // given here leaves the descriptor table shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Brings up the loopback interface of the calling thread's network namespace.
pub fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is a plain struct of bytes and numbers, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the ioctl reads an ifreq, which lives through the call; the descriptor is open.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets a socket's send buffer to `bytes` even above `net.core.wmem_max`; needs `CAP_NET_ADMIN`.
///
/// A netlink message (an nftables batch is one) must fit the send buffer as a whole.
pub fn force_send_buffer(socket: impl AsFd, bytes: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: setsockopt reads `length` bytes from the pointer, which is that of a live i32 of that size; the
    // descriptor is open while it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            (&raw const bytes).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_network_namespace_concerns_one_thread() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none_or(|value| value != "1"), "needs root");
            println!("SKIP a_new_network_namespace_concerns_one_thread: needs root");
            return;
        }
        let link = || std::fs::read_link("/proc/thread-self/ns/net").expect("proc is mounted");
        let before = link();
        let inside = std::thread::spawn(move || {
            unshare_network().expect("root may");
            link()
        });
        assert_ne!(inside.join().expect("it does not panic"), before);
        assert_eq!(link(), before);
    }

    #[test]
    fn the_send_buffer_is_forced_or_refused() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        let outcome = force_send_buffer(&socket, 4 << 20);
        if rustix::process::geteuid().is_root() {
            assert!(outcome.is_ok());
            assert!(
                rustix::net::sockopt::socket_send_buffer_size(&socket).expect("it is a socket") >= 4 << 20
            );
        } else {
            assert_eq!(outcome.expect_err("no privilege").kind(), io::ErrorKind::PermissionDenied);
        }
    }
}
