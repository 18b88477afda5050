//! Addresses of one subnet.
//!
//! Allocation goes round: an address that was given back is not handed out again until every other free one
//! has been, so that a late packet or a cached neighbour entry of a container that has gone does not meet a
//! new container.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::cidr::{Ipv4Net, Ipv6Net};

/// Why an address is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Every address is taken.
    Exhausted,
    /// This one is taken.
    Taken,
    /// It is not an address for a container of this subnet.
    Outside,
}

/// The addresses of a subnet, as a bit map: 8 KiB for a /16.
#[derive(Debug, Clone)]
pub struct Pool {
    subnet: Ipv4Net,
    taken: Vec<u64>,
    /// First offset that is handed out unasked, and the one after the last.
    range: (u32, u32),
    next: u32,
    free: u32,
}

impl Pool {
    /// A pool of `subnet` in which the network's, the broadcast and the gateway's addresses are taken.
    ///
    /// `None` when nothing is left for containers, or the subnet is larger than a /8.
    pub fn new(subnet: Ipv4Net, gateway: Ipv4Addr) -> Option<Self> {
        if subnet.prefix() < 8 || subnet.prefix() > 30 {
            return None;
        }
        let size = 1_u32 << (32 - subnet.prefix());
        let words = usize::try_from(size.div_ceil(64)).ok()?;
        let mut pool =
            Self { subnet: subnet.trunc(), taken: vec![0; words], range: (0, size), next: 1, free: size };
        for address in [subnet.network(), subnet.broadcast(), gateway] {
            pool.mark(pool.offset(address).ok()?);
        }
        (pool.free > 0).then_some(pool)
    }

    /// The subnet, without host bits.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// How many addresses are left to be handed out unasked.
    pub fn available(&self) -> u32 {
        self.free.min(self.range.1 - self.range.0)
    }

    /// How many addresses of the subnet are left.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Hands out only addresses of `range` from now on; others of the subnet have to be asked for. `None` when
    /// it does not lie in the subnet.
    #[must_use]
    pub fn within(mut self, range: Ipv4Net) -> Option<Self> {
        let (first, last) = (self.offset(range.network()).ok()?, self.offset(range.broadcast()).ok()?);
        self.range = (first, last + 1);
        self.next = first;
        Some(self)
    }

    /// The next free address.
    pub fn allocate(&mut self) -> Result<Ipv4Addr, Refusal> {
        let (first, end) = self.range;
        let start = if (first..end).contains(&self.next) { self.next } else { first };
        let found = self.first_free(start, end).or_else(|| self.first_free(first, start));
        let offset = found.ok_or(Refusal::Exhausted)?;
        self.mark(offset);
        self.next = offset + 1;
        Ok(self.address(offset))
    }

    fn first_free(&self, from: u32, end: u32) -> Option<u32> {
        let mut offset = from;
        while offset < end {
            if !self.is_taken(offset) {
                return Some(offset);
            }
            // A full word is skipped in one step.
            let full = self.taken[index(offset)] == u64::MAX;
            offset = if full { (offset | 63) + 1 } else { offset + 1 };
        }
        None
    }

    /// Takes this very address.
    pub fn reserve(&mut self, address: Ipv4Addr) -> Result<(), Refusal> {
        let offset = self.offset(address)?;
        if address == self.subnet.network() || address == self.subnet.broadcast() {
            return Err(Refusal::Outside);
        }
        if self.is_taken(offset) {
            return Err(Refusal::Taken);
        }
        self.mark(offset);
        Ok(())
    }

    /// Gives an address back. One that is free or foreign is ignored.
    pub fn release(&mut self, address: Ipv4Addr) {
        if let Ok(offset) = self.offset(address)
            && self.is_taken(offset)
        {
            self.taken[index(offset)] &= !bit(offset);
            self.free += 1;
        }
    }

    fn offset(&self, address: Ipv4Addr) -> Result<u32, Refusal> {
        if !self.subnet.contains(address) {
            return Err(Refusal::Outside);
        }
        Ok(u32::from(address) - u32::from(self.subnet.network()))
    }

    fn address(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()) + offset)
    }

    fn is_taken(&self, offset: u32) -> bool {
        self.taken[index(offset)] & bit(offset) != 0
    }

    fn mark(&mut self, offset: u32) {
        if !self.is_taken(offset) {
            self.taken[index(offset)] |= bit(offset);
            self.free -= 1;
        }
    }
}

fn index(offset: u32) -> usize {
    offset as usize / 64
}

fn bit(offset: u32) -> u64 {
    1 << (offset % 64)
}

/// The addresses of an IPv6 subnet: those that are taken, for there are too many for a map of bits.
#[derive(Debug, Clone)]
pub struct Pool6 {
    subnet: Ipv6Net,
    taken: BTreeSet<Ipv6Addr>,
    next: u128,
}

impl Pool6 {
    /// A pool of `subnet` in which the network's and the gateway's addresses are taken; `None` when nothing is
    /// left for containers.
    pub fn new(subnet: Ipv6Net, gateway: Ipv6Addr) -> Option<Self> {
        let room = subnet.prefix() <= 126 && subnet.contains(gateway) && gateway != subnet.network();
        room.then(|| Self { subnet, taken: [subnet.network(), gateway].into(), next: 1 })
    }

    /// The next free address; the order is that of [`Pool::allocate`].
    pub fn allocate(&mut self) -> Result<Ipv6Addr, Refusal> {
        let last = u128::from(self.subnet.last()) - u128::from(self.subnet.network());
        // More than one beyond what is taken need not be tried.
        for _ in 0..=self.taken.len() {
            let offset = if self.next > last { 1 } else { self.next };
            self.next = offset + 1;
            let address = Ipv6Addr::from(u128::from(self.subnet.network()) + offset);
            if self.taken.insert(address) {
                return Ok(address);
            }
        }
        Err(Refusal::Exhausted)
    }

    /// Takes this very address.
    pub fn reserve(&mut self, address: Ipv6Addr) -> Result<(), Refusal> {
        if !self.subnet.contains(address) {
            return Err(Refusal::Outside);
        }
        if self.taken.insert(address) { Ok(()) } else { Err(Refusal::Taken) }
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv6Addr) {
        self.taken.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str, gateway: &str) -> Pool {
        Pool::new(subnet.parse().unwrap(), gateway.parse().unwrap()).unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn starts_after_the_gateway_as_docker_does() {
        let mut pool = pool("172.17.0.0/16", "172.17.0.1");
        assert_eq!(pool.allocate(), Ok(ip("172.17.0.2")));
        assert_eq!(pool.allocate(), Ok(ip("172.17.0.3")));
        assert_eq!(pool.free(), 65536 - 5);
    }

    #[test]
    fn a_released_address_comes_back_last() {
        let mut pool = pool("10.0.0.0/29", "10.0.0.1");
        let first = pool.allocate().unwrap();
        pool.release(first);
        let next: Vec<_> = (0..5).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!(next, ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"].map(ip));
        assert_eq!(pool.allocate(), Err(Refusal::Exhausted));
        assert_eq!(pool.free(), 0);
    }

    #[test]
    fn a_whole_16_can_be_handed_out_and_taken_back() {
        let mut pool = pool("172.17.0.0/16", "172.17.255.254");
        let all: std::collections::HashSet<_> = (0..65533).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!(all.len(), 65533);
        assert!(!all.contains(&ip("172.17.255.254")));
        assert_eq!(pool.allocate(), Err(Refusal::Exhausted));
        all.iter().for_each(|&address| pool.release(address));
        assert_eq!(pool.free(), 65533);
    }

    #[test]
    fn reserve_refuses_what_is_taken_or_foreign() {
        let mut pool = pool("10.0.0.0/24", "10.0.0.1");
        assert_eq!(pool.reserve(ip("10.0.0.2")), Ok(()));
        assert_eq!(pool.reserve(ip("10.0.0.2")), Err(Refusal::Taken));
        assert_eq!(pool.reserve(ip("10.0.0.1")), Err(Refusal::Taken));
        assert_eq!(pool.reserve(ip("10.0.1.2")), Err(Refusal::Outside));
        assert_eq!(pool.reserve(ip("10.0.0.255")), Err(Refusal::Outside));
        assert_eq!(pool.allocate(), Ok(ip("10.0.0.3")));
        pool.release(ip("10.0.1.2"));
        pool.release(ip("10.0.0.9"));
        assert_eq!(pool.free(), 256 - 5);
    }

    #[test]
    fn a_range_bounds_what_is_handed_out_unasked() {
        let mut pool = pool("10.0.0.0/24", "10.0.0.1").within("10.0.0.128/30".parse().unwrap()).unwrap();
        let given: Vec<_> = (0..4).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!(given, ["10.0.0.128", "10.0.0.129", "10.0.0.130", "10.0.0.131"].map(ip));
        assert_eq!(pool.allocate(), Err(Refusal::Exhausted));
        assert_eq!(pool.reserve(ip("10.0.0.5")), Ok(()));
        pool.release(ip("10.0.0.129"));
        assert_eq!(pool.allocate(), Ok(ip("10.0.0.129")));
        assert!(self::pool("10.0.0.0/24", "10.0.0.1").within("10.0.1.0/30".parse().unwrap()).is_none());
    }

    #[test]
    fn a_subnet_without_room_is_no_pool() {
        for (subnet, gateway) in
            [("10.0.0.0/31", "10.0.0.0"), ("10.0.0.0/32", "10.0.0.0"), ("0.0.0.0/0", "1.1.1.1")]
        {
            assert!(Pool::new(subnet.parse().unwrap(), ip(gateway)).is_none(), "{subnet}");
        }
        assert!(Pool::new("10.0.0.0/24".parse().unwrap(), ip("10.0.1.1")).is_none());
    }

    #[test]
    fn ipv6_addresses_go_round_too() {
        let mut pool = Pool6::new("fd00::/125".parse().unwrap(), "fd00::1".parse().unwrap()).unwrap();
        let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        assert_eq!(pool.reserve(ip("fd00::3")), Ok(()));
        assert_eq!(pool.reserve(ip("fd00::3")), Err(Refusal::Taken));
        assert_eq!(pool.reserve(ip("fd01::3")), Err(Refusal::Outside));
        let given: Vec<_> = (0..5).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!(given, ["fd00::2", "fd00::4", "fd00::5", "fd00::6", "fd00::7"].map(ip));
        assert_eq!(pool.allocate(), Err(Refusal::Exhausted));
        pool.release(ip("fd00::5"));
        assert_eq!(pool.allocate(), Ok(ip("fd00::5")));
        assert!(Pool6::new("fd00::/127".parse().unwrap(), ip("fd00::1")).is_none());
    }
}
