//! The one table of commands and flags: parsing, help and completion are read from it.

mod artifact;
mod build;
mod container;
mod create;
mod image;
mod manifest;
mod network;
mod registry;
mod system;
mod volume;

use std::future::Future;
use std::pin::Pin;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::{Flag, Given};

/// What running a command gives: its exit code.
pub(crate) type Outcome = Result<i32, Failure>;

/// The function behind a command.
pub(crate) type Run = for<'a> fn(&'a Context, &'a Given) -> Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// How many positional arguments a command takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arity {
    pub least: usize,
    pub most: usize,
}

const NONE: Arity = Arity { least: 0, most: 0 };

const fn exactly(count: usize) -> Arity {
    Arity { least: count, most: count }
}

const fn at_least(least: usize) -> Arity {
    Arity { least, most: usize::MAX }
}

const fn at_most(most: usize) -> Arity {
    Arity { least: 0, most }
}

const fn between(least: usize, most: usize) -> Arity {
    Arity { least, most }
}

/// One command.
pub(crate) struct Command {
    /// Its full name, `container run`.
    pub path: &'static str,
    /// Other full names, `run`.
    pub aliases: &'static [&'static str],
    /// What follows the name in the usage line; `$` on a further line stands for the name.
    pub usage: &'static str,
    /// One line for lists of commands.
    pub short: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Its flags, in groups.
    pub flags: &'static [&'static [Flag]],
    /// How many arguments it takes.
    pub arguments: Arity,
    /// Whether flags end at the first argument (`run`, `exec`: the rest belongs to the program run).
    pub stop_at_positional: bool,
    /// Not listed in help.
    pub hidden: bool,
    /// What does it.
    pub run: Run,
}

/// A command without flags and other names, whose help says what the list of commands does.
const fn command(
    path: &'static str,
    usage: &'static str,
    about: &'static str,
    arguments: Arity,
    run: Run,
) -> Command {
    Command {
        path,
        aliases: &[],
        usage,
        short: about,
        about,
        flags: &[],
        arguments,
        stop_at_positional: false,
        hidden: false,
        run,
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Command {
    /// All its flags.
    pub(crate) fn flags(&self) -> impl Iterator<Item = &'static Flag> + Clone {
        self.flags.iter().flat_map(|group| group.iter())
    }

    /// The usage line under the name it was called by, the program's included.
    pub(crate) fn usage_line(&self, name: &str) -> String {
        format!("{name} {}", self.usage.replace('$', name)).trim_end().to_owned()
    }

    /// All its names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.path).chain(self.aliases.iter().copied())
    }
}

/// A group of commands, `container`; or one within another, `buildx imagetools`.
#[derive(Debug)]
pub(crate) struct Group {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
}

const IMAGETOOLS: &str = "Commands to work on images in registry";

/// The groups, in the order of the top-level help.
pub(crate) const GROUPS: &[Group] = &[
    Group { name: "artifact", about: "Manage artifacts" },
    Group { name: "builder", about: "Manage builds" },
    Group { name: "builder imagetools", about: IMAGETOOLS },
    Group { name: "buildx", about: "Manage builds, as scripts for Docker Buildx call it" },
    Group { name: "buildx imagetools", about: IMAGETOOLS },
    Group { name: "container", about: "Manage containers" },
    Group { name: "context", about: "Manage contexts" },
    Group { name: "image", about: "Manage images" },
    Group { name: "manifest", about: "Manage Docker image manifests and manifest lists" },
    Group { name: "network", about: "Manage networks" },
    Group { name: "registry", about: "Serve the engine's images as a registry" },
    Group { name: "system", about: "Manage Docker" },
    Group { name: "volume", about: "Manage volumes" },
];

/// The commands that the top-level help lists first, in this order.
pub(crate) const COMMON: &[&str] =
    &["run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info"];

/// Every command.
pub(crate) fn commands() -> impl Iterator<Item = &'static Command> {
    [
        artifact::COMMANDS,
        build::COMMANDS,
        container::COMMANDS,
        image::COMMANDS,
        manifest::COMMANDS,
        network::COMMANDS,
        registry::COMMANDS,
        volume::COMMANDS,
        system::COMMANDS,
    ]
    .into_iter()
    .flat_map(|group| group.iter())
}

/// Words of the longest name of a command or group.
const LONGEST: usize = 3;

/// What the first words name, as many as possible, and how many those are.
pub(crate) fn named<T>(
    words: &[String],
    find: impl Fn(&str) -> Option<&'static T>,
) -> Option<(&'static T, usize)> {
    let counts = (1..=words.len().min(LONGEST)).rev();
    counts.into_iter().find_map(|count| Some((find(&words[..count].join(" "))?, count)))
}

/// The command with this full name or alias.
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    commands().find(|command| command.names().any(|known| known == name))
}

/// The group with this name.
pub(crate) fn group(name: &str) -> Option<&'static Group> {
    GROUPS.iter().find(|group| group.name == name)
}

/// Flags before the command.
pub(crate) const GLOBAL: &[Flag] = {
    use crate::flags::Kind::{Bool, List, Text};
    use crate::flags::flag;
    &[
        flag("config", None, Text, "\"~/.docker\"", "Location of client config files"),
        flag(
            "context",
            Some('c'),
            Text,
            "",
            "Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var and default context set with \"docker context use\")",
        ),
        flag("debug", Some('D'), Bool, "", "Enable debug mode"),
        flag("host", Some('H'), List, "", "Daemon socket to connect to"),
        flag(
            "log-level",
            Some('l'),
            Text,
            "\"info\"",
            "Set the logging level (\"debug\", \"info\", \"warn\", \"error\", \"fatal\")",
        ),
        flag("tls", None, Bool, "", "Use TLS; implied by --tlsverify"),
        flag("tlscacert", None, Text, "\"~/.docker/ca.pem\"", "Trust certs signed only by this CA"),
        flag("tlscert", None, Text, "\"~/.docker/cert.pem\"", "Path to TLS certificate file"),
        flag("tlskey", None, Text, "\"~/.docker/key.pem\"", "Path to TLS key file"),
        flag("tlsverify", None, Bool, "", "Use TLS and verify the remote"),
        flag("version", Some('v'), Bool, "", "Print version information and quit"),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_unique_and_every_flag_is_defined_once() {
        let mut names = std::collections::BTreeSet::new();
        for command in commands() {
            for name in command.names() {
                assert!(names.insert(name), "{name} twice");
            }
            let mut flags = std::collections::BTreeSet::new();
            let mut shorts = std::collections::BTreeSet::new();
            for flag in command.flags() {
                assert!(flags.insert(flag.long), "{} --{} twice", command.path, flag.long);
                if let Some(short) = flag.short {
                    assert!(shorts.insert(short), "{} -{short} twice", command.path);
                }
            }
        }
        for name in COMMON {
            assert!(find(name).is_some(), "{name}");
        }
    }
}
