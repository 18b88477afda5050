//! A network of the user's: what is recorded of it, and what a request for one means.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use yare_api::{IPAM, IPAMConfig, Network, NetworkCreateRequest};
use yare_errdefs::{Error, Result};
use yare_net::{Ipv4Net, Ipv6Config, Ipv6Net, NetConfig};

use crate::clock::rfc3339;

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";
const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
/// Options of Docker's that would change what a network is; any other word is kept and means nothing.
const OF_DOCKER: &str = "com.docker.network.";

/// How many ready network namespaces wait on a bridge for the next containers.
const POOL: usize = 4;

/// What is recorded of a network, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// 64 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Options of address management; kept for inspect.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// The address pools as they were asked for.
    pub asked: Vec<IPAMConfig>,
    /// Whether nobody beyond this host is reached.
    pub internal: bool,
    /// Kept for inspect: any container may join.
    pub attachable: bool,
    /// Name of the bridge.
    pub bridge: String,
    /// The subnet.
    pub subnet: Ipv4Net,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// The part that addresses are handed out from.
    pub ip_range: Option<Ipv4Net>,
    /// Addresses that no container gets.
    pub reserved: Vec<Ipv4Addr>,
    /// The IPv6 half: subnet and the bridge's address.
    pub ipv6: Option<(Ipv6Net, std::net::Ipv6Addr)>,
}

impl NetworkRecord {
    /// Whether the user chose the subnet, and so may choose addresses.
    pub fn has_own_subnet(&self) -> bool {
        self.asked.iter().any(|pool| !pool.subnet.is_empty())
    }

    /// The host address of published ports that name none.
    pub fn host_binding(&self) -> Option<Ipv4Addr> {
        self.options.get(HOST_BINDING)?.parse().ok()
    }

    /// The bridge network that it is, in an engine whose default bridge and MTU are these.
    pub fn settings(&self, default: &str, mtu: u32) -> NetConfig {
        let is_on = |option: &str| self.options.get(option).and_then(|text| boolean(text)).unwrap_or(true);
        NetConfig {
            name: self.name.clone(),
            subnet: Some(self.subnet),
            gateway: Some(self.gateway),
            ip_range: self.ip_range,
            reserved: self.reserved.clone(),
            ipv6: self.ipv6.map(|(subnet, gateway)| Ipv6Config { subnet, gateway }),
            alias: format!("yare network {:.100}, engine of {default}", self.name),
            mtu: self.options.get(MTU).and_then(|mtu| mtu.parse().ok()).unwrap_or(mtu),
            pool: POOL,
            bare: 0,
            icc: is_on(ICC),
            masquerade: is_on(MASQUERADE),
            internal: self.internal,
            resolver: true,
            interface: self.options.get(INTERFACE_PREFIX).cloned().unwrap_or_else(|| "eth".to_owned()),
            ..NetConfig::new(&self.bridge, super::table(&self.bridge))
        }
    }

    /// As lists and inspect show it, without its containers.
    pub fn shown(&self) -> Network {
        let config = match self.has_own_subnet() {
            true => self.asked.clone(),
            false => {
                let gateway = self.gateway.to_string();
                vec![IPAMConfig {
                    subnet: self.subnet.to_string(),
                    gateway,
                    ..self.asked.first().cloned().unwrap_or_default()
                }]
            }
        };
        let automatic6 = self.ipv6.filter(|_| !self.asked.iter().any(|pool| pool.subnet.contains(':')));
        let config6 = automatic6.map(|(subnet, gateway)| IPAMConfig {
            subnet: subnet.to_string(),
            gateway: gateway.to_string(),
            ..IPAMConfig::default()
        });
        Network {
            name: self.name.clone(),
            id: self.id.clone(),
            created: rfc3339(Some(self.created)),
            scope: "local".to_owned(),
            driver: "bridge".to_owned(),
            enable_ipv4: true,
            enable_ipv6: self.ipv6.is_some(),
            ipam: IPAM {
                driver: "default".to_owned(),
                options: self.ipam_options.clone(),
                config: Some(config.into_iter().chain(config6).collect()),
            },
            internal: self.internal,
            attachable: self.attachable,
            options: self.options.clone(),
            labels: self.labels.clone(),
            ..Network::default()
        }
    }
}

/// Go's words for a truth value.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// What the engine knows when a network is asked for.
pub(super) struct Known<'a> {
    pub(super) id: String,
    pub(super) created: Timestamp,
    /// The networks that there are; the default bridge is none of them.
    pub(super) others: &'a [std::sync::Arc<NetworkRecord>],
    /// The default bridge: its name and subnet.
    pub(super) default: Option<(String, Ipv4Net)>,
    /// Its IPv6 subnet.
    pub(super) default6: Option<Ipv6Net>,
    /// A subnet that nobody has.
    pub(super) free: &'a dyn Fn() -> Result<Ipv4Net>,
}

/// The record of the network that a request wants, or what is wrong with it.
pub(super) fn plan(request: &NetworkCreateRequest, known: &Known<'_>) -> Result<NetworkRecord> {
    check(request)?;
    let ipam = request.ipam.clone().unwrap_or_default();
    let asked = ipam.config.unwrap_or_default();
    let options = request.options.clone().unwrap_or_default();
    check_options(&options)?;
    let bridge = match options.get(BRIDGE_NAME).filter(|name| !name.is_empty()) {
        Some(name) => name.clone(),
        None => format!("br-{}", &known.id[..12]),
    };
    if let Some(other) = owner_of(&bridge, known) {
        return Err(Error::denied(format!(
            "cannot create network {} ({bridge}): conflicts with network {other}: networks have same bridge \
             name",
            request.name
        )));
    }
    let v4 = asked.iter().filter(|pool| !pool.subnet.contains(':')).collect::<Vec<_>>();
    let v6 = asked.iter().filter(|pool| pool.subnet.contains(':')).collect::<Vec<_>>();
    if v4.len() > 1 || v6.len() > 1 {
        return Err(Error::invalid("bridge driver only supports one subnet of each family in a network"));
    }
    let pool = v4.first().copied().cloned().unwrap_or_default();
    let subnet = subnet(&pool, known)?;
    let gateway = gateway(&pool, subnet)?;
    let enabled6 = request.enable_ipv6.unwrap_or(false);
    Ok(NetworkRecord {
        name: request.name.clone(),
        created: known.created,
        labels: request.labels.clone().unwrap_or_default(),
        ipam_options: ipam.options,
        internal: request.internal,
        attachable: request.attachable,
        bridge,
        subnet,
        gateway,
        ip_range: ip_range(&pool, subnet)?,
        reserved: reserved(&pool, subnet)?,
        ipv6: if enabled6 { Some(half6(v6.first().copied(), known)?) } else { None },
        id: known.id.clone(),
        options,
        asked,
    })
}

fn check(request: &NetworkCreateRequest) -> Result<()> {
    let NetworkCreateRequest { name, driver, scope, .. } = request;
    if name.trim().is_empty() {
        return Err(Error::invalid("invalid network name: name is empty"));
    }
    if name.contains(['/', '\0']) || name.starts_with("container:") {
        return Err(Error::invalid(format!("invalid network name: {name}")));
    }
    if super::is_predefined(name) {
        return Err(super::predefined(name));
    }
    match driver.as_str() {
        "" | "bridge" | "default" => {}
        "host" | "null" => {
            return Err(Error::denied(format!("only one instance of \"{driver}\" network is allowed")));
        }
        "macvlan" | "ipvlan" | "overlay" => {
            return Err(Error::unimplemented(format!(
                "networks of the driver {driver} are not built into this Yare"
            ))
            .with_hint("use the driver bridge"));
        }
        other => {
            return Err(Error::not_found(format!(
                "could not find plugin {other} in v1 plugin registry: plugin \"{other}\" not found"
            )));
        }
    }
    let refused = |what: &str| Err(Error::unimplemented(format!("{what} are not built into this Yare")));
    if !["", "local"].contains(&scope.as_str()) {
        return Err(Error::invalid(format!("network scope {scope} needs a swarm, and there is none here")));
    }
    if request.ingress {
        return Err(Error::unavailable("there is no swarm here, and so no ingress network"));
    }
    let from = request.config_from.as_ref().is_some_and(|from| !from.network.is_empty());
    if request.config_only || from {
        return refused("configuration-only networks");
    }
    if request.enable_ipv4 == Some(false) {
        return refused("networks without IPv4");
    }
    match request.ipam.as_ref().map(|ipam| ipam.driver.as_str()) {
        None | Some("" | "default") => Ok(()),
        Some(other) => Err(Error::not_found(format!("failed to retrieve IPAM driver {other}: not found"))),
    }
}

fn check_options(options: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in options {
        let is_valid = match name.as_str() {
            BRIDGE_NAME | INTERFACE_PREFIX => value.len() <= 15,
            ICC | MASQUERADE => boolean(value).is_some(),
            HOST_BINDING => value.parse::<Ipv4Addr>().is_ok(),
            MTU => value.parse::<u32>().is_ok_and(|mtu| (68..=65535).contains(&mtu)),
            other if other.starts_with(OF_DOCKER) => {
                return Err(Error::unimplemented(format!(
                    "the network option {other} is not built into this Yare"
                )));
            }
            _ => true,
        };
        if !is_valid {
            return Err(Error::invalid(format!("invalid value {value:?} of the network option {name}")));
        }
    }
    Ok(())
}

/// The network that has a bridge of this name.
fn owner_of(bridge: &str, known: &Known<'_>) -> Option<String> {
    if known.default.as_ref().is_some_and(|(name, _)| name == bridge) {
        return Some(super::BRIDGE.to_owned());
    }
    known.others.iter().find(|other| other.bridge == bridge).map(|other| other.name.clone())
}

fn subnet(pool: &IPAMConfig, known: &Known<'_>) -> Result<Ipv4Net> {
    if pool.subnet.is_empty() {
        if !pool.gateway.is_empty() || !pool.ip_range.is_empty() {
            return Err(Error::invalid(
                "invalid network config:\ninvalid subnet : invalid CIDR block notation",
            ));
        }
        return (known.free)();
    }
    let wrong = || {
        Error::invalid(format!(
            "invalid network config:\ninvalid subnet {}: invalid CIDR block notation",
            pool.subnet
        ))
    };
    let given: Ipv4Net = pool.subnet.parse().map_err(|_| wrong())?;
    if given.trunc() != given {
        return Err(Error::invalid(format!(
            "invalid network config:\ninvalid subnet {given}: it should be {}",
            given.trunc()
        )));
    }
    let others = known.others.iter().map(|other| other.subnet);
    if others.chain(known.default.as_ref().map(|(_, net)| *net)).any(|other| other.overlaps(&given)) {
        return Err(overlap());
    }
    Ok(given)
}

fn overlap() -> Error {
    Error::denied("invalid pool request: Pool overlaps with other one on this address space")
}

fn gateway(pool: &IPAMConfig, subnet: Ipv4Net) -> Result<Ipv4Addr> {
    if pool.gateway.is_empty() {
        return Ok(Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1)));
    }
    within(&pool.gateway, subnet, "gateway")
}

fn within(text: &str, subnet: Ipv4Net, what: &str) -> Result<Ipv4Addr> {
    let wrong = |why: &str| Error::invalid(format!("invalid network config:\ninvalid {what} {text}: {why}"));
    let ip: Ipv4Addr = text.parse().map_err(|_| wrong("invalid address"))?;
    if subnet.contains(ip) {
        Ok(ip)
    } else {
        Err(wrong(&format!("parent subnet {subnet} doesn't contain it")))
    }
}

fn ip_range(pool: &IPAMConfig, subnet: Ipv4Net) -> Result<Option<Ipv4Net>> {
    if pool.ip_range.is_empty() {
        return Ok(None);
    }
    let text = &pool.ip_range;
    let wrong =
        |why: String| Error::invalid(format!("invalid network config:\ninvalid ip-range {text}: {why}"));
    let range: Ipv4Net = text.parse().map_err(|_| wrong("invalid CIDR block notation".to_owned()))?;
    if range.prefix() < subnet.prefix() || !subnet.contains(range.network()) {
        return Err(wrong(format!("parent subnet {subnet} doesn't contain ip-range")));
    }
    Ok(Some(range.trunc()))
}

fn reserved(pool: &IPAMConfig, subnet: Ipv4Net) -> Result<Vec<Ipv4Addr>> {
    let named = pool.auxiliary_addresses.iter().flatten();
    named.map(|(_, text)| within(text, subnet, "auxiliary address")).collect()
}

/// The IPv6 half; without a subnet, one of Docker's kind: a random-looking /64 of fd00::/8.
fn half6(pool: Option<&IPAMConfig>, known: &Known<'_>) -> Result<(Ipv6Net, std::net::Ipv6Addr)> {
    let subnet: Ipv6Net = match pool {
        Some(pool) => pool.subnet.parse().map_err(|_| {
            Error::invalid(format!(
                "invalid network config:\ninvalid subnet {}: invalid CIDR block notation",
                pool.subnet
            ))
        })?,
        // The id is random, so is what comes of it.
        None => local_subnet6(&known.id)?,
    };
    let others = known.others.iter().filter_map(|other| other.ipv6).map(|(subnet, _)| subnet);
    if others.chain(known.default6).any(|other| other.overlaps(&subnet)) {
        return Err(overlap());
    }
    let first = first6(subnet);
    let gateway = match pool.map(|pool| pool.gateway.as_str()) {
        None | Some("") => first,
        Some(text) => match text.parse() {
            Ok(IpAddr::V6(ip)) if subnet.contains(ip) => ip,
            _ => {
                return Err(Error::invalid(format!(
                    "invalid network config:\ninvalid gateway {text}: parent subnet {subnet} doesn't contain it"
                )));
            }
        },
    };
    Ok((subnet, gateway))
}

/// A /64 of fd00::/8 that comes of an id in hexadecimal digits.
pub(super) fn local_subnet6(id: &str) -> Result<Ipv6Net> {
    let text = format!("fd{}:{}:{}::/64", &id[..2], &id[2..6], &id[6..10]);
    text.parse().map_err(|error| Error::internal(format!("{error}")))
}

/// The first address of a subnet after the network's own: the bridge's, unless another is named.
pub(super) fn first6(subnet: Ipv6Net) -> std::net::Ipv6Addr {
    std::net::Ipv6Addr::from(u128::from(subnet.network()).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use yare_errdefs::{Class, Classified};

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn planned(json: &str, others: &[Arc<NetworkRecord>]) -> Result<NetworkRecord> {
        let request: NetworkCreateRequest = serde_json::from_str(json).unwrap();
        let known = Known {
            id: ID.to_owned(),
            created: Timestamp::UNIX_EPOCH,
            others,
            default: Some(("yare0".to_owned(), "172.17.0.0/16".parse().unwrap())),
            default6: Some("fd00:17::/64".parse().unwrap()),
            free: &|| Ok("172.18.0.0/16".parse().unwrap()),
        };
        plan(&request, &known)
    }

    #[test]
    fn a_name_is_enough() {
        let record = planned(r#"{"Name":"n"}"#, &[]).unwrap();
        assert_eq!(
            (record.bridge.as_str(), record.subnet.to_string().as_str()),
            ("br-0123456789ab", "172.18.0.0/16")
        );
        let shown = record.shown();
        let config = &shown.ipam.config.unwrap()[0];
        assert_eq!((config.subnet.as_str(), config.gateway.as_str()), ("172.18.0.0/16", "172.18.0.1"));
        let settings = record.settings("yare0", 1400);
        assert_eq!((settings.mtu, settings.icc, settings.internal), (1400, true, false));
    }

    #[test]
    fn pools_are_shown_as_they_were_asked_for() {
        let record = planned(
            r#"{"Name":"n","EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"10.1.0.0/24","IPRange":"10.1.0.128/25",
            "Gateway":"10.1.0.9","AuxiliaryAddresses":{"a":"10.1.0.130"}},{"Subnet":"fd00:9::/64"}]},
            "Options":{"com.docker.network.bridge.enable_icc":"false","com.docker.network.driver.mtu":"1234",
            "com.docker.network.bridge.name":"mine0","com.docker.network.bridge.host_binding_ipv4":"127.0.0.1"}}"#,
            &[],
        )
        .unwrap();
        let settings = record.settings("yare0", 1500);
        assert_eq!((settings.bridge.as_str(), settings.icc, settings.mtu), ("mine0", false, 1234));
        assert_eq!(settings.ip_range, Some("10.1.0.128/25".parse().unwrap()));
        assert_eq!(settings.reserved, [Ipv4Addr::new(10, 1, 0, 130)]);
        assert_eq!(settings.ipv6.unwrap().gateway.to_string(), "fd00:9::1");
        assert_eq!(record.host_binding(), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(record.shown().ipam.config.unwrap().len(), 2);
        assert!(record.has_own_subnet());
    }

    #[test]
    fn what_is_wrong_is_said_in_dockers_words() {
        let first = planned(r#"{"Name":"a","IPAM":{"Config":[{"Subnet":"10.1.0.0/24"}]}}"#, &[]).unwrap();
        let first = Arc::new(NetworkRecord { bridge: "br-of-another".to_owned(), ..first });
        let cases = [
            (
                r#"{"Name":"bridge"}"#,
                Class::PermissionDenied,
                "operation is not permitted on predefined bridge network ",
            ),
            (r#"{"Name":""}"#, Class::InvalidArgument, "invalid network name: name is empty"),
            (
                r#"{"Name":"n","Driver":"nope"}"#,
                Class::NotFound,
                "could not find plugin nope in v1 plugin registry: plugin \"nope\" not found",
            ),
            (
                r#"{"Name":"n","Driver":"macvlan"}"#,
                Class::Unimplemented,
                "networks of the driver macvlan are not built into this Yare",
            ),
            (
                r#"{"Name":"n","IPAM":{"Config":[{"Subnet":"10.1.0.0/16"}]}}"#,
                Class::PermissionDenied,
                "invalid pool request: Pool overlaps with other one on this address space",
            ),
            (
                r#"{"Name":"n","EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"fd00:17::/48"}]}}"#,
                Class::PermissionDenied,
                "invalid pool request: Pool overlaps with other one on this address space",
            ),
            (
                r#"{"Name":"n","IPAM":{"Config":[{"Subnet":"10.2.0.5/16"}]}}"#,
                Class::InvalidArgument,
                "invalid network config:\ninvalid subnet 10.2.0.5/16: it should be 10.2.0.0/16",
            ),
            (
                r#"{"Name":"n","IPAM":{"Config":[{"Subnet":"10.2.0.0/16","Gateway":"10.3.0.1"}]}}"#,
                Class::InvalidArgument,
                "invalid network config:\ninvalid gateway 10.3.0.1: parent subnet 10.2.0.0/16 doesn't contain it",
            ),
            (
                r#"{"Name":"n","Options":{"com.docker.network.bridge.gateway_mode_ipv4":"routed"}}"#,
                Class::Unimplemented,
                "the network option com.docker.network.bridge.gateway_mode_ipv4 is not built into this Yare",
            ),
            (
                r#"{"Name":"n","Options":{"com.docker.network.bridge.name":"yare0"}}"#,
                Class::PermissionDenied,
                "cannot create network n (yare0): conflicts with network bridge: networks have same bridge name",
            ),
        ];
        for (json, class, text) in cases {
            let error = planned(json, &[Arc::clone(&first)]).unwrap_err();
            assert_eq!((error.class(), error.to_string().as_str()), (class, text), "{json}");
        }
    }

    #[test]
    fn an_automatic_ipv6_subnet_is_a_local_one() {
        let record = planned(r#"{"Name":"n","EnableIPv6":true}"#, &[]).unwrap();
        let (subnet, gateway) = record.ipv6.unwrap();
        assert_eq!(
            (subnet.to_string(), gateway.to_string()),
            ("fd01:2345:6789::/64".to_owned(), "fd01:2345:6789::1".to_owned())
        );
        assert_eq!(record.shown().ipam.config.unwrap().len(), 2);
    }
}
