//! Following a run: from the shim's word, or when the shim is lost, from the kernel's.

use crate::Engine;
use crate::container::{Container, Record};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use yare_errdefs::{Error, Result};
use yare_net::EndpointRecord;
use yare_shim::{Decoder, Exit, Reply, Request};

/// Exit code of a run whose end nobody saw.
const UNKNOWN_EXIT: i32 = 255;

/// How often the exit code of a process that has ended is asked for, every 5 ms.
const REAP_TRIES: usize = 40;

/// How long a shim may take from its birth to its lock, and from there to its socket.
const FORKING: Duration = Duration::from_millis(300);
const BEGINNING: Duration = Duration::from_secs(5);

/// How long a shim is watched after the end of its container.
const CLEANING: Duration = Duration::from_secs(15);

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
    /// Its place in the bridge.
    pub(crate) endpoint: Option<EndpointRecord>,
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
        let announced = match &mut control {
            Some(control) => announced_exit(control).await,
            None => None,
        };
        let exit = match announced {
            Some(exit) => exit,
            None => observed_exit(&engine, &container).await,
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
        code = pidfd_end(&pidfd, container.record().state.pid).await.unwrap_or(UNKNOWN_EXIT);
    }
    clear_group(engine, container).await;
    Exit {
        code,
        oom: false,
        at: engine.clock.now().to_string(),
        error: Some("the shim of this container died before the container did".to_owned()),
    }
}

/// Waits for a process by its descriptor; its exit code where the kernel tells others than the parent.
async fn pidfd_end(pidfd: &Arc<OwnedFd>, pid: i32) -> Option<i32> {
    ended(pidfd).await.ok()?;
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
pub(crate) fn find_shim(run_dir: &Path, record: &Record, since: Instant) -> Option<Reconnected> {
    loop {
        if let Ok(found) = reconnect(run_dir) {
            return Some(found);
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
