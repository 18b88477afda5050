//! Processes in containers (`ExecProcess`): one call carries the streams of as many as its caller likes.
//!
//! What comes for a process is written to it before the next message is taken, and what processes write is
//! sent as fast as the caller reads: nothing piles up here but a piece of each stream.

use super::bridge::Caller;
use super::container::{Container, First};
use crate::Kit;
use crate::grpc::server::{Incoming, Reply};
use crate::grpc::{Code, Status};
use crate::keys;
use crate::proto::Empty;
use crate::proto::gateway::{ExecMessage, ExitMessage, FdMessage, InitMessage, ResizeMessage};
use crate::proto::graph::SECURITY_INSECURE;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use yare_api::ExecConfig;
use yare_api::stream::{Demultiplexer, Stream};
use yare_build::worker::{Conversation, Exit};
use yare_engine::build::Sandbox;
use yare_errdefs::Error;

/// Processes of one call.
const MOST: usize = 100;
/// Bytes of output in a message.
const PIECE: usize = 32 << 10;
/// Messages that wait for a caller that does not read.
const WAITING: usize = 8;
/// The code of a process that did not run, as in the field.
const UNKNOWN: u32 = 255;

/// Carries the processes of one call until its caller is done and they have ended. When the caller is gone, so
/// are they.
pub(crate) async fn serve(
    kit: &Arc<Kit>,
    caller: Caller,
    mut incoming: Incoming,
    mut reply: Reply,
) -> Result<Reply, (Reply, Status)> {
    let (tell, mut news) = mpsc::channel(WAITING);
    let taken = async {
        let mut call = Call { kit, caller, tell, processes: BTreeMap::new(), tasks: JoinSet::new() };
        while let Some(message) = incoming.message::<ExecMessage>().await? {
            call.take(message).await?;
        }
        call.end().await
    };
    let told = async {
        while let Some(message) = news.recv().await {
            reply.send(&message).await?;
        }
        Ok(())
    };
    match tokio::try_join!(taken, told) {
        Ok(_) => Ok(reply),
        Err(status) => Err((reply, status)),
    }
}

struct Call<'a> {
    kit: &'a Arc<Kit>,
    caller: Caller,
    tell: mpsc::Sender<ExecMessage>,
    processes: BTreeMap<String, Process>,
    /// Each carries the output of one; dropped, it ends that.
    tasks: JoinSet<()>,
}

/// A process, as messages for it need it.
struct Process {
    /// Its input; `None` when that is closed.
    input: Option<OwnedWriteHalf>,
    terminal: bool,
    sandbox: Sandbox,
    /// Names it in its container; the first one has none.
    id: Option<String>,
}

impl Call<'_> {
    async fn take(&mut self, message: ExecMessage) -> Result<(), Status> {
        let ExecMessage { process, init, file, resize, signal, .. } = message;
        while self.tasks.try_join_next().is_some() {}
        if let Some(init) = init {
            return self.begin(process, init).await;
        }
        let unknown = || Status::new(Code::NotFound, format!("there is no process {process:?}"));
        let known = self.processes.get_mut(&process).ok_or_else(unknown)?;
        if let Some(file) = file {
            known.file(&file).await;
        }
        let id = known.id.clone();
        // One that has ended takes none any more, and its caller is told so anyway.
        let asked = if let Some(ResizeMessage { rows, cols }) = resize {
            let size = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
            known.sandbox.resize(id, size(rows), size(cols)).await
        } else if let Some(signal) = signal {
            let number = yare_engine::containers::stop::parse_signal(&signal.name)?;
            known.sandbox.signal(id, number).await
        } else {
            Ok(())
        };
        if let Err(error) = asked {
            tracing::debug!(%error, "a process of a build did not take what came for it");
        }
        Ok(())
    }

    /// Waits for all processes.
    async fn end(mut self) -> Result<(), Status> {
        // Nothing will come for them.
        for process in self.processes.values_mut() {
            process.close().await;
        }
        while self.tasks.join_next().await.is_some() {}
        Ok(())
    }

    async fn begin(&mut self, process: String, init: InitMessage) -> Result<(), Status> {
        if self.processes.contains_key(&process) {
            return Err(Status::new(Code::AlreadyExists, format!("process {process:?} already exists")));
        }
        if self.processes.len() >= MOST {
            let text = format!("a call has more than {MOST} processes");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        let container = self.caller.bridge().containers.find(&init.container)?;
        let wanted = Wanted::of(self.kit, &self.caller, &container, &init).await?;
        let outputs = Outputs { process: process.clone(), tell: self.tell.clone(), open: wanted.open() };
        match start(&container, wanted).await {
            Ok(Started { stream, terminal, sandbox, id, ended }) => {
                let (output, input) = stream.into_split();
                let input = Some(input).filter(|_| init.fds.contains(&0));
                let known = Process { input, terminal, sandbox: sandbox.clone(), id: id.clone() };
                self.processes.insert(process, known);
                let guard = Guard { sandbox: Some(sandbox), id, container };
                self.tasks.spawn(outputs.carry(output, terminal, ended, guard));
            }
            // As the field, which tells of it as of an end.
            Err(status) => {
                outputs.started().await;
                outputs.over(Err(status)).await;
            }
        }
        Ok(())
    }
}

impl Process {
    /// Bytes for its input, or the end of that. One that does not take them loses them, as over a pipe.
    async fn file(&mut self, file: &FdMessage) {
        if file.fd != 0 {
            return;
        }
        let Some(input) = &mut self.input else { return };
        let written = input.write_all(&file.data).await;
        if file.eof || written.is_err() {
            self.close().await;
        }
    }

    /// Ends its input. Whoever closes a terminal leaves it, so that is left open.
    async fn close(&mut self) {
        match self.input.take() {
            Some(input) if self.terminal => input.forget(),
            Some(mut input) => drop(input.shutdown().await),
            None => {}
        }
    }
}

/// A process that is asked for.
struct Wanted {
    argv: Vec<String>,
    env: Vec<String>,
    cwd: String,
    user: String,
    insecure: bool,
    conversation: Conversation,
    fds: BTreeSet<u32>,
}

impl Wanted {
    async fn of(
        kit: &Kit,
        caller: &Caller,
        container: &Container,
        init: &InitMessage,
    ) -> Result<Self, Status> {
        let meta = init.meta.clone().unwrap_or_default();
        if meta.args.iter().all(String::is_empty) {
            return Err(Error::invalid("a process without arguments").into());
        }
        let insecure = init.security == SECURITY_INSECURE;
        if insecure && !container.may_be_insecure {
            return Err(Error::denied("security.insecure is not allowed")
                .with_hint("grant it with --allow security.insecure if you trust this build")
                .into());
        }
        let mut env = meta.env;
        for secret in &init.secret_env {
            let session = kit.sessions.find(&caller.build.request.session).await?;
            match keys::secret(&session, &secret.id).await? {
                Some(value) => {
                    let text = String::from_utf8(value).map_err(|_| {
                        Error::invalid(format!("secret {} is no text and cannot be a variable", secret.id))
                    })?;
                    env.push(format!("{}={text}", secret.name));
                }
                None if secret.optional => {}
                None => return Err(Error::not_found(format!("secret {}: not found", secret.id)).into()),
            }
        }
        Ok(Self {
            argv: meta.args,
            env,
            cwd: if meta.cwd.is_empty() { "/".to_owned() } else { meta.cwd },
            user: meta.user,
            insecure,
            conversation: Conversation { terminal: init.tty, stdin: init.fds.contains(&0) },
            fds: init.fds.iter().copied().collect(),
        })
    }

    /// The outputs that the caller listens to.
    fn open(&self) -> BTreeSet<u32> {
        self.fds.iter().copied().filter(|fd| matches!(fd, 1 | 2)).collect()
    }
}

/// A process under way.
struct Started {
    stream: UnixStream,
    terminal: bool,
    sandbox: Sandbox,
    id: Option<String>,
    ended: oneshot::Receiver<Result<Exit, Status>>,
}

/// Begins a container with this process, or runs it beside the others.
async fn start(container: &Container, wanted: Wanted) -> Result<Started, Status> {
    let Wanted { argv, env, cwd, user, insecure, conversation, .. } = wanted;
    let terminal = conversation.terminal;
    let (tell, ended) = oneshot::channel();
    if let Some(begin) = container.begin() {
        let (started, begun) = oneshot::channel();
        let first = First { argv, env, cwd, user, insecure, conversation, started, ended: tell };
        let over = || Status::new(Code::FailedPrecondition, "the container of this process has ended");
        begin.try_send(first).map_err(|_| over())?;
        let Ok((stream, sandbox)) = begun.await else {
            // It says why it did not start.
            return match ended.await {
                Ok(Err(status)) => Err(status),
                _ => Err(over()),
            };
        };
        let stream = asynchronous(stream).map_err(Error::from)?;
        return Ok(Started { stream, terminal, sandbox, id: None, ended });
    }
    let sandbox = container.sandbox().await?;
    let config = ExecConfig {
        cmd: Some(argv),
        env: Some(env),
        working_dir: cwd,
        user,
        privileged: insecure,
        tty: terminal,
        attach_stdin: conversation.stdin,
        attach_stdout: true,
        attach_stderr: true,
        ..ExecConfig::default()
    };
    let further = sandbox.exec(&config).await?;
    let id = Some(further.id.clone());
    let (stream, exit) = further.split();
    tokio::spawn(async move {
        let killed = Exit { code: 137, oom: false };
        let exit = exit.await.map_or(killed, |code| Exit { code, oom: false });
        // Its caller may be gone.
        let _ = tell.send(Ok(exit));
    });
    Ok(Started { stream, terminal, sandbox, id, ended })
}

fn asynchronous(stream: std::os::unix::net::UnixStream) -> std::io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Ends a process that nobody listens to any more.
struct Guard {
    sandbox: Option<Sandbox>,
    id: Option<String>,
    /// Stays as long as its process.
    container: Arc<Container>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(sandbox) = self.sandbox.take() else { return };
        let (id, container) = (self.id.take(), Arc::clone(&self.container));
        tokio::spawn(async move {
            if let Err(error) = sandbox.signal(id, 9).await {
                tracing::debug!(%error, "a process of a build is gone already");
            }
            drop(container);
        });
    }
}

/// Where the output of a process goes.
struct Outputs {
    process: String,
    tell: mpsc::Sender<ExecMessage>,
    /// The streams that its caller listens to.
    open: BTreeSet<u32>,
}

impl Outputs {
    fn message(&self) -> ExecMessage {
        ExecMessage { process: self.process.clone(), ..ExecMessage::default() }
    }

    /// A caller that is gone hears nothing.
    async fn send(&self, message: ExecMessage) {
        drop(self.tell.send(message).await);
    }

    async fn started(&self) {
        self.send(ExecMessage { started: Some(Empty {}), ..self.message() }).await;
    }

    async fn piece(&self, fd: u32, data: Bytes, eof: bool) {
        if self.open.contains(&fd) {
            let file = Some(FdMessage { fd, eof, data });
            self.send(ExecMessage { file, ..self.message() }).await;
        }
    }

    /// The streams are over, and the process is.
    async fn over(&self, exit: Result<Exit, Status>) {
        for fd in &self.open {
            self.piece(*fd, Bytes::new(), true).await;
        }
        let exit = match exit {
            Ok(Exit { code: 0, .. }) => ExitMessage::default(),
            Ok(Exit { code, .. }) => {
                // Clients take it for granted that what failed has an error.
                let status = Status::new(Code::Unknown, format!("exit code: {code}"));
                let code = u32::try_from(code).unwrap_or(UNKNOWN);
                ExitMessage { code, error: Some(status.to_message()) }
            }
            Err(status) => ExitMessage { code: UNKNOWN, error: Some(status.to_message()) },
        };
        self.send(ExecMessage { exit: Some(exit), ..self.message() }).await;
        self.send(ExecMessage { done: Some(Empty {}), ..self.message() }).await;
    }

    async fn carry(
        self,
        mut output: OwnedReadHalf,
        terminal: bool,
        ended: oneshot::Receiver<Result<Exit, Status>>,
        mut guard: Guard,
    ) {
        self.started().await;
        let mut frames = Demultiplexer::new();
        let mut buffer = vec![0; PIECE];
        while let Ok(length @ 1..) = output.read(&mut buffer).await {
            let mut pieces: Vec<(u32, Vec<u8>)> = Vec::new();
            let mut piece = |fd: u32, bytes: &[u8]| match pieces.last_mut() {
                Some((last, piece)) if *last == fd => piece.extend_from_slice(bytes),
                _ => pieces.push((fd, bytes.to_vec())),
            };
            let read = &buffer[..length];
            if terminal {
                piece(1, read);
            } else if frames.feed(read, |stream, bytes| piece(fd_of(stream), bytes)).is_err() {
                break;
            }
            for (fd, bytes) in pieces {
                self.piece(fd, bytes.into(), false).await;
            }
        }
        let gone = || Status::new(Code::Aborted, "the container of this process has ended");
        let exit = ended.await.unwrap_or_else(|_| Err(gone()));
        // It has ended by itself.
        guard.sandbox = None;
        self.over(exit).await;
    }
}

fn fd_of(stream: Stream) -> u32 {
    if stream == Stream::Stderr { 2 } else { 1 }
}
