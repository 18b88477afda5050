//! The build cache in another place: `--cache-to` and `--cache-from`.
//!
//! # `type=registry`, `type=local`: apart from the image
//!
//! A manifest whose config is of media type [`MEDIA_TYPE`] and whose layers are the results of steps, each
//! blob once. In a registry it is under a tag; a folder is an OCI layout, whose `index.json` has one for each
//! tag (`tag=`, else `latest`), and blobs that no tag leads to go when it is written again.
//!
//! ```text
//! {"version":1,"steps":[{"key":"sha256:…","layer":{"diffId":"sha256:…","blob":"sha256:…","size":1,"tar":1},
//!   "description":"…","kind":"regular","size":1,"remark":"","parents":["sha256:…"]}],
//!  "mounts":[{"id":"go-build","layer":{…}}]}
//! ```
//!
//! `layer` is missing where a step added nothing, `mounts` (directories of `RUN --mount=type=cache`) where
//! none was asked for. A mount's blob is a plain tar of the directory, without the directory itself: its
//! owner and mode are those that the step asks for. The same cache gives the same bytes.
//!
//! # `type=inline`: in the image
//!
//! The member [`INLINE`] of the image's config: `{"version":1,"keys":["sha256:…",null]}`, for each layer the
//! key of the step that made it; what `FROM` brought has none.
//!
//! # What is believed
//!
//! Whoever writes a cache says what a step's result is, so a cache is as trusted as the image that is built
//! with it. Beyond that nothing is: every blob must have the digest that the manifest names, its tar the
//! DiffID that the config names, and it is unpacked under the same bounds as any layer. What does not fit is
//! left out, and the step runs.
//!
//! # An image without a cache
//!
//! What the classic endpoint names with `cachefrom` may be any image of the store: its history tells which
//! `RUN` made which of its layers ([`history`]).

mod export;
mod folder;
mod history;
mod import;
mod options;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use export::inline;
pub(crate) use import::Imports;
pub(crate) use options::Export;
pub use store::ContentStore;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use yare_oci::{Descriptor, DiffId, Digest};

/// The media type of a cache's config.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.yare.buildcache.v1+json";
/// The member of an image's config.
pub(crate) const INLINE: &str = "yare.buildcache.v1";
const VERSION: u32 = 1;

/// All of a cache.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Config {
    version: u32,
    steps: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<Mount>,
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    key: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<Layer>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    remark: String,
    #[serde(default)]
    parents: Vec<Digest>,
}

/// What a step added, as a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    diff_id: DiffId,
    blob: Digest,
    /// Bytes of the blob.
    size: u64,
    /// Bytes of its tar, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tar: Option<u64>,
}

impl Layer {
    fn descriptor(&self) -> Descriptor {
        Descriptor::new("application/octet-stream", self.blob, self.size)
    }
}

/// What was in a cache mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mount {
    id: String,
    layer: Layer,
}

/// The cache in an image.
#[derive(Debug, Serialize, Deserialize)]
struct Inline {
    version: u32,
    keys: Vec<Option<Digest>>,
}

type Map = BTreeMap<String, String>;
