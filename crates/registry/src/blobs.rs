//! Where the bytes of blobs are: files, or objects of a bucket.

use crate::bucket::Bucket;
use crate::links::Finished;
use crate::problem::{Code, Refusal, Result};
use crate::records::{CONDEMNED, OBJECTS, Writing};
use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinHandle;
use yare_content::Store;
use yare_oci::Digest;

/// Bytes of a blob that are read at once.
const PIECE: u64 = 256 << 10;

/// Where the piece that begins at `start` ends, of a blob that is wanted up to `end`.
pub(crate) fn piece_end(start: u64, end: u64) -> u64 {
    end.min(start.saturating_add(PIECE))
}

/// Reads a piece on a thread where that keeps nobody waiting.
pub(crate) fn read_piece(file: Arc<File>, piece: Range<u64>) -> JoinHandle<io::Result<Bytes>> {
    tokio::task::spawn_blocking(move || {
        let length = piece.end.saturating_sub(piece.start);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, piece.start)?;
        Ok(bytes.into())
    })
}

/// The bytes of all blobs.
#[derive(Debug, Clone)]
pub(crate) enum Blobs {
    /// Below the root, by digest.
    Files(Arc<Store>),
    /// In a bucket, under names that the records know.
    Bucket(Bucket),
}

/// The bytes of an upload that is complete.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whole<'a> {
    /// A file, its bytes durable.
    File(&'a Path),
    /// An object of the bucket.
    Object(&'a str),
}

/// A blob that is to be sent.
#[derive(Debug)]
pub(crate) enum OpenBlob {
    /// From a file.
    File { file: Arc<File>, size: u64 },
    /// From a bucket.
    Object { bucket: Bucket, object: String, size: u64 },
}

impl Blobs {
    /// Whether the bytes are there, as far as can be known without asking a bucket.
    pub(crate) fn has(&self, view: &ReadTransaction, digest: &Digest) -> Result<bool> {
        Ok(match self {
            Self::Files(store) => store.contains(digest),
            Self::Bucket(_) => view.open_table(OBJECTS)?.get(digest.as_bytes())?.is_some(),
        })
    }

    /// The object of a blob.
    pub(crate) fn object(view: &ReadTransaction, digest: &Digest) -> Result<Option<String>> {
        Ok(view.open_table(OBJECTS)?.get(digest.as_bytes())?.map(|object| object.value().to_owned()))
    }

    /// Makes a finished upload the bytes of its blob, unless those are there already. Whether it took them.
    pub(crate) fn place(&self, writing: &Writing, is_known: bool, finished: Finished<'_>) -> Result<bool> {
        match (self, finished.bytes) {
            (Self::Files(store), Whole::File(path)) => {
                if is_known && store.contains(finished.digest) {
                    return Ok(false);
                }
                store.place(path, finished.digest)?;
                writing.renamed.set(true);
                Ok(true)
            }
            (Self::Bucket(_), Whole::Object(object)) => {
                let mut objects = writing.tables.open_table(OBJECTS)?;
                let there = objects.get(finished.digest.as_bytes())?.map(|there| there.value().to_owned());
                if let Some(there) = there {
                    return Ok(there == object);
                }
                if writing.tables.open_table(CONDEMNED)?.get(object)?.is_some() {
                    // A collection took it for something that a crash left.
                    let message = "the upload took too long after its last byte; send it again";
                    return Err(Refusal::new(Code::BlobUploadUnknown, message).into());
                }
                objects.insert(finished.digest.as_bytes(), object)?;
                Ok(true)
            }
            _ => Err(yare_errdefs::Error::internal("an upload is not where the blobs are").into()),
        }
    }
}
