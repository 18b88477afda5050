//! Where a cache is kept.

use crate::{Error, Result};
use std::io::Read;
use std::path::Path;
use yare_oci::{Descriptor, Digest};

/// Content by digest, and one name for a manifest: a repository of a registry, a folder, a client's folder.
///
/// Nothing that comes out of it is believed: whoever reads compares digests.
pub trait ContentStore: Send + Sync {
    /// The manifest of this digest; without one, that which has the name.
    ///
    /// # Errors
    /// Class not found when there is none.
    fn manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>>;

    /// The content of a blob.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>>;

    /// Whether a blob is there.
    ///
    /// # Errors
    /// Nobody answers.
    fn has(&self, blob: &Descriptor) -> Result<bool>;

    /// A folder to make blobs in, for a store that takes them from there by a rename.
    fn room(&self) -> Option<&Path> {
        None
    }

    /// Takes the file at a path as a blob. The file may be gone then.
    ///
    /// # Errors
    /// It cannot be read, or is not taken.
    fn put(&self, blob: &Descriptor, file: &Path) -> Result<()>;

    /// ● Gives a manifest, whose blobs are there, the name.
    ///
    /// # Errors
    /// It is not taken.
    fn publish(&self, manifest: &Descriptor, bytes: &[u8]) -> Result<()>;
}

/// Most bytes of an index or a manifest.
pub(super) const LONGEST: u64 = 8 << 20;

/// Reads a document to its end, unless it is longer than it may be.
pub(super) fn read(source: impl Read, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Error::invalid(format!("a document of the build cache has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// The bytes, when they are what the digest says.
pub(super) fn verified(bytes: Vec<u8>, digest: &Digest) -> Result<Vec<u8>> {
    let found = Digest::of(&bytes);
    if found == *digest {
        Ok(bytes)
    } else {
        Err(Error::invalid(format!("the document {digest} of the build cache has digest {found}")))
    }
}

/// Reads a JSON document.
pub(super) fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid(format!("{what} of the build cache cannot be read")).caused_by(error))
}

/// Writes a JSON document.
pub(super) fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::internal("cannot write the build cache as JSON").caused_by(error))
}
