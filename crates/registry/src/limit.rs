//! Rate limits: a bucket of tokens per client.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Clients that are remembered at most; full buckets are forgotten first.
const MOST: usize = 10_000;
/// Seconds' worth of requests that may come at once.
const BURST: f64 = 10.0;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// So many events a second for each key, and ten seconds' worth of them at once.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl Limiter {
    /// `rate` events a second; 0 for no limit.
    pub(crate) fn new(rate: f64) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Takes one token of `key`; the error is how long to wait for the next one.
    pub(crate) fn take(&self, key: &str, now: Instant) -> Result<(), Duration> {
        if self.rate <= 0.0 {
            return Ok(());
        }
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MOST && !buckets.contains_key(key) {
            let (rate, full) = (self.rate, self.rate * BURST);
            buckets.retain(|_, bucket| refilled(bucket, rate, now) < full);
        }
        let bucket = buckets.entry(key.to_owned()).or_insert(Bucket { tokens: self.rate * BURST, at: now });
        bucket.tokens = refilled(bucket, self.rate, now);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.tokens) / self.rate))
    }

    /// Whether `key` has a token left; takes none.
    pub(crate) fn has(&self, key: &str, now: Instant) -> bool {
        let buckets = self.buckets.lock();
        self.rate <= 0.0 || buckets.get(key).is_none_or(|bucket| refilled(bucket, self.rate, now) >= 1.0)
    }
}

fn refilled(bucket: &Bucket, rate: f64, now: Instant) -> f64 {
    let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
    (bucket.tokens + passed * rate).min(rate * BURST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let limiter = Limiter::new(2.0);
        let start = Instant::now();
        for _ in 0..20 {
            assert!(limiter.take("a", start).is_ok());
        }
        let wait = limiter.take("a", start).unwrap_err();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        assert!(!limiter.has("a", start));
        assert!(limiter.take("b", start).is_ok(), "others are not meant");
        assert!(limiter.take("a", start + Duration::from_millis(600)).is_ok());
        assert!(Limiter::new(0.0).take("a", start).is_ok());
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = Limiter::new(1.0);
        let start = Instant::now();
        for number in 0..(2 * MOST) {
            let at = start + Duration::from_millis(number as u64);
            assert!(limiter.take(&number.to_string(), at).is_ok());
        }
        assert!(limiter.buckets.lock().len() <= MOST + 1);
    }
}
