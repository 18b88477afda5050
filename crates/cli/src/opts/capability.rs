//! `--cap-add` and `--cap-drop`: one spelling, each once, sorted as Docker sends them.

use std::collections::BTreeSet;

/// The lists to add and to drop, normalised; what is both added and dropped is only added.
pub(crate) fn effective(add: &[String], drop: &[String]) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let add: BTreeSet<String> = add.iter().map(|name| normal(name)).collect();
    let mut drop: BTreeSet<String> = drop.iter().map(|name| normal(name)).collect();
    for name in &add {
        drop.remove(name);
    }
    (list(add), list(drop))
}

fn list(names: BTreeSet<String>) -> Option<Vec<String>> {
    if names.contains("ALL") {
        return Some(vec!["ALL".to_owned()]);
    }
    if names.contains("RESET") {
        return None;
    }
    (!names.is_empty()).then(|| names.into_iter().collect())
}

fn normal(name: &str) -> String {
    let upper = name.trim().to_uppercase();
    if upper == "ALL" || upper == "RESET" || upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    }
}
