//! The resolver's process, from inside and from the engine's side.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Child;

use yare_sys::companion::{self, Companion};

use crate::orders::{self, Order};
use crate::serve::Server;

/// Descriptors: two a container, and one for each question under way.
const DESCRIPTORS: u64 = 65536;

/// Runs the resolver. Its standard input is the engine's socket.
pub fn main() -> io::Result<()> {
    Server::new(companion::begin(c"yare-resolver", DESCRIPTORS)?)?.run()
}

/// A resolver that an engine has started.
#[derive(Debug)]
pub struct Process(Companion);

impl Process {
    /// Starts one from the program of the calling process. `sign` is a path that tells people whose it is. The
    /// child is for waiting; what it leaves goes with its end.
    pub fn start(sign: &Path) -> io::Result<(Self, Child)> {
        let (companion, child) = Companion::start("resolver", sign)?;
        Ok((Self(companion), child))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Tells it something. An error means that it is gone or stuck.
    pub fn tell(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        orders::send(self.0.socket(), order, descriptors)
    }
}
