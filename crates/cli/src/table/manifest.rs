//! Manifest lists of registries.

use crate::commands::manifest;
use crate::flags::Kind::{Bool, Strings, Text};
use crate::flags::{Flag, flag};
use crate::table::{Arity, Command, Run, at_least, between, exactly};

const INSECURE: Flag = flag("insecure", None, Bool, "", "Allow communication with an insecure registry");

const ANNOTATE: &[Flag] = &[
    flag("arch", None, Text, "", "Set architecture"),
    flag("os", None, Text, "", "Set operating system"),
    flag("os-features", None, Strings, "", "Set operating system feature"),
    flag("os-version", None, Text, "", "Set operating system version"),
    flag("variant", None, Text, "", "Set architecture variant"),
];

const CREATE: &[Flag] = &[flag("amend", Some('a'), Bool, "", "Amend an existing manifest list"), INSECURE];

const INSPECT: &[Flag] =
    &[INSECURE, flag("verbose", Some('v'), Bool, "", "Output additional info including layers and platform")];

const PUSH: &[Flag] = &[
    flag("insecure", None, Bool, "", "Allow push to an insecure registry"),
    flag("purge", Some('p'), Bool, "", "Remove the local manifest list after push"),
];

const fn command(
    path: &'static str,
    usage: &'static str,
    about: &'static str,
    flags: &'static [&'static [Flag]],
    arguments: Arity,
    run: Run,
) -> Command {
    Command { flags, ..super::command(path, usage, about, arguments, run) }
}

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    command(
        "manifest annotate",
        "[OPTIONS] MANIFEST_LIST MANIFEST",
        "Add additional information to a local image manifest",
        &[ANNOTATE],
        exactly(2),
        |cx, given| Box::pin(manifest::annotate(cx, given)),
    ),
    command(
        "manifest create",
        "MANIFEST_LIST MANIFEST [MANIFEST...]",
        "Create a local manifest list for annotating and pushing to a registry",
        &[CREATE],
        at_least(2),
        |cx, given| Box::pin(manifest::create(cx, given)),
    ),
    command(
        "manifest inspect",
        "[OPTIONS] [MANIFEST_LIST] MANIFEST",
        "Display an image manifest, or manifest list",
        &[INSPECT],
        between(1, 2),
        |cx, given| Box::pin(manifest::inspect(cx, given)),
    ),
    command(
        "manifest push",
        "[OPTIONS] MANIFEST_LIST",
        "Push a manifest list to a repository",
        &[PUSH],
        exactly(1),
        |cx, given| Box::pin(manifest::push(cx, given)),
    ),
    command(
        "manifest rm",
        "MANIFEST_LIST [MANIFEST_LIST...]",
        "Delete one or more manifest lists from local storage",
        &[],
        at_least(1),
        |cx, given| Box::pin(manifest::remove(cx, given)),
    ),
];
