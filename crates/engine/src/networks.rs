//! The three networks every engine has: `bridge`, `host` and `none`.

use crate::clock::rfc3339;
use crate::{Config, Engine};
use std::collections::BTreeMap;
use yare_api::filters::Filters;
use yare_api::{IPAM, IPAMConfig, Network, NetworkContainer};
use yare_errdefs::{Error, Result};
use yare_net::{Ipv4Net, NetConfig, Networks};
use yare_oci::Digest;

/// Name of the default bridge network.
pub const BRIDGE: &str = "bridge";
/// Name of the network of containers that share the host's.
pub const HOST: &str = "host";
/// Name of the network of containers that have none.
pub const NONE: &str = "none";

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
/// How many ready network namespaces wait for the next containers.
const POOL: usize = 16;

/// Opens the default bridge. A kernel that cannot hold it leaves the engine without: host and none still
/// work, and the reason comes back as text.
pub(crate) fn open_bridge(config: &Config) -> Result<(Option<Networks>, Option<String>)> {
    if config.bridge == "none" {
        return Ok((None, None));
    }
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
    match Networks::open(wanted) {
        Ok(networks) => Ok((Some(networks), None)),
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

/// Warnings about others' rules that drop what containers send and get.
pub(crate) fn dropping(engine: &Engine) -> Vec<String> {
    let Some(bridge) = &engine.bridge else { return Vec::new() };
    match bridge.dropping() {
        Ok(chains) => chains.iter().map(|chain| format!("WARNING: {chain}")).collect(),
        Err(error) => {
            tracing::warn!(error = yare_errdefs::chain(&error), "cannot see whether others drop packets");
            Vec::new()
        }
    }
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

/// The id of a network: as stable as the engine itself.
pub(crate) fn id_of(engine: &Engine, name: &str) -> String {
    Digest::of(format!("network {name} of engine {}", engine.engine_id)).hex()
}

/// The id of the default bridge.
pub(crate) fn bridge_id(engine: &Engine) -> String {
    id_of(engine, BRIDGE)
}

/// The networks that pass the filters.
pub fn list(engine: &Engine, filters: &Filters) -> Result<Vec<Network>> {
    filters.validate(FILTERS)?;
    let any = |filter: &str, fits: &dyn Fn(&str) -> bool| {
        let values = filters.values(filter);
        values.is_empty() || values.iter().any(|value| fits(value))
    };
    let dangling = filters.boolean("dangling")?;
    let networks = [BRIDGE, HOST, NONE].into_iter().map(|name| describe(engine, name, false));
    Ok(networks
        .filter(|network| {
            any("name", &|name| network.name.contains(name))
                && any("id", &|id| network.id.starts_with(id))
                && any("driver", &|driver| network.driver == driver)
                && any("scope", &|scope| network.scope == scope)
                && any("type", &|kind| kind == "builtin")
                && filters.match_labels("label", &network.labels)
                && dangling != Some(true)
        })
        .collect())
}

/// One network, by name or start of its id.
pub fn inspect(engine: &Engine, wanted: &str) -> Result<Network> {
    [BRIDGE, HOST, NONE]
        .into_iter()
        .find(|name| *name == wanted || (wanted.len() >= 4 && id_of(engine, name).starts_with(wanted)))
        .map(|name| describe(engine, name, true))
        .ok_or_else(|| Error::not_found(format!("network {wanted} not found")))
}

fn describe(engine: &Engine, name: &str, members: bool) -> Network {
    let (driver, config, options) = match (name, &engine.bridge) {
        (BRIDGE, Some(bridge)) => {
            let config = IPAMConfig {
                subnet: bridge.subnet().to_string(),
                gateway: bridge.gateway().to_string(),
                ..IPAMConfig::default()
            };
            ("bridge", Some(vec![config]), bridge_options(engine, bridge))
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
        ipam: IPAM { driver: "default".to_owned(), options: None, config },
        containers: if members { containers(engine, name) } else { BTreeMap::new() },
        options,
        ..Network::default()
    }
}

fn bridge_options(engine: &Engine, bridge: &Networks) -> BTreeMap<String, String> {
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
    members
        .filter(|record| {
            record.state.status.has_process() && of_mode(&record.host_config.network_mode) == network
        })
        .map(|record| {
            let mut member = NetworkContainer { name: record.name.clone(), ..NetworkContainer::default() };
            if let Some(endpoint) = &record.endpoint {
                member.endpoint_id = endpoint.endpoint_id.clone();
                member.mac_address = endpoint.mac.to_string();
                member.ipv4_address = format!("{}/{}", endpoint.ip, endpoint.prefix);
            }
            (record.id.clone(), member)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_legal_names_and_differ_by_bridge() {
        assert_eq!(table("yare0"), "yare_yare0");
        assert_eq!(table("br-1.x"), "yare_br_1_x");
    }
}
