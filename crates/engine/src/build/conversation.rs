//! Containers of builds that somebody speaks with: a frontend's, and those that clients look around in.
//!
//! Such a container is that of a step, and lives on the thread that runs it. Whoever speaks with it has its
//! streams, as the shim frames them, and a [`Sandbox`] for all else.

use super::worker::{LOOK, Process, Step};
use crate::task::{run_dir, unreachable};
use crate::{Engine, exec, session};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use yare_api::ExecConfig;
use yare_build::worker::{Exit, Run};
use yare_build::{Cancel, Prepared};
use yare_errdefs::{Error, Result};
use yare_shim::{AttachSpec, Connection, ExecSpec, Reply, Request};
use yare_specgen::Plan;

/// Runs a process that was made ready to its end; `started` gets its streams. Holds its thread.
///
/// # Errors
/// It cannot be started, its shim died, or it was cancelled.
pub fn converse(
    engine: &Arc<Engine>,
    prepared: &Prepared,
    cancel: &Cancel,
    started: impl FnOnce(UnixStream, Sandbox),
) -> Result<Exit> {
    // Ends with the engine, which waits for it.
    let _running = engine.builder.running.begin(cancel.clone());
    let run = &prepared.run;
    let step = Step::new(engine, run)?;
    let exit = follow(engine, &step, (run, cancel), started);
    if exit.is_err() {
        crate::task::clear_group_now(engine, &step.record);
    }
    exit
}

fn follow(
    engine: &Arc<Engine>,
    step: &Step<'_>,
    (run, cancel): (&Run, &Cancel),
    started: impl FnOnce(UnixStream, Sandbox),
) -> Result<Exit> {
    let Process { pidfd, output, mut control, _network } = step.launch(run)?;
    let id = step.record.id.clone();
    // What the first process is says nothing of others.
    let plan = Plan { env: Vec::new(), user: String::new(), groups: Vec::new(), ..step.record.plan.clone() };
    started(output, Sandbox(Arc::new(Shared { engine: Arc::clone(engine), id, plan })));
    let lost = || Error::internal("the shim of a build's container died");
    loop {
        if cancel.is_cancelled() {
            // It may have ended by itself.
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
        let mut wait = [PollFd::new(&control, PollFlags::IN)];
        match rustix::event::poll(&mut wait, Some(&LOOK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(lost().caused_by(std::io::Error::from(error))),
        }
        match control.recv().map_err(|error| lost().caused_by(error))? {
            Some((Reply::Exited(exit), _)) => return Ok(Exit { code: exit.code, oom: exit.oom }),
            Some(_) => {}
            None => return Err(lost()),
        }
    }
}

/// A container that runs, for whoever speaks with it. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Sandbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    id: String,
    plan: Plan,
}

/// A further process in a container.
#[derive(Debug)]
pub struct Further {
    /// Names it in requests.
    pub id: String,
    /// Its streams.
    pub stream: tokio::net::UnixStream,
    control: Connection,
}

impl Further {
    /// Its exit code, when all that it wrote was taken; `None` when its container went with it. Its streams
    /// are given up for whoever reads them.
    pub fn split(self) -> (tokio::net::UnixStream, impl Future<Output = Option<i32>>) {
        let Self { id, stream, control } = self;
        (stream, async move { exec::end_code(control, &id).await })
    }
}

impl Sandbox {
    /// Sends a signal to a process; the first one without an id.
    ///
    /// # Errors
    /// It has ended.
    pub async fn signal(&self, process: Option<String>, signal: i32) -> Result<()> {
        self.ask(Request::Signal { exec_id: process, signal }).await
    }

    /// Sets the size of a process's terminal.
    ///
    /// # Errors
    /// It has ended, or has none.
    pub async fn resize(&self, process: Option<String>, rows: u16, cols: u16) -> Result<()> {
        self.ask(Request::Resize { exec_id: process, rows, cols }).await
    }

    /// Runs a further process.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn exec(&self, config: &ExecConfig) -> Result<Further> {
        let Shared { plan, .. } = &*self.0;
        let (ours, theirs) = session::pair()?;
        let id = crate::random_id();
        let spec = ExecSpec {
            exec_id: id.clone(),
            process: yare_specgen::exec_process(plan, config, None),
            user: config.user.clone(),
            groups: Vec::new(),
            terminal: config.tty,
            open_stdin: config.attach_stdin,
            attach: Some(AttachSpec { stdin: config.attach_stdin, stdout: true, stderr: !config.tty }),
        };
        let (reply, control) = self.converse(Request::Exec(Box::new(spec)), Some(theirs)).await?;
        match reply {
            Reply::Started { .. } => Ok(Further { id, stream: ours, control }),
            Reply::Failed(failure) => Err(failure.into_error()),
            _ => Err(unreachable(&self.0.id, std::io::ErrorKind::InvalidData.into())),
        }
    }

    async fn ask(&self, request: Request) -> Result<()> {
        match self.converse(request, None).await? {
            (Reply::Failed(failure), _) => Err(failure.into_error()),
            _ => Ok(()),
        }
    }

    async fn converse(&self, request: Request, stream: Option<OwnedFd>) -> Result<(Reply, Connection)> {
        let shared = Arc::clone(&self.0);
        crate::images::blocking(move || {
            let descriptors: Vec<_> = stream.iter().map(AsFd::as_fd).collect();
            crate::task::converse(&run_dir(&shared.engine, &shared.id), &request, &descriptors)
                .map_err(|error| unreachable(&shared.id, error))
        })
        .await
    }
}
