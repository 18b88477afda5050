//! Files of containers: what `cp` asks for.

use std::sync::Arc;

use futures_util::StreamExt;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use yare_api::archive::ContainerPathStat;
use yare_engine::Engine;
use yare_engine::containers::{self, ExtractOptions};
use yare_errdefs::{Error, Result};

use super::images::TAR;
use crate::edge::Call;
use crate::query::Query;
use crate::reply::{self, Reply};

const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// The path that is asked for.
fn path(query: &Query) -> Result<String> {
    query.text("path").ok_or_else(|| Error::invalid(yare_api::texts::NO_PATH))
}

fn with_stat(mut reply: Reply, stat: &ContainerPathStat) -> Result<Reply> {
    let value = HeaderValue::from_str(&stat.encode())
        .map_err(|error| Error::internal("cannot encode the reply").caused_by(error))?;
    reply.headers_mut().insert(STAT, value);
    Ok(reply)
}

/// `HEAD /containers/{id}/archive`.
pub(super) async fn stat(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let stat = containers::stat_path(engine, call.name(), &path(&call.query)?).await?;
    with_stat(reply::empty(StatusCode::OK), &stat)
}

/// `GET /containers/{id}/archive`.
pub(super) async fn archive(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let (stat, output) = containers::archive(engine, call.name(), &path(&call.query)?).await?;
    with_stat(reply::stream(TAR, reply::parts(output)), &stat)
}

/// `PUT /containers/{id}/archive`.
pub(super) async fn extract(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let options = ExtractOptions {
        path: path(&call.query)?,
        kinds_stay: call.query.flag("noOverwriteDirNonDir"),
        to_user: call.query.flag("copyUIDGID"),
    };
    let name = call.name().to_owned();
    containers::extract(engine, &name, options, call.body.into_parts().boxed()).await?;
    Ok(reply::empty(StatusCode::OK))
}
