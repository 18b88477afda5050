//! Decompression beside the work on its result.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

/// Bytes of a piece, and pieces in flight.
const PIECE: usize = 256 * 1024;
const PIECES: usize = 4;

/// Reads a source on a thread of its own, a bounded way ahead. For the two halves of unpacking: one core
/// decompresses, another hashes and writes files. Dropping it ends the thread after its current read.
#[derive(Debug)]
pub struct ReadAhead {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    ended: bool,
}

struct Source<R> {
    reader: R,
    full: SyncSender<io::Result<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

impl ReadAhead {
    /// Starts reading on a new thread.
    pub fn spawn(reader: impl Read + Send + 'static) -> io::Result<Self> {
        let (ahead, source) = Self::new(reader);
        Builder::new().name("yare-unpack".into()).spawn(move || source.run())?;
        Ok(ahead)
    }

    /// Starts reading on a thread of `scope`, so that the source may borrow.
    pub fn spawn_scoped<'scope>(
        scope: &'scope Scope<'scope, '_>,
        reader: impl Read + Send + 'scope,
    ) -> io::Result<Self> {
        let (ahead, source) = Self::new(reader);
        Builder::new().name("yare-unpack".into()).spawn_scoped(scope, move || source.run())?;
        Ok(ahead)
    }

    fn new<R>(reader: R) -> (Self, Source<R>) {
        let (full, filled) = sync_channel(PIECES);
        let (empty, emptied) = sync_channel(PIECES + 1);
        let ahead = Self { full: filled, empty, current: Vec::new(), position: 0, ended: false };
        (ahead, Source { reader, full, empty: emptied })
    }
}

impl<R: Read> Source<R> {
    fn run(mut self) {
        loop {
            let mut piece = self.empty.try_recv().unwrap_or_default();
            piece.resize(PIECE, 0);
            let result = self.fill(&mut piece);
            let over = !matches!(result, Ok(count) if count > 0);
            let message = result.map(|count| {
                piece.truncate(count);
                piece
            });
            if self.full.send(message).is_err() || over {
                return;
            }
        }
    }

    /// Fills the piece as far as the source goes; what was read before an error is delivered first.
    fn fill(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.current.len() {
            if self.ended {
                return Ok(0);
            }
            let piece = match self.full.recv() {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(_) => return Err(io::Error::other("the decompressing thread died")),
            };
            self.ended = piece.is_empty();
            let used = std::mem::replace(&mut self.current, piece);
            self.position = 0;
            // Full only if nobody takes them, and then this one is not missed.
            let _ = self.empty.try_send(used);
        }
        let rest = self.current.get(self.position..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(target), Some(source)) = (buffer.get_mut(..count), rest.get(..count)) {
            target.copy_from_slice(source);
        }
        self.position += count;
        Ok(count)
    }
}
