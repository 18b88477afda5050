//! A container's way into its networks, when it starts.

use super::{BRIDGE, HOST, NONE, live, naming, of_mode, wanted};
use crate::Engine;
use crate::container::Record;
use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use yare_api::EndpointSettings;
use yare_errdefs::{Error, Result};
use yare_net::{EndpointRecord, EndpointRequest, Network};

/// A container's network, made for a start. Dropped before it is kept, it is taken down again.
pub(crate) struct Wired<'a> {
    engine: &'a Engine,
    id: String,
    /// The namespace to join; `None` for the host's.
    pub(crate) netns: Option<OwnedFd>,
    /// Its places in networks; the first has the way out.
    pub(crate) endpoints: Vec<EndpointRecord>,
    kept: bool,
}

impl<'a> Wired<'a> {
    /// Connects a container as its mode wants.
    pub(crate) fn connect(engine: &'a Engine, record: &Record) -> Result<Self> {
        let mode = of_mode(&record.host_config.network_mode);
        let mut wired =
            Self { engine, id: record.id.clone(), netns: None, endpoints: Vec::new(), kept: false };
        match mode {
            HOST => {}
            NONE => {
                // The bridge keeps bare ones ready too.
                let made =
                    engine.bridge.as_ref().map_or_else(yare_net::netns::fresh, |bridge| bridge.fresh_netns());
                wired.netns = Some(made.map_err(no_network)?);
            }
            container if container.starts_with("container:") => {
                wired.netns = Some(crate::wiring::namespace_of(engine, container, "net")?);
            }
            _ => wired
                .join(record)
                .map_err(|error| Error::wrap("failed to set up container networking", error))?,
        }
        Ok(wired)
    }

    fn join(&mut self, record: &Record) -> Result<()> {
        let engine = self.engine;
        let mut networks = Vec::new();
        for (name, settings) in wanted(engine, record) {
            networks.push((live(engine, &name)?, settings));
        }
        networks.sort_by_key(|(network, settings)| rank(network, settings));
        let Some(((first, settings), others)) = networks.split_first() else { return Ok(()) };
        let mut request = request(first, record, settings)?;
        if !first.config().internal {
            request.ports = ports(engine, record, first)?;
        }
        let attachment = first.attach(&record.id, &request).map_err(as_error)?;
        self.endpoints.push(attachment.endpoint);
        let netns = self.netns.insert(attachment.netns);
        for (number, (network, settings)) in others.iter().enumerate() {
            let request = self::request(network, record, settings)?;
            let plugged = network.plug(&record.id, &request, netns.as_fd(), number + 1);
            self.endpoints.push(plugged.map_err(as_error)?);
        }
        let (_, ipv6) = way_out(&self.endpoints);
        if ipv6 != self.endpoints[0].ipv6.and_then(|place| place.gateway) {
            let gateway = self.endpoints[0].gateway;
            yare_net::netns::set_gateways(netns.as_fd(), gateway, ipv6).map_err(as_error)?;
        }
        if naming::has_resolver(&self.endpoints) {
            let sockets = match attachment.resolver {
                Some(sockets) => sockets,
                None => yare_net::resolver_sockets(netns.as_fd()).map_err(as_error)?,
            };
            naming::introduce(engine, record, &self.endpoints, sockets)?;
        }
        Ok(())
    }

    /// The container runs in it now.
    pub(crate) fn keep(&mut self) -> Vec<EndpointRecord> {
        self.kept = true;
        std::mem::take(&mut self.endpoints)
    }
}

impl Drop for Wired<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.engine.resolver.forget(&self.id);
        for endpoint in &self.endpoints {
            if let Ok(network) = live(self.engine, super::of_endpoint(endpoint)) {
                network.detach(&self.id);
            }
        }
    }
}

/// The order of a container's networks: the first that leads out has its default route.
pub(super) fn rank(network: &Network, settings: &EndpointSettings) -> (bool, Reverse<i64>, String) {
    let config = network.config();
    (config.internal, Reverse(settings.gw_priority), config.name.clone())
}

/// The gateways of endpoints that are in order.
pub(super) fn way_out(endpoints: &[EndpointRecord]) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let ipv6 = endpoints.iter().filter_map(|endpoint| endpoint.ipv6).find_map(|place| place.gateway);
    (endpoints.iter().find_map(|endpoint| endpoint.gateway), ipv6)
}

fn no_network(error: impl yare_errdefs::Classified + Send + Sync + 'static) -> Error {
    Error::wrap("cannot make a network namespace", error)
}

/// An error of the network, in its own words.
pub(super) fn as_error(error: impl yare_errdefs::Classified + Send + Sync + 'static) -> Error {
    let text = yare_errdefs::chain(&error);
    let plain = Error::new(error.class(), text);
    match error.hint() {
        Some(hint) => plain.with_hint(hint),
        None => plain,
    }
}

/// What a container asks of a network, but for ports.
pub(super) fn request(
    network: &Arc<Network>,
    record: &Record,
    settings: &EndpointSettings,
) -> Result<EndpointRequest> {
    let mut request = EndpointRequest::named(&record.name);
    if let Some(ipam) = &settings.ipam_config {
        let wrong = |text: &str| Error::invalid(format!("invalid IP address: {text}"));
        if !ipam.ipv4_address.is_empty() {
            request.ip = Some(ipam.ipv4_address.parse().map_err(|_| wrong(&ipam.ipv4_address))?);
        }
        if !ipam.ipv6_address.is_empty() {
            request.ip6 = Some(ipam.ipv6_address.parse().map_err(|_| wrong(&ipam.ipv6_address))?);
        }
    }
    // Since API 1.44 the address belongs to the network's settings.
    let of_mode = of_mode(&record.host_config.network_mode) == network.config().name;
    let mac = match settings.mac_address.as_str() {
        "" if of_mode => record.config.mac_address.as_str(),
        mac => mac,
    };
    if !mac.is_empty() {
        request.mac = Some(mac.parse().map_err(|error| Error::invalid(format!("{error}")))?);
    }
    Ok(request)
}

/// The ports that a container publishes, by way of this network.
pub(super) fn ports(
    engine: &Engine,
    record: &Record,
    network: &Network,
) -> Result<Vec<yare_net::PortBinding>> {
    let host_ip = host_binding(engine, network);
    let mut ports = Vec::new();
    for port in &record.plan.ports {
        ports.push(yare_net::PortBinding {
            container_port: port.container_port,
            protocol: port.protocol.parse().map_err(|error| Error::invalid(format!("{error}")))?,
            host_ip: port.host_ip.or(host_ip),
            host_port: port.host_ports,
        });
    }
    if record.host_config.publish_all_ports {
        add_exposed(record, host_ip, &mut ports)?;
    }
    Ok(ports)
}

/// The host address of published ports that name none. `0.0.0.0`, which is what nobody changed, means the addresses of
/// IPv6, too, as with Docker.
fn host_binding(engine: &Engine, network: &Network) -> Option<IpAddr> {
    let name = &network.config().name;
    let of_user = engine.networks.named(name).filter(|_| name != BRIDGE);
    let chosen = of_user.and_then(|network| network.record.host_binding()).map(IpAddr::V4);
    let ip = chosen.unwrap_or(engine.config.publish_ip);
    (ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED)).then_some(ip)
}

/// `-P`: every exposed port that is not published yet gets any free host port.
fn add_exposed(
    record: &Record,
    host_ip: Option<IpAddr>,
    ports: &mut Vec<yare_net::PortBinding>,
) -> Result<()> {
    for exposed in record.config.exposed_ports.iter().flatten().map(|(port, _)| port) {
        let (container_port, protocol) = yare_specgen::ports::parse_key(exposed)?;
        let protocol = protocol.parse().map_err(|error| Error::invalid(format!("{error}")))?;
        let published =
            ports.iter().any(|port| port.container_port == container_port && port.protocol == protocol);
        if !published {
            ports.push(yare_net::PortBinding { container_port, protocol, host_ip, host_port: None });
        }
    }
    Ok(())
}
