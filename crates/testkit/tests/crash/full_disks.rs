//! The disk fills up while an image comes in, at either end: the error says which disk, nothing stays of it, and
//! it succeeds when there is room.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use yare_testkit::{Engine, Registry, eventually, require_root};

use crate::chance::Chance;
use crate::exhaustion::engine_on_small_disk;
use crate::half_images::archive_of;
use crate::leaks::{self, entries};

const MIB: u64 = 1 << 20;

/// An image of layers with so many MiB, which do not compress, under this name.
fn make(engine: &Engine, chance: &mut Chance, name: &str, layers: &[u64]) -> String {
    let layers = layers.iter().enumerate().map(|(number, size)| {
        let words: Vec<u8> = (0..size * MIB / 8).flat_map(|_| chance.next().to_le_bytes()).collect();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(words.len() as u64);
        tar.append_data(&mut header, format!("data-{number}"), words.as_slice()).unwrap();
        tar.into_inner().unwrap()
    });
    engine.docker(&["load", "-q"]).input(archive_of(name, layers.collect())).ok();
    engine.docker(&["image", "inspect", "-f", "{{.Id}}", name]).ok()
}

/// Takes all but so many MiB of the disk that a folder is on.
fn fill(folder: &Path, left: u64) {
    let space = rustix::fs::statvfs(folder).unwrap();
    let free = space.f_bavail * space.f_frsize;
    let taken = free.checked_sub(left * MIB).expect("the disk is large enough");
    fs::write(folder.join("hog"), vec![1; usize::try_from(taken).unwrap()]).unwrap();
}

#[test]
fn a_pull_onto_a_full_disk_leaves_nothing_and_succeeds_when_there_is_room() {
    if !require_root("a_pull_onto_a_full_disk_leaves_nothing_and_succeeds_when_there_is_room") {
        return;
    }
    let maker = Engine::start();
    let mut engine = engine_on_small_disk(150);
    let registry = Registry::of_yare(&maker.path().join("registry"));
    let name = format!("{}/app:1", registry.host());
    let id = make(&maker, &mut Chance::new(), &name, &[4, 24, 5]);
    maker.docker(&["push", "-q", &name]).ok();
    engine.load_busybox();
    let listed = ["images", "-a", "--format", "{{.ID}} {{.Repository}}"];
    let (images, data) = (engine.docker(&listed).ok(), engine.data_root());
    let layers = || entries(&data.join("snapshots/layers")).len();
    let before = layers();

    // Of its compressed and its unpacked form one fits, or neither.
    for left in [30, 12] {
        fill(&data, left);
        let error = engine.docker(&["pull", "-q", &name]).fails(1);
        let said = error.to_lowercase();
        assert!(said.contains("no space left on device"), "{error}");
        assert!(error.contains("cannot unpack layer sha256:") && error.contains(&name), "{error}");
        assert!(error.contains(data.to_str().unwrap()), "it does not say which disk: {error}");
        assert_eq!(engine.docker(&listed).ok(), images);
        eventually("nothing of it is left", Duration::from_secs(60), || {
            let folders = ["content/partial", "content/ingest", "snapshots/tmp", "snapshots/trash"];
            folders.iter().all(|folder| entries(&data.join(folder)).is_empty()) && layers() == before
        });
        engine.docker(&["run", "--rm", "busybox", "true"]).ok();
        fs::remove_file(data.join("hog")).unwrap();
    }
    engine.docker(&["pull", "-q", &name]).ok();
    assert_eq!(engine.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok(), id);
    engine.docker(&["rmi", &name, "busybox"]).ok();
    drop(registry);
    maker.finish();
    engine.stop();
    unmount(&data, UnmountFlags::empty()).unwrap();
    engine.restart();
    leaks::assert_clean(engine);
}

#[test]
fn a_push_to_a_registry_with_a_full_disk_is_told_so_and_leaves_nothing() {
    if !require_root("a_push_to_a_registry_with_a_full_disk_is_told_so_and_leaves_nothing") {
        return;
    }
    let engine = Engine::start();
    let disk = engine.path().join("disk");
    fs::create_dir(&disk).unwrap();
    mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), Some(c"size=100m,mode=700")).unwrap();
    // It keeps nothing free, so that it is the kernel that says no.
    let registry = Registry::configured(&disk, "[limits]\nreserve = \"0\"\n");
    let mut chance = Chance::new();
    let [small, large] = ["small", "large"].map(|name| format!("{}/{name}:1", registry.host()));
    make(&engine, &mut chance, &small, &[1]);
    let id = make(&engine, &mut chance, &large, &[2, 40]);

    fill(&disk, 20);
    let error = engine.docker(&["push", "-q", &large]).fails(1);
    assert!(
        error.contains("507 Insufficient Storage") && error.contains("no room left on its disk"),
        "{error}"
    );
    assert!(error.contains("cannot upload blob sha256:") && error.contains(&registry.host()), "{error}");
    let uploads = disk.join("data/uploads");
    eventually("the upload is gone", Duration::from_secs(60), || entries(&uploads).is_empty());
    // It lives on: what fits is taken, and what was there is given.
    engine.docker(&["push", "-q", &small]).ok();
    engine.docker(&["rmi", &small]).ok();
    engine.docker(&["pull", "-q", &small]).ok();

    fs::remove_file(disk.join("hog")).unwrap();
    engine.docker(&["push", "-q", &large]).ok();
    engine.docker(&["rmi", &large]).ok();
    engine.docker(&["pull", "-q", &large]).ok();
    assert_eq!(engine.docker(&["image", "inspect", "-f", "{{.Id}}", &large]).ok(), id);
    drop(registry);
    unmount(&disk, UnmountFlags::empty()).unwrap();
    leaks::assert_clean(engine);
}
