//! What happened, for those who are told: webhooks in the form of Docker's registry notifications.
//!
//! An event is a row of the records (see `queue`), written by the same commit as what it tells of: nobody
//! waits for a webhook, what was acknowledged is told whatever becomes of this process, and events of one
//! webhook have the order of the commits. Pulls cost no commit of their own; they are noted together a moment
//! later (see [`Hooks::pulled`]). A task for each webhook (see `deliver`) sends what waits, one event after
//! the other, and crosses out what was taken: an event may come twice, with the same `id`.

mod deliver;
mod queue;

pub(crate) use deliver::{Delivery, deliveries};
pub(crate) use queue::note;

use crate::config::Webhook;
use crate::name::Pattern;
use crate::problem::Result;
use crate::records::Records;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;
use yare_oci::{ContentDigest, Digest};

/// Pulls that wait to be noted; more of them are lost.
const PULLS: usize = 1000;
/// The media type that Docker's notifications have for blobs.
const BLOB: &str = "application/octet-stream";

/// What happened to a manifest or blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It came, or a tag was moved to it.
    Push,
    /// It was asked for.
    Pull,
    /// A blob was taken from another repository, so that nobody had to send it.
    Mount,
    /// It went, or a tag did.
    Delete,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Mount => "mount",
            Self::Delete => "delete",
        }
    }
}

/// Who made it happen, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    user: String,
    address: String,
    /// What clients call this registry: `https://registry.example.com`; empty when no client asked.
    base: String,
    host: String,
    method: String,
    agent: String,
}

impl Origin {
    /// A request.
    pub(crate) fn of(call: &crate::serve::Call) -> Self {
        let header = |name: http::header::HeaderName| {
            let value = call.parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().chars().take(256).collect::<String>()
        };
        Self {
            user: call.caller.name().to_owned(),
            address: call.peer.address.clone(),
            base: call.base(),
            host: header(http::header::HOST),
            method: call.parts.method.to_string(),
            agent: header(http::header::USER_AGENT),
        }
    }

    /// A part of the registry: `retention`, a rule of replication.
    pub(crate) fn part(name: &str, host: &str) -> Self {
        Self { user: name.to_owned(), host: host.to_owned(), ..Self::default() }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) time: u64,
    pub(crate) kind: Kind,
    pub(crate) repository: String,
    pub(crate) origin: Origin,
    /// Whether it is about a blob.
    pub(crate) is_blob: bool,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<ContentDigest>,
    pub(crate) media_type: String,
    pub(crate) size: u64,
    /// The repository that a blob was mounted from.
    pub(crate) from: Option<String>,
}

impl Event {
    /// An event about a manifest or a tag.
    pub(crate) fn new(kind: Kind, repository: &str, origin: &Origin) -> Self {
        Self {
            id: yare_sys::fs::unique_name("e-"),
            time: crate::clock::now(),
            kind,
            repository: repository.to_owned(),
            origin: origin.clone(),
            is_blob: false,
            tag: None,
            digest: None,
            media_type: String::new(),
            size: 0,
            from: None,
        }
    }

    /// An event about a blob.
    pub(crate) fn blob(
        kind: Kind,
        repository: &str,
        (digest, size): (&ContentDigest, u64),
        origin: &Origin,
    ) -> Self {
        let media_type = BLOB.to_owned();
        Self { is_blob: true, digest: Some(*digest), media_type, size, ..Self::new(kind, repository, origin) }
    }

    /// The element of an envelope's `events`.
    fn to_json(&self) -> Vec<u8> {
        let mut target = json!({
            "mediaType": self.media_type,
            "size": self.size,
            "length": self.size,
            "repository": self.repository,
        });
        if let Some(digest) = &self.digest {
            let kind = if self.is_blob { "blobs" } else { "manifests" };
            target["digest"] = json!(digest.to_string());
            target["url"] = json!(format!("{}/v2/{}/{kind}/{digest}", self.origin.base, self.repository));
        }
        if let Some(tag) = &self.tag {
            target["tag"] = json!(tag);
        }
        if let Some(from) = &self.from {
            target["fromRepository"] = json!(from);
        }
        let Origin { user, address, host, method, agent, .. } = &self.origin;
        let event = json!({
            "id": self.id,
            "timestamp": rfc3339(self.time),
            "action": self.kind.as_str(),
            "target": target,
            "request": { "id": self.id, "addr": address, "host": host, "method": method, "useragent": agent },
            "actor": { "name": user },
            "source": { "addr": rustix::system::uname().nodename().to_string_lossy() },
        });
        event.to_string().into_bytes()
    }
}

/// The body of the request that tells of an event.
fn envelope(event: &[u8]) -> Vec<u8> {
    [b"{\"events\":[", event, b"]}"].concat()
}

/// A time as RFC 3339 writes it, in UTC.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or_default();
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

/// A webhook: what it wants to hear of, and what became of that.
#[derive(Debug)]
pub(crate) struct Hook {
    /// What it is called in metrics and logs.
    name: String,
    /// What it is called in the records: a URL may be a secret.
    key: String,
    repositories: Pattern,
    kinds: Vec<Kind>,
    blobs: bool,
    /// Events that may wait.
    limit: u64,
    is_full: AtomicBool,
    delivered: AtomicU64,
    failures: AtomicU64,
    lost: AtomicU64,
}

impl Hook {
    fn new(name: String, config: &Webhook) -> Self {
        Self {
            name,
            key: Digest::of(config.name.as_ref().unwrap_or(&config.url)).hex().chars().take(16).collect(),
            repositories: config.repositories.clone(),
            kinds: config.events.clone(),
            blobs: config.blobs,
            limit: config.queue.max(1),
            is_full: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// Whether it wants to hear of such events. Mounts and deletes of blobs are told without being asked for
    /// apart: they are few.
    fn cares(&self, kind: Kind, is_blob: bool) -> bool {
        let is_many = is_blob && matches!(kind, Kind::Push | Kind::Pull);
        self.kinds.contains(&kind) && (self.blobs || !is_many)
    }

    fn wants(&self, event: &Event) -> bool {
        self.cares(event.kind, event.is_blob) && self.repositories.matches(&event.repository)
    }

    /// Says when its queue is full, and when it has room again.
    fn note_full(&self, is_full: bool) {
        let (webhook, waiting) = (self.name.as_str(), self.limit);
        let lost = self.lost.load(Ordering::Relaxed);
        match (self.is_full.swap(is_full, Ordering::Relaxed), is_full) {
            (false, true) => {
                tracing::error!(webhook, waiting, "the queue of a webhook is full: events are lost")
            }
            (true, false) => tracing::warn!(webhook, lost, "the queue of a webhook has room again"),
            _ => {}
        }
    }
}

/// Pulls that are to be noted.
#[derive(Debug, Default)]
struct Pulls {
    events: Vec<Event>,
    /// How many there was no room for.
    lost: u64,
}

/// The webhooks, and pulls that are to be noted for them.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    pub(crate) hooks: Arc<[Arc<Hook>]>,
    pulls: Mutex<Pulls>,
    pulled: Notify,
}

impl Hooks {
    /// The webhooks of the configuration.
    pub(crate) fn new(webhooks: &[Webhook]) -> Self {
        let hooks = webhooks.iter().enumerate().map(|(number, config)| {
            let called = config.called();
            // Of one host there may be many.
            let alike = webhooks.iter().take(number).filter(|earlier| earlier.called() == called).count();
            let name = if alike == 0 { called } else { format!("{called} ({})", alike + 1) };
            Arc::new(Hook::new(name, config))
        });
        Self { hooks: hooks.collect(), ..Self::default() }
    }

    /// Who made a request, if anybody may want to know.
    pub(crate) fn origin(&self, call: &crate::serve::Call) -> Option<Origin> {
        (!self.hooks.is_empty()).then(|| Origin::of(call))
    }

    /// Whether anybody wants to hear of such pulls.
    pub(crate) fn care_for_pulls(&self, is_blob: bool) -> bool {
        self.hooks.iter().any(|hook| hook.cares(Kind::Pull, is_blob))
    }

    /// Tells of a pull, which is noted in the records a moment later.
    pub(crate) fn pulled(&self, event: Event) {
        let mut pulls = self.pulls.lock();
        if pulls.events.len() < PULLS {
            pulls.events.push(event);
        } else {
            pulls.lost += 1;
            self.lose(&[event]);
        }
        self.pulled.notify_one();
    }

    fn lose(&self, events: &[Event]) {
        for hook in self.hooks.iter() {
            let count = events.iter().filter(|event| hook.wants(event)).count();
            hook.lost.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Notes the pulls that wait.
    pub(crate) async fn flush(&self, records: &Records) {
        let Pulls { events, lost } = std::mem::take(&mut *self.pulls.lock());
        if lost > 0 {
            tracing::error!(events = lost, "more is pulled than webhooks can be told of: events are lost");
        }
        if events.is_empty() {
            return;
        }
        let (hooks, noted) = (Arc::clone(&self.hooks), events.clone());
        let note = move |writing: &_| noted.iter().try_for_each(|event| note(writing, &hooks, event));
        if let Err(error) = records.write(note).await {
            self.lose(&events);
            let error = yare_errdefs::chain(&error);
            tracing::error!(error, events = events.len(), "webhooks are not told of pulls: events are lost");
        }
    }

    /// Waits for a pull that is to be noted.
    async fn next_pull(&self) {
        self.pulled.notified().await;
    }

    /// The rows of the page of metrics; nothing without webhooks.
    pub(crate) fn metrics(&self, records: &Records) -> String {
        let mut text = String::new();
        if self.hooks.is_empty() {
            return text;
        }
        let waiting = |hook: &Hook| records.view().and_then(|view| queue::length(&view, &hook.key));
        let load = |value: &AtomicU64| -> Result<u64> { Ok(value.load(Ordering::Relaxed)) };
        self.write_metric(&mut text, ("waiting", "gauge", "Events that wait for a webhook"), waiting);
        let delivered = ("delivered_total", "counter", "Events that a webhook took");
        self.write_metric(&mut text, delivered, |hook| load(&hook.delivered));
        let failures = ("failures_total", "counter", "Tries to tell a webhook that failed");
        self.write_metric(&mut text, failures, |hook| load(&hook.failures));
        let lost = ("lost_total", "counter", "Events that a webhook does not get");
        self.write_metric(&mut text, lost, |hook| load(&hook.lost));
        text
    }

    fn write_metric(
        &self,
        text: &mut String,
        (name, kind, help): (&str, &str, &str),
        value: impl Fn(&Hook) -> Result<u64>,
    ) {
        let name = format!("yare_registry_webhook_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for hook in self.hooks.iter() {
            match value(hook) {
                Ok(value) => {
                    let label = crate::metrics::label(&hook.name);
                    let _ = writeln!(text, "{name}{{webhook=\"{label}\"}} {value}");
                }
                Err(error) => {
                    let error = yare_errdefs::chain(&error);
                    tracing::warn!(webhook = hook.name, error, "the queue of a webhook cannot be read");
                }
            }
        }
    }

    /// Events that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.hooks.iter().map(|hook| hook.lost.load(Ordering::Relaxed)).sum()
    }
}
