//! The Engine API from the client's side.
//!
//! One [`Client`] talks to one [`Address`]. It keeps idle connections and uses them again, sends the newest
//! API version without asking first and lowers it only when the server says that it is too new (so that the
//! usual case costs no extra round trip), and turns every error reply into an [`Error`] with the server's own
//! text, its hint and the class that its status stands for.
//!
//! The engine is at a unix socket, at a TCP port (with TLS if asked for), or behind `ssh`.
//!
//! Bodies stream in both directions; [`Client::hijack`] gives the raw duplex stream of attach and exec.
//!
//! Everything runs on the caller's runtime; a current-thread runtime is enough.

mod address;
mod body;
mod connection;
mod endpoints;
mod error;
mod hijack;
mod lines;
mod request;
mod ssh;
mod tls;

pub use address::Address;
pub use body::{Body, BodyError};
pub use connection::{Client, NEWEST_API, Response, Starter};
pub use endpoints::{AttachOptions, LogsOptions};
pub use error::Error;
pub use hijack::{Hijacked, Reader, Writer};
pub use lines::JsonLines;
pub use request::Request;
pub use ssh::Ssh;
pub use tls::{Pem, Tls, TlsSettings};

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
