//! Between a build, which runs on a thread, and its client, whose calls are asynchronous.

use crate::session::Session;
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;
use yare_build::Cancel;
use yare_errdefs::{Error, Result};

/// Ends a build, and what it waits for. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) cancel: Cancel,
    told: Arc<watch::Sender<bool>>,
}

impl Stop {
    pub(crate) fn new() -> Self {
        Self { cancel: Cancel::default(), told: Arc::new(watch::Sender::new(false)) }
    }

    pub(crate) fn stop(&self) {
        self.cancel.cancel();
        self.told.send_replace(true);
    }

    /// Comes when the build shall end.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as this.
        drop(self.told.subscribe().wait_for(|told| *told).await);
    }
}

/// A build's way to its client's session.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) session: Arc<Session>,
    pub(crate) runtime: Handle,
    pub(crate) stop: Stop,
}

impl Link {
    /// Waits for the client on a thread of a build, until the build shall end.
    pub(crate) fn wait<T, E: Into<Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                done = work => done.map_err(Into::into),
                () = self.stop.stopped() => Err(Error::cancelled("the build was cancelled")),
            }
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::session::{Offer, Sessions};

    /// A way to a client that answers nothing.
    pub(crate) async fn dead(runtime: &Handle) -> Link {
        let sessions = Arc::new(Sessions::default());
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        runtime.spawn(crate::grpc::server::serve(theirs, |_| async {}));
        let kept = Arc::clone(&sessions);
        let offer = Offer { id: "s".to_owned(), ..Offer::default() };
        runtime.spawn(async move { kept.serve(offer, ours).await });
        let session = sessions.find("s").await.expect("the session is there");
        Link { session, runtime: runtime.clone(), stop: Stop::new() }
    }
}
