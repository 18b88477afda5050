//! The display for logs and pipes, with BuildKit's look: one step at a time, each line marked with the
//! step's number.
//!
//! Steps run beside each other, so one that is not shown waits until the shown one ends, but not for long:
//! then the shown one is left with `...` and taken up again later.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::graph::{Graph, News, seconds};

/// How long a step that has something to say waits for the one that is shown.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much it may have to say before it is shown at once.
const BACKLOG: usize = 64 * 1024;
/// A running item is told of again after so long.
const INTERVAL: Duration = Duration::from_secs(1);

/// The display.
#[derive(Debug, Default)]
pub(super) struct Plain {
    /// Numbers of the steps that have been shown, in the order in which they were.
    numbers: BTreeMap<usize, usize>,
    /// What is to be printed of each step, without its number.
    waiting: BTreeMap<usize, Waiting>,
    /// When each running item was told of last.
    told: BTreeMap<(usize, usize), Duration>,
    shown: Option<usize>,
    /// The ends that have been told: what comes after them (warnings) needs no second one.
    ends: BTreeMap<usize, Timestamp>,
    any: bool,
    out: Vec<u8>,
}

#[derive(Debug, Default)]
struct Waiting {
    since: Duration,
    bytes: usize,
    lines: Vec<Vec<u8>>,
    /// Its end is told with the lines.
    ended: bool,
}

impl Plain {
    /// Takes news in; gives what is to be printed.
    pub(super) fn update(&mut self, graph: &Graph, news: Vec<News>, now: Duration) -> Vec<u8> {
        for one in news {
            self.note(graph, one, now);
        }
        self.print(graph, now)
    }

    /// Gives what is to be printed when nothing has been heard for a while.
    pub(super) fn tick(&mut self, graph: &Graph, now: Duration) -> Vec<u8> {
        self.print(graph, now)
    }

    fn note(&mut self, graph: &Graph, news: News, now: Duration) {
        let index = news.step();
        let step = &graph.steps[index];
        let line = match news {
            News::State(_) if step.started.is_none() && step.ended.is_none() => return,
            News::State(_) => None,
            News::Line(_, at, line) => Some([seconds(at).as_bytes(), b" ", &line].concat()),
            News::Warning(_, text) => Some(format!("WARN: {text}").into_bytes()),
            News::Item(_, at) => {
                let item = &step.items[at];
                let told = self.told.get(&(index, at)).copied();
                if !item.done && told.is_some_and(|told| now.saturating_sub(told) < INTERVAL) {
                    return;
                }
                self.told.insert((index, at), now);
                let time = match item.spent {
                    spent if spent > Duration::from_millis(10) => format!(" {:.1}s", spent.as_secs_f64()),
                    _ => String::new(),
                };
                let done = if item.done { " done" } else { "" };
                Some(format!("{}{}{time}{done}", item.id, item.progress()).into_bytes())
            }
        };
        let waiting =
            self.waiting.entry(index).or_insert_with(|| Waiting { since: now, ..Waiting::default() });
        if let Some(line) = line {
            waiting.bytes += line.len();
            waiting.lines.push(line);
        }
        waiting.ended = step.ended.is_some();
    }

    fn print(&mut self, graph: &Graph, now: Duration) -> Vec<u8> {
        if let Some(shown) = self.shown
            && self.waiting.contains_key(&shown)
        {
            self.step(graph, shown, now);
        }
        let mut ended: Vec<usize> =
            self.waiting.iter().filter(|(_, waiting)| waiting.ended).map(|(step, _)| *step).collect();
        ended.sort_by_key(|step| graph.steps[*step].ended);
        for step in ended {
            self.step(graph, step, now);
        }
        let pressing = self.waiting.iter().filter(|(_, waiting)| {
            self.shown.is_none() || waiting.bytes > BACKLOG || now.saturating_sub(waiting.since) >= PATIENCE
        });
        if let Some(step) = pressing.min_by_key(|(_, waiting)| waiting.since).map(|(step, _)| *step) {
            self.step(graph, step, now);
        }
        std::mem::take(&mut self.out)
    }

    /// Prints all that waits of one step, and makes it the shown one until it ends.
    fn step(&mut self, graph: &Graph, index: usize, now: Duration) {
        let Some(waiting) = self.waiting.remove(&index) else { return };
        let step = &graph.steps[index];
        if self.shown != Some(index) {
            if let Some(number) = self.shown.and_then(|shown| self.numbers.get(&shown)) {
                self.out.extend_from_slice(format!("#{number} ...\n").as_bytes());
            }
            if std::mem::replace(&mut self.any, true) {
                self.out.push(b'\n');
            }
            let next = self.numbers.len() + 1;
            let number = *self.numbers.entry(index).or_insert(next);
            self.out.extend_from_slice(format!("#{number} {}\n", step.name).as_bytes());
        }
        let number = self.numbers.get(&index).copied().unwrap_or_default();
        for line in &waiting.lines {
            self.out.extend_from_slice(format!("#{number} ").as_bytes());
            self.out.extend_from_slice(line);
            self.out.push(b'\n');
        }
        self.shown = Some(index);
        if waiting.ended {
            self.shown = None;
            if let Some(ended) = step.ended
                && self.ends.insert(index, ended) == Some(ended)
            {
                return;
            }
            let end = if step.cancelled() {
                "CANCELED".to_owned()
            } else if !step.error.is_empty() {
                format!("ERROR: {}", step.error)
            } else if step.cached {
                "CACHED".to_owned()
            } else {
                format!("DONE {:.1}s", step.spent(now).as_secs_f64())
            };
            self.out.extend_from_slice(format!("#{number} {end}\n").as_bytes());
        }
    }
}

/// The output of steps that failed, in BuildKit's frame; each line as `shown` has it.
pub(super) fn failures(graph: &Graph, shown: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for step in graph.steps.iter().filter(|step| !step.error.is_empty() && !step.cancelled()) {
        out.extend_from_slice(format!("------\n > {}:\n", step.name).as_bytes());
        for (at, line) in &step.tail {
            out.extend_from_slice(format!("{} ", seconds(*at)).as_bytes());
            out.extend_from_slice(&shown(line));
            out.push(b'\n');
        }
        out.extend_from_slice(b"------\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use serde_json::{Value, json};

    /// A moment of the engine's clock, in milliseconds.
    fn at(milliseconds: u32) -> String {
        format!("2026-01-02T03:04:{:02}.{:03}Z", milliseconds / 1000, milliseconds % 1000)
    }

    fn vertex(digest: &str, name: &str, started: Option<u32>, completed: Option<u32>) -> Value {
        json!({ "digest": digest, "name": name, "started": started.map(at), "completed": completed.map(at) })
    }

    fn log(vertex: &str, time: u32, text: &[u8]) -> Value {
        let data = base64::engine::general_purpose::STANDARD.encode(text);
        json!({ "vertex": vertex, "stream": 1, "data": data, "timestamp": at(time) })
    }

    /// What is printed for these statuses, each at its time of our clock.
    fn printed(statuses: &[(u64, Value)]) -> (Graph, String) {
        let (mut graph, mut plain) = (Graph::default(), Plain::default());
        let mut out = Vec::new();
        for (now, status) in statuses {
            let now = Duration::from_millis(*now);
            let status = serde_json::from_value(status.clone()).unwrap();
            let news = graph.apply(&status, now);
            out.extend(plain.update(&graph, news, now));
        }
        (graph, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_build_as_buildkit_prints_it() {
        let warning = base64::engine::general_purpose::STANDARD.encode("StageNameCasing: lower it");
        let (_, text) = printed(&[
            (0, json!({ "vertexes": [vertex("a", "[internal] load build context", None, None)] })),
            (1, json!({ "vertexes": [vertex("a", "[internal] load build context", Some(0), None)] })),
            (
                2,
                json!({ "statuses": [{ "id": "transferring context:", "vertex": "a", "current": 1_234_567,
                "timestamp": at(20), "started": at(0) }] }),
            ),
            (
                3,
                json!({ "statuses": [{ "id": "transferring context:", "vertex": "a", "current": 2_000_000,
                "timestamp": at(200), "started": at(0), "completed": at(200) }] }),
            ),
            (4, json!({ "vertexes": [vertex("a", "[internal] load build context", Some(0), Some(210))] })),
            (
                5,
                json!({ "vertexes": [{ "digest": "b", "name": "[1/2] FROM busybox", "cached": true,
                "started": at(210), "completed": at(210) }] }),
            ),
            (6, json!({ "vertexes": [vertex("c", "[2/2] RUN x", Some(300), None)] })),
            (7, json!({ "logs": [log("c", 423, b"one\ntw")] })),
            (
                8,
                json!({ "logs": [log("c", 12_000, b"o\nthree")],
                "warnings": [{ "vertex": "c", "level": 1, "short": warning }] }),
            ),
            (9, json!({ "vertexes": [vertex("c", "[2/2] RUN x", Some(300), Some(12_500))] })),
            (10, json!({ "warnings": [{ "vertex": "a", "level": 1, "short": warning }] })),
        ]);
        let expected = "\
#1 [internal] load build context
#1 transferring context: 1.23MB 0.0s
#1 transferring context: 2.00MB 0.2s done
#1 DONE 0.2s

#2 [1/2] FROM busybox
#2 CACHED

#3 [2/2] RUN x
#3 0.123 one
#3 11.70 two
#3 WARN: StageNameCasing: lower it
#3 12.20 three
#3 DONE 12.2s

#1 [internal] load build context
#1 WARN: StageNameCasing: lower it
";
        assert_eq!(text, expected);
    }

    #[test]
    fn steps_beside_each_other_take_turns() {
        let (a, b) = ("[a 2/2] RUN a", "[b 2/2] RUN b");
        let (_, text) = printed(&[
            (0, json!({ "vertexes": [vertex("a", a, Some(0), None), vertex("b", b, Some(0), None)] })),
            (10, json!({ "logs": [log("b", 10, b"held\n"), log("a", 11, b"shown\n")] })),
            (4000, json!({ "logs": [log("a", 4000, b"still\n")] })),
            (6000, json!({ "logs": [log("a", 6000, b"late\n")] })),
            (6500, json!({ "logs": [log("b", 6500, b"now\n")] })),
            (7000, json!({ "vertexes": [vertex("a", a, Some(0), Some(7000))] })),
            (7100, json!({ "vertexes": [vertex("b", b, Some(0), Some(7100))] })),
        ]);
        let expected = "\
#1 [a 2/2] RUN a
#1 0.011 shown
#1 4.000 still
#1 6.000 late
#1 ...

#2 [b 2/2] RUN b
#2 0.010 held
#2 6.500 now
#2 ...

#1 [a 2/2] RUN a
#1 DONE 7.0s

#2 [b 2/2] RUN b
#2 DONE 7.1s
";
        assert_eq!(text, expected);
    }

    #[test]
    fn failures_are_framed() {
        let (graph, text) = printed(&[
            (0, json!({ "vertexes": [vertex("a", "[2/2] RUN false", Some(0), None)] })),
            (1, json!({ "logs": [log("a", 100, b"before\n")] })),
            (
                2,
                json!({ "vertexes": [
                { "digest": "b", "name": "[other]", "started": at(0), "completed": at(190),
                  "error": "context canceled" },
                { "digest": "a", "name": "[2/2] RUN false", "started": at(0), "completed": at(200),
                  "error": "process \"/bin/sh -c false\" did not complete successfully: exit code: 1" }] }),
            ),
        ]);
        assert!(text.contains("#2 [other]\n#2 CANCELED\n"), "{text}");
        assert!(text.contains("#1 ERROR: process \"/bin/sh -c false\" did not"), "{text}");
        assert_eq!(
            String::from_utf8(failures(&graph, <[u8]>::to_vec)).unwrap(),
            "------\n > [2/2] RUN false:\n0.100 before\n------\n"
        );
    }

    #[test]
    fn a_held_step_with_much_to_say_is_shown() {
        let much = vec![b'x'; BACKLOG + 1];
        let (_, text) = printed(&[
            (0, json!({ "vertexes": [vertex("a", "a", Some(0), None), vertex("b", "b", Some(0), None)] })),
            (1, json!({ "logs": [log("b", 1, &[much.as_slice(), b"\n"].concat())] })),
        ]);
        assert!(text.starts_with("#1 a\n#1 ...\n\n#2 b\n#2 0.001 xxx"), "{}", &text[..40]);
    }
}
