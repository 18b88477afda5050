//! Building images.

mod caches;
mod classic;
pub(crate) mod collect;
mod conversation;
mod foreign;
mod keys;
mod prepare;
mod running;
mod web;
mod worker;

use crate::images::{Body, BodyReader, Output, blocking};
use crate::{Config, Engine, records};
use base64::Engine as _;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use yare_api::build::{BuildMessage, BuildRequest, BuildResult, SolveStatus};
use yare_api::filters::Filters;
use yare_api::progress::ErrorDetail;
use yare_api::{AuthConfig, BuildCache, BuildPruneResponse};
use yare_build::attest::provenance::Material;
use yare_build::cache::{Cache, Policy, PruneOptions};
use yare_build::context::Contexts;
use yare_build::definition::{Definition, Evaluated};
use yare_build::files::HashCache;
use yare_build::request::{ContextSource, Request};
use yare_build::{Cancel, Failure, Prepared, Progress, Tools, Worker as _};
use yare_errdefs::{Classified, Error, Result};
use yare_oci::{Descriptor, Digest, Platform, Reference};

pub use conversation::{Further, Sandbox, converse};
pub use foreign::{Build, Frontends, Wanted};
pub use keys::Keys;
use keys::Sent;

/// What builds of one engine share.
#[derive(Debug)]
pub(crate) struct Builder {
    pub(crate) cache: Cache,
    hashes: HashCache,
    folder: PathBuf,
    running: running::Running,
    /// What goes by itself.
    policy: Option<Policy>,
    /// Runs frontends that are programs.
    frontends: OnceLock<Arc<dyn Frontends>>,
    /// A build has ended.
    built: Arc<tokio::sync::Notify>,
}

impl Builder {
    /// Opens the build cache and sweeps what unfinished builds left.
    pub(crate) fn open(
        config: &Config,
        records: &records::Records,
        images: &yare_image::Store,
    ) -> Result<Self> {
        let policy = collect::policy(config)?;
        let folder = config.data_root.join("build");
        crate::private_folder(&folder)?;
        let contexts = folder.join("contexts");
        yare_sys::fs::remove_tree(&contexts).map_err(|error| {
            Error::internal("cannot sweep contexts of unfinished builds").caused_by(error)
        })?;
        crate::private_folder(&contexts)?;
        crate::private_folder(&folder.join("sources"))?;
        let cache = Cache::open(records.database(), images.snapshots().clone(), &folder)?;
        let (running, built) = (running::Running::default(), Arc::default());
        let (hashes, frontends) = (HashCache::open(&folder), OnceLock::new());
        Ok(Self { cache, hashes, folder, running, policy, frontends, built })
    }

    /// Ends the builds that run, and those that still come.
    pub(crate) fn end(&self) {
        self.running.end();
    }

    /// Builds have ended with all that was made for them, and everything that was learned is on the disk.
    pub(crate) fn close(&self) {
        self.running.end();
        if !self.running.wait(PATIENCE) {
            tracing::warn!("a build did not end in time; the next start sweeps what it leaves");
        }
        self.cache.flush();
        if let Err(error) = self.hashes.save() {
            tracing::warn!(%error, "hashes of context files are not kept");
        }
    }
}

/// How long builds may take to end when the engine does.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of the stack of a build's thread. Stages that stand on one another are lowered one within the other.
const STACK: usize = 32 << 20;

/// In which form a build's news go to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The classic builder's text.
    Classic,
    /// The image's id alone; the classic builder's text when the build fails.
    Quiet,
    /// [`BuildMessage`]s.
    Messages,
}

/// One request for a build.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What is to be built.
    pub request: BuildRequest,
    /// Credentials by registry, as the client's file names them.
    pub auths: BTreeMap<String, AuthConfig>,
    /// In which form its news go.
    pub form: Form,
}

/// Builds an image; `body` brings the context unless it is elsewhere. Returns when the request and the
/// Dockerfile were understood; what happens then is in the stream. The build ends with its client.
///
/// # Errors
/// The request or the Dockerfile is wrong, or the context cannot be had.
pub async fn build(engine: &Arc<Engine>, ask: Ask, body: Body) -> Result<Output> {
    let Ask { request, auths, form } = ask;
    let runtime = Handle::current();
    let (news, lines) = mpsc::channel::<std::io::Result<Bytes>>(256);
    let (ready, begun) = oneshot::channel();
    let cancel = Cancel::default();
    let (gone, watched) = (news.clone(), cancel.clone());
    let (done, over) = oneshot::channel::<()>();
    tokio::spawn(async move {
        tokio::select! {
            () = gone.closed() => watched.cancel(),
            _ = over => {}
        }
    });
    let running = engine.builder.running.begin(cancel.clone());
    let engine = Arc::clone(engine);
    let reader = BodyReader::new(body);
    let (classic, held) = (Mutex::default(), Mutex::default());
    let sink = Arc::new(Sink { form, lines: news, cancel: cancel.clone(), classic, held });
    // A build may take hours: it holds no thread that others need.
    std::thread::Builder::new()
        .name("build".into())
        .stack_size(STACK)
        .spawn(move || {
            // The engine waits for it when it ends: after the engine it may be gone.
            let _running = running;
            // Dropped at the end of the thread, whatever that is.
            let _done = done;
            work(&engine, (&request, &auths), runtime, reader, &sink, &cancel, ready);
        })
        .map_err(|error| Error::unavailable("cannot start a thread for a build").caused_by(error))?;
    begun.await.unwrap_or_else(|_| Err(Error::internal("the build broke off")))?;
    Ok(crate::images::receive(lines))
}

fn work(
    engine: &Arc<Engine>,
    (asked, auths): (&BuildRequest, &BTreeMap<String, AuthConfig>),
    runtime: Handle,
    mut reader: BodyReader,
    sink: &Arc<Sink>,
    cancel: &Cancel,
    ready: oneshot::Sender<Result<()>>,
) {
    let web = web::Web { engine: Arc::clone(engine), runtime: runtime.clone() };
    let prepared = match prepare::prepare(engine, asked, (&mut reader, &web), cancel) {
        Ok(prepared) => prepared,
        Err(error) => {
            drop(ready.send(Err(error)));
            return;
        }
    };
    if ready.send(Ok(())).is_err() {
        return;
    }
    let (told, bytes) = (Arc::clone(sink), Arc::clone(sink));
    let (send, progress) = (
        move |place: usize, piece: &[u8]| bytes.data(place, piece),
        Progress::new(move |status| told.status(status)),
    );
    let foreign = foreign::wanted(&prepared.request);
    let built = prepared.opened(engine, foreign.is_some()).map_err(Failure::from);
    let built = built.and_then(|(request, contexts)| {
        let work = Work {
            request: &request,
            contexts: &*contexts,
            keys: &Sent { request: asked, auths },
            runtime: &runtime,
            send: &send,
            call: &asked.call,
            progress: &progress,
            cancel,
        };
        match &foreign {
            None => solve(engine, work),
            Some(foreign) => {
                // A frontend asks from a session of its own, which may outlast this call.
                let keys = foreign::Kept { request: asked.clone(), auths: auths.clone() };
                foreign::build(engine, foreign, (asked, Arc::clone(&contexts)), Arc::new(keys), &work)
            }
        }
    });
    match built {
        Ok((result, keys)) => {
            sink.result(result);
            settle(engine, &keys);
        }
        Err(failure) => sink.failure(&failure),
    }
    conclude(engine);
}

/// Takes a piece of an output that goes to the client.
pub type Send<'a> = dyn Fn(usize, &[u8]) -> std::io::Result<()> + Sync + 'a;

/// A build over whichever wire it came.
#[expect(missing_debug_implementations, reason = "what a client provides has nothing to print")]
pub struct Job<'a> {
    /// Its options. Contexts, secrets and agents in it do not count.
    pub asked: &'a BuildRequest,
    /// The Dockerfile.
    pub dockerfile: Vec<u8>,
    /// What is to be done when no Dockerfile says so.
    pub definition: Option<Definition>,
    /// The repository that the main context is a commit of, for attestations.
    pub repository: Option<Material>,
    /// Where named contexts are; those that are folders are asked of `contexts`.
    pub sources: BTreeMap<String, ContextSource>,
    /// Provides folders, the main one included, when a step needs them.
    pub contexts: &'a dyn Contexts,
    /// Provides secrets and agents.
    pub keys: &'a dyn Keys,
    /// Where what waits for the network runs.
    pub runtime: &'a Handle,
    /// Takes the bytes of outputs that go to the client, with the place among the outputs.
    pub send: &'a Send<'a>,
    /// Where its news go.
    pub progress: &'a Progress,
    /// Ends it early.
    pub cancel: &'a Cancel,
}

/// Builds an image and returns when it is in the store. Holds its thread: a build may take hours.
///
/// # Errors
/// What is wrong with the request or the Dockerfile, or what failed.
pub fn run(engine: &Arc<Engine>, job: Job<'_>) -> Result<BuildResult, Failure> {
    let call = job.asked.call.clone();
    let (request, work) = job.settle()?;
    let (result, results) = solve(engine, Work { request: &request, call: &call, ..work })?;
    settle(engine, &results);
    conclude(engine);
    Ok(result)
}

/// Gets a build context from the web. Holds its thread.
///
/// # Errors
/// It cannot be had.
pub fn download(engine: &Arc<Engine>, runtime: &Handle, url: &str, cancel: &Cancel) -> Result<std::fs::File> {
    let web = web::Web { engine: Arc::clone(engine), runtime: runtime.clone() };
    prepare::download(engine, &web, url, cancel)
}

/// Does what the goals of a definition need, and makes nothing of it. Holds its thread.
///
/// # Errors
/// What is wrong with the request, or what failed.
pub fn evaluate(engine: &Arc<Engine>, job: Job<'_>) -> Result<Evaluated, Failure> {
    let (request, work) = job.settle()?;
    let work = Work { request: &request, ..work };
    let evaluated = with_tools(engine, work, |_, tools| yare_build::evaluate(&request, tools))?;
    settle(engine, &evaluated.keys());
    conclude(engine);
    Ok(evaluated)
}

/// Does what a process stands on, the one goal of a definition, and makes it ready ([`converse`]). Holds its
/// thread.
///
/// # Errors
/// What is wrong with the request, or what failed.
pub fn prepare(engine: &Arc<Engine>, job: Job<'_>) -> Result<Prepared, Failure> {
    let (request, work) = job.settle()?;
    let work = Work { request: &request, ..work };
    let prepared = with_tools(engine, work, |_, tools| yare_build::prepare(&request, tools))?;
    settle(engine, &prepared.keys());
    conclude(engine);
    Ok(prepared)
}

/// Finds an image, or fetches it: the digest of its manifest, and its config as it came.
///
/// # Errors
/// It cannot be had.
pub fn image(
    engine: &Arc<Engine>,
    (reference, platform, pull): (&Reference, Option<&Platform>, bool),
    keys: &dyn Keys,
    (runtime, progress): (&Handle, &Progress),
) -> Result<(String, Vec<u8>)> {
    let worker = worker::EngineWorker::new(engine, keys, (runtime.clone(), progress));
    let image = worker.image(reference, platform, pull)?;
    Ok((image.manifest.to_string(), engine.images.config_bytes(&image.id)?))
}

/// The file system of a goal, read-only.
///
/// # Errors
/// There is no such goal, or it cannot be mounted.
pub fn open(engine: &Engine, evaluated: &Evaluated, goal: usize) -> Result<OwnedFd> {
    evaluated.open(goal, engine.images.snapshots())
}

/// The folder for what builds keep beside the cache: a client's files, kept for its next build.
pub fn kept_folder(engine: &Engine, name: &str) -> Result<PathBuf> {
    let folder = engine.builder.folder.join(name);
    crate::private_folder(&folder)?;
    Ok(folder)
}

impl<'a> Job<'a> {
    /// The request, and the rest of it with an empty one.
    fn settle(self) -> Result<(Request, Work<'a>)> {
        let Job { asked, dockerfile, definition, repository, sources, .. } = self;
        let Job { contexts, keys, runtime, send, progress, cancel, .. } = self;
        let request = Request { definition, repository, ..prepare::settle(asked, dockerfile, sources)? };
        static NONE: LazyLock<Request> = LazyLock::new(Request::default);
        let work = Work { request: &NONE, contexts, keys, runtime, send, call: "", progress, cancel };
        Ok((request, work))
    }
}

/// Counts what somebody keeps in such a folder with the build cache, and lets it be pruned with that.
pub fn keeps(engine: &Engine, kept: Arc<dyn yare_build::cache::Kept>) {
    engine.builder.cache.keeps(kept);
}

/// Lets files of other frontends be understood by these; what was set first counts.
pub fn understands(engine: &Engine, frontends: Arc<dyn Frontends>) {
    drop(engine.builder.frontends.set(frontends));
}

struct Work<'a> {
    request: &'a Request,
    contexts: &'a dyn Contexts,
    keys: &'a dyn Keys,
    runtime: &'a Handle,
    send: &'a Send<'a>,
    call: &'a str,
    progress: &'a Progress,
    cancel: &'a Cancel,
}

/// Builds, and gives the account and the keys of the cached results that it used.
fn solve(engine: &Arc<Engine>, work: Work<'_>) -> Result<(BuildResult, Vec<Digest>), Failure> {
    let (request, call) = (work.request, work.call);
    with_tools(engine, work, |worker, tools| solve_with(engine, (request, call), worker, tools))
}

/// Gives a build what it works with.
fn with_tools<T>(
    engine: &Arc<Engine>,
    work: Work<'_>,
    does: impl FnOnce(&worker::EngineWorker<'_>, Tools<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let worker = worker::EngineWorker::new(engine, work.keys, (work.runtime.clone(), work.progress));
    let web = web::Web { engine: Arc::clone(engine), runtime: work.runtime.clone() };
    let tools = Tools {
        cache: &engine.builder.cache,
        hashes: &engine.builder.hashes,
        snapshots: engine.images.snapshots(),
        worker: &worker,
        web: &web,
        sources: &engine.builder.folder.join("sources"),
        contexts: work.contexts,
        scratch: &engine.builder.folder.join("contexts"),
        send: work.send,
        progress: work.progress,
        cancel: work.cancel,
    };
    does(&worker, tools)
}

fn solve_with(
    engine: &Arc<Engine>,
    (request, call): (&Request, &str),
    worker: &worker::EngineWorker<'_>,
    tools: Tools<'_>,
) -> Result<(BuildResult, Vec<Digest>), Failure> {
    if !call.is_empty() {
        let answer = Some(yare_build::call(request, call, tools)?);
        return Ok((BuildResult { answer, ..BuildResult::default() }, Vec::new()));
    }
    let built = yare_build::build(request, &engine.images, tools)?;
    let pushed =
        built.push.iter().map(|(name, by_digest)| worker.push(name, *by_digest)).collect::<Result<Vec<_>>>();
    let pushed = match pushed {
        Ok(pushed) => pushed.into_iter().flatten().next(),
        Err(error) => {
            settle(engine, &built.keys);
            return Err(error.into());
        }
    };
    for (name, _) in &built.replaced {
        tracing::debug!(%name, "a name moved to the new image");
    }
    let mut names = Vec::new();
    if let Some(image) = &built.image {
        for name in &request.tags {
            crate::images::publish(engine, "tag", &image.id, &name.familiar());
            names.push(name.familiar());
        }
    }
    // Several platforms have no config of their own: as with BuildKit the index is the id, the registry's if it
    // has one.
    let index = pushed.as_ref().filter(|_| request.platforms.len() > 1).map(|pushed| pushed.digest);
    let id = index.or(built.id);
    let stored = || descriptor(engine, built.digest.filter(|_| built.image.is_some())?);
    let known = pushed.or_else(stored);
    let digest = known.as_ref().map(|known| known.digest).or(built.digest);
    let metadata = known.map(|known| ("containerimage.descriptor".to_owned(), serde_json::json!(known)));
    let result = BuildResult {
        image_id: id.map(|id| id.to_string()).unwrap_or_default(),
        digest: digest.map(|digest| digest.to_string()).unwrap_or_default(),
        metadata: metadata.into_iter().collect(),
        names,
        steps: built.steps,
        ..BuildResult::default()
    };
    Ok((result, built.keys))
}

/// A manifest or index of the store.
fn descriptor(engine: &Engine, digest: Digest) -> Option<Descriptor> {
    let bytes = engine.images.document(&digest).ok()?;
    Some(Descriptor::of(&crate::images::media_type(&bytes), &bytes))
}

/// What is kept of a build beside its result.
fn conclude(engine: &Engine) {
    if let Err(error) = engine.builder.hashes.save() {
        tracing::debug!(%error, "hashes of context files are not kept");
    }
    engine.builder.built.notify_one();
}

/// Makes cached results survive power loss, when the client has its answer.
fn settle(engine: &Arc<Engine>, keys: &[Digest]) {
    if let Err(error) = engine.builder.cache.settle(keys) {
        tracing::warn!(error = yare_errdefs::chain(&error), "results of a build may not survive a power cut");
    }
}

/// Where the lines of one build go.
struct Sink {
    form: Form,
    lines: mpsc::Sender<std::io::Result<Bytes>>,
    cancel: Cancel,
    classic: Mutex<classic::Printer>,
    /// Lines of a quiet build, told if it fails.
    held: Mutex<Vec<u8>>,
}

/// Bytes of a quiet build that are kept for the case that it fails.
const MOST_HELD: usize = 4 << 20;

impl Sink {
    /// A line of the classic builder's text.
    fn classic_line(&self, line: Vec<u8>) {
        if self.form != Form::Quiet {
            return self.line(line);
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() + line.len() <= MOST_HELD {
            held.extend_from_slice(&line);
        }
    }

    fn line(&self, line: Vec<u8>) {
        if self.lines.blocking_send(Ok(line.into())).is_err() {
            self.cancel.cancel();
        }
    }

    fn message(&self, message: &BuildMessage) {
        let mut line = crate::to_json(message);
        line.push(b'\n');
        self.line(line);
    }

    /// Bytes of an output, which only our own client can take.
    fn data(&self, output: usize, bytes: &[u8]) -> std::io::Result<()> {
        if self.form != Form::Messages {
            return Err(std::io::Error::other("the classic endpoint brings no outputs: give dest="));
        }
        let data = base64::engine::general_purpose::STANDARD.encode(bytes);
        self.message(&BuildMessage { data, output, ..BuildMessage::default() });
        if self.cancel.is_cancelled() { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    fn status(&self, status: SolveStatus) {
        match self.form {
            Form::Messages => {
                self.message(&BuildMessage { status: Some(status), ..BuildMessage::default() });
            }
            Form::Classic | Form::Quiet => {
                // Held while sending: lines of one step stay together.
                let mut printer = self.classic.lock().unwrap_or_else(PoisonError::into_inner);
                printer.take(status).into_iter().for_each(|message| self.classic_line(message.to_line()));
            }
        }
    }

    fn result(&self, result: BuildResult) {
        match self.form {
            Form::Messages => self.message(&BuildMessage { result: Some(result), ..BuildMessage::default() }),
            Form::Classic => {
                for message in classic::outcome(&result) {
                    self.line(message.to_line());
                }
            }
            Form::Quiet => {
                let id = format!("{}\n", result.image_id);
                self.line(yare_api::progress::JSONMessage::stream(id).to_line());
            }
        }
    }

    fn failure(&self, failure: &Failure) {
        let mut text = yare_errdefs::chain(failure);
        let code = i64::from(failure.code.unwrap_or_default());
        match self.form {
            Form::Messages => {
                self.message(&BuildMessage {
                    excerpt: failure.excerpt.to_string(),
                    error: text.clone(),
                    error_detail: Some(ErrorDetail { code, message: text }),
                    hint: failure.hint().unwrap_or_default(),
                    ..BuildMessage::default()
                });
            }
            Form::Classic | Form::Quiet => {
                let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
                if !held.is_empty() {
                    self.line(held);
                }
                if !failure.excerpt.is_empty() {
                    let excerpt = yare_api::progress::JSONMessage::stream(failure.excerpt.to_string());
                    self.line(excerpt.to_line());
                }
                if let Some(hint) = failure.hint() {
                    text = format!("{text}\nhint: {hint}");
                }
                let mut message = yare_api::progress::JSONMessage::error(text);
                if let Some(detail) = &mut message.error_detail {
                    detail.code = code;
                }
                self.line(message.to_line());
            }
        }
    }
}

/// What the build cache keeps, for `system df`.
pub fn usage(engine: &Engine) -> Vec<BuildCache> {
    let time =
        |seconds: i64| jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default();
    let rows = engine.builder.cache.usage().into_iter();
    rows.map(|row| BuildCache {
        id: row.key.hex()[..25].to_owned(),
        parents: Some(row.step.parents.iter().map(|key| key.hex()[..25].to_owned()).collect()),
        r#type: row.step.kind.clone(),
        description: row.step.description.clone(),
        in_use: row.in_use,
        shared: row.shared,
        size: i64::try_from(row.size).unwrap_or(i64::MAX),
        created_at: time(row.step.created),
        last_used_at: Some(time(row.step.last_used)),
        usage_count: i64::try_from(row.step.uses).unwrap_or(i64::MAX),
    })
    .collect()
}

/// What of the build cache shall go.
#[derive(Debug, Clone, Default)]
pub struct Prune {
    /// Also what images share.
    pub all: bool,
    /// Bytes that may stay; 0 is no bound.
    pub keep: i64,
    /// `until`, `unused-for`, `id`, `type`, `description`, `label`, `label!`.
    pub filters: Filters,
}

/// Makes the build cache smaller.
pub async fn prune(engine: &Arc<Engine>, prune: Prune) -> Result<BuildPruneResponse> {
    let mut options = PruneOptions { all: prune.all, ..PruneOptions::default() };
    options.keep_bytes = u64::try_from(prune.keep).ok().filter(|keep| *keep > 0);
    for name in prune.filters.names() {
        let values = prune.filters.values(name).to_vec();
        match name {
            "until" => options.unused_for = values.first().map(|text| seconds(text)).transpose()?,
            "unused-for" => {
                let now = engine.clock.now();
                let since = yare_image::parse_unused_for(&values, now)?;
                options.unused_for = since.map(|since| now.duration_since(since).as_secs());
            }
            "dry-run" => options.dry_run = prune.filters.boolean(name)?.unwrap_or(false),
            "id" => options.ids = values,
            "type" => options.kinds = values,
            "description" => options.descriptions = values,
            // Results of builds have no labels: nothing has one that is asked for, everything lacks the others.
            "label" if !values.is_empty() => return Ok(BuildPruneResponse::default()),
            "label" | "label!" => {}
            other => return Err(Error::invalid(format!("invalid filter '{other}'"))),
        }
    }
    let engine = Arc::clone(engine);
    blocking(move || {
        let pruned = engine.builder.cache.prune(&options);
        if !options.dry_run {
            let attributes = BTreeMap::from([("reclaimed".to_owned(), pruned.bytes.to_string())]);
            engine.publish("builder", "prune", "", attributes);
        }
        let ids: Vec<String> = pruned.keys.iter().map(|key| key.hex()[..25].to_owned()).collect();
        Ok(BuildPruneResponse {
            caches_deleted: (!ids.is_empty()).then_some(ids),
            space_reclaimed: i64::try_from(pruned.bytes).unwrap_or(i64::MAX),
        })
    })
    .await
}

fn seconds(text: &str) -> Result<i64> {
    yare_gotext::parse_duration(text)
        .map(|nanos| nanos / 1_000_000_000)
        .map_err(|error| Error::invalid(format!("invalid duration {text:?}: {error}")))
}
