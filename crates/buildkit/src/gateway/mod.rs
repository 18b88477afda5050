//! `LLBBridge`: what frontends ask for. A client that runs its frontend itself speaks over its own connection and
//! names its build; a frontend that is a program speaks over its standard streams ([`frontend`]). What either
//! has is its own ([`bridge`]): results, and containers over them ([`container`]) with processes ([`process`]).

pub(crate) mod bridge;
mod container;
pub(crate) mod frontend;
pub(crate) mod local;
mod process;
mod stdio;

use crate::Kit;
use crate::grpc::Status;
use crate::grpc::server::Call;
use crate::llb::caps;
use crate::proto::Empty;
use crate::proto::gateway::{
    Cap, EvaluateRequest, InputsResponse, NewContainerRequest, PongResponse, ReleaseContainerRequest,
    ReturnRequest, SolveRequest, SolveResponse,
};
use crate::{read, services, solve};
use bridge::{Caller, Outcome};
use prost::Message;
use std::future::Future;
use std::sync::Arc;

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) enum Speaker {
    /// The client of the build of this id.
    Client(String),
    /// A frontend.
    Frontend(Caller),
}

impl Speaker {
    async fn caller(self, kit: &Kit) -> Result<Caller, Status> {
        match self {
            Self::Client(id) => Ok(Caller::client(kit.builds.find(&id).await?)),
            Self::Frontend(caller) => caller.counted(),
        }
    }
}

const SERVICE: &str = "/moby.buildkit.v1.frontend.LLBBridge/";

/// Answers one call of a frontend, which has this service alone.
pub(crate) async fn answer(kit: Arc<Kit>, speaker: Speaker, call: Call) {
    let path = call.path.clone();
    let answered = match path.strip_prefix(SERVICE) {
        Some(method) => serve(&kit, speaker, call, method).await,
        None if path == "/grpc.health.v1.Health/Check" => services::health(call).await,
        None => call.unknown(),
    };
    if let Err(status) = answered {
        tracing::debug!(path, message = status.message, "an answer did not reach a frontend");
    }
}

/// Answers one call of the bridge.
pub(crate) async fn serve(kit: &Arc<Kit>, speaker: Speaker, call: Call, method: &str) -> Result<(), Status> {
    match method {
        "Ping" => with(kit, speaker, call, |_, _: Empty| async { Ok(pong(kit)) }).await,
        "Solve" => {
            with(kit, speaker, call, |caller, request| async move { load(kit, &caller, request).await }).await
        }
        "Return" => {
            with(kit, speaker, call, |caller, request| async move { returned(&caller, request) }).await
        }
        "Evaluate" => {
            with(kit, speaker, call, |caller, request: EvaluateRequest| async move {
                solve::evaluate(kit, &caller, &request.r#ref).await
            })
            .await
        }
        "Inputs" => {
            with(kit, speaker, call, |caller, _: Empty| async move {
                Ok(InputsResponse { definitions: caller.inputs().clone() })
            })
            .await
        }
        "Warn" => {
            with(kit, speaker, call, |caller, request| async move {
                solve::warn(&caller.build, request);
                Ok(Empty {})
            })
            .await
        }
        "ReadFile" => {
            with(
                kit,
                speaker,
                call,
                |caller, request| async move { read::read_file(kit, &caller, request).await },
            )
            .await
        }
        "ReadDir" => {
            with(
                kit,
                speaker,
                call,
                |caller, request| async move { read::read_dir(kit, &caller, request).await },
            )
            .await
        }
        "StatFile" => {
            with(
                kit,
                speaker,
                call,
                |caller, request| async move { read::stat_file(kit, &caller, request).await },
            )
            .await
        }
        "ResolveImageConfig" => {
            with(kit, speaker, call, |caller, request| async move {
                read::resolve_image(kit, &caller.build, request).await
            })
            .await
        }
        "ResolveSourceMeta" => {
            with(kit, speaker, call, |caller, request| async move {
                read::resolve_source(kit, &caller.build, request).await
            })
            .await
        }
        "NewContainer" => {
            with(kit, speaker, call, |caller, request: NewContainerRequest| async move {
                let containers = &caller.bridge().containers;
                let claimed = containers.claim(&request.container)?;
                claimed.keep(container::make(kit, &caller, &request).await?);
                Ok(Empty {})
            })
            .await
        }
        "ReleaseContainer" => {
            with(kit, speaker, call, |caller, request: ReleaseContainerRequest| async move {
                caller.bridge().containers.take(&request.container)?.release().await;
                Ok(Empty {})
            })
            .await
        }
        "ExecProcess" => {
            call.exchange(|incoming, reply| async move {
                match speaker.caller(kit).await {
                    Ok(caller) => process::serve(kit, caller, incoming, reply).await,
                    Err(status) => Err((reply, status)),
                }
            })
            .await
        }
        _ => call.unknown(),
    }
}

/// Answers a message of a caller.
async fn with<Q, A, F>(
    kit: &Kit,
    speaker: Speaker,
    call: Call,
    does: impl FnOnce(Caller, Q) -> F,
) -> Result<(), Status>
where
    Q: Message + Default,
    A: Message,
    F: Future<Output = Result<A, Status>>,
{
    call.unary(|request| async { does(speaker.caller(kit).await?, request).await }).await
}

/// What a caller may ask of the bridge, and what of graphs is understood.
fn pong(kit: &Kit) -> PongResponse {
    let frontend = [
        "frontend.caps",
        "frontend.inputs",
        "gateway.evaluate",
        "gateway.exec",
        "gateway.exec.extrahosts",
        "gateway.exec.secretenv",
        "gateway.exec.signals",
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
    PongResponse { frontend_caps: frontend.map(cap).into(), llb_caps, workers: vec![services::worker(kit)] }
}

/// `LLBBridge/Solve`: what the stock frontend asks for is done when the result is returned, or looked into.
async fn load(kit: &Arc<Kit>, caller: &Caller, request: SolveRequest) -> Result<SolveResponse, Status> {
    let wanted = solve::Wanted {
        definition: request.definition.as_ref(),
        frontend: &request.frontend,
        options: &request.options,
    };
    let outcome = solve::load(kit, caller, wanted, &request.inputs).await?;
    let loaded: Vec<_> = outcome.refs.iter().map(|(_, loaded)| Arc::clone(loaded)).collect();
    let answer = outcome.answer(caller)?;
    if request.evaluate {
        for loaded in loaded {
            solve::evaluate_loaded(kit, caller, loaded).await?;
        }
    }
    Ok(SolveResponse { result: Some(answer) })
}

/// `LLBBridge/Return`.
fn returned(caller: &Caller, request: ReturnRequest) -> Result<Empty, Status> {
    if let Some(error) = request.error {
        caller.bridge().returns(Err(Status::of_message(error)))?;
        return Ok(Empty {});
    }
    let outcome = Outcome::of(caller, request.result.unwrap_or_default());
    let told = outcome.as_ref().err().cloned();
    caller.bridge().returns(outcome)?;
    told.map_or(Ok(Empty {}), Err)
}
