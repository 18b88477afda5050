//! Two ways from layers to a root file system.

use crate::rootfs::clear_volatile_mark;
use crate::store::{Shared, furnish, make_dir};
use crate::{Change, Error, Result, Rootfs, changes};
use rustix::fs::Mode;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yare_layer::LayerError;
use yare_oci::{ChainId, DiffId};
use yare_sys::fs as files;

/// How layers become a container's root file system. Life cycle of a writable snapshot: `prepare`, then
/// `mounts` before every start, then `remove`. Layers are given bottom first, are in the store, and their
/// chain was settled.
pub trait Snapshotter: std::fmt::Debug + Send + Sync {
    /// Makes the writable snapshot `id` on top of the layers, with the places that a runtime mounts on.
    /// Nothing is mounted.
    fn prepare(&self, id: &str, layers: &[DiffId]) -> Result<()>;
    /// What to mount for the snapshot. After a crash of machine or engine it can be mounted again.
    fn mounts(&self, id: &str, layers: &[DiffId]) -> Result<Rootfs>;
    /// The snapshot as it is, read-only: no mark is left, and a start is in nobody's way.
    fn look(&self, id: &str, layers: &[DiffId]) -> Result<Rootfs>;
    /// The layers alone, read-only.
    fn view(&self, layers: &[DiffId]) -> Result<Rootfs>;
    /// The directory of a snapshot that takes what is written.
    fn upper(&self, id: &str) -> Result<PathBuf>;
    /// Bytes of content in that directory; walks it.
    fn usage(&self, id: &str) -> Result<u64>;
    /// What the snapshot changed of its layers.
    fn changes(&self, id: &str, layers: &[DiffId]) -> Result<Vec<Change>>;
    /// Removes the snapshot; one that is not there is no error.
    fn remove(&self, id: &str) -> Result<()>;
}

fn active(shared: &Shared, id: &str) -> Result<PathBuf> {
    if id.is_empty() || id.len() > 200 || id.starts_with('.') || id.contains(['/', '\0']) {
        return Err(Error::Name(id.to_owned()));
    }
    Ok(shared.root.join("active").join(id))
}

fn existing(shared: &Shared, id: &str, part: &str) -> Result<PathBuf> {
    let path = active(shared, id)?.join(part);
    match rustix::fs::lstat(&path) {
        Ok(_) => Ok(path),
        Err(Errno::NOENT) => Err(Error::NotFound(id.to_owned())),
        Err(error) => Err(Error::io("stat", &path, error)),
    }
}

fn size_of(id: &str, path: &Path) -> Result<u64> {
    let dir = files::open_dir(path).map_err(|error| Error::io("open", path, error))?;
    yare_layer::tree_size(dir.as_fd()).map_err(|source| Error::Copy { id: id.to_owned(), source })
}

/// By overlayfs.
#[derive(Debug)]
pub(crate) struct Overlay {
    shared: Arc<Shared>,
}

impl Overlay {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The directories below a container's writable one, top first.
    fn below(&self, layers: &[DiffId]) -> Result<Vec<PathBuf>> {
        let mut dirs = self.shared.lower_dirs(layers)?;
        dirs.push(self.shared.root.join("skeleton"));
        Ok(dirs)
    }
}

/// The upper directory is the root that the container sees: it takes owner, mode, times and attributes of
/// the topmost layer that lists its root.
pub(crate) fn adopt_root(shared: &Shared, upper: &Path, id: &str, layers: &[DiffId]) -> Result<()> {
    for layer in layers.iter().rev() {
        let info = shared.layer(layer)?;
        if info.root_listed {
            let path = shared.layer_dir(layer);
            let source = files::open_dir(&path).map_err(|error| Error::io("open", &path, error))?;
            let target = files::open_dir(upper).map_err(|error| Error::io("open", upper, error))?;
            return yare_layer::copy_metadata(source.as_fd(), &target)
                .map_err(|source| Error::Copy { id: id.to_owned(), source });
        }
        if info.root_opaque {
            break;
        }
    }
    rustix::fs::chmod(upper, Mode::from_raw_mode(0o755))
        .map_err(|error| Error::io("change the mode of", upper, error))
}

impl Snapshotter for Overlay {
    fn prepare(&self, id: &str, layers: &[DiffId]) -> Result<()> {
        let path = active(&self.shared, id)?;
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(Error::Exists(id.to_owned())),
            Err(error) => return Err(Error::io("make the directory", &path, error)),
        }
        let upper = path.join("upper");
        make_dir(&upper, 0o755)
            .and_then(|()| make_dir(&path.join("work"), 0o700))
            .and_then(|()| adopt_root(&self.shared, &upper, id, layers))
            .inspect_err(|_| drop(self.shared.discard(&path)))
    }

    fn mounts(&self, id: &str, layers: &[DiffId]) -> Result<Rootfs> {
        let upper = existing(&self.shared, id, "upper")?;
        let work = existing(&self.shared, id, "work")?;
        clear_volatile_mark(&work)?;
        Ok(Rootfs::Overlay { lower: self.below(layers)?, upper: Some(upper), work: Some(work) })
    }

    fn look(&self, id: &str, layers: &[DiffId]) -> Result<Rootfs> {
        let mut lower = vec![existing(&self.shared, id, "upper")?];
        lower.extend(self.below(layers)?);
        Ok(Rootfs::Overlay { lower, upper: None, work: None })
    }

    fn view(&self, layers: &[DiffId]) -> Result<Rootfs> {
        let mut lower = self.shared.lower_dirs(layers)?;
        if lower.len() == 1 {
            // Overlay without an upper directory wants at least two, and no two the same.
            lower.push(self.shared.root.join("nothing"));
        }
        Ok(Rootfs::Overlay { lower, upper: None, work: None })
    }

    fn upper(&self, id: &str) -> Result<PathBuf> {
        existing(&self.shared, id, "upper")
    }

    fn usage(&self, id: &str) -> Result<u64> {
        size_of(id, &self.upper(id)?)
    }

    fn changes(&self, id: &str, layers: &[DiffId]) -> Result<Vec<Change>> {
        changes::of(&self.upper(id)?, &self.below(layers)?)
    }

    fn remove(&self, id: &str) -> Result<()> {
        self.shared.discard(&active(&self.shared, id)?)
    }
}

/// By copying every layer.
#[derive(Debug)]
pub(crate) struct Copied {
    shared: Arc<Shared>,
}

impl Copied {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Makes `<target>/root` (and nothing when that fails) out of the layers.
    fn flatten(&self, id: &str, layers: &[DiffId], target: &Path) -> Result<()> {
        let temporary = self.shared.new_temporary()?;
        let made = (|| {
            let root = temporary.join("root");
            make_dir(&root, 0o755)?;
            let dir = files::open_dir(&root).map_err(|error| Error::io("open", &root, error))?;
            let mut first = 0;
            for (index, layer) in layers.iter().enumerate() {
                if self.shared.layer(layer)?.root_opaque {
                    first = index;
                }
            }
            for layer in layers.iter().skip(first) {
                let (info, path) = (self.shared.layer(layer)?, self.shared.layer_dir(layer));
                let source = files::open_dir(&path).map_err(|error| Error::io("open", &path, error))?;
                yare_layer::merge_layer(
                    source.as_fd(),
                    dir.as_fd(),
                    info.root_listed,
                    &info.implied_dirs,
                    &info.lower_links,
                )
                .map_err(|source: LayerError| Error::Copy { id: id.to_owned(), source })?;
            }
            self.shared.note_layers(&temporary, layers)?;
            rustix::fs::rename(&temporary, target).map_err(|error| Error::io("commit", target, error))
        })();
        if made.is_err() {
            self.shared.discard(&temporary)?;
        }
        made
    }
}

impl Snapshotter for Copied {
    fn prepare(&self, id: &str, layers: &[DiffId]) -> Result<()> {
        let path = active(&self.shared, id)?;
        if path.exists() {
            return Err(Error::Exists(id.to_owned()));
        }
        self.flatten(id, layers, &path)?;
        furnish(&path.join("root")).inspect_err(|_| drop(self.shared.discard(&path)))
    }

    fn mounts(&self, id: &str, _layers: &[DiffId]) -> Result<Rootfs> {
        Ok(Rootfs::Bind(self.upper(id)?))
    }

    fn look(&self, id: &str, _layers: &[DiffId]) -> Result<Rootfs> {
        Ok(Rootfs::Bind(self.upper(id)?))
    }

    fn view(&self, layers: &[DiffId]) -> Result<Rootfs> {
        let Some(chain) = ChainId::of(layers) else {
            return Ok(Rootfs::Bind(self.shared.root.join("empty")));
        };
        let path = self.shared.root.join("views").join(chain.hex());
        if !path.exists() {
            self.flatten(&chain.hex(), layers, &path).or_else(|error| {
                // Somebody else was faster.
                if path.exists() { Ok(()) } else { Err(error) }
            })?;
        }
        Ok(Rootfs::Bind(path.join("root")))
    }

    fn upper(&self, id: &str) -> Result<PathBuf> {
        existing(&self.shared, id, "root")
    }

    fn usage(&self, id: &str) -> Result<u64> {
        size_of(id, &self.upper(id)?)
    }

    fn changes(&self, _id: &str, _layers: &[DiffId]) -> Result<Vec<Change>> {
        Err(Error::Unimplemented("the changes of a copied snapshot"))
    }

    fn remove(&self, id: &str) -> Result<()> {
        self.shared.discard(&active(&self.shared, id)?)
    }
}
