//! The tables of the build cache, and the thread that writes them.

use super::Step;
use crate::{Error, Result};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use yare_errdefs::Class;
use yare_image::Database;
use yare_oci::Digest;

const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("build_meta");
const STEPS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("build_steps");
const SUMS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("build_sums");
const SEEN: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("build_seen");

/// Checksums of selections, by selection.
pub(super) type Sums = BTreeMap<String, Digest>;

/// Edits of one transaction: `Some` puts, `None` removes.
#[derive(Debug, Default)]
pub(super) struct Edits {
    pub(super) steps: Vec<(Digest, Option<Step>)>,
    pub(super) sums: Vec<(Digest, Option<Sums>)>,
    pub(super) seen: Vec<(Digest, Vec<u8>)>,
}

impl Edits {
    pub(super) fn step(key: Digest, step: Option<Step>) -> Self {
        Self { steps: vec![(key, step)], ..Self::default() }
    }

    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.sums.is_empty() && self.seen.is_empty()
    }

    fn extend(&mut self, more: Self) {
        self.steps.extend(more.steps);
        self.sums.extend(more.sums);
        self.seen.extend(more.seen);
    }
}

fn failed(what: &'static str) -> impl Fn(redb::Error) -> Error {
    move |source| {
        let class = match &source {
            redb::Error::Io(io) => yare_errdefs::class_of_io(io),
            _ => Class::Internal,
        };
        Error::new(class, format!("cannot {what} the records of the build cache")).caused_by(source)
    }
}

/// Makes the tables, or checks that this engine understands those that are there.
pub(super) fn initialise(database: &Database) -> Result<()> {
    match database.format(META).map_err(failed("read"))? {
        Some(FORMAT) => Ok(()),
        Some(other) => Err(Error::precondition(format!(
            "the build cache has format {other}, and this engine knows format {FORMAT}"
        ))
        .with_hint("use the engine that wrote it or a newer one, or give this engine another data root")),
        None => database.transact(create_tables).map_err(failed("create")),
    }
}

fn create_tables(database: &redb::Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.open_table(META)?.insert("format", FORMAT)?;
    transaction.open_table(STEPS)?;
    transaction.open_table(SUMS)?;
    transaction.open_table(SEEN)?;
    transaction.commit()?;
    Ok(())
}

/// Reads what is kept in memory. A row that cannot be read is one that is not there: it is only a cache.
pub(super) fn read_all(database: &Database) -> Result<(HashMap<Digest, Step>, HashMap<Digest, Sums>)> {
    let read = |database: &redb::Database| -> Result<_, redb::Error> {
        let transaction = database.begin_read()?;
        Ok((table(&transaction, STEPS)?, table(&transaction, SUMS)?))
    };
    database.transact(read).map_err(failed("read"))
}

fn table<T: serde::de::DeserializeOwned>(
    transaction: &redb::ReadTransaction,
    definition: TableDefinition<'static, &'static [u8; 32], &'static [u8]>,
) -> Result<HashMap<Digest, T>, redb::Error> {
    let mut rows = HashMap::new();
    for row in transaction.open_table(definition)?.iter()? {
        let (key, value) = row?;
        if let Ok(value) = serde_json::from_slice(value.value()) {
            rows.insert(Digest::from_bytes(*key.value()), value);
        }
    }
    Ok(rows)
}

/// Reads one row of what steps were made of; none when it cannot be read.
pub(super) fn read_seen(database: &Database, place: &Digest) -> Option<Vec<u8>> {
    let read = |database: &redb::Database| -> Result<_, redb::Error> {
        // A row does not keep its transaction alive, whatever redb's documentation says of it.
        let table = database.begin_read()?.open_table(SEEN)?;
        let row = table.get(place.as_bytes())?;
        Ok(row.map(|row| row.value().to_vec()))
    };
    database.transact(read).ok()?
}

fn write(database: &redb::Database, edits: &Edits) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let mut steps = transaction.open_table(STEPS)?;
        for (key, step) in &edits.steps {
            put(&mut steps, key, step.as_ref())?;
        }
        let mut sums = transaction.open_table(SUMS)?;
        for (key, value) in &edits.sums {
            put(&mut sums, key, value.as_ref())?;
        }
        let mut seen = transaction.open_table(SEEN)?;
        for (place, parts) in &edits.seen {
            seen.insert(place.as_bytes(), parts.as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn put(
    table: &mut redb::Table<'_, &'static [u8; 32], &'static [u8]>,
    key: &Digest,
    value: Option<&impl serde::Serialize>,
) -> Result<(), redb::Error> {
    match value.and_then(|value| serde_json::to_vec(value).ok()) {
        Some(bytes) => drop(table.insert(key.as_bytes(), bytes.as_slice())?),
        None => drop(table.remove(key.as_bytes())?),
    }
    Ok(())
}

enum Job {
    Write(Edits),
    Tell(SyncSender<()>),
}

/// Hands edits to a thread that writes them, many in one transaction, so that no step waits for the disk.
#[derive(Debug)]
pub(super) struct Writer(Sender<Job>);

impl Writer {
    pub(super) fn start(database: Arc<Database>) -> Result<Self> {
        let (jobs, queue) = channel();
        std::thread::Builder::new()
            .name("build-cache".into())
            .spawn(move || work(&database, &queue))
            .map_err(|error| Error::internal("cannot start a thread for the build cache").caused_by(error))?;
        Ok(Self(jobs))
    }

    pub(super) fn send(&self, edits: Edits) {
        if !edits.is_empty() {
            // The thread lives as long as this sender.
            let _ = self.0.send(Job::Write(edits));
        }
    }

    pub(super) fn flush(&self) {
        let (tell, told) = sync_channel(1);
        if self.0.send(Job::Tell(tell)).is_ok() {
            let _ = told.recv();
        }
    }
}

fn work(database: &Database, queue: &Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut edits = Edits::default();
        let mut waiting = Vec::new();
        for job in std::iter::once(first).chain(queue.try_iter()) {
            match job {
                Job::Write(more) => edits.extend(more),
                Job::Tell(tell) => waiting.push(tell),
            }
        }
        if !edits.is_empty()
            && let Err(error) = database.transact(|database| write(database, &edits))
        {
            tracing::warn!(error = %error, "a result of a build is not on record, the next start forgets it");
        }
        for tell in waiting {
            let _ = tell.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_beside_writes() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("db"), 1 << 20).unwrap();
        initialise(&database).unwrap();
        let place = Digest::of("place");
        let put = |round: u8| {
            let edits = Edits { seen: vec![(place, vec![round; 300])], ..Edits::default() };
            database.transact(|database| write(database, &edits)).unwrap();
        };
        put(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let row = read_seen(&database, &place).unwrap();
                        assert!(row.len() == 300 && row.iter().all(|byte| *byte == row[0]));
                    }
                });
            }
            // redb, built for debugging, ends a write that frees what somebody reads.
            (1..100).for_each(put);
        });
    }
}
