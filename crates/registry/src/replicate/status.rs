//! How far the rules are: for people, for metrics, and for who wants everything compared now.

use super::counts::ROWS;
use super::failed;
use super::queue::{self, Key};
use crate::clock::now;
use crate::records::Writing;
use crate::registry::Registry;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Failures that are told of a rule.
const MOST: usize = 20;

/// Which number of a rule a row shows.
type Pick = fn(&RuleStatus) -> u64;

/// How far a rule is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Its name.
    pub rule: String,
    /// `to` or `from`.
    pub direction: String,
    /// The other registry.
    pub registry: String,
    /// Copies and comparisons that wait or are under way.
    pub waiting: u64,
    /// Those of them that some process is at.
    pub running: u64,
    /// Those that failed the last time.
    pub failing: u64,
    /// How many seconds the oldest of them has waited.
    pub lag: u64,
    /// When everything was last compared, in seconds since 1970; 0 for never.
    pub compared: u64,
    /// What failed, the first few.
    pub failures: Vec<Failure>,
}

/// Something that failed the last time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The repository, as it is called here; empty for the comparison of all.
    pub repository: String,
    /// The tag or digest; empty for the comparison of the repository.
    pub what: String,
    /// How often in a row.
    pub times: u32,
    /// In how many seconds it is tried again.
    pub again: u64,
    /// Why.
    pub error: String,
}

/// How far all rules are.
///
/// # Errors
/// The records cannot be read.
pub fn replication_status(registry: &Registry) -> yare_errdefs::Result<Vec<RuleStatus>> {
    let view = registry.records.view().map_err(failed)?;
    let mut all = Vec::new();
    for work in &registry.replication.works {
        let (rule, now) = (&work.rule, now());
        let direction = if rule.is_push() { "to" } else { "from" };
        let mut status = RuleStatus {
            rule: rule.name.clone(),
            direction: direction.to_owned(),
            registry: rule.remote().of.to_owned(),
            ..RuleStatus::default()
        };
        let read = queue::rows(&view, &rule.name, |key, job| {
            status.compared = status.compared.max(job.done);
            if job.since == 0 && job.due > now {
                return true;
            }
            status.waiting += 1;
            status.running += u64::from(job.until > now);
            status.lag = status.lag.max(now.saturating_sub(if job.since == 0 { job.due } else { job.since }));
            status.failing += u64::from(job.failures > 0);
            if job.failures > 0 && status.failures.len() < MOST {
                let repository = if key.is_rule() { String::new() } else { rule.local(&key.repository) };
                let again = job.due.saturating_sub(now);
                status.failures.push(Failure {
                    repository,
                    what: key.what,
                    times: job.failures,
                    again,
                    error: job.error,
                });
            }
            true
        });
        read.map_err(failed)?;
        all.push(status);
    }
    Ok(all)
}

/// Makes everything be compared now; returns the rules.
pub(crate) async fn ask_all(registry: &Arc<Registry>) -> yare_errdefs::Result<Vec<String>> {
    let keys: Vec<Key> = registry.replication.works.iter().map(|work| Key::new(&work.rule, "", "")).collect();
    let names = keys.iter().map(|key| key.rule.clone()).collect();
    let ask = move |writing: &Writing| keys.iter().try_for_each(|key| queue::ask(writing, key, now(), now()));
    registry.records.write(ask).await.map_err(failed)?;
    Ok(names)
}

/// The rows of the page of metrics; nothing without rules.
pub(crate) fn metrics(registry: &Registry) -> String {
    let mut text = String::new();
    let works = &registry.replication.works;
    if works.is_empty() {
        return text;
    }
    for (name, help, pick) in ROWS {
        let name = format!("yare_registry_replication_{name}_total");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
        for work in works {
            let value = pick(&work.counts).load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}{{rule=\"{}\"}} {value}", work.rule.name);
        }
    }
    let all = match replication_status(registry) {
        Ok(all) => all,
        Err(error) => {
            let error = yare_errdefs::chain(&error);
            tracing::warn!(error, "the queue of replication cannot be counted");
            return text;
        }
    };
    let gauges: [(&str, &str, Pick); 3] = [
        ("lag_seconds", "How long the oldest copy that is not done has waited", |status| status.lag),
        ("waiting", "Copies and comparisons that wait or are under way", |status| status.waiting),
        ("failing", "Those of them that failed the last time", |status| status.failing),
    ];
    for (name, help, pick) in gauges {
        let name = format!("yare_registry_replication_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for status in &all {
            let _ = writeln!(text, "{name}{{rule=\"{}\"}} {}", status.rule, pick(status));
        }
    }
    text
}
