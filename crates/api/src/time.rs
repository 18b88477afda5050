//! Times as Docker reads and writes them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use yare_errdefs::Error;

/// The time before all times: what a container that never started says it started at.
pub const ZERO: &str = "0001-01-01T00:00:00Z";

/// Reads what `since`, `until` and prune filters take: [`yare_gotext::parse_moment`] with this machine's zone.
///
/// # Errors
/// Class invalid argument when it is no moment.
pub fn parse(text: &str, now: Timestamp) -> Result<Timestamp, Error> {
    yare_gotext::parse_moment(text, now, &TimeZone::system()).ok_or_else(|| not_a_time(text))
}

/// Reads Unix seconds: [`yare_gotext::parse_unix`].
///
/// # Errors
/// Class invalid argument for anything else.
pub fn parse_unix(text: &str) -> Result<(i64, i32), Error> {
    yare_gotext::parse_unix(text).ok_or_else(|| not_a_time(text))
}

fn not_a_time(text: &str) -> Error {
    Error::invalid(format!("failed to parse value as time or duration: value {text:?} is invalid"))
}
