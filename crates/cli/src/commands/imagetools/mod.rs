//! `buildx imagetools`: images and indexes put together and looked at where they are, in registries. No engine
//! takes part. Texts, output and digests are those of Docker's Buildx 0.29.

mod attestation;
mod combine;
mod create;
mod image;
mod inspect;
mod source;

pub(crate) use create::create;
pub(crate) use inspect::inspect;

use yare_distribution::{Document, Repository};
use yare_errdefs::{Class, Classified as _};
use yare_oci::Reference;

use super::remote::{failed, name};
use crate::failure::Failure;

/// What is before the text of every failure.
const SAID: &str = "ERROR: ";

/// The manifest or index that a name stands for.
async fn manifest(repository: &Repository, wanted: &Reference) -> Result<Document, Failure> {
    repository.manifest(&name(wanted)).await.map_err(|error| match error.class() {
        Class::NotFound => Failure::new(format!("{wanted}: not found")),
        _ => failed(&error),
    })
}
