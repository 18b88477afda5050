//! What the values of flags are: how they are checked and what help calls them.

use crate::opts;

/// The kind of a flag's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Set or not; takes a value only after `=`.
    Bool,
    /// Any text.
    Text,
    /// A whole number.
    Int,
    /// A whole number of 16 bits, not negative.
    Uint16,
    /// A whole number, not negative.
    Uint,
    /// A size such as `64m`.
    Bytes,
    /// A size, or -1 for no limit.
    SwapBytes,
    /// A number of CPUs such as `1.5`.
    Decimal,
    /// Go's durations: `1m30s`.
    Duration,
    /// Texts, one a time.
    List,
    /// Texts, several at a time with commas.
    Strings,
    /// `name=value`.
    Map,
    /// `name=value`, several at a time with commas.
    Pairs,
    /// `name=value` of a filter.
    Filter,
    /// `NAME=value`, or `NAME` to take the value from our own environment.
    Env,
    /// `name=value` of a label.
    Label,
    /// `host:address`.
    ExtraHost,
    /// `stdin`, `stdout` or `stderr`.
    Attach,
    /// An IP address.
    Ip,
    /// A domain, or `.` for none.
    DnsSearch,
    /// `c 1:3 rwm`.
    DeviceRule,
    /// `container` or `container:alias`.
    Link,
    /// `net.x=y`.
    Sysctl,
    /// `/dev/sda:500`.
    WeightDevice,
    /// `/dev/sda:1mb`.
    RateDevice,
    /// `/dev/sda:1000`.
    CountDevice,
    /// `nofile=64:128`.
    Ulimit,
    /// `type=bind,src=…,dst=…`.
    Mount,
    /// A network's name, or `name=…,alias=…`.
    Network,
    /// `all`, a count, or `device=…`.
    Gpus,
}

impl Kind {
    /// The word that help shows after the flag; empty for a bool.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Bool => "",
            Self::Text => "string",
            Self::Int => "int",
            Self::Uint16 => "uint16",
            Self::Uint => "uint",
            Self::Bytes | Self::SwapBytes => "bytes",
            Self::Decimal => "decimal",
            Self::Duration => "duration",
            Self::Strings => "strings",
            Self::Map | Self::Sysctl => "map",
            Self::Pairs => "stringToString",
            Self::Filter => "filter",
            Self::Ulimit => "ulimit",
            Self::Mount => "mount",
            Self::Network => "network",
            Self::Gpus => "gpu-request",
            _ => "list",
        }
    }

    /// Checks a value; the error is what pflag puts after `invalid argument "…" for "…" flag:`.
    pub(crate) fn check(self, value: &str) -> Result<(), String> {
        match self {
            Self::Text | Self::List => Ok(()),
            Self::Map => opts::map_entry(value),
            Self::Bool => match parse_bool(value) {
                Some(_) => Ok(()),
                None => Err(syntax("ParseBool", value)),
            },
            Self::Int => parse_int(value).map(drop),
            Self::Uint16 => parse_uint(value, u64::from(u16::MAX)),
            Self::Uint => parse_uint(value, u64::MAX),
            Self::Bytes => opts::size::ram_bytes(value).map(drop),
            Self::SwapBytes => parse_size(value).map(drop),
            Self::Decimal => opts::size::nano_cpus(value).map(drop),
            Self::Duration => yare_gotext::parse_duration(value).map(drop),
            Self::Strings => opts::csv(value).map(drop),
            Self::Pairs => match opts::csv(value)?.iter().find(|pair| !pair.contains('=')) {
                Some(pair) => Err(format!("{pair} must be formatted as key=value")),
                None => Ok(()),
            },
            Self::Filter => opts::filter(value).map(drop),
            Self::Env => opts::env::check(value),
            Self::Label => opts::label(value),
            Self::ExtraHost => opts::extra_host(value).map(drop),
            Self::Attach => opts::attach(value).map(drop),
            Self::Ip => opts::ip_address(value).map(drop),
            Self::DnsSearch => opts::dns_search(value).map(drop),
            Self::DeviceRule => opts::device::cgroup_rule(value),
            Self::Link => opts::link(value),
            Self::Sysctl => opts::sysctl(value),
            Self::WeightDevice => opts::device::weight(value).map(drop),
            Self::RateDevice => opts::device::rate(value).map(drop),
            Self::CountDevice => opts::device::count(value).map(drop),
            Self::Ulimit => opts::ulimit::parse(value).map(drop),
            Self::Mount => opts::mount::parse(value, "/").map(drop),
            Self::Network => opts::network::parse(value).map(drop),
            Self::Gpus => opts::gpus::parse(value).map(drop),
        }
    }
}

fn syntax(function: &str, value: &str) -> String {
    format!("strconv.{function}: parsing {}: invalid syntax", opts::quote(value))
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `strconv.ParseInt` with base 0: decimal, `0x`, `0o`, `0b`, leading `0`.
pub(crate) fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = magnitude(digits).ok_or_else(|| syntax("ParseInt", text))?;
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value)
        .map_err(|_| format!("strconv.ParseInt: parsing {}: value out of range", opts::quote(text)))
}

fn parse_uint(text: &str, most: u64) -> Result<(), String> {
    let value = magnitude(text).ok_or_else(|| syntax("ParseUint", text))?;
    if value > i128::from(most) {
        return Err(format!("strconv.ParseUint: parsing {}: value out of range", opts::quote(text)));
    }
    Ok(())
}

fn magnitude(digits: &str) -> Option<i128> {
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some(two) if two.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let starts_with_digit = digits.chars().next().is_some_and(|first| first.is_digit(base));
    if !starts_with_digit || digits.len() > 30 {
        return None;
    }
    i128::from_str_radix(digits, base).ok()
}

/// A size, where -1 means no limit.
pub(crate) fn parse_size(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { opts::size::ram_bytes(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_go_integers() {
        assert_eq!(parse_int("0x10"), Ok(16));
        assert_eq!(parse_int("-010"), Ok(-8));
        assert_eq!(parse_int("5x").unwrap_err(), "strconv.ParseInt: parsing \"5x\": invalid syntax");
        assert!(parse_int("99999999999999999999").unwrap_err().ends_with("value out of range"));
        assert!(parse_int("").is_err());
        assert!(parse_int("+-1").is_err());
    }
}
