//! What overlayfs would show of a stack of layers, found without mounting them: which layer's real file
//! stands at a path.

use crate::{Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use yare_sys::fs as files;
use yare_sys::privilege::Privilege;

const MOST_LINKS: usize = 40;

/// The directories that are merged at one path, top first.
pub(crate) type Dirs = Vec<Rc<OwnedFd>>;

/// A stack of layer directories, top first.
pub(crate) struct Merged {
    roots: Dirs,
}

/// What stands at a name in a merged directory.
pub(crate) enum Node {
    Missing,
    Dirs(Dirs),
    /// No directory: the real directory that has it, and what it is.
    File {
        parent: Rc<OwnedFd>,
        stat: Box<Stat>,
    },
}

impl Node {
    fn is_link(&self) -> bool {
        matches!(self, Self::File { stat, .. } if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }
}

/// Whether a directory hides what the layers below have in it.
pub(crate) fn is_opaque(dir: &OwnedFd) -> std::io::Result<bool> {
    Ok(files::xattr(dir.as_fd(), Privilege::current().opaque_xattr())?.as_deref() == Some(b"y"))
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn io_error(operation: &'static str, name: &[u8]) -> impl Fn(std::io::Error) -> Error {
    let path = PathBuf::from(OsStr::from_bytes(name));
    move |error| Error::io(operation, &path, error)
}

impl Merged {
    /// Opens the layers' directories, top first.
    pub(crate) fn open(layers: &[PathBuf]) -> Result<Self> {
        let open = |path: &PathBuf| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map(Rc::new)
                .map_err(|error| Error::io("open", path, error))
        };
        Ok(Self { roots: layers.iter().map(open).collect::<Result<_>>()? })
    }

    /// Looks a name up in merged directories.
    pub(crate) fn lookup(dirs: &Dirs, name: &[u8]) -> Result<Node> {
        let mut merged: Dirs = Vec::new();
        for dir in dirs {
            let stat = match rustix::fs::statat(dir.as_ref(), name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(io_error("stat", name)(error.into())),
            };
            if is_whiteout(&stat) {
                break;
            }
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                if merged.is_empty() {
                    return Ok(Node::File { parent: Rc::clone(dir), stat: Box::new(stat) });
                }
                break;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let path = Path::new(OsStr::from_bytes(name));
            let fd = files::open_strict(dir.as_fd(), path, flags, Mode::empty())
                .map_err(io_error("open", name))?;
            let opaque = is_opaque(&fd).map_err(io_error("read an attribute of", name))?;
            merged.push(Rc::new(fd));
            if opaque {
                break;
            }
        }
        Ok(if merged.is_empty() { Node::Missing } else { Node::Dirs(merged) })
    }

    /// The names that merged directories show.
    pub(crate) fn names(dirs: &Dirs) -> Result<BTreeSet<Vec<u8>>> {
        let (mut shown, mut gone) = (BTreeSet::new(), BTreeSet::new());
        let failed = |error: Errno| Error::io("list", ".", error);
        for dir in dirs {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let listed = rustix::fs::openat(dir.as_ref(), ".", flags, Mode::empty()).map_err(failed)?;
            for entry in rustix::fs::Dir::new(listed).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." || shown.contains(name) || gone.contains(name) {
                    continue;
                }
                let stat =
                    rustix::fs::statat(dir.as_ref(), name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                if is_whiteout(&stat) { &mut gone } else { &mut shown }.insert(name.to_vec());
            }
        }
        Ok(shown)
    }

    /// The directories merged at a path, none of whose parts is taken for a link. Empty when there is no
    /// directory.
    pub(crate) fn dirs(&self, path: &[u8]) -> Result<Dirs> {
        let mut dirs = self.roots.clone();
        for name in names(path) {
            match Self::lookup(&dirs, name)? {
                Node::Dirs(found) => dirs = found,
                _ => return Ok(Vec::new()),
            }
        }
        Ok(dirs)
    }

    /// What stands at a path whose directories may be links.
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<Option<(Node, Vec<u8>)>> {
        self.walk(path, false)
    }

    /// The same, where a link at the end is followed too.
    pub(crate) fn follow(&self, path: &[u8]) -> Result<Option<(Node, Vec<u8>)>> {
        self.walk(path, true)
    }

    fn walk(&self, path: &[u8], follow: bool) -> Result<Option<(Node, Vec<u8>)>> {
        let mut ahead: VecDeque<Vec<u8>> = names(path).map(<[u8]>::to_vec).collect();
        let mut behind: Vec<Vec<u8>> = Vec::new();
        let mut dirs = self.roots.clone();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                behind.pop();
                dirs = self.dirs(&behind.join(&b'/'))?;
                continue;
            }
            match Self::lookup(&dirs, &name)? {
                Node::Missing => return Ok(None),
                node if ahead.is_empty() && !(follow && node.is_link()) => return Ok(Some((node, name))),
                Node::Dirs(found) => {
                    dirs = found;
                    behind.push(name);
                }
                Node::File { parent, stat } => {
                    links += 1;
                    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink || links > MOST_LINKS {
                        return Ok(None);
                    }
                    let target = rustix::fs::readlinkat(parent.as_ref(), name.as_slice(), Vec::new())
                        .map_err(|error| io_error("read link", &name)(error.into()))?
                        .into_bytes();
                    if target.first() == Some(&b'/') {
                        behind.clear();
                        dirs.clone_from(&self.roots);
                    }
                    for name in names(&target).rev() {
                        ahead.push_front(name.to_vec());
                    }
                }
            }
        }
        Ok(None)
    }
}

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}
