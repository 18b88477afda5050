//! What is to be done, in the records: the table `replications`.
//!
//! The key is (rule, repository as the rule calls it, what): a tag; a digest, for what speaks about that
//! manifest; nothing, for all of the repository; and no repository, for the comparison of everything, whose
//! row stays. Many pushes of one tag are one row.
//!
//! A row is taken for [`TERM`] by who works at it and taken again while the work goes on. Where a bucket has
//! the records, another process may take it when that time is over. Where files have them there is no other
//! process: what a former one took is free.

use super::Rule;
use crate::problem::Result;
use crate::records::{REPLICATIONS, Writing, find, read, written};
use redb::{ReadTransaction, ReadableTable};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use yare_oci::ContentDigest;

/// How long a row is taken, in seconds.
pub(super) const TERM: u64 = 60;
/// The pause after the first failure, in seconds; it doubles with each further one up to the longest.
const PAUSE: u64 = 5;
const LONGEST_PAUSE: u64 = 1800;

/// A row: something to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Since when it waits; 0 for a comparison whose time has not come.
    pub(crate) since: u64,
    /// When its time comes.
    pub(crate) due: u64,
    /// How often it was asked for: who did it knows by that whether it was asked for again meanwhile.
    pub(crate) asked: u64,
    /// How often it failed in a row, and why it did the last time.
    #[serde(default)]
    pub(crate) failures: u32,
    #[serde(default)]
    pub(crate) error: String,
    /// Who is at it, and until when.
    #[serde(default)]
    pub(crate) holder: String,
    #[serde(default)]
    pub(crate) until: u64,
    /// When a comparison was last done.
    #[serde(default)]
    pub(crate) done: u64,
}

/// What a row is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) rule: String,
    /// As the rule calls it.
    pub(crate) repository: String,
    pub(crate) what: String,
}

impl Key {
    pub(super) fn new(rule: &Rule, repository: &str, what: &str) -> Self {
        Self { rule: rule.name.clone(), repository: repository.to_owned(), what: what.to_owned() }
    }

    fn parts(&self) -> (&str, &str, &str) {
        (&self.rule, &self.repository, &self.what)
    }

    /// Whether it is the comparison of everything.
    pub(super) fn is_rule(&self) -> bool {
        self.repository.is_empty()
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder<'a> {
    pub(super) name: &'a str,
    /// Whether there may be others.
    pub(super) shares: bool,
}

impl Holder<'_> {
    fn may_take(self, job: &Job, now: u64) -> bool {
        let is_free = job.holder.is_empty() || job.until <= now || (!self.shares && job.holder != self.name);
        job.due <= now && is_free
    }
}

/// Notes for all rules that are about it that a tag changed, or what speaks about a manifest.
pub(crate) fn note(
    writing: &Writing,
    rules: &[Rule],
    repository: &str,
    (tags, subject): (&[&str], Option<&ContentDigest>),
    now: u64,
) -> Result<()> {
    for rule in rules.iter().filter(|rule| rule.is_push()) {
        let Some(rest) = rule.rest(repository) else { continue };
        let due = now + rule.delay.as_secs();
        for tag in tags.iter().filter(|tag| rule.covers_tag(tag)) {
            ask(writing, &Key::new(rule, rest, tag), due, now)?;
        }
        if let Some(subject) = subject.filter(|_| rule.referrers) {
            ask(writing, &Key::new(rule, rest, &subject.to_string()), due, now)?;
        }
    }
    Ok(())
}

/// Asks for something; what waits already comes no later for it.
pub(super) fn ask(writing: &Writing, key: &Key, due: u64, now: u64) -> Result<()> {
    let mut table = writing.tables.open_table(REPLICATIONS)?;
    let before: Option<Job> = find(&table, key.parts())?;
    let job = match before {
        None => Job { since: now, due, asked: 1, ..Job::default() },
        Some(job) => Job {
            since: if job.since == 0 { now } else { job.since },
            due: job.due.min(due),
            asked: job.asked + 1,
            ..job
        },
    };
    Ok(table.insert(key.parts(), written(&job)?.as_slice())?)
}

/// The rows of a rule.
pub(super) fn rows(view: &ReadTransaction, rule: &str, mut each: impl FnMut(Key, Job) -> bool) -> Result<()> {
    let table = view.open_table(REPLICATIONS)?;
    for row in table.range((rule, "", "")..)? {
        let (key, value) = row?;
        let (of, repository, what) = key.value();
        let key = Key { rule: of.to_owned(), repository: repository.to_owned(), what: what.to_owned() };
        if of != rule || !each(key, read(value.value())?) {
            break;
        }
    }
    Ok(())
}

/// What can be taken now, up to `most`.
pub(super) fn free(
    view: &ReadTransaction,
    rule: &Rule,
    holder: Holder<'_>,
    (now, most): (u64, usize),
) -> Result<Vec<Key>> {
    let mut found = Vec::new();
    rows(view, &rule.name, |key, job| {
        if holder.may_take(&job, now) {
            found.push(key);
        }
        found.len() < most
    })?;
    Ok(found)
}

/// Takes rows, those of them that are still free.
pub(super) fn take(writing: &Writing, keys: &[Key], holder: Holder<'_>, now: u64) -> Result<Vec<(Key, Job)>> {
    let mut table = writing.tables.open_table(REPLICATIONS)?;
    let mut taken = Vec::new();
    for key in keys {
        let Some(mut job) = find::<_, Job>(&table, key.parts())?.filter(|job| holder.may_take(job, now))
        else {
            continue;
        };
        (job.holder, job.until) = (holder.name.to_owned(), now + TERM);
        table.insert(key.parts(), written(&job)?.as_slice())?;
        taken.push((key.clone(), job));
    }
    Ok(taken)
}

/// Takes rows again that are being worked at. Returns those that another process has by now.
pub(super) fn keep(writing: &Writing, keys: &[Key], holder: &str, now: u64) -> Result<Vec<Key>> {
    let mut table = writing.tables.open_table(REPLICATIONS)?;
    let mut lost = Vec::new();
    for key in keys {
        match find::<_, Job>(&table, key.parts())? {
            Some(job) if job.holder == holder => {
                let job = Job { until: now + TERM, ..job };
                table.insert(key.parts(), written(&job)?.as_slice())?;
            }
            _ => lost.push(key.clone()),
        }
    }
    Ok(lost)
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed(String),
}

/// Crosses a row out, or says when it is tried again. `every` is for the comparison, whose row stays.
pub(super) fn end(
    writing: &Writing,
    (key, taken): (&Key, &Job),
    outcome: &Outcome,
    (now, every): (u64, Duration),
) -> Result<()> {
    let mut table = writing.tables.open_table(REPLICATIONS)?;
    let Some(job) = find::<_, Job>(&table, key.parts())?.filter(|job| job.holder == taken.holder) else {
        // Another process has it by now, and will judge it itself.
        return Ok(());
    };
    let is_asked_again = job.asked != taken.asked;
    let (holder, until) = (String::new(), 0);
    let left = match outcome {
        Outcome::Done if is_asked_again => {
            Some(Job { due: now, failures: 0, error: String::new(), holder, until, ..job })
        }
        Outcome::Done if key.is_rule() && !every.is_zero() => {
            Some(Job { due: now + every.as_secs(), done: now, asked: job.asked, ..Job::default() })
        }
        Outcome::Done => None,
        Outcome::Failed(why) => {
            let due = now + pause(job.failures);
            Some(Job { due, failures: job.failures + 1, error: why.clone(), holder, until, ..job })
        }
    };
    match left {
        Some(job) => table.insert(key.parts(), written(&job)?.as_slice())?,
        None => table.remove(key.parts())?,
    }
    Ok(())
}

/// How long what failed so often before waits.
pub(super) fn pause(failures: u32) -> u64 {
    PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}

/// Makes the comparison of a rule be there, due at once when it is new, and forgets rows of rules that are
/// gone.
pub(super) fn prepare(writing: &Writing, rules: &[Rule], now: u64) -> Result<()> {
    let gone = {
        let table = writing.tables.open_table(REPLICATIONS)?;
        let mut gone = Vec::new();
        for row in table.iter()? {
            let row = row?;
            let (rule, repository, what) = row.0.value();
            if !rules.iter().any(|known| known.name == rule) {
                let (rule, repository, what) = (rule.to_owned(), repository.to_owned(), what.to_owned());
                gone.push(Key { rule, repository, what });
            }
        }
        gone
    };
    let mut table = writing.tables.open_table(REPLICATIONS)?;
    gone.iter().try_for_each(|key| table.remove(key.parts()))?;
    drop(table);
    for rule in rules.iter().filter(|rule| !rule.every.is_zero()) {
        let key = Key::new(rule, "", "");
        let is_there = writing.tables.open_table(REPLICATIONS)?.get(key.parts())?.is_some();
        if !is_there {
            ask(writing, &key, now, now)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;
    use std::sync::Arc;

    const ALONE: Holder<'_> = Holder { name: "a", shares: false };
    const SHARING: Holder<'_> = Holder { name: "b", shares: true };
    const HOUR: Duration = Duration::from_secs(3600);

    struct Queue {
        records: Records,
        rule: Rule,
        _root: tempfile::TempDir,
    }

    impl Queue {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let store = Arc::new(yare_content::Store::open(root.path()).unwrap());
            let records = Records::open(root.path(), store).unwrap();
            let rule = toml::from_str("name = 'r'\nto = 'r.example'\ntags = ['v*']\ndelay = '10s'").unwrap();
            Self { records, rule, _root: root }
        }

        async fn note(&self, tag: &'static str, now: u64) {
            let rules = [self.rule.clone()];
            self.records
                .write(move |writing| note(writing, &rules, "app", (&[tag], None), now))
                .await
                .unwrap();
        }

        async fn take(&self, holder: Holder<'static>, now: u64) -> Vec<(Key, Job)> {
            let keys = free(&self.records.view().unwrap(), &self.rule, holder, (now, 10)).unwrap();
            self.records.write(move |writing| take(writing, &keys, holder, now)).await.unwrap()
        }

        async fn end(&self, taken: &(Key, Job), outcome: Outcome, now: u64) {
            let (key, job) = taken.clone();
            let end = move |writing: &Writing| end(writing, (&key, &job), &outcome, (now, HOUR));
            self.records.write(end).await.unwrap();
        }

        fn jobs(&self) -> Vec<(String, Job)> {
            let mut found = Vec::new();
            let view = self.records.view().unwrap();
            rows(&view, "r", |key, job| {
                found.push((key.what, job));
                true
            })
            .unwrap();
            found
        }
    }

    #[tokio::test]
    async fn pushes_of_one_tag_are_one_row_that_waits() {
        let queue = Queue::new();
        for (tag, now) in [("v1", 100), ("latest", 100), ("v1", 105)] {
            queue.note(tag, now).await;
        }
        let [(tag, job)] = queue.jobs().try_into().unwrap();
        assert_eq!((tag.as_str(), job.since, job.due, job.asked), ("v1", 100, 110, 2));
        assert!(queue.take(ALONE, 109).await.is_empty());
        let taken = queue.take(ALONE, 110).await;
        assert_eq!(taken.len(), 1);
        assert!(queue.take(ALONE, 110).await.is_empty(), "it is being worked at");
        queue.end(&taken[0], Outcome::Done, 111).await;
        assert!(queue.jobs().is_empty());
    }

    #[tokio::test]
    async fn what_is_pushed_during_its_copy_is_copied_again() {
        let queue = Queue::new();
        queue.note("v1", 100).await;
        let taken = queue.take(ALONE, 110).await;
        queue.note("v1", 111).await;
        queue.end(&taken[0], Outcome::Done, 112).await;
        assert_eq!(queue.take(ALONE, 112).await.len(), 1);
    }

    #[tokio::test]
    async fn failures_wait_longer_and_longer() {
        let queue = Queue::new();
        queue.note("v1", 0).await;
        let mut now = 10;
        for (failures, pause) in [(1, 5), (2, 10), (3, 20)] {
            let taken = queue.take(ALONE, now).await;
            queue.end(&taken[0], Outcome::Failed("no".into()), now).await;
            let (_, job) = queue.jobs().remove(0);
            assert_eq!((job.failures, job.due - now, job.error.as_str()), (failures, pause, "no"));
            now = job.due;
        }
        assert_eq!((pause(60), pause(0)), (LONGEST_PAUSE, PAUSE));
    }

    #[tokio::test]
    async fn what_a_killed_process_took_is_free_at_once_or_after_its_term() {
        let queue = Queue::new();
        queue.note("v1", 0).await;
        let killed = Holder { name: "killed", shares: true };
        let taken = queue.take(killed, 10).await;
        assert!(queue.take(SHARING, 10 + TERM - 1).await.is_empty());
        let again = queue.take(SHARING, 10 + TERM).await;
        assert_eq!(again.len(), 1);
        // It was only slow: it finds out, and what it did changes nothing.
        let keys = vec![taken[0].0.clone()];
        let lost = queue.records.write(move |writing| keep(writing, &keys, "killed", 80)).await.unwrap();
        assert_eq!(lost.len(), 1);
        queue.end(&taken[0], Outcome::Done, 80).await;
        assert_eq!(queue.jobs()[0].1.holder, "b");
        assert_eq!(queue.take(ALONE, 81).await.len(), 1, "alone there is nobody to wait for");
    }

    #[tokio::test]
    async fn the_comparison_stays_and_rows_of_other_rules_go() {
        let queue = Queue::new();
        let rules = vec![queue.rule.clone()];
        queue.records.write(move |writing| prepare(writing, &rules, 100)).await.unwrap();
        let taken = queue.take(ALONE, 100).await;
        assert!(taken[0].0.is_rule());
        queue.end(&taken[0], Outcome::Done, 101).await;
        let (_, job) = queue.jobs().remove(0);
        assert_eq!((job.due, job.done, job.since), (3701, 101, 0));
        queue.records.write(|writing| prepare(writing, &[], 102)).await.unwrap();
        assert!(queue.jobs().is_empty());
    }
}
