//! The layers of a build as one.
//!
//! Layers are in overlay form: a deleted name is a device 0:0, a directory that hides what is below it is
//! marked. For each name the topmost layer that has it decides; directories merge until one of them, or
//! something that is no directory, hides those below. What hides nothing of the base is left out: an image
//! has no whiteouts of files that only its own build made.
//!
//! Files are not copied: the new layer has further names of the same inodes, which no one writes to.

use crate::{Cancel, Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use yare_sys::fs::{open_strict, set_xattr, xattr};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// Merges `layers`, the topmost first, into the empty directory `target`; `base` is what they lie on, as one
/// tree. Gives the bytes of their files.
pub(crate) fn squash(
    layers: &[OwnedFd],
    base: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    cancel: &Cancel,
) -> Result<u64> {
    let mut merge = Merge { layers, base, target, folders: Vec::new(), bytes: 0 };
    let mut open = vec![merge.root()?];
    while let Some(folder) = open.pop() {
        cancel.check()?;
        let below = merge.folder(&folder).map_err(|error| failed(&folder.path, error))?;
        open.extend(below);
    }
    for (path, layer) in merge.folders.iter().rev() {
        merge.settle(path, *layer)?;
    }
    Ok(merge.bytes)
}

/// The mark of a directory that hides what is below it.
fn opaque() -> &'static str {
    yare_sys::privilege::Privilege::current().opaque_xattr()
}

fn failed(path: &[u8], error: io::Error) -> Error {
    let text = format!("cannot squash /{}", String::from_utf8_lossy(path));
    Error::new(yare_errdefs::class_of_io(&error), text).caused_by(error)
}

/// A directory of the result.
struct Folder {
    path: Vec<u8>,
    /// The layers that make it up, the topmost first.
    layers: Vec<usize>,
    /// Whether it lies on a directory of the base.
    on_base: bool,
}

/// What becomes of a name.
enum Fate {
    /// As this layer has it.
    Entry(usize, Stat),
    Folder {
        layers: Vec<usize>,
        hides: bool,
    },
}

struct Merge<'a> {
    layers: &'a [OwnedFd],
    base: BorrowedFd<'a>,
    target: BorrowedFd<'a>,
    /// With the layer that they have owner, mode and time of.
    folders: Vec<(Vec<u8>, usize)>,
    bytes: u64,
}

impl Merge<'_> {
    fn root(&self) -> Result<Folder> {
        let mut layers = Vec::new();
        let mut on_base = true;
        for (place, layer) in self.layers.iter().enumerate() {
            layers.push(place);
            if is_opaque(layer.as_fd()).map_err(|error| failed(b"", error))? {
                set_xattr(self.target, opaque().as_bytes(), b"y").map_err(|error| failed(b"", error))?;
                on_base = false;
                break;
            }
        }
        Ok(Folder { path: Vec::new(), layers, on_base })
    }

    /// Makes what is in a directory, and gives the directories in it.
    fn folder(&mut self, folder: &Folder) -> io::Result<Vec<Folder>> {
        let opened = |layer: &usize| Ok((*layer, open(self.layers[*layer].as_fd(), &folder.path)?));
        let sources: Vec<(usize, OwnedFd)> = folder.layers.iter().map(opened).collect::<io::Result<_>>()?;
        let target = open(self.target, &folder.path)?;
        let base = if folder.on_base { Some(open(self.base, &folder.path)?) } else { None };
        if let Some((top, _)) = sources.first() {
            self.folders.push((folder.path.clone(), *top));
        }
        let mut below = Vec::new();
        for (name, places) in names(&sources)? {
            let there = base.as_ref().map(|base| stat(base.as_fd(), &name)).transpose()?.flatten();
            match fate(&sources, &name, &places)? {
                Fate::Entry(_, found) if is_whiteout(&found) && there.is_none() => {}
                Fate::Entry(layer, found) => {
                    let source = sources.iter().find(|(place, _)| *place == layer);
                    let source = source.ok_or(io::ErrorKind::NotFound)?;
                    rustix::fs::linkat(&source.1, &*name, &target, &*name, AtFlags::empty())?;
                    if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
                        self.bytes += u64::try_from(found.st_size).unwrap_or_default();
                    }
                }
                Fate::Folder { layers, hides } => {
                    rustix::fs::mkdirat(&target, &*name, Mode::RWXU)?;
                    let is_folder = there.is_some_and(|found| is_folder(&found));
                    if hides && is_folder {
                        let made = open(target.as_fd(), name.to_bytes())?;
                        set_xattr(made.as_fd(), opaque().as_bytes(), b"y")?;
                    }
                    let path = match folder.path.as_slice() {
                        [] => name.to_bytes().to_vec(),
                        path => [path, b"/", name.to_bytes()].concat(),
                    };
                    below.push(Folder { path, layers, on_base: is_folder && !hides });
                }
            }
        }
        Ok(below)
    }

    /// Owner, mode, time and attributes, when nothing is made in it any more.
    fn settle(&self, path: &[u8], layer: usize) -> Result<()> {
        let both =
            open(self.layers[layer].as_fd(), path).and_then(|from| Ok((from, open(self.target, path)?)));
        let (source, made) = both.map_err(|error| failed(path, error))?;
        yare_layer::copy_metadata(source.as_fd(), &made)
            .map_err(|error| Error::wrap(format!("cannot squash /{}", String::from_utf8_lossy(path)), error))
    }
}

/// Which layers have which names, the topmost first.
fn names(sources: &[(usize, OwnedFd)]) -> io::Result<BTreeMap<CString, Vec<usize>>> {
    let mut names = BTreeMap::<CString, Vec<usize>>::new();
    for (place, (_, folder)) in sources.iter().enumerate() {
        for entry in rustix::fs::Dir::read_from(folder)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.entry(name).or_default().push(place);
            }
        }
    }
    Ok(names)
}

fn fate(sources: &[(usize, OwnedFd)], name: &CStr, places: &[usize]) -> io::Result<Fate> {
    let mut layers = Vec::new();
    for place in places {
        let (layer, folder) = &sources[*place];
        let found = stat(folder.as_fd(), name)?.ok_or(io::ErrorKind::NotFound)?;
        if !is_folder(&found) {
            return Ok(match layers.is_empty() {
                true => Fate::Entry(*layer, found),
                false => Fate::Folder { layers, hides: true },
            });
        }
        layers.push(*layer);
        if is_opaque(open(folder.as_fd(), name.to_bytes())?.as_fd())? {
            return Ok(Fate::Folder { layers, hides: true });
        }
    }
    Ok(Fate::Folder { layers, hides: false })
}

fn open(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(path)) };
    open_strict(root, path, DIRECTORY, Mode::empty())
}

fn stat(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_folder(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

fn is_whiteout(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0
}

fn is_opaque(folder: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(xattr(folder, opaque())?.as_deref() == Some(b"y"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn with(self, path: &str, content: &str) -> Self {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
            self
        }

        fn without(self, path: &str) -> Self {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            rustix::fs::mknodat(rustix::fs::CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
            self
        }

        fn opaque(self, path: &str) -> Self {
            std::fs::create_dir_all(self.0.path().join(path)).unwrap();
            set_xattr(self.open(path).as_fd(), opaque().as_bytes(), b"y").unwrap();
            self
        }

        fn open(&self, path: &str) -> OwnedFd {
            yare_sys::fs::open_dir(self.0.path().join(path)).unwrap()
        }

        fn has(&self, path: &str) -> Option<String> {
            let path = self.0.path().join(path);
            let found = std::fs::symlink_metadata(&path).ok()?;
            Some(match (found.is_dir(), found.is_file()) {
                (true, _) if is_opaque(yare_sys::fs::open_dir(&path).unwrap().as_fd()).unwrap() => {
                    "opaque".into()
                }
                (true, _) => "folder".into(),
                (_, true) => std::fs::read_to_string(&path).unwrap(),
                _ => "whiteout".into(),
            })
        }
    }

    /// `layers`, the lowest first.
    fn merged(base: &Tree, layers: &[&Tree]) -> Tree {
        let target = Tree::new();
        let layers: Vec<OwnedFd> = layers.iter().rev().map(|layer| layer.open("")).collect();
        squash(&layers, base.open("").as_fd(), target.open("").as_fd(), &Cancel::default()).unwrap();
        target
    }

    #[test]
    fn whiteouts_of_the_base_stay_and_others_go() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP whiteouts_of_the_base_stay_and_others_go: it needs root");
            return;
        }
        let base = Tree::new().with("etc/base", "b").with("etc/dir/x", "x");
        let one = Tree::new().with("one", "1").without("etc/base").with("keep", "old");
        let two = Tree::new().without("one").with("keep", "new").with("etc/new", "n");
        let made = merged(&base, &[&one, &two]);
        assert_eq!(made.has("etc/base").as_deref(), Some("whiteout"));
        assert_eq!((made.has("one"), made.has("keep").as_deref()), (None, Some("new")));
        assert_eq!(made.has("etc").as_deref(), Some("folder"));
        assert_eq!(made.has("etc/dir"), None, "what no layer touched");
    }

    #[test]
    fn a_folder_that_hides_is_opaque_only_on_a_folder_of_the_base() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP a_folder_that_hides_is_opaque_only_on_a_folder_of_the_base: it needs root");
            return;
        }
        let base = Tree::new().with("dir/x", "x").with("gone/y", "y").with("file", "f");
        let one = Tree::new().opaque("dir").with("dir/z", "z").without("gone").with("made/a", "a");
        // A folder where a whiteout was, one where a file was, and one that hides only what the build made.
        let two = Tree::new().opaque("gone").with("gone/new", "n").opaque("made").with("made/b", "b");
        let three = Tree::new().with("dir/w", "w").opaque("file").with("file/in", "i").without("dir/z");
        let made = merged(&base, &[&one, &two, &three]);
        assert_eq!(made.has("dir").as_deref(), Some("opaque"));
        assert_eq!((made.has("dir/w").as_deref(), made.has("dir/z")), (Some("w"), None));
        assert_eq!(made.has("gone").as_deref(), Some("opaque"));
        assert_eq!((made.has("made").as_deref(), made.has("made/a")), (Some("folder"), None));
        assert_eq!(made.has("file").as_deref(), Some("folder"));
        let back = merged(&base, &[&one, &Tree::new().without("made").without("dir")]);
        assert_eq!((back.has("made"), back.has("dir").as_deref()), (None, Some("whiteout")));
    }

    #[test]
    fn files_keep_their_links_and_folders_what_they_are() {
        let base = Tree::new();
        let one = Tree::new().with("d/a", "a");
        std::fs::hard_link(one.0.path().join("d/a"), one.0.path().join("d/b")).unwrap();
        std::fs::set_permissions(one.0.path().join("d"), std::fs::Permissions::from_mode(0o2710)).unwrap();
        let made = merged(&base, &[&one]);
        let inode = |path: &str| std::fs::metadata(made.0.path().join(path)).unwrap().ino();
        assert_eq!(inode("d/a"), inode("d/b"));
        let mode = std::fs::metadata(made.0.path().join("d")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o2710);
    }
}
