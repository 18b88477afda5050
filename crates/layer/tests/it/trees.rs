//! Overlay form, and copies of trees.

use crate::archive::{Archive, Member, applied, assert_same, root};
use crate::gnu::{Strength, hard_tree};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use yare_layer::{ApplyOptions, apply, copy_tree, merge_layer};

fn archive() -> Archive {
    Archive::default()
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    let dir = File::open(path).unwrap();
    yare_sys::fs::xattr(dir.as_fd(), "trusted.overlay.opaque").unwrap().as_deref() == Some(b"y")
}

#[test]
fn whiteouts_take_overlay_form_in_any_order() {
    if !root("whiteouts_take_overlay_form_in_any_order") {
        return;
    }
    let tar = archive()
        .file("a/.wh.gone", "")
        .file(".wh.first", "")
        .dir("first")
        .file("first/f", "x")
        .dir("last")
        .file(".wh.last", "")
        .file(".wh.file", "")
        .file("file", "x")
        .file("kept", "x")
        .file(".wh.kept", "")
        .file(".wh.implied", "")
        .file("implied/f", "x")
        .file("o/before", "x")
        .file("o/.wh..wh..opq", "")
        .file("o/after", "x")
        .end();
    let (top, result) = applied(&tar);
    let result = result.unwrap();
    let fs = top.path().join("fs");
    assert!(is_whiteout(&fs.join("a/gone")));
    for name in ["first", "last", "implied", "o"] {
        assert!(is_opaque(&fs.join(name)), "{name}");
    }
    assert!(!is_opaque(&fs.join("a")));
    for name in ["file", "kept", "first/f", "implied/f", "o/before", "o/after"] {
        assert!(fs.join(name).is_file(), "{name}");
    }
    let implied: Vec<&Path> = result.implied_dirs.iter().map(PathBuf::as_path).collect();
    assert_eq!(implied, ["a", "implied", "o"].map(Path::new));
    assert!(!result.root_listed && !result.root_opaque);
}

#[test]
fn what_needs_the_layers_below_is_reported() {
    let tar = archive()
        .file("usr/share/x", "x")
        .dir("usr")
        .hard_link("usr/link", "bin/tool")
        .hard_link("again", "usr/link")
        .hard_link("replaced", "bin/other")
        .file("replaced", "x")
        .file(".wh..wh..opq", "")
        .end();
    let (_top, result) = applied(&tar);
    let result = result.unwrap();
    assert_eq!(result.implied_dirs, [PathBuf::from("usr/share")]);
    let links = [("again", "bin/tool"), ("usr/link", "bin/tool")];
    assert_eq!(result.lower_links, links.map(|(link, target)| (link.into(), target.into())));
    assert!(result.root_opaque);
}

#[test]
fn a_copied_tree_is_the_same() {
    if !root("a_copied_tree_is_the_same") {
        return;
    }
    let (src, dst) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    hard_tree(src.path(), Strength::Pax);
    std::os::unix::net::UnixListener::bind(src.path().join("dir/deeper/socket")).unwrap();
    let open = |path: &Path| File::open(path).unwrap();
    copy_tree(open(src.path()).as_fd(), open(dst.path()).as_fd()).unwrap();
    std::fs::remove_file(src.path().join("dir/deeper/socket")).unwrap();
    let time = std::fs::metadata(dst.path().join("dir/deeper")).unwrap().mtime();
    crate::gnu::set_time(&src.path().join("dir/deeper"), time, 0);
    crate::gnu::set_time(&dst.path().join("dir/deeper"), time, 0);
    assert_same(src.path(), dst.path());
    let sparse = std::fs::metadata(dst.path().join("sparse")).unwrap();
    assert!(sparse.blocks() < 200, "{}", sparse.blocks());
}

#[test]
fn a_copy_never_writes_through_a_link() {
    let (src, dst, canary) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    std::fs::create_dir(src.path().join("d")).unwrap();
    std::fs::write(src.path().join("d/f"), "x").unwrap();
    std::os::unix::fs::symlink(canary.path(), dst.path().join("d")).unwrap();
    let open = |path: &Path| File::open(path).unwrap();
    assert!(copy_tree(open(src.path()).as_fd(), open(dst.path()).as_fd()).is_err());
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 0);
}

#[test]
fn merged_layers_are_what_overlay_would_show() {
    if !root("merged_layers_are_what_overlay_would_show") {
        return;
    }
    let lower = archive()
        .dir("keep")
        .file("keep/a", "1")
        .file("keep/b", "2")
        .dir("hide")
        .file("hide/a", "1")
        .dir("gone")
        .file("gone/a", "1")
        .file("target", "t")
        .file("becomes", "x")
        .end();
    let upper = archive()
        .file("keep/.wh.a", "")
        .file("keep/c", "3")
        .file("hide/.wh..wh..opq", "")
        .file("hide/new", "n")
        .file(".wh.gone", "")
        .dir("becomes")
        .file("becomes/dir", "x")
        .hard_link("link", "target")
        .file(".wh.target", "")
        .end();
    let dst = TempDir::new().unwrap();
    let dir = File::open(dst.path()).unwrap();
    for tar in [lower, upper] {
        let (top, result) = applied(&tar);
        let result = result.unwrap();
        let layer = File::open(top.path().join("fs")).unwrap();
        merge_layer(
            layer.as_fd(),
            dir.as_fd(),
            result.root_listed,
            &result.implied_dirs,
            &result.lower_links,
        )
        .unwrap();
    }
    let paths: Vec<String> = crate::archive::listing(dst.path())
        .keys()
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .filter(|path| !path.is_empty())
        .collect();
    assert_eq!(paths, ["becomes", "becomes/dir", "hide", "hide/new", "keep", "keep/b", "keep/c", "link"]);
    assert_eq!(std::fs::metadata(dst.path().join("keep")).unwrap().mtime(), 100, "an implied directory");
}

#[test]
fn without_privileges_owners_and_devices_are_passed_over() {
    let device = Member { name: b"dev", typeflag: b'3', device: (1, 3), ..Member::default() };
    let xattrs: &[(&str, &[u8])] =
        &[("SCHILY.xattr.user.a", b"a"), ("SCHILY.xattr.security.capability", b"x"), ("uid", b"12345")];
    let tar = archive()
        .pax(xattrs)
        .file("f", "x")
        .member(&device)
        .dir("o")
        .file("o/.wh..wh..opq", "")
        .file("o/.wh.gone", "")
        .end();
    let top = TempDir::new().unwrap();
    let dir = File::open(top.path()).unwrap();
    let options = ApplyOptions { unprivileged: true, ..ApplyOptions::default() };
    apply(tar.as_slice(), dir.as_fd(), options).unwrap();
    let metadata = std::fs::metadata(top.path().join("f")).unwrap();
    assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    assert!(!top.path().join("dev").exists());
    assert!(is_whiteout(&top.path().join("o/gone")));
    let opaque = File::open(top.path().join("o")).unwrap();
    let value = yare_sys::fs::xattr(opaque.as_fd(), "user.overlay.opaque").unwrap();
    assert_eq!(value.as_deref(), Some(&b"y"[..]));
}
