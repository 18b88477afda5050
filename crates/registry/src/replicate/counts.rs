//! What a rule did since the start of this process.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of a rule.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(super) manifests: AtomicU64,
    pub(super) blobs: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) deleted: AtomicU64,
    pub(super) failures: AtomicU64,
}

/// Which counter a row shows.
type Pick = fn(&Counts) -> &AtomicU64;

/// Names, texts and counters.
pub(super) const ROWS: [(&str, &str, Pick); 5] = [
    ("manifests", "Manifests that were copied", |counts| &counts.manifests),
    ("blobs", "Blobs that were copied", |counts| &counts.blobs),
    ("bytes", "Bytes of blobs that were copied", |counts| &counts.bytes),
    ("deleted", "Tags that were deleted", |counts| &counts.deleted),
    ("failures", "Attempts that failed", |counts| &counts.failures),
];

impl Counts {
    /// Adds to one of them.
    pub(super) fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }
}
