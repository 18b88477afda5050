//! `--network`, and the flags about one endpoint.

use std::collections::BTreeMap;

use yare_api::{EndpointIPAMConfig, EndpointSettings};

/// One `--network`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// Name or ID, or a mode such as `host`.
    pub target: String,
    /// Names under which others reach the container.
    pub aliases: Vec<String>,
    /// Options of the driver.
    pub driver_options: BTreeMap<String, String>,
    /// Links to other containers.
    pub links: Vec<String>,
    /// Wanted address.
    pub ipv4: String,
    /// Wanted address of version 6.
    pub ipv6: String,
    /// Link-local addresses.
    pub link_local: Vec<String>,
    /// Wanted MAC address.
    pub mac_address: String,
    /// Whose gateway is the default one.
    pub gateway_priority: i64,
}

/// Reads a bare name or `name=…,alias=…,…`.
pub(crate) fn parse(value: &str) -> Result<Attachment, String> {
    let mut attachment = Attachment::default();
    if !value.contains('=') {
        value.clone_into(&mut attachment.target);
        return Ok(attachment);
    }
    for field in super::csv(value)? {
        let Some((name, value)) = field.split_once('=') else { return Err(format!("invalid field {field}")) };
        let value = value.trim();
        match name.trim().to_lowercase().as_str() {
            "name" => value.clone_into(&mut attachment.target),
            "alias" => attachment.aliases.push(value.to_owned()),
            "driver-opt" => {
                let (key, value) =
                    value.split_once('=').ok_or("invalid key value pair format in driver options")?;
                attachment.driver_options.insert(key.trim().to_lowercase(), value.trim().to_owned());
            }
            "ip" => value.clone_into(&mut attachment.ipv4),
            "ip6" => value.clone_into(&mut attachment.ipv6),
            "mac-address" => {
                super::mac_address(value)?;
                value.clone_into(&mut attachment.mac_address);
            }
            "link-local-ip" => attachment.link_local.push(value.to_owned()),
            "gw-priority" => {
                attachment.gateway_priority =
                    value.parse().map_err(|_| format!("invalid gw-priority ({value}): invalid syntax"))?;
            }
            _ => return Err(format!("invalid field key {name}")),
        }
    }
    if attachment.target.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(attachment)
}

/// Whether this names a network that someone made, and no mode of ours.
pub(crate) fn is_user_defined(target: &str) -> bool {
    !matches!(target, "" | "default" | "bridge" | "host" | "none") && !target.starts_with("container:")
}

impl Attachment {
    /// The endpoint to ask the engine for.
    pub(crate) fn endpoint(&self) -> EndpointSettings {
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let wants_address = !self.ipv4.is_empty() || !self.ipv6.is_empty() || !self.link_local.is_empty();
        EndpointSettings {
            ipam_config: wants_address.then(|| EndpointIPAMConfig {
                ipv4_address: self.ipv4.clone(),
                ipv6_address: self.ipv6.clone(),
                link_local_ips: some(&self.link_local),
            }),
            links: some(&self.links),
            aliases: some(&self.aliases),
            mac_address: self.mac_address.clone(),
            driver_opts: (!self.driver_options.is_empty()).then(|| self.driver_options.clone()),
            gw_priority: self.gateway_priority,
            ..EndpointSettings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_form() {
        let attachment =
            parse("name=docknet1,alias=web1,alias=web2,driver-opt=field1=value1,ip=172.20.88.22").unwrap();
        assert_eq!(attachment.target, "docknet1");
        assert_eq!(attachment.aliases, ["web1", "web2"]);
        assert_eq!(attachment.driver_options["field1"], "value1");
        let quoted = "name=n,\"driver-opt=com.docker.network.endpoint.sysctls=a=2,b=1\"";
        assert_eq!(parse(quoted).unwrap().driver_options["com.docker.network.endpoint.sysctls"], "a=2,b=1");
        assert!(parse("invalidField=docknet1").unwrap_err().starts_with("invalid field"));
        assert!(parse("network=docknet1,invalid=web").unwrap_err().starts_with("invalid field"));
        assert_eq!(parse("driver-opt=a=b").unwrap_err(), "network name/id is not specified");
        assert_eq!(parse("gw-priority=x").unwrap_err(), "invalid gw-priority (x): invalid syntax");
    }
}
