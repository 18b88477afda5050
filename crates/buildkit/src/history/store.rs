//! Builds that are over, on the disk.
//!
//! # What is on disk (format 1)
//!
//! `<folder>/<32 hex digits of the id's SHA-256>.log` is what the build told: each message with its length
//! before it, as four bytes, big-endian (BuildKit's `application/vnd.buildkit.status.v0`).
//! `<same name>.build` is its `BuildHistoryRecord`, which says how long the log is.
//!
//! The log is written first, the record under its name when it is complete; nothing is synced, for a
//! history that a power cut took is no loss. A record that cannot be read, or whose log is shorter than it
//! says, goes when the history is opened, and so does what belongs to none.
//!
//! At most fifty builds and 128 MiB: the oldest goes first, pinned ones only when no others are left.

use crate::proto::control::{Blob, HistoryRecord, StatusResponse};
use prost::Message;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use yare_build::cache::{Kept, Step, Usage};
use yare_errdefs::{Error, Result};
use yare_oci::{Digest, Hasher};
use yare_sys::fs::{Durability, atomic_write};

/// Builds that are remembered, and bytes of them.
pub(crate) const REMEMBERED: usize = 50;
const BYTES: u64 = 128 << 20;
/// Most bytes of one message and of a record.
const LONGEST: u64 = 16 << 20;
/// What clients know a log by.
const LOG: &str = "application/vnd.buildkit.status.v0";
/// The kind of the row that stands for the history.
const KIND: &str = "internal";

/// The builds that are remembered, the oldest first.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    kept: Mutex<Vec<HistoryRecord>>,
}

fn name(id: &str) -> String {
    Digest::of(id).hex()[..32].to_owned()
}

fn size(record: &HistoryRecord) -> u64 {
    let log = record.logs.as_ref().map_or(0, |log| u64::try_from(log.size).unwrap_or_default());
    log + record.encoded_len() as u64
}

impl Store {
    /// Reads what there is, and sweeps what a crash left.
    pub(crate) fn open(folder: PathBuf) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::internal(format!("cannot read the history of builds in {}", folder.display()))
                .caused_by(error)
        };
        let (mut kept, mut whole) = (Vec::new(), HashSet::new());
        let files = std::fs::read_dir(&folder).map_err(failed)?;
        let files: Vec<PathBuf> =
            files.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed)?;
        for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "build")) {
            if let Some(record) = read(path) {
                whole.extend([path.clone(), path.with_extension("log")]);
                kept.push(record);
            }
        }
        for path in files.iter().filter(|path| !whole.contains(*path)) {
            tracing::debug!(path = %path.display(), "a part of a build's history goes");
            remove(path);
        }
        kept.sort_by_key(|record| record.created.map(|time| (time.seconds, time.nanos)));
        Ok(Self { folder, kept: Mutex::new(kept) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HistoryRecord>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a build that is over with what it told.
    pub(crate) fn add(&self, mut record: HistoryRecord, told: &[StatusResponse]) -> Result<()> {
        let failed = |error| Error::internal("cannot keep the history of a build").caused_by(error);
        let mut log = Vec::new();
        for message in told {
            let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
            log.extend_from_slice(&length.to_be_bytes());
            log.extend_from_slice(&message.encode_to_vec());
        }
        let mut hasher = Hasher::new();
        hasher.update(&log);
        record.logs = Some(Blob {
            media_type: LOG.to_owned(),
            digest: hasher.finish().to_string(),
            size: i64::try_from(log.len()).unwrap_or(i64::MAX),
        });
        let name = name(&record.r#ref);
        let folder = self.folder.as_path();
        atomic_write(folder, format!("{name}.log"), &log, Durability::Relaxed).map_err(failed)?;
        self.write(&record)?;
        let mut kept = self.lock();
        kept.retain(|other| other.r#ref != record.r#ref);
        kept.push(record);
        for id in surplus(&kept) {
            kept.retain(|record| record.r#ref != id);
            self.unlink(&id);
        }
        Ok(())
    }

    fn write(&self, record: &HistoryRecord) -> Result<()> {
        let file = format!("{}.build", name(&record.r#ref));
        atomic_write(self.folder.as_path(), file, &record.encode_to_vec(), Durability::Relaxed)
            .map_err(|error| Error::internal("cannot keep the history of a build").caused_by(error))
    }

    /// The record first: a log without one is swept.
    fn unlink(&self, id: &str) {
        let path = self.folder.join(name(id));
        remove(&path.with_extension("build"));
        remove(&path.with_extension("log"));
    }

    /// All, the oldest first.
    pub(crate) fn list(&self) -> Vec<HistoryRecord> {
        self.lock().clone()
    }

    /// One.
    pub(crate) fn find(&self, id: &str) -> Option<HistoryRecord> {
        self.lock().iter().find(|record| record.r#ref == id).cloned()
    }

    /// Pins one, or lets it go again. Returns what became of it; `None` when there is none.
    pub(crate) fn pin(&self, id: &str, pinned: bool) -> Result<Option<HistoryRecord>> {
        let mut kept = self.lock();
        let Some(record) = kept.iter_mut().find(|record| record.r#ref == id) else { return Ok(None) };
        record.pinned = pinned;
        record.generation += 1;
        self.write(record)?;
        Ok(Some(record.clone()))
    }

    /// Forgets one, and returns what it was.
    pub(crate) fn forget(&self, id: &str) -> Option<HistoryRecord> {
        let mut kept = self.lock();
        let place = kept.iter().position(|record| record.r#ref == id)?;
        self.unlink(id);
        Some(kept.remove(place))
    }

    /// What a build told, a message at a time.
    pub(crate) fn log(&self, id: &str) -> Result<Log> {
        let path = self.folder.join(name(id)).with_extension("log");
        let file = File::open(&path).map_err(|error| {
            Error::internal(format!("cannot open the log of build {id}")).caused_by(error)
        })?;
        Ok(Log(BufReader::new(file)))
    }

    /// The log with this digest, of all builds.
    pub(crate) fn blob(&self, digest: &str) -> Option<(Blob, PathBuf)> {
        let kept = self.lock();
        let logs = kept.iter().filter_map(|record| Some((record.logs.clone()?, &record.r#ref)));
        let (log, id) = logs.into_iter().find(|(log, _)| log.digest == digest)?;
        Some((log, self.folder.join(name(id)).with_extension("log")))
    }
}

/// Ids of those that are too many. Pure.
fn surplus(kept: &[HistoryRecord]) -> Vec<String> {
    let (mut number, mut bytes) = (kept.len(), kept.iter().map(size).sum::<u64>());
    // The newest stays, whatever it takes.
    let old = &kept[..kept.len().saturating_sub(1)];
    let order = old.iter().filter(|record| !record.pinned).chain(old.iter().filter(|record| record.pinned));
    let mut gone = Vec::new();
    for record in order {
        if number <= REMEMBERED && bytes <= BYTES {
            break;
        }
        number -= 1;
        bytes -= size(record);
        gone.push(record.r#ref.clone());
    }
    gone
}

/// A record whose log is all there.
fn read(path: &Path) -> Option<HistoryRecord> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    let record = HistoryRecord::decode(bytes.as_slice()).ok()?;
    let log = path.with_extension("log").metadata().ok()?.len();
    let told = u64::try_from(record.logs.as_ref()?.size).ok()?;
    let named = path.file_stem().is_some_and(|stem| stem.to_str() == Some(&name(&record.r#ref)));
    (named && log == told).then_some(record)
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a part of a build's history stays");
        }
        _ => {}
    }
}

/// The messages of a log.
#[derive(Debug)]
pub(crate) struct Log(BufReader<File>);

impl Iterator for Log {
    type Item = Result<StatusResponse>;

    fn next(&mut self) -> Option<Self::Item> {
        let broken = |error: std::io::Error| Error::internal("the log of a build is broken").caused_by(error);
        let mut length = [0; 4];
        match self.0.read_exact(&mut length) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
            Err(error) => return Some(Err(broken(error))),
            Ok(()) => {}
        }
        let length = u64::from(u32::from_be_bytes(length)).min(LONGEST);
        let mut bytes = Vec::new();
        if let Err(error) = (&mut self.0).take(length).read_to_end(&mut bytes) {
            return Some(Err(broken(error)));
        }
        let message = StatusResponse::decode(bytes.as_slice());
        Some(message.map_err(|error| Error::internal("the log of a build is broken").caused_by(error)))
    }
}

impl Kept for Store {
    /// One row for all: builds are forgotten one by one, or when this row is named.
    fn rows(&self) -> Vec<Usage> {
        let kept = self.lock();
        let Some(first) = kept.first() else { return Vec::new() };
        let seconds = |record: &HistoryRecord| record.created.map_or(0, |time| time.seconds);
        let step = Step {
            description: format!("history of {} builds", kept.len()),
            kind: KIND.to_owned(),
            created: seconds(first),
            last_used: kept.last().map_or(0, seconds),
            uses: kept.len() as u64,
            ..Step::default()
        };
        let size = kept.iter().map(size).sum();
        // As if an image had it: it goes only where all shall go.
        vec![Usage { key: Digest::of(KIND), step, size, in_use: false, shared: true }]
    }

    fn remove(&self, key: &Digest) -> bool {
        if *key != Digest::of(KIND) {
            return false;
        }
        let mut kept = self.lock();
        kept.iter().filter(|record| !record.pinned).for_each(|record| self.unlink(&record.r#ref));
        kept.retain(|record| record.pinned);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Timestamp;
    use crate::proto::control::VertexLog;

    fn record(id: &str, second: i64) -> HistoryRecord {
        let created = Some(Timestamp { seconds: second, nanos: 0 });
        HistoryRecord { r#ref: id.to_owned(), created, ..HistoryRecord::default() }
    }

    fn said(text: &str) -> StatusResponse {
        let log = VertexLog { text: text.into(), ..VertexLog::default() };
        StatusResponse { logs: vec![log], ..StatusResponse::default() }
    }

    fn open(root: &tempfile::TempDir) -> Store {
        Store::open(root.path().to_owned()).expect("opened")
    }

    #[test]
    fn builds_are_there_again_and_what_a_crash_left_is_not() {
        let root = tempfile::tempdir().expect("a folder");
        let store = open(&root);
        for (place, id) in ["a", "b", "c"].into_iter().enumerate() {
            store.add(record(id, place as i64), &[said("one"), said(id)]).expect("kept");
        }
        store.pin("b", true).expect("written").expect("there");
        assert!(store.forget("c").is_some() && store.forget("c").is_none());
        // A log that was cut short, a record that is none, a log without a record, a file half written.
        let cut = root.path().join(name("a")).with_extension("log");
        File::options().write(true).open(cut).and_then(|file| file.set_len(3)).expect("cut");
        for file in ["x.build", "y.log", ".tmp-1"] {
            std::fs::write(root.path().join(file), "x").expect("written");
        }
        let store = open(&root);
        let list = store.list();
        assert_eq!(list.iter().map(|record| record.r#ref.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(list[0].pinned);
        let log: Vec<_> = store.log("b").expect("there").collect::<Result<_>>().expect("whole");
        assert_eq!(log, [said("one"), said("b")]);
        let (blob, path) = store.blob(&list[0].logs.clone().expect("a log").digest).expect("known");
        assert_eq!(Digest::of(std::fs::read(path).expect("there")).to_string(), blob.digest);
        assert_eq!(std::fs::read_dir(root.path()).expect("readable").count(), 2);
    }

    #[test]
    fn a_bounded_number_of_builds_and_bytes_is_remembered() {
        let root = tempfile::tempdir().expect("a folder");
        let store = open(&root);
        for place in 0..REMEMBERED + 20 {
            store.add(record(&place.to_string(), place as i64), &[]).expect("kept");
            if place == 3 {
                store.pin("3", true).expect("written");
            }
        }
        let list = store.list();
        assert_eq!(list.len(), REMEMBERED);
        assert_eq!((list[0].r#ref.as_str(), list[1].r#ref.as_str()), ("3", "21"), "pinned ones stay");
        assert_eq!(std::fs::read_dir(root.path()).expect("readable").count(), 2 * REMEMBERED);
        let mut large = record("large", 0);
        large.logs = Some(Blob { size: BYTES as i64, ..Blob::default() });
        assert_eq!(surplus(&[large.clone(), record("new", 1)]), ["large"]);
        assert!(surplus(&[large]).is_empty(), "the newest stays");
        let row = store.rows().remove(0);
        assert!(row.size > 0 && store.remove(&row.key) && store.list().len() == 1);
    }
}
