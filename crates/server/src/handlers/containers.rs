//! Containers.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http::StatusCode;
use http::header::HeaderValue;
use yare_api::{ContainerConfig, ContainerCreateRequest, ContainerUpdateRequest, compat};
use yare_engine::{Engine, containers, system};
use yare_errdefs::{Error, Result};

use crate::body;
use crate::decode;
use crate::edge::Call;
use crate::hijack;
use crate::reply::{self, JSON, Reply};
use crate::websocket;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// `GET /containers/json`.
pub(super) async fn list(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let options = decode::container_list(&call.query)?;
    let found = match options.size {
        true => containers::list_with_sizes(engine, options).await?,
        false => containers::list(engine, &options)?,
    };
    reply::versioned(compat::Reply::ContainerList, call.version, &found)
}

/// `POST /containers/create`.
pub(super) async fn create(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let (name, platform) = (call.query.text("name"), decode::platform(&call.query)?);
    let mut request: ContainerCreateRequest = body::json_required(&call.headers, call.body).await?;
    // Only versions that old ask for it.
    let cgroup_v2 = call.version.before(41) && system::info(engine).cgroup_version == "2";
    compat::lift_create(call.version, cgroup_v2, &mut request)?;
    let created = containers::create(engine, name, platform, request).await?;
    reply::json(StatusCode::CREATED, &created)
}

/// `GET /containers/{id}/json`.
pub(super) async fn inspect(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let found = match call.query.flag("size") {
        true => containers::inspect_with_size(engine, call.name()).await?,
        false => containers::inspect(engine, call.name(), false)?,
    };
    reply::versioned(compat::Reply::ContainerInspect, call.version, &call.shown(found))
}

/// `GET /containers/{id}/top`.
pub(super) async fn top(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let arguments = call.query.or_empty("ps_args");
    if let Some(policy) = call.policy() {
        policy.check_ps(&arguments)?;
    }
    let processes = containers::top(engine, call.name(), &arguments).await?;
    reply::json(StatusCode::OK, &processes)
}

/// `GET /containers/{id}/changes`.
pub(super) async fn changes(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let changes = containers::changes(engine, call.name()).await?;
    // Docker has no empty list here.
    reply::json(StatusCode::OK, &(!changes.is_empty()).then_some(changes))
}

/// `GET /containers/{id}/export`.
pub(super) async fn export(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let output = containers::export(engine, call.name()).await?;
    Ok(reply::stream(OCTETS, reply::parts(output)))
}

/// `GET /containers/{id}/stats`. The head is sent at once, each sample when it is taken.
pub(super) fn stats(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let options = decode::container_stats(&call.query)?;
    let samples = containers::stats(engine, call.name(), options)?;
    let lines = samples.map(|sample| sample.and_then(|sample| reply::line(&sample)).map(Bytes::from));
    Ok(reply::follow(JSON, call.socket(), lines))
}

/// `POST /commit`.
pub(super) async fn commit(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let mut request = decode::commit(&call.query)?;
    request.config = body::json::<Option<ContainerConfig>, _>(&call.headers, call.body).await?.flatten();
    reply::json(StatusCode::CREATED, &containers::commit(engine, request).await?)
}

/// `GET /containers/{id}/logs`.
pub(super) async fn logs(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let options = decode::container_logs(&call.query)?;
    let follow = options.follow;
    let (tty, output) = containers::logs(engine, call.name(), options).await?;
    let (content_type, parts) = (hijack::content_type(call.version, tty), reply::parts(output));
    Ok(match follow {
        true => reply::follow(content_type, call.socket(), parts),
        false => reply::stream(content_type, parts),
    })
}

/// `POST /containers/{id}/resize`.
pub(super) async fn resize(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let size = decode::resize(&call.query)?;
    containers::resize(engine, call.name(), size.height, size.width).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// `POST /containers/{id}/start`.
pub(super) async fn start(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    containers::start(engine, call.name()).await.map(changed)
}

/// `POST /containers/{id}/stop`.
pub(super) async fn stop(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let stop = decode::container_stop(&call.query)?;
    containers::stop(engine, call.name(), stop.signal.as_deref(), stop.timeout).await.map(changed)
}

/// `POST /containers/{id}/restart`.
pub(super) async fn restart(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let stop = decode::container_stop(&call.query)?;
    containers::restart(engine, call.name(), stop.signal.as_deref(), stop.timeout).await.map(done)
}

/// `POST /containers/{id}/kill`.
pub(super) async fn kill(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    containers::kill(engine, call.name(), &call.query.or_empty("signal")).await.map(done)
}

/// `POST /containers/{id}/update`.
pub(super) async fn update(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.name().to_owned();
    let mut request: ContainerUpdateRequest = body::json(&call.headers, call.body).await?.unwrap_or_default();
    compat::lift_update(call.version, &mut request);
    reply::json(StatusCode::OK, &containers::update(engine, &name, request).await?)
}

/// `POST /containers/{id}/rename`.
pub(super) async fn rename(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    containers::rename(engine, call.name(), &call.query.or_empty("name")).await.map(done)
}

/// `POST /containers/{id}/pause`.
pub(super) async fn pause(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    containers::pause(engine, call.name()).await.map(done)
}

/// `POST /containers/{id}/unpause`.
pub(super) async fn unpause(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    containers::unpause(engine, call.name()).await.map(done)
}

/// `POST /containers/{id}/attach`. The engine wires the streams before this answers, so that a client may
/// start the container as soon as it has the answer.
pub(super) async fn attach(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let options = decode::container_attach(&call.query);
    let attached = containers::attach(engine, call.name(), &options).await?;
    Ok(call.takeover.connect(attached.tty, attached.session))
}

/// `GET /containers/{id}/attach/ws`. Before version 1.42 all streams are meant.
pub(super) async fn attach_socket(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let mut options = decode::container_attach(&call.query);
    if call.version.before(42) {
        (options.stdin, options.stdout, options.stderr) = (true, true, true);
    }
    let accept = websocket::accept(&call.headers)?;
    let attached = containers::attach(engine, call.name(), &options).await?;
    let form = (attached.tty, call.version.before(28));
    websocket::connect(call.takeover, accept, form, attached.session)
}

/// `POST /containers/{id}/wait`. The head is sent at once: clients start the container when they have it.
pub(super) fn wait(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let waiting = containers::wait(engine, call.name(), &call.query.or_empty("condition"))?;
    let answer = waiting.map(|ended| reply::line(&ended).map(Bytes::from));
    Ok(reply::follow(JSON, call.socket(), answer.into_stream()))
}

/// `DELETE /containers/{id}`.
pub(super) async fn remove(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    containers::remove(engine, call.name(), decode::container_remove(&call.query)).await.map(done)
}

/// `POST /containers/prune`.
pub(super) async fn prune(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let pruned = containers::prune(engine, &decode::filters(&call.query)?).await?;
    reply::json(StatusCode::OK, &pruned)
}

/// Done, without anything to say.
pub(super) fn done((): ()) -> Reply {
    reply::empty(StatusCode::NO_CONTENT)
}

/// Done, or there was nothing to do.
fn changed(changed: bool) -> Reply {
    if changed { done(()) } else { reply::failure(&Error::not_modified("nothing to do")) }
}
