//! Volumes.

use std::sync::Arc;

use futures_util::StreamExt;
use http::StatusCode;
use yare_api::{VolumeCreateOptions, compat};
use yare_engine::{Engine, volumes};
use yare_errdefs::Result;

use super::containers::done;
use super::images::TAR;
use crate::body;
use crate::decode;
use crate::edge::Call;
use crate::reply::{self, Reply};

/// `GET /volumes`.
pub(super) fn list(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    reply::json(StatusCode::OK, &call.shown(volumes::list(engine, &decode::filters(&call.query)?)?))
}

/// `POST /volumes/create`.
pub(super) async fn create(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let options: VolumeCreateOptions = body::json(&call.headers, call.body).await?.unwrap_or_default();
    reply::json(StatusCode::CREATED, &volumes::create(engine, options).await?)
}

/// `GET /volumes/{name}`.
pub(super) fn inspect(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    reply::json(StatusCode::OK, &call.shown(volumes::inspect(engine, call.name())?))
}

/// `DELETE /volumes/{name}`.
pub(super) async fn remove(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    volumes::remove(engine, call.name(), call.query.flag("force")).await.map(done)
}

/// `POST /volumes/prune`.
pub(super) async fn prune(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let mut filters = decode::filters(&call.query)?;
    compat::lift_volume_prune(call.version, &mut filters);
    reply::json(StatusCode::OK, &volumes::prune(engine, &filters).await?)
}

/// `GET /yare/volumes/{name}/archive`.
pub(super) async fn export(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let output = volumes::export(engine, call.name()).await?;
    Ok(reply::stream(TAR, reply::parts(output)))
}

/// `PUT /yare/volumes/{name}/archive`.
pub(super) async fn import(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.name().to_owned();
    volumes::import(engine, &name, call.body.into_parts().boxed()).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
