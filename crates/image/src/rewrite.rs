//! An index whose images got other manifests, because their layers are packed in another way than they came.

use crate::platforms::{ImageIndex, attached_to, is_attestation};
use crate::store::Store;
use serde_json::Value;
use std::collections::BTreeMap;
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, Digest, Manifest};

/// Media type of a statement about an image.
const STATEMENT: &str = "application/vnd.in-toto+json";

/// What an index became.
#[derive(Debug, Clone, Default)]
pub struct Rewritten {
    /// The exact bytes of the index; its own where nothing changed.
    pub document: Vec<u8>,
    /// Documents of attestations that came to be with it, by digest.
    pub documents: BTreeMap<Digest, Vec<u8>>,
    /// The attestations that are here, as they are now.
    pub attestations: Vec<Descriptor>,
}

impl Store {
    /// Puts other manifests into an index, by the digests of the old ones. Statements about a changed image
    /// name the new manifest as their subject.
    pub fn rewrite_index(
        &self,
        index: &ImageIndex,
        changed: &BTreeMap<Digest, Descriptor>,
    ) -> Result<Rewritten> {
        let mut rewritten = Rewritten::default();
        let mut document = (*index.document).clone();
        for member in &mut document.manifests {
            if let Some(new) = changed.get(&member.digest) {
                (member.digest, member.size) = (new.digest, new.size);
                member.media_type.clone_from(&new.media_type);
            }
            if !is_attestation(member) {
                continue;
            }
            let image = attached_to(member).and_then(|old| changed.get(&old).map(|new| (old, new)));
            if !index.kept.contains(&member.digest) {
                continue;
            }
            if let Some((old, new)) = image {
                let bytes = self.attached_anew(member, (old, new), &mut rewritten.documents)?;
                let now = Descriptor::of(&member.media_type, &bytes);
                (member.digest, member.size) = (now.digest, now.size);
                for value in member.annotations.values_mut().filter(|value| **value == old.to_string()) {
                    *value = new.digest.to_string();
                }
                rewritten.documents.insert(now.digest, bytes);
            }
            rewritten.attestations.push(member.clone());
        }
        rewritten.document = match changed.is_empty() {
            true => self.document(&index.digest)?,
            false => written(&document, "an index")?,
        };
        Ok(rewritten)
    }

    /// The manifest of an attestation to a changed image.
    fn attached_anew(
        &self,
        attestation: &Descriptor,
        (old, new): (Digest, &Descriptor),
        documents: &mut BTreeMap<Digest, Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let bytes = self.document(&attestation.digest)?;
        let mut manifest: Manifest = crate::document::parse(&bytes, "the manifest of an attestation")?;
        for layer in manifest.layers.iter_mut().filter(|layer| layer.media_type == STATEMENT) {
            let mut statement: Value = crate::document::parse(&self.document(&layer.digest)?, "a statement")?;
            rename_subjects(&mut statement, &old.hex(), &new.digest.hex());
            let bytes = written(&statement, "a statement")?;
            let now = Descriptor::of(STATEMENT, &bytes);
            (layer.digest, layer.size) = (now.digest, now.size);
            documents.insert(now.digest, bytes);
        }
        if let Some(subject) = manifest.subject.as_mut().filter(|subject| subject.digest == old) {
            (subject.digest, subject.size) = (new.digest, new.size);
        }
        written(&manifest, "the manifest of an attestation")
    }
}

fn rename_subjects(statement: &mut Value, old: &str, new: &str) {
    let subjects = statement.get_mut("subject").and_then(Value::as_array_mut).into_iter().flatten();
    for digest in subjects.filter_map(|subject| subject.pointer_mut("/digest/sha256")) {
        if digest.as_str() == Some(old) {
            *digest = Value::from(new);
        }
    }
}

fn written(value: &impl serde::Serialize, what: &str) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::internal(format!("cannot write {what} as JSON")).caused_by(error))
}
