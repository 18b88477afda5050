//! Frontends for builds that came without a session: their folders are here, and what a session would be asked
//! for came with the request.

use super::bridge::Caller;
use super::frontend::{Program, run};
use crate::Kit;
use crate::builds::Active;
use crate::graphs::{Assembled, Graphs, LocalContexts};
use crate::grpc::server::Call;
use crate::grpc::{Code, Status};
use crate::proto::control::SolveRequest;
use crate::proto::session::{CredentialsResponse, NamedRequest, SecretResponse};
use crate::session::Offer;
use crate::{session, solve};
use base64::Engine as _;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use yare_build::context::Contexts;
use yare_build::{Cancel, Failure, Progress};
use yare_engine::build::{Build, Frontends, Keys, Wanted};
use yare_errdefs::Error;

/// What a build without a session has.
#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) contexts: Arc<dyn Contexts>,
    pub(crate) progress: Progress,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}

/// The frontends of an engine, as long as BuildKit's side of it is there.
#[derive(Debug)]
pub(crate) struct Programs(pub(crate) Weak<Kit>);

/// Bytes between a session and its other end.
const PIPE: usize = 64 << 10;
/// How often a build is looked at for its client.
const LOOK: Duration = Duration::from_millis(100);

impl Frontends for Programs {
    fn understand(&self, wanted: Wanted<'_>, build: &mut Build<'_>) -> Result<(), Failure> {
        let kit = self.0.upgrade().ok_or_else(|| Error::unavailable("the engine ends"))?;
        let id = yare_sys::fs::unique_name("local-");
        let Wanted { source, options, entitlements, file, contexts, keys, runtime, progress, cancel } =
            wanted;
        let _session = Aborted(runtime.spawn(answer_for(Arc::clone(&kit), id.clone(), keys)).abort_handle());
        let request = SolveRequest {
            r#ref: id.clone(),
            session: id,
            internal: true,
            entitlements,
            frontend_attributes: options.clone(),
            ..SolveRequest::default()
        };
        let progress = unhurried(progress.clone());
        let local = Local { contexts, progress: progress.clone() };
        let active = kit.builds.begin_local(request, Some(local)).map_err(Error::from)?;
        let _watch = Aborted(runtime.spawn(watch(&active, cancel.clone())).abort_handle());
        let program = Program { source, options: &options, inputs: &BTreeMap::new() };
        let caller = Caller::client(Arc::clone(&active.build));
        let outcome =
            runtime.block_on(run(&kit, &caller, program)).map_err(|status| failure(status, file))?;
        let loaded = outcome.build(&active.build).map_err(Error::from)?;
        let loaded = loaded.ok_or_else(|| Error::invalid(format!("the frontend {source} made nothing")))?;
        let graphs = loaded.graphs.as_ref().ok_or_else(|| Error::internal("a result without a graph"))?;
        let Assembled { definition, locals, .. } = graphs.assemble(&active.build)?;
        let source = runtime.block_on(solve::source(&kit, &active.build, &loaded.asked, progress));
        let source = source.map_err(Error::from)?;
        build(definition, &LocalContexts::new(&source, &locals))
            .map_err(|failure| placed(failure, graphs, file))
    }
}

/// The same for callers in the runtime: who takes news may wait for a client that does not read.
fn unhurried(progress: Progress) -> Progress {
    Progress::new(move |status| tokio::task::block_in_place(|| progress.tell(status)))
}

/// A task that ends with this.
struct Aborted(tokio::task::AbortHandle);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends a build's frontend when the build shall end.
fn watch(active: &Active<'_>, cancel: Cancel) -> impl Future<Output = ()> + use<> {
    let stop = active.build.stop.clone();
    async move {
        while !cancel.is_cancelled() {
            tokio::time::sleep(LOOK).await;
        }
        stop.stop();
    }
}

/// A session that answers with what came with a request.
async fn answer_for(kit: Arc<Kit>, id: String, keys: Arc<dyn Keys>) {
    let (near, far) = tokio::io::duplex(PIPE);
    let offer = Offer { id, methods: session::KEYS.map(str::to_owned).into(), ..Offer::default() };
    let served = crate::grpc::server::serve(far, move |call| answer(Arc::clone(&keys), call));
    let (kept, served) = tokio::join!(kit.sessions.serve(offer, near), served);
    tracing::debug!(?kept, ?served, "a session of the engine's own ended");
}

async fn answer(keys: Arc<dyn Keys>, call: Call) {
    let blocking = |does: Box<dyn FnOnce() -> Result<Option<Vec<u8>>, Status> + Send>| async {
        let done = tokio::task::spawn_blocking(does).await;
        done.unwrap_or_else(|_| Err(Status::new(Code::Internal, "an answer broke off")))
    };
    let answered = match call.path.as_str() {
        session::GET_SECRET => {
            call.unary(|question: NamedRequest| async move {
                let id = question.id.clone();
                let secret = blocking(Box::new(move || Ok(keys.secret(&question.id)?))).await?;
                let unknown = || Status::new(Code::NotFound, format!("secret {id}: not found"));
                Ok(SecretResponse { data: secret.ok_or_else(unknown)? })
            })
            .await
        }
        session::CREDENTIALS => {
            call.unary(|question: NamedRequest| async move {
                let auth = keys.credentials(&question.id)?;
                let token = auth.username.is_empty();
                let secret = if token { auth.identitytoken } else { auth.password };
                Ok(CredentialsResponse { username: auth.username, secret })
            })
            .await
        }
        _ => call.unknown(),
    };
    if let Err(status) = answered {
        tracing::debug!(message = status.message, "an answer did not reach its build");
    }
}

/// A frontend's error, with the lines of the file that it is about.
fn failure(status: Status, (name, file): (&str, &[u8])) -> Failure {
    let lines = status.details.iter().find_map(|detail| {
        let value: serde_json::Value = serde_json::from_slice(&detail.value).ok()?;
        let known = value["info"]["filename"] == name
            && value["info"]["data"] == base64::engine::general_purpose::STANDARD.encode(file);
        let line = |end: &str| u32::try_from(value["ranges"][0][end]["line"].as_u64()?).ok();
        if known { Some((line("start")?, line("end")?)) } else { None }
    });
    let failure = Failure { lines, ..Failure::from(Error::from(status)) };
    failure.quoting(name, &String::from_utf8_lossy(file))
}

/// The failure of an operation, with the lines that its frontend says it is of.
fn placed(failure: Failure, graphs: &Graphs, (name, file): (&str, &[u8])) -> Failure {
    let operation = failure.operation.as_ref().map(ToString::to_string).unwrap_or_default();
    let places = graphs.origins(&operation);
    let lines = places.iter().filter(|(info, _)| info.data == file).find_map(|(_, ranges)| {
        let range = ranges.first()?;
        let line = |end: Option<crate::proto::Position>| u32::try_from(end?.line).ok();
        Some((line(range.start)?, line(range.end)?))
    });
    Failure { lines: failure.lines.or(lines), ..failure }.quoting(name, &String::from_utf8_lossy(file))
}
