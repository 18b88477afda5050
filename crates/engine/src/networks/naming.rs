//! What the resolver is told of a container.

use super::join::as_error;
use super::{dns_names, is_predefined, live, of_endpoint, wanted};
use crate::Engine;
use crate::container::Record;
use yare_errdefs::Result;
use yare_net::{EndpointRecord, ResolverSockets};
use yare_resolver::{Client, Member};

/// Whether a container with these endpoints asks the resolver: one of them is in a network of the user's.
pub(crate) fn has_resolver(endpoints: &[EndpointRecord]) -> bool {
    endpoints.iter().any(is_named)
}

fn is_named(endpoint: &EndpointRecord) -> bool {
    !is_predefined(of_endpoint(endpoint))
}

/// Makes a container known on its networks, and has it answered at its sockets.
pub(super) fn introduce(
    engine: &Engine,
    record: &Record,
    endpoints: &[EndpointRecord],
    sockets: ResolverSockets,
) -> Result<()> {
    let (client, members) = describe(engine, record, endpoints)?;
    engine.resolver.serve(client, members, sockets)
}

/// Takes note of other networks, or another name, of a container that runs.
pub(super) fn changed(engine: &Engine, record: &Record, endpoints: &[EndpointRecord]) -> Result<()> {
    if engine.resolver.serves(&record.id) {
        let (client, members) = describe(engine, record, endpoints)?;
        return engine.resolver.change(client, members);
    }
    if !has_resolver(endpoints) {
        return Ok(());
    }
    revive(engine, record, endpoints)?;
    crate::wiring::resolv_changed(engine, record, endpoints)
}

/// Has a container that runs answered again, or for the first time.
pub(super) fn revive(engine: &Engine, record: &Record, endpoints: &[EndpointRecord]) -> Result<()> {
    let netns = yare_net::netns::of_process(record.state.pid).map_err(as_error)?;
    let sockets = yare_net::resolver_sockets(std::os::fd::AsFd::as_fd(&netns)).map_err(as_error)?;
    introduce(engine, record, endpoints, sockets)
}

fn describe(engine: &Engine, record: &Record, endpoints: &[EndpointRecord]) -> Result<(Client, Vec<Member>)> {
    let settings = wanted(engine, record);
    let mut client = Client { id: record.id.clone(), ..Client::default() };
    let mut members = Vec::new();
    for endpoint in endpoints.iter().filter(|endpoint| is_named(endpoint)) {
        let network = of_endpoint(endpoint);
        let settings = settings.get(network).cloned().unwrap_or_default();
        let links = settings.links.iter().flatten().filter_map(|link| {
            let (name, alias) = link.split_once(':').unwrap_or((link, link));
            Some((alias.to_owned(), engine.containers.find(name).ok()?.record().name.clone()))
        });
        client.links.extend(links);
        client.networks.push(network.to_owned());
        members.push(Member {
            network: network.to_owned(),
            id: record.id.clone(),
            names: dns_names(record, &settings),
            ips: super::addresses(endpoint),
        });
    }
    // Whoever may not reach the world may not send questions there either.
    let leads_out = |endpoint: &EndpointRecord| {
        live(engine, of_endpoint(endpoint)).is_ok_and(|network| !network.config().internal)
    };
    if endpoints.iter().any(leads_out) {
        client.upstreams = crate::wiring::resolv(engine, record, endpoints)?.1;
    }
    Ok((client, members))
}
