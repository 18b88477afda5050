//! What programs say of themselves: Go's build information, and cargo-auditable's list.

use super::{Inventory, Package, purl, text};
use object::read::{ReadCache, ReadRef};
use object::{Object, ObjectSection};
use serde::Deserialize;
use std::fs::File;
use std::io::Read;

/// Most bytes of a section that is read, and of what is packed in it.
const MOST: u64 = 16 << 20;
const GO_MAGIC: &[u8] = b"\xff Go buildinf:";
/// Go puts its module list between two marks of this length.
const GO_MARK: usize = 16;

/// Reads an ELF file; anything else is passed over.
pub(super) fn read(path: &str, mut file: File, inventory: &mut Inventory) {
    let mut magic = [0; 4];
    if file.read_exact(&mut magic).is_err() || magic != *b"\x7fELF" {
        return;
    }
    let cache = ReadCache::new(file);
    let Ok(elf) = object::File::parse(&cache) else { return };
    if let Some(content) = section(&elf, ".go.buildinfo") {
        go(path, &content, inventory);
    }
    if let Some(content) = section(&elf, ".dep-v0") {
        cargo(path, &content, inventory);
    }
}

fn section<'a, R: ReadRef<'a>>(elf: &object::File<'a, R>, name: &str) -> Option<Vec<u8>> {
    let section = elf.section_by_name(name).filter(|section| section.size() <= MOST)?;
    section.data().ok().map(<[u8]>::to_vec)
}

/// The format of Go 1.18 and later: both texts stand in the section, each behind its length.
fn go(path: &str, content: &[u8], inventory: &mut Inventory) {
    let Some(after) = content.strip_prefix(GO_MAGIC) else { return };
    let inline = after.get(1).is_some_and(|flags| flags & 2 != 0);
    let texts = content.get(32..).filter(|_| inline).and_then(|rest| {
        let (version, rest) = counted(rest)?;
        Some((version, counted(rest)?.0))
    });
    let Some((version, modules)) = texts else {
        inventory.note(format!("/{}: build information of a Go before 1.18 is not read", text(path)));
        return;
    };
    let version = String::from_utf8_lossy(version);
    let version = version.split(' ').next().unwrap_or_default().trim_start_matches("go");
    inventory.add(package("golang", "stdlib", &text(version), path));
    let marked = modules.get(GO_MARK..modules.len().saturating_sub(GO_MARK)).unwrap_or_default();
    go_modules(path, &String::from_utf8_lossy(marked), inventory);
}

/// Lines of `mod` and `dep`; `=>` says what stands in for the one before.
fn go_modules(path: &str, lines: &str, inventory: &mut Inventory) {
    let mut modules: Vec<(String, String)> = Vec::new();
    for line in lines.lines() {
        let mut fields = line.split('\t');
        let kind = fields.next().unwrap_or_default();
        let module = (text(fields.next().unwrap_or_default()), text(fields.next().unwrap_or_default()));
        match kind {
            "=>" => drop(modules.pop().map(|_| modules.push(module))),
            "mod" | "dep" => modules.push(module),
            _ => {}
        }
    }
    for (name, version) in modules {
        let version = if version == "(devel)" { String::new() } else { version };
        inventory.add(package("golang", &name, &version, path));
    }
}

/// A length as a varint, then so many bytes.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut shift) = (0_usize, 0);
    for (place, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return bytes.get(place + 1..)?.split_at_checked(length);
        }
    }
    None
}

#[derive(Deserialize)]
struct Auditable {
    packages: Vec<Crate>,
}

#[derive(Deserialize)]
struct Crate {
    name: String,
    version: String,
    #[serde(default)]
    kind: String,
}

/// JSON, packed with zlib.
fn cargo(path: &str, content: &[u8], inventory: &mut Inventory) {
    let mut unpacked = Vec::new();
    let read = flate2::read::ZlibDecoder::new(content).take(MOST).read_to_end(&mut unpacked);
    let list = read.ok().and_then(|_| serde_json::from_slice::<Auditable>(&unpacked).ok());
    let Some(list) = list else {
        inventory.note(format!("/{}: the list of crates is damaged", text(path)));
        return;
    };
    // What only the build needed is not in the program.
    for found in list.packages.iter().filter(|found| found.kind != "build") {
        inventory.add(package("cargo", &text(&found.name), &text(&found.version), path));
    }
}

fn package(kind: &'static str, name: &str, version: &str, path: &str) -> Package {
    Package {
        kind,
        name: name.to_owned(),
        version: version.to_owned(),
        purl: purl(kind, name, version, &[]),
        maintainer: None,
        license: None,
        found_in: text(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_their_replacements() {
        let mut inventory = Inventory::default();
        let lines = "path\tcmd\nmod\texample.org/me\t(devel)\t\ndep\ta.org/x\tv1.0.0\th1:\n=>\tb.org/y/v2\tv2.1.0\th1:\nbuild\t-x=y\n";
        go_modules("bin/me", lines, &mut inventory);
        let purls: Vec<_> = inventory.packages.iter().map(|package| package.purl.as_str()).collect();
        assert_eq!(purls, ["pkg:golang/b.org/y/v2@v2.1.0", "pkg:golang/example.org/me"]);
    }

    #[test]
    fn hostile_lengths() {
        assert_eq!(counted(b"\x02abc"), Some((&b"ab"[..], &b"c"[..])));
        for bad in [&b""[..], b"\x05abc", b"\xff\xff\xff\xff\xff\xff", b"\xff\xff\xff\xff\x0f"] {
            assert_eq!(counted(bad), None);
        }
        let mut inventory = Inventory::default();
        go("x", &[GO_MAGIC, &[8, 2], &[0; 16], b"\xff\xff\xff\x0f"].concat(), &mut inventory);
        cargo("x", b"\x78\x9c nonsense", &mut inventory);
        assert_eq!((inventory.packages.len(), inventory.notes.len()), (0, 2));
    }
}
