//! The services that clients call, by path.

use crate::Kit;
use crate::builds::Recalled;
use crate::gateway::{self, Speaker};
use crate::grpc::server::{Call, Reply};
use crate::grpc::{Code, Status};
use crate::proto::control::{
    DiskUsageResponse, InfoResponse, ListWorkersResponse, PruneRequest, StatusRequest, UsageRecord,
};
use crate::proto::session::{HealthResponse, SERVING};
use crate::proto::{Device, Empty, Platform, Version, WorkerRecord};
use crate::session::Offer;
use crate::{history, news, solve};
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::filters::Filters;
use yare_engine::build::{self, Prune};

/// Bytes that wait between a session and the call that carries it.
const TUNNEL: usize = 256 << 10;

/// Answers one call.
pub(crate) async fn answer(kit: Arc<Kit>, call: Call) {
    let path = call.path.clone();
    let answered = match path.strip_prefix("/moby.buildkit.v1.") {
        Some(method) if method.starts_with("Control/") => {
            control(&kit, call, &method["Control/".len()..]).await
        }
        Some(method) => match method.strip_prefix("frontend.LLBBridge/") {
            Some(method) => {
                let build = call.metadata("buildkit-controlapi-buildid");
                gateway::serve(&kit, Speaker::Client(build), call, method).await
            }
            None => call.unknown(),
        },
        None if path.starts_with("/containerd.services.content.v1.Content/") => content(&kit, call).await,
        None if path == "/grpc.health.v1.Health/Check" => health(call).await,
        None => call.unknown(),
    };
    if let Err(status) = answered {
        tracing::debug!(path, message = status.message, "an answer did not reach its client");
    }
}

pub(crate) async fn health(call: Call) -> Result<(), Status> {
    call.unary(|_: Empty| async { Ok(HealthResponse { status: SERVING }) }).await
}

async fn control(kit: &Arc<Kit>, call: Call, method: &str) -> Result<(), Status> {
    match method {
        "ListWorkers" => {
            call.unary(|_: Empty| async { Ok(ListWorkersResponse { record: vec![worker(kit)] }) }).await
        }
        "Info" => call.unary(|_: Empty| async { Ok(InfoResponse { version: Some(version()) }) }).await,
        "Solve" => call.unary(|request| solve::solve(kit, request)).await,
        "Session" => session(kit, call).await,
        "Status" => call.stream(|request, reply| status(kit, request, reply)).await,
        "DiskUsage" => call.unary(|_: Empty| async { Ok(DiskUsageResponse { record: usage(kit) }) }).await,
        "Prune" => call.stream(|request, reply| prune(kit, request, reply)).await,
        "ListenBuildHistory" => {
            call.stream(|request, mut reply| async move {
                match history::listen(kit, request, &mut reply).await {
                    Ok(()) => Ok(reply),
                    Err(status) => Err((reply, status)),
                }
            })
            .await
        }
        "UpdateBuildHistory" => call.unary(|request| async move { history::update(kit, &request) }).await,
        _ => call.unknown(),
    }
}

/// The content of the history: logs by digest, as clients that export it read them.
async fn content(kit: &Arc<Kit>, call: Call) -> Result<(), Status> {
    match call.path.rsplit('/').next() {
        Some("Info") => call.unary(|request| async move { history::info(kit, &request) }).await,
        Some("Read") => {
            call.stream(|request, mut reply| async move {
                match history::read(kit, request, &mut reply).await {
                    Ok(()) => Ok(reply),
                    Err(status) => Err((reply, status)),
                }
            })
            .await
        }
        _ => call.unknown(),
    }
}

/// `Control/Session`: a session whose connection is a call.
async fn session(kit: &Arc<Kit>, call: Call) -> Result<(), Status> {
    let offer = Offer::of_headers(&call.metadata);
    let (near, far) = tokio::io::duplex(TUNNEL);
    let tunnel = call.open_tunnel()?;
    let (served, carried) = tokio::join!(kit.sessions.serve(offer, near), tunnel.carry(far));
    if let Err(status) = served.and(carried) {
        tracing::debug!(message = status.message, "a session ended early");
    }
    Ok(())
}

fn version() -> Version {
    Version {
        package: "yare".to_owned(),
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
        revision: String::new(),
    }
}

/// This engine as BuildKit's worker. Clients take the label of a snapshotter for the promise of a store with
/// several platforms and attestations, of archives, of cache exports, and of pushes by the exporter.
pub(crate) fn worker(kit: &Kit) -> WorkerRecord {
    let host = yare_oci::Platform::host();
    let platform = Platform { architecture: host.architecture, os: host.os, variant: host.variant };
    let snapshotter = "org.mobyproject.buildkit.worker.snapshotter".to_owned();
    let mut labels = BTreeMap::from([(snapshotter, "overlayfs".to_owned())]);
    let bridge = yare_engine::networks::inspect(&kit.engine, "bridge").ok();
    let gateway = bridge.and_then(|bridge| Some(bridge.ipam.config?.first()?.gateway.clone()));
    if let Some(gateway) = gateway.filter(|gateway| !gateway.is_empty()) {
        labels.insert("org.mobyproject.buildkit.worker.moby.host-gateway-ip".to_owned(), gateway);
    }
    let id = yare_engine::system::info(&kit.engine).id;
    let devices = devices(&kit.engine);
    WorkerRecord { id, labels, platforms: vec![platform], version: Some(version()), devices }
}

/// The host's devices that steps may ask for.
fn devices(engine: &yare_engine::Engine) -> Vec<Device> {
    let registry = yare_engine::devices::registry(engine);
    let device = |name: &str| {
        let annotations = registry.annotations(name);
        let auto_allow = yare_build::devices::is_auto_allowed(&annotations);
        Device { name: name.to_owned(), auto_allow, annotations }
    };
    registry.names().map(device).collect()
}

/// `Control/Status`.
async fn status(kit: &Kit, request: StatusRequest, mut reply: Reply) -> Result<Reply, (Reply, Status)> {
    let news = match kit.builds.recall(&request.r#ref).await {
        Ok(Recalled::Here(news)) => news,
        Ok(Recalled::Stored) => return recorded(kit, &request.r#ref, reply).await,
        Err(status) => return Err((reply, status)),
    };
    let mut place = 0;
    while let Some((message, next)) = news.after(place).await {
        if let Err(status) = reply.send(&message).await {
            return Err((reply, status));
        }
        place = next;
    }
    Ok(reply)
}

/// What a build told that is over.
async fn recorded(kit: &Kit, id: &str, mut reply: Reply) -> Result<Reply, (Reply, Status)> {
    let log = match kit.builds.store.log(id) {
        Ok(log) => log,
        Err(error) => return Err((reply, error.into())),
    };
    for message in log {
        let sent = match message {
            Ok(message) => reply.send(&message).await,
            Err(error) => Err(error.into()),
        };
        if let Err(status) = sent {
            return Err((reply, status));
        }
    }
    Ok(reply)
}

fn usage(kit: &Kit) -> Vec<UsageRecord> {
    let rows = build::usage(&kit.engine).into_iter();
    rows.map(|row| UsageRecord {
        id: row.id,
        in_use: row.in_use,
        size: row.size,
        created: news::timestamp(&row.created_at),
        last_used: row.last_used_at.as_deref().and_then(news::timestamp),
        uses: row.usage_count,
        description: row.description,
        kind: row.r#type,
        shared: row.shared,
        parents: row.parents.unwrap_or_default(),
    })
    .collect()
}

/// `Control/Prune`: what went, a row each.
async fn prune(kit: &Arc<Kit>, request: PruneRequest, mut reply: Reply) -> Result<Reply, (Reply, Status)> {
    match pruned(kit, request).await {
        Ok(records) => {
            for record in &records {
                if let Err(status) = reply.send(record).await {
                    return Err((reply, status));
                }
            }
            Ok(reply)
        }
        Err(status) => Err((reply, status)),
    }
}

async fn pruned(kit: &Arc<Kit>, request: PruneRequest) -> Result<Vec<UsageRecord>, Status> {
    let mut filters = Filters::default();
    if request.keep_duration > 0 {
        filters.add("unused-for", format!("{}s", request.keep_duration / 1_000_000_000));
    }
    for filter in request.filter.iter().filter(|filter| !filter.is_empty()) {
        let (name, value) = filter.split_once("==").ok_or_else(|| {
            Status::new(Code::InvalidArgument, format!("the filter {filter:?} is not understood"))
        })?;
        filters.add(name, value);
    }
    let before: BTreeMap<String, UsageRecord> =
        usage(kit).into_iter().map(|record| (record.id.clone(), record)).collect();
    let keep = request.reserved_space.max(request.max_used_space);
    let gone = build::prune(&kit.engine, Prune { all: request.all, keep, filters }).await?;
    let ids = gone.caches_deleted.unwrap_or_default();
    Ok(ids.into_iter().filter_map(|id| before.get(&id).cloned()).collect())
}
