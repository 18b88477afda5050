//! Uploads: in one request, in one piece, in many pieces, gone on with, mounted, cancelled.

use super::intake::Intake;
use super::query::Query;
use super::reply::{Reply, UPLOAD_ID, set, set_digest, status};
use super::service::Call;
use crate::access::Action;
use crate::clock::now;
use crate::name::{RepositoryName, parse_digest};
use crate::problem::{Code, Error, Refusal, Result};
use crate::range;
use crate::registry::Registry;
use crate::route::Target;
use crate::uploads::{Upload, Writer};
use http::header::{CONTENT_RANGE, HeaderName, LOCATION, RANGE};
use http::{HeaderMap, Method, StatusCode};
use yare_errdefs::{Class, Classified};
use yare_oci::ContentDigest;

/// `POST /v2/<name>/blobs/uploads/`: a mount, a blob in one request, or the begin of an upload.
pub(crate) async fn start(
    registry: &Registry,
    call: &Call,
    intake: &mut Intake,
    name: &RepositoryName,
) -> Result<Reply> {
    if let Some(digest) = call.query.get("mount") {
        let digest = parse_digest(digest)?;
        let from = call.query.get("from").filter(|from| !from.is_empty());
        let from = from.map(RepositoryName::parse).transpose()?;
        let may_pull = |from: &str| call.allows(from, Action::Pull);
        let from = from.as_ref().map(RepositoryName::as_str);
        if let Some(known) = registry.known(&digest).await?
            && registry.mount(name.as_str(), known, from, may_pull, registry.hooks.origin(call)).await?
        {
            return Ok(created(name, &digest));
        }
    }
    // Which one it is to be is known for sure when the digest comes; this only spares a client the way.
    let algorithm = call.query.get("digest-algorithm");
    if let Some(algorithm) = algorithm.filter(|algorithm| !["sha256", "sha512"].contains(algorithm)) {
        let shown: String = algorithm.chars().take(32).collect();
        let message = format!("digest algorithm {shown} is not supported; sha256 and sha512 are");
        return Err(Refusal::new(Code::DigestInvalid, message).into());
    }
    let digest = call.query.get("digest").map(parse_digest).transpose()?;
    let upload = registry.uploads.start(name.as_str(), now()).await?;
    let Some(digest) = digest else { return Ok(accepted(StatusCode::ACCEPTED, name, &upload)) };
    let writer = registry.uploads.writer(&upload).await?;
    let (writer, received) = intake.write_to(writer).await;
    let Some(writer) = writer else { return Err(lost(received)) };
    if let Err(error) = received {
        // Nobody was told the id: nobody can go on with it.
        registry.uploads.discard(writer).await;
        return Err(error);
    }
    registry.finish(writer, (name.as_str(), digest), registry.hooks.origin(call)).await?;
    Ok(created(name, &digest))
}

/// Which other repository a mount names. One that cannot be is refused later, with what is wrong with it.
pub(crate) fn mount_source(method: &Method, target: &Target, query: &Query) -> Option<RepositoryName> {
    let (&Method::POST, Target::Uploads(name), Some(_)) = (method, target, query.get("mount")) else {
        return None;
    };
    RepositoryName::parse(query.get("from")?).ok().filter(|source| source != name)
}

/// `GET /v2/<name>/blobs/uploads/<id>`
pub(crate) async fn progress(registry: &Registry, name: &RepositoryName, id: &str) -> Result<Reply> {
    let upload = registry.uploads.find(name.as_str(), id).await?;
    Ok(accepted(StatusCode::NO_CONTENT, name, &upload))
}

/// `PATCH /v2/<name>/blobs/uploads/<id>`
pub(crate) async fn append(
    registry: &Registry,
    call: &Call,
    intake: &mut Intake,
    name: &RepositoryName,
    id: &str,
) -> Result<Reply> {
    let upload = registry.uploads.find(name.as_str(), id).await?;
    let writer = registry.uploads.writer(&upload).await?;
    check_range(call, intake, name, &upload, &writer)?;
    let (writer, received) = intake.write_to(writer).await;
    settle(registry, writer, received).await?.pause().await?;
    Ok(accepted(StatusCode::ACCEPTED, name, &upload))
}

/// `PUT /v2/<name>/blobs/uploads/<id>?digest=<digest>`: perhaps the last piece, and the end.
pub(crate) async fn finish(
    registry: &Registry,
    call: &Call,
    intake: &mut Intake,
    name: &RepositoryName,
    id: &str,
) -> Result<Reply> {
    let Some(digest) = call.query.get("digest") else {
        return Err(Refusal::new(Code::DigestInvalid, "the digest parameter is missing").into());
    };
    let digest = parse_digest(digest)?;
    let upload = registry.uploads.find(name.as_str(), id).await?;
    let writer = registry.uploads.writer(&upload).await?;
    check_range(call, intake, name, &upload, &writer)?;
    let (writer, received) = intake.write_to(writer).await;
    let writer = settle(registry, writer, received).await?;
    registry.finish(writer, (name.as_str(), digest), registry.hooks.origin(call)).await?;
    Ok(created(name, &digest))
}

/// `DELETE /v2/<name>/blobs/uploads/<id>`
pub(crate) async fn cancel(registry: &Registry, name: &RepositoryName, id: &str) -> Result<Reply> {
    let upload = registry.uploads.find(name.as_str(), id).await?;
    let writer = registry.uploads.writer(&upload).await?;
    registry.uploads.discard(writer).await;
    Ok(status(StatusCode::NO_CONTENT))
}

/// Refuses a piece that does not follow what is there, or that is not as long as it says.
fn check_range(
    call: &Call,
    intake: &Intake,
    name: &RepositoryName,
    upload: &Upload,
    writer: &Writer,
) -> Result<()> {
    let Some(header) = call.parts.headers.get(CONTENT_RANGE) else { return Ok(()) };
    let refused = |message: String| {
        let mut refusal = Refusal::new(Code::RangeInvalid, message);
        for (header, value) in whereabouts(name, upload) {
            refusal = refusal.with_header(header, &value);
        }
        refusal
    };
    let Some(piece) = header.to_str().ok().and_then(range::piece) else {
        return Err(refused("Content-Range is not first-last".to_owned()).into());
    };
    if piece.start != writer.size() {
        let message = format!("the piece begins at {}, and {} bytes are there", piece.start, writer.size());
        return Err(refused(message).into());
    }
    let length = piece.end - piece.start;
    if intake.announced().is_some_and(|announced| announced != length) {
        let message = format!("Content-Range is {length} bytes long, and Content-Length says otherwise");
        return Err(Refusal::new(Code::SizeInvalid, message).into());
    }
    Ok(())
}

/// After receiving: an upload whose client went away stays, one that cannot be stored goes.
async fn settle(registry: &Registry, writer: Option<Writer>, received: Result<()>) -> Result<Writer> {
    let Some(writer) = writer else { return Err(lost(received)) };
    match received {
        Ok(()) => Ok(writer),
        Err(error) => {
            let is_file = matches!(writer, Writer::File(_));
            let is_full =
                is_file && matches!(&error, Error::Failed(error) if error.class() == Class::Unavailable);
            let is_over = matches!(&error, Error::Refused(refusal) if refusal.code == Code::SizeInvalid);
            if is_full || is_over {
                registry.uploads.discard(writer).await;
            } else if let Err(error) = writer.pause().await {
                tracing::debug!(error = yare_errdefs::chain(&error), "an upload lost its last bytes");
            }
            Err(error)
        }
    }
}

fn lost(received: Result<()>) -> Error {
    received.err().unwrap_or_else(|| yare_errdefs::Error::internal("an upload lost its file").into())
}

/// Where an upload is and how far.
fn whereabouts(name: &RepositoryName, upload: &Upload) -> [(HeaderName, String); 3] {
    // Both ends are counted, so nothing at all looks like one byte; clients know.
    let last = upload.offset().saturating_sub(1);
    [
        (LOCATION, format!("/v2/{name}/blobs/uploads/{}", upload.id())),
        (RANGE, format!("0-{last}")),
        (UPLOAD_ID, upload.id().to_owned()),
    ]
}

fn accepted(code: StatusCode, name: &RepositoryName, upload: &Upload) -> Reply {
    let mut reply = status(code);
    for (header, value) in whereabouts(name, upload) {
        set(reply.headers_mut(), header, &value);
    }
    reply
}

fn created(name: &RepositoryName, digest: &ContentDigest) -> Reply {
    let mut reply = status(StatusCode::CREATED);
    let headers: &mut HeaderMap = reply.headers_mut();
    set(headers, LOCATION, &format!("/v2/{name}/blobs/{digest}"));
    set_digest(headers, digest);
    reply
}
