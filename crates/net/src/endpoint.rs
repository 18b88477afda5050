//! What the engine asks of a network, and what it gets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::listen::ResolverSockets;

/// A transport protocol whose ports can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol's number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// `tcp`, `udp` or `sctp`, as in Docker's `80/tcp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = ParseProtocolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(ParseProtocolError(text.to_owned())),
        }
    }
}

/// Text that names none of tcp, udp and sctp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid proto: {0}")]
pub struct ParseProtocolError(String);

/// A MAC address, written `02:42:ac:11:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MacAddr(pub [u8; 6]);

/// Text that is not six pairs of hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid MAC address: {0}")]
pub struct ParseMacError(String);

impl MacAddr {
    /// Docker's locally administered address for an IPv4 address: `02:42`, then its four bytes.
    pub fn of_ip(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddr {
    type Error = ParseMacError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseMacError(text.to_owned());
        let mut bytes = [0_u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

/// A container port that should be reachable through the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// The port inside.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The host's address to listen on; `0.0.0.0` is every IPv4 address, `::` every IPv6 address, none is both.
    pub host_ip: Option<IpAddr>,
    /// First and last host port to choose from; none, or `(0, 0)`, means any ephemeral one.
    pub host_port: Option<(u16, u16)>,
}

/// A container port that is reachable through the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Published {
    /// The port inside.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The host's address, `0.0.0.0` for every IPv4 address, `::` for every IPv6 address.
    pub host_ip: IpAddr,
    /// The host's port.
    pub host_port: u16,
}

/// Wish for a container's place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointRequest {
    /// Name of the container without a slash, for texts.
    pub name: String,
    /// Ports to publish.
    pub ports: Vec<PortBinding>,
    /// A MAC address other than the one made from the IP address.
    pub mac: Option<MacAddr>,
    /// A certain address of the subnet.
    pub ip: Option<Ipv4Addr>,
    /// A certain IPv6 address.
    pub ip6: Option<Ipv6Addr>,
}

impl EndpointRequest {
    /// The ordinary wish: any address, no published port.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// A container's place in a network, as it is kept in the container's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Name of the network; none, in records older than networks of one's own, is the default bridge.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// 64 hexadecimal digits, new at each attach.
    pub endpoint_id: String,
    /// Name of the container when it was attached.
    pub name: String,
    /// Name of the interface inside, `eth0`.
    pub interface: String,
    /// Name of the host's end of the cable.
    pub veth: String,
    /// Address inside.
    pub ip: Ipv4Addr,
    /// Length of the subnet's prefix, in bits.
    pub prefix: u8,
    /// The bridge's address; none on an internal network, which leads nowhere.
    pub gateway: Option<Ipv4Addr>,
    /// MAC address inside.
    pub mac: MacAddr,
    /// What is published, in the order of the request.
    pub ports: Vec<Published>,
    /// Its place in the IPv6 half of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Place>,
}

/// An IPv6 address and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Place {
    /// Address inside.
    pub ip: Ipv6Addr,
    /// Length of the subnet's prefix, in bits.
    pub prefix: u8,
    /// The bridge's address; none on an internal network.
    pub gateway: Option<Ipv6Addr>,
}

/// A network namespace ready for a container, and what is known of it.
#[derive(Debug)]
pub struct Attachment {
    /// The namespace. The kernel takes it down, with its cable, when the last process has left it and this
    /// descriptor is closed.
    pub netns: OwnedFd,
    /// For the container's record.
    pub endpoint: EndpointRecord,
    /// Where the container asks for names, if the network has a resolver.
    pub resolver: Option<ResolverSockets>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_follow_the_ip_and_round_trip() {
        let mac = MacAddr::of_ip(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        assert_eq!("02-42-AC-11-00-02".parse(), Ok(mac));
        for wrong in ["", "02:42", "02:42:ac:11:00:02:03", "2:42:ac:11:00:02", "0g:42:ac:11:00:02"] {
            assert!(wrong.parse::<MacAddr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_record_keeps_its_form_on_disk() {
        let record = EndpointRecord {
            network: String::new(),
            endpoint_id: "ab".repeat(32),
            name: "web".into(),
            interface: "eth0".into(),
            veth: "veth0123456".into(),
            ip: Ipv4Addr::new(172, 17, 0, 2),
            prefix: 16,
            gateway: Some(Ipv4Addr::new(172, 17, 0, 1)),
            mac: MacAddr::of_ip(Ipv4Addr::new(172, 17, 0, 2)),
            ports: vec![Published {
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: Ipv4Addr::UNSPECIFIED.into(),
                host_port: 8080,
            }],
            ipv6: None,
        };
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.ends_with(
            r#""ip":"172.17.0.2","prefix":16,"gateway":"172.17.0.1","mac":"02:42:ac:11:00:02","ports":[{"container_port":80,"protocol":"tcp","host_ip":"0.0.0.0","host_port":8080}]}"#
        ));
        assert_eq!(serde_json::from_str::<EndpointRecord>(&text).unwrap(), record);
    }
}
