//! The resolver of user-defined networks.
//!
//! A container of such a network asks 127.0.0.11. The engine makes the sockets there, in the container's
//! namespace, and hands them to one process for all containers: `yare resolver`. That process knows who is
//! called what on which network; other names it asks the host's name servers about, from the host's network. It
//! reads packets that containers make, so it has no privilege: it runs as nobody, without a capability, and gets
//! everything it needs as descriptors.
//!
//! It goes on when its engine dies, and answers from what it knew. The next engine starts another one, gives it
//! new sockets and then ends the old one, so that the two never have to understand each other's words.
//!
//! The pure half: [`names`], who is called what, and [`answer`], what a packet is answered with.

#![forbid(unsafe_code)]

pub mod answer;
mod forward;
pub mod names;
mod orders;
mod process;
mod serve;

pub use orders::{Client, Member, Order};
pub use process::{Process, main};
