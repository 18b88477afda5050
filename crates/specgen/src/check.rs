//! Checks of single members of a create request, in Docker's words.

use crate::HostFacts;
use crate::health;
use crate::modes::NetworkMode;
use yare_api::{ContainerConfig, HostConfig, RestartPolicy};
use yare_errdefs::Error;
use yare_oci::Healthcheck;
use yare_oci::kernel::IPC_SYSCTLS;

/// What is wrong, and what is only worth a warning.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Wrong, in the order found.
    pub(crate) errors: Vec<Error>,
    /// Told to the user.
    pub(crate) warnings: Vec<String>,
}

impl Report {
    /// Notes something wrong with the request.
    pub(crate) fn error(&mut self, text: impl Into<String>) {
        self.errors.push(Error::invalid(text));
    }

    /// Notes something the user should know.
    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// The value, or its error noted and a default.
    pub(crate) fn take<T: Default>(&mut self, result: Result<T, Error>) -> T {
        result.unwrap_or_else(|error| {
            self.errors.push(error);
            T::default()
        })
    }
}

/// What does not go with a network mode.
pub(crate) fn network(config: &ContainerConfig, host_config: &HostConfig, report: &mut Report) {
    let mode = report.take(NetworkMode::parse(&host_config.network_mode));
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let published = host_config.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty());
    let exposed = config.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty());
    let (host, joined) = (mode == NetworkMode::Host, matches!(mode, NetworkMode::Container(_)));
    for (conflict, text) in [
        (joined && !config.hostname.is_empty(), "hostname and the network mode"),
        (
            joined && some(&host_config.links),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (joined && some(&host_config.dns), "dns and the network mode"),
        (joined && some(&host_config.extra_hosts), "custom host-to-IP mapping and the network mode"),
        ((joined || host) && !config.mac_address.is_empty(), "mac-address and the network mode"),
        (
            joined && (published || host_config.publish_all_ports),
            "port publishing and the container type network mode",
        ),
        (joined && exposed, "port exposing and the container type network mode"),
        (host_config.uts_mode == "host" && !config.hostname.is_empty(), "hostname and the UTS mode"),
        (
            host && some(&host_config.links),
            "host type networking can't be used with links. This would result in undefined behavior",
        ),
    ] {
        if conflict {
            report.error(format!("conflicting options: {text}"));
        }
    }
    if host && published {
        report.warn("Published ports are discarded when using host network mode");
    }
}

/// Members that stand alone.
pub(crate) fn config(config: &ContainerConfig, report: &mut Report) {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        report.error(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        ));
    }
    if !config.stop_signal.is_empty() && !is_signal(&config.stop_signal) {
        report.error(format!("invalid signal: {}", config.stop_signal));
    }
    for entry in config.env.iter().flatten() {
        if entry.is_empty() || entry.starts_with('=') || entry.contains('\0') {
            report.error(format!("invalid environment variable: {entry}"));
        }
    }
    if let Some(check) = &config.healthcheck {
        healthcheck(check, report);
    }
    if let Some(word) = config.labels.as_ref().and_then(|labels| labels.get(health::LABEL)) {
        on_failure(word, &format!("label {}", health::LABEL), report);
    }
    if config.hostname.len() > 64 || config.hostname.bytes().any(|byte| byte <= b' ' || byte == b'/') {
        report.error(format!("invalid hostname format: {}", config.hostname));
    }
    user(&config.user, report);
    for port in config.exposed_ports.iter().flatten().map(|(port, _)| port) {
        if port.contains('-') {
            continue;
        }
        if let Err(error) = crate::ports::parse_key(port) {
            report.errors.push(error);
        }
    }
}

/// Numbers must fit; names are looked up when the container starts.
fn user(text: &str, report: &mut Report) {
    let numbers = text.split(':').filter_map(|part| part.parse::<i64>().ok());
    if numbers.into_iter().any(|number| !(0..=i64::from(i32::MAX)).contains(&number)) {
        report.error(format!("uids and gids must be in range 0-{}", i32::MAX));
    }
    if text.contains('\0') || text.matches(':').count() > 1 {
        report.error(format!("unable to find user {text}: no matching entries in passwd file"));
    }
}

fn healthcheck(check: &Healthcheck, report: &mut Report) {
    // A thousandth of a second, in nanoseconds.
    let least = 1_000_000;
    for (value, name) in [
        (check.interval, "Interval"),
        (check.timeout, "Timeout"),
        (check.start_period, "StartPeriod"),
        (check.start_interval, "StartInterval"),
    ] {
        if value != 0 && value < least {
            report.error(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
    }
    if check.retries < 0 {
        report.error("Retries in Healthcheck cannot be negative");
    }
    on_failure(&check.on_failure, "OnFailure in Healthcheck", report);
    let known = ["NONE", "CMD", "CMD-SHELL"];
    if let Some(first) =
        check.test.first().filter(|first| !first.is_empty() && !known.contains(&first.as_str()))
    {
        report.error(format!("Unknown healthcheck type '{first}' (expected 'CMD')"));
    }
}

fn on_failure(word: &str, place: &str, report: &mut Report) {
    if health::OnFailure::parse(word).is_none() {
        report.error(format!("invalid {place} '{word}': must be one of none, kill, restart, stop"));
    }
}

/// Members of the host config that stand alone.
pub(crate) fn host_config(host_config: &HostConfig, facts: &HostFacts, report: &mut Report) {
    restart_policy(&host_config.restart_policy, report);
    if host_config.auto_remove && !["", "no"].contains(&host_config.restart_policy.name.as_str()) {
        report.error("can't create 'AutoRemove' container with restart policy");
    }
    for host in host_config.extra_hosts.iter().flatten() {
        extra_host(host, report);
    }
    if !["", "default"].contains(&host_config.isolation.as_str()) {
        report.error(format!("invalid isolation ({}): linux only supports 'default'", host_config.isolation));
    }
    if host_config.annotations.iter().flatten().any(|(key, _)| key.is_empty()) {
        report.error("invalid Annotations: the empty string is not permitted as an annotation key");
    }
    if host_config.shm_size < 0 {
        report.error("SHM size can not be less than 0");
    }
    if !(-1000..=1000).contains(&host_config.oom_score_adj) {
        report.error(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host_config.oom_score_adj
        ));
    }
    if !["", "host"].contains(&host_config.userns_mode.as_str()) {
        report.error(format!("invalid user namespace mode: {}", host_config.userns_mode));
    }
    if !host_config.runtime.is_empty() && !facts.runtimes.contains(&host_config.runtime) {
        report.error(format!("unknown or invalid runtime name: {}", host_config.runtime));
    }
    if host_config.storage_opt.as_ref().is_some_and(|options| !options.is_empty()) {
        report.error("--storage-opt is supported only for overlay over xfs with 'pquota' mount option");
    }
    cgroup_parent(&host_config.cgroup_parent, report);
    if !facts.ipv4_forwarding && !["host", "none"].contains(&host_config.network_mode.as_str()) {
        report.warn("IPv4 forwarding is disabled. Networking will not work.");
    }
}

fn cgroup_parent(parent: &str, report: &mut Report) {
    if parent.contains('\0') || parent.split('/').any(|part| part == ".." || part == ".") {
        report.error(format!("invalid cgroup parent: {parent}"));
    }
}

/// The restart policy's name and count.
pub(crate) fn restart_policy(policy: &RestartPolicy, report: &mut Report) {
    let count = policy.maximum_retry_count;
    match policy.name.as_str() {
        "" => {}
        "no" | "always" | "unless-stopped" if count != 0 => {
            let more = if count < 0 { " and cannot be negative" } else { "" };
            report.error(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'{more}"
            ));
        }
        "no" | "always" | "unless-stopped" => {}
        "on-failure" if count < 0 => {
            report.error("invalid restart policy: maximum retry count cannot be negative");
        }
        "on-failure" => {}
        unknown => report.error(format!(
            "invalid restart policy: unknown policy '{unknown}'; use one of 'no', 'always', 'on-failure', or \
             'unless-stopped'"
        )),
    }
}

fn extra_host(text: &str, report: &mut Report) {
    let Some((_, ip)) = text.split_once(':').filter(|(name, _)| !name.is_empty()) else {
        report.error(format!("bad format for add-host: {text:?}"));
        return;
    };
    let bare = ip.trim_start_matches('[').trim_end_matches(']');
    if bare != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
        report.error(format!("invalid IP address in add-host: {ip:?}"));
    }
}

/// Kernel parameters that belong to one of the container's own namespaces.
pub(crate) fn sysctls(host_config: &HostConfig, report: &mut Report) {
    let ipc_shared = host_config.ipc_mode == "host";
    let private_net = NetworkMode::parse(&host_config.network_mode).is_ok_and(|mode| mode.is_private());
    for name in host_config.sysctls.iter().flatten().map(|(name, _)| name) {
        let dotted = name.replace('/', ".");
        let ipc = IPC_SYSCTLS.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.");
        if dotted.starts_with("net.") && !dotted.contains("..") {
            if !private_net {
                report.error(format!("sysctl {name:?} not allowed in host network namespace"));
            }
        } else if ipc && !dotted.contains("..") {
            if ipc_shared {
                report.error(format!("sysctl {name:?} is not allowed in the hosts ipc namespace"));
            }
        } else if dotted != "kernel.domainname" || host_config.uts_mode == "host" {
            report.error(format!("sysctl {name:?} is not in a separate kernel namespace"));
        }
    }
}

/// Whether a text names a signal: a number, or a name with or without `SIG`.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| {
        rest.is_empty()
            || rest.strip_prefix(sign).is_some_and(|number| number.parse().is_ok_and(|n: u8| n <= 15))
    };
    SIGNALS.contains(&name)
        || name.strip_prefix("RTMIN").is_some_and(|rest| offset(rest, '+'))
        || name.strip_prefix("RTMAX").is_some_and(|rest| offset(rest, '-'))
}

const SIGNALS: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn first(check: impl FnOnce(&mut Report)) -> String {
        let mut report = Report::default();
        check(&mut report);
        report.errors.first().map(ToString::to_string).unwrap_or_default()
    }

    fn net(config: &str, host_config: &str) -> String {
        let config = serde_json::from_str(config).unwrap();
        let host_config = serde_json::from_str(host_config).unwrap();
        first(|report| network(&config, &host_config, report))
    }

    #[test]
    fn network_conflicts() {
        let joined = r#"{"NetworkMode":"container:a"}"#;
        let conflict = |text: &str| format!("conflicting options: {text}");
        assert_eq!(net(r#"{"Hostname":"h"}"#, joined), conflict("hostname and the network mode"));
        assert_eq!(
            net("{}", r#"{"NetworkMode":"container:a","PortBindings":{"80/tcp":[]}}"#),
            conflict("port publishing and the container type network mode")
        );
        assert_eq!(
            net("{}", r#"{"NetworkMode":"container:a","Dns":["1.1.1.1"]}"#),
            conflict("dns and the network mode")
        );
        assert_eq!(
            net("{}", r#"{"NetworkMode":"container:a","ExtraHosts":["a:1.1.1.1"]}"#),
            conflict("custom host-to-IP mapping and the network mode")
        );
        assert_eq!(
            net(r#"{"ExposedPorts":{"80/tcp":{}}}"#, joined),
            conflict("port exposing and the container type network mode")
        );
        assert_eq!(
            net(r#"{"MacAddress":"x"}"#, r#"{"NetworkMode":"host"}"#),
            conflict("mac-address and the network mode")
        );
        assert_eq!(
            net(r#"{"Hostname":"h"}"#, r#"{"UTSMode":"host"}"#),
            conflict("hostname and the UTS mode")
        );
        assert_eq!(net("{}", r#"{"NetworkMode":"host","PortBindings":{"80/tcp":[]}}"#), "");
    }

    fn host(json: &str) -> String {
        let parsed = serde_json::from_str(json).unwrap();
        first(|report| {
            host_config(&parsed, &HostFacts::default(), report);
            sysctls(&parsed, report);
        })
    }

    #[test]
    fn host_config_members() {
        for (json, text) in [
            (
                r#"{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}"#,
                "can't create 'AutoRemove' container with restart policy",
            ),
            (
                r#"{"RestartPolicy":{"Name":"bogus"}}"#,
                "invalid restart policy: unknown policy 'bogus'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
            ),
            (
                r#"{"RestartPolicy":{"Name":"always","MaximumRetryCount":3}}"#,
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ),
            (
                r#"{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":-1}}"#,
                "invalid restart policy: maximum retry count cannot be negative",
            ),
            (r#"{"ExtraHosts":["a"]}"#, "bad format for add-host: \"a\""),
            (r#"{"ExtraHosts":["a:b"]}"#, "invalid IP address in add-host: \"b\""),
            (r#"{"ExtraHosts":["a:host-gateway","b:::1"]}"#, ""),
            (r#"{"Isolation":"invalid"}"#, "invalid isolation (invalid): linux only supports 'default'"),
            (r#"{"ShmSize":-1}"#, "SHM size can not be less than 0"),
            (r#"{"OomScoreAdj":1001}"#, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
            (r#"{"Runtime":"r"}"#, "unknown or invalid runtime name: r"),
            (r#"{"UsernsMode":"x"}"#, "invalid user namespace mode: x"),
            (r#"{"CgroupParent":"/a/../b"}"#, "invalid cgroup parent: /a/../b"),
            (
                r#"{"NetworkMode":"host","Sysctls":{"net.ipv4.ip_forward":"1"}}"#,
                "sysctl \"net.ipv4.ip_forward\" not allowed in host network namespace",
            ),
            (
                r#"{"Sysctls":{"kernel.panic":"1"}}"#,
                "sysctl \"kernel.panic\" is not in a separate kernel namespace",
            ),
            (
                r#"{"Sysctls":{"net/../kernel/panic":"1"}}"#,
                "sysctl \"net/../kernel/panic\" is not in a separate kernel namespace",
            ),
            (r#"{"Sysctls":{"kernel.shmmax":"1","fs.mqueue.msg_max":"1","net.core.somaxconn":"1"}}"#, ""),
        ] {
            assert_eq!(host(json), text, "{json}");
        }
    }

    fn conf(json: &str) -> String {
        let parsed = serde_json::from_str(json).unwrap();
        first(|report| config(&parsed, report))
    }

    #[test]
    fn config_members() {
        for (json, text) in [
            (
                r#"{"WorkingDir":"rel"}"#,
                "the working directory 'rel' is invalid, it needs to be an absolute path",
            ),
            (r#"{"StopSignal":"FOO"}"#, "invalid signal: FOO"),
            (r#"{"StopSignal":"sigrtmin+3"}"#, ""),
            (r#"{"StopSignal":"9"}"#, ""),
            (r#"{"Env":["=x"]}"#, "invalid environment variable: =x"),
            (r#"{"Env":["A","B="]}"#, ""),
            (r#"{"Healthcheck":{"Interval":1000}}"#, "Interval in Healthcheck cannot be less than 1ms"),
            (r#"{"Healthcheck":{"Retries":-1}}"#, "Retries in Healthcheck cannot be negative"),
            (r#"{"User":"4294967295"}"#, "uids and gids must be in range 0-2147483647"),
            (r#"{"User":"0:-1"}"#, "uids and gids must be in range 0-2147483647"),
            (r#"{"User":"nobody:nogroup"}"#, ""),
            (r#"{"ExposedPorts":{"x/tcp":{}}}"#, "invalid port specification: \"x\""),
        ] {
            assert_eq!(conf(json), text, "{json}");
        }
    }
}
