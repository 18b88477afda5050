//! The store itself: opening, reading, and the one way of changing it.

use crate::Database;
use crate::db::{self, Edits, ImageRecord};
use crate::failure::Lift;
use crate::gc;
use crate::image::{Image, ImageId};
use crate::index::{Freed, Index, distinct};
use crate::lease::{Lease, Leased};
use crate::platforms::ImageIndex;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use yare_errdefs::{Error, Result, chain};
use yare_oci::{ChainId, DiffId, Digest, ImageConfig, Platform, Reference};
use yare_snapshot::{Kind, Snapshots};

/// Up to so many documents are removed before the caller goes on.
const MANY: usize = 128;

/// The images of one engine. Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) database: Arc<Database>,
    pub(crate) content: yare_content::Store,
    pub(crate) snapshots: Snapshots,
    index: RwLock<Arc<Index>>,
    /// Held by whoever changes the store.
    writer: Mutex<()>,
    pub(crate) leased: Mutex<Leased>,
    touched: Mutex<HashSet<ImageId>>,
    /// What records refer to that could not be shown: kept, in case a later load mends the image.
    spared: gc::Marked,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("images", &self.index().images().count()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at `root` with overlay snapshots and removes what a crash left.
    pub fn open(root: &Path, database: Arc<Database>) -> Result<Self> {
        Self::open_with(root, database, Kind::Overlay)
    }

    /// The same with a given kind of snapshots.
    pub fn open_with(root: &Path, database: Arc<Database>, kind: Kind) -> Result<Self> {
        db::initialise(&database)?;
        let records = db::read_all(&database)?;
        std::fs::create_dir_all(root)
            .map_err(|error| Error::from(error).with_hint(format!("make {} writable", root.display())))?;
        let content = yare_content::Store::open(&root.join("content")).lift()?;
        let snapshots = Snapshots::open(&root.join("snapshots"), kind).lift()?;
        let present: HashSet<DiffId> = snapshots.layers().lift()?.into_iter().collect();
        sweep(&records, &content, &snapshots, &present)?;
        let (index, spared) = build_index(records, &content, &present);
        let inner = Inner {
            database,
            content,
            snapshots,
            index: RwLock::new(Arc::new(index)),
            writer: Mutex::new(()),
            leased: Mutex::default(),
            touched: Mutex::default(),
            spared,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The snapshotter that holds the layers of these images.
    pub fn snapshots(&self) -> &Snapshots {
        &self.inner.snapshots
    }

    /// The content store that holds their documents.
    pub fn content(&self) -> &yare_content::Store {
        &self.inner.content
    }

    pub(crate) fn index(&self) -> Arc<Index> {
        self.inner.index()
    }

    /// Finds an image by name, id or start of an id, and checks its platform where one is wanted.
    ///
    /// Not found has Docker's text: `No such image: busybox:latest`.
    pub fn resolve(&self, name_or_id: &str, platform: Option<&Platform>) -> Result<Arc<Image>> {
        self.index().resolve(name_or_id, platform)
    }

    /// The image of this id, detached ones included.
    pub fn image(&self, id: &ImageId) -> Option<Arc<Image>> {
        let index = self.index();
        index.image(id).or_else(|| index.detached_image(id)).cloned()
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Arc<Image>> {
        let mut images: Vec<_> = self.index().images().cloned().collect();
        images.sort_by(|a, b| b.dated().cmp(&a.dated()).then_with(|| a.id.cmp(&b.id)));
        images
    }

    /// How many images there are that have a row of their own in a list.
    pub fn count(&self) -> usize {
        let index = self.index();
        index.images().filter(|image| !index.is_hidden(image)).count()
    }

    /// Whether another image was made from this one by commit or build.
    pub fn has_children(&self, id: &ImageId) -> bool {
        self.index().has_children(id)
    }

    /// The exact bytes of an image's config.
    pub fn config_bytes(&self, id: &ImageId) -> Result<Vec<u8>> {
        self.inner.content.read(&id.0).lift()
    }

    /// Gives an image a name, and says which image lost it. Nothing happens when it has the name already.
    pub fn tag(&self, id: &ImageId, reference: &Reference) -> Result<Option<ImageId>> {
        if reference.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        let reference = reference.clone().or_latest();
        if reference.familiar_name() == "sha256" {
            return Err(Error::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
        }
        self.inner.edit(|draft| {
            if draft.index.image(id).is_none() {
                return Err(crate::index::no_such_image(&id.to_string()));
            }
            Ok(draft.tag(*id, &reference))
        })
    }

    /// Gives what a name or id stands for, all of its platforms, one more name. Returns the image that it
    /// shows.
    pub fn tag_as(&self, source: &str, reference: &Reference) -> Result<Arc<Image>> {
        let (image, Some(index)) = self.index().find(source)? else {
            let image = self.resolve(source, None)?;
            self.tag(&image.id, reference)?;
            return Ok(image);
        };
        let reference = reference.clone().or_latest();
        if reference.familiar_name() == "sha256" {
            return Err(Error::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
        }
        self.inner.edit(|draft| match draft.index.index(&index.digest) {
            Some(_) => Ok(draft.name_index(&reference, index.digest)),
            None => Err(crate::index::no_such_image(source)),
        })?;
        Ok(image)
    }

    /// Records that a registry knows an image by this `repository@digest`.
    pub fn add_digest(&self, id: &ImageId, reference: &Reference) -> Result<()> {
        self.inner.edit(|draft| {
            if draft.index.image(id).is_none() {
                return Err(crate::index::no_such_image(&id.to_string()));
            }
            if draft.index.named(reference) != Some(*id) {
                draft.add_digest(*id, reference);
            }
            Ok(())
        })
    }

    /// Records that a registry knows what a name stands for, all of its platforms, by this
    /// `repository@digest`.
    pub fn add_index_digest(&self, index: &Digest, reference: &Reference) -> Result<()> {
        self.inner.edit(|draft| {
            if draft.index.index(index).is_some() {
                draft.name_index(reference, *index);
            }
            Ok(())
        })
    }

    /// The image that has exactly this name.
    pub fn named(&self, reference: &Reference) -> Option<Arc<Image>> {
        let index = self.index();
        index.named(reference).and_then(|id| index.image(&id).cloned())
    }

    /// All tags of a repository, with their images.
    pub fn tags_of(&self, repository: &Reference) -> Vec<(Reference, ImageId)> {
        self.index().tags_of(repository)
    }

    /// The exact bytes of an image's manifest.
    pub fn manifest_bytes(&self, image: &Image) -> Result<Vec<u8>> {
        self.inner.content.read(&image.manifest).lift()
    }

    /// Notes that this image is of use now: [`Image::last_used`]. Reaches the disk with the next change, or
    /// by [`Store::flush_last_used`].
    pub fn touch(&self, id: &ImageId) {
        if let Some(image) = self.image(id) {
            self.inner.note_use(&image);
        }
    }

    /// Writes the noted times with relaxed durability; for a timer, and at the end.
    pub fn flush_last_used(&self) -> Result<()> {
        let _writer = self.inner.writer.lock();
        let edits = Edits { last_used: self.inner.take_touched(&self.index()), ..Edits::default() };
        if edits.last_used.is_empty() {
            return Ok(());
        }
        db::write_relaxed(&self.inner.database, &edits)
    }

    /// A lease that protects nothing yet.
    pub fn lease(&self) -> Lease {
        Lease::new(Arc::clone(&self.inner))
    }

    /// Keeps an image from being removed while a container of it is being created.
    pub fn hold(&self, id: &ImageId, container: &str) -> Result<Lease> {
        let mut lease = self.lease();
        // In this order: an image that is removed meanwhile is doomed until the index shows it.
        if lease.image(*id, container) && self.index().image(id).is_some() {
            return Ok(lease);
        }
        Err(crate::index::no_such_image(&id.to_string()))
    }
}

impl Inner {
    pub(crate) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read())
    }

    /// Changes the store: `change` edits a draft, which is then made durable in one transaction and shown.
    /// An error of `change` leaves everything as it was.
    pub(crate) fn edit<T>(self: &Arc<Self>, change: impl FnOnce(&mut Draft) -> Result<T>) -> Result<T> {
        let writer = self.writer.lock();
        let mut draft = Draft::new((*self.index()).clone());
        let value = change(&mut draft)?;
        draft.used.iter().filter_map(|id| draft.index.image(id)).for_each(|image| self.note_use(image));
        if draft.is_unchanged() {
            return Ok(value);
        }
        let mut edits = draft.edits();
        edits.last_used.extend(self.take_touched(&draft.index));
        db::write(&self.database, &edits)?; // the commit point
        *self.index.write() = Arc::new(draft.index);
        drop(writer);
        self.collect(&draft.freed_layers, &draft.freed_blobs);
        Ok(value)
    }

    fn note_use(&self, image: &Image) {
        image.last_used.store(Timestamp::now().as_second(), Ordering::Relaxed);
        self.touched.lock().insert(image.id);
    }

    fn take_touched(&self, index: &Index) -> Vec<(ImageId, Option<i64>)> {
        let touched = std::mem::take(&mut *self.touched.lock());
        let second = |id: &ImageId| {
            let image = index.image(id).or_else(|| index.detached_image(id))?;
            Some(image.last_used.load(Ordering::Relaxed))
        };
        touched.into_iter().map(|id| (id, second(&id))).collect()
    }

    /// Removes those of these layers and documents that no image has and no lease protects.
    ///
    /// The lock on the leases is what makes this safe: whoever adds an image leases its parts before it
    /// looks for them, and until the image is in the index.
    pub(crate) fn collect(self: &Arc<Self>, layers: &[DiffId], blobs: &[Digest]) {
        for layer in layers {
            self.collect_layer(layer);
        }
        if blobs.len() <= MANY {
            blobs.iter().for_each(|blob| self.collect_blob(blob));
            return;
        }
        // A layer is only renamed; a document is unlinked, and nobody need wait for thousands of those.
        let (store, later) = (Arc::clone(self), blobs.to_vec());
        let work = move || later.iter().for_each(|blob| store.collect_blob(blob));
        if let Err(error) = std::thread::Builder::new().name("image-gc".into()).spawn(work) {
            tracing::warn!(%error, "documents that nothing uses stay until the next start");
        }
    }

    fn collect_layer(&self, layer: &DiffId) {
        let leased = self.leased.lock();
        let used = leased.has_layer(layer) || self.index().layer_users(layer) > 0;
        if used || self.spared.layers.contains(layer) || !self.snapshots.has_layer(layer) {
            return;
        }
        if let Err(error) = self.snapshots.remove_layer(layer) {
            tracing::warn!(%layer, error = %chain(&error), "cannot remove a layer that nothing uses");
        }
    }

    fn collect_blob(&self, blob: &Digest) {
        let leased = self.leased.lock();
        let used = leased.has_blob(blob) || self.index().has_blob(blob);
        if used || self.spared.blobs.contains(blob) {
            return;
        }
        if let Err(error) = self.content.delete(blob) {
            tracing::warn!(%blob, error = %chain(&error), "cannot remove a document that nothing uses");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let edits = Edits { last_used: self.take_touched(&self.index()), ..Edits::default() };
        if !edits.last_used.is_empty()
            && let Err(error) = db::write(&self.database, &edits)
        {
            tracing::warn!(error = %chain(&error), "cannot keep when images were last used");
        }
    }
}

/// A changed index, and which records differ because of it.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) index: Index,
    images: BTreeSet<ImageId>,
    names: BTreeSet<Reference>,
    layers: BTreeSet<DiffId>,
    indexes: BTreeSet<Digest>,
    /// Images that are of use by this change.
    used: BTreeSet<ImageId>,
    /// Images of indexes that are gone.
    pub(crate) orphans: Vec<ImageId>,
    pub(crate) freed_layers: Vec<DiffId>,
    pub(crate) freed_blobs: Vec<Digest>,
    pub(crate) reclaimed: u64,
}

impl Draft {
    pub(crate) fn new(index: Index) -> Self {
        Self {
            index,
            images: BTreeSet::new(),
            names: BTreeSet::new(),
            layers: BTreeSet::new(),
            indexes: BTreeSet::new(),
            used: BTreeSet::new(),
            orphans: Vec::new(),
            freed_layers: Vec::new(),
            freed_blobs: Vec::new(),
            reclaimed: 0,
        }
    }

    fn is_unchanged(&self) -> bool {
        self.images.is_empty() && self.names.is_empty() && self.layers.is_empty() && self.indexes.is_empty()
    }

    /// Adds an image, or takes an older picture of it out of the detached ones.
    pub(crate) fn insert(&mut self, image: Image, layers: &[(DiffId, db::LayerRecord)]) {
        self.images.insert(image.id);
        self.used.insert(image.id);
        self.layers.extend(layers.iter().map(|(layer, _)| *layer));
        self.index.insert(Arc::new(image), layers);
    }

    pub(crate) fn reattach(&mut self, id: &ImageId) {
        self.images.insert(*id);
        self.used.insert(*id);
        self.index.reattach(id);
    }

    /// Makes a name stand for this image alone.
    pub(crate) fn tag(&mut self, id: ImageId, reference: &Reference) -> Option<ImageId> {
        self.unlink(reference);
        self.show(id, reference)
    }

    /// Makes a name show an image.
    fn show(&mut self, id: ImageId, reference: &Reference) -> Option<ImageId> {
        self.used.insert(id);
        if self.index.named(reference) == Some(id) {
            return None;
        }
        let loser = self.index.tag(id, reference);
        // What lost its name a moment ago is not what nobody needed for long.
        self.used.extend(loser);
        self.index.update(&id, |image| image.tagged = Some(Timestamp::now()));
        self.images.insert(id);
        self.names.insert(reference.clone());
        loser
    }

    /// Makes a name or registry digest stand for an index, and show one of its images.
    pub(crate) fn name_index(&mut self, name: &Reference, digest: Digest) -> Option<ImageId> {
        if self.index.index_named(name).is_some_and(|old| old.digest != digest) {
            self.unlink(name);
        }
        self.names.insert(name.clone());
        self.index.link(name, digest);
        let shown = self.index.index(&digest).and_then(|index| self.index.shown(index))?.id;
        if name.digest().is_some() {
            self.add_digest(shown, name);
            return None;
        }
        self.show(shown, name)
    }

    /// Puts an index on record, beside what is here of it already; its names show the best image then.
    pub(crate) fn put_index(&mut self, mut index: ImageIndex) {
        let digest = index.digest;
        if let Some(known) = self.index.index(&digest) {
            index.present.extend(known.present.iter().map(|(manifest, id)| (*manifest, *id)));
            index.kept.extend(known.kept.iter().copied());
        }
        self.replace_index(index);
        for name in self.index.index_names(&digest) {
            self.name_index(&name, digest);
        }
    }

    fn replace_index(&mut self, index: ImageIndex) {
        self.indexes.insert(index.digest);
        let freed = self.index.put_index(index);
        self.freed_blobs.extend(freed);
    }

    /// Makes a name stand for no index. An index without names is gone, and its images are orphans.
    fn unlink(&mut self, name: &Reference) {
        let Some(digest) = self.index.unlink(name) else { return };
        self.names.insert(name.clone());
        if self.index.index_names(&digest).is_empty() {
            self.drop_index(&digest);
        }
    }

    fn drop_index(&mut self, digest: &Digest) {
        let Some(index) = self.index.index(digest).cloned() else { return };
        self.indexes.insert(*digest);
        self.orphans.extend(index.present.values());
        self.freed_blobs.extend(self.index.remove_index(digest));
    }

    /// Takes an image out of its indexes: their names show another one, or go with the last.
    pub(crate) fn leave_indexes(&mut self, id: &ImageId) {
        let indexes: Vec<Digest> = self.index.memberships(id).copied().collect();
        for digest in indexes {
            let Some(index) = self.index.index(&digest).cloned() else { continue };
            let mut rest = (*index).clone();
            rest.present.retain(|_, other| other != id);
            let names = self.index.index_names(&digest);
            if rest.present.is_empty() {
                names.iter().for_each(|name| self.unlink(name));
                self.drop_index(&digest);
                continue;
            }
            self.replace_index(rest);
            for name in &names {
                self.name_index(name, digest);
            }
        }
    }

    pub(crate) fn add_digest(&mut self, id: ImageId, reference: &Reference) {
        self.names.insert(reference.clone());
        self.index.add_digest(id, reference);
    }

    pub(crate) fn set_parent(&mut self, id: &ImageId, parent: ImageId) {
        self.images.insert(*id);
        self.index.update(id, |image| image.parent = Some(parent));
    }

    pub(crate) fn untag(&mut self, reference: &Reference) -> bool {
        self.unlink(reference);
        self.names.insert(reference.clone());
        self.index.untag(reference)
    }

    /// Takes an image away, or detaches it; returns the chains that nobody has any more, topmost first.
    pub(crate) fn delete(&mut self, id: &ImageId, detach: bool) -> Vec<ChainId> {
        self.leave_indexes(id);
        self.images.insert(*id);
        let freed = self.index.remove(id, detach);
        self.free(freed)
    }

    pub(crate) fn delete_detached(&mut self, id: &ImageId) {
        self.images.insert(*id);
        let freed = self.index.remove_detached(id);
        self.free(freed);
    }

    fn free(&mut self, freed: Freed) -> Vec<ChainId> {
        self.layers.extend(freed.layers.iter().map(|(layer, _)| *layer));
        self.freed_layers.extend(freed.layers.iter().map(|(layer, _)| *layer));
        self.reclaimed += freed.layers.iter().map(|(_, content)| content).sum::<u64>();
        self.freed_blobs.extend(freed.blobs);
        freed.chains
    }

    /// What the tables must become where they differ.
    fn edits(&self) -> Edits {
        let record = |id: &ImageId| {
            let attached = self.index.image(id).map(|image| (image, false));
            attached.or_else(|| self.index.detached_image(id).map(|image| (image, true))).map(
                |(image, detached)| ImageRecord {
                    manifest: image.manifest,
                    layers: image.layers.to_vec(),
                    kept: image.kept.to_vec(),
                    parent: image.parent,
                    built: image.built.map(|moment| moment.to_string()),
                    tagged: image.tagged.map(|moment| moment.to_string()),
                    detached,
                },
            )
        };
        let images: Vec<_> = self.images.iter().map(|id| (*id, record(id))).collect();
        let last_used =
            images.iter().filter(|(_, record)| record.is_none()).map(|(id, _)| (*id, None)).collect();
        Edits {
            images,
            names: self.names.iter().map(|name| (name.clone(), self.index.named(name))).collect(),
            layers: self.layers.iter().map(|layer| (*layer, self.index.layer(layer))).collect(),
            last_used,
            indexes: self.indexes.iter().map(|digest| (*digest, self.index_record(digest))).collect(),
            name_indexes: self.names.iter().map(|name| (name.clone(), self.index_of(name))).collect(),
        }
    }

    fn index_record(&self, digest: &Digest) -> Option<db::IndexRecord> {
        let index = self.index.index(digest)?;
        Some(db::IndexRecord { present: index.present.clone(), kept: index.kept.clone() })
    }

    fn index_of(&self, name: &Reference) -> Option<Digest> {
        self.index.index_named(name).map(|index| index.digest)
    }
}

/// Removes what no record refers to.
fn sweep(
    records: &db::Records,
    content: &yare_content::Store,
    snapshots: &Snapshots,
    present: &HashSet<DiffId>,
) -> Result<()> {
    let marked = gc::mark(records.images.iter().map(|(id, record)| gc::Root {
        id: *id,
        manifest: record.manifest,
        layers: &record.layers,
        kept: &record.kept,
    }));
    let marked =
        marked.indexes(records.indexes.iter().flat_map(|(digest, index)| index.blobs().chain([*digest])));
    for layer in marked.garbage_layers(present.iter().copied()) {
        tracing::info!(%layer, "removing a layer that was never finished or is no longer used");
        snapshots.remove_layer(&layer).lift()?;
    }
    for blob in marked.garbage_blobs(content.list().lift()?) {
        content.delete(&blob).lift()?;
    }
    Ok(())
}

/// Puts the records into memory. Images whose files are damaged are left out, and their parts spared.
fn build_index(
    records: db::Records,
    content: &yare_content::Store,
    present: &HashSet<DiffId>,
) -> (Index, gc::Marked) {
    let mut index = Index::default();
    let mut spared = gc::Marked::default();
    // Given to an image all at once: one after the other, each would copy and sort those before it.
    let (mut tags, mut digests) = (names_of(&records.tags), names_of(&records.digests));
    for (id, record) in &records.images {
        match read_image(*id, record, &records, content, present) {
            Ok((image, layers)) if record.detached => index.insert_detached(Arc::new(image), &layers),
            Ok((mut image, layers)) => {
                image.references = tags.remove(id).unwrap_or_default();
                image.digests = digests.remove(id).unwrap_or_default();
                index.insert(Arc::new(image), &layers);
            }
            Err(error) => {
                tracing::error!(image = %id, error = %chain(&error), "an image is damaged and not shown");
                let root = gc::Root {
                    id: *id,
                    manifest: record.manifest,
                    layers: &record.layers,
                    kept: &record.kept,
                };
                let kept = gc::mark([root]);
                spared.layers.extend(kept.layers);
                spared.blobs.extend(kept.blobs);
            }
        }
    }
    add_indexes(&mut index, &mut spared, &records, content);
    (index, spared)
}

/// The names of each image, sorted.
fn names_of(names: &[(Reference, ImageId)]) -> HashMap<ImageId, Vec<Reference>> {
    let mut by_image: HashMap<ImageId, Vec<Reference>> = HashMap::new();
    for (reference, id) in names {
        by_image.entry(*id).or_default().push(reference.clone());
    }
    by_image.values_mut().for_each(|names| names.sort());
    by_image
}

/// Puts the indexes into memory. The names of one that is damaged show the image that they showed.
fn add_indexes(
    index: &mut Index,
    spared: &mut gc::Marked,
    records: &db::Records,
    content: &yare_content::Store,
) {
    for (digest, record) in &records.indexes {
        let document =
            content.read(digest).lift().and_then(|bytes| crate::document::parse(&bytes, "the index"));
        match document {
            Ok(document) => {
                let mut present = record.present.clone();
                present.retain(|_, id| index.image(id).is_some());
                if present.len() < record.present.len() {
                    spared.blobs.extend(record.blobs());
                }
                let document = Arc::new(document);
                index.put_index(ImageIndex { digest: *digest, document, present, kept: record.kept.clone() });
            }
            Err(error) => {
                tracing::error!(index = %digest, error = %chain(&error), "an index is damaged and not shown");
                spared.blobs.extend(record.blobs().chain([*digest]));
            }
        }
    }
    for (name, digest) in &records.name_indexes {
        let Some(shown) = index.index(digest).and_then(|found| index.shown(found)) else { continue };
        index.link(name, *digest);
        match name.digest() {
            Some(_) => index.add_digest(shown.id, name),
            None => drop(index.tag(shown.id, name)),
        }
    }
}

type WithLayers = (Image, Vec<(DiffId, db::LayerRecord)>);

fn read_image(
    id: ImageId,
    record: &ImageRecord,
    records: &db::Records,
    content: &yare_content::Store,
    present: &HashSet<DiffId>,
) -> Result<WithLayers> {
    let bytes = content.read(&id.0).lift()?;
    let config: ImageConfig = serde_json::from_slice(&bytes)
        .map_err(|error| Error::internal(format!("cannot read the config of image {id}")).caused_by(error))?;
    if let Some(missing) = record.layers.iter().find(|layer| !present.contains(layer)) {
        return Err(Error::internal(format!("layer {missing} of image {id} is gone")));
    }
    let layers: Vec<_> = distinct(&record.layers)
        .into_iter()
        .map(|layer| (layer, records.layers.get(&layer).copied().unwrap_or_default()))
        .collect();
    let mut image = new_image(id, config, record.manifest, &record.layers, &layers);
    image.kept = record.kept.as_slice().into();
    image.parent =
        record.parent.filter(|parent| records.images.get(parent).is_some_and(|record| !record.detached));
    image.built = record.built.as_deref().and_then(|text| text.parse().ok());
    image.tagged = record.tagged.as_deref().and_then(|text| text.parse().ok());
    image.last_used = Arc::new(AtomicI64::new(records.last_used.get(&id).copied().unwrap_or_default()));
    Ok((image, layers))
}

/// An image without names from its parts; `sizes` has each distinct layer once.
pub(crate) fn new_image(
    id: ImageId,
    config: ImageConfig,
    manifest: Digest,
    layers: &[DiffId],
    sizes: &[(DiffId, db::LayerRecord)],
) -> Image {
    let created = config.created.as_deref().and_then(|text| text.parse().ok());
    let chain: Vec<ChainId> = (1..=layers.len()).filter_map(|depth| ChainId::of(&layers[..depth])).collect();
    Image {
        id,
        config: Arc::new(config),
        manifest,
        layers: layers.into(),
        kept: Arc::default(),
        chain: chain.into(),
        size: sizes.iter().map(|(_, record)| record.content).sum(),
        created,
        built: None,
        tagged: None,
        references: Vec::new(),
        digests: Vec::new(),
        parent: None,
        last_used: Arc::default(),
    }
}
