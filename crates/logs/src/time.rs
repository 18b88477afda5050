//! Times as logs and their readers write them.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Writes RFC 3339 UTC with trailing zeroes of the fraction cut: Go's `RFC3339Nano`, as in log files.
///
/// The date and the time to the second are kept from call to call.
#[derive(Debug, Default)]
pub struct Formatter {
    second: Option<i64>,
    prefix: Vec<u8>,
}

impl Formatter {
    /// Appends the time.
    pub fn write(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        let (second, nanosecond) = split(time);
        if self.second != Some(second) {
            self.second = Some(second);
            self.prefix.clear();
            write_seconds(time, &mut self.prefix);
        }
        out.extend_from_slice(&self.prefix);
        if nanosecond != 0 {
            let digits = fraction(nanosecond);
            let zeroes = digits.iter().rev().take_while(|digit| **digit == b'0').count();
            out.push(b'.');
            out.extend_from_slice(&digits[..9 - zeroes]);
        }
        out.push(b'Z');
    }
}

/// Appends RFC 3339 UTC with nine digits of fraction, as `docker logs --timestamps` prints it.
pub fn write_fixed(time: Timestamp, out: &mut Vec<u8>) {
    write_seconds(time, out);
    out.push(b'.');
    out.extend_from_slice(&fraction(split(time).1));
    out.push(b'Z');
}

/// RFC 3339 UTC with trailing zeroes of the fraction cut.
pub fn to_string(time: Timestamp) -> String {
    let mut out = Vec::with_capacity(30);
    Formatter::default().write(time, &mut out);
    String::from_utf8(out).expect("digits and punctuation")
}

/// Seconds, rounded down, and nanoseconds beyond them.
fn split(time: Timestamp) -> (i64, u32) {
    let nanoseconds = time.as_nanosecond();
    let second = nanoseconds.div_euclid(1_000_000_000);
    (second as i64, nanoseconds.rem_euclid(1_000_000_000) as u32)
}

fn write_seconds(time: Timestamp, out: &mut Vec<u8>) {
    let civil = TimeZone::UTC.to_datetime(time);
    push_number(civil.year().unsigned_abs().into(), 4, out);
    for (mark, number) in [
        (b'-', civil.month()),
        (b'-', civil.day()),
        (b'T', civil.hour()),
        (b':', civil.minute()),
        (b':', civil.second()),
    ] {
        out.push(mark);
        push_number(number.unsigned_abs().into(), 2, out);
    }
}

fn push_number(number: u32, width: usize, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10u32.pow(place as u32) % 10) as u8);
    }
}

fn fraction(mut nanosecond: u32) -> [u8; 9] {
    let mut digits = [b'0'; 9];
    for digit in digits.iter_mut().rev() {
        *digit += (nanosecond % 10) as u8;
        nanosecond /= 10;
    }
    digits
}

/// Reads `since` and `until` as the API has them: unix seconds, optionally with a fraction of which nine
/// digits count. The empty text is `None`.
pub fn parse_unix(text: &str) -> Option<Option<Timestamp>> {
    if text.is_empty() {
        return Some(None);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if fraction.len() > 20 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Timestamp::new(seconds, digits.parse().ok()?).ok().map(Some)
}

/// Reads every form in which people give a time: a Go duration before `now`, RFC 3339 with parts of it left
/// out (in `zone` where it has no offset), or unix seconds.
pub fn parse(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    if let Some(ago) = parse_go_duration(text) {
        return now.checked_sub(ago).ok();
    }
    if text.contains('-') { parse_date(text, zone) } else { parse_unix(text).flatten() }
}

/// Go's `time.ParseDuration`: `1h30m`, `1.5h`, `-1m`; `None` when it is something else.
pub fn parse_go_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut total = 0f64;
    let mut parts = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        total += number * seconds_of(&rest[..end])?;
        rest = &rest[end..];
        parts += 1;
    }
    (parts > 0).then(|| SignedDuration::from_secs_f64(if negative { -total } else { total }))
}

fn seconds_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "h" => 3600.0,
        "m" => 60.0,
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
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
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Time::new(numbers[0], numbers[1], numbers[2], digits.parse().ok()?).ok()
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
        let text = include_str!("../tests/data/timestamp.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        let tables = vectors["tables"].as_array().unwrap();
        let table = tables.iter().find(|table| table["func"] == function).unwrap();
        table["cases"].as_array().unwrap().clone()
    }

    #[test]
    fn reads_what_docker_reads() {
        let now: Timestamp = "2020-01-02T03:04:05.123456789Z".parse().unwrap();
        for case in cases("TestParse") {
            let parsed = parse(case["in"].as_str().unwrap(), now, &TimeZone::UTC);
            match case.get("expected") {
                Some(expected) => {
                    assert_eq!(to_string(parsed.expect("is a time")), expected.as_str().unwrap(), "{case}");
                }
                None => assert_eq!(parsed, None, "{case}"),
            }
        }
    }

    #[test]
    fn reads_unix_seconds_as_docker_does() {
        for case in cases("TestParseUnixTimestamp") {
            let parsed = parse_unix(case["in"].as_str().unwrap());
            if case.get("expectedErr").is_some() {
                assert_eq!(parsed, None, "{case}");
                continue;
            }
            let parsed = parsed.unwrap();
            assert_eq!(
                parsed.map_or(0, Timestamp::as_second),
                case["expectedS"].as_i64().unwrap_or(0),
                "{case}"
            );
            let nanosecond = parsed.map_or(0, |time| i64::from(time.subsec_nanosecond()));
            assert_eq!(nanosecond, case["expectedN"].as_i64().unwrap_or(0), "{case}");
        }
    }

    #[test]
    fn writes_as_go_does() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        for text in ["2017-09-01T01:01:01.000000001Z", "0001-01-01T00:00:00Z", "2026-11-23T15:07:16.7Z"] {
            assert_eq!(to_string(time(text)), text);
        }
        let mut fixed = Vec::new();
        write_fixed(time("2026-11-23T15:07:16.7Z"), &mut fixed);
        assert_eq!(fixed, b"2026-11-23T15:07:16.700000000Z");
        assert_eq!(to_string(time("1969-12-31T23:59:59.5Z")), "1969-12-31T23:59:59.5Z");
    }
}
