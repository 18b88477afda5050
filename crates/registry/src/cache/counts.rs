//! What caches did, for the page of metrics.

use super::Caches;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of one upstream, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Manifests that were answered from the records without a question.
    pub(crate) hits: AtomicU64,
    /// Manifests that were fetched, or asked about.
    pub(crate) asked: AtomicU64,
    /// Tags that were served as they were, because the upstream did not answer.
    pub(crate) stale: AtomicU64,
    /// Blobs whose fetch began.
    pub(crate) blobs: AtomicU64,
    /// Bytes of blobs that came.
    pub(crate) bytes: AtomicU64,
    /// What an upstream did not deliver, and nothing here could stand in for.
    pub(crate) failures: AtomicU64,
}

impl Counts {
    /// Counts one.
    pub(crate) fn one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Which counter of an upstream a row shows.
type Pick = fn(&Counts) -> &AtomicU64;

/// Names, texts and counters.
const ROWS: [(&str, &str, Pick); 6] = [
    ("hits", "Manifests of upstreams that were answered without asking", |counts| &counts.hits),
    ("asked", "Manifests that an upstream was asked for or about", |counts| &counts.asked),
    ("stale", "Tags that were served stale", |counts| &counts.stale),
    ("blobs", "Blobs that were fetched from an upstream", |counts| &counts.blobs),
    ("bytes", "Bytes of blobs that were fetched from an upstream", |counts| &counts.bytes),
    ("failures", "What an upstream did not deliver", |counts| &counts.failures),
];

impl Caches {
    /// The counters in Prometheus' text format; nothing without caches.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        for (name, help, pick) in ROWS.iter().filter(|_| !self.0.is_empty()) {
            let name = format!("yare_registry_cache_{name}_total");
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            for upstream in &self.0 {
                let value = pick(&upstream.counts).load(Ordering::Relaxed);
                // Both are names of a strict grammar: nothing in them needs an escape.
                let (prefix, of) = (&upstream.proxy.prefix, &upstream.proxy.upstream);
                let _ = writeln!(text, "{name}{{prefix=\"{prefix}\",upstream=\"{of}\"}} {value}");
            }
        }
        text
    }
}
