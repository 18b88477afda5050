//! `save` and `load`, and archives as others write them.

use super::*;
use crate::Error;
use crate::archive::Reader;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use yare_layer::{Compression, compress};
use yare_oci::{Descriptor, Digest, Index, Manifest, MediaType, Platform};

pub(super) fn load(fixture: &Fixture, archive: &[u8]) -> Result<Vec<String>, Error> {
    let mut texts = Vec::new();
    fixture.store.load(OneWay(archive), &mut |event| texts.push(format!("{event}\n")))?;
    Ok(texts)
}

/// A stream that gives a few bytes at a time.
struct OneWay<'a>(&'a [u8]);

impl Read for OneWay<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let end = buffer.len().min(1000);
        self.0.read(&mut buffer[..end])
    }
}

fn save(fixture: &Fixture, names: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    fixture.store.save(&names, &[], &mut bytes).unwrap();
    bytes
}

fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut reader = Reader::new(archive);
    let mut files = BTreeMap::new();
    while let Some(entry) = reader.next().unwrap() {
        let mut content = Vec::new();
        reader.data().read_to_end(&mut content).unwrap();
        files.insert(entry.name, content);
    }
    files
}

/// An OCI layout from blobs and the descriptors of its index.
pub(super) struct Layout {
    pub(super) blobs: Vec<Vec<u8>>,
    pub(super) manifests: Vec<Descriptor>,
}

impl Layout {
    pub(super) fn new() -> Self {
        Self { blobs: Vec::new(), manifests: Vec::new() }
    }

    pub(super) fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.blobs.push(bytes);
        descriptor
    }

    /// Adds an image of one gzip layer; returns the descriptor of its manifest and its config.
    pub(super) fn image(&mut self, content: &str, platform: &str) -> (Descriptor, ImageConfig) {
        let tar = layer(&[("file", content)]);
        let mut writer = compress(Vec::new(), Compression::Gzip, None).unwrap();
        writer.write_all(&tar).unwrap();
        let packed = self.blob(MediaType::OCI_LAYER_GZIP, writer.finish().unwrap());
        let mut config = config(vec![DiffId(Digest::of(&tar))]);
        let platform = Platform::parse(platform).unwrap();
        config.architecture.clone_from(&platform.architecture);
        let config_descriptor = self.blob(MediaType::OCI_CONFIG, serde_json::to_vec(&config).unwrap());
        let manifest = manifest(config_descriptor, vec![packed]);
        let mut descriptor = self.blob(MediaType::OCI_MANIFEST, serde_json::to_vec(&manifest).unwrap());
        descriptor.platform = Some(platform);
        (descriptor, config)
    }

    pub(super) fn archive(&self) -> Vec<u8> {
        let mut tar = own_tar();
        for blob in &self.blobs {
            tar.file(&format!("blobs/sha256/{}", Digest::of(blob).hex()), 0o644, 0, blob).unwrap();
        }
        tar.file("index.json", 0o644, 0, &index(self.manifests.clone())).unwrap();
        tar.file("oci-layout", 0o644, 0, br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        tar.finish().unwrap()
    }
}

pub(super) fn manifest(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: MediaType::OCI_MANIFEST.into(),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    }
}

pub(super) fn index(manifests: Vec<Descriptor>) -> Vec<u8> {
    let media_type = MediaType::OCI_INDEX.into();
    serde_json::to_vec(&Index { schema_version: 2, media_type, manifests, annotations: BTreeMap::new() })
        .unwrap()
}

fn host() -> String {
    Platform::host().to_string()
}

#[test]
fn what_is_saved_and_loaded_has_the_same_ids() {
    let from = Fixture::new();
    let base = from.image("base", &["base:1", "base:2"]);
    let child = from.child(&base.id, "more");
    from.store.tag(&child.id, &reference("localhost:5000/child:x")).unwrap();
    let archive = save(&from, &["base", "localhost:5000/child:x"]);
    assert_eq!(
        archive,
        save(&from, &["base", "localhost:5000/child:x"]),
        "the bytes depend on the images alone"
    );

    let to = Fixture::new();
    let texts = load(&to, &archive).unwrap();
    assert_eq!(
        texts,
        ["Loaded image: base:1\n", "Loaded image: base:2\n", "Loaded image: localhost:5000/child:x\n"]
    );
    for (name, image) in [("base:2", &base), ("localhost:5000/child:x", &child)] {
        let loaded = to.store.resolve(name, None).unwrap();
        assert_eq!((loaded.id, &loaded.layers, loaded.size), (image.id, &image.layers, image.size));
        assert_eq!(loaded.config, image.config);
    }
    assert_eq!(to.store.resolve("localhost:5000/child:x", None).unwrap().parent, Some(base.id));
    assert_eq!(save(&to, &["base", "localhost:5000/child:x"]), archive);
    assert_eq!(to.on_disk(), (2, 4), "nothing but two layers, configs and manifests is kept");
    assert_eq!(load(&to, &archive).unwrap(), texts, "again");
    assert_eq!(to.reopen().on_disk(), (2, 4));
}

#[test]
fn an_archive_has_dockers_documents_and_ocis() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["busybox"]);
    let files = files(&save(&fixture, &["busybox"]));
    let (id, layer) = (image.id.hex(), image.layers[0].hex());
    let tar = &files[&format!("blobs/sha256/{layer}")];
    let text = |name: &str| String::from_utf8(files[name].clone()).unwrap();
    assert_eq!(
        text("manifest.json"),
        format!(
            "[{{\"Config\":\"blobs/sha256/{id}\",\"RepoTags\":[\"busybox:latest\"],\"Layers\":[\"blobs/sha256/{layer}\"],\
             \"LayerSources\":{{\"sha256:{layer}\":{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"size\":{},\
             \"digest\":\"sha256:{layer}\"}}}}}}]\n",
            tar.len()
        )
    );
    assert_eq!(text("repositories"), format!("{{\"busybox\":{{\"latest\":\"{layer}\"}}}}\n"));
    assert_eq!(text("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    let index: Index = serde_json::from_slice(&files["index.json"]).unwrap();
    let annotations = &index.manifests[0].annotations;
    assert_eq!(annotations["io.containerd.image.name"], "docker.io/library/busybox:latest");
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "latest");
    let manifest = &files[&format!("blobs/sha256/{}", index.manifests[0].digest.hex())];
    let manifest: Manifest = serde_json::from_slice(manifest).unwrap();
    assert_eq!(manifest.layers[0].digest, Digest::of(tar));
    assert_eq!(manifest.config.digest, image.id.0);
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("blobs/sha256/") && name.len() > 20)
    {
        assert!(name.ends_with(&Digest::of(bytes).hex()), "{name}");
    }
}

#[test]
fn ids_are_saved_without_names_and_unknown_names_write_nothing() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["busybox"]);
    let archive = save(&fixture, &[&image.id.short()]);
    assert!(
        String::from_utf8(files(&archive)["manifest.json"].clone()).unwrap().contains("\"RepoTags\":null")
    );
    let to = Fixture::new();
    assert_eq!(load(&to, &archive).unwrap(), [format!("Loaded image ID: {}\n", image.id)]);
    let mut nothing = Vec::new();
    let error = fixture.store.save(&["busybox".into(), "nosuch".into()], &[], &mut nothing).unwrap_err();
    assert_eq!((error.to_string().as_str(), nothing.len()), ("No such image: nosuch:latest", 0));
    assert!(fixture.store.save(&[], &[], &mut nothing).is_err());
}

#[test]
fn a_loaded_name_is_taken_from_another_image() {
    let from = Fixture::new();
    from.image("new", &["x:1"]);
    let to = Fixture::new();
    let old = to.image("old", &["x:1"]);
    let texts = load(&to, &save(&from, &["x:1"])).unwrap();
    assert_eq!(
        texts,
        [
            format!(
                "The image x:1 already exists, renaming the old one with ID {} to empty string\n",
                old.id
            ),
            "Loaded image: x:1\n".to_owned()
        ]
    );
    assert!(to.store.image(&old.id).unwrap().is_unreferenced());
}

#[test]
fn layers_are_reported_while_they_pass_by() {
    let from = Fixture::new();
    let image = from.image("a", &["a"]);
    let archive = save(&from, &["a"]);
    let to = Fixture::new();
    let mut seen = Vec::new();
    to.store
        .load_with_progress(archive.as_slice(), &[], &mut |_| {}, &mut |progress| seen.push(progress))
        .unwrap();
    let id = image.layers[0].0.short();
    assert!(seen.iter().any(|seen| seen.id == id && seen.current == seen.total), "{seen:?}");
}

#[test]
fn compressed_archives_are_loaded() {
    let from = Fixture::new();
    let image = from.image("a", &["a"]);
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Xz] {
        let mut writer = compress(Vec::new(), compression, Some(1)).unwrap();
        writer.write_all(&save(&from, &["a"])).unwrap();
        let to = Fixture::new();
        load(&to, &writer.finish().unwrap()).unwrap();
        assert_eq!(to.store.resolve("a", None).unwrap().id, image.id);
    }
}

/// What Docker wrote before version 25, with a layer that is a link to another one's.
#[test]
fn old_docker_archives_with_links_are_loaded() {
    let (one, two) = (layer(&[("one", "1")]), layer(&[("two", "2")]));
    let (one_id, two_id) = (DiffId(Digest::of(&one)), DiffId(Digest::of(&two)));
    let config = serde_json::to_vec(&config(vec![one_id, two_id, one_id])).unwrap();
    let name = format!("{}.json", Digest::of(&config).hex());
    let [a, b, c] = ["a", "b", "c"].map(|letter| letter.repeat(64));
    let mut tar = own_tar();
    tar.directory(&format!("{a}/"), 0).unwrap();
    tar.file(&format!("{a}/VERSION"), 0o644, 0, b"1.0").unwrap();
    tar.file(&format!("{a}/json"), 0o644, 0, b"{}").unwrap();
    tar.file(&format!("{a}/layer.tar"), 0o644, 0, &one).unwrap();
    tar.file(&format!("{b}/layer.tar"), 0o644, 0, &two).unwrap();
    tar.symlink(&format!("{c}/layer.tar"), &format!("../{a}/layer.tar")).unwrap();
    tar.file(&name, 0o644, 0, &config).unwrap();
    let manifest = format!(
        r#"[{{"Config":"{name}","RepoTags":["old/image:1"],"Layers":["{a}/layer.tar","{b}/layer.tar","{c}/layer.tar"]}}]"#
    );
    tar.file("manifest.json", 0o644, 0, manifest.as_bytes()).unwrap();
    tar.file("repositories", 0o644, 0, b"{}").unwrap();
    let fixture = Fixture::new();
    assert_eq!(load(&fixture, &tar.finish().unwrap()).unwrap(), ["Loaded image: old/image:1\n"]);
    let image = fixture.store.resolve("old/image:1", None).unwrap();
    assert_eq!(image.id.0, Digest::of(&config));
    assert_eq!(&*image.layers, [one_id, two_id, one_id]);
    assert_eq!(fixture.on_disk(), (2, 2));
}

#[test]
fn layouts_keep_names_from_annotations() {
    let mut layout = Layout::new();
    for (content, key, name) in [
        ("a", "io.containerd.image.name", "docker.io/library/a:1"),
        ("b", "org.opencontainers.image.ref.name", "quay.io/b/b:2"),
        ("c", "org.opencontainers.image.ref.name", "latest"),
    ] {
        let (mut descriptor, _) = layout.image(content, &host());
        descriptor.annotations.insert(key.into(), name.into());
        layout.manifests.push(descriptor);
    }
    let fixture = Fixture::new();
    let texts = load(&fixture, &layout.archive()).unwrap();
    assert_eq!(texts[..2], ["Loaded image: a:1\n", "Loaded image: quay.io/b/b:2\n"]);
    assert!(texts[2].starts_with("Loaded image ID: sha256:"), "a bare tag is no name");
    let image = fixture.store.resolve("a:1", None).unwrap();
    assert_eq!(image.manifest, layout.manifests[0].digest, "the manifest is kept as it is");
    assert_eq!(fixture.on_disk(), (3, 6));
}

#[test]
fn nested_indexes_are_searched_for_this_machine() {
    let mut layout = Layout::new();
    let other = if host() == "linux/amd64" { "linux/arm64" } else { "linux/amd64" };
    let (theirs, _) = layout.image("theirs", other);
    let (ours, config) = layout.image("ours", &host());
    let mut attestation = ours.clone();
    attestation.platform = Some(Platform::new("unknown", "unknown", ""));
    let inner = layout.blob(MediaType::OCI_INDEX, index(vec![attestation, theirs, ours]));
    let mut outer = layout.blob(MediaType::OCI_INDEX, index(vec![inner]));
    outer.annotations.insert("io.containerd.image.name".into(), "docker.io/me/multi:1".into());
    layout.manifests.push(outer);
    let fixture = Fixture::new();
    assert_eq!(load(&fixture, &layout.archive()).unwrap(), ["Loaded image: me/multi:1\n"]);
    let image = fixture.store.resolve("me/multi:1", None).unwrap();
    assert_eq!(image.id.0, Digest::of(serde_json::to_vec(&config).unwrap()));
    assert_eq!(fixture.on_disk(), (2, 5), "both platforms are here, and their index");
}

#[test]
fn a_layout_without_this_machine_says_what_it_has() {
    let mut layout = Layout::new();
    let (descriptor, _) = layout.image("x", "linux/s390x");
    layout.manifests.push(descriptor);
    let fixture = Fixture::new();
    let error = load(&fixture, &layout.archive()).unwrap_err();
    assert!(
        error.to_string().ends_with(&format!("has no image for {}, only for linux/s390x", host())),
        "{error}"
    );
    assert_eq!(fixture.on_disk(), (0, 0));
}

/// A child before its parent, and a pair that names each other: the first is fine, the second cannot be.
#[test]
fn parents_come_in_any_order_and_never_in_a_circle() {
    let from = Fixture::new();
    let base = from.image("base", &["base"]);
    let child = from.child(&base.id, "more");
    from.store.tag(&child.id, &reference("child")).unwrap();
    let to = Fixture::new();
    load(&to, &save(&from, &["child", "base"])).unwrap();
    assert_eq!(to.store.image(&child.id).unwrap().parent, Some(base.id));

    let layer = layer(&[("a", "b")]);
    let configs = ["one", "two"].map(|comment| {
        let mut config = config(vec![DiffId(Digest::of(&layer))]);
        config.comment = comment.into();
        serde_json::to_vec(&config).unwrap()
    });
    let [one, two] = [&configs[0], &configs[1]].map(Digest::of);
    let mut tar = own_tar();
    tar.file("l", 0o644, 0, &layer).unwrap();
    tar.file("one", 0o644, 0, &configs[0]).unwrap();
    tar.file("two", 0o644, 0, &configs[1]).unwrap();
    let manifest = serde_json::json!([
        {"Config": "one", "Layers": ["l"], "Parent": two}, {"Config": "two", "Layers": ["l"], "Parent": one}
    ]);
    tar.file("manifest.json", 0o644, 0, manifest.to_string().as_bytes()).unwrap();
    let fixture = Fixture::new();
    load(&fixture, &tar.finish().unwrap()).unwrap();
    for id in [one, two] {
        fixture.store.remove(&id.hex(), crate::RemoveOptions::default(), &nobody).unwrap();
        if fixture.store.count() == 0 {
            return;
        }
    }
    panic!("both images are still there");
}

/// A tree of this machine as `tar` writes it, into layers in overlay form, out again and in elsewhere.
#[test]
fn a_real_tree_comes_back_to_the_byte() {
    if !have_root("a_real_tree_comes_back_to_the_byte") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("etc.tar");
    let made = std::process::Command::new("tar")
        .args(["--xattrs", "--one-file-system", "-cf"])
        .arg(&path)
        .args(["-C", "/", "etc"])
        .stderr(std::process::Stdio::null())
        .status();
    let Ok(true) = made.map(|status| status.success()) else {
        skip("a_real_tree_comes_back_to_the_byte", "no `tar` that could read /etc");
        return;
    };
    let bytes = std::fs::read(&path).unwrap();
    let [from, to] = ["from", "to"].map(|name| {
        let database = Arc::new(Database::open(&folder.path().join(name), 1 << 20).unwrap());
        Store::open(&folder.path().join(format!("{name}.images")), database).unwrap()
    });
    let options = ImportOptions { reference: Some(reference("etc:1")), ..ImportOptions::default() };
    let image = from.import(bytes.as_slice(), &options).unwrap();
    assert_eq!(image.layers[0].0, Digest::of(&bytes));
    let mut archive = Vec::new();
    from.save(&["etc:1".into()], &[], &mut archive).unwrap();
    assert_eq!(files(&archive)[&format!("blobs/sha256/{}", image.layers[0].hex())], bytes);
    to.load(archive.as_slice(), &mut |_| {}).unwrap();
    let loaded = to.resolve("etc:1", None).unwrap();
    assert_eq!((loaded.id, &loaded.layers, loaded.size), (image.id, &image.layers, image.size));
}
