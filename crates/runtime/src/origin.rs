//! Where a mount comes from when its source alone does not say it: a part of a directory, or a tree without a
//! place.

use crate::error::{Result, StartError, Step};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use yare_oci::runtime::IdMap;
use yare_sys::fs as files;
use yare_sys::mount::{clone_tree, clone_within};

/// Where one mount of a specification comes from.
#[derive(Debug)]
pub struct Origin {
    /// Destination of the mount.
    pub destination: String,
    /// A detached mount that is taken instead of the source, which then only is its name in errors.
    pub tree: Option<OwnedFd>,
    /// What is mounted of source or tree, relative to it; empty for all of it. Links on the way are followed,
    /// but never out of it.
    pub subpath: String,
    /// How owners appear; instead of the specification's mappings.
    pub id_map: Option<IdMap>,
}

/// The origin of the mount at `destination`, if it has one.
pub(crate) fn of<'a>(origins: &'a [Origin], destination: &str) -> Option<&'a Origin> {
    origins.iter().find(|origin| origin.destination == destination)
}

impl Origin {
    /// A clone of the part of `source` that is meant. What happens to the path after its parts were opened
    /// changes nothing any more.
    pub(crate) fn clone_part(&self, source: &str, recursive: bool) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, source, flags | OFlags::DIRECTORY, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|base| files::open_within(base.as_fd(), &self.subpath, flags, Mode::empty()))
            .and_then(|part| clone_tree(&part, c"", recursive))
            .map_err(|error| self.refused(source, error))
    }

    /// The part of a tree that is meant. The calling thread's mount namespace must be private.
    pub(crate) fn narrow(&self, tree: OwnedFd, source: &str) -> Result<OwnedFd> {
        if self.subpath.is_empty() {
            return Ok(tree);
        }
        clone_within(&tree, &self.subpath, true).map_err(|error| self.refused(source, error))
    }

    /// Docker's texts.
    fn refused(&self, source: &str, error: io::Error) -> StartError {
        let subpath = &self.subpath;
        match Errno::from_io_error(&error) {
            Some(Errno::XDEV | Errno::LOOP) => StartError::invalid(
                Step::Mounts,
                format!("path concatenation escapes the base directory, base: {source}, subpath: {subpath}"),
            )
            .with_hint("a symbolic link on the way is absolute or leads out; name what it points to"),
            Some(Errno::NOENT | Errno::NOTDIR) => StartError::invalid(
                Step::Mounts,
                format!("cannot access path {source}/{subpath}: {}", crate::error::reason(&error)),
            )
            .with_hint("only a path that is there can be mounted; make it in a container that has all of it"),
            _ => StartError::io(Step::Mounts, format!("cannot bind {source}/{subpath}"), error),
        }
    }
}
