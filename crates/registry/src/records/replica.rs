//! Records that several processes share through a bucket.
//!
//! The bucket has a log of changes, one object for each commit, numbered without a gap. Who wants to commit
//! puts the object with the next number, on the condition that there is none: exactly one process succeeds.
//! The others apply what it wrote to their copy, judge their own changes again, and try the number after it.
//! So all commits of all processes are in one order, each is judged by all that came before it, and who was
//! told "done" is in the bucket. A process that is killed at any point has put its object or has not.
//!
//! A copy is as new as the bucket when there is no object with the next number; that one question is asked
//! for many readers at once.
//!
//! Now and then somebody writes all records down as of one number, a *checkpoint*; objects of the log up to
//! an earlier one are deleted a day later. A process that heard nothing for an hour makes sure that its place
//! in the log is still there, before it asks for or puts the next number.

use super::{Batch, FORMAT, Writing, tables, unwritten};
use crate::bucket::Opening;
use crate::bucket::log::{self, Appended, Entry, Log};
use crate::clock::now;
use crate::problem::{Error, Result};
use redb::{Durability, ReadableTable, WriteTransaction};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use yare_database::Database;
use yare_oci::Digest;

/// Seconds after which a silent process looks whether its place in the log is still there; far less than
/// objects of the log outlive their checkpoint.
const STALE: u64 = 3600;
/// Commits to the copy of which the last one is made durable; what is lost is read from the bucket again.
const LAZY: u64 = 64;
/// How often a commit is tried again because another process was faster. It takes that many others.
const TRIES: usize = 1000;

/// The key of [`FORMAT`] that says which bucket this is a copy of.
const BUCKET: &str = "bucket";
/// The key of [`FORMAT`] with the number and the digest of the entry that was applied last.
const APPLIED: &str = "applied";

/// Bytes of the bucket that are not what they should be.
pub(super) fn damaged(why: tables::Malformed) -> Error {
    yare_errdefs::Error::internal(format!("the records in the bucket are damaged: {why}")).into()
}

/// The copy and its writer.
pub(super) struct Replica {
    database: Arc<Database>,
    log: Log,
    runtime: tokio::runtime::Runtime,
    identity: String,
    /// The place in the log: number and digest of the last entry that the copy has.
    applied: (u64, Digest),
    /// When it was last known to be the newest.
    confirmed: u64,
}

impl Replica {
    /// Connects, and makes the copy as new as the bucket.
    pub(super) fn open(database: Arc<Database>, opening: &Opening, root: &Path) -> Result<Self> {
        // A runtime of its own: the thread waits for the bucket, whatever runtime the registry is served by.
        let runtime = log::runtime()?;
        let bucket = runtime.block_on(async { opening.connect() })?;
        let identity = runtime.block_on(bucket.identify())?;
        runtime.block_on(bucket.share_file(&root.join("token-key"), "token-key"))?;
        let (of, applied) = place(&database.view()?.open_table(FORMAT)?)?;
        let mut replica = Self { database, log: Log::new(bucket), runtime, identity, applied, confirmed: 0 };
        if of.as_ref() != Some(&replica.identity) {
            replica.rebuild()?;
        }
        replica.catch_up()?;
        Ok(replica)
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(future)
    }

    /// Commits a batch: judged by everything that was committed before, by whomever.
    pub(super) fn commit(&mut self, batch: &mut Batch) -> Result<()> {
        let mut is_newest = false;
        if self.is_stale() {
            self.catch_up()?;
            is_newest = true;
        }
        for _ in 0..TRIES {
            let writing = Writing::new(self.begin()?, true);
            batch.iter_mut().for_each(|job| job.run(&writing));
            let changes = writing.tables.changes();
            let transaction = writing.tables.into_transaction();
            // A refusal may rest on what has changed since; a commit finds that out by itself.
            if !is_newest && (changes.is_empty() || batch.iter().any(|job| job.is_refused())) {
                transaction.abort()?;
                self.catch_up()?;
                is_newest = true;
                continue;
            }
            if changes.is_empty() {
                transaction.abort()?;
                return Ok(());
            }
            let entry = Entry::new(&changes)?;
            match self.wait(self.log.append(self.applied.0 + 1, &entry))? {
                Appended::Ours => return self.keep(transaction, &entry),
                Appended::Taken(other) => {
                    transaction.abort()?;
                    self.apply(self.applied.0 + 1, &other)?;
                    self.catch_up()?;
                    is_newest = true;
                }
            }
        }
        Err(unwritten("other processes write all the time"))
    }

    fn is_stale(&self) -> bool {
        now().checked_sub(self.confirmed).is_none_or(|silent| silent > STALE)
    }

    /// Applies what others committed.
    fn catch_up(&mut self) -> Result<()> {
        if self.is_stale() && !self.has_place()? {
            tracing::warn!(applied = self.applied.0, "the copy of the records is too old and made anew");
            self.rebuild()?;
        }
        let asked = now();
        let mut ahead = 1;
        loop {
            let first = self.applied.0 + 1;
            let entries = self.wait(self.log.read_some(first, ahead))?;
            for (number, entry) in (first..).zip(&entries) {
                self.apply(number, entry)?;
            }
            let is_at_end = (entries.len() as u64) < ahead;
            if is_at_end && self.applied.0 + 1 == first + entries.len() as u64 {
                break;
            }
            // Who is one behind may be many behind.
            ahead = 16;
        }
        self.confirmed = asked;
        Ok(())
    }

    /// Whether the log still has the entry that was applied last.
    fn has_place(&self) -> Result<bool> {
        let (number, digest) = self.applied;
        if number == 0 {
            return Ok(self.wait(self.log.newest_checkpoint())?.is_none());
        }
        let there = self.wait(self.log.read_some(number, 1))?;
        Ok(there.first().is_some_and(|entry| entry.digest() == digest))
    }

    /// Begins a transaction and looks which place in the log it has: after a failure of the disk the
    /// database may be as it was a few commits ago.
    fn begin(&mut self) -> Result<WriteTransaction> {
        let transaction = self.database.transact(|database| Ok(database.begin_write()?))?;
        let (_, applied) = place(&transaction.open_table(FORMAT)?)?;
        self.applied = applied;
        Ok(transaction)
    }

    /// Applies the entry with this number, if it is the next one.
    fn apply(&mut self, number: u64, entry: &Entry) -> Result<()> {
        let transaction = self.begin()?;
        if number != self.applied.0 + 1 {
            return Ok(transaction.abort()?);
        }
        tables::apply(&transaction, entry.changes())?;
        self.keep(transaction, entry)
    }

    /// Commits to the copy what the log has.
    fn keep(&mut self, mut transaction: WriteTransaction, entry: &Entry) -> Result<()> {
        let applied = (self.applied.0 + 1, entry.digest());
        set_place(&transaction, &self.identity, applied)?;
        if applied.0.is_multiple_of(LAZY) {
            transaction.set_quick_repair(true);
        } else {
            transaction.set_durability(Durability::None).map_err(redb::Error::from)?;
        }
        transaction.commit()?;
        self.applied = applied;
        Ok(())
    }

    /// Makes the copy anew from the newest checkpoint.
    fn rebuild(&mut self) -> Result<()> {
        let mut transaction = self.begin()?;
        transaction.set_quick_repair(true);
        tables::clear_all(&transaction)?;
        let mut applied = (0, Digest::of(""));
        if let Some(number) = self.wait(self.log.newest_checkpoint())? {
            let digest = self
                .wait(self.log.read_checkpoint(number, |change| tables::apply_one(&transaction, change)))?;
            applied = (number, digest);
        }
        set_place(&transaction, &self.identity, applied)?;
        transaction.commit()?;
        (self.applied, self.confirmed) = (applied, now());
        Ok(())
    }

    /// Makes durable what the copy has, so that the next start need not read it again.
    pub(super) fn close(&self) {
        let synced = self.database.transact(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            Ok(transaction.commit()?)
        });
        if let Err(error) = synced.map_err(Error::from) {
            let error = yare_errdefs::chain(&error);
            tracing::warn!(error, "the copy of the records lags behind; the next start makes up for it");
        }
    }
}

/// Which bucket the database is a copy of, and its place in the log.
fn place(table: &impl ReadableTable<&'static str, &'static str>) -> Result<(Option<String>, (u64, Digest))> {
    let bucket = table.get(BUCKET)?.map(|value| value.value().to_owned());
    let applied = table.get(APPLIED)?.and_then(|value| {
        let (number, digest) = value.value().split_once(' ')?;
        Some((number.parse().ok()?, digest.parse().ok()?))
    });
    Ok((bucket, applied.unwrap_or((0, Digest::of("")))))
}

fn set_place(transaction: &WriteTransaction, bucket: &str, applied: (u64, Digest)) -> Result<()> {
    let mut table = transaction.open_table(FORMAT)?;
    table.insert(BUCKET, bucket)?;
    table.insert(APPLIED, format!("{} {}", applied.0, applied.1).as_str())?;
    Ok(())
}

/// Writes a checkpoint, if the newest one is at least so many commits old, and deletes what the log does not
/// need any more. Blocks; `false` when it was not time.
pub(super) fn checkpoint(database: &Database, opening: &Opening, least: u64) -> Result<bool> {
    let view = database.view()?;
    let (_, (number, digest)) = place(&view.open_table(FORMAT)?)?;
    let runtime = log::runtime()?;
    let log = Log::new(runtime.block_on(async { opening.connect() })?);
    let newest = runtime.block_on(log.newest_checkpoint())?.unwrap_or(0);
    if number.saturating_sub(newest) < least {
        return Ok(false);
    }
    let mut writer = runtime.block_on(log.write_checkpoint(number, digest))?;
    let rest = tables::dump_all(&view, &mut |piece| {
        if piece.len() < log::PIECE {
            return Ok(());
        }
        runtime.block_on(writer.add(std::mem::take(piece)))
    })?;
    runtime.block_on(writer.finish(rest))?;
    runtime.block_on(log.trim(now()))?;
    Ok(true)
}
