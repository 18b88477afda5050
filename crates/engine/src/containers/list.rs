//! Listing containers.

use crate::Engine;
use crate::container::{Container, Record};
use crate::lifecycle::State;
use crate::networks;
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::filters::Filters;
use yare_api::{
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings, EndpointSettings, Port,
};
use yare_errdefs::{Error, Result};
use yare_net::EndpointRecord;
use yare_oci::Digest;

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Stopped ones too.
    pub all: bool,
    /// Only so many of the newest, stopped ones too.
    pub limit: Option<usize>,
    /// With their sizes on disk.
    pub size: bool,
    /// Docker's filters.
    pub filters: Filters,
}

const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// [`list`] with sizes, which takes a walk over each writable layer.
pub async fn list_with_sizes(engine: &Arc<Engine>, options: ListOptions) -> Result<Vec<ContainerSummary>> {
    let engine = Arc::clone(engine);
    crate::images::blocking(move || list(&engine, &options)).await
}

/// The containers that pass, newest first.
pub fn list(engine: &Engine, options: &ListOptions) -> Result<Vec<ContainerSummary>> {
    let wanted = Wanted::parse(engine, options)?;
    let mut found: Vec<(Arc<Container>, Arc<Record>)> = engine
        .containers
        .all()
        .into_iter()
        .map(|container| {
            let record = container.record();
            (container, record)
        })
        .filter(|(_, record)| wanted.has(engine, record))
        .collect();
    found.sort_by(|(_, one), (_, other)| other.created.cmp(&one.created).then_with(|| one.id.cmp(&other.id)));
    found.truncate(options.limit.unwrap_or(usize::MAX));
    Ok(found.iter().map(|(_, record)| summary(engine, record, options.size)).collect())
}

/// The filters, checked and looked up once for all containers.
struct Wanted<'a> {
    filters: &'a Filters,
    all: bool,
    exited: Vec<i32>,
    ancestors: Option<Vec<Digest>>,
    before: Option<jiff::Timestamp>,
    since: Option<jiff::Timestamp>,
}

impl<'a> Wanted<'a> {
    fn parse(engine: &Engine, options: &'a ListOptions) -> Result<Self> {
        let filters = &options.filters;
        filters.validate(FILTERS)?;
        for status in filters.values("status") {
            if !is_status(status) {
                return Err(Error::invalid(format!("invalid filter 'status={status}'")));
            }
        }
        for health in filters.values("health") {
            if !matches!(health.as_str(), "starting" | "healthy" | "unhealthy" | "none") {
                return Err(Error::invalid(format!("invalid filter 'health={health}'")));
            }
        }
        let exited = filters.values("exited").iter().map(|code| {
            code.parse::<i32>().map_err(|_| Error::invalid(format!("invalid filter 'exited={code}'")))
        });
        let created = |filter: &str| -> Result<Option<jiff::Timestamp>> {
            match filters.values(filter).first() {
                Some(name) => Ok(Some(engine.containers.find(name)?.record().created)),
                None => Ok(None),
            }
        };
        let ancestors = filters.contains("ancestor").then(|| {
            let named = filters.values("ancestor").iter();
            named.filter_map(|name| engine.images.resolve(name, None).ok()).map(|image| image.id.0).collect()
        });
        Ok(Self {
            exited: exited.collect::<Result<_>>()?,
            ancestors,
            before: created("before")?,
            since: created("since")?,
            all: options.all
                || options.limit.is_some()
                || filters.contains("status")
                || filters.contains("exited")
                || filters.contains("before")
                || filters.contains("since"),
            filters,
        })
    }

    fn has(&self, engine: &Engine, record: &Record) -> bool {
        let filters = self.filters;
        let state = record.state.status;
        let none = BTreeMap::new();
        let labels = record.config.labels.as_ref().unwrap_or(&none);
        let any = |filter: &str, fits: &dyn Fn(&str) -> bool| {
            let values = filters.values(filter);
            values.is_empty() || values.iter().any(|value| fits(value))
        };
        (self.all || state.counts_as_running())
            && any("status", &|status| status == state.as_str())
            && (self.exited.is_empty()
                || (state == State::Exited && self.exited.contains(&record.state.exit_code)))
            && any("id", &|id| record.id.starts_with(id))
            && name_fits(filters, &record.name)
            && filters.match_labels("label", labels)
            && self.before.is_none_or(|before| record.created < before)
            && self.since.is_none_or(|since| record.created > since)
            && self.ancestors.as_ref().is_none_or(|images| self.descends(engine, record, images))
            && any("volume", &|volume| {
                record.mounts.iter().any(|mount| mount.name == volume || mount.destination == volume)
            })
            && any("network", &|network| {
                let names = networks::wanted(engine, record).into_keys();
                names
                    .into_iter()
                    .any(|name| name == network || networks::id_of(engine, &name).starts_with(network))
            })
            && any("publish", &|port| {
                ports(record).iter().any(|have| have.public_port != 0 && port_fits(have, port))
            })
            && any("expose", &|port| ports(record).iter().any(|have| port_fits(have, port)))
            && any("health", &|health| {
                let status = record.state.health.as_ref().map_or("none", |health| health.status.as_str());
                health == status
            })
            && any("is-task", &|wanted| matches!(wanted, "false" | "0"))
            && any("isolation", &|wanted| matches!(wanted, "default" | ""))
    }

    /// Made from one of these images, or from an image that adds layers to one's.
    fn descends(&self, engine: &Engine, record: &Record, images: &[Digest]) -> bool {
        images.contains(&record.image)
            || images.iter().any(|ancestor| {
                engine
                    .images
                    .resolve(&ancestor.to_string(), None)
                    .is_ok_and(|image| adds_to(&record.layers, &image.layers))
            })
    }
}

fn is_status(word: &str) -> bool {
    matches!(word, "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead")
}

fn adds_to<T: PartialEq>(layers: &[T], lower: &[T]) -> bool {
    !lower.is_empty() && layers.len() > lower.len() && layers.starts_with(lower)
}

/// A name filter is a regular expression for the name, with or without Docker's leading slash.
fn name_fits(filters: &Filters, name: &str) -> bool {
    filters.match_pattern("name", name) || filters.match_pattern("name", &format!("/{name}"))
}

fn port_fits(port: &Port, wanted: &str) -> bool {
    let (range, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = if port.public_port == 0 { port.private_port } else { port.public_port };
    let inside = |number: u16| {
        first.parse().is_ok_and(|first: u16| first <= number)
            && last.parse().is_ok_and(|last: u16| number <= last)
    };
    port.r#type == protocol && (inside(number) || inside(port.private_port))
}

/// Ports as a list shows them: published ones with their host side, exposed ones without.
fn ports(record: &Record) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for published in record.endpoints.iter().flat_map(|endpoint| &endpoint.ports) {
        ports.push(Port {
            ip: published.host_ip.to_string(),
            private_port: published.container_port,
            public_port: published.host_port,
            r#type: published.protocol.to_string(),
        });
    }
    if record.state.status.has_process() {
        for exposed in record.config.exposed_ports.iter().flatten().map(|(port, _)| port) {
            let (number, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
            let Ok(number) = number.parse::<u16>() else { continue };
            if !ports.iter().any(|port| port.private_port == number && port.r#type == protocol) {
                ports.push(Port { private_port: number, r#type: protocol.to_owned(), ..Port::default() });
            }
        }
    }
    ports.sort_by(|one, other| {
        (one.private_port, one.public_port, &one.r#type).cmp(&(
            other.private_port,
            other.public_port,
            &other.r#type,
        ))
    });
    ports
}

/// One row.
pub(crate) fn summary(engine: &Engine, record: &Record, size: bool) -> ContainerSummary {
    let state = &record.state;
    let mut summary = ContainerSummary {
        id: record.id.clone(),
        names: names(engine, record),
        image: image_shown(engine, record),
        image_id: record.image.to_string(),
        command: command(record),
        created: record.created.as_second(),
        ports: ports(record),
        labels: record.config.labels.clone().unwrap_or_default(),
        state: state.status.to_string(),
        status: status(engine, record),
        host_config: ContainerSummaryHostConfig {
            network_mode: networks::shown_mode(&record.host_config.network_mode),
            annotations: record.host_config.annotations.clone(),
        },
        network_settings: ContainerSummaryNetworkSettings {
            networks: endpoints(engine, record)
                .into_iter()
                .map(|(name, end)| (name, Box::new(end)))
                .collect(),
        },
        mounts: record.mounts.clone(),
        ..ContainerSummary::default()
    };
    if size {
        let (own, whole) = sizes(engine, record);
        summary.size_rw = own;
        summary.size_root_fs = whole;
    }
    summary
}

/// Its name, then those that others have for it.
fn names(engine: &Engine, record: &Record) -> Vec<String> {
    let own = format!("/{}", record.name);
    [own].into_iter().chain(crate::links::names(engine, &record.id)).collect()
}

/// Bytes of the writable layer, and of it with the image's layers.
pub(crate) fn sizes(engine: &Engine, record: &Record) -> (i64, i64) {
    let own = engine.images.snapshots().usage(&record.id).unwrap_or(0);
    let layers = engine.images.layers_size(&record.layers);
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    (signed(own), signed(own + layers))
}

/// The name that was typed, while it still means the image; its id afterwards.
fn image_shown(engine: &Engine, record: &Record) -> String {
    match engine.images.resolve(&record.image_name, None) {
        Ok(image) if image.id.0 == record.image => record.image_name.clone(),
        _ => record.image.to_string(),
    }
}

fn command(record: &Record) -> String {
    let argv = &record.plan.argv;
    let shown = argv
        .iter()
        .map(|part| if part.contains(char::is_whitespace) { format!("'{part}'") } else { part.clone() });
    shown.collect::<Vec<_>>().join(" ")
}

fn status(engine: &Engine, record: &Record) -> String {
    yare_api::status::status(&super::inspect::state(record), engine.clock.now())
}

/// Network memberships as lists and inspect show them.
pub(crate) fn endpoints(engine: &Engine, record: &Record) -> BTreeMap<String, EndpointSettings> {
    let mut shown = networks::wanted(engine, record);
    for (name, settings) in &mut shown {
        settings.network_id = networks::id_of(engine, name);
        if !matches!(name.as_str(), networks::BRIDGE | networks::HOST | networks::NONE) {
            settings.dns_names = Some(networks::dns_names(record, settings));
        }
        let live = record.endpoints.iter().find(|endpoint| networks::of_endpoint(endpoint) == name);
        if let Some(endpoint) = live {
            show(endpoint, settings);
        }
    }
    shown
}

fn show(endpoint: &EndpointRecord, settings: &mut EndpointSettings) {
    let text = |gateway: Option<std::net::IpAddr>| gateway.map(|ip| ip.to_string()).unwrap_or_default();
    settings.endpoint_id = endpoint.endpoint_id.clone();
    settings.gateway = text(endpoint.gateway.map(Into::into));
    settings.ip_address = endpoint.ip.to_string();
    settings.ip_prefix_len = i64::from(endpoint.prefix);
    settings.mac_address = endpoint.mac.to_string();
    if let Some(place) = endpoint.ipv6 {
        settings.ipv6_gateway = text(place.gateway.map(Into::into));
        settings.global_ipv6_address = place.ip.to_string();
        settings.global_ipv6_prefix_len = i64::from(place.prefix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_filter_is_an_expression() {
        let fits = |name: &str, wanted: &str| {
            let filters = Filters::parse(&format!("{{\"name\":[\"{wanted}\"]}}")).unwrap();
            name_fits(&filters, name)
        };
        assert!(fits("my-web-1", "web"));
        assert!(!fits("my-web-1", "^web"));
        assert!(fits("web-1", "^web"));
        assert!(fits("web", "^/web$"));
        assert!(!fits("web-1", "^/web$"));
        assert!(fits("my-web", "web$"));
        assert!(fits("web-12", "^web-[0-9]+$"));
    }

    #[test]
    fn an_ancestor_has_fewer_layers() {
        assert!(adds_to(&[1, 2], &[1]));
        assert!(!adds_to(&[1], &[1]) && !adds_to(&[1, 2], &[]) && !adds_to(&[1, 2], &[2]));
    }

    #[test]
    fn a_port_filter_takes_ranges_and_protocols() {
        let port = Port { ip: String::new(), private_port: 80, public_port: 8080, r#type: "tcp".into() };
        assert!(port_fits(&port, "8080"));
        assert!(port_fits(&port, "80/tcp"));
        assert!(port_fits(&port, "8000-9000/tcp"));
        assert!(!port_fits(&port, "80/udp"));
        assert!(!port_fits(&port, "81"));
    }
}
