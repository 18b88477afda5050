//! Detach keys.
//!
//! The engine looks for them in what it gets and lets go of the stream; we look for them too, without
//! holding anything back, to know that the end of the stream is no end of the container.

/// What Docker uses unless told otherwise.
const DEFAULT: &[u8] = &[16, 17];

/// Watches for a sequence of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    sequence: Vec<u8>,
    matched: usize,
}

impl Keys {
    /// Reads `ctrl-p,ctrl-q` and the like; what cannot be read is the default, as in Docker's client.
    pub(crate) fn parse(text: &str) -> Self {
        let sequence: Option<Vec<u8>> = text.split(',').map(byte).collect();
        Self { sequence: sequence.unwrap_or_else(|| DEFAULT.to_vec()), matched: 0 }
    }

    /// Whether these bytes complete the sequence; remembers a part of it.
    pub(crate) fn seen_in(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if *byte == self.sequence[self.matched] {
                self.matched += 1;
            } else {
                self.matched = usize::from(*byte == self.sequence[0]);
            }
            if self.matched == self.sequence.len() {
                self.matched = 0;
                return true;
            }
        }
        false
    }
}

fn byte(name: &str) -> Option<u8> {
    if let [one] = name.as_bytes() {
        return Some(*one);
    }
    match name.strip_prefix("ctrl-")?.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
        b"@" => Some(0),
        b"[" => Some(27),
        b"\\" => Some(28),
        b"]" => Some(29),
        b"^" => Some(30),
        b"_" => Some(31),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Keys;

    #[test]
    fn the_sequence_may_be_split() {
        let mut keys = Keys::parse("");
        assert!(!keys.seen_in(b"ls\x10"));
        assert!(keys.seen_in(b"\x11"));
        assert!(!keys.seen_in(b"\x10x\x11"));
        assert!(keys.seen_in(b"\x10\x10\x11"));
        let mut keys = Keys::parse("ctrl-a,d");
        assert!(keys.seen_in(b"\x01d"));
        assert_eq!(Keys::parse("ctrl-ä"), Keys::parse("ctrl-p,ctrl-q"));
    }
}
