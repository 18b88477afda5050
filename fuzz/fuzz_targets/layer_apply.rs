//! A layer from anywhere, applied as the current user: nothing outside its directory changes.
//!
//! The first byte chooses between raw bytes as the tar and entries from which a tar with right checksums is
//! made, whose names like to lead out.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;
use yare_layer::{ApplyOptions, Limits, apply, rebuild_tar};

/// `outside/` is what must not change, `layer/` is made anew for each input.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a temporary folder");
    std::fs::create_dir_all(folder.path().join("outside/a/b")).expect("a temporary folder");
    std::fs::write(folder.path().join("outside/a/file"), "untouched").expect("a temporary file");
    folder
});

#[derive(Debug, Arbitrary)]
enum Part<'a> {
    A,
    B,
    File,
    Up,
    Here,
    Empty,
    Opaque,
    WhiteoutOfA,
    Outside,
    Any(&'a [u8]),
}

#[derive(Debug, Arbitrary)]
struct Name<'a> {
    absolute: bool,
    parts: Vec<Part<'a>>,
}

impl Name<'_> {
    fn bytes(&self) -> Vec<u8> {
        let outside = FOLDER.path().join("outside");
        let bytes = |part| match part {
            &Part::Any(bytes) => bytes,
            Part::A => b"a",
            Part::B => b"b",
            Part::File => b"file",
            Part::Up => b"..",
            Part::Here => b".",
            Part::Empty => b"",
            Part::Opaque => b".wh..wh..opq",
            Part::WhiteoutOfA => b".wh.a",
            Part::Outside => outside.as_os_str().as_bytes(),
        };
        let parts: Vec<&[u8]> = self.parts.iter().take(40).map(bytes).collect();
        let mut name = if self.absolute { b"/".to_vec() } else { Vec::new() };
        name.extend(parts.join(&b'/'));
        name
    }
}

#[derive(Debug, Arbitrary)]
enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    Character,
    Block,
    Any(u8),
}

#[derive(Debug, Arbitrary)]
struct Entry<'a> {
    name: Name<'a>,
    link: Name<'a>,
    kind: Kind,
    mode: u16,
    owner: u32,
    time: u32,
    device: (u8, u8),
    content: &'a [u8],
    /// What the header says instead of the true size.
    claimed: Option<u32>,
    records: Vec<(&'a str, &'a [u8])>,
}

const BLOCK: usize = 512;

fn block(kind: u8, size: usize, entry: &Entry<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(100, format!("{:07o}", entry.mode & 0o7777).as_bytes());
    put(108, format!("{:07o}", entry.owner & 0o7_777_777).as_bytes());
    put(116, format!("{:07o}", entry.owner & 0o7_777_777).as_bytes());
    put(124, format!("{size:011o}").as_bytes());
    put(136, format!("{:011o}", entry.time).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", entry.device.0).as_bytes());
    put(337, format!("{:07o}", entry.device.1).as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn record(key: &str, value: &[u8], into: &mut Vec<u8>) {
    let fixed = key.len() + value.len() + 3;
    let mut length = fixed + 1;
    while length != fixed + length.to_string().len() {
        length = fixed + length.to_string().len();
    }
    into.extend_from_slice(format!("{length} {key}=").as_bytes());
    into.extend_from_slice(value);
    into.push(b'\n');
}

fn padded(content: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(content);
    into.resize(into.len().next_multiple_of(BLOCK), 0);
}

fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        let mut records = Vec::new();
        record("path", &entry.name.bytes(), &mut records);
        record("linkpath", &entry.link.bytes(), &mut records);
        for (key, value) in &entry.records {
            record(key, value, &mut records);
        }
        tar.extend(block(b'x', records.len(), entry));
        padded(&records, &mut tar);
        let kind = match entry.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Character => b'3',
            Kind::Block => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
            Kind::Any(kind) => kind,
        };
        let content = if kind == b'0' { entry.content } else { &[] };
        tar.extend(block(kind, entry.claimed.map_or(content.len(), |claimed| claimed as usize), entry));
        padded(content, &mut tar);
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}

/// Everything of a tree that a layer could change from outside; access times are the reader's own.
fn state(path: &Path, into: &mut BTreeMap<PathBuf, String>) {
    let meta = path.symlink_metadata().expect("it is there");
    let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    let content = if meta.is_file() { std::fs::read(path).expect("it can be read") } else { Vec::new() };
    let text = format!(
        "{:o} {}:{} {} {} {times:?} {content:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.ino(),
        meta.nlink()
    );
    into.insert(path.to_owned(), text);
    if meta.is_dir() {
        for entry in path.read_dir().expect("it can be listed") {
            state(&entry.expect("it can be listed").path(), into);
        }
    }
}

fn outside() -> BTreeMap<PathBuf, String> {
    let mut states = BTreeMap::new();
    state(&FOLDER.path().join("outside"), &mut states);
    let names = FOLDER.path().read_dir().expect("it can be listed");
    for name in names {
        states.entry(name.expect("it can be listed").path()).or_default();
    }
    states
}

fn descriptors() -> usize {
    Path::new("/proc/self/fd").read_dir().map_or(0, Iterator::count)
}

fn check(tar: &[u8], unprivileged: bool) {
    let layer = FOLDER.path().join("layer");
    std::fs::create_dir(&layer).expect("the last one is gone");
    let (before, open) = (outside(), descriptors());
    let dir = File::open(&layer).expect("it was made");

    let mut record = Vec::new();
    let limits = Limits { bytes: Some(64 << 20), entries: 1000 };
    let options = ApplyOptions { limits, record: Some(&mut record), unprivileged, ..ApplyOptions::default() };
    let applied = apply(tar, dir.as_fd(), options);
    assert_eq!(outside(), before, "outside of the layer");
    if let Ok(applied) = applied {
        assert_eq!(applied.size, tar.len() as u64);
        assert_eq!(applied.diff_id.0, yare_oci::Digest::of(tar));
        // Another user may have made files that it cannot read itself.
        if rustix::process::geteuid().is_root() {
            let mut again = Vec::new();
            let diff_id = rebuild_tar(dir.as_fd(), Cursor::new(&record), &mut again).expect("its record");
            assert!(again == tar, "the same tar again");
            assert_eq!(diff_id, applied.diff_id);
        }
    }
    drop(dir);
    assert_eq!(descriptors(), open, "descriptors");
    yare_sys::fs::remove_tree(&layer).expect("what was made can be removed");
    assert_eq!(outside().keys().filter(|path| path.ends_with("layer")).count(), 0, "all of it");
}

fuzz_target!(|input: (u8, &[u8])| {
    let (how, bytes) = input;
    let unprivileged = how & 2 != 0 || !rustix::process::geteuid().is_root();
    if how & 1 == 0 {
        return check(bytes, unprivileged);
    }
    let mut source = Unstructured::new(bytes);
    let Ok(entries) = Vec::<Entry<'_>>::arbitrary(&mut source) else { return };
    check(&tar(&entries), unprivileged);
});
