//! Artifacts: commands that docker has not; names as podman's.

use crate::commands::artifact;
use crate::flags::Kind::{Bool, List, Text};
use crate::flags::{Flag, flag};
use crate::table::{Command, NONE, at_least, between, command, exactly};

const INSECURE: Flag = flag("insecure", None, Bool, "", "Allow communication with an insecure registry");

const ADD: &[Flag] = &[
    flag("annotation", None, List, "", "Annotation of the artifact, KEY=VALUE"),
    flag("file-type", None, Text, "", "Media type of the files (default application/octet-stream)"),
    flag("type", None, Text, "", "Type of the artifact"),
];

const LS: &[Flag] = &[
    flag("format", None, Text, "", "Format output: 'table', 'json' or a Go template"),
    flag("no-trunc", None, Bool, "", "Don't truncate output"),
    flag("quiet", Some('q'), Bool, "", "Only show digests"),
];

const PUSH: &[Flag] = &[INSECURE, flag("quiet", Some('q'), Bool, "", "Print the digest only")];

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command {
        flags: &[ADD],
        ..command(
            "artifact add",
            "[OPTIONS] NAME[:TAG] FILE [FILE...]",
            "Make an artifact of files",
            at_least(2),
            |cx, given| Box::pin(artifact::add(cx, given)),
        )
    },
    command(
        "artifact extract",
        "NAME[:TAG] [FOLDER]",
        "Write the files of an artifact into a folder",
        between(1, 2),
        |cx, given| Box::pin(artifact::extract(cx, given)),
    ),
    command(
        "artifact inspect",
        "NAME[:TAG] [NAME[:TAG]...]",
        "Show the manifests of artifacts",
        at_least(1),
        |cx, given| Box::pin(artifact::inspect(cx, given)),
    ),
    Command {
        aliases: &["artifact list"],
        flags: &[LS],
        ..command("artifact ls", "[OPTIONS]", "List artifacts", NONE, |cx, given| {
            Box::pin(artifact::list(cx, given))
        })
    },
    Command {
        flags: &[&[INSECURE]],
        ..command(
            "artifact pull",
            "[OPTIONS] NAME[:TAG|@DIGEST]",
            "Fetch an artifact from its registry",
            exactly(1),
            |cx, given| Box::pin(artifact::pull(cx, given)),
        )
    },
    Command {
        flags: &[PUSH],
        ..command(
            "artifact push",
            "[OPTIONS] NAME[:TAG]",
            "Send an artifact to its registry",
            exactly(1),
            |cx, given| Box::pin(artifact::push(cx, given)),
        )
    },
    Command {
        aliases: &["artifact remove"],
        ..command(
            "artifact rm",
            "NAME[:TAG] [NAME[:TAG]...]",
            "Remove artifacts",
            at_least(1),
            |cx, given| Box::pin(artifact::remove(cx, given)),
        )
    },
];
