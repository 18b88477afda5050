//! Networks: `bridge`, `host` and `none`, which every engine has, and those of the user.
//!
//! A network of the user's is a record and a bridge. The record is written before the bridge is made and deleted
//! after it is gone, so that a bridge without a record never stays behind: an engine makes the bridges of all
//! records anew when it starts. Containers name their networks by name; a network in use is not removed.

pub(crate) mod connect;
mod create;
pub(crate) mod join;
pub(crate) mod naming;
mod record;
mod remove;

use crate::carrier::Carrier;
use crate::clock::rfc3339;
use crate::container::Record;
use crate::{Config, Engine};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use yare_api::filters::Filters;
use yare_api::{EndpointSettings, IPAM, IPAMConfig, Network, NetworkContainer};
use yare_errdefs::{Error, Result};
use yare_net::{EndpointRecord, HostPorts, Ipv4Net, Ipv6Config, Ipv6Net, NetConfig};
use yare_oci::Digest;

pub use connect::{connect, disconnect};
pub use create::create;
pub use record::NetworkRecord;
pub use remove::{prune, remove};

/// Name of the default bridge network.
pub const BRIDGE: &str = "bridge";
/// Name of the network of containers that share the host's.
pub const HOST: &str = "host";
/// Name of the network of containers that have none.
pub const NONE: &str = "none";

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
/// How many ready network namespaces wait for the next containers.
const POOL: usize = 16;

/// The networks of an engine's user, and the host's ports that all networks share.
#[derive(Debug)]
pub struct Networks {
    by_id: RwLock<BTreeMap<String, Arc<UserNetwork>>>,
    ports: Arc<HostPorts>,
    /// Held while a network is made or removed: who is given which subnet is decided once.
    changing: tokio::sync::Mutex<()>,
}

/// A network of the user's.
#[derive(Debug)]
pub struct UserNetwork {
    /// What is recorded of it.
    pub record: Arc<NetworkRecord>,
    /// The bridge, or why there is none.
    pub bridge: std::result::Result<Arc<yare_net::Network>, String>,
}

impl Networks {
    /// The networks on record, each with its bridge, which is made if it is not there. One whose bridge cannot be
    /// made stays on record, and says why when a container comes.
    fn open(records: Vec<NetworkRecord>, ports: Arc<HostPorts>, config: &Config) -> Self {
        let opened = records.into_iter().map(|record| {
            let bridge = open_user(&record, &ports, config).map_err(|error| {
                let why = yare_errdefs::chain(&error);
                tracing::error!(network = record.name, "{why}");
                why
            });
            (record.id.clone(), Arc::new(UserNetwork { record: Arc::new(record), bridge }))
        });
        let by_id = RwLock::new(opened.collect());
        Self { by_id, ports, changing: tokio::sync::Mutex::default() }
    }

    fn all(&self) -> Vec<Arc<UserNetwork>> {
        self.by_id.read().values().cloned().collect()
    }

    fn named(&self, name: &str) -> Option<Arc<UserNetwork>> {
        self.by_id.read().values().find(|network| network.record.name == name).cloned()
    }

    /// The network with this name, this id, or an id that begins so.
    fn find(&self, wanted: &str) -> Result<Arc<UserNetwork>> {
        if let Some(network) = self.named(wanted) {
            return Ok(network);
        }
        let by_id = self.by_id.read();
        let matches: Vec<_> = match wanted {
            "" => Vec::new(),
            _ => by_id.values().filter(|network| network.record.id.starts_with(wanted)).collect(),
        };
        match matches.as_slice() {
            [only] => Ok(Arc::clone(only)),
            [] => Err(not_found(wanted)),
            many => Err(Error::invalid(format!(
                "network {wanted} is ambiguous ({} matches found based on ID prefix)",
                many.len()
            ))),
        }
    }
}

fn not_found(name: &str) -> Error {
    Error::not_found(format!("network {name} not found"))
}

fn is_predefined(name: &str) -> bool {
    matches!(name, BRIDGE | HOST | NONE | "default")
}

fn predefined(name: &str) -> Error {
    // The space at the end is dockerd's.
    Error::denied(format!("operation is not permitted on predefined {name} network "))
}

/// The bridge of a network of the user's.
fn open_user(
    record: &NetworkRecord,
    ports: &Arc<HostPorts>,
    config: &Config,
) -> Result<Arc<yare_net::Network>> {
    let opened = yare_net::Network::open(record.settings(&config.bridge, config.mtu), ports);
    let failed = |error| Error::wrap(format!("cannot open the bridge of network {}", record.name), error);
    Ok(Arc::new(opened.map_err(failed)?))
}

/// Opens the default bridge, and the networks of these rows of the records.
pub(crate) fn open(
    config: &Config,
    engine_id: &str,
    carrier: &Arc<Carrier>,
    rows: Vec<(String, Vec<u8>)>,
) -> Result<Opened> {
    let mut records: Vec<NetworkRecord> = Vec::with_capacity(rows.len());
    for (id, row) in rows {
        let record = serde_json::from_slice(&row);
        records.push(
            record.map_err(|error| {
                Error::internal(format!("cannot read the record of network {id}: {error}"))
            })?,
        );
    }
    let ports = Arc::new(HostPorts::of_this_host(Some(Arc::<Carrier>::clone(carrier))));
    let mut wanted = bridge_settings(config, engine_id)?;
    wanted.avoid = records.iter().map(|record| record.subnet).collect();
    if let Some(half) = wanted.ipv6
        && let Some(other) =
            records.iter().find(|record| record.ipv6.is_some_and(|(other, _)| other.overlaps(&half.subnet)))
    {
        return Err(Error::invalid(format!(
            "the IPv6 subnet {} of the default bridge overlaps with network {}",
            half.subnet, other.name
        ))
        .with_hint("name another one: --fixed-cidr-v6"));
    }
    let (bridge, bridge_error) = open_bridge(config, &ports, wanted)?;
    Ok((bridge, bridge_error, Networks::open(records, ports, config)))
}

/// The default bridge or why there is none, and the user's networks.
type Opened = (Option<Arc<yare_net::Network>>, Option<String>, Networks);

/// What the default bridge is to be.
fn bridge_settings(config: &Config, engine_id: &str) -> Result<NetConfig> {
    let mut wanted = NetConfig::new(&config.bridge, table(&config.bridge));
    wanted.mtu = config.mtu;
    wanted.pool = POOL;
    if let Some(bip) = &config.bip {
        let net: Ipv4Net = bip.parse().map_err(|error| {
            Error::invalid(format!("invalid bip {bip}: {error}"))
                .with_hint("give an address with its prefix, such as 172.20.0.1/16")
        })?;
        wanted.subnet = Some(net.trunc());
        wanted.gateway = (net.address() != net.network()).then(|| net.address());
    }
    if let Some(range) = &config.fixed_cidr {
        let net: Ipv4Net = range.parse().map_err(|error| {
            Error::invalid(format!("invalid fixed-cidr {range}: {error}"))
                .with_hint("give a part of the bridge's subnet, such as 172.20.4.0/24")
        })?;
        wanted.ip_range = Some(net.trunc());
    }
    if config.ipv6 {
        wanted.ipv6 = Some(bridge_half6(config.fixed_cidr_v6.as_deref(), engine_id)?);
    }
    Ok(wanted)
}

/// The IPv6 half of the default bridge: without a subnet, a local one that stays the same as long as the engine's
/// records do.
fn bridge_half6(subnet: Option<&str>, engine_id: &str) -> Result<Ipv6Config> {
    let subnet: Ipv6Net = match subnet {
        Some(text) => text.parse().map_err(|error| {
            Error::invalid(format!("invalid fixed-cidr-v6 {text}: {error}"))
                .with_hint("give a network, such as fd00:1::/64")
        })?,
        None => {
            let id = Digest::of(format!("IPv6 of engine {engine_id}")).hex();
            record::local_subnet6(&id)?
        }
    };
    Ok(Ipv6Config { subnet, gateway: record::first6(subnet) })
}

/// Opens the default bridge. A kernel that cannot hold it leaves the engine without: host and none still work, and
/// the reason comes back as text.
fn open_bridge(
    config: &Config,
    ports: &Arc<HostPorts>,
    wanted: NetConfig,
) -> Result<(Option<Arc<yare_net::Network>>, Option<String>)> {
    if config.bridge == "none" {
        return Ok((None, None));
    }
    match yare_net::Network::open(wanted, ports) {
        Ok(network) => Ok((Some(Arc::new(network)), None)),
        Err(error) => {
            use yare_errdefs::{Class, Classified};
            if matches!(error.class(), Class::InvalidArgument | Class::Conflict) {
                return Err(Error::wrap(format!("cannot open the bridge {}", config.bridge), error));
            }
            let why = format!("no bridge network: {}", yare_errdefs::chain(&error));
            tracing::warn!("{why}");
            Ok((None, Some(why)))
        }
    }
}

/// The bridge network of this name, ready for containers.
pub(crate) fn live(engine: &Engine, name: &str) -> Result<Arc<yare_net::Network>> {
    if name == BRIDGE {
        return engine.bridge.clone().ok_or_else(|| {
            let why = engine.bridge_error.clone();
            let why = why.unwrap_or_else(|| "this engine was started without a bridge".to_owned());
            Error::unavailable(why).with_hint("use --network host or --network none")
        });
    }
    let network = engine.networks.find(name)?;
    network.bridge.clone().map_err(|why| {
        Error::unavailable(why).with_hint("remove the network and make it anew on a subnet that is free")
    })
}

/// The network that an endpoint is in. Endpoints on record before there were others are in the default bridge.
pub(crate) fn of_endpoint(endpoint: &EndpointRecord) -> &str {
    if endpoint.network.is_empty() { BRIDGE } else { &endpoint.network }
}

/// The addresses of an endpoint.
pub(crate) fn addresses(endpoint: &EndpointRecord) -> Vec<IpAddr> {
    let ipv6 = endpoint.ipv6.map(|place| IpAddr::from(place.ip));
    [IpAddr::from(endpoint.ip)].into_iter().chain(ipv6).collect()
}

/// Takes up the networks of a container that outlived the last engine.
pub(crate) fn restore_run(engine: &Engine, record: &Record) {
    restore(engine, &record.id, &record.endpoints);
    if naming::has_resolver(&record.endpoints)
        && let Err(error) = naming::revive(engine, record, &record.endpoints)
    {
        tracing::error!(
            container = record.id,
            error = yare_errdefs::chain(&error),
            "it cannot resolve names any more"
        );
    }
}

/// Takes up the endpoints of a container that outlived the last engine.
pub(crate) fn restore(engine: &Engine, id: &str, endpoints: &[EndpointRecord]) {
    for endpoint in endpoints {
        let restored = live(engine, of_endpoint(endpoint)).and_then(|network| {
            network.restore(id, endpoint).map_err(|error| Error::wrap("cannot restore its network", error))
        });
        if let Err(error) = restored {
            tracing::error!(
                container = id,
                network = of_endpoint(endpoint),
                error = yare_errdefs::chain(&error),
                "cannot restore its network"
            );
        }
    }
}

/// Takes note of a container's new name.
pub(crate) fn renamed(engine: &Engine, record: &Record) {
    for endpoint in &record.endpoints {
        if let Ok(network) = live(engine, of_endpoint(endpoint)) {
            network.renamed(&record.id, &record.name);
        }
    }
    if engine.resolver.serves(&record.id)
        && let Err(error) = naming::changed(engine, record, &record.endpoints)
    {
        tracing::warn!(container = record.id, error = yare_errdefs::chain(&error), "telling the resolver");
    }
}

/// Deletes what no container has any more, after all of them were restored.
pub(crate) fn sweep(engine: &Engine) {
    let swept = engine.bridge.iter().map(|bridge| (BRIDGE.to_owned(), bridge.sweep()));
    let users = engine.networks.all();
    let settled = users.iter().filter_map(|network| {
        let bridge = network.bridge.as_ref().ok()?;
        Some((network.record.name.clone(), bridge.settle()))
    });
    for (network, outcome) in swept.chain(settled) {
        if let Err(error) = outcome {
            tracing::warn!(network, error = yare_errdefs::chain(&error), "cannot sweep the network");
        }
    }
}

/// Warnings about others' rules that drop what containers send and get.
pub(crate) fn dropping(engine: &Engine) -> Vec<String> {
    let users = engine.networks.all();
    let users = users.iter().filter_map(|network| network.bridge.as_ref().ok());
    let mut warnings = Vec::new();
    for bridge in engine.bridge.iter().chain(users) {
        match bridge.dropping() {
            Ok(chains) => warnings.extend(chains.iter().map(ToString::to_string)),
            Err(error) => {
                tracing::warn!(error = yare_errdefs::chain(&error), "cannot see whether others drop packets");
            }
        }
    }
    warnings
}

/// The packet filter table of a bridge: letters, digits and underscores.
fn table(bridge: &str) -> String {
    let name: String =
        bridge.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    format!("yare_{name}")
}

/// The network a mode means; `default` and nothing are the bridge.
pub fn of_mode(mode: &str) -> &str {
    match mode {
        "" | "default" => BRIDGE,
        other => other,
    }
}

/// The mode as lists show it.
pub(crate) fn shown_mode(mode: &str) -> String {
    of_mode(mode).to_owned()
}

/// The name of a network by its name, its id, or an id that begins so; what it is not found by, otherwise.
pub(crate) fn canonical(engine: &Engine, wanted: &str) -> String {
    let mode = of_mode(wanted);
    if let Some(name) = predefined_by_id(engine, mode) {
        return name.to_owned();
    }
    engine.networks.find(mode).map_or_else(|_| mode.to_owned(), |network| network.record.name.clone())
}

fn predefined_by_id(engine: &Engine, wanted: &str) -> Option<&'static str> {
    [BRIDGE, HOST, NONE]
        .into_iter()
        .find(|name| *name == wanted || (wanted.len() >= 4 && id_of(engine, name).starts_with(wanted)))
}

/// The networks that a container is to be on, by name; none for one that shares another's.
pub(crate) fn wanted(engine: &Engine, record: &Record) -> BTreeMap<String, EndpointSettings> {
    let mode = of_mode(&record.host_config.network_mode);
    if mode.starts_with("container:") {
        return BTreeMap::new();
    }
    if matches!(mode, HOST | NONE) || record.networks.is_empty() {
        let name = canonical(engine, mode);
        let settings = record.networks.get(&name).cloned().unwrap_or_default();
        return BTreeMap::from([(name, settings)]);
    }
    record.networks.clone()
}

/// The names by which others of its network know a container.
pub(crate) fn dns_names(record: &Record, settings: &EndpointSettings) -> Vec<String> {
    let mut names = vec![record.name.clone()];
    let more = settings.aliases.iter().flatten().cloned();
    for name in more.chain([record.id[..12].to_owned(), record.config.hostname.clone()]) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The id of a network; that of a predefined one is as stable as the engine itself.
pub(crate) fn id_of(engine: &Engine, name: &str) -> String {
    if let Some(network) = engine.networks.named(name) {
        return network.record.id.clone();
    }
    Digest::of(format!("network {name} of engine {}", engine.engine_id)).hex()
}

/// The networks that pass the filters.
pub fn list(engine: &Engine, filters: &Filters) -> Result<Vec<Network>> {
    filters.validate(FILTERS)?;
    let any = |filter: &str, fits: &dyn Fn(&str) -> bool| {
        let values = filters.values(filter);
        values.is_empty() || values.iter().any(|value| fits(value))
    };
    let dangling = filters.boolean("dangling")?;
    if let Some(wrong) =
        filters.values("type").iter().find(|kind| !["builtin", "custom"].contains(&kind.as_str()))
    {
        return Err(Error::invalid(format!("invalid filter: 'type'='{wrong}'")));
    }
    let builtin = [BRIDGE, HOST, NONE].into_iter().map(|name| (describe(engine, name), "builtin", false));
    let users = engine.networks.all();
    let custom = users.iter().map(|network| {
        let idle = network.bridge.as_ref().map_or(true, |bridge| bridge.is_idle());
        (network.record.shown(), "custom", idle)
    });
    let fits = |(network, kind, idle): &(Network, &str, bool)| {
        any("name", &|name| network.name.contains(name))
            && any("id", &|id| network.id.starts_with(id))
            && any("driver", &|driver| network.driver == driver)
            && any("scope", &|scope| network.scope == scope)
            && any("type", &|wanted| wanted == *kind)
            && filters.match_labels("label", &network.labels)
            && dangling.is_none_or(|dangling| dangling == *idle)
    };
    Ok(builtin.chain(custom).filter(fits).map(|(network, ..)| network).collect())
}

/// One network, by name, id or start of its id, with its containers.
pub fn inspect(engine: &Engine, wanted: &str) -> Result<Network> {
    let mut network = match predefined_by_id(engine, wanted) {
        Some(name) => describe(engine, name),
        None => engine.networks.find(wanted)?.record.shown(),
    };
    network.containers = containers(engine, &network.name);
    Ok(network)
}

fn describe(engine: &Engine, name: &str) -> Network {
    let (driver, config, options) = match (name, &engine.bridge) {
        (BRIDGE, Some(bridge)) => {
            let config = IPAMConfig {
                subnet: bridge.subnet().to_string(),
                ip_range: bridge.config().ip_range.map(|range| range.to_string()).unwrap_or_default(),
                gateway: bridge.gateway().to_string(),
                ..IPAMConfig::default()
            };
            let config6 = bridge.config().ipv6.map(|half| IPAMConfig {
                subnet: half.subnet.to_string(),
                gateway: half.gateway.to_string(),
                ..IPAMConfig::default()
            });
            let configs = [config].into_iter().chain(config6).collect();
            ("bridge", Some(configs), bridge_options(engine, bridge))
        }
        (BRIDGE, None) => ("bridge", None, BTreeMap::new()),
        (HOST, _) => ("host", None, BTreeMap::new()),
        _ => ("null", None, BTreeMap::new()),
    };
    Network {
        name: name.to_owned(),
        id: id_of(engine, name),
        created: rfc3339(Some(engine.started)),
        scope: "local".to_owned(),
        driver: driver.to_owned(),
        enable_ipv4: true,
        enable_ipv6: name == BRIDGE
            && engine.bridge.as_ref().is_some_and(|bridge| bridge.config().ipv6.is_some()),
        ipam: IPAM { driver: "default".to_owned(), options: None, config },
        options,
        ..Network::default()
    }
}

fn bridge_options(engine: &Engine, bridge: &yare_net::Network) -> BTreeMap<String, String> {
    let options = [
        ("com.docker.network.bridge.default_bridge", "true".to_owned()),
        ("com.docker.network.bridge.enable_icc", "true".to_owned()),
        ("com.docker.network.bridge.enable_ip_masquerade", "true".to_owned()),
        ("com.docker.network.bridge.host_binding_ipv4", engine.config.publish_ip.to_string()),
        ("com.docker.network.bridge.name", bridge.bridge().to_owned()),
        ("com.docker.network.driver.mtu", engine.config.mtu.to_string()),
    ];
    options.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn containers(engine: &Engine, network: &str) -> BTreeMap<String, NetworkContainer> {
    let members = engine.containers.all().into_iter().map(|container| container.record());
    let members = members.filter(|record| record.state.status.has_process());
    members
        .filter_map(|record| {
            let mode = of_mode(&record.host_config.network_mode);
            let endpoint = record.endpoints.iter().find(|endpoint| of_endpoint(endpoint) == network);
            let shares = matches!(network, HOST | NONE) && mode == network;
            if endpoint.is_none() && !shares {
                return None;
            }
            let mut member = NetworkContainer { name: record.name.clone(), ..NetworkContainer::default() };
            if let Some(endpoint) = endpoint {
                member.endpoint_id = endpoint.endpoint_id.clone();
                member.mac_address = endpoint.mac.to_string();
                member.ipv4_address = format!("{}/{}", endpoint.ip, endpoint.prefix);
                let ipv6 = endpoint.ipv6.map(|place| format!("{}/{}", place.ip, place.prefix));
                member.ipv6_address = ipv6.unwrap_or_default();
            }
            Some((record.id.clone(), member))
        })
        .collect()
}

/// Tells of something that happened to a network.
fn publish(engine: &Engine, action: &str, name: &str, more: BTreeMap<String, String>) {
    let driver = match name {
        HOST => "host",
        NONE => "null",
        _ => "bridge",
    };
    let mut attributes =
        BTreeMap::from([("name".to_owned(), name.to_owned()), ("type".to_owned(), driver.to_owned())]);
    attributes.extend(more);
    engine.publish("network", action, &id_of(engine, name), attributes);
}

/// Tells that a container has come into a network, or has left it.
pub(crate) fn publish_member(engine: &Engine, action: &str, network: &str, container: &str) {
    publish(engine, action, network, BTreeMap::from([("container".to_owned(), container.to_owned())]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_bridge_is_what_the_configuration_says() {
        let plain = bridge_settings(&Config::default(), "id").unwrap();
        assert_eq!((plain.subnet, plain.ip_range, plain.ipv6), (None, None, None));
        let config = Config {
            bip: Some("10.9.0.5/16".into()),
            fixed_cidr: Some("10.9.4.0/24".into()),
            ipv6: true,
            ..Config::default()
        };
        let wanted = bridge_settings(&config, "id").unwrap();
        assert_eq!(wanted.subnet.unwrap().to_string(), "10.9.0.0/16");
        assert_eq!(wanted.gateway.unwrap().to_string(), "10.9.0.5");
        assert_eq!(wanted.ip_range.unwrap().to_string(), "10.9.4.0/24");
        let half = wanted.ipv6.unwrap();
        assert!(half.subnet.to_string().starts_with("fd") && half.subnet.prefix() == 64, "{half:?}");
        assert_eq!(bridge_settings(&config, "id").unwrap().ipv6, Some(half), "it stays");
        assert_ne!(bridge_settings(&config, "another").unwrap().ipv6, Some(half));
        let named = Config { fixed_cidr_v6: Some("2001:db8:1::/64".into()), ..config.clone() };
        let half = bridge_settings(&named, "id").unwrap().ipv6.unwrap();
        assert_eq!(
            (half.subnet.to_string(), half.gateway.to_string()),
            ("2001:db8:1::/64".into(), "2001:db8:1::1".into())
        );
        for wrong in [
            Config { fixed_cidr: Some("10.9.4.0".into()), ..Config::default() },
            Config { fixed_cidr_v6: Some("10.9.4.0/24".into()), ..config },
        ] {
            use yare_errdefs::{Class, Classified};
            assert_eq!(bridge_settings(&wrong, "id").unwrap_err().class(), Class::InvalidArgument);
        }
    }

    #[test]
    fn tables_are_legal_names_and_differ_by_bridge() {
        assert_eq!(table("yare0"), "yare_yare0");
        assert_eq!(table("br-1.x"), "yare_br_1_x");
    }
}
