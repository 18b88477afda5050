//! Folders that a build takes files from.

use crate::files::{Ignore, Verdict};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use yare_dockerfile::ignore::{Cursor, Ignore as IgnoreFile};

/// Provides the folders of a build by name; the main one has the empty name.
pub trait Contexts: Send + Sync {
    /// Opens a folder.
    ///
    /// # Errors
    /// The build has no such context, or its files cannot be had.
    fn open(&self, name: &str) -> Result<ContextTree>;

    /// What is not seen of the main one. Asked for before anything is opened.
    fn ignore(&self) -> Option<Arc<IgnoreFile>> {
        self.open("").ok().and_then(|tree| tree.ignore)
    }

    /// Tells before the first one is opened which paths and patterns of each the build takes files from, so
    /// that others need not be fetched. Without any, all of it.
    fn expect(&self, paths: &BTreeMap<String, Vec<String>>) {
        let _ = paths;
    }
}

/// A folder with files.
#[derive(Debug, Clone)]
pub struct ContextTree {
    /// Its root directory.
    pub root: Arc<OwnedFd>,
    /// What is not seen of it.
    pub ignore: Option<Arc<IgnoreFile>>,
    /// Whether files keep their inodes between builds, so that hashes can be remembered.
    pub lasting: bool,
}

/// Reads an ignore file.
///
/// # Errors
/// It is no UTF-8, or a pattern is malformed.
pub fn parse_ignore(text: &[u8]) -> Result<IgnoreFile> {
    let text = std::str::from_utf8(text)
        .map_err(|error| Error::invalid("the ignore file is not UTF-8").caused_by(error))?;
    IgnoreFile::parse(text).map_err(|error| Error::invalid(format!("cannot read the ignore file: {error}")))
}

/// Patterns over the paths of one walk: what matched a directory is remembered for what lies in it.
pub(crate) struct Ignored<'a> {
    patterns: &'a IgnoreFile,
    directories: Mutex<HashMap<String, Cursor<'a>>>,
}

impl<'a> Ignored<'a> {
    pub(crate) fn new(patterns: &'a IgnoreFile) -> Self {
        Self { patterns, directories: Mutex::default() }
    }

    fn cursor(&self, known: &mut HashMap<String, Cursor<'a>>, directory: &str) -> Cursor<'a> {
        if directory.is_empty() {
            return self.patterns.root();
        }
        if let Some(cursor) = known.get(directory) {
            return cursor.clone();
        }
        let above = directory.rsplit_once('/').map_or("", |(above, _)| above);
        let cursor = self.cursor(known, above).enter(directory);
        known.insert(directory.to_owned(), cursor.clone());
        cursor
    }
}

impl Ignore for Ignored<'_> {
    fn excludes(&self, path: &Path, is_dir: bool) -> Verdict {
        let path = path.to_string_lossy();
        let mut known = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        if is_dir {
            let cursor = self.cursor(&mut known, &path);
            return match (cursor.ignored(), cursor.prunable()) {
                (false, _) => Verdict::Keep,
                (true, false) => Verdict::Drop,
                (true, true) => Verdict::DropTree,
            };
        }
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        if self.cursor(&mut known, above).is_ignored(&path) { Verdict::DropTree } else { Verdict::Keep }
    }

    fn hidden_by(&self, path: &Path) -> Option<String> {
        self.patterns.why(&path.to_string_lossy()).map(|pattern| pattern.text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_pruned_unless_something_in_them_comes_back() {
        let patterns = parse_ignore(b"node_modules\nlogs\n!logs/keep\n*.tmp\n").unwrap();
        let ignored = Ignored::new(&patterns);
        let verdict = |path: &str, is_dir| ignored.excludes(Path::new(path), is_dir);
        assert_eq!(verdict("node_modules", true), Verdict::DropTree);
        assert_eq!(verdict("logs", true), Verdict::Drop);
        assert_eq!(verdict("logs/keep", false), Verdict::Keep);
        assert_eq!(verdict("logs/x", false), Verdict::DropTree);
        assert_eq!(verdict("src/a.rs", false), Verdict::Keep);
        assert_eq!(ignored.hidden_by(Path::new("a.tmp")).as_deref(), Some("*.tmp"));
    }
}
