//! What the cache takes up, and how it gets smaller.

use super::{Cache, Step, db, mounts, now};
use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use yare_oci::Digest;

/// One row of the cache, for people.
#[derive(Debug, Clone)]
pub struct Usage {
    /// Its key.
    pub key: Digest,
    /// What is kept of it.
    pub step: Step,
    /// Bytes on the disk.
    pub size: u64,
    /// Whether a build uses it now.
    pub in_use: bool,
    /// Whether an image has it as a layer: removing it frees nothing.
    pub shared: bool,
}

/// What somebody else keeps between builds: it has rows as the cache has them, and goes as they do.
pub trait Kept: Send + Sync + std::fmt::Debug {
    /// Its rows.
    fn rows(&self) -> Vec<Usage>;

    /// Removes what is under a key, if it is this one's and not in use.
    fn remove(&self, key: &Digest) -> bool;
}

/// What shall go.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Also what images share.
    pub all: bool,
    /// Only what was not used for so many seconds.
    pub unused_for: Option<i64>,
    /// Only these kinds.
    pub kinds: Vec<String>,
    /// Only rows whose id begins so.
    pub ids: Vec<String>,
    /// Only rows whose description has this in it.
    pub descriptions: Vec<String>,
    /// Oldest first, until no more than so many bytes are left.
    pub keep_bytes: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Keys.
    pub keys: Vec<Digest>,
    /// Bytes that are free, or will be in a while.
    pub bytes: u64,
}

impl PruneOptions {
    fn wants(&self, row: &Usage, now: i64) -> bool {
        let any =
            |list: &[String], matches: &dyn Fn(&String) -> bool| list.is_empty() || list.iter().any(matches);
        (self.all || !row.shared)
            && self.unused_for.is_none_or(|seconds| row.step.last_used + seconds <= now)
            && any(&self.kinds, &|kind| *kind == row.step.kind)
            && any(&self.ids, &|id| row.key.hex().starts_with(id.as_str()))
            && any(&self.descriptions, &|text| row.step.description.contains(text.as_str()))
    }
}

/// Decides what goes. Pure. What others stand on stays as long as they do; of the rest the one that was not
/// used for the longest time goes first.
pub(super) fn choose(rows: &[Usage], options: &PruneOptions, now: i64) -> Vec<Digest> {
    // What images share takes no space of the cache's own; it counts where it may go.
    let counts = |row: &&Usage| options.all || !row.shared;
    let mut total: u64 = rows.iter().filter(counts).map(|row| row.size).sum();
    let mut order: Vec<&Usage> = rows.iter().filter(|row| options.wants(row, now)).collect();
    order.sort_by_key(|row| (row.step.last_used, std::cmp::Reverse(row.step.created), row.key));
    let mut children = std::collections::HashMap::<Digest, u32>::new();
    for row in rows {
        for parent in &row.step.parents {
            *children.entry(*parent).or_default() += 1;
        }
    }
    let mut gone = Vec::new();
    let mut taken = HashSet::new();
    // Each round takes the leaves; a chain goes from its top.
    loop {
        let before = gone.len();
        for row in &order {
            if options.keep_bytes.is_some_and(|keep| total <= keep) {
                return gone;
            }
            let needed = children.get(&row.key).is_some_and(|count| *count > 0);
            if row.in_use || needed || !taken.insert(row.key) {
                continue;
            }
            for parent in &row.step.parents {
                if let Some(count) = children.get_mut(parent) {
                    *count -= 1;
                }
            }
            total -= row.size;
            gone.push(row.key);
        }
        if gone.len() == before {
            return gone;
        }
    }
}

impl Cache {
    /// Everything that is kept, oldest use first. Cache directories are walked, all else is counted.
    pub fn usage(&self) -> Vec<Usage> {
        let rows: Vec<(Digest, Step, bool)> = {
            let state = self.state();
            let leased = |key: &Digest| state.leased.contains_key(key) || state.running.contains(key);
            state.steps.iter().map(|(key, step)| (*key, step.clone(), leased(key))).collect()
        };
        let mut rows: Vec<Usage> = rows
            .into_iter()
            .map(|(key, step, in_use)| {
                let cache_mount = step.kind == mounts::KIND;
                let named = step.draft.as_ref().and_then(|draft| self.inner.snapshots.named(draft).ok()?);
                Usage {
                    size: if cache_mount { self.mount_size(&key) } else { step.size },
                    shared: named.is_some(),
                    key,
                    step,
                    in_use,
                }
            })
            .collect();
        rows.extend(self.kept().iter().flat_map(|kept| kept.rows()));
        rows.sort_by_key(|row| (row.step.last_used, row.key));
        rows
    }

    /// Counts what somebody else keeps, and prunes it.
    pub fn keeps(&self, kept: Arc<dyn Kept>) {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    }

    fn kept(&self) -> Vec<Arc<dyn Kept>> {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes what the options say and no build uses.
    pub fn prune(&self, options: &PruneOptions) -> Pruned {
        let rows = self.usage();
        let mut pruned = Pruned::default();
        for key in choose(&rows, options, now()) {
            let row = rows.iter().find(|row| row.key == key);
            let removed = |row: &&Usage| match self.look(&row.key) {
                _ if options.dry_run => true,
                Some(_) => self.remove(row),
                None => self.kept().iter().any(|kept| kept.remove(&row.key)),
            };
            if let Some(row) = row.filter(removed) {
                pruned.keys.push(key);
                pruned.bytes += if row.shared { 0 } else { row.size };
            }
        }
        pruned
    }

    /// Removes all that this lease protects and no other does: results that shall serve nobody.
    pub fn forget(&self, lease: super::Lease) {
        let keys = lease.keys();
        drop(lease);
        for key in keys {
            let Some(step) = self.look(&key) else { continue };
            self.remove(&Usage { key, size: step.size, in_use: false, shared: false, step });
        }
    }

    /// Removes one row: from the records first, then from the disk. Not when a build has taken it meanwhile.
    fn remove(&self, row: &Usage) -> bool {
        if row.step.kind == mounts::KIND && !self.remove_mount(&row.key) {
            return false;
        }
        {
            let mut state = self.state();
            if state.leased.contains_key(&row.key) || state.running.contains(&row.key) {
                return false;
            }
            state.steps.remove(&row.key);
            state.sums.remove(&row.key);
        }
        self.inner.writer.send(db::Edits {
            steps: vec![(row.key, None)],
            sums: vec![(row.key, None)],
            ..db::Edits::default()
        });
        if let Some(draft) = &row.step.draft {
            self.release(draft);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, parents: &[&str], used: i64, size: u64) -> Usage {
        let key = Digest::of(name);
        let parents = parents.iter().map(Digest::of).collect();
        let step = Step { last_used: used, parents, ..Step::default() };
        Usage { key, step, size, in_use: false, shared: false }
    }

    fn names(keys: &[Digest], of: &[&str]) -> Vec<String> {
        let name = |key: &Digest| of.iter().find(|name| Digest::of(name) == *key).unwrap();
        keys.iter().map(|key| (*name(key)).to_owned()).collect()
    }

    #[test]
    fn a_chain_goes_from_its_top_and_no_further_than_needed() {
        let all = ["a", "b", "c", "old"];
        let rows =
            [row("a", &[], 5, 10), row("b", &["a"], 5, 10), row("c", &["b"], 5, 10), row("old", &[], 1, 10)];
        let keep = |bytes| PruneOptions { keep_bytes: Some(bytes), ..PruneOptions::default() };
        assert_eq!(names(&choose(&rows, &keep(30), 9), &all), ["old"]);
        assert_eq!(names(&choose(&rows, &keep(15), 9), &all), ["old", "c", "b"]);
        assert_eq!(choose(&rows, &PruneOptions::default(), 9).len(), 4);
    }

    #[test]
    fn what_is_used_or_shared_stays_with_what_it_stands_on() {
        let mut rows = [row("a", &[], 5, 10), row("b", &["a"], 5, 10), row("s", &[], 0, 1)];
        rows[1].in_use = true;
        rows[2].shared = true;
        assert_eq!(choose(&rows, &PruneOptions::default(), 9), []);
        let all = PruneOptions { all: true, unused_for: Some(8), ..PruneOptions::default() };
        assert_eq!(choose(&rows, &all, 9), [Digest::of("s")]);
    }
}
