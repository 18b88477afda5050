//! The parts of a DEFLATE stream (RFC 1951) and of the gzip members around it (RFC 1952).

use super::bits::{BitReader, BitWriter};
use super::model::{Token, WINDOW};
use std::io::{self, BufRead};

const LONGEST_CODE: u32 = 15;
const END_OF_BLOCK: u16 = 256;
/// Tokens, and bytes of plain text that they make, that are gathered at once.
const TOKENS: usize = 32 * 1024;
const TEXT: usize = 1 << 20;

const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];
const DISTANCES: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The lengths of the codes of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lengths {
    literals: Vec<u8>,
    distances: Vec<u8>,
}

impl Lengths {
    /// Those of a block with fixed codes.
    pub(super) fn fixed() -> Self {
        let mut literals = vec![8; 288];
        literals[144..256].fill(9);
        literals[256..280].fill(7);
        Self { literals, distances: vec![5; 30] }
    }

    /// Reads those of a block with codes of its own; `take` gives the next so many bits.
    pub(super) fn read(mut take: impl FnMut(u32) -> io::Result<u32>) -> io::Result<Self> {
        const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
        let literals = take(5)? as usize + 257;
        let distances = take(5)? as usize + 1;
        let count = take(4)? as usize + 4;
        let mut small = [0_u8; 19];
        for place in ORDER.iter().take(count) {
            small[*place] = take(3)? as u8;
        }
        let codes = Codes::new(&small, 7)?;
        let mut lengths: Vec<u8> = Vec::with_capacity(literals + distances);
        while lengths.len() < literals + distances {
            let symbol = codes.read_slowly(&mut take)?;
            let (value, times) = match symbol {
                0..16 => (symbol as u8, 1),
                16 => {
                    (*lengths.last().ok_or_else(|| invalid("a repeated length without one"))?, take(2)? + 3)
                }
                17 => (0, take(3)? + 3),
                _ => (0, take(7)? + 11),
            };
            lengths.extend(std::iter::repeat_n(value, times as usize));
        }
        if lengths.len() > literals + distances {
            return Err(invalid("more code lengths than announced"));
        }
        let distances = lengths.split_off(literals);
        Ok(Self { literals: lengths, distances })
    }
}

/// A prefix code, by its lengths (RFC 1951, section 3.2.2).
pub(super) struct Codes {
    height: u32,
    /// By the next bits: the symbol, times 16, plus the length of its code; 0 where there is none.
    symbols: Vec<u16>,
    /// By symbol: its code, as it is written, and its length.
    codes: Vec<(u16, u8)>,
}

impl Codes {
    fn new(lengths: &[u8], height: u32) -> io::Result<Self> {
        let mut counts = [0_u32; 16];
        for length in lengths.iter().filter(|length| **length > 0) {
            counts[usize::from(*length)] += 1;
        }
        let mut firsts = [0_u32; 17];
        let mut code = 0;
        for (length, count) in counts.iter().enumerate().skip(1) {
            firsts[length] = code;
            code += count;
            if code > 1 << length {
                return Err(invalid("more codes than fit"));
            }
            code <<= 1;
        }
        let mut codes = vec![(0, 0); lengths.len()];
        let mut symbols = vec![0; 1 << height];
        for (symbol, length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            let next = &mut firsts[usize::from(*length)];
            let length32 = u32::from(*length);
            let reversed = (*next as u16).reverse_bits() >> (16 - length32);
            *next += 1;
            codes[symbol] = (reversed, *length);
            for place in symbols.iter_mut().skip(usize::from(reversed)).step_by(1 << length32) {
                *place = (symbol as u16) << 4 | u16::from(*length);
            }
        }
        Ok(Self { height, symbols, codes })
    }

    /// A symbol, from bits that come one by one.
    fn read_slowly(&self, take: &mut impl FnMut(u32) -> io::Result<u32>) -> io::Result<u16> {
        let mut bits = 0;
        for length in 1..=self.height {
            bits |= take(1)? << (length - 1);
            let entry = self.symbols[bits as usize];
            if entry & 15 == length as u16 {
                return Ok(entry >> 4);
            }
        }
        Err(invalid("a code that there is not"))
    }

    #[inline]
    fn read<R: BufRead>(&self, bits: &mut BitReader<R>) -> io::Result<u16> {
        let entry = self.symbols[bits.peek(self.height)? as usize];
        if entry == 0 {
            return Err(invalid("a code that there is not"));
        }
        bits.drop(u32::from(entry & 15))?;
        Ok(entry >> 4)
    }
}

/// The two codes of a block.
pub(super) struct BlockCodes {
    literals: Codes,
    distances: Codes,
}

impl BlockCodes {
    pub(super) fn new(lengths: &Lengths) -> io::Result<Self> {
        Ok(Self {
            literals: Codes::new(&lengths.literals, LONGEST_CODE)?,
            distances: Codes::new(&lengths.distances, LONGEST_CODE)?,
        })
    }

    /// Writes a literal.
    #[inline]
    pub(super) fn literal(&self, byte: u8, out: &mut BitWriter) -> io::Result<()> {
        symbol(&self.literals, u16::from(byte), out)
    }

    pub(super) fn end(&self, out: &mut BitWriter) -> io::Result<()> {
        symbol(&self.literals, END_OF_BLOCK, out)
    }

    /// Writes a match.
    #[inline]
    pub(super) fn reference(&self, length: u16, distance: u16, out: &mut BitWriter) -> io::Result<()> {
        // 258 has a symbol of its own, although the one before it would reach it.
        let (place, (first, extra)) = range_of(&LENGTHS, length);
        symbol(&self.literals, 257 + place, out)?;
        out.put(u32::from(extra), u32::from(length - first));
        let (place, (first, extra)) = range_of(&DISTANCES, distance);
        symbol(&self.distances, place, out)?;
        out.put(u32::from(extra), u32::from(distance - first));
        Ok(())
    }
}

#[inline]
fn symbol(codes: &Codes, symbol: u16, out: &mut BitWriter) -> io::Result<()> {
    match codes.codes.get(usize::from(symbol)) {
        Some((code, length)) if *length > 0 => {
            out.put(u32::from(*length), u32::from(*code));
            Ok(())
        }
        _ => Err(invalid("a symbol without a code")),
    }
}

/// The last of the ranges that begins at or before a value.
fn range_of<const N: usize>(ranges: &[(u16, u8); N], value: u16) -> (u16, (u16, u8)) {
    let at = ranges.partition_point(|(first, _)| *first <= value).saturating_sub(1);
    (at as u16, ranges[at])
}

/// A part of a file of gzip members.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// The header of a member, as it is.
    Header(Vec<u8>),
    /// A block of the next kind begins; `last` of its member.
    Stored {
        last: bool,
        padding: u8,
        length: u16,
    },
    Fixed {
        last: bool,
    },
    /// With the bits of its code lengths, as they are.
    Dynamic {
        last: bool,
        bits: Vec<(u8, u16)>,
    },
    /// Tokens of the block; whether it ends with them.
    Tokens {
        tokens: Vec<Token>,
        ends: bool,
    },
    /// The end of a member: bits up to the byte's end, and the eight bytes of the trailer.
    Trailer {
        padding: u8,
        bytes: [u8; 8],
    },
}

impl Part {
    /// How many bytes of plain text it makes.
    pub(super) fn text_length(&self) -> usize {
        match self {
            Self::Stored { length, .. } => usize::from(*length),
            Self::Tokens { tokens, .. } => tokens.iter().map(|token| token.length()).sum(),
            _ => 0,
        }
    }

    /// About what it takes in memory, in bytes, beside its text.
    pub(super) fn weight(&self) -> usize {
        const SELF: usize = 64;
        match self {
            Self::Header(bytes) => SELF + bytes.len(),
            Self::Dynamic { bits, .. } => SELF + 4 * bits.len(),
            _ => SELF,
        }
    }
}

enum State {
    Member,
    Block,
    Tokens { codes: Box<BlockCodes>, last: bool },
    Trailer,
}

/// Takes a file of gzip members apart.
pub(super) struct Parts<R> {
    bits: BitReader<R>,
    state: State,
    /// Plain text: as much as matches reach, and what the last part made.
    text: Vec<u8>,
    fresh: usize,
}

impl<R: BufRead> Parts<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { bits: BitReader::new(reader), state: State::Member, text: Vec::new(), fresh: 0 }
    }

    /// Bits of the current byte that were read.
    pub(super) fn bit(&self) -> u32 {
        self.bits.bit()
    }

    /// The plain text that the last part made.
    pub(super) fn text(&self) -> &[u8] {
        &self.text[self.fresh..]
    }

    /// The next part; `None` at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Part>> {
        let old = self.text.len().saturating_sub(WINDOW);
        self.text.drain(..old);
        self.fresh = self.text.len();
        match std::mem::replace(&mut self.state, State::Block) {
            State::Member if self.bits.is_at_end()? => {
                self.state = State::Member;
                Ok(None)
            }
            State::Member => self.header().map(Some),
            State::Block => self.block().map(Some),
            State::Tokens { codes, last } => self.tokens(codes, last).map(Some),
            State::Trailer => self.trailer().map(Some),
        }
    }

    fn after(last: bool) -> State {
        if last { State::Trailer } else { State::Block }
    }

    fn header(&mut self) -> io::Result<Part> {
        const MOST: usize = 64 * 1024;
        let mut bytes = Vec::new();
        self.copy(&mut bytes, 10)?;
        if bytes[..3] != [0x1f, 0x8b, 8] {
            return Err(invalid("no gzip member"));
        }
        let flags = bytes[3];
        if flags & 4 != 0 {
            self.copy(&mut bytes, 2)?;
            let length = u16::from_le_bytes([bytes[10], bytes[11]]);
            self.copy(&mut bytes, usize::from(length))?;
        }
        for flag in [8, 16] {
            if flags & flag != 0 {
                loop {
                    self.copy(&mut bytes, 1)?;
                    if bytes.last() == Some(&0) {
                        break;
                    }
                    if bytes.len() > MOST {
                        return Err(invalid("an endless gzip header"));
                    }
                }
            }
        }
        if flags & 2 != 0 {
            self.copy(&mut bytes, 2)?;
        }
        // Matches of a member refer to nothing before it.
        self.text.clear();
        self.fresh = 0;
        Ok(Part::Header(bytes))
    }

    fn copy(&mut self, bytes: &mut Vec<u8>, count: usize) -> io::Result<()> {
        for _ in 0..count {
            bytes.push(self.bits.take(8)? as u8);
        }
        Ok(())
    }

    fn block(&mut self) -> io::Result<Part> {
        let last = self.bits.take(1)? == 1;
        let lengths;
        let part = match self.bits.take(2)? {
            0 => return self.stored(last),
            1 => {
                lengths = Lengths::fixed();
                Part::Fixed { last }
            }
            2 => {
                let mut bits = Vec::new();
                lengths = Lengths::read(|count| {
                    let value = self.bits.take(count)?;
                    bits.push((count as u8, value as u16));
                    Ok(value)
                })?;
                Part::Dynamic { last, bits }
            }
            _ => return Err(invalid("a block of an unknown kind")),
        };
        self.state = State::Tokens { codes: Box::new(BlockCodes::new(&lengths)?), last };
        Ok(part)
    }

    fn stored(&mut self, last: bool) -> io::Result<Part> {
        let padding = self.bits.take(self.bits.to_boundary())? as u8;
        let length = self.bits.take(16)?;
        if self.bits.take(16)? != length ^ 0xffff {
            return Err(invalid("a stored block whose length is wrong"));
        }
        for _ in 0..length {
            let byte = self.bits.take(8)? as u8;
            self.text.push(byte);
        }
        self.state = Self::after(last);
        Ok(Part::Stored { last, padding, length: length as u16 })
    }

    fn tokens(&mut self, codes: Box<BlockCodes>, last: bool) -> io::Result<Part> {
        let mut tokens = Vec::with_capacity(TOKENS);
        while tokens.len() < TOKENS && self.text.len() - self.fresh < TEXT {
            let symbol = codes.literals.read(&mut self.bits)?;
            match symbol {
                0..256 => {
                    self.text.push(symbol as u8);
                    tokens.push(Token::Literal);
                }
                END_OF_BLOCK => {
                    self.state = Self::after(last);
                    return Ok(Part::Tokens { tokens, ends: true });
                }
                _ => tokens.push(self.reference(&codes, symbol)?),
            }
        }
        self.state = State::Tokens { codes, last };
        Ok(Part::Tokens { tokens, ends: false })
    }

    fn reference(&mut self, codes: &BlockCodes, symbol: u16) -> io::Result<Token> {
        let (first, extra) =
            LENGTHS.get(usize::from(symbol - 257)).ok_or_else(|| invalid("a length that there is not"))?;
        let length = first + self.bits.take(u32::from(*extra))? as u16;
        if length == 258 && *extra > 0 {
            return Err(invalid("a length in a form that is not rebuilt"));
        }
        let symbol = codes.distances.read(&mut self.bits)?;
        let (first, extra) =
            DISTANCES.get(usize::from(symbol)).ok_or_else(|| invalid("a distance that there is not"))?;
        let distance = first + self.bits.take(u32::from(*extra))? as u16;
        let from = self.text.len().checked_sub(usize::from(distance));
        let from = from.ok_or_else(|| invalid("a match before the beginning"))?;
        if usize::from(distance) >= usize::from(length) {
            self.text.extend_from_within(from..from + usize::from(length));
        } else {
            for at in from..from + usize::from(length) {
                self.text.push(self.text[at]);
            }
        }
        Ok(Token::Match { length, distance })
    }

    fn trailer(&mut self) -> io::Result<Part> {
        let padding = self.bits.take(self.bits.to_boundary())? as u8;
        let mut bytes = [0; 8];
        for byte in &mut bytes {
            *byte = self.bits.take(8)? as u8;
        }
        self.state = State::Member;
        Ok(Part::Trailer { padding, bytes })
    }
}
