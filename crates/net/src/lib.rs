//! Bridge, host and none networks: IPAM, ports, rules as values; netlink to apply them.
//!
//! The pure half decides: [`ipam`] hands out addresses, [`ports`] hands out host ports, [`rules`] says which
//! packet filter a bridge wants, [`hosts`] and [`resolv`] write the files that a container reads its names
//! from. The other half tells the kernel: [`networks::Networks`] owns one bridge and one nftables table and
//! is the only thing the engine calls.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use yare_net::{EndpointRequest, NetConfig, Networks};
//!
//! let networks = Networks::open(NetConfig::new("yare0", "yare_default"))?;
//! // After a restart of the engine: networks.restore("4f1c…", &record)? for every live endpoint.
//! networks.sweep()?;
//! let attachment = networks.attach("4f1c…", &EndpointRequest::named("web"))?;
//! // attachment.netns goes to the container, attachment.endpoint into its record.
//! networks.detach("4f1c…");
//! # Ok(())
//! # }
//! ```

mod bridge;
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
mod netlink;
pub mod netns;
mod networks;
mod nft;
mod pool;
pub mod ports;
mod publish;
pub mod resolv;
pub mod rules;
mod watch;

pub use cidr::Ipv4Net;
pub use endpoint::{Attachment, EndpointRecord, EndpointRequest, MacAddr, PortBinding, Protocol, Published};
pub use error::{AttachError, NetError};
pub use forward::Dropping;
pub use networks::{NetConfig, Networks};
