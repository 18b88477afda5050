//! What all pulls and pushes of an engine share: the client, the limits, and who fetches which layer.

use super::once::Settling;
use crate::Config;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use yare_distribution::Client;
use yare_oci::{Descriptor, DiffId, Digest};

/// The shared parts.
#[derive(Debug)]
pub(crate) struct Transfers {
    pub(crate) client: Client,
    /// One permit for each layer that is being fetched.
    pub(super) downloads: Arc<Semaphore>,
    /// One permit for each layer that is being sent.
    pub(super) uploads: Arc<Semaphore>,
    /// The compressed layers that somebody fetches now.
    under_way: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// What layers of our own making were compressed to: asking a registry for one needs no second pass.
    compressed: Mutex<HashMap<DiffId, Descriptor>>,
    /// Who makes one of the two forms that pulled layers have.
    pub(super) settling: Settling,
}

impl Transfers {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            client: Client::new(config.registries.clone()),
            downloads: Arc::new(Semaphore::new(config.max_concurrent_downloads.max(1))),
            uploads: Arc::new(Semaphore::new(config.max_concurrent_uploads.max(1))),
            under_way: Mutex::default(),
            compressed: Mutex::default(),
            settling: Settling::default(),
        }
    }

    /// Waits until nobody else fetches this layer. Whoever waited looks first whether it is there now.
    pub(super) async fn claim(&self, layer: Digest) -> OwnedMutexGuard<()> {
        let place = {
            let mut under_way = self.under_way.lock();
            // Those that nobody holds any more are forgotten.
            under_way.retain(|_, place| Arc::strong_count(place) > 1);
            Arc::clone(under_way.entry(layer).or_default())
        };
        place.lock_owned().await
    }

    /// Whether some layer is coming in.
    pub(super) fn is_fetching(&self) -> bool {
        self.under_way.lock().values().any(|place| Arc::strong_count(place) > 1)
    }

    pub(super) fn compressed(&self, layer: &DiffId) -> Option<Descriptor> {
        self.compressed.lock().get(layer).cloned()
    }

    pub(super) fn remember(&self, layer: DiffId, descriptor: Descriptor) {
        self.compressed.lock().insert(layer, descriptor);
    }
}
