//! The lines of a reply, however its pieces are cut.

use crate::failure::Failure;

/// Longest line: a message with output bytes is a few MiB at most.
const LONGEST: usize = 64 << 20;

/// Bytes that no line's end has followed yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes a piece in; calls `each` with every line that is complete with it.
    ///
    /// # Errors
    /// Those of `each`, and when a line has no end.
    pub(super) fn feed(
        &mut self,
        mut piece: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&piece[..end], &piece[end + 1..]);
            if self.rest.is_empty() {
                each(line)?;
            } else {
                self.rest.extend_from_slice(line);
                let whole = std::mem::take(&mut self.rest);
                each(&whole)?;
            }
            piece = after;
        }
        self.rest.extend_from_slice(piece);
        if self.rest.len() > LONGEST {
            return Err("the engine's answer has a line without an end".into());
        }
        Ok(())
    }

    /// What is left when the reply has ended: a last line without an end.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        Some(self.rest).filter(|rest| !rest.iter().all(u8::is_ascii_whitespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_may_be_cut_anywhere() {
        let text = b"{\"a\":\"\xc3\xa9\"}\n\n{\"b\":2}\r\n{\"c\":3}";
        let whole: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for piece in text.chunks(size) {
                lines
                    .feed(piece, |line| {
                        seen.push(line.to_vec());
                        Ok(())
                    })
                    .unwrap();
            }
            seen.extend(lines.finish());
            assert_eq!(seen, whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; LONGEST / 2];
        assert!(lines.feed(&piece, |_| Ok(())).is_ok());
        assert!(lines.feed(&piece, |_| Ok(())).is_ok());
        assert!(lines.feed(b"x", |_| Ok(())).is_err());
    }
}
