//! Bridge, host and none networks: IPAM, ports, rules as values; netlink to apply them.
//!
//! The pure half decides: [`ipam`] hands out addresses, [`ports`] hands out host ports, [`rules`] says which
//! packet filter a bridge wants, [`hosts`] and [`resolv`] write the files that a container reads its names
//! from. The other half tells the kernel: a [`Network`] owns one bridge and its nftables table, and is what
//! the engine calls.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use yare_net::{EndpointRequest, HostPorts, NetConfig, Network};
//!
//! let ports = Arc::new(HostPorts::of_this_host(None));
//! let network = Network::open(NetConfig::new("yare0", "yare_default"), &ports)?;
//! // After a restart of the engine: network.restore("4f1c…", &record)? for every live endpoint.
//! network.sweep()?;
//! let attachment = network.attach("4f1c…", &EndpointRequest::named("web"))?;
//! // attachment.netns goes to the container, attachment.endpoint into its record.
//! network.detach("4f1c…");
//! # Ok(())
//! # }
//! ```

mod bridge;
mod carrier;
pub mod cidr;
mod conntrack;
mod endpoint;
mod error;
mod firewall;
mod forward;
mod holder;
pub mod hosts;
pub mod ipam;
mod link;
mod listen;
mod netlink;
pub mod netns;
mod network;
mod nft;
mod pool;
mod pools;
pub mod ports;
mod publish;
pub mod resolv;
pub mod rules;
mod uplink;
mod watch;

pub use carrier::Carrier;
pub use cidr::{Ipv4Net, Ipv6Net};
pub use endpoint::{
    Attachment, EndpointRecord, EndpointRequest, Ipv6Place, MacAddr, PortBinding, Protocol, Published,
};
pub use error::{AttachError, NetError};
pub use forward::Dropping;
pub use listen::{RESOLVER, ResolverSockets, resolver_sockets};
pub use network::{Ipv6Config, NetConfig, Network};
pub use pools::{AddressPool, free_on_host};
pub use ports::{HostPort, HostPorts};
pub use uplink::guard_uplink;
