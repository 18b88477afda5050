//! A process beside the shim for logs that may keep one waiting: a server somewhere, a disk that hangs.
//!
//! The shim hands it what the container says, over a stream socket, and never waits for it. In the meantime
//! the container waits, as with Docker; or with `mode=non-blocking` as much as was asked for is kept and the
//! rest is thrown away. The courier ends when the socket does and everything is delivered.

use crate::journal::Journal;
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use yare_logs::{About, LogError, Remote, Stream, Target, Writer};
use yare_sys::process::{self, Fork};

/// How long a courier may take until its server is reached.
const REACHED: Duration = Duration::from_secs(20);

/// How long it may take to deliver the rest after the container's end.
const CLOSING: Duration = Duration::from_secs(10);

/// Bytes that wait before the container has to.
const FULL: usize = 64 << 10;

/// Stream, nanoseconds since 1970, length.
const HEAD: usize = 1 + 16 + 4;

/// What a courier does with output.
#[derive(Debug)]
pub(crate) enum Errand {
    /// Sends it to a server.
    Send(Target, Box<About>),
    /// Writes it to a file.
    Write(Box<Writer>),
}

/// The shim's side.
#[derive(Debug)]
pub(crate) struct Courier {
    pidfd: OwnedFd,
    /// `None` once all is handed over, or the courier is gone.
    socket: Option<UnixStream>,
    pending: Vec<u8>,
    /// Most bytes of `pending` where output is rather lost than waited for.
    bound: Option<usize>,
    lost: usize,
    /// When a courier that still delivers is given up.
    until: Option<Instant>,
    is_over: bool,
}

impl Courier {
    /// Starts one; fails with what it says when its server cannot be reached.
    pub(crate) fn start(errand: Errand, bound: Option<u64>, run_dir: &Path) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let pidfd = match process::fork(0, None)? {
            Fork::Child => {
                drop(ours);
                become_courier(theirs, errand, run_dir)
            }
            Fork::Parent { pidfd, .. } => pidfd,
        };
        drop(theirs);
        let socket = await_report(ours)?;
        Ok(Self {
            pidfd,
            socket: Some(socket),
            pending: Vec::new(),
            bound: bound.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            lost: 0,
            until: None,
            is_over: false,
        })
    }

    /// Takes output; no bytes end the stream.
    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) {
        let after = self.pending.len() + HEAD + bytes.len();
        if self.bound.is_some_and(|bound| after > bound) && !(self.pending.is_empty() || bytes.is_empty()) {
            self.lost += bytes.iter().filter(|byte| **byte == b'\n').count().max(1);
            return;
        }
        self.pending.push(stream.code());
        self.pending.extend_from_slice(&now.as_nanosecond().to_le_bytes());
        self.pending.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.pending.extend_from_slice(bytes);
    }

    /// Gives the courier as much as it takes.
    pub(crate) fn hand_over(&mut self, journal: &mut Journal) {
        if self.lost > 0 {
            journal.entries_lost(std::mem::take(&mut self.lost), &"the log driver is too slow");
        }
        let Some(socket) = &mut self.socket else {
            self.pending.clear();
            return;
        };
        let mut sent = 0;
        while sent < self.pending.len() {
            match socket.write(&self.pending[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    journal
                        .note(&format!("nothing more is logged: the log driver's process is gone: {error}"));
                    self.socket = None;
                    self.pending.clear();
                    return;
                }
            }
        }
        self.pending.drain(..sent);
        if self.pending.is_empty() {
            if self.pending.capacity() > 2 * FULL {
                self.pending = Vec::new();
            }
            if self.until.is_some() {
                self.socket = None;
            }
        }
    }

    /// Whether the container has to wait.
    pub(crate) fn is_full(&self) -> bool {
        self.bound.is_none() && self.pending.len() >= FULL
    }

    /// No more output comes. `true` once all is delivered, or it took too long.
    pub(crate) fn close(&mut self, journal: &mut Journal) -> bool {
        let until = *self.until.get_or_insert_with(|| Instant::now() + CLOSING);
        self.hand_over(journal);
        if !self.is_over && Instant::now() >= until {
            journal.note("the log driver did not deliver everything in time");
            let _ = process::pidfd_send_signal(&self.pidfd, 9);
            let _ = process::wait(&self.pidfd, true);
            self.is_over = true;
        }
        self.is_over
    }

    /// When [`Courier::close`] gives up.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until.filter(|_| !self.is_over)
    }

    /// What is waited for: that it takes more, and its end.
    pub(crate) fn register<'a>(&'a self, mut add: impl FnMut(PollFd<'a>)) {
        if let Some(socket) = self.socket.as_ref().filter(|_| !self.pending.is_empty()) {
            add(PollFd::new(socket, PollFlags::OUT));
        }
        if !self.is_over {
            add(PollFd::new(&self.pidfd, PollFlags::IN));
        }
    }

    /// Looks whether it has ended.
    pub(crate) fn look(&mut self, journal: &mut Journal) {
        if self.is_over || !matches!(process::wait(&self.pidfd, false), Ok(Some(_)) | Err(_)) {
            return;
        }
        self.is_over = true;
        if self.socket.take().is_some() && self.until.is_none() {
            journal.note("nothing more is logged: the log driver's process has ended");
        }
    }
}

/// Waits until the courier says that it is ready.
fn await_report(mut socket: UnixStream) -> io::Result<UnixStream> {
    socket.set_read_timeout(Some(REACHED))?;
    let mut report = String::new();
    BufReader::new(&mut socket).read_line(&mut report)?;
    match report.strip_suffix('\n') {
        Some("") => {
            socket.set_nonblocking(true)?;
            Ok(socket)
        }
        Some(why) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, why.to_owned())),
        None => Err(io::Error::other("the log driver's process ended at once")),
    }
}

fn become_courier(mut socket: UnixStream, errand: Errand, run_dir: &Path) -> ! {
    let journal = Journal::new(run_dir);
    // The directory has the container's name.
    process::set_title(&format!("yare-log {}", run_dir.file_name().unwrap_or_default().display()));
    let code = match process::close_all_but(&[socket.as_raw_fd()]) {
        Err(_) => 71,
        Ok(()) => match Delivery::prepare(errand) {
            Ok(delivery) if socket.write_all(b"\n").is_ok() => {
                let run = std::panic::AssertUnwindSafe(|| deliver_all(socket, delivery, journal));
                std::panic::catch_unwind(run).unwrap_or(70)
            }
            Ok(_) => 0,
            Err(error) => {
                let _ = socket.write_all(format!("{}\n", error.to_string().replace('\n', " ")).as_bytes());
                1
            }
        },
    };
    process::exit_now(code)
}

/// The courier's side of an errand.
enum Delivery {
    Send(Box<Remote>, yare_logs::Lines),
    Write(Box<Writer>),
}

impl Delivery {
    fn prepare(errand: Errand) -> io::Result<Self> {
        Ok(match errand {
            Errand::Send(target, about) => {
                Self::Send(Box::new(Remote::connect(target, *about)?), yare_logs::Lines::default())
            }
            Errand::Write(writer) => Self::Write(writer),
        })
    }

    fn deliver(&mut self, stream: Stream, time: Timestamp, bytes: &[u8], journal: &mut Journal) {
        match self {
            Self::Write(writer) => {
                let taken = match bytes {
                    [] => writer.finish(stream, time),
                    bytes => writer.append(stream, bytes, time),
                };
                note_failure(taken, journal);
            }
            Self::Send(remote, lines) => {
                let mut send = |text: &[u8], whole: bool| {
                    if let Err(error) = remote.send(stream, time, text, whole) {
                        journal.entries_lost(1, &error);
                    }
                };
                match bytes {
                    [] => lines.finish(stream, &mut send),
                    bytes => lines.feed(stream, bytes, &mut send),
                }
            }
        }
    }

    /// Nothing more is here at the moment.
    fn pause(&mut self, journal: &mut Journal) {
        let Self::Write(writer) = self else { return };
        note_failure(writer.flush(), journal);
        if let Some(work) = writer.compression() {
            writer.compressed(work.run().is_ok());
        }
    }
}

fn note_failure(outcome: Result<(), LogError>, journal: &mut Journal) {
    if let Err(error) = outcome {
        journal.log_failed(&error);
    }
}

fn deliver_all(socket: UnixStream, mut delivery: Delivery, mut journal: Journal) -> i32 {
    let mut input = BufReader::with_capacity(FULL, socket);
    let mut head = [0; HEAD];
    let mut bytes = Vec::new();
    while input.read_exact(&mut head).is_ok() {
        let stream = if head[0] == Stream::Stderr.code() { Stream::Stderr } else { Stream::Stdout };
        let nanoseconds = i128::from_le_bytes(head[1..17].try_into().unwrap_or_default());
        let time = Timestamp::from_nanosecond(nanoseconds).unwrap_or_default();
        let length = u32::from_le_bytes(head[17..].try_into().unwrap_or_default());
        bytes.resize(length as usize, 0);
        if input.read_exact(&mut bytes).is_err() {
            break;
        }
        delivery.deliver(stream, time, &bytes, &mut journal);
        if input.buffer().is_empty() {
            delivery.pause(&mut journal);
        }
    }
    delivery.pause(&mut journal);
    0
}
