//! Copies of trees on this machine.

use crate::LayerError;
use crate::metadata::{Metadata, image_xattrs};
use crate::tree::is_whiteout;
use crate::walk::{self, Found, Walk};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::rc::Rc;
use yare_sys::fs as files;
use yare_sys::privilege::Privilege;

/// Copies everything below `src` into the directory `dst`, and the metadata of `src` itself to `dst`:
/// owner, mode, times, attributes, hard links, devices, holes. Links are copied, never followed. A name
/// that exists in `dst` and is not a directory on both sides is an error. Returns the bytes of file content.
pub fn copy_tree(src: BorrowedFd<'_>, dst: BorrowedFd<'_>) -> Result<u64, LayerError> {
    let mut copy = Copy::new(dst, false, HashSet::new());
    copy.run(src)?;
    copy.finish(metadata_of(src, b".")?)
}

/// Puts a layer in overlay form on top of the plain tree in `dst`: whiteouts remove, opaque directories
/// empty, `implied_dirs` keep the metadata that is there, `lower_links` are made. The root of `dst` takes
/// the metadata of the layer's when `root_listed`. Returns the bytes copied.
pub fn merge_layer(
    layer: BorrowedFd<'_>,
    dst: BorrowedFd<'_>,
    root_listed: bool,
    implied_dirs: &[PathBuf],
    lower_links: &[(PathBuf, PathBuf)],
) -> Result<u64, LayerError> {
    let bytes = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
    let root = metadata_of(if root_listed { layer } else { dst }, b".")?;
    let mut copy = Copy::new(dst, true, implied_dirs.iter().map(bytes).collect());
    // The targets are those of the layers below, whatever this layer does to their names; the links are
    // put in place when it is there.
    let mut held = Vec::new();
    for (link, target) in lower_links {
        held.push((copy.hold_lower(&bytes(target))?, bytes(link)));
    }
    copy.run(layer)?;
    for (name, link) in held {
        copy.place_lower(&name, &link)?;
    }
    copy.finish(root)
}

/// Gives `dst` the owner, mode, times and image attributes of `src`; both are open files or directories.
pub fn copy_metadata(src: BorrowedFd<'_>, dst: &OwnedFd) -> Result<(), LayerError> {
    let unprivileged = !rustix::process::geteuid().is_root();
    let set = metadata_of(src, b".")?.set_open(dst, unprivileged);
    set.map_err(|(operation, error)| failed(operation, b".", error))
}

/// Bytes of all files below `dir`, as Docker counts a container's size: holes included, a file with several
/// names once.
pub fn tree_size(dir: BorrowedFd<'_>) -> Result<u64, LayerError> {
    let mut walk = Walk::new(dir).map_err(|error| failed("list", b".", error))?;
    let (mut seen, mut size) = (HashSet::new(), 0_u64);
    while let Some(found) = walk.advance().map_err(|error| failed("list", b".", error))? {
        let several = found.stat.st_nlink > 1;
        if found.kind() == FileType::RegularFile
            && (!several || seen.insert((found.stat.st_dev, found.stat.st_ino)))
        {
            size = size.saturating_add(u64::try_from(found.stat.st_size).unwrap_or_default());
        }
    }
    Ok(size)
}

fn failed(operation: &'static str, path: &[u8], source: impl Into<io::Error>) -> LayerError {
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    LayerError::Io { operation, path, source: source.into() }
}

struct Copy<'a> {
    dst: BorrowedFd<'a>,
    /// Whether the source is a layer in overlay form.
    overlay: bool,
    implied: HashSet<Vec<u8>>,
    unprivileged: bool,
    /// Where files with several names were copied first.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Set at the end, children first: copying into a directory changes its times.
    directories: Vec<(Vec<u8>, Metadata)>,
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    bytes: u64,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

impl<'a> Copy<'a> {
    fn new(dst: BorrowedFd<'a>, overlay: bool, implied: HashSet<Vec<u8>>) -> Self {
        Self {
            dst,
            overlay,
            implied,
            unprivileged: !rustix::process::geteuid().is_root(),
            links: HashMap::new(),
            directories: Vec::new(),
            parent: None,
            bytes: 0,
        }
    }

    fn run(&mut self, src: BorrowedFd<'_>) -> Result<(), LayerError> {
        let mut walk = Walk::new(src).map_err(|error| failed("list", b".", error))?;
        while let Some(found) = walk.advance().map_err(|error| failed("list", b".", error))? {
            self.entry(&found)?;
        }
        Ok(())
    }

    /// The directory of the copy that a path is in.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, LayerError> {
        let (parent, _) = split(path);
        if let Some((known, fd)) = &self.parent
            && known == parent
        {
            return Ok(Rc::clone(fd));
        }
        let fd = walk::open(self.dst, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)
            .map_err(|error| failed("open the copy of", parent, error))?;
        let fd = Rc::new(fd);
        self.parent = Some((parent.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    fn entry(&mut self, found: &Found) -> Result<(), LayerError> {
        let path = found.path.as_slice();
        let (parent, name) = (self.parent(path)?, found.name.as_bytes());
        let kind = found.kind();
        if self.overlay && (kind != FileType::Directory || is_whiteout(&found.stat)) {
            files::remove_tree_at(parent.as_fd(), std::ffi::OsStr::from_bytes(name))
                .map_err(|error| failed("replace", path, error))?;
            if is_whiteout(&found.stat) {
                return Ok(());
            }
        }
        if kind == FileType::Socket {
            return Ok(());
        }
        if kind != FileType::Directory && found.stat.st_nlink > 1 {
            let id = (found.stat.st_dev, found.stat.st_ino);
            if let Some(first) = self.links.get(&id).cloned() {
                return self.link(&first, path);
            }
            self.links.insert(id, path.to_vec());
        }
        let fd = found.open_path().map_err(|error| failed("open", path, error))?;
        let xattrs =
            image_xattrs(fd.as_fd()).map_err(|error| failed("read the attributes of", path, error))?;
        let metadata = Metadata::of(&found.stat, xattrs);
        match kind {
            FileType::Directory => self.directory(&fd, &parent, path, metadata),
            FileType::RegularFile => self.regular(found, &parent, &metadata),
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(&fd, c"", Vec::new())
                    .map_err(|error| failed("read link", path, error))?;
                rustix::fs::symlinkat(link, &parent, name)
                    .map_err(|error| failed("make the copy of", path, error))?;
                self.finish_special(&parent, path, &metadata, true)
            }
            FileType::CharacterDevice | FileType::BlockDevice
                if !is_whiteout(&found.stat) && !Privilege::current().makes_devices() =>
            {
                Ok(())
            }
            _ if self.unprivileged && kind != FileType::Fifo => Ok(()),
            _ => {
                rustix::fs::mknodat(&parent, name, kind, Mode::RUSR | Mode::WUSR, found.stat.st_rdev)
                    .map_err(|error| failed("make the copy of", path, error))?;
                self.finish_special(&parent, path, &metadata, false)
            }
        }
    }

    fn finish_special(
        &self,
        parent: &OwnedFd,
        path: &[u8],
        metadata: &Metadata,
        is_link: bool,
    ) -> Result<(), LayerError> {
        let set = metadata.set_special(parent.as_fd(), split(path).1, is_link, self.unprivileged);
        set.map_err(|(operation, error)| failed(operation, path, error))
    }

    fn link(&mut self, first: &[u8], path: &[u8]) -> Result<(), LayerError> {
        let parent = self.parent(path)?;
        let (directory, name) = split(first);
        let source = walk::open(self.dst, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)
            .map_err(|error| failed("open the copy of", directory, error))?;
        rustix::fs::linkat(&source, name, &parent, split(path).1, AtFlags::empty())
            .map_err(|error| failed("link the copy of", path, error))
    }

    /// Links a file of `dst` to a new name in its root. Links on the way to it are followed, in `dst`.
    fn hold_lower(&self, target: &[u8]) -> Result<String, LayerError> {
        let (directory, name) = (walk::as_path(split(target).0), split(target).1);
        let source =
            files::open_beneath(self.dst, directory, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                .map_err(|error| failed("open the target of a hard link", target, error))?;
        let held = files::unique_name(".link-");
        rustix::fs::linkat(&source, name, self.dst, held.as_str(), AtFlags::empty())
            .map_err(|error| failed("make a hard link to", target, error))?;
        Ok(held)
    }

    fn place_lower(&mut self, held: &str, link: &[u8]) -> Result<(), LayerError> {
        let parent = self.parent(link)?;
        let name = split(link).1;
        files::remove_tree_at(parent.as_fd(), std::ffi::OsStr::from_bytes(name))
            .map_err(|error| failed("replace", link, error))?;
        rustix::fs::renameat(self.dst, held, &parent, name)
            .map_err(|error| failed("make the hard link", link, error))
    }

    fn directory(
        &mut self,
        fd: &OwnedFd,
        parent: &OwnedFd,
        path: &[u8],
        metadata: Metadata,
    ) -> Result<(), LayerError> {
        let name = split(path).1;
        let make = || rustix::fs::mkdirat(parent, name, Mode::RWXU);
        let existed = match make() {
            Ok(()) => false,
            Err(Errno::EXIST) if self.overlay => self.make_room(fd, parent, path)?,
            Err(Errno::EXIST) => true,
            Err(error) => return Err(failed("make the copy of", path, error)),
        };
        let metadata = if existed && self.implied.contains(path) {
            // Its own, which copying into it would change.
            let fd = walk::open(parent.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW)
                .map_err(|error| failed("open the copy of", path, error))?;
            metadata_of(fd.as_fd(), path)?
        } else {
            metadata
        };
        self.directories.push((path.to_vec(), metadata));
        Ok(())
    }

    /// A layer's directory meets something: an opaque one, or one that meets no directory, replaces it.
    /// Returns whether what was there stays.
    fn make_room(&mut self, fd: &OwnedFd, parent: &OwnedFd, path: &[u8]) -> Result<bool, LayerError> {
        let name = split(path).1;
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed("stat the copy of", path, error))?;
        let opaque = ["trusted.overlay.opaque", "user.overlay.opaque"]
            .iter()
            .any(|name| files::xattr(fd.as_fd(), name).ok().flatten().as_deref() == Some(b"y"));
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && !opaque {
            return Ok(true);
        }
        self.parent = None;
        files::remove_tree_at(parent.as_fd(), std::ffi::OsStr::from_bytes(name))
            .map_err(|error| failed("replace", path, error))?;
        rustix::fs::mkdirat(parent, name, Mode::RWXU)
            .map_err(|error| failed("make the copy of", path, error))?;
        Ok(false)
    }

    fn regular(&mut self, found: &Found, parent: &OwnedFd, metadata: &Metadata) -> Result<(), LayerError> {
        let path = found.path.as_slice();
        let source = found
            .open(OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)
            .map_err(|error| failed("open", path, error))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let target =
            rustix::fs::openat2(parent, found.name.as_c_str(), flags, Mode::RUSR | Mode::WUSR, resolve)
                .map_err(|error| failed("make the copy of", path, error))?;
        let size = u64::try_from(found.stat.st_size).unwrap_or_default();
        let pieces = walk::data_pieces(source.as_fd(), size).map_err(|error| failed("read", path, error))?;
        for (offset, length) in pieces {
            copy_piece(&source, &target, offset, length)
                .map_err(|(operation, error)| failed(operation, path, error))?;
        }
        rustix::fs::ftruncate(&target, size).map_err(|error| failed("write the copy of", path, error))?;
        metadata
            .set_open(&target, self.unprivileged)
            .map_err(|(operation, error)| failed(operation, path, error))?;
        self.bytes += size;
        Ok(())
    }

    /// Sets the metadata of all directories, that of the root to `root`.
    fn finish(mut self, root: Metadata) -> Result<u64, LayerError> {
        self.directories.insert(0, (Vec::new(), root));
        for (path, metadata) in self.directories.iter().rev() {
            let fd = walk::open(self.dst, path, DIRECTORY)
                .map_err(|error| failed("open the copy of", path, error))?;
            metadata
                .set_open(&fd, self.unprivileged)
                .map_err(|(operation, error)| failed(operation, path, error))?;
        }
        Ok(self.bytes)
    }
}

fn metadata_of(fd: BorrowedFd<'_>, path: &[u8]) -> Result<Metadata, LayerError> {
    let stat = rustix::fs::fstat(fd).map_err(|error| failed("stat", path, error))?;
    let xattrs = image_xattrs(fd).map_err(|error| failed("read the attributes of", path, error))?;
    Ok(Metadata::of(&stat, xattrs))
}

/// Copies a range, by the kernel where it can (which shares blocks where the file system can).
fn copy_piece(
    source: &OwnedFd,
    target: &OwnedFd,
    offset: u64,
    length: u64,
) -> Result<(), (&'static str, io::Error)> {
    let mut done = 0;
    while done < length {
        let (mut from, mut to) = (offset + done, offset + done);
        let most = usize::try_from(length - done).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), most) {
            Ok(0) => return Ok(()),
            Ok(count) => done += count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => break,
            Err(error) => return Err(("copy", error.into())),
        }
    }
    let mut buffer = Vec::new();
    let mut write = |position: u64, mut bytes: &[u8]| {
        let mut position = position;
        while !bytes.is_empty() {
            match rustix::io::pwrite(target, bytes, position) {
                Ok(count) => {
                    bytes = bytes.get(count..).unwrap_or_default();
                    position += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(("write the copy of", io::Error::from(error))),
            }
        }
        Ok(())
    };
    let read = walk::read_piece(source.as_fd(), offset + done, length - done, &mut buffer, &mut write)?;
    read.map(drop).map_err(|error| ("read", error))
}
