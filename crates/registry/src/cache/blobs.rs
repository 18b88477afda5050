//! Blobs of an upstream: fetched once, written and sent on as they come.
//!
//! Where blobs are files, what comes is written to the one that will be the blob. Where they are in a bucket it
//! is written to a file without a name, from which clients read, and so does whoever puts it into the bucket: as
//! parts that are no object before the last byte was given out, and so not before it was found to be right. A
//! bucket that is slow, or does not take it, keeps no client waiting.

use super::Upstream;
use super::counts::Counts;
use crate::clock::now;
use crate::links;
use crate::manifests;
use crate::problem::{Code, Refusal, Result, file_error};
use crate::registry::{Registry, fault};
use crate::uploads::{FileWriter, Spool, Uploads, Writer};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use yare_distribution::{Blob, BlobStream};
use yare_oci::ContentDigest;

/// Bytes that are gathered before they are written.
const BATCH: usize = 512 << 10;

/// A blob that is on its way in.
#[derive(Debug)]
pub(crate) struct Fetch {
    file: File,
    /// How many bytes it will have.
    pub(crate) size: u64,
    /// How many of them clients may have. The last one only when all of them are right.
    ready: watch::Receiver<u64>,
    /// Why it ended early.
    failure: OnceLock<Refusal>,
}

impl Fetch {
    /// Waits for the first bytes: until then a client can still be told that there are none.
    async fn begun(self: Arc<Self>) -> Result<Arc<Self>> {
        let begun = self.size == 0 || self.ready.clone().wait_for(|ready| *ready > 0).await.is_ok();
        if begun {
            return Ok(self);
        }
        let failure = self.failure.get().cloned();
        Err(failure.unwrap_or_else(|| Refusal::new(Code::Unknown, "a fetch ended without a reason")).into())
    }

    /// The next bytes from `start`, up to `end`; waits for them.
    pub(crate) async fn read(self: Arc<Self>, start: u64, end: u64) -> io::Result<Bytes> {
        let mut ready = self.ready.clone();
        // The sender goes without a word when the fetch failed: the client's connection is cut then.
        let there = ready.wait_for(|ready| *ready > start).await.map(|there| *there);
        let there = there.map_err(|_| io::Error::other("the upstream did not deliver the rest"))?;
        let end = end.min(there);
        let read = move || {
            let mut piece = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
            self.file.read_exact_at(&mut piece, start)?;
            Ok(piece.into())
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other).flatten()
    }
}

/// The bytes of a blob that is not here.
pub(crate) async fn size(
    registry: &Registry,
    upstream: &Upstream,
    name: &str,
    digest: &ContentDigest,
) -> Result<u64> {
    // Whoever lists it has it; else the upstream knows.
    if let Some(size) = manifests::size_of_part(&registry.records.view()?, name, digest)? {
        return Ok(size);
    }
    let repository = upstream.repository(name).await?;
    let answer = repository.blob_size(*digest).await;
    upstream.note(&answer);
    let size = answer.map_err(|error| upstream.refusal(&error, || links::unknown(digest)))?;
    size.ok_or_else(|| links::unknown(digest).into())
}

/// Begins to fetch a blob, or joins whoever does, and waits for its first bytes. `None` when it is here by
/// now.
pub(crate) async fn fetch(
    registry: &Arc<Registry>,
    upstream: &Arc<Upstream>,
    name: &str,
    digest: &ContentDigest,
) -> Result<Option<Arc<Fetch>>> {
    match begin(registry, upstream, name, digest).await? {
        Some(fetch) => fetch.begun().await.map(Some),
        None => Ok(None),
    }
}

async fn begin(
    registry: &Arc<Registry>,
    upstream: &Arc<Upstream>,
    name: &str,
    digest: &ContentDigest,
) -> Result<Option<Arc<Fetch>>> {
    let key = (name.to_owned(), *digest);
    let _turn = upstream.asking.wait((name.to_owned(), digest.to_string())).await;
    if let Some(running) = upstream.running.lock().get(&key) {
        return Ok(Some(Arc::clone(running)));
    }
    // Another process may have stored it a moment ago.
    registry.records.catch_up().await?;
    if let Some(known) = registry.known(digest).await?
        && registry.open_blob(name, &known).is_ok()
    {
        return Ok(None);
    }
    let Ok(permit) = Arc::clone(&upstream.fetching).try_acquire_owned() else {
        let message = format!("{} blobs are being fetched; try again later", upstream.proxy.fetches);
        return Err(Refusal::new(Code::TooManyRequests, message)
            .with_header(http::header::RETRY_AFTER, "5")
            .into());
    };
    let size = size(registry, upstream, name, digest).await?;
    let limit = registry.config.limits.blob;
    if size > limit {
        let message = format!("the blob has {size} bytes; this registry takes {limit}");
        return Err(Refusal::new(Code::SizeInvalid, message).into());
    }
    let stream = upstream.repository(name).await?.blob_called(Blob { name: *digest, size });
    let stream = stream.map_err(|error| upstream.refusal(&error, || links::unknown(digest)))?;
    let (sink, storing) = open(registry, name).await?;
    let (ready, told) = watch::channel(0);
    let fetch = Arc::new(Fetch { file: sink.reader()?, size, ready: told, failure: OnceLock::new() });
    Counts::one(&upstream.counts.blobs);
    upstream.running.lock().insert(key.clone(), Arc::clone(&fetch));
    let running = Running { upstream: Arc::clone(upstream), key, _permit: permit };
    // Its own task: it goes on when the client that asked first has left.
    let transfer = Transfer { running, fetch: Arc::clone(&fetch), stream, ready };
    tokio::spawn(run(Arc::clone(registry), transfer, sink, storing));
    Ok(Some(fetch))
}

/// Where what comes is written, and where it is stored if that is elsewhere.
async fn open(registry: &Registry, name: &str) -> Result<(Sink, Option<Writer>)> {
    match &registry.uploads {
        Uploads::Files(_) => Ok((Sink::Upload(registry.uploads.start_file(name, now()).await?), None)),
        Uploads::Bucket(uploads) => {
            let writer = Writer::Bucket(Box::new(uploads.start_here(name, now())?));
            let folder = registry.root().join("trash");
            Ok((Sink::Spool(Spool::new(&folder, registry.config.limits.reserve)?), Some(writer)))
        }
    }
}

/// What is written to while it is read from.
enum Sink {
    /// What will be the blob.
    Upload(FileWriter),
    /// What is only read from.
    Spool(Spool),
}

impl Sink {
    fn reader(&self) -> Result<File> {
        match self {
            Self::Upload(writer) => {
                File::open(writer.path()).map_err(|error| file_error("open", writer.path(), error))
            }
            Self::Spool(spool) => spool.reader(),
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Upload(writer) => writer.size(),
            Self::Spool(spool) => spool.size(),
        }
    }

    /// Adds bytes. Blocks.
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Upload(writer) => writer.append(bytes),
            Self::Spool(spool) => spool.append(bytes),
        }
    }
}

/// A fetch in the list of those that run, until it is dropped.
struct Running {
    upstream: Arc<Upstream>,
    key: (String, ContentDigest),
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.upstream.running.lock().remove(&self.key);
    }
}

/// What a fetch works with.
struct Transfer {
    running: Running,
    fetch: Arc<Fetch>,
    stream: BlobStream,
    ready: watch::Sender<u64>,
}

/// Fetches, verifies, stores.
async fn run(registry: Arc<Registry>, mut transfer: Transfer, sink: Sink, storing: Option<Writer>) {
    let (name, digest) = transfer.running.key.clone();
    let storing = storing.map(|writer| {
        let (registry, fetch) = (Arc::clone(&registry), Arc::clone(&transfer.fetch));
        tokio::spawn(store(registry, fetch, writer, (name.clone(), digest)))
    });
    let (sink, received) = receive(&mut transfer, sink).await;
    let Transfer { running, fetch, ready, .. } = transfer;
    let stored = match received {
        Ok(()) => {
            // It is right: clients get the rest, whether or not it can be kept.
            ready.send_replace(fetch.size);
            let stored = match (sink, storing) {
                (Some(Sink::Upload(writer)), _) => {
                    registry.finish(Writer::File(writer), (&name, digest), None).await
                }
                (_, Some(storing)) => storing.await.map_err(fault).flatten(),
                _ => Ok(()),
            };
            // Until here whoever asked for it shared this transfer.
            drop(running);
            stored
        }
        Err(error) => {
            if let Some(Sink::Upload(writer)) = sink {
                registry.uploads.discard(Writer::File(writer)).await;
            }
            let _ = fetch.failure.set(error.refusal());
            // Who asks now begins anew; who waits for more, or stores what comes, learns that there is none.
            drop(running);
            drop(ready);
            Err(error)
        }
    };
    if let Err(error) = stored {
        let error = yare_errdefs::chain(&error);
        tracing::warn!(name, %digest, error, "a blob of an upstream is not kept");
    }
}

/// Stores a blob elsewhere while it comes, as far as it is right.
async fn store(
    registry: Arc<Registry>,
    fetch: Arc<Fetch>,
    mut writer: Writer,
    (name, digest): (String, ContentDigest),
) -> Result<()> {
    while writer.size() < fetch.size {
        let (start, batch) = (writer.size(), BATCH as u64);
        let Ok(bytes) = Arc::clone(&fetch).read(start, fetch.size.min(start + batch)).await else {
            // Why, whoever fetches says.
            registry.uploads.discard(writer).await;
            return Ok(());
        };
        let (back, appended) = writer.append(vec![bytes]).await;
        let Some(back) = back else { return appended };
        writer = back;
        if let Err(error) = appended {
            registry.uploads.discard(writer).await;
            return Err(error);
        }
    }
    registry.finish(writer, (&name, digest), None).await
}

/// Writes what comes. Memory is bounded by one batch: a slow disk slows the upstream.
async fn receive(transfer: &mut Transfer, mut sink: Sink) -> (Option<Sink>, Result<()>) {
    loop {
        let (batch, end) = transfer.batch().await;
        let written = tokio::task::spawn_blocking(move || {
            let written = batch.iter().try_for_each(|bytes| sink.append(bytes));
            (sink, written)
        });
        let (back, written) = match written.await {
            Ok(back) => back,
            Err(error) => return (None, Err(fault(error))),
        };
        if let Some(end) = end.or_else(|| written.as_ref().is_err().then_some(Ok(()))) {
            return (Some(back), written.and(end));
        }
        sink = back;
        transfer.ready.send_replace(sink.size().saturating_sub(1));
    }
}

impl Transfer {
    /// Gathers bytes until they are enough, or until the end, which may be an error.
    async fn batch(&mut self) -> (Vec<Bytes>, Option<Result<()>>) {
        let (mut batch, mut size) = (Vec::new(), 0);
        while size < BATCH {
            match self.stream.chunk().await {
                Ok(Some(bytes)) => {
                    size += bytes.len();
                    let counts = &self.running.upstream.counts;
                    counts.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    batch.push(bytes);
                }
                Ok(None) => return (batch, Some(Ok(()))),
                Err(error) => {
                    let (upstream, (_, digest)) = (&self.running.upstream, &self.running.key);
                    return (batch, Some(Err(upstream.refusal(&error, || links::unknown(digest)))));
                }
            }
        }
        (batch, None)
    }
}
