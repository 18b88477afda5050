//! What is made of a build's result besides the image store: archives, a tar of the root, a folder.
//!
//! An exporter gets images whose layers are in the store ([`Image`]) and what the user asked for
//! ([`Request`]). The same images and the same request give the same bytes.

pub mod archive;
mod attested;
pub mod blobs;
pub mod layout;
pub mod local;
mod request;
mod rootfs;

#[cfg(test)]
mod tests;

pub(crate) use attested::{Naming, write_attested};
pub use request::{Annotations, Kind, LocalMode, Packing, Request, without_tag};
pub use rootfs::write_rootfs;

use crate::attest::Attestation;
use yare_oci::{DiffId, Platform};

/// One image of a result. Its layers are in the store and protected by a lease of the caller.
#[derive(Debug, Clone)]
pub struct Image {
    /// What it is for.
    pub platform: Platform,
    /// The exact bytes of its config.
    pub config: Vec<u8>,
    /// Its layers, bottom first, as the config names them.
    pub layers: Vec<DiffId>,
    /// What is attested of it.
    pub attestations: Vec<Attestation>,
}
