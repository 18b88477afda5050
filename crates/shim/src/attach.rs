//! One client of a process's standard streams.

use crate::protocol::AttachSpec;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use yare_logs::Stream;

/// Bytes that may wait for a client before the container's output is no longer read.
pub(crate) const LIMIT: usize = 1 << 20;

/// A stream socket to one client.
#[derive(Debug)]
pub(crate) struct Attach {
    socket: OwnedFd,
    spec: AttachSpec,
    /// Whether output is framed; a terminal's is not.
    framed: bool,
    /// Output that the socket did not take yet, from `sent` on.
    pending: Vec<u8>,
    sent: usize,
    /// Whether bytes of standard input may still come.
    reading: bool,
    /// No more output is taken; over once `pending` is empty.
    finishing: bool,
    dead: bool,
}

/// What came from a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// It will send no more.
    End,
    /// Nothing now.
    Nothing,
}

impl Attach {
    pub(crate) fn new(socket: OwnedFd, spec: AttachSpec, framed: bool) -> Self {
        let (pending, reading) = (Vec::new(), spec.stdin);
        Self { socket, spec, framed, pending, sent: 0, reading, finishing: false, dead: false }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether bytes of standard input may still come.
    pub(crate) fn is_reading(&self) -> bool {
        self.reading && !self.dead
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.sent < self.pending.len()
    }

    /// Whether so much waits that its source should wait too.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() - self.sent >= LIMIT
    }

    /// Whether nothing more is to be done with it.
    pub(crate) fn is_over(&self) -> bool {
        self.dead || (self.finishing && !self.has_pending())
    }

    /// Takes no more output; what waits is still written.
    pub(crate) fn finish(&mut self) {
        self.finishing = true;
    }

    /// Gives up on the client.
    pub(crate) fn abandon(&mut self) {
        self.dead = true;
    }

    /// Writes output of a stream that the client wants; what the socket does not take now waits.
    pub(crate) fn output(&mut self, stream: Stream, bytes: &[u8]) {
        let wanted = match stream {
            Stream::Stdout => self.spec.stdout,
            Stream::Stderr => self.spec.stderr,
        };
        if !wanted || self.dead || self.finishing {
            return;
        }
        let mut header = [stream.code(), 0, 0, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        let head: &[u8] = if self.framed { &header } else { &[] };
        let sent = if self.has_pending() { 0 } else { self.send([head, bytes]) };
        self.pending.extend_from_slice(head.get(sent..).unwrap_or_default());
        self.pending.extend_from_slice(bytes.get(sent.saturating_sub(head.len())..).unwrap_or_default());
    }

    /// Writes what waits, as far as the socket takes it.
    pub(crate) fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.sent += self.send([&pending[self.sent..], &[]]);
        if self.sent < pending.len() {
            self.pending = pending;
            if self.sent >= LIMIT / 4 {
                self.pending.drain(..self.sent);
                self.sent = 0;
            }
        } else {
            self.sent = 0;
        }
    }

    /// How many bytes the socket took.
    fn send(&mut self, parts: [&[u8]; 2]) -> usize {
        let slices = parts.map(IoSlice::new);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match rustix::net::sendmsg(&self.socket, &slices, &mut SendAncillaryBuffer::default(), flags) {
                Ok(length) => return length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => return 0,
                Err(_) => {
                    self.dead = true;
                    return 0;
                }
            }
        }
    }

    /// Reads what the client sent for standard input.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Received {
        loop {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => break,
                Ok((_, length)) => return Received::Bytes(length),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Received::Nothing,
                Err(_) => {
                    self.dead = true;
                    break;
                }
            }
        }
        self.reading = false;
        Received::End
    }
}

impl Drop for Attach {
    /// Input that nobody read would turn the client's end of stream into a connection reset.
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        let mut buffer = [0; 4096];
        while let Ok((_, 1..)) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const BOTH: AttachSpec = AttachSpec { stdin: true, stdout: true, stderr: true };

    #[test]
    fn frames_output_that_was_asked_for() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut attach = Attach::new(ours.into(), AttachSpec { stderr: false, ..BOTH }, true);
        attach.output(Stream::Stdout, b"out");
        attach.output(Stream::Stderr, b"err");
        attach.finish();
        attach.output(Stream::Stdout, b"late");
        assert!(attach.is_over());
        drop(attach);
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"\x01\0\0\0\0\0\0\x03out");
    }

    #[test]
    fn a_slow_client_gets_every_byte_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut attach = Attach::new(ours.into(), BOTH, false);
        let bytes: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
        let (mut next, mut got) = (0, Vec::new());
        let mut buffer = vec![0; 10_000];
        while got.len() < bytes.len() {
            while !attach.is_full() && next < bytes.len() {
                let end = (next + 65_536).min(bytes.len());
                attach.output(Stream::Stdout, &bytes[next..end]);
                next = end;
            }
            let length = theirs.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..length]);
            attach.flush();
        }
        assert!(got == bytes);
        assert!(!attach.has_pending());
    }

    #[test]
    fn a_client_that_left_is_over() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut attach = Attach::new(ours.into(), BOTH, true);
        drop(theirs);
        attach.output(Stream::Stdout, b"x");
        assert!(attach.is_over());
    }

    #[test]
    fn unread_input_does_not_reset_the_client() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut attach = Attach::new(ours.into(), BOTH, false);
        theirs.write_all(b"nobody reads this").unwrap();
        attach.output(Stream::Stdout, b"bye");
        drop(attach);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "bye");
    }
}
