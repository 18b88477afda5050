//! Builds whose file is for a frontend that is a program: what it makes of the file is a graph, which is then
//! built as any other.

use super::keys::{Keys, Sent};
use super::{Work, solve};
use crate::Engine;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;
use yare_api::AuthConfig;
use yare_api::build::{BuildRequest, BuildResult};
use yare_build::context::{ContextTree, Contexts};
use yare_build::definition::Definition;
use yare_build::request::{ContextSource, Request};
use yare_build::syntax::Foreign;
use yare_build::{Cancel, ContentStore, Failure, Progress};
use yare_errdefs::{Error, Result};
use yare_oci::Digest;

/// Runs frontends: BuildKit's side of the engine, which is above it.
pub trait Frontends: std::fmt::Debug + std::marker::Send + Sync {
    /// Lets a frontend understand a file, and gives `build` the graph that it makes with the folders that this
    /// names. Holds its thread.
    ///
    /// # Errors
    /// The frontend failed, or what `build` says.
    fn understand(&self, wanted: Wanted<'_>, build: &mut Build<'_>) -> Result<(), Failure>;
}

/// Builds a graph with its folders.
pub type Build<'a> = dyn FnMut(Definition, &dyn Contexts) -> Result<(), Failure> + 'a;

/// What a frontend is to understand.
#[expect(missing_debug_implementations, reason = "what a client provides has nothing to print")]
pub struct Wanted<'a> {
    /// The frontend.
    pub source: &'a str,
    /// What it is told, in BuildKit's words.
    pub options: BTreeMap<String, String>,
    /// What its graph may ask for beyond the usual.
    pub entitlements: Vec<String>,
    /// The name of the file and what is in it, for errors.
    pub file: (&'a str, &'a [u8]),
    /// Folders, the one with the file (`dockerfile`) among them.
    pub contexts: Arc<dyn Contexts>,
    /// Secrets and credentials.
    pub keys: Arc<dyn Keys>,
    /// Where what waits for the network runs.
    pub runtime: &'a Handle,
    /// Where news go.
    pub progress: &'a Progress,
    /// Ends it early.
    pub cancel: &'a Cancel,
}

/// The frontend that a request is for, when it is a program.
pub(super) fn wanted(request: &Request) -> Option<Foreign> {
    match request.build_args.get("BUILDKIT_SYNTAX").and_then(Option::as_deref) {
        Some(cmdline) => Foreign::of(cmdline),
        None => Foreign::of_file(&request.dockerfile),
    }
}

/// Builds what a frontend makes of a file.
pub(super) fn build(
    engine: &Arc<Engine>,
    foreign: &Foreign,
    (asked, contexts): (&BuildRequest, Arc<dyn Contexts>),
    keys: Arc<dyn Keys>,
    work: &Work<'_>,
) -> Result<(BuildResult, Vec<Digest>), Failure> {
    let frontends = engine.builder.frontends.get().ok_or_else(|| {
        Error::unimplemented(format!(
            "the frontend {} is a program, and nothing here runs it",
            foreign.source
        ))
    })?;
    if !work.call.is_empty() {
        return Err(Error::unimplemented(format!(
            "{} asks the frontend {} something, which yare build does not pass on yet",
            work.call, foreign.source
        ))
        .with_hint("use docker buildx build --call")
        .into());
    }
    let Work { request, runtime, send, progress, cancel, .. } = *work;
    let wanted = Wanted {
        source: &foreign.source,
        options: options(asked, request, foreign),
        entitlements: asked.allow.clone(),
        file: (&request.dockerfile_name, &request.dockerfile),
        contexts,
        keys: Arc::clone(&keys),
        runtime,
        progress,
        cancel,
    };
    let mut built = None;
    let understood = frontends.understand(wanted, &mut |definition, contexts| {
        let platforms = definition.goals.iter().map(|goal| goal.platform.clone()).collect();
        let request = Request { definition: Some(definition), platforms, ..request.clone() };
        let keys = &*keys;
        let work = Work { request: &request, contexts, keys, runtime, send, call: "", progress, cancel };
        built = Some(solve(engine, work)?);
        Ok(())
    });
    understood.map_err(|failure| match (failure.lines, foreign.line) {
        (None, line @ 1..) => {
            let file = String::from_utf8_lossy(&request.dockerfile);
            Failure { lines: Some((line, line)), ..failure }.quoting(&request.dockerfile_name, &file)
        }
        _ => failure,
    })?;
    Ok(built.ok_or_else(|| Error::invalid(format!("the frontend {} made nothing", foreign.source)))?)
}

/// The options of a build in BuildKit's words.
fn options(asked: &BuildRequest, request: &Request, foreign: &Foreign) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    let mut say = |name: &str, value: String| {
        if !value.is_empty() {
            options.insert(name.to_owned(), value);
        }
    };
    say("cmdline", foreign.cmdline.clone());
    say("source", foreign.source.clone());
    say("filename", request.dockerfile_name.clone());
    say("target", asked.target.clone());
    say("platform", asked.platforms.join(","));
    say("image-resolve-mode", if asked.pull { "pull" } else { "local" }.to_owned());
    say("force-network-mode", asked.network_mode.clone());
    say("cgroup-parent", asked.cgroup_parent.clone());
    say("ulimit", asked.ulimits.join(","));
    say("no-cache", asked.no_cache_filter.join(","));
    let hosts: Vec<String> = asked.extra_hosts.iter().map(|host| host.replacen(':', "=", 1)).collect();
    say("add-hosts", hosts.join(","));
    if asked.shm_size > 0 {
        say("shm-size", asked.shm_size.to_string());
    }
    for (name, value) in &asked.build_args {
        say(&format!("build-arg:{name}"), value.clone().unwrap_or_default());
    }
    for (name, value) in &asked.labels {
        say(&format!("label:{name}"), value.clone());
    }
    for (name, source) in &request.contexts {
        let place = match source {
            ContextSource::Folder => format!("local:{name}"),
            ContextSource::Image(reference) => format!("docker-image://{reference}"),
            ContextSource::Git(place) | ContextSource::Http(place) => place.clone(),
        };
        say(&format!("context:{name}"), place);
    }
    if asked.no_cache {
        options.insert("no-cache".to_owned(), String::new());
    }
    options
}

/// What came with a request, for whoever outlives the call that brought it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) request: BuildRequest,
    pub(super) auths: BTreeMap<String, AuthConfig>,
}

impl Kept {
    fn sent(&self) -> Sent<'_> {
        Sent { request: &self.request, auths: &self.auths }
    }
}

impl Keys for Kept {
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        self.sent().secret(id)
    }

    fn agent(&self, id: &str) -> Result<Option<PathBuf>> {
        self.sent().agent(id)
    }

    fn credentials(&self, registry: &str) -> Result<AuthConfig> {
        self.sent().credentials(registry)
    }

    fn folder(&self, id: &str) -> Result<Box<dyn ContentStore + '_>> {
        Err(Error::invalid(format!("this client has no session, and so no folder {id:?} for a build cache")))
    }
}

/// Folders of a build, and the one with its file.
pub(super) struct WithFile<C> {
    pub(super) folders: C,
    pub(super) file: ContextTree,
}

impl<C: Contexts> Contexts for WithFile<C> {
    fn open(&self, name: &str) -> Result<ContextTree> {
        match name {
            "dockerfile" => Ok(self.file.clone()),
            "context" => self.folders.open(""),
            name => self.folders.open(name),
        }
    }
}
