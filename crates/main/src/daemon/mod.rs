//! `yare daemon`: from the command line to a serving engine.

mod builder;
mod flags;
mod install;
mod listen;
pub(crate) mod log;
mod registries;
mod sockets;
mod tls;

use crate::rootless::{self, Places, Standing, Surroundings};
use flags::Settings;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use yare_engine::{AddressPool, Config, Engine, Roots, Ulimit};
use yare_errdefs::{Error, Result};
use yare_shim::Launcher;

/// Where the configuration file is looked for when none is named.
const CONFIG_FILE: &str = "/etc/yare/daemon.json";

/// Everything the daemon needs, settled.
#[derive(Debug)]
struct Plan {
    engine: Config,
    hosts: Vec<String>,
    sockets: Vec<sockets::Restricted>,
    metrics: Option<String>,
    group: Option<String>,
    pidfile: PathBuf,
    log_level: tracing::Level,
    log_format: log::Format,
    tls: tls::Tls,
    allowed_hosts: Vec<String>,
}

/// Runs `yare daemon ARGS` and gives the exit code.
pub(crate) fn main(args: &[String]) -> i32 {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        return crate::say(&flags::help());
    }
    match run(args) {
        Ok(()) => 0,
        Err(error) => {
            crate::complain("yare daemon", &error);
            1
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let mut settings = flags::parse(args).map_err(Error::invalid)?;
    let standing = Standing::of_this_process(is_on(&settings, rootless::FLAG))?;
    let places = standing.places()?;
    read_file(&mut settings, places.as_ref())?;
    if is_on(&settings, "install") {
        return install::install(args, places.as_ref());
    }
    let plan = plan(&settings, places.as_ref())?;
    if is_on(&settings, "validate") {
        crate::say("configuration OK\n");
        return Ok(());
    }
    let surroundings = match standing {
        Standing::Outside => match rootless::enter(&plan.engine, args)? {},
        Standing::Inside => Some(Surroundings::found(&plan.engine.exec_root)?),
        Standing::Root => None,
    };
    begin(plan, surroundings)
}

/// Claims the roots, opens the doors, starts the launcher and serves.
fn begin(mut plan: Plan, surroundings: Option<Surroundings>) -> Result<()> {
    log::start(plan.log_level, plan.log_format);
    // The runtime's file mode mask would otherwise decide modes that are promised.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let roots = Roots::claim(&plan.engine)?;
    let doors = listen::open(&listen::Places {
        hosts: &plan.hosts,
        group: plan.group.as_deref(),
        sole_user: surroundings.is_some(),
        sockets: &plan.sockets,
        metrics: plan.metrics.as_deref(),
        tls: &plan.tls,
        exec_root: &plan.engine.exec_root,
    })?;
    // After the doors, which are the user's.
    if let Some(surroundings) = &surroundings {
        enter_network(surroundings, &mut plan.engine)?;
    }
    // Before the runtime's threads exist: the launcher is a small, single-threaded process.
    let launcher = Launcher::start(&[plan.engine.data_root.clone(), plan.engine.exec_root.clone()])?;
    // After the launcher, so that containers keep the limit this process was given.
    raise_open_files();
    let pidfile = PidFile::write(&plan.pidfile)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("yare")
        .thread_stack_size(1 << 20)
        .build()
        .map_err(|error| Error::internal("cannot start threads").caused_by(error))?;
    let served = runtime.block_on(serve(plan, roots, launcher, doors, surroundings));
    runtime.shutdown_timeout(Duration::from_secs(2));
    drop(pidfile);
    served
}

/// Takes an engine of a user to its network, and tells it where the host's is.
fn enter_network(surroundings: &Surroundings, config: &mut Config) -> Result<()> {
    let outside = surroundings.enter_network()?;
    // Registries of the host's loopback interface are reached, too, and those that answer to its names.
    config.registries.outside = Some(Arc::clone(&outside));
    config.outside = Some(outside);
    config.warnings.extend(surroundings.warning());
    Ok(())
}

/// An engine holds a few descriptors for each container; what the hard limit allows is asked for.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(
    plan: Plan,
    roots: Roots,
    launcher: Launcher,
    doors: Vec<yare_server::Door>,
    surroundings: Option<Surroundings>,
) -> Result<()> {
    let grace = Duration::from_secs(plan.engine.shutdown_timeout.min(5));
    let engine = Engine::open(plan.engine, roots, launcher)?;
    if let Err(error) = crate::embedded::ensure(&engine).await {
        // On a full disk, say: what runs still has to be served.
        tracing::warn!(error = yare_errdefs::chain(&error), "the images of this binary are not there");
    }
    yare_engine::served::restore(&engine).await;
    tracing::info!(hosts = plan.hosts.join(" "), "yare {} is ready", env!("CARGO_PKG_VERSION"));
    listen::notify_ready();
    let options = yare_server::Options { grace, allowed_hosts: plan.allowed_hosts };
    let ending = Arc::clone(&engine);
    let shutdown = async move {
        shutdown_signal().await;
        ending.end();
    };
    let served = yare_server::serve(Arc::clone(&engine), doors, options, shutdown).await;
    tracing::info!("ending; containers run on");
    let close = move || {
        engine.close();
        // While the roots are this engine's: no other one has entered them.
        surroundings.iter().filter(|_| engine.is_idle()).for_each(Surroundings::end);
    };
    tokio::task::spawn_blocking(close)
        .await
        .map_err(|error| Error::internal("cannot close the records").caused_by(error))?;
    served.map_err(|error| Error::internal("cannot serve").caused_by(error))
}

/// Completes on SIGTERM or SIGINT.
pub(crate) async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Adds the settings of the configuration file.
fn read_file(settings: &mut Settings, places: Option<&Places>) -> Result<()> {
    let named = settings.get("config-file").and_then(|values| values.first()).cloned();
    let usual = || match places {
        Some(places) => places.settings.join("daemon.json").display().to_string(),
        None => CONFIG_FILE.to_owned(),
    };
    let path = named.clone().unwrap_or_else(usual);
    match std::fs::read_to_string(&path) {
        Ok(text) => flags::add_file(settings, &path, &text).map_err(Error::invalid),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(Error::invalid(format!("unable to configure the engine with file {path}")).caused_by(error))
        }
    }
}

fn is_on(settings: &Settings, name: &str) -> bool {
    one(settings, name).is_some_and(|value| matches!(value, "true" | "1"))
}

fn one<'a>(settings: &'a Settings, name: &str) -> Option<&'a str> {
    settings.get(name).and_then(|values| values.first()).map(String::as_str)
}

fn many(settings: &Settings, name: &str) -> Vec<String> {
    settings.get(name).cloned().unwrap_or_default()
}

/// What an engine is told unless somebody says otherwise; one of a user has folders of the user's.
fn defaults(places: Option<&Places>) -> Config {
    let defaults = Config::default();
    match places {
        Some(places) => Config {
            data_root: places.data_root.clone(),
            exec_root: places.exec_root.clone(),
            mtu: rootless::MTU,
            ..defaults
        },
        None => defaults,
    }
}

fn plan(settings: &Settings, places: Option<&Places>) -> Result<Plan> {
    let defaults = defaults(places);
    let path = |name: &str, default: PathBuf| one(settings, name).map_or(default, PathBuf::from);
    let text = |name: &str, default: &str| one(settings, name).unwrap_or(default).to_owned();
    let exec_root = absolute(path("exec-root", defaults.exec_root.clone()))?;
    if let Some(driver) =
        one(settings, "storage-driver").filter(|driver| !matches!(*driver, "overlay2" | "overlay"))
    {
        return Err(Error::unimplemented(format!(
            "storage driver {driver} is not built into this Yare; use overlay2"
        )));
    }
    let mut hosts = many(settings, "host");
    if hosts.is_empty() {
        hosts.push(format!("unix://{}", exec_root.join("yare.sock").display()));
    }
    let tls = tls::settings(settings, |name| std::env::var(name).ok())?;
    let engine = Config {
        data_root: absolute(path("data-root", defaults.data_root.clone()))?,
        bridge: text("bridge", &defaults.bridge),
        bip: one(settings, "bip").map(str::to_owned),
        fixed_cidr: one(settings, "fixed-cidr").map(str::to_owned),
        ipv6: is_on(settings, "ipv6"),
        fixed_cidr_v6: one(settings, "fixed-cidr-v6").map(str::to_owned),
        mtu: number(settings, "mtu", defaults.mtu)?,
        publish_ip: number(settings, "ip", IpAddr::V4(Ipv4Addr::UNSPECIFIED))?,
        address_pools: address_pools(&many(settings, "default-address-pool"), defaults.address_pools)?,
        cgroup_parent: text("cgroup-parent", &defaults.cgroup_parent),
        init: one(settings, "init").is_none_or(|value| matches!(value, "true" | "1")),
        log_driver: text("log-driver", &defaults.log_driver),
        log_opts: log_opts(settings)?,
        dns: many(settings, "dns"),
        dns_options: many(settings, "dns-opt"),
        dns_search: many(settings, "dns-search"),
        labels: many(settings, "label"),
        default_ulimits: default_ulimits(&many(settings, "default-ulimit"))?,
        seccomp_profile: text("seccomp-profile", &defaults.seccomp_profile),
        shm_size: shm_size(settings, defaults.shm_size)?,
        stop_timeout: number(settings, "default-stop-timeout", defaults.stop_timeout)?,
        shutdown_timeout: number(settings, "shutdown-timeout", defaults.shutdown_timeout)?,
        registries: registries::settings(settings, places)?,
        max_concurrent_downloads: number(
            settings,
            "max-concurrent-downloads",
            defaults.max_concurrent_downloads,
        )?,
        max_concurrent_uploads: number(settings, "max-concurrent-uploads", defaults.max_concurrent_uploads)?,
        keep_compressed_layers: match one(settings, "keep-compressed-layers") {
            Some(text) => yare_engine::config::keep_compressed_layers(text)?,
            None => defaults.keep_compressed_layers,
        },
        build_cache: build_cache(settings)?,
        cleaning: cleaning(settings)?,
        cdi_spec_dirs: cdi_spec_dirs(settings, defaults.cdi_spec_dirs)?,
        debug: is_on(settings, "debug"),
        hosts: hosts.clone(),
        warnings: tls.warnings(&hosts),
        exec_root: exec_root.clone(),
        outside: None,
        sole_user: places.is_some(),
    };
    Ok(Plan {
        hosts,
        sockets: one(settings, flags::SOCKETS).map_or(Ok(Vec::new()), sockets::settings)?,
        metrics: one(settings, "metrics-addr").filter(|address| !address.is_empty()).map(str::to_owned),
        group: one(settings, "group").map(str::to_owned),
        pidfile: path("pidfile", exec_root.join("yare.pid")),
        log_level: log_level(settings)?,
        log_format: match one(settings, "log-format") {
            None | Some("" | "text") => log::Format::Text,
            Some("json") => log::Format::Json,
            Some(other) => return Err(Error::invalid(format!("invalid log format: {other}"))),
        },
        tls,
        allowed_hosts: allowed_hosts(&many(settings, "allowed-host"))?,
        engine,
    })
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path)
        .map_err(|error| Error::invalid(format!("cannot use the path {}", path.display())).caused_by(error))
}

/// Folders of CDI; an empty name stands for none at all.
fn cdi_spec_dirs(settings: &Settings, default: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    match settings.get("cdi-spec-dir") {
        None => Ok(default),
        Some(given) => {
            given.iter().filter(|path| !path.is_empty()).map(|path| absolute(path.into())).collect()
        }
    }
}

/// Pools by pairs of `base=` and `size=`, in flags or as members of the file's objects.
fn address_pools(texts: &[String], default: Vec<AddressPool>) -> Result<Vec<AddressPool>> {
    let mut pools = Vec::new();
    let mut base = None;
    for part in texts.iter().flat_map(|text| text.split(',')) {
        let wrong = || {
            Error::invalid(format!("invalid default address pool: {part}"))
                .with_hint("give base and size, such as base=10.10.0.0/16,size=24")
        };
        match part.trim().split_once('=') {
            Some(("base", net)) => base = Some(net.parse().map_err(|_| wrong())?),
            Some(("size", size)) => {
                let (net, size) = (base.take().ok_or_else(wrong)?, size.parse().map_err(|_| wrong())?);
                pools.push(AddressPool::new(net, size).ok_or_else(wrong)?);
            }
            _ => return Err(wrong()),
        }
    }
    match base {
        Some(base) => Err(Error::invalid(format!("the default address pool {base} has no size"))),
        None => Ok(if pools.is_empty() { default } else { pools }),
    }
}

fn number<T: std::str::FromStr>(settings: &Settings, name: &str, default: T) -> Result<T> {
    match one(settings, name) {
        None => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| Error::invalid(format!("invalid argument {text:?} for --{name}")))
        }
    }
}

/// Names as a `Host` header has them, without the port.
fn allowed_hosts(names: &[String]) -> Result<Vec<String>> {
    match names.iter().find(|name| name.is_empty() || name.contains([':', '/', '*', ' '])) {
        Some(name) => Err(Error::invalid(format!("invalid argument {name:?} for --allowed-host"))
            .with_hint("give a host name without scheme and port, such as docker")),
        None => Ok(names.to_vec()),
    }
}

/// Limits by name: flags have `name=soft[:hard]`, the file's objects arrive as `name=Hard=N,Name=…,Soft=N`.
fn default_ulimits(texts: &[String]) -> Result<BTreeMap<String, Ulimit>> {
    let limit = |text: &String| {
        let wrong = |why: String| Error::invalid(format!("invalid default ulimit {text:?}: {why}"));
        let text = match text.split_once('=') {
            Some((name, members)) if members.contains('=') => {
                let member = |key: &str| {
                    let found = members.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
                    found.ok_or_else(|| wrong(format!("it has no {key}")))
                };
                format!("{name}={}:{}", member("Soft")?, member("Hard")?)
            }
            _ => text.clone(),
        };
        let limit = yare_cli::parse_ulimit(&text).map_err(wrong)?;
        Ok((limit.name.clone(), limit))
    };
    texts.iter().map(limit).collect()
}

fn shm_size(settings: &Settings, default: i64) -> Result<i64> {
    match one(settings, "default-shm-size") {
        None => Ok(default),
        Some(text) => bytes(text)
            .ok_or_else(|| Error::invalid(format!("invalid argument {text:?} for --default-shm-size"))),
    }
}

/// What goes by itself, and when.
fn cleaning(settings: &Settings) -> Result<yare_engine::cleaning::CleaningSettings> {
    let mut cleaning = yare_engine::cleaning::CleaningSettings::default();
    for name in ["retag-grace", "clean-images", "clean-containers", "clean-min-free"] {
        if let Some(value) = one(settings, name) {
            cleaning.set(name, value)?;
        }
    }
    Ok(cleaning)
}

/// How much the build cache keeps; the flag is the bound, whatever the file says.
fn build_cache(settings: &Settings) -> Result<yare_engine::BuildCacheSettings> {
    let mut cache = match one(settings, flags::BUILDER) {
        Some(text) => builder::settings(text).map_err(Error::invalid)?,
        None => yare_engine::BuildCacheSettings::default(),
    };
    if let Some(text) = one(settings, "build-cache-max") {
        let invalid = || Error::invalid(format!("invalid argument {text:?} for --build-cache-max"));
        let most = builder::bytes(text).flatten().ok_or_else(invalid)?;
        if !cache.rules.is_empty() {
            return Err(Error::invalid(
                "--build-cache-max and rules in builder.gc.policy exclude one another",
            ));
        }
        cache.max_used = Some(most);
    }
    Ok(cache)
}

/// A number of bytes with an optional unit of Docker's: b, k, m, g.
fn bytes(text: &str) -> Option<i64> {
    let (digits, unit) =
        text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let factor: i64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(factor)
}

fn log_opts(settings: &Settings) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::invalid(format!("invalid log option {text:?}: want key=value"))),
    };
    many(settings, "log-opt").iter().map(pair).collect()
}

fn log_level(settings: &Settings) -> Result<tracing::Level> {
    let default = if is_on(settings, "debug") { "debug" } else { "info" };
    let level = one(settings, "log-level").filter(|_| !is_on(settings, "debug")).unwrap_or(default);
    let level = if level == "fatal" || level == "panic" { "error" } else { level };
    level.parse().map_err(|_| Error::invalid(format!("invalid logging level: {level}")))
}

/// The file with the engine's process id; gone when this is dropped.
#[derive(Debug)]
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<Self> {
        use std::io::Write;
        let write = || -> std::io::Result<()> {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
            write!(file, "{}", std::process::id())
        };
        write().map_err(|error| {
            Error::internal(format!("cannot write the pid file {}", path.display())).caused_by(error)
        })?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Left behind it only names a process that is gone.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(args: &[&str], file: &str) -> Result<Plan> {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut settings = flags::parse(&args).map_err(Error::invalid)?;
        flags::add_file(&mut settings, "f", file).map_err(Error::invalid)?;
        plan(&settings, None)
    }

    #[test]
    fn packets_of_a_users_engine_are_as_large_as_its_way_out_takes() {
        let variable = |name: &str| matches!(name, "HOME" | "XDG_RUNTIME_DIR").then(|| "/u".into());
        let places = Places::of_user(&variable).unwrap();
        let mtu = |args: &[&str], places| {
            let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
            plan(&flags::parse(&args).unwrap(), places).unwrap().engine.mtu
        };
        assert_eq!(mtu(&[], Some(&places)), 65520);
        assert_eq!(mtu(&["--mtu", "1400"], Some(&places)), 1400);
        assert_eq!(mtu(&[], None), 1500);
    }

    #[test]
    fn ulimits_are_read_from_flags_and_from_the_objects_of_the_file() {
        let limits = |args: &[&str], file: &str| {
            let limits = planned(args, file)?.engine.default_ulimits;
            Ok::<_, Error>(
                limits.into_values().map(|limit| (limit.name, limit.soft, limit.hard)).collect::<Vec<_>>(),
            )
        };
        let both = vec![("core".to_owned(), 0, 0), ("nofile".to_owned(), 64, 128)];
        assert_eq!(
            limits(&["--default-ulimit", "nofile=64:128", "--default-ulimit=core=0"], "{}").unwrap(),
            both
        );
        let file = r#"{"default-ulimits":{"nofile":{"Name":"nofile","Hard":128,"Soft":64},"core":{"Hard":0,"Soft":0}}}"#;
        assert_eq!(limits(&[], file).unwrap(), both);
        let refused = |file: &str| limits(&[], file).unwrap_err().to_string();
        assert!(refused(r#"{"default-ulimits":{"nofile":{"Hard":128}}}"#).contains("it has no Soft"));
        assert!(
            refused(r#"{"default-ulimits":{"nofiles":{"Hard":1,"Soft":1}}}"#)
                .contains("invalid ulimit type: nofiles")
        );
        assert!(limits(&["--default-ulimit", "nofile=9:1"], "{}").is_err());
    }

    #[test]
    fn allowed_hosts_are_names() {
        let plan = planned(&["--allowed-host", "docker"], "{}").unwrap();
        assert_eq!(plan.allowed_hosts, ["docker"]);
        assert_eq!(planned(&[], r#"{"allowed-hosts":["a","b"]}"#).unwrap().allowed_hosts, ["a", "b"]);
        for wrong in ["tcp://docker", "docker:2375", "*", ""] {
            assert!(planned(&["--allowed-host", wrong], "{}").is_err(), "{wrong}");
        }
    }
}
