//! Terminals of containers run from a command line.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use std::os::unix::net::UnixStream;
use std::path::Path;
use yare_errdefs::{Error, Result};
use yare_sys::process::{Exit, wait};
use yare_sys::socket::send_with_fds;

/// Hands a terminal's master over, as runc does: its name and the descriptor.
pub(super) fn send_console(socket: &Path, master: &OwnedFd) -> Result<()> {
    UnixStream::connect(socket)
        .and_then(|stream| send_with_fds(&stream, b"/dev/ptmx", &[master.as_fd()]))
        .map_err(|error| {
            Error::internal(format!("cannot hand the terminal to {}", socket.display())).caused_by(error)
        })
}

/// Raw mode of our own terminal while a container uses it.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return Self(None);
        }
        let Ok(before) = tcgetattr(stdin) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let _ = tcsetattr(stdin, OptionalActions::Now, &raw);
        Self(Some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Copies between our terminal and the container's until its process has ended.
pub(super) fn relay(master: &OwnedFd, pidfd: &OwnedFd) -> Result<Exit> {
    let failed = |error: std::io::Error| Error::internal("cannot relay the terminal").caused_by(error);
    let stdin = rustix::stdio::stdin();
    if let Ok(size) = tcgetwinsize(stdin) {
        let _ = tcsetwinsize(master, size);
    }
    let _raw = Raw::enter();
    let mut input = true;
    loop {
        let mut polled = [
            PollFd::new(master, PollFlags::IN),
            PollFd::new(pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(stdin, if input { PollFlags::IN } else { PollFlags::empty() }),
        ];
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let [output, ended, typed] = polled.map(|fd| !fd.revents().is_empty());
        let more = output && copy(master.as_fd(), rustix::stdio::stdout());
        if typed && input {
            input = copy(stdin, master.as_fd());
        }
        if ended && !more {
            let exit = wait(pidfd, true).map_err(failed)?;
            return Ok(exit.unwrap_or(Exit::Code(0)));
        }
    }
}

/// One read's worth; whether there was any.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 8192];
    let Ok(count) = rustix::io::read(from, &mut buffer) else { return false };
    let mut rest = &buffer[..count];
    while !rest.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::write(to, rest)) {
            Ok(written) => rest = &rest[written..],
            Err(_) => return false,
        }
    }
    count > 0
}
