//! The registry over HTTP.

mod auth;
mod blobs;
mod body;
mod client_name;
mod connection;
mod control;
mod http2;
mod intake;
mod listen;
mod lists;
mod manifests;
mod query;
mod reply;
mod service;
mod tls;
mod tokens;
mod uploads;

pub use control::ask;
pub use listen::{bind, bind_by, serve};
pub(crate) use service::{Call, Peer};
