//! `yare registry` as a program: serving, collecting beside it, ending in good order.

#![expect(clippy::unwrap_used, reason = "tests may")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use yare_testkit::{Engine, Invocation, require_root, yare_binary};

struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(root: &Path) -> Self {
        Self::start_with(&["--root", root.to_str().unwrap(), "--listen", "127.0.0.1:0"])
    }

    fn start_with(args: &[&str]) -> Self {
        // As whoever starts it may have left them: blocked signals must not make it deaf.
        let mut child = Command::new("env")
            .arg("--block-signal=TERM")
            .arg(yare_binary())
            .args(["registry", "serve"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, rest) = line.split_once("the registry is ready on ")?;
            rest.split_whitespace().next().map(str::to_owned)
        });
        // What it says later must not block it.
        std::thread::spawn(move || lines.count());
        Self { child, address: ready.expect("it says where it listens") }
    }

    fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn ask(&self, request: &str) -> String {
        answer(self.send(request))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn yare(args: &[&str]) -> yare_testkit::Outcome {
    Invocation::new(yare_binary(), args).run()
}

#[test]
fn it_serves_is_collected_and_ends_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data/registry");
    let mut registry = Registry::start(&root);
    let root = root.to_str().unwrap();
    let close = "Host: x\r\nConnection: close\r\n";
    // Logs are opened anew by it; nothing ends.
    let hangup = Command::new("kill").args(["-HUP", &registry.child.id().to_string()]).status();
    assert!(hangup.unwrap().success());
    assert!(registry.ask(&format!("GET /v2/ HTTP/1.1\r\n{close}\r\n")).starts_with("HTTP/1.1 200"));
    let started =
        registry.ask(&format!("POST /v2/a/blobs/uploads/ HTTP/1.1\r\n{close}Content-Length: 0\r\n\r\n"));
    let location = started.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    // Beside it: collection and scrubbing work, a second one does not start.
    let collected = yare(&["registry", "gc", "--root", root, "--dry-run"]);
    assert!(collected.stdout.contains("would remove 0 blobs"), "{collected:?}");
    let scrubbed = yare(&["registry", "scrub", "--root", root, "--json"]);
    assert_eq!(scrubbed.code, 0, "{scrubbed:?}");
    assert!(scrubbed.stdout.contains("\"damaged\": []"), "{scrubbed:?}");
    let second = yare(&["registry", "serve", "--root", root, "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("is open already"), "{second:?}");
    // A request that is running when the end is asked for is answered. It runs when it is told to go on.
    let head =
        format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n");
    let mut running = registry.send(&head);
    let mut told = [0; 25];
    running.read_exact(&mut told).unwrap();
    assert_eq!(String::from_utf8_lossy(&told), "HTTP/1.1 100 Continue\r\n\r\n");
    running.write_all(b"01234").unwrap();
    let pid = registry.child.id().to_string();
    assert_eq!(Invocation::new("kill", &["-TERM", &pid]).run().code, 0);
    std::thread::sleep(Duration::from_millis(200));
    running.write_all(b"56789").unwrap();
    let answered = answer(running);
    assert!(answered.starts_with("HTTP/1.1 202"), "{answered}");
    let begun = Instant::now();
    let status = registry.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    // Without a process, gc opens the root itself.
    let collected = yare(&["registry", "gc", "--root", root]);
    assert!(collected.stdout.contains("removed 0 blobs"), "{collected:?}");
}

#[test]
fn mistakes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("registry.toml");
    std::fs::write(&config, "[[proxy]]\nupstream = 'https://registry-1.docker.io'\n").unwrap();
    let cases = [
        (vec!["serve"], "no root folder is given"),
        (vec!["serve", "--nope"], "unknown flag: --nope"),
        (vec!["explode", "--root", "/nonexistent/x"], "no such command: explode"),
        (vec!["serve", "--config", config.to_str().unwrap()], "not of the form host:port/path"),
        (vec!["serve", "--root", "/dev/null/x"], "cannot make the folder /dev/null"),
        (vec!["serve", "--root", folder.path().to_str().unwrap(), "--listen", "nowhere"], "no address"),
    ];
    for (args, text) in cases {
        let args: Vec<&str> = ["registry"].into_iter().chain(args).collect();
        let outcome = yare(&args);
        assert_eq!(outcome.code, 1, "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains(text), "{args:?}: {outcome:?}");
    }
    let line = Invocation::new(yare_binary(), &["registry", "user", "alice"]).input("secret\n").ok();
    assert!(line.starts_with("alice:$2b$12$"), "{line}");
    assert!(yare(&["registry", "--help"]).stdout.contains("serve    Serve a registry"));
}

#[test]
fn replication_is_planned_done_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let target = Registry::start(&folder.path().join("target"));
    let config = folder.path().join("registry.toml");
    let root = folder.path().join("source");
    let text = format!(
        "root = '{}'\nlisten = ['127.0.0.1:0']\n[[replicate]]\nname = 'backup'\nto = '{}/copy'\ndelay = '1h'\n\
         every = '0'\n",
        root.display(),
        target.address
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let replicate = |more: &[&str]| yare(&[&["registry", "replicate"], more, &["--config", config]].concat());
    let alone = replicate(&[]);
    assert!(alone.code == 1 && alone.stderr.contains("nobody serves this registry"), "{alone:?}");
    assert_eq!(replicate(&["--dry-run"]).stdout, "nothing differs\n");
    let source = Registry::start_with(&["--config", config]);
    let blob = "POST /v2/app/blobs/uploads/?digest=sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a \
                HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    assert!(source.ask(blob).starts_with("HTTP/1.1 201"));
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({ "schemaVersion": 2, "mediaType": kind, "layers": [], "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json", "size": 2,
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }})
    .to_string();
    let put = format!(
        "PUT /v2/app/manifests/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{manifest}",
        manifest.len()
    );
    assert!(source.ask(&put).starts_with("HTTP/1.1 201"));
    assert_eq!(replicate(&["--dry-run"]).stdout, "backup: app:v1: copy\n");
    let waits = replicate(&["status"]);
    assert!(waits.code == 0 && waits.stdout.contains(": 1 waiting (0 under way, 0 failing)"), "{waits:?}");
    assert_eq!(replicate(&[]).stdout, "comparing: backup\n");
    let get = "GET /v2/copy/app/tags/list HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let arrived = || target.ask(get).ends_with("{\"name\":\"copy/app\",\"tags\":[\"v1\"]}");
    yare_testkit::eventually("the tag is copied", Duration::from_secs(120), arrived);
    let done = || replicate(&["status"]).stdout.contains(": 0 waiting");
    yare_testkit::eventually("nothing waits", Duration::from_secs(60), done);
    drop(target);
    replicate(&[]);
    let fails = || replicate(&["status"]).code == 1;
    yare_testkit::eventually("the failure shows", Duration::from_secs(120), fails);
    assert!(replicate(&["status"]).stdout.contains("the comparison of app failed"));
}

#[test]
fn the_embedded_image_serves_in_a_container() {
    if !require_root("the_embedded_image_serves_in_a_container") {
        return;
    }
    let engine = Engine::start();
    engine
        .docker(&["run", "--detach", "--name", "registry", "--publish", "127.0.0.1::5000", "yare/registry"])
        .ok();
    let published = engine.docker(&["port", "registry", "5000"]).ok();
    let address = published.lines().next().unwrap().to_owned();
    let begun = Instant::now();
    let text = loop {
        let stream = TcpStream::connect(&address).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        match stream {
            Ok(text) if !text.is_empty() => break text,
            _ => assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{}",
                engine.docker(&["logs", "registry"]).run().stderr
            ),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    engine.docker(&["stop", "-t", "60", "registry"]).ok();
    let code = engine.docker(&["inspect", "-f", "{{.State.ExitCode}}", "registry"]).ok();
    assert_eq!(code, "0\n", "SIGTERM ends it");
    engine.docker(&["rm", "--volumes", "registry"]).ok();
    assert!(engine.docker(&["run", "--rm", "yare/hello"]).ok().contains("Hello from Yare!"));
    engine.finish();
}
