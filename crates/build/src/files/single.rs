//! Single files and directories: heredocs, `WORKDIR`, and the Dockerfile itself.

use super::copy::to_path;
use super::destination::{Destination, file_path};
use super::resolve::{lexical, locate};
use super::{Owner, Times, Tree, as_path, failed, kind_of, shown, split};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use yare_errdefs::{Error, Result};
use yare_layer::Metadata;
use yare_sys::fs as files;

/// A file with given content, as of a heredoc.
#[derive(Debug, Clone, Copy)]
pub struct FileToWrite<'a> {
    /// Where to; with a slash at the end, or where a directory is, into it.
    pub dest: &'a str,
    /// Its name in a directory.
    pub name: &'a str,
    /// The content.
    pub bytes: &'a [u8],
    /// Owner, also of directories made on the way; root unless it is set.
    pub owner: Owner,
    /// Permission bits; 0644 without `--chmod`.
    pub mode: u32,
    /// Permission bits of directories made on the way; 0755 without `--chmod`.
    pub dir_mode: u32,
    /// Its time is that of the day, under this rule.
    pub times: Times,
}

/// Writes a file below the root of an image, with the rules of [`super::copy`]. Returns where, relative to
/// the root and without links.
pub fn write_file(root: BorrowedFd<'_>, file: &FileToWrite<'_>) -> Result<PathBuf> {
    if file.name.is_empty() || file.name.contains('/') || matches!(file.name, "." | "..") {
        return Err(Error::invalid(format!("\"{}\" is no name for a file", file.name)));
    }
    let mut destination = Destination::new(root, file.times);
    let (uid, gid) = file.owner.of_made();
    let names = lexical(file.dest.as_bytes());
    let into = matches!(file.dest.rsplit('/').next(), Some("" | "." | ".."));
    let written = names.join(&b'/');
    let above = destination.locate(if into { &written } else { split(&written).0 })?;
    destination.make_dirs(&above.path, (uid, gid), file.dir_mode & 0o7777)?;
    let path = file_path(&destination.locate(&written)?, file.name.as_bytes());
    let fd = destination.create(&path)?;
    files::write_all(&fd, file.bytes).map_err(|error| failed("write", &path, error))?;
    let mtime = file.times.now();
    let metadata = Metadata { mode: file.mode & 0o7777, uid, gid, mtime, xattrs: Vec::new() };
    destination.finish_file(&fd, &path, &metadata)?;
    destination.finish()?;
    Ok(to_path(&path))
}

/// Makes a directory and those above it that are missing, as `WORKDIR` does; one that is there stays as it
/// is. Returns those that were made, from the top.
pub fn make_dirs(
    root: BorrowedFd<'_>,
    path: &str,
    owner: Owner,
    mode: u32,
    times: Times,
) -> Result<Vec<PathBuf>> {
    let mut destination = Destination::new(root, times);
    let located = destination.locate(&lexical(path.as_bytes()).join(&b'/'))?;
    let made = destination.make_dirs(&located.path, owner.of_made(), mode & 0o7777)?;
    destination.finish()?;
    Ok(made.iter().map(|path| to_path(path)).collect())
}

/// Reads a regular file of a tree, links followed inside it, ignored or not: a Dockerfile is read also when
/// it is kept out of the context. A file of more than `most` bytes is an error.
pub fn read_file(tree: &Tree<'_>, path: &str, most: u64) -> Result<Vec<u8>> {
    let written = lexical(path.as_bytes()).join(&b'/');
    let located = locate(tree.root.as_fd(), &written, &|_, _| true)
        .map_err(|error| failed("look up", &written, error))?;
    let Some(stat) = located.stat else {
        return Err(Error::not_found(format!("\"{}\": not found in the {}", shown(&written), tree.name)));
    };
    if kind_of(&stat) != FileType::RegularFile {
        return Err(Error::invalid(format!("{} of the {} is no regular file", shown(&written), tree.name)));
    }
    read_below(tree.root.as_fd(), &located.path, most).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => {
            let text = format!("{} of the {} is larger than {most} bytes", shown(&written), tree.name);
            Error::invalid(text)
        }
        _ => failed("read", &written, error),
    })
}

/// Finds what is at a path, links followed below the root. What is given can be looked at and not read.
///
/// # Errors
/// Nothing is there.
pub fn find(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let written = lexical(path.as_bytes()).join(&b'/');
    let located = locate(root, &written, &|_, _| true).map_err(|error| failed("look up", &written, error))?;
    if located.stat.is_none() {
        return Err(Error::not_found(format!("{}: no such file or directory", shown(&written))));
    }
    files::open_strict(root, as_path(&located.path), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|error| failed("open", &located.path, error))
}

/// Reads a regular file at a path without links. More than `most` bytes are [`io::ErrorKind::FileTooLarge`].
pub(super) fn read_below(root: BorrowedFd<'_>, path: &[u8], most: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = files::open_strict(root, as_path(path), flags, Mode::empty())?;
    if kind_of(&rustix::fs::fstat(&fd)?) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd).take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}
