//! Times as Docker reads and writes them.

use jiff::Timestamp;
use yare_errdefs::Error;

/// The time before all times: what a container that never started says it started at.
pub const ZERO: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 in UTC with as many digits of a second as are not zero, which is Go's `RFC3339Nano`.
pub fn rfc3339_nano(moment: Timestamp) -> String {
    let whole = moment.strftime("%Y-%m-%dT%H:%M:%S");
    match moment.subsec_nanosecond() {
        0 => format!("{whole}Z"),
        nanos => {
            let digits = format!("{:09}", nanos.unsigned_abs());
            format!("{whole}.{}Z", digits.trim_end_matches('0'))
        }
    }
}

/// Reads what `since`, `until` and prune filters take: a Go duration back from `now`, RFC 3339 or its
/// beginning, or Unix seconds with an optional fraction. A time without an offset is UTC.
///
/// # Errors
/// Class invalid argument when it is none of these.
pub fn parse(text: &str, now: Timestamp) -> Result<Timestamp, Error> {
    if let Some(nanos) = parse_duration(text) {
        let back = jiff::SignedDuration::from_nanos(nanos);
        return now.checked_sub(back).map_err(|_| not_a_time(text));
    }
    if text.contains('-') && !text.starts_with('-') {
        return parse_date(text).ok_or_else(|| not_a_time(text));
    }
    let (seconds, nanos) = parse_unix(text)?;
    Timestamp::new(seconds, nanos).map_err(|_| not_a_time(text))
}

fn not_a_time(text: &str) -> Error {
    Error::invalid(format!("failed to parse value as time or duration: value {text:?} is invalid"))
}

/// Reads `seconds[.fraction]` into seconds and nanoseconds; digits past the ninth are cut.
///
/// # Errors
/// Class invalid argument for anything else.
pub fn parse_unix(text: &str) -> Result<(i64, i32), Error> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let wrong = || not_a_time(text);
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    if whole.starts_with('+') || fraction.len() > 20 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Ok((seconds, digits.parse().map_err(|_| wrong())?))
}

/// Reads a Go duration such as `1h30m`, `-1.5s` or `300ms` into nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    loop {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let number: f64 = rest[..digits].parse().ok().filter(|_| rest[..digits] != *".")?;
        rest = &rest[digits..];
        let unit = rest.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * scale;
        rest = &rest[unit..];
        if rest.is_empty() {
            break;
        }
    }
    // Beyond this a nanosecond count does not fit.
    (total < 9.2e18).then_some((sign * total).round() as i64)
}

/// RFC 3339, or its beginning up to at least the day, with an optional offset.
fn parse_date(text: &str) -> Option<Timestamp> {
    let (local, offset) = split_offset(text)?;
    let (date, time) = local.split_once('T').map_or((local, None), |(date, time)| (date, Some(time)));
    let date: jiff::civil::Date = date.parse().ok()?;
    let at = match time {
        None => date.at(0, 0, 0, 0),
        Some(time) => {
            let mut parts = time.split(':');
            let hour = parts.next()?;
            let hour: i8 = hour.parse().ok().filter(|_| (1..=2).contains(&hour.len()))?;
            let minute = parts.next().map_or(Some(0), two_digits)?;
            let (second, nanos) = parts.next().map_or(Some((0, 0)), seconds)?;
            if parts.next().is_some() {
                return None;
            }
            jiff::civil::DateTime::new(date.year(), date.month(), date.day(), hour, minute, second, nanos)
                .ok()?
        }
    };
    offset.to_timestamp(at).ok()
}

fn two_digits(text: &str) -> Option<i8> {
    (text.len() == 2).then(|| text.parse().ok()).flatten()
}

fn seconds(text: &str) -> Option<(i8, i32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((two_digits(whole)?, digits.parse().ok()?))
}

fn split_offset(text: &str) -> Option<(&str, jiff::tz::Offset)> {
    if let Some(local) = text.strip_suffix('Z') {
        return Some((local, jiff::tz::Offset::UTC));
    }
    // `+hh:mm` or `-hh:mm` at the end, but not the `-dd` of a date.
    if text.len() > 6 && text.is_char_boundary(text.len() - 6) {
        let (local, offset) = text.split_at(text.len() - 6);
        let bytes = offset.as_bytes();
        if matches!(bytes[0], b'+' | b'-') && bytes[3] == b':' && local.len() >= 10 {
            let (hours, minutes) = (two_digits(&offset[1..3])?, two_digits(&offset[4..])?);
            let seconds = i32::from(hours) * 3600 + i32::from(minutes) * 60;
            let seconds = if bytes[0] == b'-' { -seconds } else { seconds };
            return jiff::tz::Offset::from_seconds(seconds).ok().map(|offset| (local, offset));
        }
    }
    Some((text, jiff::tz::Offset::UTC))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn table(name: &str) -> Vec<Value> {
        let all: Value = serde_json::from_str(include_str!("../tests/data/timestamp.json")).unwrap();
        let tables = all["tables"].as_array().unwrap();
        tables.iter().find(|table| table["func"] == name).unwrap()["cases"].as_array().unwrap().clone()
    }

    #[test]
    fn parses_what_docker_parses() {
        let now = "2020-01-02T03:04:05.123456789Z".parse().unwrap();
        for case in table("TestParse") {
            let input = case["in"].as_str().unwrap();
            let got = parse(input, now).map(rfc3339_nano).ok();
            assert_eq!(got.as_deref(), case["expected"].as_str(), "{input:?}");
        }
    }

    #[test]
    fn parses_unix_times() {
        for case in table("TestParseUnixTimestamp") {
            let input = case["in"].as_str().unwrap();
            let expected = case["expectedS"].as_i64().zip(case["expectedN"].as_i64());
            let got = parse_unix(input).ok().map(|(seconds, nanos)| (seconds, i64::from(nanos)));
            assert_eq!(got, expected, "{input:?}");
        }
    }

    #[test]
    fn writes_nanoseconds_without_trailing_zeros() {
        let of = |text: &str| rfc3339_nano(text.parse().unwrap());
        assert_eq!(of("2026-11-23T14:43:29.526763930Z"), "2026-11-23T14:43:29.52676393Z");
        assert_eq!(of("2026-11-23T14:43:29Z"), "2026-11-23T14:43:29Z");
    }
}
