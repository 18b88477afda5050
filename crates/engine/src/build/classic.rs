//! A build's news as the classic builder prints them: one step after the other. What steps say that run
//! beside an earlier one is kept until that one is done.

use base64::Engine as _;
use std::collections::{HashMap, VecDeque};
use yare_api::build::{BuildResult, SolveStatus, Vertex};
use yare_api::progress::JSONMessage;

/// Bytes of a step's output that are kept while another is shown.
const KEPT: usize = 1 << 20;

/// Puts news into the order of the Dockerfile.
#[derive(Debug, Default)]
pub(super) struct Printer {
    /// Steps that are not done, in order.
    order: VecDeque<String>,
    steps: HashMap<String, Step>,
    shown: usize,
    total: usize,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    begun: bool,
    headed: bool,
    cached: bool,
    done: bool,
    text: Vec<u8>,
}

impl Printer {
    /// What is to be sent because of these news.
    pub(super) fn take(&mut self, status: SolveStatus) -> Vec<JSONMessage> {
        for vertex in status.vertexes {
            self.vertex(vertex);
        }
        for log in status.logs {
            let bytes = base64::engine::general_purpose::STANDARD.decode(&log.data).unwrap_or_default();
            if let Some(step) = self.steps.get_mut(&log.vertex)
                && step.text.len() < KEPT
            {
                step.text.extend_from_slice(&bytes);
            }
        }
        let mut out = Vec::new();
        for warning in status.warnings {
            let text = base64::engine::general_purpose::STANDARD.decode(&warning.short).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let line = warning.range.first().map(|range| format!(" (line {})", range.start.line));
            out.push(JSONMessage::stream(format!("[Warning] {text}{}\n", line.unwrap_or_default())));
        }
        self.show(&mut out);
        out
    }

    fn vertex(&mut self, vertex: Vertex) {
        // Steps of the Dockerfile have a number in their name.
        if !self.steps.contains_key(&vertex.digest) {
            let Some((place, name)) = vertex.name.split_once("] ") else { return };
            if !place.starts_with('[') || !place.contains('/') {
                return;
            }
            self.order.push_back(vertex.digest.clone());
            self.total += 1;
            let step = Step { name: name.to_owned(), ..Step::default() };
            self.steps.insert(vertex.digest.clone(), step);
        }
        if let Some(step) = self.steps.get_mut(&vertex.digest) {
            step.begun |= vertex.started.is_some();
            step.cached |= vertex.cached;
            step.done |= vertex.completed.is_some();
        }
    }

    fn show(&mut self, out: &mut Vec<JSONMessage>) {
        while let Some(first) = self.order.front() {
            let Some(step) = self.steps.get_mut(first) else { return };
            if !step.begun {
                return;
            }
            if !step.headed {
                step.headed = true;
                self.shown += 1;
                out.push(JSONMessage::stream(format!(
                    "Step {}/{} : {}\n",
                    self.shown, self.total, step.name
                )));
            }
            if step.done && step.cached && !step.name.starts_with("FROM ") {
                out.push(JSONMessage::stream(" ---> Using cache\n"));
            }
            if !step.text.is_empty() {
                let text = String::from_utf8_lossy(&std::mem::take(&mut step.text)).into_owned();
                out.push(JSONMessage::stream(text));
            }
            if !step.done {
                return;
            }
            self.order.pop_front();
        }
    }
}

/// The last lines of a build that worked.
pub(super) fn outcome(result: &BuildResult) -> Vec<JSONMessage> {
    let short = result.image_id.trim_start_matches("sha256:").get(..12).unwrap_or_default();
    let mut lines = vec![
        JSONMessage::aux(serde_json::json!({ "ID": result.image_id })),
        JSONMessage::stream(format!("Successfully built {short}\n")),
    ];
    let tagged = result.names.iter().map(|name| JSONMessage::stream(format!("Successfully tagged {name}\n")));
    lines.extend(tagged);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_api::build::VertexLog;

    fn vertex(digest: &str, name: &str, started: bool, completed: bool) -> SolveStatus {
        let time = |there: bool| there.then(|| "2026-01-01T00:00:00Z".to_owned());
        let vertex = Vertex {
            digest: digest.to_owned(),
            name: name.to_owned(),
            started: time(started),
            completed: time(completed),
            ..Vertex::default()
        };
        SolveStatus { vertexes: vec![vertex], ..SolveStatus::default() }
    }

    fn log(digest: &str, text: &str) -> SolveStatus {
        let data = base64::engine::general_purpose::STANDARD.encode(text);
        let log = VertexLog { vertex: digest.to_owned(), stream: 1, data, ..VertexLog::default() };
        SolveStatus { logs: vec![log], ..SolveStatus::default() }
    }

    #[test]
    fn steps_beside_one_another_are_told_one_after_the_other() {
        let mut printer = Printer::default();
        let mut said = String::new();
        let news = [
            vertex("a", "[1/2] RUN one", false, false),
            vertex("b", "[2/2] RUN two", false, false),
            vertex("x", "exporting to image", true, false),
            vertex("b", "[2/2] RUN two", true, false),
            log("b", "b1\n"),
            vertex("a", "[1/2] RUN one", true, false),
            log("a", "a1\n"),
            log("b", "b2\n"),
            log("a", "a2\n"),
            vertex("a", "[1/2] RUN one", true, true),
            vertex("b", "[2/2] RUN two", true, true),
        ];
        for status in news {
            for message in printer.take(status) {
                said.push_str(&message.stream);
            }
        }
        assert_eq!(said, "Step 1/2 : RUN one\na1\na2\nStep 2/2 : RUN two\nb1\nb2\n");
    }
}
