//! What commands print: tables, templates, JSON.

pub(crate) mod json;
mod list;
mod table;
mod template;

use crate::clock::Now;

pub(crate) use json::Json;
pub(crate) use list::{Layout, Row, labels, write_list};
pub(crate) use table::{tabulate, tabulate_closely};
pub(crate) use template::{Render, compile, compile_for_images};

/// Shortens an ID to its first twelve characters, without `sha256:`.
pub(crate) fn short_id(id: &str) -> &str {
    let bare = id.strip_prefix("sha256:").unwrap_or(id);
    bare.get(..12).unwrap_or(bare)
}

/// Cuts a text to this many characters, the last one an ellipsis.
pub(crate) fn ellipsis(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    if most <= 1 {
        return text.chars().take(most).collect();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// A size in bytes with three significant digits: `10.7MB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
pub(crate) fn size(bytes: i64) -> String {
    yare_api::units::human_size_with_precision(bytes as f64, 3)
}

/// A size in bytes with four significant digits, as totals are printed.
#[expect(clippy::cast_precision_loss, reason = "four digits are printed")]
pub(crate) fn total_size(bytes: u64) -> String {
    yare_api::units::human_size(bytes as f64)
}

/// How long ago a unix time was: `2 hours ago`.
pub(crate) fn ago(seconds: i64, now: jiff::Timestamp) -> String {
    let elapsed = u64::try_from(now.as_second().saturating_sub(seconds)).unwrap_or(0);
    format!("{} ago", yare_api::units::human_duration(std::time::Duration::from_secs(elapsed)))
}

/// A unix time as Go prints it: `2026-11-23 15:07:16 +0000 UTC`, in this zone.
pub(crate) fn go_time(seconds: i64, now: &Now) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => {
            time.to_zoned_datetime(now.time_zone().clone()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
        }
        Err(_) => String::new(),
    }
}

/// Whether `a` sorts before `b` when numbers in them are compared as numbers.
pub(crate) fn natural_order(a: &str, b: &str) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    let (mut a, mut b) = (a, b);
    loop {
        match (a.chars().next(), b.chars().next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let digits =
                    |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                let (na, nb) = (&a[..digits(a)], &b[..digits(b)]);
                let (ta, tb) = (na.trim_start_matches('0'), nb.trim_start_matches('0'));
                let order =
                    ta.len().cmp(&tb.len()).then_with(|| ta.cmp(tb)).then_with(|| na.len().cmp(&nb.len()));
                if order != Ordering::Equal {
                    return order;
                }
                (a, b) = (&a[na.len()..], &b[nb.len()..]);
            }
            (Some(x), Some(y)) if x == y => (a, b) = (&a[x.len_utf8()..], &b[y.len_utf8()..]),
            (Some(x), Some(y)) => return x.cmp(&y),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_sort_as_numbers() {
        let mut names = vec!["network-10-foo", "network-2-foo", "network-1-foo"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["network-1-foo", "network-2-foo", "network-10-foo"]);
    }

    #[test]
    fn shortening() {
        assert_eq!(ellipsis("\"/bin/sh -c 'sleep 1000'\"", 20), "\"/bin/sh -c 'sleep …");
        assert_eq!(ellipsis("abc", 3), "abc");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(size(10_700_000), "10.7MB");
    }
}
