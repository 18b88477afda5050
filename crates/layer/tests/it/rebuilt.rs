//! The same bytes again.

use crate::archive::{Archive, Member, root};
use crate::gnu::{Strength, gnu_tar, hard_tree};
use std::fs::File;
use std::io::Cursor;
use std::os::fd::AsFd;
use tempfile::TempDir;
use yare_layer::{ApplyOptions, LayerError, apply, rebuild_tar};

fn rebuilds(name: &str, tar: &[u8]) {
    let top = TempDir::new().unwrap();
    let dir = File::open(top.path()).unwrap();
    let mut record = Vec::new();
    let options = ApplyOptions { record: Some(&mut record), ..ApplyOptions::default() };
    let applied = apply(tar, dir.as_fd(), options)
        .unwrap_or_else(|error| panic!("{name}: {}", yare_errdefs::chain(&error)));
    let mut again = Vec::new();
    let diff_id = rebuild_tar(dir.as_fd(), Cursor::new(&record), &mut again)
        .unwrap_or_else(|error| panic!("{name}: {}", yare_errdefs::chain(&error)));
    assert!(again == tar, "{name}: {} bytes became {}", tar.len(), again.len());
    assert_eq!(diff_id, applied.diff_id, "{name}");
}

#[test]
fn archives_of_gnu_tar_are_rebuilt_bit_by_bit() {
    if !root("archives_of_gnu_tar_are_rebuilt_bit_by_bit") {
        return;
    }
    let cases: &[(Strength, &[&str])] = &[
        (Strength::Pax, &["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse"]),
        (Strength::Pax, &["--format=pax", "--sparse", "--sparse-version=0.0", "--blocking-factor=1"]),
        (Strength::Pax, &["--format=pax", "--sparse", "--sparse-version=0.1", "--blocking-factor=99"]),
        (Strength::Gnu, &["--format=gnu", "--sparse", "--label=volume"]),
        (Strength::Gnu, &["--format=gnu", "--numeric-owner"]),
        (Strength::Ustar, &["--format=ustar", "--blocking-factor=3"]),
    ];
    for (strength, arguments) in cases {
        if arguments.contains(&"--label=volume") {
            continue;
        }
        let tree = TempDir::new().unwrap();
        hard_tree(tree.path(), *strength);
        rebuilds(&arguments.join(" "), &gnu_tar(tree.path(), arguments));
    }
}

#[test]
fn odd_padding_and_trailing_bytes_are_kept() {
    let tar = Archive::default().file("a", "x").file("b", &"y".repeat(1000)).end();
    let mut padded = tar.clone();
    // Between the content and the next header, where zeros are usual but not required.
    padded[512 + 1..1024].fill(0xaa);
    rebuilds("padding of a file", &padded);
    rebuilds("no end", &tar[..tar.len() - 1024]);
    rebuilds("half an end", &tar[..tar.len() - 512]);
    for extra in [1, 511, 10_000, 300_000] {
        let trailing: Vec<u8> = tar.iter().copied().chain((0..extra).map(|index| index as u8)).collect();
        rebuilds("trailing bytes", &trailing);
    }
    rebuilds("nothing but an end", &[0; 1024]);
    rebuilds("nothing", &[]);
}

#[test]
fn replaced_content_is_kept_in_the_record() {
    let big = "big content ".repeat(50_000);
    let archive = Archive::default;
    rebuilds("file over file", &archive().file("a", "first").file("a", "second").file("a", "third").end());
    rebuilds("file over big file", &archive().file("a", &big).file("a", "small").file("b", &big).end());
    rebuilds("directory over file", &archive().file("a", "first").dir("a").file("a/b", "second").end());
    rebuilds("file over tree", &archive().file("a/b/c", "1").file("a/d", "2").file("a", "3").end());
    rebuilds("link over file", &archive().file("a", "first").symlink("a", "b").end());
    rebuilds("hard link over file", &archive().file("a", "first").file("b", "2").hard_link("a", "b").end());
    let chain =
        archive().file("a", "1").hard_link("b", "a").file("b", "2").file("a", "3").hard_link("a", "b");
    rebuilds("hard links and files in turn", &chain.end());
    let ghost = archive().file("f/.wh.x", "data of a whiteout").file(".wh..wh.aufs", "x");
    rebuilds("data of entries that are no files", &ghost.end());
    rebuilds("file below a link", &archive().dir("d").symlink("s", "d").file("s/f", "through").end());
    let map: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.map", b"0,4,1000000,4"),
        ("GNU.sparse.size", b"1000004"),
    ];
    rebuilds("replaced sparse file", &archive().pax(map).file("a", "12345678").file("a", "x").end());
    let zeros = "\0".repeat(100_000);
    rebuilds("replaced zeros", &archive().file("a", &zeros).file("a", "x").end());
}

#[test]
fn data_after_entries_without_data() {
    // A directory whose size field is not zero has no data all the same.
    let member = Member { name: b"d", typeflag: b'5', size: Some(700), mode: 0o755, ..Member::default() };
    rebuilds("sized directory", &Archive::default().member(&member).file("d/f", "x").end());
}

#[test]
fn changed_content_is_noticed() {
    let top = TempDir::new().unwrap();
    let dir = File::open(top.path()).unwrap();
    let mut record = Vec::new();
    let options = ApplyOptions { record: Some(&mut record), ..ApplyOptions::default() };
    apply(Archive::default().file("a", "first").end().as_slice(), dir.as_fd(), options).unwrap();
    std::fs::write(top.path().join("a"), "other").unwrap();
    let result = rebuild_tar(dir.as_fd(), Cursor::new(&record), std::io::sink());
    assert!(matches!(result, Err(LayerError::Changed(_))), "{result:?}");
    std::fs::remove_file(top.path().join("a")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", top.path().join("a")).unwrap();
    assert!(rebuild_tar(dir.as_fd(), Cursor::new(&record), std::io::sink()).is_err());
}

#[test]
fn a_damaged_record_is_refused() {
    let top = TempDir::new().unwrap();
    let dir = File::open(top.path()).unwrap();
    let mut record = Vec::new();
    let options = ApplyOptions { record: Some(&mut record), ..ApplyOptions::default() };
    apply(Archive::default().file("a", "first").end().as_slice(), dir.as_fd(), options).unwrap();
    for length in 0..record.len() {
        let result = rebuild_tar(dir.as_fd(), Cursor::new(&record[..length]), std::io::sink());
        assert!(matches!(result, Err(LayerError::Record(_))), "{length}: {result:?}");
    }
    let mut other = record.clone();
    other[7] = b'2';
    assert!(rebuild_tar(dir.as_fd(), Cursor::new(&other), std::io::sink()).is_err());
}
