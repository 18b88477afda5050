//! What is installed in an image's root: packages of distributions and of languages.
//!
//! The root is hostile. Fixed places are opened as if it were `/`; the rest is found by a walk that follows no
//! link. Every file has a limit, and so have the number of packages and the length of each text. What was
//! left out for a limit, or cannot be read, is noted.

mod binary;
mod distribution;
mod language;

use crate::Cancel;
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use yare_errdefs::{Error, Result};
use yare_layer::{Found, Walk};
use yare_sys::fs::open_beneath;

/// Most packages.
const MOST: usize = 200_000;
/// Most files that a walk looks at.
const MOST_FILES: u64 = 4 << 20;
/// Longest text that is taken from a package, in characters.
const LONGEST: usize = 512;

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// `deb`, `apk`, `pypi`, `npm`, `golang` or `cargo`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its version, when it says one.
    pub version: String,
    /// Its package URL.
    pub purl: String,
    /// Who answers for it.
    pub maintainer: Option<String>,
    /// What it says of its licence.
    pub license: Option<String>,
    /// The file that speaks of it, below the root.
    pub found_in: String,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Sorted.
    pub packages: BTreeSet<Package>,
    /// What the list lacks, as sentences.
    pub notes: BTreeSet<String>,
}

impl Inventory {
    fn add(&mut self, package: Package) {
        if package.name.is_empty() {
            return;
        }
        if self.packages.len() < MOST {
            self.packages.insert(package);
        } else {
            self.notes.insert(format!("there are more than {MOST} packages; the rest is not listed"));
        }
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.insert(text.into());
    }
}

/// Looks through an image's root.
pub fn inventory(root: BorrowedFd<'_>, cancel: &Cancel) -> Result<Inventory> {
    let mut inventory = Inventory::default();
    distribution::read(root, &mut inventory);
    let failed =
        |error: std::io::Error| Error::from(error).with_hint("the bill of materials needs all of the image");
    let mut walk = Walk::new(root).map_err(failed)?;
    let mut seen = 0;
    while let Some(found) = walk.advance().map_err(failed)? {
        cancel.check()?;
        seen += 1;
        if seen > MOST_FILES {
            inventory.note(format!("the image has more than {MOST_FILES} files; the rest was not looked at"));
            break;
        }
        if found.kind() == FileType::RegularFile {
            look(&found, &mut inventory);
        }
    }
    Ok(inventory)
}

fn look(found: &Found, inventory: &mut Inventory) {
    let Ok(path) = std::str::from_utf8(&found.path) else { return };
    let read = |limit| open(found).and_then(|file| read_file(file, limit));
    match language::kind_of(path) {
        Some(language::Kind::Python) => {
            note_failure(path, read(language::MOST_METADATA), inventory, language::python);
        }
        Some(language::Kind::Node) => {
            note_failure(path, read(language::MOST_METADATA), inventory, language::node)
        }
        None if found.stat.st_mode & 0o111 != 0 && found.stat.st_size > 4096 => {
            if let Ok(file) = open(found) {
                binary::read(path, file, inventory);
            }
        }
        None => {}
    }
}

fn note_failure(
    path: &str,
    content: std::io::Result<Vec<u8>>,
    inventory: &mut Inventory,
    parse: impl Fn(&str, &[u8], &mut Inventory),
) {
    match content {
        Ok(content) => parse(path, &content, inventory),
        Err(error) => inventory.note(format!("{} could not be read: {error}", text(path))),
    }
}

fn open(found: &Found) -> std::io::Result<File> {
    Ok(found.open(OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?.into())
}

/// A regular file at a fixed place, links followed within the root; `None` when there is none.
fn open_known(root: BorrowedFd<'_>, path: &str) -> Option<File> {
    let file = File::from(open_beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).ok()?);
    file.metadata().ok().filter(std::fs::Metadata::is_file).map(|_| file)
}

fn read_file(file: File, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            format!("it has more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// A text of an image, made harmless.
fn text(raw: &str) -> String {
    raw.trim().chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

fn some_text(raw: &str) -> Option<String> {
    Some(text(raw)).filter(|text| !text.is_empty())
}

/// `pkg:kind/name@version?qualifiers`; a name may have several parts.
fn purl(kind: &str, name: &str, version: &str, qualifiers: &[(&str, &str)]) -> String {
    use super::purl_part;
    let name = name.split('/').map(purl_part).collect::<Vec<_>>().join("/");
    let version = if version.is_empty() { String::new() } else { format!("@{}", purl_part(version)) };
    let pairs = qualifiers.iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={}", purl_part(value))).collect();
    let question = if pairs.is_empty() { "" } else { "?" };
    format!("pkg:{kind}/{name}{version}{question}{}", pairs.join("&"))
}

#[cfg(test)]
mod tests;
