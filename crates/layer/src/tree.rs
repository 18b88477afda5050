//! The directory that a layer is applied into: names to descriptors, and what is settled at the end.
//!
//! A path of the tar is walked one name at a time. Each name is opened below its parent's descriptor
//! without following links (`openat2` with `RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS`); a link that is part of
//! the layer is read and expanded here, with the layer's directory as root. Directories found are kept in a
//! small cache by the path that led to them.

use crate::ApplyError;
use crate::metadata::Metadata;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, makedev};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use yare_sys::fs as files;
use yare_sys::privilege::Privilege;

/// The longest path inside a layer, in bytes.
const MOST_PATH: usize = 4000;
const MOST_LINKS: usize = 40;
/// Directories that stay open.
const CACHED: usize = 128;

/// An open directory of the layer and its path without links.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) fd: OwnedFd,
    pub(crate) path: Vec<u8>,
}

impl Place {
    /// The path of an entry in it.
    pub(crate) fn child(&self, name: &[u8]) -> Vec<u8> {
        join(&self.path, name)
    }
}

pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

#[derive(Debug, Clone)]
struct Directory {
    metadata: Metadata,
    listed: bool,
}

/// The directory of a layer while it is filled.
pub(crate) struct Tree<'a> {
    root: BorrowedFd<'a>,
    cache: HashMap<Vec<u8>, Rc<Place>>,
    /// By path; their metadata is set at the end, when nothing changes their times any more.
    directories: BTreeMap<Vec<u8>, Directory>,
    /// Links to files of lower layers: link to target.
    pub(crate) lower_links: BTreeMap<Vec<u8>, Vec<u8>>,
    unprivileged: bool,
    /// Of directories that no entry lists.
    pub(crate) implied: Metadata,
    opaque_xattr: &'static str,
    /// Entries made, and the most that may be.
    made: u64,
    limit: u64,
}

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occupant {
    Nothing,
    Whiteout,
    Directory,
    Symlink,
    Regular,
    Other,
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn failed(operation: &'static str, path: &[u8], source: impl Into<io::Error>) -> ApplyError {
    ApplyError::Io { operation, path: crate::tar::lossy(path), source: source.into() }
}

fn refused(path: &[u8], reason: impl Into<String>) -> ApplyError {
    ApplyError::Entry { path: crate::tar::lossy(path), reason: reason.into() }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

impl<'a> Tree<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>, unprivileged: bool, limit: u64) -> Self {
        let privilege = if unprivileged { Privilege::User } else { Privilege::current() };
        let opaque_xattr = privilege.opaque_xattr();
        Self {
            root,
            cache: HashMap::new(),
            directories: BTreeMap::new(),
            lower_links: BTreeMap::new(),
            unprivileged,
            implied: Metadata::implied(),
            opaque_xattr,
            made: 0,
            limit,
        }
    }

    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// Counts an entry against the limit.
    pub(crate) fn count(&mut self) -> Result<(), ApplyError> {
        self.made += 1;
        if self.made > self.limit {
            return Err(ApplyError::Limit { limit: self.limit, what: "entries" });
        }
        Ok(())
    }

    fn open_root(&self) -> Result<Rc<Place>, ApplyError> {
        let fd = files::open_strict(self.root, ".", OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .map_err(|error| failed("open the directory of", b"/", error))?;
        Ok(Rc::new(Place { fd, path: Vec::new() }))
    }

    /// The directory at a path that was made clean, with links inside the layer followed. Missing
    /// directories are made when `create` is set; otherwise the answer is `None`.
    pub(crate) fn directory(&mut self, path: &[u8], create: bool) -> Result<Option<Rc<Place>>, ApplyError> {
        if let Some(place) = self.cache.get(path) {
            return Ok(Some(Rc::clone(place)));
        }
        let mut current = self.open_root()?;
        let mut ahead: VecDeque<Vec<u8>> = VecDeque::new();
        push_components(&mut ahead, path);
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                let parent = current.path.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
                let parent = current.path.get(..parent).unwrap_or_default().to_vec();
                current = self.open_known(&parent)?;
                continue;
            }
            match self.step(&current, &name, create, path)? {
                Step::Into(place) => current = place,
                Step::Missing => return Ok(None),
                Step::Link(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(refused(path, "too many levels of symbolic links"));
                    }
                    if target.first() == Some(&b'/') {
                        current = self.open_root()?;
                    }
                    push_components(&mut ahead, &target);
                    if ahead.len() > MOST_PATH {
                        return Err(refused(path, "path too long"));
                    }
                }
            }
        }
        if self.cache.len() >= CACHED {
            self.cache.clear();
        }
        self.cache.insert(path.to_vec(), Rc::clone(&current));
        Ok(Some(current))
    }

    /// Opens a directory by its path without links.
    fn open_known(&self, path: &[u8]) -> Result<Rc<Place>, ApplyError> {
        if path.is_empty() {
            return self.open_root();
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd = files::open_strict(self.root, as_path(path), flags, Mode::empty())
            .map_err(|error| failed("open", path, error))?;
        Ok(Rc::new(Place { fd, path: path.to_vec() }))
    }

    fn step(
        &mut self,
        parent: &Rc<Place>,
        name: &[u8],
        create: bool,
        asked: &[u8],
    ) -> Result<Step, ApplyError> {
        let path = parent.child(name);
        if path.len() > MOST_PATH {
            return Err(refused(asked, "path too long"));
        }
        if let Some(place) = self.cache.get(&path).filter(|place| place.path == path) {
            return Ok(Step::Into(Rc::clone(place)));
        }
        match self.open_child(parent, name) {
            Ok(fd) => return Ok(Step::Into(Rc::new(Place { fd, path }))),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                _ => return Err(failed("open", &path, error)),
            },
        }
        match self.occupant(parent, name)? {
            Occupant::Symlink => {
                let target = rustix::fs::readlinkat(&parent.fd, name, Vec::new())
                    .map_err(|error| failed("read link", &path, error))?;
                return Ok(Step::Link(target.into_bytes()));
            }
            Occupant::Nothing | Occupant::Whiteout if !create => return Ok(Step::Missing),
            Occupant::Nothing | Occupant::Whiteout => {}
            _ => return Err(refused(asked, format!("{} is not a directory", crate::tar::lossy(&path)))),
        }
        self.make_directory(parent, name)?;
        self.count()?;
        self.directories.insert(path.clone(), Directory { metadata: self.implied.clone(), listed: false });
        let fd = self.open_child(parent, name).map_err(|error| failed("open", &path, error))?;
        Ok(Step::Into(Rc::new(Place { fd, path })))
    }

    fn open_child(&self, parent: &Place, name: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        files::open_strict(parent.fd.as_fd(), as_path(name), flags, Mode::empty())
    }

    /// What stands at the name, without following it.
    pub(crate) fn occupant(&self, parent: &Place, name: &[u8]) -> Result<Occupant, ApplyError> {
        let stat = match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Occupant::Nothing),
            Err(error) => return Err(failed("stat", &parent.child(name), error)),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Occupant::Directory,
            FileType::Symlink => Occupant::Symlink,
            FileType::RegularFile => Occupant::Regular,
            _ if is_whiteout(&stat) => Occupant::Whiteout,
            _ => Occupant::Other,
        })
    }

    /// Makes a directory where nothing or a whiteout is. In the latter case it hides what is below.
    fn make_directory(&mut self, parent: &Rc<Place>, name: &[u8]) -> Result<(), ApplyError> {
        let path = parent.child(name);
        let make = || rustix::fs::mkdirat(&parent.fd, name, Mode::RWXU);
        match make() {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(failed("make the directory", &path, error)),
        }
        self.unlink(parent, name)?;
        make().map_err(|error| failed("make the directory", &path, error))?;
        let fd = self.open_child(parent, name).map_err(|error| failed("open", &path, error))?;
        self.set_opaque(&fd, &path)
    }

    /// Makes or keeps the directory that the tar lists, and notes its metadata.
    pub(crate) fn list_directory(
        &mut self,
        parent: &Rc<Place>,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<(), ApplyError> {
        let path = parent.child(name);
        match rustix::fs::mkdirat(&parent.fd, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => match self.occupant(parent, name)? {
                Occupant::Directory => {}
                Occupant::Whiteout => self.make_directory(parent, name)?,
                _ => {
                    self.unlink(parent, name)?;
                    self.make_directory(parent, name)?;
                }
            },
            Err(error) => return Err(failed("make the directory", &path, error)),
        }
        self.lower_links.remove(&path);
        self.directories.insert(path, Directory { metadata, listed: true });
        Ok(())
    }

    /// Notes the metadata of the layer's root.
    pub(crate) fn list_root(&mut self, metadata: Metadata) {
        self.directories.insert(Vec::new(), Directory { metadata, listed: true });
    }

    /// Hides what the layers below have in this directory.
    pub(crate) fn set_opaque(&self, dir: &OwnedFd, path: &[u8]) -> Result<(), ApplyError> {
        files::set_xattr(dir.as_fd(), self.opaque_xattr.as_bytes(), b"y")
            .map_err(|error| failed("mark as opaque", path, error))
    }

    /// Hides a name of the layers below. What this layer itself has there stays and hides it already.
    pub(crate) fn white_out(&mut self, parent: &Rc<Place>, name: &[u8]) -> Result<(), ApplyError> {
        let path = parent.child(name);
        match self.occupant(parent, name)? {
            Occupant::Nothing => {
                let kind = FileType::CharacterDevice;
                rustix::fs::mknodat(&parent.fd, name, kind, Mode::empty(), makedev(0, 0))
                    .map_err(|error| failed("make the whiteout", &path, error))?;
                self.finish_special(parent, name, &Metadata::default(), true)
            }
            Occupant::Directory => {
                let fd = self.open_child(parent, name).map_err(|error| failed("open", &path, error))?;
                self.set_opaque(&fd, &path)
            }
            _ => Ok(()),
        }
    }

    /// Fails when something is mounted at the name: where that is in a namespace of others only, the kernel would
    /// take the mount away with the name.
    fn check_free(&self, parent: &Place, name: &[u8]) -> Result<(), ApplyError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(&parent.fd, name, flags, Mode::empty(), resolve) {
            Err(Errno::XDEV) => Err(failed("replace", &parent.child(name), Errno::BUSY)),
            _ => Ok(()),
        }
    }

    /// Removes what is at the name and is no directory.
    fn unlink(&mut self, parent: &Place, name: &[u8]) -> Result<(), ApplyError> {
        // A link may have led to directories in the cache.
        self.cache.clear();
        self.check_free(parent, name)?;
        rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty())
            .map_err(|error| failed("replace", &parent.child(name), error))
    }

    /// Removes what is at the name, with everything below it.
    pub(crate) fn clear(&mut self, parent: &Place, name: &[u8]) -> Result<(), ApplyError> {
        let path = parent.child(name);
        self.cache.clear();
        self.check_free(parent, name)?;
        files::remove_tree_at(parent.fd.as_fd(), as_path(name))
            .map_err(|error| failed("replace", &path, error))?;
        forget(&mut self.directories, &path);
        forget(&mut self.lower_links, &path);
        Ok(())
    }

    /// Notes that the layer has something of its own at a path.
    pub(crate) fn placed(&mut self, parent: &Place, name: &[u8]) {
        if !self.lower_links.is_empty() {
            self.lower_links.remove(&parent.child(name));
        }
    }

    /// Sets everything on an open regular file.
    pub(crate) fn finish_file(
        &self,
        file: &OwnedFd,
        path: &[u8],
        metadata: &Metadata,
    ) -> Result<(), ApplyError> {
        metadata
            .set_open(file, self.unprivileged)
            .map_err(|(operation, error)| failed(operation, path, error))
    }

    /// Sets everything on a link, device or fifo that was just made.
    pub(crate) fn finish_special(
        &self,
        parent: &Place,
        name: &[u8],
        metadata: &Metadata,
        is_link: bool,
    ) -> Result<(), ApplyError> {
        metadata
            .set_special(parent.fd.as_fd(), name, is_link, self.unprivileged)
            .map_err(|(operation, error)| failed(operation, &parent.child(name), error))
    }

    /// Sets the metadata of all directories, children first. Unless the tree owns its root, that is left
    /// as it is.
    pub(crate) fn finish(&mut self, own_root: bool) -> Result<Settled, ApplyError> {
        self.cache.clear();
        let mut implied = Vec::new();
        let mut root_listed = false;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let mut directories = std::mem::take(&mut self.directories);
        if own_root {
            let implied = Directory { metadata: Metadata::implied(), listed: false };
            directories.entry(Vec::new()).or_insert(implied);
        }
        for (path, directory) in directories.into_iter().rev() {
            let shown = if path.is_empty() { b"." } else { path.as_slice() };
            let fd = files::open_strict(self.root, as_path(shown), flags, Mode::empty())
                .map_err(|error| failed("open", shown, error))?;
            self.finish_file(&fd, shown, &directory.metadata)?;
            match directory.listed {
                true if path.is_empty() => root_listed = true,
                false if !path.is_empty() => implied.push(path),
                _ => {}
            }
        }
        implied.reverse();
        Ok(Settled { root_listed, implied })
    }
}

/// What is known of the directories at the end.
pub(crate) struct Settled {
    pub(crate) root_listed: bool,
    /// Those that the tar does not list, sorted.
    pub(crate) implied: Vec<Vec<u8>>,
}

enum Step {
    Into(Rc<Place>),
    Link(Vec<u8>),
    Missing,
}

/// Puts the names of a path before those that are still to be walked.
fn push_components(ahead: &mut VecDeque<Vec<u8>>, path: &[u8]) {
    for name in path.split(|byte| *byte == b'/').rev() {
        if !name.is_empty() && name != b"." {
            ahead.push_front(name.to_vec());
        }
    }
}

/// Drops a path and everything below it.
fn forget<T>(map: &mut BTreeMap<Vec<u8>, T>, path: &[u8]) {
    if map.is_empty() {
        return;
    }
    map.remove(path);
    let (first, end) = ([path, b"/"].concat(), [path, b"0"].concat());
    let below: Vec<Vec<u8>> = map.range(first..end).map(|(path, _)| path.clone()).collect();
    for path in below {
        map.remove(&path);
    }
}
