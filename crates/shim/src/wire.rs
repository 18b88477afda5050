//! Frames with descriptors on a unix stream socket.
//!
//! A frame is a little-endian `u32` length and that many bytes of JSON. Descriptors travel with its first
//! byte; how many belong to a frame follows from the message ([`Message::descriptors`]), so that a receiver that
//! read several frames at once still gives each its own.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest frame accepted, in bytes. A launch with a large seccomp profile has about 100 kB.
pub const MAX_FRAME: usize = 16 << 20;

/// Most descriptors in one message: `SCM_MAX_FD`.
pub const MAX_DESCRIPTORS: usize = 253;

/// Bytes read at once.
const CHUNK: usize = 16 << 10;

/// Something that travels in a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// How many descriptors come with it.
    fn descriptors(&self) -> usize;
}

/// The bytes of a frame.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).expect("our own types always serialise");
    let length = u32::try_from(frame.len() - 4).expect("messages are far below 4 GiB");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

/// Puts frames together from bytes and descriptors as they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Decoder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what was received.
    pub fn push(&mut self, bytes: &[u8], descriptors: impl IntoIterator<Item = OwnedFd>) {
        self.bytes.extend_from_slice(bytes);
        self.descriptors.extend(descriptors);
    }

    /// Receives once from `socket` (blocking or not) and adds it. 0 is the end of the stream.
    ///
    /// # Errors
    /// `recvmsg` failed; `WouldBlock` when nothing is there on a nonblocking socket.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut buffer = [0; CHUNK];
        let (length, descriptors) = receive(socket.as_fd(), &mut buffer)?;
        self.push(&buffer[..length], descriptors);
        Ok(length)
    }

    /// The next whole message with its descriptors; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The frame is too long, is no such message, or came with too few descriptors. The connection is of no
    /// use then.
    #[expect(clippy::should_implement_trait, reason = "what comes next has a type of its own each time")]
    pub fn next<T: Message>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(invalid(format!("frame of {length} bytes is longer than {MAX_FRAME}")));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message: T = serde_json::from_slice(body).map_err(io::Error::from)?;
        let wanted = message.descriptors();
        if wanted > self.descriptors.len() {
            return Err(invalid(format!("{wanted} descriptors announced, {} came", self.descriptors.len())));
        }
        self.bytes.drain(..4 + length);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        Ok(Some((message, self.descriptors.drain(..wanted).collect())))
    }

    /// Whether it holds part of a frame: the end of the stream now would cut a message.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// `recvmsg` with room for [`MAX_DESCRIPTORS`] descriptors, which are close-on-exec. Tries again after a signal.
///
/// # Errors
/// `recvmsg` failed, or descriptors were cut off (this process has too many open).
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut slices = [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
        return Err(io::Error::other("descriptors were cut off: too many open files in this process"));
    }
    Ok((received.bytes, descriptors))
}

/// `sendmsg` with these descriptors; never raises `SIGPIPE`. Gives the number of bytes taken: the descriptors
/// went with the first, the rest of a frame is sent without any.
///
/// # Errors
/// `sendmsg` failed; `WouldBlock` when a nonblocking socket is full (nothing was sent then).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(invalid(format!("{} descriptors in one message", descriptors.len())));
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A path to `name` in an open directory that fits into a socket address, whatever the directory's own path.
pub(crate) fn short_path(directory: BorrowedFd<'_>, name: &str) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()).into()
}

/// Sends a whole frame on a blocking socket.
///
/// # Errors
/// `sendmsg` failed.
pub fn send_all(socket: BorrowedFd<'_>, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut sent = send(socket, frame, descriptors)?;
    while sent < frame.len() {
        sent += send(socket, &frame[sent..], &[])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{AttachSpec, Reply, Request};
    use std::os::unix::net::UnixStream;

    fn pipe_end() -> OwnedFd {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap().0
    }

    #[test]
    fn frames_keep_their_descriptors_however_they_arrive() {
        let (left, right) = UnixStream::pair().unwrap();
        let attach = encode(&Request::Attach(AttachSpec { stdin: true, stdout: true, stderr: false }));
        send_all(left.as_fd(), &encode(&Request::State), &[]).unwrap();
        send_all(left.as_fd(), &attach, &[pipe_end().as_fd()]).unwrap();
        send_all(left.as_fd(), &encode(&Request::Subscribe), &[]).unwrap();
        send_all(left.as_fd(), &attach, &[pipe_end().as_fd()]).unwrap();
        drop(left);
        let mut decoder = Decoder::new();
        while decoder.receive(&right).unwrap() > 0 {}
        let counts: Vec<usize> =
            std::iter::from_fn(|| decoder.next::<Request>().unwrap()).map(|(_, fds)| fds.len()).collect();
        assert_eq!(counts, [0, 1, 0, 1]);
        assert!(decoder.is_empty());
    }

    #[test]
    fn a_frame_may_come_byte_by_byte() {
        let frame = encode(&Reply::Ok);
        let mut decoder = Decoder::new();
        for byte in &frame[..frame.len() - 1] {
            decoder.push(&[*byte], []);
            assert!(decoder.next::<Reply>().unwrap().is_none());
        }
        decoder.push(&frame[frame.len() - 1..], []);
        assert_eq!(decoder.next::<Reply>().unwrap().unwrap().0, Reply::Ok);
    }

    #[test]
    fn refuses_a_frame_that_cannot_be_ours() {
        let mut decoder = Decoder::new();
        decoder.push(&u32::MAX.to_le_bytes(), []);
        assert!(decoder.next::<Reply>().is_err());
        let mut decoder = Decoder::new();
        decoder.push(&encode(&Reply::Started { pid: 1 }), []);
        assert!(decoder.next::<Reply>().is_err(), "the pidfd is missing");
    }
}
