use std::io;
use std::path::{Path, PathBuf};
use yare_errdefs::{Class, Classified, class_of_io};
use yare_oci::Digest;

/// Why the blob store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store has no such blob.
    #[error("blob {0} not found")]
    NotFound(Digest),
    /// The bytes are not those that were announced.
    #[error("blob has digest {actual}, expected {expected}")]
    DigestMismatch {
        /// What was announced.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// More or fewer bytes than announced.
    #[error("blob has {actual} bytes, expected {expected}")]
    SizeMismatch {
        /// Announced bytes.
        expected: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// A document is larger than documents may be.
    #[error("blob {digest} has {size} bytes, more than the {limit} of a document")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its bytes.
        size: u64,
        /// The most that is read into memory.
        limit: u64,
    },
    /// A stored blob no longer hashes to its name.
    #[error("blob {0} is damaged on the disk")]
    Damaged(Digest),
    /// A file operation failed.
    #[error("cannot {operation} {path}", path = .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.to_owned(), source: source.into() }
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::NotFound(_) => Class::NotFound,
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } | Self::TooLarge { .. } => {
                Class::InvalidArgument
            }
            Self::Damaged(_) => Class::Internal,
            Self::Io { source, .. } => class_of_io(source),
        }
    }
}
