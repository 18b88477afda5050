//! A gzip file to its recipe.

use super::deflate::{Part, Parts};
use super::model::{AHEAD, Habits, Model, WINDOW};
use super::range::{Chance, Coder, EVEN, Encoder};
use super::{CHUNK, DYNAMIC, END, FIXED, HABITS, HEADER, MOST, OPEN, STORED, TOKENS, TRAILER, invalid};
use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};

/// Plain text by which the habits of a compressor are judged, in bytes.
const SAMPLE: usize = 1 << 20;

/// Reads a file of gzip members and writes the recipe by which [`super::rebuild_gzip`] makes it again. Takes
/// about as long as compressing it on one processor.
///
/// # Errors
/// Invalid data when it is no such file, or has something that no compressor of the field writes and a recipe
/// does not hold.
pub fn write_gzip_recipe<W: Write>(file: impl Read, mut recipe: W) -> io::Result<W> {
    let mut chunks = Chunks::new(Parts::new(BufReader::with_capacity(128 * 1024, file)));
    let Some(mut chunk) = chunks.next()? else {
        recipe.write_all(&[0])?;
        return Ok(recipe);
    };
    let place = judge(&chunk)?;
    let habits = HABITS.get(place).copied().ok_or_else(invalid)?;
    recipe.write_all(&[u8::try_from(place).unwrap_or_default()])?;
    loop {
        let coded = chunk.write(habits, usize::MAX)?;
        if coded.len() > MOST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no compressor of the field is like that",
            ));
        }
        let ahead = chunk.text.len() - chunk.before - chunk.length;
        for number in [chunk.length, chunk.before, ahead, coded.len()] {
            recipe.write_all(&u32::try_from(number).map_err(|_| invalid())?.to_le_bytes())?;
        }
        recipe.write_all(&coded)?;
        match chunks.next()? {
            Some(next) => chunk = next,
            None => return Ok(recipe),
        }
    }
}

/// The place of the habits that expect this chunk best. A slower search has to be better by a tenth.
fn judge(chunk: &Chunk) -> io::Result<usize> {
    let mut best = (usize::MAX, 0);
    for (place, habits) in HABITS.iter().enumerate() {
        let size = chunk.write(*habits, SAMPLE)?.len();
        if size < best.0 - best.0 / 10 {
            best = (size, place);
        }
    }
    Ok(best.1)
}

/// Some of the file's parts, and the text that they and the model need.
struct Chunk {
    parts: Vec<Part>,
    /// The block that goes on when it begins.
    open: Option<Part>,
    /// Bits of the current byte that are before it.
    bit: u32,
    /// Text before it, its own, and after it.
    text: Vec<u8>,
    before: usize,
    length: usize,
}

/// Cuts the parts of a file into chunks.
struct Chunks<R> {
    parts: Parts<R>,
    /// Read, and not in a chunk yet: parts, with where in the file they begin, and their text.
    queue: VecDeque<(Part, u32)>,
    text: Vec<u8>,
    /// The text since the member began, or the end of it.
    before: Vec<u8>,
    open: Option<Part>,
}

impl<R: io::BufRead> Chunks<R> {
    fn new(parts: Parts<R>) -> Self {
        Self { parts, queue: VecDeque::new(), text: Vec::new(), before: Vec::new(), open: None }
    }

    fn next(&mut self) -> io::Result<Option<Chunk>> {
        let mut weight = 0;
        while self.text.len() < CHUNK + AHEAD
            && weight < CHUNK
            && let bit = self.parts.bit()
            && let Some(part) = self.parts.next()?
        {
            self.text.extend_from_slice(self.parts.text());
            weight += part.weight();
            self.queue.push_back((part, bit));
        }
        let Some((_, bit)) = self.queue.front() else { return Ok(None) };
        let (bit, open) = (*bit, self.open.clone());
        let (mut parts, mut length, mut weight, mut member) = (Vec::new(), 0, 0, None);
        while length < CHUNK
            && weight < CHUNK
            && let Some((part, _)) = self.queue.pop_front()
        {
            match &part {
                Part::Header(_) => member = Some(length),
                Part::Fixed { .. } | Part::Dynamic { .. } => self.open = Some(part.clone()),
                Part::Tokens { ends: true, .. } => self.open = None,
                _ => {}
            }
            length += part.text_length();
            weight += part.weight();
            parts.push(part);
        }
        let before = std::mem::take(&mut self.before);
        let end = (length + AHEAD).min(self.text.len());
        let text = [&before[..], &self.text[..end]].concat();
        // Matches do not reach beyond the beginning of the member.
        let from = member.map_or(0, |member| before.len() + member);
        let to = before.len() + length;
        self.before = text[from.max(to.saturating_sub(WINDOW))..to].to_vec();
        self.text.drain(..length);
        Ok(Some(Chunk { parts, open, bit, text, before: before.len(), length }))
    }
}

impl Chunk {
    /// Its coded part, or that of its first parts that make so much text.
    fn write(&self, habits: Habits, most: usize) -> io::Result<Vec<u8>> {
        let mut writer = ChunkWriter {
            coder: Encoder::new(Vec::new()),
            kinds: [EVEN; 8],
            model: Model::new(habits, &self.text, self.before),
        };
        writer.coder.tree(&mut [EVEN; 8], self.bit)?;
        if let Some(open) = &self.open {
            writer.open(open)?;
        }
        let mut length = 0;
        for part in &self.parts {
            writer.write(part)?;
            length += part.text_length();
            if length >= most {
                break;
            }
        }
        writer.begin(END, &[])?;
        writer.coder.finish()
    }
}

struct ChunkWriter<'t> {
    coder: Encoder<Vec<u8>>,
    kinds: [Chance; 8],
    model: Model<'t>,
}

impl ChunkWriter<'_> {
    fn open(&mut self, block: &Part) -> io::Result<()> {
        match block {
            Part::Dynamic { bits, .. } => {
                self.begin(OPEN, &[(1, 1)])?;
                self.fields(bits)
            }
            _ => self.begin(OPEN, &[(1, 0)]),
        }
    }

    fn write(&mut self, part: &Part) -> io::Result<()> {
        match part {
            Part::Header(bytes) => {
                self.begin(HEADER, &[(17, bytes.len() as u32)])?;
                self.bytes(bytes)?;
                self.model.begin_member();
            }
            Part::Stored { last, padding, length } => {
                let fields = [(1, u32::from(*last)), (8, u32::from(*padding)), (16, u32::from(*length))];
                self.begin(STORED, &fields)?;
                self.model.skip(usize::from(*length));
            }
            Part::Fixed { last } => self.begin(FIXED, &[(1, u32::from(*last))])?,
            Part::Dynamic { last, bits } => {
                self.begin(DYNAMIC, &[(1, u32::from(*last))])?;
                self.fields(bits)?;
            }
            Part::Tokens { tokens, ends } => {
                self.begin(TOKENS, &[(16, tokens.len() as u32), (1, u32::from(*ends))])?;
                for token in tokens {
                    self.model.token(&mut self.coder, *token)?;
                }
            }
            Part::Trailer { padding, bytes } => {
                self.begin(TRAILER, &[(8, u32::from(*padding))])?;
                self.bytes(bytes)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, kind: u32, fields: &[(u32, u32)]) -> io::Result<()> {
        self.coder.tree(&mut self.kinds, kind)?;
        fields.iter().try_for_each(|(count, value)| self.coder.plain(*count, *value).map(drop))
    }

    fn fields(&mut self, fields: &[(u8, u16)]) -> io::Result<()> {
        let mut fields = fields.iter().map(|(count, value)| (u32::from(*count), u32::from(*value)));
        fields.try_for_each(|(count, value)| self.coder.plain(count, value).map(drop))
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.iter().try_for_each(|byte| self.coder.plain(8, u32::from(*byte)).map(drop))
    }
}
