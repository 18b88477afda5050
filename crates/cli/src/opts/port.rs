//! `--publish` and `--expose`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use yare_api::PortBinding;

/// One container port with where it is published.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mapping {
    /// `80/tcp`.
    pub port: String,
    /// Where on the host.
    pub binding: PortBinding,
}

/// Reads one `--publish` in either syntax.
pub(crate) fn parse(value: &str) -> Result<Vec<Mapping>, String> {
    if value.contains('=') && !value.starts_with('[') {
        let short = from_long(value)?;
        return parse_short(&short);
    }
    parse_short(value)
}

/// `[ip:][host port]:port[/protocol]`, each port also a range.
fn parse_short(spec: &str) -> Result<Vec<Mapping>, String> {
    let (rest, protocol) = match spec.rsplit_once('/') {
        Some((rest, protocol)) => (rest, protocol.to_lowercase()),
        None => (spec, String::new()),
    };
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol };
    let (ip, host, container) = split(rest);
    if container.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    let ip = ip.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(ip);
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (start, end) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let host_range = if host.is_empty() {
        None
    } else {
        Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?)
    };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    if let Some((host_start, host_end)) = host_range
        && end - start != host_end - host_start
        && end != start
    {
        return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
    }
    Ok((0..=end - start)
        .map(|offset| {
            let host_port = match host_range {
                None => String::new(),
                Some((host_start, host_end)) if start == end && host_start != host_end => {
                    format!("{host_start}-{host_end}")
                }
                Some((host_start, _)) => (host_start + offset).to_string(),
            };
            Mapping {
                port: format!("{}/{protocol}", start + offset),
                binding: PortBinding { host_ip: ip.to_owned(), host_port },
            }
        })
        .collect())
}

/// The three parts, from the right; what is left of them all is the address, IPv6 with or without brackets.
fn split(text: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = text.rsplit_once(':') else { return ("", "", text) };
    match rest.rsplit_once(':') {
        None => ("", rest, container),
        Some((ip, host)) => (ip, host, container),
    }
}

/// A port or a range of ports.
fn range(text: &str) -> Option<(u32, u32)> {
    let port = |text: &str| -> Option<u32> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        text.parse::<u16>().ok().map(u32::from)
    };
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((start, end)) => {
            let (start, end) = (port(start)?, port(end)?);
            (start <= end).then_some((start, end))
        }
    }
}

/// `target=80,published=8080,protocol=udp` in the short syntax.
fn from_long(value: &str) -> Result<String, String> {
    let mut target = String::new();
    let mut published = String::new();
    let mut protocol = "tcp".to_owned();
    for field in super::csv(value)? {
        let Some((name, value)) = field.split_once('=') else {
            return Err(format!("invalid field: {field}"));
        };
        let number = |text: &str| range(text).map(drop).ok_or_else(|| text.to_owned());
        match name {
            "protocol" => match value {
                "tcp" | "udp" | "sctp" => value.clone_into(&mut protocol),
                _ => return Err(format!("invalid protocol value '{value}'")),
            },
            "mode" => {
                if value != "host" && value != "ingress" {
                    return Err(format!(
                        "invalid publish mode value ({value}): must be either 'ingress' or 'host'"
                    ));
                }
            }
            "target" => {
                number(value)
                    .map_err(|text| format!("invalid target port ({text}): value must be an integer"))?;
                value.clone_into(&mut target);
            }
            "published" => {
                number(value)
                    .map_err(|text| format!("invalid published port ({text}): value must be an integer"))?;
                value.clone_into(&mut published);
            }
            _ => return Err(format!("invalid field key: {name}")),
        }
    }
    if target.is_empty() {
        return Err("missing mandatory field 'target'".to_owned());
    }
    Ok(if published.is_empty() {
        format!("{target}/{protocol}")
    } else {
        format!("{published}:{target}/{protocol}")
    })
}

/// All published ports, by container port.
pub(crate) fn bindings(values: &[String]) -> Result<BTreeMap<String, Option<Vec<PortBinding>>>, String> {
    let mut map: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for value in values {
        for mapping in parse(value)? {
            map.entry(mapping.port).or_default().get_or_insert_default().push(mapping.binding);
        }
    }
    Ok(map)
}

/// The ports of one `--expose`: the protocol is not checked here, as Docker's client does not.
pub(crate) fn exposed(value: &str) -> Result<Vec<String>, String> {
    if value.contains(':') {
        return Err(format!("invalid port format for --expose: {value}"));
    }
    let (ports, protocol) = match value.split_once('/') {
        Some((ports, "")) => (ports, "tcp"),
        Some((ports, protocol)) => (ports, protocol),
        None => (value, "tcp"),
    };
    let (start, end) = range(ports).ok_or_else(|| {
        let quoted = super::quote(ports);
        format!("invalid range format for --expose: {value}, error: strconv.ParseUint: parsing {quoted}: invalid syntax")
    })?;
    Ok((start..=end).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(spec: &str) -> Vec<(String, String, String)> {
        parse(spec)
            .unwrap_or_else(|error| panic!("{spec}: {error}"))
            .into_iter()
            .map(|mapping| (mapping.port, mapping.binding.host_ip, mapping.binding.host_port))
            .collect()
    }

    #[test]
    fn addresses_of_version_6_with_and_without_brackets() {
        for (spec, port, ip, host) in [
            ("[2001:4860:0:2001::68]::333", "333/tcp", "2001:4860:0:2001::68", ""),
            ("[::1]:80:80", "80/tcp", "::1", "80"),
            ("2001:4860:0:2001::68::333", "333/tcp", "2001:4860:0:2001::68", ""),
            ("::1:80:80", "80/tcp", "::1", "80"),
            ("::::80", "80/tcp", "::", ""),
        ] {
            assert_eq!(short(spec), [(port.to_owned(), ip.to_owned(), host.to_owned())], "{spec}");
        }
    }

    #[test]
    fn ranges() {
        assert_eq!(short("0.0.0.0:1234-1235:3333-3334/tcp").len(), 2);
        assert_eq!(short("8000-8010:80"), [("80/tcp".to_owned(), String::new(), "8000-8010".to_owned())]);
        assert!(parse("0.0.0.0:1234-1235:").unwrap_err().starts_with("no port specified"));
        assert!(parse("").unwrap_err().starts_with("no port specified"));
        assert!(parse("80-79").is_err());
    }
}
