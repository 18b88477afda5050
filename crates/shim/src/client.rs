//! The engine's half: starting the launcher, launching containers, talking to shims.
//!
//! Everything here is synchronous and works on plain `std` sockets; an async caller sets them nonblocking and
//! drives [`crate::wire`] itself, or calls from a thread that may block.

use crate::protocol::{Launch, Reply, Request};
use crate::wire::{self, Decoder, encode};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use yare_errdefs::{Error, Result};
use yare_oci::runtime::Seccomp;
use yare_runtime::Filter;

/// Name of the socket in the run directory.
pub const SOCKET: &str = "shim.sock";

/// How long a new shim may take to read what it is to start.
const HAND_OVER: Duration = Duration::from_secs(60);

/// How to start a launcher.
#[derive(Debug, Clone)]
pub struct LauncherConfig {
    /// The program; the running one is `/proc/self/exe`.
    pub program: PathBuf,
    /// Its arguments; `--keep <directory>` is added for each of `keep`.
    pub args: Vec<OsString>,
    /// Directories whose mounts stay visible to containers without a detour: data root and run root.
    pub keep: Vec<PathBuf>,
}

impl LauncherConfig {
    /// `yare launcher` from the running binary.
    pub fn own(keep: Vec<PathBuf>) -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), args: vec!["launcher".into()], keep }
    }
}

/// The engine's handle of the launcher process.
///
/// It is started with `posix_spawn`, which shares the engine's memory until the `exec` and so is safe from a
/// program with threads; when the launcher dies, the next launch starts another. Dropping the handle ends the
/// launcher and leaves the shims alone.
#[derive(Debug)]
pub struct Launcher {
    config: LauncherConfig,
    process: Mutex<LauncherProcess>,
    filters: Filters,
}

/// The filters of the profiles that were launched last, newest first: compiled once, not in every shim, and a
/// fraction of their profile's size in its memory.
#[derive(Debug, Default)]
struct Filters(Mutex<Vec<(Seccomp, Filter)>>);

impl Filters {
    /// Profiles differ by what a container may do besides; few are in use at a time.
    const KEPT: usize = 8;

    /// Takes the profile away and gives its filter. One that cannot be compiled stays: the shim says why.
    fn take_from(&self, profile: &mut Option<Seccomp>) -> Option<Filter> {
        let wanted = profile.take()?;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(known, _)| *known == wanted) {
            kept[..=at].rotate_right(1);
            return Some(kept[0].1.clone());
        }
        let Ok(Some(filter)) = Filter::compile(Some(&wanted)) else {
            *profile = Some(wanted);
            return None;
        };
        kept.truncate(Self::KEPT - 1);
        kept.insert(0, (wanted, filter.clone()));
        Some(filter)
    }
}

#[derive(Debug)]
struct LauncherProcess {
    socket: OwnedFd,
    child: Child,
}

impl Launcher {
    /// Starts `yare launcher` from the running binary; `keep` is [`LauncherConfig::keep`].
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(keep: &[PathBuf]) -> Result<Self> {
        Self::start_with(LauncherConfig::own(keep.to_vec()))
    }

    /// Starts a launcher as configured.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start_with(config: LauncherConfig) -> Result<Self> {
        let process = Mutex::new(spawn(&config)?);
        Ok(Self { config, process, filters: Filters::default() })
    }

    /// Starts a new launcher in the place of the present one, which ends. Running containers do not notice.
    ///
    /// # Errors
    /// The process cannot be started; the present one stays.
    pub fn respawn(&self) -> Result<()> {
        let new = spawn(&self.config)?;
        let LauncherProcess { socket, mut child } = std::mem::replace(&mut *self.lock(), new);
        drop(socket);
        std::thread::Builder::new()
            .name("launcher-reaper".into())
            .spawn(move || child.wait())
            .map(drop)
            .map_err(|error| {
                Error::internal("cannot start a thread to reap the old launcher").caused_by(error)
            })
    }

    /// Process id of the launcher.
    pub fn pid(&self) -> u32 {
        self.lock().child.id()
    }

    /// Starts a shim with `launch` and gives its control stream at once; the first reply on it is
    /// [`Reply::Started`] or [`Reply::Failed`], after the exit comes [`Reply::Exited`].
    ///
    /// # Errors
    /// No launcher can be reached or started.
    pub fn launch(&self, mut launch: Launch, descriptors: &[BorrowedFd<'_>]) -> Result<UnixStream> {
        if let Some(linux) = &mut launch.spec.linux {
            launch.filter = self.filters.take_from(&mut linux.seccomp);
        }
        let (ours, theirs) = UnixStream::pair()
            .map_err(|error| Error::from(error).with_hint("raise the limit of open files of the engine"))?;
        if self.hand_over(theirs.as_fd()).is_err() {
            self.respawn()?;
            self.hand_over(theirs.as_fd())
                .map_err(|error| Error::unavailable("cannot reach the launcher").caused_by(error))?;
        }
        drop(theirs);
        ours.set_write_timeout(Some(HAND_OVER))?;
        wire::send_all(ours.as_fd(), &encode(&launch), descriptors)
            .map_err(|error| Error::unavailable(format!("cannot launch {}", launch.id)).caused_by(error))?;
        Ok(ours)
    }

    fn hand_over(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let process = self.lock();
        wire::send(process.socket.as_fd(), b"L", &[socket]).map(drop)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LauncherProcess> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The socket is the launcher's standard input, so that no descriptor needs an agreed number.
fn spawn(config: &LauncherConfig) -> Result<LauncherProcess> {
    let failed = |error: io::Error| Error::internal("cannot start the launcher").caused_by(error);
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed(error.into()))?;
    let mut command = Command::new(&config.program);
    command.args(&config.args);
    for directory in &config.keep {
        command.arg("--keep").arg(directory);
    }
    command.env_clear().current_dir("/").stdin(Stdio::from(theirs)).stdout(Stdio::null());
    let child = command.spawn().map_err(failed)?;
    Ok(LauncherProcess { socket: ours, child })
}

/// A blocking conversation with a shim.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    decoder: Decoder,
}

impl Connection {
    /// Over a stream that is connected to a shim.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::new() }
    }

    /// Sends a request with its descriptors.
    ///
    /// # Errors
    /// The shim is gone.
    pub fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::send_all(self.stream.as_fd(), &encode(request), descriptors).map_err(timed_out)
    }

    /// Waits for the next reply; `None` when the shim has gone.
    ///
    /// # Errors
    /// The stream failed, what came is no reply, or nothing came in time.
    pub fn recv(&mut self) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            if self.decoder.receive(&self.stream).map_err(timed_out)? == 0 {
                return Ok(None);
            }
        }
    }

    /// The socket and what was received but not yet read.
    pub fn into_parts(self) -> (UnixStream, Decoder) {
        (self.stream, self.decoder)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Connects to the shim of a run directory. A shim answers within the time of a few system calls; one that is
/// silent for `patience`, be it now or at a later [`Connection::recv`], is stopped or stuck.
///
/// # Errors
/// `NotFound` when there is no socket, `ConnectionRefused` when its shim is dead, `TimedOut` when it does not
/// answer, or the path is too long.
pub fn connect(run_dir: &Path, patience: Duration) -> io::Result<Connection> {
    // A socket address holds 108 bytes; through its directory's descriptor any path is short enough.
    let directory = rustix::fs::open(
        run_dir,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let address = SocketAddrUnix::new(crate::wire::short_path(directory.as_fd(), SOCKET))?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for direction in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, direction, Some(patience))?;
    }
    rustix::net::connect(&socket, &address).map_err(|error| timed_out(error.into()))?;
    Ok(Connection::new(socket.into()))
}

/// What the kernel says of a socket's timeout, in a word that means it.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "the shim does not answer"),
        _ => error,
    }
}

/// Waits for exactly one reply and takes nothing beyond it off the stream, so that the caller can go on with
/// the stream as it likes. Blocks, on a nonblocking socket too, for at most `patience`.
///
/// # Errors
/// The stream ended or failed, what came is no reply, or `TimedOut`.
pub fn recv_reply(stream: &UnixStream, patience: Duration) -> io::Result<(Reply, Vec<OwnedFd>)> {
    let mut decoder = Decoder::new();
    let mut head = [0; 4];
    let deadline = Instant::now() + patience;
    read_exactly(stream, &mut head, &mut decoder, deadline)?;
    let length = u32::from_le_bytes(head) as usize;
    if length > wire::MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
    }
    read_exactly(stream, &mut vec![0; length], &mut decoder, deadline)?;
    decoder.next()?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

fn read_exactly(
    stream: &UnixStream,
    buffer: &mut [u8],
    decoder: &mut Decoder,
    deadline: Instant,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = rustix::event::Timespec::try_from(left).ok();
        let mut wait = [rustix::event::PollFd::new(stream, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut wait, left.as_ref()) {
            Ok(0) => return Err(timed_out(io::ErrorKind::WouldBlock.into())),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match wire::receive(stream.as_fd(), &mut buffer[filled..]) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((length, descriptors)) => {
                decoder.push(&buffer[filled..filled + length], descriptors);
                filled += length;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
