//! Adding images whose layers are already there: the one commit point of import, load, pull and build.

use crate::db::LayerRecord;
use crate::failure::Lift;
use crate::image::{Image, ImageId};
use crate::index::distinct;
use crate::platforms::ImageIndex;
use crate::store::{Draft, Store, new_image};
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, DiffId, Digest, ImageConfig, Manifest, MediaType, Reference};

/// An image to add. Its layers, named by the config, are in the snapshotter and protected by a lease of
/// the caller.
#[derive(Debug, Clone, Default)]
pub struct NewImage {
    /// The exact bytes of the config; their digest is the image's id.
    pub config: Vec<u8>,
    /// The exact bytes of the manifest; without, one over the uncompressed layers is made.
    pub manifest: Option<Vec<u8>>,
    /// Names it gets.
    pub references: Vec<Reference>,
    /// Registry digests it is known by.
    pub digests: Vec<Reference>,
    /// The local image it was made from.
    pub parent: Option<ImageId>,
    /// Whether it was built here, now.
    pub built: bool,
    /// Compressed layers in the content store that are kept for it; protected by a lease of the caller.
    pub kept: Vec<Digest>,
}

impl NewImage {
    /// A new image of this config, which must name the layers.
    pub fn from_config(config: &ImageConfig) -> Result<Self> {
        let bytes = serde_json::to_vec(config)
            .map_err(|error| Error::internal("cannot write the image config as JSON").caused_by(error))?;
        Ok(Self { config: bytes, ..Self::default() })
    }
}

/// An index to add, or of which more is here now. What it keeps is protected by a lease of the caller.
#[derive(Debug, Clone, Default)]
pub struct NewIndex {
    /// The exact bytes of its document.
    pub document: Vec<u8>,
    /// Those of its images that are here or are added with it, with the exact bytes of their manifests.
    pub present: Vec<(Vec<u8>, ImageId)>,
    /// Documents of its attestations that are in the content store.
    pub kept: Vec<Digest>,
    /// Names that stand for it.
    pub references: Vec<Reference>,
    /// Registry digests it is known by.
    pub digests: Vec<Reference>,
}

/// An image that was added, or was there already.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The image.
    pub image: Arc<Image>,
    /// The names that were asked for.
    pub asked: Vec<Reference>,
    /// Names that it took from other images.
    pub replaced: Vec<(Reference, ImageId)>,
}

struct Prepared {
    new: NewImage,
    image: Image,
    layers: Vec<(DiffId, LayerRecord)>,
}

impl Store {
    /// Adds one image; see [`Store::commit_images`].
    pub fn commit_image(&self, new: NewImage) -> Result<Committed> {
        let mut committed = self.commit_images(vec![new])?;
        committed.pop().ok_or_else(|| Error::internal("an image was committed and is not there"))
    }

    /// Adds images, all or none, durably. Layers must be in the snapshotter already.
    pub fn commit_images(&self, new: Vec<NewImage>) -> Result<Vec<Committed>> {
        Ok(self.commit(new, Vec::new())?.0)
    }

    /// Adds images and the indexes that they belong to, all or none, durably. Of an index the image that it
    /// shows is returned.
    pub fn commit(
        &self,
        new: Vec<NewImage>,
        indexes: Vec<NewIndex>,
    ) -> Result<(Vec<Committed>, Vec<Committed>)> {
        let mut lease = self.lease();
        let mut prepared = Vec::with_capacity(new.len());
        for new in new {
            let image = self.prepare(new, &mut lease)?;
            prepared.push(image);
        }
        let mut pictures = Vec::with_capacity(indexes.len());
        for index in &indexes {
            pictures.push(self.prepare_index(index, &mut lease)?);
        }
        self.inner.content.sync().lift()?;
        let (replaced, taken) = self.inner.edit(|draft| {
            let replaced: Vec<_> = prepared.iter().map(|image| insert(draft, image)).collect();
            // A parent may come after its child.
            prepared.iter().for_each(|image| adopt(draft, image));
            let indexes = indexes.iter().zip(&pictures);
            let taken = indexes.map(|(new, picture)| insert_index(draft, new, picture));
            Ok((replaced, taken.collect::<Result<Vec<_>>>()?))
        })?;
        let index = self.index();
        let committed = prepared.iter().zip(replaced).filter_map(|(prepared, replaced)| {
            let asked = prepared.new.references.iter().map(|name| name.clone().or_latest()).collect();
            index.image(&prepared.image.id).map(|image| Committed {
                image: Arc::clone(image),
                asked,
                replaced,
            })
        });
        let shown = |digest: &Digest| index.index(digest).and_then(|found| index.shown(found));
        let indexes =
            indexes.into_iter().zip(&pictures).zip(taken).filter_map(|((new, picture), replaced)| {
                let asked = new.references.into_iter().map(Reference::or_latest).collect();
                shown(&picture.digest).map(|image| Committed { image, asked, replaced })
            });
        Ok((committed.collect(), indexes.collect()))
    }

    fn prepare_index(&self, new: &NewIndex, lease: &mut crate::Lease) -> Result<ImageIndex> {
        let document: yare_oci::Index = crate::document::parse(&new.document, "the index")?;
        let mut put = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            lease.blob(digest);
            self.inner.content.put(bytes).lift()?;
            Ok::<_, Error>(digest)
        };
        let digest = put(&new.document)?;
        let present = new.present.iter().map(|(manifest, id)| Ok((put(manifest)?, *id)));
        let present = present.collect::<Result<_>>()?;
        let kept = new.kept.iter().copied().collect();
        Ok(ImageIndex { digest, document: Arc::new(document), present, kept })
    }

    /// Everything that needs the disk: documents written, layers measured, chains put together.
    fn prepare(&self, new: NewImage, lease: &mut crate::Lease) -> Result<Prepared> {
        let config: ImageConfig = crate::document::parse(&new.config, "the image config")?;
        let layers = config.rootfs.diff_ids.clone();
        let mut sizes = Vec::with_capacity(layers.len());
        for layer in distinct(&layers) {
            lease.layer(layer);
            if !self.inner.snapshots.has_layer(&layer) {
                return Err(Error::precondition(format!("layer {layer} of the new image is not there")));
            }
            let info = self.inner.snapshots.layer(&layer).lift()?;
            sizes.push((layer, LayerRecord { content: info.content, tar: info.size }));
        }
        self.inner.snapshots.ensure_chain(&layers).lift()?;
        let id = ImageId(Digest::of(&new.config));
        lease.blob(id.0);
        self.inner.content.put(&new.config).lift()?;
        let manifest = match &new.manifest {
            Some(bytes) => bytes.clone(),
            None => plain_manifest(&new.config, &layers, &sizes)?,
        };
        let digest = Digest::of(&manifest);
        lease.blob(digest);
        self.inner.content.put(&manifest).lift()?;
        let mut image = new_image(id, config, digest, &layers, &sizes);
        image.built = new.built.then(jiff::Timestamp::now);
        image.kept = new.kept.as_slice().into();
        Ok(Prepared { new, image, layers: sizes })
    }
}

fn insert(draft: &mut Draft, prepared: &Prepared) -> Vec<(Reference, ImageId)> {
    let id = prepared.image.id;
    if draft.index.detached_image(&id).is_some() {
        draft.reattach(&id);
    } else if draft.index.image(&id).is_none() {
        draft.insert(prepared.image.clone(), &prepared.layers);
    }
    for digest in &prepared.new.digests {
        draft.add_digest(id, digest);
    }
    let references = prepared.new.references.iter().map(|reference| reference.clone().or_latest());
    references.filter_map(|reference| draft.tag(id, &reference).map(|loser| (reference, loser))).collect()
}

fn insert_index(
    draft: &mut Draft,
    new: &NewIndex,
    picture: &ImageIndex,
) -> Result<Vec<(Reference, ImageId)>> {
    if let Some(gone) = picture.present.values().find(|id| draft.index.image(id).is_none()) {
        return Err(Error::precondition(format!("image {gone} of the new index is not there")));
    }
    let mut picture = picture.clone();
    let listed: Vec<Digest> = picture.images().map(|member| member.digest).collect();
    // Images that came by another name, or before there were indexes.
    for image in draft.index.images().filter(|image| listed.contains(&image.manifest)) {
        picture.present.entry(image.manifest).or_insert(image.id);
    }
    draft.put_index(picture.clone());
    for digest in &new.digests {
        draft.name_index(digest, picture.digest);
    }
    let names = new.references.iter().map(|reference| reference.clone().or_latest());
    let replaced =
        names.filter_map(|name| draft.name_index(&name, picture.digest).map(|loser| (name, loser)));
    let family: Vec<ImageId> = picture.present.values().copied().collect();
    Ok(replaced.filter(|(_, loser)| !family.contains(loser)).collect())
}

fn adopt(draft: &mut Draft, prepared: &Prepared) {
    if let Some(parent) = prepared.new.parent.filter(|parent| may_be_parent(draft, *parent, &prepared.image))
    {
        draft.set_parent(&prepared.image.id, parent);
    }
}

/// A parent is there, its layers are the lowest of the child's, and the child is none of its ancestors:
/// images in a circle could never be removed.
fn may_be_parent(draft: &Draft, parent: ImageId, child: &Image) -> bool {
    let Some(image) = draft.index.image(&parent) else { return false };
    let mut ancestor = Some(parent);
    while let Some(id) = ancestor {
        if id == child.id {
            return false;
        }
        ancestor = draft.index.image(&id).and_then(|image| image.parent);
    }
    child.layers.starts_with(&image.layers)
}

/// The manifest over the uncompressed layers of an image, as `save` writes it. Deterministic.
pub(crate) fn plain_manifest(
    config: &[u8],
    layers: &[DiffId],
    sizes: &[(DiffId, LayerRecord)],
) -> Result<Vec<u8>> {
    let size = |layer: &DiffId| sizes.iter().find(|(id, _)| id == layer).map_or(0, |(_, record)| record.tar);
    let manifest = Manifest {
        schema_version: 2,
        media_type: MediaType::OCI_MANIFEST.to_owned(),
        artifact_type: None,
        config: Descriptor::of(MediaType::OCI_CONFIG, config),
        layers: layers
            .iter()
            .map(|layer| Descriptor::new(MediaType::OCI_LAYER, layer.0, size(layer)))
            .collect(),
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    serde_json::to_vec(&manifest)
        .map_err(|error| Error::internal("cannot write a manifest as JSON").caused_by(error))
}
