//! Talk with one endpoint about one repository: scheme, auth, redirects, retries.

use crate::address::{join, printable, same_origin};
use crate::challenge::{self, Bearer, Challenge};
use crate::credentials::{Credentials, Secret, Shown};
use crate::error::{Asked, Broken, Told};
use crate::reach::Reach;
use crate::refusal::{legible, status_error};
use crate::settings::{Endpoint, Scheme, Trust};
use crate::token::{self, Challenger, Token, sensitive};
use crate::wire::{Body, Limits, Response, Whole, Wire, empty};
use crate::{Error, Result};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::{Method, StatusCode, Uri};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often a registry may lead on to another address.
const REDIRECTS: usize = 5;
/// The most, and the longest, scopes that a registry may ask for.
const SCOPES: usize = 16;
const SCOPE_LENGTH: usize = 1024;

/// One request to an endpoint.
pub(crate) struct Call<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Makes the body, once per try.
    pub(crate) body: Option<&'a (dyn Fn() -> Body + Send + Sync)>,
    /// The statuses that are an answer; all others are errors.
    pub(crate) good: &'a [u16],
    /// Whether the request may simply be sent again.
    pub(crate) retries: bool,
    /// Whether the registry puts a blob together before it answers.
    pub(crate) commits: bool,
}

/// What a request is about.
#[derive(Clone)]
pub(crate) enum Target {
    /// Below the repository, or the endpoint's base where there is none.
    Path(String),
    /// An address that the registry gave.
    Address(Uri),
}

impl<'a> Call<'a> {
    pub(crate) fn new(asked: &'a Asked, method: Method, path: impl Into<String>, good: &'a [u16]) -> Self {
        Self {
            asked,
            method,
            target: Target::Path(path.into()),
            headers: Vec::new(),
            body: None,
            good,
            retries: true,
            commits: false,
        }
    }

    pub(crate) fn at(asked: &'a Asked, method: Method, address: Uri, good: &'a [u16]) -> Self {
        Self { target: Target::Address(address), ..Self::new(asked, method, "", good) }
    }

    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        // What goes into headers here is digests, media types and numbers.
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    #[must_use]
    pub(crate) fn body(mut self, body: &'a (dyn Fn() -> Body + Send + Sync)) -> Self {
        self.body = Some(body);
        self
    }

    #[must_use]
    pub(crate) fn commits(mut self) -> Self {
        self.commits = true;
        self
    }

    #[must_use]
    pub(crate) fn once(mut self) -> Self {
        self.retries = false;
        self
    }
}

/// An endpoint, as it is seen by one caller who works with one repository.
pub(crate) struct Session {
    pub(crate) wire: Arc<Wire>,
    pub(crate) endpoint: Endpoint,
    /// What the endpoint calls the repository; empty for what is about none.
    pub(crate) repository: String,
    /// The namespace that a mirror is asked about.
    namespace: Option<String>,
    credentials: Credentials,
    /// Settled by the first exchange where both schemes are possible.
    is_tls: Mutex<Option<bool>>,
    /// Where the endpoint turned out to be.
    reach: Mutex<Option<Reach>>,
    auth: tokio::sync::Mutex<Auth>,
}

/// What is known of how to prove who one is.
#[derive(Default)]
struct Auth {
    asks: Option<Challenge>,
    scopes: BTreeSet<String>,
    token: Option<Token>,
    keep_identity: bool,
}

impl Session {
    /// For a repository of a registry by its path there; an empty one for what is about none.
    ///
    /// # Errors
    /// When a rule of the endpoint makes no name of it.
    pub(crate) fn new(
        wire: Arc<Wire>,
        endpoint: Endpoint,
        (domain, path): (&str, &str),
        credentials: &Credentials,
    ) -> Result<Self> {
        let repository = if path.is_empty() { String::new() } else { endpoint.rewrites.apply(path)? };
        // A mirror is another host: it gets none of the registry's credentials.
        let credentials = if endpoint.is_origin { credentials.clone() } else { Credentials::Anonymous };
        let namespace = (!endpoint.is_origin).then(|| domain.to_owned());
        let is_tls = match endpoint.scheme {
            Scheme::Https => Some(true),
            Scheme::Http => Some(false),
            Scheme::HttpsOrHttp => None,
        };
        Ok(Self {
            wire,
            endpoint,
            repository,
            namespace,
            credentials,
            is_tls: Mutex::new(is_tls),
            reach: Mutex::default(),
            auth: tokio::sync::Mutex::default(),
        })
    }

    /// Says what the caller is going to do, so that one token serves it all.
    pub(crate) async fn want(&self, scope: String) {
        self.auth.lock().await.scopes.insert(scope);
    }

    /// The same endpoint for work that needs one more right, with a token of its own: to whom the registry
    /// does not give that right, it must not refuse the others for it.
    pub(crate) async fn beside(&self, scope: String) -> Self {
        let auth = self.auth.lock().await;
        let scopes = auth.scopes.iter().cloned().chain([scope]).collect();
        let own = Auth { asks: auth.asks.clone(), scopes, ..Auth::default() };
        Self {
            wire: Arc::clone(&self.wire),
            endpoint: self.endpoint.clone(),
            repository: self.repository.clone(),
            namespace: self.namespace.clone(),
            credentials: self.credentials.clone(),
            is_tls: Mutex::new(*self.is_tls.lock()),
            reach: Mutex::new(*self.reach.lock()),
            auth: tokio::sync::Mutex::new(own),
        }
    }

    /// Asks the token server for an identity token as well.
    pub(crate) async fn keep_identity(&self) {
        self.auth.lock().await.keep_identity = true;
    }

    /// The identity token of the last token, and whether the registry asked for proof at all.
    pub(crate) async fn identity(&self) -> (Option<Secret>, bool) {
        let auth = self.auth.lock().await;
        (auth.token.as_ref().and_then(|token| token.identity.clone()), auth.asks.is_some())
    }

    /// Sends a request, as often as patience allows.
    pub(crate) async fn send(&self, call: &Call<'_>) -> Result<Response> {
        let mut failures = 0;
        loop {
            match self.proven(call).await {
                Ok(response) => return Ok(response),
                Err(error) => self.once_more(call, error, &mut failures).await?,
            }
        }
    }

    /// The same with the whole of the answer, which may have `limit` bytes: one that breaks off is asked for
    /// again like one that does not come.
    pub(crate) async fn document(&self, call: &Call<'_>, limit: usize) -> Result<Whole> {
        let mut failures = 0;
        loop {
            let whole = async { self.proven(call).await?.whole(call.asked, limit).await };
            match whole.await {
                Ok(whole) => return Ok(whole),
                Err(error) => self.once_more(call, error, &mut failures).await?,
            }
        }
    }

    /// Waits after a failure, or says that it is the last.
    async fn once_more(&self, call: &Call<'_>, error: Error, failures: &mut u32) -> Result<()> {
        *failures += 1;
        let Some(pause) = self.pause(&error, *failures).filter(|_| call.retries) else { return Err(error) };
        tracing::debug!(error = %yare_errdefs::chain(&error), ?pause, "a registry request is tried again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// How long to wait after this many failures; `None` to give up.
    pub(crate) fn pause(&self, error: &Error, failures: u32) -> Option<Duration> {
        let attempts = self.attempts(error);
        if !error.is_temporary() || failures >= attempts {
            return None;
        }
        self.backoff(error, failures)
    }

    /// The same after a refusal that is about how far an upload is, and may pass: the registry still has the
    /// connection that broke, or got more than was known.
    pub(crate) fn pause_of_upload(&self, error: &Error, failures: u32) -> Option<Duration> {
        match error.is_about_offset() && failures < self.attempts(error) {
            true => self.backoff(error, failures),
            false => self.pause(error, failures),
        }
    }

    fn attempts(&self, error: &Error) -> u32 {
        let patience = self.wire.settings.patience;
        // Where nobody has answered yet, nobody may be there at all: one more try is enough.
        let unmet =
            matches!(error, Error::Transport { broken: Broken::Connect, .. }) && self.reach.lock().is_none();
        if unmet { patience.attempts.min(2) } else { patience.attempts }
    }

    fn backoff(&self, error: &Error, failures: u32) -> Option<Duration> {
        let patience = self.wire.settings.patience;
        if let Some(wanted) = error.retry_after() {
            // Asking earlier than told would only make it worse.
            return (wanted <= patience.longest_pause).then_some(wanted);
        }
        let doubled = patience.pause.saturating_mul(1 << (failures - 1).min(16));
        Some(doubled.min(patience.longest_pause))
    }

    /// Sends a request, with proof where it is asked for.
    async fn proven(&self, call: &Call<'_>) -> Result<Response> {
        let mut rounds = 0;
        loop {
            let proof = self.proof(call.asked).await?;
            let response = self.followed(call, proof.as_ref()).await?;
            let status = response.status();
            if call.good.contains(&status.as_u16()) {
                return Ok(response);
            }
            let ours = self.is_ours(&response.url);
            if status == StatusCode::UNAUTHORIZED
                && ours
                && rounds < 2
                && self.learn(call.asked, &response, proof.as_ref()).await?
            {
                rounds += 1;
                response.drain(call.asked).await;
                continue;
            }
            let mut error = status_error(response, call.asked, self.shown(proof.as_ref())).await;
            if let Error::Status { told, .. } = &mut error
                && status == StatusCode::UNAUTHORIZED
                && told.is_empty()
            {
                // A reply to HEAD has no body that could say it.
                told.push(Told { code: String::new(), message: self.why_unauthorized().to_owned() });
            }
            return Err(error);
        }
    }

    /// What whoever got this proof has seen of our secrets.
    fn shown<'a>(&'a self, proof: Option<&'a Secret>) -> Shown<'a> {
        Shown { credentials: &self.credentials, proof }
    }

    fn why_unauthorized(&self) -> &'static str {
        match self.credentials {
            Credentials::Anonymous => "no basic auth credentials",
            _ => "the registry does not take these credentials",
        }
    }

    /// The `Authorization` header, as far as is known that one is wanted.
    async fn proof(&self, asked: &Asked) -> Result<Option<Secret>> {
        if let Credentials::Token(token) = &self.credentials {
            return Ok(Some(Secret::new(format!("Bearer {}", token.expose()))));
        }
        // Held over the fetch: the layers of an image wait for one token instead of fetching one each.
        let mut auth = self.auth.lock().await;
        match auth.asks.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self.credentials.basic_header()),
            Some(Challenge::Bearer(bearer)) => {
                if auth.token.as_ref().is_none_or(|token| !token.serves(&auth.scopes)) {
                    let token = self.token(asked, &bearer, &auth.scopes, auth.keep_identity).await?;
                    auth.token = Some(token);
                }
                Ok(auth.token.as_ref().map(|token| Secret::new(format!("Bearer {}", token.secret.expose()))))
            }
        }
    }

    async fn token(
        &self,
        asked: &Asked,
        bearer: &Bearer,
        scopes: &BTreeSet<String>,
        keep: bool,
    ) -> Result<Token> {
        let challenger = Challenger {
            authority: &self.endpoint.authority,
            is_tls: self.is_tls.lock().unwrap_or(true),
            reach: self.reach.lock().unwrap_or(Reach::Public),
            trust: &self.endpoint.trust,
        };
        token::fetch(&self.wire, asked, &challenger, bearer, (&self.credentials, scopes, keep)).await
    }

    /// Takes in a 401; whether another try can do better than the last, which showed `shown`.
    async fn learn(&self, asked: &Asked, response: &Response, shown: Option<&Secret>) -> Result<bool> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter().take(8);
        let challenges: Vec<Challenge> =
            headers.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).take(8).collect();
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer(bearer) => Some(bearer.clone()),
            Challenge::Basic => None,
        });
        let mut auth = self.auth.lock().await;
        let Some(bearer) = bearer else {
            let can = challenges.contains(&Challenge::Basic) && self.credentials.basic_header().is_some();
            auth.asks = can.then_some(Challenge::Basic);
            return Ok(can && shown.is_none());
        };
        if bearer.realm.is_empty() {
            return Err(Error::content(asked, "it asks for a token and does not say whose"));
        }
        if matches!(self.credentials, Credentials::Token(_)) {
            return Ok(false);
        }
        let current = auth.token.as_ref().map(|token| format!("Bearer {}", token.secret.expose()));
        let is_stale = shown.is_some_and(|shown| current.as_deref() == Some(shown.expose()));
        if is_stale {
            auth.token = None;
        }
        for scope in bearer.scope.split(' ').filter(|scope| !scope.is_empty() && scope.len() <= SCOPE_LENGTH)
        {
            if auth.scopes.len() < SCOPES && !covered(&auth.scopes, scope) {
                auth.scopes.insert(scope.to_owned());
            }
        }
        auth.asks = Some(Challenge::Bearer(Bearer { scope: String::new(), error: String::new(), ..bearer }));
        Ok(true)
    }

    /// Sends a request and follows where it leads. Only the endpoint itself gets headers of ours.
    async fn followed(&self, call: &Call<'_>, proof: Option<&Secret>) -> Result<Response> {
        let (mut url, mut response) = self.first(call, proof).await?;
        let follows = matches!(call.method, Method::GET | Method::HEAD);
        for _ in 0..REDIRECTS {
            let status = response.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) || call.good.contains(&status) {
                return Ok(response);
            }
            let location = response.header(LOCATION.as_str()).unwrap_or_default();
            let next = join(&url, location).ok_or_else(|| {
                let location = legible(&self.shown(proof).redact(location));
                Error::refused(call.asked, format!("it leads to \"{location}\", which is no address"))
            })?;
            let repeats = matches!(status, 307 | 308) && same_origin(&url, &next);
            if !follows && !repeats {
                return Ok(response);
            }
            response.drain(call.asked).await;
            (url, response) = (next.clone(), self.at(call, &next, proof).await?);
        }
        Err(Error::refused(call.asked, format!("it leads on more than {REDIRECTS} times")))
    }

    /// The first exchange of a request: finds out which scheme the endpoint speaks.
    async fn first(&self, call: &Call<'_>, proof: Option<&Secret>) -> Result<(Uri, Response)> {
        let path = match &call.target {
            Target::Address(address) => return Ok((address.clone(), self.at(call, address, proof).await?)),
            Target::Path(path) => path,
        };
        let known = *self.is_tls.lock();
        let schemes: &[&str] = match known {
            Some(true) => &["https"],
            Some(false) => &["http"],
            None => &["https", "http"],
        };
        let mut first_error = None;
        for scheme in schemes {
            let url = self.url(call.asked, scheme, path)?;
            match self.at(call, &url, proof).await {
                Ok(response) => {
                    *self.is_tls.lock() = Some(*scheme == "https");
                    *self.reach.lock() = response.reach;
                    return Ok((url, response));
                }
                Err(error @ Error::Transport { broken: Broken::Connect | Broken::Timeout, .. }) => {
                    first_error.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(first_error.unwrap_or_else(|| Error::refused(call.asked, "no scheme is left to try")))
    }

    fn url(&self, asked: &Asked, scheme: &str, path: &str) -> Result<Uri> {
        let (authority, base) = (&self.endpoint.authority, &self.endpoint.base);
        let mut text = format!("{scheme}://{authority}{base}/");
        if !self.repository.is_empty() {
            text.extend([self.repository.as_str(), "/"]);
        }
        text.push_str(path);
        if let Some(namespace) = &self.namespace {
            text.push(if path.contains('?') { '&' } else { '?' });
            text.push_str(&format!("ns={}", crate::address::encode(namespace)));
        }
        text.parse()
            .map_err(|_| Error::Settings { what: format!("cannot {asked}: {authority:?} makes no address") })
    }

    /// Whether an address is the endpoint's own.
    fn is_ours(&self, url: &Uri) -> bool {
        let scheme = if self.is_tls.lock().unwrap_or(true) { "https" } else { "http" };
        let own = format!("{scheme}://{}/", self.endpoint.authority).parse::<Uri>();
        own.is_ok_and(|own| same_origin(&own, url))
    }

    /// One exchange with one address.
    async fn at(&self, call: &Call<'_>, url: &Uri, proof: Option<&Secret>) -> Result<Response> {
        let authority = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
        // While the scheme is being found out, the endpoint's own host is the target in any case.
        let is_ours = self.is_ours(url)
            || (self.is_tls.lock().is_none() && authority.eq_ignore_ascii_case(&self.endpoint.authority));
        let (trust, reach) =
            if is_ours { (self.endpoint.trust.clone(), Reach::Link) } else { self.foreign(call.asked, url)? };
        let body = call.body.map_or_else(empty, |body| body());
        let mut request = http::Request::new(body);
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = url.clone();
        let headers = request.headers_mut();
        headers.extend(call.headers.iter().cloned());
        headers
            .extend(HeaderValue::from_str(&self.wire.settings.user_agent).map(|agent| (USER_AGENT, agent)));
        if is_ours {
            let own = self.endpoint.headers.iter();
            headers.extend(own.filter_map(|(name, value)| {
                Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?))
            }));
            headers.extend(proof.and_then(sensitive).map(|value| (AUTHORIZATION, value)));
        }
        let patience = self.wire.settings.patience;
        let idle = if call.commits { patience.commit.max(patience.idle) } else { patience.idle };
        let own = self.endpoint.connect.filter(|_| is_ours);
        let limits = Limits { reach, idle, connect: own.unwrap_or(patience.connect) };
        self.wire.send(call.asked, request, &trust, limits).await
    }

    /// The rules for a host that the endpoint leads to.
    fn foreign(&self, asked: &Asked, url: &Uri) -> Result<(Trust, Reach)> {
        let authority = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let settings = &self.wire.settings;
        let was_tls = self.is_tls.lock().unwrap_or(true);
        if was_tls && url.scheme_str() == Some("http") && !settings.is_insecure(authority) {
            return Err(Error::refused(
                asked,
                format!("it leads from TLS to {} without TLS", printable(url)),
            ));
        }
        let reach = match settings.is_configured(authority) {
            true => Reach::Link,
            false => self.reach.lock().unwrap_or(Reach::Public),
        };
        let mut trust = settings.trust(authority)?;
        trust.authorities.extend(self.endpoint.trust.authorities.iter().cloned());
        Ok((trust, reach))
    }
}

/// Whether a scope that is asked for is part of one that is held: `repository:a:pull` of
/// `repository:a:pull,push`.
fn covered(scopes: &BTreeSet<String>, wanted: &str) -> bool {
    let Some((resource, actions)) = wanted.rsplit_once(':') else { return false };
    let held = scopes.iter().filter_map(|scope| scope.rsplit_once(':'));
    let mut held = held.filter(|(held, _)| *held == resource).map(|(_, actions)| actions);
    held.any(|held| actions.split(',').all(|action| held.split(',').any(|has| has == action)))
}
