//! Archives that lie. None may leave anything in the store.

use super::archives::{Layout, index, load, manifest};
use super::*;
use crate::Allowance;
use yare_errdefs::{Class, Classified};
use yare_oci::{Descriptor, Digest, MediaType, Platform};

/// Loads, expects an error, and that the store is as empty as before.
fn refused(archive: &[u8]) -> String {
    let fixture = Fixture::new();
    let error = load(&fixture, archive).unwrap_err();
    assert_ne!(error.class(), Class::Internal, "{error:?}");
    assert_eq!(fixture.on_disk(), (0, 0), "{error}");
    assert_eq!(fixture.store.count(), 0);
    error.to_string()
}

fn host() -> String {
    Platform::host().to_string()
}

fn docker(config: &[u8], layers: &[(&str, &[u8])], extra: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = own_tar();
    for (name, bytes) in layers.iter().chain(extra) {
        tar.file(name, 0o644, 0, bytes).unwrap();
    }
    tar.file("config.json", 0o644, 0, config).unwrap();
    let names: Vec<_> = layers.iter().map(|(name, _)| name).collect();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["x:1"], "Layers": names}]);
    tar.file("manifest.json", 0o644, 0, manifest.to_string().as_bytes()).unwrap();
    tar.finish().unwrap()
}

#[test]
fn archives_cut_short_or_of_something_else() {
    let good = layer(&[("a", "b")]);
    let config = serde_json::to_vec(&config(vec![DiffId(Digest::of(&good))])).unwrap();
    let archive = docker(&config, &[("layer.tar", &good)], &[]);
    for end in [300, 1000, 2200, archive.len() - 1600] {
        assert_eq!(refused(&archive[..end]), "unexpected EOF", "cut at {end}");
    }
    assert_eq!(refused(&[b'y'; 4096]), "archive/tar: invalid tar header");
    assert!(refused(b"").starts_with("the archive holds no image"));
    assert!(refused(&good).starts_with("the archive holds no image"));
    let fixture = Fixture::new();
    assert_eq!(load(&fixture, &archive).unwrap(), ["Loaded image: x:1\n"]);
}

#[test]
fn layers_that_are_not_what_the_config_says() {
    let good = layer(&[("a", "b")]);
    let other = layer(&[("a", "c")]);
    let (good_id, other_id) = (Digest::of(&good), Digest::of(&other));
    let one = serde_json::to_vec(&config(vec![DiffId(good_id)])).unwrap();
    assert_eq!(
        refused(&docker(&one, &[("layer.tar", &other)], &[])),
        format!("invalid diffID for layer 0: expected \"{good_id}\", got \"{other_id}\"")
    );
    assert_eq!(
        refused(&docker(&one, &[("l1", &good), ("l2", &other)], &[])),
        "invalid manifest, layers length mismatch: expected 2, got 1"
    );
    assert!(refused(&docker(&one, &[("layer.tar", b"no layer at all")], &[])).contains("is no layer"));
    assert!(refused(&docker(b"not json", &[], &[])).contains("cannot read the image config"));
    let windows = br#"{"os":"windows","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#;
    assert_eq!(refused(&docker(windows, &[], &[])), "cannot load windows image on linux");
}

#[test]
fn missing_layers_and_documents() {
    let mut tar = own_tar();
    let layer_id = DiffId(Digest::of("absent"));
    tar.file("c", 0o644, 0, &serde_json::to_vec(&config(vec![layer_id])).unwrap()).unwrap();
    tar.file("manifest.json", 0o644, 0, br#"[{"Config":"c","Layers":["gone/layer.tar"]}]"#).unwrap();
    assert_eq!(refused(&tar.finish().unwrap()), "gone/layer.tar is missing in the archive");
    let mut tar = own_tar();
    tar.file("manifest.json", 0o644, 0, br#"[{"Config":"c","Layers":[]}]"#).unwrap();
    assert_eq!(refused(&tar.finish().unwrap()), "c is missing in the archive");
    let mut layout = Layout::new();
    layout.manifests.push(Descriptor::of(MediaType::OCI_MANIFEST, b"absent"));
    assert!(refused(&layout.archive()).contains("is missing in the archive"));
}

#[test]
fn names_and_links_that_leave_the_archive() {
    for name in ["../evil", "a/../../evil", "/../evil"] {
        let mut tar = own_tar();
        tar.file(name, 0o644, 0, b"x").unwrap();
        assert!(refused(&tar.finish().unwrap()).contains("outside of it"), "{name}");
    }
    let mut tar = own_tar();
    tar.symlink("a/layer.tar", "../../etc/passwd").unwrap();
    assert!(refused(&tar.finish().unwrap()).contains("outside of it"));
    let mut tar = own_tar();
    tar.file("manifest.json", 0o644, 0, br#"[{"Config":"../../etc/passwd","Layers":[]}]"#).unwrap();
    assert!(refused(&tar.finish().unwrap()).contains("outside of it"));
    let mut tar = own_tar();
    tar.symlink("manifest.json", "other").unwrap();
    tar.symlink("other", "manifest.json").unwrap();
    assert!(refused(&tar.finish().unwrap()).contains("leads nowhere"));
}

#[test]
fn huge_documents() {
    let huge = vec![b' '; (8 << 20) + 1];
    let mut tar = own_tar();
    tar.file("manifest.json", 0o644, 0, &huge).unwrap();
    let text = refused(&tar.finish().unwrap());
    assert_eq!(
        text,
        "manifest.json in the archive is 8388609 bytes long, and documents have at most 8388608"
    );
    let mut layout = Layout::new();
    let descriptor = layout.blob(MediaType::OCI_MANIFEST, huge);
    layout.manifests.push(descriptor);
    assert!(refused(&layout.archive()).contains("at most 8388608"));
}

#[test]
fn blobs_whose_name_or_size_lies() {
    let mut tar = own_tar();
    tar.file(&format!("blobs/sha256/{}", "0".repeat(64)), 0o644, 0, b"{}").unwrap();
    assert!(refused(&tar.finish().unwrap()).contains("not what its name says"));
    let mut tar = own_tar();
    tar.file(&format!("blobs/sha256/{}", "0".repeat(64)), 0o644, 0, &layer(&[("a", "b")])).unwrap();
    assert!(refused(&tar.finish().unwrap()).contains("not what its name says"));

    let mut layout = Layout::new();
    let (mut descriptor, _) = layout.image("x", &host());
    descriptor.size += 1;
    layout.manifests.push(descriptor);
    assert!(refused(&layout.archive()).contains("its descriptor says"));

    let tar = layer(&[("file", "x")]);
    let config = config(vec![DiffId(Digest::of(&tar))]);
    for (layer_off, config_off) in [(1, 0), (0, 1)] {
        let mut layout = Layout::new();
        let mut layer = layout.blob(MediaType::OCI_LAYER, tar.clone());
        layer.size += layer_off;
        let mut config = layout.blob(MediaType::OCI_CONFIG, serde_json::to_vec(&config).unwrap());
        config.size += config_off;
        let manifest = serde_json::to_vec(&manifest(config, vec![layer])).unwrap();
        let manifest = layout.blob(MediaType::OCI_MANIFEST, manifest);
        layout.manifests.push(manifest);
        assert!(refused(&layout.archive()).contains("its manifest says"));
    }
}

#[test]
fn documents_that_could_be_read_in_two_ways() {
    let mut layout = Layout::new();
    let (_, _) = layout.image("x", &host());
    let both = br#"{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}"#.to_vec();
    let descriptor = layout.blob(MediaType::OCI_INDEX, both);
    layout.manifests.push(descriptor);
    assert!(refused(&layout.archive()).contains("two ways"));

    let mut layout = Layout::new();
    let (mut descriptor, _) = layout.image("x", &host());
    descriptor.media_type = MediaType::OCI_INDEX.into();
    layout.manifests.push(descriptor);
    assert!(refused(&layout.archive()).contains("media type"));
}

#[test]
fn indexes_nested_without_end() {
    let mut layout = Layout::new();
    let (mut descriptor, _) = layout.image("x", &host());
    for _ in 0..6 {
        descriptor = layout.blob(MediaType::OCI_INDEX, index(vec![descriptor]));
    }
    layout.manifests.push(descriptor);
    assert!(refused(&layout.archive()).contains("nested more than"));
}

#[test]
fn artifacts_are_no_images() {
    let mut layout = Layout::new();
    let config = layout.blob("application/vnd.example+json", b"{}".to_vec());
    let manifest = serde_json::to_vec(&manifest(config, Vec::new())).unwrap();
    let descriptor = layout.blob(MediaType::OCI_MANIFEST, manifest);
    layout.manifests.push(descriptor);
    assert!(refused(&layout.archive()).contains("no image but an artifact"));
}

#[test]
fn a_broken_layer_that_nobody_names_does_no_harm() {
    let good = layer(&[("a", "b")]);
    let config = serde_json::to_vec(&config(vec![DiffId(Digest::of(&good))])).unwrap();
    let broken = [0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let archive = docker(&config, &[("layer.tar", &good)], &[("stray.tar.gz", &broken)]);
    let fixture = Fixture::new();
    assert_eq!(load(&fixture, &archive).unwrap().len(), 1);
    assert_eq!(fixture.on_disk(), (1, 2));
    let archive = docker(&config, &[("layer.tar", &broken)], &[]);
    assert!(refused(&archive).starts_with("cannot unpack layer 0"));
}

#[test]
fn one_bad_image_of_several_refuses_all() {
    let good = layer(&[("a", "b")]);
    let config = serde_json::to_vec(&config(vec![DiffId(Digest::of(&good))])).unwrap();
    let mut tar = own_tar();
    tar.file("l", 0o644, 0, &good).unwrap();
    tar.file("c", 0o644, 0, &config).unwrap();
    let manifest = r#"[{"Config":"c","Layers":["l"],"RepoTags":["good:1"]},{"Config":"c","Layers":["l"],"RepoTags":["BAD"]}]"#;
    tar.file("manifest.json", 0o644, 0, manifest.as_bytes()).unwrap();
    assert!(refused(&tar.finish().unwrap()).starts_with("invalid tag \"BAD\""));
}

/// A layer that is refused gives back what it took, and leaves nothing.
#[test]
fn the_layers_of_an_image_share_what_they_may_become() {
    let fixture = Fixture::new();
    let tars = ["one", "two"].map(|name| layer(&[(name, &"x".repeat(20_000))]));
    let [one, two] = [0, 1].map(|number: usize| DiffId(Digest::of(&tars[number])));
    let mut lease = fixture.store.lease();
    [one, two].into_iter().for_each(|layer| lease.layer(layer));
    let allowance = Allowance::new((tars[0].len() + tars[1].len() - 1) as u64);
    let unpack = |tar: &[u8], wanted| {
        fixture.store.unpack_layer(std::io::Cursor::new(tar.to_vec()), wanted, &allowance)
    };
    for _ in 0..3 {
        assert!(unpack(&tars[0], two).unwrap_err().to_string().contains("the layer unpacks to"));
    }
    unpack(&tars[0], one).unwrap();
    let error = unpack(&tars[1], two).unwrap_err();
    assert_eq!(error.class(), Class::InvalidArgument);
    assert!(yare_errdefs::chain(&error).contains("is made to fill a disk"), "{error:?}");
    assert!(fixture.store.snapshots().has_layer(&one) && !fixture.store.snapshots().has_layer(&two));
}
