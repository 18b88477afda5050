//! Things that happened: published once, kept for replay, followed by whoever asks.

use crate::Engine;
use futures_util::Stream;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::broadcast;
use yare_api::filters::Filters;
use yare_api::{EventActor, EventMessage};
use yare_errdefs::Result;

/// How many past events can be replayed; Docker keeps as many.
const KEPT: usize = 256;
/// How far a slow follower may fall behind before it misses events.
const BEHIND: usize = 4096;

/// The names of the filters that `events` takes.
pub const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// The channel that all events go through.
#[derive(Debug)]
pub struct Events {
    past: Mutex<VecDeque<Arc<EventMessage>>>,
    live: broadcast::Sender<Arc<EventMessage>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { past: Mutex::default(), live: broadcast::channel(BEHIND).0 }
    }
}

impl Events {
    /// Publishes an event that happened now.
    pub fn publish(
        &self,
        now: Timestamp,
        kind: &str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let named = matches!(kind, "container" | "image");
        let message = Arc::new(EventMessage {
            status: if named { action.to_owned() } else { String::new() },
            id: if named { id.to_owned() } else { String::new() },
            from: if kind == "container" {
                attributes.get("image").cloned().unwrap_or_default()
            } else {
                String::new()
            },
            r#type: kind.to_owned(),
            action: action.to_owned(),
            actor: EventActor { id: id.to_owned(), attributes },
            scope: "local".to_owned(),
            time: now.as_second(),
            time_nano: i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
        });
        let mut past = self.past.lock();
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(Arc::clone(&message));
        // Under the lock, so that a new follower sees each event once: replayed or live.
        let _ = self.live.send(message);
    }

    /// How many follow now.
    pub fn followers(&self) -> usize {
        self.live.receiver_count()
    }

    fn follow(&self) -> (Vec<Arc<EventMessage>>, broadcast::Receiver<Arc<EventMessage>>) {
        let past = self.past.lock();
        (past.iter().cloned().collect(), self.live.subscribe())
    }
}

/// What to follow.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// Replay from here; nothing is replayed without it or `until`.
    pub since: Option<Timestamp>,
    /// End here; a time in the past ends after the replay.
    pub until: Option<Timestamp>,
}

/// Follows events: the past ones in the window first, then new ones until the window ends.
pub fn subscribe(
    engine: &Arc<Engine>,
    window: Window,
    filters: Filters,
) -> Result<impl Stream<Item = Arc<EventMessage>> + Send + 'static + use<>> {
    filters.validate(FILTERS)?;
    let (past, live) = engine.events.follow();
    let replay: VecDeque<_> = match (window.since, window.until) {
        (None, None) => VecDeque::new(),
        (since, until) => past.into_iter().filter(|event| in_window(event, since, until)).collect(),
    };
    let deadline = window.until.map(|until| {
        let left = until.duration_since(engine.clock.now());
        tokio::time::Instant::now() + std::time::Duration::try_from(left).unwrap_or_default()
    });
    Ok(futures_util::stream::unfold(
        (replay, live, filters),
        move |(mut replay, mut live, filters)| async move {
            loop {
                let event = match replay.pop_front() {
                    Some(event) => event,
                    None => next_live(&mut live, deadline).await?,
                };
                if matches(&event, &filters) {
                    return Some((event, (replay, live, filters)));
                }
            }
        },
    ))
}

async fn next_live(
    live: &mut broadcast::Receiver<Arc<EventMessage>>,
    deadline: Option<tokio::time::Instant>,
) -> Option<Arc<EventMessage>> {
    loop {
        let next = async {
            match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, live.recv()).await.ok(),
                None => Some(live.recv().await),
            }
        };
        match next.await? {
            Ok(event) => return Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "an event follower is too slow and misses events");
            }
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

fn in_window(event: &EventMessage, since: Option<Timestamp>, until: Option<Timestamp>) -> bool {
    let at = i128::from(event.time_nano);
    since.is_none_or(|since| at >= since.as_nanosecond())
        && until.is_none_or(|until| at <= until.as_nanosecond())
}

/// Whether an event passes the filters: every named filter must have a value that fits.
fn matches(event: &EventMessage, filters: &Filters) -> bool {
    let actor = &event.actor;
    let named = |kind: &str| {
        let wanted = filters.values(kind);
        wanted.is_empty()
            || wanted.iter().any(|wanted| {
                event.r#type == kind
                    && (actor.id == *wanted
                        || actor.id.starts_with(wanted.as_str())
                        || actor
                            .attributes
                            .get("name")
                            .is_some_and(|name| name == wanted.trim_start_matches('/')))
            })
    };
    let one_of = |filter: &str, value: &str| {
        let wanted = filters.values(filter);
        wanted.is_empty() || wanted.iter().any(|wanted| wanted == value)
    };
    let action = event.action.split(':').next().unwrap_or_default();
    let image = || {
        let wanted = filters.values("image");
        wanted.is_empty()
            || wanted.iter().any(|wanted| {
                [Some(&actor.id), actor.attributes.get("name"), actor.attributes.get("image")]
                    .into_iter()
                    .flatten()
                    .any(|have| have == wanted || have.split(':').next() == Some(wanted.as_str()))
            })
    };
    one_of("type", &event.r#type)
        && (one_of("event", &event.action) || one_of("event", action))
        && one_of("scope", &event.scope)
        && named("container")
        && named("volume")
        && named("network")
        && image()
        && filters.match_labels("label", &actor.attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, action: &str, name: &str) -> EventMessage {
        let events = Events::default();
        let attributes =
            BTreeMap::from([("name".to_owned(), name.to_owned()), ("k".to_owned(), "v".to_owned())]);
        events.publish(Timestamp::UNIX_EPOCH, kind, action, "0123abcd", attributes);
        let (past, _) = events.follow();
        past[0].as_ref().clone()
    }

    fn filters(json: &str) -> Filters {
        Filters::parse(json).unwrap()
    }

    #[test]
    fn filters_by_type_name_and_action() {
        let die = event("container", "die", "web");
        assert!(matches(&die, &filters(r#"{"type":["container"]}"#)));
        assert!(!matches(&die, &filters(r#"{"type":["image"]}"#)));
        assert!(matches(&die, &filters(r#"{"container":{"web":true},"event":{"die":true}}"#)));
        assert!(matches(&die, &filters(r#"{"container":["0123"]}"#)));
        assert!(!matches(&die, &filters(r#"{"volume":["web"]}"#)));
        assert!(matches(
            &event("container", "exec_start: sh", "web"),
            &filters(r#"{"event":["exec_start"]}"#)
        ));
        assert!(matches(&die, &filters(r#"{"label":["k=v"]}"#)));
        assert!(!matches(&die, &filters(r#"{"label":["k=w"]}"#)));
    }

    #[test]
    fn keeps_a_bounded_past() {
        let events = Events::default();
        for _ in 0..KEPT + 10 {
            events.publish(Timestamp::UNIX_EPOCH, "container", "start", "x", BTreeMap::new());
        }
        assert_eq!(events.follow().0.len(), KEPT);
    }
}
