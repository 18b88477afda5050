use super::archive::{pack, write_archive};
use super::blobs::Blobs;
use super::local::{LocalOptions, platform_folder, write_local};
use super::*;
use crate::Cancel;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use yare_image::{ImportOptions, Store};
use yare_layer::Compression;
use yare_oci::{Digest, Index, Manifest, Reference};

struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Arc::new(yare_image::Database::open(&folder.path().join("records"), 1 << 20).unwrap());
        let store =
            Store::open_with(&folder.path().join("images"), database, yare_snapshot::Kind::Copy).unwrap();
        std::fs::create_dir(folder.path().join("work")).unwrap();
        Self { folder, store }
    }

    fn work(&self) -> std::path::PathBuf {
        self.folder.path().join("work")
    }

    fn image(&self, content: &str, architecture: &str) -> Image {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("file"), content).unwrap();
        let mut tar = Vec::new();
        let dir = std::fs::File::open(tree.path()).unwrap();
        let platform = Platform::new("linux", architecture, "");
        write_rootfs(&[("", dir.as_fd())], &mut tar, &Cancel::default()).unwrap();
        let options = ImportOptions { platform: Some(platform.clone()), ..ImportOptions::default() };
        let image =
            self.store.import_at(&tar[..], &options, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        let config = self.store.config_bytes(&image.id).unwrap();
        Image { platform, config, layers: image.layers.to_vec(), attestations: Vec::new() }
    }

    fn archive(&self, images: &[Image], request: &Request) -> (Digest, Vec<u8>) {
        let mut bytes = Vec::new();
        let sink = (&mut bytes as &mut dyn std::io::Write, &Cancel::default());
        let digest = write_archive(&self.store, images, request, &self.work(), sink).unwrap();
        (digest, bytes)
    }
}

fn bare(platform: &Platform) -> Image {
    Image { platform: platform.clone(), config: Vec::new(), layers: Vec::new(), attestations: Vec::new() }
}

fn request(kind: &str, attributes: &[(&str, &str)]) -> yare_errdefs::Result<Request> {
    let attributes: BTreeMap<String, String> =
        attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Request::parse(kind, &attributes)
}

/// Files of an archive, read by the program tar.
fn unpack(bytes: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("archive.tar");
    std::fs::write(&path, bytes).unwrap();
    let status =
        std::process::Command::new("tar").arg("-xf").arg(&path).arg("-C").arg(folder.path()).status();
    assert!(status.unwrap().success());
    folder
}

fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

fn blob(folder: &Path, digest: &Digest) -> Vec<u8> {
    let bytes = std::fs::read(folder.join("blobs/sha256").join(digest.hex())).unwrap();
    assert_eq!(Digest::of(&bytes), *digest);
    bytes
}

#[test]
fn a_docker_archive_is_one_that_loads() {
    let fixture = Fixture::new();
    let image = fixture.image("hello", &Platform::host().architecture);
    let request = request("docker", &[("name", "one:v1,r.example/two")]).unwrap();
    let (digest, bytes) = fixture.archive(std::slice::from_ref(&image), &request);
    assert_eq!(
        fixture.archive(std::slice::from_ref(&image), &request),
        (digest, bytes.clone()),
        "the same bytes"
    );
    let folder = unpack(&bytes);
    let item = &json(folder.path(), "manifest.json")[0];
    assert_eq!(item["RepoTags"], serde_json::json!(["one:v1", "r.example/two:latest"]));
    assert_eq!(json(folder.path(), "index.json")["manifests"][0]["digest"], digest.to_string());

    let other = Fixture::new();
    other.store.load(&bytes[..], &mut |_| {}).unwrap();
    let loaded = other.store.resolve("one:v1", None).unwrap();
    assert_eq!((loaded.id.digest(), loaded.manifest), (Digest::of(&image.config), digest));
}

#[test]
fn packed_layers_unpack_to_the_same() {
    let fixture = Fixture::new();
    let image = fixture.image(&"hello ".repeat(10_000), &Platform::host().architecture);
    for (name, compression, level) in [
        ("gzip", Compression::Gzip, "9"),
        ("zstd", Compression::Zstd, "19"),
        ("uncompressed", Compression::Plain, "0"),
    ] {
        let request =
            request("oci", &[("compression", name), ("compression-level", level), ("name", "x")]).unwrap();
        let (digest, bytes) = fixture.archive(std::slice::from_ref(&image), &request);
        let folder = unpack(&bytes);
        let manifest: Manifest = serde_json::from_slice(&blob(folder.path(), &digest)).unwrap();
        assert_eq!(manifest.layers[0].media_type, super::layout::layer_type(compression).unwrap());
        let packed = blob(folder.path(), &manifest.layers[0].digest);
        assert_eq!(packed.len() as u64, manifest.layers[0].size);
        let mut plain = Vec::new();
        let mut reader = yare_layer::Decompressor::new(&packed[..]).unwrap();
        reader.read_to_end(&mut plain).unwrap();
        assert_eq!((reader.compression(), Digest::of(&plain)), (compression, image.layers[0].0));
        let other = Fixture::new();
        other.store.load(&bytes[..], &mut |_| {}).unwrap();
        assert_eq!(other.store.resolve("x", None).unwrap().layers.to_vec(), image.layers);
    }
}

/// skopeo reads the archives and checks every digest.
#[test]
fn a_program_of_the_field_agrees() {
    let fixture = Fixture::new();
    let mut image = fixture.image("a", &Platform::host().architecture);
    for (kind, transport) in [("docker", "docker-archive"), ("oci", "oci-archive")] {
        let request = request(kind, &[("name", "app:v1"), ("annotation.x", "y")]).unwrap();
        let (_, bytes) = fixture.archive(std::slice::from_ref(&image), &request);
        let (archive, copy) = (fixture.work().join(kind), fixture.work().join(format!("{kind}-copy")));
        std::fs::write(&archive, bytes).unwrap();
        let mut skopeo = std::process::Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--all"]);
        skopeo.arg(format!("{transport}:{}", archive.display())).arg(format!("dir:{}", copy.display()));
        let Ok(output) = skopeo.output() else {
            eprintln!("SKIP a_program_of_the_field_agrees: skopeo is not installed");
            return;
        };
        assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stderr));
        // The second archive is an index with attestations.
        let predicate_type = "https://spdx.dev/Document".to_owned();
        image.attestations = vec![crate::attest::Attestation { predicate_type, predicate: Value::Null }];
    }
}

#[test]
fn several_platforms_annotations_and_attestations() {
    let fixture = Fixture::new();
    let mut images = [fixture.image("a", "amd64"), fixture.image("b", "arm64")];
    let predicate = serde_json::json!({ "spdxVersion": "SPDX-2.3" });
    images[0].attestations =
        vec![crate::attest::Attestation { predicate_type: "https://spdx.dev/Document".into(), predicate }];
    let attributes = [
        ("name", "app:v1"),
        ("annotation.one", "1"),
        ("annotation-manifest[linux/arm64].two", "2"),
        ("annotation-index.three", "3"),
        ("annotation-manifest-descriptor.four", "4"),
    ];
    let request = request("oci", &attributes).unwrap();
    let (digest, bytes) = fixture.archive(&images, &request);
    let folder = unpack(&bytes);
    assert!(!folder.path().join("manifest.json").exists(), "an index has no docker form");
    let index: Index = serde_json::from_slice(&blob(folder.path(), &digest)).unwrap();
    assert_eq!(index.annotations["three"], "3");
    let [amd, arm, attested] = index.manifests.as_slice() else { panic!("{index:?}") };
    assert_eq!(
        (amd.platform.as_ref(), arm.platform.as_ref()),
        (Some(&images[0].platform), Some(&images[1].platform))
    );
    assert_eq!(amd.annotations["four"], "4");
    let manifest = |descriptor: &yare_oci::Descriptor| -> Manifest {
        serde_json::from_slice(&blob(folder.path(), &descriptor.digest)).unwrap()
    };
    assert_eq!(manifest(amd).annotations, BTreeMap::from([("one".into(), "1".into())]));
    assert_eq!(manifest(arm).annotations["two"], "2");

    assert_eq!(attested.annotations["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(attested.annotations["vnd.docker.reference.digest"], amd.digest.to_string());
    let platform = attested.platform.as_ref().unwrap();
    assert_eq!((platform.os.as_str(), platform.architecture.as_str()), ("unknown", "unknown"));
    let layer = &manifest(attested).layers[0];
    assert_eq!(layer.media_type, "application/vnd.in-toto+json");
    assert_eq!(layer.annotations["in-toto.io/predicate-type"], "https://spdx.dev/Document");
    let statement: Value = serde_json::from_slice(&blob(folder.path(), &layer.digest)).unwrap();
    assert_eq!(statement["subject"][0]["name"], "pkg:docker/app@v1?platform=linux%2Famd64");
    assert_eq!(statement["subject"][0]["digest"]["sha256"], amd.digest.hex());

    let docker = Request { kind: Kind::Docker, ..request };
    let cancel = Cancel::default();
    let error =
        write_archive(&fixture.store, &images, &docker, &fixture.work(), (&mut std::io::sink(), &cancel));
    assert!(error.unwrap_err().to_string().contains("does not currently support exporting manifest lists"));
}

#[test]
fn the_end_of_the_build_ends_an_export() {
    let fixture = Fixture::new();
    let image = fixture.image("a", "amd64");
    let cancel = Cancel::default();
    cancel.cancel();
    let packing = Packing { compression: Compression::Gzip, level: None };
    let (store, work) = (&fixture.store, fixture.work());
    let error = pack(&[image], &[], &Annotations::default(), &mut Blobs::new(store, &work, packing), &cancel);
    assert_eq!(yare_errdefs::Classified::class(&error.unwrap_err()), yare_errdefs::Class::Cancelled);
}

#[test]
fn requests_are_read_strictly() {
    let parsed =
        request("local", &[("dest", "out"), ("mode", "delete"), ("platform-split", "false")]).unwrap();
    assert_eq!((parsed.mode, parsed.platform_split), (LocalMode::Delete, Some(false)));
    assert_eq!(request("oci", &[("dest", "-")]).unwrap().dest, None);
    assert_eq!(request("registry", &[("name", "x")]).unwrap().names, [Reference::parse("x:latest").unwrap()]);
    for (kind, attributes, words) in [
        ("ocii", &[][..], "unknown output type"),
        ("oci", &[("tar", "false"), ("dest", "/x")], "as a folder"),
        ("oci", &[("compression", "lzma")], "uncompressed, gzip or zstd"),
        ("oci", &[("compression", "estargz")], "estargz"),
        ("oci", &[("compression", "gzip"), ("compression-level", "12")], "0 to 9"),
        ("oci", &[("annotation-index[linux/amd64].x", "1")], "takes none"),
        ("oci", &[("anotation.x", "1")], "unknown attribute"),
        ("image", &[("name", "UPPER")], "invalid name"),
        ("registry", &[("name", "x,y:v1"), ("push-by-digest", "true")], "can't push tagged ref"),
        ("registry", &[("store", "false")], "in the store first"),
        ("registry", &[("compression", "zstd")], "packed with gzip"),
        ("oci", &[("oci-artifact", "true")], "OCI artifacts"),
        ("tar", &[("attestation-prefix", "../x")], "a file's name"),
        ("local", &[("dest", "x"), ("mode", "move")], "copy or delete"),
    ] {
        let error = request(kind, attributes).unwrap_err();
        assert!(error.to_string().contains(words), "{kind} {attributes:?}: {error}");
    }
}

fn export(tree: &Path, dest: &Path, mode: LocalMode) -> super::local::Written {
    let (root, dest) = (std::fs::File::open(tree).unwrap(), std::fs::File::open(dest).unwrap());
    let options = LocalOptions { mode, owner: None };
    write_local(root.as_fd(), dest.as_fd(), &options, &Cancel::default()).unwrap()
}

#[test]
fn a_folder_gets_the_files() {
    let (tree, dest, outside) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| tree.path().join(name);
    std::fs::create_dir_all(at("etc/deep")).unwrap();
    std::fs::write(at("etc/passwd"), "root").unwrap();
    std::fs::hard_link(at("etc/passwd"), at("again")).unwrap();
    std::fs::write(at("suid"), "x").unwrap();
    std::fs::set_permissions(at("suid"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("/etc/passwd", at("link")).unwrap();
    rustix::fs::utimensat(
        rustix::fs::CWD,
        at("etc"),
        &rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 9, tv_nsec: 0 },
            last_modification: rustix::fs::Timespec { tv_sec: 9, tv_nsec: 0 },
        },
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
    std::fs::write(outside.path().join("passwd"), "host").unwrap();
    let to = |name: &str| dest.path().join(name);
    // The user's folder holds traps: a link where a folder comes, one where a file comes, a folder for a link.
    symlink(outside.path(), to("etc")).unwrap();
    symlink(outside.path().join("passwd"), to("suid")).unwrap();
    std::fs::create_dir_all(to("link/x")).unwrap();
    std::fs::write(to("mine"), "mine").unwrap();

    let written = export(tree.path(), dest.path(), LocalMode::Copy);
    assert_eq!((written.entries, written.left), (6, 0));
    assert_eq!(std::fs::read_to_string(outside.path().join("passwd")).unwrap(), "host");
    assert_eq!(std::fs::read_to_string(to("etc/passwd")).unwrap(), "root");
    assert_eq!(
        std::fs::metadata(to("again")).unwrap().ino(),
        std::fs::metadata(to("etc/passwd")).unwrap().ino()
    );
    assert_eq!(std::fs::metadata(to("suid")).unwrap().mode() & 0o7777, 0o755, "no set-user-id on the host");
    assert_eq!(std::fs::read_link(to("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(std::fs::metadata(to("etc")).unwrap().mtime(), 9);
    assert!(to("mine").exists());

    std::fs::write(to("etc/deep/old"), "old").unwrap();
    export(tree.path(), dest.path(), LocalMode::Delete);
    assert!(!to("mine").exists() && !to("etc/deep/old").exists() && to("etc/deep").exists());
    assert_eq!(std::fs::read_dir(dest.path()).unwrap().count(), 4);
}

#[test]
fn folders_of_platforms() {
    let images = [bare(&Platform::new("linux", "arm", "v7")), bare(&Platform::new("linux", "amd64", ""))];
    assert_eq!(platform_folder(&images[0]), "linux_arm_v7");
    let trees: Vec<_> = ["one", "two"]
        .map(|content| {
            let tree = tempfile::tempdir().unwrap();
            std::fs::write(tree.path().join("file"), content).unwrap();
            std::fs::hard_link(tree.path().join("file"), tree.path().join("link")).unwrap();
            tree
        })
        .into();
    let open = |tree: &tempfile::TempDir| std::fs::File::open(tree.path()).unwrap();
    let (first, second) = (open(&trees[0]), open(&trees[1]));
    let names = images.each_ref().map(platform_folder);
    let beside = tempfile::tempdir().unwrap();
    std::fs::write(beside.path().join("more"), "beside").unwrap();
    let more = open(&beside);
    let parts = [
        (names[0].as_str(), first.as_fd()),
        (names[0].as_str(), more.as_fd()),
        (names[1].as_str(), second.as_fd()),
        ("", more.as_fd()),
    ];
    let mut tar = Vec::new();
    write_rootfs(&parts, &mut tar, &Cancel::default()).unwrap();
    let folder = unpack(&tar);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!((read("linux_arm_v7/link"), read("linux_amd64/link")), ("one".to_owned(), "two".to_owned()));
    assert_eq!((read("linux_arm_v7/more"), read("more")), ("beside".to_owned(), "beside".to_owned()));
    let mut archive = tar::Archive::new(&tar[..]);
    let folders = archive
        .entries()
        .unwrap()
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.header().entry_type().is_dir()));
    assert_eq!(folders.count(), 2, "each folder once");
}

#[test]
fn what_is_attested_lies_beside_the_files_it_is_about() {
    let mut image = bare(&Platform::new("linux", "arm", "v7"));
    for predicate_type in [crate::attest::sbom::PREDICATE_TYPE, "https://slsa.dev/provenance/v1"] {
        let predicate = serde_json::json!({ "a": 1 });
        image
            .attestations
            .push(crate::attest::Attestation { predicate_type: predicate_type.into(), predicate });
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("d")).unwrap();
    std::fs::write(root.path().join("d/file"), "content").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.path().join("link")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let open = std::fs::File::open(root.path()).unwrap();
    for (prefix, platform) in [("", false), ("x-", true)] {
        let naming = super::Naming { prefix, platform };
        super::write_attested((&image, open.as_fd()), folder.path(), naming, &Cancel::default()).unwrap();
    }
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "provenance.json",
        "sbom.spdx.json",
        "x-provenance.linux_arm_v7.json",
        "x-sbom.spdx.linux_arm_v7.json",
    ];
    assert_eq!(names, expected);
    let text = std::fs::read(folder.path().join("provenance.json")).unwrap();
    let statement: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let digest = Digest::of("content").hex();
    let subject = serde_json::json!([{ "name": "d/file", "digest": { "sha256": digest } }]);
    assert_eq!((&statement["subject"], &statement["predicate"]["a"]), (&subject, &serde_json::json!(1)));
}
