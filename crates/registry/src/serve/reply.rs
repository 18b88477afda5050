//! Replies: their common headers, refusals, JSON.

use super::body::Body;
use crate::problem::Refusal;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use yare_oci::ContentDigest;

/// What a handler answers.
pub(crate) type Reply = Response<Body>;

/// The digest of the content of a reply.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The id of an upload.
pub(crate) const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// What a pushed manifest speaks about.
pub(crate) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// Tags that a push by digest set.
pub(crate) const TAGS: HeaderName = HeaderName::from_static("oci-tag");
/// Filters that a list of referrers went through.
pub(crate) const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// A reply without a body.
pub(crate) fn status(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = status;
    reply
}

/// A reply with a JSON body.
pub(crate) fn json(value: &impl Serialize, media_type: &'static str) -> crate::problem::Result<Reply> {
    let mut reply = Response::new(Body::bytes(serde_json::to_vec(value)?));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    Ok(reply)
}

/// The reply that says why not.
pub(crate) fn refused(refusal: &Refusal) -> Reply {
    let mut reply = Response::new(Body::bytes(refusal.body()));
    *reply.status_mut() = refusal.status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &refusal.headers {
        headers.insert(name, value.clone());
    }
    reply
}

/// Sets a header whose value is known to be one; another value is left out.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => {
            headers.insert(name, value);
        }
        Err(error) => tracing::error!(%name, %error, "a header is left out"),
    }
}

/// Sets the headers of content that has this digest.
pub(crate) fn set_digest(headers: &mut HeaderMap, digest: &ContentDigest) {
    set(headers, CONTENT_DIGEST, &digest.to_string());
    set(headers, header::ETAG, &format!("\"{digest}\""));
}

/// Sets the headers that all replies have.
pub(crate) fn stamp(headers: &mut HeaderMap) {
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Whether the client has this content already (`If-None-Match`; weak and strong tags compare alike).
pub(crate) fn is_unchanged(headers: &HeaderMap, digest: &ContentDigest) -> bool {
    let tag = format!("\"{digest}\"");
    let named = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    named
        .flat_map(|value| value.split(','))
        .map(|part| part.trim().trim_start_matches("W/"))
        .any(|part| part == "*" || part == tag || part == tag.trim_matches('"'))
}
