//! Ports: `80/tcp` keys and where they are published.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use yare_api::PortMap;
use yare_errdefs::Error;

/// One publication of one container port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPlan {
    /// Port in the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Address on the host; `None` is every one.
    pub host_ip: Option<IpAddr>,
    /// Port on the host, or a range of which a free one is taken; `None` is any free one.
    pub host_ports: Option<(u16, u16)>,
}

/// Reads a key such as `80/tcp` or `80`; the protocol is `tcp` by default, in any case.
///
/// # Errors
/// Docker's text, class invalid argument.
pub fn parse_key(key: &str) -> Result<(u16, String), Error> {
    let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_ascii_lowercase() };
    let number = port.parse().ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| Error::invalid(format!("invalid port specification: {port:?}")))?;
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(Error::invalid(format!(
            "invalid port specification: {key:?}: unknown protocol {protocol:?}"
        )));
    }
    Ok((number, protocol))
}

/// Reads every binding, in the order of the keys.
///
/// # Errors
/// Docker's texts, class invalid argument.
pub fn plan(bindings: &PortMap) -> Result<Vec<PortPlan>, Error> {
    let mut plans = Vec::new();
    for (key, bindings) in bindings {
        let (container_port, protocol) = parse_key(key)?;
        for binding in bindings.iter().flatten() {
            plans.push(PortPlan {
                container_port,
                protocol: protocol.clone(),
                host_ip: host_ip(&binding.host_ip)?,
                host_ports: host_ports(&binding.host_port)?,
            });
        }
    }
    Ok(plans)
}

fn host_ip(text: &str) -> Result<Option<IpAddr>, Error> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    match bare {
        "" => Ok(None),
        _ => bare.parse().map(Some).map_err(|_| Error::invalid(format!("invalid IP address: {text}"))),
    }
}

fn host_ports(text: &str) -> Result<Option<(u16, u16)>, Error> {
    let wrong = || Error::invalid(format!("invalid port specification: {text:?}"));
    let bare = text.split('/').next().unwrap_or(text);
    if bare.is_empty() || bare == "0" {
        return Ok(None);
    }
    let (first, last) = bare.split_once('-').unwrap_or((bare, bare));
    let first: u16 = first.parse().map_err(|_| wrong())?;
    let last: u16 = last.parse().map_err(|_| wrong())?;
    if first > last { Err(wrong()) } else { Ok(Some((first, last))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_api::PortBinding;

    fn planned(key: &str, ip: &str, port: &str) -> Result<PortPlan, String> {
        let binding = PortBinding { host_ip: ip.to_owned(), host_port: port.to_owned() };
        let map = PortMap::from([(key.to_owned(), Some(vec![binding]))]);
        plan(&map).map(|mut plans| plans.remove(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_bindings() {
        let plan = planned("80/TCP", "127.0.0.1", "8080-8090").unwrap();
        assert_eq!((plan.container_port, plan.protocol.as_str()), (80, "tcp"));
        assert_eq!(plan.host_ports, Some((8080, 8090)));
        assert_eq!(planned("53/udp", "", "").unwrap().host_ports, None);
        assert_eq!(planned("53", "[::1]", "0").unwrap().host_ip, Some("::1".parse().unwrap()));
    }

    #[test]
    fn refuses_what_is_no_port() {
        assert_eq!(planned("x/tcp", "", "1").unwrap_err(), "invalid port specification: \"x\"");
        assert_eq!(planned("80/tcp", "", "99999").unwrap_err(), "invalid port specification: \"99999\"");
        assert_eq!(planned("80/tcp", "", "9-8").unwrap_err(), "invalid port specification: \"9-8\"");
        assert!(planned("80/icmp", "", "1").is_err());
        assert_eq!(planned("80/tcp", "1.2.3", "1").unwrap_err(), "invalid IP address: 1.2.3");
    }
}
