use crate::fake::{Fake, Fault, settings};
use crate::open;
use http::Method;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yare_distribution::{Client, Credentials, Intent, Name, Proxies, Resume, Settings};
use yare_errdefs::{Class, Classified, chain};
use yare_oci::{MediaType, Reference};

pub(crate) const IMAGE: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;

pub(crate) fn latest() -> Name {
    Name::Tag("latest".to_owned())
}

/// Settings with one folder of `certs.d`.
fn with_hosts(registry: &str, hosts: &str) -> (TempDir, Settings) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(registry)).unwrap();
    std::fs::write(dir.path().join(registry).join("hosts.toml"), hosts).unwrap();
    let settings = Settings { certs_d: vec![dir.path().to_owned()], ..settings() };
    (dir, settings)
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_when_they_fail() {
    let (mirror, registry) = (Fake::start().await, Fake::start().await);
    registry.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let blob = mirror.blob(vec![7; 50_000]);
    registry.blob(vec![7; 50_000]);
    let hosts = format!(
        "server = \"http://{}\"\n[host.\"http://{}/prefix/v2\"]\noverride_path = true\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"http://{}/prefix/v2\".header]\nx-key = \"1\"",
        registry.authority(),
        mirror.authority(),
        mirror.authority(),
    );
    let (_dir, settings) = with_hosts("reg.example", &hosts);
    mirror.guard("Basic dTpw", "Basic realm=x");
    let repository = open(settings, "reg.example/a/b", &Credentials::basic("u", "p")).await;
    repository.manifest(&latest()).await.unwrap();
    let asked = mirror.seen();
    assert_eq!(asked[0].line(), "GET /prefix/v2/a/b/manifests/latest?ns=reg.example");
    assert_eq!(asked[0].header("x-key"), Some("1"));
    assert!(
        asked.iter().all(|seen| seen.header("authorization").is_none()),
        "credentials are for the registry only"
    );
    assert_eq!(registry.lines(), ["GET /v2/a/b/manifests/latest"]);
    // A mirror that breaks in the middle: the rest comes from the registry.
    let (mirror, registry) = (Fake::start().await, Fake::start().await);
    let hosts =
        format!("server = \"http://{}\"\n[host.\"http://{}\"]", registry.authority(), mirror.authority());
    let (_dir, settings) = with_hosts("reg.example", &hosts);
    mirror.blob(vec![7; 50_000]);
    registry.blob(vec![7; 50_000]);
    mirror.fault(Method::GET, "blobs", 1, Fault::Cut(20_000));
    mirror.answer(Method::GET, "blobs", 9, 404, "");
    let repository = open(settings, "reg.example/a", &Credentials::Anonymous).await;
    let mut stream = repository.blob(&blob, Resume::default()).unwrap();
    while stream.chunk().await.unwrap().is_some() {}
    assert_eq!((stream.offset(), stream.received()), (50_000, 50_000));
    // Everything failed: both are accounted for.
    let error = repository.manifest(&latest()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&registry.authority()) && text.contains(&mirror.authority()), "{text}");
    assert_eq!(error.class(), Class::NotFound);
}

#[tokio::test]
async fn a_mirror_without_referrers_does_not_hide_them() {
    let (mirror, registry) = (Fake::start().await, Fake::start().await);
    let hosts = format!("server = \"{}\"\n[host.\"{}\"]", registry.url(""), mirror.url(""));
    let (_dir, settings) = with_hosts("reg.example", &hosts);
    let repository = open(settings, "reg.example/a", &Credentials::Anonymous).await;
    let image = yare_oci::Digest::of("image");
    let entry = format!(r#"{{"mediaType":"{}","digest":"{image}","size":1}}"#, MediaType::OCI_MANIFEST);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
    let path = format!("/v2/a/referrers/{image}");
    registry.page(&path, &index);
    assert_eq!(repository.referrers(&image, None).await.unwrap().len(), 1);
    mirror.page(&path, &index.replace(&entry, ""));
    assert_eq!(repository.referrers(&image, None).await.unwrap().len(), 1);
    assert!(repository.referrers(&image, Some("other")).await.unwrap().is_empty());
    // Where the registry itself cannot say, the mirror's word is all there is.
    registry.answer(Method::GET, "referrers", 9, 403, "");
    assert!(repository.referrers(&image, None).await.unwrap().is_empty());
    mirror.page(&path, &index);
    let asked = registry.seen().len();
    assert_eq!(repository.referrers(&image, None).await.unwrap().len(), 1);
    assert_eq!(registry.seen().len(), asked);
}

/// A guard that wants a token, and the server that has it.
async fn guarded(fake: &Fake) -> Fake {
    let server = Fake::start().await;
    fake.guard("Bearer good", &format!("Bearer realm=\"{}\",service=\"fake\"", server.url("/token")));
    server.page("/token", r#"{"token":"good"}"#);
    server
}

#[tokio::test]
async fn a_mirror_is_asked_by_its_own_names() {
    let (mirror, registry) = (Fake::start().await, Fake::start().await);
    mirror.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let tokens = guarded(&mirror).await;
    let (blob, host) = (registry.blob(vec![7; 1000]), mirror.url(""));
    let hosts = format!(
        "server = \"{}\"\n[host.\"{host}\"]\n[host.\"{host}\".rewrite]\n\
         \"^z/(.*)\" = \"hub/$1\"\n\"^(a)/\" = \"proxy/${{1}}-\"\n\"^bad\" = \"\"\n\"b\" = \"c\"\n",
        registry.url(""),
    );
    let (dir, settings) = with_hosts("reg.example", &hosts);
    let client = Client::new(settings);
    let pull = async |name: &str| {
        let reference = Reference::parse(name).unwrap();
        client.repository(&reference, &Credentials::basic("u", "p"), Intent::Pull).await
    };
    let repository = pull("reg.example/a/b").await.unwrap();
    repository.manifest(&latest()).await.unwrap();
    assert!(repository.referrers(&blob.digest, None).await.unwrap().is_empty());
    let lines = mirror.lines();
    assert_eq!(lines[1], "GET /v2/proxy/a-b/manifests/latest?ns=reg.example");
    assert_eq!(lines[2], format!("GET /v2/proxy/a-b/referrers/{}?ns=reg.example", blob.digest));
    assert_eq!(tokens.lines(), ["GET /token?service=fake&scope=repository%3Aproxy%2Fa-b%3Apull"]);
    // The registry itself has no rules: what the mirror lacks is asked for there by its real name.
    let mut stream = repository.blob(&blob, Resume::default()).unwrap();
    while stream.chunk().await.unwrap().is_some() {}
    let lines = registry.lines();
    assert!(lines.contains(&format!("GET /v2/a/b/referrers/{}", blob.digest)), "{lines:?}");
    assert_eq!(lines.last(), Some(&format!("GET /v2/a/b/blobs/{}", blob.digest)));
    let error = repository.manifest(&Name::Tag("missing".to_owned())).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot fetch manifest missing of reg.example/a/b: "), "{error}");
    assert!(error.contains(&mirror.url("/v2/proxy/a-b/manifests/missing")), "{error}");

    let error = pull("reg.example/bad/x").await.unwrap_err();
    let file = dir.path().join("reg.example/hosts.toml");
    let rule = format!("{}: [host.{host:?}.rewrite]: \"^bad\" makes \"/x\" of", file.display());
    assert!(error.to_string().contains(&rule), "{error}");
    assert_eq!(error.class(), Class::InvalidArgument);
}

#[tokio::test]
async fn a_server_with_rules_gets_pushes_by_its_own_names() {
    let registry = Fake::start().await;
    let tokens = guarded(&registry).await;
    let hosts = format!("server = \"{}\"\n[rewrite]\n\"^(.*)$\" = \"team/$1\"", registry.url(""));
    let (_dir, settings) = with_hosts("reg.example", &hosts);
    let repository = open(settings, "reg.example/app", &Credentials::Anonymous).await;
    let blob = registry.blob(vec![7; 1000]);
    assert!(repository.mount(&blob.digest, "base").await.unwrap());
    repository.put_manifest(&latest(), MediaType::OCI_MANIFEST, IMAGE.as_bytes()).await.unwrap();
    let mount = format!("POST /v2/team/app/blobs/uploads/?mount={}&from=team%2Fbase", blob.digest);
    let asked: Vec<_> =
        registry.seen().into_iter().filter(|seen| seen.header("authorization").is_some()).collect();
    let asked: Vec<_> = asked.iter().map(|seen| seen.line()).collect();
    assert_eq!(asked, [mount, "PUT /v2/team/app/manifests/latest".to_owned()]);
    let scopes = "service=fake&scope=repository%3Ateam%2Fapp%3Apull%2Cpush";
    let lender = "&scope=repository%3Ateam%2Fbase%3Apull";
    assert_eq!(tokens.lines(), [format!("GET /token?{scopes}{lender}"), format!("GET /token?{scopes}")]);
    // Two names of one repository there have nothing to lend each other.
    assert!(!repository.mount(&blob.digest, "app").await.unwrap());
}

#[tokio::test]
async fn hub_mirrors_of_the_daemon_serve_hub_only() {
    let mirror = Fake::start().await;
    mirror.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let settings = Settings { hub_mirrors: vec![format!("http://{}", mirror.authority())], ..settings() };
    open(settings, "busybox", &Credentials::basic("u", "p")).await.manifest(&latest()).await.unwrap();
    assert_eq!(mirror.lines(), ["GET /v2/library/busybox/manifests/latest?ns=docker.io"]);
    assert_eq!(mirror.seen()[0].header("authorization"), None);
}

/// An authority, and a server certificate of it.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn certificate(&self, name: &str, expired: bool) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub(crate) fn server(&self, name: &str, expired: bool, clients: bool) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if clients {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let (certificate, key) = self.certificate(name, expired);
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }

    pub(crate) fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("ca.crt"), self.issuer.pem()).unwrap();
    }
}

/// Settings in which the fake is spoken with as if it were no loopback address.
fn strict(fake: &Fake, dir: &Path) -> Settings {
    let hosts = format!("server = \"https://{}\"\nca = \"ca.crt\"", fake.authority());
    let folder = dir.join("reg.example");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), hosts).unwrap();
    Settings { certs_d: vec![dir.to_owned()], ..settings() }
}

async fn fetch(settings: Settings) -> Result<(), yare_distribution::Error> {
    let reference = Reference::parse("reg.example/a").unwrap();
    let client = Client::new(settings);
    let repository = client.repository(&reference, &Credentials::Anonymous, Intent::Pull).await?;
    repository.manifest(&latest()).await.map(|_| ())
}

#[tokio::test]
async fn certificates_are_checked() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let cases = [("127.0.0.1", false, true), ("127.0.0.1", true, false), ("other.example", false, false)];
    for (name, expired, good) in cases {
        let fake = Fake::start_tls(authority.server(name, expired, false)).await;
        fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
        let settings = strict(&fake, dir.path());
        authority.write(&dir.path().join("reg.example"));
        match fetch(settings).await {
            Ok(()) => assert!(good, "{name} {expired}"),
            Err(error) => {
                assert!(!good, "{name} {expired}: {}", chain(&error));
                assert!(chain(&error).contains("certificate"), "{}", chain(&error));
                assert!(error.hint().unwrap().contains("certs.d"));
                assert!(fake.seen().is_empty());
            }
        }
    }
    // Another authority.
    let fake = Fake::start_tls(Authority::new().server("127.0.0.1", false, false)).await;
    assert!(fetch(strict(&fake, dir.path())).await.is_err());
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start_tls(authority.server("127.0.0.1", false, true)).await;
    fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let settings = strict(&fake, dir.path());
    let folder = dir.path().join("reg.example");
    authority.write(&folder);
    let error = fetch(settings.clone()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{}", chain(&error));
    let (certificate, key) = authority.certificate("client", false);
    std::fs::write(folder.join("client.cert"), certificate.pem()).unwrap();
    std::fs::write(folder.join("client.key"), key.serialize_pem()).unwrap();
    fetch(settings).await.unwrap();
}

#[tokio::test]
async fn a_file_says_whom_to_trust_and_who_we_are() {
    let authority = Authority::new();
    let fake = Fake::start_tls(authority.server("other.example", true, true)).await;
    fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let (certificate, key) = authority.certificate("client", false);
    let hosts = |more: &str| format!("server = \"https://{}\"\n{more}", fake.authority());
    for (more, good) in [
        ("client = [\"c.pem\", \"k.pem\"]\nskip_verify = true", true),
        ("client = [[\"c.pem\", \"k.pem\"]]\nskip_verify = true", true),
        ("client = \"both.pem\"\nskip_verify = true", true),
        ("skip_verify = true", false),
        ("client = \"both.pem\"\nca = \"ca.crt\"", false),
    ] {
        let (dir, settings) = with_hosts("reg.example", &hosts(more));
        let folder = dir.path().join("reg.example");
        authority.write(&folder);
        std::fs::write(folder.join("c.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("k.pem"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("both.pem"), certificate.pem() + &key.serialize_pem()).unwrap();
        let fetched = fetch(settings).await;
        assert_eq!(fetched.is_ok(), good, "{more}: {:?}", fetched.map_err(|error| chain(&error)));
    }
}

#[tokio::test]
async fn mirrors_are_asked_for_what_they_can_and_left_when_they_do_not_open() {
    let (content, registry) = (Fake::start().await, Fake::start().await);
    registry.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    content.blob(vec![7; 1000]);
    let blob = registry.blob(vec![7; 1000]);
    // The kernel accepts, and nobody ever says a word of TLS.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hosts = format!(
        "server = \"http://{}\"\n[host.\"https://{}\"]\ndial_timeout = \"150ms\"\n\
         [host.\"http://{}\"]\ncapabilities = [\"pull\"]",
        registry.authority(),
        mute.local_addr().unwrap(),
        content.authority(),
    );
    let (_dir, mut settings) = with_hosts("reg.example", &hosts);
    settings.patience.connect = std::time::Duration::from_secs(600);
    let repository = open(settings, "reg.example/a", &Credentials::Anonymous).await;
    repository.manifest(&latest()).await.unwrap();
    let mut stream = repository.blob(&blob, Resume::default()).unwrap();
    while stream.chunk().await.unwrap().is_some() {}
    assert_eq!(registry.lines(), ["GET /v2/a/manifests/latest"]);
    assert_eq!(content.lines(), [format!("GET /v2/a/blobs/{}?ns=reg.example", blob.digest)]);
}

#[tokio::test]
async fn loopback_may_have_any_certificate_and_none() {
    let fake = Fake::start_tls(Authority::new().server("whatever", true, false)).await;
    fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    open(settings(), &fake.name("a"), &Credentials::Anonymous).await.manifest(&latest()).await.unwrap();
}

#[tokio::test]
async fn a_proxy_is_used_and_shown_its_own_credentials_only() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://u:p@{}", listener.local_addr().unwrap());
    let answering = tokio::spawn(async move {
        let mut requests = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            requests.push(String::from_utf8(head).unwrap());
        }
        requests
    });
    let mut settings = Settings { proxies: Proxies::new(&proxy, &proxy, "").unwrap(), ..settings() };
    settings.insecure = vec![yare_distribution::Insecure::parse("reg.example:5000").unwrap()];
    settings.patience.attempts = 1;
    let error = open(settings, "reg.example:5000/a", &Credentials::basic("user", "pass"))
        .await
        .manifest(&latest())
        .await
        .unwrap_err();
    assert!(chain(&error).contains("403"), "{}", chain(&error));
    let requests = answering.await.unwrap();
    assert!(requests[0].starts_with("CONNECT reg.example:5000 HTTP/1.1"), "{}", requests[0]);
    assert!(requests[0].to_lowercase().contains("proxy-authorization: basic dtpw"), "{}", requests[0]);
    assert!(requests[1].starts_with("GET http://reg.example:5000/v2/a/manifests/latest"), "{}", requests[1]);
}
