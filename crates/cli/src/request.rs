//! The flags of `create` and `run`, translated into the body of the API's create call.

use std::collections::BTreeMap;

use yare_api::container::Empty;
use yare_api::{
    ContainerConfig, ContainerCreateRequest, DeviceRequest, HostConfig, LogConfig, Mount, NetworkingConfig,
};

use crate::context::Environment;
use crate::flags::Given;
use crate::opts::{
    self, capability, device, env, gpus, health, mount, network, port, restart, security, ulimit, volume,
};

/// What the flags are read against.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// Our own environment, for `-e NAME`.
    pub environment: &'a Environment,
    /// What relative paths are relative to.
    pub cwd: &'a str,
    /// Proxy variables from the configuration file.
    pub proxies: Vec<String>,
    /// Path of the engine's socket, for `--use-api-socket`.
    pub socket: String,
}

/// Translates the flags. The errors are those of docker CLI 28, to be printed after the program's name.
pub(crate) fn create_request(
    given: &Given,
    around: &Surroundings<'_>,
) -> Result<ContainerCreateRequest, String> {
    check_modes(given)?;
    let volumes = volumes(given, around.cwd)?;
    let bindings = port::bindings(&given.list("publish"))?;
    let mut exposed: BTreeMap<String, Empty> =
        bindings.keys().map(|port| (port.clone(), Empty::default())).collect();
    for value in given.list("expose") {
        exposed.extend(port::exposed(&value)?.into_iter().map(|port| (port, Empty::default())));
    }
    let endpoints = endpoints(given)?;
    let mut host = host_config(given, around)?;
    host.binds = some(volumes.binds);
    host.port_bindings = Some(bindings);
    let mut config = container_config(given, around)?;
    config.exposed_ports = (!exposed.is_empty()).then_some(exposed);
    config.volumes = Some(volumes.anonymous);
    Ok(ContainerCreateRequest {
        config,
        host_config: Some(host),
        networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
    })
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The namespace modes that the client itself refuses.
fn check_modes(given: &Given) -> Result<(), String> {
    let is_container = |mode: &str| mode.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    let pid = given.text("pid");
    if !matches!(pid, "" | "host") && !is_container(pid) {
        return Err("--pid: invalid PID mode".to_owned());
    }
    if !matches!(given.text("uts"), "" | "host") {
        return Err("--uts: invalid UTS mode".to_owned());
    }
    if !matches!(given.text("userns"), "" | "host") {
        return Err("--userns: invalid USER mode".to_owned());
    }
    if !matches!(given.text("cgroupns"), "" | "host" | "private") {
        return Err("--cgroupns: invalid CGROUP mode".to_owned());
    }
    if let Some(swappiness) = given.int("memory-swappiness")
        && !(-1..=100).contains(&swappiness)
    {
        return Err(format!("invalid value: {swappiness}. Valid memory swappiness range is 0-100"));
    }
    Ok(())
}

#[derive(Default)]
struct Volumes {
    binds: Vec<String>,
    anonymous: BTreeMap<String, Empty>,
}

fn volumes(given: &Given, cwd: &str) -> Result<Volumes, String> {
    let mut volumes = Volumes::default();
    for spec in given.list("volume") {
        match volume::parse(&spec, cwd)? {
            volume::Volume::Anonymous(path) => drop(volumes.anonymous.insert(path, Empty::default())),
            volume::Volume::Bind(bind) => {
                if !volumes.binds.contains(&bind) {
                    volumes.binds.push(bind);
                }
            }
        }
    }
    Ok(volumes)
}

fn container_config(given: &Given, around: &Surroundings<'_>) -> Result<ContainerConfig, String> {
    let attach: Vec<String> =
        given.list("attach").iter().filter_map(|stream| opts::attach(stream).ok()).collect();
    let open_stdin = given.bool("interactive");
    let attached = |stream: &str, default: bool| {
        if attach.is_empty() { default } else { attach.iter().any(|name| name == stream) }
    };
    let attach_stdin = attached("stdin", open_stdin);
    let labels = env::labels(&given.list("label-file"), &given.list("label"))?;
    let mut values = around.proxies.clone();
    values.extend(given.list("env"));
    let entrypoint = given.text_opt("entrypoint").map(|text| vec![text.to_owned()]);
    Ok(ContainerConfig {
        hostname: given.text("hostname").to_owned(),
        domainname: given.text("domainname").to_owned(),
        user: given.text("user").to_owned(),
        attach_stdin,
        attach_stdout: attached("stdout", true),
        attach_stderr: attached("stderr", true),
        tty: given.bool("tty"),
        open_stdin,
        stdin_once: open_stdin && attach_stdin,
        env: some(env::collect(&given.list("env-file"), &values, around.environment)?),
        cmd: some(given.arguments.get(1..).unwrap_or_default().to_vec()),
        healthcheck: health::config(given)?,
        image: given.argument(0).to_owned(),
        working_dir: given.text("workdir").to_owned(),
        entrypoint,
        labels: Some(opts::key_values(&labels)),
        stop_signal: given.text("stop-signal").to_owned(),
        stop_timeout: given.int("stop-timeout"),
        ..ContainerConfig::default()
    })
}

fn host_config(given: &Given, around: &Surroundings<'_>) -> Result<HostConfig, String> {
    let restart_policy = restart::parse(given.text_opt("restart").unwrap_or("no"))?;
    if given.bool("rm") && !matches!(restart_policy.name.as_str(), "" | "no") {
        return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
    }
    let security = security::parse(&given.list("security-opt"))?;
    let networks = networks(given)?;
    let mut host = HostConfig {
        container_id_file: given.text("cidfile").to_owned(),
        log_config: log_config(given)?,
        network_mode: networks.first().map_or_else(|| "default".to_owned(), |network| network.target.clone()),
        restart_policy,
        auto_remove: given.bool("rm"),
        volume_driver: given.text("volume-driver").to_owned(),
        volumes_from: some(given.list("volumes-from")),
        annotations: maybe_map(given, "annotation"),
        cgroupns_mode: given.text("cgroupns").to_owned(),
        dns: Some(given.list("dns").iter().filter_map(|address| opts::ip_address(address).ok()).collect()),
        dns_options: Some([given.list("dns-option"), given.list("dns-opt")].concat()),
        dns_search: Some(
            given.list("dns-search").iter().filter_map(|domain| opts::dns_search(domain).ok()).collect(),
        ),
        extra_hosts: some(
            given.list("add-host").iter().filter_map(|host| opts::extra_host(host).ok()).collect(),
        ),
        group_add: some(given.list("group-add")),
        ipc_mode: given.text("ipc").to_owned(),
        links: some(given.list("link")),
        oom_score_adj: given.int("oom-score-adj").unwrap_or(0),
        pid_mode: given.text("pid").to_owned(),
        privileged: given.bool("privileged"),
        publish_all_ports: given.bool("publish-all"),
        readonly_rootfs: given.bool("read-only"),
        security_opt: security.options,
        storage_opt: storage_options(given)?,
        tmpfs: tmpfs(given),
        uts_mode: given.text("uts").to_owned(),
        userns_mode: given.text("userns").to_owned(),
        shm_size: given.bytes("shm-size").unwrap_or(0),
        sysctls: maybe_map(given, "sysctl"),
        runtime: given.text("runtime").to_owned(),
        isolation: given.text("isolation").to_owned(),
        mounts: mounts(given, around)?,
        init: given.has("init").then(|| given.bool("init")),
        ..HostConfig::default()
    };
    (host.cap_add, host.cap_drop) = capability::effective(&given.list("cap-add"), &given.list("cap-drop"));
    if security.plain_system_paths {
        host.masked_paths = Some(Vec::new());
        host.readonly_paths = Some(Vec::new());
    }
    resources(&mut host, given)?;
    Ok(host)
}

fn resources(host: &mut HostConfig, given: &Given) -> Result<(), String> {
    let int = |name: &str| given.int(name).unwrap_or(0);
    host.cpu_shares = int("cpu-shares");
    host.memory = given.bytes("memory").unwrap_or(0);
    host.nano_cpus = given.text_opt("cpus").map_or(Ok(0), opts::size::nano_cpus)?;
    given.text("cgroup-parent").clone_into(&mut host.cgroup_parent);
    host.blkio_weight = u16::try_from(int("blkio-weight")).unwrap_or(u16::MAX);
    host.blkio_weight_device = Some(each(given, "blkio-weight-device", device::weight)?);
    host.blkio_device_read_bps = Some(each(given, "device-read-bps", device::rate)?);
    host.blkio_device_write_bps = Some(each(given, "device-write-bps", device::rate)?);
    host.blkio_device_read_iops = Some(each(given, "device-read-iops", device::count)?);
    host.blkio_device_write_iops = Some(each(given, "device-write-iops", device::count)?);
    host.cpu_period = int("cpu-period");
    host.cpu_quota = int("cpu-quota");
    host.cpu_realtime_period = int("cpu-rt-period");
    host.cpu_realtime_runtime = int("cpu-rt-runtime");
    given.text("cpuset-cpus").clone_into(&mut host.cpuset_cpus);
    given.text("cpuset-mems").clone_into(&mut host.cpuset_mems);
    devices(host, given)?;
    host.device_cgroup_rules = some(given.list("device-cgroup-rule"));
    host.memory_reservation = given.bytes("memory-reservation").unwrap_or(0);
    host.memory_swap = given.bytes("memory-swap").unwrap_or(0);
    host.memory_swappiness = Some(given.int("memory-swappiness").unwrap_or(-1));
    host.oom_kill_disable = Some(given.bool("oom-kill-disable"));
    host.pids_limit = Some(int("pids-limit"));
    host.ulimits = Some(each(given, "ulimit", ulimit::parse)?);
    host.cpu_count = int("cpu-count");
    host.cpu_percent = int("cpu-percent");
    host.io_maximum_iops = u64::try_from(int("io-maxiops")).unwrap_or(0);
    host.io_maximum_bandwidth = u64::try_from(given.bytes("io-maxbandwidth").unwrap_or(0)).unwrap_or(0);
    Ok(())
}

fn each<T>(given: &Given, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    given.list(name).iter().map(|value| read(value)).collect()
}

/// Devices of the host, and requests that a device plugin or CDI answers.
fn devices(host: &mut HostConfig, given: &Given) -> Result<(), String> {
    let mut devices = Vec::new();
    let mut cdi = Vec::new();
    for value in given.list("device") {
        if device::is_cdi(&value) {
            cdi.push(value);
        } else {
            devices.push(device::parse(&value)?);
        }
    }
    host.devices = Some(devices);
    let mut requests = each(given, "gpus", gpus::parse)?;
    if !cdi.is_empty() {
        requests.push(DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: Some(cdi),
            ..DeviceRequest::default()
        });
    }
    host.device_requests = some(requests);
    Ok(())
}

fn maybe_map(given: &Given, name: &str) -> Option<BTreeMap<String, String>> {
    let map = opts::key_values(&given.list(name));
    (!map.is_empty()).then_some(map)
}

fn log_config(given: &Given) -> Result<LogConfig, String> {
    let driver = given.text("log-driver");
    let options = given.list("log-opt");
    if driver == "none" && !options.is_empty() {
        return Err(format!("invalid logging opts for driver {driver}"));
    }
    Ok(LogConfig { r#type: driver.to_owned(), config: Some(opts::key_values(&options)) })
}

fn storage_options(given: &Given) -> Result<Option<BTreeMap<String, String>>, String> {
    let options = given.list("storage-opt");
    if options.iter().any(|option| !option.contains('=')) {
        return Err("invalid storage option".to_owned());
    }
    Ok((!options.is_empty()).then(|| opts::key_values(&options)))
}

fn tmpfs(given: &Given) -> Option<BTreeMap<String, String>> {
    let map: BTreeMap<String, String> = given
        .list("tmpfs")
        .iter()
        .map(|value| {
            let (path, options) = value.split_once(':').unwrap_or((value, ""));
            (path.to_owned(), options.to_owned())
        })
        .collect();
    (!map.is_empty()).then_some(map)
}

fn mounts(given: &Given, around: &Surroundings<'_>) -> Result<Option<Vec<Mount>>, String> {
    let mut mounts = given
        .list("mount")
        .iter()
        .map(|value| mount::parse(value, around.cwd))
        .collect::<Result<Vec<_>, _>>()?;
    if given.bool("use-api-socket") {
        mounts.push(Mount {
            r#type: "bind".to_owned(),
            source: around.socket.clone(),
            target: "/var/run/docker.sock".to_owned(),
            bind_options: Some(yare_api::BindOptions::default()),
            ..Mount::default()
        });
    }
    Ok(some(mounts))
}

/// The networks asked for, in order.
fn networks(given: &Given) -> Result<Vec<network::Attachment>, String> {
    [given.list("network"), given.list("net")].concat().iter().map(|value| network::parse(value)).collect()
}

type Endpoints = BTreeMap<String, Option<yare_api::EndpointSettings>>;

fn endpoints(given: &Given) -> Result<Endpoints, String> {
    let mut networks = networks(given)?;
    let given_some = !networks.is_empty();
    if !given_some {
        networks.push(network::Attachment { target: "default".to_owned(), ..network::Attachment::default() });
    }
    let user_defined = networks.iter().filter(|network| network::is_user_defined(&network.target)).count();
    apply_flags(&mut networks[0], given)?;
    let alone = given_some && networks.len() == 1;
    let mut endpoints = Endpoints::new();
    for network in &networks {
        check_endpoint(network)?;
        let endpoint = network.endpoint();
        // A single plain network is left to the engine, as Docker's client always did.
        if alone && endpoint == yare_api::EndpointSettings::default() {
            continue;
        }
        if endpoints.insert(network.target.clone(), Some(endpoint)).is_some() {
            return Err(format!("network {} is specified multiple times", opts::quote(&network.target)));
        }
    }
    if given_some && user_defined > 0 && user_defined < networks.len() {
        return Err(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                .to_owned(),
        );
    }
    Ok(endpoints)
}

fn check_endpoint(network: &network::Attachment) -> Result<(), String> {
    if network.target.trim().is_empty() {
        return Err("no name set for network".to_owned());
    }
    if !network::is_user_defined(&network.target) {
        if !network.aliases.is_empty() {
            return Err("network-scoped aliases are only supported for user-defined networks".to_owned());
        }
        if !network.links.is_empty() {
            return Err("links are only supported for user-defined networks".to_owned());
        }
    }
    Ok(())
}

/// `--network-alias`, `--ip` and the like belong to the first network.
fn apply_flags(network: &mut network::Attachment, given: &Given) -> Result<(), String> {
    let both = |flag: &str, what: &str| {
        Err(format!("conflicting options: cannot specify both --{flag} and per-network {what}"))
    };
    let aliases = [given.list("network-alias"), given.list("net-alias")].concat();
    if !aliases.is_empty() {
        if !network.aliases.is_empty() {
            return both("network-alias", "alias");
        }
        network.aliases = aliases;
    }
    let links = given.list("link");
    if !links.is_empty() && network::is_user_defined(&network.target) {
        network.links = links;
    }
    let (ip, ip6, mac) = (given.text("ip"), given.text("ip6"), given.text("mac-address"));
    if !ip.is_empty() {
        if !network.ipv4.is_empty() {
            return both("ip", "IPv4 address");
        }
        ip.clone_into(&mut network.ipv4);
    }
    if !ip6.is_empty() {
        if !network.ipv6.is_empty() {
            return both("ip6", "IPv6 address");
        }
        ip6.clone_into(&mut network.ipv6);
    }
    let link_local = given.list("link-local-ip");
    if !link_local.is_empty() {
        if !network.link_local.is_empty() {
            return both("link-local-ip", "link-local IP addresses");
        }
        network.link_local = link_local;
    }
    if !mac.is_empty() {
        if !network.mac_address.is_empty() {
            return both("mac-address", "MAC address");
        }
        opts::mac_address(mac)?;
        mac.trim().clone_into(&mut network.mac_address);
    }
    Ok(())
}
