//! Who a client is, and whether it may do what it asks.

use super::service::Peer;
use crate::access::{Action, Caller, Policy};
use crate::clock::now;
use crate::config::Config;
use crate::htpasswd::Htpasswd;
use crate::problem::{Code, Error, Refusal, Result};
use crate::route::Target;
use crate::token::Tokens;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use http::{HeaderMap, Method};
use std::path::Path;

/// Said to those who tried. Docker's clients show only a text that is not the usual one.
const INCORRECT: &str = "incorrect username or password";

/// Users, tokens and rules.
#[derive(Debug)]
pub(crate) struct Auth {
    pub(crate) policy: Policy,
    pub(crate) tokens: Option<Tokens>,
    users: Option<Htpasswd>,
    realm: String,
}

impl Auth {
    /// What the configuration says.
    pub(crate) fn open(config: &Config, root: &Path) -> yare_errdefs::Result<Self> {
        let auth = config.auth.as_ref();
        let users = auth.and_then(|auth| auth.htpasswd.as_deref()).map(Htpasswd::open).transpose()?;
        let token = auth.and_then(|auth| auth.token.as_ref());
        let tokens = token.map(|token| Tokens::open(root, token)).transpose()?;
        let policy = Policy {
            asks: auth.is_some(),
            rules: config.access.clone(),
            groups: auth.map(|auth| auth.groups.clone()).unwrap_or_default(),
        };
        let realm = auth.and_then(|auth| auth.realm.clone()).unwrap_or_else(|| "Yare registry".to_owned());
        let realm = realm.replace(['"', '\\'], "");
        Ok(Self { policy, tokens, users, realm })
    }

    /// Who is asking: by what was sent, else by the client's certificate. Wrong credentials are refused, not taken
    /// for none.
    pub(crate) async fn identify(&self, headers: &HeaderMap, peer: &Peer, target: &Target) -> Result<Caller> {
        let Some(sent) = headers.get(AUTHORIZATION).filter(|_| self.policy.asks) else {
            let user = peer.user.clone().filter(|_| self.policy.asks);
            return Ok(user.map_or(Caller::Anonymous, Caller::User));
        };
        let sent = sent.to_str().unwrap_or_default();
        let (scheme, rest) = sent.split_once(' ').unwrap_or((sent, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let Some(tokens) = &self.tokens else {
                return Err(self.unauthorized(headers, peer, target, "").into());
            };
            return tokens.verify(rest.trim(), now()).map_err(|why| {
                tracing::debug!(why, "a token is not taken");
                self.unauthorized(headers, peer, target, "invalid_token").into()
            });
        }
        let given = scheme.eq_ignore_ascii_case("basic").then(|| basic(rest)).flatten();
        if let (Some((user, password)), Some(users)) = (given, &self.users)
            && users.check(&user, &password, &peer.client).await?
        {
            return Ok(Caller::User(user));
        }
        let refusal = Refusal::new(Code::Unauthorized, INCORRECT);
        Err(self.with_challenge(refusal, headers, peer, (&Method::GET, target), "").into())
    }

    /// Who a user is that sends its password in a form.
    pub(crate) async fn by_password(&self, user: String, password: &str, peer: &Peer) -> Result<Caller> {
        if let Some(users) = &self.users
            && users.check(&user, password, &peer.client).await?
        {
            return Ok(Caller::User(user));
        }
        Err(self.not_logged_in(INCORRECT, peer))
    }

    /// Who a user is that sends a refresh token in a form. One of a user who is gone, or whose password is another
    /// one by now, is not taken.
    pub(crate) fn by_refresh_token(&self, token: &str, peer: &Peer) -> Result<Caller> {
        let read = self.tokens.as_ref().map(|tokens| tokens.verify_refresh(token, now()));
        match (read, &self.users) {
            (Some(Ok((user, stamp))), Some(users)) if users.stamp(&user).is_some_and(|now| now == stamp) => {
                Ok(Caller::User(user))
            }
            (read, _) => {
                tracing::debug!(why = ?read.and_then(std::result::Result::err), "a refresh token is not taken");
                Err(self.not_logged_in("the refresh token is not valid any more; log in again", peer))
            }
        }
    }

    /// A refresh token for a user who has a password here.
    pub(crate) fn refresh_token(&self, caller: &Caller) -> Option<String> {
        let Caller::User(user) = caller else { return None };
        let stamp = self.users.as_ref()?.stamp(user)?;
        self.tokens.as_ref()?.issue_refresh(user, stamp, now())
    }

    fn not_logged_in(&self, message: &str, peer: &Peer) -> Error {
        let refusal = Refusal::new(Code::Unauthorized, message);
        self.with_challenge(refusal, &HeaderMap::new(), peer, (&Method::POST, &Target::Token), "").into()
    }

    /// Refuses what the caller may not do.
    pub(crate) fn authorise(
        &self,
        caller: &Caller,
        (method, target): (&Method, &Target),
        (headers, peer): (&HeaderMap, &Peer),
    ) -> Result<()> {
        let is_allowed = match (needed(method, target), target.repository()) {
            (Need::Nothing, _) => true,
            // Clients learn here how to log in, so strangers are asked even where they may read.
            (Need::Name, _) => !self.policy.asks || *caller != Caller::Anonymous,
            (Need::Catalog, _) => self.policy.allows_catalog(caller),
            (Need::Action(action), Some(name)) => self.policy.allows(caller, name.as_str(), action),
            (Need::Action(_), None) => false,
        };
        match caller {
            _ if is_allowed => Ok(()),
            Caller::Anonymous => Err(self.unauthorized(headers, peer, target, "").into()),
            Caller::Bearer { .. } => {
                let refusal = self.unauthorized(headers, peer, target, "insufficient_scope");
                Err(self
                    .with_challenge(refusal, headers, peer, (method, target), "insufficient_scope")
                    .into())
            }
            Caller::User(user) => {
                let message = format!("user {user} may not do this");
                Err(Refusal::new(Code::Denied, message).into())
            }
        }
    }

    fn unauthorized(&self, headers: &HeaderMap, peer: &Peer, target: &Target, error: &str) -> Refusal {
        let refusal = Refusal::new(Code::Unauthorized, "authentication required");
        self.with_challenge(refusal, headers, peer, (&Method::GET, target), error)
    }

    /// Adds the challenge: how to prove who one is, and what to ask a token for.
    pub(crate) fn with_challenge(
        &self,
        mut refusal: Refusal,
        headers: &HeaderMap,
        peer: &Peer,
        (method, target): (&Method, &Target),
        error: &str,
    ) -> Refusal {
        refusal.headers.retain(|(name, _)| *name != WWW_AUTHENTICATE);
        let Some(tokens) = self.tokens.as_ref().filter(|_| *target != Target::Token) else {
            return refusal.with_header(WWW_AUTHENTICATE, &format!("Basic realm=\"{}\"", self.realm));
        };
        let realm = tokens.realm.clone().unwrap_or_else(|| {
            let base = base(headers, peer);
            format!("{}/token", base.as_deref().unwrap_or("http://localhost"))
        });
        let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{}\"", tokens.service);
        if let Some(scope) = scope(method, target) {
            challenge.push_str(&format!(",scope=\"{scope}\""));
        }
        if !error.is_empty() {
            challenge.push_str(&format!(",error=\"{error}\""));
        }
        refusal.with_header(WWW_AUTHENTICATE, &challenge)
    }
}

enum Need {
    Nothing,
    Name,
    Catalog,
    Action(Action),
}

/// What a request needs.
fn needed(method: &Method, target: &Target) -> Need {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match target {
        Target::Health | Target::Metrics | Target::Token | Target::TokenKeys => Need::Nothing,
        Target::Base => Need::Name,
        Target::Catalog => Need::Catalog,
        Target::Uploads(_) | Target::Upload(..) => Need::Action(Action::Push),
        _ if reads => Need::Action(Action::Pull),
        _ if *method == Method::DELETE => Need::Action(Action::Delete),
        _ => Need::Action(Action::Push),
    }
}

/// The scope that a token for this request has.
fn scope(method: &Method, target: &Target) -> Option<String> {
    match (needed(method, target), target.repository()) {
        (Need::Catalog, _) => Some("registry:catalog:*".to_owned()),
        (Need::Action(Action::Pull), Some(name)) => Some(format!("repository:{name}:pull")),
        (Need::Action(Action::Push), Some(name)) => Some(format!("repository:{name}:pull,push")),
        (Need::Action(Action::Delete), Some(name)) => Some(format!("repository:{name}:delete")),
        _ => None,
    }
}

fn basic(encoded: &str) -> Option<(String, String)> {
    let text = String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// Scheme and host by which a client reached the registry, if it says.
pub(crate) fn base(headers: &HeaderMap, peer: &Peer) -> Option<String> {
    let host = headers.get(HOST)?.to_str().ok().filter(|host| is_host(host))?;
    Some(format!("{}://{host}", if peer.tls { "https" } else { "http" }))
}

/// Whether a `Host` header can be put into a URL.
fn is_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte))
}
