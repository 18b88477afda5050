//! Protection of what is written and not yet recorded.

use crate::image::ImageId;
use crate::store::Inner;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use yare_oci::{DiffId, Digest};

/// What is protected now, and by how many leases.
#[derive(Debug, Default)]
pub(crate) struct Leased {
    layers: HashMap<DiffId, u32>,
    blobs: HashMap<Digest, u32>,
    images: HashMap<ImageId, Vec<String>>,
    /// Images whose removal is decided and not yet shown: nobody may begin to hold them.
    doomed: HashSet<ImageId>,
}

impl Leased {
    /// Keeps others from holding an image that is about to be removed; false when somebody holds it.
    pub(crate) fn doom(&mut self, id: ImageId) -> bool {
        let free = !self.images.contains_key(&id);
        if free {
            self.doomed.insert(id);
        }
        free
    }

    /// Ends these dooms: what they announced is done or given up.
    pub(crate) fn end_doom(&mut self, ids: &[ImageId]) {
        for id in ids {
            self.doomed.remove(id);
        }
    }

    pub(crate) fn has_layer(&self, layer: &DiffId) -> bool {
        self.layers.contains_key(layer)
    }

    pub(crate) fn has_blob(&self, blob: &Digest) -> bool {
        self.blobs.contains_key(blob)
    }

    /// Who holds this image.
    pub(crate) fn holders(&self, id: &ImageId) -> &[String] {
        self.images.get(id).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Keeps layers, documents or an image from being removed while it lives.
///
/// When it is dropped, what it protected and no image refers to is removed.
pub struct Lease {
    store: Arc<Inner>,
    layers: Vec<DiffId>,
    blobs: Vec<Digest>,
    images: Vec<(ImageId, String)>,
}

impl Lease {
    pub(crate) fn new(store: Arc<Inner>) -> Self {
        Self { store, layers: Vec::new(), blobs: Vec::new(), images: Vec::new() }
    }

    /// Protects a layer; do this before it is looked for or written.
    pub fn layer(&mut self, layer: DiffId) {
        *self.store.leased.lock().layers.entry(layer).or_default() += 1;
        self.layers.push(layer);
    }

    /// Protects a document; do this before it is looked for or written.
    pub fn blob(&mut self, blob: Digest) {
        *self.store.leased.lock().blobs.entry(blob).or_default() += 1;
        self.blobs.push(blob);
    }

    /// Protects an image on behalf of a container; false when it is being removed.
    pub(crate) fn image(&mut self, id: ImageId, holder: &str) -> bool {
        let mut leased = self.store.leased.lock();
        if leased.doomed.contains(&id) {
            return false;
        }
        leased.images.entry(id).or_default().push(holder.to_owned());
        self.images.push((id, holder.to_owned()));
        true
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("layers", &self.layers)
            .field("blobs", &self.blobs)
            .field("images", &self.images)
            .finish_non_exhaustive()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        {
            let mut leased = self.store.leased.lock();
            for layer in &self.layers {
                release(&mut leased.layers, layer);
            }
            for blob in &self.blobs {
                release(&mut leased.blobs, blob);
            }
            for (id, holder) in &self.images {
                let Some(holders) = leased.images.get_mut(id) else { continue };
                if let Some(place) = holders.iter().position(|name| name == holder) {
                    holders.swap_remove(place);
                }
                if holders.is_empty() {
                    leased.images.remove(id);
                }
            }
        }
        self.store.collect(&self.layers, &self.blobs);
    }
}

fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
