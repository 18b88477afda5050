//! Programs run in running containers.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;
use yare_api::{ExecConfig, ExecStartConfig};
use yare_engine::{Engine, exec};
use yare_errdefs::Result;

use crate::body;
use crate::decode;
use crate::edge::Call;
use crate::reply::{self, Reply};

/// `POST /containers/{id}/exec`.
pub(super) async fn create(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.name().to_owned();
    let config: ExecConfig = body::json(&call.headers, call.body).await?.unwrap_or_default();
    let id = exec::create(engine, &name, config).await?;
    reply::json(StatusCode::CREATED, &json!({ "Id": id }))
}

/// `POST /exec/{id}/start`. As in Docker, what fails after the exec was found is told through the stream when
/// the client asked for one, because clients show nothing of an upgrade that is refused.
pub(super) async fn start(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let id = call.name().to_owned();
    let config: ExecStartConfig = body::json(&call.headers, call.body).await?.unwrap_or_default();
    exec::inspect(engine, &id)?;
    match exec::start(engine, &id, &config).await {
        Ok(Some(attached)) => Ok(call.takeover.connect(attached.tty, attached.session)),
        Ok(None) => Ok(reply::empty(StatusCode::OK)),
        Err(error) if config.detach || call.takeover.upgrade.is_none() => Err(error),
        Err(error) => Ok(call.takeover.connect_failed(config.tty, &error)),
    }
}

/// `POST /exec/{id}/resize`.
pub(super) async fn resize(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let size = decode::resize(&call.query)?;
    exec::resize(engine, call.name(), size.height, size.width).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// `POST /yare/exec/{id}/kill`.
pub(super) async fn kill(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    exec::kill(engine, call.name(), &call.query.or_empty("signal")).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `GET /exec/{id}/json`.
pub(super) fn inspect(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    reply::json(StatusCode::OK, &exec::inspect(engine, call.name())?)
}
