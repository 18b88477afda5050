//! Networks.
//!
//! Names, kinds, defaults and texts are those of docker CLI 28.2.

use crate::commands::{inspect, networks, prune};
use crate::flags::Kind::{Bool, Filter, Int, Label, Link, Map, Strings, Text};
use crate::flags::{Flag, flag};
use crate::table::{Command, NONE, at_least, exactly};

const NETWORK_CONNECT: &[Flag] = &[
    flag("alias", None, Strings, "", "Add network-scoped alias for the container"),
    flag("driver-opt", None, Strings, "", "driver options for the network"),
    flag(
        "gw-priority",
        None,
        Int,
        "",
        "Highest gw-priority provides the default gateway. Accepts positive and negative values.",
    ),
    flag("ip", None, Text, "", "IPv4 address (e.g., \"172.30.100.104\")"),
    flag("ip6", None, Text, "", "IPv6 address (e.g., \"2001:db8::33\")"),
    flag("link", None, Link, "", "Add link to another container"),
    flag("link-local-ip", None, Strings, "", "Add a link-local address for the container"),
];

const NETWORK_CREATE: &[Flag] = &[
    flag("attachable", None, Bool, "", "Enable manual container attachment"),
    flag("aux-address", None, Map, "map[]", "Auxiliary IPv4 or IPv6 addresses used by Network driver"),
    flag("config-from", None, Text, "", "The network from which to copy the configuration"),
    flag("config-only", None, Bool, "", "Create a configuration only network"),
    flag("driver", Some('d'), Text, "\"bridge\"", "Driver to manage the Network"),
    flag("gateway", None, Strings, "", "IPv4 or IPv6 Gateway for the master subnet"),
    flag("ingress", None, Bool, "", "Create swarm routing-mesh network"),
    flag("internal", None, Bool, "", "Restrict external access to the network"),
    flag("ip-range", None, Strings, "", "Allocate container ip from a sub-range"),
    flag("ipam-driver", None, Text, "\"default\"", "IP Address Management Driver"),
    flag("ipam-opt", None, Map, "map[]", "Set IPAM driver specific options"),
    flag("ipv4", None, Bool, "true", "Enable or disable IPv4 address assignment"),
    flag("ipv6", None, Bool, "", "Enable or disable IPv6 address assignment"),
    flag("label", None, Label, "", "Set metadata on a network"),
    flag("opt", Some('o'), Map, "map[]", "Set driver specific options"),
    flag("scope", None, Text, "", "Control the network's scope"),
    flag("subnet", None, Strings, "", "Subnet in CIDR format that represents a network segment"),
];

const NETWORK_DISCONNECT: &[Flag] =
    &[flag("force", Some('f'), Bool, "", "Force the container to disconnect from a network")];

const NETWORK_INSPECT: &[Flag] = &[
    flag(
        "format",
        Some('f'),
        Text,
        "",
        "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("verbose", Some('v'), Bool, "", "Verbose output for diagnostics"),
];

const NETWORK_LS: &[Flag] = &[
    flag("filter", Some('f'), Filter, "", "Provide filter values (e.g. \"driver=bridge\")"),
    flag(
        "format",
        None,
        Text,
        "",
        "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
    ),
    flag("no-trunc", None, Bool, "", "Do not truncate the output"),
    flag("quiet", Some('q'), Bool, "", "Only display network IDs"),
];

const NETWORK_PRUNE: &[Flag] = &[
    flag("filter", None, Filter, "", "Provide filter values (e.g. \"until=<timestamp>\")"),
    flag("force", Some('f'), Bool, "", "Do not prompt for confirmation"),
];

const NETWORK_RM: &[Flag] =
    &[flag("force", Some('f'), Bool, "", "Do not error if the network does not exist")];

/// The commands.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        path: "network connect",
        aliases: &[],
        usage: "[OPTIONS] NETWORK CONTAINER",
        short: "Connect a container to a network",
        about: "Connect a container to a network",
        flags: &[NETWORK_CONNECT],
        arguments: exactly(2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(networks::connect(cx, given)),
    },
    Command {
        path: "network create",
        aliases: &[],
        usage: "[OPTIONS] NETWORK",
        short: "Create a network",
        about: "Create a network",
        flags: &[NETWORK_CREATE],
        arguments: exactly(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(networks::create(cx, given)),
    },
    Command {
        path: "network disconnect",
        aliases: &[],
        usage: "[OPTIONS] NETWORK CONTAINER",
        short: "Disconnect a container from a network",
        about: "Disconnect a container from a network",
        flags: &[NETWORK_DISCONNECT],
        arguments: exactly(2),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(networks::disconnect(cx, given)),
    },
    Command {
        path: "network inspect",
        aliases: &[],
        usage: "[OPTIONS] NETWORK [NETWORK...]",
        short: "Display detailed information on one or more networks",
        about: "Display detailed information on one or more networks",
        flags: &[NETWORK_INSPECT],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(inspect::networks(cx, given)),
    },
    Command {
        path: "network ls",
        aliases: &["network list"],
        usage: "[OPTIONS]",
        short: "List networks",
        about: "List networks",
        flags: &[NETWORK_LS],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(networks::ls(cx, given)),
    },
    Command {
        path: "network prune",
        aliases: &[],
        usage: "[OPTIONS]",
        short: "Remove all unused networks",
        about: "Remove all unused networks",
        flags: &[NETWORK_PRUNE],
        arguments: NONE,
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(prune::networks(cx, given)),
    },
    Command {
        path: "network rm",
        aliases: &["network remove"],
        usage: "NETWORK [NETWORK...]",
        short: "Remove one or more networks",
        about: "Remove one or more networks",
        flags: &[NETWORK_RM],
        arguments: at_least(1),
        stop_at_positional: false,
        hidden: false,
        run: |cx, given| Box::pin(networks::rm(cx, given)),
    },
];
