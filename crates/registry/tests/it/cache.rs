//! Pull-through caches: a registry in front of others.

use crate::client::{Client, Pushed, free_port, image};
use crate::served::Served;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use yare_oci::{Digest, MediaType};

/// A cache of one upstream, whose repositories are below `hub`.
fn cache(upstream: &str, more: &str) -> Served {
    Served::new(&format!("[[proxy]]\nprefix = 'hub'\nupstream = '{upstream}'\n{more}"))
}

/// A manifest of the repository that is cached.
pub(crate) fn manifest(client: &Client, reference: &str) -> crate::client::Answer {
    client.get(&format!("/v2/hub/app/manifests/{reference}"))
}

#[test]
fn what_is_unknown_comes_from_the_upstream_and_stays() {
    let upstream = Served::new("");
    let pushed = upstream.client.push_image("app", "v1", "layer one");
    let cache = cache(&upstream.client.address, "");
    let client = cache.client.clone();
    let layer = format!("/v2/hub/app/blobs/{}", pushed.layer);

    client.get("/v2/app/manifests/v1").refused(404, "NAME_UNKNOWN");
    manifest(&client, "v2").refused(404, "MANIFEST_UNKNOWN");
    let head = client.head("/v2/hub/app/manifests/v1").expect(200);
    assert_eq!(head.header("Docker-Content-Digest"), Some(pushed.digest.to_string().as_str()));
    assert_eq!(manifest(&client, "v1").expect(200).body, pushed.bytes);
    assert_eq!(client.head(&layer).expect(200).header("Content-Length"), Some("9"));
    let part = client.send("GET", &layer, &[("Range", "bytes=6-8")], b"").expect(206);
    assert_eq!(part.body, b"one");
    assert_eq!(client.get(&layer).expect(200).body, b"layer one");
    client.get(&format!("/v2/hub/app/blobs/{}", Digest::of("nowhere"))).refused(404, "BLOB_UNKNOWN");

    drop(upstream);
    // By digest and within the time that a tag is believed, the upstream is not needed.
    assert_eq!(manifest(&client, "v1").expect(200).header("Warning"), None);
    manifest(&client, &pushed.digest.to_string()).expect(200);
    assert_eq!(client.get(&layer).expect(200).body, b"layer one");
    client.get(&format!("/v2/hub/app/blobs/{}", pushed.config)).expect(502);
}

#[test]
fn tags_are_asked_about_again_and_stale_while_the_upstream_is_down() {
    let upstream = Served::new("");
    let first = upstream.client.push_image("app", "v1", "one");
    let cache = cache(&upstream.client.address, "fresh = '0'");
    assert_eq!(manifest(&cache.client, "v1").expect(200).body, first.bytes);
    assert_eq!(manifest(&cache.client, "v1").expect(200).body, first.bytes);
    let second = upstream.client.push_image("app", "v1", "two");
    assert_eq!(manifest(&cache.client, "v1").expect(200).body, second.bytes);
    manifest(&cache.client, &first.digest.to_string()).expect(200);

    upstream.client.delete("/v2/app/manifests/v1").expect(202);
    manifest(&cache.client, "v1").refused(404, "MANIFEST_UNKNOWN");
    drop(upstream);
    for _ in 0..2 {
        let stale = manifest(&cache.client, "v1").expect(200);
        assert_eq!(stale.body, second.bytes);
        assert!(stale.header("Warning").unwrap().starts_with("110 "));
    }
    manifest(&cache.client, "v9").refused(502, "UNAVAILABLE");
}

#[test]
fn caches_are_not_pushed_to_and_rules_hold() {
    let users = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(users.path(), format!("alice:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let auth = format!("[auth]\nhtpasswd = '{}'\n", users.path().display());
    let upstream = Served::new(&auth);
    let basic = "Basic YWxpY2U6c2VjcmV0";
    let pushed = upstream.client.with(basic).push_image("app", "v1", "one");
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "secret\n").unwrap();
    let login = format!("username = 'alice'\npassword_file = '{}'\n", password.path().display());
    let cache = cache(&upstream.client.address, &format!("{login}{auth}"));

    manifest(&cache.client, "v1").refused(401, "UNAUTHORIZED");
    let client = cache.client.with(basic);
    assert_eq!(manifest(&client, "v1").expect(200).body, pushed.bytes);
    client.put("hub/app", "v2", MediaType::OCI_MANIFEST, &pushed.bytes).refused(405, "UNSUPPORTED");
    client.send("POST", "/v2/hub/app/blobs/uploads/", &[], b"").refused(405, "UNSUPPORTED");
    client.push_image("own/app", "v1", "mine");

    // Credentials that the upstream does not take are no reason to serve what is here as if it was down.
    let anonymous =
        Served::new(&format!("[[proxy]]\nprefix = 'hub'\nupstream = '{}'", upstream.client.address));
    manifest(&anonymous.client, "v1").refused(403, "DENIED");
}

#[test]
fn what_has_no_room_is_passed_through() {
    let upstream = Served::new("");
    let pushed = upstream.client.push_image("app", "v1", "one");
    let cache = cache(&upstream.client.address, "[[quota]]\nrepositories = '**'\nbytes = 1");
    for _ in 0..2 {
        assert_eq!(manifest(&cache.client, "v1").expect(200).body, pushed.bytes);
        assert_eq!(cache.client.get(&format!("/v2/hub/app/blobs/{}", pushed.layer)).expect(200).body, b"one");
    }
}

#[test]
fn what_nobody_pulls_is_collected() {
    let upstream = Served::new("");
    let pushed = upstream.client.push_image("app", "v1", "one");
    let text = "unused_after = '5s'\n[collect]\ngrace = '0'";
    let cache = cache(&upstream.client.address, text);
    manifest(&cache.client, "v1").expect(200);
    cache.client.get(&format!("/v2/hub/app/blobs/{}", pushed.layer)).expect(200);
    assert_eq!(cache.collect(true).tags, Vec::<String>::new());
    std::thread::sleep(Duration::from_millis(6100));
    let collected = cache.collect(false);
    assert_eq!((collected.tags.len(), collected.manifests.len()), (1, 1), "{collected:?}");
    manifest(&cache.client, "v1").expect(200);
}

/// An upstream of one image that sends its layer in two halves, the second when it is told to.
pub(crate) struct Halting {
    pub(crate) address: String,
    pub(crate) pushed: Pushed,
    /// Sends a second half.
    pub(crate) go: mpsc::Sender<Vec<u8>>,
    /// How often the layer was asked for.
    pub(crate) asked: Arc<AtomicUsize>,
}

const HALF: usize = 1 << 20;

impl Halting {
    /// One whose layer has two halves of so many sevens.
    pub(crate) fn new(half: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (layer, config) = (Digest::of(vec![7; 2 * half]), Digest::of("{}"));
        let bytes = image(&[(config, 2), (layer, 2 * half)]).to_string().into_bytes();
        let pushed = Pushed { digest: Digest::of(&bytes), bytes, config, layer };
        let (go, rest) = mpsc::channel();
        let (asked, rest) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(rest)));
        let (shown, counter) = (pushed.clone(), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (shown, counter, rest) = (shown.clone(), Arc::clone(&counter), Arc::clone(&rest));
                std::thread::spawn(move || answer(stream.unwrap(), (&shown, half), &counter, &rest));
            }
        });
        Self { address, pushed, go, asked }
    }
}

/// Answers one request.
fn answer(
    mut stream: TcpStream,
    (pushed, half): (&Pushed, usize),
    asked: &AtomicUsize,
    rest: &Mutex<mpsc::Receiver<Vec<u8>>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    let _ = reader.read_line(&mut line);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) <= 2 {
            break;
        }
    }
    let head = |length: usize, kind: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    if line.contains("/manifests/") {
        let _ = stream.write_all(head(pushed.bytes.len(), MediaType::OCI_MANIFEST).as_bytes());
        let _ = stream.write_all(&pushed.bytes);
    } else if line.starts_with("GET") && line.contains("/blobs/") {
        asked.fetch_add(1, Ordering::SeqCst);
        let _ = stream.write_all(head(2 * half, "application/octet-stream").as_bytes());
        let _ = stream.write_all(&vec![7; half]);
        let _ = stream.write_all(&rest.lock().unwrap().recv().unwrap_or_default());
    }
}

/// Begins to read the layer and returns the connection after the first `bytes` of it.
pub(crate) fn begin(client: &Client, layer: &Digest, bytes: usize) -> TcpStream {
    let mut stream = client.connect();
    write!(stream, "GET /v2/hub/app/blobs/{layer} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    let mut first = vec![0; bytes];
    stream.read_exact(&mut first).unwrap();
    assert!(first.iter().all(|byte| *byte == 7));
    stream
}

#[test]
fn clients_get_a_blob_while_it_comes_and_share_one_transfer() {
    let upstream = Halting::new(HALF);
    let cache = cache(&upstream.address, "");
    manifest(&cache.client, "v1").expect(200);
    let layer = upstream.pushed.layer;
    // Half of it is with the clients before the upstream has sent the rest.
    let mut streams: Vec<TcpStream> = (0..8).map(|_| begin(&cache.client, &layer, HALF / 2)).collect();
    // The one that asked first leaves: the others do not notice.
    drop(streams.remove(0));
    upstream.go.send(vec![7; HALF]).unwrap();
    for mut stream in streams {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), 2 * HALF - HALF / 2);
    }
    assert_eq!(cache.client.get(&format!("/v2/hub/app/blobs/{layer}")).expect(200).body.len(), 2 * HALF);
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 1);
    let metrics = String::from_utf8(cache.client.get("/metrics").expect(200).body).unwrap();
    let labels = format!("{{prefix=\"hub\",upstream=\"{}\"}}", upstream.address);
    for row in [format!("blobs_total{labels} 1\n"), format!("bytes_total{labels} {}\n", 2 * HALF)] {
        assert!(metrics.contains(&format!("yare_registry_cache_{row}")), "{metrics}");
    }
}

#[test]
fn no_client_gets_all_of_what_is_wrong() {
    let upstream = Halting::new(HALF);
    let cache = cache(&upstream.address, "");
    manifest(&cache.client, "v1").expect(200);
    let layer = upstream.pushed.layer;
    let mut stream = begin(&cache.client, &layer, HALF / 2);
    upstream.go.send(vec![8; HALF]).unwrap();
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(rest.len() < 2 * HALF - HALF / 2, "{ended:?}: the last byte must not come");
    let blob = cache.root.join("blobs/sha256").join(layer.hex());
    assert!(!blob.exists());
    let left = std::fs::read_dir(cache.root.join("uploads")).unwrap().count();
    assert_eq!(left, 0, "the upload of it is gone");
    // The next client makes it come anew.
    upstream.go.send(vec![7; HALF]).unwrap();
    let stream = begin(&cache.client, &layer, 2 * HALF);
    drop(stream);
}

#[test]
fn an_index_is_kept_before_its_members() {
    let upstream = Served::new("");
    let pushed = upstream.client.push_image("app", "amd64", "one");
    let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [
        { "mediaType": MediaType::OCI_MANIFEST, "digest": pushed.digest.to_string(), "size": pushed.bytes.len() },
    ]});
    let index = index.to_string().into_bytes();
    upstream.client.put("app", "v1", MediaType::OCI_INDEX, &index).expect(201);
    let cache = cache(&upstream.client.address, "");
    assert_eq!(manifest(&cache.client, "v1").expect(200).body, index);
    assert_eq!(manifest(&cache.client, &pushed.digest.to_string()).expect(200).body, pushed.bytes);
}

#[test]
fn skopeo_copies_through_a_cache_of_docker_registry() {
    let installed = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !installed("skopeo") || !installed("docker-registry") {
        println!("SKIP: skopeo and docker-registry are not both installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = folder.path().join("config.yml");
    let root = folder.path().join("docker");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            root.display()
        ),
    )
    .unwrap();
    let mut upstream = Command::new("docker-registry").arg("serve").arg(&config).spawn().unwrap();
    let client = Client::new(format!("127.0.0.1:{port}"));
    let ready = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        TcpStream::connect(&client.address).is_ok()
    });
    assert!(ready, "docker-registry did not start");
    let pushed = client.push_image("app", "v1", "not a tar, and nobody looks");
    let cache = cache(&client.address, "");
    let to = folder.path().join("to");
    let copy = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--src-tls-verify=false"])
        .arg(format!("docker://{}/hub/app:v1", cache.client.address))
        .arg(format!("dir:{}", to.display()))
        .output()
        .unwrap();
    upstream.kill().unwrap();
    upstream.wait().unwrap();
    assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
    assert_eq!(std::fs::read(to.join("manifest.json")).unwrap(), pushed.bytes);
}
