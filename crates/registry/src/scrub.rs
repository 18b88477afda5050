//! Scrubbing: every stored byte is read and hashed again, so that rot is found before a client finds it.
//!
//! `<root>/scrubbed` has the time when all was last read (decimal seconds): a schedule goes on after a restart.

use crate::blobs::Blobs;
use crate::bucket::Bucket;
use crate::clock::now;
use crate::manifests;
use crate::problem::{Code, Refusal, Result, file_error};
use crate::records::{BLOBS, DOCUMENTS, Writing};
use crate::registry::{Registry, fault};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use yare_content::Store;
use yare_oci::Digest;
use yare_sys::fs::Durability;

/// Below the root: when everything was last read.
const LAST: &str = "scrubbed";

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

/// Reads everything at idle priority. What is damaged is moved to `damaged/` below the root, unless
/// `dry_run`: it is not served any more, and the next push of the same content mends it. Refused while
/// another one runs.
pub async fn scrub(registry: &Arc<Registry>, dry_run: bool) -> yare_errdefs::Result<Scrubbed> {
    run(registry, dry_run).await.map_err(|error| match error {
        crate::problem::Error::Failed(error) => error,
        crate::problem::Error::Refused(refusal) => yare_errdefs::Error::internal(refusal.message),
    })
}

/// How long it is until the next scrub of a schedule.
pub(crate) fn due(registry: &Registry, every: Duration) -> Duration {
    let last = std::fs::read_to_string(registry.root().join(LAST)).ok();
    let last = last.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    Duration::from_secs(last.saturating_add(every.as_secs()).saturating_sub(now()).min(every.as_secs()))
}

/// As [`scrub`], with refusals.
pub(crate) async fn run(registry: &Arc<Registry>, dry_run: bool) -> Result<Scrubbed> {
    let Ok(_alone) = registry.scrubbing.try_lock() else {
        return Err(Refusal::new(Code::Denied, "a scrub is running already; wait for its end")
            .with_status(http::StatusCode::CONFLICT)
            .into());
    };
    let begun = now();
    let mut scrubbed = match &registry.blobs {
        Blobs::Files(store) => read_files(registry, store, dry_run).await?,
        Blobs::Bucket(bucket) => read_objects(registry, bucket, dry_run).await?,
    };
    let reader = Arc::clone(registry);
    let read = tokio::task::spawn_blocking(move || read_documents(&reader));
    let (manifests, damaged) = read.await.map_err(fault)??;
    if !dry_run && !damaged.is_empty() {
        withhold(registry, damaged.iter().map(|damage| damage.digest).collect()).await?;
    }
    scrubbed.manifests = manifests;
    scrubbed.damaged.extend(damaged);
    yare_sys::fs::atomic_write(registry.root(), LAST, format!("{begun}\n").as_bytes(), Durability::Relaxed)
        .map_err(|error| file_error("write", &registry.root().join(LAST), error))?;
    for damage in &scrubbed.damaged {
        tracing::error!(digest = %damage.digest, repositories = ?damage.repositories, "{}", damage.what);
    }
    Ok(scrubbed)
}

/// Ends a scrub whose registry is closed.
fn check_open(registry: &Registry) -> Result<()> {
    if registry.records.is_writing() {
        return Ok(());
    }
    Err(yare_errdefs::Error::unavailable("the registry is ending").into())
}

/// Moves damaged manifests to where damaged blobs go.
async fn withhold(registry: &Arc<Registry>, rotten: Vec<Digest>) -> Result<()> {
    let folder = registry.root().join("damaged");
    let change = move |writing: &Writing| {
        for digest in &rotten {
            let Some(bytes) = manifests::withhold(writing, digest)? else { continue };
            keep_damaged(&folder, digest, &bytes)?;
        }
        Ok(())
    };
    registry.records.write(change).await
}

fn keep_damaged(folder: &Path, digest: &Digest, bytes: &[u8]) -> Result<()> {
    let name = format!("{}.manifest", digest.hex());
    yare_sys::fs::atomic_write(folder, &name, bytes, Durability::Relaxed)
        .map_err(|error| file_error("keep the damaged manifest as", &folder.join(&name), error))
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
        check_open(registry)?;
        let object = Blobs::object(&registry.records.view()?, &digest)?;
        let read = match &object {
            Some(object) => bucket.hash(object, yare_oci::Hasher::new().into()).await?,
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
        check_open(registry)?;
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
    Ok((scrubbed, rotten))
}

/// Reads the manifests: how many there are, and those that are damaged.
fn read_documents(registry: &Registry) -> Result<(u64, Vec<Damage>)> {
    let (mut count, mut damaged) = (0, Vec::new());
    let documents = hashes(&registry.records.view()?.open_table(DOCUMENTS)?)?;
    for digest in documents {
        check_open(registry)?;
        let view = registry.records.view()?;
        let table = view.open_table(DOCUMENTS)?;
        let Some(bytes) = table.get(digest.as_bytes())? else { continue };
        count += 1;
        if Digest::of(bytes.value()) != digest {
            let what = "the manifest's bytes do not hash to its name".to_owned();
            damaged.push(Damage { digest, what, repositories: manifests::holders(&view, &digest)? });
        }
    }
    Ok((count, damaged))
}

fn hashes<V: redb::Value + 'static>(
    table: &redb::ReadOnlyTable<crate::records::Hash<'static>, V>,
) -> Result<Vec<Digest>> {
    let rows = table.range::<&[u8; 32]>(..)?;
    rows.map(|row| Ok(Digest::from_bytes(*row?.0.value()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::name::{Reference, Tag};
    use bytes::Bytes;

    const MANIFEST: &str =
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

    fn open(root: &Path) -> Arc<Registry> {
        Registry::open(Config { root: root.to_owned(), ..Config::default() }).unwrap()
    }

    #[tokio::test]
    async fn a_damaged_manifest_is_withheld_until_it_is_pushed_again() {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(folder.path());
        let reference = Reference::Tag(Tag::parse("v1").unwrap());
        let push = || {
            registry.put_manifest(
                "a",
                &reference,
                Vec::new(),
                (None, Bytes::from_static(MANIFEST.as_bytes())),
                None,
            )
        };
        let digest = push().await.unwrap().0.sha256().unwrap();
        let rot = move |writing: &Writing| {
            writing.tables.open_table(DOCUMENTS)?.insert(digest.as_bytes(), b"rotten".as_slice())?;
            Ok(())
        };
        registry.records.write(rot).await.unwrap();
        let found = scrub(&registry, true).await.unwrap();
        let what = "the manifest's bytes do not hash to its name".to_owned();
        assert_eq!(found.damaged, [Damage { digest, what, repositories: vec!["a".to_owned()] }]);
        let get = || registry.manifest("a", &reference, |_| false);
        assert!(get().is_ok(), "nothing was changed");
        assert_eq!(scrub(&registry, false).await.unwrap().damaged.len(), 1);
        assert_eq!(get().unwrap_err().refusal().code, Code::ManifestUnknown);
        let kept = folder.path().join("damaged").join(format!("{}.manifest", digest.hex()));
        assert_eq!(std::fs::read(kept).unwrap(), b"rotten");
        push().await.unwrap();
        assert_eq!(get().unwrap().1.unwrap(), MANIFEST.as_bytes());
        assert!(scrub(&registry, false).await.unwrap().damaged.is_empty());
    }

    #[tokio::test]
    async fn one_runs_at_a_time_and_a_schedule_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let day = Duration::from_secs(86_400);
        {
            let registry = open(folder.path());
            assert_eq!(due(&registry, day), Duration::ZERO, "it was never read");
            let running = registry.scrubbing.lock().await;
            let refused = run(&registry, false).await.unwrap_err().refusal();
            assert_eq!(refused.status, http::StatusCode::CONFLICT);
            drop(running);
            scrub(&registry, false).await.unwrap();
            registry.close().await;
        }
        let left = due(&open(folder.path()), day);
        assert!(left > day / 2 && left <= day, "{left:?}");
    }
}
