//! Who is about to use a volume, and who is about to remove it: one excludes the other.
//!
//! A container that is being created is in no list yet, so for that long it holds its volumes here. A removal
//! claims the volume first and looks for users then: who comes later waits until the claim is gone, and finds
//! the volume gone too, or still there.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// The volumes that somebody is about to use or to remove.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    by_name: Mutex<HashMap<String, State>>,
    freed: Notify,
}

#[derive(Debug)]
enum State {
    Held {
        by: Vec<String>,
        /// Held by the one who fills the volume.
        filling: Arc<Mutex<()>>,
    },
    Leaving,
}

/// A volume that nobody removes while this lives.
#[derive(Debug)]
pub(crate) struct Hold {
    holds: Arc<Holds>,
    name: String,
    by: String,
    filling: Arc<Mutex<()>>,
}

/// The right to remove a volume. Nobody holds it, and nobody comes to while this lives.
#[derive(Debug)]
pub(crate) struct Leaving {
    holds: Arc<Holds>,
    name: String,
}

impl Holds {
    /// Holds a volume, whether it is there or not. Waits while it is being removed.
    pub(crate) async fn hold(self: &Arc<Self>, name: &str, by: &str) -> Hold {
        self.once(|| self.try_hold(name, by)).await
    }

    /// Claims a volume for its removal. Waits for another removal; fails with those who hold it.
    pub(crate) async fn leave(self: &Arc<Self>, name: &str) -> Result<Leaving, Vec<String>> {
        self.once(|| self.try_leave(name)).await
    }

    async fn once<T>(&self, attempt: impl Fn() -> Option<T>) -> T {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Before the attempt, so that what is freed in between is not missed.
            freed.as_mut().enable();
            if let Some(got) = attempt() {
                return got;
            }
            freed.await;
        }
    }

    fn try_hold(self: &Arc<Self>, name: &str, by: &str) -> Option<Hold> {
        let mut by_name = self.by_name.lock();
        let unheld = || State::Held { by: Vec::new(), filling: Arc::default() };
        let State::Held { by: holders, filling } = by_name.entry(name.to_owned()).or_insert_with(unheld)
        else {
            return None;
        };
        holders.push(by.to_owned());
        let filling = Arc::clone(filling);
        Some(Hold { holds: Arc::clone(self), name: name.to_owned(), by: by.to_owned(), filling })
    }

    fn try_leave(self: &Arc<Self>, name: &str) -> Option<Result<Leaving, Vec<String>>> {
        let mut by_name = self.by_name.lock();
        match by_name.get(name) {
            Some(State::Held { by, .. }) => Some(Err(by.clone())),
            Some(State::Leaving) => None,
            None => {
                by_name.insert(name.to_owned(), State::Leaving);
                Some(Ok(Leaving { holds: Arc::clone(self), name: name.to_owned() }))
            }
        }
    }
}

impl Hold {
    /// What the one who fills the volume locks.
    pub(crate) fn filling(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.filling)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut by_name = self.holds.by_name.lock();
        if let Some(State::Held { by, .. }) = by_name.get_mut(&self.name) {
            if let Some(place) = by.iter().position(|holder| *holder == self.by) {
                by.swap_remove(place);
            }
            if by.is_empty() {
                by_name.remove(&self.name);
            }
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.holds.by_name.lock().remove(&self.name);
        self.holds.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_held_volume_does_not_leave_and_one_that_leaves_is_not_held() {
        let holds: Arc<Holds> = Arc::default();
        let first = holds.hold("v", "one").await;
        let second = holds.hold("v", "two").await;
        assert_eq!(holds.leave("v").await.unwrap_err(), ["one", "two"]);
        drop(first);
        assert_eq!(holds.leave("v").await.unwrap_err(), ["two"]);
        drop(second);
        let leaving = holds.leave("v").await.unwrap();
        assert!(timeout(SHORT, holds.hold("v", "three")).await.is_err());
        assert!(timeout(SHORT, holds.leave("v")).await.is_err(), "it leaves once");
        timeout(LONG, holds.hold("other", "three")).await.unwrap();
        let waiting = tokio::spawn({
            let holds = Arc::clone(&holds);
            async move { drop(holds.hold("v", "three").await) }
        });
        tokio::task::yield_now().await;
        drop(leaving);
        timeout(LONG, waiting).await.unwrap().unwrap();
        assert!(holds.by_name.lock().is_empty());
    }
}
