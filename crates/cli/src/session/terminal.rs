//! The user's terminal: raw while a container has it, and its size.

use std::os::fd::BorrowedFd;

use rustix::termios::{self, OptionalActions, Termios};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A terminal in raw mode; it is put back when this is dropped, on every way out, panics too.
pub(crate) struct RawTerminal {
    fd: BorrowedFd<'static>,
    before: Termios,
}

impl RawTerminal {
    /// Makes a terminal raw; `None` when it is none.
    pub(crate) fn enter(fd: BorrowedFd<'static>) -> Option<Self> {
        let before = termios::tcgetattr(fd).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(fd, OptionalActions::Now, &raw).ok()?;
        Some(Self { fd, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done if this fails: the terminal is gone.
        let _ = termios::tcsetattr(self.fd, OptionalActions::Now, &self.before);
    }
}

/// Rows and columns; `None` when it is no terminal or has no size.
pub(crate) fn size(fd: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(fd).ok()?;
    (size.ws_row > 0 || size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Tells when the terminal changes its size.
pub(crate) struct Resizes(Option<Signal>);

impl Resizes {
    /// Watches from now on.
    pub(crate) fn watch() -> Self {
        Self(signal(SignalKind::window_change()).ok())
    }

    /// Waits for the next change.
    pub(crate) async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}
