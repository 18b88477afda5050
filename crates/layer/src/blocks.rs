//! Gzip on all processors: the stream is cut into blocks that are compressed side by side.
//!
//! Blocks have a fixed size and know nothing of each other, so that the bytes are the same with any number of
//! threads. What comes out is one gzip member; every reader takes it. It is less than a hundredth larger than
//! a stream that was never cut.

use crate::ordered::Ordered;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use std::io::{self, Write};

const BLOCK: usize = 1 << 20;
/// No name, no time, no system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// A block and its level.
type Job = (Vec<u8>, Compression);

fn work((bytes, level): Job) -> io::Result<Vec<u8>> {
    deflate(&bytes, level, FlushCompress::Sync)
}

/// A gzip stream into `W`.
pub(crate) struct Blocks<W: Write> {
    writer: W,
    level: Compression,
    crc: Crc,
    buffer: Vec<u8>,
    begun: bool,
    /// All but the last: most layers have one.
    full: Ordered<Job, Vec<u8>>,
}

impl<W: Write> Blocks<W> {
    pub(crate) fn new(writer: W, level: Compression) -> Self {
        let full = Ordered::new("gzip", work);
        Self { writer, level, crc: Crc::new(), buffer: Vec::new(), begun: false, full }
    }

    fn begin(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            self.writer.write_all(&HEADER)?;
        }
        Ok(())
    }

    /// Hands a full block over, and writes what is done while too many are under way.
    fn submit(&mut self) -> io::Result<()> {
        self.begin()?;
        let bytes = std::mem::take(&mut self.buffer);
        self.full.submit((bytes, self.level))?;
        while self.full.is_full() {
            self.write_next()?;
        }
        Ok(())
    }

    /// Writes a block that is done, waiting for it; false when there is none.
    fn write_next(&mut self) -> io::Result<bool> {
        let block = self.full.next()?;
        block.iter().try_for_each(|block| self.writer.write_all(block))?;
        Ok(block.is_some())
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.write_next()? {}
        Ok(())
    }

    /// Writes the end and gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.begin()?;
        self.drain()?;
        let last = deflate(&self.buffer, self.level, FlushCompress::Finish)?;
        self.writer.write_all(&last)?;
        self.writer.write_all(&self.crc.sum().to_le_bytes())?;
        self.writer.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.writer)
    }
}

impl<W: Write> Write for Blocks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.crc.update(&bytes[..taken]);
        if self.buffer.len() == BLOCK {
            self.submit()?;
        }
        Ok(taken)
    }

    /// Writes all whole blocks. A block that is not full waits: where it is cut decides its bytes.
    fn flush(&mut self) -> io::Result<()> {
        self.drain()?;
        self.writer.flush()
    }
}

/// One block by itself, ended at a byte's border or for good.
fn deflate(bytes: &[u8], level: Compression, flush: FlushCompress) -> io::Result<Vec<u8>> {
    let mut packer = Compress::new(level, false);
    let mut out = Vec::with_capacity(bytes.len() / 2 + 64);
    loop {
        let rest = usize::try_from(packer.total_in()).ok().and_then(|done| bytes.get(done..));
        let status = packer.compress_vec(rest.unwrap_or_default(), &mut out, flush)?;
        let all_in = packer.total_in() == bytes.len() as u64;
        let room = out.len() < out.capacity();
        match (status, flush) {
            (Status::StreamEnd, _) => return Ok(out),
            // With room left, nothing of it is still inside.
            (_, FlushCompress::Sync) if all_in && room => return Ok(out),
            _ => out.reserve(BLOCK / 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn packed(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut packer = Blocks::new(Vec::new(), Compression::new(6));
        for piece in bytes.chunks(piece) {
            packer.write_all(piece).unwrap();
        }
        packer.finish().unwrap()
    }

    #[test]
    fn any_length_comes_back_and_the_pieces_do_not_show() {
        // Words and noise, so that there are matches, literals and stored blocks.
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<u8> = (0..BLOCK + 4321).map(|_| next()).collect();
        let words = b"the same words again and again ".repeat(3 * BLOCK / 31);
        let all = [words, noise].concat();
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, all.len()] {
            let bytes = &all[..length];
            let made = packed(bytes, 70_001);
            assert!(made == packed(bytes, BLOCK), "{length}");
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&made[..]).read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{length}");
        }
    }
}
