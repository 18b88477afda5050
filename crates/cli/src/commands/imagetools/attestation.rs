//! Attestations as BuildKit makes them: members of an index that speak of another one.

use serde::Deserialize;
use yare_distribution::{Name, Repository};
use yare_oci::{Descriptor, Digest, Manifest, Reference};

use crate::commands::remote::{failed, read, small_blob};
use crate::failure::Failure;
use crate::format::Json;

const KIND: &str = "vnd.docker.reference.type";
const SUBJECT: &str = "vnd.docker.reference.digest";
const ATTESTATION: &str = "attestation-manifest";
const PREDICATE: &str = "in-toto.io/predicate-type";

/// The image that a member of an index speaks of, if it is an attestation.
pub(super) fn subject(member: &Descriptor) -> Option<Digest> {
    let is_one = member.annotations.get(KIND).is_some_and(|kind| kind == ATTESTATION);
    member.annotations.get(SUBJECT).filter(|_| is_one)?.parse().ok()
}

/// What attestations are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// How an image was made.
    Provenance,
    /// What is in it.
    Sbom,
}

impl About {
    fn is_of(self, predicate: &str) -> bool {
        match self {
            Self::Provenance => predicate.starts_with("https://slsa.dev/provenance/"),
            Self::Sbom => predicate == "https://spdx.dev/Document",
        }
    }
}

#[derive(Deserialize)]
struct Statement {
    predicate: Json,
}

/// What an attestation says of this, in its order.
pub(super) async fn fetch(
    repository: &Repository,
    of: &Reference,
    (attestation, about): (Digest, About),
) -> Result<Vec<Json>, Failure> {
    let document = repository.manifest(&Name::from(attestation)).await.map_err(|error| failed(&error))?;
    let manifest: Manifest = read("attestation", of, &document.bytes)?;
    let mut said = Vec::new();
    for layer in &manifest.layers {
        if layer.annotations.get(PREDICATE).is_some_and(|predicate| about.is_of(predicate)) {
            let statement = small_blob(repository, "attestation", layer).await?;
            let statement: Statement = read("attestation", of, &statement)?;
            said.push(sorted(statement.predicate));
        }
    }
    Ok(said)
}

/// With all members in the order of their names, as Go writes maps.
fn sorted(value: Json) -> Json {
    match value {
        Json::Object(mut members) => {
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            Json::Object(members.into_iter().map(|(name, value)| (name, sorted(value))).collect())
        }
        Json::List(items) => Json::List(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
