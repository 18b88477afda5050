//! A request, an image and a host, settled into a plan.

use crate::check::{self, Report};
use crate::init::needs_init;
use crate::modes::{CgroupnsMode, IpcMode, NetworkMode, PidMode, UtsMode};
use crate::plan::{Plan, SeccompChoice};
use crate::security::SecurityOptions;
use crate::{HostFacts, caps, devices, limits, logs, mounts, ports};
use std::collections::BTreeMap;
use yare_api::{ContainerConfig, ContainerCreateRequest, HealthConfig, HostConfig};
use yare_errdefs::Error;
use yare_oci::ImageConfig;
use yare_oci::path::clean;

/// Paths that read as empty.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that cannot be written.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Settles what a container will be.
///
/// The plan's `config` and `host_config` are what inspect shows, its `warnings` what the reply says. What
/// needs the container's id is left to [`Plan::identify`].
///
/// # Errors
/// Everything that is wrong, the one that Docker would report first; none is lost. The texts are Docker's.
pub fn settle(
    request: &ContainerCreateRequest,
    image: &ImageConfig,
    facts: &HostFacts,
) -> Result<Plan, Vec<Error>> {
    let mut report = Report::default();
    let mut config = request.config.clone();
    let mut host_config = request.host_config.clone().unwrap_or_default();

    check::network(&config, &host_config, &mut report);
    check::config(&config, &mut report);
    check::host_config(&host_config, facts, &mut report);
    limits::check(&mut host_config, facts, false, &mut report);
    check::sysctls(&host_config, &mut report);

    crate::merge::merge(&mut config, &image.config);
    with_defaults(&mut host_config, facts);
    if config.working_dir.is_empty() || !config.working_dir.starts_with('/') {
        // An image may say `app`; it is meant from the root.
        config.working_dir = working_dir(&config.working_dir);
    }
    let mut plan = assemble(config, host_config, facts, &mut report);
    if let Some(text) = request.config.labels.as_ref().and_then(|labels| labels.get(crate::idmap::LABEL)) {
        // The user's label alone: an image does not decide whose the host's files are.
        report.take(crate::idmap::by_label(text, &mut plan.mounts));
    }
    if report.errors.is_empty() { Ok(Plan { warnings: report.warnings, ..plan }) } else { Err(report.errors) }
}

fn working_dir(path: &str) -> String {
    if path.is_empty() { String::new() } else { clean(path) }
}

/// What the engine shows for members the request left open.
fn with_defaults(host_config: &mut HostConfig, facts: &HostFacts) {
    let or = |text: &mut String, default: &str| {
        if text.is_empty() {
            default.clone_into(text);
        }
    };
    if ["", "default"].contains(&host_config.network_mode.as_str()) {
        "bridge".clone_into(&mut host_config.network_mode);
    }
    or(&mut host_config.restart_policy.name, "no");
    or(&mut host_config.ipc_mode, "private");
    or(&mut host_config.runtime, &facts.default_runtime);
    if host_config.cgroupns_mode.is_empty() {
        let own = facts.cgroup_version >= 2;
        if own { "private" } else { "host" }.clone_into(&mut host_config.cgroupns_mode);
    }
    if host_config.memory > 0 && host_config.memory_swap == 0 {
        host_config.memory_swap = host_config.memory.saturating_mul(2);
    }
    if host_config.shm_size == 0 {
        host_config.shm_size = facts.shm_size;
    }
    host_config.pids_limit = host_config.pids_limit.filter(|limit| *limit > 0);
    if facts.cgroup_version == 1 {
        host_config.oom_kill_disable.get_or_insert(false);
    }
    logs::with_defaults(&mut host_config.log_config, facts);
    if !host_config.privileged {
        let owned = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        host_config.masked_paths.get_or_insert_with(|| {
            let throttle = facts.thermal_throttle_paths.iter().cloned();
            owned(&MASKED).into_iter().chain(throttle).collect()
        });
        host_config.readonly_paths.get_or_insert_with(|| owned(&READ_ONLY));
    }
}

fn assemble(
    config: ContainerConfig,
    host_config: HostConfig,
    facts: &HostFacts,
    report: &mut Report,
) -> Plan {
    let argv: Vec<String> = config.entrypoint.iter().chain(&config.cmd).flatten().cloned().collect();
    if argv.is_empty() {
        report.error(yare_api::texts::NO_COMMAND);
    }
    if argv.iter().any(|word| word.contains('\0')) {
        report.error("invalid command: it has a null byte");
    }
    let security = report.take(crate::security::parse(list(&host_config.security_opt)));
    let plan = Plan {
        // Where the process ids are another's, an init is not process 1 and has nothing to reap.
        init: needs_init(
            &argv,
            host_config.init,
            facts.init && ["", "private"].contains(&host_config.pid_mode.as_str()),
        ),
        argv,
        env: config.env.clone().unwrap_or_default(),
        working_dir: if config.working_dir.is_empty() { "/".to_owned() } else { clean(&config.working_dir) },
        user: config.user.clone(),
        groups: host_config.group_add.clone().unwrap_or_default(),
        terminal: config.tty,
        console_size: host_config.console_size,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout,
        healthcheck: healthcheck(&config),
        domainname: config.domainname.clone(),
        network_disabled: config.network_disabled,
        shm_size: host_config.shm_size,
        readonly_rootfs: host_config.readonly_rootfs,
        privileged: host_config.privileged,
        no_new_privileges: security.no_new_privileges,
        writable_cgroups: security.writable_cgroups,
        resources: limits::resources(&host_config),
        block_io: limits::block_io_plan(&host_config),
        // The range was checked.
        oom_score_adj: i32::try_from(host_config.oom_score_adj).unwrap_or_default(),
        sysctls: host_config.sysctls.clone().unwrap_or_default(),
        cgroup_parent: host_config.cgroup_parent.clone(),
        annotations: host_config.annotations.clone().unwrap_or_default(),
        ..Plan::default()
    };
    let plan = with_modes(plan, &config, &host_config, facts, report);
    let plan = with_rights(plan, &host_config, security, facts, report);
    let plan = with_mounts(plan, &config, &host_config, report);
    warn_of_relabelling(&plan, facts, report);
    Plan { config, host_config, ..plan }
}

fn with_modes(
    plan: Plan,
    config: &ContainerConfig,
    host_config: &HostConfig,
    facts: &HostFacts,
    report: &mut Report,
) -> Plan {
    let network = NetworkMode::parse(&host_config.network_mode).unwrap_or_default();
    let uts = report.take(UtsMode::parse(&host_config.uts_mode));
    let host_named = network == NetworkMode::Host || uts == UtsMode::Host;
    let hostname = match config.hostname.as_str() {
        "" if host_named => facts.hostname.clone(),
        name => name.to_owned(),
    };
    let empty = BTreeMap::new();
    Plan {
        ports: match network {
            NetworkMode::Host | NetworkMode::None => Vec::new(),
            _ => report.take(ports::plan(host_config.port_bindings.as_ref().unwrap_or(&empty))),
        },
        network,
        pid: report.take(PidMode::parse(&host_config.pid_mode)),
        ipc: report.take(IpcMode::parse(&host_config.ipc_mode)),
        uts,
        cgroupns: report.take(CgroupnsMode::parse(&host_config.cgroupns_mode, facts.cgroup_version)),
        hostname,
        ..plan
    }
}

fn with_rights(
    plan: Plan,
    host_config: &HostConfig,
    security: SecurityOptions,
    facts: &HostFacts,
    report: &mut Report,
) -> Plan {
    let privileged = host_config.privileged;
    report.take(security.check_label(facts));
    let apparmor_profile = security.apparmor_profile(privileged, facts, report);
    let seccomp = match security.seccomp {
        Some(SeccompChoice::Custom(_)) if !facts.seccomp => {
            report.error("seccomp is not enabled in your kernel, cannot run a custom seccomp profile");
            SeccompChoice::Unconfined
        }
        Some(chosen) => chosen,
        None if privileged || !facts.seccomp => SeccompChoice::Unconfined,
        None => facts.seccomp_profile.clone(),
    };
    let (add, drop) = (list(&host_config.cap_add), list(&host_config.cap_drop));
    Plan {
        capabilities: report.take(caps::choose(add, drop, privileged, facts)),
        available_capabilities: caps::available_mask(facts),
        seccomp,
        apparmor_profile,
        masked_paths: paths(&host_config.masked_paths, privileged),
        readonly_paths: paths(&host_config.readonly_paths, privileged),
        devices: report.take(devices::plan(list(&host_config.devices))),
        device_rules: report.take(devices::rules(list(&host_config.device_cgroup_rules))),
        rlimits: report.take(limits::rlimits(list(&host_config.ulimits), facts)),
        ..plan
    }
}

fn with_mounts(plan: Plan, config: &ContainerConfig, host_config: &HostConfig, report: &mut Report) -> Plan {
    let empty = BTreeMap::new();
    let planned = mounts::plan(host_config, config.volumes.as_ref().unwrap_or(&empty));
    let mounts = planned.unwrap_or_else(|errors| {
        report.errors.extend(errors);
        Vec::new()
    });
    let from = list(&host_config.volumes_from).iter().map(|text| mounts::parse_volumes_from(text)).collect();
    let labels = config.labels.clone().unwrap_or_default();
    Plan {
        mounts,
        volumes_from: report.take(from),
        log: report.take(logs::plan(&host_config.log_config, &labels, list(&config.env))),
        ..plan
    }
}

/// Containers are not confined by SELinux here, so that they reach files of any label; others, which are, may
/// count on the label.
fn warn_of_relabelling(plan: &Plan, facts: &HostFacts, report: &mut Report) {
    if !facts.selinux {
        return;
    }
    for mount in &plan.mounts {
        if mount.mode.split(',').any(|word| matches!(word, "z" | "Z")) {
            report.warn(format!(
                "SELinux labels are not built into this Yare: {} keeps its label, option {} discarded.",
                mount.destination, mount.mode
            ));
        }
    }
}

fn list<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

fn paths(paths: &Option<Vec<String>>, privileged: bool) -> Vec<String> {
    if privileged { Vec::new() } else { paths.clone().unwrap_or_default() }
}

fn healthcheck(config: &ContainerConfig) -> Option<HealthConfig> {
    let check = config.healthcheck.as_ref()?;
    let none = check.test.first().is_none_or(|first| first == "NONE" || first.is_empty());
    let mut check = (!none).then(|| check.clone())?;
    if check.on_failure.is_empty()
        && let Some(word) = config.labels.as_ref().and_then(|labels| labels.get(crate::health::LABEL))
    {
        check.on_failure.clone_from(word);
    }
    Some(check)
}
