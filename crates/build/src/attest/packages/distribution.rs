//! Databases of dpkg, apk and rpm.

use super::{Inventory, Package, open_known, purl, read_file, some_text, text};
use rustix::fs::{Dir, Mode, OFlags};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use yare_sys::fs::open_beneath;

/// Most bytes of a database of packages; Debian's with everything installed has less.
const MOST: u64 = 256 << 20;
const MOST_RELEASE: u64 = 64 << 10;
/// Most files of `status.d`.
const MOST_PARTS: usize = 20_000;

/// Places of rpm's databases.
const RPM: &[&str] = &[
    "var/lib/rpm/rpmdb.sqlite",
    "var/lib/rpm/Packages.db",
    "var/lib/rpm/Packages",
    "usr/lib/sysimage/rpm/rpmdb.sqlite",
    "usr/lib/sysimage/rpm/Packages.db",
    "usr/share/rpm/rpmdb.sqlite",
];

/// The distribution: `ID` and `VERSION_ID` of os-release(5).
struct Release {
    id: String,
    version: String,
}

impl Release {
    fn read(root: BorrowedFd<'_>) -> Self {
        let file = open_known(root, "etc/os-release").or_else(|| open_known(root, "usr/lib/os-release"));
        let bytes = file.and_then(|file| read_file(file, MOST_RELEASE).ok()).unwrap_or_default();
        let content = String::from_utf8_lossy(&bytes);
        let value = |key: &str| {
            let line = content.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            text(line.unwrap_or_default().trim_matches(['"', '\'']))
        };
        Self { id: value("ID"), version: value("VERSION_ID") }
    }

    fn distro(&self) -> String {
        if self.version.is_empty() { self.id.clone() } else { format!("{}-{}", self.id, self.version) }
    }

    fn name<'a>(&'a self, default: &'a str) -> &'a str {
        if self.id.is_empty() { default } else { &self.id }
    }
}

/// Reads what databases there are.
pub(super) fn read(root: BorrowedFd<'_>, inventory: &mut Inventory) {
    let release = Release::read(root);
    for path in std::iter::once("var/lib/dpkg/status".to_owned()).chain(parts(root, inventory)) {
        if let Some(content) = content(root, &path, inventory) {
            dpkg(&path, &content, &release, inventory);
        }
    }
    for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        if let Some(content) = content(root, path, inventory) {
            apk(path, &content, &release, inventory);
        }
    }
    if let Some(found) = RPM.iter().find(|path| open_known(root, path).is_some()) {
        inventory.note(format!(
            "the packages of the rpm database /{found} are not listed: its format is not read"
        ));
    }
}

/// Files of `status.d`, which images without dpkg have.
fn parts(root: BorrowedFd<'_>, inventory: &mut Inventory) -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let Ok(dir) = open_beneath(root, "var/lib/dpkg/status.d", flags, Mode::empty()) else {
        return Vec::new();
    };
    let Ok(entries) = Dir::read_from(dir) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str().ok().map(str::to_owned));
    let names = names.filter(|name| !name.starts_with('.') && !name.ends_with(".md5sums"));
    let mut found: Vec<String> =
        names.map(|name| format!("var/lib/dpkg/status.d/{name}")).take(MOST_PARTS + 1).collect();
    if found.len() > MOST_PARTS {
        inventory.note(format!("/var/lib/dpkg/status.d has more than {MOST_PARTS} files"));
    }
    found.sort();
    found
}

fn content(root: BorrowedFd<'_>, path: &str, inventory: &mut Inventory) -> Option<String> {
    let read = read_file(open_known(root, path)?, MOST);
    match read {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            inventory.note(format!("/{path} could not be read: {error}"));
            None
        }
    }
}

/// Paragraphs of `Key: value`, an empty line between them; lines that begin with a blank go on (deb822(5)).
fn dpkg(path: &str, content: &str, release: &Release, inventory: &mut Inventory) {
    for paragraph in content.split("\n\n") {
        let fields: BTreeMap<&str, &str> = paragraph
            .lines()
            .filter(|line| !line.starts_with([' ', '\t']))
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key, value.trim()))
            .collect();
        let value = |key: &str| text(fields.get(key).copied().unwrap_or_default());
        // Removed packages stay in the list with their configuration. Parts have no status.
        let status = value("Status");
        if !status.is_empty() && !status.ends_with(" installed") {
            continue;
        }
        let (name, version) = (value("Package"), value("Version"));
        let (arch, distro) = (value("Architecture"), release.distro());
        let spelled = format!("{}/{name}", release.name("debian"));
        inventory.add(Package {
            kind: "deb",
            purl: purl("deb", &spelled, &version, &[("arch", &arch), ("distro", &distro)]),
            maintainer: some_text(&value("Maintainer")),
            license: None,
            found_in: path.to_owned(),
            name,
            version,
        });
    }
}

/// Paragraphs of `X:value`.
fn apk(path: &str, content: &str, release: &Release, inventory: &mut Inventory) {
    for paragraph in content.split("\n\n") {
        let value =
            |key: &str| text(paragraph.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default());
        let (name, version, arch) = (value("P:"), value("V:"), value("A:"));
        let spelled = format!("{}/{name}", release.name("alpine"));
        inventory.add(Package {
            kind: "apk",
            purl: purl("apk", &spelled, &version, &[("arch", &arch), ("distro", &release.distro())]),
            maintainer: some_text(&value("m:")),
            license: some_text(&value("L:")),
            found_in: path.to_owned(),
            name,
            version,
        });
    }
}
