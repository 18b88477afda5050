//! How far an address is from the public network.
//!
//! A registry, or whoever pretends to be one, may name any address in a redirect or as its token server, and
//! the engine asks from where it stands: beside metadata services and private machines. So such an address
//! is followed only as deep inside as the registry itself already is: a public registry leads to public
//! addresses, a private one to public and private ones. What the user has configured is trusted as it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address is, from the outside to the inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reach {
    /// The internet.
    Public,
    /// A private network (RFC 1918, RFC 4193, RFC 6598).
    Private,
    /// This machine.
    Loopback,
    /// This link; cloud metadata services live here. Also addresses that mean nothing as a target.
    Link,
}

impl Reach {
    /// Where this address is.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Reach {
    let [first, second, ..] = address.octets();
    if address.is_loopback() {
        Reach::Loopback
    } else if address.is_link_local()
        || address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || first == 0
        || first >= 240
    {
        Reach::Link
    } else if address.is_private()
        || (first == 100 && second & 0xc0 == 64)
        || (first == 198 && second & 0xfe == 18)
    {
        Reach::Private
    } else {
        Reach::Public
    }
}

fn of_v6(address: Ipv6Addr) -> Reach {
    if address.is_loopback() {
        return Reach::Loopback;
    }
    if let Some(inner) = address.to_ipv4() {
        // ::ffff:a.b.c.d and the old ::a.b.c.d.
        return of_v4(inner);
    }
    let segments = address.segments();
    if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let [a, b] = segments[6].to_be_bytes();
        let [c, d] = segments[7].to_be_bytes();
        return of_v4(Ipv4Addr::new(a, b, c, d));
    }
    if address.is_unicast_link_local() || address.is_multicast() {
        Reach::Link
    } else if address.is_unique_local() {
        Reach::Private
    } else {
        Reach::Public
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_where_they_are() {
        let cases = [
            ("8.8.8.8", Reach::Public),
            ("10.1.2.3", Reach::Private),
            ("172.31.0.1", Reach::Private),
            ("172.32.0.1", Reach::Public),
            ("100.64.0.1", Reach::Private),
            ("127.0.0.2", Reach::Loopback),
            ("169.254.169.254", Reach::Link),
            ("0.0.0.0", Reach::Link),
            ("255.255.255.255", Reach::Link),
            ("::1", Reach::Loopback),
            ("::", Reach::Link),
            ("::ffff:169.254.169.254", Reach::Link),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("64:ff9b::7f00:1", Reach::Loopback),
            ("fd00::1", Reach::Private),
            ("fe80::1", Reach::Link),
            ("2001:4860::1", Reach::Public),
        ];
        for (address, reach) in cases {
            assert_eq!(Reach::of(address.parse().unwrap()), reach, "{address}");
        }
        assert!(Reach::Public < Reach::Private && Reach::Loopback < Reach::Link);
    }
}
