//! The flags of `yare daemon`, in one table: dockerd's, where they mean the same.

use std::collections::BTreeMap;

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    /// It does what dockerd's does.
    Used,
    /// Accepted and without effect, because Yare always behaves so.
    Always,
    /// Known, and not built: naming it is an error.
    NotBuilt,
}

/// One flag. `key` is its name in the configuration file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    pub(super) key: &'static str,
    pub(super) boolean: bool,
    pub(super) list: bool,
    pub(super) support: Support,
    pub(super) help: &'static str,
}

const fn value(name: &'static str, support: Support, help: &'static str) -> Flag {
    Flag { name, short: None, key: name, boolean: false, list: false, support, help }
}

const fn boolean(name: &'static str, support: Support, help: &'static str) -> Flag {
    Flag { boolean: true, ..value(name, support, help) }
}

const fn list(name: &'static str, key: &'static str, support: Support, help: &'static str) -> Flag {
    Flag { list: true, key, ..value(name, support, help) }
}

const fn short(letter: char, flag: Flag) -> Flag {
    Flag { short: Some(letter), ..flag }
}

use Support::{Always, NotBuilt, Used};

/// All flags, by name.
pub(super) const FLAGS: &[Flag] = &[
    list(
        "allowed-host",
        "allowed-hosts",
        Used,
        "Host names that clients of tcp:// may use, besides localhost and addresses in numbers",
    ),
    value("bip", Used, "Address and prefix of the default bridge, such as 172.20.0.1/16"),
    value(
        "build-cache-max",
        Used,
        "Largest build cache, such as 50g (default a tenth of its filesystem, at most 20GB)",
    ),
    short(
        'b',
        value("bridge", Used, "Name of the default bridge (default yare0); none for no bridge network"),
    ),
    list(
        "cdi-spec-dir",
        "cdi-spec-dirs",
        Used,
        "Folders that describe devices (CDI), an empty name for none (default /etc/cdi, /var/run/cdi)",
    ),
    value(
        "clean-containers",
        Used,
        "Remove containers that have been stopped for so long, such as 30d (default off)",
    ),
    value(
        "clean-images",
        Used,
        "Remove images that no container has and that were unused for so long (default off)",
    ),
    value(
        "clean-min-free",
        Used,
        "Clean when less of the disk is free: 10%, 20g or off (default a twentieth, at most 10GB)",
    ),
    value("cgroup-parent", Used, "Parent cgroup of all containers (default /yare)"),
    value(
        "config-file",
        Used,
        "Configuration file in dockerd's JSON form (default /etc/yare/daemon.json, a user's ~/.config/yare/daemon.json)",
    ),
    list(
        "default-address-pool",
        "default-address-pools",
        Used,
        "Where networks get their subnets, such as base=10.10.0.0/16,size=24 (default Docker's pools)",
    ),
    value(
        "data-root",
        Used,
        "Folder of images, containers and volumes (default /var/lib/yare, a user's ~/.local/share/yare)",
    ),
    short('D', boolean("debug", Used, "Log what happens in detail")),
    value("default-shm-size", Used, "Size of /dev/shm (default 64m)"),
    list(
        "certs-dir",
        "certs-dirs",
        Used,
        "Folders with a folder per registry (default /etc/yare/certs.d, /etc/docker/certs.d)",
    ),
    value(
        "default-stop-timeout",
        Used,
        "Seconds that containers have to end when nobody says otherwise (default 10)",
    ),
    list(
        "default-ulimit",
        "default-ulimits",
        Used,
        "Resource limits of containers, such as nofile=1024:4096",
    ),
    list("dns", "dns", Used, "Resolvers given to containers"),
    list("dns-opt", "dns-opts", Used, "Resolver options given to containers"),
    list("dns-search", "dns-search", Used, "Search domains given to containers"),
    value(
        "exec-root",
        Used,
        "Folder of the state of running containers (default /run/yare, a user's $XDG_RUNTIME_DIR/yare)",
    ),
    boolean("experimental", Always, "Accepted; there are no experimental features to switch on"),
    value("fixed-cidr", Used, "Part of the default bridge's subnet that containers get addresses from"),
    value(
        "fixed-cidr-v6",
        Used,
        "IPv6 subnet of the default bridge, with --ipv6 (default a local one of its own, fd00::/8)",
    ),
    short('G', value("group", Used, "Group that may use the socket (default docker, where it exists)")),
    short(
        'H',
        list(
            "host",
            "hosts",
            Used,
            "Where to listen: unix://PATH, tcp://ADDRESS:PORT, fd:// (default unix://EXEC-ROOT/yare.sock)",
        ),
    ),
    value("http-proxy", Used, "Proxy for registries without TLS (default $HTTP_PROXY)"),
    value("https-proxy", Used, "Proxy for registries with TLS (default $HTTPS_PROXY)"),
    boolean("init", Used, "Built-in init in containers that do not say otherwise (default true)"),
    list(
        "insecure-registry",
        "insecure-registries",
        Used,
        "Registries, or networks of them, that may be without TLS",
    ),
    boolean("install", Used, "Write systemd units for this binary and end"),
    value("ip", Used, "Host address of published ports that name none (default 0.0.0.0)"),
    boolean("ip-forward", Always, "Accepted; forwarding is switched on where the bridge needs it"),
    boolean("ip-masq", Always, "Accepted; the bridge always masquerades"),
    boolean("ip6tables", Always, "Accepted; see iptables"),
    boolean("iptables", Always, "Accepted; Yare keeps its own nftables table and touches no other"),
    boolean("ipv6", Used, "IPv6 on the default bridge"),
    value(
        "keep-compressed-layers",
        Used,
        "How long after a pull its layers are kept compressed, too, or always (default 15s)",
    ),
    list("label", "labels", Used, "Labels of the engine, key=value"),
    boolean("live-restore", Always, "Accepted; containers always survive the engine"),
    value("log-driver", Used, "Log driver of containers: json-file or none (default json-file)"),
    value("log-format", Used, "Format of the engine's own log: text or json (default text)"),
    short('l', value("log-level", Used, "trace, debug, info, warn or error (default info)")),
    list("log-opt", "log-opts", Used, "Options of the log driver, key=value"),
    value("max-concurrent-downloads", Used, "Layers that are fetched at the same time (default 3)"),
    value("max-concurrent-uploads", Used, "Layers that are sent at the same time (default 5)"),
    value("max-download-attempts", Used, "Tries of a request to a registry (default 5)"),
    value("metrics-addr", Used, "Address and port where /metrics is served, and nothing else"),
    value("mtu", Used, "Largest packet on bridges (default 1500, a user's 65520)"),
    value("no-proxy", Used, "Hosts, domains and networks that are reached without proxy (default $NO_PROXY)"),
    short(
        'p',
        value("pidfile", Used, "File that holds the engine's process id (default EXEC-ROOT/yare.pid)"),
    ),
    boolean("raw-logs", Always, "Accepted; logs have no colours unless they go to a terminal"),
    list("registry-mirror", "registry-mirrors", Used, "Mirrors of Docker Hub, asked before it"),
    value(
        "seccomp-profile",
        Used,
        "System call filter of containers: a file, builtin or unconfined (default builtin)",
    ),
    value("shutdown-timeout", Used, "Seconds that requests may go on after SIGTERM (default 15)"),
    value(
        "signature-policy",
        Used,
        "Which images need a signature, and by whom (default /etc/yare/signatures.toml, where it exists)",
    ),
    short('s', value("storage-driver", Used, "overlay2 is the only one")),
    boolean("tcp-without-tls", Used, "Allow -H tcp:// although anybody who reaches it owns this host"),
    boolean("tls", Used, "Use TLS; implied by --tlsverify"),
    value("tlscacert", Used, "Trust certs signed only by this CA (default ~/.docker/ca.pem)"),
    value("tlscert", Used, "Path to TLS certificate file (default ~/.docker/cert.pem)"),
    value("tlskey", Used, "Path to TLS key file (default ~/.docker/key.pem)"),
    boolean("tlsverify", Used, "Use TLS and verify the remote (default true with --tls)"),
    boolean(
        "userland-proxy",
        Always,
        "Accepted; the kernel forwards, and one process carries what it cannot",
    ),
    value("userns-remap", NotBuilt, "User namespaces"),
    boolean("validate", Used, "Check the configuration and end"),
    value(
        "retag-grace",
        Used,
        "Remove an image that lost its last tag to another one when it was unused for so long: keep, delete or a \
         duration (default 72h)",
    ),
    boolean("selinux-enabled", NotBuilt, "SELinux labels"),
    boolean(
        "rootless",
        Used,
        "Set by an engine without root for itself, in the namespaces that it has entered",
    ),
    value("default-runtime", NotBuilt, "OCI runtimes other than the built-in one"),
    value("add-runtime", NotBuilt, "OCI runtimes other than the built-in one"),
    value("authorization-plugin", NotBuilt, "Authorization plugins"),
];

/// Settings that only the configuration file has: the members' JSON.
pub(super) const BUILDER: &str = "builder";
pub(super) const SOCKETS: &str = "sockets";

/// Settings by the names of flags; a list has several values.
pub(super) type Settings = BTreeMap<&'static str, Vec<String>>;

/// Parses the command line after `daemon`.
pub(super) fn parse(args: &[String]) -> Result<Settings, String> {
    let mut settings = Settings::new();
    let mut rest = args.iter();
    while let Some(argument) = rest.next() {
        let (flag, attached) = find(argument)?;
        let value = match (attached, flag.boolean) {
            (Some(value), _) => value,
            (None, true) => "true".to_owned(),
            (None, false) => {
                rest.next().cloned().ok_or_else(|| format!("flag needs an argument: {argument}"))?
            }
        };
        set(&mut settings, flag, value)?;
    }
    Ok(settings)
}

fn find(argument: &str) -> Result<(&'static Flag, Option<String>), String> {
    let unknown = || format!("unknown flag: {argument}\nSee 'yare daemon --help'.");
    if let Some(long) = argument.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        let flag = FLAGS.iter().find(|flag| flag.name == name).ok_or_else(unknown)?;
        return Ok((flag, value.map(str::to_owned)));
    }
    let mut letters = argument.strip_prefix('-').ok_or_else(unknown)?.chars();
    let letter = letters.next().ok_or_else(unknown)?;
    let flag = FLAGS.iter().find(|flag| flag.short == Some(letter)).ok_or_else(unknown)?;
    let attached = letters.as_str();
    let attached = attached.strip_prefix('=').unwrap_or(attached);
    Ok((flag, (!attached.is_empty()).then(|| attached.to_owned())))
}

/// Notes one value after checking that its flag may be used.
pub(super) fn set(settings: &mut Settings, flag: &Flag, value: String) -> Result<(), String> {
    if flag.support == Support::NotBuilt {
        return Err(format!("--{} is not built into this Yare yet ({})", flag.name, flag.help));
    }
    if flag.boolean && !matches!(value.as_str(), "true" | "false" | "1" | "0") {
        return Err(format!("invalid argument {value:?} for --{}: want true or false", flag.name));
    }
    let values = settings.entry(flag.name).or_default();
    if !flag.list {
        values.clear();
    }
    values.push(value);
    Ok(())
}

/// Reads a configuration file in dockerd's form and adds its settings. A setting that is also on the
/// command line is an error, as it is with dockerd.
pub(super) fn add_file(settings: &mut Settings, path: &str, text: &str) -> Result<(), String> {
    let failed = |why: String| format!("unable to configure the engine with file {path}: {why}");
    let file: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| failed(error.to_string()))?;
    let mut from_file = Settings::new();
    let mut both = Vec::new();
    // dockerd's file has the proxies in an object of their own.
    let is_group = |(key, value): &(&String, &serde_json::Value)| *key == "proxies" && value.is_object();
    let proxies = file.get("proxies").and_then(serde_json::Value::as_object);
    let members = file.iter().filter(|entry| !is_group(entry)).chain(proxies.into_iter().flatten());
    for (key, value) in members {
        // Objects in one another, which no flag has.
        if let Some(name) = [BUILDER, SOCKETS].into_iter().find(|name| name == key) {
            from_file.insert(name, vec![value.to_string()]);
            continue;
        }
        let Some(flag) = FLAGS.iter().find(|flag| flag.key == key) else {
            return Err(failed(format!(
                "the following directives don't match any configuration option: {key}"
            )));
        };
        if settings.contains_key(flag.name) {
            both.push(format!("{key}: (from flag: {}, from file: {value})", settings[flag.name].join(",")));
        }
        for value in values(value).map_err(failed)? {
            set(&mut from_file, flag, value).map_err(failed)?;
        }
    }
    if !both.is_empty() {
        return Err(failed(format!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            both.join(", ")
        )));
    }
    settings.extend(from_file);
    Ok(())
}

fn values(value: &serde_json::Value) -> Result<Vec<String>, String> {
    use serde_json::Value;
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Bool(flag) => Ok(vec![flag.to_string()]),
        Value::Number(number) => Ok(vec![number.to_string()]),
        Value::Array(list) => {
            list.iter().map(values).collect::<Result<Vec<_>, _>>().map(|lists| lists.concat())
        }
        Value::Object(map) => {
            let pairs = map
                .iter()
                .map(|(key, value)| values(value).map(|value| format!("{key}={}", value.join(","))));
            pairs.collect()
        }
        Value::Null => Ok(Vec::new()),
    }
}

/// The text of `yare daemon --help`.
pub(super) fn help() -> String {
    let mut text = String::from("Usage:  yare daemon [OPTIONS]\n\nRun the engine\n\nOptions:\n");
    for flag in FLAGS.iter().filter(|flag| flag.support != Support::NotBuilt) {
        let short = flag.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
        text.push_str(&format!("  {short}--{:<18} {}\n", flag.name, flag.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Settings, String> {
        parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn takes_the_forms_of_pflag() {
        let settings =
            parsed(&["-D", "-H", "unix:///a", "-Hunix:///b", "--data-root=/x", "--log-opt", "max-size=1m"])
                .unwrap();
        assert_eq!(settings["debug"], ["true"]);
        assert_eq!(settings["host"], ["unix:///a", "unix:///b"]);
        assert_eq!(settings["data-root"], ["/x"]);
        assert_eq!(settings["log-opt"], ["max-size=1m"]);
        assert!(parsed(&["--nope"]).unwrap_err().contains("unknown flag: --nope"));
        assert!(parsed(&["--bip"]).unwrap_err().contains("needs an argument"));
        assert!(parsed(&["--debug=maybe"]).is_err());
        assert!(parsed(&["--userns-remap", "x"]).unwrap_err().contains("not built"));
    }

    #[test]
    fn a_file_has_dockerds_keys_and_may_not_contradict_a_flag() {
        let mut settings = parsed(&["--data-root", "/x"]).unwrap();
        add_file(&mut settings, "f", r#"{"debug":true,"hosts":["unix:///a"],"log-opts":{"max-size":"1m"},"registry-mirrors":["https://m"],"proxies":{"http-proxy":"http://p"}}"#)
            .unwrap();
        assert_eq!(settings["host"], ["unix:///a"]);
        assert_eq!(settings["log-opt"], ["max-size=1m"]);
        assert_eq!(settings["registry-mirror"], ["https://m"]);
        assert_eq!(settings["http-proxy"], ["http://p"]);
        let error = add_file(&mut settings, "f", r#"{"data-root":"/y"}"#).unwrap_err();
        assert!(error.contains("both as a flag and in the configuration file"), "{error}");
        assert!(add_file(&mut settings, "f", r#"{"nope":1}"#).unwrap_err().contains("don't match any"));
        assert!(add_file(&mut settings, "f", "[").is_err());
    }
}
