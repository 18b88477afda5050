//! Help texts, laid out as Docker's are.

use std::fmt::Write as _;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::{Flag, Kind};
use crate::plugins::{self, Plugin};
use crate::table::{self, Command, GROUPS};

/// What the top-level help lists for our own commands, which the program itself dispatches.
const OWN: &[(&str, &str)] = &[
    ("completion", "Print a completion script for bash, zsh or fish"),
    ("daemon", "Run the engine"),
    ("registry", "Serve an OCI registry, collect and scrub it"),
    ("runtime", "Run containers from OCI bundles, as runc does"),
];

/// The width that texts are wrapped to: the terminal's, or 80.
fn width() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stdin()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col) - 1,
        _ => 79,
    }
}

/// The program's help.
pub(crate) fn top(cx: &Context) -> Result<i32, Failure> {
    let program = &cx.program;
    let mut text =
        format!("Usage:  {program} [OPTIONS] COMMAND\n\nA self-sufficient runtime for containers\n");
    let common = table::COMMON.iter().filter_map(|name| Some((*name, table::find(name)?.short)));
    section(&mut text, "Common Commands", common);
    let (good, bad): (Vec<_>, Vec<_>) =
        plugins::list(cx).into_iter().partition(|plugin| plugin.metadata.is_ok());
    section(
        &mut text,
        "Management Commands",
        management(&good).iter().map(|(name, about)| (&**name, *about)),
    );
    if program != "docker" {
        section(&mut text, "Engine Commands", OWN.iter().copied());
    }
    let mut rest: Vec<(&str, &str)> = table::commands()
        .filter(|command| !command.hidden)
        .flat_map(|command| command.names().map(move |name| (name, command.short)))
        .filter(|(name, _)| !name.contains(' ') && !table::COMMON.contains(name))
        .collect();
    rest.sort_unstable();
    section(&mut text, "Commands", rest.into_iter());
    if !bad.is_empty() {
        let wrong =
            bad.iter().filter_map(|plugin| Some((&*plugin.name, plugin.metadata.as_ref().err()?.as_str())));
        section(&mut text, "Invalid Plugins", wrong);
    }
    text.push_str("\nGlobal Options:\n");
    text.push_str(&flag_usages(table::GLOBAL.iter(), width()));
    let _ = write!(
        text,
        "\nRun '{program} COMMAND --help' for more information on a command.\n\nFor more help on how to use Docker, head to https://docs.docker.com/go/guides/\n"
    );
    cx.write(text)?;
    Ok(0)
}

/// Our groups and the plugins, which have a star.
fn management(plugins: &[Plugin]) -> Vec<(String, &str)> {
    let is_shown = |name: &str| plugins.iter().all(|plugin| plugin.name != name);
    let ours = GROUPS.iter().filter(|group| !group.name.contains(' ') && is_shown(group.name));
    let ours = ours.map(|group| (group.name.to_owned(), group.about));
    let shown = plugins.iter().filter_map(|plugin| {
        let metadata = plugin.metadata.as_ref().ok().filter(|metadata| !metadata.hidden)?;
        Some((format!("{}*", plugin.name), metadata.short_description.as_str()))
    });
    let mut all: Vec<_> = ours.chain(shown).collect();
    all.sort();
    all
}

fn section<'t>(text: &mut String, title: &str, entries: impl Iterator<Item = (&'t str, &'t str)>) {
    let _ = write!(text, "\n{title}:\n");
    for (name, about) in entries {
        let _ = writeln!(text, "  {name:<11} {about}");
    }
}

/// The help of a group of commands.
pub(crate) fn group(cx: &Context, name: &str) -> Result<i32, Failure> {
    cx.write(group_text(cx, name))?;
    Ok(0)
}

/// The help of a group of commands, for one who named no command of it.
pub(crate) fn group_without_command(cx: &Context, name: &str) -> Result<i32, Failure> {
    cx.warn(group_text(cx, name).trim_end_matches('\n'));
    Ok(0)
}

fn group_text(cx: &Context, name: &str) -> String {
    let program = &cx.program;
    let about = table::group(name).map_or("", |group| group.about);
    let mut text = format!("Usage:  {program} {name} COMMAND\n\n{about}\n\nCommands:\n");
    let mut entries: Vec<(&str, &str)> = table::commands()
        .filter(|command| !command.hidden)
        .flat_map(|command| {
            std::iter::once(command.path).chain(own_alias(command)).map(move |name| (name, command.short))
        })
        .chain(GROUPS.iter().map(|group| (group.name, group.about)))
        .filter_map(|(path, short)| Some((path.strip_prefix(name)?.strip_prefix(' ')?, short)))
        // What is in a group of its own, that one lists.
        .filter(|(entry, _)| !entry.contains(' '))
        .collect();
    entries.sort_unstable();
    let longest = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(11);
    for (entry, about) in entries {
        let _ = writeln!(text, "  {entry:<longest$} {about}");
    }
    let _ = write!(text, "\nRun '{program} {name} COMMAND --help' for more information on a command.\n");
    text
}

/// An alias in another group, which that group lists too; those in its own are only said in its help.
fn own_alias(command: &Command) -> impl Iterator<Item = &'static str> {
    let group = command.path.split(' ').next().unwrap_or_default();
    command.aliases.iter().copied().filter(move |alias| alias.contains(' ') && !alias.starts_with(group))
}

/// `help NAME…`.
pub(crate) fn named(cx: &mut Context, words: &[String]) -> Result<i32, Failure> {
    let name = words.join(" ");
    if words.is_empty() {
        return top(cx);
    }
    if let Some(command) = table::find(&name) {
        cx.command = name;
        return self::command(cx, command);
    }
    match table::group(&name) {
        Some(group) => self::group(cx, group.name),
        None => {
            let topic = || Failure::new(format!("unknown help topic: {name}"));
            Err(plugins::run(cx, &words[0]).unwrap_or_else(topic))
        }
    }
}

/// The help of one command.
pub(crate) fn command(cx: &Context, command: &Command) -> Result<i32, Failure> {
    cx.write(command_text(&cx.program, &cx.command, command, width()))?;
    Ok(0)
}

/// The help of one command under the name it was called by.
pub(crate) fn command_text(program: &str, called: &str, command: &Command, width: usize) -> String {
    let usage = command.usage_line(&format!("{program} {called}"));
    let mut text = format!("Usage:  {usage}\n\n{}\n", command.about);
    if !command.aliases.is_empty() {
        let names: Vec<String> = command.names().map(|name| format!("{program} {name}")).collect();
        let _ = write!(text, "\nAliases:\n  {}\n", names.join(", "));
    }
    if command.flags().any(|flag| !flag.hidden) {
        text.push_str("\nOptions:\n");
        text.push_str(&flag_usages(command.flags(), width));
    }
    text
}

/// The lines about flags, wrapped as pflag wraps them.
fn flag_usages<'f>(flags: impl Iterator<Item = &'f Flag>, width: usize) -> String {
    let mut flags: Vec<&Flag> = flags.filter(|flag| !flag.hidden).collect();
    flags.sort_by_key(|flag| flag.long);
    let lines: Vec<(String, String)> = flags.iter().map(|flag| (left(flag), right(flag))).collect();
    let longest = lines.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (left, right) in lines {
        let _ = writeln!(text, "{left:<longest$}   {}", wrap(longest + 3, width, &right));
    }
    text
}

fn left(flag: &Flag) -> String {
    let mut text = match flag.short {
        Some(short) => format!("  -{short}, --{}", flag.long),
        None => format!("      --{}", flag.long),
    };
    if flag.kind != Kind::Bool {
        text.push(' ');
        text.push_str(flag.kind.word());
    }
    text
}

fn right(flag: &Flag) -> String {
    if flag.default.is_empty() {
        flag.usage.to_owned()
    } else {
        format!("{} (default {})", flag.usage, flag.default)
    }
}

/// pflag's wrapping: lines of `width` with the text from column `indent` on.
fn wrap(indent: usize, width: usize, text: &str) -> String {
    /// How far a last word may stick out.
    const SLOP: usize = 5;
    let (mut indent, mut room) = (indent, width.saturating_sub(indent));
    let mut out = String::new();
    if room < 24 {
        indent = 16;
        room = width.saturating_sub(indent);
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent));
    }
    if room < 24 {
        return text.to_owned();
    }
    let margin = format!("\n{}", " ".repeat(indent));
    let mut rest = text;
    let mut first = true;
    while first || !rest.is_empty() {
        let (line, after) = wrap_line(room - SLOP, SLOP, rest);
        if !first {
            out.push_str(&margin);
        }
        out.push_str(&line.replace('\n', &margin));
        rest = after;
        first = false;
    }
    out
}

fn wrap_line(room: usize, slop: usize, text: &str) -> (&str, &str) {
    if room + slop > text.len() {
        return (text, "");
    }
    let room = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let Some(space) = text[..room].rfind([' ', '\t', '\n']).filter(|at| *at > 0) else { return (text, "") };
    let at = match text[..room].rfind('\n') {
        Some(line_end) if line_end > 0 && line_end < space => line_end,
        _ => space,
    };
    (&text[..at], &text[at + 1..])
}
