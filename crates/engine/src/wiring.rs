//! What a start needs around the plan: network, files in `/etc`, sources of mounts, the log.

use crate::apparmor::AppArmor;
use crate::container::{Origin, Record};
use crate::lifecycle::State;
use crate::{Engine, containers, networks, volumes};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_logs::About;
use yare_net::EndpointRecord;
use yare_net::hosts::{ExtraHost, HostsFile};
use yare_net::resolv::{self, DnsOptions};
use yare_oci::runtime::Device;
use yare_shim::{LogDriver, LogSpec, MountOrigin};
use yare_specgen::logs::TagFields;
use yare_specgen::modes::{IpcMode, PidMode};
use yare_specgen::mounts::{MountPlan, MountSource};
use yare_specgen::{Plan, ResolvedDevice, Wiring};
use yare_sys::privilege::Privilege;

/// The running container that a mode `container:<name>` means.
fn joined(engine: &Engine, wanted: &str) -> Result<Arc<Record>> {
    let name = wanted.strip_prefix("container:").unwrap_or(wanted);
    let container = engine.containers.find(name)?;
    let record = container.record();
    match record.state.status {
        State::Running | State::Paused => Ok(record),
        State::Restarting => {
            Err(Error::conflict(format!("cannot join network of a restarting container: {}", container.id)))
        }
        _ => {
            Err(Error::conflict(format!("cannot join network of a non running container: {}", container.id))
                .with_hint(format!("start it first: yare start {}", record.name)))
        }
    }
}

/// Path of a namespace of the container that a mode means.
pub(crate) fn namespace_path(engine: &Engine, mode: &str, kind: &str) -> Result<String> {
    Ok(format!("/proc/{}/ns/{kind}", joined(engine, mode)?.state.pid))
}

/// Whether a container lets others into its IPC namespace.
fn shares_ipc(donor: &Record) -> Result<()> {
    match &donor.plan.ipc {
        IpcMode::Shareable | IpcMode::Host | IpcMode::Container(_) => Ok(()),
        IpcMode::Private | IpcMode::None => Err(Error::invalid(format!(
            "container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
            donor.id
        ))),
    }
}

/// Whether a running container lives in the network namespace of container `id`.
pub(crate) fn is_network_shared(engine: &Engine, id: &str) -> bool {
    engine.containers.all().iter().any(|other| {
        let record = other.record();
        let donor = record.host_config.network_mode.strip_prefix("container:");
        record.state.status.has_process()
            && donor.is_some_and(|donor| engine.containers.find(donor).is_ok_and(|found| found.id == id))
    })
}

/// A namespace of the container that a mode means.
pub(crate) fn namespace_of(engine: &Engine, mode: &str, kind: &str) -> Result<OwnedFd> {
    let path = namespace_path(engine, mode, kind)?;
    rustix::fs::open(
        &path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|error| Error::unavailable(format!("cannot open the namespace {path}")).caused_by(error))
}

/// Whose files in `/etc` a container sees: its own, or of the container whose network it shares.
pub(crate) fn files_owner(engine: &Engine, record: &Record) -> Result<String> {
    let mode = networks::of_mode(&record.host_config.network_mode);
    match mode.starts_with("container:") {
        true => files_owner(engine, &*joined(engine, mode)?),
        false => Ok(record.id.clone()),
    }
}

/// Writes `hosts`, `hostname` and `resolv.conf` of a container that has a network of its own.
pub(crate) fn write_files(engine: &Engine, record: &Record, endpoints: &[EndpointRecord]) -> Result<()> {
    let mode = networks::of_mode(&record.host_config.network_mode);
    if mode.starts_with("container:") {
        return Ok(());
    }
    let mut extra = extra_hosts(engine, record)?;
    extra.extend(crate::links::hosts(engine, record)?);
    let hosts = match mode {
        networks::HOST => yare_net::hosts::on_host_network(&read_host("/etc/hosts"), &extra),
        _ => HostsFile {
            hostname: &record.plan.hostname,
            domainname: &record.plan.domainname,
            ips: &endpoints.iter().flat_map(networks::addresses).collect::<Vec<_>>(),
            extra: &extra,
            ipv6_loopback: true,
        }
        .render(),
    };
    let (resolv, _) = resolv(engine, record, endpoints)?;
    let folder = engine.container_dir(&record.id);
    let hostname = yare_net::hosts::hostname_file(&record.plan.hostname);
    for (name, text) in [("hosts", hosts), ("hostname", hostname), ("resolv.conf", resolv)] {
        let path = folder.join(name);
        std::fs::write(&path, text)
            .map_err(|error| Error::internal(format!("cannot write {}", path.display())).caused_by(error))?;
    }
    Ok(())
}

/// The text of a container's `resolv.conf`, and whom its resolver asks if it has one.
pub(crate) fn resolv(
    engine: &Engine,
    record: &Record,
    endpoints: &[EndpointRecord],
) -> Result<(String, Vec<IpAddr>)> {
    let text = read_host("/etc/resolv.conf");
    let path = resolv::host_path(&text);
    let named = networks::naming::has_resolver(endpoints);
    // The resolver can ask systemd's, which a container on the bridge cannot.
    let (text, path) = match path {
        "/etc/resolv.conf" => (text, path),
        _ if named => (text, "/etc/resolv.conf"),
        other => (read_host(other), other),
    };
    let dns = dns(engine, record)?;
    Ok(match networks::of_mode(&record.host_config.network_mode) {
        networks::HOST | networks::NONE => (resolv::on_host_network(&text, path, &dns), Vec::new()),
        _ if named => resolv::with_resolver(&text, path, &dns),
        _ => (resolv::on_bridge(&text, path, &dns), Vec::new()),
    })
}

/// Writes a container's `resolv.conf` anew while it runs. The file is the same one.
pub(crate) fn resolv_changed(engine: &Engine, record: &Record, endpoints: &[EndpointRecord]) -> Result<()> {
    let path = engine.container_dir(&record.id).join("resolv.conf");
    let (text, _) = resolv(engine, record, endpoints)?;
    std::fs::write(&path, text)
        .map_err(|error| Error::internal(format!("cannot change {}", path.display())).caused_by(error))
}

/// Adds a container's lines in its hosts file for addresses that it has got, or takes away those of addresses
/// that it has lost.
pub(crate) fn hosts_changed(engine: &Engine, record: &Record, ips: &[IpAddr], come: bool) -> Result<()> {
    let (hostname, domainname) = (&record.plan.hostname, &record.plan.domainname);
    let file = HostsFile { hostname, domainname, ips, extra: &[], ipv6_loopback: false };
    edit_hosts(engine, record, |text| if come { file.added_to(&text) } else { file.taken_from(&text) })
}

/// Writes another address of a container that one has a link to into its hosts file while it runs.
pub(crate) fn link_moved(
    engine: &Engine,
    record: &Record,
    alias: &str,
    endpoint: &EndpointRecord,
) -> Result<()> {
    let ips = networks::addresses(endpoint).into_iter();
    edit_hosts(engine, record, |text| ips.fold(text, |text, ip| yare_net::hosts::moved(&text, alias, ip)))
}

/// Changes a container's hosts file. It stays the same file, for the container has it mounted.
fn edit_hosts(engine: &Engine, record: &Record, edit: impl FnOnce(String) -> String) -> Result<()> {
    let path = engine.container_dir(&record.id).join("hosts");
    let failed =
        |error: std::io::Error| Error::internal(format!("cannot change {}", path.display())).caused_by(error);
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    std::fs::write(&path, edit(text)).map_err(failed)
}

fn read_host(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn extra_hosts(engine: &Engine, record: &Record) -> Result<Vec<ExtraHost>> {
    let gateway = engine.bridge.as_ref().map(|bridge| IpAddr::from(bridge.gateway()));
    let texts = record.host_config.extra_hosts.iter().flatten();
    texts
        .map(|text| ExtraHost::parse(text, gateway).map_err(|error| Error::invalid(error.to_string())))
        .collect()
}

fn dns(engine: &Engine, record: &Record) -> Result<DnsOptions> {
    let config = &record.host_config;
    let chosen = |own: &Option<Vec<String>>, engine: &[String]| match own {
        Some(own) if !own.is_empty() => own.clone(),
        _ => engine.to_vec(),
    };
    let servers = chosen(&config.dns, &engine.config.dns);
    let servers = servers.iter().map(|server| {
        server.parse().map_err(|_| Error::invalid(format!("invalid DNS server address {server:?}")))
    });
    Ok(DnsOptions {
        servers: servers.collect::<Result<Vec<IpAddr>>>()?,
        search: chosen(&config.dns_search, &engine.config.dns_search),
        options: chosen(&config.dns_options, &engine.config.dns_options),
    })
}

/// Where output is kept, and sent.
pub(crate) fn log(engine: &Engine, record: &Record) -> Result<LogSpec> {
    let plan = &record.plan.log;
    let kept = plan.driver != "none" && !plan.unread;
    let fields = TagFields {
        id: record.id.clone(),
        name: record.name.clone(),
        image_id: record.image.to_string(),
        image_name: record.image_name.clone(),
        command: record.plan.argv.join(" "),
    };
    let mut attrs = plan.attrs.clone();
    let mut about = About::default();
    if plan.target.is_some() {
        let template = if plan.tag.is_empty() { "{{.ID}}" } else { &plan.tag };
        about = About {
            tag: yare_specgen::logs::render_tag(template, &fields)?,
            container_id: fields.id,
            container_name: fields.name,
            image_id: fields.image_id,
            image_name: fields.image_name,
            command: fields.command,
            created: yare_logs::time::to_string(record.created),
            attrs: attrs.clone(),
        };
    } else if !plan.tag.is_empty() {
        attrs.insert("tag".to_owned(), yare_specgen::logs::render_tag(&plan.tag, &fields)?);
    }
    Ok(LogSpec {
        driver: if kept { LogDriver::JsonFile } else { LogDriver::None },
        path: containers::logs::log_path(engine, record),
        max_size: plan.max_size,
        max_file: plan.max_file,
        compress: plan.compress,
        attrs,
        buffer: plan.buffer,
        target: plan.target.clone(),
        about,
    })
}

/// The snapshotter's words in the shim's: the two crates do not know each other.
pub(crate) fn rootfs(rootfs: yare_snapshot::Rootfs) -> yare_shim::Rootfs {
    match rootfs {
        yare_snapshot::Rootfs::Overlay { lower, upper, work } => {
            yare_shim::Rootfs::Overlay { lower, upper, work }
        }
        yare_snapshot::Rootfs::Bind(path) => yare_shim::Rootfs::Bind(path),
    }
}

/// The plan, with what links add; a container in another's network also has that one's name.
fn named<'a>(engine: &Engine, record: &'a Record) -> Result<Cow<'a, Plan>> {
    let mode = networks::of_mode(&record.host_config.network_mode);
    if !mode.starts_with("container:") {
        return crate::links::plan(engine, record);
    }
    let other = joined(engine, mode)?;
    let mut plan = record.plan.clone();
    plan.hostname.clone_from(&other.plan.hostname);
    plan.domainname.clone_from(&other.plan.domainname);
    Ok(Cow::Owned(plan))
}

/// Makes sure of the profile that the plan counts on; a start without it would fail with less to say.
fn ensure_apparmor_profile() -> Result<()> {
    if AppArmor::host().ensure_default()? {
        return Ok(());
    }
    let profile = yare_specgen::DEFAULT_APPARMOR_PROFILE;
    Err(Error::unavailable(format!("the AppArmor profile {profile} is not loaded any more"))
        .with_hint("install apparmor_parser, which loads it, or create the container anew"))
}

/// Renders the spec of one start.
pub(crate) fn spec(engine: &Engine, record: &Record) -> Result<yare_oci::runtime::Spec> {
    let plan = &named(engine, record)?;
    if plan.apparmor_profile == yare_specgen::DEFAULT_APPARMOR_PROFILE {
        ensure_apparmor_profile()?;
    }
    let folder = engine.container_dir(&files_owner(engine, record)?);
    let file = |name: &str| Some(folder.join(name).display().to_string());
    let wiring = Wiring {
        root: "rootfs".to_owned(),
        resolv_conf: file("resolv.conf"),
        hostname: file("hostname"),
        hosts: file("hosts"),
        volumes: crate::prepare::sources(&record.mounts),
        more_mounts: taken_over(record),
        devices: devices(plan)?,
        block_devices: block_devices(plan)?,
        cgroup_path: engine.cgroup_path(record),
        network_namespace: None,
        pid_namespace: match &plan.pid {
            PidMode::Container(name) => Some(namespace_path(engine, name, "pid")?),
            _ => None,
        },
        ipc_namespace: match &plan.ipc {
            IpcMode::Container(name) => {
                shares_ipc(&*joined(engine, name)?)?;
                Some(namespace_path(engine, name, "ipc")?)
            }
            _ => None,
        },
        shm: match &plan.ipc {
            IpcMode::Container(name) => {
                Some(format!("/proc/{}/root/dev/shm", joined(engine, name)?.state.pid))
            }
            _ => None,
        },
        recursive_read_only: engine.facts.kernel_version >= (5, 12),
        kernel_version: engine.facts.kernel_version,
        architecture: yare_oci::Platform::host().architecture,
        last_group: crate::facts::last_group(),
    };
    let mut spec = yare_specgen::render(plan, &wiring);
    let requests = record.host_config.device_requests.as_deref().unwrap_or_default();
    crate::devices::inject(engine, requests, &mut spec)?;
    Ok(spec)
}

/// The further groups of the first process, by name or number: the plan's, and those that its devices need.
pub(crate) fn groups(record: &Record, spec: &yare_oci::runtime::Spec) -> Vec<String> {
    let mut groups = record.plan.groups.clone();
    let needed = spec.process.iter().flat_map(|process| process.user.additional_gids.iter().skip(1));
    for gid in needed.map(ToString::to_string) {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    groups
}

/// Where the container's mounts come from, for its shim. A mount whose image has lost its layers fails here.
pub(crate) fn origins(engine: &Engine, record: &Record) -> Result<Vec<MountOrigin>> {
    let one = |(destination, origin): (&String, &Origin)| {
        let tree = origin.image.as_ref().map(|image| engine.images.snapshots().view(&image.layers));
        let tree = tree.transpose().map_err(|error| {
            Error::wrap(format!("cannot put together the image that is mounted at {destination}"), error)
        })?;
        Ok(MountOrigin {
            destination: destination.clone(),
            tree: tree.map(rootfs),
            subpath: origin.subpath.clone(),
            id_map: origin.id_map.clone(),
        })
    };
    record.origins.iter().map(one).collect()
}

/// Whether something of the host's own is mounted on a volume, or its log goes to what may be a socket anywhere:
/// the launcher has no such mounts.
pub(crate) fn needs_host_mounts(engine: &Engine, record: &Record) -> bool {
    record.plan.log.target.is_some()
        || crate::volumes_of(record)
            .any(|point| volumes::local::is_mount(&volumes::folder(engine, &point.name)))
}

/// Mounts that are not in the plan: those of `--volumes-from`.
fn taken_over(record: &Record) -> Vec<MountPlan> {
    let planned = |destination: &str| record.plan.mounts.iter().any(|mount| mount.destination == destination);
    let others = record.mounts.iter().filter(|point| !planned(&point.destination));
    others
        .map(|point| MountPlan {
            source: match point.r#type.as_str() {
                "volume" => MountSource::Volume {
                    name: Some(point.name.clone()),
                    driver: String::new(),
                    options: BTreeMap::new(),
                    labels: BTreeMap::new(),
                    subpath: String::new(),
                    copy: false,
                },
                // It is not shared: memory of its own, with the options of the one it is taken from.
                "tmpfs" => MountSource::Tmpfs { options: point.mode.clone() },
                _ => MountSource::Bind { path: point.source.clone(), create: false },
            },
            destination: point.destination.clone(),
            read_only: !point.rw,
            propagation: point.propagation.clone(),
            mode: point.mode.clone(),
            ..MountPlan::default()
        })
        .collect()
}

/// Nodes of the devices asked for; for a privileged container, all of the host's.
fn devices(plan: &Plan) -> Result<Vec<ResolvedDevice>> {
    let mut resolved = Vec::new();
    for device in &plan.devices {
        let path = PathBuf::from(&device.host);
        let found = node(&path, &device.container).map_err(|error| {
            Error::invalid(format!(
                "error gathering device information while adding custom device {:?}",
                device.host
            ))
            .caused_by(error)
        })?;
        match found {
            Some(node) => resolved.push(ResolvedDevice { device: node, access: device.access.clone() }),
            None if path.is_dir() => {
                for (path, node) in nodes_beneath(&path, &device.host, &device.container) {
                    tracing::trace!(path, "device of a folder");
                    resolved.push(ResolvedDevice { device: node, access: device.access.clone() });
                }
            }
            None => {
                return Err(Error::invalid(format!(
                    "error gathering device information while adding custom device {:?}: not a device node",
                    device.host
                )));
            }
        }
    }
    // Without root, privileged is to have what the user has: no device is added, as with Docker.
    if plan.privileged && Privilege::current().makes_devices() {
        for (_, node) in nodes_beneath(std::path::Path::new("/dev"), "/dev", "/dev") {
            resolved.push(ResolvedDevice { device: node, access: "rwm".to_owned() });
        }
    }
    Ok(resolved)
}

/// The node at a path; `None` when it is no device.
fn node(path: &std::path::Path, inside: &str) -> std::io::Result<Option<Device>> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = std::fs::metadata(path)?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return Ok(None),
    };
    Ok(Some(Device {
        path: inside.to_owned(),
        kind: kind.to_owned(),
        major: i64::from(rustix::fs::major(metadata.rdev())),
        minor: i64::from(rustix::fs::minor(metadata.rdev())),
        file_mode: Some(metadata.mode() & 0o7777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
    }))
}

/// Device nodes beneath a folder, with their paths inside. What the container has of its own (`pts`, `shm`,
/// `mqueue`, the console) is left out, and so are links.
fn nodes_beneath(folder: &std::path::Path, host: &str, inside: &str) -> Vec<(String, Device)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let own = matches!(
            name.as_str(),
            "pts" | "shm" | "fd" | "mqueue" | "console" | "ptmx" | "lxc" | "lxd-sockets"
        );
        let (host, inside) = (format!("{host}/{name}"), format!("{inside}/{name}"));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !own => found.extend(nodes_beneath(&entry.path(), &host, &inside)),
            Ok(kind) if !kind.is_dir() && !kind.is_symlink() && !own => {
                if let Ok(Some(node)) = node(&entry.path(), &inside) {
                    found.push((host, node));
                }
            }
            _ => {}
        }
    }
    found
}

fn block_devices(plan: &Plan) -> Result<BTreeMap<String, (i64, i64)>> {
    let mut numbers = BTreeMap::new();
    for path in plan.block_io.paths() {
        let found = node(std::path::Path::new(path), path).ok().flatten();
        let device = found.ok_or_else(|| Error::invalid(format!("no such device: {path}")))?;
        numbers.insert(path.to_owned(), (device.major, device.minor));
    }
    Ok(numbers)
}
