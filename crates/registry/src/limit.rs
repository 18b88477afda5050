//! Limits of each client: a bucket of tokens for how often, and a share of what there is at a time.
//!
//! A bucket that nobody took from for ten seconds is full, and as good as none. So buckets are kept in two
//! generations, and every ten seconds, or when the young one has grown large, the old one is forgotten as a
//! whole: what is remembered is bounded, and no request pays for a walk over it.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clients of one generation at most.
const MOST: usize = 10_000;
/// Seconds' worth of requests that may come at once.
const BURST: f64 = 10.0;
/// After so long a bucket is full: as `BURST`.
const FULL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// So many events a second for each key, and ten seconds' worth of them at once.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: f64,
    buckets: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, Bucket>,
    old: HashMap<String, Bucket>,
    /// When the young ones began.
    since: Option<Instant>,
}

impl Generations {
    fn get(&self, key: &str) -> Option<Bucket> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }

    /// The bucket of `key` among the young ones, made by `new` when there is none.
    fn renew(&mut self, key: &str, now: Instant, new: Bucket) -> &mut Bucket {
        let since = *self.since.get_or_insert(now);
        let is_large = self.young.len() >= MOST && !self.young.contains_key(key);
        if is_large || now.saturating_duration_since(since) >= FULL {
            self.old = std::mem::take(&mut self.young);
            self.since = Some(now);
        }
        let known = self.get(key).unwrap_or(new);
        self.young.entry(key.to_owned()).or_insert(known)
    }
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
        let bucket = buckets.renew(key, now, Bucket { tokens: self.rate * BURST, at: now });
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
        self.rate <= 0.0 || buckets.get(key).is_none_or(|bucket| refilled(&bucket, self.rate, now) >= 1.0)
    }
}

/// How many places each client has.
#[derive(Debug)]
pub(crate) struct Shares {
    most: usize,
    taken: Mutex<HashMap<String, usize>>,
}

/// A place that a client has until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    client: String,
}

impl Shares {
    /// At most so many for each; 0 for no limit.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: if most == 0 { usize::MAX } else { most }, taken: Mutex::default() })
    }

    /// One more place for the client, unless it has all that it may have.
    pub(crate) fn take(self: &Arc<Self>, client: String) -> Option<Share> {
        let mut taken = self.taken.lock();
        let count = taken.get(&client).copied().unwrap_or(0);
        if count >= self.most {
            return None;
        }
        taken.insert(client.clone(), count + 1);
        Some(Share { shares: Arc::clone(self), client })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock();
        match taken.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.client)),
        }
    }
}

/// Whom an address counts for: an IPv6 client has a network of 64 bits to choose its addresses from, all of
/// which are one.
pub(crate) fn client_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << 64);
            format!("{}/64", std::net::Ipv6Addr::from_bits(network))
        }
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
    fn a_client_has_its_share_and_no_more() {
        let shares = Shares::new(2);
        let take = |client: &str| shares.take(client.to_owned());
        let (first, second) = (take("a").unwrap(), take("a").unwrap());
        assert!(take("a").is_none());
        assert!(take("b").is_some(), "others have their own");
        drop(first);
        let third = take("a").unwrap();
        drop((second, third));
        assert!(shares.taken.lock().is_empty(), "who has none takes no memory");
        let unlimited = Shares::new(0);
        let held: Vec<_> = (0..100).map(|_| unlimited.take("a".to_owned()).unwrap()).collect();
        assert_eq!(held.len(), 100);
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = Limiter::new(1.0);
        let start = Instant::now();
        for number in 0..(2 * MOST) {
            let at = start + Duration::from_millis(number as u64);
            assert!(limiter.take(&number.to_string(), at).is_ok());
        }
        let buckets = limiter.buckets.lock();
        assert!(buckets.young.len() <= MOST && buckets.old.len() <= MOST);
    }

    #[test]
    fn what_is_empty_is_remembered_until_it_is_full() {
        let limiter = Limiter::new(1.0);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(limiter.take("early", start).is_ok());
        for _ in 0..10 {
            assert!(limiter.take("a", after(8)).is_ok());
        }
        assert!(limiter.take("b", after(10)).is_ok(), "another generation");
        assert!(!limiter.has("a", after(8)));
        assert_eq!((0..10).filter(|_| limiter.take("a", after(12)).is_ok()).count(), 4);
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let client = |address: &str| client_of(address.parse().unwrap());
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff:1:2:3"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("2001:db8:1:2::1"), "2001:db8:1:2::/64");
        assert_eq!(client("::ffff:192.0.2.1"), "192.0.2.1");
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }
}
