//! Several registries over one bucket.

use crate::buckets;
use crate::client::{Client, location, with_digest};
use crate::served::Served;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use yare_oci::{Digest, MediaType};

/// Where a process that is killed finds its folder.
const FOLDER: &str = "YARE_REGISTRY_REPLICA_FOLDER";

/// Some registries over one prefix; `None` where there is no server.
pub(crate) struct Replicas {
    folder: TempDir,
    text: String,
}

impl Replicas {
    /// With more lines of their configuration.
    pub(crate) fn new(name: &str, more: &str) -> Option<Self> {
        // A tempdir's name is unique, and so the prefix.
        let folder = tempfile::tempdir().unwrap();
        let unique = Digest::of(folder.path().as_os_str().as_encoded_bytes()).hex();
        let text = buckets::storage(&format!("{name}/{unique}"), "")? + more;
        std::fs::write(folder.path().join("config"), &text).unwrap();
        Some(Self { folder, text })
    }

    /// One with a root of this name.
    pub(crate) fn start(&self, name: &str) -> Served {
        Served::at(self.folder.path().join(name), &self.text)
    }

    /// One that reaches the store by another address.
    pub(crate) fn start_through(&self, name: &str, address: &str) -> Served {
        let text = self.text.replace(buckets::address().unwrap(), address);
        Served::at(self.folder.path().join(name), &text)
    }

    /// The keys of all objects that begin so; `None` where the test cannot look.
    pub(crate) fn objects(&self, of: &str) -> Option<Vec<String>> {
        let server = buckets::objects()?;
        let prefix = format!("{}/{of}", prefix_of(self));
        let listed = server.get(&format!("/images?list-type=2&prefix={prefix}")).expect(200);
        let listed = String::from_utf8(listed.body).unwrap();
        let keys = listed.split("<Key>").skip(1).filter_map(|part| part.split('<').next());
        Some(keys.map(str::to_owned).collect())
    }
}

#[test]
fn what_one_acknowledges_another_serves() {
    let Some(replicas) = Replicas::new("both", "") else { return };
    let (first, second) = (replicas.start("a"), replicas.start("b"));
    for round in 0..5 {
        let (one, other) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let pushed = one.client.push_image("team/app", "latest", &format!("layer {round}"));
        let got = other.client.get("/v2/team/app/manifests/latest").expect(200);
        assert_eq!((Digest::of(&got.body), &got.body), (pushed.digest, &pushed.bytes), "{round}");
        let layer = other.client.get(&format!("/v2/team/app/blobs/{}", pushed.layer)).expect(200);
        assert_eq!(layer.body, format!("layer {round}").as_bytes());
        other.client.head(&format!("/v2/team/app/blobs/{}", pushed.config)).expect(200);
    }
    let tags = second.client.get("/v2/team/app/tags/list").expect(200).json();
    assert_eq!(tags["tags"], serde_json::json!(["latest"]));
    first.client.delete("/v2/team/app/manifests/latest").expect(202);
    second.client.get("/v2/team/app/manifests/latest").expect(404);
}

#[test]
fn a_webhook_is_told_once_and_in_the_order_of_the_pushes() {
    let hook = crate::webhooks::Hook::new(|_| Some(200));
    let text = format!("[[webhook]]\nurl = '{}'\n", hook.url);
    let Some(replicas) = Replicas::new("told", &text) else { return };
    let served = [replicas.start("a"), replicas.start("b")];
    let mut want = Vec::new();
    for round in 0..6 {
        served[round % 2].client.push_image("a", &format!("v{round}"), "x");
        want.push(format!("push a v{round}"));
    }
    assert_eq!(hook.shorts(6), want);
    hook.assert_quiet();
}

#[test]
fn parts_of_a_blob() {
    let Some(replicas) = Replicas::new("ranges", "") else { return };
    let served = replicas.start("a");
    let bytes: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
    let digest = served.client.push_blob("a", &bytes);
    let path = format!("/v2/a/blobs/{digest}");
    let part = served.client.send("GET", &path, &[("Range", "bytes=5-99998")], b"").expect(206);
    assert_eq!(part.body, bytes[5..99_999]);
    assert_eq!(part.header("Content-Range"), Some("bytes 5-99998/100000"));
    served.client.send("GET", &path, &[("Range", "bytes=100000-")], b"").refused(416, "RANGE_INVALID");
    let empty = served.client.push_blob("a", b"");
    assert!(served.client.get(&format!("/v2/a/blobs/{empty}")).expect(200).body.is_empty());
    let at = with_digest(&served.client.start("a"), &Digest::of("other"));
    served.client.send("PUT", &at, &[], b"bytes").refused(400, "DIGEST_INVALID");
}

#[test]
fn an_upload_goes_on_at_any_replica() {
    let Some(replicas) = Replicas::new("uploads", "") else { return };
    let (first, second) = (replicas.start("a"), replicas.start("b"));
    // More than two parts of a multipart upload.
    let blob: Vec<u8> = (0..20_000_000_u32).map(|number| (number % 253) as u8).collect();
    let digest = Digest::of(&blob);
    let mut at = first.client.start("a");
    for (number, piece) in blob.chunks(3_000_000).enumerate() {
        let served = if number % 2 == 0 { &second } else { &first };
        let start = number * 3_000_000;
        let range = format!("{start}-{}", start + piece.len() - 1);
        let answer = served.client.send("PATCH", &at, &[("Content-Range", &range)], piece).expect(202);
        at = location(&answer);
    }
    let status = first.client.get(&at).expect(204);
    assert_eq!(status.header("Range"), Some("0-19999999"));
    second.client.send("PATCH", &at, &[("Content-Range", "7-9")], b"abc").refused(416, "RANGE_INVALID");
    second.client.send("PUT", &with_digest(&at, &digest), &[], b"").expect(201);
    assert!(first.client.get(&format!("/v2/a/blobs/{digest}")).expect(200).body == blob);
    first.client.get(&at).refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn tags_that_race_are_one_of_those_that_were_pushed() {
    let Some(replicas) = Replicas::new("race", "[[immutable]]\nrepositories = 'fixed'\ntags = ['*']\n")
    else {
        return;
    };
    let served = [replicas.start("a"), replicas.start("b")];
    let pushed: Vec<Vec<_>> = (0..2)
        .map(|number| {
            (0..6)
                .map(|count| served[number].client.push_image("m", "x", &format!("{number} {count}")))
                .collect()
        })
        .collect();
    let wins = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (number, images) in pushed.iter().enumerate() {
            let (client, wins) = (served[number].client.clone(), &wins);
            scope.spawn(move || {
                for (count, image) in images.iter().enumerate() {
                    client.put("m", "x", MediaType::OCI_MANIFEST, &image.bytes).expect(201);
                    // What is immutable goes to one of two that push it at once.
                    for digest in [image.config, image.layer] {
                        let mount = format!("/v2/fixed/blobs/uploads/?mount={digest}&from=m");
                        client.send("POST", &mount, &[], b"").expect(201);
                    }
                    let kind = MediaType::OCI_MANIFEST;
                    let answer = client.put("fixed", &format!("v{count}"), kind, &image.bytes);
                    wins.fetch_add(usize::from(answer.status == 201), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(wins.load(Ordering::Relaxed), 6);
    let [first, second] =
        served.each_ref().map(|served| served.client.get("/v2/m/manifests/x").expect(200).body);
    assert_eq!(first, second);
    assert!(pushed.iter().flatten().any(|image| image.bytes == first));
}

#[test]
fn a_replica_begins_with_nothing_or_with_what_it_has() {
    let Some(replicas) = Replicas::new("begin", "") else { return };
    let pushed = {
        let first = replicas.start("a");
        let pushed = first.client.push_image("a", "before", "one");
        // Writes a checkpoint.
        first.collect(false);
        first.client.push_image("a", "after", "two");
        pushed
    };
    for name in ["a", "new"] {
        let served = replicas.start(name);
        let tags = served.client.get("/v2/a/tags/list").expect(200).json();
        assert_eq!(tags["tags"], serde_json::json!(["after", "before"]), "{name}");
        let got = served.client.get("/v2/a/manifests/before").expect(200);
        assert_eq!(Digest::of(got.body), pushed.digest);
        let scrubbed = served.runtime.block_on(yare_registry::scrub(&served.registry, false)).unwrap();
        assert!(scrubbed.damaged.is_empty() && scrubbed.blobs == 4, "{scrubbed:?}");
    }
}

#[test]
fn a_root_of_another_bucket_is_not_believed() {
    let (Some(one), Some(other)) = (Replicas::new("one", ""), Replicas::new("other", "")) else { return };
    one.start("a").client.push_image("a", "x", "one");
    let root = one.folder.path().join("a");
    let served = Served::at(root, &other.text);
    served.client.get("/v2/a/tags/list").expect(404);
}

#[test]
fn blobs_by_a_link() {
    let signature = match buckets::Kind::wanted() {
        buckets::Kind::S3 => "X-Amz-Signature=",
        buckets::Kind::Azure => "sig=",
        // Its links are signed with a key that only Google's own accounts have.
        buckets::Kind::Google => return println!("SKIPPED: the double of Google's store signs nothing"),
    };
    let Some(replicas) = Replicas::new("links", "") else { return };
    let text = replicas.text.replacen("[storage]", "[storage]\nredirect = true", 1);
    let served = Served::at(replicas.folder.path().join("a"), &text);
    let digest = served.client.push_blob("a", b"some bytes");
    let answer = served.client.get(&format!("/v2/a/blobs/{digest}")).expect(307);
    assert!(answer.header("Location").unwrap().contains(signature), "{answer:?}");
    let got = Client::new(buckets::address().unwrap()).get(&location(&answer)).expect(200);
    assert_eq!(got.body, b"some bytes");
    served.client.head(&format!("/v2/a/blobs/{digest}")).expect(200);
}

#[test]
fn a_lost_object_is_mended_by_the_next_push() {
    let (Some(replicas), Some(server)) = (Replicas::new("lost", ""), buckets::objects()) else { return };
    let served = replicas.start("a");
    let digest = served.client.push_blob("a", b"some bytes");
    let blobs = replicas.objects("blobs/").unwrap();
    server.delete(&format!("/images/{}", blobs[0])).expect(204);
    served.client.get(&format!("/v2/a/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
    served.client.head(&format!("/v2/a/blobs/{digest}")).expect(404);
    served.client.push_blob("a", b"some bytes");
    assert_eq!(served.client.get(&format!("/v2/a/blobs/{digest}")).expect(200).body, b"some bytes");
}

fn prefix_of(replicas: &Replicas) -> String {
    let rest = &replicas.text[replicas.text.find("images/").unwrap() + 7..];
    rest[..rest.find('\'').unwrap()].to_owned()
}

#[test]
fn collection_while_others_push() {
    let Some(replicas) = Replicas::new("collect", "[collect]\ngrace = '3s'\nuploads = '1h'\n") else {
        return;
    };
    let (first, second) = (replicas.start("a"), replicas.start("b"));
    first.client.push_blob("a", b"nobody needs this");
    let stop = AtomicBool::new(false);
    let (pushed, collected) = std::thread::scope(|scope| {
        let pusher = scope.spawn(|| {
            let mut pushed = Vec::new();
            for count in 0..12 {
                // The same layers go and come back.
                let image = second.client.push_image("b", "moving", &format!("layer {}", count % 3));
                let tag = format!("kept{count}");
                second.client.put("b", &tag, MediaType::OCI_MANIFEST, &image.bytes).expect(201);
                if count % 2 == 0 {
                    second.client.delete(&format!("/v2/b/manifests/{}", image.digest)).expect(202);
                    pushed.retain(|(_, digest)| *digest != image.digest);
                } else {
                    pushed.push((tag, image.digest));
                }
                std::thread::sleep(Duration::from_millis(300));
            }
            stop.store(true, Ordering::Relaxed);
            pushed
        });
        let mut collected = 0;
        while !stop.load(Ordering::Relaxed) {
            collected += first.collect(false).blobs;
        }
        (pusher.join().unwrap(), collected)
    });
    assert!(collected > 0);
    for (tag, digest) in pushed {
        let manifest = first.client.get(&format!("/v2/b/manifests/{tag}")).expect(200);
        assert_eq!(Digest::of(&manifest.body), digest);
        for layer in manifest.json()["layers"].as_array().unwrap() {
            let layer = layer["digest"].as_str().unwrap();
            let body = first.client.get(&format!("/v2/b/blobs/{layer}")).expect(200).body;
            assert_eq!(Digest::of(body).to_string(), layer);
        }
    }
    let scrubbed = second.runtime.block_on(yare_registry::scrub(&second.registry, false)).unwrap();
    assert!(scrubbed.damaged.is_empty(), "{scrubbed:?}");
}

/// Not a test: what a killed process runs.
#[test]
#[ignore = "it is run by the test below"]
fn serve_a_replica_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let text = std::fs::read_to_string(folder.parent().unwrap().join("config")).unwrap();
    let served = Served::at(folder.join("registry"), &text);
    std::fs::write(folder.join("address.new"), &served.client.address).unwrap();
    std::fs::rename(folder.join("address.new"), folder.join("address")).unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

struct Process {
    child: Child,
    client: Client,
}

impl Process {
    fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let _ = std::fs::remove_file(folder.join("address"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["replicas::serve_a_replica_until_killed", "--exact", "--ignored"]).env(FOLDER, folder);
        buckets::share(&mut command);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        let mut process = Self { child, client: Client::new("") };
        loop {
            if let Ok(address) = std::fs::read_to_string(folder.join("address")) {
                process.client = Client::new(address);
                return process;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "the registry does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_was_acknowledged_survives_the_end_of_any_replica() {
    let Some(replicas) = Replicas::new("killed", "[collect]\ngrace = '0'\nuploads = '0'\n") else { return };
    let rounds = if std::env::var_os("YARE_SOAK").is_some() { 50 } else { 4 };
    let other = Process::start(&replicas.folder.path().join("stays"));
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        // Sometimes with the root of the last time, sometimes with an empty one.
        let process = Process::start(&replicas.folder.path().join(format!("p{}", round % 3)));
        let pushed = Arc::new(AtomicUsize::new(0));
        let pushers: Vec<_> = (0..2)
            .map(|number| {
                let (client, pushed) = (process.client.clone(), Arc::clone(&pushed));
                std::thread::spawn(move || crate::crash::push_until_killed(&client, (round, number), &pushed))
            })
            .collect();
        let begun = Instant::now();
        while pushed.load(Ordering::Relaxed) == 0 && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis((round as u64 * 137) % 400));
        drop(process);
        pushers.into_iter().for_each(|pusher| acknowledged.extend(pusher.join().unwrap()));
    }
    println!("{} pushes acknowledged in {rounds} rounds", acknowledged.len());
    assert!(!acknowledged.is_empty());
    for (path, digest) in &acknowledged {
        assert_eq!(Digest::of(other.client.get(path).expect(200).body), *digest, "{path}");
    }
    drop(other);
    let served = replicas.start("last");
    served.collect(false);
    for (path, _) in &acknowledged {
        let manifest = served.client.get(path).expect(200);
        let name = path.split('/').nth(2).unwrap();
        for layer in manifest.json()["layers"].as_array().unwrap() {
            let layer = layer["digest"].as_str().unwrap();
            let body = served.client.get(&format!("/v2/{name}/blobs/{layer}")).expect(200).body;
            assert_eq!(Digest::of(body).to_string(), layer);
        }
    }
    let scrubbed = served.runtime.block_on(yare_registry::scrub(&served.registry, false)).unwrap();
    assert!(scrubbed.damaged.is_empty(), "{scrubbed:?}");
}
