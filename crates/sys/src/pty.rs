//! Pseudo-terminals, always of a chosen devpts instance.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;

/// Magic number of devpts in `statfs`.
const DEVPTS: i64 = 0x1cd1;

/// A master and its slave.
#[derive(Debug)]
pub struct Pty {
    /// The end the supervisor keeps.
    pub master: OwnedFd,
    /// The end the program gets; not yet anybody's controlling terminal.
    pub slave: OwnedFd,
}

/// Opens a new terminal of the devpts instance whose root directory is `devpts`.
///
/// The slave comes from the master by `TIOCGPTPEER`, so that no path is looked up a second time; both are
/// checked to be on devpts.
pub fn open_beneath(devpts: impl AsFd) -> io::Result<Pty> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::openat(&devpts, c"ptmx", flags, Mode::empty())?;
    if rustix::fs::fstatfs(&master)?.f_type as i64 != DEVPTS {
        return Err(io::Error::other("ptmx is not on devpts"));
    }
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    if rustix::fs::fstatfs(&slave)?.f_type as i64 != DEVPTS {
        return Err(io::Error::other("the terminal is not on devpts"));
    }
    Ok(Pty { master, slave })
}

/// Sets the size of the terminal behind either end, in characters.
pub fn resize(end: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(end, size)?)
}
