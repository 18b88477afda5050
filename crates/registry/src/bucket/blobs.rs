//! Blobs as objects of a bucket.

use super::Bucket;
use crate::problem::Result;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange};
use std::io;
use std::ops::Range;
use std::time::Duration;
use yare_oci::{ContentDigest, ContentHasher};

/// How long a link to a blob is good.
const GOOD: Duration = Duration::from_secs(20 * 60);

/// The bytes of an object as they come.
pub(crate) type Stream = BoxStream<'static, io::Result<Bytes>>;

/// The name of the object of a blob.
pub(super) fn name_of(object: &str) -> String {
    format!("blobs/{object}")
}

/// An object below `blobs/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its name there.
    pub(crate) object: String,
    /// When it was put.
    pub(crate) modified: u64,
}

impl Bucket {
    /// Part of a blob; `None` when its object is not there.
    pub(crate) async fn open_blob(&self, object: &str, range: Range<u64>) -> Result<Option<Stream>> {
        if range.is_empty() {
            return Ok(Some(futures_util::stream::empty().boxed()));
        }
        let name = name_of(object);
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        match self.objects.get_opts(&self.key(&name), options).await {
            Ok(got) => Ok(Some(got.into_stream().map_err(io::Error::other).boxed())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", &name, error)),
        }
    }

    /// A link by which a blob can be read for a while without credentials.
    pub(crate) async fn sign_blob(&self, object: &str) -> Result<String> {
        let name = name_of(object);
        let signed = self.signer.signed_url(http::Method::GET, &self.key(&name), GOOD).await;
        Ok(signed.map_err(|error| self.failed("sign a link to", &name, error))?.to_string())
    }

    /// Reads a blob and tells what it hashes to, and its bytes; `None` when its object is not there.
    pub(crate) async fn hash(
        &self,
        object: &str,
        mut hasher: ContentHasher,
    ) -> Result<Option<(ContentDigest, u64)>> {
        let name = name_of(object);
        let failed = |error| self.failed("read", &name, error);
        let mut stream = match self.objects.get_opts(&self.key(&name), GetOptions::default()).await {
            Ok(got) => got.into_stream(),
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut size = 0;
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(failed)?;
            hasher.update(&bytes);
            size += bytes.len() as u64;
        }
        Ok(Some((hasher.finish(), size)))
    }

    /// Deletes the object of a blob.
    pub(crate) async fn delete_blob(&self, object: &str) -> Result<()> {
        self.delete(&name_of(object)).await
    }

    /// All objects below `blobs/`.
    pub(crate) async fn list_blobs(&self) -> Result<Vec<Listed>> {
        let listed = self.objects.list(Some(&self.key("blobs"))).map_ok(|object| {
            let modified = u64::try_from(object.last_modified.timestamp()).unwrap_or(0);
            Some(Listed { object: object.location.filename()?.to_owned(), modified })
        });
        let listed: Vec<_> =
            listed.try_collect().await.map_err(|error| self.failed("list", "blobs", error))?;
        Ok(listed.into_iter().flatten().collect())
    }
}
