//! What happened, for those who are told: webhooks in the form of Docker's registry notifications.
//!
//! Each webhook has a queue and a task of its own, so that a slow one delays nobody. What does not fit the
//! queue, or is not taken within a few tries, is lost and counted; the audit log has it all.

use crate::config::Webhook;
use crate::http_client::Target;
use crate::name::RepositoryName;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use yare_oci::Digest;

/// Events that wait for one webhook.
const QUEUE: usize = 1000;
/// Pauses before the tries after the first.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25), Duration::from_secs(120)];

/// What happened to a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Push,
    Pull,
    Delete,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Delete => "delete",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<Digest>,
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) user: String,
    pub(crate) address: String,
    pub(crate) host: String,
    pub(crate) method: String,
    pub(crate) agent: String,
}

impl Event {
    /// An event that a request caused.
    pub(crate) fn new(kind: Kind, repository: &RepositoryName, call: &crate::serve::Call) -> Self {
        let header = |name: http::header::HeaderName| {
            let value = call.parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().chars().take(256).collect()
        };
        Self {
            kind,
            repository: repository.to_string(),
            tag: None,
            digest: None,
            media_type: String::new(),
            size: 0,
            user: call.caller.name().to_owned(),
            address: call.peer.address.clone(),
            host: header(http::header::HOST),
            method: call.parts.method.to_string(),
            agent: header(http::header::USER_AGENT),
        }
    }

    /// An event that no request caused, but `user`, a part of the registry.
    pub(crate) fn by(user: &str, kind: Kind, repository: &str) -> Self {
        Self {
            kind,
            repository: repository.to_owned(),
            tag: None,
            digest: None,
            media_type: String::new(),
            size: 0,
            user: user.to_owned(),
            address: String::new(),
            host: String::new(),
            method: String::new(),
            agent: String::new(),
        }
    }

    fn envelope(&self) -> Vec<u8> {
        let mut target = json!({
            "mediaType": self.media_type,
            "size": self.size,
            "length": self.size,
            "repository": self.repository,
        });
        if let Some(digest) = &self.digest {
            target["digest"] = json!(digest.to_string());
            target["url"] = json!(format!("/v2/{}/manifests/{digest}", self.repository));
        }
        if let Some(tag) = &self.tag {
            target["tag"] = json!(tag);
        }
        let event = json!({
            "id": yare_sys::fs::unique_name("e-"),
            "timestamp": rfc3339(crate::clock::now()),
            "action": self.kind.as_str(),
            "target": target,
            "request": {
                "addr": self.address, "host": self.host, "method": self.method, "useragent": self.agent,
            },
            "actor": { "name": self.user },
        });
        json!({ "events": [event] }).to_string().into_bytes()
    }
}

/// A time as RFC 3339 writes it, in UTC.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or_default();
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

/// The webhooks.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    hooks: Vec<Hook>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Hook {
    config: Webhook,
    queue: mpsc::Sender<Vec<u8>>,
}

impl Hooks {
    /// Starts a task for each webhook.
    pub(crate) fn start(webhooks: &[Webhook]) -> yare_errdefs::Result<Self> {
        let lost = Arc::new(AtomicU64::new(0));
        let mut hooks = Vec::new();
        for config in webhooks {
            let target = Target::new(&config.url, config.authorities.as_deref(), &config.headers)?;
            let (queue, waiting) = mpsc::channel(QUEUE);
            tokio::spawn(deliver(target, crate::http_client::shown(&config.url), waiting, Arc::clone(&lost)));
            hooks.push(Hook { config: config.clone(), queue });
        }
        Ok(Self { hooks, lost })
    }

    /// Whether anybody wants to hear of such events.
    pub(crate) fn cares(&self, kind: Kind) -> bool {
        self.hooks.iter().any(|hook| hook.cares(kind))
    }

    /// Puts an event into the queues of those who want to hear of it.
    pub(crate) fn tell(&self, event: &Event) {
        for hook in self.hooks.iter().filter(|hook| hook.cares(event.kind)) {
            if hook.config.repositories.matches(&event.repository)
                && hook.queue.try_send(event.envelope()).is_err()
            {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Events that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Hook {
    fn cares(&self, kind: Kind) -> bool {
        self.config.events.iter().any(|event| event == kind.as_str())
    }
}

async fn deliver(
    target: Target,
    webhook: String,
    mut waiting: mpsc::Receiver<Vec<u8>>,
    lost: Arc<AtomicU64>,
) {
    while let Some(envelope) = waiting.recv().await {
        let mut pauses = PAUSES.iter();
        loop {
            let Err(error) = target.post(&envelope).await else { break };
            let Some(pause) = pauses.next() else {
                lost.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    webhook,
                    error = yare_errdefs::chain(&error),
                    "a webhook did not take an event: it is lost"
                );
                break;
            };
            tracing::warn!(webhook, error = yare_errdefs::chain(&error), "a webhook did not take an event");
            tokio::time::sleep(*pause).await;
        }
    }
}
