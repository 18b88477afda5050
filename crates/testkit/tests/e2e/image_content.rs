//! What an image holds, read from what `docker save` wrote: files, config and history in a form that can be
//! compared.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;

use serde_json::Value;

/// An image as text.
#[derive(Debug)]
pub(crate) struct Content {
    /// By path: kind, mode, owner, content or target, attributes, other names. Times are not looked at.
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) config: BTreeMap<String, String>,
    /// Top first.
    pub(crate) history: Vec<String>,
}

/// A file of a layer; those with one number are names of one file.
#[derive(Debug, Clone)]
struct Node {
    text: String,
    number: usize,
}

type Tree = BTreeMap<String, Node>;

impl Content {
    pub(crate) fn read(saved: &Path) -> Self {
        let parts = members(&std::fs::read(saved).unwrap());
        let json = |name: &str| -> Value { serde_json::from_slice(&parts[name]).unwrap() };
        let manifest = json("manifest.json");
        let config = json(manifest[0]["Config"].as_str().unwrap());
        let (mut tree, mut count) = (Tree::new(), 0);
        for layer in manifest[0]["Layers"].as_array().unwrap() {
            apply(&mut tree, &parts[layer.as_str().unwrap()], &mut count);
        }
        Self { files: files(&tree), config: settings(&config), history: history(&config) }
    }
}

fn clean(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches("./").trim_matches('/').to_owned()
}

/// The archive's files; links between them (layers that an older form has once) are followed.
fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut parts = BTreeMap::new();
    let mut links = Vec::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = clean(&entry.path().unwrap());
        if let Some(target) = entry.link_name().unwrap() {
            links.push((name, clean(&target).trim_start_matches("../").to_owned()));
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        parts.insert(name, bytes);
    }
    for (name, target) in links {
        let bytes = parts[&target].clone();
        parts.insert(name, bytes);
    }
    parts
}

fn remove_below(tree: &mut Tree, folder: &str) {
    tree.retain(|path, _| !path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')));
}

fn apply(tree: &mut Tree, layer: &[u8], count: &mut usize) {
    let mut added = Vec::new();
    for entry in tar::Archive::new(layer).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = clean(&entry.path().unwrap());
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let at = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        if name == ".wh..wh..opq" {
            remove_below(tree, folder);
        } else if let Some(gone) = name.strip_prefix(".wh.") {
            tree.remove(&at(gone));
            remove_below(tree, &at(gone));
        } else if !path.is_empty() && path != "." {
            let is_link = entry.header().entry_type() == tar::EntryType::Link;
            let target = is_link.then(|| clean(&entry.link_name().unwrap().unwrap()));
            added.push((path, target, described(&mut entry)));
        }
    }
    for (path, target, text) in added {
        if !text.starts_with("dir ") {
            remove_below(tree, &path);
        }
        *count += 1;
        let node = target.and_then(|target| tree.get(&target).cloned());
        tree.insert(path, node.unwrap_or(Node { text, number: *count }));
    }
}

fn described(entry: &mut tar::Entry<'_, &[u8]>) -> String {
    let mut content = Vec::new();
    entry.read_to_end(&mut content).unwrap();
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    let attributes: BTreeSet<String> = entry
        .pax_extensions()
        .unwrap()
        .into_iter()
        .flatten()
        .map(|extension| extension.unwrap())
        .filter(|extension| extension.key_bytes().starts_with(b"SCHILY.xattr."))
        .map(|extension| format!("{}={:?}", extension.key().unwrap(), extension.value_bytes()))
        .collect();
    let header = entry.header();
    let kind = match header.entry_type() {
        tar::EntryType::Directory => "dir".to_owned(),
        tar::EntryType::Symlink => format!("link to {}", entry.link_name().unwrap().unwrap().display()),
        tar::EntryType::Fifo => "fifo".to_owned(),
        tar::EntryType::Char => {
            format!("device {:?}:{:?}", header.device_major().unwrap(), header.device_minor().unwrap())
        }
        _ => format!("file of {} bytes, {:x}", content.len(), hasher.finish()),
    };
    let mode = header.mode().unwrap() & 0o7777;
    let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
    format!("{kind} {mode:o} {uid}:{gid} {attributes:?}")
}

fn files(tree: &Tree) -> BTreeMap<String, String> {
    let mut names: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    tree.iter().for_each(|(path, node)| names.entry(node.number).or_default().push(path));
    let shown = |node: &Node| match names[&node.number].as_slice() {
        [_] => node.text.clone(),
        several => format!("{} named {several:?}", node.text),
    };
    tree.iter().map(|(path, node)| (path.clone(), shown(node))).collect()
}

/// What is set: null, empty and absent are the same.
fn settings(config: &Value) -> BTreeMap<String, String> {
    let of = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let mut all = of(&config["config"]);
    for name in ["architecture", "os", "author"] {
        all.insert(name.to_owned(), config[name].clone());
    }
    let texts = all.into_iter().map(|(name, value)| (name, value.to_string()));
    texts.filter(|(_, text)| !["null", "\"\"", "[]", "{}", "false"].contains(&text.as_str())).collect()
}

fn history(config: &Value) -> Vec<String> {
    let steps = config["history"].as_array().into_iter().flatten().rev();
    let text = |step: &Value, name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let shown = |step: &Value| {
        format!("{} | {} | {}", text(step, "created_by"), text(step, "comment"), step["empty_layer"] == true)
    };
    steps.map(shown).collect()
}
