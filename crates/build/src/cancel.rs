//! Ending a build early: the client left, or a step failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use yare_errdefs::{Error, Result};

/// Says whether a build shall end. Clones are the same one. Long loops look now and then.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the build.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it shall end.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error of class `Cancelled` if it shall end.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled("the build was cancelled")) } else { Ok(()) }
    }
}
