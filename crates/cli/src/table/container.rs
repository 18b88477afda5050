//! Containers, but for the flags of `create`.
//!
//! Names, kinds, defaults and texts are those of docker CLI 28.2.

use crate::commands::{
    archive, attach, commit, cp, exec, inspect, lifecycle, logs, port, processes, prune, ps, run, start,
    stats, update,
};
use crate::flags::Kind::{Bool, Bytes, Decimal, Env, Filter, Int, List, SwapBytes, Text, Uint16};
use crate::flags::{Flag, flag};
use crate::table::{Command, NONE, at_least, between, exactly};

const CONTAINER_ATTACH: &[Flag] = &[
    flag("detach-keys", None, Text, "", "Override the key sequence for detaching a container"),
    flag("no-stdin", None, Bool, "", "Do not attach STDIN"),
    flag("sig-proxy", None, Bool, "true", "Proxy all received signals to the process"),
];

const CONTAINER_COMMIT: &[Flag] = &[
    flag("author", Some('a'), Text, "", "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")"),
    flag("change", Some('c'), List, "", "Apply Dockerfile instruction to the created image"),
    flag("message", Some('m'), Text, "", "Commit message"),
    flag("pause", Some('p'), Bool, "true", "Pause container during commit"),
];

const CONTAINER_CP: &[Flag] = &[
    flag("archive", Some('a'), Bool, "", "Archive mode (copy all uid/gid information)"),
    flag("follow-link", Some('L'), Bool, "", "Always follow symbol link in SRC_PATH"),
    flag(
        "quiet",
        Some('q'),
        Bool,
        "",
        "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached",
    ),
];

const CONTAINER_EXEC: &[Flag] = &[
    flag("detach", Some('d'), Bool, "", "Detached mode: run command in the background"),
    flag("detach-keys", None, Text, "", "Override the key sequence for detaching a container"),
    flag("env", Some('e'), Env, "", "Set environment variables"),
    flag("env-file", None, List, "", "Read in a file of environment variables"),
    flag("interactive", Some('i'), Bool, "", "Keep STDIN open even if not attached"),
    flag("privileged", None, Bool, "", "Give extended privileges to the command"),
    // Not Docker's.
    flag("sig-proxy", None, Bool, "true", "Proxy received signals to the process (non-TTY mode only)"),
    flag("tty", Some('t'), Bool, "", "Allocate a pseudo-TTY"),
    flag("user", Some('u'), Text, "", "Username or UID (format: \"<name|uid>[:<group|gid>]\")"),
    flag("workdir", Some('w'), Text, "", "Working directory inside the container"),
];

const CONTAINER_EXPORT: &[Flag] =
    &[flag("output", Some('o'), Text, "", "Write to a file, instead of STDOUT")];

const CONTAINER_INSPECT: &[Flag] = &[
    flag(
        "format",
        Some('f'),
        Text,
        "",
        "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("size", Some('s'), Bool, "", "Display total file sizes"),
];

const CONTAINER_KILL: &[Flag] = &[
    // Not Docker's.
    flag("exec", None, Bool, "", "Kill processes that \"exec\" has started, by their IDs"),
    flag("signal", Some('s'), Text, "", "Signal to send to the container"),
];

const CONTAINER_LOGS: &[Flag] = &[
    flag("details", None, Bool, "", "Show extra details provided to logs"),
    flag("follow", Some('f'), Bool, "", "Follow log output"),
    flag(
        "since",
        None,
        Text,
        "",
        "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
    ),
    flag("tail", Some('n'), Text, "\"all\"", "Number of lines to show from the end of the logs"),
    flag("timestamps", Some('t'), Bool, "", "Show timestamps"),
    flag(
        "until",
        None,
        Text,
        "",
        "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
    ),
];

const CONTAINER_LS: &[Flag] = &[
    flag("all", Some('a'), Bool, "shows just running", "Show all containers"),
    flag("filter", Some('f'), Filter, "", "Filter output based on conditions provided"),
    flag(
        "format",
        None,
        Text,
        "",
        "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("last", Some('n'), Int, "-1", "Show n last created containers (includes all states)"),
    flag("latest", Some('l'), Bool, "", "Show the latest created container (includes all states)"),
    flag("no-trunc", None, Bool, "", "Don't truncate output"),
    flag("quiet", Some('q'), Bool, "", "Only display container IDs"),
    flag("size", Some('s'), Bool, "", "Display total file sizes"),
];

const CONTAINER_PRUNE: &[Flag] = &[
    super::image::DRY_RUN,
    flag("filter", None, Filter, "", "Provide filter values (e.g. \"until=<timestamp>\")"),
    flag("force", Some('f'), Bool, "", "Do not prompt for confirmation"),
];

const CONTAINER_RESTART: &[Flag] = &[
    flag("signal", Some('s'), Text, "", "Signal to send to the container"),
    flag("timeout", Some('t'), Int, "", "Seconds to wait before killing the container"),
    flag("time", None, Int, "0", "Seconds to wait before killing the container").hidden(),
];

const CONTAINER_RM: &[Flag] = &[
    flag("force", Some('f'), Bool, "", "Force the removal of a running container (uses SIGKILL)"),
    flag("link", Some('l'), Bool, "", "Remove the specified link"),
    flag("volumes", Some('v'), Bool, "", "Remove anonymous volumes associated with the container"),
];

const CONTAINER_START: &[Flag] = &[
    flag("attach", Some('a'), Bool, "", "Attach STDOUT/STDERR and forward signals"),
    flag("checkpoint", None, Text, "", "Restore from this checkpoint"),
    flag("checkpoint-dir", None, Text, "", "Use a custom checkpoint storage directory"),
    flag("detach-keys", None, Text, "", "Override the key sequence for detaching a container"),
    flag("interactive", Some('i'), Bool, "", "Attach container's STDIN"),
];

const CONTAINER_STATS: &[Flag] = &[
    flag("all", Some('a'), Bool, "shows just running", "Show all containers"),
    flag(
        "format",
        None,
        Text,
        "",
        "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("no-stream", None, Bool, "", "Disable streaming stats and only pull the first result"),
    flag("no-trunc", None, Bool, "", "Do not truncate output"),
];

const CONTAINER_STOP: &[Flag] = &[
    flag("signal", Some('s'), Text, "", "Signal to send to the container"),
    flag("timeout", Some('t'), Int, "", "Seconds to wait before killing the container"),
    flag("time", None, Int, "0", "Seconds to wait before killing the container").hidden(),
];

const CONTAINER_UPDATE: &[Flag] = &[
    flag(
        "blkio-weight",
        None,
        Uint16,
        "0",
        "Block IO (relative weight), between 10 and 1000, or 0 to disable",
    ),
    flag("cpu-period", None, Int, "", "Limit CPU CFS (Completely Fair Scheduler) period"),
    flag("cpu-quota", None, Int, "", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    flag("cpu-rt-period", None, Int, "", "Limit the CPU real-time period in microseconds"),
    flag("cpu-rt-runtime", None, Int, "", "Limit the CPU real-time runtime in microseconds"),
    flag("cpu-shares", Some('c'), Int, "", "CPU shares (relative weight)"),
    flag("cpus", None, Decimal, "", "Number of CPUs"),
    flag("cpuset-cpus", None, Text, "", "CPUs in which to allow execution (0-3, 0,1)"),
    flag("cpuset-mems", None, Text, "", "MEMs in which to allow execution (0-3, 0,1)"),
    flag("memory", Some('m'), Bytes, "", "Memory limit"),
    flag("memory-reservation", None, Bytes, "", "Memory soft limit"),
    flag(
        "memory-swap",
        None,
        SwapBytes,
        "",
        "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
    ),
    flag("pids-limit", None, Int, "", "Tune container pids limit (set -1 for unlimited)"),
    flag("restart", None, Text, "", "Restart policy to apply when a container exits"),
];

const CREATE: &[Flag] = &[flag(
    "pull",
    None,
    Text,
    "\"missing\"",
    "Pull image before creating (\"always\", \"missing\", \"never\")",
)];

const RUN: &[Flag] = &[
    flag("pull", None, Text, "\"missing\"", "Pull image before running (\"always\", \"missing\", \"never\")"),
    flag("detach", Some('d'), Bool, "", "Run container in background and print container ID"),
    flag("detach-keys", None, Text, "", "Override the key sequence for detaching a container"),
    flag("sig-proxy", None, Bool, "true", "Proxy received signals to the process"),
];

/// The commands.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        path: "container run",
        aliases: &["run"],
        usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        short: "Create and run a new container from an image",
        about: "Create and run a new container from an image",
        flags: &[super::create::FLAGS, RUN],
        arguments: at_least(1),
        stop_at_positional: true,
        hidden: false,
        run: |cx, given| Box::pin(run::run(cx, given)),
    },
    Command {
        path: "container create",
        aliases: &["create"],
        usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        short: "Create a new container",
        about: "Create a new container",
        flags: &[super::create::FLAGS, CREATE],
        arguments: at_least(1),
        stop_at_positional: true,
        hidden: false,
        run: |cx, given| Box::pin(run::create(cx, given)),
    },
    Command {
        path: "container attach",
        aliases: &["attach"],
        usage: "[OPTIONS] CONTAINER",
        short: "Attach local standard input, output, and error streams to a running container",
        about: "Attach local standard input, output, and error streams to a running container",
        flags: &[CONTAINER_ATTACH],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(attach::attach(cx, given)),
    },
    Command {
        path: "container commit",
        aliases: &["commit"],
        usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        short: "Create a new image from a container's changes",
        about: "Create a new image from a container's changes",
        flags: &[CONTAINER_COMMIT],
        arguments: between(1, 2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(commit::commit(cx, given)),
    },
    Command {
        path: "container cp",
        aliases: &["cp"],
        usage: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\t$ [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        short: "Copy files/folders between a container and the local filesystem",
        about: "Copy files/folders between a container and the local filesystem\n\nUse '-' as the source to read a tar archive from stdin\nand extract it to a directory destination in a container.\nUse '-' as the destination to stream a tar archive of a\ncontainer source to stdout.",
        flags: &[CONTAINER_CP],
        arguments: exactly(2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(cp::copy(cx, given)),
    },
    Command {
        path: "container diff",
        aliases: &["diff"],
        usage: "CONTAINER",
        short: "Inspect changes to files or directories on a container's filesystem",
        about: "Inspect changes to files or directories on a container's filesystem",
        flags: &[],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(processes::diff(cx, given)),
    },
    Command {
        path: "container exec",
        aliases: &["exec"],
        usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
        short: "Execute a command in a running container",
        about: "Execute a command in a running container",
        flags: &[CONTAINER_EXEC],
        arguments: at_least(2),
        stop_at_positional: true,
        hidden: false,
        run: |cx, given| Box::pin(exec::exec(cx, given)),
    },
    Command {
        path: "container export",
        aliases: &["export"],
        usage: "[OPTIONS] CONTAINER",
        short: "Export a container's filesystem as a tar archive",
        about: "Export a container's filesystem as a tar archive",
        flags: &[CONTAINER_EXPORT],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(archive::export(cx, given)),
    },
    Command {
        path: "container inspect",
        aliases: &[],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        short: "Display detailed information on one or more containers",
        about: "Display detailed information on one or more containers",
        flags: &[CONTAINER_INSPECT],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(inspect::containers(cx, given)),
    },
    Command {
        path: "container kill",
        aliases: &["kill"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        short: "Kill one or more running containers",
        about: "Kill one or more running containers",
        flags: &[CONTAINER_KILL],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(lifecycle::kill(cx, given)),
    },
    Command {
        path: "container logs",
        aliases: &["logs"],
        usage: "[OPTIONS] CONTAINER",
        short: "Fetch the logs of a container",
        about: "Fetch the logs of a container",
        flags: &[CONTAINER_LOGS],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(logs::logs(cx, given)),
    },
    Command {
        path: "container ls",
        aliases: &["container list", "container ps", "ps"],
        usage: "[OPTIONS]",
        short: "List containers",
        about: "List containers",
        flags: &[CONTAINER_LS],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(ps::list(cx, given)),
    },
    Command {
        path: "container pause",
        aliases: &["pause"],
        usage: "CONTAINER [CONTAINER...]",
        short: "Pause all processes within one or more containers",
        about: "Pause all processes within one or more containers",
        flags: &[],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(lifecycle::pause(cx, given)),
    },
    Command {
        path: "container port",
        aliases: &["port"],
        usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
        short: "List port mappings or a specific mapping for the container",
        about: "List port mappings or a specific mapping for the container",
        flags: &[],
        arguments: between(1, 2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(port::port(cx, given)),
    },
    Command {
        path: "container prune",
        aliases: &[],
        usage: "[OPTIONS]",
        short: "Remove all stopped containers",
        about: "Remove all stopped containers",
        flags: &[CONTAINER_PRUNE],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(prune::containers(cx, given)),
    },
    Command {
        path: "container rename",
        aliases: &["rename"],
        usage: "CONTAINER NEW_NAME",
        short: "Rename a container",
        about: "Rename a container",
        flags: &[],
        arguments: exactly(2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(lifecycle::rename(cx, given)),
    },
    Command {
        path: "container restart",
        aliases: &["restart"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        short: "Restart one or more containers",
        about: "Restart one or more containers",
        flags: &[CONTAINER_RESTART],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(lifecycle::restart(cx, given)),
    },
    Command {
        path: "container rm",
        aliases: &["container remove", "rm"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        short: "Remove one or more containers",
        about: "Remove one or more containers",
        flags: &[CONTAINER_RM],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(lifecycle::remove(cx, given)),
    },
    Command {
        path: "container start",
        aliases: &["start"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        short: "Start one or more stopped containers",
        about: "Start one or more stopped containers",
        flags: &[CONTAINER_START],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(start::start(cx, given)),
    },
    Command {
        path: "container stats",
        aliases: &["stats"],
        usage: "[OPTIONS] [CONTAINER...]",
        short: "Display a live stream of container(s) resource usage statistics",
        about: "Display a live stream of container(s) resource usage statistics",
        flags: &[CONTAINER_STATS],
        arguments: at_least(0),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(stats::stats(cx, given)),
    },
    Command {
        path: "container stop",
        aliases: &["stop"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        short: "Stop one or more running containers",
        about: "Stop one or more running containers",
        flags: &[CONTAINER_STOP],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(lifecycle::stop(cx, given)),
    },
    Command {
        path: "container top",
        aliases: &["top"],
        usage: "CONTAINER [ps OPTIONS]",
        short: "Display the running processes of a container",
        about: "Display the running processes of a container",
        flags: &[],
        arguments: at_least(1),
        stop_at_positional: true,
        hidden: false,
        run: |cx, given| Box::pin(processes::top(cx, given)),
    },
    Command {
        path: "container unpause",
        aliases: &["unpause"],
        usage: "CONTAINER [CONTAINER...]",
        short: "Unpause all processes within one or more containers",
        about: "Unpause all processes within one or more containers",
        flags: &[],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(lifecycle::unpause(cx, given)),
    },
    Command {
        path: "container update",
        aliases: &["update"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        short: "Update configuration of one or more containers",
        about: "Update configuration of one or more containers",
        flags: &[CONTAINER_UPDATE],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(update::update(cx, given)),
    },
    Command {
        path: "container wait",
        aliases: &["wait"],
        usage: "CONTAINER [CONTAINER...]",
        short: "Block until one or more containers stop, then print their exit codes",
        about: "Block until one or more containers stop, then print their exit codes",
        flags: &[],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(lifecycle::wait(cx, given)),
    },
];
