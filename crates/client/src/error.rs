//! What can go wrong between us and an engine.

use yare_errdefs::{Class, Classified};

/// An error of a call to the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens at the address, or it may not be reached.
    #[error("{message}")]
    Connect {
        /// Docker's text for it.
        message: String,
        /// What the connection failed with.
        #[source]
        source: std::io::Error,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The engine answered with an error.
    #[error("Error response from daemon: {message}")]
    Server {
        /// HTTP status, 400 or above.
        status: u16,
        /// The engine's own text.
        message: String,
        /// The engine's advice, kept apart from the text.
        hint: Option<String>,
    },
    /// An error that a progress stream reported after its status had been sent.
    #[error("{message}")]
    Stream {
        /// The engine's own text.
        message: String,
    },
    /// The connection broke in the middle of a request.
    #[error("{method} {path}: {what}")]
    Transport {
        /// HTTP method of the request.
        method: String,
        /// Path of the request.
        path: String,
        /// What broke.
        what: String,
    },
    /// The engine's answer is not what the API says.
    #[error("{method} {path}: cannot read the engine's answer: {what}")]
    Decode {
        /// HTTP method of the request.
        method: String,
        /// Path of the request.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The engine did not hand over the connection.
    #[error("unable to upgrade to tcp, received {status}")]
    NotUpgraded {
        /// The status that came instead of 101.
        status: u16,
    },
    /// An address that cannot be read.
    #[error("unable to parse docker host `{address}`: {why}")]
    Address {
        /// The text given.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An address of ssh that cannot be read.
    #[error("ssh host connection is not valid: invalid SSH URL: {why}")]
    Ssh {
        /// What is wrong with it; never the address, which may have a password in it.
        why: String,
    },
    /// The program that should have made the connection ended.
    #[error("{message}")]
    Tunnel {
        /// Which one, how, and what it said.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// One side does not believe the other, or a certificate cannot be used.
    #[error("{message}")]
    Tls {
        /// Docker's text for it.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Known, and not built.
    #[error("{what}")]
    Unsupported {
        /// What is missing.
        what: String,
        /// The way round it.
        hint: Option<String>,
    },
}

impl Error {
    pub(crate) fn address(address: &str, why: &'static str) -> Self {
        Self::Address { address: address.to_owned(), why }
    }

    /// The HTTP status, when the engine answered with an error.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Server { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the engine said that the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// The engine's own words, without any prefix.
    pub fn message(&self) -> String {
        match self {
            Self::Server { message, .. } | Self::Stream { message } => message.clone(),
            other => other.to_string(),
        }
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Connect { .. } | Self::Tunnel { .. } | Self::Tls { .. } => Class::Unavailable,
            Self::Server { status, .. } => class_of_status(*status),
            Self::Stream { .. } | Self::Transport { .. } | Self::Decode { .. } | Self::NotUpgraded { .. } => {
                Class::Internal
            }
            Self::Address { .. } | Self::Ssh { .. } => Class::InvalidArgument,
            Self::Unsupported { .. } => Class::Unimplemented,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { hint, .. }
            | Self::Server { hint, .. }
            | Self::Tunnel { hint, .. }
            | Self::Tls { hint, .. }
            | Self::Unsupported { hint, .. } => hint.clone(),
            _ => None,
        }
    }
}

/// The class that an HTTP status of the Engine API stands for.
fn class_of_status(status: u16) -> Class {
    match status {
        304 => Class::NotModified,
        400 => Class::InvalidArgument,
        401 => Class::Unauthenticated,
        403 => Class::PermissionDenied,
        404 => Class::NotFound,
        409 => Class::Conflict,
        412 => Class::FailedPrecondition,
        501 => Class::Unimplemented,
        502..=504 => Class::Unavailable,
        _ => Class::Internal,
    }
}
