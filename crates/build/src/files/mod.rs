//! What `COPY`, `ADD` and `WORKDIR` do with files, over directory descriptors alone.
//!
//! [`select`] decides which files of a [`Tree`] (a context folder, or another stage's root) an instruction
//! takes; [`checksum`] says by a digest whether they are the same as last time; [`copy`] puts them below the
//! root of an image. All three work on one [`Selection`], and a file that is changed between two of them
//! ends the build with an error that says so.
//!
//! Both sides are hostile. A path is taken apart and walked one name at a time; links are read and expanded
//! here, with the tree or the image as their root, so none leads out. What is opened in the end is a path
//! without links, and the kernel is told to refuse one that has become a link meanwhile.

mod archive;
mod checksum;
mod copy;
mod destination;
mod edit;
mod hash_cache;
mod pattern;
mod resolve;
mod select;
mod single;
mod times;
mod twin;

#[cfg(test)]
mod tests;

pub use checksum::{ChecksumOptions, checksum, checksum_noted};
pub use copy::{Copied, CopyOptions, ModeChange, Owner, copy};
pub use edit::{check_parent, make_dir, make_link, remove};
pub use hash_cache::HashCache;
pub use pattern::{BadPattern, has_wildcard, matches};
pub use select::{CopySpec, Selection, select};
pub use single::{FileToWrite, find, make_dirs, read_file, write_file};
pub use times::{Times, clamp_times};
pub use twin::{Twin, WORTH_A_NOTE, encode as encode_origins};

use rustix::fs::{FileType, Stat};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use yare_errdefs::{Class, Error, class_of_io};

/// What an ignore file, or `--exclude`, says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Keep,
    /// It is not, but something below it may be. A directory is then made for what is kept in it.
    Drop,
    /// Neither it nor anything below is there.
    DropTree,
}

/// Compiled patterns of an ignore file or of `--exclude`.
pub trait Ignore: Sync {
    /// What the patterns say of a path below the root, which has no links in it.
    fn excludes(&self, path: &Path, is_dir: bool) -> Verdict;

    /// The pattern that hides a path, for an error's hint.
    fn hidden_by(&self, path: &Path) -> Option<String> {
        let _ = path;
        None
    }
}

/// A tree that files are taken from.
pub struct Tree<'a> {
    /// Its root directory; `O_PATH` is enough.
    pub root: OwnedFd,
    /// What is not seen of it.
    pub ignore: Option<&'a dyn Ignore>,
    /// What people call it: `build context`, `stage "builder"`.
    pub name: String,
}

impl std::fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tree<'_> {
    fn verdict(&self, path: &[u8], is_dir: bool) -> Verdict {
        match self.ignore {
            Some(ignore) if !path.is_empty() => ignore.excludes(as_path(path), is_dir),
            _ => Verdict::Keep,
        }
    }
}

/// What tells that a file is the one that was looked at before, with the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, u32),
    /// Of content or attributes.
    changed: (i64, u32),
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanos(stat.st_ctime_nsec)),
        }
    }
}

fn nanos(count: u64) -> u32 {
    u32::try_from(count).unwrap_or_default()
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_dir(stat: &Stat) -> bool {
    kind_of(stat) == FileType::Directory
}

/// The path; the empty one is the root.
fn as_path(bytes: &[u8]) -> &Path {
    if bytes.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(bytes)) }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match (parent.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => parent.to_vec(),
        _ => [parent, b"/", name].concat(),
    }
}

/// Directory and last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

/// The path as people read it, with a slash before it.
fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

fn failed(operation: &str, path: &[u8], source: impl Into<io::Error>) -> Error {
    let source = source.into();
    let (class, full) = (class_of_io(&source), source.kind() == io::ErrorKind::StorageFull);
    let error = Error::new(class, format!("cannot {operation} {}", shown(path))).caused_by(source);
    if full { error.with_hint("free some space, for example with `prune`") } else { error }
}

/// A file of the tree is not what it was when the build looked first.
fn changed(tree: &Tree<'_>, path: &[u8]) -> Error {
    let text = format!("{} of the {} changed during the build", shown(path), tree.name);
    Error::new(Class::Unavailable, text)
        .with_hint("build again when nothing writes to it, or keep it out with .dockerignore")
}
