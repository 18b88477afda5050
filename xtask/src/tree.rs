//! The source files of the workspace.

use std::path::{Path, PathBuf};

/// One file of Rust.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// From the root of the repository.
    pub(crate) path: PathBuf,
    /// Folder name of the crate beneath `crates`, or `xtask`.
    pub(crate) owner: String,
    /// Whether it is only compiled for tests, benches or examples.
    pub(crate) is_test: bool,
    pub(crate) text: String,
}

/// All files of all crates, in the order of their paths.
pub(crate) fn sources(root: &Path) -> Result<Vec<SourceFile>, String> {
    let mut paths = Vec::new();
    for folder in ["crates", "xtask"] {
        collect(&root.join(folder), &mut paths)?;
    }
    paths.sort();
    paths.iter().map(|path| read(root, path)).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<(), String> {
    let fault = |error: std::io::Error| format!("cannot list {}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

fn read(root: &Path, path: &Path) -> Result<SourceFile, String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(SourceFile::new(path.strip_prefix(root).unwrap_or(path), text))
}

impl SourceFile {
    /// A file at this path from the root.
    pub(crate) fn new(path: &Path, text: String) -> Self {
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        let owner = match parts.as_slice() {
            [crates, owner, ..] if crates == "crates" => owner.to_string(),
            [first, ..] => first.to_string(),
            [] => String::new(),
        };
        let in_folder = parts.iter().any(|part| matches!(&**part, "tests" | "benches" | "examples"));
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_test = in_folder || stem == "tests" || stem.ends_with("_tests");
        Self { path: path.to_owned(), owner, is_test, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_know_their_crate_and_whether_they_are_tests() {
        let file = |path: &str| SourceFile::new(Path::new(path), String::new());
        assert_eq!(file("crates/net/src/ipam.rs").owner, "net");
        assert_eq!(file("xtask/src/main.rs").owner, "xtask");
        assert!(!file("crates/net/src/ipam.rs").is_test);
        for test in ["crates/net/tests/a.rs", "crates/net/src/tests.rs", "crates/server/src/wire_tests.rs"] {
            assert!(file(test).is_test, "{test}");
        }
    }
}
