//! The display for terminals: the state of the graph, redrawn in place.
//!
//! A frame is made of whole lines, none of which may wrap: wrapping is switched off while it is drawn, and
//! times are put in their column by the terminal, so that no width of a character has to be known. What
//! containers print is shown without its control characters.

use std::time::Duration;

use super::graph::{Graph, Step};

/// How many of its last lines a running step shows.
const LINES: usize = 6;
/// Columns for the time at the right.
const TIME: usize = 8;

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

/// The display.
#[derive(Debug)]
pub(super) struct Terminal {
    colours: bool,
    /// How many lines of the last frame are on the screen.
    drawn: usize,
}

/// One line of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    text: String,
    time: Option<Duration>,
    colour: Option<u8>,
    /// Left out first when there is little room; 0 is never.
    rank: u8,
}

const BLUE: Option<u8> = Some(34);
const RED: Option<u8> = Some(31);
const FAINT: Option<u8> = Some(2);

impl Terminal {
    /// A display in colours, or without.
    pub(super) fn new(colours: bool) -> Self {
        Self { colours, drawn: 0 }
    }

    /// What redraws the display.
    pub(super) fn frame(&mut self, graph: &Graph, now: Duration, size: Size) -> String {
        let mut lines = lines(graph, now, false);
        shorten(&mut lines, size.rows.saturating_sub(2).max(2));
        self.draw(&lines, size)
    }

    /// What draws the display for the last time: every step, with the cursor below.
    pub(super) fn last(&mut self, graph: &Graph, now: Duration, size: Size) -> String {
        let lines = lines(graph, now, true);
        self.draw(&lines, size)
    }

    fn draw(&mut self, lines: &[Line], size: Size) -> String {
        // No wrapping, no cursor; then over the last frame line by line, since wiping it first flickers.
        let mut out = String::from("\x1b[?25l\x1b[?7l");
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        out.push('\r');
        for line in lines {
            let room = size.columns.saturating_sub(if line.time.is_some() { TIME + 1 } else { 1 });
            let text: String = line.text.chars().take(room).collect();
            let colour = line.colour.filter(|_| self.colours);
            if let Some(colour) = colour {
                out.push_str(&format!("\x1b[{colour}m"));
            }
            out.push_str(&text);
            out.push_str("\x1b[K");
            if let Some(time) = line.time {
                let column = size.columns.saturating_sub(TIME).max(1);
                out.push_str(&format!(
                    "\x1b[{column}G\x1b[K{:>TIME$}",
                    format!("{:.1}s", time.as_secs_f64())
                ));
            }
            if colour.is_some() {
                out.push_str("\x1b[0m");
            }
            out.push('\n');
        }
        out.push_str("\x1b[J\x1b[?7h");
        self.drawn = lines.len();
        out
    }
}

/// The whole picture.
fn lines(graph: &Graph, now: Duration, last: bool) -> Vec<Line> {
    let ended = graph.steps.iter().filter(|step| step.ended.is_some()).count();
    let cached = graph.steps.iter().filter(|step| step.cached).count();
    let failed = graph.steps.iter().any(|step| !step.error.is_empty());
    let mut head = format!("[+] Building {:.1}s ({ended}/{})", now.as_secs_f64(), graph.steps.len());
    if cached > 0 {
        head.push_str(&format!(", {cached} cached"));
    }
    if last && ended == graph.steps.len() && !failed {
        head.push_str(" FINISHED");
    }
    let mut lines = vec![Line { text: head, time: None, colour: None, rank: 0 }];
    let mut steps: Vec<&Step> =
        graph.steps.iter().filter(|step| step.started.is_some() || step.cached).collect();
    steps.sort_by_key(|step| step.heard);
    for step in steps {
        step_lines(&mut lines, step, now, last);
    }
    lines
}

fn step_lines(lines: &mut Vec<Line>, step: &Step, now: Duration, last: bool) {
    let (state, colour, rank) = match step {
        _ if step.runs() => ("", None, 1),
        _ if step.cancelled() => ("CANCELED ", RED, 5),
        _ if !step.error.is_empty() => ("ERROR ", RED, 1),
        _ if step.cached => ("CACHED ", BLUE, 6),
        _ => ("", BLUE, 5),
    };
    lines.push(Line {
        text: format!(" => {state}{}", clean(step.name.as_bytes())),
        time: Some(step.spent(now)),
        colour,
        rank,
    });
    for item in &step.items {
        // Done in no time, or shown by the step's own end: only while it is news.
        if item.done && item.current == 0 && !last {
            continue;
        }
        lines.push(Line {
            text: format!(" => => {}{}", clean(item.id.as_bytes()), item.progress()),
            time: Some(item.spent),
            colour,
            rank: if item.done { 4 } else { 3 },
        });
    }
    if step.runs() && !last {
        let skip = step.tail.len().saturating_sub(LINES);
        lines.extend(step.tail.iter().skip(skip).map(|(_, line)| Line {
            text: format!(" => => # {}", clean(line)),
            time: None,
            colour: FAINT,
            rank: 2,
        }));
    }
}

/// Leaves out what matters least, oldest first, until the rest fits.
fn shorten(lines: &mut Vec<Line>, rows: usize) {
    for rank in [6, 5, 4, 3, 2, 1] {
        while lines.len() > rows {
            match lines.iter().position(|line| line.rank == rank) {
                Some(at) => drop(lines.remove(at)),
                None => break,
            }
        }
    }
}

/// The text that a line leaves on a terminal: what follows its last carriage return, without escape
/// sequences and control characters.
pub(super) fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    let text = text.rsplit('\r').next().unwrap_or(text);
    let mut shown = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\t' => shown.push_str("    "),
            '\x1b' => match characters.next() {
                Some('[') => drop(characters.find(|next| ('\x40'..='\x7e').contains(next))),
                Some(']') => drop(characters.find(|next| matches!(next, '\x07' | '\x1b'))),
                _ => {}
            },
            other if other.is_control() => {}
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;

    #[test]
    fn what_containers_print_cannot_move_the_cursor() {
        assert_eq!(clean(b"a\x1b[31mred\x1b[0m\x07b"), "aredb");
        assert_eq!(clean(b"10%\r50%\r100%\r"), "100%");
        assert_eq!(clean(b"\x1b]0;title\x07x\ty"), "x    y");
        assert_eq!(clean(b"\xffz\x1b[2"), "\u{fffd}z");
    }
    fn graph() -> Graph {
        let mut graph = Graph::default();
        let log = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let status = serde_json::json!({
            "vertexes": [
                { "digest": "a", "name": "[1/4] FROM busybox", "cached": true,
                  "started": "2026-01-02T03:04:05Z", "completed": "2026-01-02T03:04:05Z" },
                { "digest": "b", "name": "[2/4] COPY . .",
                  "started": "2026-01-02T03:04:05Z", "completed": "2026-01-02T03:04:05.25Z" },
                { "digest": "c", "name": "[3/4] RUN make", "started": "2026-01-02T03:04:06Z" },
                { "digest": "d", "name": "[4/4] RUN test" },
            ],
            "statuses": [{ "id": "unpacking", "vertex": "c", "current": 1_500_000, "total": 3_000_000,
                "timestamp": "2026-01-02T03:04:07Z", "started": "2026-01-02T03:04:06Z" }],
            "logs": [{ "vertex": "c", "stream": 1, "data": log("1\n2\n3\n4\n5\n6\n7\n\u{1b}[31m8\n"),
                "timestamp": "2026-01-02T03:04:07Z" }],
        });
        graph.apply(&serde_json::from_value(status).unwrap(), Duration::from_millis(1000));
        graph
    }

    /// A frame without the control sequences, but for the time's column as `|`.
    fn plain(frame: &str) -> String {
        let mut frame = frame.to_owned();
        for sequence in ["\x1b[?25l", "\x1b[?7l", "\x1b[?7h", "\r", "\x1b[J", "\x1b[K"] {
            frame = frame.replace(sequence, "");
        }
        frame.replace("\x1b[36G", "|")
    }

    #[test]
    fn a_frame_of_a_running_build() {
        let size = Size { rows: 24, columns: 44 };
        let mut terminal = Terminal::new(false);
        let frame = terminal.frame(&graph(), Duration::from_millis(3500), size);
        let expected = "\
[+] Building 3.5s (2/4), 1 cached
 => CACHED [1/4] FROM busybox|    0.0s
 => [2/4] COPY . .|    0.2s
 => [3/4] RUN make|    2.5s
 => => unpacking 1.50MB / 3.00MB|    1.0s
 => => # 3
 => => # 4
 => => # 5
 => => # 6
 => => # 7
 => => # 8
";
        assert_eq!(plain(&frame), expected);
        let again = terminal.frame(&graph(), Duration::from_millis(3600), size);
        assert!(again.contains("\x1b[11A\r[+] Building 3.6s"), "drawn over the last: {again:?}");
    }

    #[test]
    fn a_small_terminal_shows_what_runs() {
        let size = Size { rows: 7, columns: 20 };
        let frame = Terminal::new(false).frame(&graph(), Duration::from_millis(3500), size);
        let frame = plain(&frame).replace("\x1b[12G", "|");
        let expected = "\
[+] Building 3.5s (
 => [3/4] R|    2.5s
 => => # 6
 => => # 7
 => => # 8
";
        assert_eq!(frame, expected);
    }

    #[test]
    fn the_last_frame_has_every_step_and_colours_where_wanted() {
        let mut graph = graph();
        let status = serde_json::json!({ "vertexes": [
            { "digest": "c", "name": "[3/4] RUN make", "started": "2026-01-02T03:04:06Z",
              "completed": "2026-01-02T03:04:09Z", "error": "exit code: 2" }] });
        graph.apply(&serde_json::from_value(status).unwrap(), Duration::from_secs(4));
        let size = Size { rows: 5, columns: 60 };
        let last = Terminal::new(true).last(&graph, Duration::from_secs(4), size);
        assert!(last.contains("[+] Building 4.0s (3/4), 1 cached\x1b[K\n"), "{last:?}");
        assert!(
            last.contains("\x1b[31m => ERROR [3/4] RUN make\x1b[K\x1b[52G\x1b[K    3.0s\x1b[0m\n"),
            "{last:?}"
        );
        assert!(last.contains("\x1b[34m => CACHED [1/4] FROM busybox"), "{last:?}");
    }
}
