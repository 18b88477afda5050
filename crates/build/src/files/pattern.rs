//! Wildcards of sources, with the rules of Go's `filepath.Match` on Unix: `*` and `?` match no slash,
//! `[a-z]` and `[^a-z]` are classes, a backslash takes the next character as it is. The whole name must match.

/// A pattern that is not well-formed: an open class, an empty range, a backslash at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Whether a source is a pattern. An escaped character alone does not make it one.
pub fn has_wildcard(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Whether the pattern matches the whole name. Characters are those of UTF-8; a byte that is none counts
/// as one.
pub fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    let pieces = parse(pattern)?;
    Ok(run(&pieces, &characters(name)))
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Any,
    One,
    Literal(u32),
    Class { negated: bool, ranges: Vec<(u32, u32)> },
}

const SLASH: u32 = '/' as u32;

/// Code points; bytes that are no UTF-8 are put beyond the last one, so that they equal themselves alone.
fn characters(bytes: &[u8]) -> Vec<u32> {
    let mut all = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        all.extend(chunk.valid().chars().map(u32::from));
        all.extend(chunk.invalid().iter().map(|byte| 0x0020_0000 + u32::from(*byte)));
    }
    all
}

fn parse(pattern: &[u8]) -> Result<Vec<Piece>, BadPattern> {
    let text = characters(pattern);
    let mut rest = text.iter().copied().peekable();
    let mut pieces = Vec::new();
    while let Some(character) = rest.next() {
        pieces.push(match char::from_u32(character) {
            Some('*') => Piece::Any,
            Some('?') => Piece::One,
            Some('\\') => Piece::Literal(rest.next().ok_or(BadPattern)?),
            Some('[') => {
                let negated = rest.next_if_eq(&u32::from('^')).is_some();
                Piece::Class { negated, ranges: ranges(&mut rest)? }
            }
            _ => Piece::Literal(character),
        });
    }
    Ok(pieces)
}

fn ranges(rest: &mut std::iter::Peekable<impl Iterator<Item = u32>>) -> Result<Vec<(u32, u32)>, BadPattern> {
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&u32::from(']')).is_some() {
            return Ok(ranges);
        }
        let low = member(rest)?;
        let high = if rest.next_if_eq(&u32::from('-')).is_some() { member(rest)? } else { low };
        ranges.push((low, high));
    }
}

/// A character of a class, which must not be a bare `-` or `]`.
fn member(rest: &mut impl Iterator<Item = u32>) -> Result<u32, BadPattern> {
    let character = rest.next().ok_or(BadPattern)?;
    match char::from_u32(character) {
        Some('-' | ']') => Err(BadPattern),
        Some('\\') => rest.next().ok_or(BadPattern),
        _ => Ok(character),
    }
}

/// Greedy, going back to the last star alone: time is at most the product of the lengths.
fn run(pieces: &[Piece], name: &[u32]) -> bool {
    let (mut piece, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (pieces.get(piece), name.get(at)) {
            (None, None) => return true,
            (Some(Piece::Any), _) => {
                star = Some((piece, at));
                piece += 1;
                continue;
            }
            (Some(wanted), Some(character)) if wanted.takes(*character) => {
                piece += 1;
                at += 1;
                continue;
            }
            _ => {}
        }
        let Some((after, begun)) = star else { return false };
        // The star takes one more, unless that is a slash.
        if name.get(begun).is_none_or(|character| *character == SLASH) {
            return false;
        }
        star = Some((after, begun + 1));
        (piece, at) = (after + 1, begun + 1);
    }
}

impl Piece {
    fn takes(&self, character: u32) -> bool {
        match self {
            Self::Any => false,
            Self::One => character != SLASH,
            Self::Literal(literal) => *literal == character,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        let yes = [
            ("abc", "abc"),
            ("*", "abc"),
            ("*c", "abc"),
            ("a*", "a"),
            ("a*", "abc"),
            ("a*/b", "abc/b"),
            ("a*b*c*d*e*/f", "axbxcxdxe/f"),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f"),
            ("a*b?c*x", "abxbbxdbxebxczzx"),
            ("ab[c]", "abc"),
            ("ab[b-d]", "abc"),
            ("ab[^e-g]", "abc"),
            ("a\\*b", "a*b"),
            ("a?b", "a☺b"),
            ("a[^a]b", "a☺b"),
            ("[a-ζ]*", "α"),
            ("[\\]a]", "]"),
            ("[\\-]", "-"),
            ("[x\\-]", "x"),
            ("[\\-x]", "-"),
            ("*x", "xxx"),
            ("", ""),
            ("**/*.txt", "dir/c.txt"),
        ];
        for (pattern, name) in yes {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), Ok(true), "{pattern} {name}");
        }
        let no = [
            ("a*", "ab/c"),
            ("a*/b", "a/c/b"),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f"),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff"),
            ("a*b?c*x", "abxbbxdbxebxczzy"),
            ("ab[e-g]", "abc"),
            ("ab[^c]", "abc"),
            ("ab[^b-d]", "abc"),
            ("a\\*b", "ab"),
            ("a???b", "a☺b"),
            ("a[^a][^a][^a]b", "a☺b"),
            ("*[a-ζ]", "A"),
            ("a?b", "a/b"),
            ("a*b", "a/b"),
            ("[\\-x]", "a"),
            ("", "x"),
            ("a", ""),
            ("**/*.txt", "a.txt"),
        ];
        for (pattern, name) in no {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), Ok(false), "{pattern} {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors() {
        for bad in ["[", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[^", "[^bc", "a[", "\\", "[a-"] {
            assert_eq!(matches(bad.as_bytes(), b"a"), Err(BadPattern), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_equal_themselves() {
        assert_eq!(matches(b"a\xff*", b"a\xffb"), Ok(true));
        assert_eq!(matches(b"a\xfe", b"a\xff"), Ok(false));
        assert_eq!(matches(b"?", b"\xff"), Ok(true));
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "a*".repeat(500) + "b";
        assert_eq!(matches(pattern.as_bytes(), "a".repeat(20_000).as_bytes()), Ok(false));
    }

    #[test]
    fn escapes_alone_are_no_wildcards() {
        assert!(!has_wildcard(b"a\\[b\\*"));
        for pattern in ["a*", "?", "a[b"] {
            assert!(has_wildcard(pattern.as_bytes()), "{pattern}");
        }
    }
}
