//! gRPC by hand: messages put together from their fields' numbers, and a client that says what no client says.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, header};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::http::open;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A message being put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// One that was put together elsewhere.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A number, a truth value or an enumeration.
    pub(crate) fn int(mut self, field: u32, value: i64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value.cast_unsigned());
        self
    }

    pub(crate) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub(crate) fn message(self, field: u32, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }

    /// An entry of a map from texts to texts.
    pub(crate) fn pair(self, field: u32, key: &str, value: &str) -> Self {
        self.message(field, &Message::new().text(1, key).text(2, value))
    }

    pub(crate) fn digest(&self) -> String {
        let hex: String = Sha256::digest(&self.0).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// With its length before it, as it goes over the wire.
    pub(crate) fn framed(&self) -> Bytes {
        let length = u32::try_from(self.0.len()).unwrap().to_be_bytes();
        [&[0], &length[..], &self.0].concat().into()
    }
}

/// The values of a field in a message, those of numbers as eight bytes.
pub(crate) fn fields(mut bytes: &[u8], wanted: u32) -> Vec<Vec<u8>> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return value;
            }
            shift += 7;
        }
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = match tag & 7 {
            0 => varint(&mut bytes).to_le_bytes().to_vec(),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                value.to_vec()
            }
            other => panic!("a field of the kind {other}"),
        };
        if tag >> 3 == u64::from(wanted) {
            found.push(value);
        }
    }
    found
}

/// The only text of a field.
#[track_caller]
pub(crate) fn text(bytes: &[u8], wanted: u32) -> String {
    let found = fields(bytes, wanted);
    String::from_utf8(found.into_iter().next().unwrap_or_default()).unwrap()
}

/// The number of a field; 0 when it is not there.
pub(crate) fn number(bytes: &[u8], wanted: u32) -> u64 {
    let found = fields(bytes, wanted).into_iter().next();
    found.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

/// An error that a peer answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: u32,
    pub(crate) message: String,
}

/// A connection to a peer that answers calls.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    runtime: Arc<Runtime>,
    sender: SendRequest<Bytes>,
}

pub(crate) fn runtime() -> Arc<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Arc::new(builder.worker_threads(1).enable_all().build().unwrap())
}

impl Wire {
    /// The connection of a client that asks for builds.
    pub(crate) fn open(socket: &Path) -> Self {
        Self::over(upgraded(socket, "/grpc", ""))
    }

    /// A connection over which the peer answers.
    pub(crate) fn over(stream: UnixStream) -> Self {
        let runtime = runtime();
        stream.set_nonblocking(true).unwrap();
        let entered = runtime.enter();
        let stream = tokio::net::UnixStream::from_std(stream).unwrap();
        drop(entered);
        let (sender, connection) = runtime.block_on(h2::client::handshake(stream)).unwrap();
        runtime.spawn(connection);
        Self { runtime, sender }
    }

    /// Asks, and reads nothing of the answer for as long as what is returned lives.
    pub(crate) fn unread(&self, path: &str, question: &Message) -> impl Sized + use<> {
        let request = Request::builder().method(Method::POST).uri(format!("http://localhost{path}"));
        let request = request.header(header::CONTENT_TYPE, "application/grpc").body(()).unwrap();
        let mut sender = self.runtime.block_on(self.sender.clone().ready()).unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(question.framed(), true).unwrap();
        (self.runtime.block_on(response).unwrap().into_body(), body)
    }

    /// One message for one.
    pub(crate) fn call(&self, path: &str, build: &str, question: &Message) -> Result<Vec<u8>, Refused> {
        let mut answers = self.exchange(path, build, std::slice::from_ref(question))?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// Messages that are all sent at once, and all answers.
    pub(crate) fn exchange(
        &self,
        path: &str,
        build: &str,
        questions: &[Message],
    ) -> Result<Vec<Vec<u8>>, Refused> {
        let gone = |error: h2::Error| Refused { code: 14, message: error.to_string() };
        let request = Request::builder().method(Method::POST).uri(format!("http://localhost{path}"));
        let request = request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
        let request = request.header("buildkit-controlapi-buildid", build).body(()).unwrap();
        let mut sender = self.runtime.block_on(self.sender.clone().ready()).map_err(gone)?;
        let (response, mut body) = sender.send_request(request, false).map_err(gone)?;
        for question in questions {
            // A peer may refuse before it has all.
            if body.send_data(question.framed(), false).is_err() {
                break;
            }
        }
        drop(body.send_data(Bytes::new(), true));
        let entered = self.runtime.enter();
        let response = tokio::time::timeout(PATIENCE, response);
        drop(entered);
        let response = self.runtime.block_on(response).expect("a call is answered in time").map_err(gone)?;
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        while let Some(piece) = self.runtime.block_on(std::future::poll_fn(|context| body.poll_data(context)))
        {
            let piece = piece.map_err(gone)?;
            body.flow_control().release_capacity(piece.len()).map_err(gone)?;
            bytes.extend_from_slice(&piece);
        }
        let trailers = self.runtime.block_on(body.trailers()).map_err(gone)?;
        outcome(trailers.as_ref().unwrap_or(&head.headers))?;
        Ok(unframed(&bytes))
    }
}

fn outcome(trailers: &HeaderMap) -> Result<(), Refused> {
    let value = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match value("grpc-status").parse().unwrap_or(2) {
        0 => Ok(()),
        code => Err(Refused { code, message: unescaped(value("grpc-message")) }),
    }
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn unframed(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while bytes.len() >= 5 {
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        if bytes.len() < 5 + length {
            break;
        }
        messages.push(bytes[5..5 + length].to_vec());
        bytes = &bytes[5 + length..];
    }
    messages
}

pub(crate) fn upgraded(socket: &Path, path: &str, headers: &str) -> UnixStream {
    let mut stream = open(socket);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: docker\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // Byte by byte: the peer may begin to talk right behind it.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream
}
