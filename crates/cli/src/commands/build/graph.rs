//! What is known of the steps of a build, from the engine's statuses.
//!
//! The engine's clock may differ from ours: how long a step took is told by its times alone, how long one
//! has been running by when we heard of its start.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use yare_api::build::{CANCELLED, SolveStatus, Vertex, VertexStatus, VertexWarning};

/// How many lines of a step's output are kept, for the display and for when it fails.
const KEPT: usize = 100;
/// Longest line that is kept whole.
const LINE: usize = 16 * 1024;

/// The steps in the order in which they were first told of.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// The steps.
    pub steps: Vec<Step>,
    by_digest: HashMap<String, usize>,
}

/// One step.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// For people.
    pub name: String,
    /// When it started last, by the engine's clock.
    pub started: Option<Timestamp>,
    /// When it ended; `None` while it runs.
    pub ended: Option<Timestamp>,
    /// When we heard of its start, by our clock.
    pub heard: Duration,
    /// What it took before it was started again.
    earlier: Duration,
    /// Whether the cache served it.
    pub cached: bool,
    /// Why it failed.
    pub error: String,
    /// What it is doing, in order.
    pub items: Vec<Item>,
    /// The last lines of its output, each with the seconds since its start.
    pub tail: VecDeque<(Duration, Vec<u8>)>,
    partial: Vec<u8>,
}

/// One thing that a step does.
#[derive(Debug, Default)]
pub(super) struct Item {
    /// In words.
    pub id: String,
    /// Units done.
    pub current: i64,
    /// Units in all, 0 when not known.
    pub total: i64,
    /// How long it takes or took.
    pub spent: Duration,
    /// Whether it is done.
    pub done: bool,
}

/// What a status brought of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// Its state.
    State(usize),
    /// The item at the second place.
    Item(usize, usize),
    /// A line of output, so long after its start.
    Line(usize, Duration, Vec<u8>),
    /// A warning.
    Warning(usize, String),
}

impl News {
    /// The step that it is about.
    pub(super) fn step(&self) -> usize {
        match self {
            Self::State(step) | Self::Item(step, _) | Self::Line(step, ..) | Self::Warning(step, _) => *step,
        }
    }
}

impl Step {
    /// Whether it has begun and not ended.
    pub(super) fn runs(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    /// How long it took, or has been running at `now` of our clock.
    pub(super) fn spent(&self, now: Duration) -> Duration {
        match (self.started, self.ended) {
            (Some(started), Some(ended)) => self.earlier + between(started, ended),
            (Some(_), None) => self.earlier + now.saturating_sub(self.heard),
            _ => self.earlier,
        }
    }

    /// Whether it stopped because the build was called off, not for a fault of its own.
    pub(super) fn cancelled(&self) -> bool {
        self.error.ends_with(CANCELLED)
    }

    fn update(&mut self, vertex: &Vertex, now: Duration) {
        vertex.name.clone_into(&mut self.name);
        self.cached |= vertex.cached;
        if !vertex.error.is_empty() {
            vertex.error.clone_into(&mut self.error);
        }
        let (started, ended) = (time(vertex.started.as_deref()), time(vertex.completed.as_deref()));
        // A step that runs is not started again, whatever time the news of its end has for its start.
        if started.is_some() && started != self.started && !self.runs() {
            if let (Some(started), Some(ended)) = (self.started, self.ended) {
                self.earlier += between(started, ended);
            }
            self.started = started;
            self.heard = now;
        }
        if started.is_some() || ended.is_some() {
            self.ended = ended;
        }
    }

    fn item(&mut self, status: &VertexStatus) -> usize {
        let at = self.items.iter().position(|item| item.id == status.id).unwrap_or_else(|| {
            self.items.push(Item { id: status.id.clone(), ..Item::default() });
            self.items.len() - 1
        });
        let item = &mut self.items[at];
        (item.current, item.total) = (status.current, status.total);
        item.done = status.completed.is_some();
        let until = time(status.completed.as_deref()).or_else(|| time(Some(&status.timestamp)));
        if let (Some(started), Some(until)) = (time(status.started.as_deref()), until) {
            item.spent = between(started, until);
        }
        at
    }

    /// Takes output; gives the lines that are complete with it.
    fn output(&mut self, at: Duration, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&rest[..end]);
            lines.push(line);
            rest = &rest[end + 1..];
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() > LINE {
            lines.push(std::mem::take(&mut self.partial));
        }
        self.keep(at, &lines);
        lines
    }

    fn keep(&mut self, at: Duration, lines: &[Vec<u8>]) {
        for line in lines {
            if self.tail.len() == KEPT {
                self.tail.pop_front();
            }
            let most = line.len().min(LINE);
            self.tail.push_back((at, line[..most].to_vec()));
        }
    }
}

impl Graph {
    /// Takes a status in at `now` of our clock; gives what it brought, in order.
    pub(super) fn apply(&mut self, status: &SolveStatus, now: Duration) -> Vec<News> {
        let mut news = Vec::new();
        let mut ended = Vec::new();
        for vertex in &status.vertexes {
            let step = self.step(&vertex.digest);
            self.steps[step].update(vertex, now);
            news.push(News::State(step));
            if self.steps[step].ended.is_some() {
                ended.push(step);
            }
        }
        for item in &status.statuses {
            let step = self.step(&item.vertex);
            let at = self.steps[step].item(item);
            news.push(News::Item(step, at));
        }
        for log in &status.logs {
            let step = self.step(&log.vertex);
            let at = match (self.steps[step].started, time(Some(&log.timestamp))) {
                (Some(started), Some(at)) => between(started, at),
                _ => Duration::ZERO,
            };
            let bytes = STANDARD.decode(&log.data).unwrap_or_default();
            let lines = self.steps[step].output(at, &bytes);
            news.extend(lines.into_iter().map(|line| News::Line(step, at, line)));
        }
        for warning in &status.warnings {
            let step = self.step(&warning.vertex);
            news.push(News::Warning(step, short(warning)));
        }
        // What a step wrote last need not end with a line's end.
        for step in ended {
            let found = &mut self.steps[step];
            if !found.partial.is_empty() {
                let (line, at) = (std::mem::take(&mut found.partial), found.spent(now));
                found.keep(at, std::slice::from_ref(&line));
                news.push(News::Line(step, at, line));
            }
        }
        news
    }

    fn step(&mut self, digest: &str) -> usize {
        if let Some(step) = self.by_digest.get(digest) {
            return *step;
        }
        self.steps.push(Step::default());
        self.by_digest.insert(digest.to_owned(), self.steps.len() - 1);
        self.steps.len() - 1
    }
}

/// The first line of a warning.
pub(super) fn short(warning: &VertexWarning) -> String {
    let bytes = STANDARD.decode(&warning.short).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// Seconds as BuildKit prints them before a line: always five characters up to a thousand.
pub(super) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let digits = match seconds {
        s if s < 9.9995 => 3,
        s if s < 99.995 => 2,
        _ => 1,
    };
    format!("{seconds:.digits$}")
}

/// A size as BuildKit prints it: `1.05MB`.
#[expect(clippy::cast_precision_loss, reason = "two decimals are printed")]
pub(super) fn bytes(count: i64) -> String {
    let mut size = count as f64;
    let mut unit = 0;
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count}B") } else { format!("{size:.2}{}", UNITS[unit]) }
}

impl Item {
    /// How far it is, in bytes: ` 1.05MB / 2.10MB`; empty when nothing is counted.
    pub(super) fn progress(&self) -> String {
        match (self.current, self.total) {
            (0, 0) => String::new(),
            (current, 0) => format!(" {}", bytes(current)),
            (current, total) => format!(" {} / {}", bytes(current), bytes(total)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_becomes_lines_however_it_is_cut() {
        let text = b"one\n\ntwo\nthree";
        for size in 1..=text.len() {
            let mut step = Step::default();
            let lines: Vec<Vec<u8>> =
                text.chunks(size).flat_map(|piece| step.output(Duration::ZERO, piece)).collect();
            assert_eq!(lines, [b"one".as_slice(), b"", b"two"], "in pieces of {size}");
            assert_eq!(step.partial, b"three");
        }
        let mut step = Step::default();
        assert_eq!(step.output(Duration::ZERO, &[b'x'; LINE + 1]).len(), 1, "a line has a longest length");
        for _ in 0..2 * KEPT {
            step.output(Duration::ZERO, b"x\n");
        }
        assert_eq!(step.tail.len(), KEPT);
    }

    #[test]
    fn a_step_that_runs_twice_took_both_times() {
        let mut graph = Graph::default();
        let mut tell = |started: u32, ended: Option<u32>| -> u64 {
            let time = |second: u32| format!("2026-01-02T03:04:{second:02}Z");
            let vertex = Vertex {
                digest: "a".to_owned(),
                started: Some(time(started)),
                completed: ended.map(time),
                ..Vertex::default()
            };
            let status = SolveStatus { vertexes: vec![vertex], ..SolveStatus::default() };
            graph.apply(&status, Duration::from_secs(100));
            graph.steps[0].spent(Duration::from_secs(104)).as_secs()
        };
        assert_eq!(tell(1, None), 4, "by our clock while it runs");
        assert_eq!(tell(1, Some(3)), 2, "by the engine's when it has ended");
        assert_eq!(tell(10, None), 2 + 4);
        assert_eq!(tell(15, Some(15)), 2 + 5, "an end does not start it again");
    }

    #[test]
    fn numbers_as_buildkit_prints_them() {
        let shown = |milliseconds| seconds(Duration::from_millis(milliseconds));
        assert_eq!(
            [shown(0), shown(9_999), shown(10_000), shown(99_990)],
            ["0.000", "9.999", "10.00", "99.99"]
        );
        assert_eq!([shown(99_999), shown(1_234_567)], ["100.0", "1234.6"]);
        assert_eq!(
            [bytes(0), bytes(999), bytes(1_000), bytes(1_234_567)],
            ["0B", "999B", "1.00kB", "1.23MB"]
        );
    }
}
