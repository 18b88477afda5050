//! Entries of a tar, one by one, into a layer's directory.

use crate::extract::Extraction;
use crate::metadata::{Metadata, permitted_xattr};
use crate::record::Recorder;
use crate::tar::{Entry, Input, Kind, Reader, Segment, lossy};
use crate::tree::{Occupant, Place, Tree};
use crate::walk;
use crate::{ApplyError, Form};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, makedev};
use rustix::io::Errno;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::rc::Rc;
use yare_oci::DiffId;
use yare_sys::privilege::Privilege;

/// Bounds on what a layer may make this machine do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of the uncompressed tar.
    pub bytes: Option<u64>,
    /// Most entries, directories that are only implied included.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: None, entries: 4 << 20 }
    }
}

/// How to apply a layer.
pub struct ApplyOptions<'a> {
    /// Bounds.
    pub limits: Limits,
    /// Receives the record from which [`crate::rebuild_tar`] makes the same tar again.
    pub record: Option<&'a mut (dyn Write + Send)>,
    /// Without root: owners and devices are passed over, opaque directories are marked in the `user.`
    /// namespace. The default is what the calling process is. For root of a user namespace, who can do all but
    /// make devices and mark directories otherwise, it is off.
    pub unprivileged: bool,
    /// What the tar holds. In a plain one `.wh.` names are names like others, and hard links end in the tar.
    pub form: Form,
}

impl Default for ApplyOptions<'_> {
    fn default() -> Self {
        let unprivileged = !rustix::process::geteuid().is_root();
        Self { limits: Limits::default(), record: None, unprivileged, form: Form::Overlay }
    }
}

impl std::fmt::Debug for ApplyOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApplyOptions")
            .field("limits", &self.limits)
            .field("record", &self.record.is_some())
            .field("unprivileged", &self.unprivileged)
            .field("form", &self.form)
            .finish()
    }
}

/// What was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Hash of the whole uncompressed stream.
    pub diff_id: DiffId,
    /// Bytes of the uncompressed tar.
    pub size: u64,
    /// Bytes of file content, as Docker counts an image's size.
    pub content: u64,
    /// Bytes that the layer takes on the disk, as counted while writing (blocks of 4 KiB).
    pub disk: u64,
    /// Entries made: files, directories, links, devices, whiteouts.
    pub files: u64,
    /// Whether the tar lists the layer's root directory itself.
    pub root_listed: bool,
    /// Whether the root directory hides everything below, which overlayfs cannot express.
    pub root_opaque: bool,
    /// Directories that entries need and the tar does not list; owner, mode, times and attributes come
    /// from the layers below. Sorted.
    pub implied_dirs: Vec<PathBuf>,
    /// Hard links whose target is not in this layer: (link, target), relative to the root. Sorted.
    pub lower_links: Vec<(PathBuf, PathBuf)>,
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS kept its own files under such names; they are no part of an image.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const BLOCK_ON_DISK: u64 = 4096;
const MISSING: &str = "hard link to a file that is not there";

/// Applies an uncompressed layer tar to `dir`, a prepared empty directory, and reads the stream to its end.
/// After an error the directory holds a part of the layer and is to be thrown away.
pub fn apply(
    reader: impl Read,
    dir: BorrowedFd<'_>,
    options: ApplyOptions<'_>,
) -> Result<Applied, ApplyError> {
    let recorder = options.record.map(Recorder::new).transpose()?;
    let input = Input::new(reader, options.limits.bytes, recorder);
    let tree = Tree::new(dir, options.unprivileged, options.limits.entries);
    let mut applier = Applier {
        reader: Reader::new(input),
        tree,
        unprivileged: options.unprivileged,
        form: options.form,
        content: 0,
        disk: 0,
        root_opaque: false,
        extraction: None,
    };
    while let Some(entry) = applier.reader.next()? {
        applier.entry(entry)?;
    }
    applier.finish()
}

pub(crate) struct Applier<'r, 'd, R> {
    pub(crate) reader: Reader<'r, R>,
    pub(crate) tree: Tree<'d>,
    pub(crate) unprivileged: bool,
    pub(crate) form: Form,
    pub(crate) content: u64,
    pub(crate) disk: u64,
    pub(crate) root_opaque: bool,
    /// Set when the tar is no layer but an archive that goes into a tree with content of its own.
    pub(crate) extraction: Option<Extraction<'d>>,
}

/// Where an entry goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'p> {
    Root,
    /// Passed over.
    Nowhere,
    Opaque {
        parent: &'p [u8],
    },
    Whiteout {
        parent: &'p [u8],
        name: &'p [u8],
    },
    Name {
        parent: &'p [u8],
        name: &'p [u8],
    },
}

/// Makes a path relative to the root, without `.`, `..` and empty names. `None` when it leads out.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join(&b'/'))
}

/// Decides by names alone where an entry goes.
fn target(path: &[u8], form: Form) -> Result<Target<'_>, &'static str> {
    if path.contains(&0) {
        return Err("name with a NUL byte");
    }
    if path.split(|byte| *byte == b'/').any(|name| name.len() > 255) {
        return Err("file name longer than 255 bytes");
    }
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (&[][..], path),
    };
    if name.is_empty() {
        return Ok(Target::Root);
    }
    if form == Form::Plain {
        return Ok(Target::Name { parent, name });
    }
    for directory in parent.split(|byte| *byte == b'/') {
        if directory.starts_with(WHITEOUT_META) {
            return Ok(Target::Nowhere);
        }
        if directory.starts_with(WHITEOUT) {
            return Err("below a whiteout");
        }
    }
    if name == OPAQUE {
        return Ok(Target::Opaque { parent });
    }
    if name.starts_with(WHITEOUT_META) {
        return Ok(Target::Nowhere);
    }
    match name.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") => Err("whiteout of no name"),
        Some(name) => Ok(Target::Whiteout { parent, name }),
        None => Ok(Target::Name { parent, name }),
    }
}

impl<R: Read> Applier<'_, '_, R> {
    pub(crate) fn entry(&mut self, mut entry: Entry) -> Result<(), ApplyError> {
        self.tree.count()?;
        let original = std::mem::take(&mut entry.path);
        let refused = |reason: &str| ApplyError::Entry { path: lossy(&original), reason: reason.into() };
        entry.path = clean(&original).ok_or_else(|| refused("leads out of the layer"))?;
        let metadata = self.metadata(&mut entry);
        let target = target(&entry.path, self.form).map_err(refused)?;
        if let Some(extraction) = &mut self.extraction {
            match extraction.admit(&entry, &target).map_err(refused)? {
                true => {}
                false => return Ok(()),
            }
        }
        match target {
            Target::Nowhere => Ok(()),
            Target::Root if entry.kind == Kind::Directory => {
                self.tree.list_root(metadata);
                Ok(())
            }
            Target::Root => Err(refused("the root can only be a directory")),
            Target::Opaque { parent: b"" } => {
                self.root_opaque = true;
                Ok(())
            }
            Target::Opaque { parent } => {
                let place = self.parent(parent)?;
                self.tree.set_opaque(&place.fd, &place.path)
            }
            Target::Whiteout { parent, name } => {
                let place = self.parent(parent)?;
                self.disk += BLOCK_ON_DISK / 16;
                self.tree.white_out(&place, name)
            }
            Target::Name { parent, name } => {
                let place = self.parent(parent)?;
                self.make(&entry, &place, name, &metadata)
            }
        }
    }

    fn parent(&mut self, path: &[u8]) -> Result<Rc<Place>, ApplyError> {
        let made = self.tree.directory(path, true)?;
        made.ok_or_else(|| ApplyError::Entry { path: lossy(path), reason: "cannot be made".into() })
    }

    fn metadata(&self, entry: &mut Entry) -> Metadata {
        let mut xattrs = std::mem::take(&mut entry.xattrs);
        xattrs.retain(|(name, _)| permitted_xattr(name, self.unprivileged));
        let (mode, uid, gid, mtime) = (entry.mode, entry.uid, entry.gid, entry.mtime);
        let metadata = Metadata { mode, uid, gid, mtime, xattrs };
        match &self.extraction {
            Some(extraction) => extraction.settle(metadata),
            None => metadata,
        }
    }

    fn make(
        &mut self,
        entry: &Entry,
        place: &Rc<Place>,
        name: &[u8],
        metadata: &Metadata,
    ) -> Result<(), ApplyError> {
        if let Some(extraction) = &self.extraction {
            extraction.may_replace(entry, self.tree.occupant(place, name)?)?;
        }
        match entry.kind {
            Kind::Regular => self.regular(entry, place, name, metadata),
            Kind::Directory => {
                self.disk += BLOCK_ON_DISK;
                if matches!(self.tree.occupant(place, name)?, Occupant::Regular) {
                    self.keep_lost(place, name)?;
                }
                self.tree.list_directory(place, name, metadata.clone())
            }
            Kind::HardLink => self.hard_link(entry, place, name),
            Kind::Symlink => {
                let link = entry.link.as_slice();
                self.place(place, name, "make the symbolic link", |dir| {
                    rustix::fs::symlinkat(link, dir, name)
                })?;
                self.tree.finish_special(place, name, metadata, true)
            }
            Kind::Character if entry.device == (0, 0) && self.form == Form::Overlay => {
                self.tree.white_out(place, name)
            }
            Kind::Character | Kind::Block if self.unprivileged || !Privilege::current().makes_devices() => {
                Ok(())
            }
            Kind::Character if entry.device == (0, 0) => Err(ApplyError::Entry {
                path: lossy(&entry.path),
                reason: "a character device 0:0 is overlay's mark for a deleted file".into(),
            }),
            Kind::Character => self.node(place, name, FileType::CharacterDevice, entry.device, metadata),
            Kind::Block => self.node(place, name, FileType::BlockDevice, entry.device, metadata),
            Kind::Fifo => self.node(place, name, FileType::Fifo, (0, 0), metadata),
        }
    }

    fn node(
        &mut self,
        place: &Rc<Place>,
        name: &[u8],
        kind: FileType,
        (major, minor): (u32, u32),
        metadata: &Metadata,
    ) -> Result<(), ApplyError> {
        self.place(place, name, "make the node", |dir| {
            rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))
        })?;
        self.tree.finish_special(place, name, metadata, false)
    }

    /// Runs `make`, which must fail with `EEXIST` rather than replace. What is in its way is removed, its
    /// content kept for the record, and `make` runs again.
    fn place<T>(
        &mut self,
        place: &Rc<Place>,
        name: &[u8],
        operation: &'static str,
        make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, ApplyError> {
        let made = match make(place.fd.as_fd()) {
            Err(Errno::EXIST) => {
                self.keep_lost(place, name)?;
                self.tree.clear(place, name)?;
                make(place.fd.as_fd())
            }
            result => result,
        };
        self.tree.placed(place, name);
        made.map_err(|error| ApplyError::Io {
            operation,
            path: lossy(&place.child(name)),
            source: error.into(),
        })
    }

    fn keep_lost(&mut self, place: &Place, name: &[u8]) -> Result<(), ApplyError> {
        match self.reader.input.recorder() {
            Some(recorder) => keep_lost(recorder, place, name),
            None => Ok(()),
        }
    }

    fn regular(
        &mut self,
        entry: &Entry,
        place: &Rc<Place>,
        name: &[u8],
        metadata: &Metadata,
    ) -> Result<(), ApplyError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = self.place(place, name, "create", |dir| {
            rustix::fs::openat2(dir, name, flags, Mode::RUSR | Mode::WUSR, resolve)
        })?;
        let pieces = entry.segments();
        let crc = self.write_content(&file, entry, &pieces)?;
        if !pieces.is_empty()
            && let Some(recorder) = self.reader.input.recorder()
        {
            recorder.file(&place.child(name), &pieces, crc)?;
        }
        self.tree.finish_file(&file, &entry.path, metadata)?;
        self.content += entry.sparse.as_ref().map_or(entry.stored, |sparse| sparse.size);
        self.disk += pieces.iter().map(|piece| piece.length.next_multiple_of(BLOCK_ON_DISK)).sum::<u64>();
        Ok(())
    }

    /// Streams the data into its places and returns its CRC-32, which is zero when nothing is recorded.
    fn write_content(
        &mut self,
        file: &OwnedFd,
        entry: &Entry,
        pieces: &[Segment],
    ) -> Result<u32, ApplyError> {
        let failed = |source: Errno| ApplyError::Io {
            operation: "write",
            path: lossy(&entry.path),
            source: source.into(),
        };
        let recording = self.reader.input.recorder().is_some();
        let mut crc = crc32fast::Hasher::new();
        for piece in pieces {
            let mut done = 0;
            while done < piece.length {
                let bytes = self.reader.data(piece.length - done)?;
                let count = loop {
                    match rustix::io::pwrite(file, bytes, piece.offset + done) {
                        Err(Errno::INTR) => {}
                        result => break result.map_err(failed)?,
                    }
                };
                if count == 0 {
                    return Err(failed(Errno::NOSPC));
                }
                if recording {
                    crc.update(bytes.get(..count).unwrap_or_default());
                }
                done += count as u64;
                self.reader.consume(count)?;
            }
        }
        if let Some(sparse) = &entry.sparse {
            rustix::fs::ftruncate(file, sparse.size).map_err(failed)?;
        }
        Ok(crc.finalize())
    }

    fn hard_link(&mut self, entry: &Entry, place: &Rc<Place>, name: &[u8]) -> Result<(), ApplyError> {
        let refused = |reason: &str| ApplyError::Entry { path: lossy(&entry.path), reason: reason.into() };
        let wanted = clean(&entry.link).ok_or_else(|| refused("hard link leads out of the layer"))?;
        let Target::Name { parent, name: target_name } = target(&wanted, self.form).map_err(refused)? else {
            return Err(refused("hard link to something that is no file"));
        };
        // The place is emptied first: a link that replaces its own target links to the layers below.
        if self.tree.occupant(place, name)? != Occupant::Nothing {
            self.keep_lost(place, name)?;
            self.tree.clear(place, name)?;
        }
        let path = place.child(name);
        let source = self.tree.directory(parent, false)?;
        if let Some(source) = source {
            match self.tree.occupant(&source, target_name)? {
                Occupant::Directory => return Err(refused("hard link to a directory")),
                Occupant::Nothing if self.form == Form::Plain => return Err(refused(MISSING)),
                Occupant::Nothing => {
                    let known = self.tree.lower_links.get(&source.child(target_name)).cloned();
                    self.tree.lower_links.insert(path, known.unwrap_or(wanted));
                    return Ok(());
                }
                Occupant::Whiteout => {}
                _ => {
                    self.tree.lower_links.remove(&path);
                    return rustix::fs::linkat(&source.fd, target_name, &place.fd, name, AtFlags::empty())
                        .map_err(|source| ApplyError::Io {
                            operation: "make the hard link",
                            path: lossy(&path),
                            source: source.into(),
                        });
                }
            }
        }
        if self.form == Form::Plain {
            return Err(refused(MISSING));
        }
        self.tree.lower_links.insert(path, wanted);
        Ok(())
    }

    fn finish(mut self) -> Result<Applied, ApplyError> {
        let settled = self.tree.finish(true)?;
        let links = std::mem::take(&mut self.tree.lower_links);
        let files = self.tree.made();
        let (digest, size) = self.reader.input.finish()?;
        let path = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
        Ok(Applied {
            diff_id: DiffId(digest),
            size,
            content: self.content,
            disk: self.disk,
            files,
            root_listed: settled.root_listed,
            root_opaque: self.root_opaque,
            implied_dirs: settled.implied.into_iter().map(path).collect(),
            lower_links: links.into_iter().map(|(link, target)| (path(link), path(target))).collect(),
        })
    }
}

/// Puts the content of every regular file at or below a name into the record.
fn keep_lost(recorder: &mut Recorder<'_>, place: &Place, name: &[u8]) -> Result<(), ApplyError> {
    let failed = |path: &[u8], source: std::io::Error| ApplyError::Io {
        operation: "keep the content of",
        path: lossy(path),
        source,
    };
    let top = place.child(name);
    let mut buffer = Vec::new();
    for below in walk::files_with_content(place.fd.as_fd(), name).map_err(|error| failed(&top, error))? {
        let path = place.child(&below);
        let failed = |error| failed(&path, error);
        let file = walk::open(place.fd.as_fd(), &below, OFlags::RDONLY | OFlags::NOFOLLOW).map_err(failed)?;
        recorder.lost(&path)?;
        for (offset, length) in walk::data_pieces(file.as_fd(), i64::MAX as u64).map_err(failed)? {
            let mut keep = |offset, bytes: &[u8]| recorder.lost_piece(offset, bytes);
            walk::read_piece(file.as_fd(), offset, length, &mut buffer, &mut keep)?.map_err(failed)?;
        }
        recorder.lost_piece(0, &[])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide_where_an_entry_goes() {
        assert_eq!(clean(b"/a//./b/../c/").unwrap(), b"a/c");
        assert_eq!(clean(b"./").unwrap(), b"");
        assert_eq!(clean(b"a/../../b"), None);
        assert_eq!(target(b"", Form::Overlay).unwrap(), Target::Root);
        assert_eq!(target(b"a/.wh.b", Form::Overlay).unwrap(), Target::Whiteout { parent: b"a", name: b"b" });
        assert_eq!(target(b".wh..wh..opq", Form::Overlay).unwrap(), Target::Opaque { parent: b"" });
        assert_eq!(target(b".wh..wh.plnk/1.2", Form::Overlay).unwrap(), Target::Nowhere);
        assert_eq!(target(b".wh..wh.aufs", Form::Overlay).unwrap(), Target::Nowhere);
        assert_eq!(
            target(b".wh.a/.wh..wh..opq", Form::Plain).unwrap(),
            Target::Name { parent: b".wh.a", name: b".wh..wh..opq" }
        );
        for bad in [&b".wh."[..], b".wh..", b"x/.wh...", b".wh.a/b", b".wh.../x"] {
            assert!(target(bad, Form::Overlay).is_err(), "{}", lossy(bad));
        }
    }
}
