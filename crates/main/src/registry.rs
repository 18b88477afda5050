//! `yare registry serve|gc|scrub|usage|user`: from the command line to a serving, collected or scrubbed registry.

use crate::daemon::{log, raise_open_files, shutdown_signal};
use std::fmt::Write as _;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use yare_distribution::Proxies;
use yare_errdefs::{Error, Result};
use yare_registry::{Collected, Config, Difference, Holdings, Outbound, Registry, RuleStatus, Scrubbed};

const HELP: &str = "Usage:  yare registry COMMAND [OPTIONS]

An OCI registry over local files, a bucket, or the engine's own images

Commands:
  enable   Serve the engine's images from now on; see yare registry enable --help
  disable  Serve them no more
  status   Show whether they are served, and how
  serve    Serve a registry
  gc       Remove what nobody needs, also while the registry is served
  usage    Show what repositories hold, how much of their quotas that is, and when it was last used
  user     Read a password from standard input and print a line for the htpasswd file: user NAME
  replicate         Compare all [[replicate]] rules now, and copy what differs; --dry-run says what that is
  replicate status  How far they are
  scrub    Read everything and find what is damaged, also while the registry is served

Options:
  --root DIR           The folder with everything
  --config FILE        A configuration (TOML); see docs/registry.md
  --listen ADDRESS     serve: an address such as 127.0.0.1:5000 or :5000 (default 127.0.0.1:5000)
  --dry-run            gc, scrub, replicate: only say what would be done
  --json               gc, scrub, replicate, usage: print JSON
  --log-level LEVEL    trace, debug, info, warn or error (default info)
";

/// The command line, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    root: Option<PathBuf>,
    config: Option<PathBuf>,
    listen: Vec<String>,
    dry_run: bool,
    json: bool,
    log_level: Option<String>,
}

/// Runs `yare registry ARGS` and gives the exit code.
pub(crate) fn main(args: &[String]) -> i32 {
    let Some((command, rest)) = args.split_first() else { return crate::say(HELP) };
    if args.iter().any(|arg| matches!(arg.as_str(), "--help" | "-h" | "help")) {
        return crate::say(HELP);
    }
    let outcome = if command == "user" { user(rest) } else { run(command, rest) };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            crate::complain(&format!("yare registry {command}"), &error);
            1
        }
    }
}

fn run(command: &str, rest: &[String]) -> Result<i32> {
    let (command, rest) = match (command, rest.split_first()) {
        ("replicate", Some((first, rest))) if first == "status" => ("replicate status", rest),
        _ => (command, rest),
    };
    let arguments = parse(rest)?;
    let level = arguments.log_level.as_deref().unwrap_or("info");
    let level = level.parse().map_err(|_| Error::invalid(format!("invalid log level: {level}")))?;
    let config = config(&arguments)?;
    log::start(level, log::Format::Text);
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("registry")
        .build()
        .map_err(|error| Error::internal("cannot start threads").caused_by(error))?;
    let outcome = runtime.block_on(async {
        match command {
            "serve" => serve(config).await,
            "gc" => gc(config, &arguments).await,
            "scrub" => scrub(config, &arguments).await,
            "usage" => usage(config, &arguments).await,
            "replicate" => replicate(config, &arguments).await,
            "replicate status" => replication(config, &arguments).await,
            other => Err(Error::invalid(format!("no such command: {other}")).with_hint(
                "want serve, gc, scrub, usage, replicate, user, enable, disable or status; see yare registry --help",
            )),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Prints a line for the file of users.
fn user(rest: &[String]) -> Result<i32> {
    let [name] = rest else {
        return Err(Error::invalid("want one name").with_hint("yare registry user NAME < password-file"));
    };
    let mut password = String::new();
    std::io::stdin()
        .lock()
        .take(1024)
        .read_to_string(&mut password)
        .map_err(|error| Error::invalid("cannot read the password").caused_by(error))?;
    let password = password.trim_end_matches(['\r', '\n']);
    Ok(crate::say(&yare_registry::htpasswd_line(name, password)?))
}

fn parse(args: &[String]) -> Result<Arguments> {
    let mut arguments = Arguments::default();
    let mut rest = args.iter();
    while let Some(argument) = rest.next() {
        let (name, attached) = argument
            .split_once('=')
            .map_or((argument.as_str(), None), |(name, value)| (name, Some(value.to_owned())));
        let mut value = || {
            attached
                .clone()
                .or_else(|| rest.next().cloned())
                .ok_or_else(|| Error::invalid(format!("flag needs an argument: {name}")))
        };
        match name {
            "--root" => arguments.root = Some(value()?.into()),
            "--config" => arguments.config = Some(value()?.into()),
            "--listen" => arguments.listen.push(value()?),
            "--log-level" => arguments.log_level = Some(value()?),
            "--dry-run" => arguments.dry_run = true,
            "--json" => arguments.json = true,
            _ => {
                return Err(
                    Error::invalid(format!("unknown flag: {argument}")).with_hint("see yare registry --help")
                );
            }
        }
    }
    Ok(arguments)
}

/// The configuration of the file and of the flags, which may not contradict each other.
fn config(arguments: &Arguments) -> Result<Config> {
    let mut config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let both = |what: &str| {
        Error::invalid(format!(
            "{what} is given both as a flag and in the configuration; take one of them out"
        ))
    };
    if let Some(root) = &arguments.root {
        if !config.root.as_os_str().is_empty() {
            return Err(both("the root"));
        }
        config.root.clone_from(root);
    }
    if !arguments.listen.is_empty() {
        if !config.listen.is_empty() {
            return Err(both("the address to listen on"));
        }
        config.listen.clone_from(&arguments.listen);
    }
    config.outbound = outbound()?;
    let is_of_bucket =
        |name: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix));
    config.environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| is_of_bucket(name))
        .collect();
    if config.listen.is_empty() {
        config.listen.push("127.0.0.1:5000".to_owned());
    }
    Ok(config)
}

/// How upstreams are reached, as the environment says.
fn outbound() -> Result<Outbound> {
    let variable = |name: &str| {
        let upper = std::env::var(name.to_uppercase()).ok();
        upper.or_else(|| std::env::var(name).ok()).unwrap_or_default()
    };
    let proxies = Proxies::new(&variable("http_proxy"), &variable("https_proxy"), &variable("no_proxy"))
        .and_then(|proxies| proxies.with_default(&variable("all_proxy")))
        .map_err(|error| Error::invalid(error.to_string()))?;
    Ok(Outbound {
        proxies,
        authorities: std::env::var_os("SSL_CERT_FILE").map(PathBuf::from).into_iter().collect(),
    })
}

async fn serve(config: Config) -> Result<i32> {
    let listeners =
        config.listen.iter().map(|address| yare_registry::bind(address)).collect::<Result<Vec<_>>>()?;
    let addresses: Vec<String> = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok().map(|address| address.to_string()))
        .collect();
    if config.auth.is_none() && listeners.iter().any(|listener| !is_loopback(listener)) {
        tracing::warn!("everybody who reaches this registry may push and delete: there is no `auth` section");
    }
    let registry = Registry::open(config)?;
    // Before anybody is told that it is ready: without a handler, SIGHUP ends the process.
    let hangup = signal(SignalKind::hangup())
        .map_err(|error| Error::internal("cannot listen for SIGHUP").caused_by(error))?;
    tokio::spawn(reopen_logs(hangup, Arc::clone(&registry)));
    tracing::info!(root = %registry.root().display(), "the registry is ready on {}", addresses.join(" "));
    yare_registry::serve(registry, listeners, shutdown_signal()).await?;
    tracing::info!("ended");
    Ok(0)
}

/// Opens logs anew with each SIGHUP.
async fn reopen_logs(mut hangup: Signal, registry: Arc<Registry>) {
    while hangup.recv().await.is_some() {
        registry.reopen_logs();
    }
}

fn is_loopback(listener: &std::net::TcpListener) -> bool {
    listener.local_addr().is_ok_and(|address| address.ip().is_loopback())
}

/// Asks the process that serves the root, or opens the root when there is none.
async fn gc(config: Config, arguments: &Arguments) -> Result<i32> {
    let what = if arguments.dry_run { "/gc?dry-run" } else { "/gc" };
    let collected = match yare_registry::ask(&config.root, what).await? {
        Some(answer) => read(&answer)?,
        None => {
            let registry = Registry::open(config)?;
            let collected = yare_registry::collect(&registry, arguments.dry_run).await?;
            registry.close().await;
            collected
        }
    };
    Ok(print(arguments, &collected, collected_text))
}

async fn scrub(config: Config, arguments: &Arguments) -> Result<i32> {
    let what = if arguments.dry_run { "/scrub?dry-run" } else { "/scrub" };
    let scrubbed = match yare_registry::ask(&config.root, what).await? {
        Some(answer) => read(&answer)?,
        None => {
            let registry = Registry::open(config)?;
            let scrubbed = yare_registry::scrub(&registry, arguments.dry_run).await?;
            registry.close().await;
            scrubbed
        }
    };
    print(arguments, &scrubbed, scrubbed_text);
    Ok(i32::from(!scrubbed.damaged.is_empty()))
}

async fn usage(config: Config, arguments: &Arguments) -> Result<i32> {
    let holdings = match yare_registry::ask(&config.root, "/usage").await? {
        Some(answer) => read(&answer)?,
        None => {
            let registry = Registry::open(config)?;
            let holdings = yare_registry::holdings(&registry).await?;
            registry.close().await;
            holdings
        }
    };
    Ok(print(arguments, &holdings, usage_text))
}

fn usage_text(holdings: &Holdings) -> String {
    let mut text = String::new();
    for quota in &holdings.quotas {
        let _ = writeln!(text, "quota of {}: {} of {} bytes", quota.repositories, quota.used, quota.limit);
    }
    for repository in &holdings.repositories {
        let when = |time: &Option<String>| time.clone().unwrap_or_else(|| "never".to_owned());
        let _ = writeln!(
            text,
            "{}: {} bytes, {} tags, {} manifests, pushed {}, pulled {}",
            repository.name,
            repository.bytes,
            repository.tags,
            repository.manifests,
            when(&repository.pushed),
            when(&repository.pulled)
        );
    }
    if holdings.repositories.is_empty() {
        text.push_str("there is no repository\n");
    }
    text
}

/// Says what a comparison would copy, or asks the process that serves the root to make one.
async fn replicate(config: Config, arguments: &Arguments) -> Result<i32> {
    if !arguments.dry_run {
        let Some(answer) = yare_registry::ask(&config.root, "/replicate").await? else {
            return Err(Error::precondition("nobody serves this registry, and who serves it replicates")
                .with_hint("yare registry serve; --dry-run and status work without"));
        };
        let rules: Vec<String> = read(&answer)?;
        return Ok(print(arguments, &rules, |rules| format!("comparing: {}\n", rules.join(", "))));
    }
    let plan = match yare_registry::ask(&config.root, "/replicate?dry-run").await? {
        Some(answer) => read(&answer)?,
        None => {
            let registry = Registry::open(config)?;
            let plan = yare_registry::replication_plan(&registry).await?;
            registry.close().await;
            plan
        }
    };
    Ok(print(arguments, &plan, plan_text))
}

fn plan_text(plan: &Vec<Difference>) -> String {
    let mut text = String::new();
    for Difference { rule, repository, what, action } in plan {
        let joint = if what.is_empty() || what.contains(':') { "@" } else { ":" };
        let name = format!("{repository}{joint}{what}");
        let _ = writeln!(text, "{rule}: {}: {action}", name.trim_end_matches('@'));
    }
    if plan.is_empty() {
        text.push_str("nothing differs\n");
    }
    text
}

async fn replication(config: Config, arguments: &Arguments) -> Result<i32> {
    let status: Vec<RuleStatus> = match yare_registry::ask(&config.root, "/replicate/status").await? {
        Some(answer) => read(&answer)?,
        None => {
            let registry = Registry::open(config)?;
            let status = yare_registry::replication_status(&registry)?;
            registry.close().await;
            status
        }
    };
    print(arguments, &status, status_text);
    Ok(i32::from(status.iter().any(|rule| rule.failing > 0)))
}

fn status_text(status: &Vec<RuleStatus>) -> String {
    let mut text = String::new();
    for rule in status {
        let _ = writeln!(
            text,
            "{}: {} {}: {} waiting ({} under way, {} failing), lag {} s",
            rule.rule, rule.direction, rule.registry, rule.waiting, rule.running, rule.failing, rule.lag
        );
        for failure in &rule.failures {
            let name = match (failure.repository.as_str(), failure.what.as_str()) {
                ("", _) => "the comparison".to_owned(),
                (repository, "") => format!("the comparison of {repository}"),
                (repository, what) if what.contains(':') => format!("{repository}@{what}"),
                (repository, what) => format!("{repository}:{what}"),
            };
            let _ = writeln!(
                text,
                "  {name} failed {} times, again in {} s: {}",
                failure.times, failure.again, failure.error
            );
        }
    }
    if status.is_empty() {
        text.push_str("there is no [[replicate]] rule\n");
    }
    text
}

fn read<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Result<T> {
    serde_json::from_slice(answer)
        .map_err(|error| Error::internal("the registry's answer is not understood").caused_by(error))
}

fn print<T: serde::Serialize>(arguments: &Arguments, value: &T, text: impl Fn(&T) -> String) -> i32 {
    if arguments.json {
        return crate::say(&format!("{}\n", serde_json::to_string_pretty(value).unwrap_or_default()));
    }
    crate::say(&text(value))
}

fn collected_text(collected: &Collected) -> String {
    let verb = if collected.dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    for tag in &collected.tags {
        let _ = writeln!(text, "{verb} tag {tag}");
    }
    for manifest in &collected.manifests {
        let _ = writeln!(text, "{verb} manifest {manifest}");
    }
    let _ = writeln!(
        text,
        "{verb} {} blobs of {} bytes ({} links of repositories), {} uploads of {} bytes, {} stray files",
        collected.blobs,
        collected.bytes,
        collected.links,
        collected.uploads,
        collected.upload_bytes,
        collected.strays
    );
    text
}

fn scrubbed_text(scrubbed: &Scrubbed) -> String {
    let mut text = String::new();
    for damage in &scrubbed.damaged {
        let _ = writeln!(text, "{}: {} (in {})", damage.digest, damage.what, damage.repositories.join(", "));
    }
    let _ = writeln!(
        text,
        "read {} blobs of {} bytes and {} manifests: {} damaged",
        scrubbed.blobs,
        scrubbed.bytes,
        scrubbed.manifests,
        scrubbed.damaged.len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_errdefs::Classified;

    fn parsed(args: &[&str]) -> Result<Arguments> {
        parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_taken_apart() {
        let arguments = parsed(&["--root", "/x", "--listen=:1", "--listen", ":2", "--dry-run"]).unwrap();
        assert_eq!(arguments.root, Some("/x".into()));
        assert_eq!(arguments.listen, [":1", ":2"]);
        assert!(arguments.dry_run);
        assert!(parsed(&["--root"]).is_err());
        assert!(parsed(&["--nope"]).is_err());
    }

    #[test]
    fn an_unknown_command_says_what_there_is() {
        let error = run("serv", &[]).unwrap_err();
        assert_eq!(error.class(), yare_errdefs::Class::InvalidArgument);
    }

    #[test]
    fn flags_and_the_file_may_not_contradict() {
        let folder = std::env::temp_dir().join(format!("yare-registry-{}", std::process::id()));
        std::fs::write(&folder, "root = '/y'\n").unwrap();
        let file = folder.to_str().unwrap();
        let both = config(&parsed(&["--root", "/x", "--config", file]).unwrap());
        assert!(both.unwrap_err().to_string().contains("both as a flag"));
        let one = config(&parsed(&["--config", file]).unwrap()).unwrap();
        assert_eq!((one.root, one.listen), ("/y".into(), vec!["127.0.0.1:5000".to_owned()]));
        std::fs::remove_file(folder).unwrap();
    }
}
