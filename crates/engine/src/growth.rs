//! Telling those who follow logs that theirs may have grown. One task and one inotify instance serve all of
//! them; a follower holds no thread.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Weak};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use yare_errdefs::{Error, Result};
use yare_logs::{Grown, Watch, Watched};

/// The logs that are followed.
#[derive(Debug)]
pub(crate) struct Growth {
    watch: Watch,
    followers: Mutex<HashMap<Watched, Vec<Arc<Notify>>>>,
}

/// One follower's place. Dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Follower {
    growth: Arc<Growth>,
    watched: Watched,
    told: Arc<Notify>,
}

impl Growth {
    /// Opens the watch and starts the task that listens to it. Must be called inside a tokio runtime.
    pub(crate) fn open() -> Result<Arc<Self>> {
        let failed = || "cannot follow logs";
        let watch = Watch::open().map_err(|error| Error::wrap(failed(), error))?;
        let listen = || readable(watch.as_fd().try_clone_to_owned()?);
        let events = listen().map_err(|error| Error::unavailable(failed()).caused_by(error))?;
        let growth = Arc::new(Self { watch, followers: Mutex::default() });
        tokio::spawn(relay(Arc::downgrade(&growth), events));
        Ok(growth)
    }

    /// Begins to follow a log. To be called before the log is read for the first time.
    pub(crate) fn follow(self: &Arc<Self>, log: &Path) -> Result<Follower> {
        let told = Arc::new(Notify::new());
        // Under the lock, so that the last follower of before does not take the watch away again.
        let mut followers = self.followers.lock();
        let watched = self.watch.add(log).map_err(|error| {
            Error::wrap("cannot follow the log", error)
                .with_hint("when there are too many watches, raise fs.inotify.max_user_watches (sysctl)")
        })?;
        followers.entry(watched).or_default().push(Arc::clone(&told));
        drop(followers);
        Ok(Follower { growth: Arc::clone(self), watched, told })
    }

    fn tell(&self) {
        let grown = self.watch.take().unwrap_or_else(|error| {
            tracing::warn!(error = yare_errdefs::chain(&error), "cannot tell which logs have grown");
            Grown::Any
        });
        let followers = self.followers.lock();
        match grown {
            Grown::Any => followers.values().flatten().for_each(|told| told.notify_one()),
            Grown::These(these) => {
                let them = these.iter().filter_map(|watched| followers.get(watched));
                them.flatten().for_each(|told| told.notify_one());
            }
        }
    }
}

/// A descriptor whose readiness tasks wait for.
#[expect(deprecated, reason = "its successor is unsafe for what an OwnedFd guarantees anyway")]
pub(crate) fn readable(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

async fn relay(growth: Weak<Growth>, events: AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = events.readable().await {
        let Some(growth) = growth.upgrade() else { return };
        // First, so that what comes while the events are taken makes it ready again.
        ready.clear_ready();
        growth.tell();
    }
}

impl Follower {
    /// Completes when the log may have grown since this completed last.
    pub(crate) async fn grown(&self) {
        self.told.notified().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followers = self.growth.followers.lock();
        if let Entry::Occupied(mut entry) = followers.entry(self.watched) {
            entry.get_mut().retain(|told| !Arc::ptr_eq(told, &self.told));
            if entry.get().is_empty() {
                entry.remove();
                self.growth.watch.remove(self.watched);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn followers_are_told_of_their_own_log_only() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let growth = Growth::open().unwrap();
        // More than the kernel gives a user inotify instances.
        let followers: Vec<Follower> =
            (0..300).map(|_| growth.follow(&one.path().join("log")).unwrap()).collect();
        let elsewhere = growth.follow(&other.path().join("log")).unwrap();
        std::fs::write(one.path().join("log"), "line").unwrap();
        for follower in &followers {
            timeout(Duration::from_secs(5), follower.grown()).await.unwrap();
        }
        assert!(timeout(Duration::from_millis(50), elsewhere.grown()).await.is_err());
        drop(followers);
        assert_eq!(growth.followers.lock().len(), 1);
        // Nobody follows it now: followed anew, it is told of again.
        let again = growth.follow(&one.path().join("log")).unwrap();
        std::fs::write(one.path().join("log"), "more").unwrap();
        timeout(Duration::from_secs(5), again.grown()).await.unwrap();
    }
}
