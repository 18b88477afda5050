//! The resolver's ears in a container's namespace.
//!
//! Containers ask 127.0.0.11, port 53. A socket bound there would keep a container's own name server from port
//! 53 of every address, so the sockets have ports of their own and a rule of the namespace leads to them.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::NetError;
use crate::firewall;
use crate::netns;
use crate::rules;

/// Where containers of user-defined networks find their resolver.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// A resolver's sockets in one namespace. They keep it alive.
#[derive(Debug)]
pub struct ResolverSockets {
    /// Bound, not connected.
    pub udp: OwnedFd,
    /// Listening.
    pub tcp: OwnedFd,
}

/// Makes sockets in a namespace and leads to them whoever asks there, in place of others that were made before.
/// Loopback must be up.
pub fn resolver_sockets(netns: BorrowedFd<'_>) -> Result<ResolverSockets, NetError> {
    netns::within(netns, open)
        .map_err(|error| NetError::kernel("listen for the resolver in a network namespace", error))
}

fn open() -> io::Result<ResolverSockets> {
    let any = SocketAddrV4::new(RESOLVER, 0);
    let (udp, tcp) = (UdpSocket::bind(any)?, TcpListener::bind(any)?);
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let (udp_port, tcp_port) = (udp.local_addr()?.port(), tcp.local_addr()?.port());
    firewall::install(&rules::for_resolver(RESOLVER, udp_port, tcp_port))?;
    Ok(ResolverSockets { udp: udp.into(), tcp: tcp.into() })
}
