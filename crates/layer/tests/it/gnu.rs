//! Archives of GNU tar, compared with what GNU tar was given.

use crate::archive::{applied, assert_same, root};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub(crate) fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn sparse(path: &Path, pieces: &[(u64, &str)], size: u64) {
    let mut file = File::create(path).unwrap();
    for (offset, text) in pieces {
        file.seek(SeekFrom::Start(*offset)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
    file.set_len(size).unwrap();
}

/// What of a tree a format can express.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Strength {
    /// Everything.
    Pax,
    /// Whole seconds, no attributes, any name.
    Gnu,
    /// Short ASCII names, small owners, times from 1970 on.
    Ustar,
}

/// A tree of everything that is hard about tars.
pub(crate) fn hard_tree(top: &Path, strength: Strength) {
    let nanos = if strength == Strength::Pax { 123_456_789 } else { 0 };
    let at = |name: &str| top.join(name);
    std::fs::create_dir_all(at("dir/deeper")).unwrap();
    std::fs::write(at("dir/file"), "content").unwrap();
    std::fs::write(at("empty"), "").unwrap();
    std::fs::write(at("big"), "0123456789abcdef".repeat(60_000)).unwrap();
    std::fs::write(at("setuid"), "#!").unwrap();
    rustix::fs::chmod(at("setuid"), Mode::from_raw_mode(0o6755)).unwrap();
    std::os::unix::fs::symlink("/no/such/target", at("dir/link")).unwrap();
    std::fs::hard_link(at("dir/file"), at("hard")).unwrap();
    let node = Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(CWD, at("char"), FileType::CharacterDevice, node, makedev(5, 300)).unwrap();
    rustix::fs::mknodat(CWD, at("block"), FileType::BlockDevice, node, makedev(7, 1)).unwrap();
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, node, 0).unwrap();
    std::os::unix::fs::chown(at("dir/file"), Some(1000), Some(2000)).unwrap();
    std::os::unix::fs::lchown(at("dir/link"), Some(7), Some(8)).unwrap();
    if strength != Strength::Ustar {
        let name = OsStr::from_bytes(b"not utf-8 \xff\xfe");
        std::fs::write(top.join(name), "x").unwrap();
        let long: PathBuf = [&"d".repeat(100), &"e".repeat(100), &"f".repeat(100)].iter().collect();
        std::fs::create_dir_all(top.join(&long)).unwrap();
        std::fs::write(top.join(&long).join("g".repeat(200)), "deep").unwrap();
        std::os::unix::fs::symlink("t".repeat(300), at("longlink")).unwrap();
        std::fs::hard_link(top.join(&long).join("g".repeat(200)), at("longhard")).unwrap();
        std::fs::write(at("owner"), "o").unwrap();
        std::os::unix::fs::chown(at("owner"), Some(3_000_000), Some(3_000_001)).unwrap();
        sparse(&at("sparse"), &[(0, "start"), (5_000_000, "middle"), (9_999_990, "end")], 10_000_000);
        let many: Vec<(u64, &str)> = (0..100).map(|index| (index * 65_536 + 4096, "piece")).collect();
        sparse(&at("holes"), &many, 100 * 65_536);
        sparse(&at("nothing"), &[], 5_000_000);
        std::fs::write(at("old"), "o").unwrap();
        set_time(&at("old"), -1, nanos);
        std::fs::write(at("far"), "f").unwrap();
        set_time(&at("far"), 15_032_385_535, nanos);
    }
    if strength == Strength::Pax {
        set_xattr(&at("dir/file"), "user.text", b"value with\nnewline = and \0");
        set_xattr(&at("dir"), "user.dir", b"d");
        set_xattr(&at("dir/file"), "trusted.mine", b"t");
        set_xattr(&at("setuid"), "security.capability", &CAPABILITY);
    }
    for name in ["dir/file", "dir/link", "setuid", "fifo", "char", "dir/deeper", "dir", "."] {
        set_time(&at(name), 1_000_000_000, nanos);
    }
    rustix::fs::chmod(at("dir/deeper"), Mode::from_raw_mode(0o1750)).unwrap();
    set_time(&at("dir"), 1_000_000_001, nanos);
    if strength != Strength::Pax {
        cut_times(top);
    }
}

/// Whole seconds everywhere.
fn cut_times(path: &Path) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            cut_times(&entry.unwrap().path());
        }
    }
    set_time(path, std::os::unix::fs::MetadataExt::mtime(&metadata), 0);
}

/// `cap_net_raw+ep`, version 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Runs GNU tar over a tree.
pub(crate) fn gnu_tar(tree: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["--create", "--file=-", "--sort=name"])
        .args(arguments)
        .arg("--directory")
        .arg(tree)
        .arg(".")
        .output()
        .expect("GNU tar is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn round_trip(name: &str, strength: Strength, arguments: &[&str]) {
    if !root(name) {
        return;
    }
    let tree = TempDir::new().unwrap();
    hard_tree(tree.path(), strength);
    let tar = gnu_tar(tree.path(), arguments);
    let (top, result) = applied(&tar);
    let result = result.unwrap();
    assert_same(tree.path(), &top.path().join("fs"));
    assert_eq!(result.size, tar.len() as u64);
    assert_eq!(result.diff_id.0, yare_oci::Digest::of(&tar));
    assert!(result.root_listed && result.implied_dirs.is_empty() && result.lower_links.is_empty());
}

#[test]
fn pax_with_attributes_and_sparse_version_1_0() {
    let arguments = ["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=1.0"];
    round_trip("pax 1.0", Strength::Pax, &arguments);
}

#[test]
fn pax_with_sparse_version_0_1() {
    let arguments = ["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.1"];
    round_trip("pax 0.1", Strength::Pax, &arguments);
}

#[test]
fn pax_with_sparse_version_0_0() {
    let arguments = ["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.0"];
    round_trip("pax 0.0", Strength::Pax, &arguments);
}

#[test]
fn gnu_with_old_sparse_format() {
    round_trip("gnu", Strength::Gnu, &["--format=gnu", "--sparse"]);
}

#[test]
fn gnu_with_blocks_of_another_size() {
    round_trip("gnu blocking", Strength::Gnu, &["--format=gnu", "--blocking-factor=77"]);
}

#[test]
fn ustar() {
    round_trip("ustar", Strength::Ustar, &["--format=ustar"]);
}

#[test]
fn v7_without_devices() {
    if !root("v7") {
        return;
    }
    let tree = TempDir::new().unwrap();
    hard_tree(tree.path(), Strength::Ustar);
    for name in ["char", "block", "fifo"] {
        std::fs::remove_file(tree.path().join(name)).unwrap();
    }
    set_time(tree.path(), 5, 0);
    let tar = gnu_tar(tree.path(), &["--format=v7"]);
    let (top, result) = applied(&tar);
    result.unwrap();
    assert_same(tree.path(), &top.path().join("fs"));
}

#[test]
fn holes_stay_holes() {
    let tree = TempDir::new().unwrap();
    sparse(&tree.path().join("sparse"), &[(900_000_000, "end")], 1_000_000_000);
    for arguments in [["--format=pax", "--sparse"], ["--format=gnu", "--sparse"]] {
        let (top, result) = applied(&gnu_tar(tree.path(), &arguments));
        let result = result.unwrap();
        let metadata = std::fs::metadata(top.path().join("fs/sparse")).unwrap();
        assert_eq!(metadata.len(), 1_000_000_000);
        assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) < 100);
        assert!(result.disk < 100_000);
        assert_eq!(result.content, 1_000_000_000);
    }
}
