//! Scrubbing: every stored byte is read and hashed again, so that rot is found before a client finds it.

use crate::blobs::Blobs;
use crate::bucket::Bucket;
use crate::problem::Result;
use crate::records::{BLOBS, DOCUMENTS, Writing};
use crate::registry::Registry;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use yare_content::Store;
use yare_oci::Digest;

/// What scrubbing found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Whether damaged files were left where they are.
    pub dry_run: bool,
    /// Blobs that were read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests that were read.
    pub manifests: u64,
    /// What is wrong.
    pub damaged: Vec<Damage>,
}

/// Something that is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Which content.
    pub digest: Digest,
    /// What is wrong with it.
    pub what: String,
    /// Repositories that have it.
    pub repositories: Vec<String>,
}

/// Reads everything at idle priority. Damaged blobs are moved to `damaged/` below the root, unless
/// `dry_run`: they are not served any more, and the next push of the same content mends them.
pub async fn scrub(registry: &Arc<Registry>, dry_run: bool) -> yare_errdefs::Result<Scrubbed> {
    run(registry, dry_run).await.map_err(|error| match error {
        crate::problem::Error::Failed(error) => error,
        crate::problem::Error::Refused(refusal) => yare_errdefs::Error::internal(refusal.message),
    })
}

async fn run(registry: &Arc<Registry>, dry_run: bool) -> Result<Scrubbed> {
    let scrubbed = match &registry.blobs {
        Blobs::Files(store) => read_files(registry, store, dry_run).await?,
        Blobs::Bucket(bucket) => read_objects(registry, bucket, dry_run).await?,
    };
    for damage in &scrubbed.damaged {
        tracing::error!(digest = %damage.digest, repositories = ?damage.repositories, "{}", damage.what);
    }
    Ok(scrubbed)
}

async fn read_files(registry: &Arc<Registry>, store: &Arc<Store>, dry_run: bool) -> Result<Scrubbed> {
    let (done, answer) = tokio::sync::oneshot::channel();
    // A thread of its own: its priority stays low, which a thread of the pool must not have.
    let (reader, store) = (Arc::clone(registry), Arc::clone(store));
    let files = Arc::clone(&store);
    let spawned = std::thread::Builder::new().name("scrub".into()).spawn(move || {
        if let Err(error) = yare_sys::fs::become_idle() {
            tracing::debug!(%error, "scrubbing at normal priority");
        }
        let _ = done.send(read_all(&reader, &files));
    });
    spawned.map_err(yare_errdefs::Error::from)?;
    let ended = |_| yare_errdefs::Error::internal("scrubbing ended by a fault");
    let (mut scrubbed, rotten) = answer.await.map_err(ended)??;
    scrubbed.dry_run = dry_run;
    if !dry_run {
        let folder = registry.root().join("damaged");
        let change = move |writing: &Writing| {
            for (digest, read) in &rotten {
                // A push may have mended it since it was read; then it is another file.
                if identity(&store, digest) == *read {
                    store.take_out(digest, &folder.join(digest.hex()))?;
                    writing.renamed.set(true);
                }
            }
            Ok(())
        };
        registry.records.write(change).await?;
    }
    Ok(scrubbed)
}

/// Reads the objects of a bucket. One that is rotten is forgotten, so that the next push mends the blob; the
/// object itself is left for the next collection.
async fn read_objects(registry: &Arc<Registry>, bucket: &Bucket, dry_run: bool) -> Result<Scrubbed> {
    registry.records.catch_up().await?;
    let mut scrubbed = Scrubbed { dry_run, ..Scrubbed::default() };
    let blobs = hashes(&registry.records.view()?.open_table(BLOBS)?)?;
    for digest in blobs {
        let object = Blobs::object(&registry.records.view()?, &digest)?;
        let read = match &object {
            Some(object) => bucket.hash(object).await?,
            None => None,
        };
        scrubbed.blobs += 1;
        let what = match read {
            Some((actual, size)) if actual == digest => {
                scrubbed.bytes += size;
                continue;
            }
            Some(_) => "the blob's bytes do not hash to its name",
            None => "the blob's object is missing",
        };
        let view = registry.records.view()?;
        // It may have been collected, or mended, meanwhile.
        let is_current = view.open_table(BLOBS)?.get(digest.as_bytes())?.is_some()
            && Blobs::object(&view, &digest)? == object;
        if is_current {
            let repositories = crate::links::holders(&view, &digest, usize::MAX)?;
            scrubbed.damaged.push(Damage { digest, what: what.to_owned(), repositories });
            drop(view);
            if let (Some(object), false) = (object, dry_run) {
                registry.miss_object(digest, object).await?;
            }
        }
    }
    read_documents(registry, &mut scrubbed)?;
    Ok(scrubbed)
}

/// A rotten file: its digest by name, and which file it was.
type Rotten = (Digest, Option<(u64, u64)>);

/// Which file a blob is: a blob that is placed again is another one.
fn identity(store: &yare_content::Store, digest: &Digest) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = store.open_blob(digest).ok()?.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn read_all(registry: &Registry, store: &Store) -> Result<(Scrubbed, Vec<Rotten>)> {
    let mut scrubbed = Scrubbed::default();
    let mut rotten = Vec::new();
    // Digests first: a view that is held for hours would keep the database from reusing its pages.
    let blobs = hashes(&registry.records.view()?.open_table(BLOBS)?)?;
    for digest in blobs {
        let file = identity(store, &digest);
        let what = match store.verify(&digest) {
            Ok(()) => {
                scrubbed.bytes += store.size(&digest).unwrap_or(0);
                scrubbed.blobs += 1;
                continue;
            }
            Err(yare_content::Error::NotFound(_)) => "the blob's file is missing",
            Err(yare_content::Error::Damaged(_)) => {
                rotten.push((digest, file));
                "the blob's bytes do not hash to its name"
            }
            Err(_) => "the blob's file cannot be read",
        };
        scrubbed.blobs += 1;
        let view = registry.records.view()?;
        // It may have been collected meanwhile.
        if view.open_table(BLOBS)?.get(digest.as_bytes())?.is_some() {
            let repositories = crate::links::holders(&view, &digest, usize::MAX)?;
            scrubbed.damaged.push(Damage { digest, what: what.to_owned(), repositories });
        }
    }
    read_documents(registry, &mut scrubbed)?;
    Ok((scrubbed, rotten))
}

fn read_documents(registry: &Registry, scrubbed: &mut Scrubbed) -> Result<()> {
    let documents = hashes(&registry.records.view()?.open_table(DOCUMENTS)?)?;
    for digest in documents {
        let view = registry.records.view()?;
        let table = view.open_table(DOCUMENTS)?;
        let Some(bytes) = table.get(digest.as_bytes())? else { continue };
        scrubbed.manifests += 1;
        if Digest::of(bytes.value()) != digest {
            let what = "the manifest's bytes do not hash to its name";
            scrubbed.damaged.push(Damage { digest, what: what.to_owned(), repositories: Vec::new() });
        }
    }
    Ok(())
}

fn hashes<V: redb::Value + 'static>(
    table: &redb::ReadOnlyTable<crate::records::Hash<'static>, V>,
) -> Result<Vec<Digest>> {
    let rows = table.range::<&[u8; 32]>(..)?;
    rows.map(|row| Ok(Digest::from_bytes(*row?.0.value()))).collect()
}
