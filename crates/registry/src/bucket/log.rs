//! The log of the records, and its checkpoints.
//!
//! # Format, version 1
//!
//! ```text
//! entry        "YARELOG1"  16 random bytes   changes  SHA-256 of all before
//! checkpoint   "YARECKP1"  number (u64, little endian)  digest of that entry (32 bytes)
//!              changes  0xff  SHA-256 of all before
//! ```
//!
//! Changes are as `records::tables` has them; those of a checkpoint only set. The random bytes tell an entry
//! of this process from one that says the same.

use super::{Bucket, Key};
use crate::problem::{Error, Result};
use crate::records::{Change, Malformed};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{GetOptions, MultipartUpload, ObjectStoreExt, PutPayload};
use std::time::Duration;
use yare_oci::{Digest, Hasher};

/// Bytes of a checkpoint that are sent at once.
pub(crate) const PIECE: usize = 8 << 20;
/// How long entries that a checkpoint has, and older checkpoints, are kept for those who lag behind.
const KEPT: u64 = 24 * 3600;
/// How often a put whose outcome is not known is tried again.
const TRIES: u32 = 5;

const ENTRY: &[u8; 8] = b"YARELOG1";
const CHECKPOINT: &[u8; 8] = b"YARECKP1";
/// What follows the changes of a checkpoint: no table has this number.
const END: u8 = 0xff;
const NONCE: usize = 16;
const SUM: usize = 32;

/// A runtime for a thread that waits for a bucket.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| yare_errdefs::Error::from(error).into())
}

/// A commit, as it is in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry(Bytes);

impl Entry {
    /// A new one with these changes.
    pub(crate) fn new(changes: &[u8]) -> Result<Self> {
        let mut bytes = Vec::with_capacity(ENTRY.len() + NONCE + changes.len() + SUM);
        bytes.extend_from_slice(ENTRY);
        let mut nonce = [0; NONCE];
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| yare_errdefs::Error::from(std::io::Error::from(error)))?;
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(changes);
        let sum = Digest::of(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        Ok(Self(bytes.into()))
    }

    /// Checks what was read.
    pub(crate) fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        if !bytes.starts_with(ENTRY) || bytes.len() < ENTRY.len() + NONCE + SUM {
            return Err(Malformed("an entry of the log is none"));
        }
        let (text, sum) = bytes.split_at(bytes.len() - SUM);
        if Digest::of(text).as_bytes() != sum {
            return Err(Malformed("an entry of the log does not have its sum"));
        }
        Ok(Self(bytes))
    }

    /// Its changes.
    pub(crate) fn changes(&self) -> &[u8] {
        self.0.get(ENTRY.len() + NONCE..self.0.len() - SUM).unwrap_or_default()
    }

    /// What tells it from all others.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

/// What became of an attempt to write the next entry.
#[derive(Debug)]
pub(crate) enum Appended {
    /// It is there.
    Ours,
    /// Another process was faster; this is its entry.
    Taken(Entry),
}

/// The log in a bucket.
#[derive(Debug)]
pub(crate) struct Log {
    bucket: Bucket,
}

fn entry_name(number: u64) -> String {
    format!("log/{number:020}")
}

fn checkpoint_name(number: u64) -> String {
    format!("checkpoints/{number:020}")
}

fn number_of(key: &Key) -> Option<u64> {
    key.filename().filter(|name| name.len() == 20)?.parse().ok()
}

fn damaged(what: &str, why: Malformed) -> Error {
    yare_errdefs::Error::internal(format!("{what} is damaged: {why}")).into()
}

impl Log {
    /// The log of `bucket`.
    pub(crate) fn new(bucket: Bucket) -> Self {
        Self { bucket }
    }

    /// Puts the entry with this number, unless there is one.
    pub(crate) async fn append(&self, number: u64, entry: &Entry) -> Result<Appended> {
        let name = entry_name(number);
        let mut tried = 0;
        loop {
            let put = self.bucket.create(&name, PutPayload::from(entry.0.clone())).await;
            if matches!(put, Ok(true)) {
                return Ok(Appended::Ours);
            }
            // An answer that got lost may have been a success: what is there tells.
            match self.read(number).await {
                Ok(Some(there)) if there == *entry => return Ok(Appended::Ours),
                Ok(Some(there)) => return Ok(Appended::Taken(there)),
                Ok(None) | Err(_) if tried < TRIES => {
                    tried += 1;
                    tokio::time::sleep(Duration::from_millis(100 << tried)).await;
                }
                Err(error) => return Err(error),
                Ok(None) => {
                    return Err(match put {
                        Err(error) => self.bucket.failed("put", &name, error),
                        Ok(_) => yare_errdefs::Error::unavailable(format!("{name} is refused")).into(),
                    });
                }
            }
        }
    }

    async fn read(&self, number: u64) -> Result<Option<Entry>> {
        let name = entry_name(number);
        let bytes = self.bucket.read(&name).await?;
        bytes.map(|bytes| Entry::parse(bytes).map_err(|why| damaged(&name, why))).transpose()
    }

    /// The entries from `number` on that are there, up to `count`.
    pub(crate) async fn read_some(&self, number: u64, count: u64) -> Result<Vec<Entry>> {
        let reads = futures_util::future::join_all((number..number + count).map(|number| self.read(number)));
        let mut entries = Vec::new();
        for entry in reads.await {
            match entry? {
                Some(entry) => entries.push(entry),
                None => break,
            }
        }
        Ok(entries)
    }

    async fn list(&self, folder: &str) -> Result<Vec<(u64, u64)>> {
        let listed = self.bucket.objects.list(Some(&self.bucket.key(folder)));
        let listed = listed.map_ok(|object| {
            let modified = u64::try_from(object.last_modified.timestamp()).unwrap_or(0);
            number_of(&object.location).map(|number| (number, modified))
        });
        let listed: Vec<_> =
            listed.try_collect().await.map_err(|error| self.bucket.failed("list", folder, error))?;
        let mut found: Vec<(u64, u64)> = listed.into_iter().flatten().collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The number of the newest checkpoint.
    pub(crate) async fn newest_checkpoint(&self) -> Result<Option<u64>> {
        Ok(self.list("checkpoints").await?.last().map(|(number, _)| *number))
    }

    /// Reads a checkpoint, hands its changes on, and returns the digest of the entry that it stands for.
    pub(crate) async fn read_checkpoint(
        &self,
        number: u64,
        mut apply: impl FnMut(&Change<'_>) -> Result<()>,
    ) -> Result<Digest> {
        let name = checkpoint_name(number);
        let failed = |error| self.bucket.failed("read", &name, error);
        let got = self.bucket.objects.get_opts(&self.bucket.key(&name), GetOptions::default()).await;
        let mut stream = got.map_err(failed)?.into_stream();
        let mut reader = CheckpointReader::default();
        while let Some(bytes) = stream.next().await {
            reader.add(&bytes.map_err(failed)?, &mut apply).map_err(|fault| fault.of(&name))?;
        }
        reader.finish(number).map_err(|why| damaged(&name, why))
    }

    /// Begins a checkpoint. It is there when it is finished.
    pub(crate) async fn write_checkpoint(&self, number: u64, digest: Digest) -> Result<CheckpointWriter> {
        let name = checkpoint_name(number);
        let begun = self.bucket.objects.put_multipart(&self.bucket.key(&name)).await;
        let upload = begun.map_err(|error| self.bucket.failed("begin", &name, error))?;
        let mut head = CHECKPOINT.to_vec();
        head.extend_from_slice(&number.to_le_bytes());
        head.extend_from_slice(digest.as_bytes());
        Ok(CheckpointWriter {
            bucket: self.bucket.clone(),
            name,
            upload,
            hasher: Hasher::new(),
            waiting: head,
        })
    }

    /// Deletes what checkpoints older than a day make superfluous.
    pub(crate) async fn trim(&self, now: u64) -> Result<()> {
        let checkpoints = self.list("checkpoints").await?;
        let is_old = |time: u64| now.saturating_sub(time) > KEPT;
        let Some((base, _)) = checkpoints.iter().rev().find(|(_, time)| is_old(*time)) else { return Ok(()) };
        for (number, time) in self.list("log").await? {
            if number <= *base && is_old(time) {
                self.bucket.delete(&entry_name(number)).await?;
            }
        }
        for (number, _) in checkpoints.iter().filter(|(number, _)| number < base) {
            self.bucket.delete(&checkpoint_name(*number)).await?;
        }
        Ok(())
    }
}

/// Why a checkpoint is not read on.
enum Fault {
    Malformed(Malformed),
    Failed(Error),
}

impl Fault {
    fn of(self, name: &str) -> Error {
        match self {
            Self::Malformed(why) => damaged(name, why),
            Self::Failed(error) => error,
        }
    }
}

/// Reads a checkpoint as it comes.
#[derive(Default)]
struct CheckpointReader {
    head: Option<(u64, Digest)>,
    /// What was not understood yet.
    rest: Vec<u8>,
    hasher: Hasher,
    is_ended: bool,
}

impl CheckpointReader {
    fn add(&mut self, bytes: &[u8], apply: &mut impl FnMut(&Change<'_>) -> Result<()>) -> Result<(), Fault> {
        self.rest.extend_from_slice(bytes);
        let mut used = 0;
        loop {
            let rest = self.rest.get(used..).unwrap_or_default();
            if self.is_ended {
                break;
            }
            if self.head.is_none() {
                let Some((head, _)) = rest.split_first_chunk::<48>() else { break };
                self.head = Some(parse_head(head).map_err(Fault::Malformed)?);
                used += head.len();
            } else if rest.first() == Some(&END) {
                self.is_ended = true;
                used += 1;
            } else {
                let parsed = Change::parse(rest).map_err(Fault::Malformed)?;
                let Some((change, after)) = parsed else { break };
                apply(&change).map_err(Fault::Failed)?;
                used += rest.len() - after.len();
            }
        }
        self.hasher.update(self.rest.get(..used).unwrap_or_default());
        self.rest.drain(..used);
        Ok(())
    }

    fn finish(self, number: u64) -> Result<Digest, Malformed> {
        let Some((written, digest)) = self.head.filter(|_| self.is_ended) else {
            return Err(Malformed("it is cut off"));
        };
        if self.hasher.finish().as_bytes().as_slice() != self.rest || written != number {
            return Err(Malformed("it does not have its sum"));
        }
        Ok(digest)
    }
}

fn parse_head(head: &[u8; 48]) -> Result<(u64, Digest), Malformed> {
    let Some((magic, rest)) = head.split_first_chunk::<8>() else { return Err(Malformed("it is cut off")) };
    let Some((number, rest)) = rest.split_first_chunk::<8>() else { return Err(Malformed("it is cut off")) };
    let (true, Ok(digest)) = (magic == CHECKPOINT, <[u8; 32]>::try_from(rest)) else {
        return Err(Malformed("it is no checkpoint"));
    };
    Ok((u64::from_le_bytes(*number), Digest::from_bytes(digest)))
}

/// A checkpoint that is being written.
pub(crate) struct CheckpointWriter {
    bucket: Bucket,
    name: String,
    upload: Box<dyn MultipartUpload>,
    hasher: Hasher,
    waiting: Vec<u8>,
}

impl CheckpointWriter {
    /// Adds changes; sends what is gathered.
    pub(crate) async fn add(&mut self, changes: Vec<u8>) -> Result<()> {
        self.waiting.extend_from_slice(&changes);
        self.hasher.update(&self.waiting);
        let piece = std::mem::take(&mut self.waiting);
        self.send(piece).await
    }

    async fn send(&mut self, piece: Vec<u8>) -> Result<()> {
        let sent = self.upload.put_part(PutPayload::from(piece)).await;
        sent.map_err(|error| self.bucket.failed("write", &self.name, error))
    }

    /// Adds the last changes and makes the checkpoint visible.
    pub(crate) async fn finish(mut self, changes: Vec<u8>) -> Result<()> {
        let mut last = std::mem::take(&mut self.waiting);
        last.extend_from_slice(&changes);
        last.push(END);
        self.hasher.update(&last);
        last.extend_from_slice(self.hasher.clone().finish().as_bytes());
        self.send(last).await?;
        let done = self.upload.complete().await;
        done.map(drop).map_err(|error| self.bucket.failed("finish", &self.name, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_not_whole_is_refused() {
        let entry = Entry::new(b"changes").unwrap();
        assert_eq!(entry.changes(), b"changes");
        assert_ne!(entry, Entry::new(b"changes").unwrap(), "no two are alike");
        assert_eq!(Entry::parse(entry.0.clone()).unwrap(), entry);
        for cut in 0..entry.0.len() {
            assert!(Entry::parse(entry.0.slice(..cut)).is_err(), "{cut}");
        }
        let mut wrong = entry.0.to_vec();
        wrong[30] ^= 1;
        assert!(Entry::parse(wrong.into()).is_err());
    }

    fn read(bytes: &[u8], step: usize) -> Result<(usize, Digest), Malformed> {
        let (mut reader, mut count) = (CheckpointReader::default(), 0);
        for piece in bytes.chunks(step) {
            let read = reader.add(piece, &mut |_| {
                count += 1;
                Ok(())
            });
            if let Err(Fault::Malformed(why)) = read {
                return Err(why);
            }
        }
        reader.finish(7).map(|digest| (count, digest))
    }

    #[test]
    fn a_checkpoint_is_read_in_any_pieces_and_only_whole() {
        let digest = Digest::of("entry");
        let mut bytes = CHECKPOINT.to_vec();
        bytes.extend_from_slice(&7_u64.to_le_bytes());
        bytes.extend_from_slice(digest.as_bytes());
        for key in [b"a", b"b"] {
            bytes.extend_from_slice(&[0, 1, 0, 0, 0, key[0], 2, 0, 0, 0, b'{', b'}']);
        }
        bytes.push(END);
        let sum = Digest::of(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        for step in [1, 7, 48, 49, 1000] {
            assert_eq!(read(&bytes, step), Ok((2, digest)), "{step}");
        }
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut], 1000).is_err(), "{cut}");
        }
        let mut wrong = bytes.clone();
        wrong[70] ^= 1;
        assert!(read(&wrong, 10).is_err());
    }
}
