//! Each rule on folders of the disk.

mod hostile;
mod measured;
mod reproducible;
mod rules;
mod twin;

use super::*;
use crate::Cancel;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use yare_errdefs::{Classified, Result};

/// Ignore patterns, simple ones: a pattern is a whole path, or `*.x` for a suffix; `!` takes back.
struct Patterns(&'static [&'static str]);

impl Patterns {
    fn hit(&self, path: &Path) -> Option<(&'static str, bool)> {
        let matches = |pattern: &str| match pattern.strip_prefix("**/*") {
            Some(suffix) => path.to_str().is_some_and(|path| path.ends_with(suffix)),
            None => {
                let whole = path.to_str().unwrap_or_default();
                super::matches(pattern.as_bytes(), whole.as_bytes()).unwrap()
                    || path.parent().is_some_and(|parent| self.hit_of(parent, pattern))
            }
        };
        self.0.iter().rev().find_map(|pattern| match pattern.strip_prefix('!') {
            Some(pattern) => matches(pattern).then_some((pattern, false)),
            None => matches(pattern).then_some((*pattern, true)),
        })
    }

    fn hit_of(&self, path: &Path, pattern: &str) -> bool {
        let whole = path.to_str().unwrap_or_default();
        !whole.is_empty()
            && (super::matches(pattern.as_bytes(), whole.as_bytes()).unwrap()
                || path.parent().is_some_and(|parent| self.hit_of(parent, pattern)))
    }
}

impl Ignore for Patterns {
    fn excludes(&self, path: &Path, is_dir: bool) -> Verdict {
        match self.hit(path) {
            Some((_, true)) if is_dir && self.0.iter().any(|pattern| pattern.starts_with('!')) => {
                Verdict::Drop
            }
            Some((_, true)) => Verdict::DropTree,
            _ => Verdict::Keep,
        }
    }

    fn hidden_by(&self, path: &Path) -> Option<String> {
        self.hit(path).filter(|(_, hides)| *hides).map(|(pattern, _)| pattern.to_owned())
    }
}

fn require_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let forbidden = std::env::var_os("YARE_REQUIRE_ROOT").is_some_and(|value| value == "1");
    assert!(!forbidden, "{test} needs root");
    eprintln!("SKIP {test}: needs root");
    false
}

fn open(path: &Path) -> OwnedFd {
    yare_sys::fs::open_dir(path).unwrap()
}

/// Makes overlay's sign of a deleted file, which is not possible without root or on an overlay mount.
fn make_whiteout(path: &Path) -> bool {
    let kind = FileType::CharacterDevice;
    let made = rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::empty(), 0).is_ok();
    if !made {
        eprintln!("SKIP the whiteout {}: cannot be made here", path.display());
    }
    made
}

/// A folder of sources, and an image's root.
struct Bench {
    folder: tempfile::TempDir,
    ignore: Option<Patterns>,
}

impl Bench {
    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["context", "image"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder, ignore: None }
    }

    fn context(&self) -> PathBuf {
        self.folder.path().join("context")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// A file of the context, with directories.
    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        write(&self.context().join(path), content);
    }

    fn tree(&self) -> Tree<'_> {
        let ignore = self.ignore.as_ref().map(|ignore| ignore as &dyn Ignore);
        Tree { root: open(&self.context()), ignore, name: "build context".into() }
    }

    fn copy(&self, sources: &[&str], dest: &str) -> Result<Copied> {
        self.copy_with(sources, dest, &CopyOptions { owner: mine(), ..CopyOptions::default() })
    }

    fn copy_with(&self, sources: &[&str], dest: &str, options: &CopyOptions<'_>) -> Result<Copied> {
        self.run(&spec(&strings(sources), dest), options)
    }

    fn run(&self, spec: &CopySpec<'_>, options: &CopyOptions<'_>) -> Result<Copied> {
        let tree = self.tree();
        let selection = select(&tree, spec, &Cancel::default())?;
        copy(&selection, open(&self.image()).as_fd(), options, &Cancel::default())
    }

    fn checksum(&self, sources: &[&str]) -> yare_oci::Digest {
        let tree = self.tree();
        let selection = select(&tree, &spec(&strings(sources), "/x/"), &Cancel::default()).unwrap();
        checksum(&selection, &ChecksumOptions::default(), &Cancel::default()).unwrap()
    }
}

/// Whoever runs the tests, so that all but a few need no root.
fn mine() -> Owner {
    Owner::Set(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn spec<'a>(sources: &'a [String], dest: &'a str) -> CopySpec<'a> {
    CopySpec { sources, dest, parents: false, exclude: None, keep_link: false, literal: false, whole: false }
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// All below a folder: path, kind, mode, size, where a link leads.
fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut links = std::collections::HashMap::new();
    list(root, root, &mut links, &mut lines);
    lines
}

fn list(
    root: &Path,
    dir: &Path,
    links: &mut std::collections::HashMap<u64, String>,
    lines: &mut Vec<String>,
) {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            lines.push(format!("{name} dir {mode:o}"));
            list(root, &path, links, lines);
        } else if meta.is_symlink() {
            lines.push(format!("{name} symlink -> {}", path.read_link().unwrap().display()));
        } else if meta.nlink() > 1 && links.contains_key(&meta.ino()) {
            lines.push(format!("{name} hardlink {mode:o} -> {}", links[&meta.ino()]));
        } else {
            links.insert(meta.ino(), name.clone());
            lines.push(format!("{name} file {mode:o} {}", meta.len()));
        }
    }
}

fn text_of(error: &Error) -> String {
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{}{hint}", yare_errdefs::chain(error))
}
