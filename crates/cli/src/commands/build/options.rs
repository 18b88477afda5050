//! The flags of `build` as the request that the engine gets, and what is done with its answer.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use yare_api::build::BuildRequest;

use super::attributes::{self, Output, SecretSource};
use crate::context::Context;
use crate::flags::Given;
use crate::opts::{self, quote};

/// Most bytes of one secret, as in BuildKit.
const MAX_SECRET: u64 = 500 * 1024;
/// The period that `--cpus` is counted in, in microseconds: the kernel's default.
const PERIOD: i64 = 100_000;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Display {
    /// A moving picture of the graph.
    Terminal,
    /// Lines, as BuildKit prints them.
    Plain,
    /// Nothing.
    Quiet,
    /// Every status as JSON.
    Raw,
}

/// What a command line asks for.
#[derive(Debug)]
pub(super) struct Plan {
    /// The request, still without contexts, Dockerfile and outputs.
    pub request: BuildRequest,
    /// What is made of the result.
    pub outputs: Vec<Output>,
    /// How progress is shown.
    pub display: Display,
    /// Print the image's id when done.
    pub print_id: bool,
    /// Where the image's id is written.
    pub iidfile: Option<String>,
    /// Where the metadata are written.
    pub metadata_file: Option<String>,
    /// The answer to `--call` is printed as JSON.
    pub answer_as_json: bool,
}

/// Reads the flags. The errors are those of docker CLI 28 with buildx.
pub(super) fn plan(cx: &Context, given: &Given) -> Result<Plan, String> {
    refuse_what_is_not_ours(given)?;
    let mut request = BuildRequest::default();
    names_and_arguments(cx, given, &mut request)?;
    limits(given, &mut request)?;
    cache(cx, given, &mut request)?;
    attestations(given, &mut request.attest)?;
    for text in given.list("secret") {
        let secret = attributes::secret(&text)?;
        let value = secret_value(cx, &secret.id, secret.source)?;
        request.secrets.insert(secret.id, STANDARD.encode(value));
    }
    for text in given.list("ssh") {
        let (id, socket) = agent(cx, &text)?;
        request.ssh.insert(id, socket);
    }
    request.network_mode = given.text("network").to_owned();
    request.squash = given.bool("squash");
    request.explain = given.bool("explain") || given.bool("why-miss");
    request.verify = given.bool("verify");
    request.secret_scan = choice(given, "secret-scan", &["off", "warn", "fail"])?;
    let answer_as_json = call(given, &mut request)?;
    let display = display(cx, given)?;
    let path =
        |flag: &str| given.text_opt(flag).filter(|path| !path.is_empty()).map(|path| cx.absolute(path));
    let outputs = outputs(cx, given)?;
    // What else goes to standard output must not end in an id.
    let is_taken = outputs.iter().any(|output| output.destination == Some(attributes::Destination::Stdout));
    Ok(Plan {
        outputs,
        display,
        print_id: display == Display::Quiet && request.call.is_empty() && !is_taken,
        iidfile: path("iidfile"),
        metadata_file: path("metadata-file"),
        answer_as_json,
        request,
    })
}

/// Flags that Docker's client takes and that mean nothing here, or cannot be done.
fn refuse_what_is_not_ours(given: &Given) -> Result<(), String> {
    if !matches!(given.text("isolation").to_lowercase().as_str(), "" | "default") {
        let quoted = quote(given.text("isolation"));
        return Err(format!("invalid isolation: {quoted}: on Linux only \"default\" is possible"));
    }
    if !matches!(given.text("builder"), "" | "default") {
        return Err(format!("no builder {} found", quote(given.text("builder"))));
    }
    if given.has("security-opt") {
        return Err("the daemon on this platform does not support setting security options on build".into());
    }
    Ok(())
}

fn names_and_arguments(cx: &Context, given: &Given, request: &mut BuildRequest) -> Result<(), String> {
    for tag in given.list("tag") {
        match yare_oci::Reference::parse(&tag) {
            Ok(reference) if reference.digest().is_none() => request.tags.push(tag),
            Ok(_) => return Err(format!("invalid tag {}: a name with a digest is no tag", quote(&tag))),
            Err(error) => return Err(format!("invalid tag {}: {error}", quote(&tag))),
        }
    }
    let proxies = &cx.config().proxies;
    let proxy = proxies.get(&cx.address.to_string()).or_else(|| proxies.get("default"));
    let proxies = proxy.map(crate::config::Proxy::variables).unwrap_or_default();
    for argument in proxies.into_iter().chain(given.list("build-arg")) {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument.clone(), cx.environment.text(&argument)),
        };
        if name.is_empty() {
            return Err(format!("invalid build argument {}: the name is empty", quote(&argument)));
        }
        request.build_args.insert(name, value);
    }
    // Every build on every day is to come out the same, so the date is one of its arguments.
    if let Some(epoch) = cx.environment.nonempty("SOURCE_DATE_EPOCH") {
        request.build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(Some(epoch));
    }
    request.labels = opts::key_values(&given.list("label"));
    for text in given.list("annotation") {
        let annotations = opts::annotation::parse(&text)?;
        request.annotations.extend(annotations.into_iter().map(|one| (one.name(), one.value)));
    }
    given.text("target").clone_into(&mut request.target);
    let mut platforms = given.comma_list("platform");
    if platforms.is_empty() {
        platforms.extend(cx.environment.nonempty("DOCKER_DEFAULT_PLATFORM"));
    }
    for platform in platforms {
        match yare_oci::Platform::parse(&platform) {
            Ok(_) if request.platforms.contains(&platform) => {}
            Ok(_) => request.platforms.push(platform),
            Err(error) => return Err(format!("invalid platform {}: {error}", quote(&platform))),
        }
    }
    Ok(())
}

/// What a step may use, and what it sees of the host.
fn limits(given: &Given, request: &mut BuildRequest) -> Result<(), String> {
    request.extra_hosts =
        given.list("add-host").iter().map(|host| opts::extra_host(host)).collect::<Result<_, String>>()?;
    for text in given.list("ulimit") {
        let ulimit = opts::ulimit::parse(&text)?;
        request.ulimits.push(format!("{}={}:{}", ulimit.name, ulimit.soft, ulimit.hard));
    }
    request.shm_size = given.bytes("shm-size").unwrap_or(0);
    given.text("cgroup-parent").clone_into(&mut request.cgroup_parent);
    request.memory = given.bytes("memory").unwrap_or(0);
    request.memory_swap = given.bytes("memory-swap").unwrap_or(0);
    request.cpu_shares = given.int("cpu-shares").unwrap_or(0);
    request.cpu_period = given.int("cpu-period").unwrap_or(0);
    request.cpu_quota = given.int("cpu-quota").unwrap_or(0);
    if let Some(cpus) = given.text_opt("cpus") {
        if given.has("cpu-period") || given.has("cpu-quota") {
            return Err("conflicting options: --cpus and --cpu-period or --cpu-quota".to_owned());
        }
        request.cpu_period = PERIOD;
        request.cpu_quota = opts::size::nano_cpus(cpus)? / (1_000_000_000 / PERIOD);
    }
    given.text("cpuset-cpus").clone_into(&mut request.cpuset_cpus);
    given.text("cpuset-mems").clone_into(&mut request.cpuset_mems);
    for entitlement in given.comma_list("allow") {
        if let (true, Some(device)) = (entitlement.starts_with("alias="), request.allow.last_mut())
            && device.starts_with("device=")
        {
            // It belongs to the device before it.
            *device += &format!(",{entitlement}");
            continue;
        }
        let name = entitlement.split('=').next().unwrap_or_default();
        if !matches!(name, "network.host" | "security.insecure" | "device") {
            return Err(format!("invalid entitlement: {entitlement}"));
        }
        request.allow.push(entitlement);
    }
    Ok(())
}

fn cache(cx: &Context, given: &Given, request: &mut BuildRequest) -> Result<(), String> {
    request.no_cache = given.bool("no-cache");
    request.no_cache_filter = given.comma_list("no-cache-filter");
    if request.no_cache && !request.no_cache_filter.is_empty() {
        return Err("--no-cache and --no-cache-filter cannot currently be used together".to_owned());
    }
    request.pull = given.bool("pull");
    let entries = |flag: &str| -> Result<Vec<_>, String> {
        let absolute = |mut entry: attributes::Attributes| {
            if entry.get("type").is_some_and(|kind| kind == "local") {
                for (_, path) in entry.iter_mut().filter(|(name, _)| matches!(name.as_str(), "src" | "dest"))
                {
                    *path = cx.absolute(path);
                }
            }
            entry
        };
        given.list(flag).iter().map(|text| attributes::cache(text).map(absolute)).collect()
    };
    request.cache_from = entries("cache-from")?;
    request.cache_to = entries("cache-to")?;
    Ok(())
}

fn attestations(given: &Given, all: &mut BTreeMap<String, BTreeMap<String, String>>) -> Result<(), String> {
    for text in given.list("attest") {
        attributes::attestation(all, None, &text)?;
    }
    for kind in ["sbom", "provenance"] {
        if let Some(text) = given.text_opt(kind) {
            attributes::attestation(all, Some(kind), text)?;
        }
    }
    Ok(())
}

/// The value of a secret. It goes to the engine and nowhere else; no error shows it.
fn secret_value(cx: &Context, id: &str, source: SecretSource) -> Result<Vec<u8>, String> {
    let path = match source {
        SecretSource::Variable(name) => return Ok(cx.environment.bytes(&name).unwrap_or_default()),
        SecretSource::File(path) => path,
        SecretSource::Either => match cx.environment.bytes(id) {
            Some(value) => return Ok(value),
            None => id.to_owned(),
        },
    };
    let shown = cx.absolute(&path);
    let fault = |error: std::io::Error| format!("failed to read secret {id}: {}", file_error(&shown, &error));
    let file = std::fs::File::open(&shown).map_err(fault)?;
    let mut value = Vec::new();
    file.take(MAX_SECRET + 1).read_to_end(&mut value).map_err(fault)?;
    if value.len() as u64 > MAX_SECRET {
        return Err(format!("secret {id} too big. max size {MAX_SECRET}"));
    }
    Ok(value)
}

/// Go's text for a file that cannot be read.
pub(super) fn file_error(path: &str, error: &std::io::Error) -> String {
    opts::env::open_error(path, error)
}

/// The socket of an SSH agent, which has to be there.
fn agent(cx: &Context, text: &str) -> Result<(String, String), String> {
    let (id, socket) = attributes::agent(text);
    let socket = socket
        .or_else(|| cx.environment.nonempty("SSH_AUTH_SOCK"))
        .ok_or("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")?;
    let socket = cx.absolute(&socket);
    match std::fs::metadata(&socket) {
        Ok(found) if found.file_type().is_socket() => Ok((id, socket)),
        Ok(_) => Err(format!(
            "{socket} is no socket of an SSH agent; keys are given to an agent with ssh-add, not to the build"
        )),
        Err(error) => Err(format!("failed to use the SSH agent {id}: {}", file_error(&socket, &error))),
    }
}

/// `--call` and `--check`; gives whether the answer is wanted as JSON.
fn call(given: &Given, request: &mut BuildRequest) -> Result<bool, String> {
    let text = given.text_opt("call").unwrap_or("build");
    let fields = opts::csv(text)?;
    let (mut name, mut json) = (String::new(), false);
    for field in &fields {
        match field.split_once('=') {
            None => name.clone_from(field),
            Some(("format", format)) if matches!(format, "json" | "text") => json = format == "json",
            Some(_) => return Err(format!("invalid --call {}: invalid value {field}", quote(text))),
        }
    }
    let name = match name.as_str() {
        "lint" => "check",
        "" => "build",
        other => other,
    };
    if !matches!(name, "build" | "check" | "outline" | "targets") {
        return Err(format!("invalid --call {}: it is build, check, outline or targets", quote(name)));
    }
    if given.bool("check") {
        if !matches!(name, "build" | "check") {
            return Err(format!("--check and --call={name} cannot be used together"));
        }
        "check".clone_into(&mut request.call);
    } else if name != "build" {
        name.clone_into(&mut request.call);
    }
    Ok(json)
}

fn choice(given: &Given, flag: &str, choices: &[&str]) -> Result<String, String> {
    match given.text_opt(flag) {
        None => Ok(String::new()),
        Some(value) if choices.contains(&value) => Ok(value.to_owned()),
        Some(value) => Err(format!("invalid --{flag} {}: it is {}", quote(value), choices.join(", "))),
    }
}

/// How progress is shown, by the flags and the environment.
pub(super) fn display(cx: &Context, given: &Given) -> Result<Display, String> {
    let wanted = given.text_opt("progress").map(str::to_owned);
    let wanted = wanted.or_else(|| cx.environment.nonempty("BUILDKIT_PROGRESS"));
    let wanted = wanted.unwrap_or_else(|| "auto".to_owned());
    let terminal = rustix::termios::isatty(cx.stdio.errors);
    if given.bool("quiet") {
        return match wanted.as_str() {
            "auto" | "quiet" => Ok(Display::Quiet),
            _ if !given.has("progress") => Ok(Display::Quiet),
            _ => Err(format!("progress={wanted} and quiet cannot be used together")),
        };
    }
    match wanted.as_str() {
        "auto" if terminal => Ok(Display::Terminal),
        "auto" | "plain" => Ok(Display::Plain),
        "tty" if terminal => Ok(Display::Terminal),
        "tty" => Err("failed to get console: standard error is not a terminal".to_owned()),
        "quiet" | "none" => Ok(Display::Quiet),
        "rawjson" => Ok(Display::Raw),
        _ => Err(format!("invalid progress mode {wanted}")),
    }
}

fn outputs(cx: &Context, given: &Given) -> Result<Vec<Output>, String> {
    let mut outputs: Vec<Output> = Vec::new();
    for text in given.list("output") {
        outputs.push(attributes::output(&text, cx.terminal)?);
    }
    let has = |outputs: &[Output], kind: &str| outputs.iter().any(|output| output.wanted.kind == kind);
    // The store is where images go when nothing is said, and `--load` says it beside other outputs.
    for (flag, kind) in [("push", "registry"), ("load", "image")] {
        if given.bool(flag) && !has(&outputs, kind) {
            outputs.push(attributes::output(&format!("type={kind}"), cx.terminal)?);
        }
    }
    let to_stdout = |output: &&Output| output.destination == Some(attributes::Destination::Stdout);
    if outputs.iter().filter(to_stdout).count() > 1 {
        return Err("only one output can go to standard output".to_owned());
    }
    Ok(outputs)
}
