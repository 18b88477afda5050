//! Bits in the order of DEFLATE (RFC 1951, section 3.1.1): the lowest of a byte first.

use std::io::{self, BufRead};

pub(super) struct BitReader<R> {
    reader: R,
    held: u64,
    count: u32,
}

impl<R: BufRead> BitReader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, held: 0, count: 0 }
    }

    /// Has at least `wanted` bits (at most 56) in hand, or all that there are.
    fn fill(&mut self, wanted: u32) -> io::Result<()> {
        while self.count < wanted {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Ok(());
            }
            let taken = bytes.len().min(((64 - self.count) / 8) as usize);
            for byte in bytes.iter().take(taken) {
                self.held |= u64::from(*byte) << self.count;
                self.count += 8;
            }
            self.reader.consume(taken);
        }
        Ok(())
    }

    /// The next bits, at most 16, without taking them; zeros where the input ended.
    #[inline]
    pub(super) fn peek(&mut self, wanted: u32) -> io::Result<u32> {
        if self.count < wanted {
            self.fill(48)?;
        }
        Ok((self.held & ((1 << wanted) - 1)) as u32)
    }

    #[inline]
    pub(super) fn drop(&mut self, count: u32) -> io::Result<()> {
        if self.count < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.held >>= count;
        self.count -= count;
        Ok(())
    }

    #[inline]
    pub(super) fn take(&mut self, count: u32) -> io::Result<u32> {
        let bits = self.peek(count)?;
        self.drop(count)?;
        Ok(bits)
    }

    /// Bits left in the current byte.
    pub(super) fn to_boundary(&self) -> u32 {
        self.count % 8
    }

    /// Bits taken of the current byte.
    pub(super) fn bit(&self) -> u32 {
        self.count.wrapping_neg() % 8
    }

    pub(super) fn is_at_end(&mut self) -> io::Result<bool> {
        self.fill(8)?;
        Ok(self.count == 0)
    }
}

pub(super) struct BitWriter {
    bytes: Vec<u8>,
    held: u64,
    count: u32,
}

impl BitWriter {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), held: 0, count: 0 }
    }

    /// Writes the low `count` bits, at most 32; the others must be 0.
    #[inline]
    pub(super) fn put(&mut self, count: u32, bits: u32) {
        self.held |= u64::from(bits) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.bytes.extend_from_slice(&(self.held as u32).to_le_bytes());
            self.held >>= 32;
            self.count -= 32;
        }
    }

    /// Bits that are missing from the current byte.
    pub(super) fn to_boundary(&self) -> u32 {
        self.count.wrapping_neg() % 8
    }

    /// The bytes, and how many bits of the last one were written; 0 when it is whole.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let bits = self.count % 8;
        while self.count > 0 {
            self.bytes.push(self.held as u8);
            self.held >>= 8;
            self.count = self.count.saturating_sub(8);
        }
        (self.bytes, bits)
    }
}
