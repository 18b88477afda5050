//! Starting a container: everything is made ready, then one message to the launcher.

use crate::Engine;
use crate::container::{Container, Record};
use crate::images::blocking;
use crate::lifecycle::{self, State, Verdict};
use crate::networks::join::Wired;
use crate::task::{self, Begun, run_dir};
use crate::wiring;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use yare_errdefs::{Class, Classified, Error, Result};
use yare_net::EndpointRecord;
use yare_shim::{AttachSpec, Launch, Reply, Request};

/// Starts a container. `false` when it runs already. Goes on when the caller leaves.
pub async fn start(engine: &Arc<Engine>, id: &str) -> Result<bool> {
    let container = engine.containers.find(id)?;
    let engine = Arc::clone(engine);
    engine.clone().detached(async move { start_found(&engine, &container, Cause::User).await }).await
}

/// Why a container is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A user asks for it.
    User,
    /// Its restart policy, after its end.
    Policy,
    /// Its restart policy, when the engine starts.
    Boot,
}

/// Starts a container.
pub(crate) async fn start_found(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    cause: Cause,
) -> Result<bool> {
    let _operation = container.operation.lock().await;
    if cause == Cause::Policy && container.state() != State::Restarting {
        // A user has stopped it meanwhile.
        return Ok(false);
    }
    match lifecycle::start(container.state()) {
        Verdict::Already => return Ok(false),
        Verdict::Refuse(why) => return Err(Error::conflict(why)),
        Verdict::Go => {}
    }
    if let Some(pause) = container.live.lock().restart.take() {
        pause.abort();
    }
    // The run before is on record, and its run directory gone.
    drop(container.settling.lock().await);
    let launched = blocking({
        let (engine, container) = (Arc::clone(engine), Arc::clone(container));
        move || launch(&engine, &container)
    })
    .await;
    match launched {
        Ok(run) => {
            started(engine, container, run, cause);
            Ok(true)
        }
        Err(error) => {
            failed(engine, container, &error).await;
            Err(error)
        }
    }
}

/// A run that began.
struct Run {
    pid: i32,
    pidfd: OwnedFd,
    control: UnixStream,
    endpoints: Vec<EndpointRecord>,
}

/// Makes everything ready and starts the container. What fails half way is undone by the guard of the
/// network; the run directory is made anew by the next start.
fn launch(engine: &Engine, container: &Container) -> Result<Run> {
    let record = container.record();
    let rootfs = engine.images.snapshots().mounts(&record.id, &record.layers).map_err(|error| {
        Error::wrap(format!("cannot put together the root of container {}", record.id), error)
    })?;
    let uses = crate::volumes::local::use_all(engine, &record, &record.id)?;
    let mut network = Wired::connect(engine, &record)?;
    wiring::write_files(engine, &record, &network.endpoints)?;
    crate::links::follow(engine, &record.id, &network.endpoints);
    let spec = wiring::spec(engine, &record)?;
    let run_dir = make_run_dir(engine, &record, network.endpoints.clone())?;
    let (attaches, streams): (Vec<AttachSpec>, Vec<OwnedFd>) =
        std::mem::take(&mut container.live.lock().pending)
            .into_iter()
            .map(|(_, spec, stream)| (spec, stream))
            .unzip();
    let launch = Launch {
        id: record.id.clone(),
        groups: wiring::groups(&record, &spec),
        spec,
        filter: None,
        rootfs: wiring::rootfs(rootfs),
        origins: wiring::origins(engine, &record)?,
        user: record.plan.user.clone(),
        init: record.plan.init,
        cgroup_path: engine.cgroup_path(&record),
        open_stdin: record.config.open_stdin,
        stdin_once: record.config.stdin_once,
        terminal: record.config.tty,
        log: wiring::log(engine, &record)?,
        run_dir,
        attaches,
        has_netns: network.netns.is_some(),
        host_mounts: wiring::needs_host_mounts(engine, &record),
        own_roots: vec![engine.config.data_root.clone(), engine.config.exec_root.clone()],
    };
    let descriptors: Vec<_> = network.netns.iter().chain(&streams).map(AsFd::as_fd).collect();
    let folder = launch.run_dir.clone();
    let control = engine.launcher.launch(launch, &descriptors)?;
    let lost = |error: std::io::Error| {
        Error::internal(format!("the shim of container {} ended before it answered", record.id))
            .caused_by(error)
    };
    let reply = yare_shim::recv_reply(&control, task::START).inspect_err(|error| {
        if error.kind() == std::io::ErrorKind::TimedOut {
            // Whatever it would do later, nobody would know of.
            yare_shim::kill_shim(&folder);
        }
    });
    match reply.map_err(lost)? {
        (Reply::Started { pid }, descriptors) => {
            let pidfd =
                descriptors.into_iter().next().ok_or_else(|| lost(std::io::ErrorKind::InvalidData.into()))?;
            uses.keep();
            Ok(Run { pid, pidfd, control, endpoints: network.keep() })
        }
        (Reply::Failed(failure), _) => Err(explained(&record, failure.into_error())),
        _ => Err(lost(std::io::ErrorKind::InvalidData.into())),
    }
}

/// Makes the run directory, with a note of what the next engine cannot learn from the shim.
pub(crate) fn make_run_dir(
    engine: &Engine,
    record: &Record,
    endpoints: Vec<EndpointRecord>,
) -> Result<PathBuf> {
    let run_dir = run_dir(engine, &record.id);
    let begun = Begun { at: engine.clock.now(), endpoints };
    let make = || {
        match std::fs::DirBuilder::new().mode(0o700).create(&run_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        begun.write(&run_dir)
    };
    match make() {
        Ok(()) => Ok(run_dir),
        Err(error) => Err(Error::internal(format!("cannot make {}", run_dir.display())).caused_by(error)),
    }
}

/// Docker's clients tell the exit code from this text; programs that cannot run are the client's fault.
fn explained(record: &Record, error: Error) -> Error {
    let text = format!("failed to create task for container: {}", yare_errdefs::chain(&error));
    let class = match error.class() {
        Class::NotFound | Class::PermissionDenied | Class::InvalidArgument => Class::InvalidArgument,
        other => other,
    };
    tracing::debug!(container = record.id, text, "start failed");
    match error.hint() {
        Some(hint) => Error::new(class, text).with_hint(hint),
        None => Error::new(class, text),
    }
}

/// Commit point: from here on the container runs, whatever happens to the engine.
fn started(engine: &Arc<Engine>, container: &Arc<Container>, run: Run, cause: Cause) {
    container.update(|record| {
        let state = &mut record.state;
        state.status = State::Running;
        state.pid = run.pid;
        state.exit_code = 0;
        state.error.clear();
        state.oom_killed = false;
        state.started_at = Some(engine.clock.now());
        state.stopped_by_user = false;
        state.health = record.plan.healthcheck.as_ref().map(|_| crate::health::Health::default());
        if cause == Cause::User {
            state.restarts = 0;
            state.restart_delay = std::time::Duration::ZERO;
        }
        record.endpoints = run.endpoints;
    });
    let late = {
        let mut live = container.live.lock();
        live.pidfd = Some(Arc::new(run.pidfd));
        std::mem::take(&mut live.pending)
    };
    container.progress.send_modify(|progress| {
        progress.running = true;
    });
    attach_late(engine, container, late);
    engine.save_soon(container);
    engine.images.touch(&yare_image::ImageId(container.record().image));
    engine.publish_mounted(container);
    engine.publish_connected(container);
    engine.publish_container(container, "start", BTreeMap::new());
    task::follow(engine, container, run.control);
    crate::health::watch(engine, container);
}

/// Attachments that came while the shim was being started.
fn attach_late(engine: &Engine, container: &Container, late: Vec<(u64, AttachSpec, OwnedFd)>) {
    if late.is_empty() {
        return;
    }
    let run_dir = run_dir(engine, &container.id);
    let id = container.id.clone();
    tokio::task::spawn_blocking(move || {
        for (_, spec, stream) in late {
            if let Err(error) = task::converse(&run_dir, &Request::Attach(spec), &[stream.as_fd()]) {
                tracing::debug!(container = id, %error, "it ended before a late attachment");
            }
        }
    });
}

/// Notes why it did not start, lets waiting clients go, and removes a container that removes itself.
async fn failed(engine: &Arc<Engine>, container: &Arc<Container>, error: &Error) {
    let text = yare_errdefs::chain(error);
    let code = if text.contains("executable file not found") || text.contains("no such file or directory") {
        127
    } else if text.contains("permission denied") || text.contains("is a directory") {
        126
    } else {
        128
    };
    drop(std::mem::take(&mut container.live.lock().pending));
    // A shim that was killed has not done it.
    task::clear_group(engine, container).await;
    let auto_remove = container.record().auto_remove();
    container.update(|record| {
        record.state.exit_code = code;
        record.state.error.clone_from(&text);
        record.endpoints.clear();
        record.state.status = match (auto_remove, record.state.status) {
            (true, _) => State::Removing,
            (false, State::Restarting) => State::Exited,
            (false, status) => status,
        };
    });
    container.progress.send_modify(|progress| {
        progress.running = false;
        progress.code = code;
    });
    if auto_remove {
        if let Err(error) = super::remove::finish(engine, container, true).await {
            tracing::warn!(container = container.id, error = yare_errdefs::chain(&error), "cannot remove");
        }
    } else {
        engine.save_soon(container);
        engine.trash_run_dir(&container.id);
    }
}
