//! Ports of `EXPOSE`: `[[ip:][host]:]port[-port][/protocol]`.

use std::fmt;
use std::net::IpAddr;
use yare_errdefs::{Class, Classified};
use yare_gotext::quote;

/// A port that can't be exposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortError {
    port: String,
    why: String,
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid port: {}: {}", quote(&self.port), self.why)
    }
}

impl std::error::Error for PortError {}

impl Classified for PortError {
    fn class(&self) -> Class {
        Class::InvalidArgument
    }
}

/// The `port/protocol` keys that a word of `EXPOSE` stands for. An address or a port of the host is checked
/// and left out.
pub fn parse_ports(text: &str) -> Result<Vec<String>, PortError> {
    ports(text).map_err(|why| PortError { port: text.to_owned(), why })
}

/// Whether a word of `EXPOSE` has a port of the container and nothing of the host.
pub(crate) fn is_plain_port(text: &str) -> bool {
    !text.contains(':')
}

fn ports(text: &str) -> Result<Vec<String>, String> {
    let (before, container) = text.rsplit_once(':').map_or(("", text), |(before, port)| (before, port));
    let (ip, host) = before.rsplit_once(':').map_or(("", before), |(ip, host)| (ip, host));
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err("no port specified".into());
    }
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        other => return Err(format!("invalid proto: {other}")),
    };
    check_address(ip)?;
    let (first, last) = range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    if !host.is_empty() {
        let (begin, end) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if end - begin != last - first && first != last {
            return Err(format!("invalid ranges specified for container and host Ports: {port} and {host}"));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn check_address(ip: &str) -> Result<(), String> {
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if bare.is_empty() || bare.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(format!("invalid IP address: {ip}"))
}

/// `80` or `8000-8010`.
fn range(text: &str) -> Option<(u16, u16)> {
    let number =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges() {
        assert_eq!(parse_ports("80").expect("port"), ["80/tcp"]);
        assert_eq!(parse_ports("53/UDP").expect("port"), ["53/udp"]);
        assert_eq!(parse_ports("8000-8002/sctp").expect("ports"), ["8000/sctp", "8001/sctp", "8002/sctp"]);
        assert_eq!(parse_ports("127.0.0.1:80:81").expect("port"), ["81/tcp"]);
        for (bad, why) in [
            ("80/foo", "invalid port: \"80/foo\": invalid proto: foo"),
            ("x", "invalid port: \"x\": invalid containerPort: x"),
            ("70000", "invalid port: \"70000\": invalid containerPort: 70000"),
            ("9-8", "invalid port: \"9-8\": invalid containerPort: 9-8"),
            ("1.2.3:1:2", "invalid port: \"1.2.3:1:2\": invalid IP address: 1.2.3"),
        ] {
            assert_eq!(parse_ports(bad).expect_err(bad).to_string(), why);
        }
    }
}
