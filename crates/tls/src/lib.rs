//! TLS settings made of PEM files: for servers, whose files may be replaced while they serve, and for clients.
//!
//! Everything that speaks TLS here has its settings from this crate, so that a file that is not right is told in
//! the same words everywhere, and there is one place that decides whom a client believes.

mod client;
pub mod der;
mod pem;
mod server;
mod watched;

pub use client::{Identity, Trust, client, system_authorities};
pub use pem::{authorities, certificates, private_key};
pub use server::ServerFiles;
pub use watched::{Watched, read};

#[cfg(test)]
mod tests;
