//! Manifests that speak about others, at registries with and without the referrers API.

use crate::manifest::{Document, Name};
use crate::repository::Repository;
use crate::{Error, Result};
use http::StatusCode;
use serde_json::{Value, json};
use yare_errdefs::Classified;
use yare_oci::{Digest, MediaType};

/// The most entries of the list that stands in for the API.
const ENTRIES: usize = 1000;

impl Repository {
    /// Stores a manifest that speaks about `subject`, by its digest. Where the registry does not note that,
    /// it is entered into the list under the tag that stands in for the API (distribution-spec, "Pushing
    /// Manifests with Subject"). Two clients that do so at once may lose one entry: the protocol has no
    /// condition for puts.
    ///
    /// # Errors
    /// Of the registry, when it does not take it.
    pub async fn put_referrer(&self, subject: &Digest, document: &Document) -> Result<()> {
        let (digest, kind) = (document.descriptor.digest, document.descriptor.media_type.as_str());
        if self.put(&Name::from(digest), kind, &document.bytes).await?.1 {
            return Ok(());
        }
        let asked = self.asked(format!("enter a referrer of {subject}"));
        let tag = format!("sha256-{}", subject.hex());
        let list = Name::Tag(tag.clone());
        let mut entries = match self.manifest(&list).await {
            Ok(list) => entries(&list.bytes)
                .ok_or_else(|| Error::content(&asked, format!("what has the tag {tag} is no list")))?,
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Vec::new(),
            Err(error) => return Err(error),
        };
        if entries.iter().any(|entry| entry["digest"] == digest.to_string()) {
            return Ok(());
        }
        if entries.len() >= ENTRIES {
            return Err(Error::content(&asked, format!("the list has {ENTRIES} entries already")));
        }
        entries.push(entry(document));
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries });
        self.put_manifest(&list, MediaType::OCI_INDEX, index.to_string().as_bytes()).await.map(drop)
    }

    /// What a name stands for, if it is there.
    ///
    /// # Errors
    /// Of the registry, when it cannot be reached or forbids the question.
    pub async fn find(&self, name: &Name) -> Result<Option<Digest>> {
        match self.resolve(name).await {
            Ok(descriptor) => Ok(Some(descriptor.digest)),
            Err(error) if error.class() == yare_errdefs::Class::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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
        "digest": document.descriptor.digest.to_string(),
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
        let document = Document { descriptor: Descriptor::of(MediaType::OCI_MANIFEST, &bytes), bytes };
        let entry = entry(&document);
        assert_eq!(entry["artifactType"], "application/vnd.x.config");
        assert_eq!(
            (&entry["annotations"]["a"], entry["size"].as_u64()),
            (&json!("b"), Some(text.len() as u64))
        );
        let list = json!({ "manifests": [entry] }).to_string();
        assert_eq!(entries(list.as_bytes()).map(|entries| entries.len()), Some(1));
        assert_eq!((entries(b"no list"), entries(text.as_bytes())), (None, None));
    }
}
