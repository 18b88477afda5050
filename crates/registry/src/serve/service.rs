//! What happens to every request: which target, who asks, whether he may, the handler, the record of it.

use super::auth::{Asked, Auth};
use super::body::Body;
use super::intake::Intake;
use super::query::Query;
use super::reply::{self, Reply};
use super::{blobs, control, lists, manifests, tokens, uploads};
use crate::access::{Action, Caller};
use crate::audit::{Audit, Line};
use crate::limit::Limiter;
use crate::metrics::Metrics;
use crate::name::RepositoryName;
use crate::problem::{Code, Error, Refusal, Result};
use crate::registry::Registry;
use crate::route::{self, Target};
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its address, without the port.
    pub(crate) address: String,
    /// Whom limits count it for: see [`limit::client_of`](crate::limit::client_of).
    pub(crate) client: String,
    /// The user whom its certificate names, where that counts.
    pub(crate) user: Option<String>,
    /// Whether TLS is spoken.
    pub(crate) tls: bool,
    /// Whether it is the control socket, which only the owner of the root can reach.
    pub(crate) control: bool,
}

/// A request that may be answered.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) parts: http::request::Parts,
    pub(crate) query: Query,
    pub(crate) caller: Caller,
    pub(crate) peer: Peer,
    service: Arc<Service>,
}

impl Call {
    /// What the client calls this registry: scheme and host; nothing when it does not say.
    pub(crate) fn base(&self) -> String {
        super::auth::base(&self.parts.headers, &self.peer).unwrap_or_default()
    }

    /// Whether the caller may do this with another repository than that of the request.
    pub(crate) fn allows(&self, repository: &str, action: Action) -> bool {
        self.service.auth.policy.allows(&self.caller, repository, action)
    }

    /// Whether a token that allows listing shows its bearer this repository.
    pub(crate) fn may_list(&self, repository: &str) -> bool {
        let Caller::Bearer { catalog: true, .. } = &self.caller else { return false };
        let auth = &self.service.auth;
        let owner = auth.owner(&self.caller);
        owner.is_none_or(|owner| auth.policy.allows(&owner, repository, Action::Pull))
    }
}

/// Everything that requests need.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) registry: Arc<Registry>,
    pub(crate) auth: Auth,
    pub(crate) metrics: Metrics,
    limiter: Limiter,
    audit: Option<Audit>,
}

impl Service {
    /// Makes what the configuration asks for.
    pub(crate) fn new(registry: Arc<Registry>) -> yare_errdefs::Result<Self> {
        let config = &registry.config;
        Ok(Self {
            auth: Auth::open(config, registry.root())?,
            metrics: Metrics::default(),
            limiter: Limiter::new(f64::from(config.limits.requests_per_second)),
            audit: config.audit.as_ref().map(Audit::open).transpose()?,
            registry,
        })
    }

    /// Answers one request; every failure is an answer.
    pub(crate) async fn answer(
        self: Arc<Self>,
        peer: Peer,
        request: Request<Incoming>,
    ) -> std::result::Result<Reply, Infallible> {
        let begun = Instant::now();
        let _counted = self.metrics.begin();
        let (mut parts, body) = request.into_parts();
        // HTTP/2 names the host beside the path (RFC 9113, 8.3.1).
        if let Some(authority) = parts.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            parts.headers.entry(header::HOST).or_insert(host);
        }
        // Streams of HTTP/2 end without harm to their answers, and who awaits a word before the body sends none.
        let may_send_on = parts.version < Version::HTTP_2 && !parts.headers.contains_key(header::EXPECT);
        let mut intake = Intake::new(body, self.registry.config.limits.silence);
        let mut line = Line::new(&peer, &parts);
        let method = parts.method.clone();
        let outcome = Arc::clone(&self).routed(peer, parts, &mut intake, &mut line).await;
        let mut reply = outcome.unwrap_or_else(|error| {
            if let Error::Failed(error) = &error {
                let error = yare_errdefs::chain(error);
                tracing::error!(error, path = line.path, "a request failed");
            }
            reply::refused(&error.refusal())
        });
        if method == Method::HEAD && reply.status().as_u16() >= 400 {
            // The length is that of the text, which a HEAD does not get.
            *reply.body_mut() = Body::empty();
        }
        if may_send_on && !intake.is_over() && reply.status() != StatusCode::REQUEST_TIMEOUT {
            tokio::spawn(intake.discard());
        }
        reply::stamp(reply.headers_mut());
        let size = hyper::body::Body::size_hint(reply.body()).exact().unwrap_or(0);
        self.metrics.count(line.kind, method.as_str(), reply.status(), begun.elapsed(), size);
        if let Some(audit) = &self.audit {
            line.status = reply.status().as_u16();
            line.micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            audit.write(&line);
        }
        Ok(reply)
    }

    async fn routed(
        self: Arc<Self>,
        peer: Peer,
        parts: http::request::Parts,
        intake: &mut Intake,
        line: &mut Line,
    ) -> Result<Reply> {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        if peer.control {
            return control::answer(&self, &parts, &query).await;
        }
        let target = route::of_request(&parts.method, parts.uri.path())?;
        line.kind = target.kind();
        line.repository = target.repository().map(ToString::to_string);
        let source = uploads::mount_source(&parts.method, &target, &query);
        let (method, headers) = (&parts.method, &parts.headers);
        let asked = Asked { method, target: &target, source: source.as_ref(), headers, peer: &peer };
        let identified = self.auth.identify(&asked).await;
        // Who could not prove who it is counts as its address: a refusal is an answer, too.
        self.limit(identified.as_ref().ok(), &peer)?;
        let caller = identified?;
        caller.name().clone_into(&mut line.user);
        self.auth.authorise(&caller, &asked)?;
        let call = Call { parts, query, caller, peer, service: Arc::clone(&self) };
        self.handle(&call, intake, &target).await
    }

    /// Refuses a request of somebody who has sent too many.
    fn limit(&self, caller: Option<&Caller>, peer: &Peer) -> Result<()> {
        let user = caller.map(Caller::name).filter(|name| !name.is_empty());
        // Marked, so that a user who is called like an address does not share its bucket.
        let client = user.map_or_else(|| peer.client.clone(), |name| format!("user {name}"));
        self.limiter.take(&client, Instant::now()).map_err(|wait| {
            Refusal::new(Code::TooManyRequests, "too many requests")
                .with_header(header::RETRY_AFTER, &wait.as_secs().max(1).to_string())
                .into()
        })
    }

    async fn handle(&self, call: &Call, intake: &mut Intake, target: &Target) -> Result<Reply> {
        let registry = &*self.registry;
        if needs_newest(&call.parts.method, target) {
            registry.records.catch_up().await?;
        }
        if matches!(call.parts.method, Method::PUT | Method::POST | Method::PATCH)
            && let Some(name) = target.repository()
            && let Some(upstream) = registry.caches.of(name.as_str())
        {
            return Err(upstream.read_only(name.as_str()).into());
        }
        match (&call.parts.method, target) {
            (&Method::GET | &Method::HEAD, Target::Base) => {
                reply::json(&serde_json::json!({}), "application/json")
            }
            (&Method::GET, Target::Catalog) => lists::catalog(registry, call),
            (&Method::GET, Target::Tags(name)) => lists::tags(registry, call, name),
            (&Method::GET, Target::Referrers(name, digest)) => lists::referrers(registry, call, name, digest),
            (&Method::GET | &Method::HEAD, Target::Manifest(name, reference)) => {
                manifests::get(self, call, name, reference).await
            }
            (&Method::PUT, Target::Manifest(name, reference)) => {
                manifests::put(self, call, intake, name, reference).await
            }
            (&Method::DELETE, Target::Manifest(name, reference)) => {
                manifests::delete(self, call, name, reference).await
            }
            (&Method::GET | &Method::HEAD, Target::Blob(name, digest)) => {
                blobs::get(&self.registry, call, name, digest).await
            }
            (&Method::DELETE, Target::Blob(name, digest)) => {
                blobs::delete(registry, call, name, digest).await
            }
            (&Method::POST, Target::Uploads(name)) => uploads::start(registry, call, intake, name).await,
            (method, Target::Upload(name, id)) => self.upload(call, intake, method, (name, id)).await,
            (&Method::GET | &Method::POST, Target::Token) => tokens::issue(self, call, intake).await,
            (&Method::GET, Target::TokenKeys) => {
                let keys = self.auth.tokens.as_ref().map(crate::token::Tokens::key_set);
                reply::json(&keys.unwrap_or_default(), "application/jwk-set+json")
            }
            (&Method::GET | &Method::HEAD, Target::Health) => self.health(),
            (&Method::GET, Target::Metrics) => self.metrics_page(call),
            _ => Err(Refusal::new(Code::Unsupported, "the endpoint does not know this method").into()),
        }
    }

    async fn upload(
        &self,
        call: &Call,
        intake: &mut Intake,
        method: &Method,
        (name, id): (&RepositoryName, &str),
    ) -> Result<Reply> {
        let registry = &*self.registry;
        match *method {
            Method::GET => uploads::progress(registry, name, id).await,
            Method::PATCH => uploads::append(registry, call, intake, name, id).await,
            Method::PUT => uploads::finish(registry, call, intake, name, id).await,
            Method::DELETE => uploads::cancel(registry, name, id).await,
            _ => Err(Refusal::new(Code::Unsupported, "the endpoint does not know this method").into()),
        }
    }

    /// Whether records can be read and written.
    fn health(&self) -> Result<Reply> {
        self.registry.records.view()?;
        if !self.registry.records.is_writing() {
            return Err(Refusal::new(Code::Unavailable, "the writer of the records has ended").into());
        }
        let mut reply = http::Response::new(Body::bytes("ok\n"));
        reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(reply)
    }

    /// Opens the audit log anew whenever that is asked for.
    pub(crate) async fn reopen_logs(&self) {
        while let Some(audit) = &self.audit {
            self.registry.reopening.notified().await;
            audit.reopen();
        }
    }

    fn metrics_page(&self, call: &Call) -> Result<Reply> {
        if self.auth.policy.asks && !self.registry.config.public_metrics && !call.peer.control {
            let message = "metrics are not public here; set public_metrics, or ask the control socket";
            return Err(Refusal::new(Code::Denied, message).into());
        }
        Ok(self.metrics_text())
    }

    /// The counters in Prometheus' text format.
    pub(crate) fn metrics_text(&self) -> Reply {
        let lost_lines = self.audit.as_ref().map_or(0, Audit::lost);
        let uploads = self.registry.uploads.count() as u64;
        let mut text = self.metrics.text(uploads, self.registry.hooks.lost(), lost_lines);
        text.push_str(&self.registry.hooks.metrics(&self.registry.records));
        text.push_str(&self.registry.caches.metrics());
        text.push_str(&crate::replicate::metrics(&self.registry));
        text.push_str(&crate::holdings::metrics(&self.registry));
        let mut reply = http::Response::new(Body::bytes(text));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4");
        reply.headers_mut().insert(header::CONTENT_TYPE, kind);
        reply
    }
}

/// Whether an answer has to know what other processes did up to now. Content by digest is what it is, and
/// writes find out by themselves.
fn needs_newest(method: &Method, target: &Target) -> bool {
    match target {
        Target::Blob(..) => *method == Method::HEAD,
        Target::Manifest(..) | Target::Tags(_) | Target::Catalog | Target::Referrers(..) => {
            matches!(*method, Method::GET | Method::HEAD)
        }
        Target::Uploads(_) => *method == Method::POST,
        _ => false,
    }
}

/// Refuses deletes where they are switched off.
pub(crate) fn deleting(registry: &Registry) -> Result<()> {
    if registry.config.storage.delete {
        return Ok(());
    }
    Err(Refusal::new(Code::Unsupported, "deleting is switched off in this registry")
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
        .into())
}
