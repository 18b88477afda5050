use crate::drafts::Held;
use crate::layers::{self, META, RECORD};
use crate::snapshotter::{Copied, Overlay};
use crate::trash::Trash;
use crate::{Change, Error, LayerInfo, PendingLayer, Result, Rootfs, Snapshotter, fixup, skeleton};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use yare_layer::{Applied, ApplyOptions, Form, LayerError, WriteOptions};
use yare_oci::{ChainId, DiffId, Digest};
use yare_sys::fs::{self as files, Durability};

/// The version of the format on the disk.
const VERSION: &str = "1";

const FOLDERS: [&str; 11] =
    ["layers", "fixups", "deep", "views", "active", "drafts", "tmp", "trash", "empty", "nothing", "skeleton"];

/// How snapshots are made of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By overlayfs; needs root.
    Overlay,
    /// By copying every layer; works anywhere.
    Copy,
}

/// The snapshot store: layers, and the snapshots made of them. One process opens it; within it, clones
/// share everything.
#[derive(Debug, Clone)]
pub struct Snapshots {
    pub(crate) shared: Arc<Shared>,
    snapshotter: Arc<dyn Snapshotter>,
}

/// The folder, and what is remembered about it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) root: PathBuf,
    pub(crate) trash: Trash,
    infos: RwLock<HashMap<DiffId, Arc<LayerInfo>>>,
    /// Held while a fixup is made.
    fixing: Mutex<()>,
    /// Held while the bottom of a deep chain is copied.
    copying: Mutex<()>,
    pub(crate) held: Mutex<Held>,
}

pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(mode))
        .map_err(|error| Error::io("make the directory", path, error))
}

fn ensure_dir(path: &Path) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(Error::io("make the directory", path, error)),
    }
}

/// Makes a directory a container's root as far as [`skeleton`] goes.
pub(crate) fn furnish(dir: &Path) -> Result<()> {
    let opened = files::open_dir(dir).map_err(|error| Error::io("open", dir, error))?;
    skeleton::furnish(opened.as_fd()).map_err(|error| Error::io("furnish", dir, error))
}

pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let failed = |error: std::io::Error| Error::io("list", dir, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            found.push(name);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn check_version(root: &Path) -> Result<()> {
    let path = root.join("version");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == VERSION => Ok(()),
        Ok(text) => Err(Error::Format {
            path,
            reason: format!("has format {:?}, this program knows {VERSION}", text.trim()),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            files::atomic_write(root, "version", format!("{VERSION}\n").as_bytes(), Durability::Synced)
                .map_err(|error| Error::io("write", &path, error))
        }
        Err(error) => Err(Error::io("read", &path, error)),
    }
}

impl Shared {
    fn open(root: &Path) -> Result<Self> {
        ensure_dir(root)?;
        check_version(root)?;
        for name in FOLDERS {
            ensure_dir(&root.join(name))?;
        }
        furnish(&root.join("skeleton"))?;
        let trash = root.join("trash");
        let trash = Trash::open(trash.clone()).map_err(|error| Error::io("open", &trash, error))?;
        let shared = Self {
            root: root.to_owned(),
            trash,
            infos: RwLock::default(),
            fixing: Mutex::default(),
            copying: Mutex::default(),
            held: Mutex::default(),
        };
        for name in names(&root.join("tmp"))? {
            shared.discard(&root.join("tmp").join(name))?;
        }
        Ok(shared)
    }

    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        self.trash.put(path).map_err(|error| Error::io("remove", path, error))
    }

    /// A new folder for something in the making.
    pub(crate) fn new_temporary(&self) -> Result<PathBuf> {
        let path = self.root.join("tmp").join(files::unique_name("new-"));
        make_dir(&path, 0o700)?;
        Ok(path)
    }

    pub(crate) fn layer_path(&self, layer: &DiffId) -> PathBuf {
        self.root.join("layers").join(layer.hex())
    }

    pub(crate) fn layer_dir(&self, layer: &DiffId) -> PathBuf {
        self.layer_path(layer).join("fs")
    }

    pub(crate) fn remember(&self, info: LayerInfo) -> Arc<LayerInfo> {
        let info = Arc::new(info);
        let mut infos = self.infos.write().unwrap_or_else(PoisonError::into_inner);
        infos.insert(info.diff_id, Arc::clone(&info));
        info
    }

    pub(crate) fn layer(&self, layer: &DiffId) -> Result<Arc<LayerInfo>> {
        if let Some(info) = self.infos.read().unwrap_or_else(PoisonError::into_inner).get(layer) {
            return Ok(Arc::clone(info));
        }
        let path = self.layer_path(layer).join(META);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::LayerNotFound(*layer));
            }
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let info: LayerInfo = serde_json::from_slice(&text)
            .map_err(|error| Error::Format { path, reason: error.to_string() })?;
        Ok(self.remember(info))
    }

    fn fixup_path(&self, layers: &[DiffId]) -> Option<PathBuf> {
        ChainId::of(layers).map(|chain| self.root.join("fixups").join(chain.hex()))
    }

    /// The directories of a chain (layers bottom first), top first; never empty.
    ///
    /// A layer may be in a chain twice (two steps that changed nothing are the same empty layer), but overlay
    /// takes a directory once only. The upper place counts: what the layer has and deletes hides all that the
    /// same layer further below could show or delete.
    pub(crate) fn chain_dirs(&self, layers: &[DiffId]) -> Result<Vec<PathBuf>> {
        let mut dirs = Vec::with_capacity(layers.len());
        let mut seen = HashSet::with_capacity(layers.len());
        for end in (1..=layers.len()).rev() {
            let chain = layers.get(..end).unwrap_or_default();
            let Some(layer) = chain.last() else { break };
            if !seen.insert(layer) {
                continue;
            }
            let info = self.layer(layer)?;
            if end > 1 && info.needs_fixup() {
                dirs.extend(self.fixup_path(chain).map(|path| path.join("fs")));
            }
            dirs.push(self.layer_dir(layer));
            if info.root_opaque {
                break;
            }
        }
        if dirs.is_empty() {
            dirs.push(self.root.join("empty"));
        }
        Ok(dirs)
    }

    /// [`Shared::chain_dirs`], no more than one overlay takes.
    pub(crate) fn lower_dirs(&self, layers: &[DiffId]) -> Result<Vec<PathBuf>> {
        self.within_limit(self.chain_dirs(layers)?)
    }

    pub(crate) fn one_tree_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.copying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ensure_chain(&self, layers: &[DiffId]) -> Result<()> {
        for end in 1..=layers.len() {
            let chain = layers.get(..end).unwrap_or_default();
            let (Some((layer, below)), Some(path)) = (chain.split_last(), self.fixup_path(chain)) else {
                continue;
            };
            let info = self.layer(layer)?;
            if below.is_empty() || info.root_opaque {
                if let Some((link, target)) = info.lower_links.first() {
                    return Err(Error::DanglingLink {
                        layer: *layer,
                        link: link.clone(),
                        target: target.clone(),
                    });
                }
                continue;
            }
            if !info.needs_fixup() || path.exists() {
                continue;
            }
            let _one_at_a_time = self.fixing.lock().unwrap_or_else(PoisonError::into_inner);
            if !path.exists() {
                self.make_fixup(&info, chain, &self.lower_dirs(below)?, &path)?;
            }
        }
        Ok(())
    }

    fn make_fixup(&self, info: &LayerInfo, chain: &[DiffId], below: &[PathBuf], target: &Path) -> Result<()> {
        let temporary = self.new_temporary()?;
        let fs = temporary.join("fs");
        let made = (|| {
            make_dir(&fs, 0o755)?;
            let dir = files::open_dir(&fs).map_err(|error| Error::io("open", &fs, error))?;
            fixup::build(dir.as_fd(), info, &self.layer_dir(&info.diff_id), below)?;
            self.note_layers(&temporary, chain)?;
            files::syncfs(&self.root).map_err(|error| Error::io("sync", &self.root, error))?;
            rustix::fs::rename(&temporary, target).map_err(|error| Error::io("commit", target, error))
        })();
        if made.is_err() {
            self.discard(&temporary)?;
        }
        made
    }

    /// Writes down of which layers something was made.
    pub(crate) fn note_layers(&self, dir: &Path, layers: &[DiffId]) -> Result<()> {
        self.note_names(dir, &layers.iter().map(|layer| layer.hex()).collect::<Vec<_>>())
    }

    /// The same, for layers and drafts.
    pub(crate) fn note_names(&self, dir: &Path, names: &[impl AsRef<str>]) -> Result<()> {
        let text: String = names.iter().flat_map(|name| [name.as_ref(), "\n"]).collect();
        files::atomic_write(dir, "layers", text.as_bytes(), Durability::Relaxed)
            .map_err(|error| Error::io("write", dir.join("layers"), error))
    }

    /// Removes everything in a folder of things made of layers that was made of this one.
    pub(crate) fn discard_made_of(&self, folder: &str, layer: &str) -> Result<()> {
        let folder = self.root.join(folder);
        for name in names(&folder)? {
            let path = folder.join(name);
            let noted = std::fs::read_to_string(path.join("layers")).unwrap_or_default();
            if noted.lines().any(|line| line == layer) {
                self.discard(&path)?;
            }
        }
        Ok(())
    }

    fn remove_layer(&self, layer: &DiffId) -> Result<()> {
        self.infos.write().unwrap_or_else(PoisonError::into_inner).remove(layer);
        for folder in ["fixups", "deep", "views"] {
            self.discard_made_of(folder, &layer.hex())?;
        }
        let draft = self.draft_of(layer);
        self.discard(&self.layer_path(layer))?;
        draft.map_or(Ok(()), |draft| self.drop_draft(&draft))
    }
}

impl Snapshots {
    /// Opens the store below `root`, made when missing, and sweeps what an earlier process left: unfinished
    /// layers, and the trash.
    pub fn open(root: &Path, kind: Kind) -> Result<Self> {
        let shared = Arc::new(Shared::open(root)?);
        let snapshotter: Arc<dyn Snapshotter> = match kind {
            Kind::Overlay => Arc::new(Overlay::new(Arc::clone(&shared))),
            Kind::Copy => Arc::new(Copied::new(Arc::clone(&shared))),
        };
        Ok(Self { shared, snapshotter })
    }

    /// Starts a layer: a temporary directory to apply into.
    pub fn begin_layer(&self) -> Result<PendingLayer> {
        PendingLayer::begin(Arc::clone(&self.shared))
    }

    /// Commits several layers with one `syncfs`, in order; those that are there already stay.
    pub fn commit_layers(&self, layers: Vec<(PendingLayer, Applied)>) -> Result<Vec<LayerInfo>> {
        layers::commit(&self.shared, layers)
    }

    /// Whether the store has the layer.
    pub fn has_layer(&self, layer: &DiffId) -> bool {
        self.shared.layer(layer).is_ok()
    }

    /// What is known about a layer.
    pub fn layer(&self, layer: &DiffId) -> Result<Arc<LayerInfo>> {
        self.shared.layer(layer)
    }

    /// The layer's directory, in overlay form. Not to be changed.
    pub fn layer_dir(&self, layer: &DiffId) -> PathBuf {
        self.shared.layer_dir(layer)
    }

    /// The record of the layer's tar, if one was written.
    pub fn layer_record(&self, layer: &DiffId) -> Result<Option<File>> {
        let path = self.shared.layer_path(layer).join(RECORD);
        match rustix::fs::open(&path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Error::io("open", &path, error)),
        }
    }

    /// Writes the layer's tar, the original bytes: from its record, or, for a layer that
    /// [`yare_layer::write_tar`] described, by writing it again. An error, after the bytes were written,
    /// when they are not those of the DiffID.
    pub fn export_layer(&self, layer: &DiffId, writer: &mut dyn Write) -> Result<()> {
        self.shared.layer(layer)?;
        let path = self.layer_dir(layer);
        let dir = files::open_dir(&path).map_err(|error| Error::io("open", &path, error))?;
        let written = match self.layer_record(layer)? {
            Some(record) => yare_layer::rebuild_tar(dir.as_fd(), record, writer),
            None => {
                let options = WriteOptions { form: Form::Overlay, ..WriteOptions::default() };
                yare_layer::write_tar(dir.as_fd(), writer, &options).map(|written| written.diff_id)
            }
        };
        let written = written.map_err(|source| Error::Copy { id: layer.to_string(), source })?;
        if written != *layer {
            return Err(Error::Format { path, reason: format!("gives {written} instead of {layer}") });
        }
        Ok(())
    }

    /// All layers, sorted.
    pub fn layers(&self) -> Result<Vec<DiffId>> {
        let names = names(&self.shared.root.join("layers"))?;
        Ok(names.iter().filter_map(|name| Digest::from_hex(name).ok().map(DiffId)).collect())
    }

    /// Removes a layer, and fixups of chains with it. One that is not there is no error. The space is free
    /// a while later.
    pub fn remove_layer(&self, layer: &DiffId) -> Result<()> {
        self.shared.remove_layer(layer)
    }

    /// Settles once what the layers of this chain (bottom first) leave to those below them. To be called
    /// before the chain's first use; cheap when there is nothing to do.
    pub fn ensure_chain(&self, layers: &[DiffId]) -> Result<()> {
        self.shared.ensure_chain(layers)
    }

    /// The snapshotter, for its own functions and for doubles.
    pub fn snapshotter(&self) -> &Arc<dyn Snapshotter> {
        &self.snapshotter
    }

    /// Makes the writable snapshot `id` on top of the layers (bottom first). Nothing is mounted.
    pub fn prepare(&self, id: &str, layers: &[DiffId]) -> Result<()> {
        self.shared.ensure_chain(layers)?;
        self.snapshotter.prepare(id, layers)
    }

    /// What to mount for the snapshot, now.
    pub fn mounts(&self, id: &str, layers: &[DiffId]) -> Result<Rootfs> {
        self.snapshotter.mounts(id, layers)
    }

    /// The layers alone, read-only.
    pub fn view(&self, layers: &[DiffId]) -> Result<Rootfs> {
        self.shared.ensure_chain(layers)?;
        self.snapshotter.view(layers)
    }

    /// The writable directory of the snapshot.
    pub fn upper(&self, id: &str) -> Result<PathBuf> {
        self.snapshotter.upper(id)
    }

    /// All writable snapshots, sorted.
    pub fn snapshots(&self) -> Result<Vec<String>> {
        names(&self.shared.root.join("active"))
    }

    /// Bytes of content that the snapshot has beyond its layers; walks it.
    pub fn usage(&self, id: &str) -> Result<u64> {
        self.snapshotter.usage(id)
    }

    /// What the snapshot changed of its layers, sorted by path, as `docker diff` lists it.
    pub fn changes(&self, id: &str, layers: &[DiffId]) -> Result<Vec<Change>> {
        self.snapshotter.changes(id, layers)
    }

    /// Makes a layer of what the snapshot changed. What writes to it meanwhile may be seen or not. The caller
    /// commits what is returned.
    pub fn capture(&self, id: &str) -> Result<(PendingLayer, Applied)> {
        let upper = self.snapshotter.upper(id)?;
        let source = files::open_dir(&upper).map_err(|error| Error::io("open", &upper, error))?;
        let pending = self.begin_layer()?;
        let mut record = pending.record()?;
        let (reader, writer) =
            std::io::pipe().map_err(|error| Error::io("make a pipe for", &upper, error))?;
        let applied = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let writer = std::io::BufWriter::with_capacity(256 * 1024, writer);
                let options = WriteOptions { living: true, ..WriteOptions::default() };
                yare_layer::write_tar(source.as_fd(), writer, &options)
            });
            let options = ApplyOptions { record: Some(&mut record), ..ApplyOptions::default() };
            let applied = yare_layer::apply(reader, pending.dir(), options);
            let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (written, applied)
        });
        match applied {
            (Ok(_), Ok(applied)) => Ok((pending, applied)),
            (Err(source @ LayerError::Write(_)), Err(cause)) => {
                tracing::debug!(error = %source, "the tar was cut off");
                Err(Error::Apply(cause))
            }
            (Err(source), _) => Err(Error::Copy { id: id.to_owned(), source }),
            (Ok(_), Err(cause)) => Err(Error::Apply(cause)),
        }
    }

    /// Removes the snapshot; one that is not there is no error. The space is free a while later.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.snapshotter.remove(id)
    }

    /// The snapshot's file system, mounted nowhere: for reading and writing while nothing runs in it.
    pub fn tree_fd(&self, id: &str, layers: &[DiffId]) -> Result<OwnedFd> {
        self.snapshotter.mounts(id, layers)?.mount()
    }

    /// The snapshot's file system as it is, read-only, mounted nowhere. What is written to it meanwhile may be
    /// seen or not.
    pub fn look_fd(&self, id: &str, layers: &[DiffId]) -> Result<OwnedFd> {
        self.snapshotter.look(id, layers)?.mount()
    }

    /// The layers alone, mounted nowhere.
    pub fn view_fd(&self, layers: &[DiffId]) -> Result<OwnedFd> {
        self.view(layers)?.mount()
    }

    /// Waits until everything that was removed so far is gone from the disk.
    pub fn wait_for_trash(&self) {
        self.shared.trash.wait();
    }
}
