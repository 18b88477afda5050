//! Images of another store: how an engine serves its own through this registry.
//!
//! They are asked for where the records know nothing, and are in no record. An image, or an index with all its
//! images, that is pushed under a tag is handed over; the records keep what is no such image: artifacts,
//! manifests without a tag, and blobs until a manifest came that needs them.

use crate::manifests::Found;
use crate::name::{Reference, Tag};
use crate::problem::{Code, Error, Refusal, Result};
use crate::records::ManifestRecord;
use bytes::Bytes;
use std::fmt::Debug;
use std::fs::File;
use std::sync::Arc;
use yare_errdefs::{Class, Classified};
use yare_oci::Digest;

/// A manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its media type.
    pub media_type: String,
    /// Its bytes, which are the same at any time.
    pub bytes: Bytes,
    /// When the image got a name last, in seconds since 1970.
    pub tagged: u64,
}

/// An image that was pushed.
pub struct Pushed<'a> {
    /// The repository.
    pub repository: &'a str,
    /// The tags that are to name it.
    pub tags: &'a [Tag],
    /// Its manifest, or index.
    pub manifest: &'a [u8],
    /// The blobs that were pushed to the repository: `None` for one that was not.
    pub blob: &'a dyn Fn(&Digest) -> yare_errdefs::Result<Option<File>>,
    /// The manifests that were pushed to the repository, for an index of them.
    pub document: &'a dyn Fn(&Digest) -> yare_errdefs::Result<Option<Bytes>>,
}

impl Debug for Pushed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pushed")
            .field("repository", &self.repository)
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}

/// A store of images that are served beside those of the records. Its functions block; those that only look
/// something up are quick.
pub trait Images: Debug + Send + Sync {
    /// The manifest by a tag, or by its digest where an image of the repository has it.
    fn manifest(&self, repository: &str, wanted: &Reference) -> yare_errdefs::Result<Option<Document>>;

    /// The bytes of a blob of an image of the repository, always as many.
    fn blob_size(&self, repository: &str, digest: &Digest) -> yare_errdefs::Result<Option<u64>>;

    /// Opens such a blob; may take as long as making it.
    fn open_blob(&self, repository: &str, digest: &Digest) -> yare_errdefs::Result<Option<Arc<File>>>;

    /// The repositories.
    fn repositories(&self) -> Vec<String>;

    /// The tags of a repository.
    fn tags(&self, repository: &str) -> Vec<String>;

    /// Takes an image over; when this returns it survives power loss. `false` when it is none that this
    /// store can give back byte by byte: the records keep it then.
    ///
    /// # Errors
    /// Class invalid argument: its content contradicts itself.
    fn take(&self, pushed: &Pushed<'_>) -> yare_errdefs::Result<bool>;

    /// Takes a name away, or with a digest all names of the repository that stand for it; whether there was
    /// one.
    fn remove(&self, repository: &str, reference: &Reference) -> yare_errdefs::Result<bool>;
}

impl Document {
    /// As if it were on record.
    pub(crate) fn found(&self) -> Found {
        let record = ManifestRecord {
            media_type: self.media_type.clone(),
            size: self.bytes.len() as u64,
            pushed: self.tagged,
            pulled: 0,
            uses: Vec::new(),
            subject: None,
        };
        let digest = Digest::of(&self.bytes);
        Found { digest, name: digest.into(), record }
    }
}

/// What the client is told when the other store does not do something.
pub(crate) fn refused(error: yare_errdefs::Error) -> Error {
    match error.class() {
        Class::InvalidArgument => Refusal::new(Code::ManifestInvalid, yare_errdefs::chain(&error)).into(),
        Class::Conflict => Refusal::new(Code::Denied, yare_errdefs::chain(&error))
            .with_status(http::StatusCode::CONFLICT)
            .into(),
        _ => Error::Failed(error),
    }
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(crate::registry::fault)?
}
