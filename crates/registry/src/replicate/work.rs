//! Doing what is in the queue: a loop for each rule.

use super::counts::Counts;
use super::queue::{self, Holder, Job, Key, Outcome, TERM};
use super::{Replication, Work, copy, failed, scan};
use crate::clock::now;
use crate::problem::Result;
use crate::records::Writing;
use crate::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use yare_errdefs::{Class, Classified};

/// How often the queue is looked at when nothing is known to be due.
const LOOK: Duration = Duration::from_secs(2);
/// Rows of one change.
const STEP: usize = 512;

/// Works until it is dropped.
pub(crate) async fn run(registry: Arc<Registry>) {
    if registry.replication.works.is_empty() {
        return;
    }
    let rules = Arc::clone(&registry.rules.replicate);
    while let Err(error) = {
        let rules = Arc::clone(&rules);
        registry.records.write(move |writing| queue::prepare(writing, &rules, now())).await
    } {
        tracing::warn!(error = yare_errdefs::chain(&error), "replication cannot begin");
        tokio::time::sleep(LOOK).await;
    }
    let mut loops = JoinSet::new();
    for work in &registry.replication.works {
        let (registry, work) = (Arc::clone(&registry), Arc::clone(work));
        loops.spawn(async move { Runner { registry, work, running: BTreeMap::new() }.run().await });
    }
    loops.join_all().await;
}

/// The loop of a rule.
struct Runner {
    registry: Arc<Registry>,
    work: Arc<Work>,
    running: BTreeMap<Key, (Job, AbortHandle)>,
}

/// What a job that ended says.
type Ended = (Key, yare_errdefs::Result<()>);

impl Runner {
    async fn run(mut self) {
        let mut tasks: JoinSet<Ended> = JoinSet::new();
        let mut keep = tokio::time::interval(Duration::from_secs(TERM / 3));
        let (mut rest_until, mut failures) = (tokio::time::Instant::now(), 0);
        loop {
            let is_resting = tokio::time::Instant::now() < rest_until;
            if !is_resting && let Err(error) = self.fill(&mut tasks).await {
                tracing::warn!(
                    error = yare_errdefs::chain(&error),
                    "the queue of replication cannot be used"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = keep.tick() => self.keep().await,
                Some(ended) = tasks.join_next_with_id() => {
                    let is_down = self.settle(ended).await;
                    // It is not asked for everything that waits, then.
                    failures = if is_down { failures + 1 } else { 0 };
                    if is_down {
                        let pause = Duration::from_secs(queue::pause(failures - 1));
                        rest_until = tokio::time::Instant::now() + pause.min(Duration::from_secs(120));
                    }
                }
            }
        }
    }

    fn holder(&self) -> Holder<'_> {
        let Replication { holder, .. } = &self.registry.replication;
        Holder { name: holder, shares: self.registry.records.is_shared() }
    }

    /// Begins what is due, as far as there is room.
    async fn fill(&mut self, tasks: &mut JoinSet<Ended>) -> Result<()> {
        let room = self.work.rule.at_once.saturating_sub(self.running.len());
        if room == 0 {
            return Ok(());
        }
        let view = self.registry.records.view()?;
        let free = queue::free(&view, &self.work.rule, self.holder(), (now(), room))?;
        drop(view);
        if free.is_empty() {
            return Ok(());
        }
        let (name, shares) = (self.registry.replication.holder.clone(), self.registry.records.is_shared());
        let take =
            move |writing: &Writing| queue::take(writing, &free, Holder { name: &name, shares }, now());
        for (key, job) in self.registry.records.write(take).await? {
            let (registry, work) = (Arc::clone(&self.registry), Arc::clone(&self.work));
            let at = key.clone();
            let handle = tasks.spawn(async move {
                let done = perform(&registry, &work, &at).await;
                (at, done)
            });
            self.running.insert(key, (job, handle));
        }
        Ok(())
    }

    /// Holds on to what is being worked at, and lets go of what another process has taken.
    async fn keep(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let keys: Vec<Key> = self.running.keys().cloned().collect();
        let holder = self.registry.replication.holder.clone();
        let kept = self.registry.records.write(move |writing| queue::keep(writing, &keys, &holder, now()));
        match kept.await {
            Ok(lost) => {
                for key in lost {
                    tracing::warn!(?key, "another process took over what this one was too slow at");
                    if let Some((_, handle)) = self.running.get(&key) {
                        handle.abort();
                    }
                }
            }
            Err(error) => {
                let error = yare_errdefs::chain(&error);
                tracing::warn!(error, "replication cannot hold on to its jobs");
            }
        }
    }

    /// Writes down what became of a job; whether the other registry did not answer, or does not know us: then
    /// it answers nothing else either.
    async fn settle(
        &mut self,
        ended: std::result::Result<(tokio::task::Id, Ended), tokio::task::JoinError>,
    ) -> bool {
        let (key, done) = match ended {
            Ok((_, ended)) => ended,
            Err(error) => {
                let found = self.running.iter().find(|(_, (_, handle))| handle.id() == error.id());
                let Some(key) = found.map(|(key, _)| key.clone()) else { return false };
                (key, Err(failed(crate::registry::fault(error))))
            }
        };
        let Some((job, _)) = self.running.remove(&key) else { return false };
        let is_down = done
            .as_ref()
            .is_err_and(|error| matches!(error.class(), Class::Unavailable | Class::Unauthenticated));
        let outcome = match done {
            Ok(()) => Outcome::Done,
            Err(error) => {
                Counts::add(&self.work.counts.failures, 1);
                let error = yare_errdefs::chain(&error);
                tracing::warn!(
                    rule = key.rule,
                    repository = key.repository,
                    what = key.what,
                    error,
                    "a copy failed"
                );
                Outcome::Failed(error)
            }
        };
        let every = self.work.rule.every;
        let end = move |writing: &Writing| queue::end(writing, (&key, &job), &outcome, (now(), every));
        if let Err(error) = self.registry.records.write(end).await {
            let error = yare_errdefs::chain(&error);
            tracing::warn!(error, "what became of a copy is not noted: it is done again");
        }
        is_down
    }
}

/// Does one job.
async fn perform(registry: &Arc<Registry>, work: &Arc<Work>, key: &Key) -> yare_errdefs::Result<()> {
    let rest = key.repository.as_str();
    if key.is_rule() {
        let found = scan::repositories(registry, work).await?;
        let keys = found.iter().map(|rest| Key::new(&work.rule, rest, "")).collect();
        return ask(registry, keys).await;
    }
    // What other processes did up to now counts, too.
    registry.records.catch_up().await.map_err(failed)?;
    let here = copy::here(registry, work, rest);
    if key.what.is_empty() {
        let found = scan::differences(&here, rest).await?;
        return ask(registry, scan::keys(work, rest, &found)).await;
    }
    let (source, target) = copy::sides(&here, rest).await?;
    let copy = copy::Copy::new(work, (&source, &target));
    match key.what.parse() {
        Ok(subject) => copy.about(subject).await,
        Err(_) => copy.tag(&key.what).await,
    }
}

async fn ask(registry: &Registry, keys: Vec<Key>) -> yare_errdefs::Result<()> {
    for step in keys.chunks(STEP) {
        let step = step.to_vec();
        let ask =
            move |writing: &Writing| step.iter().try_for_each(|key| queue::ask(writing, key, now(), now()));
        registry.records.write(ask).await.map_err(failed)?;
    }
    Ok(())
}
