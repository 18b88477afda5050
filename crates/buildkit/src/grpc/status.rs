//! How a call ended.

use crate::proto::{Any, RpcStatus};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderValue};
use prost::Message;
use yare_errdefs::{Class, Classified};

/// gRPC's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    fn of(number: i32) -> Self {
        use Code::*;
        let all = [
            Cancelled,
            Unknown,
            InvalidArgument,
            DeadlineExceeded,
            NotFound,
            AlreadyExists,
            PermissionDenied,
            ResourceExhausted,
            FailedPrecondition,
            Aborted,
            OutOfRange,
            Unimplemented,
            Internal,
            Unavailable,
            DataLoss,
            Unauthenticated,
        ];
        all.into_iter().find(|code| *code as i32 == number).unwrap_or(Unknown)
    }
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Typed values that a client may understand.
    pub(crate) details: Vec<Any>,
}

/// Most bytes of details in a trailer: peers bound the size of their headers.
const LONGEST_DETAILS: usize = 64 << 10;

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// The peer closed the call.
    pub(crate) fn gone() -> Self {
        Self::new(Code::Cancelled, "the peer closed the call")
    }

    /// As a message, the way gateways hand errors on.
    pub(crate) fn to_message(&self) -> RpcStatus {
        RpcStatus { code: self.code as i32, message: self.message.clone(), details: self.details.clone() }
    }

    pub(crate) fn of_message(message: RpcStatus) -> Self {
        Self { code: Code::of(message.code), message: message.message, details: message.details }
    }

    /// The trailers of a call that failed.
    pub(super) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(self.code as i32));
        if let Ok(text) = HeaderValue::try_from(escape(&self.message)) {
            trailers.insert("grpc-message", text);
        }
        let details = self.to_message().encode_to_vec();
        if !self.details.is_empty()
            && details.len() <= LONGEST_DETAILS
            && let Ok(value) = HeaderValue::try_from(STANDARD_NO_PAD.encode(details))
        {
            trailers.insert("grpc-status-details-bin", value);
        }
        trailers
    }

    /// The trailers of a call that worked.
    pub(super) fn success() -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))])
    }

    /// The outcome in headers or trailers, when it is there.
    pub(super) fn of_headers(headers: &HeaderMap) -> Option<Result<(), Self>> {
        let number: i32 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        if number == 0 {
            return Some(Ok(()));
        }
        let text = headers.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
        let message = unescape(text);
        let details = headers.get("grpc-status-details-bin").and_then(|value| {
            let bytes = STANDARD_NO_PAD.decode(value).or_else(|_| STANDARD.decode(value)).ok()?;
            Some(RpcStatus::decode(bytes.as_slice()).ok()?.details)
        });
        Some(Err(Self { code: Code::of(number), message, details: details.unwrap_or_default() }))
    }
}

/// Bytes that a header cannot carry become `%XX`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn unescape(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'%')
            .then(|| tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl From<h2::Error> for Status {
    fn from(error: h2::Error) -> Self {
        let code = if error.is_reset() { Code::Cancelled } else { Code::Unavailable };
        Self::new(code, format!("the connection broke: {error}"))
    }
}

/// A class of ours as a code.
fn code(class: Class) -> Code {
    match class {
        Class::NotFound => Code::NotFound,
        Class::InvalidArgument => Code::InvalidArgument,
        Class::Conflict | Class::FailedPrecondition => Code::FailedPrecondition,
        Class::AlreadyExists | Class::NotModified => Code::AlreadyExists,
        Class::PermissionDenied => Code::PermissionDenied,
        Class::Unauthenticated => Code::Unauthenticated,
        Class::Unavailable => Code::Unavailable,
        Class::Unimplemented => Code::Unimplemented,
        Class::Cancelled => Code::Cancelled,
        // What fails in a build is nothing that a code would say more about, as in the field.
        Class::Internal => Code::Unknown,
    }
}

impl From<yare_errdefs::Error> for Status {
    fn from(error: yare_errdefs::Error) -> Self {
        Self::new(code(error.class()), text(&error))
    }
}

impl Status {
    /// A build that failed. Clients print the name of a code before the text; what is wrong in a Dockerfile
    /// or a step has none, as in the field.
    pub(crate) fn of_build(error: &(impl Classified + 'static)) -> Self {
        let code = match error.class() {
            class @ (Class::Cancelled
            | Class::Unimplemented
            | Class::Unavailable
            | Class::PermissionDenied) => code(class),
            _ => Code::Unknown,
        };
        Self::new(code, text(error))
    }
}

/// The whole text of an error, with what can be done about it.
fn text(error: &(impl Classified + 'static)) -> String {
    let text = yare_errdefs::chain(error);
    match error.hint() {
        Some(hint) => format!("{text}\nhint: {hint}"),
        None => text,
    }
}

impl From<Status> for yare_errdefs::Error {
    fn from(status: Status) -> Self {
        let class = match status.code {
            Code::NotFound => Class::NotFound,
            Code::InvalidArgument | Code::OutOfRange => Class::InvalidArgument,
            Code::AlreadyExists => Class::AlreadyExists,
            Code::PermissionDenied => Class::PermissionDenied,
            Code::Unauthenticated => Class::Unauthenticated,
            Code::FailedPrecondition | Code::Aborted => Class::FailedPrecondition,
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Class::Unavailable,
            Code::Unimplemented => Class::Unimplemented,
            Code::Cancelled => Class::Cancelled,
            Code::Unknown | Code::Internal | Code::DataLoss => Class::Internal,
        };
        Self::new(class, status.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_survives_the_wire() {
        let mut status = Status::new(Code::NotFound, "no „Dockerfile“\nat 100%");
        status.details.push(Any { type_url: "x".to_owned(), value: vec![0, 255] });
        let trailers = status.trailers();
        assert_eq!(trailers["grpc-message"], "no %E2%80%9EDockerfile%E2%80%9C%0Aat 100%25");
        assert_eq!(Status::of_headers(&trailers), Some(Err(status)));
        assert_eq!(Status::of_headers(&Status::success()), Some(Ok(())));
        assert_eq!(Status::of_headers(&HeaderMap::new()), None);
        assert_eq!(unescape(b"%zz%4"), "%zz%4");
    }
}
