//! A selection into an image.

use super::archive;
use super::destination::{Destination, file_path, not_a_directory};
use super::resolve::{Located, Opener, lexical};
use super::select::{Entry, Item, Selection};
use super::twin::{Origins, Twin};
use super::{Stamp, Times, Tree, changed, failed, is_dir, join, shown, split};
use crate::Cancel;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use yare_errdefs::{Error, Result};
use yare_layer::{Limits, Metadata, Timestamp, data_pieces, image_xattrs};

const BUFFER: usize = 256 * 1024;
/// Between two looks at whether the build was cancelled.
const STRIDE: u64 = 16 << 20;

/// Whom files belong to in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As in the tree, for another stage's files. Directories made on the way belong to root.
    Keep,
    /// To root, as the context's files without `--chown`. What is unpacked keeps the archive's owners.
    Root,
    /// User and group, for `--chown`, also of directories made on the way and of what is unpacked.
    Set(u32, u32),
}

impl Owner {
    /// Of what is made and not copied.
    pub(super) fn of_made(self) -> (u32, u32) {
        match self {
            Self::Keep | Self::Root => (0, 0),
            Self::Set(uid, gid) => (uid, gid),
        }
    }
}

/// `--chmod`.
#[derive(Clone, Copy)]
pub enum ModeChange<'a> {
    /// These permission bits.
    Set(u32),
    /// The new bits from the old ones; the second argument says whether it is a directory.
    With(&'a dyn Fn(u32, bool) -> u32),
}

impl std::fmt::Debug for ModeChange<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Set(mode) => write!(f, "Set({mode:o})"),
            Self::With(_) => f.write_str("With(..)"),
        }
    }
}

/// How to copy.
#[derive(Clone, Copy)]
pub struct CopyOptions<'a> {
    /// Owner.
    pub owner: Owner,
    /// Change of permission bits; of links never.
    pub mode: Option<ModeChange<'a>>,
    /// Modification times.
    pub times: Times,
    /// Whether a source that is a tar archive, compressed or not, is unpacked instead, as `ADD` does.
    pub unpack: bool,
    /// Whether a source that is a directory is copied itself: as the destination, or into one that is there.
    pub whole: bool,
    /// Bounds on an archive.
    pub limits: Limits,
    /// Told now and then how many bytes were copied.
    pub progress: Option<&'a dyn Fn(u64)>,
    /// Where unchanged files may be taken from; not with `unpack`.
    pub twin: Option<&'a Twin>,
}

impl Default for CopyOptions<'_> {
    fn default() -> Self {
        let limits = Limits { bytes: Some(64 << 30), ..Limits::default() };
        Self {
            owner: Owner::Root,
            mode: None,
            times: Times::Keep,
            unpack: false,
            whole: false,
            limits,
            progress: None,
            twin: None,
        }
    }
}

impl std::fmt::Debug for CopyOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyOptions")
            .field("owner", &self.owner)
            .field("times", &self.times)
            .field("unpack", &self.unpack)
            .finish_non_exhaustive()
    }
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copied {
    /// Bytes of content, holes included.
    pub bytes: u64,
    /// Files, directories and links.
    pub files: u64,
    /// Everything that is no directory, relative to the image's root and without links in it; sorted.
    pub paths: Vec<PathBuf>,
    /// Files that are still missing: the caller has them linked from the twin, in the layer itself.
    pub unchanged: HashSet<Vec<u8>>,
    /// Files in directories that were not there before, for the twin of the next run.
    pub origins: Origins,
}

/// Copies below the root of an image, whose links lead nowhere else. After an error a part of it is there.
///
/// A source that is a directory is merged into the destination, which is made (0755) when missing. A file
/// replaces a file or a link, and goes into a directory. What cannot be merged is an error with Docker's
/// text. A file that is not the one that was selected is an error of class `Unavailable`.
pub fn copy(
    selection: &Selection<'_>,
    root: BorrowedFd<'_>,
    options: &CopyOptions<'_>,
    cancel: &Cancel,
) -> Result<Copied> {
    let mut copier = Copier {
        tree: selection.tree,
        source: Opener::new(selection.tree.root.as_fd()),
        destination: Destination::new(root, options.times),
        twin: options.twin.filter(|_| !options.unpack).map(|twin| (twin, twin.opener())),
        options,
        cancel,
        links: HashMap::new(),
        buffer: Vec::new(),
        by_kernel: true,
        told: 0,
        copied: Copied::default(),
    };
    for item in &selection.items {
        copier.item(item, &selection.dest)?;
    }
    copier.destination.finish()?;
    let mut copied = copier.copied;
    copied.paths.sort_unstable();
    copied.paths.dedup();
    Ok(copied)
}

struct Copier<'c> {
    tree: &'c Tree<'c>,
    source: Opener<'c>,
    destination: Destination<'c>,
    twin: Option<(&'c Twin, Opener<'c>)>,
    options: &'c CopyOptions<'c>,
    cancel: &'c Cancel,
    /// Of the item: where files with several names were copied first.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    /// Whether the kernel can copy between the two file systems.
    by_kernel: bool,
    told: u64,
    copied: Copied,
}

/// The destination as written is a directory.
fn names_directory(dest: &str) -> bool {
    matches!(dest.rsplit('/').next(), Some("" | "." | ".."))
}

pub(super) fn to_path(path: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(path.to_vec()))
}

impl Copier<'_> {
    fn item(&mut self, item: &Item, dest: &str) -> Result<()> {
        self.links.clear();
        let written = lexical(dest.as_bytes()).join(&b'/');
        let above = if names_directory(dest) { &written[..] } else { split(&written).0 };
        let above = self.destination.locate(above)?;
        self.make_dirs(&above.path)?;
        let located = self.destination.locate(&written)?;
        if self.options.unpack && !item.directory && self.unpack(item, &located)? {
            return Ok(());
        }
        if !item.directory {
            let path = file_path(&located, &item.name);
            return item.entries.iter().try_for_each(|entry| self.entry(item, entry, &path));
        }
        if self.options.whole {
            let path = file_path(&located, &item.name);
            return item
                .entries
                .iter()
                .try_for_each(|entry| self.entry(item, entry, &join(&path, &entry.path)));
        }
        match &located.stat {
            None => self.make_dirs(&located.path)?,
            Some(stat) if is_dir(stat) => {}
            Some(_) => return Err(not_a_directory(&located.path)),
        }
        item.entries.iter().try_for_each(|entry| self.entry(item, entry, &join(&located.path, &entry.path)))
    }

    fn make_dirs(&mut self, path: &[u8]) -> Result<()> {
        self.destination.make_dirs(path, self.options.owner.of_made(), 0o755).map(drop)
    }

    fn entry(&mut self, item: &Item, entry: &Entry, to: &[u8]) -> Result<()> {
        self.cancel.check()?;
        let from = join(&item.base, &entry.path);
        let kind = entry.kind();
        self.copied.files += 1;
        if kind != FileType::Directory {
            self.copied.paths.push(to_path(to));
        }
        // Of two sources the later one counts.
        self.copied.origins.remove(to);
        if self.copied.unchanged.remove(to) && kind == FileType::Directory {
            return Err(not_a_directory(to));
        }
        if entry.linked && self.link(entry, to)? {
            return Ok(());
        }
        if kind == FileType::RegularFile {
            return self.regular(entry, &from, to);
        }
        let fd = self.open(&from, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed("stat", &from, error))?;
        // A directory may have got another entry, which is not copied; that it is one must still be so.
        let same = match kind {
            FileType::Directory => is_dir(&stat),
            _ => Stamp::of(&stat) == entry.stamp,
        };
        if !same {
            return Err(changed(self.tree, &from));
        }
        let metadata = self.metadata(entry, fd.as_fd(), &from)?;
        match (kind, &entry.link) {
            (FileType::Directory, _) => self.destination.merge_dir(to, metadata, entry.implied),
            (_, Some(link)) => {
                self.destination.place(to, "make the link", |dir, name| {
                    rustix::fs::symlinkat(link.as_slice(), dir, name)
                })?;
                self.destination.finish_special(to, &metadata, true)
            }
            _ => self.node(entry, to, &metadata),
        }
    }

    fn node(&mut self, entry: &Entry, to: &[u8], metadata: &Metadata) -> Result<()> {
        let kind = entry.kind();
        if kind == FileType::CharacterDevice && entry.device == 0 {
            let text =
                format!("{}: the device 0:0 means a deleted file and cannot be in an image", shown(to));
            return Err(Error::invalid(text));
        }
        self.destination.place(to, "make the device", |dir, name| {
            rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, entry.device)
        })?;
        self.destination.finish_special(to, metadata, false)
    }

    /// Links to the copy of another name of the file. `false` when there is none yet.
    fn link(&mut self, entry: &Entry, to: &[u8]) -> Result<bool> {
        let id = (entry.stamp.device, entry.stamp.inode);
        let Some(first) = self.links.get(&id).cloned() else {
            self.links.insert(id, to.to_vec());
            return Ok(false);
        };
        let (parent, name) = split(&first);
        let parent = self.destination.directory(parent)?.try_clone_to_owned();
        let parent = parent.map_err(|error| failed("open", &first, error))?;
        self.destination.place(to, "make the hard link", |dir, new| {
            rustix::fs::linkat(&parent, name, dir, new, AtFlags::empty())
        })?;
        Ok(true)
    }

    fn open(&mut self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        self.source.open(path, flags).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => changed(self.tree, path),
            _ => failed("read", path, error),
        })
    }

    fn open_file(&mut self, entry: &Entry, from: &[u8]) -> Result<OwnedFd> {
        let fd = self.open(from, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        self.expect_same(&fd, entry, from)?;
        Ok(fd)
    }

    fn expect_same(&self, fd: &OwnedFd, entry: &Entry, from: &[u8]) -> Result<()> {
        let stat = rustix::fs::fstat(fd).map_err(|error| failed("stat", from, error))?;
        if Stamp::of(&stat) == entry.stamp { Ok(()) } else { Err(changed(self.tree, from)) }
    }

    fn metadata(&self, entry: &Entry, fd: BorrowedFd<'_>, from: &[u8]) -> Result<Metadata> {
        let xattrs = image_xattrs(fd).map_err(|error| failed("read the attributes of", from, error))?;
        Ok(Metadata { xattrs, ..self.plain_metadata(entry) })
    }

    /// Without attributes.
    fn plain_metadata(&self, entry: &Entry) -> Metadata {
        let (uid, gid) = match self.options.owner {
            Owner::Keep => (entry.uid, entry.gid),
            made => made.of_made(),
        };
        let old = entry.mode & 0o7777;
        let mode = match self.options.mode {
            None => old,
            Some(ModeChange::Set(mode)) => mode & 0o7777,
            Some(ModeChange::With(change)) => change(old, entry.kind() == FileType::Directory) & 0o7777,
        };
        let (seconds, nanos) = entry.stamp.modified;
        let mtime = self.options.times.settle(Timestamp { seconds, nanos });
        Metadata { mode, uid, gid, mtime, xattrs: Vec::new() }
    }

    /// Leaves the file to the twin, if that has it. Only in directories that the copy made: they are the
    /// layer's own, and nothing of the image shows through.
    fn take_over(&mut self, entry: &Entry, to: &[u8]) -> bool {
        let is_new = self.destination.has_made(split(to).0) && !self.destination.has_made(to);
        let Some(body) = entry.body.filter(|_| is_new && !entry.linked) else { return false };
        self.copied.origins.insert(to.to_vec(), body);
        let wanted = self.plain_metadata(entry);
        let has = |(twin, opener): &mut (&Twin, Opener<'_>)| twin.has(opener, to, &body, &wanted);
        let taken = self.twin.as_mut().is_some_and(has);
        if taken {
            self.copied.unchanged.insert(to.to_vec());
        }
        taken
    }

    fn regular(&mut self, entry: &Entry, from: &[u8], to: &[u8]) -> Result<()> {
        if self.take_over(entry, to) {
            return self.tell(entry.stamp.size);
        }
        let source = self.open_file(entry, from)?;
        let target = self.destination.create(to)?;
        let size = entry.stamp.size;
        let pieces = match entry.sparse {
            true => data_pieces(source.as_fd(), size).map_err(|error| failed("read", from, error))?,
            false => vec![(0, size)],
        };
        let data: u64 = pieces.iter().map(|(_, length)| length).sum();
        for (offset, length) in pieces {
            self.piece((&source, from), (&target, to), offset, length)?;
        }
        if entry.sparse {
            rustix::fs::ftruncate(&target, size).map_err(|error| failed("write", to, error))?;
            self.copied.bytes += size.saturating_sub(data);
        }
        let metadata = self.metadata(entry, source.as_fd(), from)?;
        self.destination.finish_file(&target, to, &metadata)?;
        self.expect_same(&source, entry, from)
    }

    fn tell(&mut self, more: u64) -> Result<()> {
        self.copied.bytes += more;
        if let Some(progress) = self.options.progress
            && self.copied.bytes - self.told >= STRIDE / 2
        {
            self.told = self.copied.bytes;
            progress(self.told);
        }
        self.cancel.check()
    }

    /// Copies a piece, by the kernel where it can, which shares the blocks where the file system can.
    fn piece(
        &mut self,
        (source, from): (&OwnedFd, &[u8]),
        (target, to): (&OwnedFd, &[u8]),
        offset: u64,
        length: u64,
    ) -> Result<()> {
        let mut done = 0;
        while self.by_kernel && done < length {
            let (mut at, mut put) = (offset + done, offset + done);
            let most = usize::try_from((length - done).min(STRIDE)).unwrap_or(BUFFER);
            match rustix::fs::copy_file_range(source, Some(&mut at), target, Some(&mut put), most) {
                // The source became shorter; the stamp will tell.
                Ok(0) => return Ok(()),
                Ok(count) => {
                    done += count as u64;
                    self.tell(count as u64)?;
                }
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    self.by_kernel = false;
                }
                Err(error) => return Err(failed("write", to, error)),
            }
        }
        self.buffer.resize(BUFFER, 0);
        while done < length {
            let most = usize::try_from(length - done).unwrap_or(BUFFER).min(BUFFER);
            let buffer = self.buffer.get_mut(..most).unwrap_or_default();
            match rustix::io::pread(source, buffer, offset + done) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    let bytes = self.buffer.get(..count).unwrap_or_default();
                    write_at(target, bytes, offset + done).map_err(|error| failed("write", to, error))?;
                    done += count as u64;
                    self.tell(count as u64)?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("read", from, error)),
            }
        }
        Ok(())
    }

    /// Unpacks the item if it is an archive, into the directory that the destination then is.
    fn unpack(&mut self, item: &Item, located: &Located) -> Result<bool> {
        let Some(entry) = item.entries.first().filter(|entry| entry.kind() == FileType::RegularFile) else {
            return Ok(false);
        };
        let source = self.open_file(entry, &item.base)?;
        if !archive::is_archive(&source) {
            return Ok(false);
        }
        if located.stat.as_ref().is_some_and(|stat| !is_dir(stat)) {
            return Err(not_a_directory(&located.path));
        }
        self.make_dirs(&located.path)?;
        let dir = self.destination.directory(&located.path)?;
        let extracted = archive::unpack(&source, &item.base, dir, self.options, self.cancel)?;
        self.expect_same(&source, entry, &item.base)?;
        self.copied.files += extracted.paths.len() as u64;
        self.copied.bytes += extracted.bytes;
        let base = to_path(&located.path);
        self.copied.paths.extend(extracted.paths.iter().map(|path| base.join(path)));
        Ok(true)
    }
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
