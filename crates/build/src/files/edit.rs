//! Single changes of a root: a directory, a link, a removal. Links on the way lead nowhere out of it.

use super::destination::Destination;
use super::resolve::{lexical, locate};
use super::select::expand;
use super::{Owner, Times, Tree, as_path, failed, is_dir, join, shown, split};
use crate::Cancel;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd};
use yare_errdefs::{Error, Result};
use yare_layer::Metadata;
use yare_sys::fs as files;

/// Finds the directory that holds the last name of a path, without links, and the whole path then.
fn placed(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>> {
    let written = lexical(path.as_bytes()).join(&b'/');
    let (above, name) = split(&written);
    let found = locate(root, above, &|_, _| true).map_err(|error| failed("look up", above, error))?;
    match found.stat {
        Some(stat) if is_dir(&stat) => Ok(join(&found.path, name)),
        Some(_) => Err(Error::invalid(format!("{} is not a directory", shown(above)))),
        None => Err(Error::not_found(format!("{}: no such directory", shown(above)))
            .with_hint("make it first, or ask for the directories above it too")),
    }
}

/// Whether the directory of a path is there.
///
/// # Errors
/// It is not, or cannot be looked up.
pub fn check_parent(root: BorrowedFd<'_>, path: &str) -> Result<()> {
    placed(root, path.trim_end_matches('/')).map(drop)
}

/// Makes one directory; one that is there stays as it is.
///
/// # Errors
/// What is above it is not there, or something else has its name.
pub fn make_dir(root: BorrowedFd<'_>, path: &str, owner: Owner, mode: u32, times: Times) -> Result<()> {
    let mut destination = Destination::new(root, times);
    let path = placed(root, path)?;
    destination.make_dirs(&path, owner.of_made(), mode & 0o7777)?;
    destination.finish()
}

/// Makes a symbolic link, in the place of a file or link that is there.
///
/// # Errors
/// Its directory is not there, or a directory has its name.
pub fn make_link(root: BorrowedFd<'_>, path: &str, target: &str, owner: Owner, times: Times) -> Result<()> {
    let mut destination = Destination::new(root, times);
    let path = placed(root, path)?;
    destination.place(&path, "make the link", |dir, name| rustix::fs::symlinkat(target, dir, name))?;
    let (uid, gid) = owner.of_made();
    let metadata = Metadata { mode: 0o777, uid, gid, mtime: times.now(), xattrs: Vec::new() };
    destination.finish_special(&path, &metadata, true)?;
    destination.finish()
}

/// Removes a file, a link, or a directory with everything in it. `wildcard` gives patterns their meaning.
///
/// # Errors
/// There is nothing, unless that is fine; or it is the root.
pub fn remove(
    tree: &Tree<'_>,
    path: &str,
    (may_lack, wildcard): (bool, bool),
    cancel: &Cancel,
) -> Result<()> {
    let root = tree.root.as_fd();
    let paths = if wildcard && super::has_wildcard(path.as_bytes()) {
        expand(tree, path, cancel)?
    } else {
        vec![lexical(path.as_bytes()).join(&b'/')]
    };
    let missing = || Error::not_found(format!("cannot remove {path}: no such file or directory"));
    if paths.is_empty() && !may_lack {
        return Err(missing());
    }
    for path in paths {
        let (above, name) = split(&path);
        if name.is_empty() {
            return Err(Error::invalid("the root directory cannot be removed"));
        }
        let found = locate(root, above, &|_, _| true).map_err(|error| failed("look up", above, error))?;
        let whole = join(&found.path, name);
        let there = found.stat.as_ref().is_some_and(is_dir)
            && super::resolve::look(root, &whole)
                .map_err(|error| failed("look up", &whole, error))?
                .is_some();
        if !there {
            if may_lack {
                continue;
            }
            return Err(missing());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = files::open_strict(root, as_path(&found.path), flags, Mode::empty())
            .map_err(|error| failed("open", &found.path, error))?;
        files::remove_tree_at(
            dir.as_fd(),
            std::os::unix::ffi::OsStrExt::from_bytes(name) as &std::ffi::OsStr,
        )
        .map_err(|error| failed("remove", &whole, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use yare_errdefs::{Class, Classified};

    fn tree(dir: &std::path::Path) -> Tree<'static> {
        Tree { root: yare_sys::fs::open_dir(dir).unwrap(), ignore: None, name: "test".to_owned() }
    }

    #[test]
    fn what_is_removed_is_below_the_root() {
        let outer = tempfile::tempdir().unwrap();
        let (root, safe) = (outer.path().join("root"), outer.path().join("safe"));
        for dir in [&root, &safe, &root.join("d/sub")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        std::fs::write(safe.join("file"), "x").unwrap();
        std::fs::write(root.join("d/a.txt"), "x").unwrap();
        std::fs::write(root.join("d/b.txt"), "x").unwrap();
        symlink("../safe", root.join("out")).unwrap();
        symlink(&safe, root.join("absolute")).unwrap();
        let (tree, cancel) = (tree(&root), Cancel::default());
        let remove = |path: &str, how| remove(&tree, path, how, &cancel);
        for path in ["/out/file", "/absolute/file", "/../safe/file", "/../../safe"] {
            remove(path, (true, false)).unwrap();
            let class = remove(path, (false, false)).unwrap_err().class();
            assert_eq!(class, Class::NotFound, "{path}");
        }
        assert!(safe.join("file").exists());
        remove("/out", (false, false)).unwrap();
        assert!(safe.join("file").exists(), "the link goes, not what it leads to");
        assert_eq!(remove("/", (false, false)).unwrap_err().class(), Class::InvalidArgument);
        remove("/d/*.txt", (false, true)).unwrap();
        assert!(!root.join("d/a.txt").exists() && root.join("d/sub").exists());
        assert_eq!(remove("/d/*.txt", (false, true)).unwrap_err().class(), Class::NotFound);
        remove("/d", (false, false)).unwrap();
        assert!(!root.join("d").exists());
    }

    #[test]
    fn links_and_directories_are_made_where_their_place_is() {
        let root = tempfile::tempdir().unwrap();
        let fd = yare_sys::fs::open_dir(root.path()).unwrap();
        let stat = rustix::fs::fstat(&fd).unwrap();
        let mine = Owner::Set(stat.st_uid, stat.st_gid);
        make_link(fd.as_fd(), "/l", "../../etc", mine, Times::Set(7)).unwrap();
        assert_eq!(std::fs::read_link(root.path().join("l")).unwrap().to_str(), Some("../../etc"));
        let class = make_dir(fd.as_fd(), "/a/b", mine, 0o755, Times::Set(7)).unwrap_err().class();
        assert_eq!(class, Class::NotFound);
        make_dir(fd.as_fd(), "/a", mine, 0o711, Times::Set(7)).unwrap();
        make_dir(fd.as_fd(), "/a", mine, 0o755, Times::Set(7)).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(root.path().join("a")).unwrap().mode() & 0o7777, 0o711);
        assert!(check_parent(fd.as_fd(), "/a/x").is_ok() && check_parent(fd.as_fd(), "/b/x").is_err());
        assert!(check_parent(fd.as_fd(), "/l/x").is_err(), "a link out leads to what is not there");
    }
}
