//! Caches that are not what they should be.

use super::folder::Folder;
use super::import::{read_cache, unpack_blob};
use super::*;
use crate::Result;
use std::io::Read;
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

/// A store of one blob, or of bytes without end.
struct Hostile {
    manifest: Vec<u8>,
    blob: Vec<u8>,
    endless: bool,
}

impl ContentStore for Hostile {
    fn manifest(&self, _: Option<&Digest>) -> Result<Vec<u8>> {
        Ok(self.manifest.clone())
    }

    fn open(&self, _: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        match self.endless {
            true => Ok(Box::new(self.blob.as_slice().chain(std::io::repeat(b'[')))),
            false => Ok(Box::new(self.blob.as_slice())),
        }
    }

    fn has(&self, _: &Descriptor) -> Result<bool> {
        Ok(true)
    }

    fn put(&self, _: &Descriptor, _: &Path) -> Result<()> {
        Ok(())
    }

    fn publish(&self, _: &Descriptor, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

#[test]
fn documents_without_end_are_left() {
    let config = Descriptor::new(MEDIA_TYPE, Digest::of("x"), 10);
    let manifest = |config: &Descriptor| {
        serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [] }).to_string().into_bytes()
    };
    let fails = |store: &Hostile, digest: Option<&Digest>, words: &str| {
        let error = read_cache(store, digest).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    let endless = Hostile { manifest: manifest(&config), blob: Vec::new(), endless: true };
    fails(&endless, None, "more than");
    let told = Descriptor { size: u64::MAX, ..config.clone() };
    fails(&Hostile { manifest: manifest(&told), ..endless }, None, "more than");
    let other = Hostile { manifest: manifest(&config), blob: b"{}".to_vec(), endless: false };
    fails(&other, None, "has digest");
    fails(&other, Some(&Digest::of("another")), "has digest");
}

/// A tar of these entries: name, kind, where a link leads, content.
fn tar(entries: &[(&str, u8, &str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, link, content) in entries {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000755\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].fill(b' ');
        header[156] = *kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[test]
fn nothing_is_unpacked_beside_its_directory() {
    let unpack = |bytes: &[u8], layer: &Layer, store: Hostile| {
        let root = tempfile::tempdir().unwrap();
        let inside = root.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let dir = yare_sys::fs::open_dir(&inside).unwrap();
        let store = Hostile { blob: bytes.to_vec(), ..store };
        let blob = store.open(&layer.descriptor()).unwrap();
        let unpacked = unpack_blob(blob, layer, (std::os::fd::AsFd::as_fd(&dir), yare_layer::Form::Plain));
        let names = std::fs::read_dir(root.path()).unwrap();
        assert_eq!(names.count(), 1, "something is beside the directory");
        unpacked.map(drop)
    };
    let store = |endless: bool| Hostile { manifest: Vec::new(), blob: Vec::new(), endless };
    let layer = |bytes: &[u8]| {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        Layer { diff_id: DiffId(digest), blob: digest, size, tar: Some(size) }
    };
    let good = tar(&[("d/", b'5', "", b""), ("d/f", b'0', "", b"content"), (".wh.x", b'0', "", b"")]);
    unpack(&good, &layer(&good), store(false)).unwrap();
    for hostile in [
        tar(&[("../beside", b'0', "", b"x")]),
        tar(&[("link", b'2', "..", b""), ("link/beside", b'0', "", b"x")]),
        tar(&[("link", b'1', "../../etc/passwd", b"")]),
        tar(&[("/../../beside", b'0', "", b"x")]),
    ] {
        // Refused, or put below the directory; nothing else.
        drop(unpack(&hostile, &layer(&hostile), store(false)));
    }
    assert!(unpack(&good, &layer(&good), store(true)).is_err(), "more comes than was told");
    let wrong = Layer { diff_id: DiffId(Digest::of("other")), ..layer(&good) };
    assert!(unpack(&good, &wrong, store(false)).is_err(), "another tar");
    let wrong = Layer { blob: Digest::of("other"), ..layer(&good) };
    assert!(unpack(&good, &wrong, store(false)).is_err(), "another blob");
    let short = Layer { tar: Some(600), ..layer(&good) };
    assert!(unpack(&good, &short, store(false)).is_err(), "a larger tar than was told");
}
