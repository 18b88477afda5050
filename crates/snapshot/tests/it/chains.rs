//! What layers leave to those below them.

use crate::{Layer, Meta, PLAIN, Store, read, root, stat};
use std::os::fd::OwnedFd;
use yare_errdefs::{Class, Classified};
use yare_snapshot::{Error, Kind};

const KINDS: [Kind; 2] = [Kind::Overlay, Kind::Copy];

#[test]
fn an_implied_directory_takes_its_metadata_from_below() {
    if !root("an_implied_directory_takes_its_metadata_from_below") {
        return;
    }
    let special = Meta { mode: 0o1711, uid: 7, mtime: 500 };
    let deeper = Meta { mode: 0o750, uid: 8, mtime: 600 };
    for kind in KINDS {
        let store = Store::new(kind);
        let bottom = store.layer(
            &Layer::new().dir("usr", special).dir("usr/share", deeper).file("usr/share/old", "o").end(),
        );
        let middle = store.layer(&Layer::new().file("usr/share/new", "n").end());
        let top = store.layer(&Layer::new().file("usr/share/doc/x", "x").file("var/x", "x").end());
        let tree = store.snapshots.view_fd(&[bottom, middle, top]).unwrap();
        for (path, meta) in [("usr", special), ("usr/share", deeper)] {
            let stat = stat(&tree, path);
            assert_eq!(stat.st_mode & 0o7777, meta.mode, "{kind:?} {path}");
            assert_eq!(
                (u64::from(stat.st_uid), stat.st_mtime),
                (meta.uid, 600 - 100 * i64::from(path == "usr"))
            );
        }
        for path in ["usr/share/old", "usr/share/new", "usr/share/doc/x", "var/x"] {
            assert!(read(&tree, path).is_some(), "{kind:?} {path}");
        }
        // A chain in which the layer below says something else.
        let other = store.layer(&Layer::new().dir("usr", Meta { mode: 0o700, ..PLAIN }).end());
        let tree = store.snapshots.view_fd(&[other, middle]).unwrap();
        assert_eq!(stat(&tree, "usr").st_mode & 0o7777, 0o700, "{kind:?}");
        // And one in which it is the bottom.
        let tree = store.snapshots.view_fd(&[middle]).unwrap();
        assert_eq!(stat(&tree, "usr/share").st_mode & 0o7777, 0o755, "{kind:?}");
    }
}

#[test]
fn implied_directories_respect_what_hides_them() {
    if !root("implied_directories_respect_what_hides_them") {
        return;
    }
    let special = Meta { mode: 0o700, uid: 7, mtime: 500 };
    for kind in KINDS {
        let store = Store::new(kind);
        let bottom = store.layer(
            &Layer::new()
                .dir("gone", special)
                .file("gone/old", "o")
                .dir("o", special)
                .dir("o/sub", special)
                .file("o/sub/old", "o")
                .end(),
        );
        let top = store.layer(
            &Layer::new()
                .file(".wh.gone", "")
                .file("gone/new", "n")
                .dir("o", PLAIN)
                .file("o/.wh..wh..opq", "")
                .file("o/sub/new", "n")
                .end(),
        );
        let tree = store.snapshots.view_fd(&[bottom, top]).unwrap();
        for dir in ["gone", "o/sub"] {
            assert_eq!(stat(&tree, dir).st_mode & 0o7777, 0o755, "{kind:?} {dir}");
            assert_eq!(read(&tree, &format!("{dir}/old")), None, "{kind:?} {dir}");
            assert_eq!(read(&tree, &format!("{dir}/new")).as_deref(), Some("n"), "{kind:?} {dir}");
        }
    }
}

#[test]
fn a_hard_link_to_a_lower_file_is_that_file() {
    if !root("a_hard_link_to_a_lower_file_is_that_file") {
        return;
    }
    for kind in KINDS {
        let store = Store::new(kind);
        let bottom = store.layer(
            &Layer::new()
                .dir("usr", PLAIN)
                .dir("usr/lib", Meta { mode: 0o711, uid: 3, mtime: 7 })
                .file("usr/lib/tool", "tool")
                .symlink("lib", "/usr/lib")
                .symlink("usr/lib/back", "../../lib")
                .end(),
        );
        let middle = store.layer(&Layer::new().file("other", "x").end());
        let top = store.layer(
            &Layer::new()
                .hard_link("usr/lib/alias", "usr/lib/tool")
                .hard_link("through", "lib/back/tool")
                .file("usr/lib/.wh.tool", "")
                .end(),
        );
        let tree = store.snapshots.view_fd(&[bottom, middle, top]).unwrap();
        assert_eq!(read(&tree, "usr/lib/alias").as_deref(), Some("tool"), "{kind:?}");
        assert_eq!(read(&tree, "through").as_deref(), Some("tool"), "{kind:?}");
        assert_eq!(read(&tree, "usr/lib/tool"), None, "{kind:?}");
        assert_eq!(stat(&tree, "through").st_ino, stat(&tree, "usr/lib/alias").st_ino, "{kind:?}");
        let lib = stat(&tree, "usr/lib");
        assert_eq!((lib.st_mode & 0o7777, lib.st_uid, lib.st_mtime), (0o711, 3, 7), "{kind:?}");
        let mut tar = Vec::new();
        store.snapshots.export_layer(&top, &mut tar).unwrap();
        assert_eq!(top.0, yare_oci::Digest::of(&tar));
    }
}

#[test]
fn a_hard_link_to_nothing_is_an_error_of_the_chain() {
    if !root("a_hard_link_to_nothing_is_an_error_of_the_chain") {
        return;
    }
    let store = Store::new(Kind::Overlay);
    let bottom = store.layer(&Layer::new().file("a", "x").file("b", "y").end());
    let hides = store.layer(&Layer::new().file(".wh.a", "").end());
    let top = store.layer(&Layer::new().hard_link("l", "a").end());
    store.snapshots.ensure_chain(&[bottom, top]).unwrap();
    for chain in [&[top][..], &[hides, top], &[bottom, hides, top]] {
        let error = store.snapshots.prepare("c", chain).unwrap_err();
        assert!(matches!(error, Error::DanglingLink { .. }), "{error:?}");
        assert_eq!(error.class(), Class::InvalidArgument);
    }
    assert!(store.snapshots.snapshots().unwrap().is_empty());
}

#[test]
fn fixups_go_with_their_layers() {
    if !root("fixups_go_with_their_layers") {
        return;
    }
    let store = Store::new(Kind::Overlay);
    let bottom = store.layer(&Layer::new().dir("d", Meta { mode: 0o700, ..PLAIN }).end());
    let top = store.layer(&Layer::new().file("d/f", "x").end());
    store.snapshots.ensure_chain(&[bottom, top]).unwrap();
    let fixups = store.top.path().join("root/fixups");
    assert_eq!(std::fs::read_dir(&fixups).unwrap().count(), 1);
    store.snapshots.remove_layer(&bottom).unwrap();
    assert_eq!(std::fs::read_dir(&fixups).unwrap().count(), 0);
}

#[test]
fn an_opaque_root_hides_all_layers_below() {
    if !root("an_opaque_root_hides_all_layers_below") {
        return;
    }
    for kind in KINDS {
        let store = Store::new(kind);
        let bottom = store.layer(&Layer::new().file("old", "x").end());
        let top = store.layer(&Layer::new().file(".wh..wh..opq", "").file("new", "x").end());
        let tree = store.snapshots.view_fd(&[bottom, top]).unwrap();
        assert_eq!(read(&tree, "old"), None, "{kind:?}");
        assert!(read(&tree, "new").is_some(), "{kind:?}");
    }
}

/// More layers than one overlay takes: the lowest are there, by one copy that all such chains share and that
/// goes with its layers.
#[test]
fn chains_may_be_longer_than_an_overlay() {
    if !root("chains_may_be_longer_than_an_overlay") {
        return;
    }
    let special = Meta { mode: 0o1711, uid: 7, mtime: 500 };
    let store = Store::new(Kind::Overlay);
    let mut chain = vec![
        store.layer(&Layer::new().dir("d", special).file("d/first", "1").file("gone", "g").end()),
        store.layer(&Layer::new().file(".wh.gone", "").hard_link("d/second", "d/first").end()),
    ];
    // Every tenth implies a directory, so that it has a fixup too.
    let layer = |number: usize| {
        let layer = if number.is_multiple_of(10) { Layer::new() } else { Layer::new().dir("d", special) };
        layer.file(&format!("d/{number}"), "n").end()
    };
    chain.extend(store.layers(&(2..600).map(layer).collect::<Vec<_>>()));
    let copies = || std::fs::read_dir(store.top.path().join("root/deep")).unwrap().count();
    let check = |tree: &OwnedFd, last: usize| {
        for (path, content) in [("d/first", "1"), ("d/second", "1"), ("d/2", "n"), ("d/198", "n")] {
            assert_eq!(read(tree, path).as_deref(), Some(content), "{path} of {last}");
        }
        assert!(read(tree, &format!("d/{last}")).is_some());
        assert_eq!(read(tree, "gone"), None);
        assert_eq!((stat(tree, "d").st_mode & 0o7777, stat(tree, "d").st_uid), (0o1711, 7));
    };
    check(&store.snapshots.view_fd(&chain[..200]).unwrap(), 199);
    assert_eq!(copies(), 0);
    check(&store.snapshots.view_fd(&chain).unwrap(), 599);
    let made = copies();
    assert!(made > 0);
    store.snapshots.prepare("long", &chain).unwrap();
    check(&store.snapshots.tree_fd("long", &chain).unwrap(), 599);
    assert_eq!(copies(), made);
    store.snapshots.remove_layer(&chain[599]).unwrap();
    assert_eq!(copies(), made);
    store.snapshots.remove_layer(&chain[0]).unwrap();
    assert_eq!(copies(), 0);
}
