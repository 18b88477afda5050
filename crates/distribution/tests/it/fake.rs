//! A small registry with faults: it keeps blobs and manifests in memory and notes what it was asked.

use crate::tamper::{Tamper, Tampered, Tampering};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use yare_distribution::{Patience, Settings};
use yare_oci::Digest;

pub(crate) type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// What happens to a request instead of, or on top of, the right answer.
#[derive(Clone)]
pub(crate) enum Fault {
    /// Another answer.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The connection breaks after this many bytes of the body.
    Cut(usize),
    /// Nothing comes after this many bytes of the body.
    Stall(usize),
    /// Other bytes of the same length.
    Garble,
    /// The whole content, whatever range was asked for.
    NoRange,
    /// All that comes from the start of the range on.
    NoEnd,
    /// The right answer.
    None,
    /// The right answer, after this time.
    Late(Duration),
    /// The connection breaks before anything was answered.
    Drop,
    /// These bytes instead of an answer, and the connection breaks.
    Raw(&'static str),
    /// The right answer without the last byte of its first piece, and the connection breaks.
    Short,
    /// The challenge, as if what was shown were no longer good.
    Expired,
    /// The right answer under another content type.
    Kind(&'static str),
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// What it showed to get in: for a registry that sends it back.
    fn shown(&self) -> String {
        self.header("authorization").unwrap_or_default().to_owned()
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

struct Rule {
    method: Method,
    part: String,
    times: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<Digest, Bytes>,
    manifests: BTreeMap<String, (String, Bytes)>,
    uploads: BTreeMap<u64, Vec<u8>>,
    pages: BTreeMap<String, String>,
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    /// `Authorization` that opens the door, and the challenge for those without.
    guard: Option<(String, String)>,
}

/// A registry on a port of its own.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

/// A client that does not wait long, but longer than a busy machine makes it wait by itself.
pub(crate) fn settings() -> Settings {
    let patience = Patience {
        attempts: 4,
        pause: Duration::from_millis(5),
        longest_pause: Duration::from_secs(2),
        connect: Duration::from_secs(20),
        idle: Duration::from_secs(2),
        commit: Duration::from_secs(30),
        document: Duration::from_secs(20),
    };
    Settings { patience, ..Settings::default() }
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let (fake, listener) = Self::bind().await;
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        fake
    }

    pub(crate) async fn start_tls(config: rustls::ServerConfig) -> Self {
        let (fake, listener) = Self::bind().await;
        let (serving, acceptor) = (fake.clone(), tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (serving, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serving.serve(stream).await;
                    }
                });
            }
        });
        fake
    }

    async fn bind() -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (Self { port: listener.local_addr().unwrap().port(), state: Arc::default() }, listener)
    }

    pub(crate) fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.authority())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority())
    }

    pub(crate) fn blob(&self, bytes: impl Into<Bytes>) -> yare_oci::Descriptor {
        let bytes = bytes.into();
        let descriptor = yare_oci::Descriptor::of("application/octet-stream", &bytes);
        self.state.lock().blobs.insert(descriptor.digest, bytes);
        descriptor
    }

    pub(crate) fn manifest(&self, name: &str, kind: &str, bytes: &str) -> Digest {
        let (digest, bytes) = (Digest::of(bytes), Bytes::from(bytes.to_owned()));
        let mut state = self.state.lock();
        for name in [name.to_owned(), digest.to_string()] {
            state.manifests.insert(name, (kind.to_owned(), bytes.clone()));
        }
        digest
    }

    /// The next `times` requests with this method whose target has `part` in it fail like this.
    pub(crate) fn fault(&self, method: Method, part: &str, times: usize, fault: Fault) {
        self.state.lock().rules.push(Rule { method, part: part.to_owned(), times, fault });
    }

    /// What is at this path.
    pub(crate) fn page(&self, path: &str, body: &str) {
        self.state.lock().pages.insert(path.to_owned(), body.to_owned());
    }

    pub(crate) fn answer(&self, method: Method, part: &str, times: usize, status: u16, body: &str) {
        self.fault(method, part, times, Fault::Answer(status, Vec::new(), body.to_owned()));
    }

    /// Only who shows this gets in; others get the challenge.
    pub(crate) fn guard(&self, authorization: &str, challenge: &str) {
        self.state.lock().guard = Some((authorization.to_owned(), challenge.to_owned()));
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().seen.clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    pub(crate) fn has_manifest(&self, name: &str) -> bool {
        self.state.lock().manifests.contains_key(name)
    }

    pub(crate) fn stored(&self, digest: &Digest) -> Option<Bytes> {
        self.state.lock().blobs.get(digest).cloned()
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (stream, tampering) = Tampered::new(stream);
        let service = service_fn(move |request| self.clone().answer_to(request, tampering.clone()));
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer_to(self, request: Request<Incoming>, tampering: Tampering) -> Result<Reply, io::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).map_err(io::Error::other)?;
        let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let seen = Seen { method: head.method, target, headers: head.headers, body };
        let fault = match self.note(&seen) {
            Ok(fault) => fault,
            Err(challenge) => return Ok(*challenge),
        };
        match fault {
            Some(Fault::Drop) => return Err(io::Error::other("dropped")),
            Some(Fault::Answer(status, headers, body)) => {
                let mut reply = plain(status, body.replace("{shown}", &seen.shown()));
                for (name, value) in headers {
                    reply
                        .headers_mut()
                        .append(name, value.replace("{target}", &seen.target).parse().unwrap());
                }
                return Ok(reply);
            }
            Some(Fault::Late(time)) => tokio::time::sleep(time).await,
            Some(Fault::Raw(bytes)) => tampering.set(Tamper::Raw(bytes)),
            Some(Fault::Short) => tampering.set(Tamper::Short),
            Some(Fault::Expired) => return Ok(self.challenge()),
            Some(Fault::Kind(kind)) => {
                return Ok(with(self.right(&seen, None), &[("content-type", kind.to_owned())]));
            }
            _ => {}
        }
        Ok(self.right(&seen, fault))
    }

    /// Notes what came; what is to go wrong with the answer, or the challenge for who is not let in.
    fn note(&self, seen: &Seen) -> Result<Option<Fault>, Box<Reply>> {
        let mut state = self.state.lock();
        state.seen.push(seen.clone());
        if let Some((wanted, _)) = &state.guard
            && seen.header("authorization") != Some(wanted)
        {
            drop(state);
            return Err(Box::new(self.challenge()));
        }
        let rule = state
            .rules
            .iter_mut()
            .find(|rule| rule.times > 0 && rule.method == seen.method && seen.target.contains(&rule.part));
        Ok(rule.map(|rule| {
            rule.times -= 1;
            rule.fault.clone()
        }))
    }

    fn challenge(&self) -> Reply {
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        let guard = self.state.lock().guard.clone();
        let challenge = guard.map(|(_, challenge)| ("www-authenticate", challenge));
        with(plain(401, body), challenge.as_slice())
    }

    fn right(&self, seen: &Seen, fault: Option<Fault>) -> Reply {
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        if path == "/v2/" {
            return plain(200, "{}");
        }
        if let Some(body) = self.state.lock().pages.get(path) {
            return plain(200, body.clone());
        }
        if let Some((_, name)) = path.split_once("/manifests/") {
            return self.manifest_call(seen, name);
        }
        if let Some((base, id)) = path.split_once("/blobs/uploads/") {
            return self.upload_call(seen, base, id, query);
        }
        if let Some((_, digest)) = path.split_once("/blobs/") {
            return self.blob_call(seen, digest, fault);
        }
        plain(404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such path"}]}"#)
    }

    fn manifest_call(&self, seen: &Seen, name: &str) -> Reply {
        let mut state = self.state.lock();
        if seen.method == Method::PUT {
            let digest = Digest::of(&seen.body);
            let kind = seen.header("content-type").unwrap_or_default().to_owned();
            for name in [name.to_owned(), digest.to_string()] {
                state.manifests.insert(name, (kind.clone(), seen.body.clone()));
            }
            return with(plain(201, ""), &[("docker-content-digest", digest.to_string())]);
        }
        let Some((kind, bytes)) = state.manifests.get(name) else {
            return plain(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
        };
        let headers = [
            ("content-type", kind.clone()),
            ("docker-content-digest", Digest::of(bytes).to_string()),
            ("content-length", bytes.len().to_string()),
        ];
        let body = if seen.method == Method::HEAD {
            String::new()
        } else {
            String::from_utf8_lossy(bytes).into_owned()
        };
        with(plain(200, body), &headers)
    }

    fn blob_call(&self, seen: &Seen, digest: &str, fault: Option<Fault>) -> Reply {
        let found = digest.parse().ok().and_then(|digest| self.stored(&digest));
        let Some(mut bytes) = found else {
            return plain(
                404,
                r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#,
            );
        };
        let total = bytes.len();
        if seen.method == Method::HEAD {
            return with(plain(200, ""), &[("content-length", total.to_string())]);
        }
        let range = seen.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let start: Option<usize> = range.and_then(|(start, _)| start.parse().ok());
        let end = range.and_then(|(_, last)| last.parse::<usize>().ok()).map_or(total, |last| last + 1);
        let end = if matches!(fault, Some(Fault::NoEnd)) { total } else { end };
        let mut status = 200;
        let mut headers = Vec::new();
        if let Some(start) = start
            && !matches!(fault, Some(Fault::NoRange))
        {
            bytes = bytes.slice(start..end);
            status = 206;
            headers.push(("content-range", format!("bytes {start}-{}/{total}", end - 1)));
        }
        headers.push(("content-length", bytes.len().to_string()));
        with(broken(status, bytes, fault), &headers)
    }

    fn upload_call(&self, seen: &Seen, base: &str, id: &str, query: &str) -> Reply {
        let param = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.replace("%3A", ":"))
        };
        let mut state = self.state.lock();
        if seen.method == Method::POST {
            if let Some(digest) = param("mount").and_then(|text| text.parse().ok())
                && state.blobs.contains_key(&digest)
            {
                return plain(201, "");
            }
            let id = state.seen.len() as u64;
            state.uploads.insert(id, Vec::new());
            return with(plain(202, ""), &[("location", format!("{base}/blobs/uploads/{id}?_state=x"))]);
        }
        let Some(id) = id.parse().ok().filter(|id| state.uploads.contains_key(id)) else {
            return plain(404, r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"no such upload"}]}"#);
        };
        let content = state.uploads.get_mut(&id).unwrap();
        let location = ("location", format!("{base}/blobs/uploads/{id}?_state=y"));
        if seen.method == Method::DELETE {
            state.uploads.remove(&id);
            return plain(204, "");
        }
        if seen.method == Method::PATCH {
            let start =
                seen.header("content-range").and_then(|range| range.split('-').next()?.parse::<usize>().ok());
            if start.is_some_and(|start| start != content.len()) {
                return plain(416, "");
            }
        }
        content.extend_from_slice(&seen.body);
        let range = ("range", format!("0-{}", content.len().saturating_sub(1)));
        if seen.method != Method::PUT {
            return with(plain(if seen.method == Method::GET { 204 } else { 202 }, ""), &[location, range]);
        }
        let content = Bytes::from(state.uploads.remove(&id).unwrap());
        if param("digest") != Some(Digest::of(&content).to_string()) {
            return plain(
                400,
                r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}"#,
            );
        }
        state.blobs.insert(Digest::of(&content), content);
        plain(201, "")
    }
}

pub(crate) fn plain(status: u16, body: impl Into<String>) -> Reply {
    let body: String = body.into();
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    let mut reply = Response::new(body);
    *reply.status_mut() = StatusCode::from_u16(status).unwrap();
    reply
}

fn with(mut reply: Reply, headers: &[(&'static str, String)]) -> Reply {
    for (name, value) in headers {
        reply.headers_mut().insert(*name, value.parse().unwrap());
    }
    reply
}

/// A body that does not go well.
fn broken(status: u16, bytes: Bytes, fault: Option<Fault>) -> Reply {
    let (bytes, end): (Bytes, Option<io::Result<()>>) = match fault {
        Some(Fault::Cut(after)) => {
            (bytes.slice(..after.min(bytes.len())), Some(Err(io::Error::other("cut"))))
        }
        Some(Fault::Stall(after)) => (bytes.slice(..after.min(bytes.len())), Some(Ok(()))),
        Some(Fault::Garble) => (bytes.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into(), None),
        _ => (bytes, None),
    };
    let pieces: Vec<Bytes> = bytes.chunks(8 * 1024).map(Bytes::copy_from_slice).collect();
    let stream = futures_util::stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))));
    let stream = stream.chain(futures_util::stream::once(async move {
        match end {
            None => Ok(Frame::data(Bytes::new())),
            Some(Err(error)) => {
                // Give what was sent the time to arrive: a reset throws away what is not read yet.
                tokio::time::sleep(Duration::from_millis(500)).await;
                Err(error)
            }
            Some(Ok(())) => std::future::pending().await,
        }
    }));
    let mut reply = Response::new(StreamBody::new(stream).boxed_unsync());
    *reply.status_mut() = StatusCode::from_u16(status).unwrap();
    reply
}
