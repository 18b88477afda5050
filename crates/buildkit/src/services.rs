//! The services that clients call, by path.

use crate::Kit;
use crate::builds::Recalled;
use crate::calls;
use crate::grpc::server::{Call, Reply};
use crate::grpc::{Code, Status};
use crate::llb::caps;
use crate::proto::control::{
    DiskUsageResponse, InfoResponse, ListWorkersResponse, PruneRequest, StatusRequest, UsageRecord,
};
use crate::proto::gateway::{
    Answer, Cap, EvaluateRequest, InputsResponse, PongResponse, Ref, ReturnRequest, SolveRequest,
    SolveResponse,
};
use crate::proto::session::{HealthResponse, SERVING};
use crate::proto::{Device, Empty, Platform, Version, WorkerRecord};
use crate::session::Offer;
use crate::{history, inputs, news, read, solve};
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
            Some(method) => bridge(&kit, call, method).await,
            None => call.unknown(),
        },
        None if path.starts_with("/containerd.services.content.v1.Content/") => content(&kit, call).await,
        None if path == "/grpc.health.v1.Health/Check" => {
            call.unary(|_: Empty| async { Ok(HealthResponse { status: SERVING }) }).await
        }
        None => call.unknown(),
    };
    if let Err(status) = answered {
        tracing::debug!(path, message = status.message, "an answer did not reach its client");
    }
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

async fn bridge(kit: &Arc<Kit>, call: Call, method: &str) -> Result<(), Status> {
    let id = call.metadata("buildkit-controlapi-buildid");
    match method {
        "Ping" => {
            call.unary(|_: Empty| async {
                kit.builds.find(&id).await?;
                Ok(pong(kit))
            })
            .await
        }
        "Solve" => call.unary(|request| load(kit, &id, request)).await,
        "Return" => call.unary(|request| returned(kit, &id, request)).await,
        "Evaluate" => {
            call.unary(|request: EvaluateRequest| async move {
                let build = kit.builds.find(&id).await?;
                solve::evaluate(kit, &build, &request.r#ref).await
            })
            .await
        }
        "Inputs" => {
            call.unary(|_: Empty| async {
                let build = kit.builds.find(&id).await?;
                Ok(InputsResponse { definitions: build.request.inputs.clone() })
            })
            .await
        }
        "Warn" => {
            call.unary(|request| async {
                solve::warn(&*kit.builds.find(&id).await?, request);
                Ok(Empty {})
            })
            .await
        }
        "ReadFile" => {
            call.unary(|request| async { read::read_file(kit, &kit.builds.find(&id).await?, request).await })
                .await
        }
        "ReadDir" => {
            call.unary(|request| async { read::read_dir(kit, &kit.builds.find(&id).await?, request).await })
                .await
        }
        "StatFile" => {
            call.unary(|request| async { read::stat_file(kit, &kit.builds.find(&id).await?, request).await })
                .await
        }
        "ResolveImageConfig" => {
            call.unary(|request| async {
                read::resolve_image(kit, &kit.builds.find(&id).await?, request).await
            })
            .await
        }
        "ResolveSourceMeta" => {
            call.unary(|request| async {
                read::resolve_source(kit, &kit.builds.find(&id).await?, request).await
            })
            .await
        }
        _ => call.unknown(),
    }
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
fn worker(kit: &Kit) -> WorkerRecord {
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

/// What a client may ask of the bridge, and what of graphs is understood.
fn pong(kit: &Kit) -> PongResponse {
    let frontend = [
        "frontend.caps",
        "frontend.inputs",
        "gateway.evaluate",
        "gateway.solve.evaluate",
        "gateway.warnings",
        "readfile",
        "readdir",
        "statfile",
        "resolveimage",
        "resolveimage.resolvemode",
        "source.metaresolver",
        "reference.output",
        "gateway.solve.metadata",
        "proto.refarray",
        "return",
        "returnmap",
        "solve.base",
    ];
    let cap = |id: &str| Cap { id: id.to_owned(), enabled: true };
    let llb_caps = caps::LLB.into_iter().chain(caps::GRAPH).map(cap).collect();
    PongResponse { frontend_caps: frontend.map(cap).into(), llb_caps, workers: vec![worker(kit)] }
}

/// `LLBBridge/Solve`: the Dockerfile is fetched; what it asks for is done when the client returns the result.
async fn load(kit: &Arc<Kit>, id: &str, request: SolveRequest) -> Result<SolveResponse, Status> {
    let build = kit.builds.find(id).await?;
    let wanted = solve::Wanted {
        definition: request.definition.as_ref(),
        frontend: &request.frontend,
        options: &request.options,
    };
    let loaded = solve::load(kit, &build, wanted, &request.inputs).await?;
    let metadata = match &loaded.asked.call {
        Some(call) => calls::answer(call, &loaded)?,
        None => BTreeMap::new(),
    };
    let result = yare_sys::fs::unique_name("");
    let def = match &loaded.graphs {
        Some(_) => request.definition,
        None => Some(inputs::definition(id, &result)),
    };
    build.keep(result.clone(), loaded)?;
    if request.evaluate {
        solve::evaluate(kit, &build, &result).await?;
    }
    let answer = Answer { r#ref: Some(Ref { id: result, def }), metadata, ..Answer::default() };
    Ok(SolveResponse { result: Some(answer) })
}

/// `LLBBridge/Return`.
async fn returned(kit: &Arc<Kit>, id: &str, request: ReturnRequest) -> Result<Empty, Status> {
    let build = kit.builds.find(id).await?;
    if let Some(error) = request.error {
        build.returns(Err(Status::of_message(error)))?;
        return Ok(Empty {});
    }
    let answer = request.result.unwrap_or_default();
    let result = solve::result(&build, &answer);
    let told = result.as_ref().err().cloned();
    build.returns(result)?;
    told.map_or(Ok(Empty {}), Err)
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
