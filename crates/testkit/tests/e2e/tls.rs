//! Engines elsewhere: over TLS (who is served, that everything works through it, what the others are told),
//! behind ssh, and by the names of contexts that both command lines share.

use std::path::PathBuf;
use std::time::Duration;

use yare_testkit::{Authority, Engine};

use crate::buildx;
use crate::case::cases;
use crate::client::{Client, Program};

const OWN: &str = "the test starts an engine of its own";

cases![
    Both:
        everything_works_over_tls.differs(OWN),
        others_are_refused_and_told_why.differs(OWN),
        an_engine_behind_ssh_is_reached.differs(OWN),
        contexts_are_shared_by_both_command_lines.differs(OWN);
    Docker:
        a_build_session_works_over_tls.differs(OWN);
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
        let port = yare_testkit::free_port();
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
    own.says(&format!("{me} timeout 10 docker logs -f $n | head -1"), "out\n");
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
    // Docker's client keeps a certificate to itself that no authority of the engine's signed.
    let why = match own.program {
        Program::Docker => "remote error: tls: certificate required",
        Program::Yare => "remote error: tls: unknown certificate authority",
    };
    refused("stranger", why);
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
        (ours.sign("127.0.0.2"), "x509: certificate is valid for 127.0.0.2, not 127.0.0.1"),
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

/// In place of ssh: notes how it was called, and runs the command here, where `far` is the engine.
const SSH: &str = r#"#!/bin/sh
echo "$@" >> "$calls"
while [ "$1" != -- ]; do shift; done
shift
[ "$1" = far ] || { echo "ssh: Could not resolve hostname $1" >&2; exit 255; }
shift
DOCKER_HOST=$far exec sh -c "$*"
"#;

fn an_engine_behind_ssh_is_reached(c: &Client) {
    std::fs::create_dir_all(c.folder.join("bin")).unwrap();
    std::fs::write(c.folder.join("bin/ssh"), SSH).unwrap();
    c.ok("chmod +x bin/ssh");
    let ssh = |host: &str| {
        format!("export PATH=$PWD/bin:$PATH calls=$PWD/calls far=$DOCKER_HOST DOCKER_HOST=ssh://{host}; ")
    };
    let far = ssh("me@far:2222");
    c.says(&format!("{far} docker run --rm busybox sh -c 'echo hi; exit 3'; echo $?"), "hi\n3\n");
    c.says(&format!("{far} head -c 5000000 /dev/zero | docker run --rm -i busybox wc -c"), "5000000\n");
    c.says("sort -u calls", "-o ConnectTimeout=30 -T -l me -p 2222 -- far docker system dial-stdio\n");
    let said = c.fails(1, &format!("{} docker ps", ssh("elsewhere")));
    let expected = "command [ssh -o ConnectTimeout=30 -T -- elsewhere docker system dial-stdio] has exited with exit status \
                    255, make sure the URL is valid, and Docker 18.09 or later is installed on the remote host: \
                    stderr=ssh: Could not resolve hostname elsewhere";
    assert!(said.contains(expected), "{said}");
    let said = c.fails(1, "DOCKER_HOST=ssh://me:pw@far docker ps");
    assert_eq!(
        said.lines().next().unwrap(),
        "Failed to initialize: ssh host connection is not valid: invalid SSH URL: plain-text password is not supported"
    );
}

fn contexts_are_shared_by_both_command_lines(c: &Client) {
    let secure = Secure::start();
    let own = c.of(&secure.engine);
    let (me, port) = (secure.path("me"), secure.port);
    let other = match own.program {
        Program::Docker => Program::Yare,
        Program::Yare => Program::Docker,
    };
    let folder = own.host.folder.join("clients").join(other.name());
    // The command line of the case, and the other one as `other`; both without a host, in one configuration.
    let both = |script: &str| {
        format!(
            "unset DOCKER_HOST; export DOCKER_CONFIG=$PWD/config; other() {{ PATH={}:$PATH docker \"$@\"; }}; {script}",
            folder.display()
        )
    };
    let pem = |name: &str| format!("{}/{name}.pem", me.display());
    let endpoint =
        format!("host=tcp://127.0.0.1:{port},ca={},cert={},key={}", pem("ca"), pem("cert"), pem("key"));
    own.says(
        &both(&format!("docker context create far1 --description 'a far one' --docker '{endpoint}'")),
        "far1\n",
    );
    own.says(&both("other --context far1 run --rm busybox echo hi"), "hi\n");
    own.says(
        &both("other context use far1 && docker context show && docker run --rm busybox echo in use"),
        "far1\nfar1\nin use\n",
    );
    own.says(
        &both("docker context ls --format '{{.Name}} {{.Current}} {{.Description}}'; other context ls -q"),
        "default false Current DOCKER_HOST based configuration\nfar1 true a far one\ndefault\nfar1\n",
    );
    let inspect = "context inspect far1 && cmp <(docker context inspect far1) <(other context inspect far1)";
    assert!(own.ok(&both(&format!("docker {inspect}"))).contains("\"cert.pem\""));
    let tls = own.ok(&both("find config/contexts -type d -name 'tls' -printf '%m '; find config/contexts -name key.pem -printf '%m'"));
    assert_eq!(tls, "700 600");
    own.says(
        &both(
            "docker context export far1 out && other context import far2 out && other --context far2 ps -q",
        ),
        "far2\n",
    );
    own.says(
        &both("other context export far2 - | docker context import far3 - && docker --context far3 ps -q"),
        "far3\n",
    );
    own.says(&both("docker context update far3 --docker host=unix:///nowhere && other context inspect far3 -f '{{.Endpoints.docker.Host}}{{.TLSMaterial}}'"), "far3\nunix:///nowhere map[]\n".replace(" map", "map").as_str());
    for (script, text) in [
        ("docker context create far1", "context \"far1\" already exists"),
        (
            "docker context create x",
            "context name \"x\" is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\"",
        ),
        ("docker context create default", "\"default\" is a reserved context name"),
        (
            "docker context create far4 --docker foo=bar",
            "unable to create docker endpoint config: unrecognized config key: foo",
        ),
        (
            "docker context create far4 --docker ca=/nope,host=tcp://a",
            "unable to create docker endpoint config: open /nope: no such file or directory",
        ),
        (
            "docker context create far4 --docker host=ssh://a:b@c",
            "unable to create docker endpoint config: invalid docker endpoint options: ssh host connection is not valid: invalid SSH URL: plain-text password is not supported",
        ),
        (
            "docker context create far4 --docker skip-tls-verify=maybe,host=tcp://a",
            "unable to create docker endpoint config: skip-tls-verify: parsing \"maybe\": invalid syntax",
        ),
        ("docker context rm far1", "context \"far1\" is in use, set -f flag to force remove"),
        ("docker context rm far9", "context \"far9\" does not exist"),
        ("docker context rm default", "context \"default\" cannot be removed"),
        ("docker context import far1 out", "context \"far1\" already exists"),
        ("docker context export far1 out", "open out: file exists"),
        (
            "docker --context far1 -H tcp://a ps",
            "conflicting options: cannot specify both --host and --context",
        ),
    ] {
        own.refuses(1, &both(script), text);
    }
    let said = own.fails(1, &both("docker --context nope ps"));
    assert!(said.starts_with("Failed to initialize: unable to resolve docker endpoint: context \"nope\": context not found: open "), "{said}");
    own.says(
        &both("docker context rm -f far1 far2 far3; other context show; find config/contexts -type f"),
        "far1\nfar2\nfar3\ndefault\n",
    );
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
