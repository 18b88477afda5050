//! The engine's registry: commands that docker has not.

use crate::commands::served;
use crate::flags::Kind::{Strings, Text};
use crate::flags::{Flag, flag};
use crate::table::{Command, NONE, Run};

const ENABLE: &[Flag] = &[
    flag(
        "config",
        None,
        Text,
        "",
        "Configuration file (TOML) with TLS, users and rules; see docs/registry.md",
    ),
    flag("listen", None, Strings, "", "Address to listen on (default 127.0.0.1:5000)"),
];

const STATUS: &[Flag] = &[flag("format", Some('f'), Text, "", "Format output: 'json' or a Go template")];

const fn command(
    path: &'static str,
    usage: &'static str,
    about: &'static str,
    flags: &'static [&'static [Flag]],
    run: Run,
) -> Command {
    Command { flags, ..super::command(path, usage, about, NONE, run) }
}

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    command("registry disable", "", "Serve the engine's images no more", &[], |cx, given| {
        Box::pin(served::disable(cx, given))
    }),
    command(
        "registry enable",
        "[OPTIONS]",
        "Serve the engine's images as a registry, also after a restart",
        &[ENABLE],
        |cx, given| Box::pin(served::enable(cx, given)),
    ),
    command(
        "registry status",
        "[OPTIONS]",
        "Show whether the engine's images are served",
        &[STATUS],
        |cx, given| Box::pin(served::status(cx, given)),
    ),
];
