//! Every route under every policy, over real sockets and without an engine.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt;
use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::edge::{Edge, Handler};
use crate::listen;
use crate::policy::{Grant, Hide, Policy};
use crate::reply;
use crate::route::{Support, routes};
use crate::socket::Socket;
use crate::wire_tests::read_to_end;

/// The answer to a request over a socket with this policy; 299 is one of the handler's.
async fn ask(policy: Option<&Policy>, head: &str) -> (u16, String) {
    let handler: Handler = Box::new(|_| {
        let reached = StatusCode::from_u16(299).expect("a status");
        async move { Ok(reply::empty(reached)) }.boxed()
    });
    let (mut client, server) = UnixStream::pair().expect("a pair");
    let (keep, stopped) = watch::channel(false);
    let socket = Socket::unix(server).under(policy.cloned().map(Arc::new));
    let serving = tokio::spawn(listen::serve(socket, Arc::new(Edge::new(handler, Vec::new())), stopped));
    client.write_all(head.as_bytes()).await.expect("sent");
    let answer = read_to_end(&mut client).await;
    drop((client, keep));
    serving.await.expect("served");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer)
}

async fn status(policy: Option<&Policy>, method: &str, path: &str) -> u16 {
    ask(policy, &format!("{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")).await.0
}

fn policy(grants: &[Grant]) -> Policy {
    Policy::new("unix:///run/some.sock", grants)
}

/// The routes that a policy lets through.
async fn passing(grants: &[Grant]) -> BTreeSet<String> {
    let policy = policy(grants);
    let mut passing = BTreeSet::new();
    for route in routes() {
        let path = route.pattern.replace("{id}", "x").replace("{name}", "a/b").replace("{checkpoint}", "c");
        let expected = match route.support {
            Support::Built => 299,
            Support::NotBuilt => 501,
            Support::NoSwarm => 503,
        };
        let name = format!("{} {}", route.verb, route.pattern);
        assert_eq!(status(None, &route.verb.to_string(), &path).await, expected, "{name} without a policy");
        match status(Some(&policy), &route.verb.to_string(), &path).await {
            403 => {}
            status => {
                assert_eq!(status, expected, "{name}");
                passing.insert(name);
            }
        }
    }
    passing
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

const ALWAYS: &str = "HEAD /_ping
    GET /_ping
    GET /version";

const READ: &str = "GET /info
    GET /events
    GET /system/df
    GET /metrics
    GET /yare/cleaning
    GET /containers/json
    GET /containers/{id}/json
    GET /containers/{id}/top
    GET /containers/{id}/changes
    GET /containers/{id}/stats
    POST /containers/{id}/wait
    GET /exec/{id}/json
    GET /images/json
    GET /images/{name}/json
    GET /volumes
    GET /volumes/{name}
    GET /networks
    GET /networks/
    GET /networks/{id}
    GET /plugins
    GET /plugins/{name}/json";

const OPERATE: &str = "POST /containers/{id}/start
    POST /containers/{id}/stop
    POST /containers/{id}/restart
    POST /containers/{id}/kill
    POST /containers/{id}/pause
    POST /containers/{id}/unpause
    POST /containers/{id}/wait";

/// A route that is added passes nowhere until it is in one of these lists.
#[tokio::test]
async fn every_route_is_denied_unless_it_is_granted() {
    let of = |grant| match grant {
        Grant::Read => READ,
        Grant::Logs => "GET /containers/{id}/logs",
        Grant::Values => "GET /images/{name}/history",
        Grant::Operate => OPERATE,
        Grant::Metrics => "GET /metrics",
    };
    assert_eq!(passing(&[]).await, lines(ALWAYS));
    for grant in Grant::ALL {
        assert_eq!(passing(&[grant]).await, &lines(ALWAYS) | &lines(of(grant)), "{}", grant.name());
    }
    let all = Grant::ALL.into_iter().fold(lines(ALWAYS), |all, grant| &all | &lines(of(grant)));
    assert_eq!(passing(&Grant::ALL).await, all);
}

#[tokio::test]
async fn no_spelling_leads_around_a_policy() {
    let policy = policy(&Grant::ALL);
    for (method, path, expected) in [
        ("GET", "/containers/x/archive?path=/etc/shadow", 403),
        ("GET", "/v1.51/containers/x/archive?path=/", 403),
        ("GET", "/containers/x/%61rchive?path=/", 403),
        ("GET", "/containers/x%2farchive", 403),
        ("GET", "/containers/json/archive", 403),
        ("GET", "http://docker/containers/x/export", 403),
        ("HEAD", "/containers/x/archive?path=/", 403),
        ("GET", "/containers/x/attach/ws?stdin=1", 403),
        ("GET", "/images/get?names=a", 403),
        ("GET", "/images/search?term=evil:5000/x", 403),
        ("GET", "/distribution/evil:5000/x/json", 403),
        ("GET", "/yare/volumes/v/archive", 403),
        // Whatever is asked for, the row that answers is the one that was checked.
        ("GET", "/images/../containers/x/archive/json", 299),
        ("GET", "/containers/../images/get", 404),
        ("GET", "//containers/x/archive", 404),
        ("POST", "/containers/json", 404),
        ("PATCH", "/containers/x/json", 404),
        ("GET", "/nosuchroute", 404),
    ] {
        assert_eq!(status(Some(&policy), method, path).await, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn connections_are_not_taken_over() {
    let policy = policy(&Grant::ALL);
    for (request, protocol) in [
        ("POST /containers/x/attach?stream=1&stdin=1", "tcp"),
        ("GET /containers/x/attach/ws?stream=1", "websocket"),
        ("POST /exec/x/start", "tcp"),
        ("POST /session", "h2c"),
        ("POST /grpc", "h2c"),
        // The upgrade of HTTP itself, whose further requests no edge would see.
        ("GET /info", "h2c"),
        ("GET /containers/x/logs?follow=1", "tcp"),
    ] {
        let head = format!(
            "{request} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade, close\r\nUpgrade: {protocol}\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let (status, answer) = ask(Some(&policy), &head).await;
        let granted = request.starts_with("GET /info") || request.contains("/logs");
        assert_eq!(status, if granted { 299 } else { 403 }, "{request}: {answer}");
    }
}

#[tokio::test]
async fn each_request_of_a_connection_is_checked() {
    let policy = policy(&[Grant::Read]);
    let request = |line: &str, end: &str| format!("{line} HTTP/1.1\r\nHost: docker\r\n{end}\r\n");
    let both = request("GET /info", "") + &request("POST /containers/create", "Connection: close\r\n");
    let (_, answer) = ask(Some(&policy), &both).await;
    assert!(answer.contains("HTTP/1.1 299") && answer.contains("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn a_denial_names_socket_policy_and_request() {
    let policy = policy(&[Grant::Read, Grant::Logs]);
    let head = "DELETE /containers/web HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
    let (status, answer) = ask(Some(&policy), head).await;
    let text = "{\"message\":\"DELETE /containers/{id} is denied: the policy of the socket unix:///run/some.sock \
                allows only: read, logs\"";
    assert!(status == 403 && answer.contains(text), "{answer}");
}

#[test]
fn values_are_hidden_unless_they_are_granted() {
    let container = serde_json::json!({
        "Config": {"Env": ["PASSWORD=secret", "EMPTY"], "OnBuild": ["ENV A=secret"], "Labels": {"traefik.enable": "true"}},
        "HostConfig": {
            "LogConfig": {"Type": "splunk", "Config": {"splunk-token": "secret"}},
            "Mounts": [{"Type": "volume", "VolumeOptions": {"DriverConfig": {"Options": {"o": "password=secret"}}}}],
        },
        "State": {"Health": {"Log": [{"Output": "secret"}]}},
    });
    let shown = |grants: &[Grant]| {
        let mut found: yare_api::ContainerInspectResponse =
            serde_json::from_value(container.clone()).expect("an answer");
        found.hide(&policy(grants));
        serde_json::to_string(&found).expect("JSON")
    };
    let read = shown(&[Grant::Read]);
    assert!(!read.contains("secret"), "{read}");
    for kept in ["PASSWORD=(hidden)", "EMPTY", "splunk-token", "traefik.enable"] {
        assert!(read.contains(kept), "{kept} is not in {read}");
    }
    assert_eq!(shown(&[Grant::Read, Grant::Logs]).matches("secret").count(), 1);
    assert_eq!(shown(&[Grant::Read, Grant::Logs, Grant::Values]).matches("secret").count(), 5);

    let volume = serde_json::json!({"Name": "v", "Options": {"o": "password=secret"}});
    let mut usage: yare_api::SystemDataUsageResponse = serde_json::from_value(
        serde_json::json!({"Volumes": [volume], "BuildCache": [{"Description": "RUN curl -u secret"}]}),
    )
    .expect("an answer");
    let mut list: yare_api::VolumeListResponse =
        serde_json::from_value(serde_json::json!({ "Volumes": [volume] })).expect("an answer");
    let mut image: yare_api::ImageInspect = serde_json::from_value(
        serde_json::json!({"Config": {"Env": ["A=secret"], "OnBuild": ["ENV A=secret"]}}),
    )
    .expect("an answer");
    usage.hide(&policy(&[Grant::Read]));
    list.hide(&policy(&[Grant::Read]));
    image.hide(&policy(&[Grant::Read]));
    let texts = [serde_json::to_string(&usage), serde_json::to_string(&list), serde_json::to_string(&image)];
    for text in texts.map(|text| text.expect("JSON")) {
        assert!(text.contains("(hidden)") && !text.contains("secret"), "{text}");
    }
    assert!(policy(&[Grant::Read]).check_ps("").is_ok());
    assert!(policy(&[Grant::Read]).check_ps("auxe").is_err());
    let values = policy(&[Grant::Read, Grant::Values]);
    for plain in ["", "auxe", "-ef", "axjf ww"] {
        assert!(values.check_ps(plain).is_ok(), "{plain}");
    }
    // The first shows environments of the host's processes: their age stands where the title is "PID".
    for shaped in [
        "axe o lstart,etimes,user,user,user,pid,args",
        "-eo etimes=PID,args",
        "axh",
        "-eZ",
        "--format=pid",
        "ax\to",
    ] {
        assert!(values.check_ps(shaped).is_err(), "{shaped}");
    }
}
