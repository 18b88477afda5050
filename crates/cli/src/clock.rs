//! Now, and the user's time zone, which is read only when a local time is printed.

use std::cell::OnceCell;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Where the rules of time zones are.
const RULES: &str = "/usr/share/zoneinfo";

/// A moment and a place.
#[derive(Debug)]
pub(crate) struct Now {
    timestamp: Timestamp,
    zone: OnceCell<TimeZone>,
    wanted: Option<String>,
}

impl Now {
    /// This moment; `zone` is the variable `TZ`.
    pub(crate) fn new(zone: Option<String>) -> Self {
        Self { timestamp: Timestamp::now(), zone: OnceCell::new(), wanted: zone }
    }

    /// This moment, in this zone.
    #[cfg(test)]
    pub(crate) fn fixed(timestamp: Timestamp, zone: TimeZone) -> Self {
        Self { timestamp, zone: OnceCell::from(zone), wanted: None }
    }

    /// The moment.
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The zone; UTC when its rules cannot be read.
    pub(crate) fn time_zone(&self) -> &TimeZone {
        self.zone.get_or_init(|| self.read().unwrap_or(TimeZone::UTC))
    }

    /// Reads the one file of the zone: looking a name up in the whole database costs a walk through it.
    fn read(&self) -> Option<TimeZone> {
        let (name, path) = match self.wanted.as_deref().map(|text| text.trim_start_matches(':')) {
            Some("") => return Some(TimeZone::UTC),
            Some(name) if name.starts_with('/') => (name, name.to_owned()),
            Some(name) if !name.contains("..") => (name, format!("{RULES}/{name}")),
            Some(_) => return None,
            None => ("Local", "/etc/localtime".to_owned()),
        };
        match std::fs::read(path) {
            Ok(rules) => TimeZone::tzif(name, &rules).ok(),
            Err(_) => TimeZone::posix(name).ok(),
        }
    }
}
