//! Blobs and who may have them: placing, linking, mounting, unlinking.
//!
//! A blob is one file, shared by all repositories; a link lets one repository serve it. Everything here
//! happens on the writer's thread, so that a blob that is placed and one that is collected cannot meet.

use crate::blobs::{Blobs, Whole};
use crate::events::{self, Event, Kind, Origin};
use crate::manifests::PushRules;
use crate::names;
use crate::problem::{Code, Refusal, Result};
use crate::quota;
use crate::records::{
    BLOBS, GREATEST, LEAST, LINKED, LINKS, MANIFESTS, REPOSITORIES, Repository, USES, Writing, find, written,
};
use redb::{ReadTransaction, ReadableTable};
use serde_json::json;
use yare_oci::{ContentDigest, Digest};

/// The bytes of a blob that the repository may serve; `None` when it may not, or there is none.
pub(crate) fn size(view: &ReadTransaction, repository: &str, digest: &Digest) -> Result<Option<u64>> {
    if view.open_table(LINKS)?.get((repository, digest.as_bytes()))?.is_none() {
        return Ok(None);
    }
    Ok(view.open_table(BLOBS)?.get(digest.as_bytes())?.map(|size| size.value()))
}

/// Repositories that may serve the blob, up to `limit`.
pub(crate) fn holders(view: &ReadTransaction, digest: &Digest, limit: usize) -> Result<Vec<String>> {
    let table = view.open_table(LINKED)?;
    let from = (digest.as_bytes(), "");
    let mut found = Vec::new();
    for row in table.range(from..)? {
        let (key, _) = row?;
        let (blob, repository) = key.value();
        if blob != digest.as_bytes() || found.len() == limit {
            break;
        }
        found.push(repository.to_owned());
    }
    Ok(found)
}

/// Who changes something: when, under which rules, and whom webhooks are told of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct By<'a> {
    /// The time.
    pub(crate) now: u64,
    /// The rules.
    pub(crate) rules: &'a PushRules,
    /// Who it is; without one, nobody is told.
    pub(crate) origin: Option<&'a Origin>,
    /// The repository that a blob is taken from by this, though its bytes may be copied.
    pub(crate) mounted_from: Option<&'a str>,
}

impl By<'_> {
    fn tell(
        &self,
        writing: &Writing,
        kind: Kind,
        repository: &str,
        blob: (&ContentDigest, u64),
    ) -> Result<()> {
        let Some(origin) = self.origin.filter(|_| !self.rules.webhooks.is_empty()) else { return Ok(()) };
        let kind = if self.mounted_from.is_some() { Kind::Mount } else { kind };
        let from = self.mounted_from.map(str::to_owned);
        let event = Event { from, ..Event::blob(kind, repository, blob, origin) };
        events::note(writing, &self.rules.webhooks, &event)
    }
}

/// An upload that becomes a blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finished<'a> {
    /// Where its bytes are.
    pub(crate) bytes: Whole<'a>,
    /// What they hash to.
    pub(crate) digest: &'a Digest,
    /// What they are called, which they were found to be right for.
    pub(crate) name: &'a ContentDigest,
    /// How many they are.
    pub(crate) size: u64,
}

/// Makes a finished upload a blob, unless there is one with those bytes, and links it. Whether the upload's
/// own bytes are those of the blob now.
pub(crate) fn place(
    writing: &Writing,
    blobs: &Blobs,
    repository: &str,
    finished: Finished<'_>,
    by: By<'_>,
) -> Result<bool> {
    let (hash, size) = (finished.digest.as_bytes(), finished.size);
    let known = writing.tables.open_table(BLOBS)?.get(hash)?.is_some();
    let linked = writing.tables.open_table(LINKS)?.get((repository, hash))?.is_some();
    if !linked {
        quota::check(writing, repository, size, &by.rules.quotas)?;
    }
    // A blob whose bytes went missing is mended by the next push of it. They come before the records: those
    // that cannot be placed have changed nothing.
    let is_taken = blobs.place(writing, known, finished)?;
    if is_taken || !known {
        writing.tables.open_table(BLOBS)?.insert(hash, size)?;
    }
    if !linked {
        grow(writing, repository, size, by.now)?;
    }
    names::note(writing, finished.name, finished.digest)?;
    link(writing, repository, finished.digest, by.now)?;
    by.tell(writing, Kind::Push, repository, (finished.name, size))?;
    Ok(is_taken)
}

/// When the blob was linked to the repository, which may have been a promise; `None` when it is not.
pub(crate) fn linked_at(view: &ReadTransaction, repository: &str, digest: &Digest) -> Result<Option<u64>> {
    Ok(view.open_table(LINKS)?.get((repository, digest.as_bytes()))?.map(|linked| linked.value()))
}

/// Makes the link as young as a new one, for a client that relies on it. Whether there is one.
pub(crate) fn touch(writing: &Writing, repository: &str, digest: &Digest, now: u64) -> Result<bool> {
    let is_linked = writing.tables.open_table(LINKS)?.get((repository, digest.as_bytes()))?.is_some();
    if is_linked {
        link(writing, repository, digest, now)?;
    }
    Ok(is_linked)
}

/// Lets `repository` serve a blob that is there for `from`. Whether it was still there.
pub(crate) fn mount(
    writing: &Writing,
    repository: &str,
    digest: &Digest,
    from: &str,
    by: By<'_>,
) -> Result<bool> {
    let hash = digest.as_bytes();
    let Some(size) = writing.tables.open_table(BLOBS)?.get(hash)?.map(|size| size.value()) else {
        return Ok(false);
    };
    let linked = writing.tables.open_table(LINKS)?.get((repository, hash))?.is_some();
    if !linked {
        quota::check(writing, repository, size, &by.rules.quotas)?;
        grow(writing, repository, size, by.now)?;
    }
    link(writing, repository, digest, by.now)?;
    let by = By { mounted_from: Some(from), ..by };
    by.tell(writing, Kind::Mount, repository, (&digest.into(), size))?;
    Ok(true)
}

fn link(writing: &Writing, repository: &str, digest: &Digest, now: u64) -> Result<()> {
    writing.tables.open_table(LINKS)?.insert((repository, digest.as_bytes()), now)?;
    writing.tables.open_table(LINKED)?.insert((digest.as_bytes(), repository), ())?;
    names::settle(writing, repository, digest)
}

/// Which manifest of the repository needs `digest`, if any does.
pub(crate) fn user(writing: &Writing, repository: &str, digest: &Digest) -> Result<Option<Digest>> {
    let table = writing.tables.open_table(USES)?;
    let (from, to) = ((repository, digest.as_bytes(), &LEAST), (repository, digest.as_bytes(), &GREATEST));
    let first = table.range(from..=to)?.next().transpose()?;
    Ok(first.map(|(key, _)| Digest::from_bytes(*key.value().2)))
}

/// Takes the blob from the repository. A blob that a manifest needs stays.
pub(crate) fn unlink(writing: &Writing, repository: &str, digest: &Digest, by: By<'_>) -> Result<()> {
    let hash = digest.as_bytes();
    if writing.tables.open_table(LINKS)?.get((repository, hash))?.is_none() {
        return Err(unknown(digest).into());
    }
    if let Some(manifest) = user(writing, repository, digest)? {
        let message = format!("blob {digest} is needed by manifest {manifest}; delete that first");
        return Err(Refusal::new(Code::Unsupported, message)
            .with_detail(json!({ "manifest": manifest.to_string() }))
            .into());
    }
    let size = writing.tables.open_table(BLOBS)?.get(hash)?.map_or(0, |size| size.value());
    by.tell(writing, Kind::Delete, repository, (&digest.into(), size))?;
    remove_link(writing, repository, digest)
}

/// Removes a link that is there.
pub(crate) fn remove_link(writing: &Writing, repository: &str, digest: &Digest) -> Result<()> {
    let hash = digest.as_bytes();
    let size = writing.tables.open_table(BLOBS)?.get(hash)?.map_or(0, |size| size.value());
    writing.tables.open_table(LINKS)?.remove((repository, hash))?;
    writing.tables.open_table(LINKED)?.remove((hash, repository))?;
    shrink(writing, repository, size)
}

/// Adds to the size of a repository, which is made by it.
pub(crate) fn grow(writing: &Writing, repository: &str, bytes: u64, now: u64) -> Result<()> {
    let mut table = writing.tables.open_table(REPOSITORIES)?;
    let mut record: Repository =
        find(&table, repository)?.unwrap_or(Repository { created: now, ..Repository::default() });
    let before = record.bytes;
    record.bytes = before.saturating_add(bytes);
    table.insert(repository, written(&record)?.as_slice())?;
    quota::adjust(writing, repository, (before, record.bytes))
}

/// Takes from the size of a repository; one that holds nothing any more is gone.
pub(crate) fn shrink(writing: &Writing, repository: &str, bytes: u64) -> Result<()> {
    let ends = ((repository, &LEAST), (repository, &GREATEST));
    let is_empty = writing.tables.open_table(LINKS)?.range(ends.0..=ends.1)?.next().is_none()
        && writing.tables.open_table(MANIFESTS)?.range(ends.0..=ends.1)?.next().is_none();
    let mut table = writing.tables.open_table(REPOSITORIES)?;
    let Some(mut record) = find::<_, Repository>(&table, repository)? else { return Ok(()) };
    let before = record.bytes;
    record.bytes = if is_empty { 0 } else { before.saturating_sub(bytes) };
    if is_empty {
        table.remove(repository)?;
    } else {
        table.insert(repository, written(&record)?.as_slice())?;
    }
    quota::adjust(writing, repository, (before, record.bytes))
}

/// The refusal of a blob that the repository does not have.
pub(crate) fn unknown(digest: &impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::BlobUnknown, "blob unknown to registry")
        .with_detail(json!({ "digest": digest.to_string() }))
}
