//! A number that no other running test has: it makes names of bridges, subnets and cgroups unique.

use std::fs::{File, OpenOptions};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, flock};

/// How many there are: one `/24` of `10.210.0.0/16` each.
const SLOTS: u32 = 250;

/// A claimed number, given back when dropped or when the process ends.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u32,
    _lock: File,
}

impl Slot {
    /// Claims a free number.
    pub(crate) fn claim() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let first = std::process::id().wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let numbers = (0..SLOTS).map(|step| first.wrapping_add(step) % SLOTS + 1);
        let mut free = numbers.filter_map(|number| {
            let lock = claim_name(&number.to_string())?;
            Some(Self { number, _lock: lock })
        });
        free.next().expect("250 tests at once are too many")
    }

    /// The name of the bridge; at most 15 bytes.
    pub(crate) fn bridge(&self) -> String {
        format!("ytest{}", self.number)
    }

    /// Address and prefix of the bridge.
    pub(crate) fn bip(&self) -> String {
        format!("10.210.{}.1/24", self.number)
    }

    /// Where the networks of its users are.
    pub(crate) fn pool(&self) -> String {
        format!("base=10.211.{}.0/24,size=28", self.number)
    }

    /// The parent of the containers' cgroups.
    pub(crate) fn cgroup(&self) -> String {
        format!("/yare-test-{}", self.number)
    }
}

/// Claims a name among all tests of this machine; it is given back with the file. `None` when somebody has it.
pub(crate) fn claim_name(name: &str) -> Option<File> {
    let folder = std::env::temp_dir().join("yare-test-slots");
    std::fs::create_dir_all(&folder).expect("the folder of locks can be made");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(name)).ok()?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_once() {
        let (one, two) = (Slot::claim(), Slot::claim());
        assert_ne!(one.number, two.number);
        assert!(one.bridge().len() <= 15);
        assert!((1..=250).contains(&one.number));
    }
}
