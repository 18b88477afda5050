use crate::store::Shared;
use crate::{Error, Result};
use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yare_layer::Applied;
use yare_oci::DiffId;
use yare_sys::fs::{self as files, Durability};

/// A committed layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// The hash of its tar.
    pub diff_id: DiffId,
    /// Bytes of its tar.
    pub size: u64,
    /// Bytes of file content, as Docker counts an image's size.
    pub content: u64,
    /// Bytes on the disk as counted while it was written.
    pub disk: u64,
    /// Entries.
    pub files: u64,
    /// Whether it settles owner, mode and times of `/`.
    pub root_listed: bool,
    /// Whether its `/` hides everything below.
    pub root_opaque: bool,
    /// Directories that take their metadata from below; sorted.
    pub implied_dirs: Vec<PathBuf>,
    /// Hard links to files below: (link, target); sorted.
    pub lower_links: Vec<(PathBuf, PathBuf)>,
}

impl LayerInfo {
    fn of(applied: &Applied) -> Self {
        Self {
            diff_id: applied.diff_id,
            size: applied.size,
            content: applied.content,
            disk: applied.disk,
            files: applied.files,
            root_listed: applied.root_listed,
            root_opaque: applied.root_opaque,
            implied_dirs: applied.implied_dirs.clone(),
            lower_links: applied.lower_links.clone(),
        }
    }

    /// Whether something must be settled with the layers below.
    pub(crate) fn needs_fixup(&self) -> bool {
        !self.implied_dirs.is_empty() || !self.lower_links.is_empty()
    }
}

/// A layer that is being made; it vanishes when dropped before [`PendingLayer::commit`].
#[derive(Debug)]
pub struct PendingLayer {
    shared: Arc<Shared>,
    /// What becomes the layer's folder.
    temporary: PathBuf,
    path: PathBuf,
    dir: OwnedFd,
    committed: bool,
}

impl PendingLayer {
    pub(crate) fn begin(shared: Arc<Shared>) -> Result<Self> {
        let temporary = shared.new_temporary()?;
        let path = temporary.join("fs");
        crate::store::make_dir(&path, 0o755)?;
        let dir = files::open_dir(&path).map_err(|error| Error::io("open", &path, error))?;
        Ok(Self { shared, temporary, path, dir, committed: false })
    }

    /// The empty directory to apply into.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that receives the record of the tar ([`yare_layer::ApplyOptions::record`]). To be called
    /// once at most.
    pub fn record(&self) -> Result<File> {
        let path = self.temporary.join(RECORD);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|error| Error::io("create", &path, error))
    }

    /// Makes it durable and visible: one `syncfs`, one rename. Idempotent: a layer with this DiffID that is
    /// there already stays, and this one is dropped.
    pub fn commit(self, applied: &Applied) -> Result<LayerInfo> {
        let shared = Arc::clone(&self.shared);
        let mut committed = commit(&shared, vec![(self, applied.clone())])?;
        committed.pop().ok_or(Error::LayerNotFound(applied.diff_id))
    }
}

impl Drop for PendingLayer {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = self.shared.trash.put(&self.temporary)
        {
            tracing::debug!(%error, "an abandoned layer stays until the next start");
        }
    }
}

/// The name of the record of a layer's tar.
pub(crate) const RECORD: &str = "tar-split";
pub(crate) const META: &str = "meta.json";

/// Makes layers durable with one `syncfs`, then visible. ● The rename of each is its commit point.
pub(crate) fn commit(shared: &Shared, pending: Vec<(PendingLayer, Applied)>) -> Result<Vec<LayerInfo>> {
    for (layer, applied) in &pending {
        let text = serde_json::to_vec(&LayerInfo::of(applied))
            .map_err(|error| Error::io("write", layer.temporary.join(META), error))?;
        files::atomic_write(&layer.temporary, META, &text, Durability::Relaxed)
            .map_err(|error| Error::io("write", layer.temporary.join(META), error))?;
    }
    files::syncfs(&shared.root).map_err(|error| Error::io("sync", &shared.root, error))?;
    let mut committed = Vec::new();
    for (mut layer, applied) in pending {
        let target = shared.layer_path(&applied.diff_id);
        match rustix::fs::renameat_with(
            rustix::fs::CWD,
            &layer.temporary,
            rustix::fs::CWD,
            &target,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => {
                layer.committed = true;
                committed.push(shared.remember(LayerInfo::of(&applied)).as_ref().clone());
            }
            Err(Errno::EXIST) => committed.push(shared.layer(&applied.diff_id)?.as_ref().clone()),
            Err(error) => return Err(Error::io("commit", target, error)),
        }
    }
    let layers = shared.root.join("layers");
    files::sync_dir(&layers).map_err(|error| Error::io("sync", &layers, error))?;
    Ok(committed)
}
