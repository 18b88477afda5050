//! The engine as a whole.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderName, HeaderValue, PRAGMA};
use yare_api::{AuthConfig, RegistryOptions, SystemAuthResponse, compat};
use yare_engine::{Engine, cleaning, events, images, served, system};
use yare_errdefs::Result;

use crate::body;
use crate::decode;
use crate::edge::Call;
use crate::reply::{self, JSON, Reply};

/// `GET` and `HEAD /_ping`: the first request of every client.
pub(crate) fn ping(call: &Call) -> Reply {
    let mut reply = reply::text(StatusCode::OK, if call.head_only { "" } else { "OK" });
    let fixed = [
        // 2: clients build with BuildKit's wire, when they have a plugin that speaks it.
        (HeaderName::from_static("builder-version"), "2"),
        (CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (PRAGMA, "no-cache"),
        (HeaderName::from_static("swarm"), "inactive"),
    ];
    for (name, value) in fixed {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if call.head_only {
        reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    reply
}

/// `GET /version`.
pub(super) fn version() -> Result<Reply> {
    reply::json(StatusCode::OK, &system::version())
}

/// `GET /info`.
pub(super) fn info(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    reply::versioned(compat::Reply::SystemInfo, call.version, &system::info(engine))
}

/// `GET /system/df`.
pub(super) async fn disk_usage(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let usage = system::disk_usage(engine, &call.query.all("type")).await?;
    reply::versioned(compat::Reply::DiskUsage, call.version, &call.shown(usage))
}

/// `GET /events`: the head is sent at once, whatever happens later.
pub(super) fn events(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let (window, filters) = decode::events(&call.query)?;
    let events = events::subscribe(engine, window, filters)?;
    let lines = events.map(|event| reply::line(&*event).map(Bytes::from));
    Ok(reply::follow(JSON, call.socket(), lines))
}

/// `GET /metrics`, in the text format of Prometheus.
pub(super) fn metrics(engine: &Arc<Engine>, call: &Call) -> Reply {
    let text = format!("{}{}", system::metrics(engine), call.metrics.render());
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    reply::typed(reply::text(StatusCode::OK, text), format)
}

/// `POST /auth`.
pub(super) async fn auth(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let auth: AuthConfig = body::json(&call.headers, call.body).await?.unwrap_or_default();
    let login = images::registries::login(engine, &auth).await?;
    let status = "Login Succeeded".to_owned();
    reply::json(StatusCode::OK, &SystemAuthResponse { status, identity_token: login.identity })
}

/// `GET /yare/cleaning`.
pub(super) async fn cleaning(engine: &Arc<Engine>) -> Result<Reply> {
    reply::json(StatusCode::OK, &cleaning::status(engine).await?)
}

/// `GET /yare/registry`.
pub(super) async fn registry(engine: &Arc<Engine>) -> Result<Reply> {
    reply::json(StatusCode::OK, &served::status(engine).await)
}

/// `PUT /yare/registry`: serves the image store, also after the next start.
pub(super) async fn enable_registry(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let options: RegistryOptions = body::json(&call.headers, call.body).await?.unwrap_or_default();
    reply::json(StatusCode::OK, &served::enable(engine, options).await?)
}

/// `DELETE /yare/registry`.
pub(super) async fn disable_registry(engine: &Arc<Engine>) -> Result<Reply> {
    served::disable(engine).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `GET /plugins`: there are none.
pub(super) fn plugins() -> Result<Reply> {
    reply::json(StatusCode::OK, &[(); 0])
}
