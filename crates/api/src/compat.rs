//! Older versions of the API: requests are lifted to the newest, replies are taken down to the client's.
//!
//! Everything is here, so that no handler asks for a version. Requests are lifted typed; replies are taken
//! down as JSON values, because old members are no part of the types.

use crate::container::{ContainerCreateRequest, ContainerUpdateRequest, HostConfig};
use crate::version::Version;
use serde_json::{Map, Value, json};
use yare_errdefs::Error;

/// What a reply is. Lists are taken down item by item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// `GET /containers/{id}/json`.
    ContainerInspect,
    /// `GET /containers/json`.
    ContainerList,
    /// `GET /images/{name}/json`.
    ImageInspect,
    /// `GET /images/json`.
    ImageList,
    /// `GET /info`.
    SystemInfo,
    /// `GET /system/df`.
    DiskUsage,
}

/// Whether a reply to this version must go through [`down`] at all.
pub fn needs_down(version: Version) -> bool {
    version < Version::MAX
}

/// Takes a reply down to an older version.
pub fn down(reply: Reply, version: Version, value: &mut Value) {
    if let Value::Array(items) = value {
        items.iter_mut().for_each(|item| down(reply, version, item));
        return;
    }
    let Value::Object(object) = value else { return };
    match reply {
        Reply::ContainerInspect => container_inspect(version, object),
        Reply::ContainerList => container_summary(version, object),
        Reply::ImageInspect => image_inspect(version, object),
        Reply::ImageList => image_summary(version, object),
        Reply::SystemInfo => info(version, object),
        Reply::DiskUsage => disk_usage(version, object),
    }
}

fn container_inspect(version: Version, object: &mut Map<String, Value>) {
    if version.before(48) {
        object.remove("ImageManifestDescriptor");
    }
    if version.before(45) {
        alias_short_id(object);
    }
    if version.before(44)
        && let Some(check) = object.get_mut("Config").and_then(|config| config.get_mut("Healthcheck"))
    {
        remove(check, "StartInterval");
    }
}

fn container_summary(version: Version, object: &mut Map<String, Value>) {
    if version.before(48) {
        object.remove("ImageManifestDescriptor");
    }
    if version.before(46)
        && let Some(host_config) = object.get_mut("HostConfig")
    {
        remove(host_config, "Annotations");
    }
}

fn remove(value: &mut Value, member: &str) {
    if let Value::Object(object) = value {
        object.remove(member);
    }
}

/// Before 1.45, aliases in a user's network also held what `DNSNames` holds now.
fn alias_short_id(object: &mut Map<String, Value>) {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let id = text(object.get("Id"));
    let short = crate::names::short_id(&id).to_owned();
    let hostname = text(object.get("Config").and_then(|config| config.get("Hostname")));
    let networks = object.get_mut("NetworkSettings").and_then(|settings| settings.get_mut("Networks"));
    let Some(Value::Object(networks)) = networks else { return };
    for (name, endpoint) in networks {
        let Some(Value::Object(endpoint)) = Some(endpoint) else { continue };
        if ["bridge", "host", "none", "default"].contains(&name.as_str()) {
            continue;
        }
        let aliases = endpoint.entry("Aliases").or_insert(Value::Null);
        if aliases.is_null() {
            *aliases = json!([]);
        }
        let Value::Array(aliases) = aliases else { continue };
        for alias in [&short, &hostname] {
            if !alias.is_empty() && !aliases.iter().any(|have| have == alias.as_str()) {
                aliases.push(json!(alias));
            }
        }
    }
}

fn image_inspect(version: Version, object: &mut Map<String, Value>) {
    if version.before(44) {
        let size = object.get("Size").cloned().unwrap_or_default();
        object.insert("VirtualSize".into(), size);
        object.entry("Created").or_insert(json!(crate::time::ZERO));
    }
    if version.before(45) {
        object.insert("ContainerConfig".into(), empty_config());
    }
    if version.before(48) {
        object.remove("Descriptor");
        object.remove("Manifests");
    }
    if version.before(50)
        && let Some(Value::Object(config)) = object.get_mut("Config")
    {
        for (name, value) in legacy_config() {
            config.entry(name).or_insert(value);
        }
    }
}

/// What an image's `Config` had besides, and always empty.
fn legacy_config() -> Vec<(&'static str, Value)> {
    let mut members: Vec<_> =
        ["AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty"]
            .map(|name| (name, json!(false)))
            .into();
    members.extend(["Domainname", "Hostname", "Image"].map(|name| (name, json!(""))));
    members
}

fn empty_config() -> Value {
    serde_json::to_value(crate::ContainerConfig::default()).expect("a config is always JSON")
}

fn image_summary(version: Version, object: &mut Map<String, Value>) {
    if version.before(43) {
        let none = |name: &str| object.get(name).and_then(Value::as_array).is_none_or(Vec::is_empty);
        if none("RepoTags") && none("RepoDigests") {
            object.insert("RepoTags".into(), json!(["<none>:<none>"]));
            object.insert("RepoDigests".into(), json!(["<none>@<none>"]));
        }
        if object.get("RepoDigests").is_some_and(|digests| *digests == json!([])) {
            object.insert("RepoDigests".into(), Value::Null);
        }
    }
    virtual_size(version, object);
    if version.before(47) {
        object.remove("Manifests");
    }
    if version.before(48) {
        object.remove("Descriptor");
    }
    if version.before(51) {
        object.insert("Containers".into(), json!(-1));
    }
}

fn virtual_size(version: Version, object: &mut Map<String, Value>) {
    if version.before(44) {
        let size = object.get("Size").cloned().unwrap_or_default();
        object.insert("VirtualSize".into(), size);
    }
}

fn info(version: Version, object: &mut Map<String, Value>) {
    if version.before(42) {
        let memory = object.get("MemoryLimit").cloned().unwrap_or_default();
        object.insert("KernelMemory".into(), memory);
    }
    if version.before(44)
        && let Some(Value::Object(runtimes)) = object.get_mut("Runtimes")
    {
        runtimes.values_mut().for_each(|runtime| remove(runtime, "status"));
    }
    if version.before(46) {
        object.remove("Containerd");
    }
    if version.before(48)
        && let Some(Value::Object(registries)) = object.get_mut("RegistryConfig")
    {
        registries.insert("AllowNondistributableArtifactsCIDRs".into(), Value::Null);
        registries.insert("AllowNondistributableArtifactsHostnames".into(), Value::Null);
    }
    if version.before(49) {
        object.remove("FirewallBackend");
        for commit in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            let Some(Value::Object(commit)) = object.get_mut(commit) else { continue };
            let id = commit.get("ID").cloned().unwrap_or_default();
            if id != "" {
                commit.insert("Expected".into(), id);
            }
        }
    }
    if version.before(50) {
        object.remove("DiscoveredDevices");
        object.insert("BridgeNfIptables".into(), json!(false));
        object.insert("BridgeNfIp6tables".into(), json!(false));
    }
}

fn disk_usage(version: Version, object: &mut Map<String, Value>) {
    if let Some(Value::Array(images)) = object.get_mut("Images") {
        images.iter_mut().filter_map(Value::as_object_mut).for_each(|image| virtual_size(version, image));
    }
    if version.before(42) {
        let mut total = 0;
        if let Some(Value::Array(caches)) = object.get_mut("BuildCache") {
            for cache in caches {
                total += cache.get("Size").and_then(Value::as_i64).unwrap_or_default();
                remove(cache, " Parents");
            }
        }
        object.insert("BuilderSize".into(), json!(total));
    }
}

/// Lifts a create request of an older version, and refuses what that version did not know but must not be
/// ignored. `cgroup_v2` is about the host, whose default differs.
///
/// # Errors
/// Docker's texts, class invalid argument.
pub fn lift_create(
    version: Version,
    cgroup_v2: bool,
    request: &mut ContainerCreateRequest,
) -> Result<(), Error> {
    if version.before(44) {
        if let Some(check) = &mut request.config.healthcheck {
            check.start_interval = 0;
        }
        let endpoints =
            request.networking_config.as_ref().and_then(|config| config.endpoints_config.as_ref());
        if endpoints.is_some_and(|endpoints| endpoints.len() > 1) {
            let names: Vec<_> = endpoints.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            return Err(Error::invalid(format!(
                "Container cannot be created with multiple network endpoints: {}",
                names.join(", ")
            )));
        }
    }
    let Some(host_config) = &mut request.host_config else { return Ok(()) };
    lift_host_config(version, cgroup_v2, host_config);
    refuse_newer_mounts(version, host_config)?;
    if version.before(42) {
        reset_mismatched_options(host_config);
    } else {
        refuse_mismatched_options(host_config)?;
    }
    if version.before(48)
        && let Some(networking) = &mut request.networking_config
    {
        let endpoints = networking.endpoints_config.iter_mut().flat_map(|map| map.values_mut()).flatten();
        endpoints.for_each(|endpoint| endpoint.gw_priority = 0);
    }
    Ok(())
}

fn lift_host_config(version: Version, cgroup_v2: bool, host_config: &mut HostConfig) {
    if version.before(40) {
        for options in host_config.mounts.iter_mut().flatten().filter_map(|mount| mount.bind_options.as_mut())
        {
            options.non_recursive = false;
        }
        host_config.kernel_memory_tcp = 0;
        if host_config.ipc_mode.is_empty() {
            host_config.ipc_mode = "shareable".into();
        }
    }
    if version.before(41) && !cgroup_v2 && host_config.cgroupns_mode.is_empty() {
        host_config.cgroupns_mode = "host".into();
    }
    if version.before(42) {
        for options in host_config.mounts.iter_mut().flatten().filter_map(|mount| mount.bind_options.as_mut())
        {
            options.create_mountpoint = false;
        }
        host_config.console_size = [0, 0];
    } else {
        host_config.kernel_memory = 0;
    }
    if version.before(43) {
        host_config.annotations = None;
    }
    if version.before(44) {
        // Read-only mounts were not recursive then.
        for mount in host_config.mounts.iter_mut().flatten() {
            if mount.r#type == "bind" && mount.read_only {
                let options = mount.bind_options.get_or_insert_default();
                options.read_only_non_recursive = !options.read_only_force_recursive;
            }
        }
    }
}

fn refuse_newer_mounts(version: Version, host_config: &HostConfig) -> Result<(), Error> {
    for mount in host_config.mounts.iter().flatten() {
        let forced = mount.bind_options.as_ref().is_some_and(|options| options.read_only_force_recursive);
        if version.before(44) && forced {
            return Err(Error::invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"));
        }
        if version.before(45)
            && mount.volume_options.as_ref().is_some_and(|options| !options.subpath.is_empty())
        {
            return Err(Error::invalid("VolumeOptions.Subpath needs API v1.45 or newer"));
        }
        if version.before(48) && mount.r#type == "image" {
            return Err(Error::invalid("Mount type \"Image\" needs API v1.48 or newer"));
        }
    }
    Ok(())
}

fn reset_mismatched_options(host_config: &mut HostConfig) {
    for mount in host_config.mounts.iter_mut().flatten() {
        if mount.r#type != "bind" {
            mount.bind_options = None;
        }
        if mount.r#type != "volume" {
            mount.volume_options = None;
        }
        if mount.r#type != "tmpfs" {
            mount.tmpfs_options = None;
        }
    }
}

fn refuse_mismatched_options(host_config: &HostConfig) -> Result<(), Error> {
    for mount in host_config.mounts.iter().flatten() {
        for (given, kind, name) in [
            (mount.volume_options.is_some(), "volume", "VolumeOptions"),
            (mount.bind_options.is_some(), "bind", "BindOptions"),
            (mount.tmpfs_options.is_some(), "tmpfs", "TmpfsOptions"),
        ] {
            if given && mount.r#type != kind {
                let text = format!("{name} must not be specified on mount type {:?}", mount.r#type);
                return Err(Error::invalid(text));
            }
        }
    }
    Ok(())
}

/// Lifts an update request of an older version.
pub fn lift_update(version: Version, request: &mut ContainerUpdateRequest) {
    if version.before(40) {
        request.pids_limit = None;
        request.kernel_memory_tcp = 0;
    }
    if !version.before(42) {
        request.kernel_memory = 0;
    }
}

/// Before 1.42, pruning volumes took named ones too.
pub fn lift_volume_prune(version: Version, filters: &mut crate::filters::Filters) {
    if version.before(42) {
        filters.add("all", "true");
    }
}

/// The content type of attach, exec and log streams.
pub fn stream_content_type(version: Version, terminal: bool) -> &'static str {
    if terminal || version.before(42) { crate::stream::RAW } else { crate::stream::MULTIPLEXED }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> Value {
        let path = format!("{}/tests/data/samples/{name}.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn taken_down(name: &str, reply: Reply) -> Value {
        let mut value = sample(&format!("v1.51-{name}"));
        down(reply, Version::new(1, 41), &mut value);
        value
    }

    /// The same value without members that a clock or a counter moved between two records.
    fn still(mut value: Value, moved: &[&str]) -> Value {
        match &mut value {
            Value::Array(items) => {
                items.iter_mut().for_each(|item| *item = still(item.take(), moved));
                items.sort_by_key(Value::to_string);
            }
            Value::Object(object) => {
                object.retain(|name, _| !moved.contains(&name.as_str()));
                object.values_mut().for_each(|member| *member = still(member.take(), moved));
            }
            _ => {}
        }
        value
    }

    #[test]
    fn replies_at_1_41_are_those_recorded() {
        for (name, reply, moved) in [
            ("container-inspect", Reply::ContainerInspect, &["Log", "ExecIDs"][..]),
            ("container-inspect-created", Reply::ContainerInspect, &[]),
            ("container-inspect-exited", Reply::ContainerInspect, &[]),
            ("containers-json", Reply::ContainerList, &["Status"]),
            ("containers-json-size", Reply::ContainerList, &["Status"]),
            ("image-inspect", Reply::ImageInspect, &[]),
            ("images-json", Reply::ImageList, &[]),
            ("info", Reply::SystemInfo, &["NFd", "NGoroutines", "SystemTime"]),
            ("system-df", Reply::DiskUsage, &["Status", "UsageData"]),
        ] {
            let expected = still(sample(&format!("v1.41-{name}")), moved);
            let got = still(taken_down(name, reply), moved);
            assert!(got == expected, "{name}: {}", difference(&got, &expected));
        }
    }

    /// Where two values part.
    fn difference(got: &Value, expected: &Value) -> String {
        let lines = |value: &Value| serde_json::to_string_pretty(value).unwrap();
        let (got, expected) = (lines(got), lines(expected));
        let at = got.lines().zip(expected.lines()).position(|(a, b)| a != b).unwrap_or_default();
        let around =
            |text: &str| text.lines().skip(at.saturating_sub(5)).take(9).collect::<Vec<_>>().join("\n");
        format!("got\n{}\nexpected\n{}", around(&got), around(&expected))
    }

    #[test]
    fn the_newest_version_is_left_alone() {
        let mut value = sample("v1.51-image-inspect");
        down(Reply::ImageInspect, Version::MAX, &mut value);
        assert_eq!(value, sample("v1.51-image-inspect"));
        assert!(!needs_down(Version::MAX));
    }

    fn lifted(version: Version, body: Value) -> Result<ContainerCreateRequest, String> {
        let mut request: ContainerCreateRequest = serde_json::from_value(body).unwrap();
        lift_create(version, false, &mut request).map_err(|error| error.to_string())?;
        Ok(request)
    }

    #[test]
    fn old_creates_are_lifted() {
        let body = json!({"HostConfig": {"Annotations": {"a": "b"}, "ConsoleSize": [1, 2],
            "Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true, "TmpfsOptions": {}}]}});
        let host_config = lifted(Version::new(1, 39), body.clone()).unwrap().host_config.unwrap();
        assert_eq!(host_config.ipc_mode, "shareable");
        assert_eq!(host_config.cgroupns_mode, "host");
        assert_eq!((host_config.annotations, host_config.console_size), (None, [0, 0]));
        let mount = &host_config.mounts.unwrap()[0];
        assert!(mount.tmpfs_options.is_none());
        assert!(mount.bind_options.as_ref().unwrap().read_only_non_recursive);
        assert_eq!(
            lifted(Version::MAX, body).unwrap_err(),
            "TmpfsOptions must not be specified on mount type \"bind\""
        );
    }

    #[test]
    fn what_an_old_version_cannot_mean_is_refused() {
        let mount = |mount: Value| json!({"HostConfig": {"Mounts": [mount]}});
        let old = Version::new(1, 43);
        let forced = mount(json!({"Type": "bind", "BindOptions": {"ReadOnlyForceRecursive": true}}));
        assert_eq!(
            lifted(old, forced).unwrap_err(),
            "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"
        );
        let subpath = mount(json!({"Type": "volume", "VolumeOptions": {"Subpath": "s"}}));
        assert_eq!(lifted(old, subpath).unwrap_err(), "VolumeOptions.Subpath needs API v1.45 or newer");
        let networks =
            json!({"HostConfig": {}, "NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": null}}});
        assert!(lifted(old, networks.clone()).is_err());
        assert!(lifted(Version::MAX, networks).is_ok());
    }
}
