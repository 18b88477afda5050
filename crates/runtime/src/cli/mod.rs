//! The OCI command line: what containerd, CRI-O and others expect of a runtime's program.
//!
//! Options are those of runc. Errors go to standard error and, with `--log`, to a file in runc's form.

mod arguments;
mod commands;
mod state;
mod terminal;

use arguments::{Arguments, Flag};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use yare_errdefs::{Error, Result, chain};

const HELP: &str = "\
usage: yare runtime [--root DIR] [--log FILE] [--log-format text|json] COMMAND

commands:
  create [-b BUNDLE] [--pid-file FILE] [--console-socket SOCKET] ID
  start ID
  run [-d] [-b BUNDLE] [--pid-file FILE] [--console-socket SOCKET] ID
  exec [-d] [-t] [-p FILE] [-e KEY=VALUE] [-u UID[:GID]] [--cwd DIR] ID PROGRAM [ARG...]
  kill [-a] ID [SIGNAL]
  delete [-f] ID
  pause ID
  resume ID
  ps ID
  state ID
  list [-q] [-f table|json]
  features
";

/// Flags before the command. Those without effect here are accepted for their users' sake.
const GLOBAL: &[Flag] = &[
    Flag::value("root", None),
    Flag::value("log", None),
    Flag::value("log-format", None),
    Flag::value("rootless", None),
    Flag::value("criu", None),
    Flag::switch("systemd-cgroup", None),
    Flag::switch("debug", None),
    Flag::switch("version", Some('v')),
    Flag::switch("help", Some('h')),
];

/// Runs `yare runtime ARGS` (the words after `runtime`); the exit code.
///
/// Must be called before the process has a second thread.
pub fn main(args: &[OsString]) -> i32 {
    let words: Vec<String> = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (global, rest) = match Arguments::parse_leading(&words, GLOBAL) {
        Ok(parsed) => parsed,
        Err(error) => return fail(None, &error),
    };
    match dispatch(&global, rest) {
        Ok(code) => code,
        Err(error) => fail(Some(&global), &error),
    }
}

fn dispatch(global: &Arguments, rest: &[String]) -> Result<i32> {
    if global.has("version") {
        return say(&format!("yare-runtime version {}\nspec: 1.2.0\n", env!("CARGO_PKG_VERSION")));
    }
    let Some((command, rest)) = rest.split_first() else { return say(HELP) };
    if global.has("help") {
        return say(HELP);
    }
    if global.has("systemd-cgroup") {
        return Err(Error::unimplemented("the systemd cgroup driver is not built into this Yare yet")
            .with_hint("use the cgroupfs driver"));
    }
    let root = global.value("root").map_or_else(|| PathBuf::from("/run/yare-runtime"), PathBuf::from);
    match command.as_str() {
        "create" => commands::create(&root, rest),
        "start" => commands::start(&root, rest),
        "run" => commands::run(&root, rest),
        "exec" => commands::exec(&root, rest),
        "kill" => commands::kill(&root, rest),
        "delete" => commands::delete(&root, rest),
        "pause" => commands::freeze(&root, rest, true),
        "resume" => commands::freeze(&root, rest, false),
        "ps" => commands::ps(&root, rest),
        "state" => commands::state(&root, rest),
        "list" => commands::list(&root, rest),
        "features" => commands::features(),
        "help" => say(HELP),
        other => Err(Error::invalid(format!("unknown command {other:?}"))
            .with_hint("yare runtime help lists the commands")),
    }
}

/// Prints to standard output.
fn say(text: &str) -> Result<i32> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::internal("cannot write to standard output").caused_by(error))?;
    Ok(0)
}

fn fail(global: Option<&Arguments>, error: &Error) -> i32 {
    let text = chain(error);
    let _ = writeln!(std::io::stderr(), "yare runtime: {text}");
    let Some(global) = global else { return 1 };
    if let Some(path) = global.value("log") {
        let time = state::now();
        let line = match global.value("log-format") {
            Some("json") => serde_json::json!({"level": "error", "msg": text, "time": time}).to_string(),
            _ => format!("time={time:?} level=error msg={text:?}"),
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        // Standard error has it as well.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
    1
}
