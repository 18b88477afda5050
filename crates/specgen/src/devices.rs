//! Devices: which nodes of the host a container gets, and which it may use.

use serde::{Deserialize, Serialize};
use yare_api::{DeviceMapping, DeviceRequest};
use yare_errdefs::Error;
use yare_oci::runtime::DeviceRule;

/// A node, or a directory of nodes, of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    /// Path on the host, absolute; a directory stands for all nodes beneath it.
    pub host: String,
    /// Path in the container, absolute.
    pub container: String,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

/// One rule of `DeviceCgroupRules`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRulePlan {
    /// `a`, `b` or `c`.
    pub kind: String,
    /// Major number; `None` is any.
    pub major: Option<i64>,
    /// Minor number; `None` is any.
    pub minor: Option<i64>,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

/// The rules every container has: nothing but the harmless devices, and not fuse.
pub(crate) fn default_rules() -> Vec<DeviceRule> {
    let rule = |allow, kind: &str, numbers: Option<(i64, i64)>| DeviceRule {
        allow,
        kind: kind.to_owned(),
        major: numbers.map(|(major, _)| major),
        minor: numbers.map(|(_, minor)| minor),
        access: "rwm".to_owned(),
    };
    let harmless = [(1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1)];
    let mut rules = vec![rule(false, "", None)];
    rules.extend(harmless.map(|numbers| rule(true, "c", Some(numbers))));
    rules.push(rule(false, "c", Some((10, 229))));
    rules
}

/// Reads `HostConfig.Devices`.
///
/// # Errors
/// Class invalid argument for a relative path or letters that are no access.
pub fn plan(mappings: &[DeviceMapping]) -> Result<Vec<DevicePlan>, Error> {
    let one = |mapping: &DeviceMapping| {
        let container = or(&mapping.path_in_container, &mapping.path_on_host);
        let access = or(&mapping.cgroup_permissions, "rwm");
        for path in [&mapping.path_on_host, &container] {
            if !path.starts_with('/') {
                return Err(Error::invalid(format!("invalid device path: {path:?} is not an absolute path")));
            }
        }
        if !is_access(&access) {
            return Err(Error::invalid(format!("invalid device mode: {access}")));
        }
        Ok(DevicePlan { host: mapping.path_on_host.clone(), container, access })
    };
    mappings.iter().map(one).collect()
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text.to_owned() }
}

fn is_access(text: &str) -> bool {
    !text.is_empty() && text.len() <= 3 && text.bytes().all(|byte| b"rwm".contains(&byte))
}

/// Reads `HostConfig.DeviceCgroupRules`, such as `c 42:* rmw`.
///
/// # Errors
/// Docker's text, class invalid argument.
pub fn rules(texts: &[String]) -> Result<Vec<DeviceRulePlan>, Error> {
    let one = |text: &String| {
        let wrong = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
        let mut words = text.split(' ');
        let (Some(kind), Some(numbers), Some(access), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(wrong());
        };
        let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
        if !["a", "b", "c"].contains(&kind) || !is_access(access) {
            return Err(wrong());
        }
        let number = |text: &str| match text {
            "*" => Ok(None),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                // Device numbers have 32 bits.
                text.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| wrong())
            }
            _ => Err(wrong()),
        };
        Ok(DeviceRulePlan {
            kind: kind.to_owned(),
            major: number(major)?,
            minor: number(minor)?,
            access: access.to_owned(),
        })
    };
    texts.iter().map(one).collect()
}

/// Refuses what only a driver could give: GPUs, CDI.
///
/// # Errors
/// Docker's texts for a host without such drivers.
pub(crate) fn refuse_requests(requests: &[DeviceRequest]) -> Result<(), Error> {
    let Some(request) = requests.first() else { return Ok(()) };
    if request.driver == "cdi" {
        let ids = request.device_ids.as_deref().unwrap_or_default().join(", ");
        return Err(Error::invalid(format!("CDI device injection failed: unresolvable CDI devices {ids}")));
    }
    let sets: Vec<_> =
        request.capabilities.iter().flatten().map(|set| format!("[{}]", set.join(" "))).collect();
    Err(Error::invalid(format!(
        "could not select device driver {:?} with capabilities: [{}]",
        request.driver,
        sets.join(" ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rules() {
        let rule = |text: &str| rules(&[text.to_owned()]).map(|mut rules| rules.remove(0));
        let any = rule("c 42:* rmw").unwrap();
        assert_eq!(
            (any.kind.as_str(), any.major, any.minor, any.access.as_str()),
            ("c", Some(42), None, "rmw")
        );
        for bad in
            ["", "bogus", "c 1:3", "d 1:3 r", "c 1:3 x", "c 1 r", "c 1:-3 r", "c 99999999999:1 r", "c  1:3 r"]
        {
            let text = format!("invalid device cgroup rule format: '{bad}'");
            assert_eq!(rule(bad).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn refuses_drivers_that_are_not_there() {
        let gpu = DeviceRequest {
            count: -1,
            capabilities: Some(vec![vec!["gpu".to_owned()]]),
            ..DeviceRequest::default()
        };
        assert_eq!(
            refuse_requests(&[gpu]).unwrap_err().to_string(),
            "could not select device driver \"\" with capabilities: [[gpu]]"
        );
        let cdi = DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: Some(vec!["vendor.com/class=dev".to_owned()]),
            ..DeviceRequest::default()
        };
        assert_eq!(
            refuse_requests(&[cdi]).unwrap_err().to_string(),
            "CDI device injection failed: unresolvable CDI devices vendor.com/class=dev"
        );
    }

    #[test]
    fn devices_have_defaults() {
        let mapping = DeviceMapping { path_on_host: "/dev/null".to_owned(), ..DeviceMapping::default() };
        let plans = plan(&[mapping]).unwrap();
        assert_eq!((plans[0].container.as_str(), plans[0].access.as_str()), ("/dev/null", "rwm"));
        let bad = DeviceMapping { path_on_host: "null".to_owned(), ..DeviceMapping::default() };
        assert!(plan(&[bad]).is_err());
    }
}
