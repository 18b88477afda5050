//! Namespaces kept ready, and the queue of what the background thread should do.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::endpoint::MacAddr;
use crate::listen::ResolverSockets;

/// The pool is refilled once nobody has taken from it for so long: starts go first. An empty pool is
/// refilled at once, because then starts wait for the same work anyway.
const QUIET: Duration = Duration::from_millis(20);

/// How long nothing is made after making failed.
const PAUSE: Duration = Duration::from_secs(1);

/// A namespace on the bridge, with everything up.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) netns: OwnedFd,
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Option<Ipv6Addr>,
    pub(crate) mac: MacAddr,
    pub(crate) veth: String,
    pub(crate) resolver: Option<ResolverSockets>,
}

/// What the background thread should do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Make a namespace on the bridge.
    Connected,
    /// Make one with loopback alone.
    Bare,
    /// Forget the UDP flows of a container that has gone, then give its addresses back.
    Forget(Ipv4Addr, Option<Ipv6Addr>),
    /// Cut a cable by its name, then do the same for the addresses at its end.
    Unplug(String, Ipv4Addr, Option<Ipv6Addr>),
    /// Delete cables that belong to nobody, by index.
    Cut(Vec<u32>),
    /// End.
    Stop,
}

#[derive(Debug, Default)]
struct Stock {
    connected: VecDeque<Ready>,
    bare: VecDeque<OwnedFd>,
    chores: VecDeque<Job>,
    last_take: Option<Instant>,
    paused_until: Option<Instant>,
    /// A job is being done.
    busy: bool,
    /// The background thread waits for something to do, with no deadline.
    resting: bool,
    stop: bool,
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Pool {
    stock: Mutex<Stock>,
    changed: Condvar,
    connected: usize,
    bare: usize,
}

impl Pool {
    /// An empty pool that wants so many of each kind.
    pub(crate) fn new(connected: usize, bare: usize) -> Self {
        Self { stock: Mutex::default(), changed: Condvar::new(), connected, bare }
    }

    /// A ready namespace: any, or the one with this address.
    pub(crate) fn take(&self, ip: Option<Ipv4Addr>) -> Option<Ready> {
        let mut stock = self.stock.lock();
        let taken = match ip {
            None => stock.connected.pop_front(),
            Some(ip) => {
                let at = stock.connected.iter().position(|ready| ready.ip == ip)?;
                stock.connected.remove(at)
            }
        };
        self.taken(&mut stock);
        taken
    }

    /// A ready namespace, also one that is just being made: the last free address may be in it.
    pub(crate) fn take_made(&self, limit: Duration) -> Option<Ready> {
        let deadline = Instant::now() + limit;
        let mut stock = self.stock.lock();
        while stock.connected.is_empty() && stock.busy {
            if self.changed.wait_until(&mut stock, deadline).timed_out() {
                break;
            }
        }
        let taken = stock.connected.pop_front();
        self.taken(&mut stock);
        taken
    }

    /// A namespace with loopback alone.
    pub(crate) fn take_bare(&self) -> Option<OwnedFd> {
        let mut stock = self.stock.lock();
        let taken = stock.bare.pop_front();
        self.taken(&mut stock);
        taken
    }

    fn taken(&self, stock: &mut Stock) {
        stock.last_take = Some(Instant::now());
        if stock.resting || stock.connected.is_empty() || stock.bare.is_empty() {
            self.changed.notify_all();
        }
    }

    /// Adds a namespace, or puts one back that was not used.
    pub(crate) fn put(&self, ready: Ready) {
        self.stock.lock().connected.push_back(ready);
        self.changed.notify_all();
    }

    /// Adds one with loopback alone.
    pub(crate) fn put_bare(&self, netns: OwnedFd) {
        self.stock.lock().bare.push_back(netns);
        self.changed.notify_all();
    }

    /// Gives the background thread something to do.
    pub(crate) fn ask(&self, chore: Job) {
        self.stock.lock().chores.push_back(chore);
        self.changed.notify_all();
    }

    /// Says that making failed, so that the next try waits.
    pub(crate) fn pause(&self) {
        self.stock.lock().paused_until = Some(Instant::now() + PAUSE);
    }

    /// Tells the background thread to end, and empties the pool.
    pub(crate) fn stop(&self) -> Vec<Ready> {
        let mut stock = self.stock.lock();
        stock.stop = true;
        stock.bare.clear();
        self.changed.notify_all();
        stock.connected.drain(..).collect()
    }

    /// The next thing to do; waits for one.
    pub(crate) fn next_job(&self) -> Job {
        let mut stock = self.stock.lock();
        stock.busy = false;
        self.changed.notify_all();
        loop {
            if stock.stop {
                return Job::Stop;
            }
            let now = Instant::now();
            match self.decide(&mut stock, now) {
                Ok(job) => {
                    stock.busy = true;
                    return job;
                }
                Err(Some(until)) => {
                    self.changed.wait_until(&mut stock, until);
                }
                Err(None) => {
                    stock.resting = true;
                    self.changed.wait(&mut stock);
                    stock.resting = false;
                }
            }
        }
    }

    /// A job, or until when to wait for one.
    fn decide(&self, stock: &mut Stock, now: Instant) -> Result<Job, Option<Instant>> {
        if let Some(chore) = stock.chores.pop_front() {
            return Ok(chore);
        }
        let connected = stock.connected.len() < self.connected;
        let bare = stock.bare.len() < self.bare;
        if !connected && !bare {
            return Err(None);
        }
        if let Some(until) = stock.paused_until.filter(|until| *until > now) {
            return Err(Some(until));
        }
        let empty = (connected && stock.connected.is_empty()) || (bare && stock.bare.is_empty());
        let quiet = stock.last_take.map(|taken| taken + QUIET).filter(|quiet| *quiet > now);
        match quiet {
            Some(until) if !empty => Err(Some(until)),
            _ if connected
                && (!stock.connected.is_empty() || !bare || stock.bare.len() >= stock.connected.len()) =>
            {
                Ok(Job::Connected)
            }
            _ if bare => Ok(Job::Bare),
            _ => Ok(Job::Connected),
        }
    }

    /// Waits until the pool is full and nothing is left to do, at most so long.
    pub(crate) fn wait_idle(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut stock = self.stock.lock();
        loop {
            let full = stock.connected.len() >= self.connected && stock.bare.len() >= self.bare;
            if full && !stock.busy && stock.chores.is_empty() {
                return true;
            }
            if self.changed.wait_until(&mut stock, deadline).timed_out() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn descriptor() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn ready(last: u8) -> Ready {
        let ip = Ipv4Addr::new(10, 0, 0, last);
        let (mac, veth) = (MacAddr::of_ip(ip), format!("veth{last}"));
        Ready { netns: descriptor(), ip, ip6: None, mac, veth, resolver: None }
    }

    #[test]
    fn fills_both_kinds_and_then_rests() {
        let pool = Pool::new(2, 1);
        let mut made = Vec::new();
        while !pool.wait_idle(Duration::ZERO) && made.len() < 10 {
            let job = pool.next_job();
            match job {
                Job::Connected => pool.put(ready(u8::try_from(made.len()).unwrap())),
                _ => pool.put_bare(descriptor()),
            }
            made.push(job);
            pool.stock.lock().busy = false;
        }
        assert_eq!(made.iter().filter(|job| **job == Job::Connected).count(), 2);
        assert_eq!(made.iter().filter(|job| **job == Job::Bare).count(), 1);
    }

    #[test]
    fn refilling_waits_for_quiet_unless_the_pool_is_empty() {
        let pool = Pool::new(3, 0);
        pool.put(ready(1));
        pool.put(ready(2));
        pool.take(None).unwrap();
        let now = Instant::now();
        assert!(matches!(pool.decide(&mut pool.stock.lock(), now), Err(Some(_))));
        assert_eq!(pool.decide(&mut pool.stock.lock(), now + QUIET), Ok(Job::Connected));
        pool.take(None).unwrap();
        assert_eq!(pool.decide(&mut pool.stock.lock(), now), Ok(Job::Connected));
    }

    #[test]
    fn a_certain_address_is_found_and_chores_go_first() {
        let pool = Pool::new(3, 0);
        (1..=3).for_each(|last| pool.put(ready(last)));
        assert_eq!(pool.take(Some(Ipv4Addr::new(10, 0, 0, 2))).unwrap().veth, "veth2");
        assert!(pool.take(Some(Ipv4Addr::new(10, 0, 0, 2))).is_none());
        pool.ask(Job::Cut(vec![7]));
        assert_eq!(pool.next_job(), Job::Cut(vec![7]));
        assert_eq!(pool.stop().len(), 2);
        assert_eq!(pool.next_job(), Job::Stop);
    }
}
