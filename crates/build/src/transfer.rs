//! The build cache in another place: `--cache-to` and `--cache-from`.
//!
//! # `type=local`: a folder
//!
//! An OCI layout. `index.json` has a manifest for each tag (`tag=`, else `latest`), whose config is of media
//! type [`MEDIA_TYPE`] and whose layers are the results of steps:
//!
//! ```text
//! {"version":1,"steps":[{"key":"sha256:…","layer":{"diffId":"sha256:…","blob":"sha256:…","size":1,"tar":1},
//!   "description":"…","kind":"regular","size":1,"remark":"","parents":["sha256:…"]}]}
//! ```
//!
//! `layer` is missing where a step added nothing. The same cache gives the same bytes.
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

mod export;
mod import;

pub(crate) use export::{Export, inline};
pub(crate) use import::Imports;

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use yare_oci::{DiffId, Digest};

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
    /// Bytes of its tar.
    tar: u64,
}

/// The cache in an image.
#[derive(Debug, Serialize, Deserialize)]
struct Inline {
    version: u32,
    keys: Vec<Option<Digest>>,
}

type Map = BTreeMap<String, String>;

fn attribute<'a>(attributes: &'a Map, name: &str) -> Option<&'a str> {
    attributes.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// What cannot be had for want of a client.
fn unbuilt(option: &str, kind: &str) -> Error {
    match kind {
        "registry" => Error::unimplemented(format!("{option} type=registry is not built into this Yare yet"))
            .with_hint("use type=inline and push the image, or type=local with a directory that you keep"),
        "gha" | "s3" | "azblob" => Error::unimplemented(format!("{option} type={kind} is not supported"))
            .with_hint("use type=local with a directory, and keep that"),
        other => Error::invalid(format!("unknown cache type {other:?} of {option}"))
            .with_hint("the types are local and inline"),
    }
}

/// Refuses attributes that would have no effect.
fn check(option: &str, attributes: &Map, known: &[&str]) -> Result<()> {
    match attributes.keys().find(|name| *name != "type" && !known.contains(&name.as_str())) {
        Some(name) => Err(Error::invalid(format!("unknown attribute {name:?} of {option}"))),
        None => Ok(()),
    }
}
