//! Progress on its way to standard error, in the form that was asked for.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use yare_api::build::{BuildResult, SolveStatus, Vertex, VertexStatus};

use super::account::account;
use super::graph::{Graph, short};
use super::options::Display;
use super::plain::{self, Plain};
use super::terminal::{Size, Terminal, clean};
use crate::context::Context;
use crate::failure::Failure;
use crate::session;

/// How often a picture is redrawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often lines that wait for another step's are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What a terminal without a size is taken for.
const SIZE: Size = Size { rows: 24, columns: 80 };

/// The display of one build.
pub(super) struct Show<'a> {
    cx: &'a Context,
    begun: Instant,
    graph: Graph,
    form: Form,
    warnings: Vec<String>,
    /// When sending the context began, and how much of it has been told.
    upload: Option<(Timestamp, u64, bool)>,
}

enum Form {
    Terminal(Terminal),
    Plain(Plain),
    Raw,
    Quiet,
}

impl<'a> Show<'a> {
    /// A display that begins now.
    pub(super) fn new(cx: &'a Context, display: Display) -> Self {
        let form = match display {
            // https://no-color.org: set to anything but nothing.
            Display::Terminal => Form::Terminal(Terminal::new(cx.environment.nonempty("NO_COLOR").is_none())),
            Display::Plain => Form::Plain(Plain::default()),
            Display::Raw => Form::Raw,
            Display::Quiet => Form::Quiet,
        };
        Self { cx, begun: Instant::now(), graph: Graph::default(), form, warnings: Vec::new(), upload: None }
    }

    /// How often [`Show::tick`] is to be called.
    pub(super) fn rate(&self) -> Duration {
        if matches!(self.form, Form::Terminal(_)) { REDRAW } else { LOOK }
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.is_empty() { Ok(()) } else { Ok(self.cx.write_error(bytes)?) }
    }

    fn size(&self) -> Size {
        match session::size(self.cx.stdio.errors) {
            Some((rows, columns)) if rows > 0 && columns > 0 => {
                Size { rows: usize::from(rows), columns: usize::from(columns) }
            }
            _ => SIZE,
        }
    }

    /// Takes news of the graph in.
    pub(super) fn status(&mut self, status: &SolveStatus) -> Result<(), Failure> {
        if let Form::Raw = self.form {
            let mut line = serde_json::to_vec(status).map_err(|error| Failure::new(error.to_string()))?;
            line.push(b'\n');
            return self.write(&line);
        }
        let now = self.begun.elapsed();
        let news = self.graph.apply(status, now);
        for warning in &status.warnings {
            let line = warning.range.first().map(|range| range.start.line);
            self.warnings.push(match line {
                Some(line) => format!("{} (line {line})", short(warning)),
                None => short(warning),
            });
        }
        match &mut self.form {
            Form::Plain(plain) => {
                let text = plain.update(&self.graph, news, now);
                self.write(&text)
            }
            // Drawn at the next tick: statuses come faster than anyone can read.
            _ => Ok(()),
        }
    }

    /// Takes in how many bytes of the context have been sent, and whether these are all. To the display that
    /// is a step like others.
    pub(super) fn upload(&mut self, (bytes, ended): (u64, bool)) -> Result<(), Failure> {
        if bytes == 0 {
            return Ok(());
        }
        let now = Timestamp::now();
        let began = match self.upload {
            Some((_, told, told_end)) if (told, told_end) == (bytes, ended) => return Ok(()),
            Some((began, ..)) => began,
            None => now,
        };
        self.upload = Some((began, bytes, ended));
        let (started, completed) = (Some(began.to_string()), ended.then(|| now.to_string()));
        let digest = "yare:context".to_owned();
        self.status(&SolveStatus {
            vertexes: vec![Vertex {
                digest: digest.clone(),
                name: "[internal] send build context".to_owned(),
                started: started.clone(),
                completed: completed.clone(),
                ..Vertex::default()
            }],
            statuses: vec![VertexStatus {
                id: "transferring context:".to_owned(),
                vertex: digest,
                current: i64::try_from(bytes).unwrap_or(i64::MAX),
                timestamp: now.to_string(),
                started,
                completed,
                ..VertexStatus::default()
            }],
            ..SolveStatus::default()
        })
    }

    /// Text of an engine that builds in the classic way.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        if matches!(self.form, Form::Quiet) { Ok(()) } else { self.write(text.as_bytes()) }
    }

    /// Brings the display up to the moment.
    pub(super) fn tick(&mut self) -> Result<(), Failure> {
        let (now, size) = (self.begun.elapsed(), self.size());
        let text = match &mut self.form {
            Form::Terminal(terminal) => terminal.frame(&self.graph, now, size).into_bytes(),
            Form::Plain(plain) => plain.tick(&self.graph, now),
            Form::Raw | Form::Quiet => return Ok(()),
        };
        self.write(&text)
    }

    /// The last of it: the whole graph, then where time and bytes went.
    pub(super) fn succeeded(&mut self, result: &BuildResult, explain: bool) -> Result<(), Failure> {
        self.last()?;
        // Asked for by name, the reasons are told even to those who want no progress.
        let told = matches!(self.form, Form::Terminal(_) | Form::Plain(_)) || explain;
        if told && !matches!(self.form, Form::Raw) {
            let text = account(result, self.begun.elapsed(), explain);
            if !text.is_empty() {
                self.write(format!("\n{text}").as_bytes())?;
            }
        }
        self.warned()
    }

    /// The last of a build that failed: the graph, and what the steps that failed printed.
    pub(super) fn failed(&mut self, excerpt: &str) -> Result<(), Failure> {
        self.last()?;
        if matches!(self.form, Form::Raw) {
            return Ok(());
        }
        // On a terminal, what containers print must not do more than be read.
        let shown = match self.form {
            Form::Terminal(_) => |line: &[u8]| clean(line).into_bytes(),
            _ => |line: &[u8]| line.to_vec(),
        };
        self.write(&plain::failures(&self.graph, shown))?;
        self.warned()?;
        if excerpt.is_empty() {
            return Ok(());
        }
        self.write(format!("{}\n", excerpt.trim_end_matches('\n')).as_bytes())
    }

    fn last(&mut self) -> Result<(), Failure> {
        let (now, size) = (self.begun.elapsed(), self.size());
        let text = match &mut self.form {
            Form::Terminal(terminal) => terminal.last(&self.graph, now, size).into_bytes(),
            Form::Plain(plain) => plain.tick(&self.graph, now),
            Form::Raw | Form::Quiet => return Ok(()),
        };
        self.write(&text)
    }

    fn warned(&self) -> Result<(), Failure> {
        if self.warnings.is_empty() || matches!(self.form, Form::Raw | Form::Quiet) {
            return Ok(());
        }
        let count = self.warnings.len();
        let mut text = format!("\n {count} {} found:\n", if count == 1 { "warning" } else { "warnings" });
        for warning in &self.warnings {
            text.push_str(&format!(" - {warning}\n"));
        }
        self.write(text.as_bytes())
    }
}

impl Drop for Show<'_> {
    fn drop(&mut self) {
        if let Form::Terminal(_) = self.form {
            // The cursor and the wrapping come back on every way out; a terminal that is gone needs neither.
            drop(self.cx.write_error("\x1b[?7h\x1b[?25h"));
        }
    }
}
