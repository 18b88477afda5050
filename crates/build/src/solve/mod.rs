//! Doing what a graph says: every vertex as soon as its inputs are there, a bounded number at once, each
//! looked up before it is done.

mod agent;
mod beside;
mod copy;
mod edit;
mod emulation;
mod explain;
mod fetch;
mod layers;
mod make_dir;
mod prepare;
mod run;
mod stubs;

pub(crate) use beside::Beside;
pub use prepare::Prepared;

use crate::attest::provenance::Material;
use crate::cache::{Cache, Claim, Claimed, Lease, Step};
use crate::context::Contexts;
use crate::failure::Failure;
use crate::files::HashCache;
use crate::graph::{Graph, Op, VertexId};
use crate::keys::{self, Parts};
use crate::progress::{Progress, now};
use crate::request::Request;
use crate::source::http::Fetch;
use crate::transfer::Imports;
use crate::worker::Worker;
use crate::{Cancel, Error, Result};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use yare_api::build::{CANCELLED, Vertex as VertexNews};
use yare_errdefs::{Class, Classified};
use yare_oci::Digest;
use yare_snapshot::{DraftId, PendingDraft, Snapshots, Stack};

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Where results are kept.
    pub cache: &'a Cache,
    /// Hashes of the files of contexts.
    pub hashes: &'a HashCache,
    /// The layers.
    pub snapshots: &'a Snapshots,
    /// The engine around.
    pub worker: &'a dyn Worker,
    /// The web.
    pub web: &'a dyn Fetch,
    /// Where repositories and downloads are kept.
    pub sources: &'a std::path::Path,
    /// Folders with files.
    pub contexts: &'a dyn Contexts,
    /// For folders of one build; what a crash leaves there goes at the next start.
    pub scratch: &'a std::path::Path,
    /// Takes the bytes of an output without destination, with its place in the request.
    pub send: &'a (dyn Fn(usize, &[u8]) -> std::io::Result<()> + Sync),
    /// Where news go.
    pub progress: &'a Progress,
    /// Ends it early.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Tools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").finish_non_exhaustive()
    }
}

/// What a vertex made.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Under which key.
    pub(crate) key: Digest,
    /// The file system.
    pub(crate) stack: Stack,
    /// Whether it added something to its base.
    pub(crate) added: bool,
    /// Whether the cache served it.
    pub(crate) cached: bool,
    /// Microseconds.
    pub(crate) took: u64,
    /// Bytes that it added.
    pub(crate) size: u64,
    /// Why the cache did not serve.
    pub(crate) reason: String,
    /// What was fetched, by address and digest.
    pub(crate) material: Option<Arc<Material>>,
    /// File systems that a process wrote beside its root, by mount.
    pub(crate) outputs: BTreeMap<usize, (Digest, Stack)>,
}

/// What doing a step gave, beside its files.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Bytes of content.
    pub(super) bytes: u64,
    /// Files that were looked through for secrets when an earlier run made them.
    pub(super) clean: HashSet<Vec<u8>>,
}

impl From<u64> for Made {
    fn from(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }
}

/// How many vertices are done at once.
fn width() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| (cores.get() * 2).max(4))
}

/// A graph being solved.
pub(crate) struct Solver<'a> {
    pub(super) graph: &'a Graph,
    pub(super) request: &'a Request,
    pub(super) tools: Tools<'a>,
    pub(super) lease: &'a Lease,
    /// Vertices whose drafts will be layers: they are hashed beside the next step.
    pub(super) layers: &'a HashSet<VertexId>,
    pub(super) beside: &'a Beside,
    /// Goes into every key, so that nothing is shared with other builds.
    apart: Option<Digest>,
    /// Results of other builds.
    pub(super) imports: Option<&'a Imports<'a>>,
    progress: Mutex<Schedule>,
    changed: Condvar,
}

#[derive(Default)]
struct Schedule {
    ready: VecDeque<VertexId>,
    /// Inputs that are not there yet, by vertex.
    missing: BTreeMap<VertexId, usize>,
    /// Who waits for a vertex.
    waiting: BTreeMap<VertexId, Vec<VertexId>>,
    outcomes: BTreeMap<VertexId, Outcome>,
    /// When vertices began, for the news of their end.
    begun: BTreeMap<VertexId, String>,
    open: usize,
    failure: Option<Failure>,
}

impl<'a> Solver<'a> {
    pub(crate) fn new(
        graph: &'a Graph,
        request: &'a Request,
        tools: Tools<'a>,
        lease: &'a Lease,
        (layers, beside): (&'a HashSet<VertexId>, &'a Beside),
    ) -> Self {
        let (progress, changed) = (Mutex::default(), Condvar::new());
        Self { graph, request, tools, lease, layers, beside, apart: None, imports: None, progress, changed }
    }

    /// Takes results from there that are not here.
    pub(crate) fn importing(mut self, imports: &'a Imports<'a>) -> Self {
        self.imports = Some(imports);
        self
    }

    /// Solves it with results of its own: none of the cache counts, and no other build finds what it makes.
    pub(crate) fn apart(mut self, word: &str) -> Self {
        self.apart = Some(Digest::of(word));
        self
    }

    /// Does these vertices, which are all that their inputs need.
    ///
    /// # Errors
    /// The first failure; vertices under way are ended.
    pub(crate) fn solve(&self, needed: &[VertexId]) -> Result<BTreeMap<VertexId, Outcome>, Failure> {
        {
            let mut schedule = self.schedule();
            schedule.open = needed.len();
            for &id in needed {
                let inputs: HashSet<VertexId> = self.graph.vertex(id).op.inputs().into_iter().collect();
                if inputs.is_empty() {
                    schedule.ready.push_back(id);
                } else {
                    schedule.missing.insert(id, inputs.len());
                }
                for input in inputs {
                    schedule.waiting.entry(input).or_default().push(id);
                }
                self.announce(id);
            }
        }
        std::thread::scope(|scope| {
            // One of them is this thread.
            for _ in 1..width().min(needed.len().max(1)) {
                scope.spawn(|| self.work());
            }
            self.work();
        });
        let mut schedule = self.schedule();
        match schedule.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(std::mem::take(&mut schedule.outcomes)),
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(id) = self.next() {
            let begun = Instant::now();
            let done = self.tools.cancel.check().map_err(Failure::from).and_then(|()| self.vertex(id));
            self.done(id, done.map(|outcome| Outcome { took: micros(begun), ..outcome }));
        }
    }

    /// The next vertex to do; `None` when all is done or something failed.
    fn next(&self) -> Option<VertexId> {
        let mut schedule = self.schedule();
        loop {
            if schedule.open == 0 || schedule.failure.is_some() {
                return None;
            }
            if let Some(id) = schedule.ready.pop_front() {
                return Some(id);
            }
            schedule = self.changed.wait(schedule).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, id: VertexId, outcome: Result<Outcome, Failure>) {
        let mut schedule = self.schedule();
        match outcome {
            Ok(outcome) => {
                let begun = schedule.begun.remove(&id);
                self.tell(id, begun, Some(&outcome), "");
                schedule.outcomes.insert(id, outcome);
                schedule.open -= 1;
                for waiting in schedule.waiting.remove(&id).unwrap_or_default() {
                    let left = schedule.missing.get_mut(&waiting).map_or(0, |count| {
                        *count -= 1;
                        *count
                    });
                    if left == 0 {
                        schedule.missing.remove(&waiting);
                        schedule.ready.push_back(waiting);
                    }
                }
            }
            Err(failure) => {
                let begun = schedule.begun.remove(&id);
                self.tell(id, begun, None, &news_of(&failure.error));
                // The others end because of this one: their ends are no news.
                self.tools.cancel.cancel();
                let line = self.graph.line(id);
                let mut failure = if line > 0 { failure.at((line, line)) } else { failure };
                let known = self.graph.known(id).and_then(|digest| digest.parse().ok());
                failure.operation = known.map(Box::new);
                schedule.failure.get_or_insert(failure);
            }
        }
        drop(schedule);
        self.changed.notify_all();
    }

    pub(super) fn outcome(&self, id: VertexId) -> Result<Outcome> {
        self.schedule()
            .outcomes
            .get(&id)
            .cloned()
            .ok_or_else(|| Error::internal("a step began before what it needs was there"))
    }

    /// The time that files of a vertex get.
    pub(super) fn epoch(&self, id: VertexId) -> i64 {
        self.graph.vertex(id).epoch
    }

    /// What a vertex is called in messages.
    pub(super) fn digest(&self, id: VertexId) -> String {
        self.graph.digest(id)
    }

    fn announce(&self, id: VertexId) {
        if self.is_silent(id) {
            return;
        }
        let vertex = self.graph.vertex(id);
        let inputs = vertex.op.inputs().into_iter().filter(|input| !self.is_silent(*input));
        self.tools.progress.vertex(VertexNews {
            digest: self.digest(id),
            inputs: inputs.map(|input| self.digest(input)).collect(),
            name: vertex.name.clone(),
            ..VertexNews::default()
        });
    }

    /// The empty file system is nothing to tell of.
    fn is_silent(&self, id: VertexId) -> bool {
        matches!(self.graph.vertex(id).op, Op::Scratch)
    }

    pub(super) fn begun(&self, id: VertexId) {
        if self.is_silent(id) {
            return;
        }
        let vertex = self.graph.vertex(id);
        // A download begins before it is known whether it is cached.
        let started = self.schedule().begun.entry(id).or_insert_with(now).clone();
        self.tools.progress.vertex(VertexNews {
            digest: self.digest(id),
            name: vertex.name.clone(),
            started: Some(started),
            ..VertexNews::default()
        });
    }

    /// Tells of a vertex's end. One that is cached, or that failed before it began, took no time.
    fn tell(&self, id: VertexId, begun: Option<String>, outcome: Option<&Outcome>, error: &str) {
        if self.is_silent(id) {
            return;
        }
        let time = now();
        self.tools.progress.vertex(VertexNews {
            digest: self.digest(id),
            name: self.graph.vertex(id).name.clone(),
            started: Some(begun.unwrap_or_else(|| time.clone())),
            completed: Some(time),
            cached: outcome.is_some_and(|outcome| outcome.cached),
            error: error.to_owned(),
            ..VertexNews::default()
        });
    }

    fn vertex(&self, id: VertexId) -> Result<Outcome, Failure> {
        match &self.graph.vertex(id).op {
            Op::Scratch => Ok(source(keys::of_layers(&[]), Stack::default())),
            Op::Image(layers) => {
                self.begun(id);
                let stack = Stack { layers: layers.clone(), drafts: Vec::new() };
                Ok(source(keys::of_layers(layers), stack))
            }
            Op::Fetch(fetch) => self.fetch(id, fetch),
            Op::Copy(copy) => self.copy(id, copy),
            Op::MakeDir(make) => Ok(self.make_dir(id, make)?),
            Op::Run(run) => self.run(id, run),
            Op::Output(output) => Ok(self.output(id, *output)?),
            Op::Edit(edit) => self.edit(id, edit),
            Op::Merge(inputs) => Ok(self.merge(inputs)?),
            Op::Diff(diff) => Ok(self.diff(diff)?),
        }
    }

    /// Looks a step up by what its key is made of, or does it with `make`, which fills a draft on top of
    /// `base` and is told what the step at this place made last time. ● The end of [`Claimed::finish`] is the commit point.
    pub(super) fn cached(
        &self,
        id: VertexId,
        parts: &Parts,
        base: &Stack,
        kind: &str,
        make: impl FnOnce(&PendingDraft, Option<&DraftId>) -> Result<Made, Failure>,
    ) -> Result<Outcome, Failure> {
        let fresh = self.graph.vertex(id).no_cache;
        self.cached_unless(fresh, id, parts, base, (kind, make))
    }

    /// The key of a step that is made of these parts.
    pub(super) fn key(&self, parts: &Parts) -> Digest {
        match &self.apart {
            Some(word) => parts.clone().with("apart", word).key(),
            None => parts.key(),
        }
    }

    /// As [`Solver::cached`]; with `fresh` an old result does not count.
    pub(super) fn cached_unless(
        &self,
        fresh: bool,
        id: VertexId,
        parts: &Parts,
        base: &Stack,
        (kind, make): (&str, impl FnOnce(&PendingDraft, Option<&DraftId>) -> Result<Made, Failure>),
    ) -> Result<Outcome, Failure> {
        let vertex = self.graph.vertex(id);
        let key = self.key(parts);
        let claimed: Claimed = match self.tools.cache.claim(key, fresh, self.lease, self.tools.cancel)? {
            Claim::Hit(step) => return Ok(self.hit(id, key, base, &step)),
            Claim::Run(claimed) => claimed,
        };
        if let Some(imports) = self.imports.filter(|_| !fresh)
            && let Some(step) = imports.fetch((id, &key), base, &self.tools)?
        {
            return Ok(self.hit(id, key, base, &claimed.finish(step)));
        }
        self.begun(id);
        let before = if self.apart.is_some() { None } else { self.before(id, parts) };
        let reason =
            if self.apart.is_some() { String::new() } else { self.explain(id, parts, before.as_ref()) };
        let twin = before.and_then(|before| self.tools.cache.hold(&before.key(), self.lease));
        let began = Instant::now();
        let pending = self
            .tools
            .snapshots
            .begin_draft(base)
            .map_err(|error| Error::wrap("cannot make room for the result of a step", error))?;
        let made = make(&pending, twin.and_then(|step| step.draft).as_ref())?;
        let upper = pending.upper();
        let dir = yare_sys::fs::open_dir(&upper)
            .map_err(|error| Error::internal(format!("cannot open {}", upper.display())).caused_by(error))?;
        crate::files::clamp_times(dir.as_fd(), vertex.epoch, self.tools.cancel)?;
        drop(dir);
        let draft = pending.keep().map_err(|error| Error::wrap("cannot keep the result of a step", error))?;
        if self.layers.contains(&id) {
            self.beside.begin(&draft, &self.digest(id), Some(made.clean));
        }
        let step = claimed.finish(Step {
            draft: Some(draft.clone()),
            description: vertex.name.clone(),
            kind: kind.to_owned(),
            size: made.bytes,
            took: micros(began),
            parents: self.parents(id),
            ..Step::default()
        });
        Ok(Outcome { cached: false, reason, ..self.hit(id, key, base, &step) })
    }

    fn hit(&self, id: VertexId, key: Digest, base: &Stack, step: &Step) -> Outcome {
        let mut stack = base.clone();
        if let Some(draft) = &step.draft {
            if self.layers.contains(&id) {
                self.beside.begin(draft, &self.digest(id), None);
            }
            stack.drafts.push(draft.clone());
        }
        let added = step.draft.is_some();
        Outcome {
            key,
            stack,
            added,
            cached: true,
            took: 0,
            size: step.size,
            reason: String::new(),
            material: None,
            outputs: BTreeMap::new(),
        }
    }

    /// The steps that this one stands on.
    fn parents(&self, id: VertexId) -> Vec<Digest> {
        let inputs = self.graph.vertex(id).op.inputs();
        let keys = inputs.into_iter().filter_map(|input| self.outcome(input).ok());
        let mut keys: Vec<Digest> =
            keys.map(|outcome| outcome.key).filter(|key| self.tools.cache.look(key).is_some()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// Why a vertex failed, for its news. That it was ended because another failed is no fault of its own, which
/// clients know by the last words.
fn news_of(error: &Error) -> String {
    match error.class() {
        Class::Cancelled => CANCELLED.to_owned(),
        _ => yare_errdefs::chain(error),
    }
}

/// The outcome of a source that costs nothing.
fn source(key: Digest, stack: Stack) -> Outcome {
    Outcome {
        key,
        stack,
        added: false,
        cached: true,
        took: 0,
        size: 0,
        reason: String::new(),
        material: None,
        outputs: BTreeMap::new(),
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
