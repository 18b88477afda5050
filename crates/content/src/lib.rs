//! Blob store by digest: ingest, verify, commit, read, delete.
//!
//! On disk, below the store's root (format 1):
//!
//! ```text
//! blobs/sha256/<64 hex>   a blob; its bytes hash to its name
//! recipes/<64 hex>        what makes the blob of that digest again, in the form of whoever wrote it; empty
//!                         when nothing but the blob itself does
//! ingest/<unique>         a blob that is being written; swept when the store is opened
//! partial/<64 hex>        a blob that is being fetched; swept a week after its last use
//! ```
//!
//! A blob becomes visible by one `rename` after its digest and size were verified. Nothing is synced a
//! file at a time: whoever makes a promise that refers to blobs calls [`Store::sync`] once before it.

mod error;
mod ingest;
mod partial;
mod store;

pub use error::Error;
pub use ingest::Ingest;
pub use partial::Partial;
pub use store::{DOCUMENT_LIMIT, Recipe, Store};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
