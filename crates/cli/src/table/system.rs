//! The engine as a whole, registries, contexts.
//!
//! Names, kinds, defaults and texts are those of docker CLI 28.2.

use crate::commands::{contexts, df, events, info, inspect, prune, registry, version};
use crate::flags::Kind::{Bool, Filter, Int, Pairs, Text};
use crate::flags::{Flag, flag};
use crate::table::{Command, NONE, at_least, at_most, between, exactly};

const SYSTEM_DF: &[Flag] = &[
    flag(
        "format",
        None,
        Text,
        "",
        "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("verbose", Some('v'), Bool, "", "Show detailed information on space usage"),
];

const SYSTEM_EVENTS: &[Flag] = &[
    flag("filter", Some('f'), Filter, "", "Filter output based on conditions provided"),
    flag(
        "format",
        None,
        Text,
        "",
        "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("since", None, Text, "", "Show all events created since timestamp"),
    flag("until", None, Text, "", "Stream events until this timestamp"),
];

const SYSTEM_INFO: &[Flag] = &[flag(
    "format",
    Some('f'),
    Text,
    "",
    "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
)];

const SYSTEM_POLICY: &[Flag] = &[flag("format", None, Text, "", "Print in JSON format with \"json\"")];

const SYSTEM_PRUNE: &[Flag] = &[
    flag("all", Some('a'), Bool, "", "Remove all unused images not just dangling ones"),
    super::image::DRY_RUN,
    flag("filter", None, Filter, "", "Provide filter values (e.g. \"label=<key>=<value>\")"),
    flag("force", Some('f'), Bool, "", "Do not prompt for confirmation"),
    super::image::KEEP,
    super::image::KEEP_STORAGE,
    flag("volumes", None, Bool, "", "Prune anonymous volumes"),
];

const INSPECT: &[Flag] = &[
    flag(
        "format",
        Some('f'),
        Text,
        "",
        "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("size", Some('s'), Bool, "", "Display total file sizes if the type is container"),
    flag("type", None, Text, "", "Only inspect objects of the given type"),
];

const VERSION: &[Flag] = &[flag(
    "format",
    Some('f'),
    Text,
    "",
    "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
)];

const LOGIN: &[Flag] = &[
    flag("password", Some('p'), Text, "", "Password or Personal Access Token (PAT)"),
    flag("password-stdin", None, Bool, "", "Take the Password or Personal Access Token (PAT) from stdin"),
    flag("username", Some('u'), Text, "", "Username"),
];

const SEARCH: &[Flag] = &[
    flag("filter", Some('f'), Filter, "", "Filter output based on conditions provided"),
    flag("format", None, Text, "", "Pretty-print search using a Go template"),
    flag("limit", None, Int, "", "Max number of search results"),
    flag("no-trunc", None, Bool, "", "Don't truncate output"),
];

const CONTEXT_LS: &[Flag] = &[
    flag(
        "format",
        None,
        Text,
        "",
        "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("quiet", Some('q'), Bool, "", "Only show context names"),
];

const CONTEXT_INSPECT: &[Flag] = &[flag(
    "format",
    Some('f'),
    Text,
    "",
    "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
)];

const CONTEXT_UPDATE: &[Flag] = &[
    flag("description", None, Text, "", "Description of the context"),
    flag("docker", None, Pairs, "[]", "set the docker endpoint"),
];

const CONTEXT_FROM: &[Flag] = &[flag("from", None, Text, "", "create context from a named context")];

const CONTEXT_RM: &[Flag] = &[flag("force", Some('f'), Bool, "", "Force the removal of a context in use")];

/// What `--docker` takes, for the help of a command.
macro_rules! about_endpoints {
    ($about:literal, $verb:literal) => {
        concat!(
            $about,
            "\n\nDocker endpoint config:\n\nNAME                DESCRIPTION\n\
             from                Copy named context's Docker endpoint configuration\n\
             host                Docker endpoint on which to connect\n\
             ca                  Trust certs signed only by this CA\n\
             cert                Path to TLS certificate file\n\
             key                 Path to TLS key file\n\
             skip-tls-verify     Skip TLS certificate validation\n\nExample:\n\n$ docker context ",
            $verb,
            " my-context --description \"some description\" --docker \
             \"host=tcp://myserver:2376,ca=~/ca-file,cert=~/cert-file,key=~/key-file\""
        )
    };
}

/// The commands.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        path: "system df",
        aliases: &[],
        usage: "[OPTIONS]",
        short: "Show docker disk usage",
        about: "Show docker disk usage",
        flags: &[SYSTEM_DF],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(df::df(cx, given)),
    },
    Command {
        path: "system policy",
        aliases: &[],
        usage: "[OPTIONS]",
        short: "Show what the engine removes by itself, and what of that is due",
        about: "Show what the engine removes by itself, and what of that is due now.\nNothing is removed; the settings are flags of yare daemon.",
        flags: &[SYSTEM_POLICY],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(prune::policy(cx, given)),
    },
    Command {
        path: "system events",
        aliases: &["events"],
        usage: "[OPTIONS]",
        short: "Get real time events from the server",
        about: "Get real time events from the server",
        flags: &[SYSTEM_EVENTS],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(events::events(cx, given)),
    },
    Command {
        path: "system info",
        aliases: &["info"],
        usage: "[OPTIONS]",
        short: "Display system-wide information",
        about: "Display system-wide information",
        flags: &[SYSTEM_INFO],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(info::info(cx, given)),
    },
    Command {
        path: "system prune",
        aliases: &[],
        usage: "[OPTIONS]",
        short: "Remove unused data",
        about: "Remove unused data",
        flags: &[SYSTEM_PRUNE],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(prune::system(cx, given)),
    },
    Command {
        path: "system dial-stdio",
        aliases: &[],
        usage: "",
        short: "Proxy the stdio stream to the daemon connection",
        about: "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
        flags: &[],
        arguments: NONE,
        stop_at_positional: false,
        hidden: true,
        run: |cx, given| Box::pin(info::dial_stdio(cx, given)),
    },
    Command {
        path: "inspect",
        aliases: &[],
        usage: "[OPTIONS] NAME|ID [NAME|ID...]",
        short: "Return low-level information on Docker objects",
        about: "Return low-level information on Docker objects",
        flags: &[INSPECT],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(inspect::any(cx, given)),
    },
    Command {
        path: "version",
        aliases: &[],
        usage: "[OPTIONS]",
        short: "Show the Docker version information",
        about: "Show the Docker version information",
        flags: &[VERSION],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(version::version(cx, given)),
    },
    Command {
        path: "login",
        aliases: &[],
        usage: "[OPTIONS] [SERVER]",
        short: "Authenticate to a registry",
        about: "Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
        flags: &[LOGIN],
        arguments: at_most(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(registry::login(cx, given)),
    },
    Command {
        path: "logout",
        aliases: &[],
        usage: "[SERVER]",
        short: "Log out from a registry",
        about: "Log out from a registry.\nIf no server is specified, the default is defined by the daemon.",
        flags: &[],
        arguments: at_most(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(registry::logout(cx, given)),
    },
    Command {
        path: "search",
        aliases: &[],
        usage: "[OPTIONS] TERM",
        short: "Search Docker Hub for images",
        about: "Search Docker Hub for images",
        flags: &[SEARCH],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(registry::search(cx, given)),
    },
    Command {
        path: "context ls",
        aliases: &["context list"],
        usage: "[OPTIONS]",
        short: "List contexts",
        about: "List contexts",
        flags: &[CONTEXT_LS],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(contexts::list(cx, given)),
    },
    Command {
        path: "context show",
        aliases: &[],
        usage: "",
        short: "Print the name of the current context",
        about: "Print the name of the current context",
        flags: &[],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(contexts::show(cx, given)),
    },
    Command {
        path: "context inspect",
        aliases: &[],
        usage: "[OPTIONS] [CONTEXT] [CONTEXT...]",
        short: "Display detailed information on one or more contexts",
        about: "Display detailed information on one or more contexts",
        flags: &[CONTEXT_INSPECT],
        arguments: at_least(0),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(contexts::inspect(cx, given)),
    },
    Command {
        path: "context use",
        aliases: &[],
        usage: "CONTEXT",
        short: "Set the current docker context",
        about: "Set the current docker context",
        flags: &[],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(contexts::use_context(cx, given)),
    },
    Command {
        path: "context create",
        aliases: &[],
        usage: "[OPTIONS] CONTEXT",
        short: "Create a context",
        about: about_endpoints!("Create a context", "create"),
        flags: &[CONTEXT_UPDATE, CONTEXT_FROM],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(contexts::create(cx, given)),
    },
    Command {
        path: "context update",
        aliases: &[],
        usage: "[OPTIONS] CONTEXT",
        short: "Update a context",
        about: about_endpoints!("Update a context", "update"),
        flags: &[CONTEXT_UPDATE],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(contexts::update(cx, given)),
    },
    Command {
        path: "context rm",
        aliases: &["context remove"],
        usage: "CONTEXT [CONTEXT...]",
        short: "Remove one or more contexts",
        about: "Remove one or more contexts",
        flags: &[CONTEXT_RM],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(contexts::remove(cx, given)),
    },
    Command {
        path: "context export",
        aliases: &[],
        usage: "[OPTIONS] CONTEXT [FILE|-]",
        short: "Export a context to a tar archive FILE or a tar stream on STDOUT.",
        about: "Export a context to a tar archive FILE or a tar stream on STDOUT.",
        flags: &[],
        arguments: between(1, 2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(contexts::export(cx, given)),
    },
    Command {
        path: "context import",
        aliases: &[],
        usage: "CONTEXT FILE|-",
        short: "Import a context from a tar or zip file",
        about: "Import a context from a tar or zip file",
        flags: &[],
        arguments: exactly(2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(contexts::import(cx, given)),
    },
];
