use super::*;
use crate::attest::sbom::{Described, spdx};
use serde_json::Value;
use std::collections::BTreeSet as Set;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::process::Command;

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = tree.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    tree
}

fn look_through(tree: &Path) -> Inventory {
    let root = std::fs::File::open(tree).unwrap();
    inventory(root.as_fd(), &Cancel::default()).unwrap()
}

fn purls(inventory: &Inventory) -> Vec<&str> {
    inventory.packages.iter().map(|package| package.purl.as_str()).collect()
}

/// What SPDX 2.3 requires of a document and of its packages.
fn check(document: &Value) {
    for member in ["spdxVersion", "dataLicense", "SPDXID", "name", "documentNamespace", "creationInfo"] {
        assert!(!document[member].is_null(), "{member} is missing");
    }
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    assert_eq!(document["dataLicense"], "CC0-1.0");
    let created = document["creationInfo"]["created"].as_str().unwrap();
    assert!(created.len() == 20 && created.ends_with('Z'), "{created}");
    assert!(document["creationInfo"]["creators"][0].as_str().unwrap().starts_with("Tool: "));
    let mut ids = Set::from([document["SPDXID"].as_str().unwrap()]);
    for package in document["packages"].as_array().unwrap() {
        let id = package["SPDXID"].as_str().unwrap();
        let rest = id.strip_prefix("SPDXRef-").unwrap();
        assert!(rest.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)), "{id}");
        assert!(ids.insert(id), "{id} twice");
        assert!(!package["name"].as_str().unwrap().is_empty());
        assert_eq!(package["downloadLocation"], "NOASSERTION");
        assert_eq!(package["filesAnalyzed"], false);
    }
    for relation in document["relationships"].as_array().unwrap() {
        assert!(ids.contains(relation["spdxElementId"].as_str().unwrap()));
        assert!(ids.contains(relation["relatedSpdxElement"].as_str().unwrap()));
    }
}

fn document(inventory: &Inventory) -> Value {
    let described =
        Described { name: "x".into(), created: "1970-01-01T00:00:00Z".into(), tool_version: "0".into() };
    spdx(inventory, &described).unwrap().predicate
}

const STATUS: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nMaintainer: GNU Libc \
    <x@example.invalid>\nVersion: 2.36-9+deb12u1\nDescription: x\n Package: not-one\n\n\
    Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: tzdata\nVersion: 2024a-0\n\
    Status: install ok installed\nArchitecture: all\n";

#[test]
fn debian_python_and_node() {
    let tree = tree(&[
        ("etc/os-release", "PRETTY_NAME=\"x\"\nID=debian\nVERSION_ID=\"12\"\n"),
        ("var/lib/dpkg/status", STATUS),
        (
            "usr/lib/python3/dist-packages/Foo_bar-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: Foo_bar\nVersion: 1.0\nLicense: MIT\n\nName: not-this\n",
        ),
        (
            "usr/lib/node_modules/@me/pkg/package.json",
            "{\"name\": \"@me/pkg\", \"version\": \"2.0.0\", \"license\": {\"type\": \"ISC\"}}",
        ),
        ("usr/lib/node_modules/pkg/lib/package.json", "{\"type\": \"module\"}"),
        ("usr/lib/node_modules/broken/package.json", "{"),
    ]);
    let found = look_through(tree.path());
    assert_eq!(
        purls(&found),
        [
            "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=debian-12",
            "pkg:deb/debian/tzdata@2024a-0?arch=all&distro=debian-12",
            "pkg:npm/%40me/pkg@2.0.0",
            "pkg:pypi/foo-bar@1.0",
        ]
    );
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
    let made = document(&found);
    check(&made);
    assert_eq!(made.to_string(), document(&look_through(tree.path())).to_string());
    assert!(made["comment"].as_str().unwrap().contains("is no JSON"));
}

#[test]
fn alpine_and_rpm() {
    let tree = tree(&[
        ("etc/os-release", "ID=alpine\nVERSION_ID=3.20.1\n"),
        (
            "lib/apk/db/installed",
            "C:Q1=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\nm:A B <x@y>\n\nP:busybox\nV:1.36.1-r29\nA:x86_64\n\n",
        ),
        ("var/lib/rpm/rpmdb.sqlite", "SQLite format 3"),
    ]);
    let found = look_through(tree.path());
    let expected = "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20.1";
    assert_eq!((purls(&found).len(), purls(&found)[1]), (2, expected));
    let made = document(&found);
    check(&made);
    assert!(made["comment"].as_str().unwrap().contains("rpm database"));
}

#[test]
fn hostile_roots() {
    let outside = tree(&[("status", STATUS)]);
    let tree = tree(&[("var/lib/dpkg/x", ""), ("etc/x", ""), ("usr/lib/node_modules/a/b", "")]);
    symlink(outside.path().join("status"), tree.path().join("var/lib/dpkg/status")).unwrap();
    symlink("/etc/passwd", tree.path().join("usr/lib/node_modules/a/package.json")).unwrap();
    let fifo = tree.path().join("etc/os-release");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert_eq!(look_through(tree.path()), Inventory::default(), "no link leads out, nothing waits");
    let mut status = String::new();
    status
        .extend((0..3).map(|index| format!("Package: a{index}\x1b[31m{}\nVersion: 1\n\n", "x".repeat(5000))));
    std::fs::remove_file(tree.path().join("var/lib/dpkg/status")).unwrap();
    std::fs::write(tree.path().join("var/lib/dpkg/status"), status).unwrap();
    let found = look_through(tree.path());
    assert_eq!(found.packages.len(), 3);
    assert!(
        found.packages.iter().all(|package| package.name.len() <= LONGEST && !package.name.contains('\x1b'))
    );
    check(&document(&found));
}

/// Compiles a program that holds a section, or skips loudly.
#[test]
fn lists_in_programs() {
    let work = tempfile::tempdir().unwrap();
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    let list =
        r#"{"packages":[{"name":"serde","version":"1.0.1"},{"name":"cc","version":"1.0.0","kind":"build"}]}"#;
    packer.write_all(list.as_bytes()).unwrap();
    std::fs::write(work.path().join("list"), packer.finish().unwrap()).unwrap();
    std::fs::write(work.path().join("x.c"), "int main(void) { return 0; }").unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).current_dir(work.path()).status();
        status.is_ok_and(|status| status.success())
    };
    let built = run("cc", &["-o", "x", "x.c"]) && run("objcopy", &["--add-section", ".dep-v0=list", "x"]);
    if !built {
        eprintln!("SKIP lists_in_programs: no C compiler");
        return;
    }
    std::fs::remove_file(work.path().join("list")).unwrap();
    assert_eq!(purls(&look_through(work.path())), ["pkg:cargo/serde@1.0.1"]);
    // Whatever stands in the headers, nothing breaks.
    let whole = std::fs::read(work.path().join("x")).unwrap();
    for place in (0..64).chain(whole.len() - 2048..whole.len()) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0xff;
        let path = work.path().join("damaged");
        let file = std::fs::File::options().create(true).write(true).truncate(true).mode(0o755).open(&path);
        file.unwrap().write_all(&damaged).unwrap();
        binary::read("damaged", std::fs::File::open(&path).unwrap(), &mut Inventory::default());
    }
}

/// This machine's own programs and packages: `--ignored --nocapture`.
#[test]
#[ignore = "reads this machine"]
fn a_whole_machine() {
    let begun = std::time::Instant::now();
    let found = look_through(Path::new("/usr"));
    check(&document(&found));
    for kind in ["deb", "apk", "pypi", "npm", "golang", "cargo"] {
        let count = found.packages.iter().filter(|package| package.kind == kind).count();
        println!("{kind}: {count}");
    }
    println!("{:?}, notes {:?}", begun.elapsed(), found.notes.iter().take(5).collect::<Vec<_>>());
}

/// A Debian made on the spot: `--ignored`.
#[test]
#[ignore = "downloads Debian"]
fn a_debian_root() {
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    let made = Command::new("mmdebstrap")
        .args(["--variant=minbase", "--aptopt=Acquire::Check-Valid-Until \"false\"", "bookworm"])
        .arg(&root)
        .status();
    assert!(made.unwrap().success());
    let found = look_through(&root);
    assert!(found.packages.len() > 50, "{}", found.packages.len());
    assert!(found.packages.iter().any(|package| package.name == "libc6"));
    check(&document(&found));
}
