//! Byte ranges of requests: what a download asks for, and where a piece of an upload says it belongs.

use std::ops::Range;

/// What a `Range` header means for content of a given size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: no header, or one that is to be ignored (another unit, several ranges, not understood).
    All,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that are not there.
    Unsatisfiable,
}

/// Reads a `Range` header (RFC 9110, section 14.2) for content of `size` bytes.
///
/// Several ranges in one request are answered with everything, which the RFC allows: no client of
/// registries asks for them, and they are a known way to make servers work.
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Wanted::All;
    };
    let Some((first, last)) = spec.split_once('-') else { return Wanted::All };
    let (first, last) = (first.trim(), last.trim());
    match (number(first), number(last)) {
        _ if spec.contains(',') => Wanted::All,
        (Some(first), None) if last.is_empty() => part(first, size, size),
        // The RFC leaves open what becomes of a range that ends before it begins; the suite wants a refusal.
        (Some(first), Some(last)) if last < first => Wanted::Unsatisfiable,
        (Some(first), Some(last)) => part(first, last.saturating_add(1), size),
        (None, Some(0)) if first.is_empty() => Wanted::Unsatisfiable,
        (None, Some(count)) if first.is_empty() => part(size.saturating_sub(count), size, size),
        _ => Wanted::All,
    }
}

fn part(first: u64, end: u64, size: u64) -> Wanted {
    if first >= size { Wanted::Unsatisfiable } else { Wanted::Part(first..end.min(size)) }
}

/// Digits and nothing else: no sign, no blank. A number beyond 64 bits counts as the greatest one.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Reads the `Content-Range` of a piece of an upload: `first-last` by the distribution spec, and the
/// `bytes first-last/total` of HTTP. `None` when it is neither.
pub fn piece(header: &str) -> Option<Range<u64>> {
    let text = header.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches(['=', ' ']));
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < u64::MAX).then(|| first..last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downloads() {
        let cases = [
            (None, Wanted::All),
            (Some("bytes=0-9"), Wanted::Part(0..10)),
            (Some("bytes=5-"), Wanted::Part(5..100)),
            (Some("bytes=-5"), Wanted::Part(95..100)),
            (Some("bytes=-500"), Wanted::Part(0..100)),
            (Some("bytes=90-1000"), Wanted::Part(90..100)),
            (Some("bytes=100-"), Wanted::Unsatisfiable),
            (Some("bytes=-0"), Wanted::Unsatisfiable),
            (Some("bytes=99999999999999999999999-"), Wanted::Unsatisfiable),
            (Some("bytes=9-5"), Wanted::Unsatisfiable),
            (Some("bytes=0-1,5-6"), Wanted::All),
            (Some("bytes=+1-2"), Wanted::All),
            (Some("bytes=-"), Wanted::All),
            (Some("lines=1-2"), Wanted::All),
        ];
        for (header, want) in cases {
            assert_eq!(wanted(header, 100), want, "{header:?}");
        }
        assert_eq!(wanted(Some("bytes=0-0"), 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn uploads() {
        assert_eq!(piece("0-9"), Some(0..10));
        assert_eq!(piece("bytes 10-19/100"), Some(10..20));
        assert_eq!(piece("bytes=10-19"), Some(10..20));
        for bad in ["", "5", "9-5", "a-b", "-5", "5-", "0-18446744073709551615", "0-99999999999999999999999"]
        {
            assert_eq!(piece(bad), None, "{bad}");
        }
    }
}
