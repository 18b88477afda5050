//! A plain client of the engine's HTTP API: one connection for each request, no retries, so that a test
//! knows exactly what was acknowledged.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine's address.
#[derive(Debug, Clone)]
pub(crate) struct Api(PathBuf);

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Api {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self(socket)
    }

    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, "", &[])
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Answer> {
        self.send("DELETE", path, "", &[])
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send("POST", path, "application/json", body.to_string().as_bytes())
    }

    pub(crate) fn post_tar(&self, path: &str, tar: &[u8]) -> Result<Answer> {
        self.send("POST", path, "application/x-tar", tar)
    }

    /// The state of a container; `None` when there is no such container.
    pub(crate) fn inspect(&self, id: &str) -> Result<Option<Value>> {
        let answer = self.get(&format!("/containers/{id}/json"))?;
        match answer.status {
            200 => Ok(Some(answer.json())),
            404 => Ok(None),
            status => Err(Error::other(format!("inspect of {id}: {status} {}", answer.text()))),
        }
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Answer> {
        let mut stream = self.begin(method, path, kind, body.len())?;
        stream.write_all(body)?;
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw)?;
        parse(&raw)
    }

    /// Sends a request's head that announces `length` bytes; the body is the caller's.
    pub(crate) fn begin(&self, method: &str, path: &str, kind: &str, length: usize) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.0)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
        write!(
            stream,
            "{method} /v1.47{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{kind}Content-Length: {length}\r\n\r\n"
        )?;
        Ok(stream)
    }
}

/// Takes an answer apart; one that broke off is an error.
pub(crate) fn parse(raw: &[u8]) -> Result<Answer> {
    let broken = || Error::new(ErrorKind::UnexpectedEof, "the answer broke off");
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(broken)?;
    let head = String::from_utf8_lossy(&raw[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    let rest = &raw[end + 4..];
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let body = if field("transfer-encoding") == Some("chunked") {
        joined_chunks(rest).ok_or_else(broken)?
    } else if let Some(length) = field("content-length").and_then(|length| length.parse().ok()) {
        rest.get(..length).ok_or_else(broken)?.to_vec()
    } else {
        rest.to_vec()
    };
    Ok(Answer { status, body })
}

fn joined_chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
        let chunk = rest.get(line + 2..line + 2 + length)?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunk);
        rest = rest.get(line + 4 + length..)?;
    }
}

/// Takes Docker's multiplexed stream apart: what came on standard output, and on standard error.
pub(crate) fn demultiplex(mut stream: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((head, rest)) = stream.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let length = length.min(rest.len());
        if head[0] == 2 { &mut err } else { &mut out }.extend_from_slice(&rest[..length]);
        stream = &rest[length..];
    }
    (out, err)
}

#[test]
fn answers_are_taken_apart() {
    let answer =
        parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
    let answer = parse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (404, "{}"));
    for broken in [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc".as_slice(), b"HTTP/1.1 200"] {
        assert!(parse(broken).is_err());
    }
    assert_eq!(demultiplex(b"\x01\0\0\0\0\0\0\x02hi\x02\0\0\0\0\0\0\x01!"), (b"hi".to_vec(), b"!".to_vec()));
}
