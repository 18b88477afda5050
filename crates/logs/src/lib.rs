//! Container logs: files in Docker's `json-file` format, byte for byte.
//!
//! # On disk, format 1
//!
//! `<path>` is the current file, mode 0640, one JSON object a line: `log`, `stream`, `attrs` (when there are
//! any), `time` (RFC 3339 UTC, trailing zeroes of the fraction cut). `<path>.1` is the file before it,
//! `<path>.2` the one before that; `.gz` is appended to those that are compressed. Names move by `rename` when
//! a file is rotated; an entry is never split across files.
//!
//! A line of output longer than [`MAX_LINE`] bytes becomes several entries, of which only the last one's text ends
//! in a newline; a line that the end of its stream cuts off has none. A cut that would fall inside a UTF-8 character moves before it (Docker damages it).
//! The times of a log strictly increase: entries that were read at once differ by a nanosecond, so that a
//! reader who continues after a time neither loses nor repeats a line.
//!
//! The driver `local` writes the same with other limits, and what other drivers send is kept so for readers, too.
//! Those send to a [`Target`] by a [`Remote`].
//!
//! [`Writer`] is for the one process that owns a log; [`Reader`] for any number of others at the same time,
//! and [`Watch`] to learn when there is more to read.

mod compress;
mod files;
mod format;
mod lines;
mod reader;
mod remote;
mod target;
pub mod time;
mod watch;
mod writer;

pub use compress::Compression;
pub use format::{Entry, Stream};
pub use lines::{Lines, TakeLine};
pub use reader::{ReadOptions, Reader};
pub use remote::{About, Remote};
pub use target::{Address, GelfCompression, SyslogFormat, Target};
pub use watch::{Grown, Watch, Watched};
pub use writer::{Writer, WriterOptions};

use std::io;
use std::path::PathBuf;
use yare_errdefs::{Class, Classified, class_of_io};

/// Longest text of one entry in bytes, newline excluded.
pub const MAX_LINE: usize = 16 << 10;

/// What can go wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Entries could not be written and are lost.
    #[error("cannot write {}: {lost} entries lost", path.display())]
    Lost {
        /// The log.
        path: PathBuf,
        /// How many.
        lost: usize,
        /// Why.
        source: io::Error,
    },
}

impl LogError {
    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

impl Classified for LogError {
    fn class(&self) -> Class {
        match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => Class::NotFound,
            Self::File { source, .. } | Self::Lost { source, .. } => class_of_io(source),
        }
    }
}

/// `Result` of a log operation.
pub type Result<T, E = LogError> = std::result::Result<T, E>;
