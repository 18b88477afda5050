//! The Docker Engine API over HTTP, the only door to the engine.
//!
//! A request goes through these modules in order: `listen` accepts it, `edge` checks it and finds its `route`
//! and `version`, `decode` turns it into a plain value, a function of `handlers` hands that to the engine and
//! turns the result into a `reply`; `hijack` takes connections over for attach and exec.

mod access;
mod body;
mod decode;
mod edge;
mod go_json;
mod handlers;
mod hijack;
mod listen;
mod metrics;
mod policy;
mod query;
mod reply;
mod route;
mod socket;
mod version;
mod websocket;

#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tls_tests;
#[cfg(test)]
mod wire_tests;

pub use listen::{Door, Listener, Options};
pub use policy::{Grant, Policy};
pub use route::{RouteInfo, Support, Verb, routes};

use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use yare_buildkit::BuildKit;
use yare_engine::Engine;

use crate::edge::Edge;

/// Serves the API at all doors until `shutdown` completes, then lets running requests finish for
/// [`Options::grace`].
///
/// Must be called inside a tokio runtime. Fails only when a listener, or the folder for
/// files of builds, cannot be used at all.
pub async fn serve(
    engine: Arc<Engine>,
    doors: Vec<Door>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let Options { allowed_hosts, grace } = options;
    let buildkit = BuildKit::new(Arc::clone(&engine)).map_err(std::io::Error::other)?;
    let handler = Box::new(move |call| {
        let (engine, buildkit) = (Arc::clone(&engine), buildkit.clone());
        async move { handlers::answer(&engine, &buildkit, call).await }.boxed()
    });
    let edge = Arc::new(Edge::new(handler, allowed_hosts));
    listen::run(edge, doors, grace, shutdown).await
}
