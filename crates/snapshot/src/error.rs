use std::io;
use std::path::{Path, PathBuf};
use yare_errdefs::{Class, Classified, class_of_io};
use yare_layer::{ApplyError, LayerError};
use yare_oci::DiffId;

/// Why the snapshot store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store has no such layer.
    #[error("layer {0} not found")]
    LayerNotFound(DiffId),
    /// There is no writable layer of this name.
    #[error("snapshot {0} not found")]
    NotFound(String),
    /// There is a writable layer of this name already.
    #[error("snapshot {0} exists already")]
    Exists(String),
    /// Known, and not built.
    #[error("{0}: not built into this Yare yet")]
    Unimplemented(&'static str),
    /// A name that is no plain file name.
    #[error("invalid snapshot name {0:?}")]
    Name(String),
    /// A layer has a hard link to a file that no layer below it has.
    #[error("layer {layer} links {link} to {target}, which the layers below do not have", link = .link.display(), target = .target.display())]
    DanglingLink {
        /// The layer with the link.
        layer: DiffId,
        /// The link's path.
        link: PathBuf,
        /// What it should link to.
        target: PathBuf,
    },
    /// The folder was written by a newer program, or is damaged.
    #[error("snapshot store {path}: {reason}", path = .path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tree could not be copied.
    #[error("cannot copy the layers of snapshot {id}")]
    Copy {
        /// The snapshot.
        id: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// What a snapshot changed could not be made a layer.
    #[error("cannot make a layer")]
    Apply(#[source] ApplyError),
    /// The kernel did not mount the layers.
    #[error("cannot mount the layers ({step})")]
    Mount {
        /// The step or option that failed.
        step: String,
        /// Why, with the kernel's own words where it gave any.
        #[source]
        source: io::Error,
    },
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
    pub(crate) fn io(operation: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.as_ref().to_owned(), source: source.into() }
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::LayerNotFound(_) | Self::NotFound(_) => Class::NotFound,
            Self::Exists(_) => Class::AlreadyExists,
            Self::Unimplemented(_) => Class::Unimplemented,
            Self::Name(_) | Self::DanglingLink { .. } => Class::InvalidArgument,
            Self::Format { .. } => Class::FailedPrecondition,
            Self::Copy { source, .. } => source.class(),
            Self::Apply(source) => source.class(),
            Self::Mount { source, .. } | Self::Io { source, .. } => class_of_io(source),
        }
    }
}
