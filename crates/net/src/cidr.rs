//! Networks in prefix notation.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 address with the length of its network's prefix, such as `172.17.0.1/16`.
///
/// Host bits are kept: the same type says what a network is and which address an interface has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ipv4Net {
    address: Ipv4Addr,
    prefix: u8,
}

/// Text that is not an address, a slash and the length of a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct ParseCidrError(String);

impl Ipv4Net {
    /// An address in a network whose prefix is `prefix` bits long; more than 32 counts as 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        Self { address, prefix: prefix.min(32) }
    }

    /// The address as it was given, host bits included.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Length of the prefix, in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The netmask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.mask_bits())
    }

    /// The first address: that of the network itself.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & self.mask_bits())
    }

    /// The last address: broadcast, where the network has one.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !self.mask_bits())
    }

    /// The same network without host bits.
    #[must_use]
    pub fn trunc(&self) -> Self {
        Self { address: self.network(), prefix: self.prefix }
    }

    /// Whether `address` lies in this network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask_bits() == u32::from(self.network())
    }

    /// Whether the two networks have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    fn mask_bits(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl From<Ipv4Net> for String {
    fn from(net: Ipv4Net) -> Self {
        net.to_string()
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = ParseCidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Ipv4Net {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseCidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        if prefix.starts_with('+') {
            return Err(wrong());
        }
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let address = address.parse().map_err(|_| wrong())?;
        if prefix > 32 {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

/// An IPv6 network with the length of its prefix, such as `fd00:1::/64`; without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ipv6Net {
    network: Ipv6Addr,
    prefix: u8,
}

impl Ipv6Net {
    /// The network whose prefix is `prefix` bits long and that has `address`; more than 128 counts as 128.
    pub fn new(address: Ipv6Addr, prefix: u8) -> Self {
        let prefix = prefix.min(128);
        Self { network: Ipv6Addr::from(u128::from(address) & mask6(prefix)), prefix }
    }

    /// The network's first address.
    pub fn network(&self) -> Ipv6Addr {
        self.network
    }

    /// The network's last address.
    pub fn last(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.network) | !mask6(self.prefix))
    }

    /// Length of the prefix, in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The netmask.
    pub fn mask(&self) -> Ipv6Addr {
        Ipv6Addr::from(mask6(self.prefix))
    }

    /// Whether `address` lies in this network.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        u128::from(address) & mask6(self.prefix) == u128::from(self.network)
    }

    /// Whether the two networks have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv6Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl From<Ipv6Net> for String {
    fn from(net: Ipv6Net) -> Self {
        net.to_string()
    }
}

impl TryFrom<String> for Ipv6Net {
    type Error = ParseCidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Ipv6Net {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseCidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|prefix| digits && *prefix <= 128).ok_or_else(wrong)?;
        let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
        Ok(Self::new(address, prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        assert_eq!(net("172.17.0.1/16").to_string(), "172.17.0.1/16");
        assert_eq!(net("172.17.3.4/16").trunc().to_string(), "172.17.0.0/16");
        assert_eq!(net("172.17.3.4/16").broadcast(), Ipv4Addr::new(172, 17, 255, 255));
        assert_eq!(net("10.0.0.1/20").mask(), Ipv4Addr::new(255, 255, 240, 0));
        for wrong in ["", "10.0.0.1", "10.0.0.1/33", "10.0.0/8", "10.0.0.1/+8", "::1/64", "10.0.0.1/"] {
            assert!(wrong.parse::<Ipv4Net>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn overlap_is_symmetric_and_exact_at_the_edges() {
        assert!(net("10.0.0.0/8").overlaps(&net("10.9.0.0/16")));
        assert!(net("10.9.0.0/16").overlaps(&net("10.0.0.0/8")));
        assert!(!net("172.17.0.0/16").overlaps(&net("172.18.0.0/16")));
        assert!(net("0.0.0.0/0").overlaps(&net("172.18.0.0/16")));
        assert!(net("192.0.2.2/32").overlaps(&net("192.0.2.2/32")));
    }

    #[test]
    fn ipv6_networks_lose_their_host_bits() {
        let net: Ipv6Net = "fd00:1::5/64".parse().unwrap();
        assert_eq!(net.to_string(), "fd00:1::/64");
        assert_eq!(net.last(), "fd00:1::ffff:ffff:ffff:ffff".parse::<Ipv6Addr>().unwrap());
        assert!(net.contains("fd00:1::9".parse().unwrap()) && !net.contains("fd00:1:0:1::".parse().unwrap()));
        assert!("::/0".parse::<Ipv6Net>().unwrap().overlaps(&net));
        for wrong in ["fd00::", "fd00::/129", "fd00::/+1", "10.0.0.0/8"] {
            assert!(wrong.parse::<Ipv6Net>().is_err(), "{wrong}");
        }
    }
}
