//! Following a run: from the shim's word, or when the shim is lost, from the kernel's.

use crate::Engine;
use crate::container::{Container, Record};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use yare_errdefs::{Error, Result};
use yare_net::EndpointRecord;
use yare_shim::{Connection, Decoder, Exit, Reply, Request};

/// Exit code of a run whose end nobody saw.
const UNKNOWN_EXIT: i32 = 255;

/// How often the exit code of a process that has ended is asked for, every 5 ms.
const REAP_TRIES: usize = 40;

/// How long a shim may take from its birth to its lock, and from there to its socket.
const FORKING: Duration = Duration::from_millis(300);
const BEGINNING: Duration = Duration::from_secs(5);

/// How long a shim is watched after the end of its container.
const CLEANING: Duration = Duration::from_secs(15);

/// How long a shim may take to answer a request, and to start a container. It needs microseconds, and some
/// milliseconds; one that is silent for so long is stopped or stuck.
const ANSWER: Duration = Duration::from_secs(10);
pub(crate) const START: Duration = Duration::from_secs(120);

/// How long all silent shims together may hold up the start of an engine, and one of them after that.
const OPENING: Duration = Duration::from_secs(3);
const GLANCE: Duration = Duration::from_millis(100);

/// How long after the end of process 1 its shim may take to announce it: more than it waits for output.
const ANNOUNCING: Duration = Duration::from_secs(8);

/// Where a container's shim keeps its socket and exit file.
pub(crate) fn run_dir(engine: &Engine, id: &str) -> PathBuf {
    engine.config.exec_root.join("containers").join(id)
}

/// What the engine notes of a run before it launches it, in the run directory: should the engine die before
/// the start is on record, the next one knows what the shim cannot tell.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// When.
    pub(crate) at: Timestamp,
    /// Its places in networks.
    #[serde(default, alias = "endpoint", deserialize_with = "crate::container::one_or_many")]
    pub(crate) endpoints: Vec<EndpointRecord>,
}

impl Begun {
    const FILE: &str = "begun.json";

    /// Writes it; after a power cut no container runs, so nothing is synced.
    pub(crate) fn write(&self, run_dir: &Path) -> std::io::Result<()> {
        let temporary = run_dir.join("begun.json.tmp");
        std::fs::write(&temporary, crate::to_json(self))?;
        std::fs::rename(temporary, run_dir.join(Self::FILE))
    }

    /// Reads it; `None` when there is none.
    pub(crate) fn read(run_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(run_dir.join(Self::FILE)).ok()?).ok()
    }
}

/// Follows a run to its end and then settles what the end means.
pub(crate) fn follow(engine: &Arc<Engine>, container: &Arc<Container>, control: StdUnixStream) {
    let (engine, container) = (Arc::clone(engine), Arc::clone(container));
    tokio::spawn(async move {
        let mut control = asynchronous(control);
        let announced = async {
            match &mut control {
                Some(control) => announced_exit(control).await,
                None => None,
            }
        };
        let exit = tokio::select! {
            announced = announced => match announced {
                Some(exit) => exit,
                None => observed_exit(&engine, &container).await,
            },
            exit = unannounced_exit(&engine, &container) => exit,
        };
        crate::containers::exit::settle(&engine, &container, exit).await;
        if let Some(control) = control {
            finish_after(&engine, &container, control).await;
        }
    });
}

fn asynchronous(control: StdUnixStream) -> Option<UnixStream> {
    control.set_nonblocking(true).ok()?;
    UnixStream::from_std(control).ok()
}

/// Waits for the shim to go, which cleans up after it has announced the end, and does what it did not live
/// to do. Nobody waits for this.
async fn finish_after(engine: &Arc<Engine>, container: &Container, mut control: UnixStream) {
    let mut rest = [0; 512];
    let gone = async { while control.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
    // One that lives on has clients that do not read; it has cleaned up long before.
    if tokio::time::timeout(CLEANING, gone).await.is_ok() {
        let _operation = container.operation.lock().await;
        if !container.state().has_process() {
            clear_group(engine, container).await;
        }
    }
}

/// Waits until the shim of a run directory has cleaned up behind its container, or is dead.
pub(crate) async fn unlocked(run_dir: &Path) {
    let begun = Instant::now();
    while yare_shim::is_locked(run_dir) && begun.elapsed() < CLEANING {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Follows a run whose shim is there but does not answer: until it does, or is dead, or the run has ended.
pub(crate) fn follow_silent(engine: &Arc<Engine>, container: &Arc<Container>) {
    tracing::error!(
        container = container.id,
        "the shim of this container does not answer; if it was stopped, let it go on (kill -CONT)"
    );
    let (engine, container) = (Arc::clone(engine), Arc::clone(container));
    tokio::spawn(async move {
        let exit = tokio::select! {
            found = answering(run_dir(&engine, &container.id)) => match found {
                Some(Reconnected { exit: None, control, .. }) => return follow(&engine, &container, control),
                Some(Reconnected { exit: Some(exit), .. }) => exit,
                None => observed_exit(&engine, &container).await,
            },
            exit = unannounced_exit(&engine, &container) => exit,
        };
        crate::containers::exit::settle(&engine, &container, exit).await;
    });
}

/// Waits until a silent shim answers; `None` when it is dead.
async fn answering(run_dir: PathBuf) -> Option<Reconnected> {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let run_dir = run_dir.clone();
        let tried = tokio::task::spawn_blocking(move || {
            let found = reconnect(&run_dir, GLANCE);
            (found.is_ok() || !yare_shim::is_locked(&run_dir)).then(|| found.ok())
        });
        if let Ok(Some(found)) = tried.await {
            return found;
        }
    }
}

/// The end of a run whose shim does not announce it. Completes only then: the shim is ended, so that the next
/// run finds its place free.
async fn unannounced_exit(engine: &Arc<Engine>, container: &Container) -> Exit {
    let pidfd = container.live.lock().pidfd.clone();
    let Some(pidfd) = pidfd else { return std::future::pending().await };
    if ended(&pidfd).await.is_err() {
        return std::future::pending().await;
    }
    tokio::time::sleep(ANNOUNCING).await;
    // While the shim is there nobody reaps its child.
    let code = exit_code(&pidfd, container.record().state.pid).await.unwrap_or(UNKNOWN_EXIT);
    let killed = yare_shim::kill_shim(&run_dir(engine, &container.id));
    tracing::error!(container = container.id, killed, "its shim did not announce the end of this container");
    container.live.lock().orphaned = true;
    clear_group(engine, container).await;
    lost_exit(engine, code, "the shim of this container did not announce its end")
}

fn lost_exit(engine: &Engine, code: i32, why: &str) -> Exit {
    Exit { code, oom: false, at: engine.clock.now().to_string(), error: Some(why.to_owned()) }
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
async fn announced_exit(control: &mut UnixStream) -> Option<Exit> {
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
async fn observed_exit(engine: &Arc<Engine>, container: &Container) -> Exit {
    let run_dir = run_dir(engine, &container.id);
    if let Ok(Some(exit)) = Exit::read(&run_dir) {
        clear_group(engine, container).await;
        return exit;
    }
    let pidfd = {
        let mut live = container.live.lock();
        live.orphaned = true;
        live.pidfd.clone()
    };
    let mut code = UNKNOWN_EXIT;
    if let Some(pidfd) = pidfd {
        tracing::error!(
            container = container.id,
            "the shim of this container died: it runs on without log and attachments; restart it to get them back"
        );
        if ended(&pidfd).await.is_ok() {
            code = exit_code(&pidfd, container.record().state.pid).await.unwrap_or(UNKNOWN_EXIT);
        }
    }
    clear_group(engine, container).await;
    lost_exit(engine, code, "the shim of this container died before the container did")
}

/// The exit code of a process that has ended, where the kernel tells others than the parent.
async fn exit_code(pidfd: &OwnedFd, pid: i32) -> Option<i32> {
    // Before the host's init has reaped it, /proc knows; afterwards the kernel tells by the descriptor.
    for _ in 0..REAP_TRIES {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let unreaped = yare_sys::process::pidfd_send_signal(pidfd, 0).is_ok();
        let code = unreaped.then(|| zombie_code(&stat)).flatten();
        if let Some(code) = code.or_else(|| Some(yare_sys::inherit::exit_of(pidfd)?.code())) {
            return Some(code);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

/// Waits for the end of a process; nobody's thread waits with it.
async fn ended(pidfd: &OwnedFd) -> std::io::Result<()> {
    crate::growth::readable(pidfd.try_clone()?)?.readable().await.map(drop)
}

/// The exit code in the `stat` of a process that has ended and was not reaped (proc_pid_stat(5), field 52).
fn zombie_code(stat: &str) -> Option<i32> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let (state, status) = (fields.next()?, fields.nth(48)?.parse::<i32>().ok()?);
    let signal = status & 0x7f;
    (state == "Z").then_some(if signal == 0 { status >> 8 & 0xff } else { 128 + signal })
}

/// Ends and removes what is left of a run in its cgroup: its shim did not live to do so.
pub(crate) async fn clear_group(engine: &Arc<Engine>, container: &Container) {
    let (engine, record) = (Arc::clone(engine), container.record());
    let cleared = tokio::task::spawn_blocking(move || clear_group_now(&engine, &record)).await;
    if let Err(error) = cleared {
        tracing::error!(container = container.id, %error, "cannot clear the cgroup");
    }
}

/// [`clear_group`] for a thread that may block.
pub(crate) fn clear_group_now(engine: &Engine, record: &Record) {
    // Mostly there is none.
    let Ok(group) = yare_cgroup::Group::open(&engine.cgroups, &engine.cgroup_path(record)) else { return };
    // One that was only half made has no freezer.
    let _ = group.thaw();
    if let Err(error) = group.kill().and_then(|()| group.remove()) {
        tracing::warn!(container = record.id, error = yare_errdefs::chain(&error), "cannot clear the cgroup");
    }
}

/// Finds the shim in a run directory, if it lives. One that is just beginning is waited for; `since` is when
/// this engine began to look.
pub(crate) fn find_shim(run_dir: &Path, record: &Record, since: Instant) -> Option<Found> {
    loop {
        match reconnect(run_dir, OPENING.saturating_sub(since.elapsed()).max(GLANCE)) {
            Ok(found) => return Some(Found::Answering(found)),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Some(Found::Silent),
            Err(_) => {}
        }
        if !run_dir.exists() || matches!(Exit::read(run_dir), Ok(Some(_))) {
            return None;
        }
        // Launched by an engine that died before it knew, the shim may not have come so far as to take its
        // lock; with the lock taken it listens soon, or gives up.
        let launched = !record.state.status.has_process() && Begun::read(run_dir).is_some();
        let patience = if yare_shim::is_locked(run_dir) {
            BEGINNING
        } else if launched {
            FORKING
        } else {
            return None;
        };
        if since.elapsed() > patience {
            tracing::debug!("no living shim in {}", run_dir.display());
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Connects to the shim in a run directory and subscribes to its end.
fn reconnect(run_dir: &Path, patience: Duration) -> std::io::Result<Reconnected> {
    let mut connection = yare_shim::connect(run_dir, patience)?;
    connection.send(&Request::Subscribe, &[])?;
    match connection.recv()? {
        Some((Reply::State { pid, exit, .. }, _)) => {
            let (control, _) = connection.into_parts();
            Ok(Reconnected { pid, exit, control })
        }
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// What was found of a shim.
#[derive(Debug)]
pub(crate) enum Found {
    /// It answers.
    Answering(Reconnected),
    /// It is there, but does not answer.
    Silent,
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

/// One request to the shim in a run directory and its answer, for a thread that may block; gives the connection
/// too.
pub(crate) fn converse(
    run_dir: &Path,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> std::io::Result<(Reply, Connection)> {
    let mut connection = yare_shim::connect(run_dir, ANSWER)?;
    connection.send(request, descriptors)?;
    let (reply, _) = connection.recv()?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok((reply, connection))
}

/// Ends the container of a shim that nobody knows.
pub(crate) fn end_stray(run_dir: &Path) -> std::io::Result<()> {
    let mut connection = yare_shim::connect(run_dir, OPENING)?;
    connection.send(&Request::Signal { exec_id: None, signal: 9 }, &[])?;
    connection.recv().map(drop)
}

/// What clients are told of a shim that cannot be talked to.
pub(crate) fn unreachable(id: &str, error: std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::TimedOut => {
            "if the process yare-shim of this container was stopped, let it go on (kill -CONT)"
        }
        _ => "its shim has died; restart the container to get it back",
    };
    Error::unavailable(format!("cannot reach the shim of container {id}")).caused_by(error).with_hint(hint)
}

/// One request to a container's shim, one answer.
pub(crate) async fn ask(engine: &Arc<Engine>, container: &Container, request: Request) -> Result<Reply> {
    let (run_dir, id) = (run_dir(engine, &container.id), container.id.clone());
    crate::images::blocking(move || match converse(&run_dir, &request, &[]) {
        Ok((Reply::Failed(failure), _)) => Err(failure.into_error()),
        Ok((reply, _)) => Ok(reply),
        Err(error) => Err(unreachable(&id, error)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_code_of_a_process_that_was_not_reaped() {
        let stat = |state: &str, status: i32| {
            let zeros = "0 ".repeat(48);
            format!("7 (a) b) {state} {zeros}{status}\n")
        };
        assert_eq!(zombie_code(&stat("Z", 9 << 8)), Some(9));
        assert_eq!(zombie_code(&stat("Z", 15)), Some(143));
        assert_eq!(zombie_code(&stat("S", 0)), None);
        assert_eq!(zombie_code(""), None);
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
        let path = format!("/proc/{}/stat", child.id());
        let code = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            zombie_code(&std::fs::read_to_string(&path).unwrap())
        });
        assert_eq!(code, Some(7));
        child.wait().unwrap();
    }
}
