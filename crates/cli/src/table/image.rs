//! Images.
//!
//! Names, kinds, defaults and texts are those of docker CLI 28.2.

use crate::commands::{archive, images, inspect, prune, remote, transfer};
use crate::flags::Kind::{Bool, Bytes, Filter, Int, List, Strings, Text};
use crate::flags::{Flag, flag};
use crate::table::{Command, NONE, at_least, at_most, exactly};

const IMAGE_HISTORY: &[Flag] = &[
    flag(
        "format",
        None,
        Text,
        "",
        "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("human", Some('H'), Bool, "true", "Print sizes and dates in human readable format"),
    flag("no-trunc", None, Bool, "", "Don't truncate output"),
    flag(
        "platform",
        None,
        Text,
        "",
        "Show history for the given platform. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")",
    ),
    flag("quiet", Some('q'), Bool, "", "Only show image IDs"),
];

const IMAGE_IMPORT: &[Flag] = &[
    flag("change", Some('c'), List, "", "Apply Dockerfile instruction to the created image"),
    flag("message", Some('m'), Text, "", "Set commit message for imported image"),
    flag("platform", None, Text, "", "Set platform if server is multi-platform capable"),
];

const IMAGE_INSPECT: &[Flag] = &[
    flag(
        "format",
        Some('f'),
        Text,
        "",
        "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag(
        "platform",
        None,
        Text,
        "",
        "Inspect a specific platform of the multi-platform image.\nIf the image or the server is not multi-platform capable, the command will error out if the platform does not match.\n'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)",
    ),
];

const IMAGE_LOAD: &[Flag] = &[
    flag("input", Some('i'), Text, "", "Read from tar archive file, instead of STDIN"),
    flag(
        "platform",
        None,
        Text,
        "",
        "Load only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")",
    ),
    flag("quiet", Some('q'), Bool, "", "Suppress the load output"),
];

const IMAGE_LS: &[Flag] = &[
    flag("all", Some('a'), Bool, "hides intermediate images", "Show all images"),
    flag("digests", None, Bool, "", "Show digests"),
    flag("filter", Some('f'), Filter, "", "Filter output based on conditions provided"),
    flag(
        "format",
        None,
        Text,
        "",
        "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("no-trunc", None, Bool, "", "Don't truncate output"),
    flag("quiet", Some('q'), Bool, "", "Only show image IDs"),
    flag("tree", None, Bool, "", "List multi-platform images as a tree (EXPERIMENTAL)"),
];

const IMAGE_PRUNE: &[Flag] = &[
    flag("all", Some('a'), Bool, "", "Remove all unused images, not just dangling ones"),
    DRY_RUN,
    flag("filter", None, Filter, "", "Provide filter values (e.g. \"until=<timestamp>\")"),
    flag("force", Some('f'), Bool, "", "Do not prompt for confirmation"),
    KEEP,
    KEEP_STORAGE,
];

pub(super) const DRY_RUN: Flag = flag("dry-run", None, Bool, "", "Only say what would be removed, and why");
pub(super) const KEEP: Flag =
    flag("keep", None, Int, "", "Keep so many of the newest images of each repository");
pub(super) const KEEP_STORAGE: Flag = flag(
    "keep-storage",
    None,
    Bytes,
    "",
    "Remove the least recently used images until all take no more than this",
);

const IMAGE_PULL: &[Flag] = &[
    flag("all-platforms", None, Bool, "", "Get every platform of the image, and what is attested of it"),
    flag("all-tags", Some('a'), Bool, "", "Download all tagged images in the repository"),
    flag("disable-content-trust", None, Bool, "true", "Skip image verification"),
    flag("platform", None, Text, "", "Set platform if server is multi-platform capable"),
    flag("quiet", Some('q'), Bool, "", "Suppress verbose output"),
];

const INSECURE: Flag = flag("insecure", None, Bool, "", "Allow communication with an insecure registry");

const IMAGE_COPY: &[Flag] = &[INSECURE, flag("quiet", Some('q'), Bool, "", "Print the digest only")];

const IMAGE_REFERRERS: &[Flag] = &[INSECURE, flag("type", None, Text, "", "Only artifacts of this type")];

const IMAGE_PUSH: &[Flag] = &[
    flag("all-tags", Some('a'), Bool, "", "Push all tags of an image to the repository"),
    flag("disable-content-trust", None, Bool, "true", "Skip image signing"),
    flag(
        "platform",
        None,
        Text,
        "",
        "Push a platform-specific manifest as a single-platform image to the registry.\nImage index won't be pushed, meaning that other manifests, including attestations won't be preserved.\n'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)",
    ),
    flag("quiet", Some('q'), Bool, "", "Suppress verbose output"),
];

const IMAGE_RM: &[Flag] = &[
    flag("force", Some('f'), Bool, "", "Force removal of the image"),
    flag("no-prune", None, Bool, "", "Do not delete untagged parents"),
    flag(
        "platform",
        None,
        Strings,
        "",
        "Remove only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")",
    ),
];

const IMAGE_SAVE: &[Flag] = &[
    flag("output", Some('o'), Text, "", "Write to a file, instead of STDOUT"),
    flag(
        "platform",
        None,
        Text,
        "",
        "Save only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")",
    ),
];

/// The commands.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        path: "image history",
        aliases: &["history"],
        usage: "[OPTIONS] IMAGE",
        short: "Show the history of an image",
        about: "Show the history of an image",
        flags: &[IMAGE_HISTORY],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(images::history(cx, given)),
    },
    Command {
        path: "image import",
        aliases: &["import"],
        usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
        short: "Import the contents from a tarball to create a filesystem image",
        about: "Import the contents from a tarball to create a filesystem image",
        flags: &[IMAGE_IMPORT],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(transfer::import(cx, given)),
    },
    Command {
        path: "image inspect",
        aliases: &[],
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        short: "Display detailed information on one or more images",
        about: "Display detailed information on one or more images",
        flags: &[IMAGE_INSPECT],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(inspect::images(cx, given)),
    },
    Command {
        path: "image load",
        aliases: &["load"],
        usage: "[OPTIONS]",
        short: "Load an image from a tar archive or STDIN",
        about: "Load an image from a tar archive or STDIN",
        flags: &[IMAGE_LOAD],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(transfer::load(cx, given)),
    },
    Command {
        path: "image ls",
        aliases: &["image list", "images"],
        usage: "[OPTIONS] [REPOSITORY[:TAG]]",
        short: "List images",
        about: "List images",
        flags: &[IMAGE_LS],
        arguments: at_most(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(images::list(cx, given)),
    },
    Command {
        path: "image prune",
        aliases: &[],
        usage: "[OPTIONS]",
        short: "Remove unused images",
        about: "Remove unused images",
        flags: &[IMAGE_PRUNE],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(prune::images(cx, given)),
    },
    Command {
        path: "image copy",
        aliases: &["image-copy"],
        usage: "[OPTIONS] SOURCE[:TAG|@DIGEST] TARGET[:TAG]",
        short: "Copy an image from registry to registry",
        about: "Copy an image, or an index with all its images, from registry to registry.\nNo engine takes part, and digests stay.",
        flags: &[IMAGE_COPY],
        arguments: exactly(2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(remote::copy(cx, given)),
    },
    Command {
        path: "image referrers",
        aliases: &[],
        usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
        short: "List what refers to an image at its registry: signatures, SBOMs",
        about: "List what refers to an image at its registry: signatures, SBOMs, provenance",
        flags: &[IMAGE_REFERRERS],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(remote::referrers(cx, given)),
    },
    Command {
        path: "image pull",
        aliases: &["pull"],
        usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
        short: "Download an image from a registry",
        about: "Download an image from a registry",
        flags: &[IMAGE_PULL],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(transfer::pull(cx, given)),
    },
    Command {
        path: "image push",
        aliases: &["push"],
        usage: "[OPTIONS] NAME[:TAG]",
        short: "Upload an image to a registry",
        about: "Upload an image to a registry",
        flags: &[IMAGE_PUSH],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(transfer::push(cx, given)),
    },
    Command {
        path: "image rm",
        aliases: &["image remove", "rmi"],
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        short: "Remove one or more images",
        about: "Remove one or more images",
        flags: &[IMAGE_RM],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(images::remove(cx, given)),
    },
    Command {
        path: "image save",
        aliases: &["save"],
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        short: "Save one or more images to a tar archive (streamed to STDOUT by default)",
        about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
        flags: &[IMAGE_SAVE],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(archive::save(cx, given)),
    },
    Command {
        path: "image tag",
        aliases: &["tag"],
        usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        flags: &[],
        arguments: exactly(2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(images::tag(cx, given)),
    },
];
