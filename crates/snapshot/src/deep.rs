//! Chains with more directories than one overlay takes: the lowest become one directory.
//!
//! The kernel takes 500 lower directories (200 where they are named in one string), and Docker's 127 layers are
//! far below that. What has more is still an image: its lowest directories are copied once into one tree, by
//! hundreds, so that all chains with that bottom share it.

use crate::store::{Shared, make_dir};
use crate::{Error, Result};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use yare_layer::LayerError;
use yare_oci::Digest;
use yare_sys::fs as files;

/// How many directories a chain may have (some room is left for those that go below and above it), and how
/// many are copied together, or a multiple of it.
fn limits() -> (usize, usize) {
    if yare_sys::mount::has_single_lower_dirs() { (490, 400) } else { (190, 150) }
}

/// How many of `count` directories have to become one, from the bottom.
fn copied(count: usize, (most, block): (usize, usize)) -> usize {
    if count <= most { 0 } else { (count + 1 - most).next_multiple_of(block) }
}

/// What a directory of the store is called among its kind.
fn name(dir: &Path) -> Option<&str> {
    dir.parent()?.file_name()?.to_str()
}

impl Shared {
    /// The same directories (top first), no more than an overlay takes.
    pub(crate) fn within_limit(&self, mut dirs: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
        let bottom = dirs.split_off(dirs.len() - copied(dirs.len(), limits()));
        if !bottom.is_empty() {
            dirs.push(self.one_tree(&bottom)?);
        }
        Ok(dirs)
    }

    /// The directories as one, made when it is not there.
    fn one_tree(&self, dirs: &[PathBuf]) -> Result<PathBuf> {
        let names: Vec<&str> = dirs.iter().rev().filter_map(|dir| name(dir)).collect();
        let folder = self.root.join("deep").join(Digest::of(names.join("\n")).hex());
        let _one_at_a_time = self.one_tree_at_a_time();
        if !folder.exists() {
            self.copy_into_one(dirs, &names, &folder)?;
        }
        Ok(folder.join("fs"))
    }

    fn copy_into_one(&self, dirs: &[PathBuf], names: &[&str], target: &Path) -> Result<()> {
        let temporary = self.new_temporary()?;
        let fs = temporary.join("fs");
        let made = (|| {
            make_dir(&fs, 0o755)?;
            let tree = files::open_dir(&fs).map_err(|error| Error::io("open", &fs, error))?;
            for dir in dirs.iter().rev() {
                let source = files::open_dir(dir).map_err(|error| Error::io("open", dir, error))?;
                yare_layer::merge_layer(source.as_fd(), tree.as_fd(), true, &[], &[]).map_err(
                    |source: LayerError| Error::Copy { id: name(dir).unwrap_or_default().to_owned(), source },
                )?;
            }
            self.note_names(&temporary, names)?;
            files::syncfs(&self.root).map_err(|error| Error::io("sync", &self.root, error))?;
            rustix::fs::rename(&temporary, target).map_err(|error| Error::io("commit", target, error))
        })();
        if made.is_err() {
            self.discard(&temporary)?;
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_grows_by_blocks() {
        for (count, expected) in [(0, 0), (490, 0), (491, 400), (889, 400), (890, 800), (1200, 800)] {
            assert_eq!(copied(count, (490, 400)), expected, "{count}");
        }
        assert_eq!(copied(191, (190, 150)), 150);
    }
}
