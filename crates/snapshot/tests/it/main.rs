//! Layers, chains and snapshots on a real file system.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::allow_attributes, reason = "tests")]

mod chains;
mod drafts;
mod layers;
mod mounted;

use std::os::fd::{AsFd, BorrowedFd};
use tempfile::TempDir;
use yare_layer::{ApplyOptions, apply};
use yare_oci::DiffId;
use yare_snapshot::{Kind, Snapshots};

/// Whether a test that needs root may run; loud when it may not.
fn root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "{test} needs root");
    eprintln!("SKIP {test}: needs root");
    false
}

/// A layer's tar under construction.
struct Layer(tar::Builder<Vec<u8>>);

#[derive(Clone, Copy)]
struct Meta {
    mode: u32,
    uid: u64,
    mtime: u64,
}

const PLAIN: Meta = Meta { mode: 0o755, uid: 0, mtime: 100 };

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, kind: tar::EntryType, name: &str, link: &str, data: &str, meta: Meta) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(meta.mode);
        header.set_uid(meta.uid);
        header.set_gid(meta.uid);
        header.set_mtime(meta.mtime);
        if link.is_empty() {
            self.0.append_data(&mut header, name, data.as_bytes()).unwrap();
        } else {
            self.0.append_link(&mut header, name, link).unwrap();
        }
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.add(tar::EntryType::Regular, name, "", data, Meta { mode: 0o644, ..PLAIN })
    }

    fn dir(self, name: &str, meta: Meta) -> Self {
        self.add(tar::EntryType::Directory, name, "", "", meta)
    }

    fn symlink(self, name: &str, link: &str) -> Self {
        self.add(tar::EntryType::Symlink, name, link, "", PLAIN)
    }

    fn hard_link(self, name: &str, link: &str) -> Self {
        self.add(tar::EntryType::Link, name, link, "", PLAIN)
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

struct Store {
    top: TempDir,
    snapshots: Snapshots,
}

impl Store {
    fn new(kind: Kind) -> Self {
        let top = TempDir::with_prefix("yare:snap\\shot-").unwrap();
        let snapshots = Snapshots::open(&top.path().join("root"), kind).unwrap();
        Self { top, snapshots }
    }

    fn layer(&self, tar: &[u8]) -> DiffId {
        let pending = self.snapshots.begin_layer().unwrap();
        let mut record = pending.record().unwrap();
        let options = ApplyOptions { record: Some(&mut record), ..ApplyOptions::default() };
        let applied = apply(tar, pending.dir(), options).unwrap();
        let info = pending.commit(&applied).unwrap();
        assert_eq!(info.diff_id.0, yare_oci::Digest::of(tar));
        info.diff_id
    }

    /// Several at once, without records.
    fn layers(&self, tars: &[Vec<u8>]) -> Vec<DiffId> {
        let begun = tars.iter().map(|tar| {
            let pending = self.snapshots.begin_layer().unwrap();
            let applied = apply(tar.as_slice(), pending.dir(), ApplyOptions::default()).unwrap();
            (pending, applied)
        });
        let infos = self.snapshots.commit_layers(begun.collect()).unwrap();
        infos.into_iter().map(|info| info.diff_id).collect()
    }
}

/// Reads a file below a root, as a container would.
fn read(root: impl AsFd, path: &str) -> Option<String> {
    use std::io::Read;
    let root: BorrowedFd<'_> = root.as_fd();
    let flags = rustix::fs::OFlags::RDONLY;
    let fd = yare_sys::fs::open_beneath(root, path, flags, rustix::fs::Mode::empty()).ok()?;
    let mut text = String::new();
    std::fs::File::from(fd).read_to_string(&mut text).unwrap();
    Some(text)
}

fn stat(root: impl AsFd, path: &str) -> rustix::fs::Stat {
    rustix::fs::statat(root, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap()
}
