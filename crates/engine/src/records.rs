//! The engine's records: one embedded database, written by one thread.
//!
//! # Format, version 1
//!
//! `<data root>/yare.redb` (redb, quick repair on), tables:
//!
//! | table | key | value |
//! |---|---|---|
//! | `format` | `"version"` | the number above, as text |
//! | `containers` | container id, 64 hex | JSON of [`crate::container::Record`] |
//! | `volumes` | volume name | JSON of [`crate::volumes::Volume`] |
//! | `networks` | network id, 64 hex | JSON of [`crate::networks::NetworkRecord`] |
//!
//! and the image store's own tables. A container that is removed at its end (`--rm`) promises nothing after
//! a power cut, so its record is not here but in its run directory, where it costs no fsync.
//!
//! Writers hand changes to the thread and wait only where something was promised; the thread commits all
//! that is waiting in one transaction (group commit).

use parking_lot::Mutex;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use yare_errdefs::{Error, Result};
use yare_image::Database;

const FORMAT: TableDefinition<'_, &str, &str> = TableDefinition::new("format");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");
const VOLUMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("volumes");
const NETWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("networks");
const VERSION: u32 = 1;
/// redb's page cache, in bytes: the records of a thousand containers fit.
const CACHE: usize = 8 << 20;

/// Which table a change goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Container records.
    Containers,
    /// Volume records.
    Volumes,
    /// Records of networks of the user's.
    Networks,
}

impl Table {
    const ALL: [Self; 3] = [Self::Containers, Self::Volumes, Self::Networks];

    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        match self {
            Self::Containers => CONTAINERS,
            Self::Volumes => VOLUMES,
            Self::Networks => NETWORKS,
        }
    }
}

/// One record to write or remove.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Where.
    pub table: Table,
    /// Its key.
    pub key: String,
    /// `None` removes the record.
    pub value: Option<Vec<u8>>,
}

impl Edit {
    /// Writes a record.
    pub fn put(table: Table, key: &str, value: Vec<u8>) -> Self {
        Self { table, key: key.to_owned(), value: Some(value) }
    }

    /// Removes a record.
    pub fn delete(table: Table, key: &str) -> Self {
        Self { table, key: key.to_owned(), value: None }
    }
}

/// Edits that happen together or not at all.
struct Change {
    edits: Vec<Edit>,
    done: Option<tokio::sync::oneshot::Sender<Result<()>>>,
}

/// The database and the way to its writer.
pub struct Records {
    database: Arc<Database>,
    changes: Mutex<Option<Sender<Change>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records")
    }
}

impl Records {
    /// Opens or makes the database beneath `root`. A root of a newer format is refused.
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.join("yare.redb");
        let failed = |why: &dyn std::fmt::Display| {
            Error::internal(format!("cannot open the records at {}: {why}", path.display()))
        };
        // They hold what containers were told, secrets among it.
        yare_sys::fs::make_private(&path).map_err(|error| failed(&error))?;
        let database = Database::open(&path, CACHE).map_err(|error| failed(&error))?;
        let prepared = database.transact(|database| Ok(prepare(database))).map_err(|error| failed(&error))?;
        prepared.map_err(|error| failed(&error))?;
        let database = Arc::new(database);
        let (changes, waiting) = channel();
        let writer = std::thread::Builder::new()
            .name("records".into())
            .spawn({
                let database = Arc::clone(&database);
                move || write_all(&database, &waiting)
            })
            .map_err(|error| failed(&error))?;
        Ok(Self { database, changes: Mutex::new(Some(changes)), writer: Mutex::new(Some(writer)) })
    }

    /// The database itself, for stores that keep tables of their own.
    pub fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// All records of a table, keys first.
    pub fn all(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>> {
        let read = |database: &redb::Database| -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
            let transaction = database.begin_read()?;
            let table = transaction.open_table(table.definition())?;
            table
                .iter()?
                .map(|row| row.map(|(key, value)| (key.value().to_owned(), value.value().to_vec())))
                .collect::<Result<_, _>>()
                .map_err(Into::into)
        };
        self.database
            .transact(read)
            .map_err(|error| Error::internal(format!("cannot read the records: {error}")))
    }

    /// Writes a record; when this returns it survives power loss.
    pub async fn put(&self, table: Table, key: &str, value: Vec<u8>) -> Result<()> {
        self.commit(vec![Edit::put(table, key, value)]).await
    }

    /// Removes a record; when this returns it stays removed.
    pub async fn delete(&self, table: Table, key: &str) -> Result<()> {
        self.commit(vec![Edit::delete(table, key)]).await
    }

    /// Makes several edits in one transaction; when the future returns they survive power loss. Their place
    /// among other changes is decided by this call, not by the first poll.
    pub fn commit(&self, edits: Vec<Edit>) -> impl Future<Output = Result<()>> + Send + use<> {
        let (done, answer) = tokio::sync::oneshot::channel();
        self.send(Change { edits, done: Some(done) });
        async move { answer.await.unwrap_or_else(|_| Err(Error::unavailable("the engine is shutting down"))) }
    }

    fn send(&self, change: Change) {
        // Without a writer the change is dropped and a waiter told so through its closed channel.
        if let Some(changes) = self.changes.lock().as_ref() {
            let _ = changes.send(change);
        }
    }

    /// Writes what is waiting and stops.
    pub fn close(&self) {
        drop(self.changes.lock().take());
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}

fn prepare(database: &redb::Database) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let mut format = transaction.open_table(FORMAT)?;
        let found = format.get("version")?.map(|value| value.value().to_owned());
        match found.as_deref().map(str::parse::<u32>) {
            None => {
                format.insert("version", VERSION.to_string().as_str())?;
            }
            Some(Ok(version)) if version <= VERSION => {}
            _ => {
                let found = found.unwrap_or_default();
                return Err(format!(
                    "it has format {found}, this yare knows formats up to {VERSION}; use the newer yare that wrote it"
                )
                .into());
            }
        }
        for table in Table::ALL {
            transaction.open_table(table.definition())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn write_all(database: &Database, waiting: &Receiver<Change>) {
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        batch.extend(waiting.try_iter());
        match write(database, &batch) {
            // What one of them does not have the room for, others may.
            Err(_) if batch.len() > 1 => batch.into_iter().for_each(|change| {
                let outcome = write(database, std::slice::from_ref(&change));
                change.answer(&outcome);
            }),
            outcome => batch.into_iter().for_each(|change| change.answer(&outcome)),
        }
    }
}

fn write(database: &Database, batch: &[Change]) -> std::result::Result<(), redb::Error> {
    let only_remove = batch.iter().flat_map(|change| &change.edits).all(|edit| edit.value.is_none());
    let outcome = match only_remove {
        true => database.transact_to_free(|database| commit(database, batch)),
        false => database.transact(|database| commit(database, batch)),
    };
    outcome.inspect_err(|error| tracing::error!(%error, changes = batch.len(), "cannot write records"))
}

impl Change {
    fn answer(self, outcome: &std::result::Result<(), redb::Error>) {
        let Some(done) = self.done else { return };
        let keys = || self.edits.iter().map(|edit| edit.key.as_str()).collect::<Vec<_>>().join(", ");
        let _ = done.send(match outcome {
            Ok(()) => Ok(()),
            Err(error) => Err(Error::internal(format!("cannot write the record of {}: {error}", keys()))),
        });
    }
}

fn commit(database: &redb::Database, batch: &[Change]) -> std::result::Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    for table in Table::ALL {
        let edits: Vec<&Edit> =
            batch.iter().flat_map(|change| &change.edits).filter(|edit| edit.table == table).collect();
        if edits.is_empty() {
            continue;
        }
        let mut rows = transaction.open_table(table.definition())?;
        for edit in edits {
            match &edit.value {
                Some(value) => drop(rows.insert(edit.key.as_str(), value.as_slice())?),
                None => drop(rows.remove(edit.key.as_str())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_a_reopen() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path()).unwrap();
        records.put(Table::Containers, "a", b"1".to_vec()).await.unwrap();
        for table in Table::ALL {
            records.put(table, "of each", b"3".to_vec()).await.unwrap();
        }
        drop(records.commit(vec![Edit::put(Table::Containers, "b", b"2".to_vec())]));
        records.delete(Table::Containers, "a").await.unwrap();
        records.close();
        drop(records);
        let records = Records::open(root.path()).unwrap();
        let of_each = ("of each".to_owned(), b"3".to_vec());
        assert_eq!(
            records.all(Table::Containers).unwrap(),
            [("b".to_owned(), b"2".to_vec()), of_each.clone()]
        );
        for table in Table::ALL {
            assert!(records.all(table).unwrap().contains(&of_each), "{table:?}");
        }
        records.close();
    }

    #[test]
    fn refuses_a_newer_format() {
        let root = tempfile::tempdir().unwrap();
        Records::open(root.path()).unwrap().close();
        let database = redb::Database::open(root.path().join("yare.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(FORMAT).unwrap().insert("version", "99").unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = Records::open(root.path()).unwrap_err().to_string();
        assert!(error.contains("format 99"), "{error}");
    }
}
