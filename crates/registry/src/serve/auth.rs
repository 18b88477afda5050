//! Who a client is, and whether it may do what it asks.

use super::service::Peer;
use crate::access::{Action, Caller, Policy};
use crate::clock::now;
use crate::config::Config;
use crate::htpasswd::Htpasswd;
use crate::name::RepositoryName;
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

/// What a client asks for: by this it is decided whether it gets it, and how it is told to prove who it is.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a Target,
    /// The other repository that a blob is to be mounted from.
    pub(crate) source: Option<&'a RepositoryName>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) peer: &'a Peer,
}

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
    pub(crate) async fn identify(&self, asked: &Asked<'_>) -> Result<Caller> {
        let Some(sent) = asked.headers.get(AUTHORIZATION).filter(|_| self.policy.asks) else {
            let user = asked.peer.user.clone().filter(|_| self.policy.asks);
            return Ok(user.map_or(Caller::Anonymous, Caller::User));
        };
        let sent = sent.to_str().unwrap_or_default();
        let (scheme, rest) = sent.split_once(' ').unwrap_or((sent, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let Some(tokens) = &self.tokens else {
                return Err(self.unauthorized(asked, "").into());
            };
            return tokens.verify(rest.trim(), now()).map_err(|why| {
                tracing::debug!(why, "a token is not taken");
                self.unauthorized(asked, "invalid_token").into()
            });
        }
        let given = scheme.eq_ignore_ascii_case("basic").then(|| basic(rest)).flatten();
        if let (Some((user, password)), Some(users)) = (given, &self.users)
            && users.check(&user, &password, &asked.peer.client).await?
        {
            return Ok(Caller::User(user));
        }
        Err(self.with_challenge(Refusal::new(Code::Unauthorized, INCORRECT), asked, "").into())
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
        let (method, target, headers) = (&Method::POST, &Target::Token, &HeaderMap::new());
        let asked = Asked { method, target, source: None, headers, peer };
        self.with_challenge(Refusal::new(Code::Unauthorized, message), &asked, "").into()
    }

    /// Refuses what the caller may not do.
    pub(crate) fn authorise(&self, caller: &Caller, asked: &Asked<'_>) -> Result<()> {
        let is_allowed = match (needed(asked.method, asked.target), asked.target.repository()) {
            (Need::Nothing, _) => true,
            // Clients learn here how to log in, so strangers are asked even where they may read.
            (Need::Name, _) => !self.policy.asks || *caller != Caller::Anonymous,
            (Need::Catalog, _) => self.policy.allows_catalog(caller),
            (Need::Action(action), Some(name)) => self.policy.allows(caller, name.as_str(), action),
            (Need::Action(_), None) => false,
        };
        match caller {
            _ if is_allowed && !self.lacks_source(caller, asked) => Ok(()),
            Caller::Anonymous => Err(self.unauthorized(asked, "").into()),
            Caller::Bearer { .. } => Err(self.unauthorized(asked, "insufficient_scope").into()),
            Caller::User(user) => {
                let message = format!("user {user} may not do this");
                Err(Refusal::new(Code::Denied, message).into())
            }
        }
    }

    /// Whether another token of the same user would do for the source of a mount, where this one does not: it is
    /// asked for then. Who may not read the source at all has to send the blob.
    fn lacks_source(&self, caller: &Caller, asked: &Asked<'_>) -> bool {
        let (Some(source), Some(owner)) = (asked.source, self.owner(caller)) else { return false };
        let may_read = |caller| self.policy.allows(caller, source.as_str(), Action::Pull);
        !may_read(caller) && may_read(&owner)
    }

    /// Whose token it is that the caller bears. Of another server's tokens only that server knows what their owners
    /// may do.
    pub(crate) fn owner(&self, caller: &Caller) -> Option<Caller> {
        let Caller::Bearer { user, .. } = caller else { return None };
        self.tokens.as_ref().filter(|tokens| tokens.issues())?;
        Some(if user.is_empty() { Caller::Anonymous } else { Caller::User(user.clone()) })
    }

    fn unauthorized(&self, asked: &Asked<'_>, error: &str) -> Refusal {
        self.with_challenge(Refusal::new(Code::Unauthorized, "authentication required"), asked, error)
    }

    /// Adds the challenge: how to prove who one is, and what to ask a token for.
    fn with_challenge(&self, refusal: Refusal, asked: &Asked<'_>, error: &str) -> Refusal {
        let Some(tokens) = self.tokens.as_ref().filter(|_| *asked.target != Target::Token) else {
            return refusal.with_header(WWW_AUTHENTICATE, &format!("Basic realm=\"{}\"", self.realm));
        };
        let realm = tokens.realm.clone().unwrap_or_else(|| {
            let base = base(asked.headers, asked.peer);
            format!("{}/token", base.as_deref().unwrap_or("http://localhost"))
        });
        let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{}\"", tokens.service);
        if let Some(scope) = scope(asked) {
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
fn scope(asked: &Asked<'_>) -> Option<String> {
    let actions = match needed(asked.method, asked.target) {
        Need::Catalog => return Some("registry:catalog:*".to_owned()),
        Need::Action(Action::Pull) => "pull",
        Need::Action(Action::Push) => "pull,push",
        Need::Action(Action::Delete) => "delete",
        Need::Nothing | Need::Name => return None,
    };
    let source = asked.source.map(|name| format!(" repository:{name}:pull"));
    Some(format!("repository:{}:{actions}{}", asked.target.repository()?, source.unwrap_or_default()))
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
