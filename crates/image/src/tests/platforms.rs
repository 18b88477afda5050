//! Several platforms under one name.

use super::archives::{Layout, index, load, manifest};
use super::*;
use crate::RemoveOptions;
use std::collections::BTreeMap;
use yare_errdefs::{Class, Classified};
use yare_oci::{Descriptor, Digest, MediaType, Platform};

fn host() -> String {
    Platform::host().to_string()
}

fn platform(text: &str) -> Platform {
    Platform::parse(text).unwrap()
}

/// A layout with an image for this machine, one for s390x, and a statement about the first.
fn layout(name: &str) -> Layout {
    let mut layout = Layout::new();
    let (theirs, _) = layout.image("theirs", "linux/s390x");
    let (ours, _) = layout.image("ours", &host());
    let statement = serde_json::json!({
        "_type": "https://in-toto.io/Statement/v0.1",
        "subject": [{ "name": "_", "digest": { "sha256": ours.digest.hex() } }],
    });
    let statement = layout.blob("application/vnd.in-toto+json", statement.to_string().into_bytes());
    let config = layout.blob(MediaType::OCI_CONFIG, br#"{"os":"unknown"}"#.to_vec());
    let attached = manifest(config, vec![statement]);
    let mut attached = layout.blob(MediaType::OCI_MANIFEST, serde_json::to_vec(&attached).unwrap());
    attached.platform = Some(Platform::new("unknown", "unknown", ""));
    attached.annotations = BTreeMap::from([
        ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned()),
        ("vnd.docker.reference.digest".to_owned(), ours.digest.to_string()),
    ]);
    let mut whole = layout.blob(MediaType::OCI_INDEX, index(vec![theirs, ours, attached]));
    whole.annotations.insert("io.containerd.image.name".into(), name.to_owned());
    layout.manifests.push(whole);
    layout
}

pub(super) fn multi(name: &str) -> Vec<u8> {
    layout(name).archive()
}

fn loaded() -> Fixture {
    let fixture = Fixture::new();
    assert_eq!(load(&fixture, &multi("docker.io/library/x:1")).unwrap(), ["Loaded image: x:1\n"]);
    fixture
}

fn arch(fixture: &Fixture, name: &str, wanted: Option<&str>) -> crate::Result<String> {
    let image = fixture.store.resolve(name, wanted.map(platform).as_ref())?;
    Ok(image.config.architecture.clone())
}

#[test]
fn a_name_has_an_image_a_platform_and_shows_the_hosts() {
    let fixture = loaded().reopen();
    let ours = Platform::host().architecture;
    assert_eq!(arch(&fixture, "x:1", None).unwrap(), ours);
    assert_eq!(arch(&fixture, "x:1", Some("linux/s390x")).unwrap(), "s390x");
    let error = arch(&fixture, "x:1", Some("linux/riscv64")).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert_eq!(
        error.to_string(),
        "image with reference x:1 was found but does not provide the specified platform (linux/riscv64)"
    );
    let listed = fixture.store.listed(&crate::ListFilters::default(), true);
    assert_eq!(listed.len(), 1, "one row a name");
    assert_eq!(listed[0].image.config.architecture, ours);
    let index = fixture.store.index_of("x:1").unwrap();
    assert!(index.is_whole());
    assert_eq!(fixture.store.resolve(&index.digest.to_string(), None).unwrap().id, listed[0].image.id);
    let usage = fixture.store.usage();
    assert_eq!(usage.images.len(), 1);
    assert_eq!((usage.images[0].size, usage.images[0].shared), (usage.layers, 0), "both platforms count");
}

#[test]
fn the_last_name_takes_everything_along_and_an_index_keeps_everything() {
    let fixture = loaded();
    fixture.store.tag_as("x:1", &reference("y")).unwrap();
    let all = (2, 8);
    assert_eq!(
        fixture.on_disk(),
        all,
        "two configs, four manifests and documents of the statement, an index"
    );
    fixture.store.remove("x:1", RemoveOptions::default(), &nobody).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.on_disk(), all);
    assert_eq!(arch(&fixture, "y", Some("linux/s390x")).unwrap(), "s390x");
    let filters = BTreeMap::from([("dangling".to_owned(), vec!["true".to_owned()])]);
    let pruned = fixture.store.prune(&filters, Timestamp::now(), &nobody).unwrap();
    assert_eq!(pruned.removed, [], "an image of an index is not dangling");
    let removal = fixture.store.remove("y", RemoveOptions::default(), &nobody).unwrap();
    assert_eq!(untagged(&removal.removed), ["y:latest"]);
    assert_eq!(fixture.on_disk(), (0, 0));
    assert_eq!(fixture.reopen().on_disk(), (0, 0));
}

#[test]
fn an_id_that_is_removed_takes_its_names_and_their_other_platforms() {
    let fixture = loaded();
    let id = fixture.store.resolve("x:1", None).unwrap().id;
    fixture.store.remove(&id.hex(), RemoveOptions::default(), &nobody).unwrap();
    assert_eq!(fixture.on_disk(), (0, 0));
}

#[test]
fn one_platform_is_removed_and_the_name_shows_the_other() {
    let fixture = loaded();
    let ours = fixture.store.resolve("x:1", None).unwrap();
    let users = |id: &ImageId| if *id == ours.id { vec![holder("a", "running")] } else { Vec::new() };
    let remove = |wanted: &str, in_use| {
        fixture.store.remove_platforms("x:1", &[platform(wanted)], RemoveOptions::default(), in_use)
    };
    assert_eq!(remove(&host(), &users).unwrap_err().class(), Class::Conflict);
    let removal = remove(&host(), &nobody).unwrap();
    assert_eq!(deleted(&removal.removed)[0], ours.id.to_string());
    assert_eq!(arch(&fixture, "x:1", None).unwrap(), "s390x");
    assert!(!fixture.store.index_of("x:1").unwrap().is_whole());
    let removal = remove("linux/s390x", &nobody).unwrap();
    assert_eq!(untagged(&removal.removed), ["x:1"]);
    assert_eq!(fixture.on_disk(), (0, 0));
}

#[test]
fn an_image_in_use_outlives_its_index() {
    let fixture = loaded();
    let theirs = fixture.store.resolve("x:1", Some(&platform("linux/s390x"))).unwrap().id;
    let users = |id: &ImageId| if *id == theirs { vec![holder("a", "exited")] } else { Vec::new() };
    let error = fixture.store.remove("x:1", RemoveOptions::default(), &users).unwrap_err();
    assert!(error.to_string().contains("must force"), "{error}");
    let force = RemoveOptions { force: true, ..RemoveOptions::default() };
    fixture.store.remove("x:1", force, &users).unwrap();
    assert!(fixture.store.image(&theirs).is_some());
    assert!(fixture.store.resolve("x:1", None).is_err());
    fixture.store.reap(&|_| false).unwrap();
    assert_eq!(fixture.on_disk(), (0, 0));
}

#[test]
fn a_name_that_another_image_takes_leaves_the_platforms_nameless() {
    let fixture = loaded();
    fixture.image("new", &["x:1"]);
    assert!(fixture.store.index_of("x:1").is_none());
    assert_eq!(fixture.store.listed(&crate::ListFilters::default(), false).len(), 3);
    fixture.store.prune(&BTreeMap::new(), Timestamp::now(), &nobody).unwrap();
    assert_eq!(fixture.reopen().on_disk(), (1, 2));
}

#[test]
fn platforms_come_one_by_one() {
    let layout = layout("x:1");
    let fixture = Fixture::new();
    let take = |wanted: &str| {
        fixture
            .store
            .load_with_progress(layout.archive().as_slice(), &[platform(wanted)], &mut |_| {}, &mut |_| {})
            .unwrap();
    };
    take("linux/s390x");
    assert_eq!(arch(&fixture, "x:1", None).unwrap(), "s390x");
    take(&host());
    assert_eq!(arch(&fixture, "x:1", None).unwrap(), Platform::host().architecture);
    assert_eq!(arch(&fixture, "x:1", Some("linux/s390x")).unwrap(), "s390x");
    assert!(fixture.store.index_of("x:1").unwrap().is_whole());
    let error = fixture
        .store
        .load_with_progress(layout.archive().as_slice(), &[platform("riscv64")], &mut |_| {}, &mut |_| {})
        .unwrap_err();
    assert!(error.to_string().contains("has no image for linux/riscv64"), "{error}");
}

#[test]
fn what_is_saved_comes_back_with_platforms_and_statements() {
    let fixture = loaded();
    let mut archive = Vec::new();
    fixture.store.save(&["x:1".to_owned()], &[], &mut archive).unwrap();
    let other = Fixture::new();
    assert_eq!(load(&other, &archive).unwrap(), ["Loaded image: x:1\n"]);
    assert_eq!(other.store.resolve("x:1", None).unwrap().id, fixture.store.resolve("x:1", None).unwrap().id);
    let index = other.store.index_of("x:1").unwrap();
    assert!(index.is_whole());
    // The layers came compressed and go plain: the statement is about the manifest of these.
    let members = other.store.members(&index);
    let ours = members.iter().find(|member| !member.attestations.is_empty()).unwrap();
    let blobs = other.store.attestation_blobs(&ours.attestations[0].digest).unwrap();
    let statement = String::from_utf8(other.store.document(&blobs[0].digest).unwrap()).unwrap();
    assert!(statement.contains(&ours.descriptor.digest.hex()), "{statement}");
    // From plain layers nothing changes any more.
    let mut again = Vec::new();
    other.store.save(&["x:1".to_owned()], &[], &mut again).unwrap();
    assert_eq!(again, archive);
    let mut single = Vec::new();
    other.store.save(&["x:1".to_owned()], &[platform("linux/s390x")], &mut single).unwrap();
    let third = Fixture::new();
    load(&third, &single).unwrap();
    assert_eq!(arch(&third, "x:1", None).unwrap(), "s390x");
    assert!(third.store.index_of("x:1").is_none());
}

#[test]
fn a_store_of_format_1_is_migrated() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["a"]);
    let Fixture { folder, database, store } = fixture;
    drop(store);
    database
        .transact(|database| -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("image_meta");
            transaction.open_table(meta)?.insert("format", 1)?;
            for name in ["image_indexes", "image_name_indexes"] {
                let table: redb::TableDefinition<'_, &[u8; 32], &[u8]> = redb::TableDefinition::new(name);
                if name == "image_indexes" {
                    transaction.delete_table(table)?;
                } else {
                    let table: redb::TableDefinition<'_, &str, &[u8; 32]> = redb::TableDefinition::new(name);
                    transaction.delete_table(table)?;
                }
            }
            Ok(transaction.commit()?)
        })
        .unwrap();
    let store = open(folder.path(), &database).unwrap();
    assert_eq!(store.resolve("a", None).unwrap().id, image.id);
    let fixture = Fixture { folder, database, store }.reopen();
    load(&fixture, &multi("x:1")).unwrap();
    assert_eq!(arch(&fixture.reopen(), "x:1", Some("linux/s390x")).unwrap(), "s390x");
}

#[test]
fn a_damaged_index_leaves_its_names_the_image_they_showed() {
    let fixture = loaded();
    let index = fixture.store.index_of("x:1").unwrap();
    fixture.store.content().delete(&index.digest).unwrap();
    let fixture = fixture.reopen();
    assert!(fixture.store.index_of("x:1").is_none());
    assert_eq!(arch(&fixture, "x:1", None).unwrap(), Platform::host().architecture);
    load(&fixture, &multi("x:1")).unwrap();
    assert!(fixture.reopen().store.index_of("x:1").unwrap().is_whole());
}

#[test]
fn an_index_of_images_that_are_not_here_is_refused() {
    let fixture = Fixture::new();
    let id = ImageId(Digest::of("gone"));
    let new = crate::NewIndex {
        document: index(vec![Descriptor::new(MediaType::OCI_MANIFEST, Digest::of("m"), 1)]),
        present: vec![(b"m".to_vec(), id)],
        ..crate::NewIndex::default()
    };
    let error = fixture.store.commit(Vec::new(), vec![new]).unwrap_err();
    assert!(error.to_string().contains("is not there"), "{error}");
    assert_eq!(fixture.reopen().on_disk(), (0, 0));
}
