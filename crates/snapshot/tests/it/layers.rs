use crate::{Layer, PLAIN, Store};
use std::path::Path;
use yare_errdefs::{Class, Classified};
use yare_layer::{ApplyOptions, apply};
use yare_oci::{DiffId, Digest};
use yare_snapshot::{Error, Kind, Snapshots};

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_committed_layer_is_there_after_reopening_and_gives_its_tar_back() {
    let store = Store::new(Kind::Copy);
    let tar = Layer::new().dir("d", PLAIN).file("d/f", "content").file("x/y", "implied").end();
    let id = store.layer(&tar);
    let again = Snapshots::open(&store.top.path().join("root"), Kind::Copy).unwrap();
    assert!(again.has_layer(&id));
    assert_eq!(again.layers().unwrap(), [id]);
    let info = again.layer(&id).unwrap();
    assert_eq!(*info, *store.snapshots.layer(&id).unwrap());
    assert_eq!((info.size, info.content), (tar.len() as u64, 14));
    assert_eq!(info.implied_dirs, [Path::new("x")]);
    let mut out = Vec::new();
    again.export_layer(&id, &mut out).unwrap();
    assert!(out == tar);
}

#[test]
fn the_same_layer_twice_is_one() {
    let store = Store::new(Kind::Copy);
    let tar = Layer::new().file("f", "x").end();
    assert_eq!(store.layer(&tar), store.layer(&tar));
    assert_eq!(store.snapshots.layers().unwrap().len(), 1);
    assert_eq!(count(&store.top.path().join("root/tmp")), 0);
}

#[test]
fn several_layers_commit_together() {
    let store = Store::new(Kind::Copy);
    let mut pending = Vec::new();
    for text in ["1", "2", "1"] {
        let layer = store.snapshots.begin_layer().unwrap();
        let tar = Layer::new().file("f", text).end();
        let applied = apply(tar.as_slice(), layer.dir(), ApplyOptions::default()).unwrap();
        pending.push((layer, applied));
    }
    let infos = store.snapshots.commit_layers(pending).unwrap();
    assert_eq!(infos[0], infos[2]);
    assert_eq!(store.snapshots.layers().unwrap().len(), 2);
}

#[test]
fn what_was_not_committed_vanishes() {
    let store = Store::new(Kind::Copy);
    let root = store.top.path().join("root");
    let pending = store.snapshots.begin_layer().unwrap();
    std::fs::write(pending.path().join("f"), "x").unwrap();
    drop(pending);
    assert_eq!(count(&root.join("tmp")), 0);
    // A process that was killed drops nothing.
    std::mem::forget(store.snapshots.begin_layer().unwrap());
    std::fs::create_dir(root.join("trash/t-left")).unwrap();
    assert_eq!(count(&root.join("tmp")), 1);
    let again = Snapshots::open(&root, Kind::Copy).unwrap();
    again.wait_for_trash();
    assert_eq!((count(&root.join("tmp")), count(&root.join("trash"))), (0, 0));
    assert!(again.layers().unwrap().is_empty());
}

#[test]
fn a_removed_layer_is_gone_at_once_and_from_the_disk_later() {
    let store = Store::new(Kind::Copy);
    let id = store.layer(&Layer::new().file("a/b/c/f", "x").end());
    store.snapshots.remove_layer(&id).unwrap();
    assert!(!store.snapshots.has_layer(&id));
    assert!(matches!(store.snapshots.layer(&id), Err(Error::LayerNotFound(_))));
    store.snapshots.wait_for_trash();
    assert_eq!(count(&store.top.path().join("root/trash")), 0);
    store.snapshots.remove_layer(&id).unwrap();
}

#[test]
fn very_deep_trash_is_removed() {
    let store = Store::new(Kind::Copy);
    store.snapshots.prepare("deep", &[]).unwrap();
    let mut dir = yare_sys::fs::open_dir(store.snapshots.upper("deep").unwrap()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        dir = rustix::fs::openat(&dir, "d", flags, rustix::fs::Mode::empty()).unwrap();
    }
    store.snapshots.remove("deep").unwrap();
    store.snapshots.wait_for_trash();
    assert_eq!(count(&store.top.path().join("root/trash")), 0);
}

#[test]
fn a_newer_format_is_refused() {
    let store = Store::new(Kind::Copy);
    let root = store.top.path().join("root");
    std::fs::write(root.join("version"), "2\n").unwrap();
    let error = Snapshots::open(&root, Kind::Copy).unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
}

#[test]
fn names_of_snapshots_are_plain() {
    let store = Store::new(Kind::Copy);
    for bad in ["", ".", "..", "a/b", "../x", ".hidden"] {
        assert!(matches!(store.snapshots.prepare(bad, &[]), Err(Error::Name(_))), "{bad}");
        assert!(matches!(store.snapshots.remove(bad), Err(Error::Name(_))), "{bad}");
    }
    let nothing = DiffId(Digest::of("nothing"));
    assert!(matches!(store.snapshots.prepare("a", &[nothing]), Err(Error::LayerNotFound(_))));
    assert!(store.snapshots.snapshots().unwrap().is_empty());
}
