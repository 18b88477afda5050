//! Connections: opening, keeping, negotiating, upgrading.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use crate::lines::server_error;
use crate::ssh::Tunnel;
use crate::{Address, Body, Error, Hijacked, JsonLines, Request, Result, TlsSettings, tls};

/// The newest API version this client speaks.
pub const NEWEST_API: &str = "1.51";

/// How many idle connections are kept.
const IDLE: usize = 4;
/// How much of an error body is read.
const ERROR_BODY: usize = 1 << 20;

/// A client of one engine.
///
/// It is not `Sync`: it belongs to the one thread of a current-thread runtime.
pub struct Client {
    address: Address,
    tls: Option<TlsSettings>,
    /// The last program that was started for a connection: it knows why the connection broke.
    tunnel: RefCell<Option<Tunnel>>,
    version: RefCell<String>,
    /// Whether the version is settled: pinned by the user, or lowered to the server's.
    settled: Cell<bool>,
    idle: RefCell<Vec<SendRequest<Body>>>,
    headers: Vec<(&'static str, String)>,
    /// Called once when nothing listens.
    starter: Cell<Option<Starter>>,
}

/// Starts an engine, or says why it could not.
pub type Starter = Box<dyn Fn() -> Result<(), String>>;

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.address).field("version", &self.version).finish()
    }
}

impl Client {
    /// A client of the engine at `address`. Nothing is sent before the first call.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            tls: None,
            tunnel: RefCell::default(),
            version: RefCell::new(NEWEST_API.to_owned()),
            settled: Cell::new(false),
            idle: RefCell::default(),
            headers: Vec::new(),
            starter: Cell::default(),
        }
    }

    /// Has `start` called, once, when nothing listens at the address; the call is then tried again.
    #[must_use]
    pub fn with_starter(self, start: Starter) -> Self {
        self.starter.set(Some(start));
        self
    }

    /// Speaks TLS on TCP; sockets and ssh have no need of it.
    #[must_use]
    pub fn with_tls(mut self, settings: TlsSettings) -> Self {
        self.tls = Some(settings);
        self
    }

    /// Pins the API version (`DOCKER_API_VERSION`): it is never lowered.
    #[must_use]
    pub fn with_version(self, version: &str) -> Self {
        version.trim_start_matches('v').clone_into(&mut self.version.borrow_mut());
        self.settled.set(true);
        self
    }

    /// Adds a header to every request.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The engine's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The API version in use.
    pub fn version(&self) -> String {
        self.version.borrow().clone()
    }

    /// Sends a request and returns the reply, which is not an error one; its body is still to be read.
    ///
    /// # Errors
    /// Connection errors, and every status of 400 and above as [`Error::Server`].
    pub async fn send(&self, request: Request) -> Result<Response> {
        let (reply, call) = self.exchange(request).await?;
        Response::check(reply, call).await
    }

    /// Sends a request and reads the whole reply as one JSON document.
    ///
    /// # Errors
    /// As [`Client::send`], and when the reply is no such document.
    pub async fn json<T: DeserializeOwned>(&self, request: Request) -> Result<T> {
        let mut response = self.send(request).await?;
        let body = response.read_all().await?;
        let value =
            serde_json::from_slice(&body).map_err(|error| response.decode_error(error.to_string()))?;
        self.recycle(response);
        Ok(value)
    }

    /// Sends a request and reads the whole reply as bytes.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn bytes(&self, request: Request) -> Result<Bytes> {
        let mut response = self.send(request).await?;
        let body = response.read_all().await?;
        self.recycle(response);
        Ok(body)
    }

    /// Sends a request whose reply has no body of interest; returns the status.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn call(&self, request: Request) -> Result<u16> {
        let mut response = self.send(request).await?;
        let status = response.status();
        while response.chunk().await?.is_some() {}
        self.recycle(response);
        Ok(status)
    }

    /// Sends a request whose reply is a stream of JSON documents; returns once the reply's head is there.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn stream<T: DeserializeOwned>(&self, request: Request) -> Result<JsonLines<T>> {
        Ok(JsonLines::new(self.send(request).await?))
    }

    /// Sends a request that asks for the connection itself, on a connection of its own.
    ///
    /// # Errors
    /// As [`Client::send`], and when the engine answers without handing the connection over.
    pub async fn hijack(&self, request: Request) -> Result<Hijacked> {
        let request = request.header("connection", "Upgrade").header("upgrade", "tcp");
        let (reply, call) = self.exchange(request).await?;
        if reply.response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            let status = reply.response.status().as_u16();
            Response::check(reply, call).await?;
            return Err(Error::NotUpgraded { status });
        }
        let multiplexed = reply
            .response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .map(|kind| kind.contains("multiplexed"));
        let upgraded = hyper::upgrade::on(reply.response).await.map_err(|error| call.transport(&error))?;
        let parts = upgraded.downcast::<TokioIo<Stream>>().map_err(|_| Error::Transport {
            method: call.method.clone(),
            path: call.path.clone(),
            what: "the upgraded connection is of another kind".to_owned(),
        })?;
        Ok(Hijacked::new(parts.io.into_inner(), parts.read_buf, multiplexed))
    }

    /// A raw connection to the engine, for `system dial-stdio`.
    ///
    /// # Errors
    /// When nothing listens.
    pub async fn dial(&self) -> Result<Hijacked> {
        Ok(Hijacked::new(self.stream_to_engine().await?, Bytes::new(), None))
    }

    /// Sends once; once more with a lower version when the server says that ours is too new.
    async fn exchange(&self, request: Request) -> Result<(Reply, Call)> {
        if !self.settled.get() && request.body.again().is_none() {
            // This body can be sent only once, so the version must be right the first time.
            self.negotiate().await?;
        }
        let call = Call { method: request.method.to_string(), path: request.path.clone() };
        let second = (!self.settled.get()).then(|| clone_without_body(&request));
        let body_again = request.body.again();
        let reply = self.send_once(request, &call).await?;
        let (Some(mut second), Some(body)) = (second, body_again) else { return Ok((reply, call)) };
        if reply.response.status() != http::StatusCode::BAD_REQUEST {
            if reply.response.status().as_u16() < 400 {
                self.settled.set(true);
            }
            return Ok((reply, call));
        }
        let error = match Response::check(reply, call.clone()).await {
            Err(error) => error,
            Ok(_) => unreachable!("a status of 400 is an error"),
        };
        if !error.message().contains("is too new") {
            return Err(error);
        }
        self.negotiate().await?;
        second.body = body;
        let reply = self.send_once(second, &call).await?;
        Ok((reply, call))
    }

    /// Asks the server for its version and takes the lower one.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn negotiate(&self) -> Result<()> {
        if self.settled.get() {
            return Ok(());
        }
        let request = Request::head("/_ping");
        let call = Call { method: "HEAD".to_owned(), path: "/_ping".to_owned() };
        let version = self.version.replace(String::new());
        let reply = self.send_once(request, &call).await;
        self.version.replace(version);
        let reply = reply?;
        if let Some(theirs) =
            reply.response.headers().get("api-version").and_then(|value| value.to_str().ok())
            && older(theirs, &self.version.borrow())
        {
            self.version.replace(theirs.to_owned());
        }
        self.settled.set(true);
        Ok(())
    }

    async fn send_once(&self, request: Request, call: &Call) -> Result<Reply> {
        let mut sender = self.connection().await?;
        let http_request = self.build(request);
        let response = match sender.try_send_request(http_request).await {
            Ok(response) => response,
            Err(mut failed) => {
                // An idle connection that the server has closed: the request was not sent, try a fresh one.
                let Some(unsent) = failed.take_message() else {
                    return Err(self.broken(call, failed.error()));
                };
                self.idle.borrow_mut().clear();
                sender = self.open().await?;
                sender.send_request(unsent).await.map_err(|error| self.broken(call, &error))?
            }
        };
        Ok(Reply { response, sender })
    }

    /// Why a connection broke before the reply: what is below HTTP may know.
    fn broken(&self, call: &Call, error: &hyper::Error) -> Error {
        let told = || self.tunnel.borrow_mut().as_mut().and_then(Tunnel::explain);
        tls::explain(&self.address, error).or_else(told).unwrap_or_else(|| call.transport(error))
    }

    fn build(&self, request: Request) -> http::Request<Body> {
        let host = match &self.address {
            // Any name will do; this is Docker's, and some proxies look for it.
            Address::Unix(_) | Address::Ssh(_) => "api.moby.localhost".to_owned(),
            Address::Tcp { host, port } => format!("{host}:{port}"),
        };
        let mut builder = http::Request::builder()
            .method(request.method.clone())
            .uri(request.target(&self.version.borrow()))
            .header("host", host)
            .header("user-agent", concat!("yare-client/", env!("CARGO_PKG_VERSION")));
        for (name, value) in request.headers.iter().chain(&self.headers) {
            builder = builder.header(*name, value);
        }
        builder.body(request.body).expect("paths and queries are escaped, header values come from us")
    }

    /// An idle connection, or a new one.
    async fn connection(&self) -> Result<SendRequest<Body>> {
        loop {
            let idle = self.idle.borrow_mut().pop();
            match idle {
                Some(sender) if sender.is_ready() => return Ok(sender),
                Some(_) => {}
                None => return self.open().await,
            }
        }
    }

    async fn stream_to_engine(&self) -> Result<Stream> {
        let error = match self.reach().await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let nothing_listens = matches!(&error, Error::Connect { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused));
        match self.starter.take() {
            Some(start) if nothing_listens => match start() {
                Ok(()) => self.reach().await,
                Err(why) => Err(Error::Unsupported { what: error.to_string(), hint: Some(why) }),
            },
            _ => Err(error),
        }
    }

    async fn reach(&self) -> Result<Stream> {
        let failed = |source| connect_error(&self.address, source);
        match &self.address {
            Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix).map_err(failed),
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                // Small messages go both ways in attach; Nagle would hold them back.
                drop(stream.set_nodelay(true));
                let Some(settings) = &self.tls else { return Ok(Stream::Tcp(stream)) };
                match tls::connect(settings, host, stream).await {
                    Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
                    Err(error) => Err(tls::explain(&self.address, &error).unwrap_or_else(|| failed(error))),
                }
            }
            Address::Ssh(ssh) => {
                let dialled = ssh.dial().and_then(|(stream, tunnel)| {
                    self.tunnel.replace(Some(tunnel));
                    UnixStream::from_std(stream)
                });
                dialled.map(Stream::Unix).map_err(|source| Error::Connect {
                    message: format!("cannot run ssh for {}", self.address),
                    hint: (source.kind() == io::ErrorKind::NotFound)
                        .then(|| "install OpenSSH's client, which makes the connection".to_owned()),
                    source,
                })
            }
        }
    }

    async fn open(&self) -> Result<SendRequest<Body>> {
        let stream = self.stream_to_engine().await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| Error::Transport {
                method: "CONNECT".to_owned(),
                path: self.address.to_string(),
                what: error.to_string(),
            })?;
        // The task ends with the connection; its error reaches whoever waits for the reply.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        Ok(sender)
    }

    /// Puts the connection of a fully read reply back.
    fn recycle(&self, response: Response) {
        if let Some(sender) = response.sender
            && response.ended
        {
            let mut idle = self.idle.borrow_mut();
            if idle.len() < IDLE {
                idle.push(sender);
            }
        }
    }
}

fn clone_without_body(request: &Request) -> Request {
    Request {
        method: request.method.clone(),
        path: request.path.clone(),
        query: request.query.clone(),
        headers: request.headers.clone(),
        body: Body::empty(),
    }
}

/// Whether API version `a` is older than `b`.
fn older(a: &str, b: &str) -> bool {
    let parse = |text: &str| {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    parse(a) < parse(b)
}

#[derive(Debug)]
struct Reply {
    response: http::Response<Incoming>,
    sender: SendRequest<Body>,
}

/// What was called, for error texts.
#[derive(Debug, Clone)]
struct Call {
    method: String,
    path: String,
}

impl Call {
    fn transport(&self, error: &hyper::Error) -> Error {
        Error::Transport {
            method: self.method.clone(),
            path: self.path.clone(),
            what: yare_errdefs::chain(error),
        }
    }
}

/// A reply whose body is still to be read.
#[derive(Debug)]
pub struct Response {
    head: http::response::Parts,
    body: Incoming,
    sender: Option<SendRequest<Body>>,
    call: Call,
    ended: bool,
}

impl Response {
    async fn check(reply: Reply, call: Call) -> Result<Self> {
        let (head, body) = reply.response.into_parts();
        let status = head.status.as_u16();
        let mut response = Self { head, body, sender: Some(reply.sender), call, ended: false };
        if status < 400 {
            return Ok(response);
        }
        let mut text = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            text.extend_from_slice(&chunk);
            if text.len() > ERROR_BODY {
                break;
            }
        }
        let call = format!("{} {}", response.call.method, response.call.path);
        Err(server_error(status, &text, &call))
    }

    /// The HTTP status, below 400.
    pub fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks before the body's end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.frame().await {
                None => {
                    self.ended = true;
                    return Ok(None);
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(self.call.transport(&error)),
            }
        }
    }

    /// The body as a stream of JSON documents.
    pub fn into_json_lines<T: DeserializeOwned>(self) -> JsonLines<T> {
        JsonLines::new(self)
    }

    /// The whole body.
    ///
    /// # Errors
    /// When the connection breaks before the body's end.
    pub async fn bytes(mut self) -> Result<Bytes> {
        self.read_all().await
    }

    async fn read_all(&mut self) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    /// The whole body as one JSON document.
    ///
    /// # Errors
    /// When the connection breaks, or the body is no such document.
    pub async fn json<T: DeserializeOwned>(mut self) -> Result<T> {
        let body = self.read_all().await?;
        serde_json::from_slice(&body).map_err(|error| self.decode_error(error.to_string()))
    }

    pub(crate) fn decode_error(&self, what: String) -> Error {
        Error::Decode { method: self.call.method.clone(), path: self.call.path.clone(), what }
    }
}

/// A connected stream of any kind.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Unix(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
            Stream::Tcp(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
            Stream::Tls(stream) => {
                let $inner = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

fn connect_error(address: &Address, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return Error::Connect {
            message: format!(
                "permission denied while trying to connect to the Docker daemon socket at {address}"
            ),
            source,
            hint: Some("use sudo, or join the group that owns the socket and log in again".to_owned()),
        };
    }
    let why = match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => None,
        _ => Some(format!("the connection failed: {source}")),
    };
    Error::Connect {
        message: format!("Cannot connect to the Docker daemon at {address}. Is the docker daemon running?"),
        source,
        hint: why,
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(older("1.9", "1.51"));
        assert!(!older("1.51", "1.51"));
        assert!(!older("2.0", "1.51"));
    }
}
