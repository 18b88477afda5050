//! The engine as a registry: `registry enable` serves the image store over the distribution protocol.
//!
//! # On disk, format 1
//!
//! ```text
//! <data root>/registry/enabled.json   the settings; the registry is served while this file is there
//! <data root>/registry/…              what was pushed and is no image of the store: see `yare_registry`
//! ```

mod shelf;
mod taking;

pub(crate) use shelf::Domains;

use crate::Engine;
use serde::{Deserialize, Serialize};
use shelf::Shelf;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use yare_api::{RegistryOptions, RegistryStatus};
use yare_errdefs::{Error, Result};
use yare_registry::{Config, Registry};
use yare_sys::fs::Durability;

/// Where it listens when nothing is said.
const LISTEN: &str = "127.0.0.1:5000";
const SETTINGS: &str = "enabled.json";

/// The registry of an engine.
#[derive(Debug, Default)]
pub(crate) struct Served {
    state: tokio::sync::Mutex<State>,
    domains: Domains,
    /// Ends the one that runs; apart from the state, so that an engine that ends need not wait.
    stop: parking_lot::Mutex<Option<oneshot::Sender<()>>>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    /// Why the one that is wanted does not run.
    problem: Option<String>,
}

#[derive(Debug)]
struct Running {
    status: RegistryStatus,
    task: JoinHandle<()>,
}

/// The settings on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    format: u32,
    listen: Vec<String>,
    /// The configuration of a registry, TOML.
    config: String,
}

impl Served {
    /// Whether a registry by this name is the engine itself.
    pub(crate) fn has(&self, domain: &str) -> bool {
        self.domains.has(domain)
    }

    /// Lets running requests finish and ends.
    pub(crate) fn end(&self) {
        if let Some(stop) = self.stop.lock().take() {
            let _ = stop.send(());
        }
    }
}

/// Serves the store from now on, also after the engine was started anew. One that runs is replaced.
pub async fn enable(engine: &Arc<Engine>, options: RegistryOptions) -> Result<RegistryStatus> {
    let settings = Settings { format: 1, listen: options.listen.unwrap_or_default(), config: options.config };
    let engine = Arc::clone(engine);
    let running = Arc::clone(&engine);
    running
        .detached(async move {
            let config = configuration(&engine, &settings)?;
            let mut state = engine.served.state.lock().await;
            stop(&engine, &mut state).await;
            match start(&engine, config).await {
                Ok(started) => {
                    // ● From here on it is served at each start.
                    if let Err(error) = keep(&engine, &settings) {
                        state.running = Some(started);
                        stop(&engine, &mut state).await;
                        return Err(error);
                    }
                    let status = started.status.clone();
                    (state.running, state.problem) = (Some(started), None);
                    Ok(status)
                }
                Err(error) => {
                    resume(&engine, &mut state).await;
                    Err(error)
                }
            }
        })
        .await
}

/// Serves it no more. What is in the store and in the registry's folder stays.
pub async fn disable(engine: &Arc<Engine>) -> Result<()> {
    let engine = Arc::clone(engine);
    let running = Arc::clone(&engine);
    running
        .detached(async move {
            let mut state = engine.served.state.lock().await;
            let path = root(&engine).join(SETTINGS);
            match std::fs::remove_file(&path) {
                Ok(()) => yare_sys::fs::sync_dir(root(&engine)).map_err(Error::from)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text = format!("cannot remove {}", path.display());
                    return Err(Error::new(yare_errdefs::class_of_io(&error), text).caused_by(error));
                }
            }
            stop(&engine, &mut state).await;
            state.problem = None;
            Ok(())
        })
        .await
}

/// Whether it is served, and how.
pub async fn status(engine: &Engine) -> RegistryStatus {
    let state = engine.served.state.lock().await;
    match (&state.running, &state.problem) {
        (Some(running), _) if !running.task.is_finished() => running.status.clone(),
        (Some(_), _) => RegistryStatus {
            enabled: true,
            problem: "it ended by itself; the engine's log says why".to_owned(),
            ..RegistryStatus::default()
        },
        (None, Some(problem)) => {
            RegistryStatus { enabled: true, problem: problem.clone(), ..RegistryStatus::default() }
        }
        (None, None) => RegistryStatus::default(),
    }
}

/// Serves it again after the engine's start, when it was served before. What prevents that is in the log and
/// in the status: the engine works without.
pub async fn restore(engine: &Arc<Engine>) {
    let mut state = engine.served.state.lock().await;
    resume(engine, &mut state).await;
}

/// Starts what the settings on the disk want.
async fn resume(engine: &Arc<Engine>, state: &mut State) {
    let started = match kept(engine) {
        Ok(None) => return,
        Ok(Some(settings)) => match configuration(engine, &settings) {
            Ok(config) => start(engine, config).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match started {
        Ok(started) => (state.running, state.problem) = (Some(started), None),
        Err(error) => {
            let error = yare_errdefs::chain(&error);
            tracing::error!(error, "the registry is enabled and cannot be served");
            state.problem = Some(error);
        }
    }
}

fn root(engine: &Engine) -> PathBuf {
    engine.config.data_root.join("registry")
}

/// The registry's configuration: what was sent, with a root and an address.
fn configuration(engine: &Engine, settings: &Settings) -> Result<Config> {
    let mut config = Config::parse(&settings.config)?;
    if !config.root.as_os_str().is_empty() {
        return Err(Error::invalid("the engine's registry keeps its things in the engine's data root")
            .with_hint(
                "take `root` out of the configuration, or serve one of its own: yare registry serve",
            ));
    }
    if !config.proxy.is_empty() {
        return Err(Error::invalid("the engine's registry is no cache of others")
            .with_hint("serve a cache beside it: yare registry serve"));
    }
    if !config.replicate.is_empty() {
        return Err(Error::invalid("the engine's registry does not replicate")
            .with_hint("serve one that does beside it: yare registry serve"));
    }
    config.root = root(engine);
    match (settings.listen.is_empty(), config.listen.is_empty()) {
        (false, false) => {
            return Err(Error::invalid(
                "the address to listen on is given both as a flag and in the configuration",
            ));
        }
        (false, true) => config.listen.clone_from(&settings.listen),
        (true, true) => config.listen.push(LISTEN.to_owned()),
        (true, false) => {}
    }
    Ok(config)
}

/// Binds, opens, serves.
async fn start(engine: &Arc<Engine>, config: Config) -> Result<Running> {
    let bind = |address: SocketAddr| match &engine.config.outside {
        Some(outside) => outside.listen(address),
        None => TcpListener::bind(address),
    };
    let bound = config.listen.iter().map(|address| yare_registry::bind_by(address, bind));
    let listeners = bound.collect::<Result<Vec<_>>>()?;
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>().map_err(Error::from)?;
    let (has_tls, has_auth) = (config.tls.is_some(), config.auth.is_some());
    if !has_auth && addresses.iter().any(|address| !address.ip().is_loopback()) {
        tracing::warn!("everybody who reaches the registry may pull all images and push: it has no `auth`");
    }
    let domains = domains(&addresses);
    let shelf = Arc::new(Shelf::new(engine, domains.clone()));
    let registry = tokio::task::spawn_blocking(move || Registry::open_beside(config, Some(shelf))).await;
    let registry =
        registry.map_err(|error| Error::internal("cannot open the registry").caused_by(error))??;
    let listen: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    tracing::info!("the image store is served as a registry on {}", listen.join(" "));
    let status = RegistryStatus {
        enabled: true,
        listen: Some(listen),
        names: Some(domains.clone()),
        tls: has_tls,
        auth: has_auth,
        problem: String::new(),
    };
    let (stop, stopped) = oneshot::channel();
    *engine.served.stop.lock() = Some(stop);
    engine.served.domains.set(domains);
    let task = tokio::spawn(async move {
        let stopped = async {
            // The sender being gone means the same.
            let _ = stopped.await;
        };
        if let Err(error) = yare_registry::serve(registry, listeners, stopped).await {
            tracing::error!(error = yare_errdefs::chain(&error), "the registry ended");
        }
    });
    Ok(Running { status, task })
}

/// Ends the one that runs, and waits for that.
async fn stop(engine: &Engine, state: &mut State) {
    engine.served.domains.set(Vec::new());
    engine.served.end();
    if let Some(running) = state.running.take()
        && let Err(error) = running.task.await
    {
        tracing::error!(%error, "the registry ended by a fault");
    }
}

/// What clients on this machine call it.
fn domains(addresses: &[SocketAddr]) -> Vec<String> {
    let mut domains = Vec::new();
    for address in addresses {
        let (ip, port) = (address.ip(), address.port());
        let mut names = Vec::new();
        if ip.is_loopback() || ip.is_unspecified() {
            names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
        }
        if !ip.is_unspecified() && ip.is_ipv4() {
            names.push(ip.to_string());
        }
        for name in names {
            let domain = format!("{name}:{port}");
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
    }
    domains
}

fn keep(engine: &Engine, settings: &Settings) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(settings)
        .map_err(|error| Error::internal("cannot write the settings as JSON").caused_by(error))?;
    yare_sys::fs::atomic_write(&root(engine), SETTINGS, &bytes, Durability::Synced).map_err(|error| {
        Error::new(yare_errdefs::class_of_io(&error), "cannot keep the registry's settings").caused_by(error)
    })
}

fn kept(engine: &Engine) -> Result<Option<Settings>> {
    let path = root(engine).join(SETTINGS);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let text = format!("cannot read {}", path.display());
            return Err(Error::new(yare_errdefs::class_of_io(&error), text).caused_by(error));
        }
    };
    let settings = serde_json::from_slice(&text)
        .map_err(|error| Error::precondition(format!("cannot read {}", path.display())).caused_by(error))?;
    Ok(Some(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_called_by_what_reaches_it() {
        let named = |text: &str| domains(&[text.parse().unwrap()]);
        assert_eq!(named("127.0.0.1:5000"), ["localhost:5000", "127.0.0.1:5000"]);
        assert_eq!(named("0.0.0.0:80"), ["localhost:80", "127.0.0.1:80"]);
        assert_eq!(named("[::1]:80"), ["localhost:80", "127.0.0.1:80"]);
        assert_eq!(named("10.1.2.3:80"), ["10.1.2.3:80"]);
    }
}
