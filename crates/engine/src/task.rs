//! Following a run: from the shim's word, or when the shim is lost, from the kernel's.

use crate::Engine;
use crate::container::Container;
use rustix::event::{PollFd, PollFlags};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use yare_errdefs::{Error, Result};
use yare_shim::{Decoder, Exit, Reply, Request};

/// Exit code of a run whose end nobody saw.
const UNKNOWN_EXIT: i32 = 255;

/// Where a container's shim keeps its socket and exit file.
pub(crate) fn run_dir(engine: &Engine, id: &str) -> PathBuf {
    engine.config.exec_root.join("containers").join(id)
}

/// Follows a run to its end and then settles what the end means.
pub(crate) fn follow(engine: &Arc<Engine>, container: &Arc<Container>, control: StdUnixStream) {
    let (engine, container) = (Arc::clone(engine), Arc::clone(container));
    tokio::spawn(async move {
        let exit = match announced_exit(control).await {
            Some(exit) => exit,
            None => observed_exit(&engine, &container).await,
        };
        crate::containers::exit::settle(&engine, &container, exit).await;
    });
}

/// Follows a run that has no shim any more.
pub(crate) fn follow_orphan(engine: &Arc<Engine>, container: &Arc<Container>) {
    let (engine, container) = (Arc::clone(engine), Arc::clone(container));
    tokio::spawn(async move {
        let exit = observed_exit(&engine, &container).await;
        crate::containers::exit::settle(&engine, &container, exit).await;
    });
}

/// What the shim says; `None` when it dies without a word.
async fn announced_exit(control: StdUnixStream) -> Option<Exit> {
    control.set_nonblocking(true).ok()?;
    let mut control = UnixStream::from_std(control).ok()?;
    let mut decoder = Decoder::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some((reply, _)) = decoder.next::<Reply>().ok()? {
            match reply {
                Reply::Exited(exit) | Reply::State { exit: Some(exit), .. } => return Some(exit),
                _ => {}
            }
        }
        match control.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => decoder.push(&buffer[..read], []),
        }
    }
}

/// The end of a run whose shim is gone. The container may live on: its attachments and log are lost, its
/// end is not.
async fn observed_exit(engine: &Engine, container: &Container) -> Exit {
    let run_dir = run_dir(engine, &container.id);
    if let Ok(Some(exit)) = Exit::read(&run_dir) {
        return exit;
    }
    let pidfd = container.live.lock().pidfd.clone();
    let mut code = UNKNOWN_EXIT;
    if let Some(pidfd) = pidfd {
        tracing::error!(
            container = container.id,
            "the shim of this container died: it runs on without log and attachments; restart it to get them back"
        );
        code = pidfd_end(&pidfd).await.unwrap_or(UNKNOWN_EXIT);
    }
    Exit {
        code,
        oom: false,
        at: engine.clock.now().to_string(),
        error: Some("the shim of this container died before the container did".to_owned()),
    }
}

/// Waits for a process by its descriptor; its exit code where the kernel tells others than the parent.
async fn pidfd_end(pidfd: &Arc<OwnedFd>) -> Option<i32> {
    let watched = Arc::clone(pidfd);
    let wait = move || {
        let mut ended = [PollFd::new(&*watched, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut ended, None) {}
    };
    // A thread for a rare case: this run has lost its shim.
    tokio::task::spawn_blocking(wait).await.ok()?;
    yare_sys::inherit::exit_of(pidfd).map(yare_sys::process::Exit::code)
}

/// Connects to the shim in a run directory and subscribes to its end.
pub(crate) fn reconnect(run_dir: &Path) -> std::io::Result<Reconnected> {
    let mut connection = yare_shim::connect(run_dir)?;
    connection.send(&Request::Subscribe, &[])?;
    match connection.recv()? {
        Some((Reply::State { pid, exit, .. }, _)) => {
            let (control, _) = connection.into_parts();
            Ok(Reconnected { pid, exit, control })
        }
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A shim that was found alive.
#[derive(Debug)]
pub(crate) struct Reconnected {
    /// Process 1 on the host.
    pub(crate) pid: i32,
    /// How it ended, once it has.
    pub(crate) exit: Option<Exit>,
    /// The stream that will tell.
    pub(crate) control: StdUnixStream,
}

/// One request to a container's shim, one answer. Blocks for about the time of a system call.
pub(crate) async fn ask(engine: &Arc<Engine>, container: &Container, request: Request) -> Result<Reply> {
    let run_dir = run_dir(engine, &container.id);
    let id = container.id.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let mut connection = yare_shim::connect(&run_dir)?;
        connection.send(&request, &[])?;
        connection.recv()
    });
    let lost = || Error::unavailable(format!("cannot reach the shim of container {id}"));
    match asked.await.map_err(|error| lost().caused_by(error))? {
        Ok(Some((Reply::Failed(failure), _))) => Err(failure.into_error()),
        Ok(Some((reply, _))) => Ok(reply),
        Ok(None) => Err(lost()),
        Err(error) => Err(lost().caused_by(error)),
    }
}
