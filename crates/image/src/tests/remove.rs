//! Every case of Docker's image removal.

use super::*;
use crate::RemoveOptions;
use std::collections::BTreeMap;
use yare_errdefs::{Class, Classified};

const PLAIN: RemoveOptions = RemoveOptions { force: false, no_prune: false };
const FORCE: RemoveOptions = RemoveOptions { force: true, no_prune: false };

#[test]
fn the_last_name_takes_the_image_with_it() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["smp/c:1"]);
    let removal = fixture.store.remove("smp/c:1", PLAIN, &nobody).unwrap();
    assert_eq!(
        removal.removed,
        [
            Removed::Untagged("smp/c:1".into()),
            Removed::Deleted(image.id.to_string()),
            Removed::Deleted(image.chain[0].to_string())
        ]
    );
    assert_eq!(
        removal.events.iter().map(|event| (event.action, event.id)).collect::<Vec<_>>(),
        [("untag", image.id), ("delete", image.id)]
    );
    assert_eq!(removal.reclaimed, image.size);
    assert_eq!(fixture.on_disk(), (0, 0));
    let error = fixture.store.resolve("smp/c:1", None).unwrap_err();
    assert_eq!((error.class(), error.to_string().as_str()), (Class::NotFound, "No such image: smp/c:1"));
}

#[test]
fn a_name_among_several_is_only_untagged() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["a:1", "b:2"]);
    let removal = fixture.store.remove("b:2", PLAIN, &|_| vec![holder("c", "running")]).unwrap();
    assert_eq!(removal.removed, [Removed::Untagged("b:2".into())]);
    assert_eq!(fixture.store.image(&image.id).unwrap().tags(), ["a:1"]);
    assert_eq!(fixture.reopen().store.image(&image.id).unwrap().tags(), ["a:1"]);
}

#[test]
fn an_id_takes_the_only_name_along() {
    for typed in [
        |image: &Image| image.id.short(),
        |image: &Image| image.id.to_string(),
        |image: &Image| image.id.hex(),
    ] {
        let fixture = Fixture::new();
        let image = fixture.image("a", &["only:1"]);
        let removal = fixture.store.remove(&typed(&image), PLAIN, &nobody).unwrap();
        assert_eq!(untagged(&removal.removed), ["only:1"]);
        assert_eq!(deleted(&removal.removed)[0], image.id.to_string());
    }
}

#[test]
fn an_id_with_several_names_must_be_forced() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["a:1", "b:1"]);
    let error = fixture.store.remove(&image.id.short(), PLAIN, &nobody).unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            image.id.short()
        )
    );
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("a:1, b:1") && hint.contains("yare rmi a:1 b:1") && hint.contains("yare rmi -f"),
        "{hint}"
    );
    assert_eq!(fixture.store.image(&image.id).unwrap().tags(), ["a:1", "b:1"]);
    let removal = fixture.store.remove(&image.id.short(), FORCE, &nobody).unwrap();
    assert_eq!(untagged(&removal.removed), ["a:1", "b:1"]);
    assert_eq!(fixture.store.count(), 0);
}

#[test]
fn the_last_name_of_an_image_in_use_must_be_forced() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["busybox"]);
    let holders = |_: &ImageId| vec![holder("b8a4ff84ef4b", "exited"), holder("c1", "running")];
    let error = fixture.store.remove("busybox", PLAIN, &holders).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to remove repository reference \"busybox\" (must force) - container b8a4ff84ef4b is \
             using its referenced image {}",
            image.id.short()
        )
    );
    let hint = error.hint().unwrap();
    assert!(hint.contains(
        "container name-b8a4ff84ef4b (b8a4ff84ef4b, exited for 2 hours): yare rm name-b8a4ff84ef4b"
    ));
    assert!(
        hint.contains("container name-c1 (c10000000000, running for 2 hours): yare rm -f name-c1"),
        "{hint}"
    );
    assert!(hint.contains("yare rmi -f busybox"), "{hint}");
}

#[test]
fn by_id_a_running_container_cannot_be_forced_away() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["busybox"]);
    for state in ["running", "paused", "restarting"] {
        for options in [PLAIN, FORCE] {
            let holders = |_: &ImageId| vec![holder("abc", state)];
            let error = fixture.store.remove(&image.id.short(), options, &holders).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "conflict: unable to delete {} (cannot be forced) - image is being used by running container \
                     abc000000000",
                    image.id.short()
                )
            );
            assert!(error.hint().unwrap().contains("yare rm -f name-abc"));
        }
    }
    assert_eq!(fixture.store.image(&image.id).unwrap().tags(), ["busybox:latest"]);
}

#[test]
fn by_id_a_stopped_container_must_be_forced_away() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["busybox"]);
    let holders = |_: &ImageId| vec![holder("abc", "exited")];
    let error = fixture.store.remove(&image.id.short(), PLAIN, &holders).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to delete {} (must be forced) - image is being used by stopped container abc000000000",
            image.id.short()
        )
    );
    let hint = error.hint().unwrap();
    assert!(hint.contains("yare rm name-abc") && hint.contains("yare rmi -f"), "{hint}");
}

#[test]
fn a_forced_name_of_a_running_container_leaves_the_image() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["busybox"]);
    let removal = fixture.store.remove("busybox", FORCE, &|_| vec![holder("abc", "running")]).unwrap();
    assert_eq!(removal.removed, [Removed::Untagged("busybox:latest".into())]);
    assert!(fixture.store.resolve(&image.id.hex(), None).unwrap().is_unreferenced());
}

#[test]
fn a_forced_image_of_a_stopped_container_keeps_its_layers_until_that_is_gone() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["busybox"]);
    let holders = |_: &ImageId| vec![holder("abc", "exited")];
    let removal = fixture.store.remove("busybox", FORCE, &holders).unwrap();
    assert_eq!(deleted(&removal.removed), [image.id.to_string()], "the layers are in use");
    assert_eq!(removal.reclaimed, 0);
    assert!(fixture.store.resolve(&image.id.hex(), None).is_err());
    let fixture = fixture.reopen();
    assert!(fixture.store.list().is_empty());
    assert_eq!(fixture.store.image(&image.id).unwrap().layers, image.layers, "containers still find it");
    assert_eq!(fixture.store.reap(&|_| true).unwrap(), 0);
    assert_eq!(fixture.store.reap(&|_| false).unwrap(), image.size);
    assert_eq!(fixture.on_disk(), (0, 0));
    assert!(fixture.reopen().store.image(&image.id).is_none());
}

#[test]
fn a_detached_image_that_comes_again_is_an_image_again() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["busybox"]);
    fixture.store.remove("busybox", FORCE, &|_| vec![holder("abc", "exited")]).unwrap();
    let again = fixture.image("a", &["busybox"]);
    assert_eq!(again.id, image.id);
    assert_eq!(fixture.store.reap(&|_| false).unwrap(), 0);
    assert_eq!(fixture.reopen().store.resolve("busybox", None).unwrap().id, image.id);
}

#[test]
fn an_image_with_children_cannot_go() {
    let fixture = Fixture::new();
    let parent = fixture.image("a", &["parent"]);
    let child = fixture.child(&parent.id, "b");
    fixture.store.tag(&child.id, &reference("child")).unwrap();
    let error = fixture.store.remove(&parent.id.short(), FORCE, &nobody).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to delete {} (cannot be forced) - image has dependent child images",
            parent.id.short()
        )
    );
    assert!(error.hint().unwrap().contains("yare rmi child:latest"));
    let removal = fixture.store.remove("parent", PLAIN, &nobody).unwrap();
    assert_eq!(removal.removed, [Removed::Untagged("parent:latest".into())], "the name may go");
}

#[test]
fn nameless_parents_go_with_the_child_unless_told_otherwise() {
    let fixture = Fixture::new();
    let parent = fixture.image("a", &[]);
    let child = fixture.child(&parent.id, "b");
    let removal = fixture.store.remove(&child.id.short(), PLAIN, &nobody).unwrap();
    assert_eq!(
        deleted(&removal.removed),
        [
            child.id.to_string(),
            child.chain[1].to_string(),
            parent.id.to_string(),
            parent.chain[0].to_string()
        ]
    );
    assert_eq!(fixture.on_disk(), (0, 0));

    let parent = fixture.image("a", &[]);
    let child = fixture.child(&parent.id, "b");
    let keep = RemoveOptions { no_prune: true, ..PLAIN };
    fixture.store.remove(&child.id.short(), keep, &nobody).unwrap();
    assert_eq!(fixture.store.list()[0].id, parent.id);

    fixture.store.tag(&parent.id, &reference("named")).unwrap();
    let child = fixture.child(&parent.id, "b");
    fixture.store.remove(&child.id.short(), PLAIN, &nobody).unwrap();
    assert_eq!(fixture.store.list()[0].id, parent.id, "a parent with a name stays");
}

#[test]
fn shared_layers_stay() {
    let fixture = Fixture::new();
    let parent = fixture.image("a", &["parent"]);
    let child = fixture.child(&parent.id, "b");
    let removal = fixture.store.remove(&child.id.short(), PLAIN, &nobody).unwrap();
    assert_eq!(deleted(&removal.removed), [child.id.to_string(), child.chain[1].to_string()]);
    assert_eq!(removal.reclaimed, child.size - parent.size);
    assert_eq!(fixture.on_disk(), (1, 2));
}

#[test]
fn the_last_tag_of_a_repository_takes_its_digests_along() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["repo:1"]);
    let digest = reference("repo").with_digest(image.manifest);
    let bytes = fixture.store.config_bytes(&image.id).unwrap();
    let new = NewImage { config: bytes, digests: vec![digest.clone()], ..NewImage::default() };
    fixture.store.commit_image(new).unwrap();
    assert_eq!(fixture.store.resolve(&digest.familiar(), None).unwrap().id, image.id);
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.resolve("repo:1", None).unwrap().repo_digests(), [digest.familiar()]);
    let removal = fixture.store.remove("repo:1", PLAIN, &nobody).unwrap();
    assert_eq!(untagged(&removal.removed), ["repo:1".to_owned(), digest.familiar()]);
    assert_eq!(deleted(&removal.removed)[0], image.id.to_string());
}

#[test]
fn an_image_that_was_built_just_now_is_young_whatever_its_config_says() {
    let fixture = Fixture::new();
    let old = fixture.image("old", &["repo:1"]);
    let mut config: yare_oci::ImageConfig =
        serde_json::from_slice(&fixture.store.config_bytes(&old.id).unwrap()).unwrap();
    (config.created, config.author) = (Some("2001-01-01T00:00:00Z".to_owned()), "me".to_owned());
    let config = serde_json::to_vec(&config).unwrap();
    let new = NewImage { config, built: true, ..NewImage::default() };
    let built = fixture.store.commit_image(new).unwrap().image;
    let fixture = fixture.reopen();
    let built = fixture.store.image(&built.id).unwrap();
    assert!(built.created.unwrap().as_second() < 1_000_000_000 && built.dated() > built.created);
    let pruned = fixture.store.prune(&filters(&[("until", "1h")]), Timestamp::now(), &nobody).unwrap();
    assert!(pruned.removed.is_empty());
    assert_eq!(fixture.store.list()[0].id, built.id);
}

#[test]
fn unknown_names_and_bad_ones() {
    let fixture = Fixture::new();
    fixture.image("a", &["busybox"]);
    let fails = |name: &str| fixture.store.remove(name, PLAIN, &nobody).unwrap_err();
    assert_eq!(fails("nosuch").to_string(), "No such image: nosuch:latest");
    assert_eq!(fails("x/y:3").to_string(), "No such image: x/y:3");
    assert_eq!(fails(&"0".repeat(64)).to_string(), format!("No such image: sha256:{}", "0".repeat(64)));
    assert_eq!(fails("UPPER").class(), Class::InvalidArgument);
    assert_eq!(fails("a b").class(), Class::InvalidArgument);
}

#[test]
fn a_container_that_is_being_created_protects_its_image() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["busybox"]);
    let lease = fixture.store.hold(&image.id, "feedfacefeedface").unwrap();
    let error = fixture.store.remove(&image.id.short(), FORCE, &nobody).unwrap_err();
    assert!(error.to_string().contains("(cannot be forced)"), "{error}");
    assert!(error.hint().unwrap().contains("feedfacefeed"), "{:?}", error.hint());
    drop(lease);
    fixture.store.remove(&image.id.short(), PLAIN, &nobody).unwrap();
    assert!(fixture.store.hold(&image.id, "feedfacefeedface").is_err());
}

#[test]
fn prune_takes_dangling_images_and_what_they_alone_need() {
    let fixture = Fixture::new();
    let named = fixture.image("a", &["named"]);
    let dangling = fixture.image("b", &[]);
    let used = fixture.image("c", &[]);
    let holders = |id: &ImageId| if *id == used.id { vec![holder("x", "exited")] } else { Vec::new() };
    let pruned = fixture.store.prune(&BTreeMap::new(), Timestamp::UNIX_EPOCH, &holders).unwrap();
    assert_eq!(deleted(&pruned.removed), [dangling.id.to_string(), dangling.chain[0].to_string()]);
    assert_eq!(pruned.reclaimed, dangling.size);
    let all = filters(&[("dangling", "false")]);
    let pruned = fixture.store.prune(&all, Timestamp::UNIX_EPOCH, &holders).unwrap();
    assert_eq!(untagged(&pruned.removed), ["named:latest"]);
    assert_eq!(deleted(&pruned.removed)[0], named.id.to_string());
    assert_eq!(fixture.store.list().len(), 1);
}

fn filters(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect()
}

#[test]
fn prune_obeys_labels_and_dates() {
    let fixture = Fixture::new();
    let old = fixture.image_at("old", &[], "2020-01-01T00:00:00Z");
    let new = fixture.image_at("new", &[], "2026-01-01T00:00:00Z");
    let nope = filters(&[("label", "nope")]);
    assert!(fixture.store.prune(&nope, Timestamp::UNIX_EPOCH, &nobody).unwrap().removed.is_empty());
    let not_old = filters(&[("label!", "content=old"), ("until", "2025-01-01T00:00:00Z")]);
    assert!(fixture.store.prune(&not_old, Timestamp::UNIX_EPOCH, &nobody).unwrap().removed.is_empty());
    let before = filters(&[("until", "2025-01-01T00:00:00Z")]);
    let pruned = fixture.store.prune(&before, Timestamp::UNIX_EPOCH, &nobody).unwrap();
    assert_eq!(deleted(&pruned.removed)[0], old.id.to_string());
    assert_eq!(fixture.store.list()[0].id, new.id);
}

#[test]
fn prune_knows_its_filters() {
    let fixture = Fixture::new();
    let error =
        fixture.store.prune(&filters(&[("before", "x")]), Timestamp::UNIX_EPOCH, &nobody).unwrap_err();
    assert_eq!(error.to_string(), "invalid filter 'before'");
    for (key, value) in [("keep", "-1"), ("keep", "many"), ("keep-storage", "1GB"), ("dry-run", "maybe")] {
        let wrong = filters(&[(key, value)]);
        let error = fixture.store.prune(&wrong, Timestamp::UNIX_EPOCH, &nobody).unwrap_err();
        assert!(error.to_string().starts_with(&format!("invalid filter '{key}=")), "{error}");
    }
}

/// Five builds of an application and two of a tool, oldest first.
fn builds() -> Fixture {
    let fixture = Fixture::new();
    for build in 1..=5 {
        let date = format!("2026-01-0{build}T00:00:00Z");
        fixture.image_at(&format!("app{build}"), &[&format!("ci/app:{build}")], &date);
    }
    fixture.image_at("tool1", &["tool:1"], "2020-01-01T00:00:00Z");
    fixture.image_at("tool2", &["tool:2", "ci/tool:2"], "2020-01-02T00:00:00Z");
    fixture
}

/// The names that a prune takes; a dry run first says the same, and changes nothing.
fn pruned(fixture: &Fixture, pairs: &[(&str, &str)]) -> Vec<String> {
    let mut wanted = filters(pairs);
    wanted.insert("dangling".into(), vec!["false".into()]);
    let mut dry = wanted.clone();
    dry.insert("dry-run".into(), vec!["true".into()]);
    let before = fixture.store.list().len();
    let said = fixture.store.prune(&dry, Timestamp::now(), &nobody).unwrap();
    assert_eq!(fixture.store.list().len(), before);
    let done = fixture.store.prune(&wanted, Timestamp::now(), &nobody).unwrap();
    assert_eq!((&said.removed, &said.pruned, said.reclaimed), (&done.removed, &done.pruned, done.reclaimed));
    assert_eq!(done.pruned.iter().map(|image| image.bytes).sum::<u64>(), done.reclaimed);
    let mut names: Vec<String> = done.pruned.iter().flat_map(|image| image.names.clone()).collect();
    names.sort();
    names
}

#[test]
fn prune_keeps_the_newest_of_each_repository() {
    let fixture = builds();
    assert_eq!(pruned(&fixture, &[("keep", "2")]), ["ci/app:1", "ci/app:2", "ci/app:3"]);
    assert_eq!(pruned(&fixture, &[("keep", "1")]), ["ci/app:4", "tool:1"]);
    assert_eq!(pruned(&fixture, &[("keep", "0")]).len(), 3);
}

#[test]
fn prune_takes_what_all_names_fit() {
    let fixture = builds();
    fixture.image("dangling", &[]);
    assert_eq!(pruned(&fixture, &[("reference", "ci/*"), ("keep", "4")]), ["ci/app:1"]);
    assert_eq!(pruned(&fixture, &[("reference", "ci/*")]).len(), 4);
    assert_eq!(pruned(&fixture, &[("reference", "tool:*")]), ["tool:1"]);
    assert_eq!(fixture.store.list().len(), 2, "one has a name that does not fit, one has no name");
}

#[test]
fn prune_stops_at_its_budget_and_takes_the_least_recently_used_first() {
    let fixture = builds();
    for (id, second) in fixture.store.list().iter().map(|image| image.id).zip(10..) {
        fixture.store.image(&id).unwrap().last_used.store(second, std::sync::atomic::Ordering::Relaxed);
    }
    let order: Vec<String> = {
        let mut images = fixture.store.list();
        images.sort_by_key(|image| (image.unused_since(), image.id));
        images.iter().flat_map(|image| image.tags()).collect()
    };
    let total = fixture.store.usage().layers;
    let first = fixture.store.resolve(&order[0], None).unwrap().size;
    assert!(pruned(&fixture, &[("keep-storage", &total.to_string())]).is_empty());
    assert_eq!(pruned(&fixture, &[("keep-storage", &(total - 1).to_string())])[0], order[0]);
    assert_eq!(fixture.store.usage().layers, total - first);
    assert!(!pruned(&fixture, &[("keep-storage", "0")]).is_empty());
    assert_eq!(fixture.store.usage().layers, 0);
}

#[test]
fn a_name_with_a_digest_goes_alone() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["repo:1"]);
    let digest = reference("repo").with_digest(image.manifest);
    let config = fixture.store.config_bytes(&image.id).unwrap();
    let new = NewImage { config, digests: vec![digest.clone()], ..NewImage::default() };
    fixture.store.commit_image(new).unwrap();
    let removal = fixture.store.remove(&digest.familiar(), PLAIN, &nobody).unwrap();
    assert_eq!(removal.removed, [Removed::Untagged(digest.familiar())]);
    assert_eq!(fixture.store.resolve("repo:1", None).unwrap().id, image.id);
}
