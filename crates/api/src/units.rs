//! Sizes and durations for people, as docker/go-units writes and reads them.

use std::time::Duration;

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// A size in powers of 1000 with four significant digits: `1.024kB`.
pub fn human_size(bytes: f64) -> String {
    human_size_with_precision(bytes, 4)
}

/// A size in powers of 1000 with so many significant digits.
pub fn human_size_with_precision(bytes: f64, digits: usize) -> String {
    scaled(bytes, 1000.0, &DECIMAL, digits)
}

/// A size in powers of 1024 with four significant digits: `1.5GiB`.
pub fn bytes_size(bytes: f64) -> String {
    scaled(bytes, 1024.0, &BINARY, 4)
}

fn scaled(mut size: f64, base: f64, units: &[&str; 9], digits: usize) -> String {
    let mut unit = 0;
    while size >= base && unit < units.len() - 1 {
        size /= base;
        unit += 1;
    }
    format!("{}{}", significant(size, digits), units[unit])
}

/// C's `%.{digits}g`.
fn significant(value: f64, digits: usize) -> String {
    let digits = digits.max(1);
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').expect("`e` formatting has an exponent");
    let exponent: i32 = exponent.parse().expect("`e` formatting has a decimal exponent");
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let places = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= places {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.unsigned_abs());
    }
    let decimals = usize::try_from(places - 1 - exponent).unwrap_or(0);
    trim(&format!("{value:.decimals$}"))
}

/// A text is no size. The texts are those of go-units.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No digit in it, or negative.
    #[error("invalid size: '{0}'")]
    Size(String),
    /// What should be the number is none.
    #[error("strconv.ParseFloat: parsing {0:?}: invalid syntax")]
    Number(String),
    /// What follows the number is no unit.
    #[error("invalid suffix: '{0}'")]
    Suffix(String),
}

/// Reads a size in powers of 1000: `1k`, `1.5 MB`.
pub fn from_human_size(text: &str) -> Result<i64, SizeError> {
    parse_size(text, 1000.0)
}

/// Reads a size in powers of 1024: `64m`, `1.5GiB`.
pub fn ram_in_bytes(text: &str) -> Result<i64, SizeError> {
    parse_size(text, 1024.0)
}

fn parse_size(text: &str, base: f64) -> Result<i64, SizeError> {
    let last = text
        .rfind(|char: char| char.is_ascii_digit() || char == '.' || char == ' ')
        .ok_or_else(|| SizeError::Size(text.to_owned()))?;
    let number = if text.as_bytes()[last] == b' ' { &text[..last] } else { &text[..=last] };
    let suffix = &text[last + 1..];
    let wrong = || SizeError::Number(number.to_owned());
    if !number.bytes().all(|byte| byte.is_ascii_digit() || b".-+eE".contains(&byte)) {
        return Err(wrong());
    }
    let size: f64 = number.parse().map_err(|_| wrong())?;
    if size < 0.0 {
        return Err(SizeError::Size(text.to_owned()));
    }
    let lower = suffix.to_ascii_lowercase();
    let bad = || SizeError::Suffix(if suffix.len() > 3 { suffix.to_owned() } else { lower.clone() });
    let power = match lower.as_str() {
        "" | "b" => 0,
        _ => {
            let power = lower.chars().next().and_then(|unit| "kmgtp".find(unit)).ok_or_else(bad)?;
            if !["", "b", "ib"].contains(&&lower[1..]) {
                return Err(bad());
            }
            power + 1
        }
    };
    // A float this large saturates, as Docker's does not fit either.
    Ok((size * base.powi(i32::try_from(power).unwrap_or(0))) as i64)
}

/// A rough duration: `Less than a second`, `About an hour`, `3 weeks`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (duration.as_secs_f64() / 3600.0 + 0.5) as u64;
    match seconds {
        0 => return "Less than a second".to_owned(),
        1 => return "1 second".to_owned(),
        2..60 => return format!("{seconds} seconds"),
        _ => {}
    }
    match (minutes, hours) {
        (1, _) => "About a minute".to_owned(),
        (..60, _) => format!("{minutes} minutes"),
        (_, 1) => "About an hour".to_owned(),
        (_, ..48) => format!("{hours} hours"),
        (_, ..336) => format!("{} days", hours / 24),
        (_, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const SCALES: [(&str, f64); 11] = [
        ("KiB", 1024.0),
        ("MiB", 1048576.0),
        ("GiB", 1073741824.0),
        ("TiB", 1099511627776.0),
        ("PiB", 1125899906842624.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("PB", 1e15),
        ("time.Millisecond", 0.001),
    ];
    const TIMES: [(&str, f64); 7] = [
        ("time.Second", 1.0),
        ("time.Minute", 60.0),
        ("time.Hour", 3600.0),
        ("day", 86400.0),
        ("week", 604800.0),
        ("month", 2592000.0),
        ("year", 31536000.0),
    ];

    /// Sums of products of numbers and named constants.
    fn arithmetic(text: &str) -> f64 {
        let value = |factor: &str| {
            let named = SCALES.iter().chain(&TIMES).find(|(name, _)| *name == factor);
            named.map_or_else(|| factor.parse().unwrap_or_else(|_| panic!("{factor}")), |(_, scale)| *scale)
        };
        let text = text.trim().trim_start_matches("float64(").trim_end_matches(')');
        text.split('+').map(|sum| sum.split('*').map(value).product::<f64>()).sum()
    }

    fn check_format(args: &str) {
        let (expected, call) = args.split_once(", ").unwrap();
        let (function, argument) = call.split_once('(').unwrap();
        let value = arithmetic(argument.strip_suffix(')').unwrap());
        let got = match function {
            "BytesSize" => bytes_size(value),
            "HumanSize" => human_size(value),
            "HumanDuration" => human_duration(Duration::from_secs_f64(value)),
            other => panic!("{other}"),
        };
        assert_eq!(format!("{got:?}"), expected, "{args}");
    }

    fn parse(function: &str, text: &str) -> Result<i64, SizeError> {
        let text: String = serde_json::from_str(text).unwrap();
        if function == "RAMInBytes" { ram_in_bytes(&text) } else { from_human_size(&text) }
    }

    #[test]
    fn agrees_with_go_units() {
        let all: Value = serde_json::from_str(include_str!("../tests/data/assertions.json")).unwrap();
        let mut seen = 0;
        for case in all["cases"].as_array().unwrap() {
            let args = case["args"].as_str().unwrap();
            if args.contains("tmp") {
                // A variable of the Go test, checked below.
                continue;
            }
            match case["assert"].as_str().unwrap() {
                "assertEquals" => check_format(args),
                "assertError" => {
                    let (function, text) = args.split_once(", ").unwrap();
                    assert!(parse(function, text).is_err(), "{args}");
                }
                "assertSuccessEquals" => {
                    let parts: Vec<_> = args.splitn(3, ", ").collect();
                    assert_eq!(parse(parts[1], parts[2]), Ok(arithmetic(parts[0]) as i64), "{args}");
                }
                other => panic!("{other}"),
            }
            seen += 1;
        }
        assert!(seen > 100);
    }

    #[test]
    fn precision_and_texts() {
        assert_eq!(human_size_with_precision(1984172.0, 3), "1.98MB");
        assert_eq!(human_size(0.0), "0B");
        assert_eq!((ram_in_bytes("32.3 mb"), ram_in_bytes("0.3MB")), (Ok(33_869_004), Ok(314_572)));
        assert_eq!(ram_in_bytes("10x").unwrap_err().to_string(), "invalid suffix: 'x'");
        assert_eq!(ram_in_bytes("1é").unwrap_err().to_string(), "invalid suffix: 'é'");
        assert_eq!(ram_in_bytes("").unwrap_err().to_string(), "invalid size: ''");
    }
}
