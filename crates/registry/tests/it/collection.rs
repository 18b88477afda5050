//! Collection, retention and scrubbing, while clients push and pull.

use crate::served::Served;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use yare_oci::{Digest, MediaType};

const NO_GRACE: &str = "[collect]\ngrace = '0'\nuploads = '1s'\n";

#[test]
fn what_no_manifest_needs_goes() {
    let served = Served::new(NO_GRACE);
    let kept = served.client.push_image("a", "v1", "kept");
    let gone = served.client.push_image("a", "v2", "gone");
    served.client.push_blob("b", b"kept");
    served.client.start("c");
    served.client.delete(&format!("/v2/a/manifests/{}", gone.digest)).expect(202);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let planned = served.collect(true);
    assert_eq!((planned.links, planned.blobs, planned.uploads), (3, 2, 1), "{planned:?}");
    served.client.head(&format!("/v2/a/blobs/{}", gone.layer)).expect(200);
    let collected = served.collect(false);
    assert_eq!((collected.links, collected.blobs, collected.bytes), (3, 2, planned.bytes));
    served.client.head(&format!("/v2/a/blobs/{}", gone.layer)).expect(404);
    assert_eq!(served.client.get(&format!("/v2/a/blobs/{}", kept.layer)).expect(200).body, b"kept");
    served.client.get("/v2/b/tags/list").refused(404, "NAME_UNKNOWN");
    assert_eq!(std::fs::read_dir(served.root.join("blobs/sha256")).unwrap().count(), 2);
    assert_eq!(std::fs::read_dir(served.root.join("trash")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(served.root.join("uploads")).unwrap().count(), 0);
    let again = served.collect(false);
    assert_eq!((again.links, again.blobs, again.strays), (0, 0, 0));
    // It can be pushed again.
    served.client.push_image("a", "v2", "gone");
}

#[test]
fn what_a_push_relies_on_stays() {
    let served = Served::new("[collect]\ngrace = '1h'\n");
    let digest = served.client.push_blob("a", b"pushed a moment ago");
    assert_eq!(served.collect(false).links, 0);
    served.client.head(&format!("/v2/a/blobs/{digest}")).expect(200);
}

#[test]
fn after_a_start_the_grace_begins_anew_unless_nobody_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("registry");
    let text = "[collect]\ngrace = '8s'\n";
    let served = Served::at(root.clone(), text);
    served.client.push_blob("a", b"unneeded");
    std::thread::sleep(std::time::Duration::from_millis(9100));
    drop(served);
    // Somebody may have been told of the blob just before the end.
    let served = Served::at(root.clone(), text);
    served.client.get("/v2/").expect(200);
    assert_eq!(served.collect(true).links, 0);
    drop(served);
    let config = yare_registry::Config { root, ..yare_registry::Config::parse(text).unwrap() };
    let registry = yare_registry::Registry::open(config).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert_eq!(runtime.block_on(yare_registry::collect(&registry, false)).unwrap().blobs, 1);
}

#[test]
fn files_without_a_record_go() {
    let served = Served::new(NO_GRACE);
    served.client.push_image("a", "v1", "x");
    let stray = served.root.join("blobs/sha256").join(Digest::of("stray").hex());
    std::fs::write(&stray, "stray").unwrap();
    assert_eq!(served.collect(true).strays, 1);
    assert_eq!(served.collect(false).strays, 1);
    assert!(!stray.exists());
}

#[test]
fn retention_keeps_the_newest_and_what_indexes_and_artifacts_need() {
    let served = Served::new(&format!(
        "{NO_GRACE}[[retention]]\nrepositories = 'a'\ntags = ['b*']\nkeep_newest = 1\nuntagged_after = '0'\n"
    ));
    let client = &served.client;
    let old = client.push_image("a", "b1", "old");
    let member = client.push_image("a", "b2", "member");
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [
        { "mediaType": MediaType::OCI_MANIFEST, "digest": member.digest.to_string(), "size": member.bytes.len() }
    ] });
    client.put("a", "index", MediaType::OCI_INDEX, index.to_string().as_bytes()).expect(201);
    let signature = {
        let config = client.push_blob("a", b"{}");
        let mut manifest = crate::client::image(&[(config, 2)]);
        manifest["subject"] = serde_json::json!({ "mediaType": MediaType::OCI_MANIFEST,
            "digest": old.digest.to_string(), "size": old.bytes.len() });
        let bytes = manifest.to_string();
        let digest = Digest::of(&bytes);
        client.put("a", &digest.to_string(), MediaType::OCI_MANIFEST, bytes.as_bytes()).expect(201);
        digest
    };
    assert!(served.collect(true).tags.is_empty() || served.collect(true).tags.len() == 1);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let newest = client.push_image("a", "b3", "newest");
    let mut planned = served.collect(true);
    planned.tags.sort();
    assert_eq!(planned.tags, ["a:b1", "a:b2"]);
    let mut collected = served.collect(false);
    collected.manifests.sort();
    let mut want = [format!("a@{}", old.digest), format!("a@{signature}")];
    want.sort();
    assert_eq!(collected.manifests, want);
    client.get("/v2/a/manifests/b1").expect(404);
    client.get(&format!("/v2/a/manifests/{}", member.digest)).expect(200);
    client.get(&format!("/v2/a/blobs/{}", newest.layer)).expect(200);
    client.get(&format!("/v2/a/blobs/{}", old.layer)).expect(404);
    client.get("/v2/a/manifests/index").expect(200);
}

#[test]
fn no_push_or_pull_fails_meanwhile() {
    // The grace must be longer than a push takes; everything older is taken at once.
    let served = Served::new("[collect]\ngrace = '6s'\nuploads = '6s'\n[limits]\nuploads = 100000");
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (client, done) = (served.client.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    let name = format!("r{number}");
                    let image = client.push_image(&name, "v1", &format!("layer {number} {}", count % 7));
                    let path = format!("/v2/{name}/manifests/{}", image.digest);
                    assert_eq!(client.get(&path).expect(200).body, image.bytes);
                    client.get(&format!("/v2/{name}/blobs/{}", image.layer)).expect(200);
                    client.delete(&path).expect(202);
                    count += 1;
                }
                count
            })
        })
        .collect();
    let begun = std::time::Instant::now();
    let mut links = 0;
    while begun.elapsed() < std::time::Duration::from_secs(10) {
        links += served.collect(false).links;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    done.store(true, Ordering::Relaxed);
    let pushes: i32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    println!("{pushes} pushes, {links} links collected");
    assert!(pushes > 20);
}

#[test]
fn rot_is_found_and_mended_by_the_next_push() {
    let served = Served::new("");
    let image = served.client.push_image("a", "v1", "healthy");
    let path = served.root.join("blobs/sha256").join(image.layer.hex());
    std::fs::write(&path, "rotten!").unwrap();
    let scrub = |dry_run| served.runtime.block_on(yare_registry::scrub(&served.registry, dry_run)).unwrap();
    let found = scrub(true);
    assert_eq!((found.blobs, found.manifests, found.damaged.len()), (2, 1, 1), "{found:?}");
    assert_eq!(
        (found.damaged[0].digest, &found.damaged[0].repositories),
        (image.layer, &vec!["a".to_owned()])
    );
    assert!(path.exists());
    scrub(false);
    assert!(served.root.join("damaged").join(image.layer.hex()).exists());
    served.client.head(&format!("/v2/a/blobs/{}", image.layer)).expect(404);
    served.client.push_blob("a", b"healthy");
    assert_eq!(served.client.get(&format!("/v2/a/blobs/{}", image.layer)).expect(200).body, b"healthy");
    assert!(scrub(false).damaged.is_empty());
}

#[test]
fn one_flipped_bit_is_found_by_a_running_registry() {
    let served = Served::new("");
    let blob: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let digest = served.client.push_blob("a", &blob);
    let path = served.root.join("blobs/sha256").join(digest.hex());
    let mut rotten = blob.clone();
    rotten[654_321] ^= 0x10;
    // In its place, as a disk rots: not another file.
    std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(&rotten)).unwrap();
    let scrub = || -> yare_registry::Scrubbed {
        let answer = served.runtime.block_on(yare_registry::ask(&served.root, "/scrub")).unwrap().unwrap();
        serde_json::from_slice(&answer).unwrap()
    };
    assert_eq!(scrub().damaged.iter().map(|damage| damage.digest).collect::<Vec<_>>(), [digest]);
    let metrics = || String::from_utf8(served.client.get("/metrics").expect(200).body).unwrap();
    assert!(metrics().contains("yare_registry_damaged 1\n"));
    served.client.get(&format!("/v2/a/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
    served.client.push_blob("a", &blob);
    assert_eq!(served.client.get(&format!("/v2/a/blobs/{digest}")).expect(200).body, blob);
    assert!(scrub().damaged.is_empty());
    assert!(metrics().contains("yare_registry_damaged 0\n"));
}

#[test]
fn an_upload_whose_client_left_goes_when_it_has_lain_still() {
    let served = Served::new("[collect]\nuploads = '2s'\n");
    let client = &served.client;
    let at = client.start("a");
    let mut stream = client.connect();
    let head = format!("PATCH {at} HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[7; 100_000]).unwrap();
    drop(stream);
    let sweep = || served.collect(false);
    let begun = std::time::Instant::now();
    let mut swept = sweep();
    while swept.uploads == 0 {
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "it lies there for ever");
        std::thread::sleep(std::time::Duration::from_millis(100));
        swept = sweep();
    }
    assert_eq!(swept.uploads, 1);
    assert!((1..=100_000).contains(&swept.upload_bytes), "{swept:?}");
    assert_eq!(std::fs::read_dir(served.root.join("uploads")).unwrap().count(), 0);
    client.get(&at).refused(404, "BLOB_UPLOAD_UNKNOWN");
    client
        .send("PATCH", &at, &[("Content-Range", "100000-100002")], b"end")
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn a_running_registry_is_asked_through_its_socket() {
    let served = Served::new(NO_GRACE);
    served.client.push_blob("a", b"unneeded");
    let ask = |what: &str| served.runtime.block_on(yare_registry::ask(&served.root, what)).unwrap().unwrap();
    let planned: yare_registry::Collected = serde_json::from_slice(&ask("/gc?dry-run")).unwrap();
    assert_eq!((planned.dry_run, planned.blobs), (true, 1));
    let collected: yare_registry::Collected = serde_json::from_slice(&ask("/gc")).unwrap();
    assert_eq!((collected.dry_run, collected.blobs), (false, 1));
    let scrubbed: yare_registry::Scrubbed = serde_json::from_slice(&ask("/scrub")).unwrap();
    assert_eq!(scrubbed.blobs, 0);
    let nobody = served.runtime.block_on(yare_registry::ask(std::path::Path::new("/nonexistent"), "/gc"));
    assert!(nobody.unwrap().is_none());
}

#[test]
fn a_root_may_have_a_long_path() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::at(folder.path().join("r".repeat(200)), NO_GRACE);
    served.client.get("/v2/").expect(200);
    let answer = served.runtime.block_on(yare_registry::ask(&served.root, "/gc?dry-run")).unwrap();
    assert!(answer.is_some());
}

#[test]
fn a_root_is_opened_once() {
    let served = Served::new("");
    let config = yare_registry::Config { root: served.root.clone(), ..yare_registry::Config::default() };
    let error = yare_registry::Registry::open(config).unwrap_err();
    assert!(error.to_string().contains("is open already"), "{error}");
}

#[test]
fn what_repositories_hold_is_shown() {
    let served = Served::new("[[quota]]\nrepositories = 'a/**'\nbytes = 1000000");
    let image = served.client.push_image("a/b", "v1", "held");
    served.client.push_image("c", "v1", "held, too");
    served.client.get("/v2/a/b/manifests/v1").expect(200);
    let answer = served.runtime.block_on(yare_registry::ask(&served.root, "/usage")).unwrap().unwrap();
    let held: yare_registry::Holdings = serde_json::from_slice(&answer).unwrap();
    let [first, second] = held.repositories.as_slice() else { panic!("{held:?}") };
    assert_eq!((first.name.as_str(), first.tags, first.manifests), ("a/b", 1, 1));
    assert!(first.bytes > image.bytes.len() as u64 && first.pushed.is_some() && first.pulled.is_some());
    assert_eq!((second.name.as_str(), second.pulled.as_ref()), ("c", None));
    let [quota] = held.quotas.as_slice() else { panic!("{held:?}") };
    assert_eq!((quota.repositories.as_str(), quota.used, quota.limit), ("a/**", first.bytes, 1_000_000));
    let text = String::from_utf8(served.client.get("/metrics").expect(200).body).unwrap();
    let row = format!("yare_registry_quota_used_bytes{{repositories=\"a/**\"}} {}\n", first.bytes);
    assert!(text.contains(&row), "{text}");
}
