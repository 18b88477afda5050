//! Listeners and connections: accepting, limits, timeouts, work in the background, ending in good order.

use super::connection::{Connection, Stream};
use super::service::{Peer, Service};
use super::tls;
use super::{client_name, control, http2};
use crate::limit::{self, Shares};
use crate::registry::Registry;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use yare_errdefs::{Error, Result};
use yare_tls::Watched;

/// The most bytes that the head of a request may have.
const MAX_HEAD: u32 = 64 << 10;
/// The pause after a failure to accept (no descriptors left, for example).
const PAUSE: Duration = Duration::from_millis(100);
/// How often pulls are noted in the records.
const FLUSH: Duration = Duration::from_secs(30);
/// How often abandoned uploads are looked for.
const SWEEP: Duration = Duration::from_secs(600);
/// How often a process that nobody asks anything looks what others committed.
const FOLLOW: Duration = Duration::from_secs(5);
/// Commits after which all records of a bucket are written down.
const COMMITS: u64 = 1000;

/// Binds an address: `127.0.0.1:5000`, `[::1]:5000`, `:5000` (all addresses), `5000` likewise.
pub fn bind(address: &str) -> Result<std::net::TcpListener> {
    bind_by(address, std::net::TcpListener::bind)
}

/// As [`bind`], by other means than this thread's.
pub fn bind_by(
    address: &str,
    bind: impl FnOnce(SocketAddr) -> std::io::Result<std::net::TcpListener>,
) -> Result<std::net::TcpListener> {
    let spelt = match address.strip_prefix(':').or(Some(address)) {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => format!("0.0.0.0:{port}"),
        _ => address.to_owned(),
    };
    let parsed: SocketAddr = spelt.parse().map_err(|_| {
        Error::invalid(format!("{address:?} is no address to listen on"))
            .with_hint("want an address in numbers and a port, such as 127.0.0.1:5000 or :5000")
    })?;
    bind(parsed).map_err(|error| Error::unavailable(format!("cannot listen on {address}")).caused_by(error))
}

/// Serves the registry until `shutdown` completes, then lets running requests finish for the configured
/// grace, notes what was pulled, and closes the records.
pub async fn serve(
    registry: Arc<Registry>,
    listeners: Vec<std::net::TcpListener>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    registry.served_since.store(registry.now(), Ordering::Relaxed);
    let config = &registry.config;
    let tls = config.tls.as_ref().map(tls::watch).transpose()?.map(Arc::new);
    let grace = config.limits.grace;
    let server = Server {
        service: Arc::new(Service::new(Arc::clone(&registry))?),
        tls,
        places: Arc::new(Semaphore::new(config.limits.connections)),
        shares: Shares::new(config.limits.connections_per_client),
        client_names: config.names_clients(),
        silence: config.limits.silence,
    };
    let deliveries = crate::events::deliveries(&registry)?;
    let (stop, stopped) = watch::channel(false);
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        let failed = |error| Error::unavailable("cannot use a listener").caused_by(error);
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        acceptors.spawn(accept_all(listener, server.clone(), stopped.clone()));
    }
    let control = open_control(&registry)?;
    acceptors.spawn(accept_control(control, server.clone(), stopped.clone()));
    let background = tokio::spawn(background(Arc::clone(&server.service)));
    let telling =
        tokio::spawn(crate::events::Delivery::run_all(Arc::clone(&registry), deliveries, stopped.clone()));
    let replicating = tokio::spawn(crate::replicate::run(Arc::clone(&registry)));
    let scrubbing = tokio::spawn(scrub_regularly(Arc::clone(&server.service)));
    let service = Arc::clone(&server.service);
    let reopening = tokio::spawn(async move { service.reopen_logs().await });
    drop((stopped, server));
    shutdown.await;
    stop.send_replace(true);
    let finished = async { while acceptors.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, finished).await.is_err() {
        tracing::info!("ended while requests were still being answered");
        acceptors.shutdown().await;
    }
    background.abort();
    replicating.abort();
    scrubbing.abort();
    reopening.abort();
    // Ended, not only told to: whoever opens the root next finds it free.
    let _ = (background.await, replicating.await, scrubbing.await, telling.await, reopening.await);
    let _ = rustix::fs::unlink(control::path(registry.root()));
    registry.close().await;
    Ok(())
}

#[derive(Clone)]
struct Server {
    service: Arc<Service>,
    tls: Option<Arc<Watched<ServerConfig>>>,
    places: Arc<Semaphore>,
    shares: Arc<Shares>,
    /// Whether certificates say who clients are.
    client_names: bool,
    silence: Duration,
}

/// Binds the control socket; one of a process that was killed is replaced, which the lock makes safe.
fn open_control(registry: &Registry) -> Result<UnixListener> {
    let path = control::path(registry.root());
    let _ = rustix::fs::unlink(&path);
    let failed = |error: std::io::Error| {
        Error::unavailable(format!("cannot listen on {}", path.display())).caused_by(error)
    };
    let (_folder, short) = control::short_path(registry.root()).map_err(failed)?;
    let socket = UnixListener::bind(short).map_err(failed)?;
    // The root may be a folder that was there before, with a mode of its own.
    rustix::fs::chmod(&path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .map_err(|error| failed(error.into()))?;
    Ok(socket)
}

/// Accepts until it is told to stop, then waits for its connections.
async fn accept_all(listener: TcpListener, server: Server, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        // A place first: what cannot be served waits in the kernel's queue.
        let place = tokio::select! {
            () = told(&mut stopped) => break,
            place = Arc::clone(&server.places).acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        tokio::select! {
            () = told(&mut stopped) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let Some(share) = server.shares.take(limit::client_of(address.ip())) else {
                        tracing::debug!(%address, "a client has as many connections as it may have");
                        continue;
                    };
                    let (server, stopped) = (server.clone(), stopped.clone());
                    connections.spawn(async move {
                        admit(stream, address, server, stopped).await;
                        drop((place, share));
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept_control(listener: UnixListener, server: Server, mut stopped: watch::Receiver<bool>) {
    let peer = Peer {
        address: "control".to_owned(),
        client: "control".to_owned(),
        user: None,
        tls: false,
        control: true,
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = told(&mut stopped) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let stream = Stream::Control(stream);
                    connections.spawn(speak(stream, peer.clone(), server.clone(), stopped.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Brings a connection to the point where HTTP is spoken.
async fn admit(stream: TcpStream, address: SocketAddr, server: Server, stopped: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot switch Nagle's algorithm off");
    }
    let mut peer = Peer {
        user: None,
        address: address.ip().to_canonical().to_string(),
        client: limit::client_of(address.ip()),
        tls: server.tls.is_some(),
        control: false,
    };
    let stream = match &server.tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let handshake = tokio_rustls::TlsAcceptor::from(tls.get()).accept(stream);
            match tokio::time::timeout(server.silence, handshake).await {
                Ok(Ok(stream)) => {
                    peer.user = user_of(&stream).filter(|_| server.client_names);
                    Stream::Tls(Box::new(stream))
                }
                Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => return tracing::debug!("a TLS handshake took too long"),
            }
        }
    };
    match tokio::time::timeout(server.silence, http2::is_spoken(&stream)).await {
        Ok(Ok(true)) => speak_http2(stream, peer, server, stopped).await,
        Ok(Ok(false)) => speak(stream, peer, server, stopped).await,
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended before its first request"),
        Err(_) => tracing::debug!("a client connected and said nothing"),
    }
}

/// Whom the certificate names that the client showed.
fn user_of(stream: &TlsStream<TcpStream>) -> Option<String> {
    client_name::common_name(stream.get_ref().1.peer_certificates()?.first()?)
}

/// As [`speak`], for many requests at a time. A connection that does nothing is ended.
async fn speak_http2(stream: Stream, peer: Peer, server: Server, mut stopped: watch::Receiver<bool>) {
    let (stream, activity) = http2::Activity::watch(Connection::new(stream, server.silence));
    let service = service_fn(|request| {
        let answering = Arc::clone(&server.service).answer(peer.clone(), request);
        activity.clone().of(answering)
    });
    let connection = http2::builder(MAX_HEAD).serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = told(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = activity.ends(server.silence) => {
            connection.as_mut().graceful_shutdown();
            // Replies that the client does not take are none that it is waited for.
            match tokio::time::timeout(PAUSE, connection).await {
                Ok(done) => done,
                Err(_) => return tracing::debug!("a client has been silent for too long"),
            }
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Serves one connection until it ends, or until it is told to stop and the running request is answered.
async fn speak(stream: Stream, peer: Peer, server: Server, mut stopped: watch::Receiver<bool>) {
    let service = service_fn(|request| Arc::clone(&server.service).answer(peer.clone(), request));
    let connection = http1::Builder::new()
        .max_header_size(MAX_HEAD as usize)
        .max_buf_size(4 * MAX_HEAD as usize)
        .timer(TokioTimer::new())
        .header_read_timeout(server.silence)
        .serve_connection(TokioIo::new(Connection::new(stream, server.silence)), service);
    let mut connection = pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = told(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Waits until the end is asked for.
async fn told(stopped: &mut watch::Receiver<bool>) {
    // The sender being gone means the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Scrubs as often as the configuration says: beside everything else, since it may take hours.
async fn scrub_regularly(service: Arc<Service>) {
    /// Before another try, when one failed or somebody else scrubs.
    const LATER: Duration = Duration::from_secs(3600);
    let every = service.registry.config.scrub.every;
    while !every.is_zero() {
        tokio::time::sleep(crate::scrub::due(&service.registry, every)).await;
        match crate::scrub::scrub(&service.registry, false).await {
            Ok(scrubbed) => {
                service.metrics.scrubbed(&scrubbed);
                tracing::info!(blobs = scrubbed.blobs, damaged = scrubbed.damaged.len(), "scrubbed");
            }
            Err(error) => {
                tracing::warn!(error = yare_errdefs::chain(&error), "cannot scrub");
                tokio::time::sleep(LATER).await;
            }
        }
    }
}

/// What happens without being asked for: noting pulls, sweeping uploads, collecting.
async fn background(service: Arc<Service>) {
    let registry = &service.registry;
    let settings = registry.config.collect.clone();
    let never = Duration::from_secs(u32::MAX.into());
    let every = if settings.every.is_zero() { never } else { settings.every };
    let start = tokio::time::Instant::now();
    let mut flush = tokio::time::interval_at(start + FLUSH, FLUSH);
    let mut sweep = tokio::time::interval(SWEEP);
    let mut collect = tokio::time::interval_at(start + every, every);
    let mut follow = tokio::time::interval_at(start + FOLLOW, FOLLOW);
    let mut checkpoint = tokio::time::interval_at(start + SWEEP, SWEEP);
    loop {
        tokio::select! {
            _ = follow.tick(), if registry.records.is_shared() => {
                if let Err(error) = registry.records.catch_up().await {
                    tracing::warn!(error = yare_errdefs::chain(&error), "the records are not kept up with");
                }
            }
            _ = checkpoint.tick(), if registry.records.is_shared() => {
                if let Err(error) = registry.checkpoint(COMMITS).await {
                    tracing::warn!(error = yare_errdefs::chain(&error), "no checkpoint of the records");
                }
            }
            _ = flush.tick() => {
                registry.usage.forget(registry.now().saturating_sub(settings.grace.as_secs()));
                if let Err(error) = registry.usage.flush(&registry.records).await {
                    tracing::warn!(error = yare_errdefs::chain(&error), "pulls are not noted");
                }
            }
            _ = sweep.tick() => {
                if let Err(error) = registry.uploads.sweep(settings.uploads, false).await {
                    tracing::warn!(error = yare_errdefs::chain(&error), "cannot sweep uploads");
                }
            }
            _ = collect.tick() => match crate::collect::collect(registry, false).await {
                Ok(collected) => {
                    service.metrics.collected(&collected);
                    tracing::info!(blobs = collected.blobs, bytes = collected.bytes, "collected");
                }
                Err(error) => tracing::error!(error = yare_errdefs::chain(&error), "cannot collect"),
            }
        }
    }
}
