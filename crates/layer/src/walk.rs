//! Walks of a directory tree below a descriptor: sorted, following no link.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use yare_sys::fs as files;

/// Directories on the way down that stay open; those above are opened again on the way back.
const OPEN_LEVELS: usize = 32;
const BUFFER: usize = 256 * 1024;

pub(crate) fn as_path(bytes: &[u8]) -> &Path {
    if bytes.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(bytes)) }
}

/// Opens a path of a tree; no part of it may be a link.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    files::open_strict(root, as_path(path), flags, Mode::empty())
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// An entry of the tree.
#[derive(Debug)]
pub struct Found {
    /// Below the root of the walk.
    pub path: Vec<u8>,
    /// The last part of the path.
    pub name: CString,
    /// The directory that has it.
    pub parent: Rc<OwnedFd>,
    /// Of the entry itself, also if it is a link.
    pub stat: Stat,
}

impl Found {
    /// What it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// A descriptor that names the entry, whatever it is.
    pub fn open_path(&self) -> io::Result<OwnedFd> {
        self.open(OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// The directory that has it, for calls that name the entry itself.
    pub fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// Opens the entry; a link is refused with `ELOOP`.
    pub fn open(&self, flags: OFlags) -> io::Result<OwnedFd> {
        files::open_strict(self.parent.as_fd(), as_path(self.name.as_bytes()), flags, Mode::empty())
    }
}

#[derive(Debug)]
struct Level {
    path: Vec<u8>,
    fd: Option<Rc<OwnedFd>>,
    /// In reverse order.
    names: Vec<CString>,
}

/// A walk; parents come before their children, names in byte order.
#[derive(Debug)]
pub struct Walk<'a> {
    root: BorrowedFd<'a>,
    levels: Vec<Level>,
    entered: Option<Vec<u8>>,
}

impl<'a> Walk<'a> {
    /// A walk of the directory, which need not be open for reading.
    pub fn new(root: BorrowedFd<'a>) -> io::Result<Self> {
        let mut walk = Self { root, levels: Vec::new(), entered: None };
        walk.enter(Vec::new())?;
        Ok(walk)
    }

    /// Passes over what is below the directory that was returned last.
    pub fn pass_over(&mut self) {
        self.entered = None;
    }

    fn enter(&mut self, path: Vec<u8>) -> io::Result<()> {
        let fd = open(self.root, &path, DIRECTORY)?;
        let mut names = names(fd.as_fd())?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(above) = self.levels.len().checked_sub(OPEN_LEVELS)
            && let Some(level) = self.levels.get_mut(above)
        {
            level.fd = None;
        }
        self.levels.push(Level { path, fd: Some(Rc::new(fd)), names });
        Ok(())
    }

    /// The next entry.
    pub fn advance(&mut self) -> io::Result<Option<Found>> {
        if let Some(path) = self.entered.take() {
            match self.enter(path) {
                // Removed or replaced since its parent was read.
                Err(error)
                    if matches!(
                        Errno::from_io_error(&error),
                        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                    ) => {}
                entered => entered?,
            }
        }
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.pop() else {
                self.levels.pop();
                continue;
            };
            let parent = match &level.fd {
                Some(fd) => Rc::clone(fd),
                None => {
                    let fd = Rc::new(open(self.root, &level.path, DIRECTORY)?);
                    level.fd = Some(Rc::clone(&fd));
                    fd
                }
            };
            let stat = match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Removed since the directory was read.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let path = crate::tree::join(&level.path, name.as_bytes());
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.entered = Some(path.clone());
            }
            return Ok(Some(Found { path, name, parent, stat }));
        }
        Ok(None)
    }
}

fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The regular files with content at or below `name`, as paths below `dir`.
pub(crate) fn files_with_content(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_size > 0 => return Ok(vec![name.to_vec()]),
        FileType::Directory => {}
        _ => return Ok(Vec::new()),
    }
    let top = open(dir, name, DIRECTORY)?;
    let mut walk = Walk::new(top.as_fd())?;
    let mut found = Vec::new();
    while let Some(entry) = walk.advance()? {
        if entry.kind() == FileType::RegularFile && entry.stat.st_size > 0 {
            found.push(crate::tree::join(name, &entry.path));
        }
    }
    Ok(found)
}

/// The pieces of a file that are no holes: (offset, length). A file system that cannot tell has one piece.
pub fn data_pieces(file: BorrowedFd<'_>, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) if position == 0 => return Ok(vec![(0, size)]),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        pieces.push((start, end - start));
        position = end;
    }
    Ok(pieces)
}

/// Takes bytes and the place in the file where they begin.
pub(crate) type Take<'a, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 'a;

/// Reads the piece of a file, calling `take` with consecutive bytes. `buffer` is to be kept for the next
/// piece: clearing a new one costs more than a small file. Returns how many there were: fewer
/// than `length` when the file ends before.
pub(crate) fn read_piece<E>(
    file: BorrowedFd<'_>,
    offset: u64,
    length: u64,
    buffer: &mut Vec<u8>,
    take: &mut Take<'_, E>,
) -> Result<io::Result<u64>, E> {
    if buffer.len() < BUFFER {
        buffer.resize(BUFFER, 0);
    }
    let mut done = 0;
    while done < length {
        let most = usize::try_from(length - done).unwrap_or(usize::MAX).min(BUFFER);
        let target = buffer.get_mut(..most).unwrap_or_default();
        match rustix::io::pread(file, target, offset + done) {
            Ok(0) => break,
            Ok(count) => {
                take(offset + done, buffer.get(..count).unwrap_or_default())?;
                done += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Ok(Err(error.into())),
        }
    }
    Ok(Ok(done))
}
