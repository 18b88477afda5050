//! What is said about a build beside its image: how it was made, and what is in it.
//!
//! An attestation is an in-toto statement: a predicate about the images that it names as subjects. Its bytes
//! depend on the build alone: no clock, no random id, members and lists in a fixed order.

pub mod packages;
pub mod provenance;
pub mod sbom;
mod witness;

pub(crate) use witness::Wanted;

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use yare_errdefs::{Error, Result};
use yare_oci::{Digest, Platform, Reference};

/// Media type of a statement as a layer.
pub const MEDIA_TYPE: &str = "application/vnd.in-toto+json";
/// Annotation of such a layer: the kind of its predicate.
pub const PREDICATE_ANNOTATION: &str = "in-toto.io/predicate-type";

const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";

/// A predicate and its kind, still about no image.
#[derive(Debug, Clone, PartialEq)]
pub struct Attestation {
    /// The kind, an URI.
    pub predicate_type: String,
    /// The predicate.
    pub predicate: Value,
}

/// An image that an attestation is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// A package URL, or `_` for an image without name.
    pub name: String,
    /// `sha256` and the hex digits of the manifest's digest.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// The subjects of a manifest: one a name, as BuildKit names them.
    pub fn of(manifest: &Digest, names: &[Reference], platform: &Platform) -> Vec<Self> {
        let digest = digest_set(manifest);
        if names.is_empty() {
            return vec![Self { name: "_".into(), digest }];
        }
        let name = |reference: &Reference| image_purl(reference, Some(platform));
        names.iter().map(|reference| Self { name: name(reference), digest: digest.clone() }).collect()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    predicate_type: &'a str,
    subject: &'a [Subject],
    predicate: &'a Value,
}

impl Attestation {
    /// The statement about these images, as JSON: the content of a layer.
    pub fn statement(&self, subjects: &[Subject]) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.about(subjects)).map_err(unwritten)
    }

    /// The statement about these files, for people: the content of a file.
    pub fn document(&self, subjects: &[Subject]) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(&self.about(subjects)).map_err(unwritten)
    }

    fn about<'a>(&'a self, subject: &'a [Subject]) -> Statement<'a> {
        let Self { predicate_type, predicate } = self;
        Statement { kind: STATEMENT, predicate_type, subject, predicate }
    }
}

fn unwritten(error: serde_json::Error) -> Error {
    Error::internal("cannot write an attestation as JSON").caused_by(error)
}

/// What a digest is in a subject.
pub(crate) fn digest_set(digest: &Digest) -> BTreeMap<String, String> {
    BTreeMap::from([("sha256".to_owned(), digest.hex())])
}

/// Escapes a part of a package URL.
pub(crate) fn purl_part(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    utf8_percent_encode(text, KEPT).to_string()
}

/// `pkg:docker/alpine@3.20?platform=linux%2Famd64`.
pub fn image_purl(reference: &Reference, platform: Option<&Platform>) -> String {
    let familiar = reference.familiar_name();
    let path = familiar.split('/').map(purl_part).collect::<Vec<_>>().join("/");
    let version = reference.tag().map(|tag| format!("@{}", purl_part(tag))).unwrap_or_default();
    let digest = reference.digest().map(|digest| format!("digest={}", purl_part(&digest.to_string())));
    let platform = platform.map(|platform| format!("platform={}", purl_part(&platform_text(platform))));
    let qualifiers: Vec<String> = digest.into_iter().chain(platform).collect();
    let question = if qualifiers.is_empty() { "" } else { "?" };
    format!("pkg:docker/{path}{version}{question}{}", qualifiers.join("&"))
}

fn platform_text(platform: &Platform) -> String {
    let parts = [platform.os.as_str(), &platform.architecture, &platform.variant];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_have_buildkits_names() {
        let digest = Digest::of("x");
        let names =
            [Reference::parse("alpine:3.20").unwrap(), Reference::parse("r.example:5000/a/b:v1").unwrap()];
        let subjects = Subject::of(&digest, &names, &Platform::new("linux", "arm", "v7"));
        assert_eq!(subjects[0].name, "pkg:docker/alpine@3.20?platform=linux%2Farm%2Fv7");
        assert_eq!(subjects[1].name, "pkg:docker/r.example:5000/a/b@v1?platform=linux%2Farm%2Fv7");
        assert_eq!(subjects[0].digest["sha256"], digest.hex());
        assert_eq!(Subject::of(&digest, &[], &Platform::host())[0].name, "_");
    }

    #[test]
    fn a_statement_is_the_same_every_time() {
        let predicate = serde_json::json!({"b": 1, "a": [1, 2]});
        let attestation = Attestation { predicate_type: "https://x".into(), predicate };
        let subjects = Subject::of(&Digest::of("x"), &[], &Platform::host());
        let text = String::from_utf8(attestation.statement(&subjects).unwrap()).unwrap();
        assert!(
            text.starts_with(
                "{\"_type\":\"https://in-toto.io/Statement/v0.1\",\"predicateType\":\"https://x\""
            )
        );
        assert!(text.ends_with("\"predicate\":{\"a\":[1,2],\"b\":1}}"), "{text}");
    }
}
