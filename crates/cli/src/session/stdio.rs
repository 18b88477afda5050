//! Our standard streams on the event loop, without threads and without touching their flags.
//!
//! They are often shared with the shell that called us, so they must not be made non-blocking. Instead each
//! read and write is made only after `poll` has said that it will not wait.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::unix::AsyncFd;

/// The three streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stdio {
    /// Standard input.
    pub input: BorrowedFd<'static>,
    /// Standard output.
    pub output: BorrowedFd<'static>,
    /// Standard error.
    pub errors: BorrowedFd<'static>,
}

/// A descriptor written to directly: the buffering is ours.
#[derive(Debug)]
pub(crate) struct Direct(pub BorrowedFd<'static>);

impl Write for Direct {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                Err(rustix::io::Errno::AGAIN) => wait(self.0, PollFlags::OUT),
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags) {
    // An error shows in the read or write that follows.
    let _ = poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None);
}

/// Whether a read or write would not wait.
fn ready(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(fd, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut polled, Some(&now)), Ok(1..))
}

struct Watched(BorrowedFd<'static>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A descriptor that epoll watches; regular files cannot be watched and never wait.
enum Source {
    Watched(AsyncFd<Watched>),
    Immediate(BorrowedFd<'static>),
}

impl Source {
    fn new(fd: BorrowedFd<'static>, interest: tokio::io::Interest) -> Self {
        #[expect(
            deprecated,
            reason = "its successor is unsafe for a promise that a descriptor borrowed for ever keeps"
        )]
        match AsyncFd::with_interest(Watched(fd), interest) {
            Ok(watched) => Self::Watched(watched),
            Err(_) => Self::Immediate(fd),
        }
    }
}

/// Standard input.
pub(crate) struct Input(Source);

impl Input {
    /// Watches this descriptor.
    pub(crate) fn new(fd: BorrowedFd<'static>) -> Self {
        Self(Source::new(fd, tokio::io::Interest::READABLE))
    }

    /// Reads what is there; 0 at the end. A descriptor that is not open reads as ended.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = match &mut self.0 {
            Source::Immediate(fd) => retry(|| rustix::io::read(*fd, &mut *buffer)),
            Source::Watched(watched) => loop {
                let mut guard = std::task::ready!(watched.poll_read_ready(cx))?;
                let fd = guard.get_inner().0;
                if ready(fd, PollFlags::IN) {
                    break retry(|| rustix::io::read(fd, &mut *buffer));
                }
                guard.clear_ready();
            },
        };
        Poll::Ready(match read {
            // EIO: a terminal that has gone away.
            Err(rustix::io::Errno::BADF | rustix::io::Errno::IO) => Ok(0),
            other => Ok(other?),
        })
    }

    /// [`Input::poll_read`] for those who can wait.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_read(cx, buffer)).await
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Standard output or error.
pub(crate) struct Output(Source);

/// What a pipe that is ready takes without waiting.
const PIECE: usize = 4096;

impl Output {
    /// Watches this descriptor.
    pub(crate) fn new(fd: BorrowedFd<'static>) -> Self {
        Self(Source::new(fd, tokio::io::Interest::WRITABLE))
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match &mut self.0 {
                Source::Immediate(fd) => retry(|| rustix::io::write(*fd, bytes))?,
                Source::Watched(watched) => {
                    let mut guard = watched.writable().await?;
                    let attempt = guard.try_io(|inner| {
                        let fd = inner.get_ref().0;
                        if !ready(fd, PollFlags::OUT) {
                            return Err(io::ErrorKind::WouldBlock.into());
                        }
                        Ok(retry(|| rustix::io::write(fd, &bytes[..bytes.len().min(PIECE)]))?)
                    });
                    match attempt {
                        Ok(result) => result?,
                        Err(_would_block) => 0,
                    }
                }
            };
            bytes = &bytes[written..];
        }
        Ok(())
    }
}
