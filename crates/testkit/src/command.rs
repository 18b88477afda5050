//! Running clients, with a limit on their time and everything they said in the failure text.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a command may take unless the test says otherwise.
const PATIENCE: Duration = Duration::from_secs(120);

/// A command that is about to run.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    input: Option<Vec<u8>>,
    patience: Duration,
}

/// How a command ended and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code; 128 and the signal's number when a signal ended it.
    pub code: i32,
    /// Standard output, with what is not UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// Standard output as it came.
    pub bytes: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

impl Invocation {
    /// A program with its arguments and no input.
    pub fn new(program: impl AsRef<OsStr>, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args);
        Self { command, input: None, patience: PATIENCE }
    }

    /// Adds to its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes from its environment.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Gives it these bytes on standard input, and then the end.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Lets it take this long.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The plain command, for tests that want to talk to it while it runs.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or takes too long.
    pub fn run(mut self) -> Outcome {
        let begun = Instant::now();
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        let spawned = self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot run {:?}: {error}", self.command));
        feed(&mut child, self.input.take());
        let stdout = drain(child.stdout.take().expect("piped"));
        let stderr = drain(child.stderr.take().expect("piped"));
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if begun.elapsed() > self.patience {
                let _ = child.kill();
                panic!("{:?} took longer than {:?}", self.command, self.patience);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let took = begun.elapsed();
        let (bytes, stderr) = (joined(stdout), joined(stderr));
        Outcome {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&bytes).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            bytes,
            took,
        }
    }

    /// Runs it and gives its output; it must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn ok(self) -> String {
        let shown = format!("{:?}", self.command);
        let outcome = self.run();
        assert_eq!(outcome.code, 0, "{shown}\n{outcome:?}");
        outcome.stdout
    }

    /// Runs it and gives its standard error; it must end with this code.
    ///
    /// # Panics
    /// When it ends with another.
    pub fn fails(self, code: i32) -> String {
        let shown = format!("{:?}", self.command);
        let outcome = self.run();
        assert_eq!(outcome.code, code, "{shown}\n{outcome:?}");
        outcome.stderr
    }
}

fn feed(child: &mut Child, input: Option<Vec<u8>>) {
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        std::thread::spawn(move || {
            // A program that wants no more input closes its end; that is its right.
            let _ = stdin.write_all(&input);
        });
    }
}

fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}

fn joined(reader: JoinHandle<Vec<u8>>) -> Vec<u8> {
    reader.join().expect("the reader of a pipe does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_report_what_they_did() {
        let outcome = Invocation::new("sh", &["-c", "cat; echo oops >&2; exit 3"]).input("words").run();
        assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (3, "words", "oops\n"));
        assert_eq!(Invocation::new("sh", &["-c", "kill -9 $$"]).run().code, 137);
        assert_eq!(Invocation::new("true", &[]).ok(), "");
        assert_eq!(Invocation::new("sh", &["-c", "echo no >&2; exit 1"]).fails(1), "no\n");
    }

    #[test]
    #[should_panic(expected = "took longer")]
    fn commands_do_not_run_for_ever() {
        Invocation::new("sleep", &["60"]).patience(Duration::from_millis(50)).run();
    }
}
