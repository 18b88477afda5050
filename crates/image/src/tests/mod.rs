//! The store as a whole, in temporary folders. Layers are owned by whoever runs the tests, so that no test
//! but those that say so needs root.

mod archives;
mod crash;
mod embedded;
mod hostile;
mod import;
mod list;
mod once;
mod platforms;
mod remove;

use crate::Database;
use crate::archive::Writer;
use crate::commit::NewImage;
use crate::{Holder, Image, ImageId, ImportOptions, Removed, Store};
use jiff::Timestamp;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use yare_oci::{ContainerConfig, DiffId, ImageConfig, Reference, RootFs};
use yare_snapshot::Kind;

pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) database: Arc<Database>,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&folder.path().join("db"), 1 << 20).unwrap());
        let store = open(folder.path(), &database).unwrap();
        Self { folder, database, store }
    }

    /// Opens the store again, as a new engine would.
    pub(crate) fn reopen(self) -> Self {
        let Self { folder, database, store } = self;
        drop(store);
        let store = open(folder.path(), &database).unwrap();
        Self { folder, database, store }
    }

    /// An image of one layer with this file in it.
    pub(crate) fn image(&self, content: &str, tags: &[&str]) -> Arc<Image> {
        self.image_at(content, tags, "2026-01-01T00:00:00Z")
    }

    pub(crate) fn image_at(&self, content: &str, tags: &[&str], created: &str) -> Arc<Image> {
        let options =
            ImportOptions { changes: vec![format!("LABEL content={content}")], ..ImportOptions::default() };
        let image = self
            .store
            .import_at(layer(&[("file", content)]).as_slice(), &options, created.parse().unwrap())
            .unwrap();
        for tag in tags {
            self.store.tag(&image.id, &reference(tag)).unwrap();
        }
        self.store.image(&image.id).unwrap()
    }

    /// A nameless child with the layers of its parent and one more.
    pub(crate) fn child(&self, parent: &ImageId, content: &str) -> Arc<Image> {
        let mut lease = self.store.lease();
        let unpacked = crate::unpack::unpack(&self.store, layer(&[("child", content)]).as_slice()).unwrap();
        lease.layer(unpacked.applied.diff_id);
        let diff_id = unpacked.applied.diff_id;
        unpacked.pending.commit(&unpacked.applied).unwrap();
        let parent = self.store.image(parent).unwrap();
        let layers: Vec<DiffId> = parent.layers.iter().copied().chain([diff_id]).collect();
        let mut new = NewImage::from_config(&config(layers)).unwrap();
        new.parent = Some(parent.id);
        self.store.commit_image(new).unwrap().image
    }

    /// Layers and documents that are on the disk.
    pub(crate) fn on_disk(&self) -> (usize, usize) {
        (self.store.snapshots().layers().unwrap().len(), self.store.content().list().unwrap().len())
    }
}

pub(crate) fn open(folder: &Path, database: &Arc<Database>) -> crate::Result<Store> {
    Store::open_with(&folder.join("images"), Arc::clone(database), Kind::Copy)
}

pub(crate) fn config(layers: Vec<DiffId>) -> ImageConfig {
    ImageConfig {
        architecture: yare_oci::Platform::host().architecture,
        os: "linux".into(),
        config: ContainerConfig::default(),
        rootfs: RootFs { diff_ids: layers, ..RootFs::default() },
        ..ImageConfig::default()
    }
}

pub(crate) fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

/// A writer whose entries belong to whoever runs the test.
pub(crate) fn own_tar() -> Writer<Vec<u8>> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Writer::with_owner(Vec::new(), user, group)
}

/// A layer tar with these files.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = own_tar();
    for (name, content) in files {
        tar.file(name, 0o644, 1, content.as_bytes()).unwrap();
    }
    tar.finish().unwrap()
}

pub(crate) fn holder(id: &str, state: &str) -> Holder {
    Holder {
        id: format!("{id:0<64}"),
        name: format!("name-{id}"),
        state: state.into(),
        running: matches!(state, "running" | "paused" | "restarting"),
        age: "2 hours".into(),
    }
}

pub(crate) fn nobody(_: &ImageId) -> Vec<Holder> {
    Vec::new()
}

pub(crate) fn untagged(removed: &[Removed]) -> Vec<&str> {
    removed
        .iter()
        .filter_map(|removed| match removed {
            Removed::Untagged(name) => Some(name.as_str()),
            Removed::Deleted(_) => None,
        })
        .collect()
}

pub(crate) fn deleted(removed: &[Removed]) -> Vec<&str> {
    removed
        .iter()
        .filter_map(|removed| match removed {
            Removed::Deleted(id) => Some(id.as_str()),
            Removed::Untagged(_) => None,
        })
        .collect()
}

/// Says so past the harness, which keeps what passing tests print to itself.
pub(crate) fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {why}");
}

/// Whether the test may go on; says loudly when not.
pub(crate) fn have_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(test, "needs root");
        assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none_or(|value| value != "1"), "{test} needs root");
    }
    root
}
