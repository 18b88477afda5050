//! A recipe to its gzip file.

use super::bits::BitWriter;
use super::deflate::{BlockCodes, Lengths};
use super::model::{AHEAD, Habits, Model, Token, WINDOW};
use super::range::{Chance, Coder, Decoder, EVEN};
use super::{DYNAMIC, END, FIXED, HABITS, HEADER, MOST, OPEN, STORED, TOKENS, TRAILER, invalid};
use crate::ordered::Ordered;
use std::io::{self, BufRead, Read, Write};

/// Writes the gzip file of which [`super::write_gzip_recipe`] wrote this recipe; `text` is its plain text, of
/// which nothing may be left over. Several threads work on it.
///
/// # Errors
/// Those of the two readers and the writer; invalid data when the recipe is damaged or is for another text. Not
/// every other text is found out: compare the digest of what was written.
pub fn rebuild_gzip<W: Write>(mut recipe: impl BufRead, text: impl Read, writer: W) -> io::Result<W> {
    let mut place = [0];
    recipe.read_exact(&mut place)?;
    let habits = HABITS.get(usize::from(place[0])).copied().ok_or_else(invalid)?;
    let mut text = Text { reader: text, held: Vec::new() };
    let mut before = Vec::new();
    let mut chunks = Ordered::new("rebuild-gzip", Chunk::rebuild);
    let mut joined = Joined { writer, last: 0 };
    while !recipe.fill_buf()?.is_empty() {
        let chunk = next_chunk(&mut recipe, &mut text, &mut before, habits)?;
        chunks.submit(chunk)?;
        while chunks.is_full()
            && let Some(piece) = chunks.next()?
        {
            joined.write(piece)?;
        }
    }
    while let Some(piece) = chunks.next()? {
        joined.write(piece)?;
    }
    if text.fill(1)? > 0 {
        return Err(invalid());
    }
    joined.finish()
}

fn next_chunk(
    recipe: &mut impl Read,
    text: &mut Text<impl Read>,
    before: &mut Vec<u8>,
    habits: Habits,
) -> io::Result<Chunk> {
    let mut number = || {
        let mut bytes = [0; 4];
        recipe.read_exact(&mut bytes)?;
        usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| invalid())
    };
    let (length, reach, ahead, size) = (number()?, number()?, number()?, number()?);
    if length > MOST || size > MOST || reach > before.len() || ahead > AHEAD {
        return Err(invalid());
    }
    let mut coded = vec![0; size];
    recipe.read_exact(&mut coded)?;
    if text.fill(length + ahead)? < length + ahead {
        return Err(invalid());
    }
    let seen = [&before[before.len() - reach..], &text.held[..length + ahead]].concat();
    before.extend(text.held.drain(..length));
    before.drain(..before.len().saturating_sub(WINDOW));
    Ok(Chunk { habits, coded, text: seen, before: reach, length })
}

/// The plain text as it comes.
struct Text<T> {
    reader: T,
    held: Vec<u8>,
}

impl<T: Read> Text<T> {
    /// Has so many bytes in hand, or all that there are; how many.
    fn fill(&mut self, wanted: usize) -> io::Result<usize> {
        let missing = wanted.saturating_sub(self.held.len());
        self.reader.by_ref().take(missing as u64).read_to_end(&mut self.held)?;
        Ok(self.held.len().min(wanted))
    }
}

/// Bits of the file: whole bytes, of which the first has bits of the piece before, and the last bits of the one
/// after.
struct Piece {
    bytes: Vec<u8>,
    /// Bits of the last byte that are its own; 0 when it is whole.
    bits: u32,
}

/// Puts pieces together.
struct Joined<W> {
    writer: W,
    /// The bits of a byte that is not whole.
    last: u8,
}

impl<W: Write> Joined<W> {
    fn write(&mut self, mut piece: Piece) -> io::Result<()> {
        if let Some(first) = piece.bytes.first_mut() {
            *first |= std::mem::take(&mut self.last);
        }
        if piece.bits > 0 {
            self.last = piece.bytes.pop().unwrap_or_default();
        }
        self.writer.write_all(&piece.bytes)
    }

    fn finish(self) -> io::Result<W> {
        // A member ends with whole bytes.
        if self.last == 0 { Ok(self.writer) } else { Err(invalid()) }
    }
}

/// A chunk of a recipe with the text that it is about.
struct Chunk {
    habits: Habits,
    coded: Vec<u8>,
    text: Vec<u8>,
    before: usize,
    length: usize,
}

impl Chunk {
    fn rebuild(self) -> io::Result<Piece> {
        let mut coder = Decoder::new(&self.coded[..])?;
        let bit = coder.tree(&mut [EVEN; 8], 0)?;
        let mut out = BitWriter::new();
        out.put(bit, 0);
        let model = Model::new(self.habits, &self.text, self.before);
        let left = model.left_after(self.length);
        let mut rebuild = Rebuild { coder, kinds: [EVEN; 8], model, left, codes: None, out };
        while rebuild.part()? {}
        if rebuild.model.ahead() != rebuild.left {
            return Err(invalid());
        }
        let (bytes, bits) = rebuild.out.finish();
        Ok(Piece { bytes, bits })
    }
}

struct Rebuild<'t, R: Read> {
    coder: Decoder<R>,
    kinds: [Chance; 8],
    model: Model<'t>,
    /// Bytes of text that are not this chunk's to make.
    left: usize,
    codes: Option<BlockCodes>,
    out: BitWriter,
}

impl<R: Read> Rebuild<'_, R> {
    /// One part; false at the end.
    fn part(&mut self) -> io::Result<bool> {
        match self.coder.tree(&mut self.kinds, 0)? {
            HEADER => {
                let length = self.coder.plain(17, 0)?;
                self.bytes(length)?;
                self.model.begin_member();
            }
            STORED => self.stored()?,
            kind @ (FIXED | DYNAMIC) => {
                let last = self.coder.plain(1, 0)?;
                // The two bits of the kind are 1 and 2.
                self.out.put(3, last | (kind - FIXED + 1) << 1);
                self.block(kind == DYNAMIC, true)?;
            }
            TOKENS => self.tokens()?,
            TRAILER => {
                self.padding()?;
                self.bytes(8)?;
            }
            OPEN => {
                let is_dynamic = self.coder.plain(1, 0)? == 1;
                self.block(is_dynamic, false)?;
            }
            END => return Ok(false),
            _ => return Err(invalid()),
        }
        Ok(true)
    }

    /// Fails when less text than this is the chunk's to make.
    fn has(&self, count: usize) -> io::Result<()> {
        if self.model.ahead() < self.left + count { Err(invalid()) } else { Ok(()) }
    }

    fn bytes(&mut self, count: u32) -> io::Result<()> {
        for _ in 0..count {
            let byte = self.coder.plain(8, 0)?;
            self.out.put(8, byte);
        }
        Ok(())
    }

    /// The bits up to the end of the byte.
    fn padding(&mut self) -> io::Result<()> {
        let (count, bits) = (self.out.to_boundary(), self.coder.plain(8, 0)?);
        if bits >> count != 0 {
            return Err(invalid());
        }
        self.out.put(count, bits);
        Ok(())
    }

    fn stored(&mut self) -> io::Result<()> {
        let last = self.coder.plain(1, 0)?;
        self.out.put(3, last);
        self.padding()?;
        let length = self.coder.plain(16, 0)?;
        self.out.put(16, length);
        self.out.put(16, length ^ 0xffff);
        self.has(length as usize)?;
        for byte in self.model.next(length as usize) {
            self.out.put(8, u32::from(*byte));
        }
        self.model.skip(length as usize);
        Ok(())
    }

    /// The codes of a block; of one that begins here they are written.
    fn block(&mut self, is_dynamic: bool, begins: bool) -> io::Result<()> {
        let lengths = match is_dynamic {
            false => Lengths::fixed(),
            true => Lengths::read(|count| {
                let value = self.coder.plain(count, 0)?;
                if begins {
                    self.out.put(count, value);
                }
                Ok(value)
            })?,
        };
        self.codes = Some(BlockCodes::new(&lengths)?);
        Ok(())
    }

    fn tokens(&mut self) -> io::Result<()> {
        let count = self.coder.plain(16, 0)?;
        let ends = self.coder.plain(1, 0)? == 1;
        let codes = self.codes.take().ok_or_else(invalid)?;
        for _ in 0..count {
            self.has(1)?;
            let byte = self.model.next(1)[0];
            match self.model.token(&mut self.coder, Token::Literal)? {
                Token::Literal => codes.literal(byte, &mut self.out)?,
                Token::Match { length, distance } => codes.reference(length, distance, &mut self.out)?,
            }
            // The last match may have gone too far.
            self.has(0)?;
        }
        if ends {
            codes.end(&mut self.out)?;
        } else {
            self.codes = Some(codes);
        }
        Ok(())
    }
}
