//! The engine about itself.

use crate::clock::rfc3339;
use crate::container::Record;
use crate::lifecycle::State;
use crate::{Engine, images, volumes};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use yare_api::{
    Commit, FirewallInfo, IndexInfo, PluginsInfo, RegistryServiceConfig, Runtime, SwarmInfo,
    SystemDataUsageResponse, SystemInfo, SystemVersion, SystemVersionComponent, SystemVersionPlatform,
};
use yare_errdefs::{Classified, Error, Result, chain};
use yare_sys::privilege::Privilege;

/// This Yare's own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An error with its causes and, on lines of their own, what to do about it: what people are shown.
pub fn full_text(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{}\n{hint}", chain(error)),
        None => chain(error),
    }
}

/// What `info` shows.
pub fn info(engine: &Engine) -> SystemInfo {
    let (devices, faults) = crate::devices::discovered(engine);
    SystemInfo {
        discovered_devices: Some(devices),
        warnings: Some(warnings(engine, faults)).filter(|warnings| !warnings.is_empty()),
        ..description(engine)
    }
}

/// What the engine knows of itself: no devices are looked for, and no packet filter is read.
fn description(engine: &Engine) -> SystemInfo {
    let facts = &engine.facts;
    let states: Vec<State> = engine.containers.all().iter().map(|container| container.state()).collect();
    let count = |wanted: &dyn Fn(State) -> bool| {
        i64::try_from(states.iter().filter(|state| wanted(**state)).count()).unwrap_or(i64::MAX)
    };
    let (system, system_version) = crate::facts::operating_system();
    SystemInfo {
        id: engine.engine_id.clone(),
        containers: count(&|_| true),
        containers_running: count(&State::counts_as_running_unpaused),
        containers_paused: count(&|state| state == State::Paused),
        containers_stopped: count(&|state| !state.counts_as_running()),
        images: i64::try_from(engine.images.count()).unwrap_or(i64::MAX),
        driver: "overlay2".to_owned(),
        driver_status: Some(driver_status(engine)),
        plugins: PluginsInfo {
            volume: Some(vec!["local".to_owned()]),
            network: Some(["bridge", "host", "null"].map(str::to_owned).to_vec()),
            authorization: None,
            log: Some(["json-file", "none"].map(str::to_owned).to_vec()),
        },
        memory_limit: facts.has_memory_limit,
        swap_limit: facts.has_swap_limit,
        cpu_cfs_period: facts.has_cpu_quota,
        cpu_cfs_quota: facts.has_cpu_quota,
        cpu_shares: facts.has_cpu_shares,
        cpu_set: facts.has_cpuset,
        pids_limit: facts.has_pids_limit,
        ipv4_forwarding: crate::facts::forwards_ipv4(),
        debug: engine.config.debug,
        n_fd: crate::facts::open_files(),
        oom_kill_disable: facts.cgroup_version == 1,
        n_goroutines: crate::facts::threads(),
        system_time: rfc3339(Some(engine.clock.now())),
        logging_driver: engine.config.log_driver.clone(),
        cgroup_driver: if engine.cgroups.has_groups() { "cgroupfs" } else { "none" }.to_owned(),
        cgroup_version: facts.cgroup_version.to_string(),
        n_events_listener: i64::try_from(engine.events.followers()).unwrap_or(i64::MAX),
        kernel_version: kernel(),
        operating_system: system,
        os_version: system_version,
        os_type: "linux".to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        index_server_address: "https://index.docker.io/v1/".to_owned(),
        registry_config: Some(registries()),
        n_cpu: i64::from(facts.cpus),
        mem_total: i64::try_from(facts.total_memory).unwrap_or(i64::MAX),
        docker_root_dir: engine.config.data_root.display().to_string(),
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        labels: engine.config.labels.clone(),
        server_version: VERSION.to_owned(),
        runtimes: BTreeMap::from([(
            "yare".to_owned(),
            Runtime { path: "yare".to_owned(), ..Runtime::default() },
        )]),
        default_runtime: "yare".to_owned(),
        swarm: SwarmInfo { local_node_state: "inactive".to_owned(), ..SwarmInfo::default() },
        live_restore_enabled: true,
        init_binary: "yare-init".to_owned(),
        containerd_commit: Commit::default(),
        runc_commit: Commit { id: VERSION.to_owned() },
        init_commit: Commit { id: VERSION.to_owned() },
        security_options: security_options(engine),
        firewall_backend: Some(FirewallInfo { driver: "nftables".to_owned(), info: None }),
        cdi_spec_dirs: engine.config.cdi_spec_dirs.iter().map(|path| path.display().to_string()).collect(),
        ..SystemInfo::default()
    }
}

/// Whether this engine is root of nothing but a user namespace.
fn is_rootless() -> bool {
    Privilege::current() == Privilege::Namespace
}

/// What confines containers, in Docker's order.
fn security_options(engine: &Engine) -> Vec<String> {
    let facts = &engine.facts;
    let apparmor = facts.apparmor.then(|| "name=apparmor".to_owned());
    let seccomp = facts.seccomp.then(|| format!("name=seccomp,profile={}", engine.config.seccomp_profile));
    let rootless = is_rootless().then(|| "name=rootless".to_owned());
    apparmor.into_iter().chain(seccomp).chain(rootless).collect()
}

/// What is wrong with this engine and its host: how it was started, what was found then, what others do to the
/// packet filter now, and faults of files that describe devices. Clients show them as they are.
fn warnings(engine: &Engine, faults: Vec<String>) -> Vec<String> {
    let known = engine.config.warnings.iter().chain(&engine.warnings).cloned();
    let all = known.chain(faults).chain(crate::networks::dropping(engine));
    all.map(|warning| format!("WARNING: {warning}")).collect()
}

impl State {
    fn counts_as_running_unpaused(self) -> bool {
        matches!(self, Self::Running | Self::Restarting)
    }
}

fn driver_status(engine: &Engine) -> Vec<[String; 2]> {
    let pair = |name: &str, value: &str| [name.to_owned(), value.to_owned()];
    vec![
        pair("Backing Filesystem", crate::facts::filesystem(&engine.config.data_root)),
        pair("Supports d_type", "true"),
        pair("Using metacopy", "false"),
        pair("Native Overlay Diff", "true"),
        pair("userxattr", if is_rootless() { "true" } else { "false" }),
        pair("Build cache bound", &crate::build::collect::shown(engine)),
        pair("Layer store", "one folder per DiffID, shared by all images"),
        pair("Not part of Yare", "Swarm mode, Windows containers, Docker Desktop extensions"),
    ]
}

fn registries() -> RegistryServiceConfig {
    let hub = IndexInfo { mirrors: Vec::new(), name: "docker.io".to_owned(), official: true, secure: true };
    RegistryServiceConfig {
        index_configs: BTreeMap::from([("docker.io".to_owned(), hub)]),
        insecure_registry_cidrs: vec!["::1/128".to_owned(), "127.0.0.0/8".to_owned()],
        mirrors: None,
    }
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Go's name of this machine's architecture.
fn arch() -> String {
    yare_oci::Platform::host().architecture
}

/// What `version` shows of the server.
pub fn version() -> SystemVersion {
    let newest = yare_api::version::Version::MAX.to_string();
    let oldest = yare_api::version::Version::MIN.to_string();
    let details = BTreeMap::from(
        [
            ("ApiVersion", newest.clone()),
            ("Arch", arch()),
            ("BuildTime", String::new()),
            ("Experimental", "false".to_owned()),
            ("GitCommit", String::new()),
            ("GoVersion", "none (Rust)".to_owned()),
            ("KernelVersion", kernel()),
            ("MinAPIVersion", oldest.clone()),
            ("Os", "linux".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let engine = SystemVersionComponent {
        name: "Engine".to_owned(),
        version: VERSION.to_owned(),
        details: Some(details),
    };
    SystemVersion {
        platform: SystemVersionPlatform { name: "Yare".to_owned() },
        components: vec![engine],
        version: VERSION.to_owned(),
        api_version: newest,
        min_api_version: oldest,
        go_version: "none (Rust)".to_owned(),
        os: "linux".to_owned(),
        arch: arch(),
        kernel_version: kernel(),
        ..SystemVersion::default()
    }
}

/// What is kept on disk, by kind. Numbers of images and of the build cache are counters kept when things were
/// committed; what containers write is walked. `kinds` is empty for all, or of `image`, `container`, `volume`, `build-cache`.
pub async fn disk_usage(engine: &Arc<Engine>, kinds: &[String]) -> Result<SystemDataUsageResponse> {
    const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];
    if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(Error::invalid(format!("unknown object type: {unknown}")));
    }
    let (engine, kinds) = (Arc::clone(engine), kinds.to_vec());
    images::blocking(move || {
        let wanted = |kind: &str| kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind);
        Ok(SystemDataUsageResponse {
            layers_size: if wanted("image") { signed(images_size(&engine)) } else { 0 },
            images: if wanted("image") { Some(image_usage(&engine)?) } else { None },
            containers: wanted("container").then(|| container_usage(&engine)),
            volumes: if wanted("volume") { Some(volume_usage(&engine)?) } else { None },
            build_cache: wanted("build-cache").then(|| crate::build::usage(&engine)),
        })
    })
    .await
}

/// What layers take, in both forms where they have two.
fn images_size(engine: &Engine) -> u64 {
    let usage = engine.images.usage();
    usage.layers + usage.kept
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn image_usage(engine: &Engine) -> Result<Vec<yare_api::ImageSummary>> {
    images::list(engine, &images::ListOptions { all: false, shared_size: true, ..Default::default() })
}

fn container_usage(engine: &Engine) -> Vec<yare_api::ContainerSummary> {
    let mut records: Vec<Arc<Record>> =
        engine.containers.all().iter().map(|container| container.record()).collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.created));
    let summary = |record: &Arc<Record>| {
        let mut summary = crate::containers::list::summary(engine, record, true);
        // Docker forgets the logs.
        summary.size_rw = signed(crate::containers::logs::own_size(engine, record));
        summary
    };
    records.iter().map(summary).collect()
}

fn volume_usage(engine: &Engine) -> Result<Vec<yare_api::volume::Volume>> {
    let mut volumes = volumes::list(engine, &Default::default())?.volumes.unwrap_or_default();
    let users = volumes::all_users(engine);
    for volume in &mut volumes {
        let size = engine.volumes.find(&volume.name).and_then(|volume| volumes::size_of(engine, &volume));
        volume.usage_data = Some(yare_api::VolumeUsageData {
            ref_count: i64::try_from(users.get(&volume.name).copied().unwrap_or(0)).unwrap_or(i64::MAX),
            // As the API has it for "not known".
            size: size.map_or(-1, signed),
        });
    }
    Ok(volumes)
}

/// The engine's numbers in Prometheus' text format.
pub fn metrics(engine: &Engine) -> String {
    let mut text = String::new();
    let containers = engine.containers.all();
    let states =
        [State::Created, State::Running, State::Paused, State::Restarting, State::Exited].map(|state| {
            let count = containers.iter().filter(|container| container.state() == state).count();
            (format!("{{state=\"{state}\"}}"), i64::try_from(count).unwrap_or(i64::MAX))
        });
    gauge(&mut text, "yare_containers", "Containers by state.", &states);
    let plain = |value: i64| [(String::new(), value)];
    gauge(
        &mut text,
        "yare_images",
        "Images.",
        &plain(i64::try_from(engine.images.count()).unwrap_or(i64::MAX)),
    );
    gauge(
        &mut text,
        "yare_layers_bytes",
        "Bytes on disk of all layers, in whatever form.",
        &plain(signed(images_size(engine))),
    );
    gauge(
        &mut text,
        "yare_event_followers",
        "Clients that follow events.",
        &plain(i64::try_from(engine.events.followers()).unwrap_or(0)),
    );
    gauge(
        &mut text,
        "yare_open_files",
        "Open file descriptors of the engine.",
        &plain(crate::facts::open_files()),
    );
    gauge(
        &mut text,
        "yare_start_time_seconds",
        "Start of the engine, seconds since 1970.",
        &plain(engine.started.as_second()),
    );
    dockers_metrics(engine, &mut text);
    text
}

fn gauge(text: &mut String, name: &str, help: &str, rows: &[(String, i64)]) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (labels, value) in rows {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

/// What dockerd calls them, for dashboards that are made for it; of its figures those that are known here.
fn dockers_metrics(engine: &Engine, text: &mut String) {
    let info = description(engine);
    let plain = |value: i64| [(String::new(), value)];
    let states = [
        ("paused", info.containers_paused),
        ("running", info.containers_running),
        ("stopped", info.containers_stopped),
    ];
    gauge(
        text,
        "engine_daemon_container_states_containers",
        "The count of containers in various states",
        &states.map(|(state, count)| (format!("{{state=\"{state}\"}}"), count)),
    );
    gauge(
        text,
        "engine_daemon_engine_cpus_cpus",
        "The number of cpus that the host system of the engine has",
        &plain(info.n_cpu),
    );
    gauge(
        text,
        "engine_daemon_engine_memory_bytes",
        "The number of bytes of memory that the host system of the engine has",
        &plain(info.mem_total),
    );
    gauge(
        text,
        "engine_daemon_events_subscribers_total",
        "The number of current subscribers to events",
        &plain(info.n_events_listener),
    );
    let labels = [
        ("architecture", &info.architecture),
        ("daemon_id", &info.id),
        ("graphdriver", &info.driver),
        ("kernel", &info.kernel_version),
        ("os", &info.operating_system),
        ("os_type", &info.os_type),
        ("os_version", &info.os_version),
        ("version", &info.server_version),
    ];
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels = labels.map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).join(",");
    gauge(
        text,
        "engine_daemon_engine_info",
        "The information related to the engine and the OS it is running on",
        &[(format!("{{{labels}}}"), 1)],
    );
}
