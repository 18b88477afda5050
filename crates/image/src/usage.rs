//! What images take: sums of counters, never a walk.

use crate::image::{Image, ImageId};
use crate::index::distinct;
use crate::store::Store;
use std::sync::Arc;
use yare_oci::DiffId;

/// What one image takes, in bytes on disk.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// The image.
    pub image: Arc<Image>,
    /// Its distinct layers.
    pub size: u64,
    /// Those of its layers that other images have too.
    pub shared: u64,
    /// Those that only it has: what its removal frees.
    pub unique: u64,
}

/// What all images take, in bytes on disk.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Every layer once, layers of detached images included.
    pub layers: u64,
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

    /// What images and layers take, from the counters kept at commit.
    pub fn usage(&self) -> Usage {
        let index = self.index();
        let images = self.list().into_iter().map(|image| {
            let shared = distinct(&image.layers)
                .iter()
                .filter(|layer| index.layer_users(layer) > 1)
                .filter_map(|layer| index.layer(layer))
                .map(|layer| layer.content)
                .sum();
            ImageUsage { size: image.size, shared, unique: image.size.saturating_sub(shared), image }
        });
        Usage { layers: index.layers().map(|(_, content, _)| content).sum(), images: images.collect() }
    }
}
