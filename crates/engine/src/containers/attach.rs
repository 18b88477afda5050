//! Attaching clients to a container's streams, before it starts or while it runs.

use crate::Engine;
use crate::container::{Attached, Container, Place};
use crate::images::blocking;
use crate::lifecycle::State;
use crate::session::{DetachKeys, Session, pair};
use crate::task::{converse, run_dir, unreachable};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::oneshot;
use yare_errdefs::{Error, Result};
use yare_shim::{AttachSpec, Reply, Request};

/// What a client wants to be attached to.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Its bytes go to standard input.
    pub stdin: bool,
    /// It gets standard output.
    pub stdout: bool,
    /// It gets standard error.
    pub stderr: bool,
    /// It gets what comes from now on; without, only `logs`.
    pub stream: bool,
    /// It gets first what was logged so far.
    pub logs: bool,
    /// Keys that end the attachment; empty for the default ones.
    pub detach_keys: String,
}

/// Attaches. When this returns, output from now on reaches the session: a start that follows loses nothing.
pub async fn attach(engine: &Arc<Engine>, id: &str, options: &AttachOptions) -> Result<Attached> {
    let container = engine.containers.find(id)?;
    let keys = DetachKeys::parse(&options.detach_keys)?;
    match container.state() {
        State::Paused => {
            return Err(Error::conflict(format!(
                "container {} is paused, unpause the container before attach",
                container.id
            )));
        }
        State::Restarting => {
            return Err(Error::conflict(format!(
                "container {} is restarting, wait until the container is running",
                container.id
            )));
        }
        _ => {}
    }
    let record = container.record();
    let replay = match options.logs {
        true => Some(super::logs::replay(engine, &container, options).await?),
        false => None,
    };
    let (ours, theirs) = pair()?;
    let spec = AttachSpec {
        stdin: options.stdin && record.config.open_stdin,
        stdout: options.stdout,
        stderr: options.stderr && !record.config.tty,
    };
    let mut session = Session::new(ours);
    if options.stream && (spec.stdin || spec.stdout || spec.stderr) {
        match Place::take(&container, spec, theirs) {
            Ok(place) => session = session.waiting_at(place),
            Err(theirs) => connect(engine, &container, spec, theirs).await?,
        }
    } else {
        drop(theirs);
    }
    if let Some(replay) = replay {
        session = session.replaying(replay);
    }
    if spec.stdin && record.config.tty {
        let (told, detached) = oneshot::channel();
        session = session.watching(keys, told);
        publish_detach(engine, &container, detached);
    }
    engine.publish_container(&container, "attach", BTreeMap::new());
    Ok(Attached { tty: record.config.tty, session })
}

/// Hands the stream to the living shim.
async fn connect(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    spec: AttachSpec,
    stream: OwnedFd,
) -> Result<()> {
    let (run_dir, id) = (run_dir(engine, &container.id), container.id.clone());
    let asked = blocking(move || match converse(&run_dir, &Request::Attach(spec), &[stream.as_fd()]) {
        Ok((Reply::Failed(failure), _)) => Err(failure.into_error()),
        Ok(_) => Ok(()),
        Err(error) => Err(unreachable(&id, error)),
    });
    match asked.await {
        // It ended just now: the stream is closed, which is what the client sees of an ended container.
        Err(_) if !container.state().has_process() => Ok(()),
        asked => asked,
    }
}

fn publish_detach(engine: &Arc<Engine>, container: &Arc<Container>, detached: oneshot::Receiver<()>) {
    let (engine, container) = (Arc::clone(engine), Arc::clone(container));
    tokio::spawn(async move {
        if detached.await.is_ok() {
            engine.publish_container(&container, "detach", BTreeMap::new());
        }
    });
}

/// Sets the size of a container's terminal.
pub async fn resize(engine: &Arc<Engine>, id: &str, height: u16, width: u16) -> Result<()> {
    let container = engine.containers.find(id)?;
    if !container.state().has_process() {
        return Err(Error::conflict(format!("container {} is not running", container.id)));
    }
    crate::task::ask(engine, &container, Request::Resize { exec_id: None, rows: height, cols: width })
        .await?;
    let size =
        BTreeMap::from([("height".to_owned(), height.to_string()), ("width".to_owned(), width.to_string())]);
    engine.publish_container(&container, "resize", size);
    Ok(())
}
