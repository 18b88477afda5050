//! Errors as the distribution spec words them: a code for programs, a text for people.
//!
//! What the client did wrong is a [`Refusal`], told in full. What went wrong here is an error of another
//! crate: it is logged in full, and the client learns no more than its class.

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use yare_errdefs::{Class, Classified};

/// The codes of the distribution spec 1.1, and those that Docker's registry adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The repository does not have the blob.
    BlobUnknown,
    /// An upload cannot go on.
    BlobUploadInvalid,
    /// There is no such upload.
    BlobUploadUnknown,
    /// A digest is malformed or not that of the content.
    DigestInvalid,
    /// A manifest refers to a blob that the repository does not have.
    ManifestBlobUnknown,
    /// A manifest is malformed.
    ManifestInvalid,
    /// The repository does not have the manifest.
    ManifestUnknown,
    /// A repository name is malformed.
    NameInvalid,
    /// There is no such repository.
    NameUnknown,
    /// A tag is malformed.
    TagInvalid,
    /// A length is not that of the content, or is over a limit.
    SizeInvalid,
    /// A range of an upload does not follow what was sent before.
    RangeInvalid,
    /// The number of entries of a page is no number or over the limit.
    PaginationNumberInvalid,
    /// The client did not prove who it is.
    Unauthorized,
    /// The client may not do this.
    Denied,
    /// This registry does not do this.
    Unsupported,
    /// The client asks too often.
    TooManyRequests,
    /// The registry cannot do this now.
    Unavailable,
    /// A fault of the registry.
    Unknown,
}

impl Code {
    /// The word in the reply.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::TagInvalid => "TAG_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The status that goes with it unless a refusal says otherwise.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown
            | Self::ManifestBlobUnknown => StatusCode::NOT_FOUND,
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::TagInvalid
            | Self::SizeInvalid
            | Self::PaginationNumberInvalid => StatusCode::BAD_REQUEST,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A request that is refused: what the client is told.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of refusal.
    pub code: Code,
    /// The status of the reply.
    pub status: StatusCode,
    /// For people.
    pub message: String,
    /// For programs, in a form that depends on the code.
    pub detail: Value,
    /// Headers of the reply that are part of the answer, such as the challenge of a 401.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A refusal with the code's own status.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            status: code.status(),
            message: message.into(),
            detail: Value::Null,
            headers: Vec::new(),
        }
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same with a detail.
    #[must_use]
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    /// The same with a header; a value that is no header value is left out.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// The body of the reply.
    pub fn body(&self) -> Vec<u8> {
        json!({ "errors": [{ "code": self.code.as_str(), "message": self.message, "detail": self.detail }] })
            .to_string()
            .into_bytes()
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client asked for something that it does not get.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// It could not be done.
    #[error(transparent)]
    Failed(#[from] yare_errdefs::Error),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What the client is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused(refusal) => (**refusal).clone(),
            Self::Failed(error) => match error.class() {
                Class::Unavailable => {
                    let message = match yare_errdefs::is_full(error) {
                        true => "the registry has no room left on its disk; its log says more",
                        false => "the registry cannot store or answer this now; its log says why",
                    };
                    Refusal::new(Code::Unavailable, message).with_status(StatusCode::INSUFFICIENT_STORAGE)
                }
                _ => Refusal::new(Code::Unknown, "internal error of the registry; its log says more"),
            },
        }
    }

    /// For those who know no refusals.
    pub(crate) fn into_failed(self) -> yare_errdefs::Error {
        match self {
            Self::Failed(error) => error,
            Self::Refused(refusal) => {
                yare_errdefs::Error::precondition(format!("{}: {}", refusal.code.as_str(), refusal.message))
            }
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<yare_content::Error> for Error {
    fn from(error: yare_content::Error) -> Self {
        Self::Failed(yare_errdefs::Error::wrap("the blob store failed", error))
    }
}

impl From<redb::Error> for Error {
    fn from(error: redb::Error) -> Self {
        let class = match &error {
            redb::Error::Io(error) => yare_errdefs::class_of_io(error),
            _ => Class::Internal,
        };
        Self::Failed(yare_errdefs::Error::new(class, "cannot use the records").caused_by(error))
    }
}

macro_rules! from_records {
    ($($kind:ident),*) => {
        $(impl From<redb::$kind> for Error {
            fn from(error: redb::$kind) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}
from_records!(CommitError, StorageError, TableError, TransactionError, DatabaseError);

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(yare_errdefs::Error::internal("a record is damaged").caused_by(error))
    }
}

/// The error of a file operation.
pub(crate) fn file_error(text: &str, path: &std::path::Path, error: impl Into<std::io::Error>) -> Error {
    let error = error.into();
    let class = yare_errdefs::class_of_io(&error);
    let message = format!("cannot {text} {}", path.display());
    Error::Failed(yare_errdefs::Error::new(class, message).caused_by(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_the_specs_json() {
        let refusal = Refusal::new(Code::BlobUnknown, "no such blob").with_detail(json!({"digest": "x"}));
        let body: Value = serde_json::from_slice(&refusal.body()).unwrap();
        assert_eq!(
            body,
            json!({"errors": [{"code": "BLOB_UNKNOWN", "message": "no such blob", "detail": {"digest": "x"}}]})
        );
    }

    #[test]
    fn a_fault_of_ours_tells_the_client_nothing_of_our_paths() {
        let error = file_error("write", std::path::Path::new("/secret/path"), std::io::Error::other("x"));
        let told = String::from_utf8(error.refusal().body()).unwrap();
        assert!(!told.contains("secret"), "{told}");
        let full = file_error("write", std::path::Path::new("/x"), std::io::Error::from_raw_os_error(28));
        assert_eq!(full.refusal().status, StatusCode::INSUFFICIENT_STORAGE);
    }
}
