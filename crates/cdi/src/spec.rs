//! A file of devices: what is in it, and what must hold of it.

use crate::name::{check_class, check_device, check_vendor, split_kind};
use crate::yaml;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Spec {
    /// Version of CDI that it follows.
    cdi_version: String,
    /// `vendor/class` of its devices.
    pub(crate) kind: String,
    /// Free annotations, those of all its devices.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Its devices.
    pub(crate) devices: Vec<Device>,
    /// What a container needs that gets any of them.
    pub(crate) container_edits: ContainerEdits,
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) container_edits: ContainerEdits,
}

/// What is changed in a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct ContainerEdits {
    pub(crate) env: Vec<String>,
    pub(crate) device_nodes: Vec<DeviceNode>,
    pub(crate) net_devices: Vec<NetDevice>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) intel_rdt: Option<IntelRdt>,
}

/// A node to make; what it does not say is taken from the host's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct DeviceNode {
    pub(crate) path: String,
    pub(crate) host_path: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) file_mode: Option<u32>,
    pub(crate) permissions: String,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// A network interface of the host's that the container gets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct NetDevice {
    pub(crate) host_interface_name: String,
    pub(crate) name: String,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Mount {
    pub(crate) host_path: String,
    pub(crate) container_path: String,
    pub(crate) options: Vec<String>,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// A program of the host's that is run at a point of the container's life.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Hook {
    pub(crate) hook_name: HookName,
    pub(crate) path: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) timeout: Option<u32>,
}

/// When a hook is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum HookName {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
    Unknown(String),
    /// None was given.
    #[default]
    Missing,
}

impl<'de> Deserialize<'de> for HookName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "prestart" => Self::Prestart,
            "createRuntime" => Self::CreateRuntime,
            "createContainer" => Self::CreateContainer,
            "startContainer" => Self::StartContainer,
            "poststart" => Self::Poststart,
            "poststop" => Self::Poststop,
            "" => Self::Missing,
            _ => Self::Unknown(text),
        })
    }
}

/// A class of cache and memory bandwidth.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IntelRdt {
    #[serde(rename = "closID")]
    clos_id: String,
    #[serde(rename = "l3CacheSchema")]
    l3_cache_schema: String,
    #[serde(rename = "memBwSchema")]
    mem_bw_schema: String,
    schemata: Vec<String>,
    #[serde(rename = "enableMonitoring")]
    enable_monitoring: bool,
    #[serde(rename = "enableCMT")]
    enable_cmt: bool,
    #[serde(rename = "enableMBM")]
    enable_mbm: bool,
}

/// Versions of CDI, the oldest first; the first two had no form of their own that anybody checked.
const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// The most bytes of annotations.
const ANNOTATIONS: usize = 256 << 10;

impl Spec {
    /// Reads a file's text.
    ///
    /// # Errors
    /// It is no such file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        yaml::read(text).map_err(|error| format!("failed to unmarshal CDI Spec: {error}"))
    }

    /// Checks what the form of the file does not say.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.check_version()?;
        let (vendor, class) = split_kind(&self.kind).unwrap_or(("", &self.kind));
        check_vendor(vendor)?;
        check_class(class)?;
        check_annotations(&self.annotations)?;
        self.container_edits.check()?;
        let mut names = BTreeSet::new();
        for device in &self.devices {
            device.check().map_err(|error| format!("failed add device {:?}: {error}", device.name))?;
            if !names.insert(&device.name) {
                return Err(format!("invalid spec, multiple device {:?}", device.name));
            }
        }
        if names.is_empty() { Err("invalid spec, no devices".to_owned()) } else { Ok(()) }
    }

    fn check_version(&self) -> Result<(), String> {
        let version = self.cdi_version.trim_start_matches('v');
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let own = place(version).ok_or_else(|| format!("invalid version {:?}", self.cdi_version))?;
        let least = self.least_version();
        match place(least) {
            Some(least_place) if least_place > own => {
                Err(format!("the spec version must be at least v{least}"))
            }
            _ => Ok(()),
        }
    }

    /// The first version that has everything this file uses.
    fn least_version(&self) -> &'static str {
        let all = || self.devices.iter().map(|device| &device.container_edits).chain([&self.container_edits]);
        let class = split_kind(&self.kind).map_or("", |(_, class)| class);
        let annotated = || self.devices.iter().any(|device| !device.annotations.is_empty());
        let unlettered =
            |device: &Device| device.name.starts_with(|first: char| !first.is_ascii_alphabetic());
        if all().any(|edits| !edits.net_devices.is_empty()) {
            "1.1.0"
        } else if all().any(|edits| edits.intel_rdt.is_some() || !edits.additional_gids.is_empty()) {
            "0.7.0"
        } else if !self.annotations.is_empty() || annotated() || class.contains('.') {
            "0.6.0"
        } else if self.devices.iter().any(unlettered)
            || all().flat_map(|edits| &edits.device_nodes).any(|node| !node.host_path.is_empty())
        {
            "0.5.0"
        } else if all().flat_map(|edits| &edits.mounts).any(|mount| !mount.kind.is_empty()) {
            "0.4.0"
        } else {
            "0.3.0"
        }
    }
}

impl Device {
    fn check(&self) -> Result<(), String> {
        check_device(&self.name)?;
        check_annotations(&self.annotations)?;
        if self.container_edits == ContainerEdits::default() {
            return Err("invalid device, empty device edits".to_owned());
        }
        self.container_edits.check().map_err(|error| format!("invalid device {:?}: {error}", self.name))
    }
}

fn check_annotations(annotations: &BTreeMap<String, String>) -> Result<(), String> {
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ANNOTATIONS {
        return Err(format!("annotations size {size} is larger than limit {ANNOTATIONS}"));
    }
    match annotations.keys().find(|key| !is_annotation(key)) {
        Some(key) => Err(format!("invalid annotation key {key:?}")),
        None => Ok(()),
    }
}

/// `[prefix/]name`, as Kubernetes has them.
fn is_annotation(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let ends = |text: &str| {
        let alphanumeric = |letter: char| letter.is_ascii_alphanumeric();
        text.starts_with(alphanumeric) && text.ends_with(alphanumeric)
    };
    let inner = |text: &str, more: &str| {
        text.chars().all(|letter| letter.is_ascii_alphanumeric() || more.contains(letter))
    };
    let named = name.len() <= 63 && ends(name) && inner(name, "_-.");
    let part = |part: &str| ends(part) && inner(part, "-");
    named && prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(part))
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        check_env(&self.env).map_err(|error| format!("invalid container edits: {error}"))?;
        self.device_nodes.iter().try_for_each(DeviceNode::check)?;
        self.hooks.iter().try_for_each(Hook::check)?;
        for mount in &self.mounts {
            if mount.host_path.is_empty() {
                return Err("invalid mount, empty host path".to_owned());
            }
            if mount.container_path.is_empty() {
                return Err("invalid mount, empty container path".to_owned());
            }
        }
        if let Some(rdt) = &self.intel_rdt {
            rdt.check()?;
        }
        for device in &self.net_devices {
            if device.host_interface_name.is_empty() {
                return Err("invalid linux net device, empty HostInterfaceName".to_owned());
            }
            if device.name.is_empty() {
                return Err("invalid linux net device, empty Name".to_owned());
            }
        }
        Ok(())
    }
}

fn check_env(env: &[String]) -> Result<(), String> {
    match env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0)) {
        Some(wrong) => Err(format!("invalid environment variable {wrong:?}")),
        None => Ok(()),
    }
}

impl DeviceNode {
    fn check(&self) -> Result<(), String> {
        let path = &self.path;
        if path.is_empty() {
            return Err("invalid (empty) device path".to_owned());
        }
        if !matches!(self.kind.as_str(), "" | "b" | "c" | "u" | "p") {
            return Err(format!("device {path:?}: invalid type {:?}", self.kind));
        }
        if self.major < 0 || self.minor < 0 {
            let (major, minor) = (self.major, self.minor);
            return Err(format!("device {path:?}: invalid (negative) device number {major}:{minor}"));
        }
        let known = |letter: char| "rwm".contains(letter);
        if self.permissions != "none" && !self.permissions.chars().all(known) {
            return Err(format!("device {path:?}: invalid permissions {:?}", self.permissions));
        }
        Ok(())
    }
}

impl Hook {
    fn check(&self) -> Result<(), String> {
        let shown = match &self.hook_name {
            HookName::Missing => return Err("invalid hook name \"\"".to_owned()),
            HookName::Unknown(name) => return Err(format!("invalid hook name {name:?}")),
            known => format!("{known:?}"),
        };
        if self.path.is_empty() {
            return Err(format!("invalid hook {shown:?} with empty path"));
        }
        check_env(&self.env).map_err(|error| format!("invalid hook {shown:?}: {error}"))
    }
}

impl IntelRdt {
    fn check(&self) -> Result<(), String> {
        let id = &self.clos_id;
        let wrong = id.len() >= 4096 || id == "." || id == ".." || id.contains(['/', '\n']);
        if wrong && id != "/" { Err("invalid ClosID".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Spec, String> {
        let spec = Spec::parse(text)?;
        spec.check()?;
        Ok(spec)
    }

    fn error(text: &str) -> String {
        read(text).expect_err(text)
    }

    /// A file with these members and one device.
    fn file(members: &str, device: &str) -> String {
        format!(
            "cdiVersion: 1.1.0\nkind: v.com/c\n{members}\ndevices: [{{name: d, containerEdits: {{{device}}}}}]\n"
        )
    }

    #[test]
    fn the_fields_own_documents() {
        let minimal = read(include_str!("../tests/data/good/minimal.json")).unwrap();
        assert_eq!(minimal.devices[0].container_edits.device_nodes[0].path, "/dev/card1");
        let full = read(include_str!("../tests/data/good/spec-example.json")).unwrap();
        assert_eq!(full.container_edits.hooks[1].hook_name, HookName::StartContainer);
        assert_eq!(full.container_edits.mounts.len(), 2);
        assert!(error(include_str!("../tests/data/bad/empty.json")).contains("nothing in it"));
        assert!(
            error(include_str!("../tests/data/bad/explicit-empty.json")).contains("invalid version \"\"")
        );
    }

    #[test]
    fn faults_are_named() {
        let ok = "env: [A=1]";
        for (text, right) in [
            (file("", "{}").replace("{{}}", "{}"), "invalid device, empty device edits"),
            (file("", ok).replace("1.1.0", "9.9.9"), "invalid version \"9.9.9\""),
            (file("", ok).replace("v.com/c", "vcom"), "invalid vendor. empty name"),
            (file("", ok).replace("v.com/c", "v.com/-c"), "invalid class."),
            (file("", ok).replace("name: d", "name: ../d"), "should start with a letter or digit"),
            (file("bogus: 1", ok), "unknown field `bogus`"),
            (file("containerEdits: {env: [A]}", ok), "invalid environment variable \"A\""),
            (file("annotations: {'a b': x}", ok), "invalid annotation key \"a b\""),
            (file("", "deviceNodes: [{path: ''}]"), "invalid (empty) device path"),
            (file("", "deviceNodes: [{path: /dev/x, type: q}]"), "invalid type \"q\""),
            (file("", "deviceNodes: [{path: /dev/x, major: -1}]"), "invalid (negative) device number -1:0"),
            (file("", "deviceNodes: [{path: /dev/x, permissions: rwx}]"), "invalid permissions \"rwx\""),
            (file("", "mounts: [{containerPath: /x}]"), "empty host path"),
            (file("", "mounts: [{hostPath: /x}]"), "empty container path"),
            (file("", "hooks: [{hookName: never, path: /x}]"), "invalid hook name \"never\""),
            (file("", "hooks: [{hookName: poststop}]"), "with empty path"),
            (file("", "intelRdt: {closID: a/b}"), "invalid ClosID"),
            (file("", "netDevices: [{name: eth0}]"), "empty HostInterfaceName"),
            ("cdiVersion: 0.3.0\nkind: v.com/c\ndevices: []\n".to_owned(), "no devices"),
        ] {
            let said = error(&text);
            assert!(said.contains(right), "{text}\n{said}");
        }
        let twice = file("", ok).replace("]}}]", "]}}, {name: d, containerEdits: {env: [B=2]}}]");
        assert!(error(&twice).contains("multiple device \"d\""), "{twice}");
    }

    #[test]
    fn what_is_used_needs_its_version() {
        for (version, members, device, least) in [
            ("0.3.0", "", "mounts: [{hostPath: /x, containerPath: /y, type: bind}]", "0.4.0"),
            ("0.4.0", "", "deviceNodes: [{path: /dev/x, hostPath: /dev/y}]", "0.5.0"),
            ("0.5.0", "annotations: {a: 'true'}", "env: [A=1]", "0.6.0"),
            ("0.6.0", "", "additionalGids: [5]", "0.7.0"),
            ("0.6.0", "", "intelRdt: {closID: a}", "0.7.0"),
            ("1.0.0", "", "netDevices: [{hostInterfaceName: a, name: b}]", "1.1.0"),
        ] {
            let text = file(members, device);
            let right = format!("the spec version must be at least v{least}");
            assert!(error(&text.replace("1.1.0", version)).contains(&right), "{text}");
            read(&text.replace("1.1.0", least)).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    #[test]
    fn scalars_are_read_as_members_want_them() {
        let text = "cdiVersion: 0.6.0\nkind: v.com/c\nannotations:\n  org.mobyproject.buildkit.device.autoallow: true\ndevices:\n- name: 0\n  containerEdits:\n    deviceNodes:\n    - {path: /dev/x, fileMode: 0640, uid: 7}\n";
        let spec = read(text).unwrap();
        assert_eq!(spec.annotations["org.mobyproject.buildkit.device.autoallow"], "true");
        assert_eq!(spec.devices[0].name, "0");
        let node = &spec.devices[0].container_edits.device_nodes[0];
        assert_eq!((node.file_mode, node.uid), (Some(0o640), Some(7)));
    }

    /// Pieces that mean something somewhere.
    const PIECES: &[&str] = &[
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "!!str ",
        "|\n",
        ">-\n",
        "'",
        "\"",
        "\\u00e9",
        "# ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "? ",
        "<<: ",
        "~",
        "null",
        "0x",
        "-1",
        "1e9",
        "99999999999999999999",
        "\t",
        "\r\n",
        "\u{feff}",
        "\0",
        "containerEdits:",
        "deviceNodes:",
        "kind: a/b\n",
        "annotations:",
        "timeout: -1",
    ];

    #[test]
    fn damaged_files_are_taken_or_refused() {
        let texts = [
            include_str!("../tests/data/good/minimal.json").to_owned(),
            include_str!("../tests/data/good/spec-example.json").to_owned(),
            file("annotations: {a: &x 'true', b: *x}", "env: [A=1], hooks: [{hookName: poststop, path: /x, timeout: 3}]"),
            "cdiVersion: \"0.6.0\"\nkind: v.com/c\ndevices:\n- name: 0\n  containerEdits:\n    env:\n    - |\n      A=1\n".to_owned(),
        ];
        let mut random = yare_damage::Random::default();
        let taken = (0..4000).filter(|_| read(&random.damaged(&texts, PIECES)).is_ok()).count();
        assert!((100..3900).contains(&taken), "{taken}");
    }
}
