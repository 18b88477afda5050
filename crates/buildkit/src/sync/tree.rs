//! A folder that mirrors a client's, changed one entry at a time.

use super::name;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use yare_errdefs::{Error, Result};
use yare_layer::Xattrs;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// With size and modification time in nanoseconds.
    File(u64, i128),
    /// With what it points to.
    Link(Vec<u8>),
}

/// An entry as the client tells it, or as it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    /// Extended attributes that the client tells. Those of what is here are looked at only where it tells
    /// some: one that it took away from a file stays until the file changes, as in the field.
    pub(crate) xattrs: Xattrs,
}

impl Entry {
    fn is(&self, other: &Self) -> bool {
        self.mode == other.mode && self.kind == other.kind
    }
}

/// A private folder: nobody but its owner changes it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// What is there, with whether the client told it this time.
    known: HashMap<Vec<u8>, (Entry, bool)>,
    /// The directory used last.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

fn failed(what: &str, path: &[u8], error: impl Into<std::io::Error>) -> Error {
    let path = String::from_utf8_lossy(path);
    Error::internal(format!("cannot {what} {path:?} of the build context")).caused_by(error.into())
}

impl Tree {
    /// Looks at what a folder has from the last time.
    pub(crate) fn open(root: OwnedFd) -> Result<Self> {
        let mut tree = Self { root, known: HashMap::new(), parent: None };
        let mut directories = vec![Vec::new()];
        while let Some(directory) = directories.pop() {
            tree.scan(&directory, &mut directories).map_err(|error| failed("look at", &directory, error))?;
        }
        Ok(tree)
    }

    fn scan(&mut self, directory: &[u8], directories: &mut Vec<Vec<u8>>) -> std::io::Result<()> {
        let fd = self.open_dir(directory)?;
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let stat = rustix::fs::statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Kind::Directory,
                FileType::RegularFile => {
                    Kind::File(u64::try_from(stat.st_size).unwrap_or(0), modified(&stat))
                }
                FileType::Symlink => {
                    Kind::Link(rustix::fs::readlinkat(&fd, entry.file_name(), Vec::new())?.into_bytes())
                }
                // Nothing else is ever made here; it goes with what is not told.
                _ => Kind::Link(Vec::new()),
            };
            let path = if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() };
            if kind == Kind::Directory {
                directories.push(path.clone());
            }
            let entry = Entry { kind, mode: stat.st_mode & 0o7777, xattrs: Xattrs::new() };
            self.known.insert(path, (entry, false));
        }
        Ok(())
    }

    /// Bytes of the files that are known.
    pub(crate) fn size(&self) -> u64 {
        let sizes = self.known.values().map(|(entry, _)| match entry.kind {
            Kind::File(size, _) => size,
            Kind::Directory | Kind::Link(_) => 0,
        });
        sizes.sum()
    }

    /// The folder.
    pub(crate) fn into_root(self) -> OwnedFd {
        self.root
    }

    fn open_dir(&self, path: &[u8]) -> std::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        yare_sys::fs::open_strict(self.root.as_fd(), OsStr::from_bytes(path), flags, Mode::empty())
    }

    /// The directory that an entry is in, which the client must have told.
    fn enter(&mut self, path: &[u8]) -> Result<()> {
        let (directory, _) = name::split(path);
        if self.parent.as_ref().is_some_and(|(open, _)| open == directory) {
            return Ok(());
        }
        let told = directory.is_empty()
            || matches!(self.known.get(directory), Some((Entry { kind: Kind::Directory, .. }, true)));
        if !told {
            let path = String::from_utf8_lossy(path);
            return Err(Error::invalid(format!("the client sent {path:?} before its directory")));
        }
        let fd = self.open_dir(directory).map_err(|error| failed("open the directory of", path, error))?;
        self.parent = Some((directory.to_vec(), fd));
        Ok(())
    }

    fn parent(&self) -> Result<&OwnedFd> {
        let parent = self.parent.as_ref().map(|(_, fd)| fd);
        parent.ok_or_else(|| Error::internal("no directory is open"))
    }

    /// Takes an entry that the client tells; `true` when its content is to be asked for.
    pub(crate) fn tell(&mut self, path: &[u8], entry: Entry) -> Result<bool> {
        name::check(path)?;
        self.enter(path)?;
        let wanted = match self.known.get_mut(path) {
            Some((_, told @ true)) => {
                let _ = told;
                let path = String::from_utf8_lossy(path);
                return Err(Error::invalid(format!("the client sent {path:?} twice")));
            }
            Some((known, told)) if known.is(&entry) => {
                *told = true;
                return self.dress(path, &entry).map(|()| false);
            }
            Some((known, _)) => {
                let both = (&known.kind, &entry.kind);
                let keep = matches!(both, (Kind::Directory, Kind::Directory));
                if !keep {
                    self.remove(path)?;
                }
                self.make(path, &entry, keep)?
            }
            None => self.make(path, &entry, false)?,
        };
        self.known.insert(path.to_vec(), (entry, true));
        Ok(wanted)
    }

    fn make(&mut self, path: &[u8], entry: &Entry, there: bool) -> Result<bool> {
        let (_, last) = name::split(path);
        let parent = self.parent()?;
        match &entry.kind {
            Kind::File(..) => return Ok(true),
            Kind::Directory => {
                let mode = Mode::from_raw_mode(entry.mode);
                if !there {
                    rustix::fs::mkdirat(parent, OsStr::from_bytes(last), Mode::RWXU)
                        .map_err(|error| failed("make", path, error))?;
                }
                // What the mode of a directory forbids does not stop us: we are root.
                rustix::fs::chmodat(parent, OsStr::from_bytes(last), mode, AtFlags::empty())
                    .map_err(|error| failed("set the mode of", path, error))?;
                self.dress(path, entry)?;
            }
            Kind::Link(target) => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), parent, OsStr::from_bytes(last))
                    .map_err(|error| failed("make", path, error))?;
            }
        }
        Ok(false)
    }

    /// Gives what is there the extended attributes that it lacks.
    fn dress(&self, path: &[u8], entry: &Entry) -> Result<()> {
        if entry.xattrs.is_empty() || matches!(entry.kind, Kind::Link(_)) {
            return Ok(());
        }
        let (_, last) = name::split(path);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.parent()?, OsStr::from_bytes(last), flags, Mode::empty())
            .map_err(|error| failed("open", path, error))?;
        set_xattrs(fd.as_fd(), path, &entry.xattrs)
    }

    fn remove(&self, path: &[u8]) -> Result<()> {
        let (_, last) = name::split(path);
        yare_sys::fs::remove_tree_at(self.parent()?.as_fd(), OsStr::from_bytes(last))
            .map_err(|error| failed("remove", path, error))
    }

    /// Makes a file whose content comes now.
    pub(crate) fn create(&mut self, path: &[u8]) -> Result<File> {
        self.enter(path)?;
        let (_, last) = name::split(path);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::openat(self.parent()?, OsStr::from_bytes(last), flags, mode)
            .map_err(|error| failed("write", path, error))?;
        Ok(File::from(fd))
    }

    /// Gives a file that came its mode and time. Until then it differs from what was told.
    pub(crate) fn seal(&self, path: &[u8], file: &File) -> Result<()> {
        let Some((Entry { kind: Kind::File(_, time), mode, xattrs }, _)) = self.known.get(path) else {
            return Err(Error::internal("a file that was not told"));
        };
        set_xattrs(file.as_fd(), path, xattrs)?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(*mode))
            .map_err(|error| failed("set the mode of", path, error))?;
        let time = Timespec {
            tv_sec: i64::try_from(time.div_euclid(1_000_000_000)).unwrap_or_default(),
            tv_nsec: i64::try_from(time.rem_euclid(1_000_000_000)).unwrap_or_default(),
        };
        rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })
            .map_err(|error| failed("set the time of", path, error))
    }

    /// A second name of a file that came before.
    pub(crate) fn link(&mut self, path: &[u8], to: &[u8]) -> Result<()> {
        name::check(to)?;
        let told = matches!(self.known.get(to), Some((Entry { kind: Kind::File(..), .. }, true)));
        if !told {
            let to = String::from_utf8_lossy(to);
            return Err(Error::invalid(format!(
                "the client sent a hard link to {to:?}, which is no file of it"
            )));
        }
        self.enter(path)?;
        self.remove(path)?;
        let (directory, last) = name::split(to);
        let from = self.open_dir(directory).map_err(|error| failed("open the directory of", to, error))?;
        let (_, name) = name::split(path);
        rustix::fs::linkat(
            &from,
            OsStr::from_bytes(last),
            self.parent()?,
            OsStr::from_bytes(name),
            AtFlags::empty(),
        )
        .map_err(|error| failed("link", path, error))
    }

    /// Removes what the client did not tell, and gets ready for the next time.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let stale = self.known.iter().filter(|(_, (_, told))| !told).map(|(path, _)| path.clone());
        for path in stale.collect::<Vec<_>>() {
            let (directory, last) = name::split(&path);
            // With its directory it is gone already.
            match self.open_dir(directory) {
                Ok(fd) => yare_sys::fs::remove_tree_at(fd.as_fd(), OsStr::from_bytes(last))
                    .map_err(|error| failed("remove", &path, error))?,
                Err(error)
                    if matches!(
                        Errno::from_io_error(&error),
                        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                    ) => {}
                Err(error) => return Err(failed("open the directory of", &path, error)),
            }
        }
        self.known.retain(|_, (_, told)| std::mem::take(told));
        self.parent = None;
        Ok(())
    }
}

fn set_xattrs(fd: BorrowedFd<'_>, path: &[u8], wanted: &Xattrs) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let there = yare_sys::fs::xattrs(fd).map_err(|error| failed("read the attributes of", path, error))?;
    for (name, value) in wanted.iter().filter(|row| !there.contains(row)) {
        match yare_sys::fs::set_xattr(fd, name, value) {
            // A file system without them is no reason to refuse a context.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTSUP) => return Ok(()),
            set => set.map_err(|error| failed("set an attribute of", path, error))?,
        }
    }
    Ok(())
}

fn modified(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}
