//! Volumes.
//!
//! Names, kinds, defaults and texts are those of docker CLI 28.2.

use crate::commands::{inspect, prune, volumes};
use crate::flags::Kind::{Bool, Bytes, Filter, Label, List, Map, Text};
use crate::flags::{Flag, flag};
use crate::table::{Command, NONE, at_least, at_most, between, exactly};

const VOLUME_CREATE: &[Flag] = &[
    flag(
        "availability",
        None,
        Text,
        "\"active\"",
        "Cluster Volume availability (\"active\", \"pause\", \"drain\")",
    ),
    flag("driver", Some('d'), Text, "\"local\"", "Specify volume driver name"),
    flag("group", None, Text, "", "Cluster Volume group (cluster volumes)"),
    flag("label", None, Label, "", "Set metadata for a volume"),
    flag("limit-bytes", None, Bytes, "", "Minimum size of the Cluster Volume in bytes"),
    flag("opt", Some('o'), Map, "map[]", "Set driver specific options"),
    flag("required-bytes", None, Bytes, "", "Maximum size of the Cluster Volume in bytes"),
    flag("scope", None, Text, "\"single\"", "Cluster Volume access scope (\"single\", \"multi\")"),
    flag("secret", None, Map, "map[]", "Cluster Volume secrets"),
    flag(
        "sharing",
        None,
        Text,
        "\"none\"",
        "Cluster Volume access sharing (\"none\", \"readonly\", \"onewriter\", \"all\")",
    ),
    flag("topology-preferred", None, List, "", "A topology that the Cluster Volume would be preferred in"),
    flag("topology-required", None, List, "", "A topology that the Cluster Volume must be accessible from"),
    flag("type", None, Text, "\"block\"", "Cluster Volume access type (\"mount\", \"block\")"),
];

const VOLUME_INSPECT: &[Flag] = &[flag(
    "format",
    Some('f'),
    Text,
    "",
    "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
)];

const VOLUME_LS: &[Flag] = &[
    flag("cluster", None, Bool, "", "Display only cluster volumes, and use cluster volume list formatting"),
    flag("filter", Some('f'), Filter, "", "Provide filter values (e.g. \"dangling=true\")"),
    flag(
        "format",
        None,
        Text,
        "",
        "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("quiet", Some('q'), Bool, "", "Only display volume names"),
];

const VOLUME_PRUNE: &[Flag] = &[
    flag("all", Some('a'), Bool, "", "Remove all unused volumes, not just anonymous ones"),
    flag("filter", None, Filter, "", "Provide filter values (e.g. \"label=<label>\")"),
    flag("force", Some('f'), Bool, "", "Do not prompt for confirmation"),
];

const VOLUME_EXPORT: &[Flag] = &[flag("output", Some('o'), Text, "", "Write to a file, instead of STDOUT")];

const VOLUME_RM: &[Flag] = &[flag("force", Some('f'), Bool, "", "Force the removal of one or more volumes")];

/// The commands.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        path: "volume create",
        aliases: &[],
        usage: "[OPTIONS] [VOLUME]",
        short: "Create a volume",
        about: "Create a volume",
        flags: &[VOLUME_CREATE],
        arguments: at_most(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(volumes::create(cx, given)),
    },
    Command {
        path: "volume export",
        aliases: &[],
        usage: "[OPTIONS] VOLUME",
        short: "Export a volume's files as a tar archive (Yare only)",
        about: "Export a volume's files as a tar archive",
        flags: &[VOLUME_EXPORT],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(volumes::export(cx, given)),
    },
    Command {
        path: "volume import",
        aliases: &[],
        usage: "VOLUME [file|-]",
        short: "Extract a tar archive into a volume, which is made if it is not there (Yare only)",
        about: "Extract a tar archive, which may be compressed, into a volume, which is made if it is not there",
        flags: &[],
        arguments: between(1, 2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(volumes::import(cx, given)),
    },
    Command {
        path: "volume inspect",
        aliases: &[],
        usage: "[OPTIONS] VOLUME [VOLUME...]",
        short: "Display detailed information on one or more volumes",
        about: "Display detailed information on one or more volumes",
        flags: &[VOLUME_INSPECT],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(inspect::volumes(cx, given)),
    },
    Command {
        path: "volume ls",
        aliases: &["volume list"],
        usage: "[OPTIONS]",
        short: "List volumes",
        about: "List volumes",
        flags: &[VOLUME_LS],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(volumes::ls(cx, given)),
    },
    Command {
        path: "volume prune",
        aliases: &[],
        usage: "[OPTIONS]",
        short: "Remove unused local volumes",
        about: "Remove unused local volumes",
        flags: &[VOLUME_PRUNE],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(prune::volumes(cx, given)),
    },
    Command {
        path: "volume rm",
        aliases: &["volume remove"],
        usage: "[OPTIONS] VOLUME [VOLUME...]",
        short: "Remove one or more volumes",
        about: "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
        flags: &[VOLUME_RM],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(volumes::rm(cx, given)),
    },
];
