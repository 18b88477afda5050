//! The client against a server that writes its bytes by hand.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::io::AsyncReadExt as _;
use yare_client::{Address, Body, Client, Error, Request};
use yare_errdefs::{Class, Classified};

struct Server(PathBuf);

impl Server {
    /// Gives each connection to the handler at its place, in their order.
    fn start(handlers: Vec<fn(UnixStream)>) -> (Self, Client) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("yare-client-{}-{number}.sock", std::process::id()));
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for handler in handlers {
                let (stream, _) = listener.accept().unwrap();
                handler(stream);
            }
        });
        let client = Client::new(Address::Unix(path.clone()));
        (Self(path), client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Reads one request's head; gives its first line.
fn head(reader: &mut impl BufRead) -> String {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line == "\r\n" || line.is_empty() {
            return lines.into_iter().next().unwrap_or_default();
        }
        lines.push(line.trim_end().to_owned());
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn a_hijacked_stream_keeps_early_bytes_and_closes_by_half() {
    let (_server, client) = Server::start(vec![|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        assert_eq!(head(&mut reader), "POST /v1.51/x HTTP/1.1");
        stream
            .write_all(b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly")
            .unwrap();
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"input");
        stream.write_all(b" late").unwrap();
    }]);
    block_on(async {
        let mut hijacked = client.hijack(Request::post("/x")).await.unwrap();
        assert_eq!(hijacked.multiplexed, Some(true));
        hijacked.writer.send(b"input").await.unwrap();
        hijacked.writer.close().await.unwrap();
        let mut text = String::new();
        hijacked.reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "early late");
    });
}

#[test]
fn a_server_that_does_not_hand_over_is_told_apart() {
    let (_server, client) = Server::start(vec![|mut stream| {
        head(&mut BufReader::new(stream.try_clone().unwrap()));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    }]);
    let error = block_on(client.hijack(Request::post("/x"))).unwrap_err();
    assert_eq!(error.to_string(), "unable to upgrade to tcp, received 200");
}

/// Answers one request with this status and body.
fn refuse(mut stream: UnixStream, status: u16, body: &str) {
    head(&mut BufReader::new(stream.try_clone().unwrap()));
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
}

#[test]
fn errors_have_text_class_and_hint() {
    let (_server, client) = Server::start(vec![
        |stream| refuse(stream, 404, r#"{"message":"No such container: x","hint":"list them"}"#),
        |stream| refuse(stream, 409, r#"{"message":"in use\nstop it first","hint":"stop it first"}"#),
        |stream| refuse(stream, 500, "plain text\n"),
        |stream| refuse(stream, 501, ""),
    ]);
    for (text, class, hint) in [
        ("No such container: x", Class::NotFound, Some("list them")),
        // Older clients find the hint in the text; this one prints it once.
        ("in use", Class::Conflict, Some("stop it first")),
        ("plain text", Class::Internal, None),
        ("request returned 501 Not Implemented for API route GET /x", Class::Unimplemented, None),
    ] {
        let error = block_on(client.call(Request::get("/x"))).unwrap_err();
        assert_eq!(error.to_string(), format!("Error response from daemon: {text}"));
        assert_eq!((error.class(), error.hint().as_deref()), (class, hint));
    }
}

#[test]
fn documents_may_be_split_anywhere() {
    let (_server, client) = Server::start(vec![|mut stream| {
        head(&mut BufReader::new(stream.try_clone().unwrap()));
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for part in ["{\"a\":1}\r\n{\"a\"", ":2}{\"a\":3}", "\r\n"] {
            write!(stream, "{:x}\r\n{part}\r\n", part.len()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    }]);
    block_on(async {
        let mut stream = client.stream::<serde_json::Value>(Request::get("/x")).await.unwrap();
        let mut numbers = Vec::new();
        while let Some(document) = stream.next().await.unwrap() {
            numbers.push(document["a"].as_i64().unwrap());
        }
        assert_eq!(numbers, [1, 2, 3]);
    });
}

#[test]
fn a_broken_document_is_an_error() {
    let (_server, client) = Server::start(vec![|mut stream| {
        head(&mut BufReader::new(stream.try_clone().unwrap()));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n{\"a\":1").unwrap();
    }]);
    block_on(async {
        let mut stream = client.stream::<serde_json::Value>(Request::get("/x")).await.unwrap();
        assert!(matches!(stream.next().await, Err(Error::Decode { .. })));
    });
}

#[test]
fn a_connection_is_used_again_and_replaced_when_it_has_gone() {
    static HAS_GONE: AtomicBool = AtomicBool::new(false);
    let (_server, client) = Server::start(vec![
        |mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for _ in 0..2 {
                head(&mut reader);
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
            }
            drop((reader, stream));
            HAS_GONE.store(true, Ordering::Release);
        },
        |mut stream| {
            head(&mut BufReader::new(stream.try_clone().unwrap()));
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]").unwrap();
        },
    ]);
    block_on(async {
        for _ in 0..2 {
            let document: serde_json::Value = client.json(Request::get("/x")).await.unwrap();
            assert!(document.is_object());
        }
        // Let the end of the first connection arrive, once it is on its way.
        while !HAS_GONE.load(Ordering::Acquire) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let document: serde_json::Value = client.json(Request::get("/x")).await.unwrap();
        assert!(document.is_array());
    });
}

#[test]
fn a_body_that_can_be_sent_once_is_sent_in_the_right_version() {
    let (_server, client) = Server::start(vec![
        |mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            assert_eq!(head(&mut reader), "HEAD /_ping HTTP/1.1");
            stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\nApi-Version: 1.43\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                )
                .unwrap();
        },
        |mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            assert_eq!(head(&mut reader), "POST /v1.43/x HTTP/1.1");
            let mut body = [0; 14];
            reader.read_exact(&mut body).unwrap();
            assert_eq!(&body, b"4\r\nbody\r\n0\r\n\r\n");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        },
    ]);
    block_on(async {
        let body = Body::reader(&b"body"[..]);
        assert_eq!(client.call(Request::post("/x").body("application/x-tar", body)).await.unwrap(), 200);
    });
}

#[test]
fn an_engine_is_started_once_when_nothing_listens() {
    let path = std::env::temp_dir().join(format!("yare-client-start-{}.sock", std::process::id()));
    drop(std::fs::remove_file(&path));
    let socket = path.clone();
    let client = Client::new(Address::Unix(path.clone())).with_starter(Box::new(move || {
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            head(&mut BufReader::new(stream.try_clone().unwrap()));
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        Ok(())
    }));
    assert_eq!(block_on(client.call(Request::get("/x"))).unwrap(), 204);
    std::fs::remove_file(&path).unwrap();
}
