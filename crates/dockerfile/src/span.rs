//! Where something stands in a Dockerfile.

use serde::Serialize;

/// A piece of the source text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Span {
    /// Offset of its first byte in the input.
    pub start: usize,
    /// Offset behind its last byte.
    pub end: usize,
    /// Line of its first byte, from 1.
    pub line: u32,
    /// Column of its first byte, in characters, from 1.
    pub column: u32,
    /// Line of its last byte, from 1.
    pub end_line: u32,
}

impl Span {
    /// Every line it touches.
    pub fn lines(&self) -> std::ops::RangeInclusive<u32> {
        self.line..=self.end_line
    }
}
