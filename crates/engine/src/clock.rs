//! The time, from one place, so that tests can set it.

use jiff::Timestamp;
use std::sync::atomic::{AtomicI64, Ordering};

/// The wall clock, or in tests a time that stands still until it is moved.
#[derive(Debug, Default)]
pub struct Clock {
    /// Nanoseconds since the epoch; 0 means the wall clock.
    fixed: AtomicI64,
}

impl Clock {
    /// The wall clock.
    pub fn wall() -> Self {
        Self::default()
    }

    /// A clock that stands at this time.
    pub fn standing_at(time: Timestamp) -> Self {
        let clock = Self::default();
        clock.set(time);
        clock
    }

    /// Moves a standing clock.
    pub fn set(&self, time: Timestamp) {
        let nanos = i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
        self.fixed.store(nanos, Ordering::Relaxed);
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        match self.fixed.load(Ordering::Relaxed) {
            0 => Timestamp::now(),
            nanos => Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

/// RFC 3339 with as many fraction digits as needed, as Go prints it; Go's zero time for `None`.
pub fn rfc3339(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| time.to_string())
}
