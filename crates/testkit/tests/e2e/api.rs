//! The Engine API by hand.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::case::cases;
use crate::client::{Client, filters};
use crate::http;

cases![
    Api:
        ping_names_the_version,
        unknown_routes_are_404_as_json,
        versions_outside_the_range_are_refused,
        every_version_answers,
        version_1_24_has_its_own_forms,
        version_1_41_has_its_own_forms,
        unbuilt_features_are_501.differs("they are built there"),
        swarm_is_inactive,
        bad_requests_are_400,
        create_takes_a_minimal_body,
        wait_answers_its_head_at_once,
        wait_knows_its_conditions,
        wait_for_removal,
        start_and_stop_twice_are_304,
        attach_upgrades_when_asked,
        attach_without_upgrade_is_200,
        attach_half_close_ends_input,
        attach_replays_the_log,
        attach_speaks_websocket,
        early_bytes_are_input.differs("dockerd drops what comes with the request"),
        frames_are_multiplexed,
        exec_runs_once,
        exec_code_is_there_at_the_end_of_the_stream,
        resize_of_a_stopped_container_is_409,
        events_send_their_head_at_once,
        filters_take_both_forms,
        names_with_slashes_are_routed,
        metrics_are_prometheus.differs("dockerd has them elsewhere"),
        many_requests_on_one_connection;
];

fn create(c: &Client, suffix: &str, body: &Value) -> String {
    let response = c.api("POST", &format!("/v1.51/containers/create?name={}{suffix}", c.n), Some(body));
    assert_eq!(response.status, 201, "{}", response.text());
    response.json()["Id"].as_str().unwrap().to_owned()
}

fn start(c: &Client, id: &str) {
    let response = c.api("POST", &format!("/v1.51/containers/{id}/start"), None);
    assert_eq!(response.status, 204, "{}", response.text());
}

fn wait(c: &Client, id: &str) -> i64 {
    c.api("POST", &format!("/v1.51/containers/{id}/wait"), None).json()["StatusCode"].as_i64().unwrap()
}

fn shell(script: &str) -> Value {
    json!({"Image": "busybox", "Cmd": ["sh", "-c", script]})
}

fn ping_names_the_version(c: &Client) {
    for method in ["GET", "HEAD"] {
        let response = c.api(method, "/_ping", None);
        assert_eq!(response.status, 200);
        assert_eq!(response.text(), if method == "GET" { "OK" } else { "" });
        assert_eq!(response.header("api-version"), Some("1.51"));
        assert_eq!(
            (response.header("ostype"), response.header("docker-experimental")),
            (Some("linux"), Some("false"))
        );
        assert_eq!(
            (response.header("builder-version").is_some(), response.header("swarm")),
            (true, Some("inactive"))
        );
        assert_eq!(response.header("cache-control"), Some("no-cache, no-store, must-revalidate"));
    }
    assert_eq!(c.api("GET", "/v1.30/_ping", None).text(), "OK");
}

fn unknown_routes_are_404_as_json(c: &Client) {
    for (method, path) in [
        ("GET", "/nosuchroute"),
        ("GET", "/v1.51/nosuchroute"),
        ("POST", "/v1.51/containers/json"),
        ("PUT", "/info"),
    ] {
        let response = c.api(method, path, None);
        assert_eq!(
            (response.status, response.message().as_str()),
            (404, "page not found"),
            "{method} {path}"
        );
        assert_eq!(response.header("content-type"), Some("application/json"));
    }
    let response = c.api("GET", "/v1.51/containers/nosuch/json", None);
    assert_eq!((response.status, response.message().as_str()), (404, "No such container: nosuch"));
    let response = c.api("GET", "/v1.51/images/nosuch/json", None);
    assert_eq!((response.status, response.message().as_str()), (404, "No such image: nosuch:latest"));
}

fn versions_outside_the_range_are_refused(c: &Client) {
    let response = c.api("GET", "/v1.99/info", None);
    assert_eq!(response.status, 400);
    assert_eq!(response.message(), "client version 1.99 is too new. Maximum supported API version is 1.51");
    let response = c.api("GET", "/v1.20/info", None);
    assert_eq!(response.status, 400);
    assert!(response.text().contains("client version 1.20 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"), "{}", response.text());
}

fn every_version_answers(c: &Client) {
    let id = create(c, "", &shell("exit 4"));
    start(c, &id);
    wait(c, &id);
    for minor in 24..=51 {
        let path = |rest: &str| format!("/v1.{minor}{rest}");
        for rest in [
            "/version",
            "/info",
            "/images/json",
            "/containers/json?all=1",
            "/volumes",
            "/networks",
            "/images/busybox/json",
            "/images/busybox/history",
        ] {
            let response = c.api("GET", &path(rest), None);
            assert_eq!(response.status, 200, "{}: {}", path(rest), response.text());
            response.json();
        }
        let container = c.api("GET", &path(&format!("/containers/{id}/json")), None).json();
        assert_eq!(container["State"]["ExitCode"], 4);
    }
}

fn version_1_24_has_its_own_forms(c: &Client) {
    let id = create(c, "", &shell("true"));
    let image = &c.api("GET", "/v1.24/images/busybox/json", None).json();
    assert!(image["VirtualSize"].is_number(), "{image}");
    let image = &c.api("GET", "/v1.51/images/busybox/json", None).json();
    assert!(image.get("VirtualSize").is_none(), "{image}");
    let container = c.api("GET", &format!("/v1.24/containers/{id}/json"), None).json();
    assert_eq!((&container["Id"], &container["State"]["Status"]), (&json!(id), &json!("created")));
    // It could give limits at the start.
    let response = c.api("POST", &format!("/v1.24/containers/{id}/start"), Some(&json!({})));
    assert!([204, 400].contains(&response.status), "{}", response.text());
}

fn version_1_41_has_its_own_forms(c: &Client) {
    let id = create(c, "", &shell("true"));
    let old = c.api("GET", "/v1.41/info", None).json();
    assert!(old["KernelMemory"].is_boolean() || old.get("SystemTime").is_some(), "{old}");
    let container = c.api("GET", &format!("/v1.41/containers/{id}/json"), None).json();
    assert!(container["NetworkSettings"]["Networks"]["bridge"].is_object(), "{container}");
    let listed = c.api("GET", "/v1.41/containers/json?all=1", None).json();
    assert!(listed.as_array().unwrap().iter().any(|entry| entry["Id"] == json!(id)));
    // It took volumes with a name too: no other case's.
    let mine = filters(&json!({"label": [format!("of={}", c.n)]}));
    c.ok("docker volume create --label of=$n $n-v");
    let response = c.api("POST", &format!("/v1.41/volumes/prune?filters={mine}"), None);
    assert_eq!((response.status, &response.json()["VolumesDeleted"]), (200, &json!([format!("{}-v", c.n)])));
}

fn unbuilt_features_are_501(c: &Client) {
    for (method, path) in [("GET", "/v1.51/containers/nosuch/checkpoints"), ("POST", "/v1.51/plugins/pull")] {
        let response = c.api(method, path, Some(&json!({})));
        assert_eq!(response.status, 501, "{path}: {}", response.text());
        assert!(response.message().contains("not built into this Yare yet"), "{}", response.message());
    }
}

fn swarm_is_inactive(c: &Client) {
    for path in ["/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs"] {
        let response = c.api("GET", &format!("/v1.51{path}"), None);
        assert_eq!(response.status, 503, "{path}");
        assert!(
            response.message().starts_with("This node is not a swarm manager."),
            "{}",
            response.message()
        );
    }
}

fn bad_requests_are_400(c: &Client) {
    let id = create(c, "", &shell("true"));
    let check = |method: &str, path: &str, body: Option<&Value>, text: &str| {
        let response = c.api(method, path, body);
        assert_eq!(
            (response.status, response.message().lines().next().unwrap_or_default()),
            (400, text),
            "{method} {path}"
        );
    };
    check("GET", "/v1.51/containers/json?filters=nope", None, "invalid filter");
    check(
        "POST",
        "/v1.51/containers/create?name=@bad",
        Some(&json!({"Image": "busybox"})),
        "Invalid container name (@bad), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
    );
    check(
        "GET",
        &format!("/v1.51/containers/{id}/logs"),
        None,
        "Bad parameters: you must choose at least one stream",
    );
    check("POST", &format!("/v1.51/containers/{id}/wait?condition=bad"), None, "invalid condition: \"bad\"");
    check("POST", &format!("/v1.51/containers/{id}/rename"), None, "Neither old nor new names may be empty");
    let response = c.api("POST", "/v1.51/containers/create", Some(&json!("no object")));
    assert_eq!(response.status, 400);
    assert!(response.message().starts_with("invalid JSON: "), "{}", response.message());
}

fn create_takes_a_minimal_body(c: &Client) {
    let response =
        c.api("POST", &format!("/v1.51/containers/create?name={}", c.n), Some(&json!({"Image": "busybox"})));
    assert_eq!((response.status, response.json()["Warnings"].clone()), (201, json!([])));
    let response =
        c.api("POST", &format!("/v1.51/containers/create?name={}", c.n), Some(&json!({"Image": "busybox"})));
    assert_eq!(response.status, 409);
    let response =
        c.api("POST", "/v1.51/containers/create", Some(&json!({"Image": format!("{}/none", c.n)})));
    assert_eq!(
        (response.status, response.message().lines().next().unwrap_or_default().to_owned()),
        (404, format!("No such image: {}/none:latest", c.n))
    );
    let id = create(
        c,
        "-null",
        &json!({"Image": "busybox", "Env": null, "Cmd": null, "HostConfig": null, "Labels": null, "NetworkingConfig": null, "Volumes": null}),
    );
    start(c, &id);
    assert_eq!(wait(c, &id), 0);
}

fn wait_answers_its_head_at_once(c: &Client) {
    let id = create(c, "", &shell("sleep 1; exit 5"));
    // Before anything could end: the container is started when the head is here.
    let (head, mut stream) =
        http::hijack(&c.host.socket, &format!("/v1.51/containers/{id}/wait?condition=next-exit"), "", false);
    assert_eq!(head.status, 200);
    start(c, &id);
    assert_eq!(http::read_on(head, &mut stream).json()["StatusCode"], 5);
}

fn wait_knows_its_conditions(c: &Client) {
    let id = create(c, "", &shell("exit 6"));
    // What has not run is not running.
    assert_eq!(wait(c, &id), 0);
    start(c, &id);
    assert_eq!(wait(c, &id), 6);
    assert_eq!(
        c.api("POST", &format!("/v1.51/containers/{id}/wait?condition=not-running"), None).json()["StatusCode"],
        6
    );
    let response = c.api("POST", "/v1.51/containers/nosuch/wait", None);
    assert_eq!(response.status, 404);
}

fn wait_for_removal(c: &Client) {
    let body = json!({"Image": "busybox", "Cmd": ["sh", "-c", "exit 7"], "HostConfig": {"AutoRemove": true}});
    let id = create(c, "", &body);
    let path = format!("/v1.51/containers/{id}/wait?condition=removed");
    let (head, mut stream) = http::hijack(&c.host.socket, &path, "", false);
    assert_eq!(head.status, 200);
    start(c, &id);
    assert_eq!(http::read_on(head, &mut stream).json()["StatusCode"], 7);
    assert_eq!(c.api("GET", &format!("/v1.51/containers/{id}/json"), None).status, 404);
}

fn start_and_stop_twice_are_304(c: &Client) {
    let id = create(c, "", &shell("sleep 1000"));
    assert_eq!(c.api("POST", &format!("/v1.51/containers/{id}/stop"), None).status, 304);
    start(c, &id);
    assert_eq!(c.api("POST", &format!("/v1.51/containers/{id}/start"), None).status, 304);
    assert_eq!(c.api("POST", &format!("/v1.51/containers/{id}/stop?t=0"), None).status, 204);
    assert_eq!(c.api("POST", &format!("/v1.51/containers/{id}/stop"), None).status, 304);
    let response = c.api("DELETE", &format!("/v1.51/containers/{id}"), None);
    assert_eq!((response.status, response.text()), (204, String::new()));
    assert_eq!(c.api("DELETE", &format!("/v1.51/containers/{id}"), None).status, 404);
}

fn read_all(mut body: Vec<u8>, stream: &mut UnixStream) -> Vec<u8> {
    stream.read_to_end(&mut body).unwrap();
    body
}

fn attach_upgrades_when_asked(c: &Client) {
    let id = create(c, "", &shell("echo out; echo err >&2"));
    let path = format!("/v1.51/containers/{id}/attach?stream=1&stdout=1&stderr=1");
    let (head, mut stream) = http::hijack(&c.host.socket, &path, "", true);
    assert_eq!(
        (head.status, head.header("content-type")),
        (101, Some("application/vnd.docker.multiplexed-stream"))
    );
    assert_eq!(head.header("upgrade").map(str::to_lowercase).as_deref(), Some("tcp"));
    start(c, &id);
    let (output, errors) = http::demultiplex(&read_all(head.body, &mut stream));
    assert_eq!((output.as_slice(), errors.as_slice()), (b"out\n".as_slice(), b"err\n".as_slice()));
}

fn attach_without_upgrade_is_200(c: &Client) {
    let body = json!({"Image": "busybox", "Cmd": ["echo", "out"], "Tty": true});
    let id = create(c, "", &body);
    let path = format!("/v1.51/containers/{id}/attach?stream=1&stdout=1");
    let (head, mut stream) = http::hijack(&c.host.socket, &path, "", false);
    let kind = head.header("content-type");
    assert_eq!((head.status, kind), (200, Some("application/vnd.docker.raw-stream")));
    start(c, &id);
    assert_eq!(http::read_on(head, &mut stream).body, b"out\r\n");
    let (head, _) =
        http::hijack(&c.host.socket, "/v1.51/containers/nosuch/attach?stream=1&stdout=1", "", true);
    assert_eq!(head.status, 404);
}

fn attach_half_close_ends_input(c: &Client) {
    let body = json!({"Image": "busybox", "Cmd": ["sh", "-c", "cat; sleep 0.3; echo end"], "OpenStdin": true, "StdinOnce": true});
    let id = create(c, "", &body);
    let (head, mut stream) = http::hijack(
        &c.host.socket,
        &format!("/v1.51/containers/{id}/attach?stream=1&stdin=1&stdout=1"),
        "",
        true,
    );
    start(c, &id);
    stream.write_all(b"words\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let (output, _) = http::demultiplex(&read_all(head.body, &mut stream));
    assert_eq!(output, b"words\nend\n");
}

fn attach_speaks_websocket(c: &Client) {
    let body = json!({"Image": "busybox", "Cmd": ["sh", "-c", "echo out; echo err >&2; cat; echo bye"], "OpenStdin": true, "StdinOnce": true});
    let id = create(c, "", &body);
    let mut stream = http::open(&c.host.socket);
    let head = format!(
        "GET /v1.51/containers/{id}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: docker\r\nOrigin: http://docker\r\n\
         Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = Vec::new();
    let mut read_until = |stream: &mut UnixStream, end: &[u8]| {
        while !seen.windows(end.len()).any(|window| window == end) {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).unwrap();
            assert!(
                count > 0,
                "{:?} is not in {:?}",
                String::from_utf8_lossy(end),
                String::from_utf8_lossy(&seen)
            );
            seen.extend_from_slice(&buffer[..count]);
        }
        std::mem::take(&mut seen)
    };
    let head = read_until(&mut stream, b"\r\n\r\n");
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    start(c, &id);
    read_until(&mut stream, b"out\n");
    // It may have come before or behind.
    c.comes_to("docker logs $n 2>&1 | grep -c 'out\\|err'", "2");
    // One masked frame: "hello\n".
    stream.write_all(b"\x82\x86\0\0\0\0hello\n").unwrap();
    read_until(&mut stream, b"\x82\x06hello\n");
    // Closing leaves the container alone, but for its input.
    stream.write_all(b"\x88\x80\0\0\0\0").unwrap();
    assert_eq!(wait(c, &id), 0);
    let plain = c.api("GET", &format!("/v1.51/containers/{id}/attach/ws?stream=1"), None);
    assert_eq!(plain.status, 400, "{}", plain.text());
}

fn attach_replays_the_log(c: &Client) {
    let id = create(c, "", &shell("echo before"));
    start(c, &id);
    wait(c, &id);
    let (head, mut stream) = http::hijack(
        &c.host.socket,
        &format!("/v1.51/containers/{id}/attach?logs=1&stdout=1&stderr=1"),
        "",
        true,
    );
    let (output, _) = http::demultiplex(&read_all(head.body, &mut stream));
    assert_eq!(output, b"before\n");
}

fn early_bytes_are_input(c: &Client) {
    let body = json!({"Image": "busybox", "Cmd": ["head", "-n1"], "OpenStdin": true, "StdinOnce": true});
    let id = create(c, "", &body);
    let mut stream = http::open(&c.host.socket);
    let request = format!(
        "POST /v1.51/containers/{id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: docker\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\nearly bird\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let (head, rest) = http::read_head(&mut stream);
    assert_eq!(head.status, 101);
    start(c, &id);
    let (output, _) = http::demultiplex(&read_all(rest, &mut stream));
    assert_eq!(output, b"early bird\n");
}

fn frames_are_multiplexed(c: &Client) {
    let id = create(c, "", &shell("echo abc; sleep 0.3; echo de >&2"));
    start(c, &id);
    wait(c, &id);
    let response = c.api("GET", &format!("/v1.51/containers/{id}/logs?stdout=1&stderr=1"), None);
    assert_eq!(response.header("content-type"), Some("application/vnd.docker.multiplexed-stream"));
    assert_eq!(response.body, b"\x01\0\0\0\0\0\0\x04abc\n\x02\0\0\0\0\0\0\x03de\n");
    let response = c.api("GET", &format!("/v1.51/containers/{id}/logs?stderr=1"), None);
    assert_eq!(response.body, b"\x02\0\0\0\0\0\0\x03de\n");
    // Before 1.42 every stream called itself raw.
    let response = c.api("GET", &format!("/v1.41/containers/{id}/logs?stdout=1"), None);
    assert_eq!(response.header("content-type"), Some("application/vnd.docker.raw-stream"));
}

fn make_exec(c: &Client, id: &str, body: &Value) -> String {
    let response = c.api("POST", &format!("/v1.51/containers/{id}/exec"), Some(body));
    assert_eq!(response.status, 201, "{}", response.text());
    response.json()["Id"].as_str().unwrap().to_owned()
}

fn exec_runs_once(c: &Client) {
    let id = create(c, "", &shell("sleep 1000"));
    start(c, &id);
    let exec = make_exec(c, &id, &json!({"Cmd": ["true"]}));
    let state = c.api("GET", &format!("/v1.51/exec/{exec}/json"), None).json();
    assert_eq!(
        (&state["Running"], &state["ExitCode"], &state["ContainerID"]),
        (&json!(false), &Value::Null, &json!(id))
    );
    let response = c.api("POST", &format!("/v1.51/exec/{exec}/start"), Some(&json!({"Detach": true})));
    assert_eq!((response.status, response.text().as_str()), (200, ""));
    let response = c.api("POST", &format!("/v1.51/exec/{exec}/start"), Some(&json!({"Detach": true})));
    assert_eq!(response.status, 409);
    assert!(response.message().contains(&exec), "{}", response.message());
    let response = c.api("POST", "/v1.51/exec/nosuch/start", Some(&json!({"Detach": true})));
    assert_eq!((response.status, response.message().as_str()), (404, "No such exec instance: nosuch"));
    let response = c.api("POST", &format!("/v1.51/containers/{id}/exec"), Some(&json!({"Cmd": []})));
    assert_eq!((response.status, response.message().as_str()), (400, "No exec command specified"));
}

fn exec_code_is_there_at_the_end_of_the_stream(c: &Client) {
    let id = create(c, "", &shell("sleep 1000"));
    start(c, &id);
    for code in 1..=10 {
        let exec = make_exec(
            c,
            &id,
            &json!({"AttachStdout": true, "Cmd": ["sh", "-c", format!("echo said; exit {code}")]}),
        );
        let (head, mut stream) = http::hijack(
            &c.host.socket,
            &format!("/v1.51/exec/{exec}/start"),
            "{\"Detach\":false,\"Tty\":false}",
            true,
        );
        assert_eq!(head.status, 101);
        assert_eq!(http::demultiplex(&read_all(head.body, &mut stream)).0, b"said\n");
        let state = c.api("GET", &format!("/v1.51/exec/{exec}/json"), None).json();
        assert_eq!((&state["Running"], &state["ExitCode"]), (&json!(false), &json!(code)));
    }
}

fn resize_of_a_stopped_container_is_409(c: &Client) {
    let id = create(c, "", &shell("true"));
    let response = c.api("POST", &format!("/v1.51/containers/{id}/resize?h=1&w=1"), None);
    assert_eq!((response.status, response.message()), (409, format!("container {id} is not running")));
    let response = c.api("POST", &format!("/v1.51/containers/{id}/kill"), None);
    assert_eq!(response.status, 409);
}

fn events_send_their_head_at_once(c: &Client) {
    let mut stream = http::open(&c.host.socket);
    let query = filters(&json!({"container": {c.n.clone(): true}}));
    let request = format!("GET /v1.51/events?filters={query} HTTP/1.1\r\nHost: docker\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let (head, mut rest) = http::read_head(&mut stream);
    assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
    let id = create(c, "", &shell("true"));
    while !rest.ends_with(b"}\n\r\n") {
        let mut block = [0; 4096];
        let count = stream.read(&mut block).unwrap();
        assert!(count > 0);
        rest.extend_from_slice(&block[..count]);
    }
    let text = String::from_utf8_lossy(&rest);
    let event: Value =
        serde_json::from_str(text.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
    assert_eq!(
        (&event["Type"], &event["Action"], &event["Actor"]["ID"]),
        (&json!("container"), &json!("create"), &json!(id))
    );
    assert_eq!(
        (&event["status"], &event["id"], &event["from"]),
        (&json!("create"), &json!(id), &json!("busybox"))
    );
}

fn filters_take_both_forms(c: &Client) {
    let id = create(c, "", &shell("true"));
    for value in [json!({"name": {c.n.clone(): true}}), json!({"name": [c.n.clone()]})] {
        let listed = c
            .api("GET", &format!("/v1.51/containers/json?all=true&filters={}", filters(&value)), None)
            .json();
        assert_eq!((listed.as_array().map(Vec::len), &listed[0]["Id"]), (Some(1), &json!(id)), "{value}");
    }
}

fn names_with_slashes_are_routed(c: &Client) {
    let response = c.api(
        "POST",
        &format!("/v1.51/images/busybox/tag?repo=localhost:5000/{}/deep/name&tag=v1", c.n),
        None,
    );
    assert_eq!(response.status, 201, "{}", response.text());
    let name = format!("localhost:5000/{}/deep/name:v1", c.n);
    let image = c.api("GET", &format!("/v1.51/images/{name}/json"), None).json();
    assert!(image["RepoTags"].as_array().unwrap().contains(&json!(name)), "{image}");
    assert_eq!(c.api("GET", &format!("/v1.51/images/{name}/history"), None).status, 200);
    let removed = c.api("DELETE", &format!("/v1.51/images/{name}"), None);
    assert_eq!((removed.status, removed.json()), (200, json!([{"Untagged": name}])));
}

fn metrics_are_prometheus(c: &Client) {
    let response = c.api("GET", "/metrics", None);
    assert_eq!(response.status, 200);
    let text = response.text();
    assert!(text.lines().any(|line| line.starts_with("# TYPE ")), "{text}");
    // Names of dockerd's, for dashboards that know it.
    for name in [
        "engine_daemon_container_states_containers{state=\"running\"} ",
        "engine_daemon_engine_cpus_cpus ",
        "engine_daemon_engine_info{",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in {text}");
    }
}

fn many_requests_on_one_connection(c: &Client) {
    let mut stream = http::open(&c.host.socket);
    for _ in 0..50 {
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").unwrap();
        let (head, mut body) = http::read_head(&mut stream);
        while body.len() < 2 {
            let mut block = [0; 8];
            let count = stream.read(&mut block).unwrap();
            body.extend_from_slice(&block[..count]);
        }
        assert_eq!((head.status, body.as_slice()), (200, b"OK".as_slice()));
    }
}
