//! Taking a container into a network, or out of it, while it runs or not.

use super::join::{self, as_error};
use super::{BRIDGE, HOST, NONE, addresses, canonical, live, naming, of_endpoint, of_mode, wanted};
use crate::Engine;
use crate::container::{Container, Record};
use crate::images::blocking;
use crate::lifecycle::State;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use yare_api::{EndpointSettings, NetworkConnectRequest, NetworkDisconnectRequest};
use yare_errdefs::{Error, Result};
use yare_net::{EndpointRecord, Network};

/// Takes a container into a network: at once when it runs, with its next start otherwise. Goes on when the
/// caller leaves.
pub async fn connect(engine: &Arc<Engine>, network: &str, request: NetworkConnectRequest) -> Result<()> {
    let container = engine.containers.find(&request.container)?;
    let name = known(engine, network)?;
    let settings = request.endpoint_config.unwrap_or_default();
    let engine = Arc::clone(engine);
    engine
        .clone()
        .detached(async move {
            let _operation = container.operation.lock().await;
            connect_now(&engine, &container, name, settings).await
        })
        .await
}

async fn connect_now(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    name: String,
    settings: EndpointSettings,
) -> Result<()> {
    let record = container.record();
    may_change(&record, &name, "connected to")?;
    check_settings(engine, &name, &settings)?;
    let mut networks = wanted(engine, &record);
    let is_member = networks.contains_key(&name);
    let is_attached = record.endpoints.iter().any(|endpoint| of_endpoint(endpoint) == name);
    if is_attached || (is_member && !record.state.status.has_process()) {
        return Err(Error::denied(format!(
            "endpoint with name {} already exists in network {name}",
            record.name
        )));
    }
    networks.insert(name.clone(), settings.clone());
    if record.state.status.has_process() {
        let joined = blocking({
            let (engine, record, name) = (Arc::clone(engine), Arc::clone(&record), name.clone());
            move || plug(&engine, &record, &name, &settings)
        });
        let endpoints = joined.await?;
        container.update(|record| record.endpoints = endpoints);
    }
    // Commit point: what is on record comes back with the next start.
    container.update(|record| record.networks = networks);
    engine.save(container).await?;
    if container.record().state.status.has_process() {
        super::publish_member(engine, "connect", &name, &container.id);
    }
    Ok(())
}

/// Takes a container out of a network. Goes on when the caller leaves.
pub async fn disconnect(
    engine: &Arc<Engine>,
    network: &str,
    request: NetworkDisconnectRequest,
) -> Result<()> {
    let container = engine.containers.find(&request.container)?;
    let name = known(engine, network)?;
    let engine = Arc::clone(engine);
    engine
        .clone()
        .detached(async move {
            let _operation = container.operation.lock().await;
            disconnect_now(&engine, &container, &name).await
        })
        .await
}

async fn disconnect_now(engine: &Arc<Engine>, container: &Arc<Container>, name: &str) -> Result<()> {
    let record = container.record();
    may_change(&record, name, "disconnected from")?;
    let mut networks = wanted(engine, &record);
    let was_attached = record.endpoints.iter().any(|endpoint| of_endpoint(endpoint) == name);
    if networks.remove(name).is_none() && !was_attached {
        return Err(Error::denied(format!("container {} is not connected to network {name}", record.id)));
    }
    if was_attached {
        let unplugged = blocking({
            let (engine, record, name) = (Arc::clone(engine), Arc::clone(&record), name.to_owned());
            move || unplug(&engine, &record, &name)
        });
        let endpoints = unplugged.await?;
        container.update(|record| record.endpoints = endpoints);
    }
    // Commit point: it does not come back with the next start.
    container.update(|record| record.networks = networks);
    engine.save(container).await?;
    if was_attached {
        super::publish_member(engine, "disconnect", name, &container.id);
    }
    Ok(())
}

fn known(engine: &Engine, network: &str) -> Result<String> {
    let name = canonical(engine, network);
    match name.as_str() {
        BRIDGE | HOST | NONE => Ok(name),
        _ => engine.networks.find(&name).map(|found| found.record.name.clone()),
    }
}

/// Whether a container's networks can change at all.
fn may_change(record: &Record, network: &str, what: &str) -> Result<()> {
    let mode = of_mode(&record.host_config.network_mode);
    if mode == HOST || network == HOST {
        return Err(Error::denied(
            "container cannot be disconnected from host network or connected to host network",
        ));
    }
    if mode == NONE || network == NONE {
        return Err(Error::denied(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ));
    }
    if mode.starts_with("container:") {
        return Err(Error::denied(
            "container sharing network namespace with another container or host cannot be connected to any \
             other network",
        ));
    }
    if matches!(record.state.status, State::Removing | State::Dead) {
        return Err(Error::conflict(format!(
            "container {} is marked for removal and cannot be connected or {what} the network",
            record.id
        )));
    }
    Ok(())
}

/// What a container may ask of a network: names, and addresses of its own, need a network of the user's.
pub(crate) fn check_settings(engine: &Engine, name: &str, settings: &EndpointSettings) -> Result<()> {
    let user = engine.networks.named(name);
    let wrong = |why: &str| {
        Error::invalid(format!("invalid config for network {name}: invalid endpoint settings:\n{why}"))
    };
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let is_static = !ipam.ipv4_address.is_empty() || !ipam.ipv6_address.is_empty();
    let is_named = settings.aliases.as_ref().is_some_and(|aliases| !aliases.is_empty());
    if user.is_none() && super::is_predefined(name) {
        if is_static {
            return Err(wrong("user specified IP address is supported on user defined networks only"));
        }
        if is_named {
            return Err(wrong("network-scoped aliases are only supported for user-defined networks"));
        }
    }
    if is_static && user.is_some_and(|user| !user.record.has_own_subnet()) {
        return Err(wrong(
            "user specified IP address is supported only when connecting to networks with user configured subnets",
        ));
    }
    for (text, is_valid) in [
        (&ipam.ipv4_address, ipam.ipv4_address.parse::<std::net::Ipv4Addr>().is_ok()),
        (&ipam.ipv6_address, ipam.ipv6_address.parse::<std::net::Ipv6Addr>().is_ok()),
    ] {
        if !text.is_empty() && !is_valid {
            return Err(wrong(&format!("invalid IP address: {text}")));
        }
    }
    if ipam.link_local_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        return Err(Error::unimplemented("link-local addresses are not built into this Yare"));
    }
    let options = settings.driver_opts.iter().flatten();
    if let Some((option, _)) =
        options.into_iter().find(|(option, _)| option.starts_with("com.docker.network."))
    {
        return Err(Error::unimplemented(format!(
            "the endpoint option {option} is not built into this Yare"
        )));
    }
    Ok(())
}

/// Gives a container that runs an interface on a network; gives its endpoints then, in order.
fn plug(
    engine: &Engine,
    record: &Record,
    name: &str,
    settings: &EndpointSettings,
) -> Result<Vec<EndpointRecord>> {
    let network = live(engine, name)?;
    let netns = namespace(record)?;
    let request = join::request(&network, record, settings)?;
    let prefix = &network.config().interface;
    let is_used = |number: &usize| {
        let interface = format!("{prefix}{number}");
        record.endpoints.iter().any(|endpoint| endpoint.interface == interface)
    };
    let number = (0..).find(|number| !is_used(number)).unwrap_or_default();
    let endpoint = network
        .plug(&record.id, &request, netns.as_fd(), number)
        .map_err(|error| Error::wrap("failed to set up container networking", as_error(error)))?;
    let mut endpoints = record.endpoints.clone();
    endpoints.push(endpoint.clone());
    let endpoints = ordered(engine, record, endpoints, Some((name, settings)));
    let changed = rearrange(engine, record, netns.as_fd(), endpoints);
    let changed = changed.inspect_err(|_| network.unplug(&record.id))?;
    naming::changed(engine, &member(record, name, settings), &changed)?;
    crate::wiring::hosts_changed(engine, record, &addresses(&endpoint), true)?;
    Ok(changed)
}

/// Takes a container's interface on a network away; gives the endpoints that are left, in order.
fn unplug(engine: &Engine, record: &Record, name: &str) -> Result<Vec<EndpointRecord>> {
    let (gone, left): (Vec<_>, Vec<_>) =
        record.endpoints.iter().cloned().partition(|endpoint| of_endpoint(endpoint) == name);
    let network = live(engine, name)?;
    let ports: Vec<_> = gone.iter().flat_map(|endpoint| endpoint.ports.clone()).collect();
    network.unplug(&record.id);
    let netns = namespace(record)?;
    let mut left = ordered(engine, record, left, None);
    if let Some(first) = left.first_mut()
        && first.gateway.is_some()
    {
        publish_at(engine, record, first, &ports)?;
    }
    let left = rearrange(engine, record, netns.as_fd(), left)?;
    naming::changed(engine, record, &left)?;
    for endpoint in &gone {
        crate::wiring::hosts_changed(engine, record, &addresses(endpoint), false)?;
    }
    Ok(left)
}

/// The record with a network that is not on it yet.
fn member(record: &Record, network: &str, settings: &EndpointSettings) -> Record {
    let mut record = record.clone();
    record.networks.insert(network.to_owned(), settings.clone());
    record
}

fn namespace(record: &Record) -> Result<OwnedFd> {
    yare_net::netns::of_process(record.state.pid).map_err(as_error)
}

/// Endpoints in the order in which they lead out. `more` are the settings of one that is not on record yet.
fn ordered(
    engine: &Engine,
    record: &Record,
    mut endpoints: Vec<EndpointRecord>,
    more: Option<(&str, &EndpointSettings)>,
) -> Vec<EndpointRecord> {
    let settings = wanted(engine, record);
    endpoints.sort_by_cached_key(|endpoint| {
        let name = of_endpoint(endpoint);
        let of_more = more.filter(|(new, _)| *new == name).map(|(_, settings)| settings.clone());
        let settings = of_more.or_else(|| settings.get(name).cloned()).unwrap_or_default();
        live(engine, name).map(|network| join::rank(&network, &settings)).ok()
    });
    endpoints
}

/// Makes the default route, and published ports, follow the first endpoint.
fn rearrange(
    engine: &Engine,
    record: &Record,
    netns: std::os::fd::BorrowedFd<'_>,
    mut endpoints: Vec<EndpointRecord>,
) -> Result<Vec<EndpointRecord>> {
    let (ipv4, ipv6) = join::way_out(&endpoints);
    if (ipv4, ipv6) != join::way_out(&record.endpoints) {
        yare_net::netns::set_gateways(netns, ipv4, ipv6).map_err(as_error)?;
    }
    // Answers leave by the default route, so published ports have to come in there.
    let Some(at) = endpoints.iter().skip(1).position(|endpoint| !endpoint.ports.is_empty()) else {
        return Ok(endpoints);
    };
    let (first, others) = endpoints.split_at_mut(1);
    let old = &mut others[at];
    let ports = live(engine, of_endpoint(old))?.withdraw(&record.id);
    old.ports.clear();
    publish_at(engine, record, &mut first[0], &ports)?;
    Ok(endpoints)
}

/// Publishes ports that another of the container's endpoints has had.
fn publish_at(
    engine: &Engine,
    record: &Record,
    endpoint: &mut EndpointRecord,
    ports: &[yare_net::Published],
) -> Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let network: Arc<Network> = live(engine, of_endpoint(endpoint))?;
    let bindings: Vec<_> = ports
        .iter()
        .map(|port| yare_net::PortBinding {
            container_port: port.container_port,
            protocol: port.protocol,
            host_ip: Some(port.host_ip),
            host_port: Some((port.host_port, port.host_port)),
        })
        .collect();
    endpoint.ports = network.publish(&record.id, &bindings).map_err(as_error)?;
    Ok(())
}

/// Refuses a request for networks that cannot be, before the container is made.
pub(crate) fn check_all(
    engine: &Engine,
    mode: &str,
    networks: &std::collections::BTreeMap<String, EndpointSettings>,
) -> Result<()> {
    let private = matches!(mode, HOST | NONE) || mode.starts_with("container:");
    if private && networks.keys().any(|name| name != mode) {
        return Err(Error::invalid(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    networks.iter().try_for_each(|(name, settings)| check_settings(engine, name, settings))
}
