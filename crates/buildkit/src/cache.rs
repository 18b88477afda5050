//! Build caches in other places, as clients ask for them, and a client's folder as such a place:
//! `containerd.services.content.v1.Content` of its session.
//!
//! A path in a request is the client's: here it is only the name under which its session knows the folder.

use crate::grpc::client::Exchange;
use crate::grpc::{Code, Status};
use crate::link::Link;
use crate::proto::Typed;
use crate::proto::content::{
    COMMIT, InfoRequest, InfoResponse, ReadRequest, ReadResponse, WRITE, WriteRequest, WriteResponse,
};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use yare_build::ContentStore;
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, Digest};

const READ: &str = "/containerd.services.content.v1.Content/Read";
const INFO: &str = "/containerd.services.content.v1.Content/Info";
const WRITES: &str = "/containerd.services.content.v1.Content/Write";
/// Names the folder, in the head of a call.
const STORE: &str = "buildkit-attachable-store-id";
/// Bytes of a message.
const PIECE: usize = 1 << 20;
/// Most bytes of a manifest.
const LONGEST: u64 = 8 << 20;

/// `--cache-from` or `--cache-to` as the build engine takes it.
pub(crate) type Entry = BTreeMap<String, String>;

/// Reads one entry of a request.
pub(crate) fn entry(kind: &str, attributes: &BTreeMap<String, String>) -> Entry {
    let mut entry = attributes.clone();
    entry.insert("type".to_owned(), kind.to_owned());
    if kind == "local" {
        let path = entry.get("src").or_else(|| entry.get("dest")).cloned().unwrap_or_default();
        entry.insert("id".to_owned(), format!("local:{path}"));
        entry.insert("type".to_owned(), "client".to_owned());
    }
    entry
}

/// Reads the entries of a request.
pub(crate) fn entries(all: &[Typed]) -> Vec<Entry> {
    all.iter().map(|one| entry(&one.kind, &one.attributes)).collect()
}

/// Reads the option `cache-imports`: a JSON list.
pub(crate) fn imports(text: &str) -> Result<Vec<Entry>> {
    #[derive(Deserialize)]
    struct Import {
        #[serde(rename = "Type", alias = "type", default)]
        kind: String,
        #[serde(rename = "Attrs", alias = "attrs", default)]
        attributes: Option<BTreeMap<String, String>>,
    }
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let all: Option<Vec<Import>> = serde_json::from_str(text)
        .map_err(|error| Error::invalid("the option cache-imports cannot be read").caused_by(error))?;
    let all = all.unwrap_or_default().into_iter();
    Ok(all.map(|one| entry(&one.kind, &one.attributes.unwrap_or_default())).collect())
}

/// Those places that a cache can be read from here, and the kinds of the others. A cache that cannot be had is
/// no reason to fail.
pub(crate) fn usable(all: Vec<Entry>) -> (Vec<Entry>, Vec<String>) {
    let kind = |entry: &Entry| entry.get("type").cloned().unwrap_or_default();
    let (used, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|entry| !matches!(kind(entry).as_str(), "gha" | "s3" | "azblob"));
    (used, others.iter().map(kind).collect())
}

/// Reads the option `cache-from` of older clients: names in registries.
pub(crate) fn references(text: &str) -> Vec<Entry> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let reference = |name: &str| BTreeMap::from([("ref".to_owned(), name.to_owned())]);
    names.map(|name| entry("registry", &reference(name))).collect()
}

/// The manifest of a cache that went into a client's folder; the client writes it into the index.
pub(crate) type Published = Arc<Mutex<Option<Descriptor>>>;

/// A client's folder.
pub(crate) struct ClientFolder<'a> {
    link: &'a Link,
    id: HeaderValue,
    published: &'a Published,
}

impl<'a> ClientFolder<'a> {
    pub(crate) fn new(link: &'a Link, id: &str, published: &'a Published) -> Result<Self> {
        let id = HeaderValue::try_from(id)
            .map_err(|_| Error::invalid(format!("the path of a build cache {id:?} is no plain text")))?;
        Ok(Self { link, id, published })
    }

    fn call(&self, method: &str) -> Result<Exchange> {
        let mut metadata = HeaderMap::new();
        metadata.insert(STORE, self.id.clone());
        self.link.wait(self.link.session.call(method, metadata))
    }

    fn stream(&self, digest: &Digest) -> Result<Blob<'_>> {
        let mut exchange = self.call(READ)?;
        let question = ReadRequest { digest: digest.to_string(), ..ReadRequest::default() };
        self.link.wait(exchange.send::<ReadResponse>(&question))?;
        closed(&mut exchange);
        Ok(Blob { link: self.link, exchange, piece: Bytes::new(), ended: false })
    }

    /// Sends a blob, a piece and an answer at a time.
    fn send(&self, blob: &Descriptor, mut content: impl Read) -> Result<()> {
        let mut exchange = self.call(WRITES)?;
        let total = i64::try_from(blob.size).unwrap_or(i64::MAX);
        let mut message = WriteRequest {
            action: WRITE,
            r#ref: format!("yare-{}", blob.digest.hex()),
            total,
            expected: blob.digest.to_string(),
            ..WriteRequest::default()
        };
        let mut buffer = vec![0; PIECE];
        loop {
            let count = content.read(&mut buffer)?;
            message.data = Bytes::copy_from_slice(&buffer[..count]);
            message.action = if count == 0 { COMMIT } else { WRITE };
            let answered = self.link.wait(async {
                let answer = async {
                    exchange.send::<WriteResponse>(&message).await?;
                    exchange.message::<WriteResponse>().await
                };
                match answer.await {
                    // Somebody else was faster, or it was there.
                    Err(status) if status.code == Code::AlreadyExists => Ok(None),
                    Ok(None) => Err(Status::new(Code::Internal, "the client left a blob unanswered")),
                    other => other,
                }
            })?;
            if answered.is_none() || count == 0 {
                closed(&mut exchange);
                return Ok(());
            }
            message.offset += i64::try_from(count).unwrap_or(i64::MAX);
        }
    }
}

fn closed(exchange: &mut Exchange) {
    if let Err(status) = exchange.outbound.close() {
        tracing::debug!(message = status.message, "a client ended a call first");
    }
}

impl ContentStore for ClientFolder<'_> {
    fn manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>> {
        let digest = digest
            .ok_or_else(|| Error::not_found("a client's folder has no names: only the client knows them"))?;
        let mut bytes = Vec::new();
        self.stream(digest)?.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.stream(&blob.digest)?))
    }

    fn has(&self, blob: &Descriptor) -> Result<bool> {
        let mut exchange = self.call(INFO)?;
        let question = InfoRequest { digest: blob.digest.to_string() };
        let found = self.link.wait(async {
            let sent = exchange.send::<InfoResponse>(&question).await;
            closed(&mut exchange);
            let answer = match sent {
                Ok(()) => exchange.message::<InfoResponse>().await,
                Err(status) => Err(status),
            };
            match answer {
                Err(status) if status.code == Code::NotFound => Ok(None),
                other => other,
            }
        })?;
        let info = found.and_then(|found| found.info);
        Ok(info.is_some_and(|info| u64::try_from(info.size) == Ok(blob.size)))
    }

    fn put(&self, blob: &Descriptor, file: &Path) -> Result<()> {
        let content = File::open(file)
            .map_err(|error| Error::internal(format!("cannot open {}", file.display())).caused_by(error))?;
        self.send(blob, content)
    }

    fn publish(&self, manifest: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.send(manifest, bytes)?;
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(manifest.clone());
        Ok(())
    }
}

/// A blob on its way in.
struct Blob<'a> {
    link: &'a Link,
    exchange: Exchange,
    piece: Bytes,
    /// A call that has ended is asked no more.
    ended: bool,
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            let next = self.link.wait(self.exchange.message::<ReadResponse>());
            match next.map_err(io::Error::other)? {
                Some(message) => self.piece = message.data,
                None => self.ended = true,
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::server::Call;
    use crate::link::Stop;
    use crate::session::{Offer, Sessions};
    use std::collections::HashMap;

    fn pairs(rows: &[(&str, &str)]) -> Entry {
        rows.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_path_of_the_clients_is_only_a_name() {
        let text = r#"[{"Type":"local","Attrs":{"src":"/etc","digest":"d"}},{"Type":"registry","Attrs":{"ref":"r"}}]"#;
        let read = imports(text).unwrap();
        let local = [("type", "client"), ("id", "local:/etc"), ("src", "/etc"), ("digest", "d")];
        assert_eq!(read, [pairs(&local), pairs(&[("type", "registry"), ("ref", "r")])]);
        assert_eq!(imports("null").unwrap(), Vec::<Entry>::new());
        let two =
            imports(r#"[{"Type":"s3","Attrs":{"bucket":"b"}},{"Type":"registry","Attrs":{"ref":"r"}}]"#);
        let (used, others) = usable(two.unwrap());
        assert_eq!(used, [pairs(&[("type", "registry"), ("ref", "r")])]);
        assert_eq!(others, ["s3"]);
        assert!(imports("x").is_err());
        assert_eq!(references("a, b")[1], pairs(&[("type", "registry"), ("ref", "b")]));
    }

    type Blobs = Arc<Mutex<HashMap<String, Vec<u8>>>>;

    /// A client's content service over a map.
    async fn serve(blobs: Blobs, call: Call) {
        assert_eq!(call.metadata(STORE), "local:/c");
        let answered = match call.path.as_str() {
            INFO => {
                call.unary(|question: InfoRequest| async move {
                    let found = blobs.lock().unwrap().get(&question.digest).map(Vec::len);
                    let size = found.ok_or_else(|| Status::new(Code::NotFound, "not found"))?;
                    let info = crate::proto::content::Info {
                        size: i64::try_from(size).unwrap(),
                        ..Default::default()
                    };
                    Ok(InfoResponse { info: Some(info) })
                })
                .await
            }
            READ => {
                call.stream(|question: ReadRequest, mut reply| async move {
                    let bytes = blobs.lock().unwrap().get(&question.digest).cloned().unwrap_or_default();
                    for piece in bytes.chunks(1000) {
                        let data = Bytes::copy_from_slice(piece);
                        if let Err(status) = reply.send(&ReadResponse { offset: 0, data }).await {
                            return Err((reply, status));
                        }
                    }
                    Ok(reply)
                })
                .await
            }
            _ => call.unknown(),
        };
        assert!(answered.is_ok(), "{answered:?}");
    }

    #[test]
    fn blobs_come_from_the_clients_folder() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let content = vec![7; 12_345];
        let blob = Descriptor::of("x", &content);
        let blobs = Blobs::default();
        blobs.lock().unwrap().insert(blob.digest.to_string(), content.clone());
        let link = runtime.block_on(async {
            let sessions = Arc::new(Sessions::default());
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(crate::grpc::server::serve(theirs, move |call| serve(Arc::clone(&blobs), call)));
            let kept = Arc::clone(&sessions);
            let offer = Offer { id: "s".to_owned(), ..Offer::default() };
            tokio::spawn(async move { kept.serve(offer, ours).await });
            let session = sessions.find("s").await.unwrap();
            Link { session, runtime: tokio::runtime::Handle::current(), stop: Stop::new() }
        });
        let published = Published::default();
        let folder = ClientFolder::new(&link, "local:/c", &published).unwrap();
        assert!(folder.has(&blob).unwrap());
        assert!(!folder.has(&Descriptor::of("x", b"other")).unwrap());
        assert!(!folder.has(&Descriptor { size: 1, ..blob.clone() }).unwrap());
        assert_eq!(folder.manifest(Some(&blob.digest)).unwrap(), content);
        let mut read = Vec::new();
        let mut stream = folder.open(&blob).unwrap();
        stream.read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0, "the end stays the end");
        drop(stream);
        assert!(folder.manifest(None).is_err());
        link.stop.stop();
        assert!(folder.has(&blob).is_err(), "it ends with its build");
        assert!(ClientFolder::new(&link, "local:/\n", &published).is_err());
    }
}
