//! Devices that steps ask for: which are meant, and whether the client granted them. The rules are BuildKit's.
//!
//! What a Dockerfile says is only compared with the names that the host's files have.

use crate::graph::RunDevice;
use crate::{Error, Result};
use std::collections::BTreeMap;
use yare_cdi::Registry;

/// Annotation of devices that need no grant.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// Annotation that puts devices of one kind into classes, which can be asked for as a name.
const CLASS: &str = "org.mobyproject.buildkit.device.class";

/// Devices that a client grants (`--allow device`, `--allow device=NAME[,alias=NAME]`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceGrants {
    all: bool,
    /// Granted names; with an alias, the name that steps use for the device.
    devices: BTreeMap<String, Option<String>>,
}

impl DeviceGrants {
    /// Adds what stands behind `device`: nothing for all devices, else `NAME[,alias=NAME]`.
    ///
    /// # Errors
    /// It is not understood.
    pub fn add(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            self.all = true;
            return Ok(());
        }
        let mut fields = text.split(',');
        let name = fields.next().unwrap_or_default().to_owned();
        let mut alias = None;
        for field in fields {
            match field.split_once('=') {
                Some(("alias", given)) => alias = Some(given.to_owned()),
                Some((key, _)) => {
                    return Err(Error::invalid(format!("unknown device config key {key:?}")));
                }
                None => return Err(Error::invalid(format!("invalid device config {field:?}"))),
            }
        }
        match alias {
            Some(alias) => self.devices.insert(alias, Some(name)),
            None => self.devices.insert(name, None),
        };
        Ok(())
    }
}

/// Whether a device needs no grant.
pub fn is_auto_allowed(annotations: &BTreeMap<String, String>) -> bool {
    let value = annotations.get(AUTO_ALLOW).map(String::as_str);
    matches!(value, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// The devices that a step gets, by qualified names.
///
/// # Errors
/// One is not there that must be, or is not granted.
pub(crate) fn settle(
    asked: &[RunDevice],
    grants: &DeviceGrants,
    registry: impl FnOnce() -> Registry,
) -> Result<Vec<RunDevice>> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let registry = registry();
    let mut granted = Vec::new();
    for name in grants.devices.keys().filter(|name| grants.devices[*name].is_none()) {
        granted.extend(find(&registry, &RunDevice { name: name.clone(), optional: true })?);
    }
    let (mut given, mut forbidden) = (Vec::new(), Vec::new());
    for device in asked {
        let alias = grants.devices.get(&device.name).cloned().flatten();
        let is_alias = alias.is_some();
        let name = alias.unwrap_or_else(|| device.name.clone());
        for found in find(&registry, &RunDevice { name, optional: device.optional })? {
            let allowed = grants.all
                || is_alias
                || granted.contains(&found)
                || is_auto_allowed(&registry.annotations(&found));
            let list = if allowed { &mut given } else { &mut forbidden };
            if !list.contains(&found) {
                list.push(found);
            }
        }
    }
    match forbidden.as_slice() {
        [] => Ok(given.into_iter().map(|name| RunDevice { name, optional: false }).collect()),
        [one] => Err(denied(format!("device {one} is requested by the build but not allowed"), one)),
        [one, ..] => {
            let all = forbidden.join(", ");
            Err(denied(format!("devices {all} are requested by the build but not allowed"), one))
        }
    }
}

fn denied(text: String, example: &str) -> Error {
    let hint = format!(
        "grant it with --allow device={example} (or all with --allow device) if you trust this build"
    );
    Error::denied(text).with_hint(hint)
}

/// The devices that a name means: one by its qualified name or class, the first of a kind, or with `*` all.
fn find(registry: &Registry, device: &RunDevice) -> Result<Vec<String>> {
    let (kind, name) = device.name.split_once('=').unwrap_or((&device.name, ""));
    let invalid = || Error::invalid(format!("invalid device {:?}", device.name));
    let (vendor, class) = yare_cdi::split_kind(kind).ok_or_else(invalid)?;
    yare_cdi::check_vendor(vendor).map_err(|error| invalid().caused_by(error))?;
    yare_cdi::check_class(class).map_err(|error| invalid().caused_by(error))?;
    let of_kind = || {
        let same = |known: &&str| known.split_once('=').is_some_and(|(other, _)| other == kind);
        registry.names().filter(same).map(str::to_owned)
    };
    let found: Vec<String> = match name {
        "" => of_kind().take(1).collect(),
        "*" => of_kind().collect(),
        _ => match of_kind().find(|known| *known == device.name) {
            Some(known) => vec![known],
            None => {
                let has_class = |known: &String| {
                    registry.annotations(known).get(CLASS).is_some_and(|class| class == name)
                };
                of_kind().filter(has_class).collect()
            }
        },
    };
    if found.is_empty() && !device.optional {
        return Err(Error::not_found(format!("required device {:?} is not registered", device.name)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Kinds, each with names of devices, and the annotations of the file.
    fn registry(files: &[(&str, &[&str], &str)]) -> Registry {
        let root = tempfile::tempdir().unwrap();
        for (place, (kind, names, annotations)) in files.iter().enumerate() {
            let device = |name: &&str| format!("{{{name}, containerEdits: {{env: [A=1]}}}}");
            let devices: Vec<_> = names.iter().map(device).collect();
            let text = format!(
                "cdiVersion: 0.6.0\nkind: {kind}\nannotations: {{{annotations}}}\ndevices: [{}]\n",
                devices.join(", ")
            );
            std::fs::write(root.path().join(format!("{place}.yaml")), text).unwrap();
        }
        let registry = Registry::read(&[PathBuf::from(root.path())]);
        assert!(registry.faults().is_empty(), "{:?}", registry.faults());
        registry
    }

    /// As the tests of BuildKit have them.
    fn known() -> Registry {
        let class = |name: &str, class: &str| format!("name: {name}, annotations: {{{CLASS}: {class}}}");
        let (foo, bar, baz) = (class("foo", "class1"), class("bar", "class1"), class("baz", "class2"));
        registry(&[
            ("vendor1.com/device", &["name: foo"], ""),
            ("vendor1.com/deviceclass", &[&foo, &bar, &baz], ""),
            ("vendor1.com/devicemulti", &["name: foo", "name: bar", "name: qux"], ""),
            ("auto.com/device", &["name: a"], &format!("{AUTO_ALLOW}: true")),
        ])
    }

    fn names(asked: &[&str], grants: &[&str]) -> Result<Vec<String>> {
        let mut given = DeviceGrants::default();
        for grant in grants {
            given.add(grant)?;
        }
        let device = |name: &&str| match name.strip_prefix('?') {
            Some(name) => RunDevice { name: name.to_owned(), optional: true },
            None => RunDevice { name: (*name).to_owned(), optional: false },
        };
        let asked: Vec<_> = asked.iter().map(device).collect();
        Ok(settle(&asked, &given, known)?.into_iter().map(|device| device.name).collect())
    }

    #[test]
    fn names_mean_devices() {
        let all = |asked: &[&str]| names(asked, &[""]).unwrap();
        assert_eq!(all(&["vendor1.com/device=foo"]), ["vendor1.com/device=foo"]);
        assert_eq!(all(&["vendor1.com/devicemulti"]), ["vendor1.com/devicemulti=bar"]);
        assert_eq!(
            all(&["vendor1.com/devicemulti=*"]),
            ["vendor1.com/devicemulti=bar", "vendor1.com/devicemulti=foo", "vendor1.com/devicemulti=qux"]
        );
        assert_eq!(
            all(&["vendor1.com/deviceclass=class1"]),
            ["vendor1.com/deviceclass=bar", "vendor1.com/deviceclass=foo"]
        );
        let twice = ["vendor1.com/device=foo", "vendor1.com/device"];
        assert_eq!(all(&twice), ["vendor1.com/device=foo"]);
        assert_eq!(all(&["?vendor1.com/device=bar", "?vendor1.com/none"]), Vec::<String>::new());
    }

    #[test]
    fn names_that_mean_nothing_are_refused() {
        let error = names(&["vendor1.com/device=unknown"], &[""]).unwrap_err().to_string();
        assert_eq!(error, "required device \"vendor1.com/device=unknown\" is not registered");
        for bad in ["foo", "../../etc=x", "a/b/c=x", "/etc/passwd", "vendor1.com/../x=foo", "-a/b=c"] {
            let error = names(&[bad], &[""]).unwrap_err().to_string();
            assert_eq!(error, format!("invalid device {bad:?}"));
            assert!(names(&[&format!("?{bad}")], &[""]).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_need_a_grant() {
        let device = "vendor1.com/device=foo";
        let error = names(&[device], &[]).unwrap_err().to_string();
        assert_eq!(error, "device vendor1.com/device=foo is requested by the build but not allowed");
        assert!(names(&[device], &["vendor1.com/devicemulti"]).is_err());
        for grant in ["", device, "vendor1.com/device", "vendor1.com/device=*"] {
            assert_eq!(names(&[device], &[grant]).unwrap(), [device], "{grant}");
        }
        let error = names(&["vendor1.com/devicemulti=*"], &["vendor1.com/devicemulti=foo"]).unwrap_err();
        let text = "devices vendor1.com/devicemulti=bar, vendor1.com/devicemulti=qux are requested by the build but not allowed";
        assert_eq!(error.to_string(), text);
        // An optional one that is there is no less a device.
        assert!(names(&["?vendor1.com/device=foo"], &[]).is_err());
        assert_eq!(names(&["auto.com/device=a"], &[]).unwrap(), ["auto.com/device=a"]);
    }

    #[test]
    fn an_alias_stands_for_a_device() {
        let grant = "vendor1.com/device=foo,alias=auto.com/other=x";
        assert_eq!(names(&["auto.com/other=x"], &[grant]).unwrap(), ["vendor1.com/device=foo"]);
        assert!(names(&["vendor1.com/device=foo"], &[grant]).is_err());
        let mut grants = DeviceGrants::default();
        assert_eq!(grants.add("a/b=c,x").unwrap_err().to_string(), "invalid device config \"x\"");
        assert_eq!(grants.add("a/b=c,x=y").unwrap_err().to_string(), "unknown device config key \"x\"");
    }
}
