//! Packets with the address that they were sent to.
#![expect(unsafe_code)]

use std::io;
use std::mem;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

/// Where a packet over IPv6 comes from, and where it went. An IPv6 socket that is bound to an address of IPv4 has
/// packets of that, and addresses that stand for those of IPv4 (`::ffff:192.0.2.1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Way {
    /// Who sent it.
    pub peer: SocketAddrV6,
    /// The address of this host that it was sent to.
    pub local: Ipv6Addr,
    /// Index of the interface that it came in by.
    pub interface: u32,
}

/// A control message about a destination, as the kernel lays it out: the only one that these sockets have.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    info: libc::in6_pktinfo,
}

/// Its length without what follows for the sake of alignment.
const CONTROL: usize = std::mem::offset_of!(Control, info) + size_of::<libc::in6_pktinfo>();

/// Has the kernel say where packets of an IPv6 socket were sent to.
pub fn tell_destination(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: setsockopt reads as many bytes as an int has from the pointer, which is that of a live int; the
    // descriptor is open while it is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVPKTINFO,
            (&raw const on).cast(),
            size_of_u32::<libc::c_int>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives a packet, and its way, from an IPv6 socket of which [`tell_destination`] was asked; `WouldBlock` when
/// there is none. What does not fit the buffer is lost.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Way)> {
    let mut peer = sockaddr(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
    let mut control = control(Ipv6Addr::UNSPECIFIED, 0);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = message(&mut part, &mut peer, &mut control);
    // SAFETY: the header's pointers are those of live values, with their lengths, that nothing else uses meanwhile;
    // the descriptor is open while it is borrowed.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let told = header.msg_controllen;
    if told < CONTROL || (control.header.cmsg_level, control.header.cmsg_type) != DESTINATION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let ip = Ipv6Addr::from(peer.sin6_addr.s6_addr);
    let way = Way {
        peer: SocketAddrV6::new(ip, u16::from_be(peer.sin6_port), 0, peer.sin6_scope_id),
        local: control.info.ipi6_addr.s6_addr.into(),
        interface: control.info.ipi6_ifindex,
    };
    Ok((length, way))
}

/// Sends a packet the way back; `WouldBlock` when there is no room.
pub fn answer(socket: impl AsFd, packet: &[u8], way: Way) -> io::Result<()> {
    let mut peer = sockaddr(way.peer);
    // A link-local address means nothing without its interface; another may leave by any.
    let interface = if way.local.is_unicast_link_local() { way.interface } else { 0 };
    let mut control = control(way.local, interface);
    let mut part = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    let header = message(&mut part, &mut peer, &mut control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: as for recvmsg; the kernel only reads, so the packet may be shared.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const header, flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Level and kind of a control message about a destination.
const DESTINATION: (libc::c_int, libc::c_int) = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);

fn control(local: Ipv6Addr, interface: u32) -> Control {
    let (cmsg_level, cmsg_type) = DESTINATION;
    Control {
        header: libc::cmsghdr { cmsg_len: CONTROL, cmsg_level, cmsg_type },
        info: libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr { s6_addr: local.octets() },
            ipi6_ifindex: interface,
        },
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the number of the family is 10")]
fn sockaddr(address: SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: address.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
        sin6_scope_id: address.scope_id(),
    }
}

fn message(part: &mut libc::iovec, peer: &mut libc::sockaddr_in6, control: &mut Control) -> libc::msghdr {
    // SAFETY: all zero is a message header without anything.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw mut *peer).cast();
    header.msg_namelen = size_of_u32::<libc::sockaddr_in6>();
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut *control).cast();
    header.msg_controllen = size_of::<Control>();
    header
}

/// The size of a type that is known to be small.
#[expect(clippy::cast_possible_truncation, reason = "none of them has more than a few bytes")]
const fn size_of_u32<T>() -> u32 {
    size_of::<T>() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, UdpSocket};
    use std::time::Duration;

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        for (bound, asked, local) in [
            ("[::]:0", IpAddr::from(Ipv6Addr::LOCALHOST), Ipv6Addr::LOCALHOST),
            ("[::ffff:127.0.0.1]:0", Ipv4Addr::LOCALHOST.into(), mapped),
        ] {
            let Ok(server) = UdpSocket::bind(bound) else {
                println!("SKIP an_answer_comes_from_the_address_that_was_asked: needs IPv6");
                return;
            };
            tell_destination(&server).unwrap();
            let mut buffer = [0; 16];
            assert_eq!(receive(&server, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let client = UdpSocket::bind((asked, 0)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client.connect((asked, server.local_addr().unwrap().port())).unwrap();
            client.send(b"question").unwrap();
            let (length, way) = receive(&server, &mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"question");
            assert_eq!(way.peer.port(), client.local_addr().unwrap().port());
            assert_eq!((way.local, way.peer.ip()), (local, &local));
            answer(&server, b"answer", way).unwrap();
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"answer");
        }
    }
}
