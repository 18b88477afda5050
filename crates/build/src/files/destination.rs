//! The image's side: directories made on the way, and things put at names.

use super::resolve::{Located, Opener, locate};
use super::{Times, failed, is_dir, join, shown, split};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use yare_errdefs::{Error, Result};
use yare_layer::Metadata;

/// A tree that is written to. Directories that were made or merged get their metadata in
/// [`Destination::finish`], when nothing changes their times any more.
pub(super) struct Destination<'r> {
    root: BorrowedFd<'r>,
    opener: Opener<'r>,
    times: Times,
    directories: Vec<(Vec<u8>, Metadata)>,
    /// Directories that were not there before.
    made: HashSet<Vec<u8>>,
    pub(super) unprivileged: bool,
}

impl<'r> Destination<'r> {
    pub(super) fn new(root: BorrowedFd<'r>, times: Times) -> Self {
        let unprivileged = !rustix::process::geteuid().is_root();
        let (directories, made) = (Vec::new(), HashSet::new());
        Self { root, opener: Opener::new(root), times, directories, made, unprivileged }
    }

    /// Where a path of the image leads to.
    pub(super) fn locate(&self, path: &[u8]) -> Result<Located> {
        locate(self.root, path, &|_, _| true).map_err(|error| failed("look up", path, error))
    }

    /// The directory at a path without links.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>> {
        self.opener.directory(path).map_err(|error| failed("open", path, error))
    }

    /// Makes the missing directories of a path without links. Returns those that were made, from the top.
    pub(super) fn make_dirs(&mut self, path: &[u8], owner: (u32, u32), mode: u32) -> Result<Vec<Vec<u8>>> {
        let mut made = Vec::new();
        let mtime = self.times.now();
        for end in (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]) {
            let part = &path[..end];
            if part.is_empty() {
                continue;
            }
            if self.mkdir(part)? {
                let (uid, gid) = owner;
                let metadata = Metadata { mode, uid, gid, mtime, xattrs: Vec::new() };
                self.directories.push((part.to_vec(), metadata));
                made.push(part.to_vec());
                continue;
            }
            if !self.stat(part)?.as_ref().is_some_and(is_dir) {
                let text =
                    format!("cannot make directory {}: {} is not a directory", shown(path), shown(part));
                return Err(Error::invalid(text));
            }
        }
        Ok(made)
    }

    fn mkdir(&mut self, path: &[u8]) -> Result<bool> {
        let (parent, name) = split(path);
        match rustix::fs::mkdirat(self.directory(parent)?, name, Mode::RWXU) {
            Ok(()) => {
                self.made.insert(path.to_vec());
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(failed("make directory", path, error)),
        }
    }

    /// Whether the directory at this path was made here.
    pub(super) fn has_made(&self, path: &[u8]) -> bool {
        self.made.contains(path)
    }

    pub(super) fn stat(&mut self, path: &[u8]) -> Result<Option<Stat>> {
        let (parent, name) = split(path);
        match rustix::fs::statat(self.directory(parent)?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("stat", path, error)),
        }
    }

    /// A copied directory: made, or merged with the one that is there, which takes over the metadata unless
    /// the directory was only on the way to something.
    pub(super) fn merge_dir(&mut self, path: &[u8], metadata: Metadata, on_the_way: bool) -> Result<()> {
        let made = self.mkdir(path)?;
        if !made && !self.stat(path)?.as_ref().is_some_and(is_dir) {
            return Err(not_a_directory(path));
        }
        if made || !on_the_way {
            self.directories.push((path.to_vec(), metadata));
        }
        Ok(())
    }

    /// Runs `make`, which must fail with `EEXIST` rather than replace, in the path's directory. A file or
    /// link in its way is removed first; a directory is an error.
    pub(super) fn place<T>(
        &mut self,
        path: &[u8],
        operation: &str,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let (parent, name) = split(path);
        if name.is_empty() {
            return Err(Error::invalid("cannot replace the root directory with a file"));
        }
        let dir = self.directory(parent)?;
        let made = match make(dir, name) {
            Err(Errno::EXIST) => match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => make(dir, name),
                Err(Errno::ISDIR) => return Err(is_a_directory(path)),
                // What Linux says of directories on some file systems.
                Err(Errno::PERM) if self.stat(path)?.as_ref().is_some_and(is_dir) => {
                    return Err(is_a_directory(path));
                }
                Err(error) => return Err(failed("replace", path, error)),
            },
            result => result,
        };
        made.map_err(|error| failed(operation, path, error))
    }

    /// Makes an empty file that nobody else can open yet.
    pub(super) fn create(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        self.place(path, "create", |dir, name| {
            rustix::fs::openat2(dir, name, flags, Mode::RUSR | Mode::WUSR, resolve)
        })
    }

    pub(super) fn finish_file(&self, fd: &OwnedFd, path: &[u8], metadata: &Metadata) -> Result<()> {
        metadata.set_open(fd, self.unprivileged).map_err(|(operation, error)| failed(operation, path, error))
    }

    pub(super) fn finish_special(&mut self, path: &[u8], metadata: &Metadata, is_link: bool) -> Result<()> {
        let unprivileged = self.unprivileged;
        let (parent, name) = split(path);
        let dir = self.directory(parent)?;
        metadata
            .set_special(dir, name, is_link, unprivileged)
            .map_err(|(operation, error)| failed(operation, path, error))
    }

    /// Sets the metadata of directories, children first.
    pub(super) fn finish(mut self) -> Result<()> {
        let mut directories = std::mem::take(&mut self.directories);
        // Two sources may have merged into one directory: the later one's word counts, and it is last.
        directories.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut done: Option<Vec<u8>> = None;
        for (path, metadata) in directories.into_iter().rev() {
            if done.as_ref() == Some(&path) {
                continue;
            }
            let fd = self
                .opener
                .open(&path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|error| failed("open", &path, error))?;
            self.finish_file(&fd, &path, &metadata)?;
            done = Some(path);
        }
        Ok(())
    }
}

/// What Docker says.
pub(super) fn not_a_directory(path: &[u8]) -> Error {
    Error::invalid(format!("cannot copy to non-directory: {}", shown(path)))
        .with_hint("the image has a file or a link where the source has a directory")
}

fn is_a_directory(path: &[u8]) -> Error {
    Error::invalid(format!("cannot replace to directory {} with file", shown(path)))
        .with_hint("the image has a directory where the source has a file")
}

/// Where something that is no directory goes: into the directory that is there, under its own name.
pub(super) fn file_path(located: &Located, name: &[u8]) -> Vec<u8> {
    match &located.stat {
        Some(stat) if is_dir(stat) => join(&located.path, name),
        _ => located.path.clone(),
    }
}
