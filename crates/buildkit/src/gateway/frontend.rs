//! Frontends that are programs: an image whose process speaks `LLBBridge` over its standard streams.
//!
//! Its container is that of a step. It has no network unless its image says that it needs one: what a frontend
//! wants from outside it asks for over the bridge. What it returns is its caller's; what it says on its
//! standard error is news of the build, and is quoted when it fails.

use super::bridge::{Bridge, Caller, Given, Outcome, Returned};
use super::stdio::{Tail, carry};
use super::{Speaker, answer};
use crate::Kit;
use crate::builds::Build;
use crate::frontend::Options;
use crate::graphs::Assembled;
use crate::grpc::server::Call;
use crate::grpc::{Code, Status};
use crate::proto::{Any, Definition};
use crate::{llb, read, services, solve};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use yare_build::definition::{Definition as Graph, Does, Goal, Node};
use yare_build::graph::{Op, RunDefinition, RunOp};
use yare_build::progress::Work;
use yare_build::worker::{Conversation, Exit, Stream};
use yare_build::{Cancel, Progress};
use yare_engine::build;
use yare_errdefs::Error;
use yare_oci::{Digest, ImageConfig, Platform, Reference};

/// How deep frontends may call each other, and how many of one build may run at once.
const DEEPEST: usize = 8;
const MOST: usize = 32;
/// How long a frontend may take to end when it has returned.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that wait between a process and the connection over it.
const PIPE: usize = 256 << 10;

/// A frontend to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program<'a> {
    /// Its image.
    pub(crate) source: &'a str,
    /// What it is told.
    pub(crate) options: &'a Options,
    /// Graphs that it gets.
    pub(crate) inputs: &'a BTreeMap<String, Definition>,
}

/// Runs a frontend for a caller, to its end.
pub(crate) async fn run(kit: &Arc<Kit>, caller: &Caller, program: Program<'_>) -> Result<Outcome, Status> {
    let build = &caller.build;
    let depth = caller.bridge().depth + 1;
    if depth > DEEPEST {
        let text = format!("frontends call each other more than {DEEPEST} deep, the last {}", program.source);
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    let _place = Arc::clone(&build.frontends).try_acquire_owned().map_err(|_| {
        Status::new(Code::ResourceExhausted, format!("{MOST} frontends of a build run already"))
    })?;
    let reference = llb::image(program.source)?;
    let found = read::image(kit, build, (program.source, ""), None).await;
    let (_, config) = found.map_err(|status| {
        let message = format!("cannot get the frontend {}: {}", program.source, status.message);
        Status { message, ..status }
    })?;
    let config: ImageConfig = serde_json::from_slice(&config).map_err(|error| {
        Error::invalid(format!("the config of {} cannot be read", program.source)).caused_by(error)
    })?;
    check_caps(&config, program)?;
    let mut given = Given { inputs: program.inputs.clone(), ..Given::default() };
    for identifier in program.inputs.values().map(llb::results).collect::<Result<Vec<_>, _>>()?.concat() {
        given.results.insert(identifier.clone(), caller.input(kit, &identifier).await?);
    }
    let (bridge, returned) = Bridge::new(given, depth);
    let speaker = Caller::frontend(Arc::clone(build), Arc::new(bridge));
    let graph = graph(&reference, described(kit, build, &config, program));
    let progress = solve::progress(build, None);
    let work = progress.work(&format!("[frontend] {}", reference.familiar()));
    let ended = converse(kit, &speaker, graph, (&progress, &work)).await;
    speaker.bridge().clear();
    let outcome = concluded(program.source, ended, returned);
    if let Err(status) = &outcome {
        work.failed(&status.message);
    }
    outcome
}

/// Permits for the frontends of one build.
pub(crate) fn places() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(MOST))
}

/// How the process of a frontend ended.
struct Ended {
    exit: Result<Exit, Status>,
    /// The end of what it said on its standard error.
    said: String,
    /// Why the connection over its streams broke, when that is why it was ended.
    broken: Option<String>,
    /// Whether it had returned and was ended because it stayed.
    lingered: bool,
}

/// What came of it all. What a frontend returned as an error says most; then how its process ended.
fn concluded(
    source: &str,
    ended: Ended,
    mut returned: oneshot::Receiver<Returned>,
) -> Result<Outcome, Status> {
    let returned = match returned.try_recv() {
        Ok(Err(status)) => return Err(status),
        Ok(Ok(outcome)) => Some(outcome),
        Err(_) => None,
    };
    let quoted = |text: String| match ended.said.as_str() {
        "" => Status::new(Code::Unknown, text),
        said => Status::new(Code::Unknown, format!("{text}; it said:\n{said}")),
    };
    if let Some(broken) = ended.broken {
        let text = "what it writes on its standard output is no gRPC";
        return Err(quoted(format!("the frontend {source} was ended: {text}: {broken}")));
    }
    let exit = ended.exit.map_err(|status| match status.code {
        Code::Cancelled => status,
        _ => Status::new(Code::Unknown, format!("cannot run the frontend {source}: {}", status.message)),
    })?;
    match (exit, returned) {
        (Exit { oom: true, .. }, _) => Err(quoted(format!("the frontend {source} ran out of memory"))),
        (Exit { code, .. }, Some(outcome)) if code == 0 || ended.lingered => Ok(outcome),
        (Exit { code: 0, .. }, _) => Err(quoted(format!("the frontend {source} ended without a result"))),
        (Exit { code, .. }, _) => Err(quoted(format!("the frontend {source} failed: exit code: {code}"))),
    }
}

/// Ends a frontend whose caller is gone.
struct Guard(Cancel);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs the process and answers what it asks, until it ends.
async fn converse(
    kit: &Arc<Kit>,
    speaker: &Caller,
    graph: Graph,
    (progress, work): (&Progress, &Work),
) -> Ended {
    let cancel = Cancel::default();
    let _guard = Guard(cancel.clone());
    let (started, begun) = oneshot::channel();
    let process = process(kit, &speaker.build, graph, (cancel.clone(), started));
    let tail = Tail::default();
    let broken: Mutex<Option<String>> = Mutex::default();
    let talk = async {
        let Ok(Ok(stream)) = begun.await.map(asynchronous) else { return };
        let says = |bytes: &[u8]| {
            tail.push(bytes);
            progress.log(work.digest(), Stream::Stderr, bytes);
        };
        let (pipe, ours) = tokio::io::duplex(PIPE);
        let serve = async {
            let handler = |call: Call| answer_boxed(Arc::clone(kit), speaker.clone(), call);
            // Streams that end are how a process ends.
            if let Err(error) = crate::grpc::server::serve(ours, handler).await
                && !error.is_io()
            {
                broken.lock().unwrap_or_else(PoisonError::into_inner).replace(error.to_string());
                cancel.cancel();
            }
        };
        let (carried, ()) = tokio::join!(carry(stream, pipe, says), serve);
        if let Err(error) = carried {
            tracing::debug!(%error, "the streams of a frontend broke");
            cancel.cancel();
        }
    };
    let lingered = AtomicBool::new(false);
    let stopped = async {
        tokio::select! {
            () = speaker.build.stop.stopped() => {}
            () = lingers(speaker.bridge()) => lingered.store(true, Ordering::Relaxed),
        }
        cancel.cancel();
        std::future::pending::<()>().await;
    };
    let ended = async {
        let (exit, ()) = tokio::join!(process, talk);
        exit
    };
    let exit = tokio::select! {
        exit = ended => exit,
        () = stopped => Err(Status::gone()),
    };
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ended { exit, said: tail.text(), broken, lingered: lingered.into_inner() }
}

/// Comes when a frontend has returned and had its time to end.
async fn lingers(bridge: &Bridge) {
    bridge.has_returned().await;
    tokio::time::sleep(PATIENCE).await;
}

fn asynchronous(stream: UnixStream) -> std::io::Result<tokio::net::UnixStream> {
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

/// The calls of a frontend may run frontends: a future with a name would have itself in it.
fn answer_boxed(kit: Arc<Kit>, caller: Caller, call: Call) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(answer(kit, Speaker::Frontend(caller), call))
}

/// Runs the process of a frontend to its end; `started` gets its streams.
async fn process(
    kit: &Arc<Kit>,
    build: &Arc<Build>,
    graph: Graph,
    (cancel, started): (Cancel, oneshot::Sender<UnixStream>),
) -> Result<Exit, Status> {
    let asked = solve::graph_options(build)?;
    let source = solve::source(kit, build, &asked, solve::progress(build, None)).await?;
    let kit = Arc::clone(kit);
    solve::on_thread(move || {
        let graph = Assembled { definition: graph, locals: BTreeMap::new(), fresh: HashSet::new() };
        solve::prepared(&kit, &source, &asked.request, graph, |mut prepared| {
            prepared.run.conversation = Some(Conversation { terminal: false, stdin: true });
            // A frontend whose caller is gone is ended by the one below.
            let started = |stream, _| drop(started.send(stream));
            Ok(build::converse(&kit.engine, &prepared, &cancel, started)?)
        })
    })
    .await
}

/// A graph whose one goal is a process in an image.
fn graph(reference: &Reference, spec: RunDefinition) -> Graph {
    let name = format!("docker-image://{reference}");
    let mut graph = Graph::default();
    let node = |name: &str, does: Does| {
        let digest = Digest::of(name).to_string();
        Node { does, name: name.to_owned(), digest, no_cache: false }
    };
    let image = Does::Image { reference: reference.clone(), platform: None, pull: false };
    let base = graph.add(node(&name, image));
    let platform = Box::new(Platform::host());
    let run = RunOp { base, spec, proxies: BTreeMap::new(), platform };
    let root = graph.add(node(&format!("frontend {name}"), Does::Op(Op::Run(Box::new(run)))));
    graph.goals = vec![Goal { root, config: None, platform: Platform::host() }];
    graph
}

/// What an image says that its process is, with what every frontend is told in its environment.
fn described(kit: &Kit, build: &Build, config: &ImageConfig, program: Program<'_>) -> RunDefinition {
    let config = &config.config;
    let or = |text: &str, or: &str| if text.is_empty() { or.to_owned() } else { text.to_owned() };
    let mut env = config.env.clone();
    let options = program.options.iter().enumerate();
    env.extend(options.map(|(n, (name, value))| format!("BUILDKIT_FRONTEND_OPT_{n}={name}={value}")));
    env.push(format!("BUILDKIT_SESSION_ID={}", build.request.session));
    env.push(format!("BUILDKIT_WORKERS={}", workers(kit)));
    env.push("BUILDKIT_EXPORTEDPRODUCT=yare".to_owned());
    let entrypoint = config.entrypoint.clone().filter(|entrypoint| !entrypoint.is_empty());
    // The label that says "none" in the field; here that is so unless it says something else.
    let open = config.labels.get(NETWORK_NONE).is_some_and(|none| matches!(none.as_str(), "false" | "0"));
    RunDefinition {
        argv: entrypoint.unwrap_or_else(|| vec!["/run".to_owned()]),
        env,
        cwd: or(&config.working_dir, "/"),
        network: if open { "default" } else { "none" }.to_owned(),
        hostname: "buildkitsandbox".to_owned(),
        ..RunDefinition::default()
    }
}

const NETWORK_NONE: &str = "moby.buildkit.frontend.network.none";
const CAPS: &str = "moby.buildkit.frontend.caps";

/// The workers as frontends read them.
fn workers(kit: &Kit) -> String {
    let worker = services::worker(kit);
    let platforms = worker.platforms.iter().map(|platform| {
        json!({ "architecture": platform.architecture, "os": platform.os, "variant": platform.variant })
    });
    let version = worker.version.unwrap_or_default();
    json!([{
        "id": worker.id,
        "labels": worker.labels,
        "platforms": platforms.collect::<Vec<_>>(),
        "gcPolicy": null,
        "buildkitVersion": {
            "package": version.package, "version": version.version, "revision": version.revision,
        },
    }])
    .to_string()
}

/// Whether the image of a frontend has what its caller needs of it.
fn check_caps(config: &ImageConfig, program: Program<'_>) -> Result<(), Status> {
    let list = |text: Option<&String>| -> Vec<String> {
        let all = text.map(String::as_str).unwrap_or_default().split(',');
        let names = all.map(|cap| cap.split('+').next().unwrap_or_default().trim());
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let has = list(config.config.labels.get(CAPS));
    let mut needed = list(program.options.get("frontend.caps"));
    if !program.inputs.is_empty() {
        needed.push("moby.buildkit.frontend.inputs".to_owned());
    }
    match needed.into_iter().find(|cap| !has.contains(cap)) {
        None => Ok(()),
        Some(cap) => {
            let mut status =
                Status::new(Code::Unimplemented, format!("unsupported frontend capability {cap}"));
            status.details.push(Any {
                type_url: "github.com/moby/buildkit/errdefs.FrontendCap+json".to_owned(),
                value: json!({ "name": cap }).to_string().into_bytes(),
            });
            Err(status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, said: &str) -> Ended {
        let exit = Ok(Exit { code, oom: false });
        Ended { exit, said: said.to_owned(), broken: None, lingered: false }
    }

    fn conclusion(ended: Ended, returned: Option<Returned>) -> Result<Outcome, String> {
        let (sender, receiver) = oneshot::channel();
        if let Some(returned) = returned {
            sender.send(returned).expect("kept");
        }
        concluded("x", ended, receiver).map_err(|status| status.message)
    }

    #[test]
    fn the_end_of_a_frontend_is_told_with_its_last_words() {
        assert!(conclusion(ended(0, ""), Some(Ok(Outcome::default()))).is_ok());
        let own = Status::new(Code::Unknown, "its own words");
        assert_eq!(conclusion(ended(1, "noise"), Some(Err(own))).unwrap_err(), "its own words");
        assert_eq!(
            conclusion(ended(3, "cannot\nread"), Some(Ok(Outcome::default()))).unwrap_err(),
            "the frontend x failed: exit code: 3; it said:\ncannot\nread"
        );
        assert_eq!(conclusion(ended(0, ""), None).unwrap_err(), "the frontend x ended without a result");
        let lingered = Ended { lingered: true, ..ended(137, "") };
        assert!(conclusion(lingered, Some(Ok(Outcome::default()))).is_ok());
        let broken = Ended { broken: Some("a preface".to_owned()), ..ended(137, "") };
        assert!(conclusion(broken, None).unwrap_err().contains("no gRPC: a preface"));
    }

    #[test]
    fn what_a_caller_needs_must_be_there() {
        let options = Options::from([("frontend.caps".to_owned(), "a+forward,b".to_owned())]);
        let inputs = BTreeMap::new();
        let program = Program { source: "x", options: &options, inputs: &inputs };
        let mut config = ImageConfig::default();
        config.config.labels.insert(CAPS.to_owned(), "a, b".to_owned());
        assert!(check_caps(&config, program).is_ok());
        config.config.labels.insert(CAPS.to_owned(), "a".to_owned());
        let refused = check_caps(&config, program).expect_err("b is missing");
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (Code::Unimplemented, "unsupported frontend capability b")
        );
    }
}
