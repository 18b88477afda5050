//! Containers over results of a build (`NewContainer`), in which frontends and clients run processes.
//!
//! A container is made with its mounts and waits for its first process, whose end is the container's. It is as
//! much of a step's container as the process of a frontend is, and goes with the build that it is of.

use super::bridge::Caller;
use crate::Kit;
use crate::graphs::Assembled;
use crate::grpc::{Code, Status};
use crate::inputs::Held;
use crate::llb::{Assembly, Surroundings};
use crate::proto::gateway::NewContainerRequest;
use crate::proto::graph::{ExecOp, Meta, Mount};
use crate::{inputs, solve};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use yare_build::definition::Goal;
use yare_build::worker::{Conversation, Exit};
use yare_build::{Cancel, Prepared};
use yare_engine::build::{self, Sandbox};
use yare_oci::Platform;

/// How often a container without a process is looked at for a cancelled build.
const LOOK: Duration = Duration::from_millis(100);

/// A container of a speaker. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Container {
    /// Takes its first process.
    first: Mutex<Option<SyncSender<First>>>,
    state: watch::Receiver<State>,
    cancel: Cancel,
    /// Says whether processes may have every right.
    pub(crate) may_be_insecure: bool,
    /// Names of images that its mounts stand on.
    _inputs: Vec<Held>,
}

/// How far a container is.
#[derive(Debug, Clone)]
pub(crate) enum State {
    Waiting,
    Running(Sandbox),
    Ended,
}

/// The process that a container begins with.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: String,
    pub(crate) insecure: bool,
    pub(crate) conversation: Conversation,
    /// Gets its streams.
    pub(crate) started: oneshot::Sender<(UnixStream, Sandbox)>,
    /// Gets its end.
    pub(crate) ended: oneshot::Sender<Result<Exit, Status>>,
}

impl Drop for Container {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Container {
    /// The right to begin it, for the one who asks first.
    pub(crate) fn begin(&self) -> Option<SyncSender<First>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What others run processes in, once it runs.
    pub(crate) async fn sandbox(&self) -> Result<Sandbox, Status> {
        let over = || Status::new(Code::FailedPrecondition, "the container of this process has ended");
        let mut state = self.state.clone();
        let known = state.wait_for(|state| !matches!(state, State::Waiting)).await.map_err(|_| over())?;
        match &*known {
            State::Running(sandbox) => Ok(sandbox.clone()),
            _ => Err(over()),
        }
    }

    /// Ends it, and returns when it has ended.
    pub(crate) async fn release(&self) {
        self.cancel.cancel();
        // Its thread may be gone already.
        drop(self.state.clone().wait_for(|state| matches!(state, State::Ended)).await);
    }
}

/// `LLBBridge/NewContainer`: returns when all that it stands on is there.
pub(crate) async fn make(
    kit: &Arc<Kit>,
    caller: &Caller,
    request: &NewContainerRequest,
) -> Result<Container, Status> {
    let build = &caller.build;
    let (assembled, inputs) = assemble(kit, caller, request).await?;
    let asked = solve::graph_options(build)?;
    let may_be_insecure = build.request.entitlements.iter().any(|right| right == "security.insecure");
    let source = solve::source(kit, build, &asked, solve::progress(build, None)).await?;
    let cancel = Cancel::default();
    let (tell, state) = watch::channel(State::Waiting);
    let (first, begun) = sync_channel(1);
    let (ready, made) = oneshot::channel();
    let (kit, ended) = (Arc::clone(kit), cancel.clone());
    let thread = solve::on_thread(move || {
        solve::prepared(&kit, &source, &asked.request, assembled, |prepared| {
            // Whoever asked may be gone; then nothing begins.
            let _ = ready.send(());
            hold(&kit, prepared, &begun, &ended, &tell);
            tell.send_replace(State::Ended);
            Ok(())
        })
    });
    let container =
        Container { first: Mutex::new(Some(first)), state, cancel, may_be_insecure, _inputs: inputs };
    let thread = tokio::spawn(thread);
    match made.await {
        Ok(()) => Ok(container),
        // It ended before it was ready, and says why.
        Err(_) => match thread.await {
            Ok(Err(status)) => Err(status),
            _ => Err(Status::new(Code::Internal, "a container was not made")),
        },
    }
}

/// Waits for the first process and runs it to its end.
fn hold(
    kit: &Kit,
    mut prepared: Prepared,
    begun: &Receiver<First>,
    ended: &Cancel,
    tell: &watch::Sender<State>,
) {
    let first = loop {
        if ended.is_cancelled() {
            return;
        }
        match begun.recv_timeout(LOOK) {
            Ok(first) => break first,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    };
    let First { argv, env, cwd, user, insecure, conversation, started, ended: told } = first;
    let run = &mut prepared.run;
    (run.argv, run.cwd, run.user, run.insecure) = (argv, cwd, user, insecure);
    // What mounts added stays: the place of an agent.
    let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    let given: BTreeSet<String> = env.iter().map(name).collect();
    run.env.retain(|entry| !given.contains(&name(entry)));
    run.env.extend(env);
    run.conversation = Some(conversation);
    let exit = build::converse(&kit.engine, &prepared, ended, |stream, sandbox| {
        tell.send_replace(State::Running(sandbox.clone()));
        // Nobody may be listening any more; then it is ended from there.
        let _ = started.send((stream, sandbox));
    });
    let _ = told.send(exit.map_err(Status::from));
}

/// The graph of a container's mounts.
async fn assemble(
    kit: &Arc<Kit>,
    caller: &Caller,
    request: &NewContainerRequest,
) -> Result<(Assembled, Vec<Held>), Status> {
    let mut held = Vec::new();
    let mut wires = Vec::new();
    let mut surroundings = Surroundings::default();
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in &request.mounts {
        let mut mount = Mount { input: -1, output: -1, ..mount.clone() };
        if !mount.result.is_empty() {
            let loaded = caller.bridge().loaded(&mount.result)?;
            let wire = match &loaded.graphs {
                Some(graphs) => {
                    surroundings.results.extend(graphs.results.clone());
                    surroundings.contained.extend(graphs.contained.clone());
                    graphs.all.first().map(|graph| graph.wire.clone()).unwrap_or_default()
                }
                None => {
                    let (name, reference) = solve::hold(kit, &caller.build, loaded).await?;
                    held.push(name);
                    inputs::graph(&format!("docker-image://{reference}"))
                }
            };
            mount.input = i64::try_from(wires.len()).unwrap_or(-1);
            wires.push(wire);
        }
        mounts.push(mount);
    }
    surroundings.done.clone_from(&*caller.build.done.lock().unwrap_or_else(PoisonError::into_inner));
    let mut assembly = Assembly::new(surroundings);
    let roots = wires.iter().map(|wire| assembly.add(wire)).collect::<Result<Vec<_>, _>>()?;
    let exec = ExecOp {
        // Named by whoever runs the first process.
        meta: Some(Meta {
            args: vec!["container".to_owned()],
            cwd: "/".to_owned(),
            hostname: request.hostname.clone(),
            extra_hosts: request.extra_hosts.clone(),
            ..Meta::default()
        }),
        mounts,
        network: request.network,
        ..ExecOp::default()
    };
    let platform = request.platform.clone();
    let root = assembly.container(&request.container, (roots, platform), &exec)?;
    let Assembly { mut definition, locals, fresh, .. } = assembly;
    definition.goals = vec![Goal { root, config: None, platform: Platform::host() }];
    Ok((Assembled { definition, locals, fresh }, held))
}

/// The containers of one speaker.
#[derive(Debug, Default)]
pub(crate) struct Containers(Mutex<BTreeMap<String, Option<Arc<Container>>>>);

/// Containers that one speaker may have at once.
const MOST: usize = 32;

impl Containers {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Option<Arc<Container>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an id for a container that is being made.
    pub(crate) fn claim(&self, id: &str) -> Result<Claimed<'_>, Status> {
        let mut all = self.lock();
        if id.is_empty() || all.contains_key(id) {
            return Err(Status::new(Code::AlreadyExists, format!("container {id:?} already exists")));
        }
        if all.len() >= MOST {
            let text = format!("there are {MOST} containers already: release some");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        all.insert(id.to_owned(), None);
        Ok(Claimed { all: self, id: id.to_owned(), kept: false })
    }

    pub(crate) fn find(&self, id: &str) -> Result<Arc<Container>, Status> {
        let found = self.lock().get(id).cloned().flatten();
        found.ok_or_else(|| unknown(id))
    }

    pub(crate) fn take(&self, id: &str) -> Result<Arc<Container>, Status> {
        self.lock().remove(id).flatten().ok_or_else(|| unknown(id))
    }

    /// Ends them all.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        // Processes that are under way hold their container.
        all.values().flatten().for_each(|container| container.cancel.cancel());
    }
}

fn unknown(id: &str) -> Status {
    Status::new(Code::NotFound, format!("container {id:?} previously released or not created"))
}

/// An id that is taken; it is free again when nothing comes of it.
pub(crate) struct Claimed<'a> {
    all: &'a Containers,
    id: String,
    kept: bool,
}

impl Claimed<'_> {
    pub(crate) fn keep(mut self, container: Container) {
        self.kept = true;
        self.all.lock().insert(self.id.clone(), Some(Arc::new(container)));
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.all.lock().remove(&self.id);
        }
    }
}
