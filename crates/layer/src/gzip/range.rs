//! A binary range coder with probabilities that adapt, the one of LZMA.
//!
//! Both directions have the same interface: a caller passes the bit that is to be coded and goes on with the bit
//! that it is given back, so that one function over a [`Coder`] is the encoder and the decoder of a thing, and
//! the two cannot differ. (A decoder does not look at what it is passed.)

use std::io::{self, Read, Write};

/// The chance of a 0, in 2048ths.
pub(super) type Chance = u16;
/// As likely as a 1.
pub(super) const EVEN: Chance = 1024;
const BITS: u32 = 11;
const RATE: u32 = 5;
const TOP: u32 = 1 << 24;

/// One direction of coding: what it does with a range, and the model that is the same in both.
pub(super) trait Coder {
    /// How many codes are left.
    fn range(&mut self) -> &mut u32;

    /// Goes to the codes from `bound` on for a 1, stays below it for a 0, and tells which.
    fn choose(&mut self, bound: u32, bit: bool) -> bool;

    /// One byte on.
    fn shift(&mut self) -> io::Result<()>;

    #[inline]
    fn normalise(&mut self) -> io::Result<()> {
        while *self.range() < TOP {
            *self.range() <<= 8;
            self.shift()?;
        }
        Ok(())
    }

    /// A bit whose chance adapts.
    #[inline]
    fn bit(&mut self, chance: &mut Chance, bit: bool) -> io::Result<bool> {
        let bound = (*self.range() >> BITS) * u32::from(*chance);
        let bit = self.choose(bound, bit);
        if bit {
            *self.range() -= bound;
            *chance -= *chance >> RATE;
        } else {
            *self.range() = bound;
            *chance += ((1 << BITS) - *chance) >> RATE;
        }
        self.normalise()?;
        Ok(bit)
    }

    /// The low `count` bits of a number, at most 32, each as likely 0 as 1.
    fn plain(&mut self, count: u32, value: u32) -> io::Result<u32> {
        let mut coded = 0;
        for at in (0..count).rev() {
            *self.range() >>= 1;
            let half = *self.range();
            let bit = self.choose(half, value >> at & 1 == 1);
            coded = coded << 1 | u32::from(bit);
            self.normalise()?;
        }
        Ok(coded)
    }

    /// A number of as many bits as the tree is high; `chances` has that power of two of places.
    fn tree(&mut self, chances: &mut [Chance], value: u32) -> io::Result<u32> {
        let height = chances.len().trailing_zeros();
        let mut node = 1;
        for level in (0..height).rev() {
            let bit = value >> level & 1 == 1;
            node = node << 1 | usize::from(self.bit(&mut chances[node], bit)?);
        }
        Ok(node as u32 - (1 << height))
    }
}

pub(super) struct Encoder<W> {
    writer: W,
    low: u64,
    range: u32,
    /// The last byte that a carry may still change, and how many 0xff follow it.
    held: Option<u8>,
    run: u64,
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, low: 0, range: u32::MAX, held: None, run: 0 }
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        for _ in 0..5 {
            self.shift()?;
        }
        if let Some(held) = self.held {
            self.writer.write_all(&[held])?;
        }
        Ok(self.writer)
    }
}

impl<W: Write> Coder for Encoder<W> {
    #[inline]
    fn range(&mut self) -> &mut u32 {
        &mut self.range
    }

    #[inline]
    fn choose(&mut self, bound: u32, bit: bool) -> bool {
        if bit {
            self.low += u64::from(bound);
        }
        bit
    }

    fn shift(&mut self) -> io::Result<()> {
        if self.low < 0xff00_0000 || self.low > u64::from(u32::MAX) {
            let carry = (self.low >> 32) as u8;
            if let Some(held) = self.held {
                self.writer.write_all(&[held.wrapping_add(carry)])?;
            }
            for _ in 0..std::mem::take(&mut self.run) {
                self.writer.write_all(&[0xff_u8.wrapping_add(carry)])?;
            }
            self.held = Some((self.low >> 24) as u8);
        } else {
            self.run += 1;
        }
        self.low = (self.low & 0x00ff_ffff) << 8;
        Ok(())
    }
}

pub(super) struct Decoder<R> {
    reader: R,
    code: u32,
    range: u32,
}

impl<R: Read> Decoder<R> {
    pub(super) fn new(reader: R) -> io::Result<Self> {
        let mut decoder = Self { reader, code: 0, range: u32::MAX };
        for _ in 0..4 {
            decoder.shift()?;
        }
        Ok(decoder)
    }
}

impl<R: Read> Coder for Decoder<R> {
    #[inline]
    fn range(&mut self) -> &mut u32 {
        &mut self.range
    }

    #[inline]
    fn choose(&mut self, bound: u32, _: bool) -> bool {
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
        }
        bit
    }

    fn shift(&mut self) -> io::Result<()> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        self.code = self.code << 8 | u32::from(byte[0]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_coded_comes_back() {
        let bits: Vec<bool> = (0..100_000_u32).map(|n| n.wrapping_mul(2_654_435_761) >> 27 == 0).collect();
        let mut encoder = Encoder::new(Vec::new());
        let (mut chance, mut tree) = (EVEN, [EVEN; 256]);
        for (n, bit) in bits.iter().enumerate() {
            encoder.bit(&mut chance, *bit).unwrap();
            encoder.plain(7, n as u32 & 127).unwrap();
            encoder.tree(&mut tree, n as u32 >> 3 & 255).unwrap();
        }
        // The most that a carry runs through.
        encoder.plain(32, u32::MAX).unwrap();
        let coded = encoder.finish().unwrap();
        let mut decoder = Decoder::new(&coded[..]).unwrap();
        let (mut chance, mut tree) = (EVEN, [EVEN; 256]);
        for (n, bit) in bits.iter().enumerate() {
            assert_eq!(decoder.bit(&mut chance, false).unwrap(), *bit);
            assert_eq!(decoder.plain(7, 0).unwrap(), n as u32 & 127);
            assert_eq!(decoder.tree(&mut tree, 0).unwrap(), n as u32 >> 3 & 255);
        }
        assert_eq!(decoder.plain(32, 0).unwrap(), u32::MAX);
    }
}
