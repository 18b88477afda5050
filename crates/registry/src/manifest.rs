//! What a manifest says about other content.
//!
//! A pushed manifest is kept as its raw bytes; this module only reads what the registry has to know:
//! its type, what it needs, what it speaks about. Documents that could be read in two ways are refused.

use crate::problem::{Code, Refusal};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use yare_oci::{ContentDigest, MediaType};

/// The most bytes of a manifest: 4 MiB, what the distribution spec asks registries to accept.
pub const MANIFEST_LIMIT: usize = 4 << 20;

/// What the registry knows about a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// Blobs that the repository must have.
    pub blobs: Vec<ContentDigest>,
    /// Manifests that it lists.
    pub members: Vec<ContentDigest>,
    /// The manifest that it speaks about.
    pub subject: Option<ContentDigest>,
    /// What kind of artifact it is, for the list of referrers.
    pub artifact_type: Option<String>,
    /// Its annotations, for the list of referrers.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<serde_json::Value>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Pointer>,
    layers: Option<Vec<Pointer>>,
    manifests: Option<Vec<Pointer>>,
    subject: Option<Pointer>,
    annotations: Option<BTreeMap<String, String>>,
    // Schema 1.
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    media_type: Option<String>,
    digest: String,
    size: i64,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl Manifest {
    /// The names of all other content in it.
    pub fn names(&self) -> impl Iterator<Item = &ContentDigest> {
        self.blobs.iter().chain(&self.members).chain(&self.subject)
    }
}

impl Pointer {
    fn digest(&self) -> Result<ContentDigest, Refusal> {
        if self.size < 0 {
            return Err(invalid(format!("{} has a negative size", self.digest)));
        }
        self.digest.parse().map_err(|error: yare_oci::digest::DigestError| {
            Refusal::new(Code::ManifestInvalid, error.to_string())
                .with_detail(json!({ "digest": self.digest.chars().take(256).collect::<String>() }))
        })
    }

    /// Layers that live elsewhere by their maker's wish: registries need not have them.
    fn is_foreign(&self) -> bool {
        let foreign = self.media_type.as_deref().is_some_and(|media_type| {
            media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
        });
        foreign || self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }
}

/// Reads a manifest that was sent with `content_type`.
pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Manifest, Refusal> {
    if bytes.len() > MANIFEST_LIMIT {
        return Err(too_large(bytes.len() as u64));
    }
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| invalid(format!("no manifest: {error}")))?;
    if document.schema_version.as_ref().and_then(serde_json::Value::as_u64) != Some(2)
        || document.fs_layers.is_some()
    {
        return Err(invalid("schemaVersion is not 2; schema 1 manifests are not supported".into()));
    }
    let media_type = media_type(content_type, &document)?;
    let is_index = MediaType::is_index(&media_type);
    // Two readings of one document are how images get past checks (CVE-2021-41190).
    match (is_index, &document) {
        (true, Document { config: None, layers: None, manifests: Some(_), .. }) => {}
        (false, Document { config: Some(_), layers: Some(_), manifests: None, .. }) => {}
        (true, _) => {
            return Err(invalid("an index has `manifests`, and neither `config` nor `layers`".into()));
        }
        (false, _) => return Err(invalid("a manifest has `config` and `layers`, and no `manifests`".into())),
    }
    let config_type = document.config.as_ref().and_then(|config| config.media_type.clone());
    let layers = document.layers.iter().flatten().filter(|layer| !layer.is_foreign());
    let mut blobs: Vec<ContentDigest> =
        document.config.iter().chain(layers).map(Pointer::digest).collect::<Result<_, _>>()?;
    blobs.sort_unstable();
    blobs.dedup();
    let mut members: Vec<ContentDigest> =
        document.manifests.iter().flatten().map(Pointer::digest).collect::<Result<_, _>>()?;
    members.sort_unstable();
    members.dedup();
    let subject = document.subject.as_ref().map(Pointer::digest).transpose()?;
    let artifact_type = document.artifact_type.filter(|kind| !kind.is_empty());
    Ok(Manifest {
        blobs,
        members,
        subject,
        artifact_type: artifact_type.or(config_type).filter(|kind| !kind.is_empty()),
        annotations: document.annotations.unwrap_or_default(),
        media_type,
    })
}

/// The type by the header; the document may only repeat it.
fn media_type(content_type: Option<&str>, document: &Document) -> Result<String, Refusal> {
    let sent = content_type.map(|sent| sent.split(';').next().unwrap_or(sent).trim());
    let sent = sent.filter(|sent| !sent.is_empty() && *sent != "application/json");
    let inside = document.media_type.as_deref().filter(|inside| !inside.is_empty());
    let guessed = if document.manifests.is_some() { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST };
    let media_type = match (sent, inside) {
        (Some(sent), Some(inside)) if sent != inside => {
            return Err(invalid(format!("sent as {sent}, but its mediaType is {inside}")));
        }
        (Some(media_type), _) | (None, Some(media_type)) => media_type,
        (None, None) => guessed,
    };
    if MediaType::is_index(media_type) || MediaType::is_manifest(media_type) {
        return Ok(media_type.to_owned());
    }
    Err(invalid(format!("media type {media_type} is no manifest that this registry knows")).with_detail(
        json!({ "known": [
            MediaType::OCI_MANIFEST, MediaType::OCI_INDEX, MediaType::DOCKER_MANIFEST, MediaType::DOCKER_LIST,
        ] }),
    ))
}

fn invalid(message: String) -> Refusal {
    Refusal::new(Code::ManifestInvalid, message)
}

/// The refusal of a manifest that is too large.
pub(crate) fn too_large(size: u64) -> Refusal {
    Refusal::new(
        Code::ManifestInvalid,
        format!("manifest of {size} bytes or more; the limit is {MANIFEST_LIMIT} bytes"),
    )
    .with_status(http::StatusCode::PAYLOAD_TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use yare_oci::Digest;

    fn pointer(text: &str) -> Value {
        json!({ "mediaType": "application/x", "digest": Digest::of(text).to_string(), "size": text.len() })
    }

    fn image() -> Value {
        json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": pointer("c"), "layers": [pointer("l"), pointer("l")] })
    }

    fn read(content_type: Option<&str>, value: &Value) -> Result<Manifest, Refusal> {
        parse(content_type, value.to_string().as_bytes())
    }

    #[test]
    fn an_image_needs_its_config_and_layers_once() {
        let manifest = read(Some(MediaType::OCI_MANIFEST), &image()).unwrap();
        let mut want: Vec<ContentDigest> = vec![Digest::of("c").into(), Digest::of("l").into()];
        want.sort_unstable();
        assert_eq!((manifest.blobs, manifest.members), (want, vec![]));
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/x"));
    }

    #[test]
    fn an_index_lists_manifests() {
        let index = json!({ "schemaVersion": 2, "manifests": [pointer("m")], "subject": pointer("s") });
        let manifest = read(Some("application/vnd.oci.image.index.v1+json; charset=utf-8"), &index).unwrap();
        assert_eq!(manifest.members, [Digest::of("m")]);
        assert_eq!(manifest.subject, Some(Digest::of("s").into()));
        assert_eq!(manifest.artifact_type, None);
        assert_eq!(read(None, &index).unwrap().media_type, MediaType::OCI_INDEX);
    }

    #[test]
    fn foreign_layers_are_not_needed() {
        let mut document = image();
        document["layers"] = json!([
            { "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
              "digest": Digest::of("f").to_string(), "size": 1, "urls": ["https://example.com"] }
        ]);
        assert_eq!(read(None, &document).unwrap().blobs, [Digest::of("c")]);
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let mut both = image();
        both["manifests"] = json!([pointer("m")]);
        let mut without = image();
        without.as_object_mut().unwrap().remove("layers");
        let cases = [
            (Some(MediaType::OCI_MANIFEST), both.clone()),
            (Some(MediaType::OCI_INDEX), both),
            (Some(MediaType::DOCKER_MANIFEST), image()),
            (Some(MediaType::OCI_INDEX), image()),
            (None, without),
            (None, json!({ "schemaVersion": 1, "fsLayers": [] })),
            (None, json!([])),
            (Some("text/html"), json!({ "schemaVersion": 2, "config": pointer("c"), "layers": [] })),
            (
                None,
                json!({ "schemaVersion": 2, "config": { "digest": "sha256:zz", "size": 1 }, "layers": [] }),
            ),
            (
                None,
                json!({ "schemaVersion": 2, "config": { "digest": Digest::of("c").to_string(), "size": -1 },
                "layers": [] }),
            ),
        ];
        for (content_type, document) in cases {
            let refused = read(content_type, &document).unwrap_err();
            assert_eq!(refused.code, Code::ManifestInvalid, "{document}");
        }
        assert_eq!(parse(None, &vec![b' '; MANIFEST_LIMIT + 1]).unwrap_err().status, 413);
        assert!(parse(None, "[".repeat(100_000).as_bytes()).is_err());
    }
}
