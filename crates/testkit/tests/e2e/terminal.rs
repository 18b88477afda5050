//! A real terminal: a tmux of its own, its keys and its screen.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use yare_testkit::Invocation;

use crate::client::Client;

/// How long something may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal with one program in it. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Terminal {
    server: String,
    folder: PathBuf,
}

impl Terminal {
    /// Opens one of this size in which a script of the client runs. When it ends, the screen stays and shows
    /// `ended N`.
    pub(crate) fn open(client: &Client, columns: u32, rows: u32, script: &str) -> Self {
        let terminal = Self { server: format!("{}-{}", client.n, rows), folder: client.host.folder.clone() };
        let file = client.folder.join("terminal.sh");
        let variables =
            client.environment().map(|(name, value)| format!("export {name}='{value}'\n")).concat();
        let text =
            format!("{variables}cd '{}'\n{script}\necho ended $?\nsleep 1000\n", client.folder.display());
        std::fs::write(&file, text).unwrap();
        let size = [columns.to_string(), rows.to_string()];
        let command = format!("exec bash {}", file.display());
        terminal.tmux(&["new-session", "-d", "-x", &size[0], "-y", &size[1], &command]);
        // Sizes follow resize-window alone, not some client.
        terminal.tmux(&["set-option", "-g", "window-size", "manual"]);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let args = [&["-L", &self.server, "-f", "/dev/null"], args].concat();
        Invocation::new("tmux", &args).env("TMUX_TMPDIR", &self.folder).env("TERM", "xterm").ok()
    }

    /// Presses keys, in tmux's names: `C-c`, `Enter`, or text.
    pub(crate) fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a line.
    pub(crate) fn types(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.keys(&["Enter"]);
    }

    /// What is on the screen.
    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    pub(crate) fn resize(&self, columns: u32, rows: u32) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// Waits until a line of the screen is this.
    #[track_caller]
    pub(crate) fn shows(&self, line: &str) {
        self.shows_that(line, |screen| screen.lines().any(|have| have.trim_end() == line));
    }

    /// Waits until the screen is so.
    #[track_caller]
    pub(crate) fn shows_that(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if is_so(&self.screen()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the terminal never shows {what:?}:\n{}", self.screen());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let args = ["-L", &self.server, "kill-server"];
        Invocation::new("tmux", &args).env("TMUX_TMPDIR", &self.folder).run();
    }
}
