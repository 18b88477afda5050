//! Tars of ours, read by us and by GNU tar.

use crate::archive::{Archive, applied, assert_same, root};
use crate::gnu::{Strength, hard_tree};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use yare_layer::{Form, WriteOptions, write_tar};

fn written(path: &Path, options: &WriteOptions) -> Vec<u8> {
    let mut tar = Vec::new();
    let result = write_tar(File::open(path).unwrap().as_fd(), &mut tar, options).unwrap();
    assert_eq!(result.size, tar.len() as u64);
    assert_eq!(result.diff_id.0, yare_oci::Digest::of(&tar));
    tar
}

#[test]
fn a_tree_survives_writing_and_applying() {
    if !root("a_tree_survives_writing_and_applying") {
        return;
    }
    let tree = TempDir::new().unwrap();
    hard_tree(tree.path(), Strength::Pax);
    let options = WriteOptions { form: Form::Plain, root: true };
    let tar = written(tree.path(), &options);
    assert!(tar.len() < 3 << 20, "holes were written: {}", tar.len());
    let (top, result) = applied(&tar);
    result.unwrap();
    assert_same(tree.path(), &top.path().join("fs"));
    assert!(written(&top.path().join("fs"), &options) == tar, "the copy gives another tar");
}

#[test]
fn gnu_tar_reads_what_we_write() {
    if !root("gnu_tar_reads_what_we_write") {
        return;
    }
    let (tree, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    hard_tree(tree.path(), Strength::Pax);
    let tar = written(tree.path(), &WriteOptions { form: Form::Plain, root: true });
    let mut child = Command::new("tar")
        .args([
            "--extract",
            "--file=-",
            "--xattrs",
            "--xattrs-include=*",
            "--same-owner",
            "-p",
            "--directory",
        ])
        .arg(out.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("GNU tar is installed");
    child.stdin.take().unwrap().write_all(&tar).unwrap();
    assert!(child.wait().unwrap().success());
    assert_same(tree.path(), out.path());
}

#[test]
fn overlay_form_becomes_whiteouts_and_back() {
    if !root("overlay_form_becomes_whiteouts_and_back") {
        return;
    }
    let tar = Archive::default()
        .dir("d")
        .file("d/.wh.gone", "")
        .file("d/new", "x")
        .dir("o")
        .file("o/.wh..wh..opq", "")
        .file("o/x", "y")
        .end();
    let (first, result) = applied(&tar);
    result.unwrap();
    let written_once = written(&first.path().join("fs"), &WriteOptions::default());
    let text = String::from_utf8_lossy(&written_once).into_owned();
    assert!(text.contains("d/.wh.gone") && text.contains("o/.wh..wh..opq"));
    let (second, result) = applied(&written_once);
    result.unwrap();
    assert_same(&first.path().join("fs"), &second.path().join("fs"));
    assert!(written(&second.path().join("fs"), &WriteOptions::default()) == written_once);
}
