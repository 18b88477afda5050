//! Telling webhooks what waits for them: a task for each, so that a slow one delays no other.

use super::{Hook, envelope, queue};
use crate::clock::now;
use crate::config::Webhook;
use crate::http_client::Target;
use crate::problem::Result;
use crate::records::{Writing, lease};
use crate::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use yare_errdefs::{Class, Classified};

/// Events of one round, after which what was taken is crossed out: so many come again after `kill -9`.
const BATCH: usize = 32;
/// The pause after the first failure; it doubles with each further one up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How often an event that its webhook calls wrong is sent; then it makes room for the others.
const TRIES: u32 = 3;
/// How long pulls are gathered before they are noted.
const GATHER: Duration = Duration::from_millis(250);
/// How long one of several processes has the right to tell a webhook, and how often the others look.
const TERM: u64 = 60;
const LOOK: Duration = Duration::from_secs(5);

/// A webhook that can be told.
pub(crate) struct Delivery {
    hook: Arc<Hook>,
    target: Target,
    registry: Arc<Registry>,
    /// What this process is called among those that share the records.
    holder: String,
}

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Nothing waits.
    Idle,
    /// Everything was taken that was looked at.
    Taken,
    /// An event was not taken, so often.
    Failed(u32),
    /// Another process tells this webhook.
    Elsewhere,
}

/// Prepares all webhooks.
///
/// # Errors
/// A URL, a header or a file of authorities is not right.
pub(crate) fn deliveries(registry: &Arc<Registry>) -> yare_errdefs::Result<Vec<Delivery>> {
    let hooks = registry.hooks.hooks.iter().zip(&registry.config.webhook);
    let made = hooks.map(|(hook, Webhook { url, authorities, headers, .. })| {
        Ok(Delivery {
            hook: Arc::clone(hook),
            target: Target::new(url, authorities.as_deref(), headers)?,
            registry: Arc::clone(registry),
            holder: crate::uploads::random_id().map_err(crate::problem::Error::into_failed)?,
        })
    });
    made.collect()
}

impl Delivery {
    /// Tells all webhooks until `stopped`, then crosses out what was taken.
    pub(crate) async fn run_all(registry: Arc<Registry>, all: Vec<Self>, stopped: watch::Receiver<bool>) {
        if !registry.records.is_shared() {
            // Where they are shared, another process may have other webhooks.
            let hooks = Arc::clone(&registry.hooks.hooks);
            let forget = move |writing: &Writing| queue::forget_others(writing, &hooks);
            if let Err(error) = registry.records.write(forget).await {
                let error = yare_errdefs::chain(&error);
                tracing::warn!(error, "what waits for webhooks that are no more is kept");
            }
        }
        let mut tasks: JoinSet<()> = all.into_iter().map(|delivery| delivery.run(stopped.clone())).collect();
        tasks.spawn(note_pulls(registry, stopped));
        while tasks.join_next().await.is_some() {}
    }

    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut commits = self.registry.records.commits();
        let mut failures = 0;
        while !*stopped.borrow() {
            commits.mark_unchanged();
            let round = self.round(failures, &mut stopped).await.unwrap_or_else(|error| {
                let error = yare_errdefs::chain(&error);
                tracing::warn!(webhook = self.hook.name, error, "the queue of a webhook cannot be used");
                Round::Failed(failures + 1)
            });
            failures = if let Round::Failed(times) = round { times } else { 0 };
            let pause = async {
                match round {
                    Round::Taken => {}
                    Round::Idle => drop(commits.changed().await),
                    Round::Elsewhere => tokio::time::sleep(LOOK).await,
                    Round::Failed(times) => tokio::time::sleep(pause(times)).await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = ended(&mut stopped) => {}
            }
        }
    }

    /// Sends the events that wait, as many as are taken; the first of them failed `failures` times before.
    async fn round(&self, mut failures: u32, stopped: &mut watch::Receiver<bool>) -> Result<Round> {
        let records = &self.registry.records;
        let waiting = queue::first(&records.view()?, &self.hook.key, BATCH)?;
        if waiting.is_empty() {
            return Ok(Round::Idle);
        }
        if records.is_shared() && !self.has_turn().await? {
            return Ok(Round::Elsewhere);
        }
        let (mut done, mut round) = (Vec::new(), Round::Taken);
        for row in waiting {
            let body = envelope(&row.1);
            let told = tokio::select! {
                told = self.target.post(&body) => told,
                () = ended(stopped) => break,
            };
            match told {
                Ok(()) => drop(self.hook.delivered.fetch_add(1, Ordering::Relaxed)),
                Err(error) if self.gives_up(&error, failures + 1) => {}
                Err(_) => {
                    round = Round::Failed(failures + 1);
                    break;
                }
            }
            failures = 0;
            done.push(row);
        }
        if done.is_empty() {
            return Ok(round);
        }
        let hook = self.hook.key.clone();
        records.write(move |writing| queue::cross_out(writing, &hook, &done)).await?;
        Ok(round)
    }

    /// Notes that an event was not taken for the `failures`th time; whether it is not sent again.
    fn gives_up(&self, error: &yare_errdefs::Error, failures: u32) -> bool {
        self.hook.failures.fetch_add(1, Ordering::Relaxed);
        let (webhook, text) = (self.hook.name.as_str(), yare_errdefs::chain(error));
        if error.class() == Class::InvalidArgument && failures >= TRIES {
            self.hook.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!(webhook, error = text, "a webhook calls an event wrong: it is lost");
            return true;
        }
        tracing::warn!(webhook, error = text, failures, again = ?pause(failures), "a webhook did not take an event");
        false
    }

    async fn has_turn(&self) -> Result<bool> {
        let (name, holder) = (format!("webhook/{}", self.hook.key), self.holder.clone());
        let take = move |writing: &Writing| lease::take(writing, &name, &holder, (now(), TERM));
        Ok(self.registry.records.write(take).await?.is_none())
    }
}

/// How long what failed so often waits.
fn pause(failures: u32) -> Duration {
    PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

/// Notes what is pulled, many pulls at a time.
async fn note_pulls(registry: Arc<Registry>, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = registry.hooks.next_pull() => {}
            () = ended(&mut stopped) => return,
        }
        tokio::select! {
            () = tokio::time::sleep(GATHER) => {}
            () = ended(&mut stopped) => {}
        }
        registry.hooks.flush(&registry.records).await;
    }
}

async fn ended(stopped: &mut watch::Receiver<bool>) {
    // The sender being gone means the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let seconds: Vec<u64> = [1, 2, 3, 9, 10, 100].map(|failures| pause(failures).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 256, 300, 300]);
    }
}
