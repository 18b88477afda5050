//! What a compressor probably did next.
//!
//! A DEFLATE compressor looks for earlier occurrences of what comes, along chains of positions whose first bytes
//! have the same hash, up to some depth, and takes the longest, the nearest of them; a lazy one puts a literal
//! first if the next position has a longer one. The model does the same, without the details in which
//! compressors differ; what it expects is context for a coder that learns how often it is right in which case.
//! So a token costs next to nothing where the compressor is like that, and some bits where it is not.

use super::range::{Chance, Coder, EVEN};
use std::io;

pub(super) const WINDOW: usize = 32 * 1024;
const LONGEST: usize = 258;
/// What a decision looks at beyond the current position: a longest match at the next one.
pub(super) const AHEAD: usize = LONGEST + 8;
const SHORTEST: usize = 3;
/// Candidates by whose ordinal a distance is coded.
const RANKS: u32 = 255;

/// One step of a DEFLATE stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Literal,
    Match { length: u16, distance: u16 },
}

impl Token {
    pub(super) fn length(self) -> usize {
        match self {
            Self::Literal => 1,
            Self::Match { length, .. } => usize::from(length),
        }
    }
}

/// How the compressor seems to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Habits {
    /// Bytes whose hash begins a chain: 3 or 4.
    pub(super) hashed: u8,
    /// Candidates that it looks at.
    pub(super) depth: u16,
    /// A match this long ends the search.
    pub(super) nice: u16,
    /// A match shorter than this lets it look at the next position; 0 when it never does.
    pub(super) lazy: u16,
    /// A match longer than this has no position in a chain but its first.
    pub(super) added: u16,
    /// The farthest that it looks back.
    pub(super) farthest: u16,
}

/// The plain text around the current position.
struct Window<'t> {
    bytes: &'t [u8],
    at: usize,
    /// Matches do not begin before this: where the member of the file began.
    floor: usize,
    /// The last position, plus one, of each hash; and of each position the one before with its hash.
    heads: Vec<u32>,
    before: Vec<u32>,
    four: bool,
}

impl<'t> Window<'t> {
    fn new(four: bool, text: &'t [u8]) -> Self {
        let heads = if four { 1 << 17 } else { 1 << 15 };
        Self { bytes: text, at: 0, floor: 0, heads: vec![0; heads], before: vec![0; WINDOW], four }
    }

    fn hash(&self, at: usize) -> usize {
        let bytes = &self.bytes;
        if self.four {
            let word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            (word.wrapping_mul(0x1e35_a7bd) >> 15) as usize
        } else {
            let [a, b, c] = [bytes[at], bytes[at + 1], bytes[at + 2]].map(usize::from);
            (a << 10 ^ b << 5 ^ c) & 0x7fff
        }
    }

    fn insert(&mut self, at: usize) {
        if at + 4 <= self.bytes.len() {
            let hash = self.hash(at);
            self.before[at % WINDOW] = self.heads[hash];
            self.heads[hash] = at as u32 + 1;
        }
    }

    #[inline]
    fn word(&self, at: usize) -> u32 {
        self.bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
    }

    fn left(&self, at: usize) -> usize {
        self.bytes.len() - at
    }

    /// How many bytes at two positions are the same, at most `limit`, which ends within the text.
    fn common(&self, earlier: usize, at: usize, limit: usize) -> usize {
        let (a, b) = (&self.bytes[earlier..earlier + limit], &self.bytes[at..at + limit]);
        let mut same = 0;
        for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
            let a = u64::from_le_bytes(a.try_into().unwrap_or_default());
            let b = u64::from_le_bytes(b.try_into().unwrap_or_default());
            if a != b {
                return same + ((a ^ b).trailing_zeros() / 8) as usize;
            }
            same += 8;
        }
        while same < limit && a[same] == b[same] {
            same += 1;
        }
        same
    }

    /// The nearest of the longest occurrences that are longer than `beyond`: its length and distance.
    fn search(&self, at: usize, habits: &Habits, depth: u32, beyond: usize) -> Option<(usize, usize)> {
        let limit = self.left(at).min(LONGEST);
        if limit < 4 || limit <= beyond {
            return None;
        }
        let (mut best, mut found) = (beyond.max(SHORTEST - 1), None);
        let mut next = self.heads[self.hash(at)] as usize;
        let farthest = usize::from(habits.farthest);
        let lowest = self.floor.max(at.saturating_sub(farthest));
        let mut last = if best >= 3 { self.word(at + best - 3) } else { 0 };
        for _ in 0..depth {
            if next <= lowest {
                break;
            }
            let earlier = next - 1;
            // What is longer than the best has the same bytes around its end.
            let may_be = match best {
                ..SHORTEST => self.bytes[earlier + 2] == self.bytes[at + 2],
                _ => self.word(earlier + best - 3) == last,
            };
            if may_be {
                let length = self.common(earlier, at, limit);
                if length > best {
                    (best, found) = (length, Some((length, at - earlier)));
                    if length >= usize::from(habits.nice) || length == limit {
                        break;
                    }
                    last = self.word(at + best - 3);
                }
            }
            next = self.before[earlier % WINDOW] as usize;
        }
        found
    }

    /// Positions on the chain of `at` that have its first three bytes, the nearest first.
    fn candidates(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        // A window before it is the position whose place in the chains it took.
        let lowest = self.floor.max((at + 1).saturating_sub(WINDOW));
        let usable = self.left(at) >= 4;
        let mut next = if usable { self.heads[self.hash(at)] as usize } else { 0 };
        std::iter::from_fn(move || {
            while next > lowest {
                let earlier = next - 1;
                next = self.before[earlier % WINDOW] as usize;
                if self.bytes[earlier..earlier + SHORTEST] == self.bytes[at..at + SHORTEST] {
                    return Some(earlier);
                }
            }
            None
        })
    }
}

const FLAG_SIZES: usize = 10;
const FLAG_NEXT: usize = 4;
const FLAG_LAST: usize = 6;

/// The model and what it has learnt.
pub(super) struct Model<'t> {
    habits: Habits,
    window: Window<'t>,
    /// The match at the current position, where the look ahead has found it already.
    known: Option<(usize, usize)>,
    last: usize,
    literals: u32,
    is_match: Vec<Chance>,
    is_best: Vec<Chance>,
    in_chain: Chance,
    rank: [Chance; 256],
    is_full: [Chance; 4],
    length: [Chance; 256],
    distance: [Chance; 16],
}

fn size_class(length: usize) -> usize {
    match length {
        0 => 0,
        3 => 1,
        4 => 2,
        5 => 3,
        6..8 => 4,
        8..16 => 5,
        16..32 => 6,
        32..64 => 7,
        64..128 => 8,
        _ => 9,
    }
}

impl<'t> Model<'t> {
    /// Over this text, from the position `begin` on.
    pub(super) fn new(habits: Habits, text: &'t [u8], begin: usize) -> Self {
        let mut model = Self {
            window: Window::new(habits.hashed == 4, text),
            habits,
            known: None,
            last: 0,
            literals: 0,
            is_match: vec![EVEN; FLAG_SIZES * FLAG_NEXT * FLAG_LAST * 2],
            is_best: vec![EVEN; FLAG_SIZES * FLAG_NEXT * 2],
            in_chain: EVEN,
            rank: [EVEN; 256],
            is_full: [EVEN; 4],
            length: [EVEN; 256],
            distance: [EVEN; 16],
        };
        model.skip(begin);
        model
    }

    /// Bytes that are there beyond the next `count`.
    pub(super) fn left_after(&self, count: usize) -> usize {
        self.ahead().saturating_sub(count)
    }

    /// Bytes that are there beyond the current position.
    pub(super) fn ahead(&self) -> usize {
        self.window.left(self.window.at)
    }

    /// The next `count` bytes.
    pub(super) fn next(&self, count: usize) -> &'t [u8] {
        &self.window.bytes[self.window.at..self.window.at + count]
    }

    /// From here on matches refer to nothing before.
    pub(super) fn begin_member(&mut self) {
        self.window.floor = self.window.at;
        self.known = None;
    }

    /// Passes over bytes that no token made.
    pub(super) fn skip(&mut self, count: usize) {
        for at in self.window.at..self.window.at + count {
            self.window.insert(at);
        }
        self.window.at += count;
        self.known = None;
    }

    /// Codes one token at the current position, of which there is at least one byte, and goes past it.
    pub(super) fn token(&mut self, coder: &mut impl Coder, token: Token) -> io::Result<Token> {
        let at = self.window.at;
        let depth = u32::from(self.habits.depth);
        let best = self.known.take().or_else(|| self.window.search(at, &self.habits, depth, 0));
        self.window.insert(at);
        let (length, distance) = best.unwrap_or_default();
        let mut next = 0;
        let mut longer = None;
        if length > 0 && length < usize::from(self.habits.lazy) {
            longer = self.window.search(at + 1, &self.habits, depth, length);
            next = longer.map_or(1, |(found, _)| if found == length + 1 { 2 } else { 3 });
        }
        let size = size_class(length);
        let far = usize::from(distance > 4096);
        let flag = ((size * FLAG_NEXT + next) * FLAG_LAST + self.last) * 2 + far;
        let is_match = coder.bit(&mut self.is_match[flag], token != Token::Literal)?;
        if !is_match {
            self.literals += 1;
            self.last = match (length > 0, self.literals) {
                (true, _) => 1,
                (false, ..4) => 2,
                (false, ..16) => 3,
                (false, ..64) => 4,
                _ => 5,
            };
            self.known = longer;
            self.window.at += 1;
            return Ok(Token::Literal);
        }
        let token = self.reference(coder, token, best, (size * FLAG_NEXT + next) * 2 + far)?;
        self.literals = 0;
        self.last = 0;
        let length = token.length();
        if length <= usize::from(self.habits.added) {
            (at + 1..at + length).for_each(|at| self.window.insert(at));
        }
        self.window.at += length;
        Ok(token)
    }

    fn reference(
        &mut self,
        coder: &mut impl Coder,
        token: Token,
        best: Option<(usize, usize)>,
        context: usize,
    ) -> io::Result<Token> {
        let at = self.window.at;
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let (length, distance) = match token {
            Token::Match { length, distance } => (usize::from(length), usize::from(distance)),
            Token::Literal => (0, 0),
        };
        if let Some(best) = best
            && coder.bit(&mut self.is_best[context], best == (length, distance))?
        {
            return Ok(Token::Match { length: best.0 as u16, distance: best.1 as u16 });
        }
        // The position itself is on its chain already.
        let mut others = self.window.candidates(at).skip(1);
        let rank = others.by_ref().take(RANKS as usize).position(|earlier| at - earlier == distance);
        let distance = if coder.bit(&mut self.in_chain, rank.is_some())? {
            let rank = coder.tree(&mut self.rank, rank.unwrap_or_default() as u32)?;
            let earlier = self.window.candidates(at).skip(1).nth(rank as usize).ok_or_else(wrong)?;
            at - earlier
        } else {
            let bits = coder.tree(&mut self.distance, distance.checked_ilog2().unwrap_or_default())?;
            let low = coder.plain(bits, distance as u32 & ((1 << bits) - 1))?;
            (1 << bits | low) as usize
        };
        let limit = self.window.left(at).min(LONGEST);
        if distance == 0 || distance > at || distance > WINDOW || limit < SHORTEST {
            return Err(wrong());
        }
        let full = self.window.common(at - distance, at, limit);
        let class = usize::from(full > 4) + usize::from(full > 16) + usize::from(full > 257);
        let length = match coder.bit(&mut self.is_full[class], length == full)? {
            true => full,
            false => {
                coder.tree(&mut self.length, length.saturating_sub(SHORTEST) as u32)? as usize + SHORTEST
            }
        };
        if length < SHORTEST || length > full {
            return Err(wrong());
        }
        Ok(Token::Match { length: length as u16, distance: distance as u16 })
    }
}
