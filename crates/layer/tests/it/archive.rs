//! Tars written by hand, and what a directory holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use tempfile::TempDir;
use yare_layer::{Applied, ApplyError, ApplyOptions, apply};

/// A tar under construction. Nothing is checked.
#[derive(Default, Clone)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

pub(crate) struct Member<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) typeflag: u8,
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) data: &'a [u8],
    pub(crate) device: (u32, u32),
    /// Instead of the data's length.
    pub(crate) size: Option<u64>,
}

impl Default for Member<'_> {
    fn default() -> Self {
        Self {
            name: b"",
            typeflag: b'0',
            link: b"",
            mode: 0o644,
            uid: 0,
            data: b"",
            device: (0, 0),
            size: None,
        }
    }
}

impl Archive {
    pub(crate) fn member(mut self, member: &Member<'_>) -> Self {
        let mut block = [0_u8; 512];
        let mut put = |offset: usize, length: usize, bytes: &[u8]| {
            let count = bytes.len().min(length);
            block[offset..offset + count].copy_from_slice(&bytes[..count]);
        };
        put(0, 100, member.name);
        put(100, 8, format!("{:07o}", member.mode).as_bytes());
        put(108, 8, format!("{:07o}", member.uid).as_bytes());
        put(116, 8, b"0000000");
        let size = member.size.unwrap_or(member.data.len() as u64);
        put(124, 12, format!("{size:011o}").as_bytes());
        put(136, 12, b"00000000144");
        put(148, 8, b"        ");
        put(156, 1, &[member.typeflag]);
        put(157, 100, member.link);
        put(257, 8, b"ustar\x0000");
        put(329, 8, format!("{:07o}", member.device.0).as_bytes());
        put(337, 8, format!("{:07o}", member.device.1).as_bytes());
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(member.data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Self {
        self.member(&Member { name: name.as_bytes(), data: data.as_bytes(), ..Member::default() })
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.member(&Member { name: name.as_bytes(), typeflag: b'5', mode: 0o755, ..Member::default() })
    }

    pub(crate) fn symlink(self, name: &str, link: &str) -> Self {
        self.member(&Member {
            name: name.as_bytes(),
            link: link.as_bytes(),
            typeflag: b'2',
            ..Member::default()
        })
    }

    pub(crate) fn hard_link(self, name: &str, link: &str) -> Self {
        self.member(&Member {
            name: name.as_bytes(),
            link: link.as_bytes(),
            typeflag: b'1',
            ..Member::default()
        })
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.member(&Member { name: b"PaxHeaders/x", typeflag: b'x', data: &data, ..Member::default() })
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Applies a tar into a new directory `fs` below a new temporary one.
pub(crate) fn applied(tar: &[u8]) -> (TempDir, Result<Applied, ApplyError>) {
    let top = TempDir::new().unwrap();
    std::fs::create_dir(top.path().join("fs")).unwrap();
    let dir = File::open(top.path().join("fs")).unwrap();
    let applied = apply(tar, dir.as_fd(), ApplyOptions::default());
    (top, applied)
}

/// Everything that can be seen of a tree, one entry a line, without access and change times.
pub(crate) fn listing(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    gather(root, root, &mut found, &mut inodes);
    found
}

fn gather(
    root: &Path,
    path: &Path,
    found: &mut BTreeMap<Vec<u8>, String>,
    inodes: &mut BTreeMap<u64, Vec<u8>>,
) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
    let kind = metadata.file_type();
    let mut line = format!(
        "{:o} {}:{} {}.{:09}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    if kind.is_file() {
        let content = std::fs::read(path).unwrap();
        write!(line, " size {} {}", content.len(), yare_oci::Digest::of(&content)).unwrap();
    } else if kind.is_symlink() {
        write!(line, " -> {:?}", std::fs::read_link(path).unwrap()).unwrap();
    } else if kind.is_char_device() || kind.is_block_device() {
        write!(line, " device {}", metadata.rdev()).unwrap();
    }
    if !kind.is_dir() {
        let first = inodes.entry(metadata.ino()).or_insert_with(|| name.clone());
        if *first != name {
            write!(line, " same as {:?}", String::from_utf8_lossy(first)).unwrap();
        }
    }
    let fd = rustix::fs::open(
        path,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    for (name, value) in yare_sys::fs::xattrs(fd.as_fd()).unwrap() {
        write!(line, " {}={value:?}", String::from_utf8_lossy(&name)).unwrap();
    }
    found.insert(name, line);
    if kind.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for child in names {
            gather(root, &child, found, inodes);
        }
    }
}

/// Compares two trees and shows only what differs.
pub(crate) fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (listing(left), listing(right));
    let mut differences = String::new();
    for path in left.keys().chain(right.keys().filter(|path| !left.contains_key(*path))) {
        if left.get(path) != right.get(path) {
            let shown = String::from_utf8_lossy(path);
            writeln!(differences, "{shown}:\n  {:?}\n  {:?}", left.get(path), right.get(path)).unwrap();
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Whether a test that needs root may run; loud when it may not.
pub(crate) fn root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "{test} needs root");
    eprintln!("SKIP {test}: needs root");
    false
}
