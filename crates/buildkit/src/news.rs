//! What a build tells, kept so that a client may ask at any time and read at its own pace.
//!
//! State changes are all kept. Output is bounded: when a reader is so far behind that the oldest output has
//! to go, it finds a line that says so.

use crate::proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use crate::proto::{Position, Range, SourceInfo, Timestamp};
use base64::Engine as _;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use yare_api::build::{self as api, SolveStatus};

/// Bytes of output that are kept of one build.
const OUTPUT: usize = 16 << 20;
/// Warnings of one build that frontends give.
const MOST_WARNINGS: i32 = 1000;
/// State changes in one answer.
const BATCH: usize = 256;

/// The news of one build.
#[derive(Debug, Default)]
pub(crate) struct News {
    told: Mutex<Told>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Told {
    /// State changes with their place in the order of all news.
    states: Vec<(u64, StatusResponse)>,
    logs: VecDeque<(u64, VertexLog)>,
    bytes: usize,
    next: u64,
    /// Output before this place is gone.
    clipped: u64,
    over: bool,
    /// What steps were last seen as, by digest: whether they are done, and whether the cache served.
    steps: HashMap<String, (bool, bool)>,
    warnings: i32,
}

/// Counts of a build's steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) total: i32,
    pub(crate) completed: i32,
    pub(crate) cached: i32,
    pub(crate) warnings: i32,
}

impl News {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what the build engine tells. `source` is the file that warnings are about.
    pub(crate) fn tell(&self, status: SolveStatus, source: Option<&SourceInfo>) {
        self.add(convert(status, source));
    }

    fn add(&self, mut news: StatusResponse) {
        let mut told = self.lock();
        for log in std::mem::take(&mut news.logs) {
            told.log(log);
        }
        for vertex in &news.vertexes {
            let step = told.steps.entry(vertex.digest.clone()).or_default();
            *step = (vertex.completed.is_some(), step.1 || vertex.cached);
        }
        if news != StatusResponse::default() {
            told.warnings =
                told.warnings.saturating_add(i32::try_from(news.warnings.len()).unwrap_or(i32::MAX));
            let place = told.place();
            told.states.push((place, news));
        }
        drop(told);
        self.changed.notify_waiters();
    }

    /// Adds what a frontend wants to be looked at. What nobody may have read yet is bounded as output is.
    pub(crate) fn warn(&self, warning: VertexWarning) {
        if self.lock().warnings < MOST_WARNINGS {
            self.add(StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
        }
    }

    /// Nothing will follow.
    pub(crate) fn end(&self) {
        self.lock().over = true;
        self.changed.notify_waiters();
    }

    /// Counts of steps.
    pub(crate) fn counts(&self) -> Counts {
        let told = self.lock();
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        Counts {
            total: count(told.steps.len()),
            completed: count(told.steps.values().filter(|(done, _)| *done).count()),
            cached: count(told.steps.values().filter(|(_, cached)| *cached).count()),
            warnings: told.warnings,
        }
    }

    /// All that is left of what was told.
    pub(crate) fn all(&self) -> Vec<StatusResponse> {
        let told = self.lock();
        let mut all = Vec::new();
        let mut place = 0;
        while let Some((message, next)) = told.after(place) {
            all.push(message);
            place = next;
        }
        all
    }

    /// The news from a place on, and the place behind them; waits for some. `None` at the end.
    pub(crate) async fn after(&self, place: u64) -> Option<(StatusResponse, u64)> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let told = self.lock();
                if let Some(found) = told.after(place) {
                    return Some(found);
                }
                if told.over {
                    return None;
                }
            }
            changed.await;
        }
    }
}

impl Told {
    fn place(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn log(&mut self, log: VertexLog) {
        self.bytes += log.text.len();
        let place = self.place();
        self.logs.push_back((place, log));
        while self.bytes > OUTPUT
            && let Some((place, log)) = self.logs.pop_front()
        {
            self.bytes -= log.text.len();
            self.clipped = place + 1;
        }
    }

    /// Output goes out behind the state changes that came before it, one step of the order at a time.
    fn after(&self, place: u64) -> Option<(StatusResponse, u64)> {
        if place >= self.next {
            return None;
        }
        let mut answer = StatusResponse::default();
        let mut states = self.states[self.states.partition_point(|(at, _)| *at < place)..].iter().peekable();
        let mut logs = self.logs.range(self.logs.partition_point(|(at, _)| *at < place)..).peekable();
        let (mut end, mut bytes) = (place, 0);
        if place < self.clipped
            && let Some((_, log)) = logs.peek()
        {
            let text = b"[output clipped: the client reads too slowly]\n".to_vec();
            answer.logs.push(VertexLog { text, ..log.clone() });
        }
        for _ in 0..BATCH {
            let state = states.peek().map_or(u64::MAX, |(at, _)| *at);
            let log = logs.peek().map_or(u64::MAX, |(at, _)| *at);
            if state == u64::MAX && log == u64::MAX || bytes > 256 << 10 {
                break;
            }
            if log < state {
                if let Some((at, log)) = logs.next() {
                    bytes += log.text.len();
                    answer.logs.push(log.clone());
                    end = at + 1;
                }
            } else if !answer.logs.is_empty() {
                // A client takes state before output: what ends a step goes after its output.
                break;
            } else if let Some((at, state)) = states.next() {
                answer.vertexes.extend(state.vertexes.iter().cloned());
                answer.statuses.extend(state.statuses.iter().cloned());
                answer.warnings.extend(state.warnings.iter().cloned());
                end = at + 1;
            }
        }
        // Everything up to here is gone.
        let end = if end == place && answer.logs.is_empty() { self.next } else { end.max(place + 1) };
        Some((answer, end))
    }
}

fn convert(status: SolveStatus, source: Option<&SourceInfo>) -> StatusResponse {
    let time = |text: Option<String>| text.as_deref().and_then(timestamp);
    let vertex = |vertex: api::Vertex| Vertex {
        digest: vertex.digest,
        inputs: vertex.inputs,
        name: vertex.name,
        cached: vertex.cached,
        started: time(vertex.started),
        completed: time(vertex.completed),
        error: vertex.error,
    };
    let progress = |status: api::VertexStatus| VertexStatus {
        id: status.id,
        vertex: status.vertex,
        name: status.name,
        current: status.current,
        total: status.total,
        timestamp: timestamp(&status.timestamp),
        started: time(status.started),
        completed: time(status.completed),
    };
    let log = |log: api::VertexLog| VertexLog {
        vertex: log.vertex,
        timestamp: timestamp(&log.timestamp),
        stream: log.stream,
        text: decode(&log.data),
    };
    let warning = |warning: api::VertexWarning| VertexWarning {
        vertex: warning.vertex,
        level: warning.level,
        short: decode(&warning.short),
        detail: warning.detail.iter().map(|text| decode(text)).collect(),
        url: warning.url,
        info: source.filter(|_| !warning.range.is_empty()).cloned(),
        ranges: warning.range.into_iter().map(range).collect(),
    };
    StatusResponse {
        vertexes: status.vertexes.into_iter().map(vertex).collect(),
        statuses: status.statuses.into_iter().map(progress).collect(),
        logs: status.logs.into_iter().map(log).collect(),
        warnings: status.warnings.into_iter().map(warning).collect(),
    }
}

fn range(range: api::SourceRange) -> Range {
    let position = |place: api::SourcePosition| Position {
        line: i32::try_from(place.line).unwrap_or(i32::MAX),
        character: i32::try_from(place.character).unwrap_or(0),
    };
    Range { start: Some(position(range.start)), end: Some(position(range.end)) }
}

fn decode(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
}

/// Reads RFC 3339.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

/// The time.
pub(crate) fn now() -> Timestamp {
    let time = jiff::Timestamp::now();
    Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(text: &[u8]) -> StatusResponse {
        let log = VertexLog { vertex: "a".to_owned(), text: text.to_vec(), ..VertexLog::default() };
        StatusResponse { logs: vec![log], ..StatusResponse::default() }
    }

    fn step(done: bool) -> StatusResponse {
        let completed = done.then(now);
        let vertex = Vertex { digest: "a".to_owned(), completed, ..Vertex::default() };
        StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }
    }

    #[tokio::test]
    async fn a_late_reader_gets_everything_in_order() {
        let news = News::default();
        for part in [step(false), output(b"one"), output(b"two"), step(true)] {
            news.add(part);
        }
        news.end();
        let (first, place) = news.after(0).await.expect("news");
        assert_eq!((first.vertexes.len(), first.logs.len()), (1, 2));
        let (second, place) = news.after(place).await.expect("news");
        assert!(second.vertexes[0].completed.is_some() && second.logs.is_empty());
        assert_eq!(news.after(place).await, None);
        assert_eq!(news.counts(), Counts { total: 1, completed: 1, ..Counts::default() });
    }

    #[tokio::test]
    async fn a_reader_that_stops_costs_bounded_memory() {
        let news = News::default();
        news.add(step(false));
        let (_, place) = news.after(0).await.expect("news");
        for _ in 0..40 {
            news.add(output(&[b'x'; 1 << 20]));
        }
        news.add(step(true));
        news.end();
        assert!(news.lock().bytes <= OUTPUT);
        let (clipped, mut place) = news.after(place).await.expect("news");
        assert!(clipped.logs[0].text.starts_with(b"[output clipped"));
        let mut done = false;
        while let Some((more, next)) = news.after(place).await {
            done |= more.vertexes.iter().any(|vertex| vertex.completed.is_some());
            place = next;
        }
        assert!(done, "state is never lost");
    }
}
