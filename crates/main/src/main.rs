//! Yare: one binary that is the command line, the engine, the shims' launcher, the resolver, the carrier, the keeper
//! of a user's namespaces, an OCI runtime, a registry and the program of the images that it brings along.
//!
//! Which of them it is says the name it was called by, or else the first word. This crate is the only one
//! that reads the environment and ends the process; everything else gets its facts as values.

mod autostart;
mod daemon;
mod embedded;
mod registry;
mod rootless;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use yare_errdefs::{Classified, Error};

fn main() {
    let args: Vec<OsString> = std::env::args_os().collect();
    let code = run(&args);
    std::process::exit(code);
}

fn run(args: &[OsString]) -> i32 {
    let called = args.first().and_then(|name| Path::new(name).file_name()).and_then(|name| name.to_str());
    let first = args.get(1).and_then(|word| word.to_str());
    match (called.unwrap_or("yare"), first) {
        ("yare-runtime", _) => yare_runtime::cli::main(&args[1..]),
        ("docker-credential-yare", _) => credential_helper(first),
        ("docker", _) => command_line(args),
        (_, Some("hello")) => embedded::greet(),
        (_, Some("daemon")) => service(&args[2..], daemon::main),
        (_, Some("registry")) if args.get(2).is_some_and(of_the_engine) => command_line(args),
        (_, Some("registry")) => service(&args[2..], registry::main),
        (_, Some("launcher")) => launcher(args),
        (_, Some(rootless::holder::WORD)) => {
            texts(&args[2..]).map_or_else(|code| code, |args| rootless::holder::main(&args))
        }
        (_, Some("resolver")) => companion("resolver", yare_resolver::main),
        (_, Some("carrier")) => companion("carrier", yare_carrier::main),
        (_, Some("runtime")) => yare_runtime::cli::main(&args[2..]),
        _ => command_line(args),
    }
}

/// Whether a command of `yare registry` is one of the engine's.
fn of_the_engine(command: &OsString) -> bool {
    ["enable", "disable", "status"].iter().any(|word| command == word)
}

/// Runs what lives long. Whoever starts it may have blocked signals for itself, as a command that starts an
/// engine in passing has: what is inherited would make it deaf to the request to end.
fn service(args: &[OsString], main: fn(&[String]) -> i32) -> i32 {
    if let Err(error) = yare_sys::process::unblock_signals() {
        complain("yare", &Error::internal("cannot unblock signals").caused_by(error));
        return 1;
    }
    match texts(args) {
        Ok(args) => main(&args),
        Err(code) => code,
    }
}

fn texts(args: &[OsString]) -> Result<Vec<String>, i32> {
    args.iter()
        .map(|arg| {
            arg.to_str().map(str::to_owned).ok_or_else(|| {
                complain("yare", &Error::invalid(format!("argument is not UTF-8: {}", arg.display())));
                1
            })
        })
        .collect()
}

fn command_line(args: &[OsString]) -> i32 {
    yare_cli::run(yare_cli::Invocation {
        arguments: args.to_vec(),
        environment: yare_cli::Environment::new(|name| std::env::var_os(name)),
        directory: std::env::current_dir().unwrap_or_else(|_| "/".into()),
        autostart: Some(Box::new(autostart::start)),
    })
}

/// Answers docker's command line, which asks for the credentials that `yare login` keeps.
fn credential_helper(action: Option<&str>) -> i32 {
    let environment = yare_cli::Environment::new(|name| std::env::var_os(name));
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    yare_cli::credential_helper(action.unwrap_or_default(), &environment, &mut input, &mut output)
}

/// Runs the launcher; it only comes back when its engine is gone.
fn launcher(args: &[OsString]) -> i32 {
    match yare_shim::launcher::main(args.to_vec()) {
        Ok(()) => 0,
        Err(error) => {
            complain("yare launcher", &error);
            1
        }
    }
}

/// Runs a process that serves containers; it comes back when nobody needs it any more.
fn companion(name: &str, main: fn() -> std::io::Result<()>) -> i32 {
    match main() {
        Ok(()) => 0,
        Err(error) => {
            complain(
                &format!("yare {name}"),
                &Error::internal(format!("the {name} cannot go on")).caused_by(error),
            );
            1
        }
    }
}

/// Prints to standard output; a reader that left is no failure.
fn say(text: &str) -> i32 {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    0
}

/// Prints an error with its causes, and what to do about it.
fn complain(who: &str, error: &Error) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{who}: {}", yare_errdefs::chain(error));
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "  {hint}");
    }
}
