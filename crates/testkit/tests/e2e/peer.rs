//! The client's side of a session: as clients are, and as no client is.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response, header};
use tokio::runtime::Runtime;

use crate::wire::{Message, fields, runtime, text, unframed, upgraded};

/// A session of a client.
#[derive(Debug)]
pub(crate) struct Session {
    over: Arc<AtomicBool>,
    /// Secrets that it was asked for.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

/// A call of the engine to its client.
#[derive(Debug)]
pub(crate) struct Asked {
    /// `/package.Service/Method`.
    pub(crate) path: String,
    runtime: Arc<Runtime>,
    inbound: RecvStream,
    buffer: Vec<u8>,
    outbound: SendStream<Bytes>,
}

/// What a session has to offer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offers {
    /// Names and contents, whatever folder they are asked of.
    pub(crate) files: Files,
    /// By digest, whatever layout they are asked of.
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) secrets: BTreeMap<String, String>,
}

/// Names and contents.
type Files = &'static [(&'static str, &'static str)];

pub(crate) const FILES: &str = "/moby.filesync.v1.FileSync/DiffCopy";
const READ: &str = "/containerd.services.content.v1.Content/Read";
const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";

impl Session {
    /// One that does what a client does.
    pub(crate) fn open(socket: &Path, id: &str, offers: Offers) -> Self {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let secrets = Arc::clone(&asked);
        let act = move |call: Asked| match call.path.as_str() {
            FILES => send_files(call, offers.files),
            _ => answer(call, &offers, &secrets),
        };
        let mut session = Self::acting(socket, id, act);
        session.asked = asked;
        session
    }

    /// One that answers each call as it likes, on a thread of its own.
    pub(crate) fn acting(socket: &Path, id: &str, act: impl Fn(Asked) + Send + Sync + 'static) -> Self {
        let headers = format!("X-Docker-Expose-Session-Uuid: {id}\r\n");
        let stream = upgraded(socket, "/session", &headers);
        stream.set_nonblocking(true).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (ended, act) = (Arc::clone(&over), Arc::new(act));
        std::thread::spawn(move || {
            let runtime = runtime();
            let entered = runtime.enter();
            let stream = tokio::net::UnixStream::from_std(stream).unwrap();
            drop(entered);
            let mut connection = runtime.block_on(h2::server::handshake(stream)).unwrap();
            while !ended.load(Ordering::Relaxed) {
                let entered = runtime.enter();
                let soon = tokio::time::timeout(Duration::from_millis(200), connection.accept());
                drop(entered);
                let (request, mut respond) = match runtime.block_on(soon) {
                    Ok(Some(Ok(accepted))) => accepted,
                    Ok(_) => break,
                    Err(_) => continue,
                };
                let head = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
                let Ok(outbound) = respond.send_response(head.body(()).unwrap(), false) else { continue };
                let (head, inbound) = request.into_parts();
                let (path, runtime) = (head.uri.path().to_owned(), Arc::clone(&runtime));
                let (act, buffer) = (Arc::clone(&act), Vec::new());
                std::thread::spawn(move || act(Asked { path, runtime, inbound, buffer, outbound }));
            }
        });
        Self { over, asked: Arc::default() }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Asked {
    /// The next messages of the engine, one at least; none at the end.
    pub(crate) fn next(&mut self) -> Vec<Vec<u8>> {
        loop {
            let Some(Ok(piece)) = self.runtime.block_on(poll_fn(|context| self.inbound.poll_data(context)))
            else {
                return Vec::new();
            };
            drop(self.inbound.flow_control().release_capacity(piece.len()));
            self.buffer.extend_from_slice(&piece);
            let messages = unframed(&self.buffer);
            let used: usize = messages.iter().map(|message| message.len() + 5).sum();
            self.buffer.drain(..used);
            if !messages.is_empty() {
                return messages;
            }
        }
    }

    /// Sends a message when the engine has room for it. `false` when it takes no more.
    pub(crate) fn send(&mut self, message: &Message) -> bool {
        self.send_bytes(message.framed())
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            self.outbound.reserve_capacity(bytes.len());
            match self.runtime.block_on(poll_fn(|context| self.outbound.poll_capacity(context))) {
                Some(Ok(room)) => {
                    let piece = bytes.split_to(room.min(bytes.len()));
                    if self.outbound.send_data(piece, false).is_err() {
                        return false;
                    }
                }
                _ => return false,
            }
        }
        true
    }

    /// Ends the call with a code.
    pub(crate) fn end(mut self, code: &'static str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(code));
        drop(self.outbound.send_trailers(trailers));
    }
}

/// Answers a call of one message.
fn answer(mut call: Asked, offers: &Offers, secrets: &Mutex<Vec<String>>) {
    let question = call.next().pop().unwrap_or_default();
    let name = || text(&question, 1);
    let answers = match call.path.as_str() {
        READ => offers
            .blobs
            .get(&name())
            .map(|blob| blob.chunks(1 << 20).map(|piece| Message::new().bytes(2, piece)).collect()),
        GET_SECRET => {
            secrets.lock().unwrap().push(name());
            offers.secrets.get(&name()).map(|secret| vec![Message::new().text(1, secret)])
        }
        _ => return call.end("12"),
    };
    let Some(answers): Option<Vec<Message>> = answers else { return call.end("5") };
    if answers.iter().all(|answer| call.send(answer)) {
        call.end("0");
    }
}

/// A file as it is told of.
pub(crate) fn stat(name: &str, size: usize) -> Message {
    let size = i64::try_from(size).unwrap();
    let stat = Message::new().text(1, name).int(2, 0o644).int(5, size).int(6, 1_600_000_000_000_000_000);
    Message::new().int(1, 0).message(2, &stat)
}

/// Tells all files, then sends those that are asked for.
fn send_files(mut call: Asked, files: Files) {
    for (name, content) in files {
        call.send(&stat(name, content.len()));
    }
    call.send(&Message::new().int(1, 0));
    loop {
        let packets = call.next();
        if packets.is_empty() {
            return call.end("0");
        }
        for packet in packets {
            let number = |field: u32| fields(&packet, field).first().map_or(0, |value| value[0]);
            let id = i64::from(number(3));
            if number(1) == 1 {
                call.send(&Message::new().int(1, 2).int(3, id).text(4, files[usize::from(number(3))].1));
                call.send(&Message::new().int(1, 2).int(3, id));
            } else {
                call.send(&Message::new().int(1, 3));
            }
        }
    }
}
