//! The exact bytes of a gzip file, from its plain text and a *recipe*.
//!
//! A compressor makes two kinds of decisions that the plain text does not tell: into which literals and matches
//! it takes the text apart, and which codes its blocks have. The recipe holds both: codes as they are, and
//! literals and matches as a model of the usual compressors expects them or does not ([`model`]). So no
//! compressor has to be known, and none has to be here in the version that was used; what is like none of the
//! field's only takes more room. `docs/registries.md` has measurements.
//!
//! Format of a recipe, version 1: one byte, the number of the habits (their place in [`HABITS`]), then *chunks*
//! of about [`CHUNK`] bytes of text, which know nothing of each other but the text, so that they are made and
//! followed side by side. A chunk is four numbers of 32 bits, little endian (bytes of text that it makes; bytes
//! of the text before it that its matches may refer to; bytes of text after it that the model sees; bytes of its
//! coded part), and its coded part: one stream of a range coder ([`range`]), first the bits of the current byte
//! that were written before (a tree of 3 bits), then parts, each begun by its kind (another):
//!
//! ```text
//! 0 HEADER   length (17 bits), the bytes of a member's header
//! 1 STORED   last (1), padding (8), length (16)
//! 2 FIXED    last (1)
//! 3 DYNAMIC  last (1), the code lengths as RFC 1951 has them
//! 4 TOKENS   how many (16), whether the block ends with them (1), the tokens
//! 5 TRAILER  padding (8), the eight bytes after a member
//! 6 OPEN     a block goes on that began in the chunk before: FIXED (0) or DYNAMIC (1), the code lengths
//! 7 END      of the chunk
//! ```
//!
//! Memory is bounded by a few chunks for each processor, whatever the file says.

mod bits;
mod deflate;
mod model;
mod range;
mod rebuild;
mod write;

pub use rebuild::rebuild_gzip;
pub use write::write_gzip_recipe;

use model::Habits;
use std::io;

/// Plain text of a chunk, in bytes; one ends with the first part that makes it this long.
const CHUNK: usize = 2 << 20;

/// More than a chunk has, of text as well as of what codes it.
const MOST: usize = 2 * CHUNK;

const fn chains_of_four(depth: u16, nice: u16, lazy: u16) -> Habits {
    Habits { hashed: 4, depth, nice, lazy, added: 258, farthest: 32768 }
}

/// zlib never looks back as far as its window is.
const fn chains_of_three(depth: u16, nice: u16, lazy: u16, added: u16) -> Habits {
    Habits { hashed: 3, depth, nice, lazy, added, farthest: 32768 - 262 }
}

/// How the compressors of the field search, the quick ones first: Go's and its kin hash four bytes, zlib's and
/// its kin three. A recipe names its habits by their place here, so that a new one goes to the end.
const HABITS: [Habits; 12] = [
    chains_of_four(1, 258, 0),
    chains_of_four(8, 8, 0),
    chains_of_four(16, 16, 4),
    chains_of_four(32, 32, 16),
    chains_of_four(128, 128, 16),
    chains_of_four(256, 128, 32),
    chains_of_three(4, 8, 0, 4),
    chains_of_three(6, 32, 0, 6),
    chains_of_three(16, 16, 4, 258),
    chains_of_three(32, 32, 16, 258),
    chains_of_three(128, 128, 16, 258),
    chains_of_three(256, 128, 32, 258),
];

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the recipe of the compressed layer is damaged")
}

const HEADER: u32 = 0;
const STORED: u32 = 1;
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const TOKENS: u32 = 4;
const TRAILER: u32 = 5;
const OPEN: u32 = 6;
const END: u32 = 7;
