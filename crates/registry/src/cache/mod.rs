//! Pull-through caches: repositories below a prefix are an upstream's, fetched when they are asked for.
//!
//! What has a digest is kept and never asked for again. A tag is believed for a while; then the upstream is
//! asked, and when it does not answer, what is here is served and said to be stale. Manifests are stored
//! without their blobs, which come when a client wants them: the first one gets them as they come in, and
//! others that ask meanwhile share that transfer. Nothing is stored, and no client gets the last byte of
//! anything, before its digest is right.
//!
//! Bounded: transfers at a time, repositories whose session is kept, sizes as for pushes; in space by the
//! collection, which takes what nobody pulled for a while, and by quotas: what has no room is passed
//! through.

pub(crate) mod blobs;
mod counts;
pub(crate) mod manifests;

use crate::problem::{Code, Error, Refusal, Result};
use crate::remote::{self, Outbound, Remote};
use crate::retention::Retention;
use counts::Counts;
use http::StatusCode;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use yare_distribution::{Client, Intent, Patience, Repository};
use yare_errdefs::{Class, Classified};
use yare_oci::ContentDigest;

/// Repositories whose session with the upstream is kept.
const SESSIONS: usize = 256;
/// How long one is: then credentials and certificates are read anew.
const SESSION: Duration = Duration::from_secs(300);
/// How long an upstream that did not answer is not asked about what is here.
const DOWN: Duration = Duration::from_secs(10);

/// An upstream to cache.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// Repositories below this name are the upstream's: with `hub`, `hub/library/debian` is its
    /// `library/debian`. Empty for all that no other upstream has; the longest prefix counts.
    #[serde(default)]
    pub prefix: String,
    /// The registry, perhaps with how its repositories begin: `docker.io`, `quay.io/team`.
    pub upstream: String,
    /// How long a tag is believed before the upstream is asked again.
    #[serde(default = "fresh", deserialize_with = "crate::config::duration")]
    pub fresh: Duration,
    /// What nobody pulled for so long is taken by the collection; 0 keeps everything.
    #[serde(default = "unused_after", deserialize_with = "crate::config::duration")]
    pub unused_after: Duration,
    /// The user at the upstream.
    #[serde(default)]
    pub username: Option<String>,
    /// The file with that user's password, read again every few minutes.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Whether the upstream may be reached without, or with unproven, TLS.
    #[serde(default)]
    pub insecure: bool,
    /// Folders with a folder per registry: authorities, client certificates, mirrors (`hosts.toml`).
    #[serde(default)]
    pub certs_dirs: Vec<PathBuf>,
    /// Blobs that are fetched at a time; clients that ask for more are told to come back.
    #[serde(default = "fetches")]
    pub fetches: usize,
}

fn fresh() -> Duration {
    Duration::from_secs(300)
}

fn unused_after() -> Duration {
    Duration::from_secs(30 * 86_400)
}

fn fetches() -> usize {
    64
}

impl Proxy {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> yare_errdefs::Result<()> {
        let wrong = |why: &str| {
            yare_errdefs::Error::invalid(format!("proxy {:?} of {:?}: {why}", self.prefix, self.upstream))
        };
        self.reach().check(&self.prefix).map_err(|why| wrong(&why))?;
        if self.fetches == 0 {
            return Err(wrong("`fetches` is 0"));
        }
        Ok(())
    }

    /// The rule by which the collection takes what nobody pulls.
    pub(crate) fn retention(&self) -> Option<Retention> {
        let age = Some(self.unused_after).filter(|age| !age.is_zero());
        let below = if self.prefix.is_empty() { "**".to_owned() } else { format!("{}/**", self.prefix) };
        age.map(|age| Retention {
            repositories: crate::name::Pattern::new(below),
            tags: vec![crate::name::Pattern::new("*")],
            keep_newest: None,
            pushed_within: Some(age),
            pulled_within: Some(age),
            untagged_after: Some(age),
        })
    }

    /// The part of a repository's name that the upstream knows it by, when it is one of its.
    pub(crate) fn rest<'a>(&self, name: &'a str) -> Option<&'a str> {
        remote::below(&self.prefix, name)
    }

    fn reach(&self) -> Remote<'_> {
        Remote {
            of: &self.upstream,
            username: self.username.as_deref(),
            password_file: self.password_file.as_deref(),
            insecure: self.insecure,
            certs_dirs: &self.certs_dirs,
        }
    }

    fn client(&self, outbound: &Outbound) -> yare_errdefs::Result<Client> {
        // Clients wait: whoever has something to show for it tries less long.
        let patience = Patience {
            attempts: 3,
            pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            document: Duration::from_secs(60),
            ..Patience::default()
        };
        self.reach().client(outbound, patience)
    }
}

/// All upstreams.
#[derive(Debug)]
pub(crate) struct Caches(Vec<Arc<Upstream>>);

impl Caches {
    /// What the configuration says.
    pub(crate) fn open(proxies: &[Proxy], outbound: &Outbound) -> yare_errdefs::Result<Self> {
        let mut proxies = proxies.to_vec();
        proxies.sort_by_key(|proxy| std::cmp::Reverse(proxy.prefix.len()));
        let open = proxies.into_iter().map(|proxy| Upstream::new(proxy, outbound).map(Arc::new));
        Ok(Self(open.collect::<yare_errdefs::Result<_>>()?))
    }

    /// The upstream that a repository is of.
    pub(crate) fn of(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.0.iter().find(|upstream| upstream.proxy.rest(name).is_some())
    }
}

/// An upstream and what is going on with it.
#[derive(Debug)]
pub(crate) struct Upstream {
    proxy: Proxy,
    client: Client,
    sessions: Mutex<HashMap<String, (Instant, Repository)>>,
    down_until: Mutex<Option<Instant>>,
    asking: Turns<(String, String)>,
    fetching: Arc<tokio::sync::Semaphore>,
    running: Mutex<HashMap<(String, ContentDigest), Arc<blobs::Fetch>>>,
    counts: Counts,
}

impl Upstream {
    fn new(proxy: Proxy, outbound: &Outbound) -> yare_errdefs::Result<Self> {
        Ok(Self {
            client: proxy.client(outbound)?,
            fetching: Arc::new(tokio::sync::Semaphore::new(proxy.fetches)),
            proxy,
            sessions: Mutex::default(),
            down_until: Mutex::default(),
            asking: Turns::default(),
            running: Mutex::default(),
            counts: Counts::default(),
        })
    }

    /// The refusal of a push.
    pub(crate) fn read_only(&self, name: &str) -> Refusal {
        let message = format!("{name} is a cache of {}; push to that", self.proxy.upstream);
        Refusal::new(Code::Unsupported, message)
    }

    /// The repository there. Its session is kept for a while, so that one token serves a whole pull.
    async fn repository(&self, name: &str) -> Result<Repository> {
        let known = self.sessions.lock().get(name).cloned();
        if let Some((_, repository)) = known.filter(|(since, _)| since.elapsed() < SESSION) {
            return Ok(repository);
        }
        let remote = self.proxy.rest(name).and_then(|rest| self.proxy.reach().repository(rest));
        let Some(remote) = remote else { return Err(crate::manifests::no_repository(name).into()) };
        let credentials = self.proxy.reach().credentials()?;
        let opened = self.client.repository(&remote, &credentials, Intent::Pull).await;
        let repository = opened.map_err(|error| self.refusal(&error, || unreachable(&error)))?;
        let mut sessions = self.sessions.lock();
        if sessions.len() >= SESSIONS {
            sessions.retain(|_, (since, _)| since.elapsed() < SESSION);
        }
        if sessions.len() < SESSIONS {
            sessions.insert(name.to_owned(), (Instant::now(), repository.clone()));
        }
        Ok(repository)
    }

    fn is_down(&self) -> bool {
        self.down_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Notes what an answer says about the upstream.
    fn note<T>(&self, answer: &yare_distribution::Result<T>) {
        let is_down = answer.as_ref().is_err_and(|error| error.class() == Class::Unavailable);
        *self.down_until.lock() = is_down.then(|| Instant::now() + DOWN);
    }

    /// What a client is told of the upstream's answer; `missing` makes the refusal of what is not there.
    fn refusal(&self, error: &yare_distribution::Error, missing: impl Fn() -> Refusal) -> Error {
        Counts::one(&self.counts.failures);
        let text = yare_errdefs::chain(error);
        tracing::warn!(upstream = self.proxy.upstream, error = text, "an upstream does not deliver");
        match error.class() {
            Class::NotFound => missing().into(),
            _ if error.status() == Some(StatusCode::TOO_MANY_REQUESTS) => {
                Refusal::new(Code::TooManyRequests, format!("the upstream limits the rate: {text}"))
                    .with_header(http::header::RETRY_AFTER, "60")
                    .into()
            }
            Class::PermissionDenied | Class::Unauthenticated => {
                Refusal::new(Code::Denied, format!("the upstream refuses: {text}")).into()
            }
            _ => unreachable(error).into(),
        }
    }
}

fn unreachable(error: &yare_distribution::Error) -> Refusal {
    let message = format!("the upstream does not deliver: {}", yare_errdefs::chain(error));
    Refusal::new(Code::Unavailable, message).with_status(StatusCode::BAD_GATEWAY)
}

/// One at a time for each key.
#[derive(Debug)]
struct Turns<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits for the turn; it lasts until what is returned is dropped.
    async fn wait(&self, key: K) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock();
            let known = turns.get(&key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                turns.retain(|_, turn| turn.strong_count() > 0);
                let turn = Arc::new(tokio::sync::Mutex::new(()));
                turns.insert(key, Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Proxy {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn names_are_mapped_by_the_longest_prefix() {
        let proxies = [
            proxy("upstream = 'docker.io'"),
            proxy("prefix = 'quay'\nupstream = 'quay.io'"),
            proxy("prefix = 'quay/ours'\nupstream = 'registry.example:5000/team'"),
        ];
        let caches = Caches::open(&proxies, &Outbound::default()).unwrap();
        let cases = [
            ("debian", "docker.io/library/debian"),
            ("quay", "docker.io/library/quay"),
            ("quayx/a", "docker.io/quayx/a"),
            ("quay/a/b", "quay.io/a/b"),
            ("quay/ours/app", "registry.example:5000/team/app"),
        ];
        for (name, want) in cases {
            let upstream = caches.of(name).unwrap();
            let remote = upstream.proxy.reach().repository(upstream.proxy.rest(name).unwrap()).unwrap();
            assert_eq!(remote.repository(), want, "{name}");
        }
        let caches = Caches::open(&proxies[1..], &Outbound::default()).unwrap();
        assert!(caches.of("debian").is_none());
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (text, why) in [
            ("upstream = 'library'", "host:port/path"),
            ("upstream = 'https://docker.io'", "host:port/path"),
            ("prefix = '../x'\nupstream = 'docker.io'", "prefix"),
            ("username = 'x'\nupstream = 'docker.io'", "go together"),
            ("fetches = 0\nupstream = 'docker.io'", "fetches"),
        ] {
            let error = proxy(text).check().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        proxy("upstream = 'docker.io'").check().unwrap();
    }
}
