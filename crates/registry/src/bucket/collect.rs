//! Collection of objects, while other processes serve the same bucket.
//!
//! An object is condemned in the records before it is deleted, and what is condemned never becomes a blob
//! again: whoever wants to make it one is told so by the same order of commits. The sentence is kept for a
//! week, for somebody who was asleep in the middle of a push.

use super::Bucket;
use crate::clock::now;
use crate::problem::Result;
use crate::records::{CONDEMNED, OBJECTS, Records, Writing, lease};
use redb::ReadableTable;
use std::collections::HashSet;

/// How long a sentence is kept, in seconds.
const KEPT: u64 = 7 * 24 * 3600;
/// How long one process collects, unless it asks for more, in seconds.
const TERM: u64 = 600;
/// The key of the lease of collections.
const NAME: &str = "collect";
/// Objects of one change.
const STEP: usize = 512;
/// Changes that condemn, at most: each walks over all objects.
const WALKS: usize = 8;

/// The right to collect: one process at a time has it.
#[derive(Debug)]
pub(crate) struct Turn {
    holder: String,
    until: u64,
}

impl Turn {
    /// Takes the turn; refused while another process has it.
    pub(crate) async fn take(records: &Records) -> Result<Self> {
        let mut turn = Self { holder: crate::uploads::random_id()?, until: 0 };
        turn.extend(records).await?;
        Ok(turn)
    }

    /// Makes sure that the turn lasts for a while.
    pub(crate) async fn extend(&mut self, records: &Records) -> Result<()> {
        if self.until > now() + TERM / 2 {
            return Ok(());
        }
        let holder = self.holder.clone();
        let until = now() + TERM;
        records.write(move |writing| take(writing, &holder)).await?;
        self.until = until;
        Ok(())
    }

    /// Gives the turn back.
    pub(crate) async fn end(self, records: &Records) -> Result<()> {
        records.write(move |writing| lease::give_back(writing, NAME, &self.holder)).await
    }
}

fn take(writing: &Writing, holder: &str) -> Result<()> {
    let Some(other) = lease::take(writing, NAME, holder, (now(), TERM))? else { return Ok(()) };
    let left = other.until.saturating_sub(now());
    Err(yare_errdefs::Error::conflict("another process collects in this bucket")
        .with_hint(format!("it has the turn for {left} seconds, or until it is done"))
        .into())
}

/// Condemns the object of a blob whose record goes.
pub(crate) fn condemn_blob(writing: &Writing, hash: &[u8; 32]) -> Result<()> {
    let mut objects = writing.tables.open_table(OBJECTS)?;
    let object = objects.get(hash)?.map(|object| object.value().to_owned());
    if let Some(object) = object {
        objects.remove(hash)?;
        writing.tables.open_table(CONDEMNED)?.insert(object.as_str(), now())?;
    }
    Ok(())
}

/// Objects that no record speaks of and that are older than `grace` seconds.
pub(crate) async fn strays(bucket: &Bucket, records: &Records, grace: u64) -> Result<Vec<String>> {
    let listed = bucket.list_blobs().await?;
    // The records after the list: what became a blob meanwhile is known to be one.
    records.catch_up().await?;
    let known = known(records)?;
    let is_stray = |object: &super::blobs::Listed| {
        now().saturating_sub(object.modified) >= grace && !known.contains(&object.object)
    };
    Ok(listed.into_iter().filter(is_stray).map(|object| object.object).collect())
}

fn known(records: &Records) -> Result<HashSet<String>> {
    let view = records.view()?;
    let (objects, condemned) = (view.open_table(OBJECTS)?, view.open_table(CONDEMNED)?);
    let mut known = HashSet::new();
    for row in objects.iter()? {
        known.insert(row?.1.value().to_owned());
    }
    for row in condemned.iter()? {
        known.insert(row?.0.value().to_owned());
    }
    Ok(known)
}

/// Condemns strays, unless one became a blob meanwhile.
pub(crate) async fn condemn(records: &Records, strays: Vec<String>) -> Result<u64> {
    let count = strays.len() as u64;
    for step in strays.chunks(STEP.max(strays.len().div_ceil(WALKS))) {
        let step = step.to_vec();
        let change = move |writing: &Writing| {
            let objects = writing.tables.open_table(OBJECTS)?;
            let mut taken = HashSet::new();
            for row in objects.iter()? {
                taken.insert(row?.1.value().to_owned());
            }
            let mut condemned = writing.tables.open_table(CONDEMNED)?;
            for object in step.iter().filter(|object| !taken.contains(*object)) {
                condemned.insert(object.as_str(), now())?;
            }
            Ok(())
        };
        records.write(change).await?;
    }
    Ok(count)
}

/// Deletes what is condemned, and forgets old sentences.
pub(crate) async fn execute(bucket: &Bucket, records: &Records) -> Result<()> {
    let condemned = {
        let view = records.view()?;
        let rows = view.open_table(CONDEMNED)?;
        let rows =
            rows.iter()?.map(|row| row.map(|(object, when)| (object.value().to_owned(), when.value())));
        rows.collect::<Result<Vec<_>, _>>()?
    };
    for (object, _) in &condemned {
        bucket.delete_blob(object).await?;
    }
    let is_old = |when: u64| now().saturating_sub(when) > KEPT;
    let old: Vec<String> =
        condemned.into_iter().filter(|(_, when)| is_old(*when)).map(|(object, _)| object).collect();
    for step in old.chunks(STEP) {
        let step = step.to_vec();
        let forget = move |writing: &Writing| {
            let mut condemned = writing.tables.open_table(CONDEMNED)?;
            step.iter().try_for_each(|object| condemned.remove(object.as_str()))?;
            Ok(())
        };
        records.write(forget).await?;
    }
    Ok(())
}
