//! Images.

use std::sync::Arc;

use futures_util::StreamExt;
use http::StatusCode;
use http::header::HeaderValue;
use yare_api::{AuthConfig, DistributionInspect, ImageSearchResponseItem, compat};
use yare_engine::{Engine, images};
use yare_errdefs::Result;

use crate::decode::{self, ImageCreate};
use crate::edge::Call;
use crate::reply::{self, JSON, Reply};

pub(super) const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");

/// `GET /images/json`.
pub(super) fn list(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let found = images::list(engine, &decode::image_list(&call.query)?)?;
    reply::versioned(compat::Reply::ImageList, call.version, &found)
}

/// `POST /images/create`: pull or import.
pub(super) async fn create(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    match decode::image_create(&call.query)? {
        ImageCreate::Pull { reference, platform, all_platforms } => {
            let auth = credentials(&call)?;
            let request = images::PullRequest { reference, platform, all_platforms, auth };
            let output = images::pull(engine, request).await?;
            Ok(streamed(JSON, output))
        }
        ImageCreate::Import(request) => {
            let output = images::import(engine, request, call.body.into_parts().boxed()).await?;
            Ok(streamed(JSON, output))
        }
    }
}

/// `X-Registry-Auth`: what the client has to show to the registry of this call.
fn credentials(call: &Call) -> Result<AuthConfig> {
    let header = call.headers.get("x-registry-auth").and_then(|value| value.to_str().ok());
    yare_api::auth::decode(header.unwrap_or_default())
}

/// `POST /images/{name}/push`.
pub(super) async fn push(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let request = images::PushRequest {
        name: call.name().to_owned(),
        tag: call.query.text("tag"),
        by_digest: false,
        platform: decode::json_platform(&call.query)?,
        auth: credentials(call)?,
    };
    images::push(engine, request).await.map(|output| streamed(JSON, output))
}

/// `GET /images/search`.
pub(super) async fn search(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let wanted = decode::image_search(&call.query)?;
    let stars: i64 =
        wanted.filters.values("stars").first().and_then(|text| text.parse().ok()).unwrap_or_default();
    let official = wanted.filters.values("is-official").first().map(|text| text == "true" || text == "1");
    let hits = images::registries::search(engine, &wanted.term, wanted.limit, &credentials(call)?).await?;
    let hits = hits
        .into_iter()
        .filter(|hit| hit.star_count >= stars && official.is_none_or(|official| hit.is_official == official));
    let items: Vec<ImageSearchResponseItem> = hits
        .map(|hit| ImageSearchResponseItem {
            star_count: hit.star_count,
            is_official: hit.is_official,
            name: hit.name,
            is_automated: hit.is_automated,
            description: hit.description,
        })
        .collect();
    reply::json(StatusCode::OK, &items)
}

/// `GET /distribution/{name}/json`.
pub(super) async fn distribution(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let found = images::registries::inspect(engine, call.name(), &credentials(call)?).await?;
    let found = DistributionInspect { descriptor: Some(found.descriptor), platforms: Some(found.platforms) };
    reply::json(StatusCode::OK, &found)
}

/// `GET /images/{name}/json`.
pub(super) fn inspect(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let options = images::InspectOptions {
        platform: decode::json_platform(&call.query)?,
        manifests: call.query.flag("manifests"),
    };
    let found = images::inspect_with(engine, call.name(), &options)?;
    reply::versioned(compat::Reply::ImageInspect, call.version, &call.shown(found))
}

/// `GET /images/{name}/history`.
pub(super) fn history(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let platform = decode::json_platform(&call.query)?;
    reply::json(StatusCode::OK, &images::history(engine, call.name(), platform.as_ref())?)
}

/// `POST /images/{name}/tag`.
pub(super) async fn tag(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let (repository, tag) = (call.query.or_empty("repo"), call.query.or_empty("tag"));
    images::tag(engine, call.name(), &repository, &tag).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

/// `DELETE /images/{name}`.
pub(super) async fn remove(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let wanted = decode::image_remove(&call.query)?;
    let removed = images::remove(engine, call.name(), wanted.options, wanted.platforms).await?;
    reply::json(StatusCode::OK, &removed)
}

/// `POST /images/prune`.
pub(super) async fn prune(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let pruned = images::prune(engine, &decode::filters(&call.query)?).await?;
    reply::json(StatusCode::OK, &pruned)
}

/// `GET /images/get` and `/images/{name}/get`.
pub(super) fn save(engine: &Arc<Engine>, names: Vec<String>, call: &Call) -> Result<Reply> {
    let platforms = decode::json_platforms(&call.query, "platform")?;
    images::save(engine, names, platforms).map(|output| streamed(TAR, output))
}

/// `POST /images/load`.
pub(super) fn load(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let platforms = decode::json_platforms(&call.query, "platform")?;
    images::load(engine, platforms, call.body.into_parts().boxed()).map(|output| streamed(JSON, output))
}

fn streamed(content_type: HeaderValue, output: images::Output) -> Reply {
    reply::stream(content_type, reply::parts(output))
}
