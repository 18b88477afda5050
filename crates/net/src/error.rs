//! What can go wrong with a network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use yare_errdefs::{Class, Classified};

use crate::endpoint::Protocol;

/// The bridge, its packet filter or a namespace could not be made, looked at or mended.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel has no nftables, or not the parts that publishing needs, or we may not use it.
    #[error("the kernel cannot hold the packet filter of bridge {bridge}")]
    Firewall {
        /// The bridge.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The name is unfit for an interface or a table.
    #[error("{what} name {name:?} is not valid: {why}")]
    Name {
        /// `bridge` or `table`.
        what: &'static str,
        /// The name.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// The subnet or gateway of the configuration cannot be used.
    #[error("subnet {subnet} of bridge {bridge} cannot be used: {why}")]
    Subnet {
        /// The bridge.
        bridge: String,
        /// The subnet.
        subnet: String,
        /// Why not.
        why: String,
    },
    /// Every default address pool is taken by a route or an interface of this host.
    #[error("all predefined address pools have been fully subnetted")]
    NoSubnet,
    /// There is an interface of that name that is no bridge.
    #[error("interface {0} exists and is not a bridge")]
    NotABridge(String),
    /// A step failed in the kernel.
    #[error("cannot {step}")]
    Kernel {
        /// What was tried, on what.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl NetError {
    pub(crate) fn kernel(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Kernel { step: step.into(), source: source.into() }
    }
}

impl Classified for NetError {
    fn class(&self) -> Class {
        match self {
            Self::Firewall { source, .. } if source.kind() != io::ErrorKind::PermissionDenied => {
                Class::Unavailable
            }
            Self::Firewall { .. } => Class::PermissionDenied,
            Self::NoSubnet => Class::Unavailable,
            Self::Name { .. } | Self::Subnet { .. } => Class::InvalidArgument,
            Self::NotABridge(_) => Class::Conflict,
            Self::Kernel { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Class::PermissionDenied,
                _ => Class::Internal,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Firewall { .. } if self.class() == Class::PermissionDenied => {
                Some("run the engine with CAP_NET_ADMIN, or containers with --network none".into())
            }
            Self::Firewall { .. } => Some(
                "load the modules nf_tables, nft_chain_nat, nft_masq, nft_fib_ipv4 (nft_fib_ipv6) and nft_ct (kernel 5.6 or \
                 newer), or run containers with --network host or --network none"
                    .into(),
            ),
            Self::Subnet { .. } => Some("choose a subnet that no route of this host covers".into()),
            Self::NoSubnet => Some("name a free subnet in the configuration of the bridge".into()),
            Self::NotABridge(_) => Some("choose another name for the bridge".into()),
            Self::Name { .. } | Self::Kernel { .. } => None,
        }
    }
}

/// The reason why somebody without root gets no port below 1024.
pub(crate) const PERMISSION_DENIED: &str = "permission denied";

/// A container could not be attached to the bridge. Nothing of the attempt is left behind.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A container of this engine publishes the port.
    #[error(
        "driver failed programming external connectivity on endpoint {name} ({endpoint_id}): Bind for \
         {host_ip}:{ports} failed: port is already allocated (by container {holder})"
    )]
    Allocated {
        /// Container that wanted the port.
        name: String,
        /// Its endpoint.
        endpoint_id: String,
        /// Address asked for.
        host_ip: IpAddr,
        /// Port asked for, or `first-last`.
        ports: String,
        /// Name of the container that has it.
        holder: String,
    },
    /// Somebody else on this host has the port, or the address is not the host's.
    #[error(
        "driver failed programming external connectivity on endpoint {name} ({endpoint_id}): failed to bind \
         host port for {host_ip}:{host_port}:{container_ip}:{container_port}/{protocol}: {reason}"
    )]
    Bind {
        /// Container that wanted the port.
        name: String,
        /// Its endpoint.
        endpoint_id: String,
        /// Address asked for.
        host_ip: IpAddr,
        /// Port asked for.
        host_port: u16,
        /// The container's address.
        container_ip: IpAddr,
        /// The container's port.
        container_port: u16,
        /// Protocol of both.
        protocol: Protocol,
        /// `address already in use`, `cannot assign requested address` …, and who holds it when known.
        reason: String,
    },
    /// No port of the ephemeral range is free.
    #[error(
        "driver failed programming external connectivity on endpoint {name} ({endpoint_id}): Bind for \
         {host_ip}:0 failed: all ports are allocated"
    )]
    NoPort {
        /// Container that wanted a port.
        name: String,
        /// Its endpoint.
        endpoint_id: String,
        /// Address asked for.
        host_ip: IpAddr,
    },
    /// The published address is an IPv6 address, and nothing leads from there to the container's IPv4 address.
    #[error(
        "cannot publish port {container_port}/{protocol} on {host_ip}: the container has no IPv6 address"
    )]
    NoIpv6 {
        /// Address asked for.
        host_ip: Ipv6Addr,
        /// Container's port.
        container_port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
    /// Container port 0, or a range that ends before it starts.
    #[error("invalid port binding for container port {container_port}/{protocol}: {why}")]
    InvalidPort {
        /// Container's port.
        container_port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// The rule it breaks.
        why: &'static str,
    },
    /// The address asked for is taken.
    #[error("Address already in use")]
    AddressTaken(IpAddr),
    /// The address asked for is not in the subnet, or is the network's, the bridge's or the broadcast one.
    #[error("no configured subnet or ip-range contain the IP address {0}")]
    AddressOutside(Ipv4Addr),
    /// Every address of the subnet is taken.
    #[error("no available {family} addresses on this network's address pools: {network} ({subnet})")]
    NoAddress {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The network.
        network: String,
        /// Its subnet.
        subnet: String,
    },
    /// The container has an endpoint already.
    #[error("endpoint with name {name} already exists in network {network}")]
    Attached {
        /// The container.
        name: String,
        /// The network.
        network: String,
    },
    /// The network has just been removed.
    #[error("network {0} not found")]
    Gone(String),
    /// An IPv6 address was asked for, and the network has none.
    #[error("no configured subnet or ip-range contain the IP address {0}")]
    Address6Outside(Ipv6Addr),
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl Classified for AttachError {
    fn class(&self) -> Class {
        match self {
            // Docker answers 500 for all of these, and clients look at the text.
            Self::Allocated { .. } | Self::Bind { .. } | Self::NoPort { .. } | Self::NoAddress { .. } => {
                Class::Internal
            }
            Self::NoIpv6 { .. }
            | Self::InvalidPort { .. }
            | Self::AddressOutside(_)
            | Self::Address6Outside(_) => Class::InvalidArgument,
            Self::AddressTaken(_) => Class::Conflict,
            // 403, as dockerd says it.
            Self::Attached { .. } => Class::PermissionDenied,
            Self::Gone(_) => Class::NotFound,
            Self::Net(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Allocated { holder, .. } => {
                Some(format!("stop container {holder}, or publish on another host port"))
            }
            Self::Bind { reason, host_port, .. } if reason == PERMISSION_DENIED => Some(format!(
                "publish on a port from 1024 on, or let users have this one: \
                 sudo sysctl net.ipv4.ip_unprivileged_port_start={host_port}"
            )),
            Self::Bind { .. } => Some("stop the holder of the port, or publish on another one".into()),
            Self::NoIpv6 { .. } => Some(
                "publish on an IPv4 address, or use a network with IPv6: yare network create --ipv6".into(),
            ),
            Self::NoAddress { .. } => Some("remove containers, or choose a larger subnet".into()),
            Self::Net(error) => error.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_nftables_is_unavailable_with_a_way_out() {
        let missing = |errno| NetError::Firewall {
            bridge: "yare0".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        let error = missing(rustix::io::Errno::PROTONOSUPPORT.raw_os_error());
        assert_eq!(error.class(), Class::Unavailable);
        assert!(error.hint().is_some_and(|hint| hint.contains("--network host")));
        assert!(
            yare_errdefs::chain(&error)
                .starts_with("the kernel cannot hold the packet filter of bridge yare0: ")
        );
        assert_eq!(missing(rustix::io::Errno::PERM.raw_os_error()).class(), Class::PermissionDenied);
    }
}
