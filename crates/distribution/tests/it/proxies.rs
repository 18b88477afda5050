//! Ways through proxies: HTTP within TLS, SOCKS 5. The registry's name means nothing but to the proxy.

use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use yare_distribution::{Credentials, Insecure, Proxies, Settings};
use yare_errdefs::chain;
use yare_oci::MediaType;

use crate::fake::{Fake, settings};
use crate::hosts::{Authority, IMAGE, latest};
use crate::open;

const NAME: &str = "reg.example:5000/a";

/// A proxy that leads everybody to one registry, and notes what it was asked for.
struct Proxy {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(is_socks: bool, tls: Option<rustls::ServerConfig>, registry: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::default();
        let (noted, acceptor) =
            (Arc::clone(&asked), tls.map(|tls| tokio_rustls::TlsAcceptor::from(Arc::new(tls))));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (noted, acceptor) = (Arc::clone(&noted), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        // A client that does not trust us goes away.
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                http(stream, &noted, registry).await;
                            }
                        }
                        None if is_socks => socks(stream, &noted, registry).await,
                        None => http(stream, &noted, registry).await,
                    }
                });
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

async fn join(mut client: impl AsyncRead + AsyncWrite + Unpin, registry: u16, first: &[u8]) {
    let mut server = TcpStream::connect(("127.0.0.1", registry)).await.unwrap();
    server.write_all(first).await.unwrap();
    // It ends when one of both has enough.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

async fn http(mut client: impl AsyncRead + AsyncWrite + Unpin, noted: &Mutex<Vec<String>>, registry: u16) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let text = String::from_utf8(head.clone()).unwrap();
    noted.lock().push(text.clone());
    if text.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        return join(client, registry, b"").await;
    }
    join(client, registry, &head).await;
}

/// Asks for `user:password` and notes both, then the name and the port.
async fn socks(mut client: TcpStream, noted: &Mutex<Vec<String>>, registry: u16) {
    let counted = async |client: &mut TcpStream| {
        let mut text = vec![0; usize::from(client.read_u8().await.unwrap())];
        client.read_exact(&mut text).await.unwrap();
        text
    };
    assert_eq!(client.read_u8().await.unwrap(), 5);
    assert_eq!(counted(&mut client).await, [0, 2]);
    client.write_all(&[5, 2]).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), 1);
    let (user, password) = (counted(&mut client).await, counted(&mut client).await);
    client.write_all(&[1, 0]).await.unwrap();
    let mut head = [0; 4];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(head, [5, 1, 0, 3], "a name");
    let name = counted(&mut client).await;
    let port = client.read_u16().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    noted.lock().push(format!("{}:{} {}:{port}", text(user), text(password), text(name)));
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
    join(client, registry, b"").await;
}

/// Settings with these proxies for both schemes, which trust the registry's authority for the registry only.
fn through(proxy: &str, dir: &Path, registry: &Authority) -> Settings {
    registry.write(&dir.join("reg.example:5000"));
    let proxies = Proxies::new("", "", "").unwrap().with_default(proxy).unwrap();
    let mut settings = Settings { proxies, certs_d: vec![dir.to_owned()], roots: Vec::new(), ..settings() };
    settings.patience.attempts = 1;
    settings
}

#[tokio::test]
async fn a_registry_is_reached_through_tls_within_tls() {
    let (ours, theirs, dir) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let fake = Fake::start_tls(theirs.server("reg.example", false, false)).await;
    fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let proxy = Proxy::start(false, Some(ours.server("localhost", false, false)), fake.port).await;
    let address = proxy.address.replace("127.0.0.1", "u:p%40ss@localhost");
    let mut settings = through(&format!("https://{address}"), dir.path(), &theirs);
    // The proxy is to be trusted by the system, and not because the registry is.
    let error = open(settings.clone(), NAME, &Credentials::Anonymous).await.manifest(&latest()).await;
    let error = chain(&error.unwrap_err());
    assert!(error.contains("TLS with it failed") && !error.contains("p@ss"), "{error}");
    assert!(proxy.asked().is_empty());
    ours.write(&dir.path().join("system"));
    settings.roots = vec![dir.path().join("system/ca.crt")];
    open(settings, NAME, &Credentials::Anonymous).await.manifest(&latest()).await.unwrap();
    let asked = proxy.asked().remove(0).to_lowercase();
    assert!(asked.starts_with("connect reg.example:5000 http/1.1"), "{asked}");
    assert!(asked.contains("proxy-authorization: basic dtpwqhnz"), "{asked}");
}

#[tokio::test]
async fn a_registry_without_tls_is_asked_for_whole_and_its_proxy_gets_its_login() {
    let (ours, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let fake = Fake::start().await;
    fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let proxy = Proxy::start(false, Some(ours.server("localhost", false, false)), fake.port).await;
    let address = proxy.address.replace("127.0.0.1", "u:p@localhost");
    let mut settings = through(&format!("https://{address}"), dir.path(), &ours);
    settings.roots = vec![dir.path().join("reg.example:5000/ca.crt")];
    settings.insecure = vec![Insecure::parse("reg.example:5000").unwrap()];
    open(settings, NAME, &Credentials::Anonymous).await.manifest(&latest()).await.unwrap();
    let asked = proxy.asked().pop().unwrap();
    assert!(asked.starts_with("GET http://reg.example:5000/v2/a/manifests/latest"), "{asked}");
    assert!(asked.to_lowercase().contains("proxy-authorization: basic dtpw"), "{asked}");
}

#[tokio::test]
async fn a_registry_is_reached_through_socks() {
    let (theirs, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let fake = Fake::start_tls(theirs.server("reg.example", false, false)).await;
    fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    for scheme in ["socks5", "socks5h"] {
        let proxy = Proxy::start(true, None, fake.port).await;
        let settings = through(&format!("{scheme}://us%3Aer:p%40ss@{}", proxy.address), dir.path(), &theirs);
        open(settings, NAME, &Credentials::Anonymous).await.manifest(&latest()).await.unwrap();
        assert_eq!(proxy.asked(), ["us:er:p@ss reg.example:5000"], "{scheme}");
    }
    assert!(fake.seen().iter().all(|seen| seen.header("proxy-authorization").is_none()));
}
