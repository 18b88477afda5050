//! Watching: one inotify instance for all the logs that a process follows. The kernel gives each user few
//! instances (128 by default), but many watches.

use crate::{LogError, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Tells which logs may have grown. Its descriptor becomes readable when some have.
#[derive(Debug)]
pub struct Watch(OwnedFd);

/// The number of a log's directory in a [`Watch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Watched(i32);

/// What a [`Watch`] has to tell.
#[derive(Debug, PartialEq, Eq)]
pub enum Grown {
    /// Logs in these directories.
    These(Vec<Watched>),
    /// More happened than the kernel could note: any of them.
    Any,
}

impl Watch {
    /// Opens one that watches nothing yet.
    ///
    /// # Errors
    /// The limit of inotify instances or of open files is reached.
    pub fn open() -> Result<Self> {
        inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map(Self)
            .map_err(|error| LogError::file("watch", Path::new("logs"))(error.into()))
    }

    /// Watches the directory of a log. A directory that is watched already has the same number again. Whoever
    /// follows calls this before the log is opened: nothing written in between is missed.
    ///
    /// # Errors
    /// There is no such directory, or the limit of watches is reached.
    pub fn add(&self, log: &Path) -> Result<Watched> {
        let directory = match log.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let wanted = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&self.0, directory, wanted)
            .map(Watched)
            .map_err(|error| LogError::file("watch", directory)(error.into()))
    }

    /// Watches a directory no longer. One that was removed meanwhile is no error.
    pub fn remove(&self, watched: Watched) {
        let _ = inotify::remove_watch(&self.0, watched.0);
    }

    /// Takes what has happened since it was last asked.
    ///
    /// # Errors
    /// The instance cannot be read.
    pub fn take(&self) -> Result<Grown> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        let mut grown = Vec::new();
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => return Ok(Grown::Any),
                Ok(event) => {
                    let watched = Watched(event.wd());
                    if !grown.contains(&watched) {
                        grown.push(watched);
                    }
                }
                Err(Errno::AGAIN) => return Ok(Grown::These(grown)),
                Err(Errno::INTR) => {}
                Err(error) => return Err(LogError::file("watch", Path::new("logs"))(error.into())),
            }
        }
    }

    /// Waits until something happens, at most `timeout`; `false` after the timeout.
    ///
    /// # Errors
    /// Waiting failed.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let timeout = Timespec::try_from(timeout).ok();
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout.as_ref())) {
            Ok(ready) => Ok(ready > 0),
            Err(error) => Err(LogError::file("watch", Path::new("logs"))(error.into())),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
