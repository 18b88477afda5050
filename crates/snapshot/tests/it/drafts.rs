//! Layers that have no hash yet.

use crate::{Layer, Store, root};
use std::collections::HashSet;
use yare_snapshot::{DraftId, Kind, Snapshots, Stack};

/// A draft on a stack that has one more file.
fn draft(store: &Snapshots, stack: &Stack, name: &str, text: &str) -> DraftId {
    let pending = store.begin_draft(stack).unwrap();
    let tree = pending.rootfs().mount().unwrap();
    let file = rustix::fs::openat(
        &tree,
        name,
        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
        rustix::fs::Mode::RUSR,
    )
    .unwrap();
    rustix::io::write(&file, text.as_bytes()).unwrap();
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
    };
    rustix::fs::futimens(&file, &times).unwrap();
    drop((file, tree));
    pending.keep().unwrap()
}

fn on(stack: &Stack, draft: &DraftId) -> Stack {
    let mut above = stack.clone();
    above.drafts.push(draft.clone());
    above
}

#[test]
fn drafts_stand_on_one_another_and_become_layers_by_a_link() {
    if !root("drafts_stand_on_one_another_and_become_layers_by_a_link") {
        return;
    }
    let folder = Store::new(Kind::Overlay);
    let store = &folder.snapshots;
    let base =
        Stack { layers: vec![folder.layer(&Layer::new().file("base", "b").end())], drafts: Vec::new() };
    let one = draft(store, &base, "one", "1");
    let two = draft(store, &on(&base, &one), "two", "22");
    let tree = store.stack_fd(&on(&on(&base, &one), &two)).unwrap();
    for name in ["base", "one", "two"] {
        assert!(rustix::fs::statat(&tree, name, rustix::fs::AtFlags::empty()).is_ok(), "{name}");
    }
    assert!(store.named(&two).unwrap().is_none());
    let infos = store.name_drafts(&[one.clone(), two.clone()]).unwrap();
    assert_eq!((infos[1].content, infos[1].files), (2, 1));
    assert_eq!(store.named(&two).unwrap().unwrap(), infos[1]);
    let mut tar = Vec::new();
    store.export_layer(&infos[1].diff_id, &mut tar).unwrap();
    assert_eq!(tar.len() as u64, infos[1].size);
    // The same change made again is the same layer.
    let again = draft(store, &base, "one", "1");
    assert_eq!(store.hash_draft(&again).unwrap().diff_id, infos[0].diff_id);
}

#[test]
fn what_is_there_twice_is_mounted_once() {
    if !root("what_is_there_twice_is_mounted_once") {
        return;
    }
    let folder = Store::new(Kind::Overlay);
    let store = &folder.snapshots;
    let base = folder.layer(&Layer::new().file("f", "base").end());
    let changed = folder.layer(&Layer::new().file("f", "changed").end());
    let deleted = folder.layer(&Layer::new().file(".wh.f", "").end());
    let stack = |layers: &[_], drafts: &[&DraftId]| Stack {
        layers: layers.to_vec(),
        drafts: drafts.iter().map(|draft| (*draft).clone()).collect(),
    };
    let has = |stack: &Stack, name: &str| {
        let tree = store.stack_fd(stack).unwrap();
        rustix::fs::statat(&tree, name, rustix::fs::AtFlags::empty()).is_ok()
    };
    assert!(has(&stack(&[base, changed, base], &[]), "f"));
    assert!(has(&stack(&[base, deleted, base], &[]), "f"));
    assert!(!has(&stack(&[base, deleted, base, deleted], &[]), "f"));
    let independent = draft(store, &Stack::default(), "own", "1");
    let named = store.name_drafts(std::slice::from_ref(&independent)).unwrap()[0].diff_id;
    assert!(has(&stack(&[base], &[&independent, &independent]), "own"));
    assert!(has(&stack(&[base, named], &[&independent]), "own"));
    store
        .begin_draft(&stack(&[base, named, base], &[&independent, &independent]))
        .unwrap()
        .rootfs()
        .mount()
        .unwrap();
}

#[test]
fn a_draft_lives_as_long_as_its_holder_or_a_layer_wants_it() {
    if !root("a_draft_lives_as_long_as_its_holder_or_a_layer_wants_it") {
        return;
    }
    let folder = Store::new(Kind::Overlay);
    let store = &folder.snapshots;
    let nothing = Stack::default();
    let [kept, lost, layered] = ["kept", "lost", "layered"].map(|name| draft(store, &nothing, name, name));
    store.name_drafts(std::slice::from_ref(&layered)).unwrap();
    drop(store.begin_draft(&nothing).unwrap());
    store.sweep_drafts(HashSet::from([kept.clone()])).unwrap();
    assert_eq!([&kept, &lost, &layered].map(|id| store.has_draft(id)), [true, false, true]);
    // Removed with its layer, because nobody else holds it.
    let layer = store.named(&layered).unwrap().unwrap().diff_id;
    store.remove_layer(&layer).unwrap();
    assert!(!store.has_draft(&layered) && !store.has_layer(&layer));
    // Held and a layer: it goes with the later of the two.
    let layer = store.name_drafts(std::slice::from_ref(&kept)).unwrap()[0].diff_id;
    store.release_draft(&kept).unwrap();
    assert!(store.has_draft(&kept));
    store.remove_layer(&layer).unwrap();
    assert!(!store.has_draft(&kept));
}
