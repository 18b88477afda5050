//! When things were last pulled or asked for: kept in memory, written to the records now and then, because
//! a pull must not cost a commit.

use crate::problem::Result;
use crate::records::{MANIFESTS, ManifestRecord, Records, TAGS, TagRecord, Writing, find, written};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use yare_oci::Digest;

/// What is remembered at most; beyond it, what comes is not noted until the next write.
const MOST: usize = 100_000;

#[derive(Debug, Default)]
struct Noted {
    manifests: HashMap<(String, Digest), u64>,
    tags: HashMap<(String, String), u64>,
}

/// What clients were told of blobs, and what a collection is about to take.
#[derive(Debug, Default)]
struct Promises {
    told: HashMap<(String, Digest), u64>,
    going: HashSet<(String, Digest)>,
}

/// What was pulled since the last write, and which blobs pushes rely on.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    noted: Mutex<Noted>,
    promises: Mutex<Promises>,
}

impl Usage {
    /// Notes that a manifest was pulled, by this tag if by one.
    pub(crate) fn pulled(&self, repository: &str, digest: &Digest, tag: Option<&str>, now: u64) {
        let mut noted = self.noted.lock();
        if noted.manifests.len() < MOST {
            noted.manifests.insert((repository.to_owned(), *digest), now);
        }
        if let Some(tag) = tag.filter(|_| noted.tags.len() < MOST) {
            noted.tags.insert((repository.to_owned(), tag.to_owned()), now);
        }
    }

    /// Notes that a client is about to be told that the blob is there: it will not send it, and push a
    /// manifest that needs it. `false` when a collection has claimed it: then the client has to send it.
    pub(crate) fn promise(&self, repository: &str, digest: &Digest, now: u64) -> bool {
        let mut promises = self.promises.lock();
        let key = (repository.to_owned(), *digest);
        if promises.going.contains(&key) {
            return false;
        }
        promises.told.insert(key, now);
        true
    }

    /// Takes a promise back: the blob was not there.
    pub(crate) fn withdraw(&self, repository: &str, digest: &Digest) {
        self.promises.lock().told.remove(&(repository.to_owned(), *digest));
    }

    /// When a client was last told that the blob is there; 0 for not since the start.
    pub(crate) fn promised(&self, repository: &str, digest: &Digest) -> u64 {
        self.promises.lock().told.get(&(repository.to_owned(), *digest)).copied().unwrap_or(0)
    }

    /// Claims those blobs of a repository for a collection that no client was told of after `oldest`. Until
    /// [`Usage::release`], no client is told that they are there.
    pub(crate) fn claim(&self, repository: &str, digests: &[Digest], oldest: u64) -> Vec<Digest> {
        let mut promises = self.promises.lock();
        let mut claimed = Vec::new();
        for digest in digests {
            let key = (repository.to_owned(), *digest);
            if promises.told.get(&key).is_none_or(|told| *told <= oldest) {
                promises.going.insert(key);
                claimed.push(*digest);
            }
        }
        claimed
    }

    /// Ends the claims.
    pub(crate) fn release(&self) {
        self.promises.lock().going.clear();
    }

    /// Forgets what clients were told before `time`.
    pub(crate) fn forget(&self, time: u64) {
        self.promises.lock().told.retain(|_, told| *told >= time);
    }

    /// Writes what was noted.
    pub(crate) async fn flush(&self, records: &Records) -> Result<()> {
        let noted = std::mem::take(&mut *self.noted.lock());
        if noted.manifests.is_empty() && noted.tags.is_empty() {
            return Ok(());
        }
        records.write(move |writing| write(writing, &noted)).await
    }
}

fn write(writing: &Writing, noted: &Noted) -> Result<()> {
    let mut table = writing.tables.open_table(MANIFESTS)?;
    for ((repository, digest), time) in &noted.manifests {
        let key = (repository.as_str(), digest.as_bytes());
        if let Some(mut record) = find::<_, ManifestRecord>(&table, key)? {
            record.pulled = record.pulled.max(*time);
            table.insert(key, written(&record)?.as_slice())?;
        }
    }
    let mut table = writing.tables.open_table(TAGS)?;
    for ((repository, tag), time) in &noted.tags {
        let folded = tag.to_lowercase();
        let key = (repository.as_str(), folded.as_str(), tag.as_str());
        if let Some(mut record) = find::<_, TagRecord>(&table, key)? {
            record.pulled = record.pulled.max(*time);
            table.insert(key, written(&record)?.as_slice())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_and_a_claim_exclude_each_other() {
        let usage = Usage::default();
        let (told, untold, old) = (Digest::of("told"), Digest::of("untold"), Digest::of("old"));
        assert!(usage.promise("a", &told, 100));
        assert!(usage.promise("a", &old, 10));
        let claimed = usage.claim("a", &[told, untold, old], 50);
        assert_eq!(claimed, [untold, old]);
        assert!(usage.promise("a", &told, 101));
        assert!(!usage.promise("a", &untold, 101));
        assert!(usage.promise("b", &untold, 101), "another repository is not meant");
        usage.release();
        assert!(usage.promise("a", &untold, 102));
        usage.withdraw("a", &untold);
        assert_eq!((usage.promised("a", &untold), usage.promised("a", &told)), (0, 101));
        usage.forget(102);
        assert_eq!(usage.promised("a", &told), 0);
    }
}
