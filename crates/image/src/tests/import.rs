//! Import, tags, history, sizes.

use super::*;
use std::io::Write;
use yare_layer::{Compression, compress};

#[test]
fn every_compression_gives_the_same_layer() {
    let fixture = Fixture::new();
    let tar = layer(&[("etc/hostname", "box\n")]);
    let options = ImportOptions::default();
    let import = |bytes: &[u8]| fixture.store.import_at(bytes, &options, Timestamp::UNIX_EPOCH).unwrap();
    let plain = import(&tar);
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Xz] {
        let mut writer = compress(Vec::new(), compression, Some(1)).unwrap();
        writer.write_all(&tar).unwrap();
        let packed = writer.finish().unwrap();
        let image = import(&packed);
        assert_eq!(image.id, plain.id, "{compression:?}");
    }
    assert_eq!(plain.layers[0].0, yare_oci::Digest::of(&tar));
    assert_eq!(fixture.on_disk(), (1, 2));
}

#[test]
fn import_sets_what_docker_sets() {
    let fixture = Fixture::new();
    let options = ImportOptions {
        reference: Some(reference("wr28/imp:1")),
        message: "imp".into(),
        changes: vec!["ENV Q=1".into(), "CMD [\"sh\"]".into()],
        ..ImportOptions::default()
    };
    let created = "2026-11-23T14:07:00.663423488Z".parse().unwrap();
    let image = fixture.store.import_at(layer(&[("a", "b")]).as_slice(), &options, created).unwrap();
    assert_eq!(image.tags(), ["wr28/imp:1"]);
    assert_eq!(image.config.config.env, ["Q=1"]);
    assert_eq!(image.config.comment, "imp");
    assert_eq!(image.config.created.as_deref(), Some("2026-11-23T14:07:00.663423488Z"));
    let history = fixture.store.history(&image);
    assert_eq!(history.len(), 1);
    assert_eq!((history[0].id.as_str(), history[0].comment.as_str()), (image.id.to_string().as_str(), "imp"));
    assert_eq!((history[0].created, history[0].size, history[0].tags.len()), (1_795_442_820, image.size, 1));
    let default = fixture.store.import(layer(&[]).as_slice(), &ImportOptions::default()).unwrap();
    assert_eq!(default.config.comment, "Imported from -");
}

#[test]
fn a_bad_change_or_tar_leaves_nothing() {
    let fixture = Fixture::new();
    let options = ImportOptions { changes: vec!["FROM x".into()], ..ImportOptions::default() };
    assert!(fixture.store.import(layer(&[("a", "b")]).as_slice(), &options).is_err());
    let mut cut = layer(&[("a", "some text")]);
    cut.truncate(700);
    assert!(fixture.store.import(cut.as_slice(), &ImportOptions::default()).is_err());
    assert!(fixture.store.import(&b"xxxxxxxxxxxxxxxxxxxxxx"[..], &ImportOptions::default()).is_err());
    assert_eq!(fixture.on_disk(), (0, 0));
    assert_eq!(fixture.store.count(), 0);
}

#[test]
fn a_retag_says_who_lost_the_name() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.image("a", &["x:1"]), fixture.image("b", &[]));
    assert_eq!(fixture.store.tag(&b.id, &reference("x:1")).unwrap(), Some(a.id));
    assert_eq!(fixture.store.tag(&b.id, &reference("x:1")).unwrap(), None);
    assert!(fixture.store.image(&a.id).unwrap().is_unreferenced());
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.resolve("x:1", None).unwrap().id, b.id);
    assert!(fixture.store.image(&a.id).unwrap().is_unreferenced());
    assert!(fixture.store.image(&b.id).unwrap().tagged.is_some());
    let digest = reference("x").with_digest(a.id.0);
    assert_eq!(
        fixture.store.tag(&a.id, &digest).unwrap_err().to_string(),
        "refusing to create a tag with a digest reference"
    );
}

#[test]
fn all_tags_are_one_image_and_sizes_count_layers_once() {
    let fixture = Fixture::new();
    let parent = fixture.image("a", &["a:1", "a:2", "localhost:5000/b:3"]);
    assert_eq!(parent.tags(), ["a:1", "a:2", "localhost:5000/b:3"]);
    assert_eq!(fixture.store.count(), 1);
    let child = fixture.child(&parent.id, "b");
    let usage = fixture.store.usage();
    assert_eq!(usage.layers, child.size);
    let of = |id: &ImageId| usage.images.iter().find(|usage| usage.image.id == *id).unwrap();
    assert_eq!((of(&parent.id).shared, of(&parent.id).unique), (parent.size, 0));
    assert_eq!((of(&child.id).shared, of(&child.id).unique), (parent.size, child.size - parent.size));
    let twice = config(vec![parent.layers[0], parent.layers[0]]);
    let twice = fixture.store.commit_image(NewImage::from_config(&twice).unwrap()).unwrap().image;
    assert_eq!(twice.size, parent.size);
}

#[test]
fn last_use_is_kept() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["a"]);
    let came = image.last_used().expect("its coming is a use");
    fixture.store.touch(&image.id);
    let used = fixture.store.image(&image.id).unwrap().last_used().unwrap();
    assert!(used >= came && image.unused_since() >= Some(used));
    fixture.store.flush_last_used().unwrap();
    drop(image);
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.resolve("a", None).unwrap().last_used(), Some(used));
}

#[test]
fn an_image_needs_its_layers() {
    let fixture = Fixture::new();
    let missing = config(vec![DiffId(yare_oci::Digest::of("no such layer"))]);
    assert!(fixture.store.commit_image(NewImage::from_config(&missing).unwrap()).is_err());
    assert_eq!(fixture.on_disk(), (0, 0));
    let empty =
        fixture.store.commit_image(NewImage::from_config(&config(Vec::new())).unwrap()).unwrap().image;
    assert_eq!((empty.size, empty.layers.len()), (0, 0));
}

#[test]
fn history_shows_steps_without_layers_and_local_parents() {
    let fixture = Fixture::new();
    let parent = fixture.image("a", &["base"]);
    let child = fixture.child(&parent.id, "b");
    let mut config = (*child.config).clone();
    let step = |created_by: &str, empty_layer| yare_oci::History {
        created_by: created_by.into(),
        empty_layer,
        ..Default::default()
    };
    config.history = vec![step("one", false), step("env", true), step("two", false)];
    let mut new = NewImage::from_config(&config).unwrap();
    new.parent = Some(parent.id);
    let image = fixture.store.commit_image(new).unwrap().image;
    let history = fixture.store.history(&image);
    let steps: Vec<_> = history.iter().map(|step| (step.created_by.as_str(), step.size > 0)).collect();
    assert_eq!(steps, [("two", true), ("env", false), ("one", true)]);
    assert_eq!(history[0].id, image.id.to_string());
    assert_eq!(
        (history[1].id.as_str(), history[1].tags.as_slice()),
        (parent.id.to_string().as_str(), &["base:latest".to_owned()][..])
    );
    assert_eq!(history[2].id, "<missing>");
}
