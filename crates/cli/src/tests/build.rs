//! `build` against an engine that the test plays.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use yare_api::build::CONTENT_TYPE;

use super::server::{Reply, Seen, Server};
use super::streams::{Ran, run};

/// A directory for one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("yare-build-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(path.join("ctx/sub")).unwrap();
        std::fs::write(path.join("ctx/Dockerfile"), "FROM busybox\n").unwrap();
        std::fs::write(path.join("ctx/sub/f"), "text").unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The document of a request, and what follows it.
fn unframed(seen: &Seen) -> (Value, Vec<u8>) {
    assert!(seen.path.ends_with("/build"), "{}", seen.path);
    assert!(seen.head.to_lowercase().contains(&format!("content-type: {CONTENT_TYPE}")), "{}", seen.head);
    let (length, rest) = seen.body.split_at(4);
    let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
    (serde_json::from_slice(&rest[..length]).unwrap(), rest[length..].to_vec())
}

fn done() -> Value {
    json!({ "result": { "imageId": "sha256:abc", "digest": "sha256:def", "names": ["x:latest"] } })
}

/// Runs a build that is answered with these messages; gives what it did and what it asked for.
fn build_with(line: &str, input: &[u8], messages: &[Value]) -> (Ran, Vec<Seen>) {
    let text: String = messages.iter().map(|message| format!("{message}\n")).collect();
    let server = Server::start(move |seen| match seen.path.as_str() {
        path if path.ends_with("/_ping") => Reply::Json(200, "OK".to_owned()),
        _ => Reply::Json(200, text.clone()),
    });
    let ran = run(&server, line, Some(input));
    let seen = server.seen.lock().unwrap().clone();
    (ran, seen.into_iter().filter(|seen| !seen.path.ends_with("/_ping")).collect())
}

fn requested(line: &str, input: &[u8]) -> (Value, Vec<u8>) {
    let (ran, seen) = build_with(line, input, &[done()]);
    assert_eq!(ran.code, 0, "{line}: {ran:?}");
    unframed(&seen[0])
}

#[test]
fn flags_become_the_request() {
    let scratch = Scratch::new("flags");
    std::fs::write(scratch.0.join("secret"), "s3\n").unwrap();
    let socket = std::os::unix::net::UnixListener::bind(scratch.0.join("agent")).unwrap();
    let directory = scratch.path("ctx");
    let (base, _) = requested(&format!("build {directory}"), b"");
    assert_eq!(base["context"]["kind"], "local");
    assert_eq!(base["context"]["value"], json!(directory));
    let found = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&directory).unwrap());
    assert_eq!(base["context"]["inode"], json!(found));
    assert_eq!(base.as_object().unwrap().len(), 1, "nothing but the context: {base}");
    let secret = scratch.path("secret");
    let agent = scratch.path("agent");
    let table = [
        ("-t a -t b:1", json!({ "tags": ["a", "b:1"] })),
        (
            "--build-arg A=1 --build-arg HOME --build-arg NONE",
            json!({ "buildArgs":
            { "A": "1", "HOME": "/root", "NONE": null } }),
        ),
        (
            "--target t --pull --no-cache --squash",
            json!({ "target": "t", "pull": true, "noCache": true,
            "squash": true }),
        ),
        ("--platform linux/amd64,linux/arm64", json!({ "platforms": ["linux/amd64", "linux/arm64"] })),
        ("--no-cache-filter a,b", json!({ "noCacheFilter": ["a", "b"] })),
        ("--label a=b --label c", json!({ "labels": { "a": "b", "c": "" } })),
        ("--annotation index:a=b", json!({ "annotations": { "index:a": "b" } })),
        (
            "--network none --add-host h:1.2.3.4",
            json!({ "networkMode": "none", "extraHosts": ["h:1.2.3.4"] }),
        ),
        (
            "-m 64m --memory-swap -1 -c 5 --cpuset-cpus 0 --cpuset-mems 1",
            json!({ "memory": 67_108_864,
            "memorySwap": -1, "cpuShares": 5, "cpusetCpus": "0", "cpusetMems": "1" }),
        ),
        ("--cpu-period 1000 --cpu-quota 500", json!({ "cpuPeriod": 1000, "cpuQuota": 500 })),
        ("--cpus 1.5", json!({ "cpuPeriod": 100_000, "cpuQuota": 150_000 })),
        (
            "--shm-size 1m --ulimit nofile=5:6 --cgroup-parent p",
            json!({ "shmSize": 1_048_576,
            "ulimits": ["nofile=5:6"], "cgroupParent": "p" }),
        ),
        (
            "--cache-from u/a:c --cache-to type=inline",
            json!({
            "cacheFrom": [{ "type": "registry", "ref": "u/a:c" }], "cacheTo": [{ "type": "inline" }] }),
        ),
        ("--allow network.host,security.insecure", json!({ "allow": ["network.host", "security.insecure"] })),
        (
            "--allow device --allow device=v/c=d,alias=a/b=c",
            json!({ "allow": ["device", "device=v/c=d,alias=a/b=c"] }),
        ),
        (
            "--secret-scan fail --explain --verify",
            json!({ "secretScan": "fail", "explain": true,
            "verify": true }),
        ),
        ("--why-miss", json!({ "explain": true })),
        (
            "--sbom true --provenance mode=max",
            json!({ "attest": { "sbom": {}, "provenance":
            { "mode": "max" } } }),
        ),
        ("--push --load", json!({ "outputs": [{ "kind": "registry" }, { "kind": "image" }] })),
        (
            "--build-context base:latest=docker-image://alpine",
            json!({ "contexts": { "base":
            { "kind": "image", "value": "alpine" } } }),
        ),
        (
            &format!("--secret id=s,src={secret}") as &str,
            json!({ "secrets": { "s": STANDARD.encode("s3\n") } }),
        ),
        ("--secret id=s,env=HOME", json!({ "secrets": { "s": STANDARD.encode("/root") } })),
        (&format!("--ssh default={agent}"), json!({ "ssh": { "default": agent } })),
        (
            "--rm=false --force-rm --compress --isolation default --disable-content-trust --builder default",
            json!({}),
        ),
        ("--check", json!({ "call": "check" })),
        ("--call outline", json!({ "call": "outline" })),
    ];
    for (flags, expected) in table {
        let (mut request, _) = requested(&format!("build {flags} {directory}"), b"");
        request.as_object_mut().unwrap().remove("context");
        assert_eq!(request, expected, "{flags}");
    }
    drop(socket);
}

#[test]
fn bad_flags_are_refused_before_anything_is_sent() {
    let scratch = Scratch::new("bad");
    let directory = scratch.path("ctx");
    for (flags, expected) in [
        ("-t UPPER", "invalid tag \"UPPER\": "),
        (
            "--no-cache --no-cache-filter a",
            "--no-cache and --no-cache-filter cannot currently be used together",
        ),
        ("--progress odd", "invalid progress mode odd"),
        ("-q --progress plain", "progress=plain and quiet cannot be used together"),
        ("--progress tty", "failed to get console: "),
        ("--isolation process", "invalid isolation: \"process\": "),
        ("--allow all", "invalid entitlement: all"),
        ("--builder other", "no builder \"other\" found"),
        ("--build-context A=docker-image://x", "invalid context name A: "),
        ("--secret src=x", "secret missing ID"),
        (
            "--secret id=x,src=/nowhere/s",
            "failed to read secret x: open /nowhere/s: no such file or directory",
        ),
        ("--ssh default", "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"),
        ("--build-context x", "invalid context value: x, expected key=value"),
        ("--platform a/b/c/d", "invalid platform \"a/b/c/d\": "),
        ("--cpus 1 --cpu-quota 5", "conflicting options: --cpus and --cpu-period or --cpu-quota"),
        ("--secret-scan maybe", "invalid --secret-scan \"maybe\": it is off, warn, fail"),
        ("-f nowhere", "failed to read dockerfile: open /nowhere: no such file or directory"),
        ("-o type=local", "dest is required for local exporter"),
    ] {
        let (ran, seen) = build_with(&format!("build {flags} {directory}"), b"", &[done()]);
        assert_eq!(ran.code, 1, "{flags}");
        let expected = format!("ERROR: failed to build: {expected}");
        assert!(ran.errors.starts_with(&expected), "{flags}: {}", ran.errors);
        assert!(seen.is_empty(), "{flags}");
    }
    let (ran, _) = build_with("build /nowhere", b"", &[]);
    assert_eq!(
        ran.errors,
        "ERROR: failed to build: unable to prepare context: path \"/nowhere\" not found\n"
    );
}

#[test]
fn contexts_from_standard_input_and_elsewhere() {
    let scratch = Scratch::new("stdin");
    let (request, rest) = requested("build -", b"FROM scratch\n");
    let expected = json!({
        "context": { "kind": "none", "value": "" }, "dockerfileInline": STANDARD.encode("FROM scratch\n"),
    });
    assert_eq!(request, expected);
    assert!(rest.is_empty());
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", scratch.0.join("ctx")).unwrap();
    let tar = archive.into_inner().unwrap();
    let (request, rest) = requested("build -f sub/D -", &tar);
    assert_eq!(request, json!({ "dockerfile": "sub/D" }));
    assert_eq!(rest, tar);
    let (request, _) = requested(&format!("build -f - {}", scratch.path("ctx")), b"FROM x\n");
    assert_eq!(request["dockerfileInline"], json!(STANDARD.encode("FROM x\n")));
    let (request, _) = requested("build -f D https://github.com/u/r.git#main:sub", b"");
    assert_eq!(
        request,
        json!({ "context": { "kind": "git", "value": "https://github.com/u/r.git#main:sub" },
            "dockerfile": "D" })
    );
    std::fs::write(scratch.0.join("Other"), "FROM y\n").unwrap();
    std::fs::write(scratch.0.join("Other.dockerignore"), "z\n").unwrap();
    let line = format!("build -f {} {}", scratch.path("Other"), scratch.path("ctx"));
    let (request, _) = requested(&line, b"");
    assert_eq!(request["dockerfileInline"], json!(STANDARD.encode("FROM y\n")));
    assert_eq!(request["ignoreInline"], json!(STANDARD.encode("z\n")));
    let line = format!("build -f {} {}", scratch.path("ctx/sub/f"), scratch.path("ctx"));
    assert_eq!(requested(&line, b"").0["dockerfile"], "sub/f");
    let (ran, _) = build_with("build -f - -", b"", &[]);
    assert!(ran.errors.contains("can't use stdin for both build context and dockerfile"), "{}", ran.errors);
    let (ran, _) = build_with("build -", b"", &[]);
    assert!(ran.errors.contains("the Dockerfile (stdin) cannot be empty"), "{}", ran.errors);
}

/// The names in a tar.
fn names(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
            (name, text)
        })
        .collect()
}

#[test]
fn an_engine_that_sees_other_files_gets_a_tar() {
    let scratch = Scratch::new("remote");
    let reply = done().to_string();
    let server = Server::start(move |seen| {
        if seen.path.ends_with("/_ping") {
            return Reply::Json(200, "OK".to_owned());
        }
        match unframed(seen).0["context"].is_null() {
            true => Reply::Json(200, reply.clone()),
            false => Reply::Json(412, r#"{"message":"other files"}"#.to_owned()),
        }
    });
    let ran = run(&server, &format!("build -q -o {} {}", scratch.path("out"), scratch.path("ctx")), None);
    assert_eq!(ran, Ran { code: 0, output: "sha256:abc\n".to_owned(), errors: String::new() });
    let seen = server.seen.lock().unwrap().clone();
    let builds: Vec<&Seen> = seen.iter().filter(|seen| seen.path.ends_with("/build")).collect();
    assert_eq!(builds.len(), 2);
    let (request, tar) = unframed(builds[1]);
    assert_eq!(request, json!({ "outputs": [{ "kind": "local" }] }), "the bytes are to be sent");
    let names = names(&tar);
    assert_eq!(names.keys().map(String::as_str).collect::<Vec<_>>(), ["Dockerfile", "sub/", "sub/f"]);
    assert_eq!(names["sub/f"], "text");
    // What is sent is shown, like any step.
    let ran = run(&server, &format!("build {}", scratch.path("ctx")), None);
    assert!(ran.errors.starts_with("#1 [internal] send build context\n#1 transferring context: "), "{ran:?}");
    assert!(ran.errors.contains("#1 DONE 0."), "{ran:?}");
    // A named directory cannot be sent beside it.
    let context = scratch.path("ctx");
    let ran = run(&server, &format!("build --build-context n={context} {context}"), None);
    assert!(ran.errors.contains("build context n cannot be a directory"), "{}", ran.errors);
}

#[test]
fn outputs_arrive_whole_or_not_at_all() {
    let scratch = Scratch::new("outputs");
    let data = |text: &[u8], output: usize| json!({ "data": STANDARD.encode(text), "output": output });
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o640);
    archive.append_data(&mut header, "etc/file", &b"text"[..]).unwrap();
    let tar = archive.into_inner().unwrap();
    let (a, b) = (scratch.path("a.tar"), scratch.path("tree"));
    let line = format!("build --progress plain -o type=oci,dest={a} -o type=local,dest={b} -");
    let messages = [data(b"abc", 0), data(&tar[..700], 1), data(b"def", 0), data(&tar[700..], 1), done()];
    let (ran, seen) = build_with(&line, b"FROM x\n", &messages);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(unframed(&seen[0]).0["outputs"], json!([{ "kind": "oci" }, { "kind": "local" }]));
    assert_eq!((scratch.read("a.tar"), scratch.read("tree/etc/file")), ("abcdef".into(), "text".into()));
    // A build that fails half-way leaves what was there.
    let failed = json!({ "error": "broken", "errorDetail": { "message": "broken" } });
    let line = format!("build -o type=oci,dest={a} -");
    let (ran, _) = build_with(&line, b"FROM x\n", &[data(b"half", 0), failed]);
    assert_eq!(ran.errors, "ERROR: failed to build: failed to solve: broken\n");
    assert_eq!(scratch.read("a.tar"), "abcdef");
    let left: Vec<_> =
        std::fs::read_dir(&scratch.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    let (ran, _) = build_with("build -o - -", b"FROM x\n", &[data(b"bytes", 0), done()]);
    assert_eq!(ran.output, "bytes");
    let (ran, _) = build_with("build -", b"FROM x\n", &[data(b"bytes", 0), done()]);
    assert!(ran.errors.contains("output 0, which was not asked for"), "{}", ran.errors);
}

/// What the engine writes is root's, so only root has it write; caches are the engine's own business.
#[test]
fn files_are_named_to_an_engine_on_this_host() {
    let scratch = Scratch::new("dest");
    let (context, out) = (scratch.path("ctx"), scratch.path("out"));
    let (request, _) = requested(&format!("build -o {out} -o type=tar,dest=- {context}"), b"");
    let attributes = match rustix::process::geteuid().is_root() {
        true => json!({ "kind": "local", "attributes": { "dest": out } }),
        false => json!({ "kind": "local" }),
    };
    assert_eq!(request["outputs"], json!([attributes, { "kind": "tar" }]));
    let (request, _) = requested(&format!("build --cache-to type=local,dest=c {context}"), b"");
    assert_eq!(request["cacheTo"], json!([{ "type": "local", "dest": "/c" }]));
}

#[test]
fn ids_and_metadata_are_written() {
    let scratch = Scratch::new("records");
    let (iid, metadata) = (scratch.path("iid"), scratch.path("meta.json"));
    std::fs::write(&iid, "old").unwrap();
    let line = format!("build --iidfile {iid} --metadata-file {metadata} -");
    let (ran, _) = build_with(&line, b"FROM x\n", &[json!({ "error": "no" })]);
    assert_eq!(ran.code, 1);
    assert!(!Path::new(&iid).exists(), "an old id is not this build's");
    let (ran, _) = build_with(&line, b"FROM x\n", &[done()]);
    assert_eq!((ran.code, ran.output.as_str()), (0, ""));
    assert_eq!(scratch.read("iid"), "sha256:abc");
    let document: Value = serde_json::from_str(&scratch.read("meta.json")).unwrap();
    assert_eq!(
        document,
        json!({ "containerimage.config.digest": "sha256:abc", "containerimage.digest": "sha256:def",
            "image.name": "x:latest" })
    );
}

#[test]
fn a_failure_shows_the_step_the_place_and_what_to_do() {
    let step = json!({ "digest": "a", "name": "[2/2] RUN false", "started": "2026-01-02T03:04:05Z",
        "completed": "2026-01-02T03:04:06Z", "error": "exit code: 1" });
    let messages = [
        json!({ "status": { "vertexes": [step] } }),
        json!({ "error": "process \"false\" did not complete", "excerpt": "Dockerfile:2\n--\n 2 | >>> RUN false\n--\n",
            "hint": "look at it" }),
    ];
    let (ran, _) = build_with("build -", b"FROM x\n", &messages);
    let expected = "#1 [2/2] RUN false\n#1 ERROR: exit code: 1\n------\n > [2/2] RUN false:\n------\n\
        Dockerfile:2\n--\n 2 | >>> RUN false\n--\n\
        ERROR: failed to build: failed to solve: process \"false\" did not complete\n  hint: look at it\n";
    assert_eq!(ran, Ran { code: 1, output: String::new(), errors: expected.to_owned() });
    let (ran, _) = build_with("build --progress rawjson -", b"FROM x\n", &messages[..1]);
    let first: Value = serde_json::from_str(ran.errors.lines().next().unwrap()).unwrap();
    assert_eq!(first["vertexes"][0]["name"], "[2/2] RUN false");
    assert!(ran.errors.contains("ended its answer before the build was done"), "{}", ran.errors);
}

#[test]
fn checks_are_answered() {
    let answer = |warnings: Value| json!({ "result": { "answer": { "warnings": warnings } } });
    let (ran, _) = build_with("build --check -", b"FROM x\n", &[answer(json!([]))]);
    assert_eq!((ran.code, ran.output.as_str()), (0, "Check complete, no warnings found.\n"));
    let (ran, _) = build_with("build --check -", b"FROM x\n", &[answer(json!([{ "ruleName": "R" }]))]);
    assert_eq!(ran.code, 1);
    assert!(ran.output.contains("WARNING: R\n"), "{}", ran.output);
}

#[test]
fn an_engine_that_refuses_the_tar_too_is_quoted() {
    let scratch = Scratch::new("refused");
    let server = Server::start(|seen| match seen.path.ends_with("/_ping") {
        true => Reply::Json(200, "OK".to_owned()),
        false => Reply::Json(412, r#"{"message":"other files"}"#.to_owned()),
    });
    let ran = run(&server, &format!("build {}", scratch.path("ctx")), None);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.errors, "ERROR: failed to build: Error response from daemon: other files\n");
}

#[test]
fn the_cache_is_listed_and_pruned() {
    let usage = json!({ "BuildCache": [
        { "ID": "one", "Type": "regular", "Description": "RUN make", "Size": 2000, "InUse": false },
        { "ID": "two", "Type": "source.local", "Size": 500, "InUse": true, "Shared": true },
    ] });
    let text = usage.to_string();
    let server = Server::start(move |_| Reply::Json(200, text.clone()));
    let ran = run(&server, "buildx du", None);
    let expected = "ID        RECLAIMABLE   SIZE      LAST ACCESSED\none       true          2kB       \ntwo       false         500B      \n";
    assert!(ran.output.starts_with(expected), "{:?}", ran.output);
    assert!(ran.output.contains("Total:"), "{}", ran.output);
    let ran = run(&server, "builder du --filter type=regular --format '{{.ID}}'", None);
    assert_eq!(ran.output, "one\n");
    let server = Server::start(|_| Reply::Json(200, r#"{"SpaceReclaimed":5}"#.to_owned()));
    let ran = run(&server, "buildx prune -f --max-used-space 1kb", None);
    assert_eq!(ran.output, "Total reclaimed space: 5B\n");
    let path = server.seen.lock().unwrap().last().unwrap().path.clone();
    assert!(path.ends_with("/build/prune?filters=&max-used-space=1024"), "{path}");
}

/// A build on a terminal that the engine never ends. The test calls itself, since a signal is for a process.
#[test]
fn an_interrupt_cancels_and_gives_the_cursor_back() {
    const ROLE: &str = "YARE_TEST_BUILD_AGAINST";
    if let Some(socket) = std::env::var_os(ROLE) {
        interrupted(Path::new(&socket));
    }
    let (closed_sender, closed) = std::sync::mpsc::channel();
    let server = Server::start(move |seen| {
        if seen.path.ends_with("/_ping") {
            return Reply::Json(200, "OK".to_owned());
        }
        let closed = closed_sender.clone();
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        Reply::Raw(
            head,
            Box::new(move |mut stream, _| {
                let line = "{\"status\":{\"vertexes\":[{\"digest\":\"a\",\"name\":\"[2/2] RUN wait\",\
                    \"started\":\"2026-01-02T03:04:05Z\"}]}}\n";
                write!(stream, "{:x}\r\n{line}\r\n", line.len()).unwrap();
                // The end of the connection is how an engine learns that it need not go on.
                let mut byte = [0];
                closed.send(std::io::Read::read(&mut stream, &mut byte).unwrap_or(0)).unwrap();
            }),
        )
    });
    let master =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = std::fs::OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    // Blocked in all of the child's threads: the program has one and blocks what it catches there, but a test
    // runs beside a thread of the harness, which would let the signal through.
    let mut child = std::process::Command::new("env")
        .arg("--block-signal=INT")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "tests::build::an_interrupt_cancels_and_gives_the_cursor_back", "--nocapture"])
        .env(ROLE, &server.path)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(slave)
        .spawn()
        .unwrap();
    let mut master = std::fs::File::from(master);
    let mut told = Vec::new();
    let mut buffer = [0; 4096];
    let shown = |told: &[u8]| String::from_utf8_lossy(told).contains("[2/2] RUN wait");
    while !shown(&told) {
        let count = std::io::Read::read(&mut master, &mut buffer).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&told));
        told.extend_from_slice(&buffer[..count]);
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let code = child.wait().unwrap().code();
    // The terminal ends with its last user, and says so with an error.
    while let Ok(count @ 1..) = std::io::Read::read(&mut master, &mut buffer) {
        told.extend_from_slice(&buffer[..count]);
    }
    let told = String::from_utf8_lossy(&told);
    assert_eq!(code, Some(130), "{told}");
    assert!(told.contains("\x1b[?25l"), "hidden while it draws: {told:?}");
    assert!(told.ends_with("\x1b[?7h\x1b[?25hERROR: canceled\r\n"), "{told:?}");
    assert_eq!(closed.recv_timeout(std::time::Duration::from_secs(10)), Ok(0));
}

/// What the interrupted process does.
#[expect(clippy::exit, reason = "a process of its own, whose code the test looks at")]
fn interrupted(socket: &Path) {
    let stdio = crate::session::Stdio {
        input: rustix::stdio::stdin(),
        output: rustix::stdio::stdout(),
        errors: rustix::stdio::stderr(),
    };
    let scratch = Scratch::new("interrupted");
    let mut cx = super::with_streams(stdio);
    cx.address = yare_client::Address::Unix(socket.to_owned());
    let line = format!("build --progress tty {}", scratch.path("ctx"));
    let (command, given) = super::parse(&mut cx, &line).unwrap();
    let outcome = crate::start(&cx, command, &given);
    let code = crate::finish(&cx, outcome);
    drop(scratch);
    std::process::exit(code);
}
