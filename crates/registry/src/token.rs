//! Bearer tokens: JSON Web Tokens by Docker's token specification, issued here or elsewhere.
//!
//! Tokens of this registry are signed with Ed25519; the key pair is made at the first start and kept in
//! `<root>/token-key` (PKCS #8, mode 0600). Tokens of another server are checked with its keys (a JSON Web
//! Key Set with Ed25519, P-256 or RSA keys). Which algorithm a signature has says the key, never the token.

use crate::access::{Action, Caller, Grants, Policy};
use crate::config;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::signature::{self, Ed25519KeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_oci::Digest;
use yare_sys::fs::Durability;
use yare_tls::{Watched, read};

/// How far clocks may be apart, in seconds.
const SKEW: u64 = 60;
/// The most bytes of a token.
const LONGEST: usize = 32 << 10;

/// The tokens of a registry.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// The audience.
    pub(crate) service: String,
    /// Where they are had, when it is not here.
    pub(crate) realm: Option<String>,
    issuer: String,
    lifetime: u64,
    refresh: u64,
    own: Option<Own>,
    foreign: Option<Watched<Vec<Key>>>,
}

struct Own {
    pair: Ed25519KeyPair,
    id: String,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Ed25519(Vec<u8>),
    P256(Vec<u8>),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
}

/// Part of a repository that a token is about: `repository:team/app:pull,push`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scope {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) actions: Vec<String>,
}

impl Scope {
    /// Reads `type[(class)]:name:actions`; names may hold colons.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
        let actions = actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned).collect();
        Some(Self { kind: kind.to_owned(), name: name.to_owned(), actions })
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    #[serde(default)]
    sub: String,
    aud: Value,
    exp: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(default)]
    iat: u64,
    #[serde(default)]
    jti: String,
    #[serde(default, deserialize_with = "nullable")]
    access: Vec<Scope>,
    /// Of a refresh token: what the user's password was when it was issued.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    stamp: String,
}

/// Some servers write `null` for no access.
fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<Scope>, D::Error> {
    Ok(Option::<Vec<Scope>>::deserialize(deserializer)?.unwrap_or_default())
}

/// A token that was issued.
#[derive(Debug)]
pub(crate) struct Issued {
    /// The token.
    pub(crate) token: String,
    /// How long it is good, in seconds.
    pub(crate) expires_in: u64,
}

impl Tokens {
    /// Tokens as the configuration wants them; keys of this registry are below `root`.
    pub(crate) fn open(root: &Path, config: &config::Token) -> Result<Self> {
        let foreign = config.keys.clone().map(|path| {
            Watched::new(vec![path.clone()], move || {
                parse_keys(&read(&path)?)
                    .map_err(|why| Error::invalid(format!("key set {}: {why}", path.display())))
            })
        });
        let foreign = foreign.transpose()?;
        let own = if foreign.is_none() { Some(Own::open(root)?) } else { None };
        Ok(Self {
            service: config.service.clone(),
            realm: config.realm.clone(),
            issuer: config.issuer.clone().unwrap_or_else(|| config.service.clone()),
            lifetime: config.lifetime.as_secs().max(60),
            refresh: config.refresh.as_secs(),
            own,
            foreign,
        })
    }

    /// Whether this registry issues tokens.
    pub(crate) fn issues(&self) -> bool {
        self.own.is_some()
    }

    /// Issues a token for as much of `scopes` as the policy allows `caller`. `None` when another server does.
    pub(crate) fn issue(
        &self,
        caller: &Caller,
        scopes: &[Scope],
        policy: &Policy,
        now: u64,
    ) -> Option<Issued> {
        let own = self.own.as_ref()?;
        let access = scopes.iter().filter_map(|scope| allowed(caller, scope, policy)).collect();
        let claims = Claims { access, ..self.claims(caller.name(), &self.service, (now, self.lifetime)) };
        Some(Issued { token: own.sign(&claims)?, expires_in: self.lifetime })
    }

    /// Issues a token that gets its user further ones, without a password, as long as `stamp` does not change.
    /// `None` where there are no such tokens.
    pub(crate) fn issue_refresh(&self, user: &str, stamp: String, now: u64) -> Option<String> {
        let own = self.own.as_ref().filter(|_| self.refresh > 0)?;
        let claims = Claims { stamp, ..self.claims(user, &self.refresh_audience(), (now, self.refresh)) };
        own.sign(&claims)
    }

    /// Whose refresh token it is, and the stamp that it was issued with.
    pub(crate) fn verify_refresh(
        &self,
        token: &str,
        now: u64,
    ) -> std::result::Result<(String, String), &'static str> {
        let claims = self.read(token, &self.refresh_audience(), now)?;
        Ok((claims.sub, claims.stamp))
    }

    /// The audience of refresh tokens: they are for the token endpoint, and open nothing.
    fn refresh_audience(&self) -> String {
        format!("{}#refresh", self.service)
    }

    /// Claims that give no access.
    fn claims(&self, user: &str, audience: &str, (now, lifetime): (u64, u64)) -> Claims {
        Claims {
            iss: self.issuer.clone(),
            sub: user.to_owned(),
            aud: json!(audience),
            exp: now + lifetime,
            nbf: now.saturating_sub(SKEW),
            iat: now,
            jti: yare_sys::fs::unique_name(""),
            access: Vec::new(),
            stamp: String::new(),
        }
    }

    /// Who the bearer of a token is and what he may do; the error says why the token is not taken.
    pub(crate) fn verify(&self, token: &str, now: u64) -> std::result::Result<Caller, &'static str> {
        self.read(token, &self.service, now).map(bearer)
    }

    /// The claims of a token that is right and for `audience`.
    fn read(&self, token: &str, audience: &str, now: u64) -> std::result::Result<Claims, &'static str> {
        if token.len() > LONGEST {
            return Err("too long");
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("not a JSON Web Token")?;
        let (header, claims) = signed.split_once('.').ok_or("not a JSON Web Token")?;
        let decode = |text: &str| BASE64.decode(text).map_err(|_| "not a JSON Web Token");
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| "no header")?;
        let (id, signature) = (header["kid"].as_str(), decode(signature)?);
        let keys = match (&self.foreign, &self.own) {
            (Some(keys), _) => keys.get(),
            (None, Some(own)) => Arc::new(vec![own.public()]),
            (None, None) => return Err("no keys"),
        };
        // A key set may name its keys; then a token that names one must mean that one.
        let fits = |key: &&Key| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        let is_signed = keys.iter().filter(fits).any(|key| {
            header["alg"].as_str() == Some(key.kind.algorithm()) && key.kind.verifies(signed, &signature)
        });
        if !is_signed {
            return Err("not signed by a key that this registry trusts");
        }
        let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| "claims are not right")?;
        if claims.iss != self.issuer {
            return Err("of another issuer");
        }
        let is_meant = match &claims.aud {
            Value::Array(several) => several.iter().any(|one| one == audience),
            one => one == audience,
        };
        if !is_meant {
            return Err("for another service");
        }
        if claims.exp.saturating_add(SKEW) <= now {
            return Err("expired");
        }
        if claims.nbf > now + SKEW {
            return Err("not valid yet");
        }
        Ok(claims)
    }

    /// The public key of this registry as a JSON Web Key Set, for others that take its tokens.
    pub(crate) fn key_set(&self) -> Value {
        let keys: Vec<Value> = self
            .own
            .iter()
            .map(|own| {
                let x = BASE64.encode(own.pair.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": own.id, "x": x })
            })
            .collect();
        json!({ "keys": keys })
    }
}

fn bearer(claims: Claims) -> Caller {
    let mut grants: Grants = BTreeMap::new();
    let mut catalog = false;
    for scope in claims.access {
        match scope.kind.as_str() {
            "repository" => {
                let every = scope.actions.iter().any(|action| action == "*");
                let named =
                    |action: &Action| every || scope.actions.iter().any(|word| word == action.as_str());
                grants
                    .entry(scope.name.clone())
                    .or_default()
                    .extend(Action::ALL.iter().copied().filter(named));
            }
            "registry" => catalog |= scope.name == "catalog" && !scope.actions.is_empty(),
            _ => {}
        }
    }
    Caller::Bearer { user: claims.sub, grants, catalog }
}

/// The part of a scope that the policy allows; `None` when that is nothing.
fn allowed(caller: &Caller, scope: &Scope, policy: &Policy) -> Option<Scope> {
    let actions: Vec<String> = match scope.kind.as_str() {
        "repository" => {
            let every = scope.actions.iter().any(|action| action == "*");
            let asked = |action: &Action| every || scope.actions.iter().any(|word| word == action.as_str());
            let granted = |action: &Action| policy.allows(caller, &scope.name, *action);
            let actions = Action::ALL.iter().copied().filter(asked).filter(granted);
            actions.map(|action| action.as_str().to_owned()).collect()
        }
        "registry" if scope.name == "catalog" && policy.allows_catalog(caller) => vec!["*".to_owned()],
        _ => Vec::new(),
    };
    (!actions.is_empty()).then(|| Scope { kind: scope.kind.clone(), name: scope.name.clone(), actions })
}

impl Own {
    fn open(root: &Path) -> Result<Self> {
        let path = root.join("token-key");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let made = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new())
                    .map_err(|_| Error::internal("cannot make a key pair for tokens"))?;
                yare_sys::fs::atomic_write(root, "token-key", made.as_ref(), Durability::Synced)?;
                made.as_ref().to_vec()
            }
            Err(error) => {
                return Err(Error::internal(format!("cannot read {}", path.display())).caused_by(error));
            }
        };
        let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_| {
            Error::precondition(format!("{} is no Ed25519 key", path.display()))
                .with_hint("remove it: a new one is made, and clients ask for new tokens")
        })?;
        let id = Digest::of(pair.public_key().as_ref()).short();
        Ok(Self { pair, id })
    }

    fn sign(&self, claims: &Claims) -> Option<String> {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id });
        let claims = serde_json::to_string(claims).ok()?;
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims));
        let signature = self.pair.sign(signed.as_bytes());
        Some(format!("{signed}.{}", BASE64.encode(signature.as_ref())))
    }

    fn public(&self) -> Key {
        Key { id: Some(self.id.clone()), kind: Kind::Ed25519(self.pair.public_key().as_ref().to_vec()) }
    }
}

impl Kind {
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::P256(_) => "ES256",
            Self::Rsa { .. } => "RS256",
        }
    }

    fn verifies(&self, signed: &str, signature: &[u8]) -> bool {
        let signed = signed.as_bytes();
        match self {
            Self::Ed25519(key) => {
                signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(signed, signature).is_ok()
            }
            Self::P256(key) => signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key)
                .verify(signed, signature)
                .is_ok(),
            Self::Rsa { modulus, exponent } => {
                let key = signature::RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok()
            }
        }
    }
}

/// Reads a JSON Web Key Set (RFC 7517); keys of other kinds are passed over.
fn parse_keys(bytes: &[u8]) -> std::result::Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let list = set["keys"].as_array().ok_or("no `keys` in it")?;
    let mut keys = Vec::new();
    for key in list {
        let part = |name: &str| {
            let text = key[name].as_str().ok_or(format!("a key has no {name:?}"))?;
            BASE64.decode(text).map_err(|error| format!("{name:?} of a key: {error}"))
        };
        let kind = match (key["kty"].as_str(), key["crv"].as_str()) {
            (Some("OKP"), Some("Ed25519")) => Kind::Ed25519(part("x")?),
            (Some("EC"), Some("P-256")) => Kind::P256([vec![4], part("x")?, part("y")?].concat()),
            (Some("RSA"), _) => Kind::Rsa { modulus: part("n")?, exponent: part("e")? },
            _ => continue,
        };
        keys.push(Key { id: key["kid"].as_str().map(str::to_owned), kind });
    }
    if keys.is_empty() { Err("no Ed25519, P-256 or RSA key in it".to_owned()) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn config(service: &str) -> config::Token {
        config::Token {
            service: service.to_owned(),
            realm: None,
            issuer: None,
            keys: None,
            lifetime: Duration::from_secs(300),
            refresh: Duration::from_secs(3600),
        }
    }

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    #[test]
    fn a_token_carries_what_the_policy_allows() {
        let root = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(root.path(), &config("r")).unwrap();
        let policy = Policy {
            asks: true,
            rules: vec![
                toml::from_str("repositories = 'a/*'\nactions = ['pull']\nusers = ['alice']").unwrap(),
            ],
            ..Policy::default()
        };
        let alice = Caller::User("alice".into());
        let scopes =
            [scope("repository:a/b:pull,push"), scope("repository:c:pull"), scope("registry:catalog:*")];
        let issued = tokens.issue(&alice, &scopes, &policy, 1000).unwrap();
        let Ok(Caller::Bearer { user, grants, catalog }) = tokens.verify(&issued.token, 1001) else {
            panic!()
        };
        assert_eq!((user.as_str(), catalog), ("alice", true));
        assert_eq!(grants, BTreeMap::from([("a/b".to_owned(), BTreeSet::from([Action::Pull]))]));
        // The key is kept.
        let again = Tokens::open(root.path(), &config("r")).unwrap();
        assert!(again.verify(&issued.token, 1001).is_ok());
    }

    #[test]
    fn wrong_tokens_are_not_taken() {
        let root = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(root.path(), &config("r")).unwrap();
        let policy = Policy::default();
        let issued = tokens.issue(&Caller::Anonymous, &[], &policy, 1000).unwrap().token;
        assert_eq!(tokens.verify(&issued, 1000 + 361), Err("expired"));
        assert_eq!(tokens.verify(&issued, 800), Err("not valid yet"));
        let other = tempfile::tempdir().unwrap();
        let other = Tokens::open(other.path(), &config("r")).unwrap();
        assert!(other.verify(&issued, 1000).is_err(), "another key");
        let renamed = Tokens::open(root.path(), &config("s")).unwrap();
        assert!(renamed.verify(&issued, 1000).is_err(), "another audience");
        // The header is not to be trusted with the choice of the algorithm.
        let (_, rest) = issued.split_once('.').unwrap();
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#] {
            let forged = format!("{}.{rest}", BASE64.encode(header));
            assert!(tokens.verify(&forged, 1000).is_err(), "{header}");
        }
        let (signed, _) = issued.rsplit_once('.').unwrap();
        for bad in ["", ".", "..", "a.b.c", &format!("{signed}."), &"a".repeat(LONGEST + 1)] {
            assert!(tokens.verify(bad, 1000).is_err());
        }
    }

    #[test]
    fn tokens_of_another_server_are_taken_by_its_keys() {
        let theirs = tempfile::tempdir().unwrap();
        let server = Tokens::open(theirs.path(), &config("r")).unwrap();
        let here = tempfile::tempdir().unwrap();
        let keys = here.path().join("keys.json");
        std::fs::write(&keys, server.key_set().to_string()).unwrap();
        let foreign = config::Token {
            realm: Some("https://auth.example.com/token".into()),
            issuer: Some("r".into()),
            keys: Some(keys),
            ..config("r")
        };
        let registry = Tokens::open(here.path(), &foreign).unwrap();
        let token = server.issue(&Caller::User("x".into()), &[], &Policy::default(), 5000).unwrap().token;
        assert!(registry.verify(&token, 5000).is_ok());
        assert!(!registry.issues());
        assert!(!here.path().join("token-key").exists());
    }

    #[test]
    fn a_refresh_token_is_of_its_user_and_no_other_token() {
        let root = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(root.path(), &config("r")).unwrap();
        let refresh = tokens.issue_refresh("alice", "stamp".into(), 1000).unwrap();
        assert_eq!(tokens.verify_refresh(&refresh, 1001), Ok(("alice".to_owned(), "stamp".to_owned())));
        assert_eq!(tokens.verify_refresh(&refresh, 1000 + 3600 + 61), Err("expired"));
        assert_eq!(tokens.verify(&refresh, 1001), Err("for another service"), "it opens nothing");
        let access = tokens.issue(&Caller::User("alice".into()), &[], &Policy::default(), 1000).unwrap();
        assert_eq!(tokens.verify_refresh(&access.token, 1001), Err("for another service"));
        let none = config::Token { refresh: Duration::ZERO, ..config("r") };
        assert_eq!(Tokens::open(root.path(), &none).unwrap().issue_refresh("alice", "x".into(), 1000), None);
    }

    #[test]
    fn scopes_are_read() {
        let want =
            Scope { kind: "repository".into(), name: "host:5000/a".into(), actions: vec!["pull".into()] };
        assert_eq!(Scope::parse("repository(plugin):host:5000/a:pull"), Some(want));
        assert_eq!(Scope::parse("repository"), None);
    }
}
