//! Images.

use std::sync::Arc;

use futures_util::StreamExt;
use http::StatusCode;
use http::header::HeaderValue;
use yare_api::compat;
use yare_engine::{Engine, images};
use yare_errdefs::Result;

use crate::decode::{self, ImageCreate};
use crate::edge::Call;
use crate::reply::{self, JSON, Reply};

const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");

/// `GET /images/json`.
pub(super) fn list(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let found = images::list(engine, &decode::image_list(&call.query)?)?;
    reply::versioned(compat::Reply::ImageList, call.version, &found)
}

/// `POST /images/create`: pull or import.
pub(super) fn create(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    match decode::image_create(&call.query)? {
        ImageCreate::Pull { reference } => Err(images::pull(&reference)),
        ImageCreate::Import(request) => {
            let output = images::import(engine, request, call.body.into_parts().boxed())?;
            Ok(streamed(JSON, output))
        }
    }
}

/// `GET /images/{name}/json`.
pub(super) fn inspect(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    reply::versioned(compat::Reply::ImageInspect, call.version, &images::inspect(engine, call.name())?)
}

/// `GET /images/{name}/history`.
pub(super) fn history(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    reply::json(StatusCode::OK, &images::history(engine, call.name())?)
}

/// `POST /images/{name}/tag`.
pub(super) async fn tag(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let (repository, tag) = (call.query.or_empty("repo"), call.query.or_empty("tag"));
    images::tag(engine, call.name(), &repository, &tag).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

/// `DELETE /images/{name}`.
pub(super) async fn remove(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let options = decode::image_remove(&call.query)?;
    let removed = images::remove(engine, call.name(), options.force, options.no_prune).await?;
    reply::json(StatusCode::OK, &removed)
}

/// `POST /images/prune`.
pub(super) async fn prune(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let pruned = images::prune(engine, &decode::filters(&call.query)?).await?;
    reply::json(StatusCode::OK, &pruned)
}

/// `GET /images/get` and `/images/{name}/get`.
pub(super) fn save(engine: &Arc<Engine>, names: Vec<String>) -> Result<Reply> {
    images::save(engine, names).map(|output| streamed(TAR, output))
}

/// `POST /images/load`.
pub(super) fn load(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    images::load(engine, call.body.into_parts().boxed()).map(|output| streamed(JSON, output))
}

fn streamed(content_type: HeaderValue, output: images::Output) -> Reply {
    reply::stream(content_type, reply::parts(output))
}
