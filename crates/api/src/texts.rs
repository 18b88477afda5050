//! Texts that Docker's clients match or users know by heart, exactly as dockerd 28.5 writes them.

use crate::version::Version;

/// The path names no container.
pub fn no_such_container(name: &str) -> String {
    format!("No such container: {name}")
}

/// The name or reference names no image. `reference` is in familiar form, with its tag.
pub fn no_such_image(reference: &str) -> String {
    format!("No such image: {reference}")
}

/// The path names no exec.
pub fn no_such_exec(id: &str) -> String {
    format!("No such exec instance: {id}")
}

/// The path names no network.
pub fn no_such_network(name: &str) -> String {
    format!("network {name} not found")
}

/// The path names no volume.
pub fn no_such_volume(name: &str) -> String {
    format!("get {name}: no such volume")
}

/// The path of an archive request names nothing in the container.
pub fn no_such_file(path: &str, container: &str) -> String {
    format!("Could not find the file {path} in container {container}")
}

/// An archive request without a path. The missing space is dockerd's.
pub const NO_PATH: &str = "bad parameter: pathcannot be empty";

/// What an archive would be extracted into is a file.
pub const NO_EXTRACTION_POINT: &str = "extraction point is not a directory";

/// An archive would be extracted into the root of a container that may not write to it.
pub const READ_ONLY_ROOT: &str = "container rootfs is marked read-only";

/// An archive would be extracted into what is mounted for reading only.
pub const READ_ONLY_VOLUME: &str = "mounted volume is marked read-only";

/// An id prefix fits several objects.
pub fn ambiguous_id(prefix: &str) -> String {
    format!("multiple IDs found with provided prefix: {prefix}")
}

/// A container name is taken. `name` with or without its leading slash, `holder` is an id.
pub fn name_in_use(name: &str, holder: &str) -> String {
    format!(
        "Conflict. The container name \"/{}\" is already in use by container \"{holder}\". You have to remove \
         (or rename) that container to be able to reuse that name.",
        name.trim_start_matches('/')
    )
}

/// The new name of a rename is taken.
pub fn rename_in_use(name: &str, holder: &str) -> String {
    format!("Error when allocating new name: {}", name_in_use(name, holder))
}

/// A rename lacks a name.
pub const RENAME_EMPTY: &str = "Neither old nor new names may be empty";

/// A rename to the same name.
pub const RENAME_SAME: &str = "Renaming a container with the same name as its current name";

/// A container name with other characters.
pub fn invalid_container_name(name: &str) -> String {
    format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
}

/// A volume name with other characters.
pub fn invalid_volume_name(name: &str) -> String {
    format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )
}

/// The container must run for this. `id` is the full id.
pub fn not_running(id: &str) -> String {
    format!("container {id} is not running")
}

/// The container must run to be signalled; `id` is the full id.
pub fn kill_not_running(name: &str, id: &str) -> String {
    format!("cannot kill container: {name}: container {id} is not running")
}

/// No signal has that name.
pub fn invalid_signal(name: &str, signal: &str) -> String {
    format!("cannot kill container: {name}: invalid signal: {signal}")
}

/// The container must not be paused for this.
pub fn is_paused(id: &str) -> String {
    format!("Container {id} is paused, unpause the container before exec")
}

/// Pausing what is paused.
pub fn already_paused(id: &str) -> String {
    format!("Container {id} is already paused")
}

/// Unpausing what is not paused.
pub fn not_paused(id: &str) -> String {
    format!("Container {id} is not paused")
}

/// Starting what is paused.
pub const START_PAUSED: &str = "cannot start a paused container, try unpause instead";

/// Starting what is being removed.
pub const START_REMOVING: &str = "container is marked for removal and cannot be started";

/// Removing a running container without force.
pub fn remove_running(name: &str) -> String {
    format!(
        "cannot remove container \"{name}\": container is running: stop the container before removing or force \
         remove"
    )
}

/// Removing a paused container without force.
pub fn remove_paused(name: &str) -> String {
    format!(
        "cannot remove container \"{name}\": container is paused and must be unpaused first: stop the container \
         before removing or force remove"
    )
}

/// A second removal while one is going on.
pub fn removal_in_progress(name: &str) -> String {
    format!("removal of container {name} is already in progress")
}

/// An exec is started twice.
pub fn exec_already_run(id: &str) -> String {
    format!("exec command {id} has already run")
}

/// An exec without a command.
pub const EXEC_NO_COMMAND: &str = "no exec command specified";

/// A container without a command.
pub const NO_COMMAND: &str = "no command specified";

/// Logs of no stream.
pub const LOGS_NO_STREAM: &str = "Bad parameters: you must choose at least one stream";

/// A wait for something unknown.
pub fn invalid_condition(condition: &str) -> String {
    format!("invalid condition: {condition:?}")
}

/// A filter nobody knows.
pub fn invalid_filter(name: &str) -> String {
    format!("invalid filter '{name}'")
}

/// A volume is removed while containers have it; full ids.
pub fn volume_in_use(name: &str, holders: &[String]) -> String {
    format!("remove {name}: volume is in use - [{}]", holders.join(", "))
}

/// A network that always is cannot be removed.
pub fn network_predefined(name: &str) -> String {
    format!("{name} is a pre-defined network and cannot be removed")
}

/// A network is removed while containers are in it: pairs of container name and endpoint id.
pub fn network_in_use(name: &str, endpoints: &[(String, String)]) -> String {
    let list: Vec<_> = endpoints
        .iter()
        .map(|(container, endpoint)| format!("name:{container:?} id:{:?}", crate::names::short_id(endpoint)))
        .collect();
    format!("error while removing network: network {name} has active endpoints ({})", list.join(", "))
}

/// A network is made twice.
pub fn network_exists(name: &str) -> String {
    format!("network with name {name} already exists")
}

/// A container made elsewhere is put into the host network.
pub const CONNECT_HOST: &str =
    "cannot connect container to host network - container must be created in host network mode";

/// An image's last reference is removed while a container has the image.
pub fn image_in_use(reference: &str, container: &str, image: &str) -> String {
    format!(
        "conflict: unable to remove repository reference {reference:?} (must force) - container {} is using its \
         referenced image {}",
        crate::names::short_id(container),
        crate::names::short_id(image)
    )
}

/// An archive request without a path.
pub const ARCHIVE_NO_PATH: &str = "bad parameter: pathcannot be empty";

/// A route nobody knows, or the wrong method on a known one.
pub const PAGE_NOT_FOUND: &str = "page not found";

/// A request that only a swarm manager could answer.
pub const NOT_A_SWARM_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker \
     swarm join\" to connect this node to swarm and try again.";

/// The client speaks a version above [`Version::MAX`].
pub fn client_too_new(version: Version) -> String {
    format!("client version {version} is too new. Maximum supported API version is {}", Version::MAX)
}

/// The client speaks a version below [`Version::MIN`].
pub fn client_too_old(version: Version) -> String {
    format!(
        "client version {version} is too old. Minimum supported API version is {}, please upgrade your client to \
         a newer version",
        Version::MIN
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &str = "b8a4ff84ef4bff97cace9fcaf258ae1fe7a23e4d3407c1e9343259fc31696ebf";

    /// The text of a recorded failure.
    fn recorded(name: &str) -> String {
        let path = format!("{}/tests/data/samples/v1.51-{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        serde_json::from_str::<crate::ErrorResponse>(&text).unwrap().message
    }

    #[test]
    fn container_texts_are_those_recorded() {
        let min = "ce31be2988e2567c7de3f87b193f2823dc4a1e84de157237cf826c3e7b1abe61";
        let created = "d6f7255ca3745eb66a7b170dccab26746d02b4acfce0e4461d8b4676d1a28a66";
        let exec = "5910d58782058c438f3cd21bccb83700a846c1f31596b45f3fafe6ed5d5a4108";
        for (name, text) in [
            ("err-404-container", no_such_container("nosuch")),
            ("exec-nosuch", no_such_exec("nosuch")),
            ("err-conflict-name", name_in_use("smp", CONTAINER)),
            ("err-conflict-name", name_in_use("/smp", CONTAINER)),
            ("rename-bad", rename_in_use("smp-min", min)),
            ("rename-empty", RENAME_EMPTY.to_owned()),
            ("err-bad-name", invalid_container_name("@bad")),
            ("err-resize-stopped", not_running(created)),
            ("exec-on-stopped", not_running(created)),
            ("err-kill-badsig", invalid_signal("smp", "FOO")),
            ("err-unpause-notpaused", not_paused(CONTAINER)),
            ("err-rm-running", remove_running("smp")),
            ("exec-start-again", exec_already_run(exec)),
            ("err-logs-noparam", LOGS_NO_STREAM.to_owned()),
            ("wait-badcond", invalid_condition("bad")),
            ("err-bad-filter", invalid_filter("nope")),
            ("archive-nopath", ARCHIVE_NO_PATH.to_owned()),
        ] {
            assert_eq!(text, recorded(name), "{name}");
        }
    }

    #[test]
    fn other_texts_are_those_recorded() {
        let image = "sha256:24f2d04b02d44407e544427a3e0486ff0940e8f743337f0b940385c6576dfeb5";
        let endpoint = "9af40847e441b2554b9a7b1dfcd3b8c096e0f62cfe5519c07174ca9060289ae6";
        for (name, text) in [
            ("err-vol-inuse", volume_in_use("smp-vol", &[CONTAINER.to_owned()])),
            ("volume-create-bad", invalid_volume_name("b@d/")),
            ("err-net-predefined", network_predefined("bridge")),
            ("err-net-inuse", network_in_use("smp-net", &[("smp".to_owned(), endpoint.to_owned())])),
            ("network-create-dup", network_exists("smp-net")),
            ("connect-host", CONNECT_HOST.to_owned()),
            ("err-rmi-inuse", image_in_use("busybox", CONTAINER, image)),
            ("err-404-route", PAGE_NOT_FOUND.to_owned()),
            ("err-405", PAGE_NOT_FOUND.to_owned()),
            ("nodes-inactive", NOT_A_SWARM_MANAGER.to_owned()),
        ] {
            assert_eq!(text, recorded(name), "{name}");
        }
    }

    #[test]
    fn texts_without_a_record() {
        assert_eq!(no_such_image("x:latest"), "No such image: x:latest");
        assert_eq!(no_such_network("n"), "network n not found");
        assert_eq!(no_such_volume("v"), "get v: no such volume");
        assert_eq!(no_such_file("/x", "c"), "Could not find the file /x in container c");
        assert_eq!(ambiguous_id("a"), "multiple IDs found with provided prefix: a");
        assert_eq!(kill_not_running("c", "1"), "cannot kill container: c: container 1 is not running");
        assert_eq!(removal_in_progress("c"), "removal of container c is already in progress");
        assert_eq!(already_paused("c"), "Container c is already paused");
        assert_eq!(is_paused("c"), "Container c is paused, unpause the container before exec");
        assert!(remove_paused("c").starts_with("cannot remove container \"c\": container is paused"));
    }
}
