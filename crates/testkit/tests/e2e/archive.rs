//! Image archives made by hand.

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use yare_testkit::Invocation;

/// A layer with these files.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let files: Vec<(String, Vec<u8>)> =
        files.iter().map(|(path, content)| ((*path).to_owned(), content.as_bytes().to_vec())).collect();
    pack(&files)
}

fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let said = Invocation::new("sha256sum", &[]).input(bytes).ok();
    said.split(' ').next().unwrap().to_owned()
}

fn config(layers: &[Vec<u8>], settings: &Value) -> Value {
    let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    let history: Vec<Value> = (1..=layers.len())
        .map(|number| json!({"created": "2024-01-02T03:04:05Z", "created_by": format!("step {number}")}))
        .collect();
    json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z", "config": settings,
        "rootfs": {"type": "layers", "diff_ids": ids}, "history": history,
    })
}

/// An archive as `docker save` wrote it before version 25.
pub(crate) fn docker_archive(tag: &str, layers: &[Vec<u8>], settings: &Value) -> Vec<u8> {
    packed(tag, layers, &config(layers, settings))
}

/// The same for another processor.
pub(crate) fn docker_archive_for(
    tag: &str,
    layers: &[Vec<u8>],
    (architecture, variant): (&str, &str),
) -> Vec<u8> {
    let mut config = config(layers, &json!({}));
    config["architecture"] = architecture.into();
    if !variant.is_empty() {
        config["variant"] = variant.into();
    }
    packed(tag, layers, &config)
}

fn packed(tag: &str, layers: &[Vec<u8>], config: &Value) -> Vec<u8> {
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", sha256(&config));
    let names: Vec<String> = layers.iter().map(|layer| format!("{}/layer.tar", sha256(layer))).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": [tag], "Layers": names}]);
    let mut files = vec![(config_name, config)];
    files.extend(names.into_iter().zip(layers.iter().cloned()));
    files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
    pack(&files)
}

/// An OCI image layout with nothing of Docker's.
pub(crate) fn oci_layout(tag: &str, layers: &[Vec<u8>], settings: &Value) -> Vec<u8> {
    let describe = |kind: &str, bytes: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len(),
        })
    };
    let config = config(layers, settings).to_string().into_bytes();
    let layer_kinds: Vec<Value> = layers.iter().map(|layer| describe("layer.v1.tar", layer)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("config.v1+json", &config), "layers": layer_kinds,
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = describe("manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let blobs = [config, manifest].into_iter().chain(layers.iter().cloned());
    let mut files: Vec<(String, Vec<u8>)> =
        blobs.map(|blob| (format!("blobs/sha256/{}", sha256(&blob)), blob)).collect();
    files.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    pack(&files)
}
