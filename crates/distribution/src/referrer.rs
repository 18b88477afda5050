//! Manifests that speak about others, at registries with and without the referrers API.

use crate::manifest::{Document, Name};
use crate::repository::Repository;
use crate::{Error, Result};
use http::StatusCode;
use serde_json::{Value, json};
use yare_oci::{ContentDigest, MediaType};

/// The most entries of the list that stands in for the API.
const ENTRIES: usize = 1000;

/// The tag of the list that stands in for the referrers API: as much of the digest as a tag has room for
/// (distribution-spec, "Referrers Tag Schema").
pub(crate) fn list_tag(subject: &ContentDigest) -> String {
    let text = subject.to_string().replace(':', "-");
    let end = subject.algorithm().len() + 1 + 64;
    crate::bounded(&text, end).to_owned()
}

impl Repository {
    /// Stores a manifest that speaks about `subject`, by what it is called. Where the registry does not note that,
    /// it is entered into the list under the tag that stands in for the API (distribution-spec, "Pushing
    /// Manifests with Subject"). Two clients that do so at once may lose one entry: the protocol has no
    /// condition for puts.
    ///
    /// # Errors
    /// Of the registry, when it does not take it.
    pub async fn put_referrer(&self, subject: &ContentDigest, document: &Document) -> Result<()> {
        let (called, kind) = (document.name, document.descriptor.media_type.as_str());
        if self.put(&Name::Digest(called), kind, &document.bytes).await?.1 {
            return Ok(());
        }
        let asked = self.asked(format!("enter a referrer of {subject}"));
        let tag = list_tag(subject);
        let list = Name::Tag(tag.clone());
        let mut entries = match self.manifest(&list).await {
            Ok(list) => entries(&list.bytes)
                .ok_or_else(|| Error::content(&asked, format!("what has the tag {tag} is no list")))?,
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Vec::new(),
            Err(error) => return Err(error),
        };
        if entries.iter().any(|entry| entry["digest"] == called.to_string()) {
            return Ok(());
        }
        if entries.len() >= ENTRIES {
            return Err(Error::content(&asked, format!("the list has {ENTRIES} entries already")));
        }
        entries.push(entry(document));
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries });
        self.put_manifest(&list, MediaType::OCI_INDEX, index.to_string().as_bytes()).await.map(drop)
    }
}

fn entries(list: &[u8]) -> Option<Vec<Value>> {
    let list: Value = serde_json::from_slice(list).ok()?;
    list["manifests"].as_array().cloned()
}

/// What the list says about a manifest.
fn entry(document: &Document) -> Value {
    let inside: Value = serde_json::from_slice(&document.bytes).unwrap_or_default();
    let mut entry = json!({
        "mediaType": document.descriptor.media_type,
        "digest": document.name.to_string(),
        "size": document.bytes.len(),
    });
    let kinds = [&inside["artifactType"], &inside["config"]["mediaType"]];
    if let Some(kind) = kinds.into_iter().find(|kind| kind.as_str().is_some_and(|kind| !kind.is_empty())) {
        entry["artifactType"] = kind.clone();
    }
    if inside["annotations"].is_object() {
        entry["annotations"] = inside["annotations"].clone();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_oci::Descriptor;

    #[test]
    fn an_entry_says_what_the_manifest_is() {
        let text = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.x.config"},"layers":[],
            "annotations":{"a":"b"}}"#;
        let bytes = bytes::Bytes::from_static(text.as_bytes());
        let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &bytes);
        let document = Document { name: descriptor.digest.into(), descriptor, bytes };
        let entry = entry(&document);
        assert_eq!(entry["artifactType"], "application/vnd.x.config");
        assert_eq!(
            (&entry["annotations"]["a"], entry["size"].as_u64()),
            (&json!("b"), Some(text.len() as u64))
        );
        let list = json!({ "manifests": [entry] }).to_string();
        assert_eq!(entries(list.as_bytes()).map(|entries| entries.len()), Some(1));
        let long = ContentDigest::Sha512([0xab; 64]);
        assert_eq!(list_tag(&long), format!("sha512-{}", "ab".repeat(32)));
        assert_eq!(list_tag(&document.name), document.name.to_string().replace(':', "-"));
        assert_eq!((entries(b"no list"), entries(text.as_bytes())), (None, None));
    }
}
