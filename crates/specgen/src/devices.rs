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

/// The kind of device that requests for GPUs mean.
pub const GPU: &str = "nvidia.com/gpu";

/// What a request without a driver's name, or for `nvidia`, may ask of such a device.
const GPU_CAPABILITIES: [&str; 8] =
    ["gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display"];

/// The qualified CDI names that device requests mean. Requests for GPUs mean devices of the kind [`GPU`], where
/// the host has that (`has_gpus`).
///
/// # Errors
/// Docker's texts for a request that no driver takes, or that contradicts itself.
pub fn cdi_names(requests: &[DeviceRequest], has_gpus: bool) -> Result<Vec<String>, Error> {
    let one = |request: &DeviceRequest| match request.driver.as_str() {
        "cdi" => plain(request),
        "" | "nvidia" if has_gpus && wants_gpu(request) => gpus(request),
        _ => Err(no_driver(request)),
    };
    Ok(requests.iter().map(one).collect::<Result<Vec<_>, _>>()?.concat())
}

fn plain(request: &DeviceRequest) -> Result<Vec<String>, Error> {
    if request.count != 0 {
        return Err(Error::invalid("unexpected count in CDI device request"));
    }
    if request.options.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(Error::invalid("unexpected options in CDI device request"));
    }
    Ok(request.device_ids.clone().unwrap_or_default())
}

/// Whether one of the sets has nothing but what a GPU can do.
fn wants_gpu(request: &DeviceRequest) -> bool {
    let known = |capability: &String| GPU_CAPABILITIES.contains(&capability.as_str());
    request.capabilities.iter().flatten().any(|set| set.iter().all(known))
}

fn gpus(request: &DeviceRequest) -> Result<Vec<String>, Error> {
    let ids = request.device_ids.as_deref().unwrap_or_default();
    if request.count != 0 && !ids.is_empty() {
        return Err(Error::invalid("cannot set both Count and DeviceIDs on device request"));
    }
    let name = |id: &str| if id.contains('=') { id.to_owned() } else { format!("{GPU}={id}") };
    Ok(match request.count {
        ..0 => vec![name("all")],
        0 => ids.iter().map(|id| name(id)).collect(),
        count => (0..count).map(|number| name(&number.to_string())).collect(),
    })
}

fn no_driver(request: &DeviceRequest) -> Error {
    let sets: Vec<_> =
        request.capabilities.iter().flatten().map(|set| format!("[{}]", set.join(" "))).collect();
    Error::invalid(format!(
        "could not select device driver {:?} with capabilities: [{}]",
        request.driver,
        sets.join(" ")
    ))
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

    fn gpu(count: i64, ids: &[&str]) -> DeviceRequest {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        DeviceRequest {
            count,
            device_ids: (!ids.is_empty()).then_some(ids),
            capabilities: Some(vec![vec!["gpu".to_owned(), "compute".to_owned()]]),
            ..DeviceRequest::default()
        }
    }

    #[test]
    fn requests_that_no_driver_takes_are_refused() {
        let refused =
            |request: DeviceRequest, has_gpus| cdi_names(&[request], has_gpus).unwrap_err().to_string();
        let text = "could not select device driver \"\" with capabilities: [[gpu compute]]";
        assert_eq!(refused(gpu(-1, &[]), false), text);
        let tpu = DeviceRequest { capabilities: Some(vec![vec!["tpu".to_owned()]]), ..gpu(1, &[]) };
        assert_eq!(refused(tpu, true), text.replace("gpu compute", "tpu"));
        let amd = DeviceRequest { driver: "amd".to_owned(), ..gpu(1, &[]) };
        assert_eq!(refused(amd, true), text.replace("\"\"", "\"amd\""));
        assert_eq!(refused(gpu(1, &["0"]), true), "cannot set both Count and DeviceIDs on device request");
    }

    #[test]
    fn gpus_are_devices_of_their_kind() {
        let names = |count, ids: &[&str]| cdi_names(&[gpu(count, ids)], true).unwrap();
        assert_eq!(names(-1, &[]), ["nvidia.com/gpu=all"]);
        assert_eq!(names(2, &[]), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
        assert_eq!(
            names(0, &["3", "GPU-x", "v.com/c=d"]),
            ["nvidia.com/gpu=3", "nvidia.com/gpu=GPU-x", "v.com/c=d"]
        );
    }

    #[test]
    fn requests_of_cdi_are_names() {
        let ids = vec!["v.com/c=a".to_owned(), "v.com/c=b".to_owned()];
        let request = DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: Some(ids.clone()),
            ..DeviceRequest::default()
        };
        assert_eq!(cdi_names(std::slice::from_ref(&request), false).unwrap(), ids);
        let counted = DeviceRequest { count: 1, ..request };
        assert_eq!(
            cdi_names(&[counted], false).unwrap_err().to_string(),
            "unexpected count in CDI device request"
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
