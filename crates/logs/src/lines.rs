//! Output as it is read, cut into the texts of entries.

use crate::MAX_LINE;
use crate::format::Stream;

/// Bytes for which room is kept while nothing is written.
const IDLE: usize = 4 << 10;

/// Unfinished lines of stdout and stderr.
#[derive(Debug, Default)]
pub struct Lines {
    partial: [Vec<u8>; 2],
}

/// Takes a text without its newline, and whether it had one.
pub type TakeLine<'a> = &'a mut dyn FnMut(&[u8], bool);

impl Lines {
    /// Adds output, which may be cut anywhere, and gives the texts that it completes. A line longer than
    /// [`MAX_LINE`] is several texts.
    pub fn feed(&mut self, stream: Stream, bytes: &[u8], take: TakeLine<'_>) {
        let mut partial = std::mem::take(&mut self.partial[slot(stream)]);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (window, _) = rest.split_at(rest.len().min(MAX_LINE - partial.len()));
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                if partial.is_empty() {
                    take(&window[..end], true);
                } else {
                    // In one piece: a character may begin in one read and end in the next.
                    partial.extend_from_slice(&window[..end]);
                    take(&partial, true);
                    partial.clear();
                }
                rest = &rest[end + 1..];
                continue;
            }
            partial.extend_from_slice(window);
            rest = &rest[window.len()..];
            if partial.len() == MAX_LINE {
                let cut = before_cut_character(&partial);
                take(&partial[..cut], false);
                partial.drain(..cut);
            }
        }
        if partial.is_empty() && partial.capacity() > IDLE {
            partial = Vec::new();
        }
        self.partial[slot(stream)] = partial;
    }

    /// Ends a stream: gives what is left of it.
    pub fn finish(&mut self, stream: Stream, take: TakeLine<'_>) {
        let partial = std::mem::take(&mut self.partial[slot(stream)]);
        if !partial.is_empty() {
            take(&partial, false);
        }
    }
}

/// Standard output's place among the two, and standard error's.
pub(crate) fn slot(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

/// The length of `text` without the incomplete character at its end, if there is one.
fn before_cut_character(text: &[u8]) -> usize {
    for back in 1..=text.len().min(3) {
        let length = match text[text.len() - back] {
            0x00..0x80 => break,
            0x80..0xc0 => continue,
            0xc0..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0.. => 4,
        };
        return if length > back { text.len() - back } else { text.len() };
    }
    text.len()
}
