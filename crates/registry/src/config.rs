//! The configuration: a TOML file, or its defaults.
//!
//! Every key that is not known is an error, so that a misspelt limit does not silently mean none.

use crate::access::Rule;
use crate::cache::Proxy;
use crate::manifests::Immutable;
use crate::quota::Quota;
use crate::remote::Outbound;
use crate::retention::Retention;
use crate::secrets::Secrets;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use yare_errdefs::{Error, Result};

/// How a registry is run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses to listen on: `127.0.0.1:5000`, `[::]:5000`, `:5000`.
    pub listen: Vec<String>,
    /// The folder with everything.
    pub root: PathBuf,
    /// TLS; without it plain HTTP is spoken.
    pub tls: Option<Tls>,
    /// What clients may use up.
    pub limits: Limits,
    /// What is stored, and what may be deleted.
    pub storage: Storage,
    /// Collection of what nobody needs.
    pub collect: Collect,
    /// Reading everything again, to find what is damaged.
    pub scrub: Scrub,
    /// Tags that do not move.
    pub immutable: Vec<Immutable>,
    /// How much repositories may hold.
    pub quota: Vec<Quota>,
    /// What is kept of what was pushed.
    pub retention: Vec<Retention>,
    /// Who clients are. Without it everybody may do everything.
    pub auth: Option<Auth>,
    /// Who may do what. Without a rule, everybody who is known may do everything.
    pub access: Vec<Rule>,
    /// Who is told of pushes, pulls and deletes.
    pub webhook: Vec<Webhook>,
    /// The log that has a line for each request.
    pub audit: Option<crate::audit::Log>,
    /// Whether `/metrics` is open to everybody; without `auth` it always is.
    pub public_metrics: bool,
    /// Copies to and from other registries.
    pub replicate: Vec<crate::replicate::Rule>,
    /// Upstreams to cache.
    pub proxy: Vec<Proxy>,
    /// How upstreams are reached; the environment's, not the file's.
    #[serde(skip)]
    pub outbound: Outbound,
    /// Variables that say how a bucket is reached (`AWS_…`, `GOOGLE_…`, `AZURE_…`); the environment's.
    #[serde(skip)]
    pub environment: Secrets,
    /// What time it is; tests set it forward.
    #[serde(skip)]
    pub clock: crate::clock::Clock,
}

/// A certificate and what clients must show. The files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Authorities of client certificates, PEM; clients without one of theirs are not served.
    #[serde(default)]
    pub client_authorities: Option<PathBuf>,
    /// Whether clients are the users that their certificates name (the common name of the subject).
    #[serde(default)]
    pub client_names: bool,
}

/// What clients may use up.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The most bytes of a blob.
    #[serde(deserialize_with = "bytes")]
    pub blob: u64,
    /// Bytes of the file system that uploads leave free.
    #[serde(deserialize_with = "bytes")]
    pub reserve: u64,
    /// The most uploads that are written to at a time; those that lie still do not count.
    pub uploads: usize,
    /// The most connections at a time; more of them wait.
    pub connections: usize,
    /// The most connections of one address (IPv6: of one /64); more of them are closed. 0 for no limit.
    pub connections_per_client: usize,
    /// How long a connection may be silent, in the middle of something or between requests.
    #[serde(deserialize_with = "duration")]
    pub silence: Duration,
    /// How long requests may go on after the end was asked for.
    #[serde(deserialize_with = "duration")]
    pub grace: Duration,
    /// Requests a second of one user, or one address where users are not known; 0 for no limit. Ten
    /// seconds' worth may come at once.
    pub requests_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob: 64 << 30,
            reserve: 256 << 20,
            uploads: 1000,
            connections: 4096,
            connections_per_client: 1024,
            silence: Duration::from_secs(60),
            grace: Duration::from_secs(10),
            requests_per_second: 0,
        }
    }
}

/// What is stored, and what may be deleted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Whether clients may delete.
    pub delete: bool,
    /// Whether an index may list manifests that were not pushed.
    pub sparse_indexes: bool,
    /// The bucket with everything, such as `s3://images/registry`; default: files below the root.
    pub url: Option<String>,
    /// Settings of the bucket: `region`, `endpoint`, `access_key_id`, …
    pub options: Secrets,
    /// Authorities of its certificate, PEM, instead of the system's.
    pub authorities: Option<PathBuf>,
    /// Whether clients are sent to the bucket for the bytes of blobs.
    pub redirect: bool,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            delete: true,
            sparse_indexes: false,
            url: None,
            options: Secrets::default(),
            authorities: None,
            redirect: false,
        }
    }
}

/// Collection of what nobody needs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Collect {
    /// How often it runs by itself; 0 for never.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
    /// How long a blob that no manifest needs is kept for the push that it may be part of.
    #[serde(deserialize_with = "duration")]
    pub grace: Duration,
    /// How long an upload may lie still.
    #[serde(deserialize_with = "duration")]
    pub uploads: Duration,
}

/// Reading everything again, to find what is damaged.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scrub {
    /// How often it runs by itself; 0 for never.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
}

impl Default for Collect {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self { every: hours(24), grace: hours(2), uploads: hours(24) }
    }
}

/// Who clients are.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// What the log-in prompt says.
    pub realm: Option<String>,
    /// Users and bcrypt hashes, as `htpasswd -B` writes them; read again when it changes.
    pub htpasswd: Option<PathBuf>,
    /// Groups and who is in them.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Tokens instead of a password with each request.
    pub token: Option<Token>,
}

/// Tokens by the Docker token specification.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// What this registry is called: the audience of its tokens.
    #[serde(default = "service")]
    pub service: String,
    /// Where tokens are had: the URL of another server, or that of this registry's `/token` when clients
    /// reach it by another name or scheme than they use for the registry.
    #[serde(default)]
    pub realm: Option<String>,
    /// Whose tokens are taken, when it is not this registry: the `iss` of theirs.
    #[serde(default)]
    pub issuer: Option<String>,
    /// The keys of that issuer, a JSON Web Key Set; read again when it changes.
    #[serde(default)]
    pub keys: Option<PathBuf>,
    /// How long the tokens of this registry are good.
    #[serde(default = "lifetime", deserialize_with = "duration")]
    pub lifetime: Duration,
    /// How long its refresh tokens are good, with which clients stay logged in and keep no password. With 0 there
    /// are none.
    #[serde(default = "refresh", deserialize_with = "duration")]
    pub refresh: Duration,
}

fn service() -> String {
    "yare-registry".to_owned()
}

fn lifetime() -> Duration {
    Duration::from_secs(300)
}

fn refresh() -> Duration {
    Duration::from_secs(30 * 24 * 3600)
}

/// Somebody who is told of what happens.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// What it is called, in metrics, logs and records; default: scheme and host of its URL. What waits for a
    /// name (or, without one, for a URL) outlives restarts and other changes.
    #[serde(default)]
    pub name: Option<String>,
    /// Where to; `http` or `https`.
    pub url: String,
    /// About which repositories.
    #[serde(default = "everything")]
    pub repositories: crate::name::Pattern,
    /// About what.
    #[serde(default = "changes")]
    pub events: Vec<crate::events::Kind>,
    /// Also about pushes and pulls of blobs.
    #[serde(default)]
    pub blobs: bool,
    /// Events that may wait for it.
    #[serde(default = "queue")]
    pub queue: u64,
    /// Headers to send along, such as `Authorization`.
    #[serde(default)]
    pub headers: Secrets,
    /// Authorities of its certificate, PEM, instead of the system's.
    #[serde(default)]
    pub authorities: Option<PathBuf>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Many services have the secret in the path of the URL.
        f.debug_struct("Webhook")
            .field("url", &crate::http_client::shown(&self.url))
            .field("repositories", &self.repositories)
            .field("events", &self.events)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

fn everything() -> crate::name::Pattern {
    crate::name::Pattern::new("**")
}

fn changes() -> Vec<crate::events::Kind> {
    vec![crate::events::Kind::Push, crate::events::Kind::Delete]
}

fn queue() -> u64 {
    10_000
}

impl Webhook {
    /// What it is called in metrics and logs.
    pub(crate) fn called(&self) -> String {
        self.name.clone().unwrap_or_else(|| crate::http_client::shown(&self.url))
    }

    /// Whether the two would share a queue.
    fn is_same(&self, other: &Self) -> bool {
        self.name.as_ref().unwrap_or(&self.url) == other.name.as_ref().unwrap_or(&other.url)
    }
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::invalid(format!("cannot read the configuration {}", path.display())).caused_by(error)
        })?;
        Self::parse(&text).map_err(|error| {
            Error::invalid(format!("the configuration {} is not right", path.display())).caused_by(error)
        })
    }

    /// Reads TOML.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self =
            toml::from_str(text).map_err(|error| Error::invalid(error.to_string().trim_end().to_owned()))?;
        config.check()?;
        Ok(config)
    }

    /// Whether certificates say who clients are.
    pub(crate) fn names_clients(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_names)
    }

    /// Refuses what is not built and what contradicts itself.
    fn check(&self) -> Result<()> {
        self.proxy.iter().try_for_each(Proxy::check)?;
        crate::replicate::check(&self.replicate, &self.proxy)?;
        crate::bucket::Opening::new(&self.storage, &self.environment)?;
        let mut prefixes: Vec<&str> = self.proxy.iter().map(|proxy| proxy.prefix.as_str()).collect();
        prefixes.sort_unstable();
        if let Some([twice, _]) = prefixes.as_slice().windows(2).find(|pair| pair.first() == pair.get(1)) {
            return Err(Error::invalid(format!("two `proxy` sections have the prefix {twice:?}")));
        }
        for (number, webhook) in self.webhook.iter().enumerate() {
            if self.webhook.iter().take(number).any(|earlier| earlier.is_same(webhook)) {
                let message = format!("two `webhook` sections are about {}", webhook.called());
                return Err(Error::invalid(message).with_hint("give each a `name` of its own"));
            }
        }
        let token = self.auth.as_ref().and_then(|auth| auth.token.as_ref());
        if let Some(token) = token {
            let foreign = [token.issuer.is_some(), token.keys.is_some()];
            if foreign.contains(&true) && (foreign.contains(&false) || token.realm.is_none()) {
                let message = "auth.token: `realm`, `issuer` and `keys` of another token server go together";
                return Err(Error::invalid(message));
            }
        }
        if self.auth.is_none() && !self.access.is_empty() {
            return Err(Error::invalid("`access` rules need an `auth` section that says who clients are"));
        }
        if self.auth.as_ref().is_some_and(|auth| auth.htpasswd.is_none())
            && token.is_none_or(|token| token.keys.is_none())
            && !self.names_clients()
        {
            return Err(Error::invalid("`auth` needs `htpasswd`, or a `token` section with `keys`")
                .with_hint("or certificates that name users: `tls.client_names`"));
        }
        let has_authorities = self.tls.as_ref().is_some_and(|tls| tls.client_authorities.is_some());
        if self.names_clients() && !(has_authorities && self.auth.is_some()) {
            return Err(Error::invalid(
                "`tls.client_names` needs `tls.client_authorities` and an `auth` section",
            ));
        }
        Ok(())
    }
}

/// A number of bytes, or text such as `10GB` (powers of 1000) or `10GiB` (of 1024).
pub(crate) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Bytes {
        Number(u64),
        Text(String),
    }
    match Bytes::deserialize(deserializer)? {
        Bytes::Number(number) => Ok(number),
        Bytes::Text(text) => {
            parse_bytes(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no size such as 10GB")))
        }
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit = unit.to_ascii_lowercase();
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some(_) => return None,
    };
    let base: u64 = match unit.get(1..).unwrap_or_default() {
        "" | "b" => 1000,
        "i" | "ib" => 1024,
        _ => return None,
    };
    number.checked_mul(base.checked_pow(power)?)
}

/// Text such as `90s`, `15m`, `2h`, `30d`; `0` for none.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no duration such as 15m")))
}

/// As [`duration`], for a key that may be left out.
pub(crate) fn some_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "" if number == 0 => 0,
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations() {
        assert_eq!(parse_bytes("10GB"), Some(10_000_000_000));
        assert_eq!(parse_bytes("1 GiB"), Some(1 << 30));
        assert_eq!(parse_bytes("5k"), Some(5000));
        assert_eq!(parse_bytes("7"), Some(7));
        for bad in ["", "x", "1X", "1GX", "-1", "99999999999999999999", "99999999999T"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
        assert_eq!(parse_duration("2h"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        assert_eq!(parse_duration("5"), None);
    }

    #[test]
    fn a_whole_file_is_read() {
        let config = Config::parse(
            r#"
            listen = ["127.0.0.1:5000"]
            root = "/var/lib/registry"
            [limits]
            blob = "10GiB"
            silence = "30s"
            [auth]
            htpasswd = "/etc/htpasswd"
            groups = { dev = ["alice"] }
            [auth.token]
            service = "registry.example.com"
            [[access]]
            repositories = "team/**"
            groups = ["dev"]
            actions = ["pull", "push"]
            [[retention]]
            repositories = "**"
            keep_newest = 10
            pushed_within = "30d"
            [[quota]]
            repositories = "team/**"
            bytes = "100GB"
            [[immutable]]
            repositories = "**"
            tags = ["v*"]
            "#,
        )
        .unwrap();
        assert_eq!(config.limits.blob, 10 << 30);
        assert_eq!(config.quota[0].bytes, 100_000_000_000);
        assert!(config.storage.delete);
    }

    #[test]
    fn the_examples_of_the_manual_are_right() {
        let manual = include_str!("../../../docs/registry.md");
        let blocks = manual.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
        let configs: Vec<Config> = blocks.map(|block| Config::parse(block).unwrap()).collect();
        let [whole, bucket] = configs.as_slice() else { panic!("{} examples", configs.len()) };
        assert_eq!((whole.proxy.len(), whole.replicate.len(), whole.webhook.len()), (1, 1, 1));
        assert_eq!(bucket.storage.url.as_deref(), Some("s3://images/registry"));
    }

    /// The defaults that the manual's example shows without another word.
    #[test]
    fn the_manual_shows_defaults() {
        let (limits, collect) = (Limits::default(), Collect::default());
        let manual = include_str!("../../../docs/registry.md");
        for line in [
            format!("blob = \"{}GiB\"", limits.blob >> 30),
            format!("reserve = \"{}MiB\"", limits.reserve >> 20),
            format!("uploads = {} ", limits.uploads),
            format!("connections = {} ", limits.connections),
            format!("connections_per_client = {} ", limits.connections_per_client),
            format!("silence = \"{}s\"", limits.silence.as_secs()),
            format!("grace = \"{}s\"", limits.grace.as_secs()),
            format!("every = \"{}h\"", collect.every.as_secs() / 3600),
            format!("grace = \"{}h\"", collect.grace.as_secs() / 3600),
            format!("uploads = \"{}h\"", collect.uploads.as_secs() / 3600),
            format!("queue = {} ", queue()),
            format!("max_size = \"{}MB\"", crate::audit::Log::at("").max_size / 1_000_000),
            format!("max_files = {} ", crate::audit::Log::at("").max_files),
        ] {
            assert!(manual.lines().any(|shown| shown.starts_with(&line)), "{line}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = Config::parse(
            r#"
            [storage]
            url = "s3://images"
            options = { secret_access_key = "SECRET" }
            [[webhook]]
            url = "https://user:SECRET@hooks.example.com:8443/services/SECRET?token=SECRET"
            headers = { Authorization = "Bearer SECRET" }
            "#,
        );
        let environment = [("AWS_SECRET_ACCESS_KEY".to_owned(), "SECRET".to_owned())].into_iter().collect();
        let config = Config { environment, ..config.unwrap() };
        let opening = crate::bucket::Opening::new(&config.storage, &config.environment).unwrap();
        let shown = format!("{config:?} {opening:?}");
        assert!(!shown.contains("SECRET\""), "{shown}");
        assert!(!shown.contains("SECRET?") && !shown.contains("SECRET@"), "{shown}");
        for name in ["secret_access_key", "AWS_SECRET_ACCESS_KEY", "https://hooks.example.com:8443"] {
            assert!(shown.contains(name), "{shown}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        let cases = [
            ("listne = []", "unknown field"),
            ("[[proxy]]\nremote = 'x'", "unknown field"),
            ("[[proxy]]\nupstream = 'docker.io'\n[[proxy]]\nupstream = 'quay.io'", "two"),
            ("[limits]\nblob = 'much'", "no size"),
            ("[[access]]\nrepositories = '**'\nactions = ['pull']", "auth"),
            ("[auth]", "htpasswd"),
            ("[tls]\ncertificate = 'x'\nkey = 'x'\nclient_names = true", "client_authorities"),
            ("[auth]\nhtpasswd = 'x'\n[auth.token]\nissuer = 'x'", "go together"),
            ("[[webhook]]\nurl = 'http://x'\nevents = ['explode']", "explode"),
            ("[[webhook]]\nurl = 'http://x'\n[[webhook]]\nurl = 'http://x'", "two"),
        ];
        for (text, why) in cases {
            let error = yare_errdefs::chain(&Config::parse(text).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
