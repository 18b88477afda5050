//! BuildKit's wire: what `docker buildx`, `bake` and `compose build` speak, on Yare's own build engine.
//!
//! A client upgrades `POST /grpc` and calls services on it (`services`): workers, builds, the cache, the
//! history. It upgrades `POST /session` too, and answers calls there (`session`): its files (`sync`), its
//! secrets and agents (`keys`), its images (`layout`), what builds hand out (`export`). A build is one call of `Control/Solve` that
//! stays open, `Control/Status` which tells its news, and calls of `LLBBridge` in which the client runs the
//! frontend; they find each other by the id that the client chose (`builds`), and so do targets that stand on
//! one another (`inputs`). The Dockerfile's frontend is done by [`yare_build`]: `frontend` reads its options,
//! `solve` brings them together with the client's files and starts the build. Other frontends are programs in
//! images, which get the same bridge over their standard streams (`gateway`). They, and clients, may make a
//! graph themselves (`llb`, `graphs`), and look into what came of it (`read`).
//!
//! All protobuf and gRPC is in this crate (`proto`, `grpc`).

mod builds;
mod cache;
mod calls;
mod context;
mod export;
mod frontend;
mod gateway;
mod graphs;
mod grpc;
mod history;
mod inputs;
mod keys;
mod layout;
mod link;
mod llb;
mod news;
mod proto;
mod read;
mod services;
mod session;
mod solve;
mod sync;

pub use session::Offer;

use crate::builds::Builds;
use crate::gateway::local::Programs;
use crate::history::Store;
use crate::session::Sessions;
use crate::sync::Folders;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use yare_build::cache::Kept;
use yare_engine::Engine;
use yare_errdefs::Result;

/// BuildKit's side of an engine. Clones are the same one.
#[derive(Debug, Clone)]
pub struct BuildKit(Arc<Kit>);

#[derive(Debug)]
struct Kit {
    engine: Arc<Engine>,
    sessions: Sessions,
    builds: Builds,
    folders: Arc<Folders>,
}

impl BuildKit {
    /// The side of this engine.
    ///
    /// # Errors
    /// The folders for clients' files and for the history cannot be made or read.
    pub fn new(engine: Arc<Engine>) -> Result<Self> {
        let folders = Folders::new(yare_engine::build::kept_folder(&engine, "synced")?);
        let store = Arc::new(Store::open(yare_engine::build::kept_folder(&engine, "history")?)?);
        // Counted and pruned with the build cache.
        yare_engine::build::keeps(&engine, Arc::clone(&folders) as Arc<dyn Kept>);
        yare_engine::build::keeps(&engine, Arc::clone(&store) as Arc<dyn Kept>);
        let (sessions, builds) = (Sessions::default(), Builds::new(store));
        let kit = Arc::new(Kit { engine, sessions, builds, folders });
        // Not held by the engine, which it holds.
        let programs = Arc::new(Programs(Arc::downgrade(&kit)));
        yare_engine::build::understands(&kit.engine, programs);
        Ok(Self(kit))
    }

    /// Answers calls on a connection until it ends. Builds that were asked for on it end with it.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let kit = Arc::clone(&self.0);
        let answered =
            grpc::server::serve(stream, move |call| services::answer(Arc::clone(&kit), call)).await;
        if let Err(error) = answered {
            tracing::debug!(%error, "a connection for builds ended early");
        }
    }

    /// Keeps a session until its connection ends.
    pub async fn session(&self, offer: Offer, stream: impl AsyncRead + AsyncWrite + Unpin) {
        if let Err(status) = self.0.sessions.serve(offer, stream).await {
            tracing::debug!(message = status.message, "a session ended early");
        }
    }
}
