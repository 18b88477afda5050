//! Manifests and tags.

use super::body::Body;
use super::intake::Intake;
use super::reply::{Reply, SUBJECT, TAGS, is_unchanged, set, set_digest, status};
use super::service::{Call, Service};
use crate::cache::manifests::{self as cache, Freshness};
use crate::events::{Event, Kind, Origin};
use crate::manifest::{MANIFEST_LIMIT, too_large};
use crate::manifests::Found;
use crate::name::{Reference, RepositoryName, Tag};
use crate::problem::{Code, Refusal, Result};
use crate::records::ManifestRecord;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use yare_oci::ContentDigest;

/// The most tags that one push may set.
const MOST_TAGS: usize = 100;
/// What a reply says whose upstream could not be asked.
const STALE: &str = "110 - \"Response is Stale\"";

/// `HEAD` and `GET /v2/<name>/manifests/<reference>`
pub(crate) async fn get(
    service: &Service,
    call: &Call,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Reply> {
    let registry = &service.registry;
    let is_head = call.parts.method == Method::HEAD;
    let headers = &call.parts.headers;
    let is_known = |digest: &ContentDigest| is_head || is_unchanged(headers, digest);
    let freshness = match registry.caches.of(name.as_str()) {
        Some(upstream) => cache::refresh(registry, upstream, name.as_str(), reference).await?,
        None => Freshness::Fresh,
    };
    let is_stale = matches!(freshness, Freshness::Stale);
    let (found, bytes) = match freshness {
        Freshness::Passing(document) => passing(*document, is_head, registry.now()),
        Freshness::Fresh | Freshness::Stale => registry.manifest(name.as_str(), reference, is_known)?,
    };
    let is_unchanged = is_unchanged(headers, &found.name);
    let mut reply = Response::new(bytes.map_or_else(Body::empty, Body::bytes));
    if is_unchanged {
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = reply.headers_mut();
    set_digest(headers, &found.name);
    set(headers, header::CONTENT_TYPE, &found.record.media_type);
    if is_stale {
        headers.insert(header::WARNING, HeaderValue::from_static(STALE));
    }
    if matches!(reference, Reference::Tag(_)) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    if !is_unchanged {
        headers.insert(header::CONTENT_LENGTH, found.record.size.into());
    }
    let tag = match reference {
        Reference::Tag(tag) => Some(tag.as_str()),
        Reference::Digest(_) => None,
    };
    // A client that is up to date asks with HEAD and stops there: that is a use, too.
    registry.usage.pulled(name.as_str(), &found.digest, tag, registry.now());
    if !is_head && !is_unchanged && registry.hooks.care_for_pulls(false) {
        registry.hooks.pulled(Event {
            tag: tag.map(str::to_owned),
            digest: Some(found.name),
            media_type: found.record.media_type,
            size: found.record.size,
            ..Event::new(Kind::Pull, name.as_str(), &Origin::of(call))
        });
    }
    Ok(reply)
}

/// The answer for a manifest that is not kept.
fn passing(document: yare_distribution::Document, is_head: bool, now: u64) -> (Found, Option<bytes::Bytes>) {
    let record = ManifestRecord {
        media_type: document.descriptor.media_type.to_string(),
        size: document.bytes.len() as u64,
        pushed: now,
        pulled: 0,
        uses: Vec::new(),
        subject: None,
    };
    let digest = document.descriptor.digest;
    let found = Found { digest, name: digest.into(), record };
    (found, Some(document.bytes).filter(|_| !is_head))
}

/// `PUT /v2/<name>/manifests/<reference>`
pub(crate) async fn put(
    service: &Service,
    call: &Call,
    intake: &mut Intake,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Reply> {
    let tags: Vec<Tag> = call.query.all("tag").map(Tag::parse).collect::<std::result::Result<_, _>>()?;
    if tags.len() > MOST_TAGS {
        return Err(Refusal::new(Code::TagInvalid, format!("more than {MOST_TAGS} tags in one push")).into());
    }
    let content_type = call.parts.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.map(|sent| sent.to_str().unwrap_or_default().to_owned());
    let bytes = intake.whole(MANIFEST_LIMIT, too_large).await?;
    let (registry, sent) = (&service.registry, (content_type.as_deref(), bytes));
    let origin = registry.hooks.origin(call);
    let (digest, subject) =
        registry.put_manifest(name.as_str(), reference, tags.clone(), sent, origin).await?;
    let mut reply = status(StatusCode::CREATED);
    let headers = reply.headers_mut();
    set(headers, header::LOCATION, &format!("/v2/{name}/manifests/{digest}"));
    set_digest(headers, &digest);
    if let Some(subject) = subject {
        set(headers, SUBJECT, &subject.to_string());
    }
    for tag in &tags {
        if let Ok(tag) = HeaderValue::from_str(tag.as_str()) {
            headers.append(TAGS, tag);
        }
    }
    Ok(reply)
}

/// `DELETE /v2/<name>/manifests/<reference>`
pub(crate) async fn delete(
    service: &Service,
    call: &Call,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Reply> {
    super::service::deleting(&service.registry)?;
    let origin = service.registry.hooks.origin(call);
    service.registry.delete_manifest(name.as_str(), reference, origin).await?;
    Ok(status(StatusCode::ACCEPTED))
}
