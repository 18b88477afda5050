//! What a crash leaves, and what the next engine makes of it.

use super::*;
use crate::tests::archives::load;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn what_no_record_refers_to_is_swept() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["a"]);
    // A crash after the layer and the documents, before the transaction.
    let unpacked = crate::unpack::unpack(&fixture.store, layer(&[("lost", "x")]).as_slice()).unwrap();
    unpacked.pending.commit(&unpacked.applied).unwrap();
    fixture.store.content().put(b"{\"lost\":1}").unwrap();
    // A crash in the middle of a layer.
    std::mem::forget(crate::unpack::unpack(&fixture.store, layer(&[("half", "x")]).as_slice()).unwrap());
    assert_eq!(fixture.on_disk(), (2, 3));
    let fixture = fixture.reopen();
    assert_eq!(fixture.on_disk(), (1, 2));
    assert_eq!(fixture.store.resolve("a", None).unwrap().layers, image.layers);
}

#[test]
fn a_lease_protects_what_has_no_record_yet() {
    let fixture = Fixture::new();
    let mut lease = fixture.store.lease();
    let unpacked = crate::unpack::unpack(&fixture.store, layer(&[("x", "x")]).as_slice()).unwrap();
    let diff_id = unpacked.applied.diff_id;
    lease.layer(diff_id);
    unpacked.pending.commit(&unpacked.applied).unwrap();
    let options = ImportOptions::default();
    let image = fixture.store.import(layer(&[("x", "x")]).as_slice(), &options).unwrap();
    fixture.store.remove(&image.id.hex(), crate::RemoveOptions::default(), &nobody).unwrap();
    assert!(fixture.store.snapshots().has_layer(&diff_id), "the removal of another image does not take it");
    drop(lease);
    assert_eq!(fixture.on_disk(), (0, 0), "the end of the lease does");
}

#[test]
fn a_damaged_image_is_not_shown_and_a_load_mends_it() {
    let fixture = Fixture::new();
    let (broken, whole) = (fixture.image("a", &["broken"]), fixture.image("b", &["whole"]));
    let mut archive = Vec::new();
    fixture.store.save(&["broken".to_owned()], &[], &mut archive).unwrap();
    fixture.store.content().delete(&broken.id.0).unwrap();
    let fixture = fixture.reopen();
    assert!(fixture.store.resolve("broken", None).is_err());
    assert_eq!(fixture.store.list()[0].id, whole.id);
    assert!(fixture.store.snapshots().has_layer(&broken.layers[0]), "nothing of it is thrown away");
    load(&fixture, &archive).unwrap();
    assert_eq!(fixture.reopen().store.resolve("broken", None).unwrap().id, broken.id);
}

const WORKER: &str = "YARE_IMAGE_CRASH_WORKER";

/// Started by the test below in a process of its own, which is killed.
#[test]
fn crash_worker() {
    let Some(folder) = std::env::var_os(WORKER) else { return };
    let folder = std::path::PathBuf::from(folder);
    let database = Arc::new(Database::open(&folder.join("db"), 1 << 20).unwrap());
    let store = open(&folder, &database).unwrap();
    let archive = std::fs::read(folder.join("archive")).unwrap();
    std::fs::write(folder.join("ready"), b"").unwrap();
    for round in 0.. {
        let content = format!("round {round}");
        let options = ImportOptions {
            reference: Some(reference(&format!("r:{}", round % 3))),
            ..ImportOptions::default()
        };
        store.import(layer(&[("file", &content)]).as_slice(), &options).unwrap();
        store.load(archive.as_slice(), &mut |_| {}).unwrap();
        store.remove("loaded", crate::RemoveOptions::default(), &nobody).unwrap();
        store.remove("multi", crate::RemoveOptions::default(), &nobody).unwrap();
        store.prune(&std::collections::BTreeMap::new(), Timestamp::UNIX_EPOCH, &nobody).unwrap();
    }
}

#[test]
fn killed_at_any_moment_the_store_opens_whole() {
    let source = Fixture::new();
    let base = source.image("base", &[]);
    let child = source.child(&base.id, "child");
    source.store.tag(&child.id, &reference("loaded")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut archive = Vec::new();
    let names = ["loaded", "multi"].map(str::to_owned);
    load(&source, &crate::tests::platforms::multi("multi:latest")).unwrap();
    source.store.save(&names, &[], &mut archive).unwrap();
    std::fs::write(folder.path().join("archive"), &archive).unwrap();
    let rounds = if std::env::var_os("YARE_SOAK").is_some() { 200 } else { 12 };
    for round in 0..rounds {
        let ready = folder.path().join("ready");
        let _ = std::fs::remove_file(&ready);
        let mut worker = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::crash::crash_worker", "--nocapture"])
            .env(WORKER, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !ready.exists() {
            assert!(worker.try_wait().unwrap().is_none(), "the worker ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(round * 37 % 113));
        worker.kill().unwrap();
        assert!(!worker.wait().unwrap().success());

        let database = Arc::new(Database::open(&folder.path().join("db"), 1 << 20).unwrap());
        let store = open(folder.path(), &database).unwrap();
        let images = store.list();
        let roots: Vec<_> = images
            .iter()
            .map(|image| crate::gc::Root {
                id: image.id,
                manifest: image.manifest,
                layers: &image.layers,
                kept: &image.kept,
            })
            .collect();
        let index = store.index_of("multi");
        let kept = index.iter().flat_map(|index| index.blobs());
        let marked = crate::gc::mark(roots).indexes(kept);
        let layers: std::collections::HashSet<_> = store.snapshots().layers().unwrap().into_iter().collect();
        let blobs: std::collections::HashSet<_> = store.content().list().unwrap().into_iter().collect();
        assert_eq!(layers, marked.layers, "exactly the layers of images are there");
        assert_eq!(blobs, marked.blobs);
        for image in &images {
            let mut out = Vec::new();
            store.save(&[image.id.hex()], &[], &mut out).unwrap();
        }
    }
}
