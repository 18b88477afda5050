//! Packages that Python's and Node's installers leave, one file each.

use super::{Inventory, Package, purl, some_text, text};
use serde_json::Value;

/// Most bytes of one package's metadata.
pub(super) const MOST_METADATA: u64 = 4 << 20;

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Python,
    Node,
}

/// Decides by the path alone.
pub(super) fn kind_of(path: &str) -> Option<Kind> {
    let mut names = path.rsplit('/');
    let (name, folder) = (names.next()?, names.next().unwrap_or_default());
    let python = (name == "METADATA" && folder.ends_with(".dist-info"))
        || (name == "PKG-INFO" && folder.ends_with(".egg-info"))
        || name.ends_with(".egg-info");
    if python {
        return Some(Kind::Python);
    }
    // `node_modules/name` and `node_modules/@scope/name`; deeper ones are parts of packages.
    let above = names.next().unwrap_or_default();
    let scoped = above.starts_with('@') && names.next() == Some("node_modules");
    (name == "package.json" && (above == "node_modules" || scoped)).then_some(Kind::Node)
}

/// Headers up to the first empty line (core metadata, PEP 566).
pub(super) fn python(path: &str, content: &[u8], inventory: &mut Inventory) {
    let content = String::from_utf8_lossy(content);
    let head = content.lines().take_while(|line| !line.trim().is_empty());
    let headers: Vec<(&str, &str)> = head.filter_map(|line| line.split_once(": ")).collect();
    let value = |key: &str| {
        let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        text(found.map(|(_, value)| *value).unwrap_or_default())
    };
    let (name, version) = (value("Name"), value("Version"));
    // PEP 503: one spelling for `A_b` and `a.B`.
    let spelled = name.to_ascii_lowercase().replace(['_', '.'], "-");
    let license = [value("License-Expression"), value("License")].into_iter().find(|text| !text.is_empty());
    inventory.add(Package {
        kind: "pypi",
        purl: purl("pypi", &spelled, &version, &[]),
        maintainer: some_text(&value("Author")),
        license: license.filter(|text| text != "UNKNOWN"),
        found_in: text(path),
        name,
        version,
    });
}

/// `package.json`.
pub(super) fn node(path: &str, content: &[u8], inventory: &mut Inventory) {
    let Ok(document) = serde_json::from_slice::<Value>(content) else {
        inventory.note(format!("/{} is no JSON", text(path)));
        return;
    };
    let value = |value: &Value| text(value.as_str().unwrap_or_default());
    let (name, version) = (value(&document["name"]), value(&document["version"]));
    let license = document["license"].as_str().or_else(|| document["license"]["type"].as_str());
    let author = document["author"].as_str().or_else(|| document["author"]["name"].as_str());
    inventory.add(Package {
        kind: "npm",
        purl: purl("npm", &name, &version, &[]),
        maintainer: author.and_then(some_text),
        license: license.and_then(some_text),
        found_in: text(path),
        name,
        version,
    });
}
