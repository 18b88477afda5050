//! A small HTTP client that can also misbehave.

use serde_json::{Value, json};
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use yare_oci::{Digest, MediaType};

/// A port for another program: none that the kernel gives to whoever wants any.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 4000).unwrap();
    let mut ports = std::iter::repeat_with(|| 61_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 4500);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// A registry to talk to.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) address: String,
    pub(crate) authorization: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The code of the first error.
    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{:?} {}",
            self.headers,
            String::from_utf8_lossy(&self.body).chars().take(500).collect::<String>()
        );
        self
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.code(), code);
        answer
    }
}

impl Client {
    pub(crate) fn new(address: impl ToString) -> Self {
        Self { address: address.to_string(), authorization: None }
    }

    pub(crate) fn with(&self, authorization: impl Into<String>) -> Self {
        Self { authorization: Some(authorization.into()), ..self.clone() }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the registry is there");
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body).expect("an answer")
    }

    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        if let Some(authorization) = &self.authorization {
            head.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut stream = stream;
        stream.write_all(head.as_bytes())?;
        // A refusal may come before all of the body is taken.
        let _ = stream.write_all(body);
        read_answer(stream, method)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[], b"")
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], b"")
    }

    /// Begins an upload and returns its location.
    #[track_caller]
    pub(crate) fn start(&self, name: &str) -> String {
        let answer = self.send("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"").expect(202);
        location(&answer)
    }

    /// Pushes a blob as docker does: POST, PATCH, PUT.
    #[track_caller]
    pub(crate) fn push_blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let at = self.start(name);
        let answer =
            self.send("PATCH", &at, &[("Content-Type", "application/octet-stream")], bytes).expect(202);
        let at = with_digest(&location(&answer), &digest);
        self.send("PUT", &at, &[], b"").expect(201);
        digest
    }

    /// Pushes a manifest of this type under a tag or digest.
    pub(crate) fn put(&self, name: &str, reference: &str, kind: &str, manifest: &[u8]) -> Answer {
        self.send("PUT", &format!("/v2/{name}/manifests/{reference}"), &[("Content-Type", kind)], manifest)
    }

    /// Pushes an image of one layer, whose content is `text`.
    #[track_caller]
    pub(crate) fn push_image(&self, name: &str, reference: &str, text: &str) -> Pushed {
        let layer = self.push_blob(name, text.as_bytes());
        let config_text = format!("{{\"config of\":\"{text}\"}}");
        let config = self.push_blob(name, config_text.as_bytes());
        let bytes = image(&[(config, config_text.len()), (layer, text.len())]).to_string().into_bytes();
        self.put(name, reference, MediaType::OCI_MANIFEST, &bytes).expect(201);
        Pushed { digest: Digest::of(&bytes), bytes, config, layer }
    }
}

/// An image that was pushed.
#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) config: Digest,
    pub(crate) layer: Digest,
}

/// A manifest of a config and layers.
pub(crate) fn image(parts: &[(Digest, usize)]) -> Value {
    let descriptor = |kind: &str, (digest, size): &(Digest, usize)| json!({ "mediaType": kind, "digest": digest.to_string(), "size": size });
    let layers: Vec<Value> = parts[1..].iter().map(|layer| descriptor(MediaType::OCI_LAYER, layer)).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": descriptor(MediaType::OCI_CONFIG, &parts[0]),
        "layers": layers,
    })
}

/// Where an answer sends to, as a path.
#[track_caller]
pub(crate) fn location(answer: &Answer) -> String {
    let location = answer.header("Location").expect("a location");
    match location.split_once("://") {
        Some((_, rest)) => rest[rest.find('/').expect("a path")..].to_owned(),
        None => location.to_owned(),
    }
}

/// A `PATCH` of an upload whose length nobody says: in chunks of HTTP.
pub(crate) fn patch_streamed(client: &Client, at: &str, bytes: &[u8]) -> Answer {
    let mut head = format!("PATCH {at} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", client.address);
    head.push_str("Transfer-Encoding: chunked\r\nContent-Type: application/octet-stream\r\n\r\n");
    let mut stream = client.connect();
    stream.write_all(head.as_bytes()).unwrap();
    for piece in bytes.chunks(bytes.len() / 2 + 1) {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).unwrap();
        stream.write_all(&[piece, b"\r\n"].concat()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    read_answer(stream, "PATCH").unwrap()
}

/// A location with the digest that ends the upload.
pub(crate) fn with_digest(location: &str, digest: &impl Display) -> String {
    let joint = if location.contains('?') { '&' } else { '?' };
    format!("{location}{joint}digest={digest}")
}

/// Reads one answer.
pub(crate) fn read_answer(stream: TcpStream, method: &str) -> std::io::Result<Answer> {
    let invalid = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned());
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status =
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| invalid(&line))?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(answer);
    }
    if answer.header("Transfer-Encoding") == Some("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| invalid("a chunk"))?;
            let start = answer.body.len();
            answer.body.resize(start + size, 0);
            reader.read_exact(&mut answer.body[start..])?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(answer);
            }
        }
    }
    match answer.header("Content-Length").and_then(|length| length.parse().ok()) {
        Some(length) => {
            answer.body.resize(length, 0);
            reader.read_exact(&mut answer.body)?;
        }
        None => {
            reader.read_to_end(&mut answer.body)?;
        }
    }
    Ok(answer)
}
