//! Bodies: what requests bring, and what replies carry.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::Value;
use yare_errdefs::{Error, Result};

use crate::go_json;

/// The body of a reply.
pub(crate) type Body = UnsyncBoxBody<Bytes, Error>;

/// The most bytes that a JSON request may have.
pub(crate) const MAX_JSON: usize = 8 << 20;

/// How long the next part of a JSON request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// A body without bytes.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is already there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that arrives bit by bit; each part is sent when it comes.
pub(crate) fn stream(parts: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(parts.map(|part| part.map(Frame::data))).boxed_unsync()
}

/// The body of a request, of which the rest is read and thrown away when nobody wants it.
///
/// A client that is still sending when the connection closes reports a broken pipe in place of our answer.
#[derive(Debug)]
pub(crate) struct Upload(Option<Incoming>);

/// How long the unwanted rest of a body may take to arrive.
const DRAIN: Duration = Duration::from_secs(60);

impl Upload {
    /// Takes a request's body.
    pub(crate) fn new(body: Incoming) -> Self {
        Self(Some(body))
    }

    /// The bytes as they arrive.
    pub(crate) fn into_parts(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        self.into_data_stream().map(|part| part.map_err(std::io::Error::other))
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.as_ref().map(http_body::Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let unread = self.0.take().filter(|body| !http_body::Body::is_end_stream(body));
        if let (Some(body), Ok(runtime)) = (unread, tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(DRAIN, drain(body)));
        }
    }
}

async fn drain(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// Reads a JSON request as Docker does: a missing body is `None`, whatever its type.
pub(crate) async fn json<T, B>(headers: &HeaderMap, body: B) -> Result<Option<T>>
where
    T: DeserializeOwned,
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let missing = body.is_end_stream();
    check_json(headers, missing)?;
    if missing {
        return Ok(None);
    }
    parse(&collect(headers, body).await?).map(Some)
}

/// Reads a JSON request that must be there.
pub(crate) async fn json_required<T, B>(headers: &HeaderMap, body: B) -> Result<T>
where
    T: DeserializeOwned,
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    json(headers, body).await?.ok_or_else(no_json)
}

fn no_json() -> Error {
    Error::invalid("invalid JSON: got EOF while reading request body")
}

/// Refuses a body whose type is not JSON.
fn check_json(headers: &HeaderMap, missing: bool) -> Result<()> {
    let value = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let text = value.as_deref().unwrap_or_default();
    if text.is_empty() && missing {
        return Ok(());
    }
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Error::invalid(if essence.is_empty() {
        format!("malformed Content-Type header ({text}): mime: no media type")
    } else {
        format!("unsupported Content-Type header ({text}): must be 'application/json'")
    }))
}

async fn collect<B>(headers: &HeaderMap, mut body: B) -> Result<Bytes>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    check_size(announced.unwrap_or(0))?;
    let mut bytes = BytesMut::new();
    while let Some(frame) = next_frame(&mut body).await? {
        if let Ok(data) = frame.into_data() {
            check_size(bytes.len() + data.len())?;
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

async fn next_frame<B>(body: &mut B) -> Result<Option<Frame<Bytes>>>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
    let frame = frame.map_err(|_| Error::invalid("the request body stopped arriving"))?;
    frame.transpose().map_err(|error| Error::cancelled("cannot read the request body").caused_by(error))
}

fn check_size(size: usize) -> Result<()> {
    if size <= MAX_JSON {
        return Ok(());
    }
    Err(Error::invalid(format!("the request body is too large: more than {} MiB of JSON", MAX_JSON >> 20)))
}

/// Parses a JSON request, with Go's words for what is wrong with it.
///
/// It goes through [`Value`] because Go lets the last of several equal keys win, and because Go replaces
/// bytes that are not UTF-8 instead of refusing them.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let text = String::from_utf8_lossy(bytes);
    if text.trim().is_empty() {
        return Err(no_json());
    }
    let value = serde_json::from_str::<Value>(&text).map_err(|error| refused(&text, &error))?;
    T::deserialize(value).map_err(|error| Error::invalid(format!("invalid JSON: {error}")))
}

fn refused(text: &str, error: &serde_json::Error) -> Error {
    if let Some(fault) = go_json::syntax_error(text.as_bytes()) {
        return Error::invalid(format!("invalid JSON: {fault}"));
    }
    match error.to_string() {
        text if text.starts_with("trailing characters") => Error::invalid("unexpected content after JSON"),
        other => Error::invalid(format!("invalid JSON: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(default)]
    struct Sample {
        a: i64,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { a: 7 }
        }
    }

    fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.expect_err("refused").to_string()
    }

    #[test]
    fn broken_json_has_docker_texts() {
        let broken = |bytes: &[u8]| text(parse::<Sample>(bytes));
        assert_eq!(
            broken(b"{bad"),
            "invalid JSON: invalid character 'b' looking for beginning of object key string"
        );
        assert_eq!(broken(b""), "invalid JSON: got EOF while reading request body");
        assert_eq!(broken(b"{\"a\":1} {}"), "unexpected content after JSON");
        assert_eq!(broken(b"{\"a\":"), "invalid JSON: unexpected EOF");
        assert!(broken(b"{\"a\":\"x\"}").starts_with("invalid JSON: invalid type"));
    }

    #[test]
    fn the_last_of_equal_keys_wins() {
        assert_eq!(parse::<Sample>(b"{\"a\":1,\"a\":2}").expect("parsed"), Sample { a: 2 });
    }

    #[test]
    fn only_json_types_are_read() {
        let mut headers = HeaderMap::new();
        assert!(check_json(&headers, true).is_ok());
        assert_eq!(
            text(check_json(&headers, false)),
            "malformed Content-Type header (): mime: no media type"
        );
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/JSON; charset=utf-8"));
        assert!(check_json(&headers, false).is_ok());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert_eq!(
            text(check_json(&headers, false)),
            "unsupported Content-Type header (text/plain): must be 'application/json'"
        );
    }

    #[test]
    fn sizes_are_bounded() {
        assert!(check_size(MAX_JSON).is_ok());
        assert_eq!(text(check_size(MAX_JSON + 1)), "the request body is too large: more than 8 MiB of JSON");
    }
}
