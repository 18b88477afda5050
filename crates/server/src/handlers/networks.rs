//! Networks.

use std::sync::Arc;

use http::StatusCode;
use yare_api::{NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest};
use yare_engine::{Engine, networks};
use yare_errdefs::Result;

use super::containers::done;
use crate::body;
use crate::decode;
use crate::edge::Call;
use crate::reply::{self, Reply};

/// `GET /networks`.
pub(super) fn list(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    reply::json(StatusCode::OK, &networks::list(engine, &decode::filters(&call.query)?)?)
}

/// `GET /networks/{id}`.
pub(super) fn inspect(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    reply::json(StatusCode::OK, &networks::inspect(engine, call.name())?)
}

/// `POST /networks/create`.
pub(super) async fn create(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let request: NetworkCreateRequest = body::json(&call.headers, call.body).await?.unwrap_or_default();
    reply::json(StatusCode::CREATED, &networks::create(engine, request).await?)
}

/// `POST /networks/{id}/connect`.
pub(super) async fn connect(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.name().to_owned();
    let request: NetworkConnectRequest = body::json(&call.headers, call.body).await?.unwrap_or_default();
    networks::connect(engine, &name, request).await.map(|()| reply::empty(StatusCode::OK))
}

/// `POST /networks/{id}/disconnect`.
pub(super) async fn disconnect(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.name().to_owned();
    let request: NetworkDisconnectRequest = body::json(&call.headers, call.body).await?.unwrap_or_default();
    networks::disconnect(engine, &name, request).await.map(|()| reply::empty(StatusCode::OK))
}

/// `DELETE /networks/{id}`.
pub(super) async fn remove(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    networks::remove(engine, call.name()).await.map(done)
}

/// `POST /networks/prune`.
pub(super) async fn prune(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    reply::json(StatusCode::OK, &networks::prune(engine, &decode::filters(&call.query)?).await?)
}
