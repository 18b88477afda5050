//! Counters of requests, printed in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::route::TABLE;

/// Upper bounds of the buckets, in seconds.
const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What was asked and how long the answer took to begin.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Counters>);

#[derive(Debug, Default)]
struct Counters {
    /// By position in the route table (none: no such page) and status.
    requests: BTreeMap<(Option<usize>, u16), u64>,
    /// By position in the route table.
    durations: BTreeMap<usize, Histogram>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, seconds: f64) {
        self.count += 1;
        self.sum += seconds;
        for (bucket, _) in self.buckets.iter_mut().zip(BOUNDS).filter(|(_, bound)| seconds <= *bound) {
            *bucket += 1;
        }
    }
}

impl Metrics {
    /// Counts one answered request.
    pub(crate) fn record(&self, route: Option<usize>, status: u16, took: Duration) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counters.requests.entry((route, status)).or_default() += 1;
        if let Some(route) = route {
            counters.durations.entry(route).or_default().observe(took.as_secs_f64());
        }
    }

    /// The counters as text.
    pub(crate) fn render(&self) -> String {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from(
            "# HELP yare_http_requests_total Requests answered, by route and status.\n\
             # TYPE yare_http_requests_total counter\n",
        );
        for ((route, status), count) in &counters.requests {
            let labels = route.map_or_else(|| "route=\"unknown\"".to_owned(), labels);
            put(&mut text, format_args!("yare_http_requests_total{{{labels},status=\"{status}\"}} {count}"));
        }
        text.push_str(
            "# HELP yare_http_request_duration_seconds Time until the head of the answer, by route.\n\
             # TYPE yare_http_request_duration_seconds histogram\n",
        );
        for (route, histogram) in &counters.durations {
            render_histogram(&mut text, &labels(*route), histogram);
        }
        text
    }
}

fn labels(route: usize) -> String {
    let route = &TABLE[route];
    format!("method=\"{}\",route=\"{}\"", route.verb, route.pattern)
}

fn render_histogram(text: &mut String, labels: &str, histogram: &Histogram) {
    let name = "yare_http_request_duration_seconds";
    for (bound, count) in BOUNDS.iter().zip(histogram.buckets) {
        put(text, format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {count}"));
    }
    let Histogram { count, sum, .. } = histogram;
    put(text, format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {count}"));
    put(text, format_args!("{name}_sum{{{labels}}} {sum}"));
    put(text, format_args!("{name}_count{{{labels}}} {count}"));
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_and_status() {
        let metrics = Metrics::default();
        metrics.record(Some(0), 200, Duration::from_millis(2));
        metrics.record(Some(0), 200, Duration::from_secs(60));
        metrics.record(None, 404, Duration::ZERO);
        let text = metrics.render();
        for line in [
            "yare_http_requests_total{method=\"HEAD\",route=\"/_ping\",status=\"200\"} 2",
            "yare_http_requests_total{route=\"unknown\",status=\"404\"} 1",
            "yare_http_request_duration_seconds_bucket{method=\"HEAD\",route=\"/_ping\",le=\"0.001\"} 0",
            "yare_http_request_duration_seconds_bucket{method=\"HEAD\",route=\"/_ping\",le=\"0.0025\"} 1",
            "yare_http_request_duration_seconds_bucket{method=\"HEAD\",route=\"/_ping\",le=\"+Inf\"} 2",
            "yare_http_request_duration_seconds_sum{method=\"HEAD\",route=\"/_ping\"} 60.002",
            "yare_http_request_duration_seconds_count{method=\"HEAD\",route=\"/_ping\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
