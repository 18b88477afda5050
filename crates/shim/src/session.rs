//! The standard streams of one process: where its output goes, where its input comes from.

use crate::attach::{Attach, Received};
use crate::protocol::AttachSpec;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::io;
use std::os::fd::OwnedFd;
use yare_logs::Stream;
use yare_runtime::Stdio;

/// Bytes read at once. A pipe holds twice as much; the buffer stays in memory, once for each container.
pub(crate) const CHUNK: usize = 32 << 10;

/// Where output goes besides the clients; no bytes are the end of the stream.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(Stream, &[u8]);

/// Which of a session's descriptors an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Standard input takes more.
    Input,
    /// Output can be read.
    Output(usize),
    /// A client can be written to or read from.
    Attach(usize),
}

/// What streams a process gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamOptions {
    /// A terminal, of this size (rows, columns), instead of pipes.
    pub(crate) terminal: Option<Option<(u16, u16)>>,
    /// Whether there is standard input.
    pub(crate) open_stdin: bool,
    /// Whether it ends with its first client.
    pub(crate) stdin_once: bool,
}

/// The supervisor's ends of the streams, and the clients attached to them.
#[derive(Debug)]
pub(crate) struct Session {
    options: StreamOptions,
    input: Option<Input>,
    outputs: Vec<Output>,
    attaches: Vec<Attach>,
}

#[derive(Debug)]
struct Output {
    stream: Stream,
    /// `None` once it has ended.
    fd: Option<OwnedFd>,
}

/// Standard input of the process.
#[derive(Debug)]
struct Input {
    fd: OwnedFd,
    /// What the process did not take yet.
    pending: Vec<u8>,
    /// Closed once `pending` is empty.
    ending: bool,
}

impl Session {
    /// Makes the streams: the session, and what the process gets. A terminal's master follows with
    /// [`Session::set_console`].
    pub(crate) fn open(options: StreamOptions) -> io::Result<(Self, Stdio)> {
        let mut session = Self { options, input: None, outputs: Vec::new(), attaches: Vec::new() };
        if let Some(size) = options.terminal {
            return Ok((session, Stdio::Terminal { size }));
        }
        let stdin = if options.open_stdin {
            let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            session.input = Some(Input::new(ours)?);
            theirs
        } else {
            rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?
        };
        let stdout = session.output_pipe(Stream::Stdout)?;
        let stderr = session.output_pipe(Stream::Stderr)?;
        Ok((session, Stdio::Descriptors { stdin, stdout, stderr }))
    }

    fn output_pipe(&mut self, stream: Stream) -> io::Result<OwnedFd> {
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        self.outputs.push(Output { stream, fd: Some(ours) });
        Ok(theirs)
    }

    /// Takes the master of the process's terminal.
    pub(crate) fn set_console(&mut self, master: OwnedFd) -> io::Result<()> {
        if self.options.open_stdin {
            self.input = Some(Input::new(master.try_clone()?)?);
        }
        rustix::io::ioctl_fionbio(&master, true)?;
        self.outputs.push(Output { stream: Stream::Stdout, fd: Some(master) });
        Ok(())
    }

    /// The terminal's master, while it is open.
    pub(crate) fn console(&self) -> Option<&OwnedFd> {
        self.options.terminal?;
        self.outputs.first()?.fd.as_ref()
    }

    pub(crate) fn attach(&mut self, socket: OwnedFd, spec: AttachSpec) {
        let framed = self.options.terminal.is_none();
        self.attaches.push(Attach::new(socket, spec, framed));
    }

    /// Whether all output has been read.
    pub(crate) fn is_drained(&self) -> bool {
        self.outputs.iter().all(|output| output.fd.is_none())
    }

    /// Whether every client has got everything, or left.
    pub(crate) fn is_delivered(&self) -> bool {
        self.attaches.is_empty()
    }

    /// Adds what this session waits for: no output while its log `is_full`.
    pub(crate) fn register<'a>(&'a self, is_full: bool, mut add: impl FnMut(Part, PollFd<'a>)) {
        let input = self.input.as_ref().filter(|input| !input.pending.is_empty());
        if let Some(input) = input {
            add(Part::Input, PollFd::new(&input.fd, PollFlags::OUT));
        }
        if !(is_full || self.is_held_up()) {
            for (index, output) in self.outputs.iter().enumerate() {
                if let Some(fd) = &output.fd {
                    add(Part::Output(index), PollFd::new(fd, PollFlags::IN));
                }
            }
        }
        for (index, attach) in self.attaches.iter().enumerate() {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::OUT, attach.has_pending());
            wanted.set(PollFlags::IN, attach.is_reading() && input.is_none());
            // Without any wish the end of the connection is still reported.
            add(Part::Attach(index), PollFd::from_borrowed_fd(attach.socket(), wanted));
        }
    }

    /// Whether a client is so far behind that the process has to wait for it.
    fn is_held_up(&self) -> bool {
        self.attaches.iter().any(Attach::is_full)
    }

    /// Handles an event.
    pub(crate) fn handle(&mut self, part: Part, events: PollFlags, buffer: &mut [u8], sink: Sink<'_>) {
        match part {
            Part::Input => self.flush_input(),
            Part::Output(index) => {
                self.read_output(index, buffer, sink);
            }
            Part::Attach(index) => self.handle_attach(index, events, buffer),
        }
    }

    /// Reads of all outputs what a process that has ended may have left there, whether or not clients keep
    /// up: it is no more than a pipe holds. Somebody else who writes on and on is not listened to for ever.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], sink: Sink<'_>) {
        const READS: usize = (1 << 20) / CHUNK;
        for index in 0..self.outputs.len() {
            for _ in 0..READS {
                if !self.read_output(index, buffer, sink) {
                    break;
                }
            }
        }
    }

    /// Ends outputs that something other than the process keeps open.
    pub(crate) fn close_outputs(&mut self, sink: Sink<'_>) {
        for output in &mut self.outputs {
            if output.fd.take().is_some() {
                sink(output.stream, &[]);
            }
        }
    }

    /// Takes no more input and tells the clients that all output was written, as soon as it has been.
    pub(crate) fn finish(&mut self) {
        self.input = None;
        self.attaches.iter_mut().for_each(Attach::finish);
    }

    /// Drops clients that are done. Indices of [`Part`] are different afterwards.
    pub(crate) fn sweep(&mut self) {
        self.attaches.retain(|attach| !attach.is_over());
    }

    /// `false` when nothing was there.
    fn read_output(&mut self, index: usize, buffer: &mut [u8], sink: Sink<'_>) -> bool {
        let Output { stream, fd: slot } = &mut self.outputs[index];
        let Some(fd) = slot else { return false };
        match rustix::io::retry_on_intr(|| rustix::io::read(&*fd, &mut *buffer)) {
            Err(Errno::AGAIN) => false,
            Ok(length) if length > 0 => {
                let bytes = &buffer[..length];
                self.attaches.iter_mut().for_each(|attach| attach.output(*stream, bytes));
                sink(*stream, bytes);
                true
            }
            // A terminal answers EIO once nobody has it open.
            Ok(_) | Err(_) => {
                *slot = None;
                sink(*stream, &[]);
                false
            }
        }
    }

    fn handle_attach(&mut self, index: usize, events: PollFlags, buffer: &mut [u8]) {
        let attach = &mut self.attaches[index];
        if events.contains(PollFlags::OUT) {
            attach.flush();
        }
        let left = events.intersects(PollFlags::HUP | PollFlags::ERR);
        if attach.is_reading() {
            // A client that has left gets no second chance: all that it sent is taken, a socket buffer at most.
            while attach.is_reading() && (left || events.contains(PollFlags::IN)) {
                match attach.receive(buffer) {
                    Received::Bytes(length) => {
                        if let Some(input) = &mut self.input {
                            input.pending.extend_from_slice(&buffer[..length]);
                        }
                    }
                    Received::End => {
                        self.client_input_ended(index);
                        break;
                    }
                    Received::Nothing => break,
                }
                if !left {
                    break;
                }
            }
            self.flush_input();
        }
        if left {
            self.attaches[index].abandon();
        }
    }

    /// As in Docker: input that ends with its client is closed; otherwise the client is let go, for it would
    /// wait for the end of a process that it has nothing more to say to.
    fn client_input_ended(&mut self, index: usize) {
        if self.options.stdin_once && self.options.terminal.is_none() {
            if let Some(input) = &mut self.input {
                input.ending = true;
            }
        } else {
            self.attaches[index].finish();
        }
    }

    fn flush_input(&mut self) {
        if self.input.as_mut().is_some_and(|input| !input.flush()) {
            self.input = None;
        }
    }
}

impl Input {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, pending: Vec::new(), ending: false })
    }

    /// Writes what the process takes now; `false` when the input is to be closed.
    fn flush(&mut self) -> bool {
        let mut written = 0;
        while written < self.pending.len() {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &self.pending[written..])) {
                Ok(length) => written += length,
                Err(Errno::AGAIN) => {
                    self.pending.drain(..written);
                    return true;
                }
                // The process has closed it. Clients go on to see its output.
                Err(_) => return false,
            }
        }
        self.pending = Vec::new();
        !self.ending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const STDIN: AttachSpec = AttachSpec { stdin: true, stdout: true, stderr: true };

    fn open(stdin_once: bool) -> (Session, [File; 3]) {
        let options = StreamOptions { terminal: None, open_stdin: true, stdin_once };
        let (session, stdio) = Session::open(options).unwrap();
        let Stdio::Descriptors { stdin, stdout, stderr } = stdio else { unreachable!("no terminal") };
        (session, [stdin.into(), stdout.into(), stderr.into()])
    }

    /// One round of the loop; gives what the sink got.
    fn turn(session: &mut Session) -> Vec<(Stream, Vec<u8>)> {
        let mut parts = Vec::new();
        let mut fds = Vec::new();
        session.register(false, |part, fd| {
            parts.push(part);
            fds.push(fd);
        });
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
        let events: Vec<_> = parts.into_iter().zip(fds.iter().map(PollFd::revents)).collect();
        drop(fds);
        let mut got = Vec::new();
        for (part, events) in events {
            if !events.is_empty() {
                let mut sink = |stream, bytes: &[u8]| got.push((stream, bytes.to_vec()));
                session.handle(part, events, &mut [0; CHUNK], &mut sink);
            }
        }
        session.sweep();
        got
    }

    fn client(session: &mut Session, spec: AttachSpec) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        session.attach(ours.into(), spec);
        theirs
    }

    #[test]
    fn output_reaches_sink_and_clients_in_frames() {
        let (mut session, [_stdin, mut stdout, stderr]) = open(false);
        let mut client = client(&mut session, STDIN);
        stdout.write_all(b"hi").unwrap();
        drop(stderr);
        let got = turn(&mut session);
        assert_eq!(got, [(Stream::Stdout, b"hi".to_vec()), (Stream::Stderr, vec![])]);
        let mut frame = [0; 10];
        client.read_exact(&mut frame).unwrap();
        assert_eq!(&frame, b"\x01\0\0\0\0\0\0\x02hi");
        drop(stdout);
        turn(&mut session);
        assert!(session.is_drained());
    }

    #[test]
    fn half_close_ends_input_once_only() {
        for once in [true, false] {
            let (mut session, [mut stdin, _stdout, _stderr]) = open(once);
            let mut client = client(&mut session, STDIN);
            client.write_all(b"line\n").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            turn(&mut session);
            turn(&mut session);
            let mut buffer = [0; 16];
            assert_eq!(stdin.read(&mut buffer).unwrap(), 5);
            assert_eq!(session.input.is_none(), once);
            assert_eq!(session.is_delivered(), !once, "a client of lasting input is let go");
        }
    }

    #[test]
    fn all_input_of_a_client_that_left_arrives() {
        let (mut session, [mut stdin, _stdout, _stderr]) = open(true);
        let mut client = client(&mut session, STDIN);
        client.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(length) = client.write(&[7; 4096]) {
            sent += length;
        }
        assert!(sent > CHUNK, "more than a pipe holds");
        drop(client);
        turn(&mut session);
        let reader = std::thread::spawn(move || stdin.read_to_end(&mut Vec::new()).unwrap());
        while session.input.is_some() {
            turn(&mut session);
        }
        assert_eq!(reader.join().unwrap(), sent);
        assert!(session.is_delivered());
    }

    #[test]
    fn a_client_that_does_not_read_holds_the_process_up_but_not_for_ever() {
        let (mut session, [_stdin, mut stdout, _stderr]) = open(false);
        let stuck = client(&mut session, STDIN);
        rustix::io::ioctl_fionbio(&stdout, true).unwrap();
        let mut idle = 0;
        while idle < 3 {
            let wrote = stdout.write(&[b'x'; CHUNK]).is_ok();
            let got = turn(&mut session);
            idle = if wrote || !got.is_empty() { 0 } else { idle + 1 };
        }
        assert!(session.is_held_up());
        drop(stuck);
        turn(&mut session);
        assert!(!turn(&mut session).is_empty());
        assert!(session.is_delivered());
    }

    #[test]
    fn a_process_that_closed_its_input_does_not_lose_its_clients() {
        let (mut session, [stdin, mut stdout, _stderr]) = open(true);
        let mut client = client(&mut session, STDIN);
        drop(stdin);
        client.write_all(b"unwanted").unwrap();
        turn(&mut session);
        stdout.write_all(b"still here").unwrap();
        turn(&mut session);
        let mut frame = [0; 18];
        client.read_exact(&mut frame).unwrap();
        assert!(frame.ends_with(b"still here"));
    }
}
