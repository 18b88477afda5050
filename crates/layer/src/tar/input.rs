use crate::ApplyError;
use crate::record::Recorder;
use std::io::{self, Read};
use yare_oci::{Digest, Hasher};

/// Bytes that are read, hashed and written at a time.
const BUFFER: usize = 256 * 1024;

/// Where the bytes that are consumed can be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nowhere: headers, padding, data of entries that make no file. The record takes them verbatim.
    Verbatim,
    /// In a file of the layer.
    InFile,
}

/// The uncompressed stream: buffered, hashed, counted, limited and recorded.
pub(crate) struct Input<'a, R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    consumed: u64,
    limit: Option<u64>,
    hasher: Hasher,
    recorder: Option<Recorder<'a>>,
}

impl<'a, R: Read> Input<'a, R> {
    pub(crate) fn new(reader: R, limit: Option<u64>, recorder: Option<Recorder<'a>>) -> Self {
        let buffer = vec![0; BUFFER];
        Self { reader, buffer, start: 0, end: 0, consumed: 0, limit, hasher: Hasher::new(), recorder }
    }

    pub(crate) fn recorder(&mut self) -> Option<&mut Recorder<'a>> {
        self.recorder.as_mut()
    }

    pub(crate) fn invalid(&self, reason: impl Into<String>) -> ApplyError {
        ApplyError::Format { offset: self.consumed, reason: reason.into() }
    }

    pub(crate) fn ends_early(&self) -> ApplyError {
        ApplyError::Read(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the tar ends in the middle of an entry, after {} bytes", self.consumed),
        ))
    }

    /// The next bytes, at most `most`; empty only at the end of the stream.
    pub(crate) fn peek(&mut self, most: u64) -> Result<&[u8], ApplyError> {
        if self.start == self.end {
            self.refill()?;
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let end = self.end.min(self.start.saturating_add(most));
        Ok(self.buffer.get(self.start..end).unwrap_or_default())
    }

    fn refill(&mut self) -> Result<(), ApplyError> {
        (self.start, self.end) = (0, 0);
        let count = loop {
            match self.reader.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.map_err(ApplyError::Read)?,
            }
        };
        let read = self.buffer.get(..count).unwrap_or_default();
        self.hasher.update(read);
        self.end = read.len();
        match self.limit {
            Some(limit) if self.consumed + self.end as u64 > limit => {
                Err(ApplyError::Limit { limit, what: "bytes" })
            }
            _ => Ok(()),
        }
    }

    /// Takes `count` of the bytes that [`Input::peek`] returned.
    pub(crate) fn consume(&mut self, count: usize, kept: Kept) -> Result<(), ApplyError> {
        let count = count.min(self.end - self.start);
        if kept == Kept::Verbatim
            && let Some(recorder) = &mut self.recorder
        {
            let bytes = self.buffer.get(self.start..self.start + count).unwrap_or_default();
            recorder.verbatim(bytes)?;
        }
        self.start += count;
        self.consumed += count as u64;
        Ok(())
    }

    /// Fills `target` and returns how much of it the stream had.
    pub(crate) fn fill(&mut self, target: &mut [u8]) -> Result<usize, ApplyError> {
        let mut filled = 0;
        while let Some(rest) = target.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let bytes = self.peek(rest.len() as u64)?;
            let count = bytes.len();
            if count == 0 {
                break;
            }
            if let Some(start) = rest.get_mut(..count) {
                start.copy_from_slice(bytes);
            }
            self.consume(count, Kept::Verbatim)?;
            filled += count;
        }
        Ok(filled)
    }

    /// Passes over `count` bytes.
    pub(crate) fn skip(&mut self, mut count: u64) -> Result<(), ApplyError> {
        while count > 0 {
            let length = self.peek(count)?.len();
            if length == 0 {
                return Err(self.ends_early());
            }
            self.consume(length, Kept::Verbatim)?;
            count -= length as u64;
        }
        Ok(())
    }

    /// Passes over what fills the last block of an entry. The archive may end before it: Docker's client
    /// sends a build context so when the Dockerfile lies outside, and Docker's engine reads it.
    pub(crate) fn skip_padding(&mut self, count: u64) -> Result<(), ApplyError> {
        let at_end = count > 0 && self.peek(count)?.is_empty();
        if at_end { Ok(()) } else { self.skip(count) }
    }

    /// Reads what follows the archive and returns the hash and the bytes of the whole stream.
    pub(crate) fn finish(mut self) -> Result<(Digest, u64), ApplyError> {
        loop {
            let length = self.peek(u64::MAX)?.len();
            if length == 0 {
                break;
            }
            self.consume(length, Kept::Verbatim)?;
        }
        let digest = self.hasher.finish();
        if let Some(recorder) = self.recorder {
            recorder.finish(self.consumed, &digest)?;
        }
        Ok((digest, self.consumed))
    }
}
