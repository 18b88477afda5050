//! The carrier's process, from inside and from the engine's side.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Child;

use tokio::signal::unix::{Signal, SignalKind, signal};
use yare_sys::companion::{self, Companion};

use crate::orders::{self, Order, PORTS, Port};
use crate::serve;

/// Descriptors: one a port, two a connection.
const DESCRIPTORS: u64 = 1 << 18;

/// The signal that asks a carrier to accept nobody any more: USR1.
const RETIRE: i32 = 10;

/// Runs the carrier. Its standard input is the engine's socket.
pub fn main() -> io::Result<()> {
    let engine = companion::begin(c"yare-carrier", DESCRIPTORS)?;
    // One thread: bytes are copied, and nothing is computed.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve::run(engine))
}

/// Asks a carrier of another engine to accept nobody any more, and to end with its last connection.
pub fn retire(pid: u32) -> io::Result<()> {
    yare_sys::process::kill(i32::try_from(pid).map_err(io::Error::other)?, RETIRE)
}

/// Requests to retire.
pub(crate) fn requests() -> io::Result<Signal> {
    signal(SignalKind::from_raw(RETIRE))
}

/// A carrier that an engine has started.
#[derive(Debug)]
pub struct Process(Companion);

impl Process {
    /// Starts one from the program of the calling process. `sign` is a path that tells people whose it is. The
    /// child is for waiting; what it leaves goes with its end.
    pub fn start(sign: &Path) -> io::Result<(Self, Child)> {
        let (companion, child) = Companion::start("carrier", sign)?;
        Ok((Self(companion), child))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Has it serve who comes to the socket of a port by asking `target`. An error means that it is gone or stuck.
    pub fn serve(&self, port: Port, socket: BorrowedFd<'_>, target: SocketAddr) -> io::Result<()> {
        orders::send(self.0.socket(), &Order::Serve { port, target }, &[socket])
    }

    /// Has it end everything at these ports: its sockets are closed when this returns.
    pub fn close(&self, ports: &[Port]) -> io::Result<()> {
        for some in ports.chunks(PORTS) {
            orders::send(self.0.socket(), &Order::Close { ports: some.to_vec() }, &[])?;
            let mut done = [0; 1];
            match yare_sys::socket::recv_with_fds(self.0.socket(), &mut done)? {
                (1, _) => {}
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(())
    }
}
