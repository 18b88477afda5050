//! The edge as a client sees it: bytes in, bytes out, over real sockets and without an engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http::StatusCode;
use http::header::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use yare_errdefs::{Error, Result};

use crate::edge::{Call, Edge, Handler};
use crate::listen;
use crate::reply::{self, Reply};
use crate::route::Operation;
use crate::socket::Socket;

pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Answers a few routes in ways that show the edge's work.
async fn answer(call: Call) -> Result<Reply> {
    match call.operation {
        Operation::Ping => Ok(crate::handlers::ping(&call)),
        Operation::ContainerWait => {
            let never = futures_util::stream::pending();
            Ok(reply::follow(reply::JSON, call.socket(), never))
        }
        Operation::ContainerAttach => {
            // An echo in place of a container.
            let (near, mut far) = UnixStream::pair()?;
            tokio::spawn(async move {
                let mut input = Vec::new();
                far.read_to_end(&mut input).await.expect("input");
                far.write_all(&input).await.expect("output");
            });
            Ok(call.takeover.connect(call.query.flag("tty"), near))
        }
        Operation::ExecStart => {
            let error = Error::invalid("exec: \"nosuch\": executable file not found in $PATH");
            Ok(call.takeover.connect_failed(false, &error))
        }
        Operation::ContainerCreate => {
            let value: serde_json::Value = crate::body::json_required(&call.headers, call.body).await?;
            reply::json(StatusCode::CREATED, &value)
        }
        Operation::ImageLoad => {
            let mut parts = Box::pin(call.body.into_parts());
            let mut length = 0;
            while let Some(part) = parts.next().await {
                length += part?.len();
            }
            Ok(reply::text(StatusCode::OK, length.to_string()))
        }
        Operation::ContainerLogs => {
            let first = futures_util::stream::iter([Ok(Bytes::from_static(b"one"))]);
            let rest = futures_util::stream::once(async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(Error::internal("broken"))
            });
            let raw = HeaderValue::from_static("application/vnd.docker.raw-stream");
            Ok(reply::stream(raw, first.chain(rest)))
        }
        _ => Ok(reply::empty(StatusCode::NO_CONTENT)),
    }
}

pub(crate) fn edge() -> Arc<Edge> {
    let handler: Handler = Box::new(|call| answer(call).boxed());
    Arc::new(Edge::new(handler, vec!["build.example".to_owned()]))
}

fn connect() -> UnixStream {
    let (client, server) = UnixStream::pair().expect("a pair");
    tokio::spawn(async move {
        let (keep, stopped) = watch::channel(false);
        listen::serve(Socket::unix(server), edge(), stopped).await;
        drop(keep);
    });
    client
}

/// Sends a request and gives back everything that comes until the server closes.
async fn exchange(request: &str) -> String {
    let mut client = connect();
    client.write_all(request.as_bytes()).await.expect("sent");
    read_to_end(&mut client).await
}

pub(crate) async fn read_to_end(client: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    timeout(SOON, client.read_to_end(&mut bytes)).await.expect("in time").expect("read");
    String::from_utf8(bytes).expect("UTF-8")
}

/// Reads until what was read ends with `end`.
async fn read_until(client: &mut UnixStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let byte = timeout(SOON, client.read_u8()).await.expect("in time").expect("read");
        text.push(char::from(byte));
    }
    text
}

fn simple(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
}

/// Status line, sorted headers without the date, and body.
fn taken_apart(reply: &str) -> (String, Vec<String>, String) {
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.split("\r\n").map(str::to_owned);
    let status = lines.next().expect("a status line");
    let mut headers: Vec<String> = lines.filter(|line| !line.starts_with("Date: ")).collect();
    headers.sort();
    (status, headers, body.to_owned())
}

#[tokio::test]
async fn ping_is_answered_byte_for_byte() {
    let server = format!("Server: Yare/{} (linux)", env!("CARGO_PKG_VERSION"));
    let headers = |length: &'static str| {
        [
            "Api-Version: 1.51",
            "Builder-Version: 2",
            "Cache-Control: no-cache, no-store, must-revalidate",
            "Connection: close",
            length,
            "Content-Type: text/plain; charset=utf-8",
            "Docker-Experimental: false",
            "Ostype: linux",
            "Pragma: no-cache",
            &server,
            "Swarm: inactive",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    for path in ["/_ping", "/v1.24/_ping"] {
        let (status, found, body) = taken_apart(&exchange(&simple("GET", path)).await);
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "OK"));
        assert_eq!(found, headers("Content-Length: 2"));
        let (status, found, body) = taken_apart(&exchange(&simple("HEAD", path)).await);
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""));
        assert_eq!(found, headers("Content-Length: 0"));
    }
}

#[tokio::test]
async fn a_refused_head_has_no_body() {
    let reply = exchange(&simple("HEAD", "/v1.99/_ping")).await;
    assert!(reply.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{reply}");
    assert!(reply.ends_with("\r\n\r\n"), "{reply}");
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let mut client = connect();
    for _ in 0..3 {
        client.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").await.expect("sent");
        let reply = read_until(&mut client, "\r\n\r\nOK").await;
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    }
}

#[tokio::test]
async fn a_refused_upload_is_answered_and_not_reset() {
    let length = 8 << 20;
    for path in ["/containers/a/checkpoints", "/nosuch", "/containers/create"] {
        let mut client = connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.expect("sent");
        client.write_all(&vec![b'x'; length]).await.expect("taken to the end");
        let reply = read_to_end(&mut client).await;
        assert!(reply.contains("\r\n\r\n{\"message\":"), "{path}: {reply}");
    }
}

#[tokio::test]
async fn an_empty_host_is_accepted_on_a_unix_socket() {
    let reply = exchange("GET /_ping HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
}

#[tokio::test]
async fn versions_out_of_bounds_are_refused_with_dockers_texts() {
    let new = exchange(&simple("GET", "/v1.99/info")).await;
    assert!(new.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{new}");
    assert!(new.contains("\r\nContent-Length: 84\r\n"), "{new}");
    assert!(new.ends_with(
        "\r\n\r\n{\"message\":\"client version 1.99 is too new. Maximum supported API version is 1.51\"}\n"
    ));
    let old = exchange(&simple("GET", "/v1.20/info")).await;
    assert!(old.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{old}");
    for header in
        ["Content-Type: text/plain; charset=utf-8", "X-Content-Type-Options: nosniff", "Content-Length: 117"]
    {
        assert!(old.contains(&format!("\r\n{header}\r\n")), "{header} is not in {old}");
    }
    assert!(old.ends_with("please upgrade your client to a newer version\n"));
    let early = exchange(&simple("POST", "/v1.24/containers/prune")).await;
    assert!(early.ends_with("POST /containers/prune requires minimum API version 1.25\"}\n"), "{early}");
}

#[tokio::test]
async fn unknown_unbuilt_and_swarm_pages_differ() {
    let unknown = exchange(&simple("POST", "/v1.51/containers/json")).await;
    assert!(unknown.starts_with("HTTP/1.1 404 Not Found\r\n"), "{unknown}");
    assert!(unknown.contains("\r\nContent-Type: application/json\r\n"), "{unknown}");
    assert!(unknown.ends_with("\r\n\r\n{\"message\":\"page not found\"}\n"), "{unknown}");
    let unbuilt = exchange(&simple("POST", "/v1.51/containers/a/checkpoints")).await;
    assert!(unbuilt.starts_with("HTTP/1.1 501 Not Implemented\r\n"), "{unbuilt}");
    let text = "{\"message\":\"checkpoint and restore is not built into this Yare yet: POST /containers/{id}/checkpoints\"}\n";
    assert!(unbuilt.ends_with(text), "{unbuilt}");
    let swarm = exchange(&simple("GET", "/v1.51/nodes")).await;
    assert!(swarm.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{swarm}");
    assert!(swarm.contains("\r\nContent-Length: 144\r\n"), "{swarm}");
    let options = exchange(&simple("OPTIONS", "/anything")).await;
    assert!(options.starts_with("HTTP/1.1 200 OK\r\n"), "{options}");
    assert!(options.contains("\r\nContent-Length: 0\r\n"), "{options}");
}

#[tokio::test]
async fn every_row_of_the_endpoint_list_is_known() {
    let rows = include_str!("../tests/data/endpoints.tsv");
    for row in rows.lines().filter(|row| !row.starts_with('#')) {
        let mut columns = row.split('\t');
        let (method, path) = (columns.next().expect("method"), columns.next().expect("path"));
        let path = path.replace("{id}", "x").replace("{name}", "a%2Fb").replace("{checkpoint}", "c");
        let request = simple(method, &format!("/v1.51{}", path.replace('*', "x")));
        let mut client = connect();
        client.write_all(request.as_bytes()).await.expect("sent");
        let status = read_until(&mut client, "\r\n").await;
        assert!(!status.starts_with("HTTP/1.1 404"), "{method} {path}: {status}");
    }
}

#[tokio::test]
async fn the_head_of_a_wait_comes_before_its_body() {
    let mut client = connect();
    client.write_all(simple("POST", "/containers/x/wait").as_bytes()).await.expect("sent");
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n"), "{head}");
    // A client that goes away ends it, although nothing is ever written.
    client.shutdown().await.expect("half closed");
    assert_eq!(read_to_end(&mut client).await, "0\r\n\r\n");
}

#[tokio::test]
async fn an_upgraded_connection_carries_early_bytes_and_half_closes() {
    let mut client = connect();
    let request = "POST /v1.51/containers/x/attach?stream=1 HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n\
                   Upgrade: tcp\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\r\nearly ";
    client.write_all(request.as_bytes()).await.expect("sent");
    client.write_all(b"late").await.expect("sent");
    client.shutdown().await.expect("half closed");
    let reply = read_to_end(&mut client).await;
    assert!(reply.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{reply}");
    for header in
        ["Content-Type: application/vnd.docker.multiplexed-stream", "Connection: Upgrade", "Upgrade: tcp"]
    {
        assert!(reply.contains(&format!("\r\n{header}\r\n")), "{header} is not in {reply}");
    }
    assert!(!reply.contains("Content-Length") && !reply.contains("Transfer-Encoding"), "{reply}");
    assert!(reply.ends_with("\r\n\r\nearly late"), "{reply}");
}

#[tokio::test]
async fn without_an_upgrade_the_output_is_a_body() {
    let reply = exchange(&simple("POST", "/containers/x/attach?stream=1&stdout=1")).await;
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    assert!(reply.contains("\r\nContent-Type: application/vnd.docker.raw-stream\r\n"), "{reply}");
    assert!(reply.ends_with("\r\n\r\n0\r\n\r\n"), "{reply}");
}

#[tokio::test]
async fn a_failed_exec_is_told_through_the_stream() {
    let request = "POST /exec/x/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
                   Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let mut client = connect();
    client.write_all(request.as_bytes()).await.expect("sent");
    let reply = read_to_end(&mut client).await;
    assert!(reply.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{reply}");
    let text = "exec: \"nosuch\": executable file not found in $PATH\r\n";
    let frame =
        format!("\r\n\r\n\x01\0\0\0\0\0\0{}{text}", char::from(u8::try_from(text.len()).expect("short")));
    assert!(reply.ends_with(&frame), "{reply:?}");
}

fn post_json(body: &str, content_type: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1.51/containers/create HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\
         Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn bad_bodies_are_refused_with_dockers_texts() {
    let reply = exchange(&post_json("{bad", "application/json")).await;
    assert!(reply.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{reply}");
    assert!(reply.contains("\r\nContent-Length: 93\r\n"), "{reply}");
    let text =
        "{\"message\":\"invalid JSON: invalid character 'b' looking for beginning of object key string\"}\n";
    assert!(reply.ends_with(text), "{reply}");
    let reply = exchange(&post_json("{}", "text/plain")).await;
    assert!(reply.contains("unsupported Content-Type header (text/plain): must be 'application/json'"));
    let reply = exchange(&simple("POST", "/containers/create")).await;
    assert!(reply.contains("invalid JSON: got EOF while reading request body"), "{reply}");
    let reply = exchange(&simple("GET", "/info?a=%zz")).await;
    assert!(reply.ends_with("{\"message\":\"invalid URL escape \\\"%zz\\\"\"}\n"), "{reply}");
}

#[tokio::test]
async fn a_huge_document_is_refused_before_it_is_read() {
    let request = "POST /containers/create HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\
                   Content-Type: application/json\r\nContent-Length: 99999999\r\n\r\n{";
    let mut client = connect();
    client.write_all(request.as_bytes()).await.expect("sent");
    let reply = read_until(&mut client, "}\n").await;
    assert!(reply.contains("the request body is too large"), "{reply}");
}

#[tokio::test]
async fn chunked_uploads_are_streamed() {
    let request = "POST /images/load HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\
                   Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n";
    let reply = exchange(request).await;
    assert!(reply.ends_with("\r\n\r\n7"), "{reply}");
}

#[tokio::test]
async fn a_stream_that_breaks_has_no_proper_end() {
    let reply = exchange(&simple("GET", "/containers/x/logs")).await;
    assert!(reply.contains("3\r\none\r\n") && !reply.ends_with("0\r\n\r\n"), "{reply}");
}

#[tokio::test]
async fn requests_with_two_lengths_cannot_smuggle() {
    let twice =
        "POST /images/load HTTP/1.1\r\nHost: docker\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab";
    let reply = exchange(twice).await;
    assert!(reply.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{reply}");
    // With both a length and chunks only the chunks count, and nothing behind them is taken for a request.
    let both = "POST /images/load HTTP/1.1\r\nHost: docker\r\nContent-Length: 4\r\n\
                Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n";
    let reply = exchange(both).await;
    assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{reply}");
    assert!(reply.ends_with("\r\n\r\n0"), "{reply}");
    let unknown = "POST /images/load HTTP/1.1\r\nHost: docker\r\nTransfer-Encoding: x\r\n\r\n";
    let reply = exchange(unknown).await;
    assert!(reply.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{reply}");
}

#[tokio::test]
async fn huge_heads_are_refused() {
    let filler = "x".repeat(66 << 10);
    let request = format!("GET /_ping HTTP/1.1\r\nHost: docker\r\nX-Filler: {filler}\r\n\r\n");
    let mut client = connect();
    // The server may answer and close before it has read everything.
    let _ = client.write_all(request.as_bytes()).await;
    let reply = read_until(&mut client, "\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 431 "), "{reply}");
}

#[tokio::test]
async fn web_pages_cannot_use_a_tcp_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let listeners = vec![listen::Listener::Tcp(listener.into_std().expect("a listener")).into()];
    let shutdown = async { stopped.map(drop).await };
    let server = tokio::spawn(listen::run(edge(), listeners, SOON, shutdown));
    let ask = async |headers: &str| {
        let mut client = TcpStream::connect(address).await.expect("connected");
        let request = format!("GET /_ping HTTP/1.1\r\nConnection: close\r\n{headers}\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("sent");
        read_to_end(&mut client).await
    };
    assert!(ask("Host: localhost:2375").await.starts_with("HTTP/1.1 200 "));
    assert!(ask("Host: build.example").await.starts_with("HTTP/1.1 200 "));
    assert!(ask("Host: evil.example").await.starts_with("HTTP/1.1 403 "));
    assert!(ask("Host: :80").await.starts_with("HTTP/1.1 403 "));
    assert!(ask("Host:").await.starts_with("HTTP/1.1 200 "), "no browser leaves it empty");
    assert!(ask("Host: localhost\r\nOrigin: https://evil.example").await.starts_with("HTTP/1.1 403 "));
    stop.send(()).expect("running");
    timeout(SOON, server).await.expect("ends in time").expect("ends").expect("well");
    TcpStream::connect(address).await.expect_err("nobody listens");
}

#[tokio::test]
async fn the_end_waits_for_running_requests() {
    let folder = tempfile_name();
    let listener = std::os::unix::net::UnixListener::bind(&folder).expect("bound");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async { stopped.map(drop).await };
    let listeners = vec![listen::Listener::Unix(listener).into()];
    let server = tokio::spawn(listen::run(edge(), listeners, SOON, shutdown));
    let mut client = UnixStream::connect(&folder).await.expect("connected");
    let head = "POST /images/load HTTP/1.1\r\nHost: docker\r\nContent-Length: 2\r\n\r\na";
    client.write_all(head.as_bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop.send(()).expect("running");
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.write_all(b"b").await.expect("sent");
    assert!(read_to_end(&mut client).await.ends_with("\r\n\r\n2"));
    timeout(SOON, server).await.expect("ends in time").expect("ends").expect("well");
    std::fs::remove_file(&folder).expect("removed");
}

fn tempfile_name() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("yare-server-{}.sock", std::process::id()))
}
