//! One image, as everybody sees it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use yare_oci::digest::DigestError;
use yare_oci::{ChainId, DiffId, Digest, ImageConfig, Reference};

/// The id of an image: the digest of its config.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Digest);

impl ImageId {
    /// The 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        self.0.hex()
    }

    /// The first 12 hex digits, as people see them.
    pub fn short(&self) -> String {
        self.0.short()
    }

    /// The digest behind it.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ImageId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

/// An image at one moment. Names and sizes do not change under the reader: a change makes a new value.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Its config, parsed; the raw bytes are [`crate::Store::config_bytes`].
    pub config: Arc<ImageConfig>,
    /// Digest of the stored manifest.
    pub manifest: Digest,
    /// Its layers, bottom first.
    pub layers: Arc<[DiffId]>,
    /// Compressed layers that are kept as they came.
    pub kept: Arc<[Digest]>,
    /// The chain ids of these layers, bottom first.
    pub chain: Arc<[ChainId]>,
    /// Bytes of content of its distinct layers, as Docker counts sizes.
    pub size: u64,
    /// When it was made, where its config says so.
    pub created: Option<Timestamp>,
    /// When it was built here: the config of a build says a time that any build of the same has.
    pub built: Option<Timestamp>,
    /// When a name was last given to it here.
    pub tagged: Option<Timestamp>,
    /// Its names, sorted: `repository:tag`.
    pub references: Vec<Reference>,
    /// Its registry digests, sorted: `repository@sha256:…`.
    pub digests: Vec<Reference>,
    /// The local image that it was made from by commit or build.
    pub parent: Option<ImageId>,
    pub(crate) last_used: Arc<AtomicI64>,
}

impl Image {
    /// When it was last of use here, to the second: it came or was built, got a name or lost its last one, was
    /// a base of a build, or a container of it was made, started or ended. `None` where that was never
    /// recorded.
    pub fn last_used(&self) -> Option<Timestamp> {
        match self.last_used.load(Ordering::Relaxed) {
            0 => None,
            second => Timestamp::from_second(second).ok(),
        }
    }

    /// Since when nothing needed it, for rules about that. An image of a store that kept no such times yet
    /// counts from its name or its making here; one that has not even those is not known to be unused.
    pub fn unused_since(&self) -> Option<Timestamp> {
        self.last_used().max(self.tagged).max(self.built)
    }

    /// Its names in the short form, `busybox:latest`.
    pub fn tags(&self) -> Vec<String> {
        self.references.iter().map(Reference::familiar).collect()
    }

    /// Its registry digests in the short form, `busybox@sha256:…`.
    pub fn repo_digests(&self) -> Vec<String> {
        self.digests.iter().map(Reference::familiar).collect()
    }

    /// Whether it has neither a tag nor a registry digest.
    pub fn is_unreferenced(&self) -> bool {
        self.references.is_empty() && self.digests.is_empty()
    }

    /// Moment of its making in seconds since 1970, as its config says, 0 where unknown.
    pub fn created_unix(&self) -> i64 {
        self.created.map_or(0, Timestamp::as_second)
    }

    /// When it came to be, for people and for rules about age: of one that was built here, the moment of
    /// that, for its config may say the age of its base.
    pub fn dated(&self) -> Option<Timestamp> {
        self.built.or(self.created)
    }
}
