//! Tokens of a token server (distribution-spec, "token authentication", and its OAuth2 form).
//!
//! The registry names the server in a challenge, so the name is not trusted: it must speak TLS unless the
//! registry itself, by the user's word, does not; it must not be further inside the network than the
//! registry; and it is asked without following it to another origin. The password goes to it because that
//! is what the protocol is; over TLS the user's registry vouches for it.

use crate::address::{encode, join, printable, same_origin};
use crate::challenge::Bearer;
use crate::credentials::{Credentials, Secret};
use crate::error::Asked;
use crate::reach::Reach;
use crate::refusal::status_error;
use crate::settings::{Trust, host_of};
use crate::wire::{Body, Response, Wire, empty};
use crate::{Error, Result};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Uri};
use http_body_util::{BodyExt, Full};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The largest answer of a token server, in bytes.
const LARGEST: usize = 1 << 20;
/// How long a token is good when the server does not say (the specification's default).
const DEFAULT_LIFE: u64 = 60;
/// A token is fetched anew this long before its end.
const MARGIN: Duration = Duration::from_secs(10);
const REDIRECTS: usize = 5;

/// A token and for what it is good.
pub(crate) struct Token {
    pub(crate) secret: Secret,
    pub(crate) scopes: BTreeSet<String>,
    /// What a login keeps instead of the password.
    pub(crate) identity: Option<Secret>,
    until: Instant,
}

impl Token {
    pub(crate) fn serves(&self, scopes: &BTreeSet<String>) -> bool {
        self.scopes == *scopes && Instant::now() < self.until
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

/// Whoever sent the challenge.
pub(crate) struct Challenger<'a> {
    /// The registry's `host[:port]`.
    pub(crate) authority: &'a str,
    /// Whether it was spoken with over TLS.
    pub(crate) is_tls: bool,
    /// Where it is in the network.
    pub(crate) reach: Reach,
    /// Whom to trust at its own host.
    pub(crate) trust: &'a Trust,
}

/// Asks for a token. `keep` asks for an identity token, too.
pub(crate) async fn fetch(
    wire: &Wire,
    asked: &Asked,
    challenger: &Challenger<'_>,
    bearer: &Bearer,
    (credentials, scopes, keep): (&Credentials, &BTreeSet<String>, bool),
) -> Result<Token> {
    let realm = realm(wire, asked, challenger, &bearer.realm)?;
    let request = match credentials {
        Credentials::Identity(identity) => exchange(&realm, bearer, scopes, identity),
        _ => query(&realm, bearer, scopes, credentials, keep),
    };
    let request = request.ok_or_else(|| Error::refused(asked, "its token server cannot be asked"))?;
    let mut response = send(wire, asked, challenger, &realm, request).await?;
    if matches!(credentials, Credentials::Basic { .. })
        && response.status() == http::StatusCode::METHOD_NOT_ALLOWED
    {
        // A server that speaks OAuth2 only.
        let request = password(&realm, bearer, scopes, credentials)
            .ok_or_else(|| Error::refused(asked, "its token server cannot be asked"))?;
        response = send(wire, asked, challenger, &realm, request).await?;
    }
    if !response.status().is_success() {
        let asked = Asked::new("get a token for access", asked.subject());
        return Err(status_error(response, &asked, credentials.into()).await);
    }
    let body = response.whole(asked, LARGEST).await?.body;
    let wrong =
        |how: &str| Error::content(asked, format!("its token server {} answered {how}", printable(&realm)));
    let answer: Answer =
        serde_json::from_slice(&body).map_err(|_| wrong("with something that is no token"))?;
    let secret = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    let secret = secret.ok_or_else(|| wrong("without a token"))?;
    let life = Duration::from_secs(answer.expires_in.unwrap_or(DEFAULT_LIFE).clamp(DEFAULT_LIFE, 86_400));
    Ok(Token {
        secret: Secret::new(secret),
        scopes: scopes.clone(),
        identity: answer.refresh_token.filter(|token| !token.is_empty()).map(Secret::new),
        until: Instant::now() + life.saturating_sub(MARGIN),
    })
}

/// The token server's address, if it may be asked.
fn realm(wire: &Wire, asked: &Asked, challenger: &Challenger<'_>, realm: &str) -> Result<Uri> {
    let refused = |why: &str| Err(Error::refused(asked, format!("its token server {realm:?} {why}")));
    let base = Uri::from_static("https://none.invalid/");
    let Some(uri) = join(&base, realm).filter(|uri| uri.host() != base.host()) else {
        return refused("is no http address");
    };
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let same_host = host_of(authority).eq_ignore_ascii_case(host_of(challenger.authority));
    let plain_allowed = !challenger.is_tls && (same_host || wire.settings.is_insecure(authority));
    if uri.scheme_str() == Some("http") && !plain_allowed {
        return refused("does not use TLS, and credentials are not sent in the clear");
    }
    Ok(uri)
}

async fn send(
    wire: &Wire,
    asked: &Asked,
    challenger: &Challenger<'_>,
    realm: &Uri,
    request: http::Request<Full<Bytes>>,
) -> Result<Response> {
    let authority = realm.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let same = authority.eq_ignore_ascii_case(challenger.authority);
    // The registry's own authorities count for its token server; its client certificate does not go there.
    let trust = match same {
        true => challenger.trust.clone(),
        false => {
            let mut trust = wire.settings.trust(authority)?;
            trust.authorities.extend(challenger.trust.authorities.iter().cloned());
            trust
        }
    };
    let reach = if same || wire.settings.is_configured(authority) { Reach::Link } else { challenger.reach };
    let mut url = request.uri().clone();
    for _ in 0..REDIRECTS {
        let copy = rebuild(&request, &url, &wire.settings.user_agent);
        let response = wire.send(asked, copy, &trust, wire.limits(reach)).await?;
        let next = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let next = next.filter(|_| response.status().is_redirection()).and_then(|next| join(&url, next));
        match next {
            None => return Ok(response),
            Some(next) if same_origin(&url, &next) => url = next,
            Some(next) => {
                let (from, next) = (printable(&url), printable(&next));
                let what = format!("its token server {from} leads to another host, {next}");
                return Err(Error::refused(asked, what));
            }
        }
    }
    let realm = printable(realm);
    Err(Error::refused(asked, format!("its token server {realm} leads on more than {REDIRECTS} times")))
}

fn rebuild(request: &http::Request<Full<Bytes>>, url: &Uri, agent: &str) -> http::Request<Body> {
    let body = request.body().clone().map_err(|never| match never {}).boxed_unsync();
    let mut copy = http::Request::new(if request.method() == Method::GET { empty() } else { body });
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = url.clone();
    *copy.headers_mut() = request.headers().clone();
    copy.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    copy.headers_mut().extend(HeaderValue::from_str(agent).map(|agent| (USER_AGENT, agent)));
    copy
}

/// The form every token server has: a GET.
fn query(
    realm: &Uri,
    bearer: &Bearer,
    scopes: &BTreeSet<String>,
    credentials: &Credentials,
    keep: bool,
) -> Option<http::Request<Full<Bytes>>> {
    let mut url = realm.to_string();
    let mut add = |name: &str, value: &str| {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(&format!("{name}={}", encode(value)));
    };
    if !bearer.service.is_empty() {
        add("service", &bearer.service);
    }
    for scope in scopes {
        add("scope", scope);
    }
    if let Credentials::Basic { username, .. } = credentials {
        add("account", username);
    }
    if keep {
        add("offline_token", "true");
        add("client_id", "yare");
    }
    let mut request = http::Request::get(url).body(Full::default()).ok()?;
    if let Some(header) = credentials.basic_header() {
        request.headers_mut().insert(AUTHORIZATION, sensitive(&header)?);
    }
    Some(request)
}

/// The OAuth2 form, with an identity token.
fn exchange(
    realm: &Uri,
    bearer: &Bearer,
    scopes: &BTreeSet<String>,
    identity: &Secret,
) -> Option<http::Request<Full<Bytes>>> {
    form(realm, bearer, scopes, &[("grant_type", "refresh_token"), ("refresh_token", identity.expose())])
}

/// The OAuth2 form, with a password.
fn password(
    realm: &Uri,
    bearer: &Bearer,
    scopes: &BTreeSet<String>,
    credentials: &Credentials,
) -> Option<http::Request<Full<Bytes>>> {
    let Credentials::Basic { username, password } = credentials else { return None };
    let with = [("grant_type", "password"), ("username", username), ("password", password.expose())];
    form(realm, bearer, scopes, &with)
}

fn form(
    realm: &Uri,
    bearer: &Bearer,
    scopes: &BTreeSet<String>,
    with: &[(&str, &str)],
) -> Option<http::Request<Full<Bytes>>> {
    let scope = scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let always = [("service", bearer.service.as_str()), ("client_id", "yare"), ("scope", scope.as_str())];
    let body: Vec<String> =
        with.iter().chain(&always).map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let request =
        http::Request::post(realm.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    request.body(Full::from(body.join("&"))).ok()
}

/// A header that no log shows.
pub(crate) fn sensitive(secret: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Insecure, Settings};

    #[test]
    fn only_a_plain_registry_may_name_a_plain_token_server_and_only_at_its_own_host() {
        let insecure = vec![Insecure::parse("reg.example:5000").unwrap()];
        let wire = Wire::new(Settings { insecure, ..Settings::default() });
        let asked = Asked::new("resolve latest", "reg.example:5000/a");
        let trust = Trust::default();
        let allowed = |is_tls: bool, text: &str| {
            let challenger =
                Challenger { authority: "reg.example:5000", is_tls, reach: Reach::Public, trust: &trust };
            realm(&wire, &asked, &challenger, text).is_ok()
        };
        assert!(allowed(false, "http://reg.example:5001/token"));
        assert!(!allowed(true, "http://reg.example:5001/token"));
        assert!(!allowed(false, "http://other.example/token"));
        assert!(allowed(true, "https://other.example/token"));
        for wrong in ["", "/token", "ftp://x/", "https://u:p@x/", "javascript:x"] {
            assert!(!allowed(false, wrong), "{wrong}");
        }
    }
}
