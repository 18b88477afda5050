//! What the two threads of a network do.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use super::{Inner, forget};
use crate::conntrack::Flows;
use crate::endpoint::MacAddr;
use crate::netns;
use crate::pool::Job;
use crate::watch::{Change, Watch};

/// Others who change tables do it in several steps; their news are taken together.
const SETTLE: Duration = Duration::from_millis(20);

/// How long until a failed repair is tried again.
const RETRY: Duration = Duration::from_millis(500);

impl Inner {
    /// The background thread.
    pub(super) fn work(&self) {
        loop {
            match self.pool.next_job() {
                Job::Stop => return,
                Job::Connected => self.refill(),
                Job::Bare => match netns::fresh() {
                    Ok(netns) => self.pool.put_bare(netns),
                    Err(error) => self.give_up(&error),
                },
                Job::Forget(ip, ip6) => self.retire(ip, ip6),
                Job::Unplug(cable, ip, ip6) => {
                    self.unplug(&cable);
                    self.retire(ip, ip6);
                }
                Job::Cut(indices) => self.cut(&indices),
            }
        }
    }

    fn refill(&self) {
        let outcome = self.allocate().and_then(|ip| {
            let ip6 = self.obtain6(None).inspect_err(|_| self.release(ip, None))?;
            self.make(ip, ip6, MacAddr::of_ip(ip)).map_err(|error| {
                self.release(ip, ip6);
                error.into()
            })
        });
        match outcome {
            Ok(ready) => self.pool.put(ready),
            Err(error) => self.give_up(&error),
        }
    }

    fn give_up(&self, error: &dyn std::error::Error) {
        tracing::warn!(error = %yare_errdefs::chain(error), "cannot make a network namespace ahead");
        self.pool.pause();
    }

    pub(super) fn retire(&self, ip: Ipv4Addr, ip6: Option<Ipv6Addr>) {
        forget(Flows::AnsweredBy(ip.into()));
        ip6.into_iter().for_each(|ip| forget(Flows::AnsweredBy(ip.into())));
        self.release(ip, ip6);
    }

    pub(super) fn unplug(&self, cable: &str) {
        let found = self.route.lock().link(cable);
        match found {
            Ok(link) => self.cut(link.map(|link| link.index).as_slice()),
            Err(error) => tracing::warn!(%error, cable, "cannot find a cable to cut"),
        }
    }

    fn cut(&self, indices: &[u32]) {
        let outcome = self.route.lock().change(|changes| {
            indices.iter().for_each(|index| changes.doom(*index));
            changes.delete_doomed();
        });
        match outcome {
            // Some were on their way out already.
            Err(refused) if refused.errno != rustix::io::Errno::NODEV => {
                tracing::warn!(error = %refused, "cannot delete cables that belong to nobody");
            }
            _ => {}
        }
    }

    /// The thread that guards the packet filter.
    pub(super) fn guard(&self, mut watch: Watch) {
        let (table, own) = {
            let firewall = self.firewall.lock();
            (firewall.table().to_owned(), firewall.port())
        };
        let mut deadline = None;
        loop {
            match watch.wait(&table, own, deadline) {
                Change::Stop => return,
                Change::Other => {}
                Change::Ours => {
                    let outcome = self.heal();
                    deadline = outcome.is_err().then_some(RETRY);
                    if let Err(error) = outcome {
                        tracing::error!(error = %yare_errdefs::chain(&error), "packet filter cannot be rebuilt");
                    }
                    thread::sleep(SETTLE);
                }
            }
        }
    }
}
