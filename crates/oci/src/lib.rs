//! The vocabulary of the Open Container Initiative, as values.
//!
//! Identifiers are types whose only constructor is parsing (or hashing): [`Digest`], [`ContentDigest`], [`DiffId`],
//! [`ChainId`], [`Reference`]. Documents whose digest matters ([`Manifest`], [`Index`], [`ImageConfig`])
//! are parsed views; whoever stores one keeps its raw bytes beside it and never serialises it again.
//!
//! Follows the OCI image-spec 1.1, the runtime-spec 1.2 and Docker's image-spec v1.2 where images of the
//! field do.

mod content_digest;
pub mod descriptor;
pub mod digest;
pub mod image;
pub mod kernel;
pub mod path;
pub mod platform;
pub mod reference;
pub mod runtime;

pub use content_digest::{ContentDigest, ContentHasher};
pub use descriptor::{Descriptor, Index, Manifest, MediaType};
pub use digest::{ChainId, DiffId, Digest, Hasher};
pub use image::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use platform::Platform;
pub use reference::{Reference, ReferenceError};
