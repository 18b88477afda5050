//! Blobs: asking for them, reading, deleting.

use super::body::{Body, Source};
use super::reply::{Reply, is_unchanged, set, set_digest, status};
use super::service::Call;
use crate::blobs::OpenBlob;
use crate::bucket::Bucket;
use crate::cache::blobs as cache;
use crate::events::{Event, Kind, Origin};
use crate::links;
use crate::name::RepositoryName;
use crate::problem::{Code, Error, Refusal, Result};
use crate::range::{Wanted, wanted};
use crate::registry::Registry;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use std::sync::Arc;
use yare_oci::ContentDigest;

/// Content by digest never changes.
const FOREVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");

/// `HEAD` and `GET /v2/<name>/blobs/<digest>`
pub(crate) async fn get(
    registry: &Arc<Registry>,
    call: &Call,
    name: &RepositoryName,
    digest: &ContentDigest,
) -> Result<Reply> {
    let headers = &call.parts.headers;
    if call.parts.method == Method::HEAD {
        let size = size(registry, name, digest).await?;
        if is_unchanged(headers, digest) {
            return Ok(unchanged(digest));
        }
        let mut reply = status(StatusCode::OK);
        describe(reply.headers_mut(), digest);
        reply.headers_mut().insert(header::CONTENT_LENGTH, size.into());
        return Ok(reply);
    }
    let opened = open(registry, name, digest).await?;
    if is_unchanged(headers, digest) {
        return Ok(unchanged(digest));
    }
    let size = opened.size();
    let (code, range) = match wanted(range_header(headers, digest), size) {
        Wanted::All => (StatusCode::OK, 0..size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Unsatisfiable => {
            return Err(Refusal::new(Code::RangeInvalid, format!("the blob has {size} bytes"))
                .with_header(header::CONTENT_RANGE, &format!("bytes */{size}"))
                .into());
        }
    };
    let (start, end) = (range.start, range.end);
    if start == 0 && registry.hooks.care_for_pulls(true) {
        let origin = Origin::of(call);
        registry.hooks.pulled(Event::blob(Kind::Pull, name.as_str(), (digest, size), &origin));
    }
    let body = match opened {
        Opened::Here(source, _) => Body::part(source, range),
        Opened::There(bucket, object, _) if registry.config.storage.redirect => {
            return redirect(&bucket, &object, digest).await;
        }
        Opened::There(bucket, object, _) => match bucket.open_blob(&object, range).await? {
            Some(stream) => Body::Stream(stream, end - start),
            None => {
                if let Some(known) = registry.known(digest).await? {
                    registry.miss_object(known, object).await?;
                }
                return Err(links::unknown(digest).into());
            }
        },
    };
    let mut reply = Response::new(body);
    *reply.status_mut() = code;
    let headers = reply.headers_mut();
    describe(headers, digest);
    headers.insert(header::CONTENT_LENGTH, (end - start).into());
    if code == StatusCode::PARTIAL_CONTENT {
        set(headers, header::CONTENT_RANGE, &format!("bytes {start}-{}/{size}", end - 1));
    }
    Ok(reply)
}

/// The bytes of a blob that is here, or that an upstream has.
async fn size(registry: &Registry, name: &RepositoryName, digest: &ContentDigest) -> Result<u64> {
    let promised = match registry.known(digest).await? {
        Some(known) => registry.promise_blob(name.as_str(), &known).await,
        None => Err(links::unknown(digest).into()),
    };
    match (promised, registry.caches.of(name.as_str())) {
        (Err(error), Some(upstream)) if is_unknown(&error) => {
            cache::size(registry, upstream, name.as_str(), digest).await
        }
        (answer, _) => answer,
    }
}

/// A blob that can be sent.
enum Opened {
    /// From this machine; so many bytes.
    Here(Source, u64),
    /// From an object of a bucket.
    There(Bucket, String, u64),
}

impl Opened {
    fn size(&self) -> u64 {
        match self {
            Self::Here(_, size) | Self::There(_, _, size) => *size,
        }
    }
}

/// A blob that is here, or that begins to come from an upstream.
async fn open(registry: &Arc<Registry>, name: &RepositoryName, digest: &ContentDigest) -> Result<Opened> {
    match (open_known(registry, name, digest).await, registry.caches.of(name.as_str())) {
        (Err(error), Some(upstream)) if is_unknown(&error) => {
            if let Some(fetch) = cache::fetch(registry, upstream, name.as_str(), digest).await? {
                let size = fetch.size;
                return Ok(Opened::Here(Source::Fetch(fetch), size));
            }
        }
        (Err(error), None) if is_unknown(&error) && registry.images.is_some() => {
            let Some(digest) = digest.sha256() else { return Err(error) };
            return Ok(registry.open_elsewhere(name.as_str(), &digest).await?.ok_or(error)?.into());
        }
        // Another process may have stored it a moment ago.
        (Err(error), None) if is_unknown(&error) => registry.records.catch_up().await?,
        (Err(error), _) => return Err(error),
        (Ok(blob), _) => return Ok(blob.into()),
    }
    Ok(open_known(registry, name, digest).await?.into())
}

async fn open_known(registry: &Registry, name: &RepositoryName, digest: &ContentDigest) -> Result<OpenBlob> {
    match registry.known(digest).await? {
        Some(known) => registry.open_blob(name.as_str(), &known),
        None => Err(links::unknown(digest).into()),
    }
}

impl From<OpenBlob> for Opened {
    fn from(blob: OpenBlob) -> Self {
        match blob {
            OpenBlob::File { file, size } => Self::Here(Source::File(file), size),
            OpenBlob::Object { bucket, object, size } => Self::There(bucket, object, size),
        }
    }
}

/// Sends the client to the bucket.
async fn redirect(bucket: &Bucket, object: &str, digest: &ContentDigest) -> Result<Reply> {
    let mut reply = status(StatusCode::TEMPORARY_REDIRECT);
    set(reply.headers_mut(), header::LOCATION, &bucket.sign_blob(object).await?);
    set_digest(reply.headers_mut(), digest);
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply)
}

fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.code == Code::BlobUnknown)
}

fn unchanged(digest: &ContentDigest) -> Reply {
    let mut reply = status(StatusCode::NOT_MODIFIED);
    set_digest(reply.headers_mut(), digest);
    reply
}

/// The range that is asked for, unless it is of other content than this (`If-Range`).
fn range_header<'a>(headers: &'a HeaderMap, digest: &ContentDigest) -> Option<&'a str> {
    let of = headers.get(header::IF_RANGE).map(|of| of.to_str().unwrap_or_default());
    let is_same = of.is_none_or(|of| of == format!("\"{digest}\""));
    headers.get(header::RANGE).filter(|_| is_same).and_then(|range| range.to_str().ok())
}

fn describe(headers: &mut HeaderMap, digest: &ContentDigest) {
    set_digest(headers, digest);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, FOREVER);
}

/// `DELETE /v2/<name>/blobs/<digest>`
pub(crate) async fn delete(
    registry: &Registry,
    call: &Call,
    name: &RepositoryName,
    digest: &ContentDigest,
) -> Result<Reply> {
    super::service::deleting(registry)?;
    let known = registry.known(digest).await?.ok_or_else(|| links::unknown(digest))?;
    registry.delete_blob(name.as_str(), known, registry.hooks.origin(call)).await?;
    Ok(status(StatusCode::ACCEPTED))
}
