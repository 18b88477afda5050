//! Caches that are not what they should be.

use super::folder::Folder;
use super::import::read_cache;
use super::*;
use crate::Result;
use std::path::Path;

/// Writes a document where its digest says, or where another's does.
fn put(folder: &Path, bytes: &[u8], name: &Digest) {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(name.hex()), bytes).unwrap();
}

/// A cache without steps, whose config is of this type and has this version.
fn folder(media_type: &str, version: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::to_vec(&Config { version, ..Config::default() }).unwrap();
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

fn read_folder(path: &Path, tag: &str) -> Result<Config> {
    read_cache(&Folder::open(path, tag)?, None).map(|(config, _)| config)
}

#[test]
fn a_folder_is_believed_as_far_as_its_digests() {
    let good = folder(MEDIA_TYPE, VERSION);
    assert!(read_folder(good.path(), "latest").unwrap().steps.is_empty());
    let fails = |folder: &Path, tag: &str, words: &str| {
        let error = read_folder(folder, tag).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    fails(good.path(), "other", "no manifest of that name");
    fails(folder(MEDIA_TYPE, VERSION + 1).path(), "latest", "format 2, known is 1");
    fails(folder("application/x", VERSION).path(), "latest", "no build cache of this engine");
    fails(Path::new("/nowhere"), "latest", "cannot open the build cache /nowhere");
    let config = serde_json::to_vec(&Config { version: VERSION, ..Config::default() }).unwrap();
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
