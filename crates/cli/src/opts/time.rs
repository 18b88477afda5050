//! Points in time as `--since` and `--until` take them.

use crate::clock::Now;

/// The API's unix time (seconds, with nanoseconds after a dot where given) for a time as users write it:
/// unix seconds, a duration before now, RFC 3339 with or without parts; local time where no zone is given.
pub(crate) fn unix(text: &str, now: &Now) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    if let Ok(nanoseconds) = yare_gotext::parse_duration(text)
        && text != "0"
    {
        let then = i128::from(now.timestamp().as_nanosecond() as i64) - i128::from(nanoseconds);
        return Ok((then.div_euclid(1_000_000_000)).to_string());
    }
    if text.contains(['-', 'T', ':', 'Z']) && !text.starts_with('-') {
        let time = yare_gotext::parse_moment(text, now.timestamp(), now.time_zone())
            .ok_or_else(|| format!("failed to parse value as time or duration: {}", super::quote(text)))?;
        let seconds = time.as_second();
        return Ok(format!("{seconds}.{:09}", time.as_nanosecond().rem_euclid(1_000_000_000)));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let number =
        |part: &str| part.strip_prefix('-').unwrap_or(part).bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || !number(seconds) || !number(fraction) {
        return Err(format!("failed to parse value as time or duration: {}", super::quote(text)));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Now {
        Now::fixed("2026-11-23T15:00:00Z".parse().unwrap(), jiff::tz::TimeZone::UTC)
    }

    #[test]
    fn the_ways_to_write_a_time() {
        let now = now();
        let seconds = now.timestamp().as_second();
        assert_eq!(unix("1h", &now).unwrap(), (seconds - 3600).to_string());
        assert_eq!(unix("2020-01-01T00:00:00Z", &now).unwrap(), "1577836800.000000000");
        assert_eq!(unix("2020-01-01", &now).unwrap(), "1577836800.000000000");
        assert_eq!(unix("2020-01-01T01", &now).unwrap(), "1577840400.000000000");
        assert_eq!(unix("1136073600.5", &now).unwrap(), "1136073600.5");
        assert_eq!(unix("1", &now).unwrap(), "1");
        assert_eq!(unix("0", &now).unwrap(), "0");
        assert!(unix("2006-02-31T", &now).is_err());
        assert!(unix("yesterday", &now).is_err());
    }
}
