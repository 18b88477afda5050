//! The builds that are under way, so that they end with the engine.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use yare_build::Cancel;

/// All builds of one engine. Clones are the same ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct State {
    builds: BTreeMap<u64, Cancel>,
    begun: u64,
    has_ended: bool,
}

impl Running {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A build begins; it has ended when the guard goes.
    pub(super) fn begin(&self, cancel: Cancel) -> Begun {
        let mut state = self.state();
        if state.has_ended {
            cancel.cancel();
        }
        state.begun += 1;
        let number = state.begun;
        state.builds.insert(number, cancel);
        drop(state);
        Begun { running: self.clone(), number }
    }

    /// Cancels all builds, and those that still begin.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.has_ended = true;
        state.builds.values().for_each(Cancel::cancel);
    }

    /// Waits until no build is under way; `false` when that took too long.
    pub(super) fn wait(&self, most: Duration) -> bool {
        let waited = self.0.fewer.wait_timeout_while(self.state(), most, |state| !state.builds.is_empty());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.builds.is_empty()
    }
}

/// A build under way.
#[derive(Debug)]
pub(super) struct Begun {
    running: Running,
    number: u64,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.running.state().builds.remove(&self.number);
        self.running.0.fewer.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_end_with_the_engine() {
        let running = Running::default();
        let [one, late] = [Cancel::default(), Cancel::default()];
        let begun = running.begin(one.clone());
        assert!(!running.wait(Duration::from_millis(1)));
        running.end();
        assert!(one.is_cancelled());
        let waiting = running.clone();
        let waited = std::thread::spawn(move || waiting.wait(Duration::from_secs(10)));
        drop(begun);
        assert!(waited.join().unwrap());
        drop(running.begin(late.clone()));
        assert!(late.is_cancelled() && running.wait(Duration::ZERO));
    }
}
