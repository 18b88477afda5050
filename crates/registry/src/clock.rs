//! The time of day, as the records keep it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The clock that says when something was pushed and pulled, and how old it is. Tests set it forward: what is
/// decided after days is tested by real requests, then.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Seconds that it is ahead of the time of day.
    ahead: Arc<AtomicU64>,
}

impl Clock {
    /// Sets this clock, and all that were cloned from it, forward.
    pub fn advance(&self, by: Duration) {
        self.ahead.fetch_add(by.as_secs(), Ordering::Relaxed);
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        now().saturating_add(self.ahead.load(Ordering::Relaxed))
    }
}
