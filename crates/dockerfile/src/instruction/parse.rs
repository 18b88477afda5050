//! From statements to instructions.

use super::{
    Arg, ArgDeclaration, Cmd, Command, Device, Entrypoint, Env, Expose, From, Instruction, Label, Maintainer,
    Network, OnBuild, Pair, Run, RunMount, Security, Shell, StopSignal, User, Volume, Workdir, copy,
    healthcheck,
};
use crate::error::ParseError;
use crate::expand::Escape;
use crate::flags::{Flags, Kind};
use crate::suggest::{nearest, parenthesis};
use crate::syntax::{Statement, Word, error_at, json_strings, quoted_words, spaced_words};
use std::collections::HashMap;
use yare_gotext::quote;

/// Every keyword.
const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A statement and what is needed to understand it.
pub(crate) struct Context<'a> {
    pub(crate) source: &'a str,
    pub(crate) statement: &'a Statement,
    pub(crate) escape: Escape,
}

/// An instruction of a stage, or the begin of one.
pub(crate) enum Parsed {
    From(From),
    Instruction(Instruction),
}

impl Context<'_> {
    /// An error about the whole instruction, with the line in its text as the field has it.
    pub(super) fn error(&self, message: impl AsRef<str>) -> ParseError {
        let line = self.statement.span.line;
        let message = format!("dockerfile parse error on line {line}: {}", message.as_ref());
        error_at(self.source, message, self.statement.keyword_place(self.source))
    }

    /// The same, about a piece of the joined line.
    pub(super) fn error_at(&self, message: impl AsRef<str>, at: usize, length: usize) -> ParseError {
        let line = self.statement.span.line;
        let message = format!("dockerfile parse error on line {line}: {}", message.as_ref());
        error_at(self.source, message, self.statement.place(self.source, at, length))
    }

    /// An error whose text in the field has no line.
    pub(super) fn bare_error(&self, message: impl Into<String>, at: usize, length: usize) -> ParseError {
        error_at(self.source, message, self.statement.place(self.source, at, length))
    }

    pub(super) fn flags(&self, known: &'static [(&'static str, Kind)]) -> Result<Flags, ParseError> {
        Flags::parse(&self.statement.flags, known)
            .map_err(|error| self.error_at(error.message, error.at, error.length))
    }

    /// Whether the arguments are in JSON.
    pub(super) fn is_json(&self) -> bool {
        matches!(json_strings(&self.statement.rest.text), Ok(Some(_)))
    }

    fn json(&self, rest: &Word) -> Result<Option<Vec<String>>, ParseError> {
        json_strings(&rest.text).map_err(|message| self.bare_error(message, rest.at, rest.text.len()))
    }

    /// Arguments: strings in JSON or words.
    pub(crate) fn list(&self) -> Result<Vec<Word>, ParseError> {
        let rest = &self.statement.rest;
        Ok(match self.json(rest)? {
            Some(strings) => strings.into_iter().map(|text| Word { text, at: rest.at }).collect(),
            None => spaced_words(rest),
        })
    }

    /// A program: strings in JSON, or a line for the shell.
    pub(super) fn command(&self, rest: &Word) -> Result<Command, ParseError> {
        Ok(match self.json(rest)? {
            Some(argv) => Command::Exec(argv),
            None => Command::Shell { line: rest.text.clone(), heredocs: self.statement.heredocs.clone() },
        })
    }

    /// The one argument, spaces and all.
    fn single(&self, keyword: &str) -> Result<String, ParseError> {
        if self.statement.rest.text.is_empty() {
            return Err(self.error(format!("{keyword} requires exactly one argument")));
        }
        self.flags(&[])?;
        Ok(self.statement.rest.text.clone())
    }

    fn at_least_one(&self, keyword: &str) -> ParseError {
        self.error(format!("{keyword} requires at least one argument"))
    }
}

/// Understands a statement.
pub(crate) fn instruction(context: &Context<'_>) -> Result<Parsed, ParseError> {
    let keyword = context.statement.keyword.to_ascii_uppercase();
    let instruction = match keyword.as_str() {
        "FROM" => return from(context).map(Parsed::From),
        "ADD" => Instruction::Add(copy::add(context)?),
        "ARG" => Instruction::Arg(arg(context)?),
        "CMD" => {
            context.flags(&[])?;
            Instruction::Cmd(Cmd(context.command(&context.statement.rest)?))
        }
        "COPY" => Instruction::Copy(copy::copy(context)?),
        "ENTRYPOINT" => {
            context.flags(&[])?;
            Instruction::Entrypoint(Entrypoint(context.command(&context.statement.rest)?))
        }
        "ENV" => Instruction::Env(Env(pairs(context, "ENV")?)),
        "EXPOSE" => Instruction::Expose(expose(context)?),
        "HEALTHCHECK" => Instruction::HealthCheck(healthcheck::parse(context)?),
        "LABEL" => Instruction::Label(Label(pairs(context, "LABEL")?)),
        "MAINTAINER" => Instruction::Maintainer(Maintainer(context.single("MAINTAINER")?)),
        "ONBUILD" => Instruction::OnBuild(on_build(context)?),
        "RUN" => Instruction::Run(run(context)?),
        "SHELL" => Instruction::Shell(shell(context)?),
        "STOPSIGNAL" => Instruction::StopSignal(StopSignal(context.single("STOPSIGNAL")?)),
        "USER" => Instruction::User(User(context.single("USER")?)),
        "VOLUME" => Instruction::Volume(volume(context)?),
        "WORKDIR" => Instruction::Workdir(Workdir(context.single("WORKDIR")?)),
        _ => return Err(unknown(context)),
    };
    Ok(Parsed::Instruction(instruction))
}

fn unknown(context: &Context<'_>) -> ParseError {
    let keyword: String = context.statement.keyword.chars().take(100).collect();
    let near = nearest(&keyword, KEYWORDS.iter().copied());
    let error = context.error(format!("unknown instruction: {keyword}{}", parenthesis(near)));
    // The text has the near one already.
    error.suggest(near.is_none().then(|| format!("a line begins with one of {}", KEYWORDS.join(" "))))
}

fn from(context: &Context<'_>) -> Result<From, ParseError> {
    let words = spaced_words(&context.statement.rest);
    let (base, name) = match words.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => (base, Some((keyword, name))),
        _ => return Err(context.error("FROM requires either one or three arguments")),
    };
    if let Some((_, name)) = name.filter(|(_, name)| !is_stage_name(&name.text.to_lowercase())) {
        let message = format!(
            "invalid name for build stage: {}, name can't start with a number or contain symbols",
            quote(&name.text)
        );
        return Err(context.error_at(message, name.at, name.text.len()));
    }
    let flags = context.flags(&[("platform", Kind::Text)])?;
    Ok(From {
        base: base.text.clone(),
        name: name.map(|(_, name)| name.text.to_lowercase()),
        written_name: name.map(|(_, name)| name.text.clone()),
        written_as: name.map(|(keyword, _)| keyword.text.clone()),
        platform: flags.text("platform"),
    })
}

fn is_stage_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(rest)
}

fn arg(context: &Context<'_>) -> Result<Arg, ParseError> {
    let words = quoted_words(&context.statement.rest, context.escape.char());
    if words.is_empty() {
        return Err(context.at_least_one("ARG"));
    }
    let descriptions = Descriptions::new(&context.statement.comments);
    let declarations = words.iter().map(|word| {
        let (name, default) =
            word.text.split_once('=').map_or((word.text.as_str(), None), |(name, value)| (name, Some(value)));
        if name.is_empty() {
            return Err(context.error_at("ARG names can not be blank", word.at, word.text.len()));
        }
        Ok(ArgDeclaration {
            name: name.to_owned(),
            default: default.map(str::to_owned),
            description: descriptions.of(name),
        })
    });
    declarations.collect::<Result<_, _>>().map(Arg)
}

/// What the comments above an instruction say about names: `name description`, the first of a name.
pub(crate) struct Descriptions<'a>(HashMap<&'a str, &'a str>);

impl<'a> Descriptions<'a> {
    pub(crate) fn new(comments: &'a [String]) -> Self {
        // The later one of a name is replaced by the earlier.
        Self(comments.iter().rev().filter_map(|line| line.split_once(' ')).collect())
    }

    pub(crate) fn of(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|text| (*text).to_owned())
    }
}

/// `k=v …` or `k v`.
fn pairs(context: &Context<'_>, keyword: &str) -> Result<Vec<Pair>, ParseError> {
    context.flags(&[])?;
    let rest = &context.statement.rest;
    let words = quoted_words(rest, context.escape.char());
    let Some(first) = words.first() else { return Err(context.at_least_one(keyword)) };
    if !first.text.contains('=') {
        let split = rest.text.find(['\t', '\x0b', '\x0c', '\r', ' ']);
        let Some(split) = split else {
            let message = format!("{keyword} must have two arguments");
            return Err(context.bare_error(message, rest.at, rest.text.len()).suggest(Some(format!(
                "write {keyword} {}=value",
                rest.text.chars().take(100).collect::<String>()
            ))));
        };
        let (key, value) = rest.text.split_at(split);
        let value = value.trim_start_matches(['\t', '\x0b', '\x0c', '\r', ' ']);
        return Ok(vec![Pair { key: key.to_owned(), value: value.to_owned(), legacy: true }]);
    }
    let pairs = words.iter().map(|word| {
        let Some((key, value)) = word.text.split_once('=') else {
            let message = format!(
                "Syntax error - can't find = in {}. Must be of the form: name=value",
                quote(&word.text)
            );
            let hint = "put a value with spaces in double quotes".to_owned();
            return Err(context.bare_error(message, word.at, word.text.len()).suggest(Some(hint)));
        };
        if key.is_empty() {
            let message = format!("{keyword} names can not be blank");
            return Err(context.error_at(message, word.at, word.text.len()));
        }
        Ok(Pair { key: key.to_owned(), value: value.to_owned(), legacy: false })
    });
    pairs.collect()
}

fn expose(context: &Context<'_>) -> Result<Expose, ParseError> {
    let words = spaced_words(&context.statement.rest);
    if words.is_empty() {
        return Err(context.at_least_one("EXPOSE"));
    }
    context.flags(&[])?;
    let mut ports: Vec<String> = words.into_iter().map(|word| word.text).collect();
    ports.sort();
    Ok(Expose(ports))
}

fn volume(context: &Context<'_>) -> Result<Volume, ParseError> {
    let words = context.list()?;
    if words.is_empty() {
        return Err(context.at_least_one("VOLUME"));
    }
    context.flags(&[])?;
    let paths = words.iter().map(|word| match word.text.trim() {
        "" => Err(context.error("VOLUME specified can not be an empty string")),
        path => Ok(path.to_owned()),
    });
    paths.collect::<Result<_, _>>().map(Volume)
}

fn shell(context: &Context<'_>) -> Result<Shell, ParseError> {
    context.flags(&[])?;
    let rest = &context.statement.rest;
    match context.json(rest)? {
        Some(argv) if !argv.is_empty() => Ok(Shell(argv)),
        None if !rest.text.is_empty() => Err(context
            .error_at("SHELL requires the arguments to be in JSON form", rest.at, rest.text.len())
            .suggest(Some("write SHELL [\"/bin/sh\", \"-c\"]".into()))),
        _ => Err(context.at_least_one("SHELL")),
    }
}

fn on_build(context: &Context<'_>) -> Result<OnBuild, ParseError> {
    let rest = &context.statement.rest;
    if rest.text.is_empty() {
        return Err(context.at_least_one("ONBUILD"));
    }
    context.flags(&[])?;
    let inner = context.statement.inner();
    let keyword = inner.keyword.to_ascii_uppercase();
    match keyword.as_str() {
        "ONBUILD" => {
            return Err(context.error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
        }
        "MAINTAINER" | "FROM" => {
            let message = format!("{keyword} isn't allowed as an ONBUILD trigger");
            return Err(context.error_at(message, rest.at, inner.keyword.len()));
        }
        _ => {}
    }
    let mut expression = rest.text.clone();
    for heredoc in &context.statement.heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.content);
        expression.push_str(&heredoc.name);
    }
    Ok(OnBuild { expression })
}

const RUN: &[(&str, Kind)] =
    &[("mount", Kind::Texts), ("network", Kind::Text), ("security", Kind::Text), ("device", Kind::Texts)];

fn run(context: &Context<'_>) -> Result<Run, ParseError> {
    let flags = context.flags(RUN)?;
    let wrong = |name: &str, what: &str, value: &str, known: &[&str]| {
        let near = parenthesis(nearest(value, known.iter().copied()));
        context.error_at(
            format!("invalid {what} mode {}{near}", quote(value)),
            flags.at(name),
            name.len() + 2,
        )
    };
    let network = match flags.text("network").as_deref() {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => return Err(wrong("network", "network", other, &["default", "none", "host"])),
    };
    let security = match flags.text("security").as_deref() {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => return Err(wrong("security", "security", other, &["sandbox", "insecure"])),
    };
    let mounts = flags.texts("mount").map(|(text, at)| {
        RunMount::parse(text)
            .map_err(|message| context.bare_error(message, at, "--mount=".len() + text.len()))
    });
    let devices = flags.texts("device").map(|(text, at)| {
        device(text).map_err(|message| context.error_at(message, at, "--device=".len() + text.len()))
    });
    Ok(Run {
        command: context.command(&context.statement.rest)?,
        mounts: mounts.collect::<Result<_, _>>()?,
        network,
        security,
        devices: devices.collect::<Result<_, _>>()?,
    })
}

/// `name[,required]`, or `name=…,required[=bool]`, in any order.
fn device(text: &str) -> Result<Device, String> {
    let mut device = Device { name: String::new(), required: false };
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        match (key.to_ascii_lowercase().as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required = crate::flags::go_bool(value)
                    .ok_or_else(|| format!("invalid value for required: {value}"))?;
            }
            ("name", Some(_)) if !device.name.is_empty() => {
                return Err(format!("device name already set to {}", device.name));
            }
            ("name", Some(value)) => value.clone_into(&mut device.name),
            // The name of a device has a `=` of its own: `vendor.com/class=name`.
            _ if device.name.is_empty() => field.clone_into(&mut device.name),
            (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
            (key, Some(_)) => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if device.name.is_empty() {
        return Err("device name is required".into());
    }
    Ok(device)
}
