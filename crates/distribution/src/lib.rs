//! Registry client: resolve, fetch, push, mount, auth, mirrors, retries (OCI distribution-spec 1.1, and what
//! Docker's registries do beyond it).
//!
//! It knows no store. A [`Client`] has the [`Settings`] and the connections; a [`Repository`] is one
//! repository for one operation of one caller, with its mirrors, its credentials and its token; a
//! [`BlobStream`] is content on its way in, verified before its end is reported.
//!
//! What comes from a registry is hostile until its digest is right. Documents have a largest size and a
//! latest end; streams have a slowest speed; lists have a last page. Credentials go to the registry they
//! are for and to the token server it names over TLS, and to nobody else: not to mirrors, not after a
//! redirect. A registry cannot send the client deeper into the network than where it is itself (`reach`).
//! Errors name the registry, the repository, what was asked, the status and the registry's own message.
//!
//! ```text
//! Repository ─ Session (one endpoint: scheme, auth, redirects, retries) ─ Wire (one exchange) ─ dial, tls
//! ```

mod address;
mod ahead;
mod blob;
pub mod challenge;
mod client;
mod copy;
mod credentials;
mod dial;
mod error;
mod hosts_toml;
mod listing;
mod manifest;
mod proxy;
mod reach;
mod referrer;
mod refusal;
mod repository;
mod rewrite;
mod session;
mod settings;
mod signatures;
mod socks;
mod tls;
mod token;
mod upload;
mod web;
mod wire;

pub use ahead::Parts;
pub use blob::{Blob, BlobStream, Resume};
pub use client::{Client, Hit, Login};
pub use copy::Copied;
pub use credentials::{Credentials, Secret};
pub use error::{Asked, Broken, Error, Result, Told};
pub use listing::Referrer;
pub use manifest::{Document, LARGEST_MANIFEST, Name};
pub use proxy::Proxies;
pub use repository::{Intent, Repository};
pub use settings::{Endpoint, Insecure, Patience, Scheme, Settings, Trust};
pub use signatures::{Policy, Verdict};
pub use upload::{Content, Open, Pushed};
pub use web::Page;

/// At most this many bytes of a text, cut at a character.
fn bounded(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}
