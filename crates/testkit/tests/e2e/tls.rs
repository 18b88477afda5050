//! The engine over TLS: who is served, that everything works through it, and what the others are told.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use yare_testkit::{Authority, Engine};

use crate::buildx;
use crate::case::cases;
use crate::client::Client;

const OWN: &str = "the test starts an engine of its own";

cases![
    Docker:
        everything_works_over_tls.differs(OWN),
        a_build_session_works_over_tls.differs(OWN),
        others_are_refused_and_told_why.differs(OWN);
    Api:
        listening_without_tls_has_to_be_wanted.differs(OWN);
];

/// An engine that serves clients with a certificate of its authority, and their folders.
struct Secure {
    engine: Engine,
    folder: tempfile::TempDir,
    authority: Authority,
    port: u16,
}

impl Secure {
    fn start() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
        authority.write(&folder.path().join("engine"), &authority.sign("127.0.0.1"));
        authority.write(&folder.path().join("me"), &authority.sign("me"));
        // Another program may take the port meanwhile; then the engine says so and the test fails.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = |name: &str| format!("{}/engine/{name}.pem", folder.path().display());
        let flags = ["-H", &format!("tcp://127.0.0.1:{port}"), "--tlsverify"].map(str::to_owned);
        let files = [("--tlscacert", file("ca")), ("--tlscert", file("cert")), ("--tlskey", file("key"))];
        let files = files.into_iter().flat_map(|(flag, file)| [flag.to_owned(), file]);
        let flags: Vec<String> = flags.into_iter().chain(files).collect();
        let engine = Engine::start_with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        engine.load_busybox();
        Self { engine, folder, authority, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The beginning of a script whose client has the certificate and the authority in this folder.
    fn with(&self, name: &str) -> String {
        let (port, path) = (self.port, self.path(name));
        format!(
            "export DOCKER_HOST=tcp://127.0.0.1:{port} DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH={}; ",
            path.display()
        )
    }
}

fn everything_works_over_tls(c: &Client) {
    let secure = Secure::start();
    let (own, me) = (c.of(&secure.engine), secure.with("me"));
    own.says(&format!("{me} docker run --rm busybox echo hi"), "hi\n");
    // The end of input arrives, and output that comes after it.
    own.says(&format!("{me} head -c 20000000 /dev/zero | docker run --rm -i busybox wc -c"), "20000000\n");
    own.says(&format!("{me} docker run --rm busybox head -c 20000000 /dev/zero | wc -c"), "20000000\n");
    own.ok(&format!("{me} docker run -d --name $n busybox sh -c 'echo out; sleep 60'"));
    own.says(&format!("{me} echo in | docker exec -i $n cat"), "in\n");
    own.says(&format!("{me} docker exec $n sh -c 'exit 3'; echo $?"), "3\n");
    own.says(&format!("{me} timeout 5 docker logs -f $n | head -1"), "out\n");
    own.says(&format!("{me} echo hello > f && docker cp f $n:/f && docker cp $n:/f - | tar -xO"), "hello\n");
    own.ok(&format!("{me} docker rm -f $n"));
    own.ok(&format!("{me} docker save busybox | docker load"));
    drop(own);
    secure.engine.finish();
}

fn a_build_session_works_over_tls(c: &Client) {
    let secure = Secure::start();
    let own = c.of(&secure.engine);
    if buildx::buildx(&own) {
        buildx::dockerfile(&own, "FROM busybox\nCOPY file /f\nRUN cat /f\n");
        let me = secure.with("me");
        let log = buildx::ok(&own, &format!("{me} docker buildx build --load -t $n/x . 2>&1"));
        assert!(log.contains("[2/3] COPY file /f"), "{log}");
        assert_eq!(buildx::ok(&own, &format!("{me} docker run --rm $n/x cat /f")), "hello\n");
    }
    drop(own);
    secure.engine.finish();
}

fn others_are_refused_and_told_why(c: &Client) {
    let secure = Secure::start();
    let own = c.of(&secure.engine);
    let (ours, theirs) = (&secure.authority, Authority::new("theirs"));
    let refused = |name: &str, reason: &str| {
        let said = own.fails(1, &format!("{} docker ps", secure.with(name)));
        assert!(said.contains(reason), "{name}: {said}");
    };
    ours.write(&secure.path("stranger"), &theirs.sign("me"));
    refused("stranger", "tls: certificate required");
    ours.write(&secure.path("expired"), &ours.sign_expired("me"));
    refused("expired", "certificate");
    theirs.write(&secure.path("distrust"), &ours.sign("me"));
    refused("distrust", "x509: certificate signed by unknown authority");
    let bare = "--tlscert= --tlskey= ps";
    let said = own.fails(1, &format!("{} docker {bare}", secure.with("me")));
    assert!(said.contains("tls: certificate required"), "{said}");
    let plain = format!("DOCKER_HOST=tcp://127.0.0.1:{} docker ps", secure.port);
    let said = own.fails(1, &plain);
    assert!(said.contains("Client sent an HTTP request to an HTTPS server."), "{said}");
    // The engine reads its files again, without a restart.
    for (signed, reason) in [
        (ours.sign("elsewhere.example"), "x509: cannot validate certificate for 127.0.0.1"),
        (ours.sign_expired("127.0.0.1"), "x509: certificate has expired or is not yet valid"),
    ] {
        ours.write(&secure.path("engine"), &signed);
        std::thread::sleep(Duration::from_millis(1100));
        refused("me", reason);
    }
    ours.write(&secure.path("engine"), &ours.sign("127.0.0.1"));
    std::thread::sleep(Duration::from_millis(1100));
    own.ok(&format!("{} docker ps", secure.with("me")));
    drop(own);
    secure.engine.finish();
}

fn listening_without_tls_has_to_be_wanted(c: &Client) {
    let yare = yare_testkit::yare_binary();
    let folder = c.folder.display();
    let daemon = |flags: &str| {
        format!(
            "{} daemon --data-root {folder}/d --exec-root {folder}/e --config-file {folder}/daemon.json {flags}",
            yare.display()
        )
    };
    std::fs::write(c.folder.join("daemon.json"), r#"{"hosts":["tcp://127.0.0.1:1"]}"#).unwrap();
    let said = c.fails(1, &daemon(""));
    assert!(said.contains("refusing to listen on tcp://127.0.0.1:1 without TLS"), "{said}");
    std::fs::write(c.folder.join("daemon.json"), r#"{"hosts":["tcp://127.0.0.1:1"],"tlsverify":true}"#)
        .unwrap();
    let said = c.fails(1, &daemon("--tlscert none.pem"));
    assert!(said.contains("invalid TLS configuration"), "{said}");
}
