//! Docker's framing of several streams on one connection.
//!
//! A frame is a header of 8 bytes and its payload: stream number, three zero bytes, length of the payload
//! as big-endian `u32`. Containers with a terminal have no framing.

/// Length of a header.
pub const HEADER: usize = 8;
/// The content type of framed streams, since version 1.42.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
/// The content type of streams without frames, and before version 1.42 of all.
pub const RAW: &str = "application/vnd.docker.raw-stream";

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stream {
    /// Standard input (written by no one).
    Stdin = 0,
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// An error of the engine while streaming; its text ends the stream.
    SystemErr = 3,
}

impl Stream {
    fn of(number: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr, Self::SystemErr].get(usize::from(number)).copied()
    }
}

/// The header of a frame.
pub fn header(stream: Stream, length: u32) -> [u8; HEADER] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// Appends one frame. A payload longer than 4 GiB becomes several.
pub fn frame(stream: Stream, payload: &[u8], into: &mut Vec<u8>) {
    for part in payload.chunks(u32::MAX as usize) {
        // `part` is at most that long.
        into.extend_from_slice(&header(stream, part.len() as u32));
        into.extend_from_slice(part);
    }
}

/// What should be a header names no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized input header: {0}")]
pub struct BadHeader(pub u8);

/// Takes frames apart, whatever the pieces they arrive in; payload is passed on as it comes, never kept.
#[derive(Debug, Clone, Default)]
pub struct Demultiplexer {
    header: [u8; HEADER],
    filled: usize,
    current: Option<(Stream, u32)>,
}

impl Demultiplexer {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and passes payload on.
    ///
    /// # Errors
    /// A header that names no stream; what follows cannot be understood.
    pub fn feed(&mut self, mut bytes: &[u8], mut sink: impl FnMut(Stream, &[u8])) -> Result<(), BadHeader> {
        loop {
            match self.current {
                Some((_, 0)) => self.current = None,
                _ if bytes.is_empty() => return Ok(()),
                Some((stream, left)) => {
                    let length = bytes.len().min(left as usize);
                    let (payload, rest) = bytes.split_at(length);
                    sink(stream, payload);
                    // `length` is at most `left`.
                    self.current = Some((stream, left - length as u32));
                    bytes = rest;
                }
                None => {
                    let length = bytes.len().min(HEADER - self.filled);
                    let (part, rest) = bytes.split_at(length);
                    self.header[self.filled..self.filled + length].copy_from_slice(part);
                    self.filled += length;
                    bytes = rest;
                    if self.filled == HEADER {
                        self.begin()?;
                    }
                }
            }
        }
    }

    fn begin(&mut self) -> Result<(), BadHeader> {
        let [number, _, _, _, a, b, c, d] = self.header;
        let stream = Stream::of(number).ok_or(BadHeader(number))?;
        self.filled = 0;
        self.current = Some((stream, u32::from_be_bytes([a, b, c, d])));
        Ok(())
    }

    /// Whether the stream may end here: between two frames.
    pub fn at_boundary(&self) -> bool {
        self.filled == 0 && self.current.is_none_or(|(_, left)| left == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_payload() {
        let mut wire = Vec::new();
        frame(Stream::Stdout, b"hello", &mut wire);
        wire.extend(header(Stream::Stderr, 0));
        frame(Stream::Stderr, b"oops\n", &mut wire);
        for size in 1..=wire.len() {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut demultiplexer = Demultiplexer::new();
            for piece in wire.chunks(size) {
                let sink = |stream, bytes: &[u8]| match stream {
                    Stream::Stdout => out.extend_from_slice(bytes),
                    _ => err.extend_from_slice(bytes),
                };
                demultiplexer.feed(piece, sink).unwrap();
            }
            assert_eq!((out.as_slice(), err.as_slice()), (&b"hello"[..], &b"oops\n"[..]), "pieces of {size}");
            assert!(demultiplexer.at_boundary());
        }
    }

    #[test]
    fn a_raw_stream_is_not_taken_for_frames() {
        let error = Demultiplexer::new().feed(b"total 12\n", |_, _| {}).unwrap_err();
        assert_eq!(error, BadHeader(b't'));
        let mut half = Demultiplexer::new();
        half.feed(&header(Stream::Stdout, 3), |_, _| {}).unwrap();
        assert!(!half.at_boundary());
    }
}
