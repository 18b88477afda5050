//! Counters, and their page in Prometheus' text format.

use crate::collect::Collected;
use crate::scrub::Scrubbed;
use http::StatusCode;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of durations, in milliseconds.
const BOUNDS: [u64; 8] = [1, 5, 25, 100, 500, 2500, 10_000, 60_000];

/// Of requests with the same kind of target, method and status.
#[derive(Debug, Clone, Default)]
struct Requests {
    count: u64,
    /// How many took at most as long as each bound.
    buckets: [u64; BOUNDS.len()],
    seconds: f64,
}

/// The counters of a registry.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, &'static str, u16), Requests>>,
    sent: AtomicU64,
    running: AtomicU64,
    collections: AtomicU64,
    collected_blobs: AtomicU64,
    collected_bytes: AtomicU64,
    damaged: AtomicU64,
}

/// Counts a running request until it is dropped.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a AtomicU64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a request that begins.
    pub(crate) fn begin(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(&self.running)
    }

    /// Counts a request that was answered with so many bytes.
    pub(crate) fn count(
        &self,
        kind: &'static str,
        method: &str,
        status: StatusCode,
        took: Duration,
        bytes: u64,
    ) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        let mut requests = self.requests.lock();
        let entry = requests.entry((kind, known(method), status.as_u16())).or_default();
        entry.count += 1;
        entry.seconds += took.as_secs_f64();
        for (bound, bucket) in BOUNDS.iter().zip(&mut entry.buckets) {
            *bucket += u64::from(took <= Duration::from_millis(*bound));
        }
    }

    /// Counts a collection.
    pub(crate) fn collected(&self, collected: &Collected) {
        if !collected.dry_run {
            self.collections.fetch_add(1, Ordering::Relaxed);
            self.collected_blobs.fetch_add(collected.blobs, Ordering::Relaxed);
            self.collected_bytes.fetch_add(collected.bytes, Ordering::Relaxed);
        }
    }

    /// Notes what scrubbing found.
    pub(crate) fn scrubbed(&self, scrubbed: &Scrubbed) {
        self.damaged.store(scrubbed.damaged.len() as u64, Ordering::Relaxed);
    }

    /// The page.
    pub(crate) fn text(&self, uploads: u64, lost_events: u64, lost_lines: u64) -> String {
        let mut text = String::new();
        self.write_requests(&mut text);
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let rows = [
            ("yare_registry_sent_bytes_total", "counter", "Bytes of bodies sent", load(&self.sent)),
            ("yare_registry_requests_running", "gauge", "Requests being answered", load(&self.running)),
            ("yare_registry_uploads_open", "gauge", "Uploads under way", uploads),
            ("yare_registry_collections_total", "counter", "Collections that ran", load(&self.collections)),
            (
                "yare_registry_collected_blobs_total",
                "counter",
                "Blobs collected",
                load(&self.collected_blobs),
            ),
            (
                "yare_registry_collected_bytes_total",
                "counter",
                "Bytes collected",
                load(&self.collected_bytes),
            ),
            (
                "yare_registry_damaged",
                "gauge",
                "Content that the last scrub found damaged",
                load(&self.damaged),
            ),
            ("yare_registry_lost_events_total", "counter", "Events that webhooks did not get", lost_events),
            (
                "yare_registry_lost_audit_lines_total",
                "counter",
                "Requests that the audit log lacks",
                lost_lines,
            ),
        ];
        for (name, kind, help, value) in rows {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        text
    }

    fn write_requests(&self, text: &mut String) {
        const NAME: &str = "yare_registry_request_seconds";
        let _ = writeln!(text, "# HELP {NAME} Time until the head of the reply\n# TYPE {NAME} histogram");
        for ((kind, method, status), requests) in &*self.requests.lock() {
            let labels = format!("target=\"{kind}\",method=\"{method}\",status=\"{status}\"");
            for (bound, count) in BOUNDS.iter().zip(requests.buckets) {
                let bound = Duration::from_millis(*bound).as_secs_f64();
                let _ = writeln!(text, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(text, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {}", requests.count);
            let _ = writeln!(text, "{NAME}_sum{{{labels}}} {}", requests.seconds);
            let _ = writeln!(text, "{NAME}_count{{{labels}}} {}", requests.count);
        }
    }
}

/// A text as the value of a label.
pub(crate) fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Clients choose methods; they must not choose how many counters there are.
fn known(method: &str) -> &'static str {
    ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_kind() {
        let metrics = Metrics::default();
        metrics.count("blob", "GET", StatusCode::OK, Duration::from_millis(3), 10);
        metrics.count("blob", "BREW", StatusCode::OK, Duration::from_millis(3), 0);
        let text = metrics.text(1, 2, 0);
        let labels = "target=\"blob\",method=\"GET\",status=\"200\"";
        assert!(text.contains(&format!("yare_registry_request_seconds_bucket{{{labels},le=\"0.001\"}} 0")));
        assert!(text.contains(&format!("yare_registry_request_seconds_bucket{{{labels},le=\"0.005\"}} 1")));
        assert!(text.contains("method=\"other\""));
        assert!(text.contains("yare_registry_sent_bytes_total 10"));
    }
}
