//! Building images and the cache of builds.
//!
//! Names, defaults and texts are those of docker CLI 28.2 with buildx 0.29, whose `build` most people know;
//! flags that are only the classic builder's or only ours are marked so.

use crate::commands::{build, du, imagetools, prune};
use crate::flags::Kind::{
    Bool, Bytes, Decimal, ExtraHost, Filter, Int, Label, List, Strings, SwapBytes, Text, Ulimit,
};
use crate::flags::{Flag, flag};
use crate::table::{Command, NONE, at_least, exactly};

/// What Buildx's `build` has.
const BUILD: &[Flag] = &[
    flag("add-host", None, ExtraHost, "", "Add a custom host-to-IP mapping (format: \"host:ip\")"),
    flag(
        "allow",
        None,
        Strings,
        "",
        "Allow extra privileged entitlement (e.g., \"network.host\", \"security.insecure\", \"device\")",
    ),
    flag("annotation", None, List, "", "Add annotation to the image"),
    flag("attest", None, List, "", "Attestation parameters (format: \"type=sbom,generator=image\")"),
    flag("build-arg", None, List, "", "Set build-time variables"),
    flag("build-context", None, List, "", "Additional build contexts (e.g., name=path)"),
    BUILDER,
    flag(
        "cache-from",
        None,
        List,
        "",
        "External cache sources (e.g., \"user/app:cache\", \"type=local,src=path/to/dir\")",
    ),
    flag(
        "cache-to",
        None,
        List,
        "",
        "Cache export destinations (e.g., \"user/app:cache\", \"type=local,dest=path/to/dir\")",
    ),
    flag(
        "call",
        None,
        Text,
        "\"build\"",
        "Set method for evaluating build (\"check\", \"outline\", \"targets\")",
    ),
    flag("cgroup-parent", None, Text, "", "Set the parent cgroup for the \"RUN\" instructions during build"),
    flag("check", None, Bool, "", "Shorthand for \"--call=check\""),
    flag("file", Some('f'), Text, "", "Name of the Dockerfile (default: \"PATH/Dockerfile\")"),
    flag("iidfile", None, Text, "", "Write the image ID to a file"),
    flag("label", None, Label, "", "Set metadata for an image"),
    flag("load", None, Bool, "", "Put the result into the image store, beside other outputs"),
    flag("metadata-file", None, Text, "", "Write build result metadata to a file"),
    flag(
        "network",
        None,
        Text,
        "\"default\"",
        "Set the networking mode for the \"RUN\" instructions during build",
    ),
    flag("no-cache", None, Bool, "", "Do not use cache when building the image"),
    flag("no-cache-filter", None, Strings, "", "Do not cache specified stages"),
    flag("output", Some('o'), List, "", "Output destination (format: \"type=local,dest=path\")"),
    flag("platform", None, Strings, "", "Set target platform for build"),
    flag(
        "progress",
        None,
        Text,
        "\"auto\"",
        "Set type of progress output (\"auto\", \"plain\", \"quiet\", \"rawjson\", \"tty\"). Use plain to show container output",
    ),
    flag("provenance", None, Text, "", "Shorthand for \"--attest=type=provenance\""),
    flag("pull", None, Bool, "", "Always attempt to pull all referenced images"),
    flag("push", None, Bool, "", "Shorthand for \"--output=type=registry\""),
    flag("quiet", Some('q'), Bool, "", "Suppress the build output and print image ID on success"),
    flag("sbom", None, Text, "", "Shorthand for \"--attest=type=sbom\""),
    flag(
        "secret",
        None,
        List,
        "",
        "Secret to expose to the build (format: \"id=mysecret[,src=/local/secret]\")",
    ),
    flag("shm-size", None, Bytes, "", "Shared memory size for build containers"),
    flag(
        "ssh",
        None,
        List,
        "",
        "SSH agent socket to expose to the build (format: \"default|<id>[=<socket>]\")",
    ),
    flag("tag", Some('t'), List, "", "Image identifier (format: \"[registry/]repository[:tag]\")"),
    flag("target", None, Text, "", "Set the target build stage to build"),
    flag("ulimit", None, Ulimit, "[]", "Ulimit options"),
];

/// What the classic builder has.
const CLASSIC: &[Flag] = &[
    flag("compress", None, Bool, "", "Compress the build context using gzip").hidden(),
    flag("cpu-period", None, Int, "", "Limit the CPU CFS (Completely Fair Scheduler) period of each step"),
    flag("cpu-quota", None, Int, "", "Limit the CPU CFS (Completely Fair Scheduler) quota of each step"),
    flag("cpu-shares", Some('c'), Int, "", "CPU shares of each step (relative weight)"),
    flag("cpuset-cpus", None, Text, "", "CPUs in which to allow execution (0-3, 0,1)"),
    flag("cpuset-mems", None, Text, "", "MEMs in which to allow execution (0-3, 0,1)"),
    flag("disable-content-trust", None, Bool, "true", "Skip image verification").hidden(),
    flag("force-rm", None, Bool, "", "Always remove intermediate containers").hidden(),
    flag("isolation", None, Text, "", "Container isolation technology").hidden(),
    flag("memory", Some('m'), Bytes, "", "Memory limit of each step"),
    flag(
        "memory-swap",
        None,
        SwapBytes,
        "",
        "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
    ),
    flag("rm", None, Bool, "true", "Remove intermediate containers after a successful build").hidden(),
    flag("security-opt", None, Strings, "", "Security options").hidden(),
    flag("squash", None, Bool, "", "Squash newly built layers into a single new layer"),
];

/// What only this builder has.
const OURS: &[Flag] = &[
    flag("cpus", None, Decimal, "", "Number of CPUs for each step"),
    flag("explain", None, Bool, "", "Say for each step that ran why the cache did not serve it"),
    flag(
        "secret-scan",
        None,
        Text,
        "\"warn\"",
        "What to do about keys and tokens in new files (\"off\", \"warn\", \"fail\")",
    ),
    flag("verify", None, Bool, "", "Build twice and show what differs"),
    flag("why-miss", None, Bool, "", "Say for each step that ran why the cache did not serve it").hidden(),
];

const PRUNE: &[Flag] = &[
    flag("all", Some('a'), Bool, "", "Remove all unused build cache, not just dangling ones"),
    flag("filter", None, Filter, "", "Provide filter values (e.g. \"until=24h\")"),
    flag("force", Some('f'), Bool, "", "Do not prompt for confirmation"),
    flag("keep-storage", None, Bytes, "", "Amount of disk space to keep for cache"),
    flag("max-used-space", None, Bytes, "", "Maximum amount of disk space allowed to keep for cache"),
    flag("min-free-space", None, Bytes, "", "Target amount of free disk space after pruning"),
    flag("reserved-space", None, Bytes, "", "Amount of disk space always allowed to keep for cache"),
];

const DU: &[Flag] = &[
    flag("filter", None, Filter, "", "Provide filter values"),
    flag("format", None, Text, "", "Format the output: \"json\", or a Go template"),
    flag("verbose", None, Bool, "", "Provide a more verbose output"),
];

const BUILDER: Flag = flag("builder", None, Text, "", "Override the configured builder instance").hidden();

const IMAGETOOLS_CREATE: &[Flag] = &[
    flag("annotation", None, List, "", "Add annotation to the image"),
    flag("append", None, Bool, "", "Append to existing manifest"),
    BUILDER,
    flag("dry-run", None, Bool, "", "Show final image instead of pushing"),
    flag("file", Some('f'), List, "", "Read source descriptor from file"),
    flag("platform", Some('p'), Strings, "", "Filter specified platforms of target image"),
    flag(
        "prefer-index",
        None,
        Bool,
        "true",
        "When only a single source is specified, prefer outputting an image index or manifest list instead of performing a carbon copy",
    ),
    flag(
        "progress",
        None,
        Text,
        "\"auto\"",
        "Set type of progress output (\"auto\", \"none\", \"plain\", \"rawjson\", \"tty\"). Use plain to show container output",
    ),
    flag("tag", Some('t'), List, "", "Set reference for new image"),
];

const IMAGETOOLS_INSPECT: &[Flag] = &[
    BUILDER,
    flag("format", None, Text, "", "Format the output using the given Go template"),
    flag("raw", None, Bool, "", "Show original, unformatted JSON manifest"),
];

/// The commands.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        path: "image build",
        aliases: &["build", "builder build", "buildx build", "buildx b"],
        usage: "[OPTIONS] PATH | URL | -",
        short: "Build an image from a Dockerfile",
        about: "Build an image from a Dockerfile",
        flags: &[BUILD, CLASSIC, OURS],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(build::build(cx, given)),
    },
    Command {
        path: "builder prune",
        aliases: &["buildx prune"],
        usage: "[OPTIONS]",
        short: "Remove build cache",
        about: "Remove build cache",
        flags: &[PRUNE],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(prune::builder(cx, given)),
    },
    Command {
        path: "builder du",
        aliases: &["buildx du"],
        usage: "[OPTIONS]",
        short: "Disk usage of the build cache",
        about: "Disk usage of the build cache",
        flags: &[DU],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(du::du(cx, given)),
    },
    Command {
        path: "buildx imagetools create",
        aliases: &["builder imagetools create"],
        usage: "[OPTIONS] [SOURCE...]",
        short: "Create a new image based on source images",
        about: "Create a new image based on source images",
        flags: &[IMAGETOOLS_CREATE],
        arguments: at_least(0),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(imagetools::create(cx, given)),
    },
    Command {
        path: "buildx imagetools inspect",
        aliases: &["builder imagetools inspect"],
        usage: "[OPTIONS] NAME",
        short: "Show details of an image in the registry",
        about: "Show details of an image in the registry",
        flags: &[IMAGETOOLS_INSPECT],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(imagetools::inspect(cx, given)),
    },
];
