//! Manifests and indexes as bytes. Pure.

use crate::attest::{Attestation, MEDIA_TYPE, PREDICATE_ANNOTATION, Subject};
use serde::Serialize;
use std::collections::BTreeMap;
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, DiffId, ImageConfig, Index, Manifest, MediaType, Platform, RootFs};

type Map = BTreeMap<String, String>;

/// A document and what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Document {
    fn of(media_type: &str, value: &impl Serialize) -> Result<Self> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Error::internal("cannot write a manifest as JSON").caused_by(error))?;
        Ok(Self { descriptor: Descriptor::of(media_type, &bytes), bytes })
    }
}

/// The manifest of an image: its config and the blobs of its layers, bottom first.
pub fn manifest(config: &[u8], layers: Vec<Descriptor>, annotations: Map) -> Result<Document> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: MediaType::OCI_MANIFEST.to_owned(),
        artifact_type: None,
        config: Descriptor::of(MediaType::OCI_CONFIG, config),
        layers,
        subject: None,
        annotations,
    };
    Document::of(MediaType::OCI_MANIFEST, &manifest)
}

/// An index over manifests, each with its platform.
pub fn index(manifests: Vec<Descriptor>, annotations: Map) -> Result<Document> {
    let media_type = MediaType::OCI_INDEX.to_owned();
    Document::of(MediaType::OCI_INDEX, &Index { schema_version: 2, media_type, manifests, annotations })
}

/// The manifest that carries attestations, in BuildKit's form: a layer a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The manifest; its descriptor has the platform `unknown/unknown` and says what it is about.
    pub manifest: Document,
    /// Its config.
    pub config: Document,
    /// The statements.
    pub statements: Vec<Document>,
}

/// Attestations of the image that `subject` describes, known by these subjects.
pub fn attested(
    subject: &Descriptor,
    subjects: &[Subject],
    attestations: &[Attestation],
) -> Result<Attested> {
    let statement = |attestation: &Attestation| {
        let bytes = attestation.statement(subjects)?;
        let mut descriptor = Descriptor::of(MEDIA_TYPE, &bytes);
        descriptor.annotations.insert(PREDICATE_ANNOTATION.into(), attestation.predicate_type.clone());
        Ok(Document { descriptor, bytes })
    };
    let statements: Vec<Document> = attestations.iter().map(statement).collect::<Result<_>>()?;
    let diff_ids = statements.iter().map(|statement| DiffId(statement.descriptor.digest)).collect();
    let config = ImageConfig {
        architecture: "unknown".into(),
        os: "unknown".into(),
        rootfs: RootFs { diff_ids, ..RootFs::default() },
        ..ImageConfig::default()
    };
    let config = Document::of(MediaType::OCI_CONFIG, &config)?;
    let layers = statements.iter().map(|statement| statement.descriptor.clone()).collect();
    let mut manifest = manifest(&config.bytes, layers, Map::new())?;
    manifest.descriptor.platform = Some(Platform::new("unknown", "unknown", ""));
    manifest.descriptor.annotations = BTreeMap::from([
        ("vnd.docker.reference.digest".to_owned(), subject.digest.to_string()),
        ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned()),
    ]);
    Ok(Attested { manifest, config, statements })
}

/// The media type of a layer that is packed so.
pub fn layer_type(compression: yare_layer::Compression) -> Result<&'static str> {
    match compression {
        yare_layer::Compression::Plain => Ok(MediaType::OCI_LAYER),
        yare_layer::Compression::Gzip => Ok(MediaType::OCI_LAYER_GZIP),
        yare_layer::Compression::Zstd => Ok(MediaType::OCI_LAYER_ZSTD),
        other => Err(Error::invalid(format!("layers cannot be packed with {other:?}"))),
    }
}
