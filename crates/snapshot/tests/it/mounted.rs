//! Snapshots that are mounted, if nowhere.

use crate::{Layer, Meta, PLAIN, Store, read, root, stat};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::sync::atomic::{AtomicBool, Ordering};
use yare_snapshot::{Error, Kind, Rootfs};

fn write(root: impl std::os::fd::AsFd, path: &str, text: &str) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = rustix::fs::openat(root, path, flags, Mode::from_raw_mode(0o644))?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

#[test]
fn a_snapshot_is_written_and_mounted_again() {
    if !root("a_snapshot_is_written_and_mounted_again") {
        return;
    }
    let store = Store::new(Kind::Overlay);
    let layer = store.layer(&Layer::new().file("f", "image").file("g", "image").end());
    let other = store.layer(&Layer::new().file("h", "image").end());
    let chain = [layer, other];
    store.snapshots.prepare("one", &chain).unwrap();
    store.snapshots.prepare("two", &chain).unwrap();
    assert!(matches!(store.snapshots.prepare("one", &chain), Err(Error::Exists(_))));
    for round in 0..3 {
        let tree = store.snapshots.tree_fd("one", &chain).unwrap();
        assert_eq!(read(&tree, "h").as_deref(), Some("image"));
        assert_eq!(read(&tree, "f").as_deref(), Some(if round == 0 { "image" } else { "mine" }));
        write(&tree, "f", "mine").unwrap();
        if round == 0 {
            rustix::fs::unlinkat(&tree, "g", AtFlags::empty()).unwrap();
        }
        assert_eq!(read(&tree, "g"), None);
        let mark = store.top.path().join("root/active/one/work/work/incompat/volatile");
        assert!(mark.exists(), "the mount is not volatile");
    }
    let two = store.snapshots.tree_fd("two", &chain).unwrap();
    assert_eq!(read(&two, "f").as_deref(), Some("image"));
    assert_eq!(store.snapshots.usage("one").unwrap(), 4);
    assert_eq!(store.snapshots.snapshots().unwrap(), ["one", "two"]);
    drop(two);
    store.snapshots.remove("one").unwrap();
    assert!(matches!(store.snapshots.mounts("one", &chain), Err(Error::NotFound(_))));
    store.snapshots.wait_for_trash();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("snap\\134shot"), "something is mounted in the host's namespace");
}

#[test]
fn a_view_cannot_be_written() {
    if !root("a_view_cannot_be_written") {
        return;
    }
    let store = Store::new(Kind::Overlay);
    let layer = store.layer(&Layer::new().file("f", "image").end());
    let tree = store.snapshots.view_fd(&[layer]).unwrap();
    assert_eq!(read(&tree, "f").as_deref(), Some("image"));
    assert_eq!(write(&tree, "f", "x"), Err(rustix::io::Errno::ROFS));
}

#[test]
fn an_image_without_layers_is_an_empty_file_system() {
    if !root("an_image_without_layers_is_an_empty_file_system") {
        return;
    }
    for kind in [Kind::Overlay, Kind::Copy] {
        let store = Store::new(kind);
        store.snapshots.prepare("empty", &[]).unwrap();
        let tree = store.snapshots.tree_fd("empty", &[]).unwrap();
        write(&tree, "f", "x").unwrap();
        assert_eq!(read(&tree, "f").as_deref(), Some("x"));
        assert_eq!(read(store.snapshots.view_fd(&[]).unwrap(), "f"), None);
    }
}

#[test]
fn the_root_directory_is_that_of_the_image() {
    if !root("the_root_directory_is_that_of_the_image") {
        return;
    }
    for kind in [Kind::Overlay, Kind::Copy] {
        let store = Store::new(kind);
        let bottom = store.layer(&Layer::new().dir("./", Meta { mode: 0o1775, uid: 5, mtime: 9 }).end());
        let top = store.layer(&Layer::new().file("f", "x").end());
        store.snapshots.prepare("c", &[bottom, top]).unwrap();
        let tree = store.snapshots.tree_fd("c", &[bottom, top]).unwrap();
        let stat = stat(&tree, ".");
        assert_eq!((stat.st_mode & 0o7777, stat.st_uid, stat.st_mtime), (0o1775, 5, 9), "{kind:?}");
        store.snapshots.prepare("d", &[top]).unwrap();
        let tree = store.snapshots.tree_fd("d", &[top]).unwrap();
        assert_eq!(crate::stat(&tree, ".").st_mode & 0o7777, 0o755, "{kind:?}");
    }
}

#[test]
fn a_container_finds_what_its_runtime_mounts_on() {
    if !root("a_container_finds_what_its_runtime_mounts_on") {
        return;
    }
    for kind in [Kind::Overlay, Kind::Copy] {
        let store = Store::new(kind);
        let bare = store.layer(&Layer::new().file("f", "x").end());
        let own = Layer::new()
            .dir("etc", Meta { mode: 0o700, ..PLAIN })
            .file("etc/hosts", "its own")
            .symlink("etc/resolv.conf", "/elsewhere")
            .file("proc", "a file");
        let own = store.layer(&own.end());
        let linked = store.layer(&Layer::new().dir("usr", PLAIN).symlink("etc", "usr").end());
        for (id, layer) in [("bare", bare), ("own", own), ("linked", linked)] {
            store.snapshots.prepare(id, &[layer]).unwrap();
        }
        let tree = store.snapshots.tree_fd("bare", &[bare]).unwrap();
        for name in ["dev", "etc", "proc", "sys"] {
            assert_eq!(stat(&tree, name).st_mode, 0o40755, "{name}");
        }
        for name in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
            assert_eq!(stat(&tree, name).st_mode, 0o100644, "{name}");
        }
        assert_eq!(stat(&tree, ".dockerenv").st_mode, 0o100755);
        let tree = store.snapshots.tree_fd("own", &[own]).unwrap();
        assert_eq!(read(&tree, "etc/hosts").as_deref(), Some("its own"), "the image's files cover it");
        assert_eq!(read(&tree, "proc").as_deref(), Some("a file"));
        assert_eq!(stat(&tree, "etc").st_mode, 0o40700);
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let link = rustix::fs::statat(&tree, "etc/resolv.conf", flags).unwrap();
        assert_eq!(link.st_mode & 0o170000, 0o120000);
        let tree = store.snapshots.tree_fd("linked", &[linked]).unwrap();
        assert_eq!(read(&tree, "usr/hosts"), None, "no link is followed");
        if kind == Kind::Overlay {
            assert_eq!(store.snapshots.changes("bare", &[bare]).unwrap(), [], "none of it is a change");
            assert_eq!(std::fs::read_dir(store.snapshots.upper("bare").unwrap()).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_hundred_layers_mount() {
    if !root("a_hundred_layers_mount") {
        return;
    }
    let store = Store::new(Kind::Overlay);
    let mut pending = Vec::new();
    for index in 0..100 {
        let layer = store.snapshots.begin_layer().unwrap();
        let tar = Layer::new().dir("d", PLAIN).file(&format!("d/f{index}"), "x").end();
        let applied =
            yare_layer::apply(tar.as_slice(), layer.dir(), yare_layer::ApplyOptions::default()).unwrap();
        pending.push((layer, applied));
    }
    let chain: Vec<_> =
        store.snapshots.commit_layers(pending).unwrap().iter().map(|info| info.diff_id).collect();
    store.snapshots.prepare("c", &chain).unwrap();
    let tree = store.snapshots.tree_fd("c", &chain).unwrap();
    assert!(read(&tree, "d/f0").is_some() && read(&tree, "d/f99").is_some());
    let Rootfs::Overlay { lower, .. } = store.snapshots.mounts("c", &chain).unwrap() else { panic!() };
    assert_eq!(lower.len(), 101, "and the skeleton");
    assert_eq!(lower[0], store.snapshots.layer_dir(&chain[99]));
}

#[test]
fn changes_are_listed_and_captured_as_a_layer() {
    if !root("changes_are_listed_and_captured_as_a_layer") {
        return;
    }
    let store = Store::new(Kind::Overlay);
    let image = Layer::new()
        .dir("d", PLAIN)
        .file("d/keep", "k")
        .file("d/change", "c")
        .file("d/gone", "g")
        .dir("whole", PLAIN)
        .file("whole/old", "o")
        .end();
    let layer = store.layer(&image);
    store.snapshots.prepare("c", &[layer]).unwrap();
    let tree = store.snapshots.tree_fd("c", &[layer]).unwrap();
    write(&tree, "d/change", "changed").unwrap();
    write(&tree, "d/new", "n").unwrap();
    rustix::fs::unlinkat(&tree, "d/gone", AtFlags::empty()).unwrap();
    rustix::fs::unlinkat(&tree, "whole/old", AtFlags::empty()).unwrap();
    rustix::fs::unlinkat(&tree, "whole", AtFlags::REMOVEDIR).unwrap();
    rustix::fs::mkdirat(&tree, "whole", Mode::RWXU).unwrap();
    write(&tree, "whole/new", "n").unwrap();
    rustix::fs::mkdirat(&tree, "added", Mode::RWXU).unwrap();
    let changes: Vec<String> = store
        .snapshots
        .changes("c", &[layer])
        .unwrap()
        .iter()
        .map(|change| format!("{:?} {}", change.kind, change.path.display()))
        .collect();
    let expected = [
        "Added /added",
        "Modified /d",
        "Modified /d/change",
        "Deleted /d/gone",
        "Added /d/new",
        "Modified /whole",
        "Added /whole/new",
        "Deleted /whole/old",
    ];
    assert_eq!(changes, expected);
    drop(tree);
    let (pending, applied) = store.snapshots.capture("c").unwrap();
    let captured = pending.commit(&applied).unwrap().diff_id;
    let tree = store.snapshots.view_fd(&[layer, captured]).unwrap();
    assert_eq!(read(&tree, "d/change").as_deref(), Some("changed"));
    assert_eq!(read(&tree, "d/keep").as_deref(), Some("k"));
    for gone in ["d/gone", "whole/old"] {
        assert_eq!(read(&tree, gone), None);
    }
    let mut tar = Vec::new();
    store.snapshots.export_layer(&captured, &mut tar).unwrap();
    assert_eq!(captured.0, yare_oci::Digest::of(&tar));
    // Capturing the same again gives the same layer.
    assert_eq!(store.snapshots.capture("c").unwrap().1.diff_id, captured);
}

/// As `commit --pause=false` and `diff` meet it: files are cut off, written anew, removed and made.
#[test]
fn what_is_written_to_meanwhile_is_listed_and_captured() {
    if !root("what_is_written_to_meanwhile_is_listed_and_captured") {
        return;
    }
    let store = Store::new(Kind::Overlay);
    let layer = store.layer(&Layer::new().file("old", "o").end());
    store.snapshots.prepare("c", &[layer]).unwrap();
    let tree = store.snapshots.tree_fd("c", &[layer]).unwrap();
    write(&tree, "kept", "k").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (tree, over) = (&tree, &over);
        scope.spawn(move || {
            for round in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                write(tree, "count", &round.to_string()).unwrap();
                rustix::fs::mkdirat(tree, "d", Mode::RWXU).unwrap();
                write(tree, "d/f", "f").unwrap();
                rustix::fs::unlinkat(tree, "d/f", AtFlags::empty()).unwrap();
                rustix::fs::unlinkat(tree, "d", AtFlags::REMOVEDIR).unwrap();
            }
        });
        let looked = (0..300).try_for_each(|_| {
            store.snapshots.changes("c", &[layer])?;
            store.snapshots.capture("c").map(drop)
        });
        over.store(true, Ordering::Relaxed);
        looked.unwrap();
    });
}
