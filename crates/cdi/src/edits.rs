//! What devices change in a runtime spec.

use crate::spec::{ContainerEdits, DeviceNode, Hook, HookName, Mount};
use rustix::fs::{CWD, FileType};
use yare_errdefs::{Error, Result};
use yare_oci::runtime::{self, Device, DeviceRule, Hooks, Spec};

/// Applies edits in their order.
///
/// # Errors
/// A node is not on this host, or something is asked for that cannot be given here.
pub(crate) fn apply(all: &[&ContainerEdits], spec: &mut Spec) -> Result<()> {
    for edits in all {
        refuse(edits)?;
        environment(&edits.env, spec);
        for node in &edits.device_nodes {
            device(node, spec)?;
        }
        edits.mounts.iter().for_each(|edit| mount(edit, spec));
        edits.hooks.iter().for_each(|edit| hook(edit, spec));
        groups(&edits.additional_gids, spec);
    }
    if all.iter().any(|edits| !edits.mounts.is_empty()) {
        // What lies deeper is mounted later.
        spec.mounts.sort_by_key(|mount| mount.destination.split('/').filter(|part| !part.is_empty()).count());
    }
    Ok(())
}

/// What is known and not built is no silent gap.
fn refuse(edits: &ContainerEdits) -> Result<()> {
    if edits.intel_rdt.is_some() {
        return Err(Error::unimplemented("intelRdt of a CDI spec is not built into this Yare yet"));
    }
    match edits.net_devices.first() {
        Some(device) => Err(Error::unimplemented(format!(
            "netDevices of a CDI spec (here {}) are not built into this Yare yet",
            device.host_interface_name
        ))),
        None => Ok(()),
    }
}

/// A variable that is there is replaced at its place.
fn environment(env: &[String], spec: &mut Spec) {
    let Some(process) = &mut spec.process else { return };
    for entry in env {
        let name = entry.split('=').next();
        match process.env.iter_mut().find(|have| have.split('=').next() == name) {
            Some(have) => have.clone_from(entry),
            None => process.env.push(entry.clone()),
        }
    }
}

fn device(node: &DeviceNode, spec: &mut Spec) -> Result<()> {
    let (kind, (major, minor)) = numbers(node)?;
    let user = spec.process.as_ref().map(|process| &process.user);
    let own = |id: Option<u32>| id.filter(|id| *id > 0);
    let made = Device {
        path: node.path.clone(),
        kind: kind.clone(),
        major,
        minor,
        file_mode: node.file_mode,
        uid: node.uid.or_else(|| own(user.map(|user| user.uid))),
        gid: node.gid.or_else(|| own(user.map(|user| user.gid))),
    };
    let linux = spec.linux.get_or_insert_default();
    linux.devices.retain(|other| other.path != made.path);
    linux.devices.push(made);
    if matches!(kind.as_str(), "b" | "c" | "u") {
        let access = match node.permissions.as_str() {
            "" => "rwm",
            "none" => return Ok(()),
            given => given,
        };
        let rules = &mut linux.resources.get_or_insert_default().devices;
        rules.push(DeviceRule {
            allow: true,
            kind: if kind == "b" { "b" } else { "c" }.to_owned(),
            major: Some(major),
            minor: Some(minor),
            access: access.to_owned(),
        });
    }
    Ok(())
}

/// Kind and numbers of a node: the file's, and where it does not say, the host's.
fn numbers(node: &DeviceNode) -> Result<(String, (i64, i64))> {
    if node.kind == "p" || (!node.kind.is_empty() && node.major != 0) {
        return Ok((node.kind.clone(), (node.major, node.minor)));
    }
    let path = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let unknown = || format!("failed to stat CDI host device {path:?}");
    let stat = rustix::fs::statat(CWD, path.as_str(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| Error::not_found(unknown()).caused_by(std::io::Error::from(error)))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => "b",
        FileType::CharacterDevice => "c",
        FileType::Fifo => "p",
        _ => return Err(Error::invalid(unknown()).caused_by("not a device node")),
    };
    let same = node.kind.is_empty() || node.kind == kind || (node.kind == "u" && kind == "c");
    if !same {
        let (path, host, wanted) = (&node.path, path, &node.kind);
        let text = format!("CDI device ({path:?}, {host:?}), host type mismatch ({wanted}, {kind})");
        return Err(Error::invalid(text));
    }
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok((kind.to_owned(), (i64::from(major), i64::from(minor))))
}

/// A mount that is there at the same place goes. Without a type it is a bind mount.
fn mount(edit: &Mount, spec: &mut Spec) {
    let mut options = edit.options.clone();
    let is_bind = |option: &String| option == "bind" || option == "rbind";
    let binds = edit.kind == "bind" || edit.kind.is_empty() || edit.kind == "none";
    if binds && !options.iter().any(is_bind) {
        options.insert(0, "rbind".to_owned());
    }
    spec.mounts.retain(|other| other.destination != edit.container_path);
    spec.mounts.push(runtime::Mount {
        destination: edit.container_path.clone(),
        kind: if binds { "bind".to_owned() } else { edit.kind.clone() },
        source: edit.host_path.clone(),
        options,
        ..runtime::Mount::default()
    });
}

fn hook(edit: &Hook, spec: &mut Spec) {
    let hooks: &mut Hooks = spec.hooks.get_or_insert_default();
    let list = match edit.hook_name {
        HookName::Prestart => &mut hooks.prestart,
        HookName::CreateRuntime => &mut hooks.create_runtime,
        HookName::CreateContainer => &mut hooks.create_container,
        HookName::StartContainer => &mut hooks.start_container,
        HookName::Poststart => &mut hooks.poststart,
        HookName::Poststop => &mut hooks.poststop,
        // No file with such a one is accepted.
        HookName::Unknown(_) | HookName::Missing => return,
    };
    list.push(runtime::Hook {
        path: edit.path.clone(),
        args: edit.args.clone(),
        env: edit.env.clone(),
        timeout: edit.timeout.map(u64::from),
    });
}

fn groups(gids: &[u32], spec: &mut Spec) {
    let Some(process) = &mut spec.process else { return };
    for gid in gids.iter().filter(|gid| **gid != 0) {
        if !process.user.additional_gids.contains(gid) {
            process.user.additional_gids.push(*gid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;
    use yare_oci::runtime::{Process, User};

    fn edits(text: &str) -> ContainerEdits {
        yaml::read(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn edited(text: &str) -> Result<Spec> {
        let user = User { uid: 1000, gid: 50, additional_gids: vec![50], ..User::default() };
        let env = vec!["PATH=/bin".to_owned(), "A=old".to_owned()];
        let process = Some(Process { user, env, ..Process::default() });
        let there = |path: &str| runtime::Mount { destination: path.to_owned(), ..runtime::Mount::default() };
        let mounts = vec![there("/proc"), there("/data/deep/x"), there("/data")];
        let mut spec = Spec { process, mounts, ..Spec::default() };
        apply(&[&edits(text)], &mut spec)?;
        Ok(spec)
    }

    #[test]
    fn variables_and_groups() {
        let process = edited("{env: [A=new, B=1], additionalGids: [0, 7, 50, 7]}").unwrap().process.unwrap();
        assert_eq!(process.env, ["PATH=/bin", "A=new", "B=1"]);
        assert_eq!(process.user.additional_gids, [50, 7]);
    }

    #[test]
    fn a_node_is_as_the_hosts() {
        let spec =
            edited("{deviceNodes: [{path: /dev/mine, hostPath: /dev/null, permissions: rw}]}").unwrap();
        let linux = spec.linux.unwrap();
        let device = &linux.devices[0];
        assert_eq!((device.path.as_str(), device.kind.as_str()), ("/dev/mine", "c"));
        assert_eq!((device.major, device.minor, device.uid, device.gid), (1, 3, Some(1000), Some(50)));
        let rule = &linux.resources.unwrap().devices[0];
        assert_eq!((rule.allow, rule.access.as_str(), rule.minor), (true, "rw", Some(3)));
    }

    #[test]
    fn a_node_may_be_described_in_full() {
        let text = "{deviceNodes: [{path: /dev/a, type: b, major: 7, minor: 9, uid: 0, fileMode: 384, permissions: none}, {path: /dev/p, type: p}]}";
        let linux = edited(text).unwrap().linux.unwrap();
        assert_eq!(linux.resources, None, "no access was asked for");
        let first = &linux.devices[0];
        assert_eq!(
            (first.kind.as_str(), first.major, first.uid, first.file_mode),
            ("b", 7, Some(0), Some(0o600))
        );
        assert_eq!(linux.devices[1].kind, "p");
    }

    #[test]
    fn a_node_that_is_not_there_is_told() {
        let error = edited("{deviceNodes: [{path: /dev/no-such-node}]}").unwrap_err();
        assert_eq!(error.to_string(), "failed to stat CDI host device \"/dev/no-such-node\"");
        assert!(edited("{deviceNodes: [{path: /etc}]}").is_err());
        let error = edited("{deviceNodes: [{path: /dev/x, hostPath: /dev/null, type: b}]}").unwrap_err();
        assert!(error.to_string().contains("host type mismatch (b, c)"), "{error}");
    }

    #[test]
    fn mounts_take_their_place() {
        let spec = edited("{mounts: [{hostPath: /a, containerPath: /data, options: [ro]}, {hostPath: tmpfs, containerPath: /t, type: tmpfs}]}").unwrap();
        let seen: Vec<_> =
            spec.mounts.iter().map(|mount| (mount.destination.as_str(), mount.kind.as_str())).collect();
        assert_eq!(seen, [("/proc", ""), ("/data", "bind"), ("/t", "tmpfs"), ("/data/deep/x", "")]);
        assert_eq!(spec.mounts[1].options, ["rbind", "ro"]);
    }

    #[test]
    fn hooks_go_where_they_belong() {
        let text = "{hooks: [{hookName: createContainer, path: /h, args: [h, x], env: [A=1], timeout: 3}, {hookName: poststop, path: /p}]}";
        let hooks = edited(text).unwrap().hooks.unwrap();
        let hook = &hooks.create_container[0];
        assert_eq!((hook.path.as_str(), hook.args.len(), hook.timeout), ("/h", 2, Some(3)));
        assert_eq!(hooks.poststop[0].path, "/p");
    }

    #[test]
    fn what_is_not_built_is_refused() {
        assert!(edited("{intelRdt: {closID: a}}").unwrap_err().to_string().contains("intelRdt"));
        let text = "{netDevices: [{hostInterfaceName: eth7, name: net0}]}";
        assert!(edited(text).unwrap_err().to_string().contains("eth7"));
    }
}
