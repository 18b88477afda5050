//! Uploads in a bucket, which every process may go on with.
//!
//! # Format, version 1
//!
//! `uploads/<id>` is a line of JSON, a [`State`], and after it the bytes that are too few for a part of their
//! own. Parts of [`PART`] bytes or more are sent as they fill up; they belong to a multipart upload of a new
//! object below `blobs/`, which becomes visible when the upload is finished. The state goes with every answer
//! that tells a client how far the upload is, and now and then in between.
//!
//! A state is put on condition that it is the one that was read: of two requests that write to one upload,
//! wherever they are served, one is told that another one went on. What the slower one sent as parts does no
//! harm: a part counts by the tag that the store gave for its bytes.

use super::Bucket;
use crate::problem::{Code, Refusal, Result};
use crate::uploads::{Limits, is_id, mismatch, random_id, unknown};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use object_store::multipart::PartId;
use object_store::{GetOptions, MultipartId, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use yare_oci::{ContentDigest, Digest, Hasher};

/// Bytes of a part. Stores want 5 MiB at least.
const PART: usize = 8 << 20;
/// Parts that a store takes; one less, to be on the safe side of how they are counted.
const PARTS: u64 = 9_999;
/// Parts after which the state is put, so that a killed process costs the client little.
const NOTE: usize = 8;

/// What there is of an upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    repository: String,
    started: u64,
    /// Bytes so far.
    size: u64,
    /// The hasher's state after them, in hex.
    hash: String,
    /// The object that the parts belong to, once there is one.
    #[serde(default)]
    target: Option<Target>,
    /// What the store said about each part.
    #[serde(default)]
    parts: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Target {
    /// Its name below `blobs/`.
    object: String,
    multipart: MultipartId,
}

impl State {
    /// One without bytes.
    fn new(repository: &str, started: u64) -> Self {
        let hash = hex(&Hasher::new().state());
        Self { repository: repository.to_owned(), started, size: 0, hash, target: None, parts: Vec::new() }
    }
}

/// A state that was read, and what is needed to put the next one.
#[derive(Debug)]
struct Saved {
    state: State,
    tail: Bytes,
    /// `None` where no state was put yet.
    version: Option<UpdateVersion>,
}

/// All uploads in a bucket.
#[derive(Debug)]
pub(crate) struct Uploads {
    bucket: Bucket,
    limits: Limits,
    /// One for each upload that is being written to: each takes memory for two parts.
    places: Arc<Semaphore>,
}

/// An upload, as a request found it.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Its id.
    pub(crate) id: String,
    offset: AtomicU64,
    saved: Mutex<Option<Saved>>,
}

impl Upload {
    fn new(id: String, saved: Saved) -> Self {
        Self { id, offset: AtomicU64::new(saved.state.size), saved: Mutex::new(Some(saved)) }
    }

    /// How many bytes there are.
    pub(crate) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }
}

fn name_of(id: &str) -> String {
    format!("uploads/{id}")
}

fn put_payload(state: &State, tail: &Bytes) -> Result<PutPayload> {
    let mut head = serde_json::to_vec(state)?;
    head.push(b'\n');
    Ok(PutPayload::from_iter([Bytes::from(head), tail.clone()]))
}

/// Reads a state and the bytes after it.
fn parse(bytes: &Bytes) -> Option<(State, Bytes)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let state = serde_json::from_slice(bytes.get(..end)?).ok()?;
    Some((state, bytes.slice(end + 1..)))
}

fn hasher_of(state: &State) -> Option<Hasher> {
    Hasher::from_state(&unhex(&state.hash)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

impl Uploads {
    /// Uploads in `bucket`.
    pub(crate) fn new(bucket: Bucket, limits: Limits) -> Self {
        let places = Arc::new(Semaphore::new(limits.uploads.min(Semaphore::MAX_PERMITS)));
        Self { bucket, limits, places }
    }

    /// Begins an upload.
    pub(crate) async fn start(&self, repository: &str, now: u64) -> Result<Arc<Upload>> {
        let (id, state) = (random_id()?, State::new(repository, now));
        let (name, tail) = (name_of(&id), Bytes::new());
        let payload = put_payload(&state, &tail)?;
        let put =
            self.bucket.objects.put_opts(&self.bucket.key(&name), payload, PutMode::Create.into()).await;
        let put = put.map_err(|error| self.bucket.failed("note", &name, error))?;
        Ok(Arc::new(Upload::new(id, Saved { state, tail, version: Some(put.into()) })))
    }

    /// Begins an upload that nobody goes on with when this process ends. The bucket learns of it with its first
    /// part: what is smaller is put at once.
    pub(crate) fn start_here(&self, repository: &str, now: u64) -> Result<Writer> {
        let saved = Saved { state: State::new(repository, now), tail: Bytes::new(), version: None };
        self.writer(&Arc::new(Upload::new(random_id()?, saved)))
    }

    /// Finds an upload of the repository.
    pub(crate) async fn find(&self, repository: &str, id: &str) -> Result<Arc<Upload>> {
        if !is_id(id) {
            return Err(unknown(id).into());
        }
        match self.load(id).await? {
            Some(saved) if saved.state.repository == repository => {
                Ok(Arc::new(Upload::new(id.to_owned(), saved)))
            }
            _ => Err(unknown(id).into()),
        }
    }

    async fn load(&self, id: &str) -> Result<Option<Saved>> {
        let name = name_of(id);
        let got = self.bucket.objects.get_opts(&self.bucket.key(&name), GetOptions::default()).await;
        let got = match got {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.bucket.failed("read", &name, error)),
        };
        let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
        let bytes = got.bytes().await.map_err(|error| self.bucket.failed("read", &name, error))?;
        let Some((state, tail)) = parse(&bytes) else {
            tracing::warn!(name, "an upload is not understood");
            return Ok(None);
        };
        Ok(Some(Saved { state, tail, version: Some(version) }))
    }

    /// Takes the right to write, which the next state has to confirm.
    pub(crate) fn writer(&self, upload: &Arc<Upload>) -> Result<Writer> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| self.limits.too_many())?;
        let saved = upload.saved.lock().take().ok_or_else(|| unknown(&upload.id))?;
        let hasher = hasher_of(&saved.state).ok_or_else(|| unknown(&upload.id))?;
        let mut tail = BytesMut::with_capacity(saved.tail.len());
        tail.extend_from_slice(&saved.tail);
        // So large that the largest blob does not have too many.
        let part = usize::try_from(self.limits.blob.div_ceil(PARTS)).unwrap_or(usize::MAX).max(PART);
        Ok(Writer {
            bucket: self.bucket.clone(),
            limits: self.limits.clone(),
            upload: Arc::clone(upload),
            state: saved.state,
            version: saved.version,
            hasher,
            tail,
            part,
            sending: None,
            noted: 0,
            _place: place,
        })
    }

    /// Forgets an upload and removes what is left of it.
    pub(crate) async fn discard(&self, writer: Writer) {
        let (id, target) = (writer.upload.id.clone(), writer.state.target.clone());
        let is_known = writer.version.is_some() || target.is_some();
        // Dropped first: a part that is being sent must not come after the end.
        drop(writer);
        if is_known {
            self.remove(&id, target).await;
        }
    }

    async fn remove(&self, id: &str, target: Option<Target>) {
        let deleted = self.bucket.delete(&name_of(id)).await;
        if let Err(error) = deleted {
            let error = yare_errdefs::chain(&error);
            tracing::warn!(id, error, "an old upload stays until it is swept");
            return;
        }
        let Some(target) = target else { return };
        let key = self.bucket.key(&super::blobs::name_of(&target.object));
        // One that was completed is none any more.
        match self.bucket.multipart.abort_multipart(&key, &target.multipart).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => tracing::debug!(id, %error, "the parts of an upload are left to the store"),
        }
    }

    /// How many uploads this process writes to.
    pub(crate) fn count(&self) -> usize {
        self.limits.uploads.saturating_sub(self.places.available_permits())
    }

    /// Removes what nobody wrote to for `age`.
    pub(crate) async fn sweep(&self, age: Duration, dry_run: bool) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        let now = crate::clock::now();
        let listed = self.bucket.objects.list(Some(&self.bucket.key("uploads")));
        let listed: Vec<_> =
            listed.try_collect().await.map_err(|error| self.bucket.failed("list", "uploads", error))?;
        for object in listed {
            let modified = u64::try_from(object.last_modified.timestamp()).unwrap_or(0);
            let Some(id) = object.location.filename().filter(|name| is_id(name)) else { continue };
            if now.saturating_sub(modified) < age.as_secs() {
                continue;
            }
            let Some(saved) = self.load(id).await? else { continue };
            count += 1;
            bytes += saved.state.size;
            if !dry_run {
                self.remove(id, saved.state.target).await;
            }
        }
        Ok((count, bytes))
    }
}

/// The right to write to an upload.
pub(crate) struct Writer {
    bucket: Bucket,
    limits: Limits,
    upload: Arc<Upload>,
    /// Without what is in `tail` and on its way: those are added when it is put.
    state: State,
    version: Option<UpdateVersion>,
    hasher: Hasher,
    tail: BytesMut,
    part: usize,
    sending: Option<JoinHandle<object_store::Result<PartId>>>,
    /// Parts that the state had when it was put last.
    noted: usize,
    _place: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("upload", &self.upload.id).finish_non_exhaustive()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(sending) = &self.sending {
            sending.abort();
        }
    }
}

impl Writer {
    /// How many bytes there are.
    pub(crate) fn size(&self) -> u64 {
        self.state.size
    }

    fn name(&self) -> String {
        name_of(&self.upload.id)
    }

    /// Adds bytes. One part is sent while the next one fills up.
    pub(crate) async fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let size = self.state.size.saturating_add(bytes.len() as u64);
        self.limits.check(size)?;
        self.hasher.update(bytes);
        self.tail.extend_from_slice(bytes);
        self.state.size = size;
        self.upload.offset.store(size, Ordering::Release);
        while self.tail.len() >= self.part {
            let part = self.tail.split_to(self.part).freeze();
            self.send(part).await?;
        }
        Ok(())
    }

    /// Sends a part, after the one before it.
    async fn send(&mut self, part: Bytes) -> Result<()> {
        self.sent().await?;
        if self.state.parts.len() >= self.noted + NOTE {
            self.put(part.clone()).await?;
        }
        let target = match &self.state.target {
            Some(target) => target.clone(),
            None => self.begin(part.clone()).await?,
        };
        let (bucket, index) = (self.bucket.clone(), self.state.parts.len());
        self.sending = Some(tokio::spawn(async move {
            let key = bucket.key(&super::blobs::name_of(&target.object));
            bucket.multipart.put_part(&key, &target.multipart, index, part.into()).await
        }));
        Ok(())
    }

    /// Begins the object; noted before the first part, so that it is never forgotten.
    async fn begin(&mut self, waiting: Bytes) -> Result<Target> {
        let object = random_id()?;
        let name = super::blobs::name_of(&object);
        let begun = self.bucket.multipart.create_multipart(&self.bucket.key(&name)).await;
        let multipart = begun.map_err(|error| self.bucket.failed("begin", &name, error))?;
        let target = Target { object, multipart };
        self.state.target = Some(target.clone());
        self.put(waiting).await?;
        Ok(target)
    }

    /// Waits for the part that is being sent.
    async fn sent(&mut self) -> Result<()> {
        let Some(sending) = self.sending.take() else { return Ok(()) };
        let sent = sending.await.map_err(crate::registry::fault)?;
        let part = sent.map_err(|error| self.bucket.failed("add to", &self.name(), error))?;
        self.state.parts.push(part.content_id);
        Ok(())
    }

    /// Puts the state as of now. `waiting` was taken from the tail and is not sent yet.
    async fn put(&mut self, waiting: Bytes) -> Result<()> {
        let mut tail = BytesMut::with_capacity(waiting.len() + self.tail.len());
        tail.extend_from_slice(&waiting);
        tail.extend_from_slice(&self.tail);
        self.state.hash = hex(&self.hasher.state());
        let (name, payload) = (self.name(), put_payload(&self.state, &tail.freeze())?);
        let options = PutOptions::from(self.version.clone().map_or(PutMode::Create, PutMode::Update));
        match self.bucket.objects.put_opts(&self.bucket.key(&name), payload, options).await {
            Ok(put) => self.version = Some(put.into()),
            Err(
                object_store::Error::Precondition { .. }
                | object_store::Error::NotFound { .. }
                | object_store::Error::AlreadyExists { .. },
            ) => return Err(overtaken().into()),
            Err(error) => return Err(self.bucket.failed("note", &name, error)),
        }
        self.noted = self.state.parts.len();
        Ok(())
    }

    /// Puts the state, so that every process can go on.
    pub(crate) async fn save(&mut self) -> Result<()> {
        self.sent().await?;
        self.put(Bytes::new()).await
    }

    /// Checks the digest and makes the bytes an object below `blobs/`. Returns its name, and the digest that the
    /// records know it by.
    pub(crate) async fn finish(&mut self, expected: &ContentDigest) -> Result<(String, Digest)> {
        let digest = self.hasher.clone().finish();
        match expected {
            ContentDigest::Sha256(_) => {
                check(expected, &digest.into())?;
                Ok((self.make(&digest).await?, digest))
            }
            ContentDigest::Sha512(_) => self.finish_as(expected, digest).await,
        }
    }

    /// The same by another algorithm than ours. Clients say so with the last request: what is in the bucket by then
    /// is read again.
    async fn finish_as(&mut self, expected: &ContentDigest, digest: Digest) -> Result<(String, Digest)> {
        if self.state.target.is_none() {
            check(expected, &expected.same_of(&self.tail))?;
            return Ok((self.make(&digest).await?, digest));
        }
        let object = self.make(&digest).await?;
        let read = self.bucket.hash(&object, expected.hasher()).await?;
        let (actual, _) = read.ok_or_else(|| unknown(&self.upload.id))?;
        if actual != *expected {
            self.bucket.delete_blob(&object).await?;
        }
        check(expected, &actual).map(|()| (object, digest))
    }

    /// Makes the bytes an object.
    async fn make(&mut self, digest: &Digest) -> Result<String> {
        let Some(target) = self.state.target.clone() else { return self.put_whole().await };
        match self.complete(&target).await {
            Ok(()) => Ok(target.object),
            // A process that was killed may have completed it, without a record of it.
            Err(error) => match self.bucket.hash(&target.object, Hasher::new().into()).await? {
                Some((actual, _)) if actual == *digest => Ok(target.object),
                _ => Err(error),
            },
        }
    }

    async fn put_whole(&mut self) -> Result<String> {
        let object = random_id()?;
        let name = super::blobs::name_of(&object);
        let put = self.bucket.objects.put(&self.bucket.key(&name), self.tail.clone().freeze().into()).await;
        put.map_err(|error| self.bucket.failed("put", &name, error))?;
        Ok(object)
    }

    async fn complete(&mut self, target: &Target) -> Result<()> {
        self.sent().await?;
        if !self.tail.is_empty() {
            let last = self.tail.split().freeze();
            self.send(last).await?;
            self.sent().await?;
        }
        let parts = self.state.parts.iter().map(|tag| PartId { content_id: tag.clone() }).collect();
        let name = super::blobs::name_of(&target.object);
        let key = self.bucket.key(&name);
        let completed = self.bucket.multipart.complete_multipart(&key, &target.multipart, parts).await;
        completed.map(drop).map_err(|error| self.bucket.failed("complete", &name, error))
    }
}

fn check(expected: &ContentDigest, actual: &ContentDigest) -> Result<()> {
    if actual == expected { Ok(()) } else { Err(mismatch(expected, actual).into()) }
}

fn overtaken() -> Refusal {
    let message = "another request is writing to this upload; ask for its status and go on from there";
    Refusal::new(Code::BlobUploadInvalid, message).with_status(http::StatusCode::CONFLICT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_put() {
        let mut hasher = Hasher::new();
        hasher.update(b"abc");
        let state = State {
            repository: "a/b".into(),
            started: 5,
            size: 3,
            hash: hex(&hasher.state()),
            target: Some(Target { object: "o".into(), multipart: "m".into() }),
            parts: vec!["\"tag\"".into()],
        };
        let payload = put_payload(&state, &Bytes::from_static(b"tail\nwith lines")).unwrap();
        let bytes: Vec<u8> = payload.iter().flatten().copied().collect();
        let (read, tail) = parse(&bytes.into()).unwrap();
        assert_eq!((read.size, &read.parts), (3, &state.parts));
        assert_eq!(tail, "tail\nwith lines");
        assert_eq!(hasher_of(&state).unwrap().finish(), Digest::of("abc"));
        assert!(parse(&Bytes::from_static(b"{}")).is_none());
        assert!(unhex("0g").is_none() && unhex("é").is_none());
    }
}
