//! The edge over TLS: who gets in, and that connections are taken over as without it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use yare_testkit::{Authority, Signed};
use yare_tls::{Identity, ServerFiles, Trust};

use crate::listen;
use crate::wire_tests::{SOON, edge, read_to_end};

/// A listener of one test, which has its clients show a certificate of `authority`.
struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start(folder: &Path, authority: &Authority) -> Self {
        let [ca, certificate, key] = authority.write(folder, &authority.sign("127.0.0.1"));
        let files = ServerFiles { certificate, key, client_authorities: Some(ca), protocols: Vec::new() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let listener = listener.into_std().expect("a listener");
        let listeners = vec![listen::Listener::Tls(listener, files.watch().expect("settings")).into()];
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { stopped.map(drop).await };
        Self { address, stop, task: tokio::spawn(listen::run(edge(), listeners, SOON, shutdown)) }
    }

    async fn connect(&self, authority: &Authority, signed: &Signed) -> TlsStream<TcpStream> {
        let trust = yare_tls::authorities(authority.pem().as_bytes(), "ca.pem").expect("an authority");
        let identity = Identity {
            certificates: yare_tls::certificates(signed.certificate.as_bytes(), "cert.pem").expect("one"),
            key: yare_tls::private_key(signed.key.as_bytes(), "key.pem").expect("a key"),
        };
        let settings = yare_tls::client(Trust::Authorities(trust), Some(identity)).expect("settings");
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let name = ServerName::from(self.address.ip());
        let connected = TlsConnector::from(Arc::new(settings)).connect(name, stream);
        timeout(SOON, connected).await.expect("in time").expect("a handshake")
    }

    async fn end(self) {
        self.stop.send(()).expect("running");
        timeout(SOON, self.task).await.expect("ends in time").expect("ends").expect("well");
    }
}

#[tokio::test]
async fn a_connection_over_tls_is_taken_over_with_its_half_closes() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new("ours"));
    let server = Server::start(folder.path(), &authority).await;
    let mut client = server.connect(&authority, &authority.sign("me")).await;
    // The name is none that was allowed: the certificate has spoken for it.
    let request = "POST /v1.51/containers/x/attach?stream=1 HTTP/1.1\r\nHost: engine.example\r\n\
                   Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\nearly ";
    client.write_all(request.as_bytes()).await.expect("sent");
    // More than the socket's buffers hold: what remains in the session has to be sent on as well.
    let (mut reader, mut writer) = tokio::io::split(client);
    let late = "late".repeat(1 << 20);
    let sent = late.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(sent.as_bytes()).await.expect("sent");
        writer.shutdown().await.expect("half closed");
        writer
    });
    let reply = read_to_end(&mut reader).await;
    assert!(reply.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{}", &reply[..200]);
    assert!(reply.ends_with(&format!("\r\n\r\nearly {late}")), "{} bytes came", reply.len());
    drop(writing.await.expect("written"));
    server.end().await;
}

#[tokio::test]
async fn slow_handshakes_delay_nobody() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new("ours"));
    let server = Server::start(folder.path(), &authority).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        // Half of a record of the handshake.
        stream.write_all(&[22, 3, 1, 2]).await.expect("sent");
        silent.push(stream);
    }
    let mut client = server.connect(&authority, &authority.sign("me")).await;
    client.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
    assert!(read_to_end(&mut client).await.ends_with("\r\n\r\nOK"));
    drop(silent);
    server.end().await;
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_so() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new("ours"));
    let server = Server::start(folder.path(), &authority).await;
    let mut client = TcpStream::connect(server.address).await.expect("connected");
    client.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let reply = read_to_end(&mut client).await;
    assert_eq!(reply, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn only_clients_of_the_authority_are_served_also_after_it_changed() {
    let (folder, old, new) =
        (tempfile::tempdir().expect("a folder"), Authority::new("old"), Authority::new("new"));
    let server = Server::start(folder.path(), &old).await;
    // A client learns only from what it reads that its certificate was refused.
    let served = async |believed: &Authority, shown: &Authority| {
        let mut client = server.connect(believed, &shown.sign("me")).await;
        let request = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let (mut reply, _) = (Vec::new(), client.write_all(request).await);
        timeout(SOON, client.read_to_end(&mut reply)).await.expect("in time").is_ok()
    };
    assert!(served(&old, &old).await);
    assert!(!served(&old, &new).await);
    new.write(folder.path(), &new.sign("127.0.0.1"));
    // Files are looked at once a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(served(&new, &new).await);
    assert!(!served(&new, &old).await);
    server.end().await;
}
