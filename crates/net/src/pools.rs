//! Pools of subnets for networks that name none.

use std::net::Ipv4Addr;

use crate::cidr::Ipv4Net;
use crate::error::NetError;
use crate::link::Route;

/// A part of the address space, cut into subnets of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    base: Ipv4Net,
    prefix: u8,
}

impl AddressPool {
    /// `base` cut into subnets whose prefixes are `prefix` bits long; `None` unless they fit in and have room
    /// for containers.
    pub fn new(base: Ipv4Net, prefix: u8) -> Option<Self> {
        (base.prefix() <= prefix && (8..=30).contains(&prefix)).then_some(Self { base: base.trunc(), prefix })
    }

    /// Docker's: 172.17.0.0/16 to 172.31.0.0/16, then the /20s of 192.168.0.0/16.
    pub fn defaults() -> Vec<Self> {
        let large = (17..=31).map(|second| Ipv4Net::new(Ipv4Addr::new(172, second, 0, 0), 16));
        let large = large.map(|base| Self { base, prefix: 16 });
        let small = Self { base: Ipv4Net::new(Ipv4Addr::new(192, 168, 0, 0), 16), prefix: 20 };
        large.chain([small]).collect()
    }

    fn subnets(self) -> impl Iterator<Item = Ipv4Net> {
        let first = u64::from(u32::from(self.base.network()));
        let size = 1_u64 << (32 - self.prefix);
        let count = 1_u64 << (self.prefix - self.base.prefix());
        (0..count)
            .filter_map(move |index| u32::try_from(first + index * size).ok())
            .map(move |address| Ipv4Net::new(address.into(), self.prefix))
    }
}

/// The first subnet of the pools that overlaps nothing that is taken.
pub(crate) fn free(pools: &[AddressPool], taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let mut subnets = pools.iter().flat_map(|pool| pool.subnets());
    subnets.find(|net| !taken.iter().any(|other| other.overlaps(net)))
}

/// The first subnet of the pools that overlaps neither `avoid` nor a route or an address of this host.
pub fn free_on_host(pools: &[AddressPool], avoid: &[Ipv4Net]) -> Result<Ipv4Net, NetError> {
    let look = |error| NetError::kernel("list the routes of this host", error);
    let mut route = Route::open().map_err(|error| NetError::kernel("open an rtnetlink socket", error))?;
    let addresses = route.addresses().map_err(look)?.into_iter().map(|(_, net)| net);
    let routes = route.routes().map_err(look)?.into_iter().map(|(_, net)| net);
    let taken: Vec<_> = addresses.chain(routes).chain(avoid.iter().copied()).collect();
    free(pools, &taken).ok_or(NetError::NoSubnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_default_pools_are_dockers() {
        let choose = |taken: &[&str]| {
            let taken: Vec<_> = taken.iter().map(|text| net(text)).collect();
            free(&AddressPool::defaults(), &taken).map(|net| net.to_string())
        };
        assert_eq!(choose(&[]).as_deref(), Some("172.17.0.0/16"));
        assert_eq!(choose(&["172.17.0.0/16", "172.18.3.0/24"]).as_deref(), Some("172.19.0.0/16"));
        assert_eq!(choose(&["172.16.0.0/12", "192.168.1.0/24"]).as_deref(), Some("192.168.16.0/20"));
        assert_eq!(choose(&["172.16.0.0/12", "192.168.0.0/16"]), None);
    }

    #[test]
    fn pools_of_ones_own_are_used_in_order_to_their_ends() {
        let pools = [
            AddressPool::new(net("10.5.0.0/23"), 24).unwrap(),
            AddressPool::new(net("255.255.255.0/24"), 25).unwrap(),
        ];
        let mut taken = Vec::new();
        while let Some(next) = free(&pools, &taken) {
            taken.push(next);
        }
        let all: Vec<_> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.5.0.0/24", "10.5.1.0/24", "255.255.255.0/25", "255.255.255.128/25"]);
        assert!(AddressPool::new(net("10.0.0.0/24"), 16).is_none());
        assert!(AddressPool::new(net("10.0.0.0/24"), 31).is_none());
    }
}
