//! Cache keys: digests of everything that decides a step's result, and of nothing else.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use yare_oci::{ChainId, DiffId, Digest, Hasher};

/// Goes into every key: a change of what a step does with the same words makes old results useless.
const VERSION: &str = "yare build 1";

/// What a key is made of, by name, so that a miss can be explained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parts {
    values: BTreeMap<String, String>,
    /// What stands behind `files`, by path, when there are not too many. No part of the key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    listing: BTreeMap<String, String>,
}

impl Parts {
    /// A step of this kind, by its definition.
    pub(crate) fn of(kind: &str, definition: &impl Serialize) -> Self {
        let definition = serde_json::to_string(definition).unwrap_or_default();
        let values =
            BTreeMap::from([("kind".to_owned(), kind.to_owned()), ("definition".to_owned(), definition)]);
        Self { values, listing: BTreeMap::new() }
    }

    /// Adds an input.
    #[must_use]
    pub(crate) fn with(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.values.insert(name.into(), value.to_string());
        self
    }

    /// Adds what the files are, for explanations.
    #[must_use]
    pub(crate) fn listing(self, listing: BTreeMap<String, String>) -> Self {
        Self { listing, ..self }
    }

    /// The key.
    pub(crate) fn key(&self) -> Digest {
        let mut hasher = Hasher::new();
        let mut put = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        put(VERSION);
        for (name, value) in &self.values {
            put(name);
            put(value);
        }
        hasher.finish()
    }

    /// In words, why a step with these parts is not the one with `old` parts. The first difference that is a
    /// cause counts: a step on a changed base had to run whatever else changed.
    pub(crate) fn differs_from(&self, old: &Self) -> Option<String> {
        let changed = |name: &str| self.values.get(name) != old.values.get(name);
        if changed("base") {
            return Some("what it stands on has changed".to_owned());
        }
        if changed("definition") {
            let [new, old] = [self, old].map(|parts| parts.values.get("definition").map(String::as_str));
            return Some(definition_change(new.unwrap_or_default(), old.unwrap_or_default()));
        }
        let names = self.values.keys().chain(old.values.keys());
        let other = names.filter(|name| changed(name)).find(|name| *name != "kind")?;
        Some(match other.as_str() {
            "files" => files_change(&self.listing, &old.listing),
            other => format!("{other} has changed"),
        })
    }
}

/// Which files changed, the first by name.
fn files_change(new: &BTreeMap<String, String>, old: &BTreeMap<String, String>) -> String {
    let all = || new.keys().chain(old.keys().filter(|path| !new.contains_key(*path)));
    let mut changed: Vec<&String> = all().filter(|path| new.get(*path) != old.get(*path)).collect();
    changed.sort_unstable();
    // Too many to be listed, then or now.
    let (Some(first), false) = (changed.first(), new.is_empty() || old.is_empty()) else {
        return "files that it copies have changed".to_owned();
    };
    let what = match (new.contains_key(*first), old.contains_key(*first)) {
        (true, false) => "is new",
        (false, _) => "is gone",
        _ => "has changed",
    };
    match changed.len() {
        1 => format!("{first} {what}"),
        more => format!("{first} {what}, and {} more", more - 1),
    }
}

/// Which member of a definition changed, and an entry of a list where it is one.
fn definition_change(new: &str, old: &str) -> String {
    let parse =
        |text: &str| serde_json::from_str::<BTreeMap<String, serde_json::Value>>(text).unwrap_or_default();
    let (new, old) = (parse(new), parse(old));
    let Some((name, value)) = new.iter().find(|(name, value)| old.get(*name) != Some(value)) else {
        return "the instruction has changed".to_owned();
    };
    let entries = |value: Option<&serde_json::Value>| -> Vec<String> {
        let list = value.and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
        list.iter().map(|entry| entry.as_str().map_or_else(|| entry.to_string(), str::to_owned)).collect()
    };
    let (now, before) = (entries(Some(value)), entries(old.get(name)));
    match (name.as_str(), now.iter().find(|entry| !before.contains(entry))) {
        ("env", Some(entry)) => {
            format!("the argument or variable {} has changed", entry.split('=').next().unwrap_or_default())
        }
        ("argv", _) => "the command has changed".to_owned(),
        (name, Some(entry)) => format!("{name} has changed: {entry} is new"),
        (name, None) => format!("{name} has changed"),
    }
}

/// The key of an image's layers.
pub(crate) fn of_layers(layers: &[DiffId]) -> Digest {
    let chain = ChainId::of(layers).map_or_else(|| "empty".to_owned(), |chain| chain.to_string());
    Parts::of("layers", &chain).key()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::RunDefinition;

    fn run(argv: &str, env: &[&str]) -> Parts {
        let spec = RunDefinition {
            argv: vec![argv.to_owned()],
            env: env.iter().map(|entry| (*entry).to_owned()).collect(),
            ..RunDefinition::default()
        };
        Parts::of("run", &spec).with("base", "b")
    }

    #[test]
    fn a_key_depends_on_every_part_and_on_their_borders() {
        let base = run("make", &["A=1"]);
        assert_eq!(base.key(), run("make", &["A=1"]).key());
        for other in [run("make", &["A=2"]), run("make x", &["A=1"]), base.clone().with("base", "c")] {
            assert_ne!(base.key(), other.key());
        }
        let [left, right] =
            [("ab", "c"), ("a", "bc")].map(|(name, value)| Parts::default().with(name, value).key());
        assert_ne!(left, right);
    }

    #[test]
    fn a_miss_is_explained_by_its_cause() {
        let old = run("make", &["A=1"]);
        let why = |new: Parts| new.differs_from(&old).unwrap();
        assert_eq!(why(run("make", &["A=2"])), "the argument or variable A has changed");
        assert_eq!(why(run("make x", &["A=1"])), "the command has changed");
        assert_eq!(why(run("make x", &["A=1"]).with("base", "c")), "what it stands on has changed");
        assert_eq!(why(old.clone().with("files", "1")), "files that it copies have changed");
        let files = |list: &[(&str, &str)]| {
            let entry = |(path, sum): &(&str, &str)| ((*path).to_owned(), (*sum).to_owned());
            old.clone().with("files", format!("{list:?}")).listing(list.iter().map(entry).collect())
        };
        let before = files(&[("a", "1"), ("b", "1")]);
        let why = |list: &[(&str, &str)]| files(list).differs_from(&before).unwrap();
        assert_eq!(why(&[("a", "1"), ("b", "2")]), "b has changed");
        assert_eq!(why(&[("b", "1")]), "a is gone");
        assert_eq!(why(&[("0", "1"), ("a", "2"), ("b", "1")]), "0 is new, and 1 more");
        assert_eq!(old.differs_from(&old), None);
    }
}
