//! Second names: what the SHA-512 digests that clients use stand for.
//!
//! The records, the store and the bucket know all content by its SHA-256 digest, so that the same bytes are one
//! blob, in counts of links and in quotas, too, whatever they are called. What is pushed under a SHA-512 digest has
//! that for a further name: it is noted after both hashes of the bytes were made, and forgotten with the content.
//!
//! Content that is not here has no second name. Where the records have to speak of it all the same, the first half
//! of the SHA-512 digest stands in for it: in `referrers` always (a list is of one name of the subject), in `uses`
//! until the content comes (a cache has manifests before blobs; indexes may list what is absent).

use crate::problem::Result;
use crate::records::{
    BLOBS, DOCUMENTS, GREATEST, Hash, LEAST, LongHash, MANIFESTS, ManifestRecord, NAMED, NAMES, USES,
    Writing, find, written,
};
use redb::{ReadTransaction, ReadableTable};
use yare_oci::{ContentDigest, Digest};

/// What a name stands for; `None` when nothing here is known by it. That there is content of this name says only a
/// SHA-512 name: one of SHA-256 is its own answer.
pub(crate) fn known(view: &ReadTransaction, name: &ContentDigest) -> Result<Option<Digest>> {
    match name {
        ContentDigest::Sha256(digest) => Ok(Some(*digest)),
        ContentDigest::Sha512(long) => look_up(&view.open_table(NAMES)?, long),
    }
}

/// The same, for a change.
pub(crate) fn known_now(writing: &Writing, name: &ContentDigest) -> Result<Option<Digest>> {
    match name {
        ContentDigest::Sha256(digest) => Ok(Some(*digest)),
        ContentDigest::Sha512(long) => look_up(&writing.tables.open_table(NAMES)?, long),
    }
}

fn look_up(
    table: &impl ReadableTable<LongHash<'static>, Hash<'static>>,
    long: &[u8; 64],
) -> Result<Option<Digest>> {
    Ok(table.get(long)?.map(|hash| Digest::from_bytes(*hash.value())))
}

/// What stands in a key for a name that may have no content.
pub(crate) fn stand_in(name: &ContentDigest) -> Digest {
    match name {
        ContentDigest::Sha256(digest) => *digest,
        ContentDigest::Sha512(long) => {
            let mut half = [0; 32];
            half.copy_from_slice(&long[..32]);
            Digest::from_bytes(half)
        }
    }
}

/// Notes what content is called. The caller has hashed it.
pub(crate) fn note(writing: &Writing, name: &ContentDigest, digest: &Digest) -> Result<()> {
    if let ContentDigest::Sha512(long) = name {
        writing.tables.open_table(NAMES)?.insert(long, digest.as_bytes())?;
        writing.tables.open_table(NAMED)?.insert(digest.as_bytes(), long)?;
    }
    Ok(())
}

/// Forgets the second name of content that is gone, as a blob and as a manifest.
pub(crate) fn forget(writing: &Writing, digest: &Digest) -> Result<()> {
    let hash = digest.as_bytes();
    let is_here = writing.tables.open_table(BLOBS)?.get(hash)?.is_some()
        || writing.tables.open_table(DOCUMENTS)?.get(hash)?.is_some();
    let mut named = writing.tables.open_table(NAMED)?;
    let long = named.get(hash)?.map(|long| *long.value());
    if let Some(long) = long.filter(|_| !is_here) {
        named.remove(hash)?;
        writing.tables.open_table(NAMES)?.remove(&long)?;
    }
    Ok(())
}

/// Lets content that came to a repository take the place of what stood in for it there.
pub(crate) fn settle(writing: &Writing, repository: &str, digest: &Digest) -> Result<()> {
    let long = writing.tables.open_table(NAMED)?.get(digest.as_bytes())?.map(|long| *long.value());
    let Some(long) = long else { return Ok(()) };
    let absent = stand_in(&ContentDigest::Sha512(long));
    let mut uses = writing.tables.open_table(USES)?;
    let ends = ((repository, absent.as_bytes(), &LEAST), (repository, absent.as_bytes(), &GREATEST));
    let users = uses.range(ends.0..=ends.1)?.map(|row| Ok(*row?.0.value().2)).collect::<Result<Vec<_>>>()?;
    for user in users {
        uses.remove((repository, absent.as_bytes(), &user))?;
        uses.insert((repository, digest.as_bytes(), &user), ())?;
        let mut manifests = writing.tables.open_table(MANIFESTS)?;
        let Some(mut record) = find::<_, ManifestRecord>(&manifests, (repository, &user))? else { continue };
        record.uses.iter_mut().filter(|used| **used == absent).for_each(|used| *used = *digest);
        manifests.insert((repository, &user), written(&record)?.as_slice())?;
    }
    Ok(())
}
