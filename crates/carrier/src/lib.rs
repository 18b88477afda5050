//! Published ports where address translation cannot serve them.
//!
//! The packet filter leads published ports to containers. On IPv6 addresses it cannot, for a container that has
//! IPv4 alone, for connections that begin at `::1`, and for link-local ones. There the engine's socket that holds
//! the port listens, and is handed to one process for all containers, `yare carrier`, which accepts, connects to
//! the container and carries the bytes. It has no privilege: it runs as nobody, without a capability.
//!
//! It goes on when its engine dies. The next engine takes its sockets, gives them to another one and asks the old
//! one, by a signal, to accept nobody any more; that one ends with its last connection. So nobody is turned away,
//! no connection breaks, and the two never have to understand each other's words.

#![forbid(unsafe_code)]

mod orders;
mod packets;
mod process;
mod serve;
mod streams;

pub use orders::{Port, Transport};
pub use process::{Process, main, retire};
