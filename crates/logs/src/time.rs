//! Times as logs have them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

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

#[cfg(test)]
mod tests {
    use super::*;

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
