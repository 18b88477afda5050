//! `create` and `run`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use yare_api::{ContainerCreateRequest, ContainerWaitResponse};
use yare_client::{Address, AttachOptions, Client};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::opts;
use crate::request::{Surroundings, create_request};
use crate::session::{self, Connect, Ended, Forwarded, Keys, Resizes, Signals};
use crate::table::Outcome;

use super::transfer;

/// Exit code of an error of ours or the engine's, not of the program run.
const OURS: i32 = 125;

/// `create`.
pub(crate) async fn create(cx: &Context, given: &Given) -> Outcome {
    let (request, options) = prepare(cx, given)?;
    let id = make(cx, &request, &options, given).await?;
    cx.line(id)?;
    Ok(0)
}

/// `run`.
pub(crate) async fn run(cx: &Context, given: &Given) -> Outcome {
    let (mut request, options) = prepare(cx, given)?;
    let attached = !given.bool("detach");
    if attached {
        check_terminal(cx, request.config.attach_stdin, request.config.tty)?;
    } else {
        if given.has("attach") {
            return Err("conflicting options: cannot specify both --attach and --detach".into());
        }
        request.config.attach_stdin = false;
        request.config.attach_stdout = false;
        request.config.attach_stderr = false;
        request.config.stdin_once = false;
    }
    if let (Some((rows, columns)), Some(host)) =
        (session::size(cx.stdio.output), request.host_config.as_mut())
    {
        host.console_size = [u32::from(rows), u32::from(columns)];
    }
    let signals = (attached && given.bool_or("sig-proxy", true)).then(Signals::all);
    let id = make(cx, &request, &options, given).await.map_err(|failure| in_run(cx, failure))?;
    if !attached {
        begin(cx, &id).await?;
        cx.line(id)?;
        return Ok(0);
    }
    let running = Attached {
        cx,
        id: &id,
        tty: request.config.tty,
        stdin: request.config.attach_stdin,
        output: request.config.attach_stdout || request.config.attach_stderr,
        remove: given.bool("rm"),
        keys: given.text_opt("detach-keys").unwrap_or(&cx.config().detach_keys),
    };
    running.run(&request, signals).await
}

/// Docker's client refuses a terminal for a container when it has none itself.
pub(crate) fn check_terminal(cx: &Context, stdin: bool, tty: bool) -> Result<(), Failure> {
    if stdin && tty && !rustix::termios::isatty(cx.stdio.input) {
        return Err("the input device is not a TTY".into());
    }
    Ok(())
}

/// What is said with the body.
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) platform: String,
    pub(crate) pull: Pull,
    pub(crate) cidfile: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pull {
    Always,
    Missing,
    Never,
}

/// An error of the command line, as `run` and `create` print it.
fn misuse(cx: &Context, text: &str) -> Failure {
    let (program, command) = (&cx.program, &cx.command);
    Failure::new(format!("{program}: {text}\n\nRun '{program} {command} --help' for more information"))
        .with_code(OURS)
}

/// An error in the course of `run`: the exit code says whether the program could not be found or run.
fn in_run(cx: &Context, failure: Failure) -> Failure {
    if failure.text.is_empty() {
        return failure;
    }
    let program = &cx.program;
    let text = &failure.text;
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let code =
        if has(&["executable file not found", "no such file or directory", "system cannot find the file"]) {
            127
        } else if has(&["permission denied", "is a directory"]) {
            126
        } else {
            OURS
        };
    let text = format!("{program}: {text}\n\nRun '{program} run --help' for more information");
    Failure { code, text, hint: failure.hint }
}

pub(crate) fn prepare(cx: &Context, given: &Given) -> Result<(ContainerCreateRequest, Options), Failure> {
    let pull = match given.text_opt("pull").unwrap_or("missing") {
        "always" => Pull::Always,
        "missing" | "" => Pull::Missing,
        "never" => Pull::Never,
        other => {
            let text = format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            );
            return Err(misuse(cx, &text));
        }
    };
    let proxies = &cx.config().proxies;
    let proxy = proxies.get(&cx.address.to_string()).or_else(|| proxies.get("default"));
    let around = Surroundings {
        environment: &cx.environment,
        cwd: &cx.cwd,
        proxies: proxy.map(crate::config::Proxy::variables).unwrap_or_default(),
        socket: match &cx.address {
            Address::Unix(path) => path.display().to_string(),
            Address::Tcp { .. } | Address::Ssh(_) => "/var/run/docker.sock".to_owned(),
        },
    };
    let request = create_request(given, &around).map_err(|text| misuse(cx, &text))?;
    warn_of_local_dns(cx, given);
    let platform = given
        .text_opt("platform")
        .map(str::to_owned)
        .or_else(|| cx.environment.nonempty("DOCKER_DEFAULT_PLATFORM"))
        .unwrap_or_default();
    if !platform.is_empty() && yare_oci::Platform::parse(&platform).is_err() {
        let quoted = opts::quote(&platform);
        let text = format!(
            "error parsing specified platform: {quoted}: cannot parse platform specifier: invalid argument"
        );
        return Err(misuse(cx, &text));
    }
    let options = Options {
        name: given.text("name").to_owned(),
        platform,
        pull,
        cidfile: given.text("cidfile").to_owned(),
    };
    Ok((request, options))
}

fn warn_of_local_dns(cx: &Context, given: &Given) {
    if given.text("network") == "host" {
        return;
    }
    for server in given.list("dns") {
        if server.starts_with("127.") || server == "::1" {
            cx.warn(format_args!("WARNING: Localhost DNS ({server}) may fail in containers."));
        }
    }
}

/// A file that gets the container's ID; it is taken away again when there is no container.
struct IdFile {
    path: PathBuf,
    written: bool,
}

impl IdFile {
    fn create(path: &str) -> Result<Option<Self>, Failure> {
        if path.is_empty() {
            return Ok(None);
        }
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => Ok(Some(Self { path: path.into(), written: false })),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::new(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            ))),
            Err(error) => {
                let why = opts::env::open_error(path, &error);
                Err(Failure::new(format!("failed to create the container ID file: {why}")))
            }
        }
    }

    fn write(&mut self, id: &str) -> Result<(), Failure> {
        let mut file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all(id.as_bytes()).map_err(|error| {
            Failure::new(format!("failed to write the container ID to the file: {error}"))
        })?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Creates the container, getting its image first where that is asked for.
async fn make(
    cx: &Context,
    request: &ContainerCreateRequest,
    options: &Options,
    given: &Given,
) -> Result<String, Failure> {
    let image = &request.config.image;
    let is_id = image.len() == 64 && image.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id && !image.starts_with("sha256:") {
        yare_oci::Reference::parse(image).map_err(|error| error.to_string())?;
    }
    let mut id_file = IdFile::create(&options.cidfile)?;
    let pull = async || transfer::pull_for_run(cx, image, &options.platform, given.bool("quiet")).await;
    if options.pull == Pull::Always {
        pull().await?;
    }
    let client = cx.client();
    let created = match client.container_create(&options.name, &options.platform, request).await {
        Err(error)
            if options.pull == Pull::Missing
                && error.is_not_found()
                && error.message().contains("o such image") =>
        {
            if !given.bool("quiet") {
                let familiar = opts::reference::named(image, true)
                    .map_or_else(|_| image.clone(), |named| named.familiar);
                cx.warn(format_args!("Unable to find image '{familiar}' locally"));
            }
            pull().await?;
            client.container_create(&options.name, &options.platform, request).await?
        }
        other => other?,
    };
    for warning in &created.warnings {
        cx.warn(format_args!("WARNING: {warning}"));
    }
    if let Some(file) = &mut id_file {
        file.write(&created.id)?;
    }
    Ok(created.id)
}

async fn begin(cx: &Context, id: &str) -> Result<(), Failure> {
    cx.client().container_start(id, "").await.map_err(|error| in_run(cx, error.into()))
}

/// A run whose streams are joined to ours.
struct Attached<'a> {
    cx: &'a Context,
    id: &'a str,
    tty: bool,
    stdin: bool,
    output: bool,
    remove: bool,
    keys: &'a str,
}

impl Attached<'_> {
    async fn run(&self, request: &ContainerCreateRequest, signals: Option<Signals>) -> Outcome {
        let (cx, client) = (self.cx, self.cx.client());
        let options = AttachOptions {
            stdin: self.stdin,
            stdout: request.config.attach_stdout,
            stderr: request.config.attach_stderr,
            logs: false,
            detach_keys: self.keys,
        };
        let condition = if self.remove { "removed" } else { "next-exit" };
        // Both must be in place before the start; neither needs the other.
        let (hijacked, waiting) = tokio::join!(
            client.container_attach(self.id, options),
            client.container_wait(self.id, condition)
        );
        let hijacked = hijacked.map_err(|error| in_run(cx, error.into()))?;
        let waiting = waiting.map_err(|error| in_run(cx, error.into()))?;
        if let Err(failure) = begin(cx, self.id).await {
            drop(hijacked);
            if self.remove {
                // The engine removes what never started; when it has, the name is free again.
                drop(waiting.bytes().await);
            }
            return Err(failure);
        }
        let connect = Connect { stdin: self.stdin, tty: self.tty, keys: Keys::parse(self.keys) };
        let session = async {
            let ended = session::connect(cx, hijacked, connect).await?;
            if ended == Ended::Detached {
                return Ok(0);
            }
            exit_code(cx, waiting).await
        };
        tokio::select! {
            biased;
            ended = session => ended,
            failure = resize(cx, Target::Container(self.id), self.tty && self.output) => Err(failure),
            failure = forward(client, Target::Container(self.id), signals) => Err(failure),
        }
    }
}

/// Waits for the exit that the engine watches for.
pub(crate) async fn exit_code(cx: &Context, waiting: yare_client::Response) -> Outcome {
    let exit: ContainerWaitResponse = match waiting.json().await {
        Ok(exit) => exit,
        Err(error) => return Err(Failure::from(error).with_code(OURS)),
    };
    if let Some(error) = exit.error.filter(|error| !error.message.is_empty()) {
        cx.warn(format_args!("Error waiting for container: {}", error.message));
        return Ok(OURS);
    }
    Ok(i32::try_from(exit.status_code).unwrap_or(OURS))
}

/// Passes signals on until the third request to end; never returns otherwise.
pub(crate) async fn forward(client: &Client, target: Target<'_>, signals: Option<Signals>) -> Failure {
    let Some(mut signals) = signals else { return std::future::pending().await };
    loop {
        match signals.next().await {
            // It may have ended meanwhile.
            Forwarded::Signal(number, name) => match target {
                Target::Container(id) => drop(client.container_kill(id, &name).await),
                Target::Exec(id) => match client.exec_kill(id, &name).await {
                    // Not our engine: as with Docker's client, the signal is for us.
                    Err(error) if error.is_not_found() => return Failure::silent(128 + number),
                    _ => {}
                },
            },
            Forwarded::Enough => {
                return Failure::new("\ngot 3 SIGTERM/SIGINTs, forcefully exiting");
            }
        }
    }
}

/// Who gets signals, and sizes of the terminal.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// A container's own.
    Container(&'a str),
    /// That of a program run in one.
    Exec(&'a str),
}

/// Keeps the container's terminal as large as ours; never returns.
pub(crate) async fn resize(cx: &Context, target: Target<'_>, wanted: bool) -> Failure {
    if !wanted || !rustix::termios::isatty(cx.stdio.output) {
        return std::future::pending().await;
    }
    let client = cx.client();
    let tell = async || {
        let Some((rows, columns)) = session::size(cx.stdio.output) else { return true };
        match target {
            Target::Container(id) => client.container_resize(id, rows, columns).await.is_ok(),
            Target::Exec(id) => client.exec_resize(id, rows, columns).await.is_ok(),
        }
    };
    let mut resizes = Resizes::watch();
    // The program may not have its terminal yet.
    for attempt in 1..=10 {
        if tell().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(attempt * 10)).await;
    }
    loop {
        resizes.next().await;
        tell().await;
    }
}
