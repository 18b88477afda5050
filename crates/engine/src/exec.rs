//! Additional processes in running containers.

use crate::Engine;
use crate::container::{Attached, Container};
use crate::containers::stop::{KILL, parse_signal};
use crate::lifecycle::State;
use crate::session::{DetachKeys, Session, pair};
use crate::task::{converse, run_dir, unreachable};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use yare_api::{ExecConfig, ExecInspectResponse, ExecStartConfig, ProcessConfig};
use yare_errdefs::{Class, Classified, Error, Result};
use yare_shim::{AttachSpec, ExecSpec, Reply, Request};

/// How long a finished exec can still be inspected.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How long a resize waits for a start that is under way.
const RESIZE_PATIENCE: Duration = Duration::from_millis(200);

/// One exec.
#[derive(Debug)]
pub struct Exec {
    id: String,
    container: String,
    config: ExecConfig,
    state: watch::Sender<ExecState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExecState {
    Created,
    Starting,
    Running { pid: i32 },
    Ended { code: i32, pid: i32 },
}

/// The execs of an engine.
#[derive(Debug, Default)]
pub struct Execs {
    by_id: Mutex<HashMap<String, Arc<Exec>>>,
}

impl Execs {
    fn find(&self, id: &str) -> Result<Arc<Exec>> {
        self.by_id
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    /// Ids of a container's execs that run, for inspect.
    pub fn of_container(&self, container: &str) -> Vec<String> {
        let mut ids: Vec<String> = self
            .by_id
            .lock()
            .values()
            .filter(|exec| {
                exec.container == container && !matches!(*exec.state.borrow(), ExecState::Ended { .. })
            })
            .map(|exec| exec.id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Forgets the execs of a container that never ran.
    pub fn forget_container(&self, container: &str) {
        self.by_id
            .lock()
            .retain(|_, exec| exec.container != container || *exec.state.borrow() != ExecState::Created);
    }
}

/// Prepares an exec; nothing runs yet.
pub async fn create(engine: &Engine, id: &str, config: ExecConfig) -> Result<String> {
    let container = engine.containers.find(id)?;
    if container.state() != State::Running {
        container.settled().await;
    }
    check_running(&container)?;
    if config.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("No exec command specified"));
    }
    if !config.detach_keys.is_empty() {
        DetachKeys::parse(&config.detach_keys)?;
    }
    let exec = Arc::new(Exec {
        id: crate::random_id(),
        container: container.id.clone(),
        config,
        state: watch::Sender::new(ExecState::Created),
    });
    let command = exec.config.cmd.clone().unwrap_or_default().join(" ");
    publish(engine, &container, &format!("exec_create: {command}"), &exec.id, None);
    let id = exec.id.clone();
    engine.execs.by_id.lock().insert(id.clone(), exec);
    Ok(id)
}

fn check_running(container: &Container) -> Result<()> {
    match container.state() {
        State::Running => Ok(()),
        State::Paused => Err(Error::conflict(format!(
            "Container {} is paused, unpause the container before exec",
            container.record().name
        ))),
        State::Restarting => Err(Error::conflict(format!(
            "container {} is restarting, wait until the container is running",
            container.id
        ))),
        _ => Err(Error::conflict(format!("container {} is not running", container.id))),
    }
}

/// Runs a prepared exec. Gives its streams, or with `detach` nothing.
pub async fn start(engine: &Arc<Engine>, id: &str, options: &ExecStartConfig) -> Result<Option<Attached>> {
    let exec = engine.execs.find(id)?;
    let container = engine.containers.find(&exec.container)?;
    if *exec.state.borrow() == ExecState::Created {
        check_running(&container)?;
    }
    let claimed = exec.state.send_if_modified(|state| {
        let free = *state == ExecState::Created;
        if free {
            *state = ExecState::Starting;
        }
        free
    });
    if !claimed {
        return Err(Error::conflict(format!("exec command {id} has already run")));
    }
    let (ours, theirs) = match options.detach {
        true => (None, None),
        false => pair().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
    };
    let spec = spec(engine, &container, &exec, options);
    let command = exec.config.cmd.clone().unwrap_or_default().join(" ");
    let control = match launch(engine, &container, spec, theirs).await {
        Ok(control) => control,
        Err(error) => {
            // Docker's exit codes of a program that cannot run, for clients that ask afterwards.
            exec.state.send_replace(ExecState::Ended { code: exit_code_of(&error), pid: 0 });
            remember(engine, &exec);
            return Err(error);
        }
    };
    exec.state.send_replace(ExecState::Running { pid: control.pid });
    publish(engine, &container, &format!("exec_start: {command}"), id, None);
    let (ended, gate) = oneshot::channel();
    watch_end(engine, &container, &exec, control.connection, ended);
    let Some(ours) = ours else { return Ok(None) };
    let mut session = Session::new(ours).ending_after(gate);
    if exec.config.tty && exec.config.attach_stdin {
        let (told, _) = oneshot::channel();
        session = session.watching(DetachKeys::parse(&exec.config.detach_keys)?, told);
    }
    Ok(Some(Attached { tty: exec.config.tty, session }))
}

/// What became of a program that ran aside.
pub(crate) struct Aside {
    /// Its exit code.
    pub(crate) code: i32,
    /// The beginning of what it said, on both streams.
    pub(crate) output: String,
}

/// Runs a program in a container for the engine itself: nobody is told of it, and it cannot be inspected. `None`
/// when it did not end in time; then it is killed. Of its output `longest` bytes are kept.
pub(crate) async fn run_aside(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    config: ExecConfig,
    patience: Duration,
    longest: usize,
) -> Result<Option<Aside>> {
    let (id, state) = (crate::random_id(), watch::Sender::new(ExecState::Starting));
    let exec = Exec { id, container: container.id.clone(), config, state };
    let (mut ours, theirs) = pair()?;
    let spec = spec(engine, container, &exec, &ExecStartConfig::default());
    let ended = async {
        let control = launch(engine, container, spec, Some(theirs)).await?;
        let output = read_output(&mut ours, longest);
        let (code, output) = tokio::join!(end_code(control.connection, &exec.id), output);
        Ok(Aside { code: code.unwrap_or(137), output })
    };
    match tokio::time::timeout(patience, ended).await {
        Ok(outcome) => outcome.map(Some),
        Err(_) => {
            let request = Request::Signal { exec_id: Some(exec.id.clone()), signal: KILL };
            if let Err(error) = crate::task::ask(engine, container, request).await {
                tracing::debug!(container = container.id, %error, "a program that ran aside is gone");
            }
            Ok(None)
        }
    }
}

/// Reads to the end; what is too long is marked so.
async fn read_output(stream: &mut tokio::net::UnixStream, longest: usize) -> String {
    use tokio::io::AsyncReadExt;
    let mut frames = yare_api::stream::Demultiplexer::new();
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let framed = frames.feed(&buffer[..length], |_, bytes| {
            kept.extend_from_slice(&bytes[..bytes.len().min((longest + 1).saturating_sub(kept.len()))]);
        });
        if framed.is_err() {
            break;
        }
    }
    let more = if kept.len() > longest { "..." } else { "" };
    kept.truncate(longest);
    String::from_utf8_lossy(&kept).into_owned() + more
}

fn exit_code_of(error: &Error) -> i32 {
    match error.class() {
        Class::NotFound => 127,
        Class::PermissionDenied => 126,
        _ if error.to_string().contains("not found") || error.to_string().contains("no such file") => 127,
        _ => 126,
    }
}

fn spec(engine: &Engine, container: &Container, exec: &Exec, options: &ExecStartConfig) -> ExecSpec {
    let config = &exec.config;
    let record = container.record();
    let size = options.console_size.or(config.console_size);
    // A container that its links mean may have ended: what is known of others is no reason to refuse.
    let plan = crate::links::plan(engine, &record).unwrap_or(std::borrow::Cow::Borrowed(&record.plan));
    let process = yare_specgen::exec_process(&plan, config, size);
    let attach = AttachSpec {
        stdin: config.attach_stdin,
        stdout: config.attach_stdout || config.tty,
        stderr: config.attach_stderr,
    };
    let user = if config.user.is_empty() { record.plan.user.clone() } else { config.user.clone() };
    ExecSpec {
        exec_id: exec.id.clone(),
        process,
        user,
        groups: record.plan.groups.clone(),
        terminal: config.tty,
        open_stdin: config.attach_stdin && !options.detach,
        attach: (!options.detach).then_some(attach),
    }
}

struct Control {
    pid: i32,
    connection: yare_shim::Connection,
}

async fn launch(
    engine: &Engine,
    container: &Container,
    spec: ExecSpec,
    stream: Option<OwnedFd>,
) -> Result<Control> {
    let (run_dir, id) = (run_dir(engine, &container.id), container.id.clone());
    crate::images::blocking(move || {
        let descriptors: Vec<_> = stream.iter().map(AsFd::as_fd).collect();
        match converse(&run_dir, &Request::Exec(Box::new(spec)), &descriptors) {
            Ok((Reply::Started { pid }, connection)) => Ok(Control { pid, connection }),
            Ok((Reply::Failed(failure), _)) => Err(failure.into_error()),
            Ok(_) => Err(unreachable(&id, std::io::ErrorKind::InvalidData.into())),
            Err(error) => Err(unreachable(&id, error)),
        }
    })
    .await
}

/// Waits for the end on the control connection, stores the exit code, then opens the gate.
fn watch_end(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    exec: &Arc<Exec>,
    connection: yare_shim::Connection,
    ended: oneshot::Sender<()>,
) {
    let (engine, container, exec) = (Arc::clone(engine), Arc::clone(container), Arc::clone(exec));
    tokio::spawn(async move {
        // A shim that is gone took its execs with it: 137 is what a killed process shows.
        let code = end_code(connection, &exec.id).await.unwrap_or(137);
        exec.state.send_modify(|state| {
            let pid = if let ExecState::Running { pid } = *state { pid } else { 0 };
            *state = ExecState::Ended { code, pid };
        });
        let _ = ended.send(());
        publish(&engine, &container, "exec_die", &exec.id, Some(code));
        remember(&engine, &exec);
    });
}

/// The exit code of an exec, which its shim tells when all output was taken.
pub(crate) async fn end_code(connection: yare_shim::Connection, exec_id: &str) -> Option<i32> {
    use tokio::io::AsyncReadExt;
    let (stream, mut decoder) = connection.into_parts();
    stream.set_nonblocking(true).ok()?;
    let mut stream = tokio::net::UnixStream::from_std(stream).ok()?;
    let mut buffer = [0; 1024];
    loop {
        while let Some((reply, _)) = decoder.next::<Reply>().ok()? {
            match reply {
                Reply::ExecExited { exec_id: id, code } if id == exec_id => return Some(code),
                _ => {}
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => decoder.push(&buffer[..read], []),
        }
    }
}

/// Forgets a finished exec after a while.
fn remember(engine: &Arc<Engine>, exec: &Exec) {
    let (engine, id) = (Arc::downgrade(engine), exec.id.clone());
    tokio::spawn(async move {
        tokio::time::sleep(REMEMBERED).await;
        if let Some(engine) = engine.upgrade() {
            engine.execs.by_id.lock().remove(&id);
        }
    });
}

/// Sets the size of an exec's terminal. It may come just before the process runs: then it waits a little.
pub async fn resize(engine: &Arc<Engine>, id: &str, height: u16, width: u16) -> Result<()> {
    let exec = engine.execs.find(id)?;
    let mut state = exec.state.subscribe();
    let started = state.wait_for(|state| !matches!(state, ExecState::Created | ExecState::Starting));
    let running = match tokio::time::timeout(RESIZE_PATIENCE, started).await {
        Ok(Ok(state)) => matches!(*state, ExecState::Running { .. }),
        _ => false,
    };
    if !running {
        return Err(Error::conflict(format!("exec {id} is not running")));
    }
    let container = engine.containers.find(&exec.container)?;
    let request = Request::Resize { exec_id: Some(id.to_owned()), rows: height, cols: width };
    crate::task::ask(engine, &container, request).await.map(drop)
}

/// Sends a signal to an exec's process; empty is SIGKILL. Docker has no way to do this.
pub async fn kill(engine: &Arc<Engine>, id: &str, signal: &str) -> Result<()> {
    let exec = engine.execs.find(id)?;
    let signal = if signal.is_empty() { KILL } else { parse_signal(signal)? };
    if !matches!(*exec.state.borrow(), ExecState::Running { .. }) {
        return Err(Error::conflict(format!("exec {id} is not running")));
    }
    let container = engine.containers.find(&exec.container)?;
    let request = Request::Signal { exec_id: Some(id.to_owned()), signal };
    crate::task::ask(engine, &container, request).await.map(drop)
}

/// What is known of an exec.
pub fn inspect(engine: &Engine, id: &str) -> Result<ExecInspectResponse> {
    let exec = engine.execs.find(id)?;
    let config = &exec.config;
    let mut command = config.cmd.clone().unwrap_or_default().into_iter();
    let (running, exit_code, pid) = match *exec.state.borrow() {
        ExecState::Created | ExecState::Starting => (false, None, 0),
        ExecState::Running { pid } => (true, None, pid),
        ExecState::Ended { code, pid } => (false, Some(i64::from(code)), pid),
    };
    Ok(ExecInspectResponse {
        id: exec.id.clone(),
        running,
        exit_code,
        process_config: ProcessConfig {
            tty: config.tty,
            entrypoint: command.next().unwrap_or_default(),
            arguments: command.collect(),
            privileged: config.privileged,
            user: config.user.clone(),
        },
        open_stdin: config.attach_stdin,
        open_stderr: config.attach_stderr,
        open_stdout: config.attach_stdout,
        can_remove: false,
        container_id: exec.container.clone(),
        detach_keys: config.detach_keys.clone(),
        pid: i64::from(pid),
    })
}

fn publish(engine: &Engine, container: &Container, action: &str, exec_id: &str, code: Option<i32>) {
    let mut attributes = BTreeMap::from([("execID".to_owned(), exec_id.to_owned())]);
    if let Some(code) = code {
        attributes.insert("exitCode".to_owned(), code.to_string());
    }
    engine.publish_container(container, action, attributes);
}
