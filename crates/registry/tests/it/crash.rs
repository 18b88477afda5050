//! `kill -9` at random moments: what was acknowledged is there, what was not can be pushed again, and
//! uploads go on where they were.

use crate::client::{Client, with_digest};
use crate::served::Served;
use crate::webhooks::Hook;
use serde_json::Value;
use std::collections::HashSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use yare_oci::Digest;

/// Where the process that is killed finds its root, and says its address.
const ROOT: &str = "YARE_REGISTRY_CRASH_ROOT";

/// Not a test: what the killed process runs.
#[test]
#[ignore = "it is run by the tests below"]
fn serve_until_killed() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let text = std::fs::read_to_string(root.join("config")).unwrap_or_default();
    let served = Served::at(root.join("registry"), &text);
    std::fs::write(root.join("address.new"), &served.client.address).unwrap();
    std::fs::rename(root.join("address.new"), root.join("address")).unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

struct Process {
    child: Child,
    client: Client,
}

impl Process {
    fn start(root: &std::path::Path) -> Self {
        let _ = std::fs::remove_file(root.join("address"));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::serve_until_killed", "--exact", "--ignored"])
            .env(ROOT, root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut process = Self { child, client: Client::new("") };
        let begun = Instant::now();
        loop {
            if let Ok(address) = std::fs::read_to_string(root.join("address")) {
                process.client = Client::new(address);
                return process;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the registry does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pushes images until the registry is gone; counts and returns what was acknowledged.
pub(crate) fn push_until_killed(
    client: &Client,
    (round, number): (usize, usize),
    count_of: &AtomicUsize,
) -> Vec<(String, Digest)> {
    let mut acknowledged = Vec::new();
    for count in 0.. {
        let (name, tag) = (format!("r{number}"), format!("t{round}-{count}"));
        let pushed = try_push(client, &name, &tag, &format!("{round} {number} {count}"));
        match pushed {
            Some(digest) => {
                acknowledged.push((format!("/v2/{name}/manifests/{tag}"), digest));
                count_of.fetch_add(1, Ordering::Relaxed);
            }
            None => break,
        }
    }
    acknowledged
}

fn try_push(client: &Client, name: &str, tag: &str, text: &str) -> Option<Digest> {
    let blob = |bytes: &[u8]| -> Option<Digest> {
        let digest = Digest::of(bytes);
        let answer = client.try_send("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"").ok()?;
        let at = answer.header("Location")?.to_owned();
        client.try_send("PATCH", &at, &[], bytes).ok().filter(|answer| answer.status == 202)?;
        let answer = client.try_send("PUT", &with_digest(&at, &digest), &[], b"").ok()?;
        (answer.status == 201).then_some(digest)
    };
    let layer = text.repeat(5000);
    let (config, layer) = ((blob(b"{}")?, 2), (blob(layer.as_bytes())?, layer.len()));
    let manifest = crate::client::image(&[config, layer]).to_string();
    let headers = [("Content-Type", yare_oci::MediaType::OCI_MANIFEST)];
    let path = format!("/v2/{name}/manifests/{tag}");
    let answer = client.try_send("PUT", &path, &headers, manifest.as_bytes()).ok()?;
    (answer.status == 201).then(|| Digest::of(manifest))
}

#[test]
fn what_was_acknowledged_survives() {
    let rounds = if std::env::var_os("YARE_SOAK").is_some() { 100 } else { 8 };
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(String, Digest)> = Vec::new();
    // Nobody is there to be told of the pushes.
    let webhook = "[[webhook]]\nname = 'hook'\nqueue = 1000000\nurl = 'http://127.0.0.1:1'\n\
                   [[quota]]\nrepositories = 'r*'\nbytes = '1TB'\n";
    std::fs::write(folder.path().join("config"), webhook).unwrap();
    for round in 0..rounds {
        let process = Process::start(folder.path());
        let pushed = Arc::new(AtomicUsize::new(0));
        let pushers: Vec<_> = (0..3)
            .map(|number| {
                let (client, pushed) = (process.client.clone(), Arc::clone(&pushed));
                std::thread::spawn(move || push_until_killed(&client, (round, number), &pushed))
            })
            .collect();
        // Some moment after the first push, however busy the machine is; the rounds differ enough.
        let begun = Instant::now();
        while pushed.load(Ordering::Relaxed) == 0 && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis((round as u64 * 137) % 400));
        process.kill();
        pushers.into_iter().for_each(|pusher| acknowledged.extend(pusher.join().unwrap()));
    }
    println!("{} pushes acknowledged in {rounds} rounds", acknowledged.len());
    assert!(!acknowledged.is_empty());
    let hook = Hook::new(|_| Some(200));
    let webhook = webhook.replace("http://127.0.0.1:1", &hook.url);
    let text = format!("[collect]\ngrace = '0'\nuploads = '0'\n{webhook}");
    let served = Served::at(folder.path().join("registry"), &text);
    served.collect(false);
    let mut untold: HashSet<String> = acknowledged.iter().map(|(path, _)| path.clone()).collect();
    while !untold.is_empty() {
        let target = &hook.next().event["target"];
        let path = |target: &Value| {
            Some(format!("/v2/{}/manifests/{}", target["repository"].as_str()?, target["tag"].as_str()?))
        };
        untold.remove(&path(target).unwrap());
    }
    for (path, digest) in &acknowledged {
        let manifest = served.client.get(path).expect(200);
        assert_eq!(Digest::of(&manifest.body), *digest, "{path}");
        let name = path.split('/').nth(2).unwrap();
        for layer in manifest.json()["layers"].as_array().unwrap() {
            let layer = layer["digest"].as_str().unwrap();
            let body = served.client.get(&format!("/v2/{name}/blobs/{layer}")).expect(200).body;
            assert_eq!(Digest::of(body).to_string(), layer);
        }
    }
    let usage = served.runtime.block_on(yare_registry::holdings(&served.registry)).unwrap();
    let held: u64 = usage.repositories.iter().map(|repository| repository.bytes).sum();
    assert_eq!(usage.quotas[0].used, held, "the sum of a quota is that of its repositories");
    let scrubbed = served.runtime.block_on(yare_registry::scrub(&served.registry, false)).unwrap();
    assert!(scrubbed.damaged.is_empty(), "{scrubbed:?}");
    let files = std::fs::read_dir(served.root.join("blobs/sha256")).unwrap().count();
    assert_eq!(files as u64, scrubbed.blobs, "no file is without a record");
    assert_eq!(std::fs::read_dir(served.root.join("uploads")).unwrap().count(), 0);
}

#[test]
fn an_upload_goes_on_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let blob: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 253) as u8).collect();
    let digest = Digest::of(&blob);
    let process = Process::start(folder.path());
    let at = process.client.start("a");
    process.client.send("PATCH", &at, &[], &blob[..1_000_000]).expect(202);
    // Killed in the middle of a piece.
    let (begun, begins) = std::sync::mpsc::channel();
    let sender = {
        let (client, at, blob) = (process.client.clone(), at.clone(), blob.clone());
        std::thread::spawn(move || {
            use std::io::Write;
            let mut stream = client.connect();
            let head = format!("PATCH {at} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            begun.send(()).unwrap();
            let _ = stream.write_all(&blob[1_000_000..2_500_000]);
            std::thread::sleep(Duration::from_millis(500));
        })
    };
    begins.recv().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    process.kill();
    sender.join().unwrap();
    let process = Process::start(folder.path());
    let answer = process.client.get(&at).expect(204);
    let range = answer.header("Range").unwrap();
    let there: usize = range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
    println!("{there} bytes are there");
    assert!((1_000_000..=2_500_000).contains(&there));
    process.client.send("PATCH", &at, &[], &blob[there..]).expect(202);
    process.client.send("PUT", &with_digest(&at, &digest), &[], b"").expect(201);
    process.kill();
    let process = Process::start(folder.path());
    assert_eq!(process.client.get(&format!("/v2/a/blobs/{digest}")).expect(200).body, blob);
    process.kill();
}
