//! A client's end of a container's standard streams.
//!
//! The shim does the framing (multiplexed, or raw for a terminal); here bytes only pass. What is added on
//! the way: the detach keys in what the client types, and for an exec the promise that its exit code is
//! known before the client sees the end of its output.

use crate::container::Place;
use crate::images::Output;
use bytes::Bytes;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use yare_errdefs::{Error, Result};

/// Makes a connected pair: ours for async use, and the shim's.
pub fn pair() -> Result<(UnixStream, OwnedFd)> {
    let failed =
        |error: io::Error| Error::unavailable("cannot make a socket pair for the streams").caused_by(error);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    Ok((UnixStream::from_std(ours).map_err(failed)?, theirs.into()))
}

/// The keys that end an attachment without ending the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    /// `ctrl-p,ctrl-q`.
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl DetachKeys {
    /// Parses `a,ctrl-x,…`: single characters, or `ctrl-` and one of `a-z@[\]^_`. Empty is the default.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let key = |part: &str| -> Option<u8> {
            match part.as_bytes() {
                [single] => Some(*single),
                [b'c', b't', b'r', b'l', b'-', control] => {
                    let control = control.to_ascii_uppercase();
                    (b'@'..=b'_').contains(&control).then_some(control & 0x1f)
                }
                _ => None,
            }
        };
        let keys = text.split(',').map(key).collect::<Option<Vec<u8>>>();
        keys.map(Self).ok_or_else(|| Error::invalid(format!("Invalid detach keys ({text}) provided")))
    }
}

/// Finds the detach keys in a stream of typed bytes. Bytes that might begin them are held back until the
/// next ones decide.
#[derive(Debug)]
struct KeyScanner {
    keys: Vec<u8>,
    matched: usize,
}

impl KeyScanner {
    /// Passes on what is no detach key; `true` when the keys are complete.
    fn scan(&mut self, typed: &[u8], pass: &mut Vec<u8>) -> bool {
        for &byte in typed {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                pass.push(byte);
            } else if self.keys.len() == 1 {
                return true;
            }
        }
        false
    }
}

struct Replay {
    chunks: Output,
    rest: Bytes,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("rest", &self.rest.len()).finish_non_exhaustive()
    }
}

/// A client's end of the streams. Reading gives output, writing is standard input, shutting down closes it.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    /// Output that comes before the stream's (`logs=1`), until it ends.
    replay: Option<Replay>,
    scanner: Option<KeyScanner>,
    /// Typed bytes that passed the scanner and were not written yet.
    unwritten: Vec<u8>,
    detached: bool,
    /// Who waits for output, to be told of a detach.
    reader: Option<Waker>,
    on_detach: Option<oneshot::Sender<()>>,
    /// Its place among those who wait for a start.
    _place: Option<Place>,
    /// The end of output is shown only after this is answered.
    gate: Option<oneshot::Receiver<()>>,
}

impl Session {
    /// A session over this stream.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            replay: None,
            scanner: None,
            unwritten: Vec::new(),
            detached: false,
            reader: None,
            on_detach: None,
            _place: None,
            gate: None,
        }
    }

    /// The shim that will serve it is yet to be started; until then it has this place.
    #[must_use]
    pub fn waiting_at(mut self, place: Place) -> Self {
        self._place = Some(place);
        self
    }

    /// Watches what is typed for these keys; `on_detach` is told when they come.
    #[must_use]
    pub fn watching(mut self, keys: DetachKeys, on_detach: oneshot::Sender<()>) -> Self {
        self.scanner = Some(KeyScanner { keys: keys.0, matched: 0 });
        self.on_detach = Some(on_detach);
        self
    }

    /// Holds the end of output back until `gate` is answered or dropped.
    #[must_use]
    pub fn ending_after(mut self, gate: oneshot::Receiver<()>) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Gives these bytes first, as they are asked for.
    #[must_use]
    pub fn replaying(mut self, chunks: Output) -> Self {
        self.replay = Some(Replay { chunks, rest: Bytes::new() });
        self
    }

    /// Whether the replay gave something; it is over once it did not.
    fn poll_replay(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let Some(replay) = &mut self.replay else { return Poll::Ready(Ok(false)) };
        while replay.rest.is_empty() {
            match std::task::ready!(replay.chunks.as_mut().poll_next(cx)) {
                Some(chunk) => replay.rest = chunk?,
                None => {
                    self.replay = None;
                    return Poll::Ready(Ok(false));
                }
            }
        }
        let length = replay.rest.len().min(buffer.remaining());
        buffer.put_slice(&replay.rest.split_to(length));
        Poll::Ready(Ok(true))
    }

    fn poll_unwritten(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unwritten.is_empty() {
            let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unwritten))?;
            self.unwritten.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(gate) = &mut self.gate {
            let _ = std::task::ready!(Pin::new(gate).poll(cx));
            self.gate = None;
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Session {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.detached {
            return Poll::Ready(Ok(()));
        }
        match self.poll_replay(cx, buffer) {
            Poll::Ready(Ok(false)) => {}
            Poll::Ready(replayed) => return Poll::Ready(replayed.map(drop)),
            Poll::Pending => {
                self.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) else {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        match read {
            Ok(()) if buffer.filled().len() > before => Poll::Ready(Ok(())),
            // The end, or a shim that died: both end the output once the gate is open.
            Ok(()) | Err(_) => self.poll_gate(cx).map(Ok),
        }
    }
}

impl AsyncWrite for Session {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.detached {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let this = &mut *self;
        std::task::ready!(this.poll_unwritten(cx))?;
        let Some(scanner) = &mut this.scanner else {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        };
        if scanner.scan(bytes, &mut this.unwritten) {
            this.detached = true;
            if let Some(reader) = this.reader.take() {
                reader.wake();
            }
            if let Some(told) = this.on_detach.take() {
                let _ = told.send(());
            }
        }
        // What did not fit is written before the next bytes, or at the flush.
        let _ = this.poll_unwritten(cx)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_unwritten(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_unwritten(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn parses_keys() {
        assert_eq!(DetachKeys::parse("").unwrap(), DetachKeys::default());
        assert_eq!(DetachKeys::parse("ctrl-p,ctrl-q").unwrap(), DetachKeys::default());
        assert_eq!(DetachKeys::parse("a,ctrl-[").unwrap().0, [b'a', 0x1b]);
        assert!(DetachKeys::parse("ctrl-").is_err());
        assert!(DetachKeys::parse("a,,b").is_err());
    }

    #[tokio::test]
    async fn keys_detach_and_a_false_start_passes_through() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (told, detached) = oneshot::channel();
        let mut session = Session::new(ours).watching(DetachKeys::default(), told);
        session.write_all(b"ab\x10c\x10").await.unwrap();
        session.write_all(b"\x10\x11rest").await.unwrap();
        detached.await.unwrap();
        assert_eq!(session.read(&mut [0; 8]).await.unwrap(), 0, "reading ends at the detach");
        drop(session);
        let mut got = Vec::new();
        let mut theirs = theirs;
        theirs.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"ab\x10c\x10");
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_told_of_the_detach() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (told, _detached) = oneshot::channel();
        let (mut reader, mut writer) =
            tokio::io::split(Session::new(ours).watching(DetachKeys::default(), told));
        let waiting = tokio::spawn(async move { reader.read(&mut [0; 8]).await.unwrap() });
        tokio::task::yield_now().await;
        writer.write_all(b"\x10\x11").await.unwrap();
        let end = tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await;
        assert_eq!(end.expect("the reader is woken").unwrap(), 0);
    }

    #[tokio::test]
    async fn a_replay_comes_first_and_whole() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"live").await.unwrap();
        drop(theirs);
        let chunks = ["one ", "", "two "].map(|text| Ok(Bytes::from_static(text.as_bytes())));
        let mut session = Session::new(ours).replaying(Box::pin(futures_util::stream::iter(chunks)));
        let (mut got, mut few) = (Vec::new(), [0; 3]);
        loop {
            match session.read(&mut few).await.unwrap() {
                0 => break,
                length => got.extend_from_slice(&few[..length]),
            }
        }
        assert_eq!(got, b"one two live");
    }

    #[tokio::test]
    async fn the_end_waits_for_the_gate() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (open, gate) = oneshot::channel();
        let mut session = Session::new(ours).ending_after(gate);
        drop(theirs);
        let mut end = tokio::spawn(async move { session.read(&mut [0; 8]).await.unwrap() });
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(!end.is_finished());
        open.send(()).unwrap();
        assert_eq!((&mut end).await.unwrap(), 0);
    }
}
