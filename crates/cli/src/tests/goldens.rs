//! Output, against the goldens of docker's own tests.

use std::collections::BTreeMap;

use serde_json::json;

use super::server::{Reply, Server};
use super::streams::{Ran, run};

macro_rules! golden {
    ($path:literal) => {
        include_str!(concat!("../../tests/data/goldens/", $path, ".golden"))
    };
}

/// Runs a command line against an engine that always answers this.
fn against(answer: &serde_json::Value, line: &str, input: &str) -> Ran {
    let text = answer.to_string();
    let server = Server::start(move |_| Reply::Json(200, text.clone()));
    run(&server, line, Some(input.as_bytes()))
}

fn container(name: &str, ports: &serde_json::Value) -> serde_json::Value {
    let minute_ago = jiff::Timestamp::now().as_second() - 60;
    json!({ "Id": "container_id", "Names": [name], "Image": "busybox:latest", "ImageID": "", "Command": "top",
        "Created": minute_ago, "Status": "Up 1 minute", "Ports": ports })
}

fn containers() -> serde_json::Value {
    json!([
        container("/c1", &json!([])),
        container("/c2", &json!([])),
        container(
            "/c3",
            &json!([
                { "PrivatePort": 80, "Type": "tcp" },
                { "PrivatePort": 81, "Type": "tcp" },
                { "PrivatePort": 82, "Type": "tcp" }
            ])
        ),
        container("/c4", &json!([{ "PrivatePort": 81, "Type": "udp" }])),
        container("/c5", &json!([{ "IP": "8.8.8.8", "PrivatePort": 82, "PublicPort": 82, "Type": "tcp" }])),
    ])
}

#[test]
fn ps() {
    let listed = containers();
    assert_eq!(
        against(&listed, "ps", "").output,
        golden!("container/testdata/container-list-without-format")
    );
    let two = json!([listed[0], container("/c2", &json!([]))]);
    assert_eq!(against(&two, "ps -q", "").output, golden!("container/testdata/container-list-quiet"));
    let mut named = two.clone();
    named[1]["Names"] = json!(["/c2", "/foo/bar"]);
    assert_eq!(
        against(&named, "ps --no-trunc", "").output,
        golden!("container/testdata/container-list-without-format-no-trunc")
    );
    let mut labelled = two.clone();
    labelled[0]["Labels"] = json!({ "some.label": "value" });
    labelled[1]["Labels"] = json!({ "foo": "bar" });
    assert_eq!(
        against(&labelled, "ps --format '{{ .Names }} {{ .Image }} {{ .Labels }}'", "").output,
        golden!("container/testdata/container-list-with-format")
    );
    assert_eq!(
        against(&labelled, "ps --format '{{ .Names }} {{ .Label \"some.label\" }}'", "").output,
        golden!("container/testdata/container-list-format-with-arg")
    );
    assert_eq!(
        against(&two, "ps --format '{{ .Names }} {{ .Names }}'", "").output,
        golden!("container/testdata/container-list-format-name-name")
    );
}

#[test]
fn port() {
    let binding = |ip: &str, port: &str| json!({ "HostIp": ip, "HostPort": port });
    let both = |port: &str| json!([binding("::", port), binding("0.0.0.0", port)]);
    let ports = json!({ "NetworkSettings": { "Ports": {
        "80/tcp": both("3456"), "443/tcp": both("4567"), "443/udp": both("5678")
    } } });
    assert_eq!(against(&ports, "port x", "").output, golden!("container/testdata/container-port-all-ports"));
    for (ips, wanted, expected) in [
        (vec!["0.0.0.0"], "80", golden!("container/testdata/container-port-ipv4")),
        (vec!["::"], "80", golden!("container/testdata/container-port-ipv6")),
    ] {
        let list: Vec<_> = ips.iter().map(|ip| binding(ip, "3456")).collect();
        let answer = json!({ "NetworkSettings": { "Ports": { "80/tcp": list } } });
        assert_eq!(against(&answer, &format!("port x {wanted}"), "").output, expected);
    }
}

#[test]
fn create_prints_the_warnings_of_the_engine() {
    let answer = |warnings: serde_json::Value| json!({ "Id": "id", "Warnings": warnings });
    assert_eq!(
        against(&answer(json!(["warning from daemon"])), "create img", "").errors,
        golden!("container/testdata/container-create-daemon-single-warning")
    );
    assert_eq!(
        against(&answer(json!(["warning from daemon", "another warning from daemon"])), "create img", "")
            .errors,
        golden!("container/testdata/container-create-daemon-multiple-warnings")
    );
    assert_eq!(
        against(&answer(json!(null)), "create --dns 127.0.0.11 img", "").errors,
        golden!("container/testdata/container-create-localhost-dns")
    );
    assert_eq!(
        against(&answer(json!(null)), "create --dns ::1 img", "").errors,
        golden!("container/testdata/container-create-localhost-dns-ipv6")
    );
}

#[test]
fn images() {
    assert_eq!(
        against(&json!([]), "images", "").output,
        golden!("image/testdata/list-command-success.simple")
    );
    assert_eq!(
        against(&json!([]), "image ls ls", "").errors,
        golden!("image/testdata/list-command-ambiguous")
    );
    let now = jiff::Timestamp::now().as_second();
    let history = json!([{ "Id": "1234567890123456789", "Created": now, "Comment": "none" }]);
    assert_eq!(
        against(&history, "history x", "").output,
        golden!("image/testdata/history-command-success.simple")
    );
    let history = json!([{ "Id": "1234567890123456789", "Created": now }]);
    assert_eq!(
        against(&history, "history --quiet --no-trunc x", "").output,
        golden!("image/testdata/history-command-success.quiet-no-trunc")
    );
    let date = "2017-01-01T12:00:03Z".parse::<jiff::Timestamp>().unwrap().as_second();
    let history =
        json!([{ "Id": "abcdef", "Created": date, "CreatedBy": "rose", "Comment": "new history item!" }]);
    let printed = against(&history, "history --human=false x", "").output;
    // The golden is of a machine in UTC.
    if jiff::tz::TimeZone::system().to_offset(jiff::Timestamp::now()).seconds() == 0 {
        assert_eq!(printed, golden!("image/testdata/history-command-success.non-human"));
    }
}

#[test]
fn prunes() {
    let reply = json!({ "ImagesDeleted": [{ "Deleted": "image1" }], "SpaceReclaimed": 1 });
    assert_eq!(
        against(&reply, "image prune --force", "").output,
        golden!("image/testdata/prune-command-success.force-deleted")
    );
    let reply = json!({ "ImagesDeleted": [{ "Untagged": "image1" }], "SpaceReclaimed": 2 });
    assert_eq!(
        against(&reply, "image prune --force", "").output,
        golden!("image/testdata/prune-command-success.force-untagged")
    );
    assert_eq!(
        against(&json!({}), "image prune --all", "y\n").output,
        golden!("image/testdata/prune-command-success.all")
    );
    let reply = json!({ "VolumesDeleted": ["foo", "bar", "baz"], "SpaceReclaimed": 2000 });
    assert_eq!(
        against(&reply, "volume prune -f", "").output,
        golden!("volume/testdata/volume-prune.deletedVolumes")
    );
    assert_eq!(against(&reply, "volume prune", "y\n").output, golden!("volume/testdata/volume-prune-yes"));
    let refused = against(&reply, "volume prune", "n\n");
    assert_eq!((refused.code, refused.output.as_str()), (0, golden!("volume/testdata/volume-prune-no")));
    assert_eq!(
        against(&json!({}), "volume prune -a", "y\n").output,
        golden!("volume/testdata/volume-prune-success.all")
    );
}

#[test]
fn volumes_and_networks() {
    let volume = |name: &str, driver: &str| json!({ "Name": name, "Driver": driver });
    let listed =
        json!({ "Volumes": [volume("baz", "local"), volume("foo", "bar"), volume("volume", "local")] });
    assert_eq!(
        against(&listed, "volume ls", "").output,
        golden!("volume/testdata/volume-list-without-format")
    );
    let mut labelled = listed.clone();
    labelled["Volumes"][0]["Labels"] = json!({ "foo": "bar" });
    assert_eq!(
        against(&labelled, "volume ls --format '{{ .Name }} {{ .Driver }} {{ .Labels }}'", "").output,
        golden!("volume/testdata/volume-list-with-format")
    );
    let unsorted = ["volume-2-foo", "volume-10-foo", "volume-1-foo"].map(|name| volume(name, "l"));
    let sorted = json!({ "Volumes": unsorted });
    assert_eq!(
        against(&sorted, "volume ls --format '{{ .Name }}'", "").output,
        golden!("volume/testdata/volume-list-sort")
    );
    let network = json!([{ "Id": "123454321", "Name": "network_1", "Driver": "09.7.01", "Scope": "global" }]);
    assert_eq!(against(&network, "network ls", "").output, golden!("network/testdata/network-list"));
}

#[test]
fn inspect_volumes() {
    // The order of members is the engine's; this one sorts, as the golden does.
    let volume = json!({ "Name": "volume", "Driver": "local", "Labels": null, "Mountpoint": "/data/volume",
        "Options": null, "Scope": "local" });
    assert_eq!(
        against(&volume, "volume inspect foo", "").output,
        golden!("volume/testdata/volume-inspect-without-format.single-volume")
    );
    assert_eq!(
        against(&volume, "volume inspect foo -f '{{.Name}}'", "").output,
        golden!("volume/testdata/volume-inspect-with-format.simple-template")
    );
    let labelled = json!({ "Name": "volume", "Labels": { "foo": "bar" } });
    assert_eq!(
        against(&labelled, "volume inspect foo -f '{{json .Labels}}'", "").output,
        golden!("volume/testdata/volume-inspect-with-format.json-template")
    );
}

#[test]
fn events() {
    let actions = ["create", "start", "attach", "die"];
    let messages: String = actions
        .iter()
        .zip(1..)
        .map(|(action, second)| {
            let time = second * 1_000_000_000_i64;
            json!({ "status": action, "id": "abc123", "from": "ubuntu:latest", "Type": "container",
                "Action": action, "Actor": { "ID": "abc123", "Attributes": { "image": "ubuntu:latest" } },
                "scope": "local", "time": time, "timeNano": time })
            .to_string()
        })
        .collect();
    let server = Server::start(move |_| Reply::Json(200, messages.clone()));
    for (line, expected) in [
        ("events --format json", golden!("system/testdata/docker-events-json")),
        ("events --format '{{json .}}'", golden!("system/testdata/docker-events-json-template")),
        ("events --format '{{json .Action}}'", golden!("system/testdata/docker-events-json-action")),
    ] {
        assert_eq!(run(&server, line, Some(b"")).output, expected, "{line}");
    }
    if jiff::tz::TimeZone::system().to_offset(jiff::Timestamp::now()).seconds() == 0 {
        assert_eq!(
            run(&server, "events", Some(b"")).output,
            golden!("system/testdata/docker-events-default")
        );
    }
}

#[test]
fn disk_usage() {
    assert_eq!(
        against(&json!({}), "system df --format raw", "").output,
        golden!("formatter/testdata/disk-usage-raw-format")
    );
    assert_eq!(
        against(&json!({}), "system df --format 'table {{.Type}}\\t{{.Active}}'", "").output,
        golden!("formatter/testdata/disk-usage-context-write-custom")
    );
}

#[test]
fn info_and_version() {
    use crate::commands::{info, version};
    for (document, expected) in [
        (
            golden!("system/testdata/docker-info-no-swarm.json"),
            golden!("system/testdata/docker-info-no-swarm"),
        ),
        (golden!("system/testdata/docker-info-badsec.json"), golden!("system/testdata/docker-info-badsec")),
    ] {
        let info: yare_api::SystemInfo = serde_json::from_str(document).unwrap();
        let Ok(text) = info::server_text(&info) else { continue };
        let server = expected.split_once("Server:\n").unwrap().1;
        assert_eq!(text, server);
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Both {
        client: BTreeMap<String, String>,
        server: yare_api::SystemVersion,
    }
    let both: Both = serde_json::from_str(golden!("system/testdata/docker-client-version.json")).unwrap();
    let part = |name: &str| both.client[name].clone();
    let client = version::ClientVersion {
        version: part("Version"),
        api_version: part("ApiVersion"),
        default_api_version: part("DefaultAPIVersion"),
        git_commit: part("GitCommit"),
        go_version: part("GoVersion"),
        os: part("Os"),
        arch: part("Arch"),
        build_time: part("BuildTime"),
        context: part("Context"),
        platform: None,
    };
    assert_eq!(version::text(&client, Some(&both.server)), golden!("system/testdata/docker-client-version"));
}
