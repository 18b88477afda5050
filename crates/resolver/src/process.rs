//! The resolver's process, from inside and from the engine's side.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::orders::{self, Order};
use crate::serve::Server;

/// Signals that end processes by default and are nothing to a resolver: HUP, INT, QUIT, PIPE, TERM.
const IGNORED: [i32; 5] = [1, 2, 3, 13, 15];

/// Whoever owns nothing on any host.
const NOBODY: u32 = 65534;

/// Descriptors: two a container, and one for each question under way.
const DESCRIPTORS: u64 = 65536;

/// How long the resolver may take to accept an order: it needs microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the resolver. Its standard input is the engine's socket.
pub fn main() -> io::Result<()> {
    let engine = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    yare_sys::process::duplicate_to(&null, 0)?;
    // What whoever started the engine left open is none of ours.
    yare_sys::process::close_all_but(&[engine.as_raw_fd()])?;
    rustix::process::setsid()?;
    rustix::thread::set_name(c"yare-resolver")?;
    for signal in IGNORED {
        yare_sys::process::ignore_signal(signal)?;
    }
    if let Some(limited) = yare_sys::process::set_limit("NOFILE", DESCRIPTORS, DESCRIPTORS) {
        limited?;
    }
    drop_privileges()?;
    Server::new(engine)?.run()
}

/// From here on it can do nothing but use its descriptors and open sockets.
fn drop_privileges() -> io::Result<()> {
    yare_sys::process::become_user(NOBODY, NOBODY, &[])?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// A resolver that an engine has started.
#[derive(Debug)]
pub struct Process {
    socket: OwnedFd,
    pid: u32,
}

impl Process {
    /// Starts one from the program of the calling process. `sign` is a path that tells people whose it is. The
    /// child is for waiting; what it leaves goes with its end.
    pub fn start(sign: &Path) -> io::Result<(Self, Child)> {
        let (ours, theirs) = yare_sys::socket::seqpacket_pair()?;
        set_socket_timeout(&ours, Timeout::Send, Some(PATIENCE))?;
        let arguments = [OsString::from("resolver"), "--of".into(), sign.into()];
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments).env_clear().current_dir("/");
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = yare_sys::signal::unblocked(&mut command).spawn()?;
        Ok((Self { socket: ours, pid: child.id() }, child))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it something. An error means that it is gone or stuck.
    pub fn tell(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        orders::send(&self.socket, order, descriptors)
    }
}
