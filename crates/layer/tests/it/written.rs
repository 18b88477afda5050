//! Tars of ours, read by us and by GNU tar.

use crate::archive::{Archive, applied, assert_same, root};
use crate::gnu::{Strength, hard_tree};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use yare_layer::{ExtractOptions, Form, Limits, WriteOptions, write_directory, write_tar};

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
    let options = WriteOptions { form: Form::Plain, root: true, ..WriteOptions::default() };
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
    let tar =
        written(tree.path(), &WriteOptions { form: Form::Plain, root: true, ..WriteOptions::default() });
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

/// Takes a tar, and changes the tree as soon as the head of `c` has come.
struct Meddler<'a> {
    tree: &'a Path,
    tar: Vec<u8>,
}

impl Write for Meddler<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.starts_with(b"c\0") {
            File::options().write(true).open(self.tree.join("c")).unwrap().set_len(1000).unwrap();
            std::fs::remove_file(self.tree.join("d")).unwrap();
            std::fs::remove_dir_all(self.tree.join("e")).unwrap();
        }
        self.tar.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_tree_in_use_gives_a_whole_tar() {
    let meddled = |living: bool| {
        let tree = TempDir::new().unwrap();
        std::fs::write(tree.path().join("c"), vec![b'x'; 300_000]).unwrap();
        std::fs::write(tree.path().join("d"), "d").unwrap();
        std::fs::create_dir_all(tree.path().join("e/f")).unwrap();
        std::fs::hard_link(tree.path().join("d"), tree.path().join("g")).unwrap();
        let mut meddler = Meddler { tree: tree.path(), tar: Vec::new() };
        let options = WriteOptions { form: Form::Plain, living, ..WriteOptions::default() };
        write_tar(File::open(tree.path()).unwrap().as_fd(), &mut meddler, &options).map(|_| meddler.tar)
    };
    let mut tar = tar::Archive::new(std::io::Cursor::new(meddled(true).unwrap()));
    let mut found = Vec::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        let filled = content.iter().filter(|byte| **byte == b'x').count();
        found.push((entry.path().unwrap().display().to_string(), content.len(), filled));
    }
    assert_eq!(found, [("c".to_owned(), 300_000, 1000), ("g".to_owned(), 1, 0)]);
    assert!(meddled(false).unwrap_err().to_string().contains("c changed while it was read"));
}

#[test]
fn a_directory_is_written_under_the_name_it_is_asked_by() {
    let tree = TempDir::new().unwrap();
    std::fs::write(tree.path().join("f"), "1").unwrap();
    for (name, names) in [("etc", ["etc/", "etc/f"]), (".", ["./", "./f"]), ("", ["/", "/f"])] {
        let mut written = Vec::new();
        write_directory(File::open(tree.path()).unwrap().as_fd(), name, &mut written).unwrap();
        let mut tar = tar::Archive::new(std::io::Cursor::new(written));
        let found = tar.entries().unwrap().map(|entry| entry.unwrap().path_bytes().into_owned());
        assert_eq!(found.collect::<Vec<_>>(), names.map(|name| name.as_bytes().to_vec()), "{name:?}");
    }
}

#[test]
fn a_tree_takes_the_root_of_its_archive_only_where_that_is_asked_for() {
    let set = |dir: &TempDir, mode| {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let source = TempDir::new().unwrap();
    set(&source, 0o711);
    std::fs::write(source.path().join("f"), "x").unwrap();
    let tar = written(source.path(), &WriteOptions { form: Form::Plain, root: true, living: true });
    for (root, expected) in [(true, 0o711), (false, 0o750)] {
        let target = TempDir::new().unwrap();
        set(&target, 0o750);
        let options = ExtractOptions {
            limits: Limits { bytes: None, entries: 10 },
            owner: None,
            time: &|seconds, nanos| (seconds, nanos),
            now: 0,
            form: Form::Plain,
            kinds_stay: None,
            root,
            list: false,
        };
        yare_layer::extract(&tar[..], File::open(target.path()).unwrap().as_fd(), &options).unwrap();
        assert_eq!(target.path().metadata().unwrap().permissions().mode() & 0o7777, expected);
        assert!(target.path().join("f").exists());
    }
}
