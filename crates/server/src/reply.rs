//! Replies: how a result, a stream or a failure becomes a response.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use yare_api::compat;
use yare_engine::system::full_text;
use yare_errdefs::{Class, Classified, Error, Result};

use crate::body::{self, Body};
use crate::socket::Socket;
use crate::version::Version;

/// A response of this server.
pub(crate) type Reply = Response<Body>;

/// `Content-Type` of documents.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A reply without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    with_body(status, body::empty())
}

/// A reply with a body and no type yet.
pub(crate) fn with_body(status: StatusCode, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
}

/// A JSON document, with the newline that Go's encoder puts at its end.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Result<Reply> {
    Ok(typed(with_body(status, body::full(line(value)?)), JSON))
}

/// A JSON document and a newline.
pub(crate) fn line(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(value).map_err(not_encoded)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn not_encoded(error: serde_json::Error) -> Error {
    Error::internal("cannot encode the reply").caused_by(error)
}

/// A JSON document as a client of this version expects it.
///
/// A document that the version does not change is written as it is, so that its members keep their order.
pub(crate) fn versioned(kind: compat::Reply, version: Version, value: &impl Serialize) -> Result<Reply> {
    if !compat::needs_down(version) {
        return json(StatusCode::OK, value);
    }
    let newest = serde_json::to_value(value).map_err(not_encoded)?;
    let mut older = newest.clone();
    compat::down(kind, version, &mut older);
    if older == newest { json(StatusCode::OK, value) } else { json(StatusCode::OK, &older) }
}

/// Plain text.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Reply {
    typed(with_body(status, body::full(text)), TEXT)
}

/// A stream whose head is sent at once and whose parts are sent as they come.
pub(crate) fn stream(
    content_type: HeaderValue,
    parts: impl Stream<Item = Result<Bytes>> + Send + 'static,
) -> Reply {
    typed(with_body(StatusCode::OK, body::stream(parts)), content_type)
}

/// As [`stream`], for something that may be silent for ever: it ends when the client goes away.
pub(crate) fn follow(
    content_type: HeaderValue,
    socket: Socket,
    parts: impl Stream<Item = Result<Bytes>> + Send + 'static,
) -> Reply {
    stream(content_type, parts.take_until(async move { socket.gone().await }))
}

/// The parts of the engine's output as parts of a body.
pub(crate) fn parts(
    output: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    output.map(|part| part.map_err(|error| Error::internal("the stream broke").caused_by(error)))
}

/// Sets the type of a reply's body.
pub(crate) fn typed(mut reply: Reply, content_type: HeaderValue) -> Reply {
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// The status of each class of errors: the only place that decides it.
pub(crate) fn status(class: Class) -> StatusCode {
    match class {
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::InvalidArgument => StatusCode::BAD_REQUEST,
        Class::Conflict | Class::AlreadyExists | Class::FailedPrecondition => StatusCode::CONFLICT,
        Class::PermissionDenied => StatusCode::FORBIDDEN,
        Class::Unauthenticated => StatusCode::UNAUTHORIZED,
        Class::NotModified => StatusCode::NOT_MODIFIED,
        Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Class::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        // The word of nginx for "the client left"; nobody is there to read it.
        Class::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        Class::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The body of every failure. The docker CLI shows `message` only, so advice is in there, behind the text
/// that clients match by its beginning.
#[derive(Serialize)]
struct ErrorDocument {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// A failure as a reply.
pub(crate) fn failure(error: &Error) -> Reply {
    let status = status(error.class());
    if status == StatusCode::NOT_MODIFIED {
        return empty(status);
    }
    let document = ErrorDocument { message: full_text(error), hint: error.hint() };
    json(status, &document).unwrap_or_else(|_| empty(status))
}

/// The answer to what no route knows.
pub(crate) fn page_not_found() -> Reply {
    failure(&Error::not_found("page not found"))
}

/// Puts the headers that every reply has into `headers`.
pub(crate) fn stamp(headers: &mut HeaderMap) {
    const SERVER: &str = concat!("Yare/", env!("CARGO_PKG_VERSION"), " (linux)");
    let fixed: [(HeaderName, &'static str); 4] = [
        (HeaderName::from_static("api-version"), crate::version::NEWEST),
        (HeaderName::from_static("docker-experimental"), "false"),
        (HeaderName::from_static("ostype"), "linux"),
        (HeaderName::from_static("server"), SERVER),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn bytes(reply: Reply) -> Bytes {
        reply.into_body().collect().await.expect("a body").to_bytes()
    }

    #[tokio::test]
    async fn a_failure_is_a_message() {
        let reply = failure(&Error::not_found("No such container: nosuch"));
        assert_eq!(reply.status(), StatusCode::NOT_FOUND);
        assert_eq!(reply.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(bytes(reply).await, "{\"message\":\"No such container: nosuch\"}\n");
    }

    #[tokio::test]
    async fn a_hint_follows_the_exact_text() {
        let error = Error::conflict("port is already allocated").with_hint("stop web first");
        let reply = failure(&error);
        let wanted =
            "{\"message\":\"port is already allocated\\nstop web first\",\"hint\":\"stop web first\"}\n";
        assert_eq!(bytes(reply).await, wanted);
    }

    #[tokio::test]
    async fn not_modified_has_no_body() {
        let reply = failure(&Error::not_modified("it runs already"));
        assert_eq!(reply.status(), StatusCode::NOT_MODIFIED);
        assert!(reply.headers().is_empty());
        assert!(bytes(reply).await.is_empty());
    }

    #[test]
    fn classes_have_the_statuses_of_docker() {
        let wanted = [
            (Class::NotFound, 404),
            (Class::InvalidArgument, 400),
            (Class::Conflict, 409),
            (Class::AlreadyExists, 409),
            (Class::PermissionDenied, 403),
            (Class::Unauthenticated, 401),
            (Class::FailedPrecondition, 409),
            (Class::NotModified, 304),
            (Class::Unavailable, 503),
            (Class::Unimplemented, 501),
            (Class::Cancelled, 499),
            (Class::Internal, 500),
        ];
        for (class, code) in wanted {
            assert_eq!(status(class).as_u16(), code, "{class:?}");
        }
    }
}
