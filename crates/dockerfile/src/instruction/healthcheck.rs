//! `HEALTHCHECK` and its options.

use super::parse::Context;
use super::{Command, HealthCheck};
use crate::error::ParseError;
use crate::flags::{Flags, Kind};
use crate::syntax::{Word, trim_start};
use yare_gotext::{parse_duration, quote};
use yare_oci::Healthcheck;

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
                return Ok(HealthCheck(Healthcheck { test: vec![kind], ..Healthcheck::default() }));
            }
            Err(context.error_at("HEALTHCHECK NONE takes no arguments", probe.at, probe.text.len()))
        }
        "CMD" => {
            let flags = context.flags(FLAGS)?;
            let test = match context.command(&probe)? {
                Command::Exec(argv) if !argv.is_empty() => [vec!["CMD".to_owned()], argv].concat(),
                Command::Shell { line, .. } if !line.is_empty() => vec!["CMD-SHELL".into(), line],
                _ => return Err(context.error("Missing command after HEALTHCHECK CMD")),
            };
            Ok(HealthCheck(Healthcheck { test, ..options(context, &flags)? }))
        }
        _ => {
            let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", quote(&kind));
            Err(context.error_at(message, rest.at, length))
        }
    }
}

fn options(context: &Context<'_>, flags: &Flags) -> Result<Healthcheck, ParseError> {
    let time = |name: &str| {
        let Some(value) = flags.text(name) else { return Ok(0) };
        let time = parse_duration(&value).and_then(|time| {
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
    Ok(Healthcheck {
        test: Vec::new(),
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries,
        ..Healthcheck::default()
    })
}

fn retries(text: &str) -> Result<i64, String> {
    let wrong = |why: &str| format!("strconv.ParseInt: parsing {}: {why}", quote(text));
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong("invalid syntax"));
    }
    match text.parse::<i32>() {
        Ok(number) if number < 0 => Err(format!("--retries cannot be negative ({number})")),
        Ok(number) => Ok(number.into()),
        Err(_) => Err(wrong("value out of range")),
    }
}

#[cfg(test)]
mod tests {
    use crate::instruction::{HealthCheck, Instruction};

    fn parse(line: &str) -> Result<HealthCheck, String> {
        let file = crate::parse(format!("FROM a\nHEALTHCHECK {line}").as_bytes());
        let file = file.map_err(|error| error.message().to_owned())?;
        match file.stages[0].steps[0].instruction.clone() {
            Instruction::HealthCheck(check) => Ok(check),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_times_and_a_number() {
        let HealthCheck(check) =
            parse("--interval=1m --timeout=0 --start-interval=1ms --retries=3 CMD a b").expect("a check");
        assert_eq!(check.test, ["CMD-SHELL", "a b"]);
        assert_eq!((check.interval, check.timeout, check.start_interval), (60_000_000_000, 0, 1_000_000));
        assert_eq!(check.retries, 3);
        assert_eq!(parse("none").expect("a check").0.test, ["NONE"]);
        assert_eq!(parse("CMD [\"a\"]").expect("a check").0.test, ["CMD", "a"]);
    }

    #[test]
    fn wrong_ones_are_named() {
        for (line, why) in [
            ("NONE x", "HEALTHCHECK NONE takes no arguments"),
            ("CMD", "Missing command after HEALTHCHECK CMD"),
            ("CMD []", "Missing command after HEALTHCHECK CMD"),
            ("TCP x", "Unknown type \"TCP\" in HEALTHCHECK (try CMD)"),
            ("--interval=1us CMD x", "Interval \"interval\" cannot be less than 1ms"),
            ("--timeout=5 CMD x", "time: missing unit in duration \"5\""),
            ("--retries=-1 CMD x", "--retries cannot be negative (-1)"),
            ("--retries=x CMD x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("--retries=9999999999 CMD x", "strconv.ParseInt: parsing \"9999999999\": value out of range"),
        ] {
            assert_eq!(parse(line), Err(format!("dockerfile parse error on line 2: {why}")));
        }
    }
}
