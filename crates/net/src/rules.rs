//! The packet filter that a bridge wants, as values.
//!
//! One nftables table of family ip for each bridge, and one of family ip6 where it has IPv6. Published ports are elements of two maps, so that
//! publishing a port is one small message and the chains never change while the engine runs:
//!
//! - `published` leads (protocol . port) of any local address to a container,
//! - `published_at` leads (address . protocol . port) there.
//!
//! `Display` writes the table in the language of `nft(8)`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cidr::{Ipv4Net, Ipv6Net};
use crate::endpoint::Protocol;
use crate::ports::HostPort;

/// The port at which resolvers are asked.
const DNS: u16 = 53;

const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);

/// Addresses that the kernel does not route beyond one wire.
const LINK_LOCAL: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What a bridge lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Containers on it reach each other.
    pub icc: bool,
    /// Who is beyond this host sees this host's address.
    pub masquerade: bool,
    /// Nobody beyond this host is reached.
    pub internal: bool,
}

/// A table: maps, and chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its packets.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its maps.
    pub maps: &'static [Map],
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// One of the two maps of a [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Map {
    /// Ports of every local address.
    Any,
    /// Ports of one address.
    At,
}

impl Map {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Any, Self::At];

    /// The name it has in its table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "published",
            Self::At => "published_at",
        }
    }

    /// The map in which `port` belongs.
    pub fn of(port: HostPort) -> Self {
        if port.ip.is_unspecified() { Self::Any } else { Self::At }
    }

    fn key(self, family: Family) -> String {
        match self {
            Self::Any => "meta l4proto . th dport".to_owned(),
            Self::At => format!("{} daddr . meta l4proto . th dport", family.name()),
        }
    }

    fn types(self, family: Family) -> String {
        let address = match family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        match self {
            Self::Any => format!("inet_proto . inet_service : {address} . inet_service"),
            Self::At => format!("{address} . inet_proto . inet_service : {address} . inet_service"),
        }
    }
}

/// An entry of a map: where on the host, and which container address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Element {
    /// Where on the host; decides the map.
    pub from: HostPort,
    /// The container's address, of the same family.
    pub ip: IpAddr,
    /// The container's port.
    pub port: u16,
}

/// Where in a packet's way a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// On arrival, before routing.
    Prerouting,
    /// On the way through.
    Forward,
    /// Made by this host, before routing.
    Output,
    /// On departure.
    Postrouting,
}

/// A chain with its hook; its policy is to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Whether it translates addresses, or filters.
    pub nat: bool,
    /// Its hook.
    pub hook: Hook,
    /// Its place among the chains of that hook, lowest first.
    pub priority: i32,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Conditions and at last a verdict, worked off from left to right.
pub type Rule = Vec<Statement>;

/// One word of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Came in (`true`) or did not come in through the interface.
    In(bool, String),
    /// Goes out (`true`) or does not go out through the interface.
    Out(bool, String),
    /// The source is (`true`) or is not in the network.
    Source(bool, Ipv4Net),
    /// The source is (`true`) or is not in the network.
    Source6(bool, Ipv6Net),
    /// The destination is (`true`) or is not in the network.
    Destination(bool, Ipv4Net),
    /// The destination is (`true`) or is not in the network.
    Destination6(bool, Ipv6Net),
    /// Goes to this port.
    ToPort(Protocol, u16),
    /// A segment of TCP without any flag, which no TCP sends.
    Flagless,
    /// The destination is an address of this host.
    ToThisHost,
    /// Belongs to a connection that was let through.
    Established,
    /// Belongs to a connection whose destination was translated.
    Translated,
    /// Send it where the map says, if the map says something.
    Translate(Family, Map),
    /// Send it there.
    TranslateTo(Ipv4Addr, u16),
    /// Give it the address of the interface it leaves through.
    Masquerade,
    /// Let it pass this hook of this table.
    Accept,
    /// Throw it away.
    Drop,
}

/// The table for a bridge.
pub fn for_bridge(table: &str, bridge: &str, subnet: Ipv4Net, policy: Policy) -> Table {
    let words = Words { bridge, subnet, policy };
    Table {
        family: Family::V4,
        name: table.to_owned(),
        maps: &Map::ALL,
        chains: vec![words.raw(), words.prerouting(), words.output(), words.postrouting(), words.forward()],
    }
}

/// The table for the IPv6 half of a bridge. What comes from `::1` or from a link-local address is not translated:
/// the kernel takes no answer to the one from a bridge, and does not route the other. A [`crate::Carrier`] serves it.
/// Nothing is needed against packets on a wire from or to `::1`: the kernel throws them away.
pub fn for_bridge6(table: &str, bridge: &str, subnet: Ipv6Net, policy: Policy) -> Table {
    let words = Words { bridge, subnet: Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0), policy };
    let leading = |chain: Chain| {
        let rule = |map| {
            vec![
                Statement::Destination6(false, Ipv6Net::new(Ipv6Addr::LOCALHOST, 128)),
                Statement::Source6(false, Ipv6Net::new(LINK_LOCAL.0, LINK_LOCAL.1)),
                Statement::ToThisHost,
                Statement::Translate(Family::V6, map),
            ]
        };
        Chain { rules: Map::ALL.map(rule).to_vec(), ..chain }
    };
    let from_subnet = || Statement::Source6(true, subnet);
    let mut back = Vec::new();
    if policy.masquerade && !policy.internal {
        let out = Statement::Out(false, bridge.to_owned());
        back.push(vec![out, from_subnet(), Statement::Masquerade]);
    }
    // From a container through the host back to the bridge: the answer must come back this way.
    back.push(vec![words.leaving(), from_subnet(), Statement::Translated, Statement::Masquerade]);
    let postrouting = Chain { rules: back, ..words.postrouting() };
    let chains = vec![leading(words.prerouting()), leading(words.output()), postrouting, words.forward()];
    Table { family: Family::V6, name: table.to_owned(), maps: &Map::ALL, chains }
}

/// The table inside a container's namespace that leads questions to the resolver: it listens on ports of its
/// own there, so that the container's programs may have port 53.
pub fn for_resolver(address: Ipv4Addr, udp: u16, tcp: u16) -> Table {
    let rule = |protocol, port| {
        vec![
            Statement::Destination(true, Ipv4Net::new(address, 32)),
            Statement::ToPort(protocol, DNS),
            Statement::TranslateTo(address, port),
        ]
    };
    let output = Chain {
        name: "output",
        nat: true,
        hook: Hook::Output,
        priority: -100,
        rules: vec![rule(Protocol::Udp, udp), rule(Protocol::Tcp, tcp)],
    };
    Table { family: Family::V4, name: "yare_resolver".to_owned(), maps: &[], chains: vec![output] }
}

/// The table of a network namespace whose way out is pasta. Some of its versions tell of a window with segments that
/// have no flag at all. They belong to no connection that the kernel follows, so that their address is not translated
/// back: this host would get what is a container's, and answer with a reset that ends the connection.
pub fn for_uplink(family: Family) -> Table {
    let chain = Chain {
        name: "raw_prerouting",
        nat: false,
        hook: Hook::Prerouting,
        priority: -300,
        rules: vec![vec![Statement::Flagless, Statement::Drop]],
    };
    Table { family, name: "yare_uplink".to_owned(), maps: &[], chains: vec![chain] }
}

struct Words<'a> {
    bridge: &'a str,
    subnet: Ipv4Net,
    policy: Policy,
}

impl Words<'_> {
    fn entering(&self) -> Statement {
        Statement::In(true, self.bridge.to_owned())
    }

    fn leaving(&self) -> Statement {
        Statement::Out(true, self.bridge.to_owned())
    }

    /// The bridge routes 127.0.0.0/8 (`route_localnet`), for answers to connections from this host; nothing
    /// on a wire may use it, or services bound to 127.0.0.1 would be open to containers and neighbours.
    fn raw(&self) -> Chain {
        let (loopback, wire) = (loopback(), || Statement::In(false, "lo".to_owned()));
        Chain {
            name: "raw_prerouting",
            nat: false,
            hook: Hook::Prerouting,
            priority: -300,
            rules: vec![
                vec![wire(), Statement::Destination(true, loopback), Statement::Drop],
                vec![wire(), Statement::Source(true, loopback), Statement::Drop],
            ],
        }
    }

    fn prerouting(&self) -> Chain {
        let rule = |map| {
            vec![
                Statement::Destination(false, loopback()),
                Statement::ToThisHost,
                Statement::Translate(Family::V4, map),
            ]
        };
        Chain {
            name: "prerouting",
            nat: true,
            hook: Hook::Prerouting,
            priority: -100,
            rules: Map::ALL.map(rule).to_vec(),
        }
    }

    fn output(&self) -> Chain {
        let rule = |map| vec![Statement::ToThisHost, Statement::Translate(Family::V4, map)];
        Chain {
            name: "output",
            nat: true,
            hook: Hook::Output,
            priority: -100,
            rules: Map::ALL.map(rule).to_vec(),
        }
    }

    fn postrouting(&self) -> Chain {
        let from_subnet = || Statement::Source(true, self.subnet);
        let mut rules = Vec::new();
        if self.policy.masquerade && !self.policy.internal {
            let out = Statement::Out(false, self.bridge.to_owned());
            rules.push(vec![out, from_subnet(), Statement::Masquerade]);
        }
        // From this host's loopback to a published port.
        rules.push(vec![self.leaving(), Statement::Source(true, loopback()), Statement::Masquerade]);
        // From a container through the host back to the bridge: the answer must come back this way.
        rules.push(vec![self.leaving(), from_subnet(), Statement::Translated, Statement::Masquerade]);
        Chain { name: "postrouting", nat: true, hook: Hook::Postrouting, priority: 100, rules }
    }

    fn forward(&self) -> Chain {
        let mut rules = Vec::new();
        if self.policy.internal {
            let out = Statement::Out(false, self.bridge.to_owned());
            rules.push(vec![self.entering(), out, Statement::Drop]);
        }
        rules.push(vec![self.leaving(), Statement::Established, Statement::Accept]);
        if self.policy.icc {
            rules.push(vec![self.leaving(), self.entering(), Statement::Accept]);
        }
        if !self.policy.internal {
            rules.push(vec![self.leaving(), Statement::Translated, Statement::Accept]);
        }
        rules.push(vec![self.leaving(), Statement::Drop]);
        Chain { name: "forward", nat: false, hook: Hook::Forward, priority: 0, rules }
    }
}

fn loopback() -> Ipv4Net {
    Ipv4Net::new(LOOPBACK.0, LOOPBACK.1)
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {} {{", self.family.name(), self.name)?;
        for map in self.maps {
            writeln!(f, "\tmap {} {{\n\t\ttype {}\n\t}}\n", map.name(), map.types(self.family))?;
        }
        for (index, chain) in self.chains.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            write!(f, "{gap}{chain}")?;
        }
        f.write_str("}\n")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.nat { "nat" } else { "filter" };
        let (hook, priority) = (self.hook.name(), priority_name(self.priority));
        writeln!(f, "\tchain {} {{", self.name)?;
        writeln!(f, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
        for rule in &self.rules {
            let words: Vec<_> = rule.iter().map(Statement::to_string).collect();
            writeln!(f, "\t\t{}", words.join(" "))?;
        }
        f.write_str("\t}\n")
    }
}

impl Hook {
    fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

fn priority_name(priority: i32) -> String {
    match priority {
        -300 => "raw".into(),
        -100 => "dstnat".into(),
        0 => "filter".into(),
        100 => "srcnat".into(),
        other => other.to_string(),
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |positive: &bool| if *positive { "" } else { "!= " };
        match self {
            Self::In(positive, name) => write!(f, "iifname {}\"{name}\"", not(positive)),
            Self::Out(positive, name) => write!(f, "oifname {}\"{name}\"", not(positive)),
            Self::Source(positive, net) => write!(f, "ip saddr {}{net}", not(positive)),
            Self::Source6(positive, net) => write!(f, "ip6 saddr {}{}", not(positive), Written(*net)),
            Self::Destination6(positive, net) => write!(f, "ip6 daddr {}{}", not(positive), Written(*net)),
            Self::Destination(positive, net) => write!(f, "ip daddr {}{net}", not(positive)),
            Self::ToPort(protocol, port) => write!(f, "{protocol} dport {port}"),
            Self::TranslateTo(ip, port) => write!(f, "dnat to {ip}:{port}"),
            Self::Flagless => f.write_str("tcp flags == 0x0"),
            Self::ToThisHost => f.write_str("fib daddr type local"),
            Self::Established => f.write_str("ct state established,related"),
            Self::Translated => f.write_str("ct status dnat"),
            Self::Translate(family, map) => {
                write!(f, "dnat {} to {} map @{}", family.name(), map.key(*family), map.name())
            }
            Self::Masquerade => f.write_str("masquerade"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
        }
    }
}

/// A network as nft writes it: one address without the length of a prefix.
struct Written(Ipv6Net);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix() == 128 { self.0.network().fmt(f) } else { self.0.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Policy = Policy { icc: true, masquerade: true, internal: false };

    #[test]
    fn an_internal_bridge_has_no_way_out_and_no_published_port() {
        let internal = Policy { internal: true, ..OPEN };
        let table = for_bridge("t", "br0", "172.18.0.0/16".parse().unwrap(), internal);
        let text = table.chains.last().unwrap().to_string();
        assert!(text.contains("iifname \"br0\" oifname != \"br0\" drop\n"), "{text}");
        assert!(!text.contains("ct status dnat"), "{text}");
        assert!(!table.to_string().contains("saddr 172.18.0.0/16 masquerade"), "{table}");
    }

    #[test]
    fn the_table_of_the_resolver() {
        assert_eq!(
            for_resolver(Ipv4Addr::new(127, 0, 0, 11), 4000, 5000).to_string(),
            "table ip yare_resolver {\n\tchain output {\n\t\ttype nat hook output priority dstnat; policy \
             accept;\n\t\tip daddr 127.0.0.11/32 udp dport 53 dnat to 127.0.0.11:4000\n\t\tip daddr \
             127.0.0.11/32 tcp dport 53 dnat to 127.0.0.11:5000\n\t}\n}\n"
        );
    }

    #[test]
    fn the_table_of_the_way_out() {
        assert_eq!(
            for_uplink(Family::V4).to_string(),
            "table ip yare_uplink {\n\tchain raw_prerouting {\n\t\ttype filter hook prerouting priority raw; policy \
             accept;\n\t\ttcp flags == 0x0 drop\n\t}\n}\n"
        );
        assert!(for_uplink(Family::V6).to_string().starts_with("table ip6 yare_uplink {"));
    }

    #[test]
    fn the_table_of_the_ipv6_half() {
        let table = for_bridge6("t", "br0", "fd00:1::/64".parse().unwrap(), OPEN);
        assert_eq!(table.to_string(), include_str!("../tests/data/bridge6.nft"));
        let internal =
            for_bridge6("t", "br0", "fd00:1::/64".parse().unwrap(), Policy { internal: true, ..OPEN });
        let text = internal.to_string();
        assert!(text.contains("iifname \"br0\" oifname != \"br0\" drop\n"), "{text}");
        assert!(!text.contains("oifname != \"br0\" ip6 saddr fd00:1::/64 masquerade"), "{text}");
    }

    #[test]
    fn the_table_of_a_bridge() {
        let table = for_bridge("yare_test", "yare0", "172.17.0.0/16".parse().unwrap(), OPEN);
        assert_eq!(table.to_string(), include_str!("../tests/data/bridge.nft"));
    }

    #[test]
    fn without_icc_only_published_ports_are_open_between_containers() {
        let closed = Policy { icc: false, ..OPEN };
        let table = for_bridge("t", "yare0", "172.17.0.0/16".parse().unwrap(), closed);
        let forward = table.chains.last().unwrap();
        assert!(forward.rules.iter().all(|rule| !rule.contains(&Statement::In(true, "yare0".into()))));
        assert_eq!(forward.rules.len(), 3);
    }

    #[test]
    fn the_address_decides_the_map() {
        let any = HostPort { protocol: Protocol::Tcp, port: 80, ip: Ipv4Addr::UNSPECIFIED.into() };
        assert_eq!(Map::of(any), Map::Any);
        assert_eq!(Map::of(HostPort { ip: Ipv4Addr::LOCALHOST.into(), ..any }), Map::At);
    }
}
