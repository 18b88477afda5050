//! When things were last pulled or asked for: kept in memory, written to the records now and then, because
//! a pull must not cost a commit.

use crate::problem::Result;
use crate::records::{MANIFESTS, ManifestRecord, Records, TAGS, TagRecord, Writing, find, written};
use parking_lot::Mutex;
use std::collections::HashMap;
use yare_oci::Digest;

/// What is remembered at most; beyond it, what comes is not noted until the next write.
const MOST: usize = 100_000;

#[derive(Debug, Default)]
struct Noted {
    manifests: HashMap<(String, Digest), u64>,
    tags: HashMap<(String, String), u64>,
}

/// What was pulled since the last write, and which blobs pushes rely on.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    noted: Mutex<Noted>,
    wanted: Mutex<HashMap<(String, Digest), u64>>,
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

    /// Notes that a client was told that the blob is there: it may push a manifest that needs it.
    pub(crate) fn wanted(&self, repository: &str, digest: &Digest, now: u64) {
        self.wanted.lock().insert((repository.to_owned(), *digest), now);
    }

    /// When a client was last told that the blob is there; 0 for not since the start.
    pub(crate) fn last_wanted(&self, repository: &str, digest: &Digest) -> u64 {
        self.wanted.lock().get(&(repository.to_owned(), *digest)).copied().unwrap_or(0)
    }

    /// Forgets what clients were told before `time`.
    pub(crate) fn forget_wanted(&self, time: u64) {
        self.wanted.lock().retain(|_, at| *at >= time);
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
