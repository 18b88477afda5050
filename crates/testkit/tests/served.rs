//! `yare registry enable`: an engine's images as a registry, for clients of all kinds.

#![expect(clippy::unwrap_used, reason = "tests may")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use yare_testkit::{Engine, Invocation, Registry, busybox_rootfs_tar, free_port, require_root};

/// An engine whose images are served, and the address.
fn served() -> (Engine, String) {
    served_with(&[])
}

fn served_with(flags: &[&str]) -> (Engine, String) {
    let engine = Engine::start_with(flags);
    let address = format!("127.0.0.1:{}", free_port());
    let told = engine.yare(&["registry", "enable", "--listen", &address]).ok();
    assert!(told.starts_with(&format!("served on http://{address}\n")), "{told}");
    (engine, address)
}

/// Kills the engine and starts it again; when this returns, the registry is served.
fn start_again(engine: &mut Engine) {
    engine.kill9();
    engine.restart();
    engine.yare(&["registry", "status"]).ok();
}

struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn ask(address: &str, method: &str, path: &str, more: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n").unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    Answer { head: String::from_utf8(all[..end].to_vec()).unwrap(), body: all.split_off(end + 4) }
}

/// The digest that a push told.
fn digest(output: &str) -> String {
    output.split("digest: ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn what_the_engine_has_is_served_and_a_push_of_it_moves_nothing() {
    if !require_root("what_the_engine_has_is_served_and_a_push_of_it_moves_nothing") {
        return;
    }
    let (mut engine, address) = served();
    let port = address.split(':').nth(1).unwrap();
    let name = format!("localhost:{port}/team/box:1");
    engine
        .docker(&["import", "--change", "CMD [\"echo\", \"hello\"]", "-", &name])
        .input(busybox_rootfs_tar())
        .ok();
    let begun = Instant::now();
    let pushed = engine.docker(&["push", &name]).ok();
    let took = begun.elapsed();
    assert!(pushed.contains(": Layer already exists\n"), "{pushed}");
    assert!(took < Duration::from_secs(60), "a push of what is there took {took:?}");
    let digest = digest(&pushed);
    let uploads = std::fs::read_dir(engine.data_root().join("registry/uploads")).unwrap().count();
    let blobs = std::fs::read_dir(engine.data_root().join("registry/blobs/sha256")).unwrap().count();
    assert_eq!((uploads, blobs), (0, 0), "no byte was stored once more");
    // What is tagged without a registry is there by its own name.
    engine.docker(&["tag", &name, "plain:2"]).ok();
    let catalog = ask(&address, "GET", "/v2/_catalog", "").json();
    let repositories: Vec<&str> =
        catalog["repositories"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    assert!(repositories.contains(&"team/box") && repositories.contains(&"plain"), "{repositories:?}");
    let page = ask(&address, "GET", "/v2/_catalog?n=1", "");
    assert_eq!(page.json()["repositories"].as_array().unwrap().len(), 1);
    assert!(page.header("link").contains("rel=\"next\""), "{}", page.head);
    assert_eq!(ask(&address, "GET", "/v2/team/box/tags/list", "").json()["tags"], serde_json::json!(["1"]));
    assert!(ask(&address, "GET", "/v2/nothing/tags/list", "").head.starts_with("HTTP/1.1 404"));
    // Sizes and digests are those of the manifest, before and after a restart.
    for _ in 0..2 {
        let manifest = ask(&address, "GET", "/v2/team/box/manifests/1", "");
        assert_eq!(manifest.header("docker-content-digest"), digest);
        for part in [&manifest.json()["config"], &manifest.json()["layers"][0]] {
            let path = format!("/v2/team/box/blobs/{}", part["digest"].as_str().unwrap());
            let size = part["size"].as_u64().unwrap();
            let head = ask(&address, "HEAD", &path, "");
            assert_eq!(head.header("content-length"), size.to_string(), "{}", head.head);
            let whole = ask(&address, "GET", &path, "").body;
            assert_eq!(whole.len() as u64, size);
            assert_eq!(sha256(&whole), part["digest"].as_str().unwrap());
            let some = ask(&address, "GET", &path, "Range: bytes=100-199\r\n");
            assert!(some.head.starts_with("HTTP/1.1 206"), "{}", some.head);
            assert_eq!(some.body, &whole[100..200]);
            // Another repository does not give it away.
            let other = ask(&address, "HEAD", &path.replace("team/box", "other"), "");
            assert!(other.head.starts_with("HTTP/1.1 404"), "{}", other.head);
        }
        start_again(&mut engine);
    }
    let copied = format!("dir:{}", engine.path().join("copied").display());
    let from = format!("docker://{address}/team/box@{digest}");
    Invocation::new("skopeo", &["copy", "--src-tls-verify=false", &from, &copied]).ok();
    engine.docker(&["rmi", &name, "plain:2"]).ok();
    let gone = ask(&address, "GET", "/v2/team/box/manifests/1", "");
    assert!(gone.head.starts_with("HTTP/1.1 404"), "{}", gone.head);
    engine.finish();
}

#[test]
fn what_is_pushed_from_elsewhere_is_an_image_here() {
    if !require_root("what_is_pushed_from_elsewhere_is_an_image_here") {
        return;
    }
    let (mut engine, address) = served();
    let other = Engine::start();
    let (there, here) =
        (format!("{address}/app:1"), format!("{}/app:1", address.replace("127.0.0.1", "localhost")));
    other
        .docker(&["import", "--change", "CMD [\"echo\", \"from afar\"]", "-", &there])
        .input(busybox_rootfs_tar())
        .ok();
    let first = digest(&other.docker(&["push", &there]).ok());
    assert_eq!(engine.docker(&["run", "--rm", "--network", "none", &here]).ok(), "from afar\n");
    // It is stored once: the compressed bytes are the same file in both places.
    start_again(&mut engine);
    other.docker(&["rmi", &there]).ok();
    other.docker(&["pull", "-q", &there]).ok();
    assert_eq!(other.docker(&["run", "--rm", "--network", "none", &there]).ok(), "from afar\n");
    let again = other.docker(&["push", &there]).ok();
    assert!(again.contains(": Layer already exists\n"), "{again}");
    assert_eq!(digest(&again), first);
    assert_eq!(digest(&engine.docker(&["push", &here]).ok()), first);
    // What no engine can hold stays in the registry: an artifact.
    let file = other.path().join("note");
    std::fs::write(&file, "a note").unwrap();
    let artifact = format!("{address}/notes:1");
    other.yare(&["artifact", "add", &artifact, file.to_str().unwrap()]).ok();
    other.yare(&["artifact", "push", &artifact]).ok();
    other.yare(&["artifact", "rm", &artifact]).ok();
    other.yare(&["artifact", "pull", &artifact]).ok();
    let manifest = ask(&address, "GET", "/v2/app/manifests/1", "");
    let entry = serde_json::json!({
        "mediaType": manifest.header("content-type"), "digest": first, "size": manifest.body.len(),
        "platform": { "os": "linux", "architecture": "amd64" },
    });
    let kind = "application/vnd.oci.image.index.v1+json";
    let index =
        serde_json::json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [entry] }).to_string();
    let head = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{index}", index.len());
    let put = ask(&address, "PUT", "/v2/app/manifests/all", &head);
    assert!(put.head.starts_with("HTTP/1.1 201"), "{} {}", put.head, String::from_utf8_lossy(&put.body));
    other.docker(&["pull", "-q", &format!("{address}/app:all")]).ok();
    assert_ne!(engine.docker(&["images", "-q", &here.replace(":1", ":all")]).ok(), "");
    let tags = ask(&address, "GET", "/v2/app/tags/list", "").json();
    assert_eq!(tags["tags"], serde_json::json!(["1", "all"]));
    // Deleting takes the name away here, too; what is not the registry's stays.
    engine.docker(&["tag", &here, "mine:1"]).ok();
    let refused = ask(&address, "DELETE", "/v2/mine/manifests/1", "");
    assert!(refused.head.starts_with("HTTP/1.1 409"), "{}", refused.head);
    let deleted = ask(&address, "DELETE", "/v2/app/manifests/1", "");
    assert!(deleted.head.starts_with("HTTP/1.1 202"), "{}", deleted.head);
    assert_eq!(engine.docker(&["images", "-q", &here]).ok(), "");
    other.finish();
    engine.finish();
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Puts a document under a name.
fn put(address: &str, path: &str, kind: &str, text: &str) -> Answer {
    let head = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    ask(address, "PUT", path, &head)
}

#[test]
fn an_index_that_is_pushed_is_one_here() {
    if !require_root("an_index_that_is_pushed_is_one_here") {
        return;
    }
    let (mut engine, address) = served();
    let other = Engine::start();
    let registry = Registry::of_yare(&other.path().join("registry"));
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let name = format!("{}/app:{architecture}", registry.host());
        let platform = format!("linux/{architecture}");
        let command = format!("CMD [\"echo\", \"{architecture}\"]");
        let import = ["import", "--platform", &platform, "--change", &command, "-", &name];
        other.docker(&import).input(busybox_rootfs_tar()).ok();
        let pushed = digest(&other.docker(&["push", &name]).ok());
        let manifest = ask(&registry.host(), "GET", &format!("/v2/app/manifests/{pushed}"), "");
        entries.push(serde_json::json!({
            "mediaType": manifest.header("content-type"), "digest": pushed, "size": manifest.body.len(),
            "platform": { "os": "linux", "architecture": architecture },
        }));
    }
    let index =
        serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string();
    let stored = put(&registry.host(), "/v2/app/manifests/all", INDEX, &index);
    assert!(stored.head.starts_with("HTTP/1.1 201"), "{}", stored.head);
    let (source, target) = (format!("{}/app:all", registry.host()), format!("{address}/team/app:all"));
    other.yare(&["image", "copy", &source, &target]).ok();
    let here = target.replace("127.0.0.1", "localhost");
    assert_eq!(engine.docker(&["run", "--rm", "--network", "none", &here]).ok(), "amd64\n");
    let shown = engine.yare(&["image", "inspect", "--platform", "linux/arm64", &here]).ok();
    assert!(shown.contains("arm64"), "{shown}");
    start_again(&mut engine);
    let kept = ask(&address, "GET", "/v2/team/app/manifests/all", "");
    assert_eq!(String::from_utf8_lossy(&kept.body), index);
    assert_eq!(kept.header("content-type"), INDEX);
    for entry in &entries {
        let digest = entry["digest"].as_str().unwrap();
        let member = ask(&address, "GET", &format!("/v2/team/app/manifests/{digest}"), "");
        assert_eq!(sha256(&member.body), digest, "{}", member.head);
        for part in member.json()["layers"].as_array().unwrap() {
            let layer = part["digest"].as_str().unwrap();
            assert_eq!(sha256(&ask(&address, "GET", &format!("/v2/team/app/blobs/{layer}"), "").body), layer);
        }
    }
    // Again, and to another client: nothing is sent, and nothing changes.
    other.yare(&["image", "copy", &source, &target]).ok();
    other.docker(&["pull", "-q", "--platform", "linux/arm64", &target]).ok();
    let inspected = other.docker(&["image", "inspect", "-f", "{{.Architecture}}", &target]).ok();
    assert_eq!(inspected, "arm64\n");
    engine.docker(&["rmi", &here]).ok();
    assert!(ask(&address, "GET", "/v2/team/app/manifests/all", "").head.starts_with("HTTP/1.1 404"));
    // Deleted by the registry's interface, by its digest.
    other.yare(&["image", "copy", &source, &target]).ok();
    let path = format!("/v2/team/app/manifests/{}", sha256(index.as_bytes()));
    let deleted = ask(&address, "DELETE", &path, "");
    assert!(deleted.head.starts_with("HTTP/1.1 202"), "{}", deleted.head);
    assert_eq!(engine.docker(&["images", "-q", &here]).ok(), "");
    drop(registry);
    other.finish();
    engine.finish();
}

#[test]
fn layers_of_the_engine_are_mounted_into_other_repositories() {
    if !require_root("layers_of_the_engine_are_mounted_into_other_repositories") {
        return;
    }
    let (engine, address) = served();
    engine.docker(&["import", "-", "base:1"]).input(busybox_rootfs_tar()).ok();
    let manifest = ask(&address, "GET", "/v2/base/manifests/1", "");
    let mount = |to: &str, digest: &str, from: &str| {
        let path = format!("/v2/{to}/blobs/uploads/?mount={digest}&from={from}");
        ask(&address, "POST", &path, "Content-Length: 0\r\n")
    };
    let config = manifest.json()["config"]["digest"].as_str().unwrap().to_owned();
    let layer = manifest.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    for digest in [&config, &layer] {
        let refused = mount("derived", digest, "nothing");
        assert!(refused.head.starts_with("HTTP/1.1 202"), "{}", refused.head);
        let mounted = mount("derived", digest, "base");
        assert!(mounted.head.starts_with("HTTP/1.1 201"), "{}", mounted.head);
        let got = ask(&address, "GET", &format!("/v2/derived/blobs/{digest}"), "");
        assert_eq!(sha256(&got.body), *digest);
    }
    let kind = manifest.header("content-type").to_owned();
    let text = String::from_utf8(manifest.body).unwrap();
    let pushed = put(&address, "/v2/derived/manifests/1", &kind, &text);
    assert!(pushed.head.starts_with("HTTP/1.1 201"), "{}", pushed.head);
    let name = format!("{}/derived:1", address.replace("127.0.0.1", "localhost"));
    assert_ne!(engine.docker(&["images", "-q", &name]).ok(), "");
    engine.finish();
}

#[test]
fn tls_users_and_rules_hold_for_the_engines_images() {
    if !require_root("tls_users_and_rules_hold_for_the_engines_images") {
        return;
    }
    let engine = Engine::start();
    let address = format!("127.0.0.1:{}", free_port());
    let place = |name: &str| engine.path().join(name).display().to_string();
    let (key, certificate, users) = (place("key.pem"), place("cert.pem"), place("htpasswd"));
    let request = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=registry",
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    Invocation::new("openssl", &request).ok();
    let mut lines = String::new();
    for user in ["reader", "writer"] {
        let yare = yare_testkit::yare_binary();
        lines += &Invocation::new(yare, &["registry", "user", user]).input("secret").ok();
    }
    std::fs::write(&users, lines).unwrap();
    let config = place("registry.toml");
    let text = format!(
        "[tls]\ncertificate = '{certificate}'\nkey = '{key}'\n[auth]\nhtpasswd = '{users}'\n\
         [[access]]\nrepositories = '**'\nactions = ['pull', 'push']\nusers = ['writer']\n\
         [[access]]\nrepositories = 'public/**'\nactions = ['pull']\nusers = ['reader']\n"
    );
    std::fs::write(&config, text).unwrap();
    engine.docker(&["import", "-", "public/base:1"]).input(busybox_rootfs_tar()).ok();
    engine.docker(&["import", "-", "private/base:1"]).input(busybox_rootfs_tar()).ok();
    engine.yare(&["registry", "enable", "--listen", &address, "--config", &config]).ok();
    let status = |user: &str, method: &str, path: &str| {
        let url = format!("https://{address}/v2/{path}");
        let login = format!("{user}:secret");
        let curl = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", &certificate, "-X", method];
        let login = if user.is_empty() { vec![] } else { vec!["-u", login.as_str()] };
        Invocation::new("curl", &[&curl[..], &login, &[&url]].concat()).ok()
    };
    for (user, method, path, code) in [
        ("", "GET", "", "401"),
        ("reader", "GET", "public/base/manifests/1", "200"),
        ("reader", "GET", "private/base/manifests/1", "403"),
        ("reader", "POST", "public/base/blobs/uploads/", "403"),
        ("writer", "GET", "private/base/manifests/1", "200"),
        ("writer", "POST", "team/app/blobs/uploads/", "202"),
        ("writer", "DELETE", "public/base/manifests/1", "403"),
    ] {
        assert_eq!(status(user, method, path), code, "{user} {method} {path}");
    }
    // A mount gives nobody what he may not read.
    let private = engine.docker(&["image", "inspect", "-f", "{{.Id}}", "private/base:1"]).ok();
    let mount = format!("team/app/blobs/uploads/?from=private/base&mount={}", private.trim());
    assert_eq!(status("reader", "POST", &mount), "403");
    assert_eq!(status("writer", "POST", &mount), "201");
    // Docker logs in, pushes and pulls over it.
    let other = Engine::start();
    let docker = |args: &[&str]| other.docker(args).env("DOCKER_CONFIG", other.path().join("docker"));
    docker(&["login", "-u", "writer", "--password-stdin", &address]).input("secret").ok();
    let name = format!("{address}/team/app:1");
    docker(&["import", "--change", "CMD [\"echo\", \"over TLS\"]", "-", &name])
        .input(busybox_rootfs_tar())
        .ok();
    docker(&["push", &name]).ok();
    let here = name.replace("127.0.0.1", "localhost");
    assert_eq!(engine.docker(&["run", "--rm", "--network", "none", &here]).ok(), "over TLS\n");
    docker(&["rmi", &name]).ok();
    docker(&["pull", "-q", &name]).ok();
    other.finish();
    engine.finish();
}

#[test]
fn a_bad_push_is_refused_and_leaves_nothing() {
    if !require_root("a_bad_push_is_refused_and_leaves_nothing") {
        return;
    }
    let (engine, address) = served();
    let put = |bytes: &[u8]| {
        let digest = sha256(bytes);
        let path = format!("/v2/bad/blobs/uploads/?digest={digest}");
        let head = format!("Content-Length: {}\r\n\r\n{}", bytes.len(), String::from_utf8_lossy(bytes));
        let answer = ask(&address, "POST", &path, &head);
        assert!(answer.head.starts_with("HTTP/1.1 201"), "{}", answer.head);
        digest
    };
    // A layer that is no tar, and a config that names another one.
    let layer = put(b"no layer at all");
    let config = format!(
        "{{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{}\"]}}}}",
        sha256(b"something else")
    );
    let config_digest = put(config.as_bytes());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": kind,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 15 }],
    })
    .to_string();
    let head = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{manifest}", manifest.len());
    let refused = ask(&address, "PUT", "/v2/bad/manifests/1", &head);
    assert!(refused.head.starts_with("HTTP/1.1 400"), "{}", refused.head);
    assert_eq!(refused.json()["errors"][0]["code"], "MANIFEST_INVALID");
    assert!(ask(&address, "HEAD", "/v2/bad/manifests/1", "").head.starts_with("HTTP/1.1 404"));
    let name = format!("{}/bad", address.replace("127.0.0.1", "localhost"));
    assert_eq!(engine.docker(&["images", "-q", &name]).ok(), "");
    engine.finish();
}

#[test]
fn it_is_enabled_shown_and_disabled() {
    if !require_root("it_is_enabled_shown_and_disabled") {
        return;
    }
    let mut engine = Engine::start();
    assert_eq!(engine.yare(&["registry", "status"]).ok(), "not served\n");
    let address = format!("127.0.0.1:{}", free_port());
    let config = engine.path().join("registry.toml");
    let users = engine.path().join("htpasswd");
    let line =
        Invocation::new(yare_testkit::yare_binary(), &["registry", "user", "alice"]).input("secret").ok();
    std::fs::write(&users, line).unwrap();
    std::fs::write(&config, format!("listen = ['{address}']\n[auth]\nhtpasswd = '{}'\n", users.display()))
        .unwrap();
    let config = config.to_str().unwrap();
    engine.yare(&["registry", "enable", "--config", config]).ok();
    assert!(ask(&address, "GET", "/v2/", "").head.starts_with("HTTP/1.1 401"));
    let login = ["login", "-u", "alice", "--password-stdin", &address];
    engine.docker(&login).env("DOCKER_CONFIG", engine.path().join("docker")).input("secret").ok();
    // Mistakes change nothing.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap().to_string();
    let failed = engine.yare(&["registry", "enable", "--listen", &busy]).run();
    assert!(failed.code != 0 && failed.stderr.contains("cannot listen on"), "{failed:?}");
    let both = engine.yare(&["registry", "enable", "--config", config, "--listen", &busy]).run();
    assert!(both.stderr.contains("both as a flag and in the configuration"), "{both:?}");
    for (text, told) in [
        ("root = '/x'", "keeps its things in the engine's data root"),
        ("[[proxy]]\nupstream = 'docker.io'", "is no cache of others"),
        ("nonsense = 1", "unknown field"),
    ] {
        let path = engine.path().join("bad.toml");
        std::fs::write(&path, text).unwrap();
        let failed = engine.yare(&["registry", "enable", "--config", path.to_str().unwrap()]).run();
        assert!(failed.code != 0 && failed.stderr.contains(told), "{failed:?}");
    }
    let shown = engine.yare(&["registry", "status", "--format", "json"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["Listen"][0], &shown["Auth"]), (&address.clone().into(), &true.into()), "{shown}");
    start_again(&mut engine);
    assert!(ask(&address, "GET", "/v2/", "").head.starts_with("HTTP/1.1 401"));
    engine.yare(&["registry", "disable"]).ok();
    assert!(TcpStream::connect(&address).is_err(), "nobody listens any more");
    engine.stop();
    engine.restart();
    assert_eq!(engine.yare(&["registry", "status"]).ok(), "not served\n");
    // Enabled again at once, and replaced at the same address.
    engine.yare(&["registry", "enable", "--listen", &address]).ok();
    engine.yare(&["registry", "enable", "--listen", &address]).ok();
    assert!(ask(&address, "GET", "/v2/", "").head.starts_with("HTTP/1.1 200"));
    // An address that is taken at the start is no reason not to start.
    engine.stop();
    let taken = TcpListener::bind(&address).unwrap();
    engine.restart();
    let status = engine.yare(&["registry", "status"]).run();
    assert!(status.code != 0 && status.stderr.contains("cannot listen on"), "{status:?}");
    drop(taken);
    engine.finish();
}

/// A layer that was pulled is kept once; the registry and archives have it as it came all the same.
#[test]
fn what_was_pulled_is_served_as_it_came() {
    if !require_root("what_was_pulled_is_served_as_it_came") {
        return;
    }
    let (mut engine, address) = served_with(&["--keep-compressed-layers", "0s"]);
    let registry = Registry::start(&engine.path().join("registry"));
    let (there, here) = (format!("{}/box:1", registry.host()), format!("{address}/box:1"));
    engine.docker(&["import", "-", &there]).input(busybox_rootfs_tar()).ok();
    let wanted = digest(&engine.docker(&["push", &there]).ok());
    engine.docker(&["rmi", &there]).ok();
    engine.docker(&["pull", "-q", &there]).ok();
    engine.docker(&["tag", &there, &here]).ok();
    let manifest = ask(&address, "GET", "/v2/box/manifests/1", "");
    assert_eq!(manifest.header("docker-content-digest"), wanted);
    let layer = manifest.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let blob = engine.data_root().join("content/blobs/sha256").join(layer.trim_start_matches("sha256:"));
    yare_testkit::eventually("the layer is kept once", Duration::from_secs(300), || !blob.exists());
    for _ in 0..2 {
        let path = format!("/v2/box/blobs/{layer}");
        let whole = ask(&address, "GET", &path, "").body;
        assert_eq!(sha256(&whole), layer);
        let some = ask(&address, "GET", &path, "Range: bytes=1000-1999\r\n");
        assert_eq!(some.body, &whole[1000..2000]);
        assert_eq!(ask(&address, "HEAD", &path, "").header("content-length"), whole.len().to_string());
        start_again(&mut engine);
    }
    let archive = engine.path().join("box.tar");
    engine.docker(&["save", "-o", archive.to_str().unwrap(), &there]).ok();
    engine.docker(&["rmi", &there, &here]).ok();
    engine.docker(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();
    assert_eq!(engine.docker(&["run", "--rm", "--network", "none", &there, "echo", "hello"]).ok(), "hello\n");
    engine.docker(&["rmi", &there]).ok();
    drop(registry);
    engine.finish();
}

#[test]
fn what_was_never_here_compressed_is_served_unpacked() {
    if !require_root("what_was_never_here_compressed_is_served_unpacked") {
        return;
    }
    let (engine, address) = served();
    let other = Engine::start();
    let registry = Registry::start(&other.path().join("registry"));
    let name = format!("{}/app:1", registry.host());
    other
        .docker(&["import", "--change", "CMD [\"echo\", \"shared\"]", "-", &name])
        .input(busybox_rootfs_tar())
        .ok();
    let pushed = digest(&other.docker(&["push", &name]).ok());
    // The layer is here by another way, so that the pull does not fetch its compressed form.
    engine.docker(&["import", "-", "base:1"]).input(busybox_rootfs_tar()).ok();
    let pulled = engine.docker(&["pull", &name]).ok();
    assert!(pulled.contains(": Already exists"), "{pulled}");
    engine.docker(&["tag", &name, "got:1"]).ok();
    let manifest = ask(&address, "GET", "/v2/got/manifests/1", "");
    let served = manifest.header("docker-content-digest");
    assert_ne!(served, pushed);
    assert_eq!(ask(&address, "GET", &format!("/v2/got/manifests/{served}"), "").body, manifest.body);
    other.docker(&["pull", "-q", &format!("{address}/got:1")]).ok();
    let run = ["run", "--rm", "--network", "none", &format!("{address}/got:1")];
    assert_eq!(other.docker(&run).ok(), "shared\n");
    drop(registry);
    other.finish();
    engine.finish();
}

#[test]
fn a_digest_alone_gives_nobody_what_others_have() {
    if !require_root("a_digest_alone_gives_nobody_what_others_have") {
        return;
    }
    let (engine, address) = served();
    engine.docker(&["import", "-", "secret:1"]).input(busybox_rootfs_tar()).ok();
    let secret = ask(&address, "GET", "/v2/secret/manifests/1", "");
    let put = |manifest: &str| {
        let kind = secret.header("content-type");
        let head = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{manifest}", manifest.len());
        ask(&address, "PUT", "/v2/thief/manifests/1", &head)
    };
    let whole = put(&String::from_utf8_lossy(&secret.body));
    assert!(whole.head.starts_with("HTTP/1.1 404"), "{}", whole.head);
    assert_eq!(whole.json()["errors"][0]["code"], "MANIFEST_BLOB_UNKNOWN");
    // Nor does a config that names the layer beside another blob.
    let upload = |bytes: &[u8]| {
        let path = format!("/v2/thief/blobs/uploads/?digest={}", sha256(bytes));
        let mut stream = TcpStream::connect(&address).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        stream.write_all(&[head.as_bytes(), bytes].concat()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    };
    let mut manifest = secret.json();
    let config = ask(
        &address,
        "GET",
        &format!("/v2/secret/blobs/{}", manifest["config"]["digest"].as_str().unwrap()),
        "",
    );
    upload(&config.body);
    let other = Invocation::new("gzip", &["-c"]).input("not the layer").run().bytes;
    upload(&other);
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    manifest["layers"][0]["digest"] = sha256(&other).into();
    manifest["layers"][0]["size"] = other.len().into();
    let refused = put(&manifest.to_string());
    assert!(refused.head.starts_with("HTTP/1.1 400"), "{}", refused.head);
    let theirs = ask(&address, "HEAD", &format!("/v2/thief/blobs/{layer}"), "");
    assert!(theirs.head.starts_with("HTTP/1.1 404"), "{}", theirs.head);
    engine.finish();
}

fn sha256(bytes: &[u8]) -> String {
    let sum = Invocation::new("sha256sum", &[]).input(bytes).ok();
    format!("sha256:{}", sum.split(' ').next().unwrap())
}
