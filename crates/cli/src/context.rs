//! What a command works with: its program's name, the environment, the engine, the output.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use yare_client::{Address, Client, TlsSettings};

use crate::address::Chosen;
use crate::clock::Now;
use crate::config::Config;
use crate::failure::Failure;
use crate::session::{Direct, Stdio};

type Lookup = dyn Fn(&str) -> Option<OsString>;

/// Looks environment variables up.
pub struct Environment(Box<Lookup>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

impl Environment {
    /// An environment behind a function.
    pub fn new(lookup: impl Fn(&str) -> Option<OsString> + 'static) -> Self {
        Self(Box::new(lookup))
    }

    /// A variable as text; `None` when it is not set.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// A variable as the bytes that it has.
    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        (self.0)(name).map(std::os::unix::ffi::OsStringExt::into_vec)
    }

    /// A variable that is set to something.
    pub(crate) fn nonempty(&self, name: &str) -> Option<String> {
        self.text(name).filter(|value| !value.is_empty())
    }
}

/// Starts an engine; gives what to tell the user.
pub type Autostart = Box<dyn Fn() -> Result<String, String>>;

/// Everything a command needs.
pub(crate) struct Context {
    /// The name we were called by, `yare` or `docker`.
    pub program: String,
    /// The command line as it was given, the program's own name first.
    pub arguments: Vec<OsString>,
    /// The full name of the command as it was typed.
    pub command: String,
    /// Our version.
    pub version: String,
    /// The environment.
    pub environment: Environment,
    /// Working directory.
    pub cwd: String,
    /// What flags and environment say about the engine.
    pub chosen: Chosen,
    /// The engine's address.
    pub address: Address,
    /// How TLS is spoken with it.
    pub tls: Option<TlsSettings>,
    /// Where the user's configuration file is.
    pub config_directory: PathBuf,
    /// Our standard streams.
    pub stdio: Stdio,
    /// Standard output is a terminal.
    pub terminal: bool,
    pub(crate) autostart: Cell<Option<Autostart>>,
    config: OnceCell<Config>,
    client: OnceCell<Client>,
    output: RefCell<BufWriter<Direct>>,
    errors: RefCell<Direct>,
}

impl Context {
    /// A context that writes to these.
    pub(crate) fn new(program: &str, address: Address, stdio: Stdio) -> Self {
        Self {
            program: program.to_owned(),
            arguments: Vec::new(),
            command: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            environment: Environment::new(|_| None),
            cwd: "/".to_owned(),
            chosen: Chosen::default(),
            address,
            tls: None,
            config_directory: PathBuf::new(),
            stdio,
            terminal: rustix::termios::isatty(stdio.output),
            autostart: Cell::default(),
            config: OnceCell::new(),
            client: OnceCell::new(),
            output: RefCell::new(BufWriter::with_capacity(64 * 1024, Direct(stdio.output))),
            errors: RefCell::new(Direct(stdio.errors)),
        }
    }

    /// The user's configuration file, read when first asked for. One that cannot be read ends no command that
    /// may not need it, but is told of once.
    pub(crate) fn config(&self) -> &Config {
        self.config.get_or_init(|| {
            let config = Config::load(&self.config_directory, &self.environment);
            if let Some(fault) = &config.fault {
                self.warn(format_args!("WARNING: {fault}"));
            }
            config
        })
    }

    /// The engine.
    pub(crate) fn client(&self) -> &Client {
        self.client.get_or_init(|| {
            let mut client = Client::new(self.address.clone());
            if let Some(tls) = &self.tls {
                client = client.with_tls(tls.clone());
            }
            if let Some(version) = self.environment.nonempty("DOCKER_API_VERSION") {
                client = client.with_version(&version);
            }
            if let Some(start) = self.autostart.take() {
                client = client.with_starter(Box::new(move || {
                    // Straight to the terminal: this happens at most once, before any other output.
                    start().map(|note| {
                        if !note.is_empty() {
                            drop(std::io::stderr().write_all(format!("{note}\n").as_bytes()))
                        }
                    })
                }));
            }
            client
        })
    }

    /// Writes to standard output; buffered until the command ends or [`Context::flush`].
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub(crate) fn write(&self, text: impl AsRef<[u8]>) -> Result<(), Failure> {
        Ok(self.output.borrow_mut().write_all(text.as_ref())?)
    }

    /// Writes a line to standard output.
    ///
    /// # Errors
    /// As [`Context::write`].
    pub(crate) fn line(&self, text: impl fmt::Display) -> Result<(), Failure> {
        Ok(writeln!(self.output.borrow_mut(), "{text}")?)
    }

    /// Sends out what is buffered.
    ///
    /// # Errors
    /// As [`Context::write`].
    pub(crate) fn flush(&self) -> Result<(), Failure> {
        Ok(self.output.borrow_mut().flush()?)
    }

    /// Writes a line to standard error, after what standard output has so far.
    pub(crate) fn warn(&self, text: impl fmt::Display) {
        // Nobody may be reading; that is no reason to fail.
        drop(self.output.borrow_mut().flush());
        drop(writeln!(self.errors.borrow_mut(), "{text}"));
    }

    /// Writes to standard error as it is.
    pub(crate) fn write_error(&self, text: impl AsRef<[u8]>) -> io::Result<()> {
        let mut errors = self.errors.borrow_mut();
        errors.write_all(text.as_ref())?;
        errors.flush()
    }

    /// Prints a failure with its hint.
    pub(crate) fn report(&self, failure: &Failure) {
        if !failure.text.is_empty() {
            self.warn(&failure.text);
        }
        if let Some(hint) = &failure.hint {
            self.warn(format_args!("  hint: {hint}"));
        }
    }

    /// The absolute form of a path as the user wrote it.
    pub(crate) fn absolute(&self, path: &str) -> String {
        crate::opts::volume::absolute(path, &self.cwd)
    }

    /// Now, in the user's time zone.
    pub(crate) fn now(&self) -> Now {
        Now::new(self.environment.text("TZ"))
    }
}

/// Runs `one` for each name; prints what it gives back, collects the failures, exits 1 if there were any.
pub(crate) async fn each<'a, F, Fut>(cx: &'a Context, names: &'a [String], one: F) -> Result<i32, Failure>
where
    F: Fn(&'a str) -> Fut,
    Fut: Future<Output = Result<Option<String>, Failure>>,
{
    let mut failures = Vec::new();
    for name in names {
        match one(name).await {
            Ok(Some(line)) => cx.line(line)?,
            Ok(None) => {}
            Err(failure) => failures.push(failure),
        }
    }
    for failure in &failures {
        cx.report(failure);
    }
    Ok(failures.iter().map(|failure| failure.code).max().unwrap_or(0))
}
