//! The command line: Docker's syntax, texts, output and exit codes, over the Engine API.
//!
//! [`run`] is the whole program but for what only the process itself may do: reading the environment and
//! exiting. One table (`table`) drives parsing, help and shell completion.

mod address;
mod artifacts;
mod clock;
mod commands;
mod completion;
mod config;
mod context;
mod credentials;
mod failure;
mod flags;
mod format;
mod help;
mod manifests;
mod opts;
mod plugins;
mod request;
mod session;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod vault;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use context::{Autostart, Environment};
pub use credentials::serve as credential_helper;
pub use opts::ulimit::parse as parse_ulimit;

use context::Context;
use failure::Failure;
use flags::{Given, Misuse};
use table::Command;

/// One call of the program.
pub struct Invocation {
    /// The command line, the program's own name first.
    pub arguments: Vec<OsString>,
    /// The environment.
    pub environment: Environment,
    /// Working directory, for relative paths.
    pub directory: PathBuf,
    /// Called once when no engine listens at the default address; the text it gives is told to the user.
    pub autostart: Option<Autostart>,
}

impl std::fmt::Debug for Invocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invocation").field("arguments", &self.arguments).finish_non_exhaustive()
    }
}

/// Runs the command line and returns the exit code.
pub fn run(invocation: Invocation) -> i32 {
    let words: Vec<String> =
        invocation.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let program = words.first().map_or("yare", |path| program_name(path)).to_owned();
    let stdio = session::Stdio {
        input: rustix::stdio::stdin(),
        output: rustix::stdio::stdout(),
        errors: rustix::stdio::stderr(),
    };
    let address = yare_client::Address::Unix(PathBuf::from(address::DEFAULT));
    let mut cx = Context::new(&program, address, stdio);
    cx.environment = invocation.environment;
    cx.arguments = invocation.arguments;
    cx.cwd = invocation.directory.to_string_lossy().into_owned();
    let outcome = dispatch(&mut cx, words.get(1..).unwrap_or_default(), invocation.autostart);
    finish(&cx, outcome)
}

/// `docker` only when called so; every other name is ours.
fn program_name(path: &str) -> &str {
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or("yare");
    if name == "docker" { "docker" } else { "yare" }
}

fn finish(cx: &Context, outcome: Result<i32, Failure>) -> i32 {
    let outcome = match cx.flush() {
        Ok(()) => outcome,
        Err(failure) => outcome.and(Err(failure)),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            cx.report(&failure);
            failure.code
        }
    }
}

fn dispatch(cx: &mut Context, words: &[String], autostart: Option<Autostart>) -> Result<i32, Failure> {
    let global = match flags::parse(table::GLOBAL.iter(), words, true) {
        Ok(global) => global,
        Err(Misuse::Help) => return help::top(cx),
        Err(Misuse::Flag(text)) => {
            let text = format!(
                "{text}\n\nUsage:  {0} [OPTIONS] COMMAND [ARG...]\n\nRun '{0} --help' for more information",
                cx.program
            );
            return Err(Failure::new(text).with_code(125));
        }
    };
    if global.bool("version") {
        commands::version::short(cx)?;
        return Ok(0);
    }
    cx.config_directory = match global.text_opt("config") {
        Some(directory) => PathBuf::from(directory),
        None => config_directory(&cx.environment),
    };
    address::choose(cx, &global)?;
    let words = &global.arguments;
    match words.first().map(String::as_str) {
        None => return help::top(cx),
        Some("help") => return help::named(cx, &words[1..]),
        Some("completion") => return completion::print(cx, words.get(1).map_or("", String::as_str)),
        Some("__complete") => return completion::complete(cx, &words[1..]),
        Some(_) => {}
    }
    if let Some(failure) = plugins::run_instead(cx, &words[0]) {
        return Err(failure);
    }
    let (command, rest) = match find(words) {
        Found::Command(command, rest) => (command, rest),
        Found::Group(name, []) => return help::group_without_command(cx, name),
        Found::Group(name, [first, rest @ ..]) => {
            let typed = &words[..words.len() - rest.len()];
            return match first.as_str() {
                "--help" | "-h" => help::group(cx, name),
                _ => Err(unknown(cx, typed, &format!(" {name}"))),
            };
        }
        Found::Nothing => {
            let not_a_plugin = plugins::run(cx, &words[0]);
            return Err(not_a_plugin.unwrap_or_else(|| unknown(cx, &words[..1], "")));
        }
    };
    let typed = &words[..words.len() - rest.len()];
    cx.command = typed.join(" ");
    let given = match parse_command(cx, command, rest)? {
        Some(given) => given,
        None => return help::command(cx, command),
    };
    // What is about contexts works with a broken one, too.
    if !command.path.starts_with("context ") {
        address::settle(cx, autostart)?;
    }
    start(cx, command, &given)
}

fn start(cx: &Context, command: &Command, given: &Given) -> Result<i32, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::new(format!("cannot set up the event loop: {error}")))?;
    let outcome = runtime.block_on((command.run)(cx, given));
    // A read that still waits for standard input must not hold the process.
    runtime.shutdown_background();
    outcome
}

/// Where the configuration file is unless a flag says otherwise.
pub(crate) fn config_directory(environment: &Environment) -> PathBuf {
    if let Some(directory) = environment.nonempty("DOCKER_CONFIG") {
        return PathBuf::from(directory);
    }
    let home = environment.nonempty("HOME").unwrap_or_else(|| "/".to_owned());
    Path::new(&home).join(".docker")
}

enum Found<'w> {
    Command(&'static Command, &'w [String]),
    Group(&'static str, &'w [String]),
    Nothing,
}

/// The command, or else the group, that the first words name, and what follows them.
fn find(words: &[String]) -> Found<'_> {
    if let Some((command, count)) = table::named(words, table::find) {
        return Found::Command(command, &words[count..]);
    }
    match table::named(words, table::group) {
        Some((group, count)) => Found::Group(group.name, &words[count..]),
        None => Found::Nothing,
    }
}

fn unknown(cx: &Context, words: &[String], group: &str) -> Failure {
    let program = &cx.program;
    let usage = if group.is_empty() { String::new() } else { format!("\n\nUsage:  {program}{group}") };
    Failure::new(format!(
        "{program}: unknown command: {program} {}{usage}\n\nRun '{program}{group} --help' for more information",
        words.join(" ")
    ))
}

/// Reads a command's flags and counts its arguments; `None` when help is asked for.
fn parse_command(cx: &Context, command: &Command, words: &[String]) -> Result<Option<Given>, Failure> {
    let usage = |text: &str, verb: &str| {
        let name = format!("{} {}", cx.program, cx.command);
        let line = command.usage_line(&name);
        Failure::new(format!("{text}\n\nUsage:  {line}\n\n{verb} '{name} --help' for more information"))
    };
    let given = match flags::parse(command.flags(), words, command.stop_at_positional) {
        // A flag of its own where `-h` means something else.
        Ok(given) if given.bool("help") => return Ok(None),
        Ok(given) => given,
        Err(Misuse::Help) => return Ok(None),
        Err(Misuse::Flag(text)) => return Err(usage(&text, "Run").with_code(125)),
    };
    let (count, wanted) = (given.arguments.len(), command.arguments);
    if (wanted.least..=wanted.most).contains(&count) {
        return Ok(Some(given));
    }
    let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
    let (what, verb) = match (wanted.least, wanted.most) {
        (0, 0) => ("accepts no arguments".to_owned(), "Run"),
        (least, usize::MAX) => (format!("requires at least {least} {}", plural(least)), "See"),
        (0, most) => (format!("requires at most {most} {}", plural(most)), "Run"),
        (least, most) if least == most => (format!("requires {least} {}", plural(least)), "Run"),
        (least, most) => (format!("requires at least {least} and at most {most} {}", plural(most)), "Run"),
    };
    Err(usage(&format!("{0}: '{0} {1}' {what}", cx.program, cx.command), verb))
}
