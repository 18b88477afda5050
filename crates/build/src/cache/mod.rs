//! What builds have made, kept for the next one.
//!
//! A step's result is a draft of the snapshot store ([`yare_snapshot::DraftId`]), found by a key that says
//! everything that decides it. Keys are made elsewhere; here they are only digests.
//!
//! # What is on disk (format 1)
//!
//! Tables in the engine's database; a digest as key is its 32 raw bytes:
//!
//! | table         | key             | value                                                          |
//! |---------------|-----------------|----------------------------------------------------------------|
//! | `build_meta`  | `"format"`      | 1; a greater number is refused                                 |
//! | `build_steps` | key of a step   | JSON [`Step`]                                                  |
//! | `build_sums`  | key of a source | JSON: checksums of what was selected from it, by selection     |
//! | `build_seen`  | place of a step | JSON: what its key was made of when it last ran (`--explain`)  |
//!
//! `<root>/mounts/<name>/` are the directories of `RUN --mount=type=cache`, each with a row in
//! `build_steps` of kind `exec.cachemount`.
//!
//! # What a crash leaves
//!
//! A step's row is written when it is done, by a thread of its own, with the boot it belongs to: the draft
//! is complete then, though perhaps not on the disk. After a power cut such a row is worth nothing and
//! goes; after the death of the engine alone it is as good as before. [`Cache::settle`] syncs and takes the
//! mark away. A row without its draft, and a draft without a row, are swept when the cache is opened.

mod db;
mod mounts;
mod policy;
mod prune;

pub use mounts::{MountLease, NewMount};
pub use policy::{Policy, Rule, Space};
pub use prune::{Kept, PruneOptions, Pruned, Usage};

use crate::{Cancel, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use yare_image::Database;
use yare_oci::Digest;
use yare_snapshot::{DraftId, Snapshots};

/// One result that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// What it made; `None` for a cache directory.
    pub draft: Option<DraftId>,
    /// The words of the step.
    pub description: String,
    /// `regular`, `source.http`, `source.git`, `source.local`, `internal` or `exec.cachemount`, as Docker
    /// lists them.
    pub kind: String,
    /// Bytes of content that it added.
    pub size: u64,
    /// Seconds since 1970.
    pub created: i64,
    /// Seconds since 1970.
    pub last_used: i64,
    /// How often it served.
    pub uses: u64,
    /// Microseconds that it took.
    pub took: u64,
    /// The steps it stands on.
    pub parents: Vec<Digest>,
    /// The boot in which it was made, while it is not known to be on the disk.
    pub boot: Option<String>,
    /// What a fetch found out, for its next use (ETag, commit).
    pub remark: String,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            draft: None,
            description: String::new(),
            kind: "regular".to_owned(),
            size: 0,
            created: 0,
            last_used: 0,
            uses: 0,
            took: 0,
            parents: Vec::new(),
            boot: None,
            remark: String::new(),
        }
    }
}

/// The build cache of one engine. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    database: Arc<Database>,
    snapshots: Snapshots,
    folder: PathBuf,
    boot: String,
    state: Mutex<State>,
    changed: Condvar,
    writer: db::Writer,
    /// What others keep, counted and pruned with it.
    kept: Mutex<Vec<Arc<dyn Kept>>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("folder", &self.folder).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    steps: HashMap<Digest, Step>,
    sums: HashMap<Digest, BTreeMap<String, Digest>>,
    /// Keys whose step is being done.
    running: HashSet<Digest>,
    /// How many builds use a key now.
    leased: HashMap<Digest, u32>,
    /// Cache directories in use, by name.
    mounts: HashMap<String, u32>,
    /// Results that newer ones replaced and builds that run may still stand on, by key.
    retired: HashMap<Digest, Vec<DraftId>>,
}

/// What to do about a step.
#[derive(Debug)]
pub enum Claim {
    /// It was done before.
    Hit(Step),
    /// It is to be done now, and others that want it wait.
    Run(Claimed),
}

/// The right to do a step; dropped without a result, the next who wants it does it.
#[derive(Debug)]
pub struct Claimed {
    cache: Cache,
    key: Digest,
}

/// Keeps results from being pruned while a build uses them.
#[derive(Debug)]
pub struct Lease {
    cache: Cache,
    keys: Mutex<Vec<Digest>>,
}

/// How often a waiting step looks whether its build was cancelled.
const LOOK: Duration = Duration::from_millis(100);

impl Cache {
    /// Opens the cache and sweeps what a crash left.
    ///
    /// # Errors
    /// The records cannot be read or are of a newer format.
    pub fn open(database: Arc<Database>, snapshots: Snapshots, folder: &Path) -> Result<Self> {
        db::initialise(&database)?;
        let boot = boot_id();
        let (mut steps, sums) = db::read_all(&database)?;
        let mut gone = Vec::new();
        steps.retain(|key, step| {
            let whole = step.boot.as_ref().is_none_or(|made| *made == boot);
            let there = step.draft.as_ref().is_none_or(|draft| snapshots.has_draft(draft));
            if !(whole && there) {
                gone.push(*key);
            }
            whole && there
        });
        let held = steps.values().filter_map(|step| step.draft.clone()).collect();
        snapshots
            .sweep_drafts(held)
            .map_err(|error| Error::wrap("cannot sweep the results of unfinished builds", error))?;
        std::fs::create_dir_all(folder.join("mounts")).map_err(|error| {
            Error::internal(format!("cannot make the folder {}", folder.display())).caused_by(error)
        })?;
        let writer = db::Writer::start(Arc::clone(&database))?;
        writer.send(db::Edits {
            steps: gone.into_iter().map(|key| (key, None)).collect(),
            ..db::Edits::default()
        });
        let state = State { steps, sums, ..State::default() };
        let inner = Inner {
            database,
            snapshots,
            folder: folder.to_owned(),
            boot,
            state: Mutex::new(state),
            changed: Condvar::new(),
            writer,
            kept: Mutex::default(),
        };
        let cache = Self { inner: Arc::new(inner) };
        cache.sweep_mounts();
        Ok(cache)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease that protects nothing yet.
    pub fn lease(&self) -> Lease {
        Lease { cache: self.clone(), keys: Mutex::default() }
    }

    /// Looks a step up, or claims it. Waits while another build does it. With `fresh` an old result does not
    /// count, and is replaced.
    ///
    /// # Errors
    /// The build was cancelled while it waited.
    pub fn claim(&self, key: Digest, fresh: bool, lease: &Lease, cancel: &Cancel) -> Result<Claim> {
        let mut state = self.state();
        // Leased first: what is found now must not be pruned before it is used.
        lease.take(&mut state, key);
        while state.running.contains(&key) {
            cancel.check()?;
            let waited = self.inner.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if !fresh && let Some(step) = state.steps.get_mut(&key) {
            step.last_used = now();
            step.uses += 1;
            let step = step.clone();
            drop(state);
            self.inner.writer.send(db::Edits::step(key, Some(step.clone())));
            return Ok(Claim::Hit(step));
        }
        state.running.insert(key);
        Ok(Claim::Run(Claimed { cache: self.clone(), key }))
    }

    /// What is known under a key, without using it.
    pub fn look(&self, key: &Digest) -> Option<Step> {
        self.state().steps.get(key).cloned()
    }

    /// What is known under a key; it stays as long as the lease.
    pub fn hold(&self, key: &Digest, lease: &Lease) -> Option<Step> {
        let mut state = self.state();
        let step = state.steps.get(key).cloned()?;
        lease.take(&mut state, *key);
        Some(step)
    }

    /// The checksum of a selection of a source, if it was computed before.
    pub fn sum(&self, source: &Digest, selection: &Digest) -> Option<Digest> {
        self.state().sums.get(source)?.get(&selection.hex()).copied()
    }

    /// Keeps the checksum of a selection of a source.
    pub fn keep_sum(&self, source: Digest, selection: &Digest, sum: Digest) {
        let sums = {
            let mut state = self.state();
            let sums = state.sums.entry(source).or_default();
            sums.insert(selection.hex(), sum);
            sums.clone()
        };
        self.inner.writer.send(db::Edits { sums: vec![(source, Some(sums))], ..db::Edits::default() });
    }

    /// What a step's key was made of when the step at this place last ran.
    pub fn seen(&self, place: &Digest) -> Option<Vec<u8>> {
        db::read_seen(&self.inner.database, place)
    }

    /// Keeps what a step's key is made of.
    pub fn keep_seen(&self, place: Digest, parts: Vec<u8>) {
        self.inner.writer.send(db::Edits { seen: vec![(place, parts)], ..db::Edits::default() });
    }

    /// Makes sure that these results survive power loss, and notes it. Takes as long as the disk takes.
    ///
    /// # Errors
    /// The disk refused.
    pub fn settle(&self, keys: &[Digest]) -> Result<()> {
        let unsettled = |step: &Step| step.boot.is_some();
        let open: Vec<Digest> = {
            let state = self.state();
            keys.iter().filter(|key| state.steps.get(key).is_some_and(unsettled)).copied().collect()
        };
        if open.is_empty() {
            return Ok(());
        }
        self.inner
            .snapshots
            .sync()
            .map_err(|error| Error::wrap("cannot sync the results of a build", error))?;
        let mut state = self.state();
        let mut edits = db::Edits::default();
        for key in open {
            if let Some(step) = state.steps.get_mut(&key) {
                step.boot = None;
                edits.steps.push((key, Some(step.clone())));
            }
        }
        drop(state);
        self.inner.writer.send(edits);
        Ok(())
    }

    /// Waits until everything that was handed over so far is on record; for the end of the engine.
    pub fn flush(&self) {
        self.inner.writer.flush();
    }
}

impl Claimed {
    /// Records the result, for others too.
    pub fn finish(self, mut step: Step) -> Step {
        let inner = &self.cache.inner;
        step.created = now();
        step.last_used = step.created;
        step.boot = Some(inner.boot.clone());
        {
            let mut state = self.cache.state();
            state.sums.remove(&self.key);
            if let Some(old) = state.steps.insert(self.key, step.clone()).and_then(|old| old.draft) {
                state.retired.entry(self.key).or_default().push(old);
            }
        }
        inner.writer.send(db::Edits {
            steps: vec![(self.key, Some(step.clone()))],
            sums: vec![(self.key, None)],
            ..db::Edits::default()
        });
        step
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.cache.state().running.remove(&self.key);
        self.cache.inner.changed.notify_all();
    }
}

impl Cache {
    fn release(&self, draft: &DraftId) {
        if let Err(error) = self.inner.snapshots.release_draft(draft) {
            tracing::warn!(%draft, %error, "a result of a build that nothing uses stays until the next start");
        }
    }
}

impl Lease {
    fn take(&self, state: &mut State, key: Digest) {
        *state.leased.entry(key).or_default() += 1;
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    /// The keys it protects.
    pub fn keys(&self) -> Vec<Digest> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let keys = std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner));
        let mut retired = Vec::new();
        let mut state = self.cache.state();
        for key in keys {
            if let Some(count) = state.leased.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    state.leased.remove(&key);
                    retired.extend(state.retired.remove(&key).unwrap_or_default());
                }
            }
        }
        drop(state);
        retired.iter().for_each(|draft| self.cache.release(draft));
    }
}

pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Tells boots of the machine apart; without it every row counts as one of an earlier boot.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
