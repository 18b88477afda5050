//! Crafted layers. Each either fails or stays inside its directory.

use crate::archive::{Archive, Member, applied, listing, root};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tempfile::TempDir;
use yare_layer::{Applied, ApplyError, ApplyOptions, Limits, apply};

fn archive() -> Archive {
    Archive::default()
}

/// What should become of a crafted layer.
enum Outcome {
    Refused,
    /// These paths exist inside, and nothing else is claimed.
    Inside(&'static [&'static str]),
}
use Outcome::{Inside, Refused};

type Case = (&'static str, Vec<u8>, Outcome);

fn paths() -> Vec<Case> {
    let through = |link: &str| archive().symlink("link", link).file("link/evil", "x").end();
    vec![
        ("parent", archive().file("../evil", "x").end(), Refused),
        ("parent in the middle", archive().file("a/../../evil", "x").end(), Refused),
        ("parent by pax", archive().pax(&[("path", b"../../CANARY/evil")]).file("x", "x").end(), Refused),
        ("absolute", archive().file("/evil", "x").end(), Inside(&["evil"])),
        ("absolute parent", archive().file("/../evil", "x").end(), Refused),
        ("file below an absolute link", through("/CANARY"), Inside(&["CANARY/evil"])),
        ("file below a climbing link", through("../../../../CANARY"), Inside(&["CANARY/evil"])),
        ("file below a link to itself", through("link"), Refused),
        (
            "file below a chain of links",
            archive().symlink("a", "..").symlink("b", "a/../CANARY").file("b/evil", "x").end(),
            Inside(&["CANARY/evil"]),
        ),
        (
            "file over a link",
            archive().symlink("link", "../CANARY/file").file("link", "x").end(),
            Inside(&["link"]),
        ),
        (
            "directory over a link",
            archive().symlink("link", "../CANARY").dir("link").file("link/evil", "x").end(),
            Inside(&["link/evil"]),
        ),
        (
            "link over a directory",
            archive().dir("d").file("d/f", "x").symlink("d", "../CANARY").file("d/evil", "x").end(),
            Inside(&["CANARY/evil"]),
        ),
    ]
}

fn links_and_whiteouts() -> Vec<Case> {
    vec![
        ("hard link out", archive().hard_link("link", "../CANARY/file").end(), Refused),
        ("hard link to an absolute path", archive().hard_link("link", "/CANARY/file").end(), Inside(&[])),
        (
            "hard link through a link",
            archive().symlink("s", "../CANARY").hard_link("link", "s/file").end(),
            Inside(&["s"]),
        ),
        (
            "mode through a hard link to a link",
            archive()
                .symlink("s", "../CANARY/file")
                .member(&Member { name: b"h", link: b"s", typeflag: b'1', mode: 0o777, ..Member::default() })
                .end(),
            Inside(&["s", "h"]),
        ),
        (
            "mode of a link",
            archive()
                .member(&Member {
                    name: b"s",
                    link: b"../CANARY/file",
                    typeflag: b'2',
                    mode: 0o777,
                    uid: 1234,
                    ..Member::default()
                })
                .end(),
            Inside(&["s"]),
        ),
        ("hard link to a directory", archive().dir("d").hard_link("l", "d").end(), Refused),
        ("hard link to the root", archive().hard_link("l", "/").end(), Refused),
        ("whiteout of nothing", archive().file(".wh.", "").end(), Refused),
        ("whiteout of the directory", archive().file("d/.wh..", "").end(), Refused),
        ("whiteout of the parent", archive().file("d/.wh...", "").end(), Refused),
        ("file below a whiteout of the parent", archive().file(".wh.../x", "x").end(), Refused),
        ("whiteout of a name with a slash", archive().file(".wh.a/b", "").end(), Refused),
        (
            "whiteout through a link",
            archive().symlink("s", "../CANARY").file("s/.wh.file", "").end(),
            Inside(&["CANARY/file"]),
        ),
        (
            "opaque through a link",
            archive().symlink("s", "/CANARY").file("s/.wh..wh..opq", "").end(),
            Inside(&["CANARY"]),
        ),
        ("aufs files", archive().file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", "x").end(), Inside(&[])),
    ]
}

fn entries() -> Vec<Case> {
    let long_name = "n".repeat(300);
    let device = Member { name: b"dev", typeflag: b'3', device: (1, 3), ..Member::default() };
    let fifo = Member { name: b"fifo", typeflag: b'6', ..Member::default() };
    vec![
        ("twice", archive().file("f", "1").file("f", "2").dir("f").file("f", "3").end(), Inside(&["f"])),
        ("file below a file", archive().file("f", "x").file("f/g", "x").end(), Refused),
        ("the root as a file", archive().file("./", "x").end(), Refused),
        ("the root as a link", archive().symlink(".", "../CANARY").file("evil", "x").end(), Refused),
        ("name with a NUL", archive().pax(&[("path", b"a\0b")]).file("x", "x").end(), Refused),
        ("name too long", archive().pax(&[("path", long_name.as_bytes())]).file("x", "").end(), Refused),
        ("empty name", archive().file("", "x").end(), Refused),
        ("device and fifo", archive().member(&device).member(&fifo).end(), Inside(&["dev", "fifo"])),
        (
            "device through a link",
            archive().symlink("s", "../CANARY").member(&Member { name: b"s/dev", ..device }).end(),
            Inside(&["CANARY/dev"]),
        ),
        ("uid that means none", archive().pax(&[("uid", b"4294967295")]).file("f", "").end(), Refused),
        ("uid beyond 32 bits", archive().pax(&[("uid", b"4294967296")]).file("f", "").end(), Refused),
        ("negative uid", archive().pax(&[("uid", b"-1")]).file("f", "").end(), Refused),
        (
            "size beyond the stream",
            archive().member(&Member { name: b"f", size: Some(1 << 32), ..Member::default() }).end(),
            Refused,
        ),
        ("negative size", archive().pax(&[("size", b"-1")]).file("f", "").end(), Refused),
        (
            "unknown type",
            archive().member(&Member { name: b"f", typeflag: b'Z', ..Member::default() }).end(),
            Refused,
        ),
        ("header that describes nothing", archive().pax(&[("path", b"f")]).end(), Refused),
        ("not a tar", b"#!/bin/sh\n".repeat(200), Refused),
    ]
}

/// A directory with something in it that must not change.
fn canary(top: &Path) -> std::collections::BTreeMap<Vec<u8>, String> {
    let canary = top.join("CANARY");
    if !canary.exists() {
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), "sings").unwrap();
        std::fs::create_dir(canary.join("dir")).unwrap();
    }
    let mut seen = listing(&canary);
    let ctime = std::fs::metadata(canary.join("file")).unwrap();
    seen.insert(b"changed".to_vec(), format!("{}.{}", ctime.ctime(), ctime.ctime_nsec()));
    seen
}

fn applied_beside_a_canary(tar: &[u8]) -> (TempDir, Result<Applied, ApplyError>) {
    let top = TempDir::new().unwrap();
    let before = canary(top.path());
    // Two levels down, so that a climb of one level is noticed as well.
    std::fs::create_dir(top.path().join("fs")).unwrap();
    let dir = File::open(top.path().join("fs")).unwrap();
    let mut record = Vec::new();
    let options = ApplyOptions { record: Some(&mut record), ..ApplyOptions::default() };
    let result = apply(tar, dir.as_fd(), options);
    assert_eq!(canary(top.path()), before);
    let names: Vec<_> =
        std::fs::read_dir(top.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    (top, result)
}

#[test]
fn crafted_layers_fail_or_stay_inside() {
    if !root("crafted_layers_fail_or_stay_inside") {
        return;
    }
    for (name, tar, outcome) in paths().into_iter().chain(links_and_whiteouts()).chain(entries()) {
        let (top, result) = applied_beside_a_canary(&tar);
        match (outcome, result) {
            (Refused, Err(_)) => {}
            (Refused, Ok(applied)) => panic!("{name} was accepted: {applied:?}"),
            (Inside(paths), result) => {
                result.unwrap_or_else(|error| panic!("{name}: {}", yare_errdefs::chain(&error)));
                for path in paths {
                    let path = top.path().join("fs").join(path);
                    assert!(
                        std::fs::symlink_metadata(&path).is_ok(),
                        "{name}: {} is missing",
                        path.display()
                    );
                }
            }
        }
    }
}

#[test]
fn overlay_attributes_and_labels_are_dropped() {
    if !root("overlay_attributes_and_labels_are_dropped") {
        return;
    }
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"system_u:object_r:shadow_t:s0"),
        ("SCHILY.xattr.user.kept", b"k"),
    ];
    let (top, result) = applied(&archive().pax(records).dir("d").pax(records).file("f", "").end());
    result.unwrap();
    for name in ["d", "f"] {
        let file = File::open(top.path().join("fs").join(name)).unwrap();
        let xattrs = yare_sys::fs::xattrs(file.as_fd()).unwrap();
        assert_eq!(xattrs, [(b"user.kept".to_vec(), b"k".to_vec())], "{name}");
    }
}

#[test]
fn a_malformed_capability_is_an_error() {
    if !root("a_malformed_capability_is_an_error") {
        return;
    }
    let tar = archive().pax(&[("SCHILY.xattr.security.capability", b"junk")]).file("f", "").end();
    assert!(matches!(applied(&tar).1, Err(ApplyError::Io { .. })));
}

/// A stream that never ends: one header that promises much, then zeros.
struct Endless {
    start: Vec<u8>,
    position: usize,
    given: u64,
}

impl std::io::Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.start[self.position..];
        let count = if rest.is_empty() { buffer.len() } else { rest.len().min(buffer.len()) };
        if rest.is_empty() {
            buffer.fill(0);
        } else {
            buffer[..count].copy_from_slice(&rest[..count]);
            self.position += count;
        }
        self.given += count as u64;
        Ok(count)
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let member = Member { name: b"f", size: Some(7 << 30), ..Member::default() };
    let mut bomb = Endless { start: archive().member(&member).0, position: 0, given: 0 };
    let top = TempDir::new().unwrap();
    let dir = File::open(top.path()).unwrap();
    let limits = Limits { bytes: Some(8 << 20), ..Limits::default() };
    let result = apply(&mut bomb, dir.as_fd(), ApplyOptions { limits, ..ApplyOptions::default() });
    assert!(matches!(result, Err(ApplyError::Limit { what: "bytes", .. })), "{result:?}");
    assert!(bomb.given < 10 << 20);
}

#[test]
fn entries_and_implied_directories_are_limited() {
    let limits = Limits { bytes: None, entries: 100 };
    let mut many = archive();
    for index in 0..101 {
        many = many.file(&format!("f{index}"), "");
    }
    let deep =
        archive().file(&format!("{}f", "d/".repeat(45)), "").file(&format!("{}f", "e/".repeat(45)), "").end();
    let deeper = archive().pax(&[("path", "d/".repeat(120).as_bytes())]).dir("x").end();
    for (tar, accepted) in [(many.end(), false), (deep, true), (deeper, false)] {
        let top = TempDir::new().unwrap();
        let dir = File::open(top.path()).unwrap();
        let result = apply(tar.as_slice(), dir.as_fd(), ApplyOptions { limits, ..ApplyOptions::default() });
        assert_eq!(result.is_ok(), accepted, "{result:?}");
    }
}

#[test]
fn a_huge_extended_header_is_refused_before_it_is_read() {
    let member = Member { name: b"x", typeflag: b'x', size: Some(1 << 30), ..Member::default() };
    assert!(matches!(applied(&archive().member(&member).end()).1, Err(ApplyError::Format { .. })));
}

#[test]
fn a_huge_sparse_map_is_refused_before_it_is_read() {
    let data = b"999999999\n0\n1\n";
    let records: &[(&str, &[u8])] =
        &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"100")];
    let mut padded = data.to_vec();
    padded.resize(512, 0);
    let member = Member { name: b"f", data: &padded, ..Member::default() };
    assert!(matches!(
        applied(&archive().pax(records).member(&member).end()).1,
        Err(ApplyError::Format { .. })
    ));
}

#[test]
fn sparse_maps_that_overlap_or_lie_are_refused() {
    for map in
        ["0,4,2,4", "4,4,0,4", "0,9", "0,4,92,8,100,1", "0", "0,-4,1,2", "18446744073709551615,1,1,7", ""]
    {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.size", b"100"),
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
        ];
        let tar = archive().pax(records).file("f", "12345678").end();
        assert!(matches!(applied(&tar).1, Err(ApplyError::Format { .. })), "{map}");
    }
}

#[test]
fn a_truncated_layer_is_an_error_except_between_entries() {
    let tar = archive().file("a", &"x".repeat(700)).pax(&[("mtime", b"1")]).file("b", "y").end();
    for length in 0..tar.len() - 1024 {
        let accepted = applied(&tar[..length]).1.is_ok();
        // After nothing, and after the data of an entry with its padding or without.
        assert_eq!(accepted, [0, 512 + 700, 1536, 3 * 1024 + 1].contains(&length), "{length}");
    }
    assert!(applied(&tar[..tar.len() - 1024]).1.is_ok());
    assert!(applied(&tar[..tar.len() - 512]).1.is_ok());
}
