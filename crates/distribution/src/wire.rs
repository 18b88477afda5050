//! One HTTP exchange: connection pools, time limits, bounded bodies.

use crate::address::printable;
use crate::dial::{DialError, Dialer, Peer, Rules};
use crate::error::{Asked, Broken};
use crate::reach::Reach;
use crate::settings::{Patience, Settings, Trust};
use crate::{Error, Result, tls};
use bytes::{Bytes, BytesMut};
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// A request body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Connections that wait for the next request, per host.
const IDLE_CONNECTIONS: usize = 8;
const IDLE_TIME: Duration = Duration::from_secs(60);

type Pool = legacy::Client<Dialer, Metered>;
/// When the certificate files were written: a change makes a new pool.
type Stamps = Vec<Option<SystemTime>>;

/// How far an exchange may go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How far inside the network the server may be.
    pub(crate) reach: Reach,
    /// Time without progress.
    pub(crate) idle: Duration,
    /// Time to open a connection.
    pub(crate) connect: Duration,
}

/// What tells pools apart: whom to trust, how far inside the network to go, how long to wait for a connection.
type Rule = (Trust, Reach, Duration);

/// The pools of all hosts, one per set of rules.
pub(crate) struct Wire {
    pub(crate) settings: Settings,
    roots: OnceLock<rustls::RootCertStore>,
    pools: Mutex<HashMap<Rule, (Stamps, Pool)>>,
}

impl Wire {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, roots: OnceLock::new(), pools: Mutex::default() }
    }

    fn pool(&self, trust: &Trust, limits: Limits) -> Result<Pool> {
        let stamps = stamps(trust);
        let mut pools = self.pools.lock();
        let key = (trust.clone(), limits.reach, limits.connect);
        if let Some((_, pool)) = pools.get(&key).filter(|(written, _)| *written == stamps) {
            return Ok(pool.clone());
        }
        let roots = self.roots.get_or_init(|| tls::system_roots(&self.settings.roots));
        let config = tls::configure(trust, roots)?;
        // What is trusted of a registry says nothing about a proxy on the way to it.
        let has_tls_proxy = self.settings.proxies.any_has_tls();
        let proxy_tls = has_tls_proxy.then(|| tls::configure(&Trust::default(), roots)).transpose()?;
        let proxy_tls = proxy_tls.map(Into::into);
        let dialer = Dialer::new(Rules {
            tls: config.into(),
            proxy_tls,
            proxies: self.settings.proxies.clone(),
            reach: limits.reach,
            patience: limits.connect,
            outside: self.settings.outside.clone(),
        });
        let pool: Pool = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_timer(TokioTimer::new())
            .build(dialer);
        pools.insert(key, (stamps, pool.clone()));
        Ok(pool)
    }

    /// The limits of an exchange with a server of which nothing is said.
    pub(crate) fn limits(&self, reach: Reach) -> Limits {
        let patience = self.settings.patience;
        Limits { reach, idle: patience.idle, connect: patience.connect }
    }

    /// Sends a request as it is and waits for the head of the answer, whatever its status.
    pub(crate) async fn send(
        &self,
        asked: &Asked,
        request: http::Request<Body>,
        trust: &Trust,
        limits: Limits,
    ) -> Result<Response> {
        let (pool, idle) = (self.pool(trust, limits)?, limits.idle);
        let url = request.uri().clone();
        let patience = self.settings.patience;
        let meter = Arc::new(Meter::default());
        let mut request = request.map(|body| Metered { body, meter: Arc::clone(&meter) });
        if let Some(login) = self.settings.proxies.header(&url) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, login);
        }
        let answer = while_moving(pool.request(request), &meter, idle).await;
        let answer = answer.ok_or_else(|| {
            let waited = format!("no answer and no progress for {} s", idle.as_secs());
            Error::timeout(asked, printable(&url), waited)
        })?;
        if let Some(source) = meter.failure.lock().take() {
            return Err(Error::Source { asked: asked.clone(), source });
        }
        let (head, body) = answer.map_err(|error| transport(asked, &url, error))?.into_parts();
        let peer = head.extensions.get::<Peer>().and_then(|peer| peer.0);
        Ok(Response { head, body, url, reach: peer.map(Reach::of), patience })
    }
}

fn stamps(trust: &Trust) -> Stamps {
    let identity = trust.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
    let files = trust.authorities.iter().chain(identity);
    files.map(|file| file.metadata().and_then(|metadata| metadata.modified()).ok()).collect()
}

/// An empty request body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Waits as long as the request body makes progress; `None` when nothing moved for `idle`.
async fn while_moving<T>(work: impl Future<Output = T>, meter: &Meter, idle: Duration) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let before = meter.frames.load(Ordering::Relaxed);
        if let Ok(done) = timeout(idle, work.as_mut()).await {
            return Some(done);
        }
        if meter.frames.load(Ordering::Relaxed) == before {
            return None;
        }
    }
}

#[derive(Default)]
struct Meter {
    /// Pieces of the body that were taken.
    frames: AtomicU64,
    /// Why the body ended early: not the registry's fault.
    failure: Mutex<Option<io::Error>>,
}

/// A request body whose progress can be seen.
pub(crate) struct Metered {
    body: Body,
    meter: Arc<Meter>,
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, io::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.meter.frames.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(match frame {
            Some(Err(error)) => {
                let kind = error.kind();
                *self.meter.failure.lock() = Some(error);
                Some(Err(kind.into()))
            }
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// What a failed exchange was.
fn transport(asked: &Asked, url: &Uri, error: legacy::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut broken = if error.is_connect() { Broken::Connect } else { Broken::Cut };
    while let Some(inner) = cause {
        match inner.downcast_ref::<DialError>() {
            Some(refused @ DialError::TooFarInside { .. }) => {
                let hint = "if that is meant to be, give the host a folder in certs.d, or list it in \
                            insecure-registries";
                let what = format!("it leads to {}: {refused}", printable(url));
                return Error::Refused { asked: asked.clone(), what, hint: Some(hint.to_owned()) };
            }
            Some(DialError::Slow(_)) => broken = Broken::Timeout,
            Some(DialError::Tls { source, .. }) => {
                broken = if is_certificate(source) { Broken::Certificate } else { Broken::Connect };
            }
            _ => {}
        }
        cause = inner.source();
    }
    // The pool's own words ("client error (Connect)") say nothing that the cause does not.
    let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), yare_errdefs::chain);
    Error::Transport { asked: asked.clone(), url: printable(url), broken, source: text.into() }
}

fn is_certificate(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    header(headers, "content-length")?.trim().parse().ok()
}

/// A header as text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An answer that was read to its end.
pub(crate) struct Whole {
    pub(crate) headers: HeaderMap,
    /// The address that answered.
    pub(crate) url: Uri,
    pub(crate) body: Bytes,
}

/// The head of an answer, and its body still to be read.
pub(crate) struct Response {
    head: http::response::Parts,
    body: Incoming,
    /// The address that answered.
    pub(crate) url: Uri,
    /// Where that is, when known.
    pub(crate) reach: Option<Reach>,
    patience: Patience,
}

impl Response {
    pub(crate) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head.headers, name)
    }

    /// Bytes of the body, as announced.
    pub(crate) fn length(&self) -> Option<u64> {
        content_length(&self.head.headers)
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self, asked: &Asked) -> Result<Option<Bytes>> {
        loop {
            let frame = timeout(self.patience.idle, self.body.frame()).await.map_err(|_| {
                let waited = format!("nothing came for {} s", self.patience.idle.as_secs());
                Error::timeout(asked, printable(&self.url), waited)
            })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    return Err(Error::Transport {
                        asked: asked.clone(),
                        url: printable(&self.url),
                        broken: Broken::Cut,
                        source: yare_errdefs::chain(&error).into(),
                    });
                }
            }
        }
    }

    /// The whole answer, whose body may have `limit` bytes and take the time of a document.
    pub(crate) async fn whole(mut self, asked: &Asked, limit: usize) -> Result<Whole> {
        let (headers, url) = (std::mem::take(&mut self.head.headers), self.url.clone());
        let length = content_length(&headers);
        Ok(Whole { headers, url, body: self.document(asked, limit, length).await? })
    }

    async fn document(mut self, asked: &Asked, limit: usize, length: Option<u64>) -> Result<Bytes> {
        let too_large = |size: &str| {
            Error::content(asked, format!("the answer has {size} bytes, more than the {limit} of a document"))
        };
        if let Some(length) = length.filter(|length| *length > limit as u64) {
            return Err(too_large(&length.to_string()));
        }
        let (url, patience) = (printable(&self.url), self.patience.document);
        let read = async {
            let mut all = BytesMut::new();
            while let Some(chunk) = self.chunk(asked).await? {
                if all.len() + chunk.len() > limit {
                    return Err(too_large(&format!("{} or more", all.len() + chunk.len())));
                }
                all.extend_from_slice(&chunk);
            }
            Ok(all.freeze())
        };
        let late =
            || Error::timeout(asked, url, format!("the answer took longer than {} s", patience.as_secs()));
        timeout(patience, read).await.unwrap_or_else(|_| Err(late()))
    }

    /// Reads away what little is left, so that the connection can be used again.
    pub(crate) async fn drain(mut self, asked: &Asked) {
        let mut left = 64 * 1024;
        while let Ok(Some(chunk)) = self.chunk(asked).await {
            if chunk.len() >= left {
                break;
            }
            left -= chunk.len();
        }
    }
}
