//! The values of flags: Docker's small languages for mounts, ports, networks, devices, limits.

pub(crate) mod annotation;
pub(crate) mod capability;
pub(crate) mod device;
pub(crate) mod env;
pub(crate) mod gpus;
pub(crate) mod health;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod platform;
pub(crate) mod port;
pub(crate) mod reference;
pub(crate) mod restart;
pub(crate) mod security;
pub(crate) mod size;
pub(crate) mod time;
pub(crate) mod ulimit;
pub(crate) mod volume;

pub(crate) use yare_gotext::quote;

use std::collections::BTreeMap;
use std::net::IpAddr;
use yare_oci::kernel::IPC_SYSCTLS;

/// Splits one line of comma-separated values, with quotes, as Go's `encoding/csv` does.
pub(crate) fn csv(line: &str) -> Result<Vec<String>, String> {
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Ok(Vec::new());
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = csv_field(rest)?;
        fields.push(field);
        match after {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// One field, and what follows its comma.
fn csv_field(rest: &str) -> Result<(String, Option<&str>), String> {
    let Some(mut quoted) = rest.strip_prefix('"') else {
        let (field, after) = match rest.split_once(',') {
            Some((field, after)) => (field, Some(after)),
            None => (rest, None),
        };
        if let Some(at) = field.find('"') {
            return Err(format!("parse error on line 1, column {}: bare \" in non-quoted-field", at + 1));
        }
        return Ok((field.to_owned(), after));
    };
    let mut field = String::new();
    loop {
        let Some((before, after)) = quoted.split_once('"') else {
            return Err(
                "parse error on line 1, column 1: extraneous or missing \" in quoted-field".to_owned()
            );
        };
        field.push_str(before);
        if let Some(after) = after.strip_prefix('"') {
            field.push('"');
            quoted = after;
        } else if let Some(after) = after.strip_prefix(',') {
            return Ok((field, Some(after)));
        } else if after.is_empty() {
            return Ok((field, None));
        } else {
            return Err(
                "parse error on line 1, column 1: extraneous or missing \" in quoted-field".to_owned()
            );
        }
    }
}

/// `name=value` pairs as a map; a missing value is empty, the last of equal names stays.
pub(crate) fn key_values(entries: &[String]) -> BTreeMap<String, String> {
    entries
        .iter()
        .map(|entry| match entry.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (entry.clone(), String::new()),
        })
        .collect()
}

/// Checks an entry of a map flag.
pub(crate) fn map_entry(value: &str) -> Result<(), String> {
    if value.starts_with('=') {
        Err(format!("invalid argument {}: empty name", quote(value)))
    } else {
        Ok(())
    }
}

/// Splits a filter; the name is lower case and trimmed, the value trimmed.
pub(crate) fn filter(value: &str) -> Result<(String, String), String> {
    match value.split_once('=') {
        Some((name, value)) => Ok((name.trim().to_lowercase(), value.trim().to_owned())),
        None => Err("bad format of filter (expected name=value)".to_owned()),
    }
}

/// Filters as the API's JSON; empty when there are none.
pub(crate) fn filters(entries: &[String], more: &[(&str, &str)]) -> String {
    let mut map: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
    for entry in entries {
        // A name without a value was refused when the flag was read.
        if let Ok((name, value)) = filter(entry) {
            map.entry(name).or_default().insert(value, true);
        }
    }
    for (name, value) in more {
        map.entry((*name).to_owned()).or_default().insert((*value).to_owned(), true);
    }
    if map.is_empty() { String::new() } else { serde_json::to_string(&map).unwrap_or_default() }
}

/// Checks a label.
pub(crate) fn label(value: &str) -> Result<(), String> {
    let name = value.split('=').next().unwrap_or_default().trim_start_matches([' ', '\t']);
    if name.is_empty() {
        return Err(format!("invalid label '{value}': empty name"));
    }
    if name.contains([' ', '\t']) {
        return Err(format!("label '{name}' contains whitespaces"));
    }
    Ok(())
}

/// An entry of `--add-host`, as the API takes it.
pub(crate) fn extra_host(value: &str) -> Result<String, String> {
    let bad = || format!("bad format for add-host: {}", quote(value));
    let split = value.split_once('=').or_else(|| value.split_once(':'));
    let (host, address) = split.ok_or_else(bad)?;
    if host.is_empty() {
        return Err(bad());
    }
    let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let bare = inner.unwrap_or(address);
    if bare != "host-gateway" {
        let parsed: IpAddr =
            bare.parse().map_err(|_| format!("invalid IP address in add-host: {}", quote(address)))?;
        if inner.is_some() && parsed.is_ipv4() {
            return Err(format!("invalid IP address in add-host: {}", quote(address)));
        }
    }
    Ok(format!("{host}:{bare}"))
}

/// A stream name of `--attach`, in lower case.
pub(crate) fn attach(value: &str) -> Result<String, String> {
    let lower = value.to_lowercase();
    match lower.as_str() {
        "stdin" | "stdout" | "stderr" => Ok(lower),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

/// An IP address, trimmed.
pub(crate) fn ip_address(value: &str) -> Result<String, String> {
    match value.trim().parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("IP address is not correctly formatted: {value}")),
    }
}

/// A search domain, or `.`.
pub(crate) fn dns_search(value: &str) -> Result<String, String> {
    let domain = value.trim();
    if domain == "." {
        return Ok(domain.to_owned());
    }
    let labels = domain.strip_suffix('.').unwrap_or(domain).split('.');
    let fine = domain.len() < 255
        && domain.chars().any(char::is_alphabetic)
        && labels.into_iter().all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
        });
    if fine { Ok(domain.to_owned()) } else { Err(format!("{value} is not a valid domain")) }
}

/// Checks an entry of `--link`.
pub(crate) fn link(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("empty string specified for links".to_owned());
    }
    if value.split(':').count() > 2 {
        return Err(format!("bad format for links: {value}"));
    }
    Ok(())
}

/// Checks an entry of `--sysctl`: only what belongs to the container's own namespaces.
pub(crate) fn sysctl(value: &str) -> Result<(), String> {
    let allowed = value.split_once('=').is_some_and(|(name, _)| {
        IPC_SYSCTLS.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.")
    });
    if allowed { Ok(()) } else { Err(format!("sysctl '{value}' is not allowed")) }
}

/// Checks a MAC address.
pub(crate) fn mac_address(value: &str) -> Result<(), String> {
    let parts: Vec<&str> = value.trim().split([':', '-']).collect();
    let fine = matches!(parts.len(), 6 | 8 | 20)
        && parts.iter().all(|part| part.len() == 2 && part.chars().all(|digit| digit.is_ascii_hexdigit()));
    if fine { Ok(()) } else { Err(format!("{value} is not a valid mac address")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comma_lists_have_quotes() {
        assert_eq!(csv("a,b").unwrap(), ["a", "b"]);
        assert_eq!(csv("type=bind,\"src=/a,b\",dst=/b").unwrap(), ["type=bind", "src=/a,b", "dst=/b"]);
        assert_eq!(csv("\"a\"\"b\"").unwrap(), ["a\"b"]);
        assert_eq!(csv("a,").unwrap(), ["a", ""]);
        assert!(csv("a\"b").is_err());
        assert!(csv("\"a").is_err());
    }

    #[test]
    fn filters_become_a_map_of_maps() {
        let given = ["label=a=b".to_owned(), "STATUS=running".to_owned()];
        assert_eq!(filters(&given, &[]), r#"{"label":{"a=b":true},"status":{"running":true}}"#);
        assert_eq!(filters(&[], &[]), "");
    }

    #[test]
    fn hosts_and_domains() {
        assert_eq!(extra_host("h=[::1]").unwrap(), "h:::1");
        assert_eq!(extra_host("h:host-gateway").unwrap(), "h:host-gateway");
        assert!(extra_host("h").is_err());
        assert!(dns_search("a.b").is_ok() && dns_search(".").is_ok());
        assert!(dns_search("a..b").is_err() && dns_search("-a").is_err());
        assert!(mac_address("02:42:ac:11:00:02").is_ok());
        assert!(mac_address("bogus").is_err());
    }
}
