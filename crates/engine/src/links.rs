//! Links on the default bridge (`run --link db:alias`): names in `/etc/hosts` and variables of the environment. On
//! networks of the user's, links are names that the resolver knows.
//!
//! A link means the container that had the name when it was made, whatever that one is called later.

use crate::Engine;
use crate::container::{Container, Record};
use crate::networks;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use yare_api::HostConfig;
use yare_errdefs::{Error, Result};
use yare_net::EndpointRecord;
use yare_net::hosts::ExtraHost;
use yare_specgen::Plan;

/// How long a container waits, when the engine starts, for those that it has links to.
const PATIENCE: Duration = Duration::from_secs(5);

/// A name that a container has for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The name.
    pub alias: String,
    /// The other one's id.
    pub id: String,
}

/// The links that a request asks for. The containers must be there.
pub(crate) fn resolve(engine: &Engine, host_config: &HostConfig) -> Result<Vec<Link>> {
    let mut links: Vec<Link> = Vec::new();
    if networks::of_mode(&host_config.network_mode) != networks::BRIDGE {
        return Ok(links);
    }
    for text in host_config.links.iter().flatten() {
        let (name, alias) = parse(text)?;
        let child = donor(engine, name)?;
        // Of two that have one alias the first has it, as with dockerd.
        if !links.iter().any(|link| link.alias == alias) {
            links.push(Link { alias: alias.to_owned(), id: child.id.clone() });
        }
    }
    Ok(links)
}

/// Name and alias of `name[:alias]`, or of `/name:/parent/alias` as inspect shows it.
fn parse(text: &str) -> Result<(&str, &str)> {
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    let (name, alias) = match name.strip_prefix('/') {
        Some(name) => (name, alias.rsplit('/').next().unwrap_or(alias)),
        None => (name, alias),
    };
    let is_word =
        |text: &str| !text.is_empty() && !text.contains([':', '/']) && !text.contains(char::is_whitespace);
    if is_word(name) && is_word(alias) {
        Ok((name, alias))
    } else {
        Err(Error::invalid(format!("bad format for links: {text}")))
    }
}

/// The container that a name means: where it shares another's network, that one.
fn donor(engine: &Engine, name: &str) -> Result<Arc<Container>> {
    let mut name = name.to_owned();
    loop {
        // Not found would tell the client that the image is missing.
        let found = engine
            .containers
            .find(&name)
            .map_err(|error| Error::invalid(format!("could not get container for {name}: {error}")))?;
        let record = found.record();
        match networks::of_mode(&record.host_config.network_mode) {
            networks::HOST => {
                return Err(Error::invalid(
                    "conflicting options: host type networking can't be used with links. This would result in \
                     undefined behavior",
                ));
            }
            mode => match mode.strip_prefix("container:") {
                Some(other) => name = other.to_owned(),
                None => return Ok(found),
            },
        }
    }
}

/// A container that a link means, as its holder sees it.
struct Linked {
    alias: String,
    record: Arc<Record>,
    endpoint: EndpointRecord,
}

/// The containers that a container's links mean. Those that were removed are passed over; the others must run.
fn linked(engine: &Engine, record: &Record) -> Result<Vec<Linked>> {
    let on_bridge = networks::wanted(engine, record).contains_key(networks::BRIDGE);
    let links = record.links.iter().filter(|_| on_bridge);
    let present = links.filter_map(|link| Some((link, engine.containers.by_id(&link.id)?.record())));
    present
        .map(|(link, child)| {
            if !child.state.status.counts_as_running() {
                let what = format!(
                    "Cannot link to a non running container: /{} AS /{}/{}",
                    child.name, record.name, link.alias
                );
                return Err(
                    Error::internal(what).with_hint(format!("start it first: yare start {}", child.name))
                );
            }
            let endpoint = on_default_bridge(&child.endpoints).cloned().ok_or_else(|| {
                Error::internal(format!("container {} not attached to default bridge network", child.id))
            })?;
            Ok(Linked { alias: link.alias.clone(), record: child, endpoint })
        })
        .collect()
}

fn on_default_bridge(endpoints: &[EndpointRecord]) -> Option<&EndpointRecord> {
    endpoints.iter().find(|endpoint| networks::of_endpoint(endpoint) == networks::BRIDGE)
}

/// The lines of a container's hosts file for its links.
pub(crate) fn hosts(engine: &Engine, record: &Record) -> Result<Vec<ExtraHost>> {
    if record.links.is_empty() {
        return Ok(Vec::new());
    }
    let mut lines = Vec::new();
    for linked in linked(engine, record)? {
        let mut names = vec![linked.alias.as_str(), &linked.record.plan.hostname];
        if linked.record.name != linked.alias {
            names.push(&linked.record.name);
        }
        let ips = networks::addresses(&linked.endpoint).into_iter();
        lines.extend(ips.map(|ip| ExtraHost { name: names.join(" "), ip }));
    }
    Ok(lines)
}

/// A container's plan, with the variables of its links beneath its own.
pub(crate) fn plan<'a>(engine: &Engine, record: &'a Record) -> Result<Cow<'a, Plan>> {
    if record.links.is_empty() {
        return Ok(Cow::Borrowed(&record.plan));
    }
    let mut env = Vec::new();
    for linked in linked(engine, record)? {
        let Linked { alias, record: child, endpoint } = linked;
        let ports = child.config.exposed_ports.iter().flatten();
        let ports = ports.filter_map(|(port, _)| yare_specgen::ports::parse_key(port).ok()).collect();
        let name = format!("/{}/{alias}", record.name);
        let own = child.config.env.as_deref().unwrap_or_default();
        env.extend(variables(&name, endpoint.ip.into(), ports, own));
    }
    let mut plan = record.plan.clone();
    plan.env.splice(0..0, env);
    Ok(Cow::Owned(plan))
}

/// The variables of one link. `name` is that of the link, with its holder's.
fn variables(name: &str, ip: IpAddr, mut ports: Vec<(u16, String)>, env: &[String]) -> Vec<String> {
    let alias = name.rsplit('/').next().unwrap_or(name).to_uppercase().replace('-', "_");
    let url = |(port, protocol): &(u16, String)| format!("{protocol}://{ip}:{port}");
    let prefix =
        |(port, protocol): &(u16, String)| format!("{alias}_PORT_{port}_{}", protocol.to_uppercase());
    ports.sort_by_key(|(port, protocol)| (protocol != "tcp", protocol.clone(), *port));
    let mut variables = Vec::new();
    variables.extend(ports.first().map(|first| format!("{alias}_PORT={}", url(first))));
    for run in ports.chunk_by(|one, next| one.0.checked_add(1) == Some(next.0) && one.1 == next.1) {
        for port in run {
            let prefix = prefix(port);
            variables.extend([
                format!("{prefix}={}", url(port)),
                format!("{prefix}_ADDR={ip}"),
                format!("{prefix}_PORT={}", port.0),
                format!("{prefix}_PROTO={}", port.1),
            ]);
        }
        if let [first, .., last] = run {
            let prefix = prefix(first);
            variables.extend([
                format!("{prefix}_START={}", url(first)),
                format!("{prefix}_PORT_START={}", first.0),
                format!("{prefix}_END={}", url(last)),
                format!("{prefix}_PORT_END={}", last.0),
            ]);
        }
    }
    variables.push(format!("{alias}_NAME={name}"));
    let own = env.iter().filter_map(|entry| entry.split_once('='));
    let own = own.filter(|(name, _)| !matches!(*name, "HOME" | "PATH"));
    variables.extend(own.map(|(name, value)| format!("{alias}_ENV_{name}={value}")));
    variables
}

/// Tells the containers that have links to one that starts where it is now.
pub(crate) fn follow(engine: &Engine, id: &str, endpoints: &[EndpointRecord]) {
    let holders = engine.containers.holders_of(id);
    let Some(endpoint) = on_default_bridge(endpoints).filter(|_| !holders.is_empty()) else { return };
    for holder in holders {
        let record = holder.record();
        if !record.state.status.has_process() {
            continue;
        }
        for link in record.links.iter().filter(|link| link.id == id) {
            if let Err(error) = crate::wiring::link_moved(engine, &record, &link.alias, endpoint) {
                tracing::warn!(
                    container = record.id,
                    error = yare_errdefs::chain(&error),
                    "a link leads nowhere"
                );
            }
        }
    }
}

/// Links as inspect shows them.
pub(crate) fn shown(engine: &Engine, record: &Record) -> Option<Vec<String>> {
    let present = record.links.iter().filter_map(|link| {
        let child = engine.containers.by_id(&link.id)?.record();
        Some(format!("/{}:/{}/{}", child.name, record.name, link.alias))
    });
    Some(present.collect::<Vec<_>>()).filter(|links| !links.is_empty())
}

/// The names that others have for a container, as lists show them.
pub(crate) fn names(engine: &Engine, id: &str) -> Vec<String> {
    let holders = engine.containers.holders_of(id);
    let records = holders.iter().map(|holder| holder.record());
    let mut names: Vec<String> = records
        .flat_map(|record| {
            let links = record.links.iter().filter(|link| link.id == id);
            links.map(|link| format!("/{}/{}", record.name, link.alias)).collect::<Vec<_>>()
        })
        .collect();
    names.sort();
    names
}

/// Waits, when the engine starts, for those containers that one has links to and that are being started, too.
pub(crate) async fn wait(engine: &Engine, record: &Record, starting: &HashSet<String>) {
    let deadline = Instant::now() + PATIENCE;
    for link in record.links.iter().filter(|link| starting.contains(&link.id)) {
        let is_up = || {
            let child = engine.containers.by_id(&link.id);
            child.is_none_or(|child| child.state().counts_as_running())
        };
        while !is_up() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Removes a link by its name, `holder/alias`. Goes on when the caller leaves.
pub(crate) async fn remove(engine: &Arc<Engine>, name: &str) -> Result<()> {
    let child = engine.containers.find(name)?;
    let Some((holder, alias)) = name.trim_start_matches('/').rsplit_once('/') else {
        return Err(Error::conflict("Conflict, cannot remove the default link name of the container"));
    };
    let holder = engine.containers.find(holder)?;
    let (engine, alias) = (Arc::clone(engine), alias.to_owned());
    engine
        .clone()
        .detached(async move {
            let _operation = holder.operation.lock().await;
            let mut links = holder.record().links.clone();
            links.retain(|link| link.alias != alias);
            engine.containers.relink(&holder, links);
            engine.save(&holder).await?;
            tracing::debug!(container = child.id, alias, "a link is removed");
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_they_are_given_and_shown() {
        assert_eq!(parse("db").unwrap(), ("db", "db"));
        assert_eq!(parse("db:store").unwrap(), ("db", "store"));
        assert_eq!(parse("/db:/web/store").unwrap(), ("db", "store"));
        for wrong in ["", ":", "db:", ":store", "a:b:c", "db:a b", "db:a\nb", "/:/web/x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_variables_are_dockers() {
        let ports = vec![
            (53, "udp".to_owned()),
            (5433, "tcp".to_owned()),
            (5432, "tcp".to_owned()),
            (8080, "tcp".to_owned()),
        ];
        let env =
            ["PATH=/bin".to_owned(), "HOME=/".to_owned(), "PASSWORD=a=b".to_owned(), "UNSET".to_owned()];
        let variables = variables("/web/my-db", IpAddr::from([172, 17, 0, 2]), ports, &env);
        assert_eq!(
            variables.join("\n"),
            "MY_DB_PORT=tcp://172.17.0.2:5432\n\
             MY_DB_PORT_5432_TCP=tcp://172.17.0.2:5432\n\
             MY_DB_PORT_5432_TCP_ADDR=172.17.0.2\n\
             MY_DB_PORT_5432_TCP_PORT=5432\n\
             MY_DB_PORT_5432_TCP_PROTO=tcp\n\
             MY_DB_PORT_5433_TCP=tcp://172.17.0.2:5433\n\
             MY_DB_PORT_5433_TCP_ADDR=172.17.0.2\n\
             MY_DB_PORT_5433_TCP_PORT=5433\n\
             MY_DB_PORT_5433_TCP_PROTO=tcp\n\
             MY_DB_PORT_5432_TCP_START=tcp://172.17.0.2:5432\n\
             MY_DB_PORT_5432_TCP_PORT_START=5432\n\
             MY_DB_PORT_5432_TCP_END=tcp://172.17.0.2:5433\n\
             MY_DB_PORT_5432_TCP_PORT_END=5433\n\
             MY_DB_PORT_8080_TCP=tcp://172.17.0.2:8080\n\
             MY_DB_PORT_8080_TCP_ADDR=172.17.0.2\n\
             MY_DB_PORT_8080_TCP_PORT=8080\n\
             MY_DB_PORT_8080_TCP_PROTO=tcp\n\
             MY_DB_PORT_53_UDP=udp://172.17.0.2:53\n\
             MY_DB_PORT_53_UDP_ADDR=172.17.0.2\n\
             MY_DB_PORT_53_UDP_PORT=53\n\
             MY_DB_PORT_53_UDP_PROTO=udp\n\
             MY_DB_NAME=/web/my-db\n\
             MY_DB_ENV_PASSWORD=a=b"
        );
        let bare = super::variables("/web/db", IpAddr::from([172, 17, 0, 2]), Vec::new(), &[]);
        assert_eq!(bare, ["DB_NAME=/web/db"]);
    }
}
