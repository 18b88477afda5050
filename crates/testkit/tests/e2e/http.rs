//! HTTP by hand: what no client would send, and what none would show.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// An answer, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {} {:?}", self.status, self.text()))
    }

    /// The text of an error's JSON.
    #[track_caller]
    pub(crate) fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .unwrap_or_else(|| panic!("no message in {:?}", self.text()))
            .to_owned()
    }
}

/// One request on a connection of its own.
pub(crate) fn request(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Response {
    let body = body.map(ToString::to_string).unwrap_or_default();
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = open(socket);
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let (mut response, rest) = read_head(&mut stream);
    response.body = rest;
    read_on(response, &mut stream)
}

/// An answer with what comes until its connection ends.
pub(crate) fn read_on(mut response: Response, stream: &mut UnixStream) -> Response {
    stream.read_to_end(&mut response.body).unwrap();
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = unchunk(&response.body);
    }
    response
}

/// A request that turns its connection into a stream; with `upgrade` it asks for that as newer clients do,
/// without it the connection ends with the answer. Gives the answer's head and the connection.
pub(crate) fn hijack(socket: &Path, path: &str, body: &str, upgrade: bool) -> (Response, UnixStream) {
    let asks = if upgrade { "Upgrade: tcp\r\nConnection: Upgrade" } else { "Connection: close" };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: docker\r\n{asks}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = open(socket);
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let (mut response, rest) = read_head(&mut stream);
    response.body = rest;
    (response, stream)
}

pub(crate) fn open(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Reads status line and headers; gives what came after them too.
pub(crate) fn read_head(stream: &mut UnixStream) -> (Response, Vec<u8>) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let mut block = [0; 4096];
        let count = stream.read(&mut block).unwrap();
        assert!(count > 0, "the connection ended in the head: {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&block[..count]);
    };
    let rest = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    (Response { status, headers, body: Vec::new() }, rest)
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let chunk = &bytes[end + 2..];
        body.extend_from_slice(&chunk[..size]);
        bytes = &chunk[size + 2..];
    }
    body
}

/// Takes Docker's frames apart: standard output and standard error.
pub(crate) fn demultiplex(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    while bytes.len() >= 8 {
        let size = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let payload = &bytes[8..8 + size];
        match bytes[0] {
            1 => output.extend_from_slice(payload),
            2 => errors.extend_from_slice(payload),
            kind => panic!("a frame of kind {kind}"),
        }
        bytes = &bytes[8 + size..];
    }
    assert!(bytes.is_empty(), "half a frame at the end: {bytes:?}");
    (output, errors)
}
