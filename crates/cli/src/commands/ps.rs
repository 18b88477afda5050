//! `ps`.

use yare_api::{ContainerSummary, Port};

use crate::clock::Now;
use crate::context::Context;
use crate::flags::Given;
use crate::format::{self, Layout, Row, ellipsis, short_id, write_list};
use crate::opts;
use crate::table::Outcome;

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];
const LAYOUT: Layout = Layout {
    headings: HEADINGS,
    table: &["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"],
    raw: RAW,
};
const RAW: &str = "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\nstate: {{.State}}\nstatus: {{.Status}}\nnames: {{.Names}}\nlabels:{{if .Labels}} {{.Labels}}{{end}}\nports:{{if .Ports}} {{.Ports}}{{end}}\n";
const SIZED: Layout = Layout {
    headings: HEADINGS,
    table: &["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names", "Size"],
    raw: RAW,
};

/// `ps`.
pub(crate) async fn list(cx: &Context, given: &Given) -> Outcome {
    let quiet = given.bool("quiet");
    let format = match given.text_opt("format") {
        Some(format) if !format.is_empty() => format,
        _ if quiet => "",
        _ => &cx.config().ps_format,
    };
    let wants_size = [".Size", "json .}}", "json . }}"].iter().any(|part| format.contains(part));
    let size = given.bool("size") || (!quiet && wants_size);
    let last = given.int("last").filter(|count| *count > 0);
    let limit = if given.bool("latest") && last.is_none() { Some(1) } else { last };
    let filters = opts::filters(&given.list("filter"), &[]);
    let containers = cx.client().container_list(given.bool("all"), limit, size, &filters).await?;
    let whole = given.bool("no-trunc");
    if quiet && (format.is_empty() || format == "table") {
        for container in &containers {
            cx.line(if whole { &container.id } else { short_id(&container.id) })?;
        }
        return Ok(0);
    }
    let now = cx.now();
    let layout = if given.bool("size") { &SIZED } else { &LAYOUT };
    write_list(
        cx,
        format,
        layout,
        containers.iter().map(|container| row(container, whole, &now, layout.wanted(format))),
    )?;
    Ok(0)
}

fn row(container: &ContainerSummary, whole: bool, now: &Now, wanted: Option<&'static [&'static str]>) -> Row {
    let command = if whole { container.command.clone() } else { ellipsis(&container.command, 20) };
    let platform =
        container.image_manifest_descriptor.as_ref().and_then(|descriptor| descriptor.platform.as_ref());
    let networks =
        || container.network_settings.networks.keys().map(String::as_str).collect::<Vec<_>>().join(",");
    Row::of(wanted)
        .with("ID", if whole { container.id.clone() } else { short_id(&container.id).to_owned() })
        .with("Names", names(container, whole))
        .with("Image", image(container, whole))
        .with("Command", opts::quote(&command))
        .lazily("CreatedAt", || format::go_time(container.created, now))
        .with("RunningFor", format::ago(container.created, now.timestamp()))
        .with("Ports", ports(&container.ports))
        .lazily("State", || container.state.clone())
        .with("Status", container.status.clone())
        .lazily("Size", || size(container))
        .lazily("Labels", || format::labels(&container.labels))
        .lazily("Mounts", || mounts(container, whole))
        .lazily("LocalVolumes", || local_volumes(container))
        .lazily("Networks", networks)
        .lazily("Platform", || platform.map_or(format::Json::Null, format::Json::of))
        .labelled(&container.labels)
}

fn names(container: &ContainerSummary, whole: bool) -> String {
    let mut names: Vec<&str> =
        container.names.iter().map(|name| name.strip_prefix('/').unwrap_or(name)).collect();
    if !whole {
        // Names within other containers are links.
        names.retain(|name| !name.contains('/'));
    }
    names.join(",")
}

fn image(container: &ContainerSummary, whole: bool) -> String {
    let image = &container.image;
    if image.is_empty() {
        return "<no image>".to_owned();
    }
    if whole {
        return image.clone();
    }
    if short_id(&container.image_id) == short_id(image) {
        return short_id(image).to_owned();
    }
    match yare_oci::Reference::parse(image) {
        // A digest without a tag says nothing to people; the name does.
        Ok(reference) if reference.digest().is_some() && reference.tag().is_none() => {
            reference.familiar_name()
        }
        _ => image.clone(),
    }
}

fn size(container: &ContainerSummary) -> String {
    let own = format::size(container.size_rw);
    if container.size_root_fs > 0 {
        format!("{own} (virtual {})", format::size(container.size_root_fs))
    } else {
        own
    }
}

fn mounts(container: &ContainerSummary, whole: bool) -> String {
    let names = container.mounts.iter().map(|mount| {
        let name = if mount.name.is_empty() { &mount.source } else { &mount.name };
        if whole { name.clone() } else { ellipsis(name, 15) }
    });
    names.collect::<Vec<_>>().join(",")
}

fn local_volumes(container: &ContainerSummary) -> String {
    container.mounts.iter().filter(|mount| mount.driver == "local").count().to_string()
}

/// Neighbouring ports of one address and protocol.
struct Group<'p> {
    ip: &'p str,
    kind: &'p str,
    first: u16,
    last: u16,
}

impl Group<'_> {
    fn text(&self) -> String {
        let ports = match self.first == self.last {
            true => self.first.to_string(),
            false => format!("{}-{}", self.first, self.last),
        };
        match self.ip {
            "" => format!("{ports}/{}", self.kind),
            ip => format!("{}->{ports}/{}", join_host(ip, &ports), self.kind),
        }
    }
}

/// The ports in Docker's order, neighbours joined; those published under another number come last.
pub(crate) fn ports(ports: &[Port]) -> String {
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by_key(|port| (port.private_port, port.ip.as_str(), port.public_port, port.r#type.as_str()));
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut texts: Vec<String> = Vec::new();
    let mut shifted: Vec<String> = Vec::new();
    for port in sorted {
        let (ip, kind, private) = (port.ip.as_str(), port.r#type.as_str(), port.private_port);
        if !ip.is_empty() && port.public_port != private {
            shifted.push(format!("{}->{private}/{kind}", join_host(ip, &port.public_port.to_string())));
            continue;
        }
        match groups.iter_mut().find(|group| group.ip == ip && group.kind == kind) {
            None => groups.push(Group { ip, kind, first: private, last: private }),
            Some(group) if group.last.checked_add(1) == Some(private) => group.last = private,
            Some(group) => {
                texts.push(group.text());
                (group.first, group.last) = (private, private);
            }
        }
    }
    texts.extend(groups.iter().map(Group::text));
    texts.extend(shifted);
    texts.join(", ")
}

fn join_host(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
