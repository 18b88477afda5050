//! Chance that can be repeated: the seed is printed, and `YARE_SEED` sets it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of numbers (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// From `YARE_SEED`, or from the clock; says which.
    pub(crate) fn new() -> Self {
        let given = std::env::var("YARE_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
        let seed = given.unwrap_or_else(clock);
        eprintln!("YARE_SEED={seed}");
        Self(seed)
    }

    /// Another source, for a thread.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Between two numbers of milliseconds.
    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let end = from.len() as u64;
        if end == 0 { None } else { from.get(self.below(end) as usize) }
    }
}

/// How many rounds a test goes: `YARE_ROUNDS`, or `soak` with `YARE_SOAK=1`, or `short`.
pub(crate) fn rounds(short: u64, soak: u64) -> u64 {
    let given = std::env::var("YARE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let soaking = std::env::var("YARE_SOAK").is_ok_and(|value| value == "1");
    given.unwrap_or(if soaking { soak } else { short })
}
