//! Networks.

use std::sync::Arc;

use http::StatusCode;
use yare_api::NetworkPruneResponse;
use yare_engine::{Engine, networks};
use yare_errdefs::Result;

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

/// `POST /networks/prune`: there are none that could go.
pub(super) fn prune(call: &Call) -> Result<Reply> {
    decode::filters(&call.query)?;
    reply::json(StatusCode::OK, &NetworkPruneResponse::default())
}
