//! Which crate may use which: the architecture as a list.
//!
//! A crate may use crates of lower tiers only, so there can be no cycle. The list is exact: an edge that is
//! not in it is refused, and one that is no longer used has to be taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A crate, its tier and what it uses.
struct Crate {
    name: &'static str,
    tier: u8,
    uses: &'static [&'static str],
}

const fn row(tier: u8, name: &'static str, uses: &'static [&'static str]) -> Crate {
    Crate { name, tier, uses }
}

/// The architecture, from the bottom to the top.
const CRATES: &[Crate] = &[
    row(0, "database", &[]),
    row(0, "errdefs", &[]),
    row(0, "gotext", &[]),
    row(0, "sys", &[]),
    row(1, "oci", &["errdefs"]),
    row(1, "tls", &["errdefs"]),
    row(2, "api", &["errdefs", "gotext", "oci"]),
    row(2, "carrier", &["sys"]),
    row(2, "cdi", &["errdefs", "oci"]),
    row(2, "cgroup", &["errdefs", "oci", "sys"]),
    row(2, "content", &["errdefs", "oci", "sys"]),
    row(2, "distribution", &["errdefs", "gotext", "oci", "sys", "tls"]),
    row(2, "dockerfile", &["errdefs", "gotext", "oci"]),
    row(2, "layer", &["errdefs", "oci", "sys"]),
    row(2, "logs", &["errdefs"]),
    row(2, "net", &["errdefs", "sys"]),
    row(2, "resolver", &["sys"]),
    row(3, "client", &["api", "errdefs", "sys", "tls"]),
    row(3, "registry", &["content", "database", "distribution", "errdefs", "oci", "sys", "tls"]),
    row(3, "runtime", &["cgroup", "errdefs", "oci", "sys"]),
    row(3, "snapshot", &["errdefs", "layer", "oci", "sys"]),
    row(3, "specgen", &["api", "errdefs", "logs", "oci"]),
    row(4, "cli", &["api", "client", "distribution", "dockerfile", "errdefs", "gotext", "oci", "sys"]),
    row(4, "image", &["content", "database", "errdefs", "gotext", "layer", "oci", "snapshot"]),
    row(4, "shim", &["cgroup", "errdefs", "logs", "oci", "runtime", "sys"]),
    row(5, "build", &["api", "cdi", "dockerfile", "errdefs", "image", "layer", "oci", "snapshot", "sys"]),
    row(
        6,
        "engine",
        &[
            "api",
            "build",
            "carrier",
            "cdi",
            "cgroup",
            "content",
            "distribution",
            "errdefs",
            "gotext",
            "image",
            "layer",
            "logs",
            "net",
            "oci",
            "registry",
            "resolver",
            "runtime",
            "shim",
            "snapshot",
            "specgen",
            "sys",
        ],
    ),
    row(7, "buildkit", &["api", "build", "dockerfile", "engine", "errdefs", "layer", "oci", "sys"]),
    row(8, "server", &["api", "buildkit", "engine", "errdefs", "oci", "tls"]),
    row(
        9,
        "main",
        &[
            "carrier",
            "cli",
            "distribution",
            "engine",
            "errdefs",
            "image",
            "oci",
            "registry",
            "resolver",
            "runtime",
            "server",
            "shim",
            "sys",
            "tls",
        ],
    ),
    // Not part of the product.
    row(0, "damage", &[]),
    row(0, "testkit", &[]),
    row(0, "xtask", &[]),
];

/// Crates whose manifest may name tokio: `testkit` for the gRPC that its cases speak.
const ASYNC: &[&str] = &[
    "buildkit",
    "carrier",
    "cli",
    "client",
    "distribution",
    "engine",
    "main",
    "registry",
    "server",
    "testkit",
];

/// What `cargo metadata` says about the workspace.
pub(crate) struct Graph {
    crates: BTreeMap<String, Uses>,
}

#[derive(Default)]
struct Uses {
    /// Crates of the workspace used by the product.
    ours: BTreeSet<String>,
    /// Crates of the workspace used by tests.
    in_tests: BTreeSet<String>,
    tokio: bool,
}

impl Graph {
    /// Asks cargo.
    pub(crate) fn read(root: &Path) -> Result<Self, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let args = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
        let output = Command::new(cargo).args(args).current_dir(root).output();
        let output = output.map_err(|error| format!("cannot run cargo metadata: {error}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let metadata = serde_json::from_slice(&output.stdout);
        metadata.map(|metadata| Self::parse(&metadata)).map_err(|error| format!("cargo metadata: {error}"))
    }

    fn parse(metadata: &Value) -> Self {
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let crates = packages.filter_map(|package| Some((short(package["name"].as_str()?), uses(package))));
        Self { crates: crates.collect() }
    }

    /// How many crates there are.
    pub(crate) fn crates(&self) -> usize {
        self.crates.len()
    }
}

fn uses(package: &Value) -> Uses {
    let mut uses = Uses::default();
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let Some(name) = dependency["name"].as_str() else { continue };
        let product = dependency["kind"].is_null();
        uses.tokio |= name == "tokio" && product;
        if dependency["path"].is_string() {
            let kind = if product { &mut uses.ours } else { &mut uses.in_tests };
            kind.insert(short(name));
        }
    }
    uses
}

/// The name as the list has it.
fn short(package: &str) -> String {
    match package {
        "yare" => "main".to_owned(),
        other => other.strip_prefix("yare-").unwrap_or(other).to_owned(),
    }
}

/// Where the workspace and the list differ.
pub(crate) fn check(graph: &Graph) -> Vec<String> {
    let mut problems = check_list(CRATES);
    for (name, uses) in &graph.crates {
        match CRATES.iter().find(|listed| listed.name == *name) {
            None => problems.push(format!("crates/{name}: not in the list of xtask/src/edges.rs")),
            Some(listed) => problems.extend(check_crate(listed, uses)),
        }
    }
    let missing = CRATES.iter().filter(|listed| !graph.crates.contains_key(listed.name));
    problems.extend(missing.map(|listed| format!("xtask/src/edges.rs: there is no crate {}", listed.name)));
    problems
}

fn check_crate(listed: &Crate, uses: &Uses) -> Vec<String> {
    let name = listed.name;
    let wanted: BTreeSet<String> = listed.uses.iter().map(|&used| used.to_owned()).collect();
    let new = uses.ours.difference(&wanted).map(|used| {
        format!("crates/{name}/Cargo.toml: {name} -> {used} is a new edge; if the architecture wants it, list it in xtask/src/edges.rs")
    });
    let unused = wanted.difference(&uses.ours).map(|used| {
        format!("xtask/src/edges.rs: {name} -> {used} is listed, and the manifest has no such dependency")
    });
    let tests = uses.in_tests.iter().filter(|used| used.as_str() != "testkit" && !wanted.contains(*used));
    let tests = tests.filter(|used| tier(used) >= Some(listed.tier)).map(|used| {
        format!("crates/{name}/Cargo.toml: the tests of {name} use {used}, which is not below it")
    });
    let tokio = (uses.tokio && !ASYNC.contains(&name))
        .then(|| format!("crates/{name}/Cargo.toml: tokio is for {} only", ASYNC.join(", ")));
    new.chain(unused).chain(tests).chain(tokio).collect()
}

fn tier(name: &str) -> Option<u8> {
    CRATES.iter().find(|listed| listed.name == name).map(|listed| listed.tier)
}

/// Every edge of the list must lead to a lower tier.
fn check_list(crates: &[Crate]) -> Vec<String> {
    let tiers: BTreeMap<&str, u8> = crates.iter().map(|listed| (listed.name, listed.tier)).collect();
    let edges = crates.iter().flat_map(|listed| listed.uses.iter().map(move |used| (listed, *used)));
    let wrong = edges.filter(|(listed, used)| tiers.get(used).is_none_or(|tier| *tier >= listed.tier));
    wrong
        .map(|(listed, used)| {
            format!("xtask/src/edges.rs: {} -> {used} does not lead to a lower tier", listed.name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dependency(name: &str, kind: Option<&str>, ours: bool) -> Value {
        let path = ours.then(|| format!("/x/{name}"));
        json!({ "name": name, "kind": kind, "path": path })
    }

    /// A workspace that is as the list says, with one crate changed.
    fn problems(changed: &str, change: impl Fn(&mut Vec<Value>)) -> Vec<String> {
        let package = |listed: &Crate| {
            let mut uses: Vec<Value> =
                listed.uses.iter().map(|used| dependency(&format!("yare-{used}"), None, true)).collect();
            if listed.name == changed {
                change(&mut uses);
            }
            let name = match listed.name {
                "main" => "yare".to_owned(),
                "xtask" => "xtask".to_owned(),
                other => format!("yare-{other}"),
            };
            json!({ "name": name, "dependencies": uses })
        };
        let packages: Vec<Value> = CRATES.iter().map(package).collect();
        check(&Graph::parse(&json!({ "packages": packages })))
    }

    #[test]
    fn the_list_itself_is_acyclic() {
        assert_eq!(check_list(CRATES), Vec::<String>::new());
        let cycle = [row(0, "a", &["b"]), row(0, "b", &["a"])];
        assert_eq!(check_list(&cycle).len(), 2);
    }

    #[test]
    fn a_workspace_as_listed_is_right() {
        assert_eq!(problems("", |_| ()), Vec::<String>::new());
    }

    #[test]
    fn new_and_unused_edges_are_told() {
        let found = problems("net", |uses| uses.push(dependency("yare-engine", None, true)));
        assert!(
            matches!(found.as_slice(), [one] if one.contains("net -> engine is a new edge")),
            "{found:?}"
        );
        let found = problems("net", Vec::clear);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn tests_may_use_what_is_below_and_the_test_kit() {
        let below = |uses: &mut Vec<Value>| {
            uses.push(dependency("yare-testkit", Some("dev"), true));
            uses.push(dependency("yare-errdefs", Some("dev"), true));
        };
        assert_eq!(problems("net", below), Vec::<String>::new());
        let above = problems("net", |uses| uses.push(dependency("yare-engine", Some("dev"), true)));
        assert_eq!(above.len(), 1, "{above:?}");
    }

    #[test]
    fn tokio_is_for_few() {
        let found = problems("shim", |uses| uses.push(dependency("tokio", None, false)));
        assert!(matches!(found.as_slice(), [one] if one.contains("tokio is for")), "{found:?}");
        assert!(problems("engine", |uses| uses.push(dependency("tokio", None, false))).is_empty());
        assert!(problems("shim", |uses| uses.push(dependency("tokio", Some("dev"), false))).is_empty());
    }
}
