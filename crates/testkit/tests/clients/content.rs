//! Images made on the spot, as OCI image layouts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_ZSTD_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The digest of these bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A layout that is being written.
struct Layout {
    folder: PathBuf,
}

impl Layout {
    fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { folder: folder.to_owned() }
    }

    /// Writes a blob; its descriptor.
    fn put(&self, kind: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.folder.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    }

    /// Writes an image of layers that have a file each.
    fn image(&self, architecture: &str, text: &str, count: usize) -> Value {
        let layers: Vec<Vec<u8>> = (1..=count).map(|number| layer(text, number)).collect();
        let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = self.put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let layers: Vec<Value> = layers.iter().map(|layer| self.put(OCI_LAYER, &gzip(layer))).collect();
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
        let mut descriptor = self.put(OCI_MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
        descriptor
    }

    /// Says what the layout is about; its digest.
    fn finish(&self, root: &Value) -> String {
        let index = json!({"schemaVersion": 2, "manifests": [root]});
        fs::write(self.folder.join("index.json"), index.to_string()).unwrap();
        root["digest"].as_str().unwrap().to_owned()
    }
}

/// A tar with the file `fN`, and in it the text and the number.
fn layer(text: &str, number: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let text = format!("{text} {number}\n");
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, format!("f{number}"), text.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// Writes a layout of one image with so many layers, which have this text in them; its digest.
pub(crate) fn image(folder: &Path, text: &str, layers: usize) -> String {
    let layout = Layout::new(folder);
    layout.finish(&layout.image("amd64", text, layers))
}

/// Writes a layout of an index of images for two platforms; its digest.
pub(crate) fn index(folder: &Path) -> String {
    let layout = Layout::new(folder);
    let images = [layout.image("amd64", "one", 2), layout.image("arm64", "other", 3)];
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": images});
    layout.finish(&layout.put(OCI_INDEX, index.to_string().as_bytes()))
}

/// The blobs of a layout.
pub(crate) fn blobs(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
}

/// What a layout is about.
pub(crate) fn root(folder: &Path) -> String {
    let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}
