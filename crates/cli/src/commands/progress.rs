//! The progress of pull, push, load and import: a moving display on a terminal (`board`), Docker's lines
//! elsewhere.

mod board;

use std::time::{Duration, Instant};

use serde_json::Value;
use yare_api::progress::JSONMessage;
use yare_client::JsonLines;

use crate::context::Context;
use crate::failure::Failure;

use board::Board;

/// The display moves so often.
const EVERY: Duration = Duration::from_millis(100);

/// Shows a stream of progress to its end; `aux` gets what is meant for programs.
///
/// # Errors
/// When the stream reports a failure, or breaks.
pub(crate) async fn show(
    cx: &Context,
    to: Target,
    mut stream: JsonLines<JSONMessage>,
    mut aux: impl FnMut(Value),
) -> Result<(), Failure> {
    let mut display = Display::new(cx, to);
    loop {
        let message = {
            let mut next = std::pin::pin!(stream.next());
            loop {
                match tokio::time::timeout(EVERY, next.as_mut()).await {
                    Ok(message) => break message?,
                    Err(_) => display.redraw()?,
                }
            }
        };
        let Some(message) = message else { return display.finish() };
        if let Some(detail) = message.error_detail {
            display.redraw()?;
            return Err(Failure::new(detail.message));
        }
        if !message.error.is_empty() {
            display.redraw()?;
            return Err(Failure::new(message.error));
        }
        if let Some(value) = message.aux {
            aux(value);
        } else {
            display.message(&message)?;
        }
    }
}

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Standard output.
    Output,
    /// Standard error: standard output is for the program run.
    Errors,
    /// Nowhere.
    Quiet,
}

struct Display<'a> {
    cx: &'a Context,
    to: Target,
    is_terminal: bool,
    board: Board,
    /// Lines of the board that are on the terminal, above the cursor.
    drawn: usize,
    began: Instant,
    last_drawn: Option<Instant>,
}

impl<'a> Display<'a> {
    fn new(cx: &'a Context, to: Target) -> Self {
        let is_terminal = match to {
            Target::Output => cx.terminal,
            Target::Errors => rustix::termios::isatty(cx.stdio.errors),
            Target::Quiet => false,
        };
        let board = Board::default();
        Self { cx, to, is_terminal, board, drawn: 0, began: Instant::now(), last_drawn: None }
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        match self.to {
            Target::Output => {
                self.cx.write(text)?;
                self.cx.flush()
            }
            Target::Errors => Ok(self.cx.write_error(text)?),
            Target::Quiet => Ok(()),
        }
    }

    fn message(&mut self, message: &JSONMessage) -> Result<(), Failure> {
        let has_bar = message.progress_detail.as_ref().is_some_and(|detail| !detail.bar().is_empty())
            || !message.progress.is_empty();
        if !self.is_terminal {
            // Only the steps: bars would fill a log.
            return if has_bar { Ok(()) } else { self.write(&plain(message)) };
        }
        if message.id.is_empty() || (!has_bar && message.progress_detail.is_none()) {
            return self.above(&plain(message));
        }
        self.board.tell(message, self.began.elapsed());
        match self.last_drawn.is_some_and(|drawn| drawn.elapsed() < EVERY) {
            true => Ok(()),
            false => self.redraw(),
        }
    }

    /// Writes a line that stays. Layers that are all done become one line above it.
    fn above(&mut self, text: &str) -> Result<(), Failure> {
        if !self.board.is_empty() && self.board.is_done() {
            self.conclude()?;
        }
        self.write(&format!("{}{text}", erase(self.drawn)))?;
        self.drawn = 0;
        self.redraw()
    }

    /// Puts one line in the place of the board.
    fn conclude(&mut self) -> Result<(), Failure> {
        let summary = self.board.summary(self.began.elapsed());
        self.write(&format!("{}{summary}\n", erase(self.drawn)))?;
        (self.board, self.drawn) = (Board::default(), 0);
        Ok(())
    }

    fn redraw(&mut self) -> Result<(), Failure> {
        if self.board.is_empty() {
            return Ok(());
        }
        let fd = if self.to == Target::Errors { self.cx.stdio.errors } else { self.cx.stdio.output };
        let (height, width) = crate::session::size(fd).unwrap_or((24, 80));
        let frame = self.board.frame((height.into(), width.into()), self.began.elapsed());
        // In one write, so that no half of it is seen.
        let lines: String = frame.iter().map(|line| format!("{line}\n")).collect();
        self.write(&format!("{}{lines}", erase(self.drawn)))?;
        (self.drawn, self.last_drawn) = (frame.len(), Some(Instant::now()));
        Ok(())
    }

    /// The stream is at its end, and nothing failed.
    fn finish(mut self) -> Result<(), Failure> {
        if self.board.is_empty() { Ok(()) } else { self.conclude() }
    }
}

/// Takes away so many lines above the cursor.
fn erase(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A\r\x1b[J") }
}

fn plain(message: &JSONMessage) -> String {
    if !message.stream.is_empty() {
        return message.stream.clone();
    }
    let id = if message.id.is_empty() { String::new() } else { format!("{}: ", message.id) };
    if message.status.is_empty() && id.is_empty() {
        return String::new();
    }
    format!("{id}{}\n", message.status)
}
