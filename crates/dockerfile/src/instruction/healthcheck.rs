//! `HEALTHCHECK` and its options.

use super::parse::Context;
use super::{Command, HealthCheck};
use crate::error::ParseError;
use crate::flags::{Flags, Kind};
use crate::quote::quote;
use crate::syntax::{Word, trim_start};
use crate::text::duration;

/// When a probe runs. Times are in nanoseconds; zero is the engine's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthOptions {
    /// Between probes.
    pub interval: i64,
    /// How long one may take.
    pub timeout: i64,
    /// How long a container may take to start, in which failures don't count.
    pub start_period: i64,
    /// Between probes in that time.
    pub start_interval: i64,
    /// Failures in a row that make a container unhealthy.
    pub retries: u32,
}

const FLAGS: &[(&str, Kind)] = &[
    ("interval", Kind::Text),
    ("timeout", Kind::Text),
    ("start-period", Kind::Text),
    ("start-interval", Kind::Text),
    ("retries", Kind::Text),
];

/// The shortest time that is not zero: 1 ms.
const SHORTEST: i64 = 1_000_000;

pub(super) fn parse(context: &Context<'_>) -> Result<HealthCheck, ParseError> {
    let rest = &context.statement.rest;
    let length = rest.text.find(char::is_whitespace).unwrap_or(rest.text.len());
    let kind = rest.text[..length].to_uppercase();
    let probe = trim_start(&Word { text: rest.text[length..].to_owned(), at: rest.at + length });
    match kind.as_str() {
        "" => Err(context.error("HEALTHCHECK requires at least one argument")),
        "NONE" => {
            context.flags(&[])?;
            if probe.text.is_empty() {
                return Ok(HealthCheck::None);
            }
            Err(context.error_at("HEALTHCHECK NONE takes no arguments", probe.at, probe.text.len()))
        }
        "CMD" => {
            let flags = context.flags(FLAGS)?;
            let command = context.command(&probe)?;
            let missing = match &command {
                Command::Exec(argv) => argv.is_empty(),
                Command::Shell { line, .. } => line.is_empty(),
            };
            if missing {
                return Err(context.error("Missing command after HEALTHCHECK CMD"));
            }
            Ok(HealthCheck::Cmd { command, options: options(context, &flags)? })
        }
        _ => {
            let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", quote(&kind));
            Err(context.error_at(message, rest.at, length))
        }
    }
}

fn options(context: &Context<'_>, flags: &Flags) -> Result<HealthOptions, ParseError> {
    let time = |name: &str| {
        let Some(value) = flags.text(name) else { return Ok(0) };
        let time = duration(&value).and_then(|time| {
            if time != 0 && time < SHORTEST {
                return Err(format!("Interval {} cannot be less than 1ms", quote(name)));
            }
            Ok(time)
        });
        time.map_err(|message| context.error_at(message, flags.at(name), name.len() + 2))
    };
    let retries = match flags.text("retries") {
        None => 0,
        Some(value) => retries(&value)
            .map_err(|message| context.error_at(message, flags.at("retries"), "--retries".len()))?,
    };
    Ok(HealthOptions {
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries,
    })
}

fn retries(text: &str) -> Result<u32, String> {
    let number: i64 = text.parse().map_err(|_| {
        let why =
            if text.trim_start_matches(['-', '+']).bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
                "value out of range"
            } else {
                "invalid syntax"
            };
        format!("strconv.ParseInt: parsing {}: {why}", quote(text))
    })?;
    if number < 0 {
        return Err(format!("--retries cannot be negative ({number})"));
    }
    match i32::try_from(number) {
        Ok(number) => Ok(number.unsigned_abs()),
        Err(_) => Err(format!("strconv.ParseInt: parsing {}: value out of range", quote(text))),
    }
}
