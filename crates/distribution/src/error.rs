//! What went wrong, where, and what the registry said about it.

use http::StatusCode;
use std::fmt;
use std::time::Duration;
use yare_errdefs::{Class, Classified};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What was asked of whom, for error texts: `fetch manifest latest of localhost:5000/a/b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    action: String,
    of: String,
}

impl Asked {
    pub(crate) fn new(action: impl Into<String>, of: impl Into<String>) -> Self {
        Self { action: action.into(), of: of.into() }
    }

    /// Of whom: registry and repository.
    pub(crate) fn subject(&self) -> &str {
        &self.of
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.action, self.of)
    }
}

/// One entry of a registry's error document (distribution-spec, "Error Codes").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The code, as `MANIFEST_UNKNOWN`.
    pub code: String,
    /// The text for people. Control characters are escaped, secrets of ours removed.
    pub message: String,
}

/// How a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Nobody answered at the address, or the name is unknown.
    Connect,
    /// The other side could not prove who it is.
    Certificate,
    /// It was silent or too slow for too long.
    Timeout,
    /// The connection broke off.
    Cut,
}

/// Why a registry operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration of registries is wrong.
    #[error("invalid registry configuration: {what}")]
    Settings {
        /// Which file or value, and why.
        what: String,
    },
    /// The registry answered, and the answer is no.
    #[error("cannot {asked}: {url} answered {status}{}", Messages(told))]
    Status {
        /// What was asked.
        asked: Asked,
        /// Where, without query.
        url: String,
        /// The HTTP status.
        status: StatusCode,
        /// What the registry said.
        told: Vec<Told>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The registry could not be spoken with.
    #[error("cannot {asked}: {url}")]
    Transport {
        /// What was asked.
        asked: Asked,
        /// Where, without query.
        url: String,
        /// How it failed.
        broken: Broken,
        /// Why.
        #[source]
        source: Cause,
    },
    /// What the registry wants is against the rules of safety.
    #[error("cannot {asked}: {what}")]
    Refused {
        /// What was asked.
        asked: Asked,
        /// Which rule.
        what: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// The content is not what it should be.
    #[error("cannot {asked}: {what}")]
    Content {
        /// What was asked.
        asked: Asked,
        /// What is wrong with it.
        what: String,
    },
    /// A local file or stream that was to be sent failed.
    #[error("cannot {asked}: reading what is to be sent failed")]
    Source {
        /// What was asked.
        asked: Asked,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Every mirror and the registry itself failed; the last is the registry.
    #[error("{}", Everywhere(mirrors, last))]
    Everywhere {
        /// The mirrors that were asked first.
        mirrors: Vec<Error>,
        /// The registry itself.
        last: Box<Error>,
    },
}

struct Messages<'a>(&'a [Told]);

impl fmt::Display for Messages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, told) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { ": " } else { "; " })?;
            match (told.code.is_empty(), told.message.is_empty()) {
                (true, _) => f.write_str(&told.message)?,
                (false, true) => f.write_str(&told.code)?,
                (false, false) => write!(f, "{}: {}", told.code, told.message)?,
            }
        }
        Ok(())
    }
}

struct Everywhere<'a>(&'a [Error], &'a Error);

impl fmt::Display for Everywhere<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&yare_errdefs::chain(self.1))?;
        for mirror in self.0 {
            write!(f, " (mirror tried before: {})", yare_errdefs::chain(mirror))?;
        }
        Ok(())
    }
}

impl Error {
    pub(crate) fn content(asked: &Asked, what: impl Into<String>) -> Self {
        Self::Content { asked: asked.clone(), what: what.into() }
    }

    pub(crate) fn refused(asked: &Asked, what: impl Into<String>) -> Self {
        Self::Refused { asked: asked.clone(), what: what.into(), hint: None }
    }

    pub(crate) fn timeout(asked: &Asked, url: impl Into<String>, what: impl Into<String>) -> Self {
        let (broken, source) = (Broken::Timeout, what.into().into());
        Self::Transport { asked: asked.clone(), url: url.into(), broken, source }
    }

    /// The error of the registry itself, where mirrors were asked before it.
    pub fn of_registry(&self) -> &Self {
        match self {
            Self::Everywhere { last, .. } => last.of_registry(),
            other => other,
        }
    }

    /// The HTTP status, where there was an answer.
    pub fn status(&self) -> Option<StatusCode> {
        match self.of_registry() {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What the registry said.
    pub fn told(&self) -> &[Told] {
        match self.of_registry() {
            Self::Status { told, .. } => told,
            _ => &[],
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Status { status, .. } => is_temporary(*status),
            Self::Transport { broken, .. } => *broken != Broken::Certificate,
            _ => false,
        }
    }

    /// Whether the registry and we differ in how far an upload is, or it is not ready for more of it.
    pub(crate) fn is_about_offset(&self) -> bool {
        matches!(self, Self::Status { status, .. } if matches!(status.as_u16(), 409 | 416))
    }

    /// When the registry wants to be asked again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Settings { .. } => Class::InvalidArgument,
            Self::Status { status, .. } => match status.as_u16() {
                400 => Class::InvalidArgument,
                401 => Class::Unauthenticated,
                403 => Class::PermissionDenied,
                404 => Class::NotFound,
                409 => Class::Conflict,
                408 | 425 | 429 | 500..=599 => Class::Unavailable,
                _ => Class::FailedPrecondition,
            },
            Self::Transport { .. } => Class::Unavailable,
            Self::Refused { .. } => Class::PermissionDenied,
            Self::Content { .. } => Class::FailedPrecondition,
            Self::Source { source, .. } => yare_errdefs::class_of_io(source),
            Self::Everywhere { last, .. } => last.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. } => hint.clone(),
            Self::Status { status, .. } if *status == StatusCode::UNAUTHORIZED => {
                Some("log in to the registry: yare login".to_owned())
            }
            Self::Status { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS => {
                Some("the registry limits the rate; log in, wait, or use a mirror".to_owned())
            }
            Self::Transport { broken: Broken::Certificate, .. } => Some(
                "put the registry's certificate authority into certs.d/<host:port>/ca.crt, or name the registry \
                 in insecure-registries if you accept the risk"
                    .to_owned(),
            ),
            Self::Everywhere { last, .. } => last.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Error {
        let told = |code: &str, message: &str| Told { code: code.to_owned(), message: message.to_owned() };
        Error::Status {
            asked: Asked::new("fetch manifest latest", "localhost:5000/a/b"),
            url: "http://localhost:5000/v2/a/b/manifests/latest".to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
            told: vec![told("MANIFEST_UNKNOWN", "manifest unknown"), told("", "see the manual")],
            retry_after: None,
        }
    }

    #[test]
    fn texts_name_what_was_asked_and_the_answer() {
        assert_eq!(
            status(404).to_string(),
            "cannot fetch manifest latest of localhost:5000/a/b: \
             http://localhost:5000/v2/a/b/manifests/latest answered 404 Not Found: MANIFEST_UNKNOWN: manifest \
             unknown; see the manual"
        );
        let asked = Asked::new("resolve latest", "m/a");
        let mirror = Error::timeout(&asked, "https://m/v2/", "no answer for 30 s");
        let everywhere = Error::Everywhere { mirrors: vec![mirror], last: Box::new(status(401)) };
        let text = everywhere.to_string();
        assert!(
            text.ends_with(
                "(mirror tried before: cannot resolve latest of m/a: https://m/v2/: no answer for 30 s)"
            ),
            "{text}"
        );
        assert_eq!(everywhere.class(), Class::Unauthenticated);
        assert_eq!(everywhere.status(), Some(StatusCode::UNAUTHORIZED));
        assert!(everywhere.hint().is_some());
    }

    #[test]
    fn classes_follow_the_status() {
        let cases = [
            (400, Class::InvalidArgument),
            (403, Class::PermissionDenied),
            (404, Class::NotFound),
            (416, Class::FailedPrecondition),
            (429, Class::Unavailable),
            (503, Class::Unavailable),
        ];
        for (code, class) in cases {
            assert_eq!(status(code).class(), class, "{code}");
        }
        assert!(status(503).is_temporary() && status(429).is_temporary() && !status(404).is_temporary());
    }
}
