//! Who serves a published port where address translation cannot.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::ports::HostPort;

/// Carries what comes to an IPv6 address of the host and is not translated: connections to a container that has
/// IPv4 alone, those that begin at `::1` (the kernel takes no answer to it from a wire), and those from link-local
/// addresses (which it does not route).
///
/// What it is given outlives the engine; it may hand it to the next one.
pub trait Carrier: fmt::Debug + Send + Sync {
    /// Serves who comes to the socket of `port` (TCP: listening, UDP: bound) by asking `target` in his place.
    fn carry(&self, port: HostPort, socket: BorrowedFd<'_>, target: SocketAddr) -> io::Result<()>;

    /// Lets go of the sockets of these ports: when this returns, nobody but the caller has them.
    fn drop_off(&self, ports: &[HostPort]);

    /// The socket of this port that the last engine's carrier has.
    fn inherit(&self, port: HostPort) -> Option<OwnedFd>;

    /// Whether ports are published in another network namespace than the networks are in, as without root: nothing
    /// can be translated from there, so every port is carried.
    fn serves_all(&self) -> bool {
        false
    }

    /// A socket for a port, where ports are published.
    fn socket(&self, family: AddressFamily, kind: SocketType) -> Result<OwnedFd, Errno> {
        socket_with(family, kind, SocketFlags::CLOEXEC, None)
    }
}
