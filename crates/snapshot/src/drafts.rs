//! Layers that have no hash yet: what a build step changed.
//!
//! A step's upper directory becomes a draft by one rename, and the next step starts on top of it at once.
//! Its DiffID is computed when somebody asks for it; the layer of that name is then a link to the draft, so
//! that no path that a running step uses ever moves. A draft lives as long as its holder (the build cache)
//! wants it or a layer is a link to it.

use crate::layers::{LayerInfo, META};
use crate::merged::{Dirs, Merged, Node};
use crate::rootfs::Rootfs;
use crate::store::{Shared, Snapshots, make_dir, names};
use crate::{Error, Result};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use yare_layer::{Form, WriteOptions};
use yare_oci::DiffId;
use yare_sys::fs::{self as files, Durability};

/// Names a draft: a random word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DraftId(String);

impl DraftId {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Result<Self> {
        let good = !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if good { Ok(Self(text.to_owned())) } else { Err(Error::Name(text.to_owned())) }
    }

    fn new() -> Self {
        let unique = files::unique_name("d-");
        Self(
            unique
                .bytes()
                .map(|byte| if byte.is_ascii_alphanumeric() { byte as char } else { '-' })
                .collect(),
        )
    }
}

impl fmt::Display for DraftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DraftId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<DraftId> for String {
    fn from(id: DraftId) -> Self {
        id.0
    }
}

/// What a build step stands on: layers of an image, and drafts above them; both bottom first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stack {
    /// Layers of the image at the bottom.
    pub layers: Vec<DiffId>,
    /// What steps made above them.
    pub drafts: Vec<DraftId>,
}

/// A draft that is being made; it vanishes when dropped before [`PendingDraft::keep`].
#[derive(Debug)]
pub struct PendingDraft {
    shared: Arc<Shared>,
    temporary: PathBuf,
    lower: Vec<PathBuf>,
    kept: bool,
}

impl PendingDraft {
    /// What to mount to work on it.
    pub fn rootfs(&self) -> Rootfs {
        Rootfs::Overlay { lower: self.lower.clone(), upper: Some(self.upper()), work: Some(self.work()) }
    }

    /// The directory that takes the changes.
    pub fn upper(&self) -> PathBuf {
        self.temporary.join("fs")
    }

    /// Overlay's own directory beside it.
    pub fn work(&self) -> PathBuf {
        self.temporary.join("work")
    }

    /// Keeps a note beside the files, for [`Snapshots::note`].
    pub fn put_note(&self, name: &str, note: &[u8]) -> Result<()> {
        write_note(&self.temporary, name, note)
    }

    /// Makes it a draft. ● The rename is the commit point; nothing is synced.
    pub fn keep(mut self) -> Result<DraftId> {
        self.shared.discard(&self.work())?;
        let id = DraftId::new();
        let target = self.shared.draft_path(&id);
        self.shared.hold(&id);
        rustix::fs::rename(&self.temporary, &target).map_err(|error| Error::io("keep", target, error))?;
        self.kept = true;
        Ok(id)
    }
}

impl Drop for PendingDraft {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.shared.discard(&self.temporary)
        {
            tracing::debug!(%error, "an abandoned draft stays until the next start");
        }
    }
}

/// What is at a path of a stack, on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory: the real ones that are merged there, the topmost first.
    Dirs(Vec<PathBuf>),
    /// Anything else.
    File(PathBuf),
}

/// Which drafts somebody holds. Before the holder has said it, all are.
#[derive(Debug, Default)]
pub(crate) struct Held(Option<HashSet<DraftId>>);

impl Shared {
    pub(crate) fn draft_path(&self, id: &DraftId) -> PathBuf {
        self.root.join("drafts").join(&id.0)
    }

    fn hold(&self, id: &DraftId) {
        if let Some(held) = &mut self.held.lock().unwrap_or_else(PoisonError::into_inner).0 {
            held.insert(id.clone());
        }
    }

    fn is_held(&self, id: &DraftId) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.0.as_ref().is_none_or(|held| held.contains(id))
    }

    /// The draft that a layer is a link to.
    pub(crate) fn draft_of(&self, layer: &DiffId) -> Option<DraftId> {
        let target = std::fs::read_link(self.layer_path(layer)).ok()?;
        DraftId::parse(target.file_name()?.to_str()?).ok()
    }

    /// Removes a draft that neither its holder nor a layer wants any more.
    pub(crate) fn drop_draft(&self, id: &DraftId) -> Result<()> {
        if self.is_held(id) || self.layer_on(id).is_some() {
            return Ok(());
        }
        self.discard_made_of("deep", &id.0)?;
        self.discard(&self.draft_path(id))
    }

    /// The layer that is a link to this draft.
    fn layer_on(&self, id: &DraftId) -> Option<DiffId> {
        let info = self.draft_info(id).ok()??;
        (self.draft_of(&info.diff_id).as_ref() == Some(id)).then_some(info.diff_id)
    }

    fn draft_info(&self, id: &DraftId) -> Result<Option<LayerInfo>> {
        let path = self.draft_path(id).join(META);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| Error::Format { path, reason: error.to_string() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    fn stack_dirs(&self, stack: &Stack) -> Result<Vec<PathBuf>> {
        let mut dirs: Vec<PathBuf> =
            stack.drafts.iter().rev().map(|draft| self.draft_path(draft).join("fs")).collect();
        if dirs.is_empty() || !stack.layers.is_empty() {
            dirs.extend(self.chain_dirs(&stack.layers)?);
        }
        self.within_limit(if stack.drafts.is_empty() { dirs } else { distinct(dirs)? })
    }

    /// Names a draft whose hash is known: the layer becomes a link to it.
    fn link_layer(&self, id: &DraftId, info: &LayerInfo) -> Result<()> {
        let layer = self.layer_path(&info.diff_id);
        let target = Path::new("..").join("drafts").join(&id.0);
        match rustix::fs::symlink(&target, &layer) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(Error::io("commit", layer, error)),
        }
    }
}

fn note_name(name: &str) -> String {
    format!("note-{name}")
}

fn write_note(folder: &Path, name: &str, note: &[u8]) -> Result<()> {
    let name = note_name(name);
    files::atomic_write(folder, &name, note, Durability::Relaxed)
        .map_err(|error| Error::io("write", folder.join(&name), error))
}

/// Without directories that are there a second time, as for [`Shared::lower_dirs`]: an independent layer may
/// be copied twice, and a draft may be a layer of the base too.
fn distinct(dirs: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let mut seen = HashSet::with_capacity(dirs.len());
    let mut kept = Vec::with_capacity(dirs.len());
    for dir in dirs {
        let stat = rustix::fs::stat(&dir).map_err(|error| Error::io("stat", &dir, error))?;
        if seen.insert((stat.st_dev, stat.st_ino)) {
            kept.push(dir);
        }
    }
    Ok(kept)
}

impl Snapshots {
    /// Begins a draft on top of a stack.
    pub fn begin_draft(&self, stack: &Stack) -> Result<PendingDraft> {
        self.ensure_chain(&stack.layers)?;
        let lower = self.shared.stack_dirs(stack)?;
        let temporary = self.shared.new_temporary()?;
        let pending = PendingDraft { shared: Arc::clone(&self.shared), temporary, lower, kept: false };
        let upper = pending.upper();
        make_dir(&upper, 0o755)?;
        make_dir(&pending.work(), 0o700)?;
        self.adopt_stack_root(&upper, stack)?;
        Ok(pending)
    }

    /// The upper directory is the root that a step sees.
    fn adopt_stack_root(&self, upper: &Path, stack: &Stack) -> Result<()> {
        let Some(top) = stack.drafts.last() else {
            return crate::snapshotter::adopt_root(&self.shared, upper, "draft", &stack.layers);
        };
        let path = self.shared.draft_path(top).join("fs");
        let source = files::open_dir(&path).map_err(|error| Error::io("open", &path, error))?;
        let target = files::open_dir(upper).map_err(|error| Error::io("open", upper, error))?;
        yare_layer::copy_metadata(source.as_fd(), &target)
            .map_err(|source| Error::Copy { id: top.to_string(), source })
    }

    /// What to mount to read a stack.
    pub fn view_stack(&self, stack: &Stack) -> Result<Rootfs> {
        self.ensure_chain(&stack.layers)?;
        let mut lower = self.shared.stack_dirs(stack)?;
        if lower.len() == 1 {
            // Overlay without an upper directory wants at least two, and no two the same.
            lower.push(self.shared.root.join("nothing"));
        }
        Ok(Rootfs::Overlay { lower, upper: None, work: None })
    }

    /// A stack, mounted nowhere and read-only.
    pub fn stack_fd(&self, stack: &Stack) -> Result<OwnedFd> {
        self.view_stack(stack)?.mount()
    }

    /// Where on the disk a path of a stack is, links in it followed below the stack's root. `None` when
    /// nothing is there.
    pub fn place(&self, stack: &Stack, path: &str) -> Result<Option<Place>> {
        self.ensure_chain(&stack.layers)?;
        let merged = Merged::open(&self.shared.stack_dirs(stack)?)?;
        let real = |fd: &OwnedFd| {
            std::fs::read_link(files::proc_path(fd.as_fd())).map_err(|error| Error::io("find", path, error))
        };
        let all = |dirs: Dirs| dirs.iter().map(|dir| real(dir)).collect::<Result<Vec<_>>>().map(Place::Dirs);
        if path.split('/').all(|name| matches!(name, "" | ".")) {
            return all(merged.dirs(b"")?).map(Some);
        }
        match merged.follow(path.as_bytes())? {
            None | Some((Node::Missing, _)) => Ok(None),
            Some((Node::Dirs(dirs), _)) => all(dirs).map(Some),
            Some((Node::File { parent, .. }, name)) => {
                Ok(Some(Place::File(real(&parent)?.join(OsStr::from_bytes(&name)))))
            }
        }
    }

    /// Whether the hash of a draft is known.
    pub fn is_hashed(&self, id: &DraftId) -> bool {
        self.shared.draft_info(id).is_ok_and(|info| info.is_some())
    }

    /// The directory of a draft, in overlay form.
    pub fn draft_dir(&self, id: &DraftId) -> PathBuf {
        self.shared.draft_path(id).join("fs")
    }

    /// What was noted of a draft under a name. It goes with the draft.
    pub fn note(&self, id: &DraftId, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.shared.draft_path(id).join(note_name(name));
        match std::fs::read(&path) {
            Ok(note) => Ok(Some(note)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path, error)),
        }
    }

    /// Notes something of a draft. A power cut may leave a part of it.
    pub fn put_note(&self, id: &DraftId, name: &str, note: &[u8]) -> Result<()> {
        write_note(&self.shared.draft_path(id), name, note)
    }

    /// Whether the draft is there.
    pub fn has_draft(&self, id: &DraftId) -> bool {
        rustix::fs::lstat(self.draft_dir(id)).is_ok()
    }

    /// The layer that a draft is, if its hash was computed and the layer is there.
    pub fn named(&self, id: &DraftId) -> Result<Option<LayerInfo>> {
        let info = self.shared.draft_info(id)?;
        Ok(info.filter(|info| self.has_layer(&info.diff_id)))
    }

    /// Computes the hash of a draft, without naming it; for work beside the next step. What was computed
    /// once is kept.
    pub fn hash_draft(&self, id: &DraftId) -> Result<LayerInfo> {
        if let Some(info) = self.shared.draft_info(id)? {
            return Ok(info);
        }
        let path = self.draft_dir(id);
        let dir = files::open_dir(&path).map_err(|error| Error::io("open", &path, error))?;
        let options = WriteOptions { form: Form::Overlay, ..WriteOptions::default() };
        let written = yare_layer::write_tar(dir.as_fd(), std::io::sink(), &options)
            .map_err(|source| Error::Copy { id: id.to_string(), source })?;
        let info = LayerInfo {
            diff_id: written.diff_id,
            size: written.size,
            content: written.content,
            disk: written.size,
            files: written.entries,
            root_listed: false,
            root_opaque: false,
            implied_dirs: Vec::new(),
            lower_links: Vec::new(),
        };
        let folder = self.shared.draft_path(id);
        let text = serde_json::to_vec(&info).map_err(|error| Error::io("write", folder.join(META), error))?;
        files::atomic_write(&folder, META, &text, Durability::Relaxed)
            .map_err(|error| Error::io("write", folder.join(META), error))?;
        Ok(info)
    }

    /// Makes drafts layers, durably, with one `syncfs`: their hashes are computed where they are not known,
    /// and each layer becomes a link to its draft unless it was there already. The caller has leased the
    /// layers, or nobody else may remove them.
    pub fn name_drafts(&self, ids: &[DraftId]) -> Result<Vec<LayerInfo>> {
        let infos = ids.iter().map(|id| self.hash_draft(id)).collect::<Result<Vec<_>>>()?;
        let unnamed = infos.iter().any(|info| !self.has_layer(&info.diff_id));
        if unnamed {
            let root = &self.shared.root;
            files::syncfs(root).map_err(|error| Error::io("sync", root, error))?;
            for (id, info) in ids.iter().zip(&infos) {
                self.shared.link_layer(id, info)?;
                self.shared.remember(info.clone());
            }
            let layers = root.join("layers");
            files::sync_dir(&layers).map_err(|error| Error::io("sync", &layers, error))?;
        }
        Ok(infos)
    }

    /// Says which drafts are held, at start, and removes the others that no layer is a link to.
    pub fn sweep_drafts(&self, held: HashSet<DraftId>) -> Result<()> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(held);
        for name in names(&self.shared.root.join("drafts"))? {
            match DraftId::parse(&name) {
                Ok(id) => self.shared.drop_draft(&id)?,
                Err(_) => self.shared.discard(&self.shared.root.join("drafts").join(name))?,
            }
        }
        Ok(())
    }

    /// Its holder lets go of a draft. The space is free a while later, unless a layer is a link to it.
    pub fn release_draft(&self, id: &DraftId) -> Result<()> {
        if let Some(held) = &mut self.shared.held.lock().unwrap_or_else(PoisonError::into_inner).0 {
            held.remove(id);
        }
        self.shared.drop_draft(id)
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> Result<()> {
        files::syncfs(&self.shared.root).map_err(|error| Error::io("sync", &self.shared.root, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        assert!(DraftId::parse("d-1a").is_ok());
        for bad in ["", "..", "a/b", "a.b"] {
            assert!(DraftId::parse(bad).is_err(), "{bad}");
        }
        assert!(DraftId::parse(&DraftId::new().to_string()).is_ok());
    }
}
