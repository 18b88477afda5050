//! Replication by rules: between two of these registries, to docker-registry, over bad lines, past kills.

use crate::buckets;
use crate::client::{Client, image};
use crate::served::Served;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use yare_oci::{Digest, MediaType};

/// A rule that copies at once.
pub(crate) fn to(address: &str, more: &str) -> String {
    format!("[[replicate]]\nname = 'r'\nto = '{address}/copy'\ndelay = '0'\n{more}\n")
}

/// A rule that copies to `mirror`.
pub(crate) fn from(address: &str, more: &str) -> String {
    format!("[[replicate]]\nname = 'r'\nfrom = '{address}'\nprefix = 'mirror'\n{more}\n")
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a manifest is called.
pub(crate) fn digest_of(client: &Client, name: &str, reference: &str) -> Option<String> {
    let kinds = [MediaType::OCI_MANIFEST, MediaType::OCI_INDEX].join(", ");
    let path = format!("/v2/{name}/manifests/{reference}");
    let answer = client.send("HEAD", &path, &[("Accept", &kinds)], b"");
    (answer.status == 200).then(|| answer.header("Docker-Content-Digest").unwrap().to_owned())
}

#[track_caller]
fn arrives(client: &Client, name: &str, reference: &str, digest: &Digest) {
    let wanted = Some(digest.to_string());
    wait(&format!("{name}:{reference} is copied"), || digest_of(client, name, reference) == wanted);
}

impl Served {
    fn status(&self) -> yare_registry::RuleStatus {
        yare_registry::replication_status(&self.registry).unwrap().remove(0)
    }

    /// Waits until nothing is left to do.
    #[track_caller]
    pub(crate) fn settles(&self) {
        wait("all is copied", || self.status().waiting == 0);
    }

    /// What would be copied or deleted now.
    pub(crate) fn plan(&self) -> Vec<String> {
        let plan = self.runtime.block_on(yare_registry::replication_plan(&self.registry)).unwrap();
        plan.into_iter().map(|row| format!("{} {} {}", row.repository, row.what, row.action)).collect()
    }

    /// A count of the rule.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let page = String::from_utf8(self.client.get("/metrics").expect(200).body).unwrap();
        let name = format!("yare_registry_replication_{name}{{rule=\"r\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).expect("a counter")
    }
}

/// Pushes a manifest that speaks about another one, by its digest.
fn refer(client: &Client, name: &str, subject: &Digest, size: usize) -> Digest {
    let config = client.push_blob(name, b"{}");
    let mut manifest = image(&[(config, 2)]);
    manifest["artifactType"] = json!("application/x.signature");
    manifest["subject"] =
        json!({ "mediaType": MediaType::OCI_MANIFEST, "digest": subject.to_string(), "size": size });
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    client.put(name, &digest.to_string(), MediaType::OCI_MANIFEST, &bytes).expect(201);
    digest
}

fn referrers(client: &Client, name: &str, subject: &Digest) -> Vec<String> {
    let list = client.get(&format!("/v2/{name}/referrers/{subject}")).expect(200).json();
    let entries = list["manifests"].as_array().unwrap();
    entries.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

fn index(client: &Client, name: &str, tag: &str, members: &[&str]) -> Digest {
    let members: Vec<_> = members
        .iter()
        .map(|text| {
            let pushed = client.push_image(name, &format!("part-{text}"), text);
            client.delete(&format!("/v2/{name}/manifests/part-{text}")).expect(202);
            json!({ "mediaType": MediaType::OCI_MANIFEST, "digest": pushed.digest.to_string(), "size": pushed.bytes.len() })
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": members });
    let bytes = index.to_string().into_bytes();
    client.put(name, tag, MediaType::OCI_INDEX, &bytes).expect(201);
    Digest::of(&bytes)
}

#[test]
fn pushes_arrive_whole_and_what_is_there_is_not_sent_again() {
    let target = Served::new("");
    let source = Served::new(&to(&target.client.address, "repositories = ['team/**']\ntags = ['v*']"));
    source.settles();
    let one = source.client.push_image("team/app", "v1", "one");
    source.client.push_image("team/app", "latest", "latest");
    source.client.push_image("other/app", "v1", "other");
    arrives(&target.client, "copy/team/app", "v1", &one.digest);
    let listed = index(&source.client, "team/app", "v2", &["amd64", "arm64"]);
    arrives(&target.client, "copy/team/app", "v2", &listed);
    let layer = target.client.get(&format!("/v2/copy/team/app/blobs/{}", one.layer)).expect(200);
    assert_eq!(layer.body, b"one");
    source.settles();
    assert_eq!(target.client.get("/v2/_catalog").json()["repositories"], json!(["copy/team/app"]));
    let tags = target.client.get("/v2/copy/team/app/tags/list").json();
    assert_eq!(tags["tags"], json!(["v1", "v2"]));
    let (blobs, manifests) = (source.counter("blobs_total"), source.counter("manifests_total"));
    assert_eq!((blobs, manifests), (6, 4));
    // The same content in another repository is borrowed there.
    let again = source.client.push_image("team/twin", "v1", "one");
    arrives(&target.client, "copy/team/twin", "v1", &again.digest);
    source.settles();
    assert_eq!(source.counter("blobs_total"), blobs);
    assert_eq!(source.counter("lag_seconds"), 0);
    assert!(source.plan().is_empty());
}

#[test]
fn a_comparison_finds_what_was_there_before_and_what_went_missing() {
    let target = Served::new("");
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("source");
    let source = Served::at(root.clone(), "");
    let one = source.client.push_image("app", "v1", "one");
    drop(source);
    let source = Served::at(root, &to(&target.client.address, "every = '1s'"));
    arrives(&target.client, "copy/app", "v1", &one.digest);
    target.client.delete("/v2/copy/app/manifests/v1").expect(202);
    target.client.push_image("copy/app", "extra", "extra");
    arrives(&target.client, "copy/app", "v1", &one.digest);
    assert!(digest_of(&target.client, "copy/app", "extra").is_some(), "nothing is deleted unless asked for");
    drop(source);
}

#[test]
fn what_would_be_done_is_said_and_not_done() {
    let target = Served::new("");
    target.client.push_image("copy/app", "gone", "gone");
    let rule =
        to(&target.client.address, "every = '0'\ndelete = true").replace("delay = '0'", "delay = '1h'");
    let source = Served::new(&rule);
    let one = source.client.push_image("app", "v1", "one");
    assert_eq!(source.plan(), ["app v1 copy", "app gone delete"]);
    assert_eq!(digest_of(&target.client, "copy/app", "v1"), None);
    assert_eq!(source.status().waiting, 1);
    source.client.push_image("app", "v1", "one");
    assert_eq!(source.status().waiting, 1, "pushes of one tag are one copy: {}", one.digest);
}

#[test]
fn deletes_are_passed_on_if_asked_for() {
    for (delete, stays) in [("delete = true", false), ("", true)] {
        let target = Served::new("");
        let source = Served::new(&to(&target.client.address, delete));
        let one = source.client.push_image("app", "v1", "one");
        let two = source.client.push_image("app", "v2", "two");
        arrives(&target.client, "copy/app", "v1", &one.digest);
        arrives(&target.client, "copy/app", "v2", &two.digest);
        source.client.delete("/v2/app/manifests/v1").expect(202);
        source.client.delete(&format!("/v2/app/manifests/{}", two.digest)).expect(202);
        source.settles();
        for tag in ["v1", "v2"] {
            assert_eq!(digest_of(&target.client, "copy/app", tag).is_some(), stays, "{tag} {delete}");
        }
    }
}

#[test]
fn what_retention_takes_goes_there_too() {
    let target = Served::new("");
    let rule = to(&target.client.address, "delete = true\nevery = '0'");
    let keep = "[[retention]]\nrepositories = '**'\ntags = ['pr-*']\npushed_within = '1s'\n";
    let source = Served::new(&(rule + keep));
    let one = source.client.push_image("app", "pr-1", "one");
    arrives(&target.client, "copy/app", "pr-1", &one.digest);
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(source.collect(false).tags, ["app:pr-1"]);
    wait("it goes", || digest_of(&target.client, "copy/app", "pr-1").is_none());
}

#[test]
fn what_speaks_about_an_image_follows_it() {
    let target = Served::new("");
    let source = Served::new(&to(&target.client.address, "tags = ['v*']"));
    let one = source.client.push_image("app", "v1", "one");
    arrives(&target.client, "copy/app", "v1", &one.digest);
    source.settles();
    let signature = refer(&source.client, "app", &one.digest, one.bytes.len());
    let about = refer(&source.client, "app", &signature, 1);
    wait("the signature is copied", || {
        referrers(&target.client, "copy/app", &one.digest) == [signature.to_string()]
            && referrers(&target.client, "copy/app", &signature) == [about.to_string()]
    });
    // As cosign names them.
    let named = format!("sha256-{}.sig", one.digest.hex());
    let sig = source.client.push_image("app", &named, "sig");
    source.client.push_image("app", "v1", "one");
    arrives(&target.client, "copy/app", &named, &sig.digest);
    // What no tag of the rule leads to stays here.
    let hidden = source.client.push_image("app", "hidden", "hidden");
    refer(&source.client, "app", &hidden.digest, hidden.bytes.len());
    source.settles();
    assert_eq!(digest_of(&target.client, "copy/app", &hidden.digest.to_string()), None);
}

#[test]
fn a_mirror_follows_its_source() {
    let source = Served::new("");
    let client = &source.client;
    let one = client.push_image("team/app", "v1", "one");
    let listed = index(client, "team/app", "v2", &["amd64", "arm64"]);
    let signature = refer(client, "team/app", &one.digest, one.bytes.len());
    let mirror =
        Served::new(&from(&client.address, "every = '1s'\ndelete = true\nrepositories = ['team/*']"));
    arrives(&mirror.client, "mirror/team/app", "v1", &one.digest);
    arrives(&mirror.client, "mirror/team/app", "v2", &listed);
    assert_eq!(referrers(&mirror.client, "mirror/team/app", &one.digest), [signature.to_string()]);
    let layer = mirror.client.get(&format!("/v2/mirror/team/app/blobs/{}", one.layer)).expect(200);
    assert_eq!(layer.body, b"one");
    let moved = client.push_image("team/app", "v1", "two");
    arrives(&mirror.client, "mirror/team/app", "v1", &moved.digest);
    client.delete("/v2/team/app/manifests/v2").expect(202);
    wait("v2 is deleted", || digest_of(&mirror.client, "mirror/team/app", "v2").is_none());
    let late = refer(client, "team/app", &moved.digest, moved.bytes.len());
    wait("a late signature comes", || {
        referrers(&mirror.client, "mirror/team/app", &moved.digest) == [late.to_string()]
    });
    let blobs = mirror.counter("blobs_total");
    let twin = client.push_image("team/twin", "v1", "two");
    arrives(&mirror.client, "mirror/team/twin", "v1", &twin.digest);
    assert_eq!(mirror.counter("blobs_total"), blobs, "a neighbour had it");
    // A source that is away is no source that is empty.
    drop(source);
    wait("the failure shows", || mirror.status().failing > 0);
    assert!(digest_of(&mirror.client, "mirror/team/app", "v1").is_some());
}

#[test]
fn a_refusal_shows_in_the_status_and_is_tried_again() {
    let users = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(users.path(), format!("alice:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "wrong\n").unwrap();
    let target = Served::new(&format!("[auth]\nhtpasswd = '{}'\n", users.path().display()));
    let login = format!("username = 'alice'\npassword_file = '{}'", password.path().display());
    let source = Served::new(&to(&target.client.address, &login));
    let one = source.client.push_image("app", "v1", "one");
    wait("the failure shows", || source.status().failures.iter().any(|failure| failure.what == "v1"));
    let failure = source.status().failures.into_iter().find(|failure| failure.what == "v1").unwrap();
    assert!(failure.error.contains("401") && !failure.error.contains("wrong"), "{failure:?}");
    assert!(source.counter("failures_total") > 0 && source.counter("failing") > 0);
    std::fs::write(password.path(), "secret\n").unwrap();
    arrives(&target.client.with("Basic YWxpY2U6c2VjcmV0"), "copy/app", "v1", &one.digest);
    source.settles();
}

/// A line that is cut after so many bytes of each connection, a few times.
fn weak_line(to: &str, bytes: usize, cuts: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, to) = (listener.local_addr().unwrap().to_string(), to.to_owned());
    let left = Arc::new(AtomicUsize::new(cuts));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(client), Ok(server)) = (stream, TcpStream::connect(&to)) else { continue };
            let (up, down) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
            for (mut from, mut to) in [up, down] {
                let left = Arc::clone(&left);
                std::thread::spawn(move || {
                    let (mut passed, mut buffer) = (0, vec![0; 16 << 10]);
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        passed += count;
                        let is_cut = passed > bytes
                            && left
                                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                                .is_ok();
                        if is_cut || to.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = from.shutdown(std::net::Shutdown::Both);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    address
}

#[test]
fn a_weak_line_costs_time_only() {
    let big: String = (0..700_000_u32).map(|number| format!("{number:07}")).collect();
    let target = Served::new("");
    let source = Served::new(&to(&weak_line(&target.client.address, 1 << 20, 6), ""));
    let one = source.client.push_image("app", "v1", &big);
    arrives(&target.client, "copy/app", "v1", &one.digest);
    let layer = target.client.get(&format!("/v2/copy/app/blobs/{}", one.layer)).expect(200);
    assert_eq!(Digest::of(layer.body), one.layer);

    let line = weak_line(&source.client.address, 1 << 20, 6);
    let mirror = Served::new(&from(&line, "every = '1s'"));
    arrives(&mirror.client, "mirror/app", "v1", &one.digest);
    let layer = mirror.client.get(&format!("/v2/mirror/app/blobs/{}", one.layer)).expect(200);
    assert_eq!(Digest::of(layer.body), one.layer);
}

#[test]
fn docker_registry_gets_everything_too() {
    if Command::new("docker-registry").arg("--version").output().is_err() {
        println!("SKIP: docker-registry is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = folder.path().join("config.yml");
    let root = folder.path().join("docker");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
         http: {{addr: '127.0.0.1:{port}'}}\n",
        root.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut target = Command::new("docker-registry");
    target.arg("serve").arg(&config);
    let target = target.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _target = Killed(target.unwrap());
    let client = Client::new(format!("127.0.0.1:{port}"));
    wait("docker-registry starts", || TcpStream::connect(&client.address).is_ok());
    let source = Served::new(&to(&client.address, ""));
    let one = source.client.push_image("app", "v1", "one");
    let listed = index(&source.client, "app", "v2", &["amd64", "arm64"]);
    arrives(&client, "copy/app", "v1", &one.digest);
    arrives(&client, "copy/app", "v2", &listed);
    // It has no referrers API: the tag that stands in for it is kept.
    let first = refer(&source.client, "app", &one.digest, one.bytes.len());
    let list = format!("/v2/copy/app/manifests/sha256-{}", one.digest.hex());
    wait("the signature is listed", || {
        let answer = client.send("GET", &list, &[("Accept", MediaType::OCI_INDEX)], b"");
        answer.json()["manifests"][0]["digest"] == first.to_string()
    });
    source.settles();
    assert!(source.plan().is_empty());

    let mirror = Served::new(&from(&client.address, "repositories = ['copy/**']"));
    arrives(&mirror.client, "mirror/copy/app", "v1", &one.digest);
    arrives(&mirror.client, "mirror/copy/app", "v2", &listed);
    wait("the signature is mirrored", || {
        referrers(&mirror.client, "mirror/copy/app", &one.digest) == [first.to_string()]
    });
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a process that is killed finds its root and its rule.
const ROOT: &str = "YARE_REGISTRY_REPLICATION_ROOT";

#[test]
fn serves_until_it_is_killed() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let root = std::path::PathBuf::from(root);
    let text = std::fs::read_to_string(root.join("config")).unwrap();
    let served = Served::at(root.join("registry"), &text);
    yare_sys::fs::atomic_write(
        &root,
        std::ffi::OsStr::new("address"),
        served.client.address.as_bytes(),
        yare_sys::fs::Durability::Relaxed,
    )
    .unwrap();
    std::thread::sleep(Duration::from_secs(3600));
}

#[test]
fn a_killed_process_loses_no_copy() {
    let target = Served::new("");
    let folder = tempfile::tempdir().unwrap();
    let text = to(&target.client.address, "").replace("delay = '0'", "delay = '1s'\nevery = '0'");
    std::fs::write(folder.path().join("config"), text).unwrap();
    let mut pushed = Vec::new();
    for round in 0..6_u64 {
        let _ = std::fs::remove_file(folder.path().join("address"));
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "replication::serves_until_it_is_killed"])
            .env(ROOT, folder.path())
            .stdout(Stdio::null())
            .spawn();
        let process = Killed(process.unwrap());
        wait("it serves", || folder.path().join("address").exists());
        let client = Client::new(std::fs::read_to_string(folder.path().join("address")).unwrap());
        for number in 0..3 {
            let tag = format!("v{round}-{number}");
            let text = format!("{tag} {}", "x".repeat(200_000));
            pushed.push((tag.clone(), client.push_image("app", &tag, &text).digest));
        }
        if round < 5 {
            // Before the delay is over, in the middle, and after it.
            std::thread::sleep(Duration::from_millis(round * 700));
        } else {
            for (tag, digest) in &pushed {
                arrives(&target.client, "copy/app", tag, digest);
            }
        }
        drop(process);
    }
}

#[test]
fn of_several_processes_one_does_a_copy() {
    let target = Served::new("");
    let folder = tempfile::tempdir().unwrap();
    let unique = Digest::of(folder.path().as_os_str().as_encoded_bytes()).hex();
    let Some(storage) = buckets::storage(&format!("replication/{unique}"), "") else { return };
    let text = to(&target.client.address, "") + &storage;
    let replicas: Vec<Served> =
        ["a", "b", "c"].map(|name| Served::at(folder.path().join(name), &text)).into_iter().collect();
    let mut pushed = Vec::new();
    for number in 0..9 {
        let tag = format!("v{number}");
        let client = &replicas[number % 3].client;
        pushed.push((tag.clone(), client.push_image("app", &tag, &format!("text {number}")).digest));
    }
    for (tag, digest) in &pushed {
        arrives(&target.client, "copy/app", tag, digest);
    }
    wait("all is copied", || {
        let catch_up = replicas[0].client.get("/v2/app/tags/list");
        catch_up.status == 200 && replicas[0].status().waiting == 0
    });
    let total = |name| replicas.iter().map(|replica| replica.counter(name)).sum::<u64>();
    assert_eq!((total("manifests_total"), total("failures_total")), (9, 0));
}
