//! All images in memory, and how a name finds one.

use crate::db::LayerRecord;
use crate::image::{Image, ImageId};
use crate::platforms::{ImageIndex, no_platform};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_oci::{ChainId, DiffId, Digest, Platform, Reference};

/// An immutable picture of the store. A change clones it, edits the clone and puts it in place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    images: BTreeMap<ImageId, Arc<Image>>,
    detached: BTreeMap<ImageId, Arc<Image>>,
    tags: BTreeMap<Reference, ImageId>,
    digests: BTreeMap<Reference, ImageId>,
    children: HashMap<ImageId, BTreeSet<ImageId>>,
    layers: HashMap<DiffId, LayerUse>,
    chains: HashMap<ChainId, u32>,
    /// Documents beside configs, with the number of images and indexes that have them.
    manifests: HashMap<Digest, u32>,
    indexes: BTreeMap<Digest, Arc<ImageIndex>>,
    name_indexes: BTreeMap<Reference, Digest>,
    memberships: HashMap<ImageId, BTreeSet<Digest>>,
}

#[derive(Debug, Clone, Copy)]
struct LayerUse {
    record: LayerRecord,
    images: u32,
}

/// What a removed image leaves without a user.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    /// Layers that no image has any more, with their bytes on disk.
    pub(crate) layers: Vec<(DiffId, u64)>,
    /// Chains that no image has any more, topmost first.
    pub(crate) chains: Vec<ChainId>,
    /// Documents and compressed layers that this image had.
    pub(crate) blobs: Vec<Digest>,
}

impl Index {
    pub(crate) fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values()
    }

    pub(crate) fn detached(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.detached.values()
    }

    pub(crate) fn image(&self, id: &ImageId) -> Option<&Arc<Image>> {
        self.images.get(id)
    }

    pub(crate) fn detached_image(&self, id: &ImageId) -> Option<&Arc<Image>> {
        self.detached.get(id)
    }

    pub(crate) fn children(&self, id: &ImageId) -> impl Iterator<Item = &ImageId> {
        self.children.get(id).into_iter().flatten()
    }

    pub(crate) fn has_children(&self, id: &ImageId) -> bool {
        self.children.get(id).is_some_and(|children| !children.is_empty())
    }

    pub(crate) fn layer(&self, layer: &DiffId) -> Option<LayerRecord> {
        self.layers.get(layer).map(|layer| layer.record)
    }

    /// Every layer with its bytes on disk and the number of images that have it.
    pub(crate) fn layers(&self) -> impl Iterator<Item = (&DiffId, u64, u32)> {
        self.layers.iter().map(|(id, layer)| (id, layer.record.content, layer.images))
    }

    pub(crate) fn layer_users(&self, layer: &DiffId) -> u32 {
        self.layers.get(layer).map_or(0, |layer| layer.images)
    }

    /// Whether some image has this as config, manifest or compressed layer.
    pub(crate) fn has_blob(&self, blob: &Digest) -> bool {
        let id = ImageId(*blob);
        self.images.contains_key(&id) || self.detached.contains_key(&id) || self.manifests.contains_key(blob)
    }

    /// The image of an exact `repository:tag` or `repository@digest`.
    pub(crate) fn named(&self, reference: &Reference) -> Option<ImageId> {
        match reference.digest() {
            Some(digest) => self.digests.get(&reference.with_digest(digest)).copied(),
            None => self.tags.get(&reference.clone().or_latest()).copied(),
        }
    }

    /// All tags of a repository.
    pub(crate) fn tags_of(&self, repository: &Reference) -> Vec<(Reference, ImageId)> {
        let first = repository.trimmed();
        self.tags
            .range((Bound::Excluded(first.clone()), Bound::Unbounded))
            .take_while(|(reference, _)| {
                reference.domain() == first.domain() && reference.path() == first.path()
            })
            .map(|(reference, id)| (reference.clone(), *id))
            .collect()
    }

    /// The index that an exact name stands for.
    pub(crate) fn index_named(&self, reference: &Reference) -> Option<&Arc<ImageIndex>> {
        self.name_indexes.get(reference).and_then(|digest| self.indexes.get(digest))
    }

    pub(crate) fn index(&self, digest: &Digest) -> Option<&Arc<ImageIndex>> {
        self.indexes.get(digest)
    }

    /// The indexes that have an image.
    pub(crate) fn memberships(&self, id: &ImageId) -> impl Iterator<Item = &Digest> {
        self.memberships.get(id).into_iter().flatten()
    }

    pub(crate) fn is_member(&self, id: &ImageId) -> bool {
        self.memberships(id).next().is_some()
    }

    /// The names that stand for an index.
    pub(crate) fn index_names(&self, digest: &Digest) -> Vec<Reference> {
        let names = self.name_indexes.iter().filter(|(_, index)| *index == digest);
        names.map(|(name, _)| name.clone()).collect()
    }

    /// Adds an index, or puts a newer picture of it in the place of the old one.
    pub(crate) fn put_index(&mut self, index: ImageIndex) -> Vec<Digest> {
        for blob in index.blobs() {
            *self.manifests.entry(blob).or_default() += 1;
        }
        let freed = self.remove_index(&index.digest);
        for id in index.present.values() {
            self.memberships.entry(*id).or_default().insert(index.digest);
        }
        self.indexes.insert(index.digest, Arc::new(index));
        freed
    }

    /// Takes an index away, its images not; returns the documents that it had.
    pub(crate) fn remove_index(&mut self, digest: &Digest) -> Vec<Digest> {
        let Some(index) = self.indexes.remove(digest) else { return Vec::new() };
        for id in index.present.values() {
            if let Some(indexes) = self.memberships.get_mut(id) {
                indexes.remove(digest);
                if indexes.is_empty() {
                    self.memberships.remove(id);
                }
            }
        }
        let blobs: Vec<Digest> = index.blobs().into_iter().collect();
        blobs.iter().for_each(|blob| self.uncount_blob(blob));
        blobs
    }

    /// Makes a name stand for an index.
    pub(crate) fn link(&mut self, name: &Reference, digest: Digest) {
        self.name_indexes.insert(name.clone(), digest);
    }

    /// Makes a name stand for no index; which one it was.
    pub(crate) fn unlink(&mut self, name: &Reference) -> Option<Digest> {
        self.name_indexes.remove(name)
    }

    fn uncount_blob(&mut self, blob: &Digest) {
        if let Some(count) = self.manifests.get_mut(blob) {
            *count -= 1;
            if *count == 0 {
                self.manifests.remove(blob);
            }
        }
    }

    /// Finds an image as Docker does: an exact name first, then the start of an id. A name that stands for
    /// an index has an image a platform; without a wish it is the one that the name shows.
    pub(crate) fn resolve(&self, text: &str, platform: Option<&Platform>) -> Result<Arc<Image>> {
        let (image, index) = self.find(text)?;
        let Some(wanted) = platform else { return Ok(image) };
        if let Some(index) = index {
            let present = self.present(&index);
            return self.pick(&present, wanted).ok_or_else(|| no_platform(text, wanted, &present));
        }
        let has = image.config.platform();
        if has.satisfies(wanted) {
            return Ok(image);
        }
        Err(Error::not_found(format!(
            "image with reference {text} was found but its platform ({has}) does not match the specified \
             platform ({wanted})"
        )))
    }

    /// What a text names: an image, and the index it was chosen from.
    pub(crate) fn find(&self, text: &str) -> Result<(Arc<Image>, Option<Arc<ImageIndex>>)> {
        if let Some(digest) = whole_id(text) {
            if let Some(image) = self.images.get(&ImageId(digest)) {
                return Ok((Arc::clone(image), None));
            }
            // What a build gives as the digest of several platforms.
            let index = self.indexes.get(&digest).cloned();
            let shown = index.as_ref().and_then(|index| self.shown(index));
            return shown.map(|image| (image, index)).ok_or_else(|| no_such_image(&digest.to_string()));
        }
        let reference = Reference::parse(text).map_err(|source| Error::invalid(source.to_string()))?;
        if let Some(image) = self.named(&reference).and_then(|id| self.images.get(&id)) {
            let name = match reference.digest() {
                Some(digest) => reference.with_digest(digest),
                None => reference.or_latest(),
            };
            return Ok((Arc::clone(image), self.index_named(&name).cloned()));
        }
        match self.by_prefix(text)? {
            Some(image) => Ok((image, None)),
            None => Err(no_such_image(&reference.or_latest().familiar())),
        }
    }

    /// The only image whose id starts so; an error when there are several.
    pub(crate) fn by_prefix(&self, text: &str) -> Result<Option<Arc<Image>>> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let Some((first, last)) = prefix_range(digits) else { return Ok(None) };
        let mut found = self.images.range(ImageId(first)..=ImageId(last)).map(|(_, image)| image);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some(only), None) => Ok(Some(Arc::clone(only))),
            (Some(one), Some(other)) => Err(Error::invalid(format!(
                "ambiguous image id {digits:?}: {} and {} start with it",
                one.id.short(),
                other.id.short()
            ))
            .with_hint("type more of the id")),
        }
    }

    /// Adds an image, or puts a newer picture of it in the place of the old one.
    pub(crate) fn insert(&mut self, image: Arc<Image>, layers: &[(DiffId, LayerRecord)]) {
        self.count(&image, layers);
        if let Some(parent) = image.parent {
            self.children.entry(parent).or_default().insert(image.id);
        }
        for reference in &image.references {
            self.tags.insert(reference.clone(), image.id);
        }
        for reference in &image.digests {
            self.digests.insert(reference.clone(), image.id);
        }
        self.images.insert(image.id, image);
    }

    /// Adds an image that only containers know.
    pub(crate) fn insert_detached(&mut self, image: Arc<Image>, layers: &[(DiffId, LayerRecord)]) {
        self.count(&image, layers);
        self.detached.insert(image.id, image);
    }

    fn count(&mut self, image: &Image, layers: &[(DiffId, LayerRecord)]) {
        for (layer, record) in layers {
            self.layers.entry(*layer).or_insert(LayerUse { record: *record, images: 0 });
        }
        for layer in distinct(&image.layers) {
            let unknown = LayerUse { record: LayerRecord::default(), images: 0 };
            self.layers.entry(layer).or_insert(unknown).images += 1;
        }
        for chain in image.chain.iter() {
            *self.chains.entry(*chain).or_default() += 1;
        }
        for blob in documents(image) {
            *self.manifests.entry(blob).or_default() += 1;
        }
    }

    /// Takes an image away; with `keep` it becomes detached and frees nothing.
    pub(crate) fn remove(&mut self, id: &ImageId, keep: bool) -> Freed {
        let Some(image) = self.images.remove(id) else { return Freed::default() };
        for reference in &image.references {
            self.tags.remove(reference);
        }
        for reference in &image.digests {
            self.digests.remove(reference);
        }
        if let Some(siblings) = image.parent.and_then(|parent| self.children.get_mut(&parent)) {
            siblings.remove(id);
        }
        if keep {
            let nameless =
                Image { references: Vec::new(), digests: Vec::new(), parent: None, ..(*image).clone() };
            self.detached.insert(*id, Arc::new(nameless));
            return Freed::default();
        }
        self.uncount(&image)
    }

    /// Makes a detached image an ordinary one again.
    pub(crate) fn reattach(&mut self, id: &ImageId) {
        if let Some(image) = self.detached.remove(id) {
            self.images.insert(*id, image);
        }
    }

    /// Takes a detached image away.
    pub(crate) fn remove_detached(&mut self, id: &ImageId) -> Freed {
        self.detached.remove(id).map(|image| self.uncount(&image)).unwrap_or_default()
    }

    fn uncount(&mut self, image: &Image) -> Freed {
        let mut freed = Freed { blobs: vec![image.id.0], ..Freed::default() };
        for blob in documents(image) {
            freed.blobs.push(blob);
            self.uncount_blob(&blob);
        }
        for layer in distinct(&image.layers) {
            let Some(state) = self.layers.get_mut(&layer) else { continue };
            state.images -= 1;
            if state.images == 0 {
                freed.layers.push((layer, state.record.content));
                self.layers.remove(&layer);
            }
        }
        for chain in image.chain.iter().rev() {
            let Some(images) = self.chains.get_mut(chain) else { continue };
            *images -= 1;
            if *images == 0 {
                self.chains.remove(chain);
                freed.chains.push(*chain);
            }
        }
        freed
    }

    /// Replaces the picture of an image that keeps its layers: other names, other parent.
    pub(crate) fn update(&mut self, id: &ImageId, edit: impl FnOnce(&mut Image)) {
        let Some(old) = self.images.get(id) else { return };
        let mut image = (**old).clone();
        edit(&mut image);
        image.references.sort();
        image.references.dedup();
        image.digests.sort();
        image.digests.dedup();
        if old.parent != image.parent {
            if let Some(siblings) = old.parent.and_then(|parent| self.children.get_mut(&parent)) {
                siblings.remove(id);
            }
            if let Some(parent) = image.parent {
                self.children.entry(parent).or_default().insert(*id);
            }
        }
        self.images.insert(*id, Arc::new(image));
    }

    /// Gives a name to an image; returns who had it before, when that was another one.
    pub(crate) fn tag(&mut self, id: ImageId, reference: &Reference) -> Option<ImageId> {
        let loser = self.tags.insert(reference.clone(), id).filter(|old| *old != id);
        if let Some(old) = loser {
            self.update(&old, |image| image.references.retain(|name| name != reference));
        }
        self.update(&id, |image| image.references.push(reference.clone()));
        loser
    }

    /// Records that a registry knows an image by this digest.
    pub(crate) fn add_digest(&mut self, id: ImageId, reference: &Reference) {
        if let Some(old) = self.digests.insert(reference.clone(), id).filter(|old| *old != id) {
            self.update(&old, |image| image.digests.retain(|name| name != reference));
        }
        self.update(&id, |image| image.digests.push(reference.clone()));
    }

    /// Takes a name or registry digest away; whether there was one.
    pub(crate) fn untag(&mut self, reference: &Reference) -> bool {
        let names = if reference.digest().is_some() { &mut self.digests } else { &mut self.tags };
        let Some(id) = names.remove(reference) else { return false };
        self.update(&id, |image| {
            image.references.retain(|name| name != reference);
            image.digests.retain(|name| name != reference);
        });
        true
    }
}

/// What an image has in the content store beside its config.
fn documents(image: &Image) -> BTreeSet<Digest> {
    image.kept.iter().copied().chain([image.manifest]).collect()
}

/// The layers of an image, each once.
pub(crate) fn distinct(layers: &[DiffId]) -> BTreeSet<DiffId> {
    layers.iter().copied().collect()
}

/// `sha256:<64 hex>` or 64 bare hex digits: an id, never a name.
fn whole_id(text: &str) -> Option<Digest> {
    text.parse().ok().or_else(|| Digest::from_hex(text).ok())
}

/// Docker's text for an image that is not there.
pub(crate) fn no_such_image(name: &str) -> Error {
    Error::not_found(format!("No such image: {name}"))
}

/// The smallest and the greatest digest that start with these hex digits.
fn prefix_range(digits: &str) -> Option<(Digest, Digest)> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(lower) {
        return None;
    }
    let first = Digest::from_hex(&format!("{digits:0<64}")).ok()?;
    let last = Digest::from_hex(&format!("{digits:f<64}")).ok()?;
    Some((first, last))
}
