//! Small processes that an engine starts from its own program. They serve containers, without any privilege, and
//! outlive the engine.

use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{process, signal, socket};

/// Signals that end processes by default and are nothing to a companion: HUP, INT, QUIT, PIPE, TERM.
const IGNORED: [i32; 5] = [1, 2, 3, 13, 15];

/// Whoever owns nothing on any host.
const NOBODY: u32 = 65534;

/// How long a companion may take for what an engine says: it needs microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest message between an engine and a companion, in bytes; the kernel carries more.
const LONGEST: usize = 64 << 10;

/// Sends a message.
pub fn send(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if message.len() > LONGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    socket::send_with_fds(socket, message, descriptors)
}

/// Waits for the next message; `None` at the end.
pub fn receive(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    message(|buffer| socket::recv_with_fds(socket, buffer))
}

/// As [`receive`], but `WouldBlock` at once when nothing is there.
pub fn try_receive(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    message(|buffer| socket::try_recv_with_fds(socket, buffer))
}

fn message(
    receive: impl FnOnce(&mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)>,
) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; LONGEST];
    let (length, descriptors) = receive(&mut buffer)?;
    buffer.truncate(length);
    Ok((length > 0).then_some((buffer, descriptors)))
}

/// A companion that an engine has started.
#[derive(Debug)]
pub struct Companion {
    socket: OwnedFd,
    pid: u32,
}

impl Companion {
    /// Starts one from the program of the calling process: `word` is its first argument. `sign` is a path that
    /// tells people whose it is. The child is for waiting; what it leaves goes with its end.
    pub fn start(word: &str, sign: &Path) -> io::Result<(Self, Child)> {
        let (ours, theirs) = socket::seqpacket_pair()?;
        for direction in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&ours, direction, Some(PATIENCE))?;
        }
        let arguments = [OsString::from(word), "--of".into(), sign.into()];
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments).env_clear().current_dir("/");
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = signal::unblocked(&mut command).spawn()?;
        Ok((Self { socket: ours, pid: child.id() }, child))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The socket that leads to it, with message boundaries. What it does not take, or does not answer, within a
    /// few seconds is an error.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Makes a companion of the calling process, of the name `name` and with at most so many descriptors; gives its
/// engine's socket. From here on it can do nothing but use its descriptors and open sockets.
pub fn begin(name: &CStr, descriptors: u64) -> io::Result<OwnedFd> {
    let engine = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    process::duplicate_to(&null, 0)?;
    drop(null);
    // What whoever started the engine left open is none of ours.
    process::close_all_but(&[engine.as_raw_fd()])?;
    rustix::process::setsid()?;
    rustix::thread::set_name(name)?;
    for signal in IGNORED {
        process::ignore_signal(signal)?;
    }
    // No more than there may be: nobody but root of the host can raise that.
    let limit = getrlimit(Resource::Nofile).maximum.map_or(descriptors, |most| most.min(descriptors));
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    process::become_user(NOBODY, NOBODY, &[])?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(engine)
}
