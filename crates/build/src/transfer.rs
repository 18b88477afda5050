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

#[cfg(test)]
mod tests {
    use super::import::read_folder;
    use super::*;
    use std::path::Path;

    fn map(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn attributes_are_read_strictly() {
        assert_eq!(Export::of(&map(&[("type", "inline")])).unwrap(), Export::Inline);
        let local = Export::of(&map(&[("type", "local"), ("dest", "/c"), ("mode", "max")])).unwrap();
        let zstd = (yare_layer::Compression::Zstd, None);
        let expected =
            Export::Local { dest: "/c".into(), tag: "latest".to_owned(), all: true, packing: zstd };
        assert_eq!(local, expected);
        for (bad, words) in [
            (&[("type", "local")][..], "needs dest"),
            (&[("type", "local"), ("dest", "/c"), ("mode", "most")], "min or max"),
            (&[("type", "local"), ("dest", "/c"), ("what", "x")], "unknown attribute"),
            (&[("type", "local"), ("dest", "/c"), ("compression", "lzma")], "uncompressed, gzip or zstd"),
            (&[("type", "registry"), ("ref", "x")], "not built into this Yare yet"),
            (&[("type", "gha")], "not supported"),
            (&[("type", "other")], "unknown cache type"),
        ] {
            let error = Export::of(&map(bad)).unwrap_err();
            assert!(error.to_string().contains(words), "{bad:?}: {error}");
        }
    }

    /// Writes a document where its digest says, or where another's does.
    fn put(folder: &Path, bytes: &[u8], name: &Digest) {
        let blobs = folder.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(name.hex()), bytes).unwrap();
    }

    /// A cache without steps, whose config is of this type and has this version.
    fn folder(media_type: &str, version: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::to_vec(&Config { version, steps: Vec::new() }).unwrap();
        put(folder.path(), &config, &Digest::of(&config));
        let manifest = serde_json::json!({
            "schemaVersion": 2, "layers": [],
            "config": { "mediaType": media_type, "digest": Digest::of(&config), "size": config.len() },
        });
        let manifest = manifest.to_string().into_bytes();
        put(folder.path(), &manifest, &Digest::of(&manifest));
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(&manifest),
            "size": manifest.len(), "annotations": { "org.opencontainers.image.ref.name": "latest" },
        }]});
        std::fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
        folder
    }

    #[test]
    fn a_folder_is_believed_as_far_as_its_digests() {
        let good = folder(MEDIA_TYPE, VERSION);
        assert!(read_folder(good.path(), "latest", None).unwrap().steps.is_empty());
        let fails = |folder: &Path, tag: &str, words: &str| {
            let error = read_folder(folder, tag, None).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        };
        fails(good.path(), "other", "no manifest of that name");
        fails(folder(MEDIA_TYPE, VERSION + 1).path(), "latest", "format 2, known is 1");
        fails(folder("application/x", VERSION).path(), "latest", "no build cache of this engine");
        fails(Path::new("/nowhere"), "latest", "cannot open the build cache /nowhere");
        let config = serde_json::to_vec(&Config { version: VERSION, steps: Vec::new() }).unwrap();
        put(good.path(), b"{}", &Digest::of(&config));
        fails(good.path(), "latest", "has digest");
        // A link that leads out of the folder is no blob.
        let place = good.path().join("blobs/sha256").join(Digest::of(&config).hex());
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), &config).unwrap();
        std::fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink(outside.path(), &place).unwrap();
        fails(good.path(), "latest", "cannot open");
    }
}
