//! What is pushed: sets of blobs, manifests and tags.

use super::{Algorithm, noise};
use serde_json::{Value, json};
use yare_oci::MediaType;

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const OCTETS: &str = "application/octet-stream";
const FIRST: &str = "application/vnd.example.suite.v1";
const SECOND: &str = "application/vnd.example.suite.v2";
const PLATFORMS: [&str; 2] = ["amd64", "arm64"];

/// Fills a set.
pub(super) type Fill = fn(&mut Data);

/// All kinds of content.
pub(super) const KINDS: &[(&str, Fill)] = &[
    ("image", image),
    ("plain-layers", plain_layers),
    ("large-manifest", large_manifest),
    ("no-layers", no_layers),
    ("index", |data| drop(index(data, &["index"]))),
    ("nested-index", nested_index),
    ("empty-index", |data| drop(data.index(&["empty"], Vec::new(), json!({})))),
    ("artifact", |data| drop(artifact(data, FIRST, OCTETS, json!({})))),
    ("artifact-without-layers", bare_artifact),
    ("artifact-index", artifact_index),
    ("subject", subject),
    ("index-with-subject", index_with_subject),
    ("missing-subject", missing_subject),
    ("data-field", data_field),
    ("not-distributable", not_distributable),
    ("custom-fields", custom_fields),
    ("tagged", tagged),
];

/// A manifest.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) digest: String,
    pub(super) kind: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) tags: Vec<String>,
    pub(super) subject: Option<String>,
    /// What a list of referrers says of it.
    pub(super) listed: Value,
}

/// A set of content of one repository.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) repository: String,
    pub(super) algorithm: Algorithm,
    pub(super) blobs: Vec<(String, Vec<u8>)>,
    /// Those that are needed come first.
    pub(super) manifests: Vec<Document>,
    tags_in_query: bool,
    /// Descriptors carry the content.
    inline: bool,
}

impl Data {
    pub(super) fn new(name: &str, algorithm: Algorithm, fill: Fill) -> Self {
        let mut data = Self {
            repository: format!("suite/{name}"),
            algorithm,
            blobs: Vec::new(),
            manifests: Vec::new(),
            tags_in_query: false,
            inline: false,
        };
        fill(&mut data);
        data
    }

    /// Whether tags come with the push by digest, as parameters. Of another algorithm than the canonical one they
    /// have to: a push by tag does not say which one it means.
    pub(super) fn tags_in_query(&self) -> bool {
        self.tags_in_query || self.algorithm != Algorithm::Sha256
    }

    fn describe(&self, kind: &str, bytes: &[u8]) -> Value {
        let mut descriptor =
            json!({ "mediaType": kind, "digest": self.algorithm.of(bytes), "size": bytes.len() });
        if self.inline {
            use base64::Engine as _;
            descriptor["data"] = json!(base64::engine::general_purpose::STANDARD.encode(bytes));
        }
        descriptor
    }

    fn blob(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let descriptor = self.describe(kind, &bytes);
        let digest = self.algorithm.of(&bytes);
        if self.blobs.iter().all(|(known, _)| *known != digest) {
            self.blobs.push((digest, bytes));
        }
        descriptor
    }

    /// A blob that nobody else has.
    fn fresh(&mut self, kind: &str, size: usize) -> Value {
        let label = format!("{} {} {:?}", self.repository, self.blobs.len(), self.algorithm);
        self.blob(kind, noise(&label, size))
    }

    fn config(&mut self, platform: &str, more: &Value) -> Value {
        let number = self.blobs.len();
        let mut config = json!({ "architecture": platform, "os": "linux", "author": number,
            "rootfs": { "type": "layers", "diff_ids": [] } });
        merge(&mut config, more);
        self.blob(MediaType::OCI_CONFIG, config.to_string().into_bytes())
    }

    fn manifest(&mut self, tags: &[&str], (kind, document): (&'static str, &Value)) -> Value {
        let bytes = document.to_string().into_bytes();
        let descriptor = self.describe(kind, &bytes);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let digest = self.algorithm.of(&bytes);
        let kind_of_artifact =
            text(&document["artifactType"]).or_else(|| text(&document["config"]["mediaType"]));
        let listed = json!({ "mediaType": kind, "digest": digest, "size": bytes.len(),
            "artifactType": kind_of_artifact, "annotations": document["annotations"] });
        let subject = text(&document["subject"]["digest"]);
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        self.manifests.push(Document { digest, kind, bytes, tags, subject, listed });
        descriptor
    }

    /// An image manifest with `more` fields.
    fn image(&mut self, tags: &[&str], (config, layers): (Value, Vec<Value>), more: Value) -> Value {
        let mut document = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": config, "layers": layers });
        merge(&mut document, &more);
        self.manifest(tags, (MediaType::OCI_MANIFEST, &document))
    }

    /// An index with `more` fields.
    fn index(&mut self, tags: &[&str], members: Vec<Value>, more: Value) -> Value {
        let mut document =
            json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": members });
        merge(&mut document, &more);
        self.manifest(tags, (MediaType::OCI_INDEX, &document))
    }
}

fn merge(document: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        document[key] = value.clone();
    }
}

/// An image of two layers for a platform.
fn two_layers(data: &mut Data, tags: &[&str], platform: &str, more: Value) -> Value {
    let layers = vec![data.fresh(MediaType::OCI_LAYER_GZIP, 300), data.fresh(MediaType::OCI_LAYER_GZIP, 400)];
    let config = data.config(platform, &json!({}));
    data.image(tags, (config, layers), more)
}

pub(super) fn image(data: &mut Data) {
    two_layers(data, &["image"], "amd64", json!({}));
}

fn plain_layers(data: &mut Data) {
    let layers = vec![data.fresh(MediaType::OCI_LAYER, 2048), data.fresh(MediaType::OCI_LAYER, 1024)];
    let config = data.config("amd64", &json!({}));
    data.image(&["plain"], (config, layers), json!({}));
}

fn large_manifest(data: &mut Data) {
    let note = |number: usize| (format!("large-annotation-{number}"), json!("A".repeat(10_000)));
    let notes: serde_json::Map<String, Value> = (0..390).map(note).collect();
    two_layers(data, &["large"], "amd64", json!({ "annotations": notes }));
}

fn no_layers(data: &mut Data) {
    let config = data.config("amd64", &json!({}));
    data.image(&["bare"], (config, Vec::new()), json!({}));
}

/// An image for each platform.
fn images(data: &mut Data) -> Vec<Value> {
    let image = |platform: &str| {
        let mut image = two_layers(data, &[], platform, json!({}));
        image["platform"] = json!({ "os": "linux", "architecture": platform });
        image
    };
    PLATFORMS.map(image).into()
}

fn index(data: &mut Data, tags: &[&str]) -> Value {
    let members = images(data);
    data.index(tags, members, json!({}))
}

fn nested_index(data: &mut Data) {
    let members = vec![index(data, &[]), index(data, &[])];
    data.index(&["index-of-indexes"], members, json!({}));
}

/// An artifact with one layer.
fn artifact(data: &mut Data, kind: &str, layer: &str, more: Value) -> Value {
    let layers = vec![data.fresh(layer, 500)];
    let config = data.blob(EMPTY, b"{}".to_vec());
    let mut fields = json!({ "artifactType": kind });
    merge(&mut fields, &more);
    data.image(&[], (config, layers), fields)
}

fn bare_artifact(data: &mut Data) {
    let empty = data.blob(EMPTY, b"{}".to_vec());
    data.image(&["bare-artifact"], (empty.clone(), vec![empty]), json!({ "artifactType": FIRST }));
}

fn artifact_index(data: &mut Data) {
    let members = vec![artifact(data, FIRST, FIRST, json!({})), artifact(data, FIRST, FIRST, json!({}))];
    data.index(&["artifacts"], members, json!({ "artifactType": FIRST }));
}

/// Fields of what speaks about `subject`.
fn about(subject: &Value, note: &str) -> Value {
    json!({ "subject": subject, "annotations": { "org.example.note": note, "org.example.kind": "suite" } })
}

fn subject(data: &mut Data) {
    let subject = two_layers(data, &["image"], "amd64", json!({}));
    two_layers(data, &[], "amd64", json!({ "subject": subject }));
    artifact(data, FIRST, FIRST, about(&subject, "first"));
    artifact(data, SECOND, OCTETS, about(&subject, "second"));
}

fn index_with_subject(data: &mut Data) {
    let subject = index(data, &["index"]);
    let members = vec![artifact(data, FIRST, FIRST, json!({}))];
    let mut fields = about(&subject, "an index");
    fields["artifactType"] = json!(FIRST);
    data.index(&["artifact"], members, fields);
}

fn missing_subject(data: &mut Data) {
    let missing = data.describe(MediaType::OCI_MANIFEST, b"missing content");
    artifact(data, FIRST, FIRST, about(&missing, "of what is missing"));
}

fn data_field(data: &mut Data) {
    data.inline = true;
    two_layers(data, &["inline"], "amd64", json!({}));
}

fn not_distributable(data: &mut Data) {
    let elsewhere = |data: &Data, kind: &str| {
        let mut layer = data.describe(kind, kind.as_bytes());
        layer["urls"] = json!(["https://store.example.com/layer"]);
        layer
    };
    let layers = vec![
        elsewhere(data, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
        elsewhere(data, "application/vnd.oci.image.layer.nondistributable.v1.tar"),
        data.fresh(MediaType::OCI_LAYER_GZIP, 300),
    ];
    let config = data.config("amd64", &json!({}));
    data.image(&["elsewhere"], (config, layers), json!({}));
}

fn custom_fields(data: &mut Data) {
    let own = json!({ "org.example.own": { "deep": [1, null, "x"] } });
    let layers = vec![data.fresh(MediaType::OCI_LAYER_GZIP, 300)];
    let config = data.config("amd64", &own);
    let image = data.image(&[], (config, layers), own.clone());
    data.index(&["own-fields"], vec![image], own);
}

fn tagged(data: &mut Data) {
    index(data, &[]);
    data.tags_in_query = true;
    for (number, manifest) in data.manifests.iter_mut().enumerate() {
        manifest.tags = vec![format!("tagged-{number}")];
    }
    if let Some(top) = data.manifests.last_mut() {
        top.tags.push("tagged".to_owned());
    }
}
