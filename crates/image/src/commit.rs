//! Adding images whose layers are already there: the one commit point of import, load, pull and build.

use crate::db::LayerRecord;
use crate::failure::Lift;
use crate::image::{Image, ImageId};
use crate::index::distinct;
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
        let mut lease = self.lease();
        let mut prepared = Vec::with_capacity(new.len());
        for new in new {
            let image = self.prepare(new, &mut lease)?;
            prepared.push(image);
        }
        self.inner.content.sync().lift()?;
        let replaced = self.inner.edit(|draft| {
            let replaced: Vec<_> = prepared.iter().map(|image| insert(draft, image)).collect();
            // A parent may come after its child.
            prepared.iter().for_each(|image| adopt(draft, image));
            Ok(replaced)
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
        Ok(committed.collect())
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
