//! Moments as Docker's users, clients and files write them.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::parse_duration;

/// Reads every form in which people give a moment: a duration back from `now`, RFC 3339 with parts of it left
/// out (in `zone` where it has no offset), or [Unix seconds](parse_unix).
pub fn parse_moment(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(ago) = parse_duration(text) {
        return now.checked_sub(SignedDuration::from_nanos(ago)).ok();
    }
    if text.contains('-') && !text.starts_with('-') {
        return parse_date(text, zone);
    }
    let (seconds, nanoseconds) = parse_unix(text)?;
    Timestamp::new(seconds, nanoseconds).ok()
}

/// Reads `seconds[.fraction]` since 1970 into seconds and nanoseconds; digits past the ninth are cut.
pub fn parse_unix(text: &str) -> Option<(i64, i32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if seconds.starts_with('+') || fraction.len() > 20 {
        return None;
    }
    Some((seconds.parse().ok()?, nanoseconds(fraction)?))
}

/// The digits after the dot of a second.
fn nanoseconds(fraction: &str) -> Option<i32> {
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    fraction.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// `2006-01-02[T15[:04[:05[.fraction]]]]`, then nothing, `Z` or an offset.
fn parse_date(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let date: Date = date.parse().ok()?;
    let (clock, offset) = split_offset(rest);
    let time = match clock.strip_prefix('T') {
        Some(clock) => parse_clock(clock)?,
        None if clock.is_empty() => Time::midnight(),
        None => return None,
    };
    let civil = DateTime::from_parts(date, time);
    match offset {
        "" => zone.to_ambiguous_timestamp(civil).compatible().ok(),
        "Z" => TimeZone::UTC.to_ambiguous_timestamp(civil).compatible().ok(),
        offset => apply_offset(civil, offset),
    }
}

fn split_offset(rest: &str) -> (&str, &str) {
    match rest.find(['Z', '+', '-']) {
        Some(start) => rest.split_at(start),
        None => (rest, ""),
    }
}

/// One or two digits for the hour, two for the others.
fn parse_clock(clock: &str) -> Option<Time> {
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut numbers = [0i8; 3];
    for (place, part) in clock.split(':').enumerate() {
        let widths = if place == 0 { 1..=2 } else { 2..=2 };
        if !widths.contains(&part.len()) || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *numbers.get_mut(place)? = part.parse().ok()?;
    }
    Time::new(numbers[0], numbers[1], numbers[2], nanoseconds(fraction)?).ok()
}

fn apply_offset(civil: DateTime, offset: &str) -> Option<Timestamp> {
    let (hours, minutes) = offset[1..].split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let mut seconds = (hours * 60 + minutes) * 60;
    if offset.starts_with('-') {
        seconds = -seconds;
    }
    let offset = jiff::tz::Offset::from_seconds(seconds).ok()?;
    offset.to_timestamp(civil).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn cases(function: &str) -> Vec<Value> {
        let vectors: Value = serde_json::from_str(include_str!("../tests/data/timestamp.json")).unwrap();
        let tables = vectors["tables"].as_array().unwrap();
        tables.iter().find(|table| table["func"] == function).unwrap()["cases"].as_array().unwrap().clone()
    }

    #[test]
    fn reads_what_docker_reads() {
        let now = "2020-01-02T03:04:05.123456789Z".parse().unwrap();
        for case in cases("TestParse") {
            let parsed = parse_moment(case["in"].as_str().unwrap(), now, &TimeZone::UTC)
                .map(|moment| moment.to_string());
            assert_eq!(parsed.as_deref(), case["expected"].as_str(), "{case}");
        }
    }

    #[test]
    fn reads_unix_seconds_as_docker_does() {
        for case in cases("TestParseUnixTimestamp") {
            let expected = case["expectedS"].as_i64().zip(case["expectedN"].as_i64());
            let parsed = parse_unix(case["in"].as_str().unwrap());
            assert_eq!(parsed.map(|(seconds, nanos)| (seconds, i64::from(nanos))), expected, "{case}");
        }
    }

    #[test]
    fn a_moment_without_an_offset_is_in_the_zone() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        for (text, expected) in [
            ("24h", "2026-01-01T12:00:00Z"),
            ("1h30m", "2026-01-02T10:30:00Z"),
            ("1767225600.5", "2026-01-01T00:00:00.5Z"),
            ("2026-01-01T02:00", "2026-01-01T00:00:00Z"),
            ("2026-01-01T00:00Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T01:00:00.25+01:00", "2026-01-01T00:00:00.25Z"),
        ] {
            assert_eq!(parse_moment(text, now, &zone), Some(expected.parse().unwrap()), "{text}");
        }
        for text in ["yesterday", "2026-01-01T1:2:3:4", "2026-02-31", "2026-01-01T00:00:00.x", "5x", ""] {
            assert_eq!(parse_moment(text, now, &zone), None, "{text}");
        }
    }
}
