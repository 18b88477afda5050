//! What images take: sums of counters, never a walk of their files.

use crate::image::{Image, ImageId};
use crate::index::distinct;
use crate::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use yare_oci::{DiffId, Digest};

/// What one image takes, in bytes on disk.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// The image.
    pub image: Arc<Image>,
    /// Its distinct layers, with those of the other platforms that its names stand for.
    pub size: u64,
    /// Those of its layers that other images have too.
    pub shared: u64,
    /// Those that only these have: what their removal frees.
    pub unique: u64,
    /// The layers behind `shared`.
    pub shared_layers: Vec<SharedLayer>,
}

/// A layer that other images have too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedLayer {
    /// Which.
    pub id: DiffId,
    /// Its bytes on disk.
    pub bytes: u64,
    /// How often this image, with its other platforms, has it.
    pub own: u32,
    /// How often all images have it.
    pub all: u32,
}

/// What all images take, in bytes on disk.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Every layer once, layers of detached images included.
    pub layers: u64,
    /// Compressed layers that stay beside their directories, and the recipes of those that do not.
    pub kept: u64,
    /// The images, newest first.
    pub images: Vec<ImageUsage>,
}

impl Usage {
    /// What this image takes.
    pub fn image(&self, id: &ImageId) -> Option<&ImageUsage> {
        self.images.iter().find(|usage| usage.image.id == *id)
    }
}

impl Store {
    /// Bytes on disk of these layers, each counted once.
    pub fn layers_size(&self, layers: &[DiffId]) -> u64 {
        let index = self.index();
        distinct(layers).iter().filter_map(|layer| index.layer(layer)).map(|layer| layer.content).sum()
    }

    /// Bytes on disk of an image and of the other platforms that its names stand for.
    pub fn family_size(&self, image: &Image) -> u64 {
        let index = self.index();
        let layers: Vec<DiffId> =
            index.family(image).iter().flat_map(|member| member.layers.iter().copied()).collect();
        self.layers_size(&layers)
    }

    /// What images and layers take: layers from the counters kept at commit, what is beside them as it is now.
    pub fn usage(&self) -> Usage {
        let index = self.index();
        let images = self.list().into_iter().filter(|image| !index.is_hidden(image)).map(|image| {
            let mut own: BTreeMap<DiffId, u32> = BTreeMap::new();
            for member in index.family(&image) {
                distinct(&member.layers).into_iter().for_each(|layer| *own.entry(layer).or_default() += 1);
            }
            let bytes = |layer: &DiffId| index.layer(layer).map_or(0, |layer| layer.content);
            let size = own.keys().map(bytes).sum::<u64>();
            let layers = own.iter().map(|(id, own)| SharedLayer {
                id: *id,
                bytes: bytes(id),
                own: *own,
                all: index.layer_users(id),
            });
            let shared_layers: Vec<_> = layers.filter(|layer| layer.all > layer.own).collect();
            let shared = shared_layers.iter().map(|layer| layer.bytes).sum();
            ImageUsage { size, shared, unique: size.saturating_sub(shared), shared_layers, image }
        });
        let all = index.images().chain(index.detached());
        let kept: BTreeSet<Digest> = all.flat_map(|image| image.kept.iter().copied()).collect();
        Usage {
            layers: index.layers().map(|(_, content, _)| content).sum(),
            kept: kept.iter().map(|blob| self.inner.content.disk_size(blob)).sum(),
            images: images.collect(),
        }
    }
}
