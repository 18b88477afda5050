use rustix::io::Errno;
use std::io;
use std::path::PathBuf;
use yare_errdefs::{Class, Classified, class_of_io};

/// Why a layer tar could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The stream is no valid tar.
    #[error("invalid layer tar at byte {offset}: {reason}")]
    Format {
        /// Where in the uncompressed stream, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A well-formed entry that no layer may contain.
    #[error("layer entry {path:?}: {reason}")]
    Entry {
        /// The entry's name in the tar, lossily as text.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry would replace a directory by something else, or something else by a directory.
    #[error("cannot overwrite {} {path:?} with {} {target:?}", kind(*.directory), kind(!*.directory))]
    Overwrite {
        /// The entry's name in the tar, lossily as text.
        path: String,
        /// Whether it is a directory that would go.
        directory: bool,
        /// What is extracted into.
        target: String,
    },
    /// A limit was reached.
    #[error("layer exceeds the limit of {limit} {what}")]
    Limit {
        /// The limit's value.
        limit: u64,
        /// What is limited: `bytes`, `entries`.
        what: &'static str,
    },
    /// The stream could not be read (also: could not be decompressed).
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// A file operation in the layer's directory failed.
    #[error("cannot {operation} layer entry {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The path inside the layer, lossily as text.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The side file that records the tar could not be written.
    #[error("cannot write the record of the layer's tar")]
    Record(#[source] io::Error),
}

fn kind(directory: bool) -> &'static str {
    if directory { "directory" } else { "non-directory" }
}

impl Classified for ApplyError {
    fn class(&self) -> Class {
        match self {
            Self::Format { .. } | Self::Entry { .. } | Self::Overwrite { .. } | Self::Limit { .. } => {
                Class::InvalidArgument
            }
            Self::Read(source) => match source.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
                    Class::InvalidArgument
                }
                _ => class_of_io(source),
            },
            Self::Io { source, .. } | Self::Record(source) => class_of_io(source),
        }
    }
}

/// Why a tree could not be written as a tar, rebuilt or copied.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A file operation failed.
    #[error("cannot {operation} {path}", path = .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The path below the tree's root.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The receiver of the tar failed.
    #[error("cannot write the tar")]
    Write(#[source] io::Error),
    /// The record of a layer's tar is damaged, or newer than this program.
    #[error("the record of the layer's tar is unusable: {0}")]
    Record(String),
    /// A file changed while it was read.
    #[error("{path} changed while it was read", path = .0.display())]
    Changed(PathBuf),
}

impl LayerError {
    /// Whether something that was listed is not there any more, or is something else.
    pub(crate) fn is_gone(&self) -> bool {
        let gone = |source: &io::Error| {
            matches!(
                Errno::from_io_error(source),
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)
            )
        };
        match self {
            Self::Io { source, .. } => gone(source),
            Self::Changed(_) => true,
            Self::Write(_) | Self::Record(_) => false,
        }
    }
}

impl Classified for LayerError {
    fn class(&self) -> Class {
        match self {
            Self::Io { source, .. } | Self::Write(source) => class_of_io(source),
            Self::Record(_) => Class::Internal,
            Self::Changed(_) => Class::Unavailable,
        }
    }
}
