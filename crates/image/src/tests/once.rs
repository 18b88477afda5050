//! Compressed layers give way to recipes, and come back.

use super::{Fixture, config, layer};
use crate::{Allowance, Image, KeptOnce, NewImage, RemoveOptions};
use std::io::{Read, Write};
use std::sync::Arc;
use yare_content::Recipe;
use yare_layer::Compression;
use yare_oci::{Descriptor, DiffId, Digest, MediaType};

/// A tar of one file with text that compresses as programs do.
fn tar(size: usize) -> Vec<u8> {
    let mut random = yare_damage::Random::default();
    let text: String = (0..size / 8).map(|_| format!("{:x} ", random.number() >> random.below(60))).collect();
    layer(&[("file", &text)])
}

fn packed(tar: &[u8], compression: Compression) -> Vec<u8> {
    let mut writer = yare_layer::compress(Vec::new(), compression, None).unwrap();
    writer.write_all(tar).unwrap();
    writer.finish().unwrap()
}

/// An image as a pull leaves it, of a layer that came as these bytes.
fn pulled(fixture: &Fixture, blob: &[u8], tar: &[u8]) -> Arc<Image> {
    let store = &fixture.store;
    let (digest, diff_id) = (Digest::of(blob), DiffId(Digest::of(tar)));
    let mut lease = store.lease();
    lease.blob(digest);
    lease.layer(diff_id);
    store.content().put(blob).unwrap();
    let allowance = Allowance::of_image(blob.len() as u64);
    store.unpack_layer(std::io::Cursor::new(blob.to_vec()), diff_id, &allowance).unwrap();
    let new = NewImage::from_config(&config(vec![diff_id])).unwrap();
    let layers = vec![Descriptor::new(MediaType::OCI_LAYER_GZIP, digest, blob.len() as u64)];
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": Descriptor::of(MediaType::OCI_CONFIG, &new.config),
        "layers": layers,
    });
    let manifest = Some(manifest.to_string().into_bytes());
    store.commit_image(NewImage { manifest, kept: vec![digest], ..new }).unwrap().image
}

fn read(fixture: &Fixture, digest: &Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    fixture.store.open_blob(digest).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_compressed_layer_gives_way_and_comes_back() {
    let fixture = Fixture::new();
    let tar = tar(400_000);
    let blob = packed(&tar, Compression::Gzip);
    let digest = Digest::of(&blob);
    let image = pulled(&fixture, &blob, &tar);
    assert_eq!(fixture.store.kept_twice(), [(digest, image.layers[0])]);
    let kept = fixture.store.keep_once(&digest, &image.layers[0]).unwrap();
    let KeptOnce::Recipe(size) = kept else { panic!("{kept:?}") };
    assert!(size * 10 < blob.len() as u64, "{size} of {}", blob.len());
    let fixture = fixture.reopen();
    let (store, content) = (&fixture.store, fixture.store.content());
    assert!(!content.contains(&digest) && store.has_blob(&digest));
    assert_eq!(content.disk_size(&digest), size);
    assert_eq!(store.blob_size(&digest).unwrap(), Some(blob.len() as u64));
    assert!(read(&fixture, &digest) == blob);
    assert!(store.kept_twice().is_empty());
    // It came once more, or the engine was killed between the two: the recipe is there.
    content.put(&blob).unwrap();
    assert_eq!(store.keep_once(&digest, &image.layers[0]).unwrap(), kept);
    assert!(!content.contains(&digest));
    store.remove(&image.id.to_string(), RemoveOptions::default(), &|_| Vec::new()).unwrap();
    assert!(!store.has_blob(&digest));
    assert_eq!(content.disk_size(&digest), 0);
}

#[test]
fn a_plain_layer_needs_no_recipe_but_its_name() {
    let fixture = Fixture::new();
    let tar = tar(100_000);
    let image = pulled(&fixture, &tar, &tar);
    let digest = image.layers[0].0;
    assert_eq!(fixture.store.keep_once(&digest, &image.layers[0]).unwrap(), KeptOnce::Recipe(49));
    assert!(read(&fixture, &digest) == tar);
}

#[test]
fn what_nothing_makes_again_stays_and_is_not_tried_twice() {
    let fixture = Fixture::new();
    let tar = tar(100_000);
    let zstd = packed(&tar, Compression::Zstd);
    let image = pulled(&fixture, &zstd, &tar);
    let digest = Digest::of(&zstd);
    assert_eq!(fixture.store.keep_once(&digest, &image.layers[0]).unwrap(), KeptOnce::Blob);
    let fixture = fixture.reopen();
    assert!(fixture.store.kept_twice().is_empty());
    assert!(fixture.store.content().contains(&digest) && read(&fixture, &digest) == zstd);
    assert!(matches!(fixture.store.content().recipe(&digest).unwrap(), Recipe::None));
    fixture.store.remove(&image.id.to_string(), RemoveOptions::default(), &|_| Vec::new()).unwrap();
    assert!(matches!(fixture.store.content().recipe(&digest).unwrap(), Recipe::Unknown));
}

/// The recipe is tried on what is on the disk before the blob goes.
#[test]
fn a_layer_that_was_changed_keeps_its_blob() {
    let fixture = Fixture::new();
    let tar = tar(100_000);
    let blob = packed(&tar, Compression::Gzip);
    let image = pulled(&fixture, &blob, &tar);
    let digest = Digest::of(&blob);
    let file = fixture.store.snapshots().layer_dir(&image.layers[0]).join("file");
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, b"changed").unwrap();
    assert_eq!(fixture.store.keep_once(&digest, &image.layers[0]).unwrap(), KeptOnce::Blob);
    assert!(read(&fixture, &digest) == blob);
    // Changed afterwards, it is an error that says so.
    fixture.store.content().delete(&digest).unwrap();
    fixture.store.content().put(&blob).unwrap();
    std::fs::write(&file, text).unwrap();
    assert!(matches!(fixture.store.keep_once(&digest, &image.layers[0]).unwrap(), KeptOnce::Recipe(_)));
    std::fs::write(&file, b"changed").unwrap();
    let error = fixture.store.open_blob(&digest).unwrap_err();
    assert!(yare_errdefs::chain(&error).contains("file"), "{error}");
}

#[test]
fn what_was_removed_meanwhile_is_gone() {
    let fixture = Fixture::new();
    let tar = tar(1000);
    let blob = packed(&tar, Compression::Gzip);
    let image = pulled(&fixture, &blob, &tar);
    fixture.store.remove(&image.id.to_string(), RemoveOptions::default(), &|_| Vec::new()).unwrap();
    let kept = fixture.store.keep_once(&Digest::of(&blob), &image.layers[0]).unwrap();
    assert_eq!(kept, KeptOnce::Gone);
    assert_eq!(fixture.on_disk(), (0, 0));
}
