//! Uploads: blobs on their way in, as files or in a bucket.
//!
//! An id is 32 hex digits from the kernel's random numbers: who has it may go on with the upload, if he may
//! push to the repository at all.

mod files;
mod spool;

pub(crate) use files::Writer as FileWriter;
pub(crate) use spool::Spool;

use crate::bucket::uploads as bucket;
use crate::problem::{Code, Refusal, Result, file_error};
use crate::registry::fault;
use bytes::Bytes;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use yare_oci::ContentDigest;

/// Limits of uploads.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// The most bytes of a blob.
    pub(crate) blob: u64,
    /// Bytes of the file system that uploads leave free.
    pub(crate) reserve: u64,
    /// The most uploads that are written to at a time.
    pub(crate) uploads: usize,
}

impl Limits {
    /// Refuses a blob that would have so many bytes.
    pub(crate) fn check(&self, size: u64) -> Result<()> {
        if size <= self.blob {
            return Ok(());
        }
        let message = format!("blob is larger than the {} bytes that this registry takes", self.blob);
        Err(Refusal::new(Code::SizeInvalid, message).with_status(http::StatusCode::PAYLOAD_TOO_LARGE).into())
    }

    /// The refusal of one more upload.
    pub(crate) fn too_many(&self) -> Refusal {
        let message = format!("{} uploads are being written to; try again later", self.uploads);
        Refusal::new(Code::TooManyRequests, message).with_header(http::header::RETRY_AFTER, "30")
    }
}

/// All uploads.
#[derive(Debug)]
pub(crate) enum Uploads {
    /// Below a folder.
    Files(Arc<files::Uploads>),
    /// In a bucket, where every process may go on with them.
    Bucket(bucket::Uploads),
}

/// An upload.
#[derive(Debug, Clone)]
pub(crate) enum Upload {
    /// As a file.
    File(Arc<files::Upload>),
    /// In a bucket.
    Bucket(Arc<bucket::Upload>),
}

/// The right to write to an upload.
#[derive(Debug)]
pub(crate) enum Writer {
    /// Of a file.
    File(files::Writer),
    /// Of parts of an object.
    Bucket(Box<bucket::Writer>),
}

impl Uploads {
    /// Uploads as files below `root`.
    pub(crate) fn files(root: &Path, limits: Limits) -> Result<Self> {
        Ok(Self::Files(Arc::new(files::Uploads::open(root, limits)?)))
    }

    /// Begins an upload.
    pub(crate) async fn start(&self, repository: &str, now: u64) -> Result<Upload> {
        Ok(match self {
            Self::Files(uploads) => Upload::File(uploads.start(repository, now)?),
            Self::Bucket(uploads) => Upload::Bucket(uploads.start(repository, now).await?),
        })
    }

    /// Finds an upload of the repository, also one that another process began.
    pub(crate) async fn find(&self, repository: &str, id: &str) -> Result<Upload> {
        Ok(match self {
            Self::Files(uploads) => Upload::File(uploads.find(repository, id)?),
            Self::Bucket(uploads) => Upload::Bucket(uploads.find(repository, id).await?),
        })
    }

    /// Takes the right to write; one at a time has it.
    pub(crate) async fn writer(&self, upload: &Upload) -> Result<Writer> {
        match (self, upload) {
            (Self::Files(uploads), Upload::File(upload)) => Ok(Writer::File(uploads.writer(upload).await?)),
            (Self::Bucket(uploads), Upload::Bucket(upload)) => {
                Ok(Writer::Bucket(Box::new(uploads.writer(upload)?)))
            }
            _ => Err(misplaced()),
        }
    }

    /// Begins an upload that is a file, whose bytes can be read while they come.
    pub(crate) async fn start_file(&self, repository: &str, now: u64) -> Result<FileWriter> {
        let Self::Files(uploads) = self else { return Err(misplaced()) };
        uploads.writer(&uploads.start(repository, now)?).await
    }

    /// Forgets an upload and removes what is left of it.
    pub(crate) async fn discard(&self, writer: Writer) {
        match (self, writer) {
            (Self::Files(uploads), Writer::File(writer)) => uploads.discard(&writer),
            (Self::Bucket(uploads), Writer::Bucket(writer)) => uploads.discard(*writer).await,
            (_, writer) => tracing::error!(?writer, "an upload is not where the others are"),
        }
    }

    /// How many uploads this process writes to.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Files(uploads) => uploads.count(),
            Self::Bucket(uploads) => uploads.count(),
        }
    }

    /// Removes what nobody wrote to for `age`. Returns how many uploads that were, and their bytes.
    pub(crate) async fn sweep(&self, age: Duration, dry_run: bool) -> Result<(u64, u64)> {
        match self {
            Self::Files(uploads) => {
                let uploads = Arc::clone(uploads);
                let swept = tokio::task::spawn_blocking(move || uploads.sweep(age, dry_run));
                swept.await.map_err(fault)?
            }
            Self::Bucket(uploads) => uploads.sweep(age, dry_run).await,
        }
    }
}

fn misplaced() -> crate::problem::Error {
    yare_errdefs::Error::internal("an upload is not where the others are").into()
}

impl Upload {
    /// Its id.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::File(upload) => &upload.id,
            Self::Bucket(upload) => &upload.id,
        }
    }

    /// How many bytes there are.
    pub(crate) fn offset(&self) -> u64 {
        match self {
            Self::File(upload) => upload.offset(),
            Self::Bucket(upload) => upload.offset(),
        }
    }
}

impl Writer {
    /// How many bytes there are.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File(writer) => writer.size(),
            Self::Bucket(writer) => writer.size(),
        }
    }

    /// Writes on a thread where that keeps nobody waiting. The right to write is lost when that ends by a
    /// fault.
    pub(crate) async fn append(self, batch: Vec<Bytes>) -> (Option<Self>, Result<()>) {
        match self {
            Self::File(mut writer) => {
                let task = tokio::task::spawn_blocking(move || {
                    let written = batch.iter().try_for_each(|bytes| writer.append(bytes));
                    (writer, written)
                });
                match task.await {
                    Ok((writer, written)) => (Some(Self::File(writer)), written),
                    Err(error) => (None, Err(fault(error))),
                }
            }
            Self::Bucket(mut writer) => {
                for bytes in &batch {
                    if let Err(error) = writer.append(bytes).await {
                        return (Some(Self::Bucket(writer)), Err(error));
                    }
                }
                (Some(Self::Bucket(writer)), Ok(()))
            }
        }
    }

    /// Ends writing for now: others may go on.
    pub(crate) async fn pause(self) -> Result<()> {
        match self {
            // A file has all bytes already, and goes free when this is dropped.
            Self::File(_) => Ok(()),
            Self::Bucket(mut writer) => writer.save().await,
        }
    }
}

/// 32 hex digits that nobody can guess.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| file_error("get random numbers from", Path::new("the kernel"), error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a text has the form of an id.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The refusal of an upload that is not there.
pub(crate) fn unknown(id: &str) -> Refusal {
    let shown: String = id.chars().take(64).collect();
    Refusal::new(Code::BlobUploadUnknown, "blob upload unknown to registry")
        .with_detail(json!({ "upload": shown }))
}

/// The refusal of a digest that the bytes do not have.
pub(crate) fn mismatch(expected: &ContentDigest, actual: &ContentDigest) -> Refusal {
    let message = format!("provided digest did not match uploaded content: it is {actual}");
    let detail = json!({ "digest": expected.to_string(), "actual": actual.to_string() });
    Refusal::new(Code::DigestInvalid, message).with_detail(detail)
}
