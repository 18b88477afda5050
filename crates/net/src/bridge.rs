//! The bridge interface: which subnet it gets, and making it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use crate::cidr::Ipv4Net;
use crate::endpoint::MacAddr;
use crate::error::NetError;
use crate::link::{Kind, Link, Route};
use crate::network::NetConfig;
use crate::pools::{self, AddressPool};

/// What is to be done to have the bridge.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) subnet: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    existing: Option<Link>,
    addresses: Vec<Ipv4Net>,
}

/// Looks at the host and decides; changes nothing.
pub(crate) fn plan(route: &mut Route, config: &NetConfig) -> Result<Plan, NetError> {
    let look = |step: &str| format!("{step} for bridge {}", config.bridge);
    let existing =
        route.link(&config.bridge).map_err(|error| NetError::kernel(look("look at interfaces"), error))?;
    if existing.as_ref().is_some_and(|link| link.kind != Some(Kind::Bridge)) {
        return Err(NetError::NotABridge(config.bridge.clone()));
    }
    let index = existing.as_ref().map(|link| link.index);
    let all = route.addresses().map_err(|error| NetError::kernel(look("list addresses"), error))?;
    let routes = route.routes().map_err(|error| NetError::kernel(look("list routes"), error))?;
    let addresses: Vec<_> =
        all.iter().filter(|(owner, _)| Some(*owner) == index).map(|(_, address)| *address).collect();
    let foreign = all.iter().map(|(owner, address)| (Some(*owner), *address)).chain(routes);
    let taken = foreign.filter(|(owner, _)| owner.is_none() || *owner != index).map(|(_, net)| net);
    let taken: Vec<_> = taken.chain(config.avoid.iter().copied()).collect();
    let address = decide(config, &addresses, &taken)?;
    Ok(Plan { subnet: address.trunc(), gateway: address.address(), existing, addresses })
}

/// The bridge's address with its prefix: as configured, as it is, or free.
fn decide(config: &NetConfig, present: &[Ipv4Net], taken: &[Ipv4Net]) -> Result<Ipv4Net, NetError> {
    let refuse = |subnet: Ipv4Net, why: String| {
        Err(NetError::Subnet { bridge: config.bridge.clone(), subnet: subnet.trunc().to_string(), why })
    };
    let fits = |present: &Ipv4Net| {
        config.gateway.is_none_or(|gateway| gateway == present.address())
            && config.ip_range.is_none_or(|range| present.contains(range.network()))
    };
    let address = match (config.subnet, present.first().filter(|present| fits(present)), config.ip_range) {
        (None, Some(&present), _) => present,
        // Of a subnet nothing is known but the part for containers.
        (None, None, Some(range)) => with_gateway(range, config.gateway),
        (None, None, None) => {
            let free = pools::free(&AddressPool::defaults(), taken).ok_or(NetError::NoSubnet)?;
            with_gateway(free, config.gateway)
        }
        (Some(subnet), ..) => with_gateway(subnet, config.gateway),
    };
    if !(8..=30).contains(&address.prefix()) {
        return refuse(address, "its prefix must be 8 to 30 bits long".into());
    }
    let gateway = address.address();
    if !address.contains(gateway) || gateway == address.network() || gateway == address.broadcast() {
        return refuse(address, format!("{gateway} cannot be its gateway"));
    }
    // What the bridge has already is not given up for a route that came later.
    if let Some(other) = taken.iter().find(|net| net.overlaps(&address))
        && !present.contains(&address)
    {
        return refuse(
            address,
            format!("it overlaps with {}, which this host reaches elsewhere", other.trunc()),
        );
    }
    Ok(address)
}

fn with_gateway(subnet: Ipv4Net, gateway: Option<Ipv4Addr>) -> Ipv4Net {
    let first = Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1));
    Ipv4Net::new(gateway.unwrap_or(first), subnet.prefix())
}

impl Plan {
    /// Makes the bridge what the plan says and returns its index.
    pub(crate) fn apply(&self, route: &mut Route, config: &NetConfig) -> Result<u32, NetError> {
        let name = &config.bridge;
        let fail = |error| NetError::kernel(format!("set up bridge {name}"), error);
        if self.existing.is_none() {
            let mac = MacAddr::of_ip(self.gateway);
            route
                .change(|changes| changes.new_bridge(name, config.mtu, mac))
                .map_err(|error| NetError::kernel(format!("create bridge {name}"), error))?;
        }
        // Before the bridge has an address: one of IPv4 must never have been reachable over IPv6.
        switch_ipv6(name, config.ipv6.is_none());
        settings(config)?;
        let link = route.link(name).map_err(fail)?;
        let link =
            link.ok_or_else(|| NetError::kernel(format!("find bridge {name}"), io::ErrorKind::NotFound))?;
        // Of a subnet that it had before.
        let stale6 = if self.existing.is_some() && config.ipv6.is_some() {
            route.addresses6(link.index).map_err(fail)?
        } else {
            Vec::new()
        };
        let wanted = Ipv4Net::new(self.gateway, self.subnet.prefix());
        let changed = route.change(|changes| {
            self.addresses
                .iter()
                .filter(|address| **address != wanted)
                .for_each(|address| changes.remove_address(link.index, *address));
            if !self.addresses.contains(&wanted) {
                changes.address(link.index, wanted);
            }
            if let Some(ipv6) = config.ipv6 {
                let others = stale6.iter().filter(|(ip, _)| *ip != ipv6.gateway);
                others.for_each(|(ip, prefix)| changes.remove_address6(link.index, *ip, *prefix));
                changes.address6(link.index, ipv6.gateway, ipv6.subnet.prefix());
            }
            if !config.alias.is_empty() {
                changes.alias(link.index, &config.alias);
            }
            if link.mtu != config.mtu {
                changes.mtu(link.index, config.mtu);
            }
            changes.up(link.index);
        });
        changed.map_err(fail)?;
        Ok(link.index)
    }
}

/// Writes the kernel settings without which nothing is forwarded.
pub(crate) fn settings(config: &NetConfig) -> Result<(), NetError> {
    setting("net/ipv4/ip_forward", "1")?;
    // Answers to connections from 127.0.0.1 to a published port come back through the bridge.
    setting(&format!("net/ipv4/conf/{}/route_localnet", config.bridge), "1")?;
    if config.ipv6.is_none() {
        return Ok(());
    }
    // Or a container could make itself this host's router (CVE-2020-13401).
    setting(&format!("net/ipv6/conf/{}/accept_ra", config.bridge), "0")?;
    forward_ipv6()
}

/// Forwards IPv6. A host that forwards ignores router advertisements, and would lose its own way out with them,
/// unless its interfaces are told to heed them all the same.
fn forward_ipv6() -> Result<(), NetError> {
    const ALL: &str = "net/ipv6/conf/all/forwarding";
    if fs::read_to_string(format!("/proc/sys/{ALL}")).is_ok_and(|present| present.trim() == "1") {
        return Ok(());
    }
    let folder = fs::read_dir("/proc/sys/net/ipv6/conf");
    let folder = folder.map_err(|error| NetError::kernel("list the interfaces that have IPv6", error))?;
    for interface in folder.flatten() {
        let name = interface.file_name().to_string_lossy().into_owned();
        let heeds = fs::read_to_string(interface.path().join("accept_ra"));
        if name != "all" && heeds.is_ok_and(|heeds| heeds.trim() == "1") {
            setting(&format!("net/ipv6/conf/{name}/accept_ra"), "2")?;
        }
    }
    setting(ALL, "1")
}

/// Switches IPv6 off or on on an interface of the calling thread's namespace. A kernel without IPv6 has no
/// file, and where settings are read-only the interface works all the same.
pub(crate) fn switch_ipv6(interface: &str, off: bool) {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    if let Err(error) = fs::write(&path, if off { "1" } else { "0" })
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%path, %error, "cannot switch IPv6 off or on");
    }
}

/// Whether packets between ports of one bridge pass the packet filter (module `br_netfilter`).
pub(crate) fn filters_bridged_packets(ipv6: bool) -> bool {
    let is_on = |call: &str| {
        fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{call}"))
            .is_ok_and(|value| value.trim() == "1")
    };
    is_on("iptables") && (!ipv6 || is_on("ip6tables"))
}

/// Writes a setting unless it has the value already.
fn setting(key: &str, value: &str) -> Result<(), NetError> {
    let path = format!("/proc/sys/{key}");
    if fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value)
        .map_err(|error| NetError::kernel(format!("set {} to {value}", key.replace('/', ".")), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_errdefs::{Class, Classified};

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn config(subnet: Option<&str>, gateway: Option<&str>) -> NetConfig {
        NetConfig {
            subnet: subnet.map(net),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            ..NetConfig::new("yare0", "t")
        }
    }

    #[test]
    fn the_default_moves_aside_for_what_the_host_has() {
        let choose = |taken: &[&str]| {
            let taken: Vec<_> = taken.iter().map(|text| net(text)).collect();
            decide(&config(None, None), &[], &taken).map(|net| net.to_string())
        };
        assert_eq!(choose(&[]).unwrap(), "172.17.0.1/16");
        assert_eq!(choose(&["172.17.5.0/24"]).unwrap(), "172.18.0.1/16");
        assert_eq!(choose(&["172.16.0.0/12"]).unwrap(), "192.168.0.1/20");
        assert_eq!(choose(&["172.16.0.0/12", "192.168.1.7/24"]).unwrap(), "192.168.16.1/20");
        assert!(matches!(choose(&["172.16.0.0/12", "192.168.0.0/16"]), Err(NetError::NoSubnet)));
    }

    #[test]
    fn a_restart_keeps_the_subnet_of_the_bridge() {
        let present = [net("172.19.0.1/16")];
        assert_eq!(decide(&config(None, None), &present, &[]).unwrap(), present[0]);
        let later = [net("172.16.0.0/12")];
        assert_eq!(decide(&config(None, None), &present, &later).unwrap(), present[0]);
        assert_eq!(decide(&config(Some("10.9.0.0/24"), None), &present, &[]).unwrap(), net("10.9.0.1/24"));
    }

    #[test]
    fn a_part_for_containers_is_the_subnet_unless_there_is_one_around_it() {
        let ranged = |range: &str| NetConfig { ip_range: Some(net(range)), ..config(None, None) };
        let present = [net("172.19.0.1/16")];
        let decided = |range, present: &[Ipv4Net]| decide(&ranged(range), present, &[]).unwrap();
        assert_eq!(decided("172.19.4.0/24", &present), present[0]);
        assert_eq!(decided("172.20.4.0/24", &present), net("172.20.4.1/24"));
        assert_eq!(decided("172.19.4.0/24", &[]), net("172.19.4.1/24"));
        let both = NetConfig { ip_range: Some(net("10.9.0.128/25")), ..config(Some("10.9.0.0/24"), None) };
        assert_eq!(decide(&both, &[], &[]).unwrap(), net("10.9.0.1/24"));
    }

    #[test]
    fn a_configured_subnet_is_used_or_refused_never_replaced() {
        assert_eq!(decide(&config(Some("10.9.0.0/24"), None), &[], &[]).unwrap(), net("10.9.0.1/24"));
        let chosen = decide(&config(Some("10.9.0.0/24"), Some("10.9.0.254")), &[], &[]).unwrap();
        assert_eq!(chosen, net("10.9.0.254/24"));
        let error = decide(&config(Some("10.9.0.0/24"), None), &[], &[net("10.0.0.0/8")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "subnet 10.9.0.0/24 of bridge yare0 cannot be used: it overlaps with 10.0.0.0/8, which this host \
             reaches elsewhere"
        );
        assert_eq!(error.class(), Class::InvalidArgument);
        for (subnet, gateway) in [
            ("10.9.0.0/31", None),
            ("10.0.0.0/4", None),
            ("10.9.0.0/24", Some("10.9.0.0")),
            ("10.9.0.0/24", Some("10.9.0.255")),
        ] {
            assert!(decide(&config(Some(subnet), gateway), &[], &[]).is_err(), "{subnet} {gateway:?}");
        }
    }
}
