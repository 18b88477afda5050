//! What the layers of a chain leave to those below them.
//!
//! Layers are unpacked without knowing what lies below. Two things cannot be right then, and are put right
//! once a chain, in a small directory that goes above the layer's own:
//!
//! - a directory that the layer's tar does not list would hide owner, mode, times and attributes of the
//!   one below: the fixup has it again, with the metadata from below;
//! - a hard link to a file of a lower layer: the fixup has it, as a real hard link to that layer's file.

use crate::layers::LayerInfo;
use crate::merged::{Dirs, Merged, Node};
use crate::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use yare_layer::LayerError;
use yare_sys::fs as files;

/// Fills `dir` with the fixup of `layer`, whose directory is `layer_dir`, above `below` (top first).
pub(crate) fn build(
    dir: BorrowedFd<'_>,
    layer: &LayerInfo,
    layer_dir: &Path,
    below: &[PathBuf],
) -> Result<()> {
    let stack: Vec<PathBuf> = std::iter::once(layer_dir.to_owned()).chain(below.iter().cloned()).collect();
    let mut fixup = Fixup { dir, layer, whole: Merged::open(&stack)?, made: BTreeMap::new() };
    for implied in &layer.implied_dirs {
        if fixup.whole.dirs(bytes(implied))?.len() > 1 {
            fixup.directory(bytes(implied))?;
        }
    }
    if !layer.lower_links.is_empty() {
        let below = Merged::open(below)?;
        for (link, target) in &layer.lower_links {
            fixup.link(&below, link, target)?;
        }
    }
    fixup.finish()
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
    path.get(..slash).unwrap_or_default()
}

struct Fixup<'a> {
    dir: BorrowedFd<'a>,
    layer: &'a LayerInfo,
    /// The layer and those below it.
    whole: Merged,
    /// Directories of the fixup: path to the directory whose metadata they take.
    made: BTreeMap<Vec<u8>, std::rc::Rc<OwnedFd>>,
}

impl Fixup<'_> {
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let path = if path.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(path)) };
        files::open_strict(self.dir, path, flags | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|error| Error::io("open", path, error))
    }

    /// Makes a directory and its parents. All of them become the top of what is merged, so all of them need
    /// metadata: that of the layers below where this layer only implied the directory, else this layer's.
    fn directory(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() || self.made.contains_key(path) {
            return Ok(());
        }
        self.directory(parent(path))?;
        let shown = Path::new(OsStr::from_bytes(path));
        let above = self.open(parent(path), OFlags::PATH)?;
        let name = shown.file_name().unwrap_or_default();
        match rustix::fs::mkdirat(&above, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::io("make the directory", shown, error)),
        }
        let dirs: Dirs = self.whole.dirs(path)?;
        let implied = self.layer.implied_dirs.binary_search_by(|implied| bytes(implied).cmp(path)).is_ok();
        let source = dirs.get(usize::from(implied)).or(dirs.first());
        let source = source.ok_or_else(|| Error::io("find", shown, Errno::NOENT))?;
        self.made.insert(path.to_vec(), std::rc::Rc::clone(source));
        Ok(())
    }

    fn link(&mut self, below: &Merged, link: &Path, target: &Path) -> Result<()> {
        let dangling = || Error::DanglingLink {
            layer: self.layer.diff_id,
            link: link.to_owned(),
            target: target.to_owned(),
        };
        let (source, name) = match below.resolve(bytes(target))? {
            Some((Node::File { parent, .. }, name)) => (parent, name),
            _ => return Err(dangling()),
        };
        self.directory(parent(bytes(link)))?;
        let above = self.open(parent(bytes(link)), OFlags::PATH)?;
        let new = link.file_name().ok_or_else(dangling)?;
        rustix::fs::linkat(source.as_ref(), name.as_slice(), &above, new, AtFlags::empty())
            .map_err(|error| Error::io("make the hard link", link, error))
    }

    /// Sets the metadata, children first.
    fn finish(self) -> Result<()> {
        let failed = |path: &[u8], source: LayerError| Error::Copy {
            id: format!("fixup {}", String::from_utf8_lossy(path)),
            source,
        };
        for (path, source) in self.made.iter().rev() {
            let target = self.open(path, OFlags::RDONLY)?;
            yare_layer::copy_metadata(source.as_fd(), &target).map_err(|error| failed(path, error))?;
        }
        Ok(())
    }
}
