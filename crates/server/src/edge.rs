//! The HTTP edge: what happens to every request before and after its handler.
//!
//! The edge knows nothing of the engine: it is given one function that answers a [`Call`]. Everything that is
//! the same for all routes is here, in this order: who may ask, which route, whether the socket's policy has it,
//! which version, what is not built, the handler, the common headers, the record of it.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::future::BoxFuture;
use http::header::HeaderValue;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use tracing::Instrument;
use yare_api::texts;
use yare_errdefs::{Error, Result};

use crate::access;
use crate::body::Upload;
use crate::hijack::Takeover;
use crate::metrics::Metrics;
use crate::policy::{Hide, Policy};
use crate::query::{Query, broken_escape, quoted};
use crate::reply::{self, Reply};
use crate::route::{self, Operation, Verb};
use crate::socket::Socket;
use crate::version::{self, Refusal, Version};

/// One request, with its path, version and query already taken apart.
#[derive(Debug)]
pub(crate) struct Call {
    /// What is asked for.
    pub(crate) operation: Operation,
    /// What the path has for each `{…}` of the route.
    pub(crate) names: Vec<String>,
    /// The version the client speaks.
    pub(crate) version: Version,
    /// The query string.
    pub(crate) query: Query,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body, which may still be arriving.
    pub(crate) body: Upload,
    /// Whether the method is `HEAD`.
    pub(crate) head_only: bool,
    /// The connection, and the right to take it over.
    pub(crate) takeover: Takeover,
    /// The counters, for the page that shows them.
    pub(crate) metrics: Arc<Metrics>,
}

impl Call {
    /// What the path has for the first `{…}`; empty when the pattern has none.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The connection.
    pub(crate) fn socket(&self) -> Socket {
        self.takeover.socket.clone()
    }

    /// The policy of the socket it came by.
    pub(crate) fn policy(&self) -> Option<&Policy> {
        self.takeover.socket.policy()
    }

    /// What the client may see of an answer.
    pub(crate) fn shown<T: Hide>(&self, mut answer: T) -> T {
        if let Some(policy) = self.policy() {
            answer.hide(policy);
        }
        answer
    }
}

/// What answers calls.
pub(crate) type Handler = Box<dyn Fn(Call) -> BoxFuture<'static, Result<Reply>> + Send + Sync>;

/// The edge and its counters.
pub(crate) struct Edge {
    handler: Handler,
    allowed_hosts: Vec<String>,
    requests: AtomicU64,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl Edge {
    /// An edge before `handler`; TCP clients may name the hosts of `allowed_hosts`.
    pub(crate) fn new(handler: Handler, allowed_hosts: Vec<String>) -> Self {
        Self { handler, allowed_hosts, requests: AtomicU64::new(0), metrics: Arc::default() }
    }

    /// Answers one request; every failure is an answer.
    pub(crate) async fn answer(
        self: Arc<Self>,
        socket: Socket,
        request: Request<Incoming>,
    ) -> Result<Reply, Infallible> {
        let id = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let span = tracing::debug_span!(
            "request",
            id,
            method = %request.method(),
            path = request.uri().path(),
        );
        Ok(self.watched(socket, request.map(Upload::new)).instrument(span).await)
    }

    /// Answers, stamps the common headers and records what happened.
    async fn watched(&self, socket: Socket, request: Request<Upload>) -> Reply {
        let begun = Instant::now();
        let (index, answer) = self.routed(socket, request).await;
        let mut reply = answer.unwrap_or_else(|error| {
            tracing::debug!(%error, "refused");
            reply::failure(&error)
        });
        reply::stamp(reply.headers_mut());
        let (status, took) = (reply.status().as_u16(), begun.elapsed());
        self.metrics.record(index, status, took);
        tracing::debug!(status, milliseconds = took.as_secs_f64() * 1e3, "answered");
        reply
    }

    /// Finds the route and answers; the first part says which row of the table it was.
    async fn routed(&self, socket: Socket, mut request: Request<Upload>) -> (Option<usize>, Result<Reply>) {
        if socket.is_tcp()
            && !socket.policy().is_some_and(Policy::is_for_metrics)
            && let Err(error) = access::check(request.headers(), socket.is_tls(), &self.allowed_hosts)
        {
            tracing::warn!(peer = ?socket.peer(), %error, "refused a client");
            return (None, Err(error));
        }
        if request.method() == Method::OPTIONS {
            return (None, Ok(reply::empty(StatusCode::OK)));
        }
        let path = match decode_path(request.uri().path()) {
            Ok(path) => path,
            Err(error) => return (None, Err(error)),
        };
        let (prefix, rest) = route::split_version(&path);
        let Some(found) = route::find(request.method(), rest) else {
            return (None, Ok(reply::page_not_found()));
        };
        if let Some(policy) = socket.policy()
            && let Err(error) = admitted(policy, &socket, found.route(), &path)
        {
            return (Some(found.index), Err(error));
        }
        let version = match version::negotiate(prefix) {
            Ok(version) => version,
            Err(refusal) => return (Some(found.index), Ok(refused(refusal))),
        };
        let upgrade =
            request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let takeover = Takeover { upgrade, socket, version };
        (Some(found.index), self.handled(found, takeover, request).await)
    }

    /// Answers a request whose route and version are known.
    async fn handled(
        &self,
        found: route::Match,
        takeover: Takeover,
        request: Request<Upload>,
    ) -> Result<Reply> {
        let (route, version) = (found.route(), takeover.version);
        let (head, body) = request.into_parts();
        if version.before(route.since) {
            let (verb, pattern, since) = (route.verb, route.pattern, route.since);
            return Err(Error::invalid(format!("{verb} {pattern} requires minimum API version 1.{since}")));
        }
        match route.operation {
            Operation::NotBuilt(feature) => return Err(not_built(feature, route)),
            Operation::Swarm => return Err(Error::unavailable(NO_SWARM)),
            _ => {}
        }
        let query = Query::parse(head.uri.query())?;
        let head_only = head.method == Method::HEAD;
        let call = Call {
            operation: route.operation,
            names: found.names,
            version,
            query,
            headers: head.headers,
            body,
            head_only,
            takeover,
            metrics: Arc::clone(&self.metrics),
        };
        (self.handler)(call).await
    }
}

/// Holds a request against the policy of its socket. Who was denied, and who changed something, is in the log.
fn admitted(policy: &Policy, socket: &Socket, route: &route::Route, path: &str) -> Result<()> {
    let (uid, pid) = socket.client().unzip();
    let peer = socket.peer();
    let checked = policy.check(route);
    match &checked {
        Err(error) => tracing::warn!(uid, pid, ?peer, ?path, %error, "denied"),
        Ok(()) if route.verb == Verb::Post => {
            tracing::info!(uid, pid, ?peer, ?path, socket = policy.socket(), "allowed");
        }
        Ok(()) => {}
    }
    checked
}

const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";

fn not_built(feature: &str, route: &route::Route) -> Error {
    let (verb, pattern) = (route.verb, route.pattern);
    Error::unimplemented(format!("{feature} is not built into this Yare yet: {verb} {pattern}"))
}

/// The path with its escapes decoded; only UTF-8 names exist here.
fn decode_path(path: &str) -> Result<String> {
    if let Some(escape) = broken_escape(path) {
        return Err(Error::invalid(format!("invalid URL escape {}", quoted(escape))));
    }
    let path = percent_decode_str(path).decode_utf8();
    path.map(Into::into).map_err(|_| Error::invalid("the path of the request is not UTF-8"))
}

/// The answer to a version that is not served.
fn refused(refusal: Refusal) -> Reply {
    match refusal {
        Refusal::TooNew(version) => reply::failure(&Error::invalid(texts::client_too_new(version))),
        Refusal::TooOld(version) => {
            let text = format!("{}\n", texts::client_too_old(version));
            let mut reply = reply::text(StatusCode::BAD_REQUEST, text);
            let nosniff = HeaderValue::from_static("nosniff");
            reply.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, nosniff);
            reply
        }
    }
}
