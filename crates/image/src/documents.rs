//! The documents of an image archive: a docker archive's `manifest.json` and `repositories`, an OCI layout's
//! `index.json`. Pure; `save` and the exporters of builds write the same ones.

use crate::ImageId;
use serde::Serialize;
use std::collections::BTreeMap;
use yare_oci::{Descriptor, DiffId, Digest, MediaType, Reference};

/// One member of `manifest.json`; the order of the members is Docker's.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerItem {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    layer_sources: BTreeMap<String, LayerSource>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct LayerSource {
    media_type: String,
    size: u64,
    digest: Digest,
}

impl DockerItem {
    /// The image of this config: its layers, bottom first, with the blobs that hold them, and its names.
    pub fn new(
        config: &Digest,
        layers: &[(DiffId, Descriptor)],
        tags: &[Reference],
        parent: Option<ImageId>,
    ) -> Self {
        let source = |blob: &Descriptor| LayerSource {
            media_type: blob.media_type.clone(),
            size: blob.size,
            digest: blob.digest,
        };
        Self {
            config: blob_path(config),
            repo_tags: (!tags.is_empty()).then(|| tags.iter().map(Reference::familiar).collect()),
            layers: layers.iter().map(|(_, blob)| blob_path(&blob.digest)).collect(),
            parent: parent.map(|parent| parent.to_string()),
            layer_sources: layers.iter().map(|(layer, blob)| (layer.to_string(), source(blob))).collect(),
        }
    }
}

/// `index.json` of an OCI layout.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OciLayout {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// The top index of an OCI layout over these members.
pub fn oci_layout(manifests: Vec<Descriptor>) -> OciLayout {
    OciLayout { schema_version: 2, media_type: MediaType::OCI_INDEX, manifests }
}

/// Where a blob lies in an archive.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// One descriptor a name, as containerd annotates them, or one without a name.
pub fn named_descriptors(plain: &Descriptor, tags: &[Reference]) -> Vec<Descriptor> {
    if tags.is_empty() {
        return vec![plain.clone()];
    }
    let named = |tag: &Reference| {
        let mut descriptor = plain.clone();
        descriptor.annotations.insert("io.containerd.image.name".into(), tag.to_string());
        let short = tag.tag().unwrap_or_default().to_owned();
        descriptor.annotations.insert("org.opencontainers.image.ref.name".into(), short);
        descriptor
    };
    tags.iter().map(named).collect()
}

/// `repositories`: by repository and tag, the top layer. Images without layers are not in it.
pub fn repositories<'a>(
    images: impl IntoIterator<Item = (&'a [Reference], Option<&'a DiffId>)>,
) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (names, top) in images {
        let Some(top) = top else { continue };
        for tag in names {
            let tags = repositories.entry(tag.familiar_name()).or_default();
            tags.insert(tag.tag().unwrap_or_default().to_owned(), top.hex());
        }
    }
    repositories
}
