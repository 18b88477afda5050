//! HTTP/2 against the server, over TLS and without.

use crate::access::{certificate, served, trusting};
use crate::client::{Client, image};
use crate::served::Served;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use yare_oci::{Digest, MediaType};

type Sender = SendRequest<Full<Bytes>>;

async fn begin(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Sender {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn plain(client: &Client) -> Sender {
    begin(TcpStream::connect(&client.address).await.unwrap()).await
}

async fn send(
    sender: &Sender,
    method: &str,
    path: &str,
    kind: &str,
    body: impl Into<Bytes>,
) -> Response<Incoming> {
    let request = Request::builder().method(method).uri(format!("http://registry.example:5000{path}"));
    let request = request.header("content-type", kind).body(Full::new(body.into())).unwrap();
    let response = sender.clone().send_request(request).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    response
}

async fn whole(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[test]
fn an_image_goes_over_one_connection() {
    let served = Served::new("");
    served.runtime.block_on(async {
        let sender = plain(&served.client).await;
        let octets = "application/octet-stream";
        let content: Vec<u8> = (0..12_000_000_u32).map(|number| (number / 7) as u8).collect();
        let digest = Digest::of(&content);
        let started = send(&sender, "POST", "/v2/a/blobs/uploads/", octets, "").await;
        assert_eq!(started.status(), StatusCode::ACCEPTED);
        let at = started.headers()["location"].to_str().unwrap().to_owned();
        let sent = send(&sender, "PATCH", &at, octets, content.clone()).await;
        let at = sent.headers()["location"].to_str().unwrap().to_owned();
        let between = if at.contains('?') { '&' } else { '?' };
        let finished = send(&sender, "PUT", &format!("{at}{between}digest={digest}"), octets, "").await;
        assert_eq!(finished.status(), StatusCode::CREATED);
        let manifest = image(&[(digest, content.len())]).to_string();
        let put = send(&sender, "PUT", "/v2/a/manifests/v1", MediaType::OCI_MANIFEST, manifest.clone()).await;
        assert_eq!(put.status(), StatusCode::CREATED);
        // Many at a time, and what came first does not hold up what comes after.
        let blob = format!("/v2/a/blobs/{digest}");
        let waiting = send(&sender, "GET", &blob, octets, "").await;
        let others = (0..50)
            .map(|_| async { whole(send(&sender, "GET", "/v2/a/manifests/v1", octets, "").await).await });
        for got in futures_util::future::join_all(others).await {
            assert_eq!(got, manifest);
        }
        assert_eq!(Digest::of(whole(waiting).await), digest);
        let head = send(&sender, "HEAD", &blob, octets, "").await;
        assert_eq!(head.headers()["content-length"], content.len().to_string());
        let none = send(&sender, "GET", "/v2/a/manifests/none", octets, "").await;
        assert_eq!(none.status(), StatusCode::NOT_FOUND);
    });
}

#[test]
fn tls_lets_the_client_choose() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = certificate(folder.path());
    let path = folder.path().display();
    let tls = format!("[tls]\ncertificate = '{path}/cert.pem'\nkey = '{path}/key.pem'\n");
    let served = served(folder.path(), &format!("[auth.token]\nservice = 'test'\n{tls}"));
    for (offered, agreed) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        served.runtime.block_on(async {
            let mut config = trusting(&trusted).with_no_client_auth();
            config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let stream = TcpStream::connect(&served.client.address).await.unwrap();
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let stream =
                tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
            if agreed != "h2" {
                return;
            }
            let sender = begin(stream).await;
            let asked = send(&sender, "GET", "/v2/", "text/plain", "").await;
            assert_eq!(asked.status(), StatusCode::UNAUTHORIZED);
            // The host that was asked is where tokens come from.
            let challenge = asked.headers()["www-authenticate"].to_str().unwrap();
            assert!(challenge.contains("realm=\"https://registry.example:5000/token\""), "{challenge}");
        });
    }
}

#[test]
fn who_does_nothing_is_let_go() {
    let served = Served::new("[limits]\nsilence = '3s'");
    let begun = Instant::now();
    // Of a preface, a part; all of it and then nothing; and a reply that nobody takes.
    for start in [&b"PR"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = served.client.connect();
        stream.write_all(start).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    served.client.push_blob("a", &vec![7; 9_000_000]);
    served.runtime.block_on(async {
        let sender = plain(&served.client).await;
        let digest = Digest::of(vec![7; 9_000_000]);
        let reply = send(&sender, "GET", &format!("/v2/a/blobs/{digest}"), "text/plain", "").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        // hyper takes a stream that was cancelled for one that ended, whatever length was announced.
        let got = reply.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
        assert!(got < 9_000_000, "it ended in the middle");
        // One that is asked now and then lives longer than the silence.
        let sender = plain(&served.client).await;
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            assert_eq!(send(&sender, "GET", "/v2/", "text/plain", "").await.status(), StatusCode::OK);
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
}

#[test]
fn methods_that_begin_like_the_preface_are_requests() {
    let served = Served::new("");
    let mut stream = served.client.connect();
    for piece in [
        "P",
        "U",
        "T /v2/a/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ] {
        stream.write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
}
