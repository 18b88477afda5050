//! What the engine tells the carrier: one message each.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use yare_sys::companion;

/// How many ports one message names at most.
pub(crate) const PORTS: usize = 500;

/// How the bytes of a port travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// How its bytes travel.
    pub transport: Transport,
    /// Where it is.
    pub address: SocketAddr,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Serve who comes to the socket that comes along, by asking `target`.
    Serve { port: Port, target: SocketAddr },
    /// End everything at these ports, then answer with one byte.
    Close { ports: Vec<Port> },
}

/// Sends an order.
pub(crate) fn send(socket: impl AsFd, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    companion::send(socket, &serde_json::to_vec(order).map_err(io::Error::other)?, descriptors)
}

/// Waits for the next order; `None` at the end.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<(Order, Vec<OwnedFd>)>> {
    let Some((bytes, descriptors)) = companion::receive(socket)? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&bytes).map_err(io::Error::other)?, descriptors)))
}

/// Says that an order was carried out.
pub(crate) fn answer(engine: impl AsFd) -> io::Result<()> {
    yare_sys::socket::send_with_fds(engine, &[1], &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_order_fits_and_a_socket_comes_along() {
        let (a, b) = yare_sys::socket::seqpacket_pair().unwrap();
        let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap();
        let port = Port { transport: Transport::Tcp, address };
        let close = Order::Close { ports: vec![port; PORTS] };
        send(&a, &close, &[]).unwrap();
        assert_eq!(receive(&b).unwrap().unwrap().0, close);
        let serve = Order::Serve { port, target: "172.17.0.2:80".parse().unwrap() };
        send(&a, &serve, &[a.as_fd()]).unwrap();
        let (order, descriptors) = receive(&b).unwrap().unwrap();
        assert_eq!((order, descriptors.len()), (serve, 1));
        // Both ends of the pair, and the copy that was sent.
        drop((a, descriptors));
        assert!(receive(&b).unwrap().is_none());
    }
}
