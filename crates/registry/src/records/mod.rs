//! The records: what is where, in one embedded database that one thread writes.
//!
//! # Format, version 1
//!
//! `<root>/registry.redb` (redb, quick repair on). Keys in parentheses are tuples; a digest in a key is its
//! 32 bytes; times are seconds since 1970.
//!
//! | table | key | value | |
//! |---|---|---|---|
//! | `format` | `"version"` | the number above, as text | |
//! | `repositories` | name | JSON of [`Repository`] | exists from the first push until it is empty |
//! | `tags` | (repository, tag in lower case, tag) | JSON of [`TagRecord`] | in the order of listings |
//! | `tagged` | (repository, manifest, tag) | – | `tags` read backwards |
//! | `manifests` | (repository, manifest) | JSON of [`ManifestRecord`] | |
//! | `documents` | manifest | its raw bytes | shared by all repositories |
//! | `holders` | (manifest, repository) | – | `manifests` read backwards; the last one takes the document with it |
//! | `blobs` | blob | bytes | a file in the blob store, shared by all repositories |
//! | `links` | (repository, blob) | when linked | the blob can be had from the repository |
//! | `linked` | (blob, repository) | – | `links` read backwards; reference counts that cannot drift |
//! | `uses` | (repository, blob or manifest, manifest) | – | the manifest needs the other |
//! | `referrers` | (repository, subject, manifest) | descriptor, JSON | the answer of the referrers API, ready |
//! | `objects` | blob | name of an object | where a bucket has the blob; empty where blobs are files |
//! | `condemned` | name of an object | when | it is being deleted, and never becomes a blob again |
//! | `replications` | (rule, repository, what) | JSON of [`Job`](crate::replicate) | what is to be copied: see `replicate::queue` |
//! | `leases` | name of a work | JSON of [`Lease`](lease::Lease) | which process does it |
//! | `sums` | pattern of a quota | bytes | what the repositories that it matches hold together: see `quota` |
//! | `events` | (webhook, number) | an event, JSON | who is to be told: see `events::queue` |
//! | `names` | SHA-512 digest, 64 bytes | blob or manifest | a second name of it: see `names` |
//! | `named` | blob or manifest | SHA-512 digest | `names` read backwards |
//!
//! Writers hand closures to the thread, which runs all that are waiting in one transaction and commits once
//! (group commit); whoever was told "done" is on the disk. A closure checks first and changes then: one that
//! returns an error has changed nothing. Where a bucket has the records, the database is a copy of them, and a
//! closure may run more than once: see `replica`.

pub(crate) mod lease;
mod replica;
mod tables;

pub(crate) use tables::{Change, Malformed, Tables};

use crate::problem::{Error, Result};
use parking_lot::Mutex;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::watch;
use yare_content::Store;
use yare_database::Database;
use yare_oci::{ContentDigest, Digest};

/// A digest in a key.
pub(crate) type Hash<'a> = &'a [u8; 32];
/// A SHA-512 digest in a key.
pub(crate) type LongHash<'a> = &'a [u8; 64];
type Table<K, V> = TableDefinition<'static, K, V>;

pub(crate) const FORMAT: Table<&str, &str> = TableDefinition::new("format");
pub(crate) const REPOSITORIES: Table<&str, &[u8]> = TableDefinition::new("repositories");
pub(crate) const TAGS: Table<(&str, &str, &str), &[u8]> = TableDefinition::new("tags");
pub(crate) const TAGGED: Table<(&str, Hash<'_>, &str), ()> = TableDefinition::new("tagged");
pub(crate) const MANIFESTS: Table<(&str, Hash<'_>), &[u8]> = TableDefinition::new("manifests");
pub(crate) const DOCUMENTS: Table<Hash<'_>, &[u8]> = TableDefinition::new("documents");
pub(crate) const HOLDERS: Table<(Hash<'_>, &str), ()> = TableDefinition::new("holders");
pub(crate) const BLOBS: Table<Hash<'_>, u64> = TableDefinition::new("blobs");
pub(crate) const LINKS: Table<(&str, Hash<'_>), u64> = TableDefinition::new("links");
pub(crate) const LINKED: Table<(Hash<'_>, &str), ()> = TableDefinition::new("linked");
pub(crate) const USES: Table<(&str, Hash<'_>, Hash<'_>), ()> = TableDefinition::new("uses");
pub(crate) const REFERRERS: Table<(&str, Hash<'_>, Hash<'_>), &[u8]> = TableDefinition::new("referrers");
pub(crate) const OBJECTS: Table<Hash<'_>, &str> = TableDefinition::new("objects");
pub(crate) const CONDEMNED: Table<&str, u64> = TableDefinition::new("condemned");
pub(crate) const LEASES: Table<&str, &[u8]> = TableDefinition::new("leases");
pub(crate) const REPLICATIONS: Table<(&str, &str, &str), &[u8]> = TableDefinition::new("replications");
pub(crate) const EVENTS: Table<(&str, u64), &[u8]> = TableDefinition::new("events");
pub(crate) const SUMS: Table<&str, u64> = TableDefinition::new("sums");
pub(crate) const NAMES: Table<LongHash<'_>, Hash<'_>> = TableDefinition::new("names");
pub(crate) const NAMED: Table<Hash<'_>, LongHash<'_>> = TableDefinition::new("named");

const VERSION: u32 = 1;
/// redb's page cache, in bytes.
const CACHE: usize = 32 << 20;
/// Writers that may wait for a commit; more of them wait for a place.
const QUEUE: usize = 1024;
/// The most changes of one commit, so that the first of them is not kept waiting.
const BATCH: usize = 256;

/// The least and the greatest hash: the ends of a range of keys.
pub(crate) const LEAST: [u8; 32] = [0; 32];
pub(crate) const GREATEST: [u8; 32] = [0xff; 32];

/// A repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Repository {
    /// When it was first pushed to.
    pub created: u64,
    /// Bytes of the blobs and manifests that can be had from it; those shared with others count in each.
    pub bytes: u64,
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagRecord {
    /// What it names.
    pub digest: Digest,
    /// By which digest that was pushed, where not by this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ContentDigest>,
    /// When it was last pushed.
    pub pushed: u64,
    /// When it was last pulled by this name; 0 for never.
    #[serde(default)]
    pub pulled: u64,
}

/// A manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestRecord {
    /// Its media type, as it was pushed.
    pub media_type: String,
    /// Its bytes.
    pub size: u64,
    /// When it was last pushed.
    pub pushed: u64,
    /// When it was last pulled; 0 for never.
    #[serde(default)]
    pub pulled: u64,
    /// What it needs: keys of `uses`.
    #[serde(default)]
    pub uses: Vec<Digest>,
    /// What it speaks about: a key of `referrers`.
    #[serde(default)]
    pub subject: Option<ContentDigest>,
}

/// A transaction that is being filled.
pub(crate) struct Writing {
    /// The tables.
    pub(crate) tables: Tables,
    /// Whether a blob got or lost its name, which then has to be made durable before the records are.
    pub(crate) renamed: Cell<bool>,
}

impl Writing {
    fn new(transaction: WriteTransaction, noting: bool) -> Self {
        Self { tables: Tables::new(transaction, noting), renamed: Cell::new(false) }
    }
}

/// A change that waits for its turn, whatever its result is.
trait Job: Send {
    /// Makes the change. A replica makes it again when another one was faster.
    fn run(&mut self, writing: &Writing);
    /// Whether it was refused.
    fn is_refused(&self) -> bool;
    /// Tells who waits, and whether the commit that it was part of succeeded.
    fn finish(self: Box<Self>, committed: Result<(), String>);
}

struct Waiting<T, F> {
    change: F,
    outcome: Option<Result<T>>,
    done: tokio::sync::oneshot::Sender<Result<T>>,
}

impl<T: Send, F: Fn(&Writing) -> Result<T> + Send> Job for Waiting<T, F> {
    fn run(&mut self, writing: &Writing) {
        self.outcome = Some((self.change)(writing));
    }

    fn is_refused(&self) -> bool {
        self.outcome.as_ref().is_some_and(Result::is_err)
    }

    fn finish(self: Box<Self>, committed: Result<(), String>) {
        let outcome = match (self.outcome, committed) {
            (Some(outcome), Ok(())) => outcome,
            (Some(Err(error)), Err(_)) => Err(error),
            (_, Err(why)) => Err(unwritten(&why)),
            (None, Ok(())) => Err(unwritten("a change was left out")),
        };
        // Nobody waits any more when the client has left.
        let _ = self.done.send(outcome);
    }
}

/// The database and the way to its writer.
pub(crate) struct Records {
    database: Arc<Database>,
    jobs: Mutex<Option<SyncSender<Box<dyn Job>>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    committed: Arc<watch::Sender<()>>,
    is_shared: bool,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records")
    }
}

impl Records {
    /// Opens or makes the database beneath `root`. Before each commit the names of placed blobs are made
    /// durable, so that no record speaks of a file that a power cut takes away.
    pub(crate) fn open(root: &Path, blobs: Arc<Store>) -> Result<Self> {
        let database = Arc::new(open(root)?);
        let (jobs, waiting) = sync_channel(QUEUE);
        let committed = Arc::new(watch::Sender::new(()));
        let writer = {
            let (database, committed) = (Arc::clone(&database), Arc::clone(&committed));
            spawn(root, move || write_all(&waiting, &committed, |batch| commit(&database, &blobs, batch)))?
        };
        Ok(Self {
            database,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(writer)),
            committed,
            is_shared: false,
        })
    }

    /// Opens the records that a bucket has; the database beneath `root` is a copy of them. Returns when it
    /// is as new as the bucket.
    pub(crate) fn replicate(root: &Path, opening: crate::bucket::Opening) -> Result<Self> {
        let database = Arc::new(open(root)?);
        let (jobs, waiting) = sync_channel(QUEUE);
        let (ready, opened) = sync_channel(1);
        let committed = Arc::new(watch::Sender::new(()));
        let writer = {
            let (database, folder) = (Arc::clone(&database), root.to_owned());
            let committed = Arc::clone(&committed);
            spawn(root, move || match replica::Replica::open(database, &opening, &folder) {
                Ok(mut replica) => {
                    let _ = ready.send(Ok(()));
                    write_all(&waiting, &committed, |batch| replica.commit(batch));
                    replica.close();
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })?
        };
        opened.recv().map_err(|_| unwritten("their writer ended by a fault"))??;
        Ok(Self {
            database,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(writer)),
            committed,
            is_shared: true,
        })
    }

    /// Whether other processes write these records, too.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Changes after each commit, to wait for the next one.
    pub(crate) fn commits(&self) -> watch::Receiver<()> {
        self.committed.subscribe()
    }

    /// Waits until a view shows everything that anybody was told before this was called.
    pub(crate) async fn catch_up(&self) -> Result<()> {
        if !self.is_shared {
            return Ok(());
        }
        // A change that changes nothing is judged by the newest records, as any other.
        self.write(|_| Ok(())).await
    }

    /// A consistent view of everything.
    pub(crate) fn view(&self) -> Result<ReadTransaction> {
        Ok(self.database.view()?)
    }

    /// Runs `change` on the writer's thread; when this returns `Ok`, it survives power loss.
    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&Writing) -> Result<T> + Send + 'static,
    {
        let (done, answer) = tokio::sync::oneshot::channel();
        self.send(Box::new(Waiting { change, outcome: None, done })).await?;
        answer.await.map_err(|_| unwritten("the registry is ending"))?
    }

    async fn send(&self, job: Box<dyn Job>) -> Result<()> {
        let Some(jobs) = self.jobs.lock().clone() else { return Err(unwritten("the registry is ending")) };
        match jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(std::sync::mpsc::TrySendError::Disconnected(_)) => Err(unwritten("the registry is ending")),
            Err(std::sync::mpsc::TrySendError::Full(job)) => {
                let sent = tokio::task::spawn_blocking(move || jobs.send(job)).await;
                match sent {
                    Ok(Ok(())) => Ok(()),
                    _ => Err(unwritten("the registry is ending")),
                }
            }
        }
    }

    /// Writes all records down in the bucket as they are now, if that was last done `least` commits ago.
    /// Blocks.
    pub(crate) fn checkpoint(&self, opening: &crate::bucket::Opening, least: u64) -> Result<bool> {
        replica::checkpoint(&self.database, opening, least)
    }

    /// Whether changes can still be written.
    pub(crate) fn is_writing(&self) -> bool {
        self.writer.lock().as_ref().is_some_and(|writer| !writer.is_finished())
    }

    /// Writes what is waiting and stops.
    pub(crate) fn close(&self) {
        drop(self.jobs.lock().take());
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the records ended by a fault");
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.close();
    }
}

fn unwritten(why: &str) -> Error {
    yare_errdefs::Error::unavailable(format!("cannot write the records: {why}")).into()
}

fn open(root: &Path) -> Result<Database> {
    let path = root.join("registry.redb");
    yare_sys::fs::make_private(&path).map_err(|error| crate::problem::file_error("create", &path, error))?;
    let database = Database::open(&path, CACHE)?;
    check(&database)?;
    prepare(&database)?;
    Ok(database)
}

fn spawn(root: &Path, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
    let spawned = std::thread::Builder::new().name("records".into()).spawn(work);
    spawned.map_err(|error| crate::problem::file_error("start the writer of", root, error))
}

/// Refuses a root that a newer yare wrote.
fn check(database: &Database) -> Result<()> {
    let found = database.transact(|database| match database.begin_read()?.open_table(FORMAT) {
        Ok(table) => Ok(table.get("version")?.map(|value| value.value().to_owned())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    })?;
    match found.as_deref().map(str::parse::<u32>) {
        None => Ok(()),
        Some(Ok(version)) if version <= VERSION => Ok(()),
        _ => {
            let found = found.unwrap_or_default();
            let message = format!("the registry's root has format {found}, this yare knows up to {VERSION}");
            Err(yare_errdefs::Error::precondition(message)
                .with_hint("serve it with the newer yare that wrote it")
                .into())
        }
    }
}

/// Makes the tables that are not there yet.
fn prepare(database: &Database) -> Result<()> {
    database.transact(|database| {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        {
            let mut format = transaction.open_table(FORMAT)?;
            if format.get("version")?.is_none() {
                format.insert("version", VERSION.to_string().as_str())?;
            }
        }
        tables::make_all(&transaction)?;
        Ok(transaction.commit()?)
    })?;
    Ok(())
}

type Batch = Vec<Box<dyn Job>>;

fn write_all(
    waiting: &Receiver<Box<dyn Job>>,
    committed: &watch::Sender<()>,
    mut commit: impl FnMut(&mut Batch) -> Result<()>,
) {
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        batch.extend(waiting.try_iter().take(BATCH - 1));
        // A fault in one change must not end the registry: its transaction is dropped, with the others of
        // the batch, and those who wait are told.
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| commit(&mut batch)));
        let outcome = outcome.unwrap_or_else(|_| Err(unwritten("a change failed by a fault")));
        let outcome = outcome.map_err(|error| {
            let text = yare_errdefs::chain(&error);
            tracing::error!(error = text, changes = batch.len(), "cannot write the records");
            text
        });
        for job in batch {
            job.finish(outcome.clone());
        }
        committed.send_replace(());
    }
}

/// Runs a batch in one transaction. Its jobs run once: when the file had to be opened anew before them,
/// they run on that one; when one of them or the commit fails, nothing of the batch is written, and the next
/// batch finds the file opened anew.
fn commit(database: &Database, blobs: &Store, batch: &mut Batch) -> Result<()> {
    let waiting = Cell::new(Some(batch));
    let outcome = database.transact(|database| {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        let Some(batch) = waiting.take() else { return Err(redb::Error::PreviousIo) };
        let writing = Writing::new(transaction, false);
        batch.iter_mut().for_each(|job| job.run(&writing));
        if writing.renamed.get()
            && let Err(error) = blobs.sync_names()
        {
            return Ok(Err(error));
        }
        writing.tables.into_transaction().commit()?;
        Ok(Ok(()))
    });
    Ok(outcome??)
}

/// Reads a JSON value.
pub(crate) fn read<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T> {
    Ok(serde_json::from_slice(value)?)
}

/// Writes a JSON value.
pub(crate) fn written<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

/// Reads the record at `key`, if there is one.
pub(crate) fn find<'k, K, T>(
    table: &impl ReadableTable<K, &'static [u8]>,
    key: impl std::borrow::Borrow<K::SelfType<'k>>,
) -> Result<Option<T>>
where
    K: redb::Key + 'static,
    T: serde::de::DeserializeOwned,
{
    table.get(key)?.map(|value| read(value.value())).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{Code, Refusal};
    use yare_errdefs::{Class, Classified};

    fn records(root: &Path) -> Records {
        Records::open(root, Arc::new(Store::open(root).unwrap())).unwrap()
    }

    fn create(writing: &Writing, name: &str) -> Result<()> {
        let record = written(&Repository { created: 1, bytes: 2 })?;
        writing.tables.open_table(REPOSITORIES)?.insert(name, record.as_slice())?;
        Ok(())
    }

    fn names(records: &Records) -> Vec<String> {
        let table = records.view().unwrap().open_table(REPOSITORIES).unwrap();
        table.range::<&str>(..).unwrap().map(|row| row.unwrap().0.value().to_owned()).collect()
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_a_reopen() {
        let root = tempfile::tempdir().unwrap();
        let first = records(root.path());
        first.write(|writing| create(writing, "a")).await.unwrap();
        first.close();
        assert!(!first.is_writing());
        assert!(first.write(|writing| create(writing, "b")).await.is_err());
        drop(first);
        assert_eq!(names(&records(root.path())), ["a"]);
    }

    #[tokio::test]
    async fn a_refused_change_harms_no_other_and_a_fault_ends_nothing() {
        let root = tempfile::tempdir().unwrap();
        let records = Arc::new(records(root.path()));
        let writers: Vec<_> = (0..20)
            .map(|number| {
                let records = Arc::clone(&records);
                tokio::spawn(async move {
                    let change = move |writing: &Writing| match number % 2 {
                        0 => create(writing, &format!("r{number:02}")),
                        _ => Err(Refusal::new(Code::Denied, "no").into()),
                    };
                    records.write(change).await.is_ok()
                })
            })
            .collect();
        for (number, writer) in writers.into_iter().enumerate() {
            assert_eq!(writer.await.unwrap(), number % 2 == 0);
        }
        assert_eq!(names(&records).len(), 10);
        let fault = records.write(|_| -> Result<()> { panic!("a fault, as this test wants it") }).await;
        assert!(fault.is_err());
        assert!(records.is_writing());
        records.write(|writing| create(writing, "after")).await.unwrap();
    }

    /// Removes the mount when the test ends.
    struct Unmount<'a>(&'a Path);

    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_over_when_there_is_room_again() {
        use rustix::mount::{MountFlags, mount};
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "the test needs root");
            println!("SKIP a_full_disk_is_over_when_there_is_room_again: needs root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        mount("tmpfs", root.path(), "tmpfs", MountFlags::empty(), Some(c"size=8m")).unwrap();
        let _unmount = Unmount(root.path());
        let records = records(root.path());
        records.write(|writing| create(writing, "before")).await.unwrap();
        let rest = root.path().join("rest");
        let filled = std::fs::write(&rest, vec![7; 8 << 20]);
        assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        let large = |writing: &Writing| {
            writing.tables.open_table(DOCUMENTS)?.insert(&LEAST, vec![7; 4 << 20].as_slice())?;
            Ok(())
        };
        for _ in 0..3 {
            let told = records.write(large).await.unwrap_err();
            assert!(matches!(&told, Error::Failed(error) if error.class() == Class::Unavailable), "{told:?}");
        }
        assert_eq!(names(&records), ["before"], "what is there can be read meanwhile");
        std::fs::remove_file(&rest).unwrap();
        records.write(|writing| create(writing, "later")).await.unwrap();
        assert_eq!(names(&records), ["before", "later"]);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let root = tempfile::tempdir().unwrap();
        drop(records(root.path()));
        let database = redb::Database::open(root.path().join("registry.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(FORMAT).unwrap().insert("version", "99").unwrap();
        transaction.commit().unwrap();
        drop(database);
        let store = Arc::new(Store::open(root.path()).unwrap());
        let error = yare_errdefs::chain(&Records::open(root.path(), store).unwrap_err());
        assert!(error.contains("format 99"), "{error}");
    }
}
