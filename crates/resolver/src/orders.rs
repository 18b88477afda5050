//! What the engine tells the resolver: one message each, one way.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use yare_sys::companion;

/// An order. What it names by `id` is a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Answer who asks at the two descriptors that come with it: a UDP socket and a listening TCP socket.
    Serve(Client),
    /// A container that is served is on other networks now.
    Change(Client),
    /// Close its sockets.
    Forget {
        /// The container.
        id: String,
    },
    /// A container is known on a network.
    Join(Member),
    /// It is not any more.
    Leave {
        /// The network.
        network: String,
        /// The container.
        id: String,
    },
}

/// A container that asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The container.
    pub id: String,
    /// The networks whose names it is told.
    pub networks: Vec<String>,
    /// Names that it alone has for others: alias, then name.
    pub links: Vec<(String, String)>,
    /// Who is asked about other names, in order; nobody, for one that may not reach the world.
    pub upstreams: Vec<IpAddr>,
}

/// A container's place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The network.
    pub network: String,
    /// The container.
    pub id: String,
    /// Its names there, the first for questions about addresses.
    pub names: Vec<String>,
    /// Its addresses there.
    pub ips: Vec<IpAddr>,
}

/// Sends an order.
pub(crate) fn send(socket: impl AsFd, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    companion::send(socket, &serde_json::to_vec(order).map_err(io::Error::other)?, descriptors)
}

/// The next order, if one is there; `None` at the end.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<(Order, Vec<OwnedFd>)>> {
    let Some((bytes, descriptors)) = companion::try_receive(socket)? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&bytes).map_err(io::Error::other)?, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_with_their_descriptors() {
        let (a, b) = yare_sys::socket::seqpacket_pair().unwrap();
        let client = Client { id: "c".into(), networks: vec!["n".into()], ..Client::default() };
        send(&a, &Order::Serve(client.clone()), &[a.as_fd(), b.as_fd()]).unwrap();
        let (order, descriptors) = receive(&b).unwrap().unwrap();
        assert_eq!((order, descriptors.len()), (Order::Serve(client), 2));
        assert_eq!(receive(&b).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // Both ends of the pair, and the copies that were sent.
        drop((a, descriptors));
        assert!(receive(&b).unwrap().is_none());
    }
}
