//! Which host ports this engine has given to which container.
//!
//! Pure bookkeeping: whether the host lets us have the port is found out by binding it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::carrier::Carrier;
use crate::endpoint::Protocol;

/// The ephemeral range that is used when the host does not say which one is its own.
pub const DEFAULT_EPHEMERAL: (u16, u16) = (49153, 65535);

/// A place on the host where a container can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Port, never 0.
    pub port: u16,
    /// Address; `0.0.0.0` clashes with every other of IPv4, `::` with every other of IPv6.
    pub ip: IpAddr,
}

/// The claims of all containers.
#[derive(Debug, Clone)]
pub struct Ports {
    claims: BTreeMap<HostPort, String>,
    ephemeral: (u16, u16),
    next: u16,
}

impl Ports {
    /// No claims yet; `ephemeral` is the inclusive range for ports that nobody chose.
    pub fn new(ephemeral: (u16, u16)) -> Self {
        let (first, last) =
            if ephemeral.0 == 0 || ephemeral.0 > ephemeral.1 { DEFAULT_EPHEMERAL } else { ephemeral };
        Self { claims: BTreeMap::new(), ephemeral: (first, last), next: first }
    }

    /// The range in the text of `/proc/sys/net/ipv4/ip_local_port_range`.
    pub fn parse_range(text: &str) -> Option<(u16, u16)> {
        let mut numbers = text.split_whitespace().map(str::parse);
        match (numbers.next()?, numbers.next()?) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Some((first, last)),
            _ => None,
        }
    }

    /// Who has this port, on this address or on one that includes it.
    pub fn holder(&self, wanted: HostPort) -> Option<&str> {
        let HostPort { protocol, port, ip } = wanted;
        let (first, last) = match ip {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into()),
        };
        let at = |ip| HostPort { protocol, port, ip };
        let clash = |taken: &HostPort| ip.is_unspecified() || taken.ip.is_unspecified() || taken.ip == ip;
        self.claims
            .range(at(first)..=at(last))
            .find(|(taken, _)| clash(taken))
            .map(|(_, holder)| holder.as_str())
    }

    /// Takes the port for `holder`, or says who has it.
    pub fn claim(&mut self, wanted: HostPort, holder: &str) -> Result<(), String> {
        match self.holder(wanted) {
            Some(other) => Err(other.to_owned()),
            None => {
                self.claims.insert(wanted, holder.to_owned());
                Ok(())
            }
        }
    }

    /// Gives the port back.
    pub fn release(&mut self, port: HostPort) {
        self.claims.remove(&port);
    }

    /// The ports of the ephemeral range in the order in which they should be tried: after the last one that
    /// was handed out, and round.
    pub fn ephemeral(&self) -> impl Iterator<Item = u16> + use<> {
        let ((first, last), next) = (self.ephemeral, self.next);
        (next..=last).chain(first..next)
    }

    /// Remembers that `port` of the ephemeral range was handed out.
    pub fn advance(&mut self, port: u16) {
        let (first, last) = self.ephemeral;
        self.next = if (first..last).contains(&port) { port + 1 } else { first };
    }

    /// How many ports are claimed.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whether no port is claimed.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }
}

/// The host's ports as all networks of an engine share them.
#[derive(Debug)]
pub struct HostPorts {
    pub(crate) claims: Mutex<Ports>,
    /// Names of the containers that have some, for texts.
    names: Mutex<HashMap<String, String>>,
    pub(crate) carrier: Option<Arc<dyn Carrier>>,
}

impl HostPorts {
    /// Nothing is claimed yet; the range of ports that nobody chose is this host's. Without a carrier, containers
    /// without IPv6 are published on IPv4 addresses alone.
    pub fn of_this_host(carrier: Option<Arc<dyn Carrier>>) -> Self {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let range = Ports::parse_range(&text).unwrap_or(DEFAULT_EPHEMERAL);
        Self { claims: Mutex::new(Ports::new(range)), names: Mutex::default(), carrier }
    }

    /// Takes note of the name of a container that has ports.
    pub(crate) fn name(&self, id: &str, name: &str) {
        self.names.lock().insert(id.to_owned(), name.to_owned());
    }

    /// Takes note of another name of a container, should it have ports.
    pub(crate) fn rename(&self, id: &str, name: &str) {
        if let Some(known) = self.names.lock().get_mut(id) {
            name.clone_into(known);
        }
    }

    /// Forgets a container that has none any more.
    pub(crate) fn forget(&self, id: &str) {
        self.names.lock().remove(id);
    }

    /// The name of a container that has ports.
    pub(crate) fn name_of(&self, id: &str) -> String {
        self.names.lock().get(id).cloned().unwrap_or_else(|| id.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(ip: [u8; 4], port: u16) -> HostPort {
        HostPort { protocol: Protocol::Tcp, port, ip: IpAddr::from(ip) }
    }

    #[test]
    fn every_address_clashes_with_one_address_both_ways() {
        let mut ports = Ports::new(DEFAULT_EPHEMERAL);
        ports.claim(tcp([127, 0, 0, 1], 80), "a").unwrap();
        assert_eq!(ports.claim(tcp([0, 0, 0, 0], 80), "b"), Err("a".into()));
        ports.claim(tcp([192, 0, 2, 1], 80), "b").unwrap();
        ports.claim(tcp([0, 0, 0, 0], 81), "c").unwrap();
        assert_eq!(ports.claim(tcp([127, 0, 0, 1], 81), "d"), Err("c".into()));
        assert_eq!(ports.claim(tcp([255, 255, 255, 255], 81), "d"), Err("c".into()));
        let udp = HostPort { protocol: Protocol::Udp, ..tcp([0, 0, 0, 0], 80) };
        ports.claim(udp, "e").unwrap();
        ports.release(tcp([0, 0, 0, 0], 81));
        ports.claim(tcp([127, 0, 0, 1], 81), "d").unwrap();
        assert_eq!(ports.len(), 4);
    }

    #[test]
    fn the_two_families_do_not_clash() {
        let at = |ip: &str| HostPort { protocol: Protocol::Tcp, port: 80, ip: ip.parse().unwrap() };
        let mut ports = Ports::new(DEFAULT_EPHEMERAL);
        ports.claim(at("0.0.0.0"), "a").unwrap();
        ports.claim(at("::1"), "b").unwrap();
        ports.claim(at("fd00::1"), "c").unwrap();
        assert_eq!(ports.claim(at("::"), "d"), Err("b".into()));
        assert_eq!(ports.claim(at("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "d"), Ok(()));
        ports.release(at("::1"));
        assert_eq!(ports.holder(at("::1")), None);
    }

    #[test]
    fn ephemeral_ports_go_round() {
        let mut ports = Ports::new((60000, 60002));
        assert_eq!(ports.ephemeral().collect::<Vec<_>>(), [60000, 60001, 60002]);
        ports.advance(60000);
        assert_eq!(ports.ephemeral().collect::<Vec<_>>(), [60001, 60002, 60000]);
        ports.advance(60002);
        assert_eq!(ports.ephemeral().collect::<Vec<_>>(), [60000, 60001, 60002]);
        let whole = Ports::new((65535, 65535));
        assert_eq!(whole.ephemeral().collect::<Vec<_>>(), [65535]);
    }

    #[test]
    fn the_hosts_range_is_read_and_nonsense_is_not() {
        assert_eq!(Ports::parse_range("32768\t60999\n"), Some((32768, 60999)));
        for wrong in ["", "1", "0 5", "9 3", "a b", "70000 80000"] {
            assert_eq!(Ports::parse_range(wrong), None, "{wrong}");
        }
    }
}
