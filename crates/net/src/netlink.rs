//! A netlink socket, and a writer of netlink messages.
//!
//! Requests go out in batches: one `send` of many messages. The kernel works them off before `send` returns,
//! so that all answers to a batch can be read without waiting.

use std::fmt;
use std::io;

use netlink_sys::Socket as RawSocket;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// The message is a request.
pub(crate) const REQUEST: u16 = 0x1;
/// An answer is wanted even on success.
pub(crate) const ACK: u16 = 0x4;
/// All objects, not one.
pub(crate) const DUMP: u16 = 0x300;
/// Put it in the place of what is there.
pub(crate) const REPLACE: u16 = 0x100;
/// Fail if the object exists.
pub(crate) const EXCL: u16 = 0x200;
/// Make the object if it does not exist.
pub(crate) const CREATE: u16 = 0x400;
/// Put the object after those that exist.
pub(crate) const APPEND: u16 = 0x800;

const HEADER: usize = 16;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const FLAG_CAPPED: u16 = 0x100;
const FLAG_ACK_TLVS: u16 = 0x200;
const ERROR_TEXT: u16 = 1;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// What the kernel said to one message of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Sequence number of the message; 0 when the socket itself failed.
    pub(crate) sequence: u32,
    /// The error.
    pub(crate) errno: Errno,
    /// The kernel's explanation, or nothing.
    pub(crate) text: String,
}

impl Refused {
    fn socket(error: &io::Error) -> Self {
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        Self { sequence: 0, errno, text: String::new() }
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { sequence: 0, errno, text: String::new() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            return fmt::Display::fmt(&self.errno, f);
        }
        write!(f, "{} ({})", self.errno, self.text)
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        let kind = io::Error::from(refused.errno).kind();
        if refused.text.is_empty() { refused.errno.into() } else { io::Error::new(kind, refused) }
    }
}

/// A socket that talks to one part of the kernel, in the network namespace in which it was opened.
pub(crate) struct Socket {
    raw: RawSocket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket for one of the protocols of `netlink_sys::protocols`.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut raw = RawSocket::new(protocol)?;
        let port = raw.bind_auto()?.port_number();
        // Both only shape error answers; a kernel without them still works.
        let _ = raw.set_ext_ack(true);
        let _ = raw.set_cap_ack(true);
        Ok(Self { raw, port, sequence: 0, buffer: vec![0; 32 * 1024] })
    }

    /// The underlying socket.
    pub(crate) fn raw(&self) -> &RawSocket {
        &self.raw
    }

    /// Our address in netlink, by which other listeners know our messages.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// An empty batch whose sequence numbers follow those of earlier ones.
    pub(crate) fn batch(&self) -> Writer {
        Writer::new(self.sequence.wrapping_add(1))
    }

    /// Sends the batch and reads its answers; the first refusal is the error.
    pub(crate) fn request(&mut self, batch: Writer) -> Result<(), Refused> {
        let first = batch.first;
        self.sequence = batch.sequence.wrapping_sub(1);
        self.send(&batch.bytes)?;
        let mut failure = None;
        loop {
            let length = match rustix::net::recv(&self.raw, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for message in Messages(&self.buffer[..length]) {
                // Answers to an earlier, abandoned batch are not ours.
                if message.kind == TYPE_ERROR && message.sequence.wrapping_sub(first) < u32::MAX / 2 {
                    let answer = message.refusal();
                    failure = failure.or(answer);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends one dump request and gives every message of the answer to `each`.
    pub(crate) fn dump(&mut self, batch: Writer, mut each: impl FnMut(u16, &[u8])) -> Result<(), Refused> {
        let first = batch.first;
        self.sequence = batch.sequence.wrapping_sub(1);
        self.send(&batch.bytes)?;
        loop {
            let flags = RecvFlags::empty();
            let length = match rustix::net::recv(&self.raw, self.buffer.as_mut_slice(), flags) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for message in Messages(&self.buffer[..length]) {
                if message.sequence != first {
                    continue;
                }
                match message.kind {
                    TYPE_DONE => return Ok(()),
                    TYPE_ERROR => return message.refusal().map_or(Ok(()), Err),
                    kind => each(kind, message.payload),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Refused> {
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.raw, bytes, SendFlags::empty()))
            .map_err(|errno| Refused::socket(&errno.into()))?;
        if sent == bytes.len() { Ok(()) } else { Err(Errno::MSGSIZE.into()) }
    }
}

/// One message as it came from the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// Type of the message.
    pub(crate) kind: u16,
    flags: u16,
    /// Sequence number of the request it answers.
    pub(crate) sequence: u32,
    /// Netlink address of whoever caused it.
    pub(crate) port: u32,
    /// What follows the header.
    pub(crate) payload: &'a [u8],
}

impl Message<'_> {
    /// Reads an answer of type error; an acknowledgement is no refusal.
    fn refusal(&self) -> Option<Refused> {
        let code = i32::from_ne_bytes(*self.payload.first_chunk()?);
        if code == 0 {
            return None;
        }
        let errno = Errno::from_raw_os_error(code.wrapping_neg());
        Some(Refused { sequence: self.sequence, errno, text: self.explanation().unwrap_or_default() })
    }

    fn explanation(&self) -> Option<String> {
        if self.flags & FLAG_ACK_TLVS == 0 {
            return None;
        }
        let echoed = u32::from_ne_bytes(*self.payload.get(4..)?.first_chunk()?);
        let skip = if self.flags & FLAG_CAPPED != 0 { HEADER } else { usize::try_from(echoed).ok()? };
        let tail = self.payload.get(4 + align(skip)..)?;
        let text = Attributes(tail).find(|(kind, _)| *kind == ERROR_TEXT)?.1;
        Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    }
}

/// The messages of one datagram; ends at the first that is cut short.
#[derive(Debug)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::try_from(u32::from_ne_bytes(*self.0.first_chunk()?)).ok()?;
        let message = self.0.get(..length).filter(|_| length >= HEADER)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        let half = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
        let word =
            |at: usize| u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
        Some(Message {
            kind: half(4),
            flags: half(6),
            sequence: word(8),
            port: word(12),
            payload: &message[HEADER..],
        })
    }
}

/// The attributes of a message or of a nest: type and value; ends at the first that is cut short.
#[derive(Debug)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let attribute = self.0.get(..length).filter(|_| length >= 4)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((u16::from_ne_bytes([attribute[2], attribute[3]]) & TYPE_MASK, &attribute[4..]))
    }
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Messages of one batch, back to back.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    first: u32,
    sequence: u32,
}

impl Writer {
    /// A batch whose first message has the given number.
    pub(crate) fn new(sequence: u32) -> Self {
        Self { bytes: Vec::with_capacity(1024), first: sequence, sequence }
    }

    /// What has been written.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds a message: its type, flags, the fixed part that follows the header, then attributes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.pad();
        attributes(self);
        let length = u32::try_from(self.bytes.len() - start).expect("a message is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Adds a message that somebody else wrote, header and all, with the next number put in.
    pub(crate) fn foreign(&mut self, length: usize, write: impl FnOnce(&mut [u8])) {
        let start = self.bytes.len();
        self.bytes.resize(start + length, 0);
        write(&mut self.bytes[start..]);
        self.bytes[start + 8..start + 12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.pad();
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Adds an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("an attribute is below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Adds attributes that are written already.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// Adds an attribute that is a number in network order, as netfilter has them.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Adds an attribute that is a string, with its final zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Adds an attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, attributes: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        attributes(self);
        let length = u16::try_from(self.bytes.len() - start).expect("a nest is below 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_aligned_and_readable() {
        let mut writer = Writer::new(7);
        writer.message(0x1234, REQUEST | ACK, &[1, 2, 3, 4], |w| {
            w.text(1, "abc");
            w.nest(2, |w| {
                w.attribute(3, &[9]);
                w.number(4, 0x0102_0304);
            });
        });
        writer.message(0x5678, REQUEST, &[], |_| {});
        let messages: Vec<_> = Messages(writer.bytes()).collect();
        assert_eq!(
            messages.iter().map(|m| (m.kind, m.sequence)).collect::<Vec<_>>(),
            [(0x1234, 7), (0x5678, 8)]
        );
        assert_eq!(messages[0].payload[..4], [1, 2, 3, 4]);
        let attributes: Vec<_> = Attributes(&messages[0].payload[4..]).collect();
        assert_eq!(attributes[0], (1, b"abc\0".as_slice()));
        let inner: Vec<_> = Attributes(attributes[1].1).collect();
        assert_eq!(inner, [(3, [9_u8].as_slice()), (4, [1, 2, 3, 4].as_slice())]);
    }

    #[test]
    fn truncated_input_ends_the_walk() {
        let mut writer = Writer::new(1);
        writer.message(1, 0, &[], |w| w.attribute(1, &[1, 2, 3, 4]));
        let bytes = writer.bytes();
        for cut in 0..bytes.len() {
            assert_eq!(Messages(&bytes[..cut]).count(), 0, "{cut}");
        }
        assert_eq!(Messages(&[0; 64]).count(), 0);
        assert_eq!(Attributes(&[0; 64]).count(), 0);
        assert_eq!(Attributes(&[255; 8]).count(), 0);
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let mut writer = Writer::new(5);
        let mut fixed = (-17_i32).to_ne_bytes().to_vec();
        fixed.extend_from_slice(&[0; HEADER]);
        writer.message(TYPE_ERROR, FLAG_CAPPED | FLAG_ACK_TLVS, &fixed, |w| w.text(ERROR_TEXT, "no room"));
        let refused = Messages(writer.bytes()).next().unwrap().refusal().unwrap();
        assert_eq!((refused.sequence, refused.errno), (5, Errno::EXIST));
        assert!(io::Error::from(refused).to_string().ends_with("(no room)"));
    }
}
