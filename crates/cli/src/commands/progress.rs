//! The progress of pull, push, load and import: Docker's moving display on a terminal, lines elsewhere.

use serde_json::Value;
use yare_api::progress::JSONMessage;
use yare_client::JsonLines;

use crate::context::Context;
use crate::failure::Failure;

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
    let mut display = Display { cx, to, lines: Vec::new() };
    while let Some(message) = stream.next().await? {
        if let Some(detail) = message.error_detail {
            return Err(Failure::new(detail.message));
        }
        if !message.error.is_empty() {
            return Err(Failure::new(message.error));
        }
        if let Some(value) = message.aux {
            aux(value);
        } else {
            display.message(&message)?;
        }
    }
    Ok(())
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
    /// What each line of the terminal shows, by ID.
    lines: Vec<String>,
}

impl Display<'_> {
    fn terminal(&self) -> bool {
        match self.to {
            Target::Output => self.cx.terminal,
            Target::Errors => rustix::termios::isatty(self.cx.stdio.errors),
            Target::Quiet => false,
        }
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
        let bar =
            message.progress_detail.as_ref().map(yare_api::progress::ProgressDetail::bar).unwrap_or_default();
        let bar = if bar.is_empty() { message.progress.clone() } else { bar };
        if !self.terminal() {
            // Only the steps: bars would fill a log.
            if !bar.is_empty() {
                return Ok(());
            }
            return self.write(&plain(message));
        }
        if message.id.is_empty() || (bar.is_empty() && message.progress_detail.is_none()) {
            self.lines.clear();
            return self.write(&plain(message));
        }
        self.moving(message, &bar)
    }

    /// Rewrites the line of this ID, or adds one.
    fn moving(&mut self, message: &JSONMessage, bar: &str) -> Result<(), Failure> {
        let text = format!("{}: {} {bar}", message.id, message.status);
        let text = text.trim_end();
        match self.lines.iter().position(|id| *id == message.id) {
            Some(at) => {
                let up = self.lines.len() - at;
                self.write(&format!("\x1b[{up}A\x1b[2K\r{text}\r\x1b[{up}B"))
            }
            None => {
                self.lines.push(message.id.clone());
                self.write(&format!("{text}\n"))
            }
        }
    }
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
