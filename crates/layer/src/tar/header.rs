//! The 512-byte header block.

/// Bytes of a block.
pub(crate) const BLOCK: usize = 512;

/// Which dialect a header is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

pub(super) struct Header {
    block: [u8; BLOCK],
}

/// The text of a field up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    field.get(..end).unwrap_or_default()
}

/// A number in octal, or in base 256 when the first bit is set (GNU and star: two's complement).
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field.first().is_some_and(|first| first & 0x40 != 0);
    let mut value: i128 = if negative { -1 } else { 0 };
    for (index, byte) in field.iter().enumerate() {
        let byte = match index {
            0 if negative => *byte,
            0 => byte & 0x7f,
            _ => *byte,
        };
        // Fields have at most 12 bytes: 96 bits fit.
        value = (value << 8) | i128::from(byte);
    }
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<i64> {
    let trimmed = trim(field, |byte| matches!(byte, b' ' | 0));
    let digits = text(trimmed);
    let mut value: i64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

fn trim(mut field: &[u8], unwanted: impl Fn(u8) -> bool) -> &[u8] {
    while let [first, rest @ ..] = field
        && unwanted(*first)
    {
        field = rest;
    }
    while let [rest @ .., last] = field
        && unwanted(*last)
    {
        field = rest;
    }
    field
}

impl Header {
    pub(super) fn new(block: [u8; BLOCK]) -> Self {
        Self { block }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.block.iter().all(|byte| *byte == 0)
    }

    fn field(&self, offset: usize, length: usize) -> &[u8] {
        self.block.get(offset..offset + length).unwrap_or_default()
    }

    /// Whether the checksum is right, as unsigned bytes or, as some old writers had it, signed ones.
    pub(super) fn checksum_holds(&self) -> bool {
        let Some(expected) = octal(self.field(148, 8)) else {
            return false;
        };
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, byte) in self.block.iter().enumerate() {
            let byte = if (148..156).contains(&index) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        expected == unsigned || expected == signed
    }

    pub(super) fn dialect(&self) -> Dialect {
        match (self.field(257, 6), self.field(263, 2)) {
            (b"ustar\0", _) if self.field(508, 4) == b"tar\0" => Dialect::Star,
            (b"ustar\0", _) => Dialect::Ustar,
            (b"ustar ", b" \0") => Dialect::Gnu,
            _ => Dialect::V7,
        }
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.block[156]
    }

    /// The name, with the prefix of those dialects that have one.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = match self.dialect() {
            Dialect::Ustar => text(self.field(345, 155)),
            Dialect::Star => text(self.field(345, 131)),
            Dialect::V7 => &[],
            Dialect::Gnu => self.prefix_of_old_go(),
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    /// Go before 1.8 wrote some GNU headers with ustar's prefix where GNU has two times: when these are no
    /// numbers and the prefix is ASCII, it is one.
    fn prefix_of_old_go(&self) -> &[u8] {
        let time = |offset| self.block[offset] == 0 || number(self.field(offset, 12)).is_some();
        if time(345) && time(357) {
            return &[];
        }
        let prefix = text(self.field(345, 155));
        if prefix.is_ascii() { prefix } else { &[] }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(self.field(157, 100)).to_vec()
    }

    pub(super) fn mode(&self) -> Option<i64> {
        number(self.field(100, 8))
    }

    pub(super) fn uid(&self) -> Option<i64> {
        number(self.field(108, 8))
    }

    pub(super) fn gid(&self) -> Option<i64> {
        number(self.field(116, 8))
    }

    pub(super) fn size(&self) -> Option<i64> {
        number(self.field(124, 12))
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        number(self.field(136, 12))
    }

    /// Major and minor; zero in headers that have no such fields.
    pub(super) fn device(&self) -> Option<(i64, i64)> {
        if self.dialect() == Dialect::V7 {
            return Some((0, 0));
        }
        Some((number(self.field(329, 8))?, number(self.field(337, 8))?))
    }

    /// The four (offset, length) pairs of an old GNU sparse header, and whether more blocks of them follow.
    pub(super) fn sparse_pairs(&self) -> (&[u8], bool) {
        (self.field(386, 96), self.block[482] != 0)
    }

    /// The size of an old GNU sparse file with its holes.
    pub(super) fn sparse_size(&self) -> Option<i64> {
        number(self.field(483, 12))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_octal_and_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"00008\0"), None);
        assert_eq!(number(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(number(b"\x80\0\0\0\x00\x2d\xc6\xc0"), Some(3_000_000));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00"), Some(-256));
        assert_eq!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(number(b""), Some(0));
    }
}
