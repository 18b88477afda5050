//! A tree as a tar: sorted, without anything that depends on when or where it is written.

use crate::LayerError;
use crate::metadata::{Xattrs, image_xattrs};
use crate::tree::is_whiteout;
use crate::walk::{self, Found, Walk};
use rustix::fs::{FileType, OFlags, Stat, major, minor};
use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::rc::Rc;
use yare_oci::{DiffId, Hasher};

/// What the directory that is written as a tar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// A layer or a container's upper directory: overlay's whiteouts become `.wh.` entries.
    #[default]
    Overlay,
    /// A whole file system.
    Plain,
}

/// How to write a tree as a tar.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// What the tree is.
    pub form: Form,
    /// Begin with an entry `./` for the root directory itself.
    pub root: bool,
    /// The tree may change while it is written: what goes away meanwhile is left out, and a file that shrinks is
    /// filled up with zeros. Otherwise both are errors.
    pub living: bool,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Hash of the tar.
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub size: u64,
    /// Bytes of file content, as Docker counts an image's size.
    pub content: u64,
    /// Entries, whiteouts among them.
    pub entries: u64,
}

const BLOCK: usize = 512;
/// Files at least this large and at most half full are written as sparse (GNU, pax version 1.0).
const SPARSE_FROM: u64 = 1 << 20;

/// Writes the tree below `dir` as a tar: entries sorted, the same tree gives the same bytes. Ustar headers,
/// with pax records for what does not fit. Sockets are left out.
pub fn write_tar(
    dir: BorrowedFd<'_>,
    writer: impl Write,
    options: &WriteOptions,
) -> Result<Written, LayerError> {
    let mut tar = Tar::new(writer, options.form);
    tar.living = options.living;
    if options.root || options.form == Form::Overlay {
        let root = walk::open(dir, b"", OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|error| failed("open", b".", error))?;
        tar.root(&root, options.root)?;
    }
    tar.tree(dir, b"")?;
    tar.finish()
}

/// Writes several whole file systems as one tar, each in a folder of this name, whose owner, mode and time are
/// those of the file system's root. One without a name fills the tar; one with the name of that before it is
/// beside it in the same folder.
pub fn write_trees(trees: &[(&str, BorrowedFd<'_>)], writer: impl Write) -> Result<Written, LayerError> {
    let mut tar = Tar::new(writer, Form::Plain);
    let mut before = "";
    for (name, dir) in trees {
        match *name {
            "" => tar.tree(*dir, b"")?,
            same if same == before => tar.tree(*dir, &[same.as_bytes(), b"/"].concat())?,
            new => tar.folder(*dir, new)?,
        }
        before = name;
    }
    tar.finish()
}

/// Writes one directory of a file system in use, under this name: `etc`, `.`, or nothing for names that begin
/// with a slash.
pub fn write_directory(dir: BorrowedFd<'_>, name: &str, writer: impl Write) -> Result<Written, LayerError> {
    let mut tar = Tar::new(writer, Form::Plain);
    tar.living = true;
    tar.folder(dir, name)?;
    tar.finish()
}

/// Writes one file, link or node of a file system in use, under its name. An error when it is not any more what
/// `stat` says.
pub fn write_file(
    parent: OwnedFd,
    name: CString,
    stat: Stat,
    writer: impl Write,
) -> Result<Written, LayerError> {
    let mut tar = Tar::new(writer, Form::Plain);
    tar.living = true;
    tar.entry(&Found { path: name.as_bytes().to_vec(), name, parent: Rc::new(parent), stat })?;
    tar.finish()
}

fn as_path(path: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(path.to_vec()))
}

fn failed(operation: &'static str, path: &[u8], source: impl Into<io::Error>) -> LayerError {
    LayerError::Io { operation, path: as_path(path), source: source.into() }
}

struct Tar<W> {
    /// For reading files; taken out while it is used.
    buffer: Vec<u8>,
    writer: W,
    hasher: Hasher,
    size: u64,
    content: u64,
    entries: u64,
    /// Where files with several names were written first.
    links: HashMap<(u64, u64), Vec<u8>>,
    form: Form,
    living: bool,
}

/// One header to be.
struct Head<'a> {
    path: &'a [u8],
    link: &'a [u8],
    typeflag: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanos: u32,
    /// Bytes of data in the archive.
    size: u64,
    device: (u32, u32),
    /// Further pax records.
    records: Xattrs,
}

impl<'a> Head<'a> {
    fn of(stat: &Stat, path: &'a [u8], typeflag: u8) -> Self {
        Self {
            path,
            link: &[],
            typeflag,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            seconds: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            size: 0,
            device: (0, 0),
            records: Vec::new(),
        }
    }

    /// A marker that has no attributes of its own.
    fn marker(path: &'a [u8]) -> Self {
        Self {
            path,
            link: &[],
            typeflag: b'0',
            mode: 0,
            uid: 0,
            gid: 0,
            seconds: 0,
            nanos: 0,
            size: 0,
            device: (0, 0),
            records: Vec::new(),
        }
    }
}

fn is_opaque(fd: BorrowedFd<'_>) -> io::Result<bool> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        if yare_sys::fs::xattr(fd, name)?.as_deref() == Some(b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

impl<W: Write> Tar<W> {
    fn new(writer: W, form: Form) -> Self {
        Self {
            buffer: Vec::new(),
            writer,
            hasher: Hasher::new(),
            size: 0,
            content: 0,
            entries: 0,
            links: HashMap::new(),
            form,
            living: false,
        }
    }

    /// A directory under this name, and everything below it.
    fn folder(&mut self, dir: BorrowedFd<'_>, name: &str) -> Result<(), LayerError> {
        let name = [name.as_bytes(), b"/"].concat();
        let stat = rustix::fs::fstat(dir).map_err(|error| failed("stat", &name, error))?;
        self.head(&Head { records: xattr_records(dir, &name)?, ..Head::of(&stat, &name, b'5') })?;
        self.tree(dir, &name)
    }

    /// Everything below a directory, with `prefix` before each path.
    fn tree(&mut self, dir: BorrowedFd<'_>, prefix: &[u8]) -> Result<(), LayerError> {
        self.links.clear();
        let mut walk = Walk::new(dir).map_err(|error| failed("list", b".", error))?;
        while let Some(mut found) = walk.advance().map_err(|error| failed("list", b".", error))? {
            found.path.splice(..0, prefix.iter().copied());
            match self.entry(&found) {
                // Nothing of it is written yet: every entry is opened before its head.
                Err(error) if self.living && error.is_gone() => {
                    self.links.retain(|_, first| *first != found.path);
                }
                written => written?,
            }
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(LayerError::Write)
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), LayerError> {
        while count > 0 {
            let piece = count.min(BLOCK as u64);
            self.put([0; BLOCK].get(..piece as usize).unwrap_or_default())?;
            count -= piece;
        }
        Ok(())
    }

    fn pad(&mut self) -> Result<(), LayerError> {
        let over = (self.size % BLOCK as u64) as usize;
        if over != 0 {
            self.put([0; BLOCK].get(over..).unwrap_or_default())?;
        }
        Ok(())
    }

    fn root(&mut self, fd: &OwnedFd, listed: bool) -> Result<(), LayerError> {
        let stat = rustix::fs::fstat(fd).map_err(|error| failed("stat", b".", error))?;
        if listed {
            let mut head = Head::of(&stat, b"./", b'5');
            head.records = xattr_records(fd.as_fd(), b".")?;
            self.head(&head)?;
        }
        if self.form == Form::Overlay && is_opaque(fd.as_fd()).map_err(|error| failed("read", b".", error))? {
            self.head(&Head::marker(b".wh..wh..opq"))?;
        }
        Ok(())
    }

    fn entry(&mut self, found: &Found) -> Result<(), LayerError> {
        self.entries += 1;
        let path = found.path.as_slice();
        let kind = found.kind();
        if self.form == Form::Overlay && is_whiteout(&found.stat) {
            let name = found.name.as_bytes();
            let parent = path.get(..path.len() - name.len()).unwrap_or_default();
            return self.head(&Head::marker(&[parent, b".wh.", name].concat()));
        }
        if kind == FileType::Socket {
            return Ok(());
        }
        if kind != FileType::Directory && found.stat.st_nlink > 1 {
            let id = (found.stat.st_dev, found.stat.st_ino);
            if let Some(first) = self.links.get(&id) {
                let first = first.clone();
                let mut head = Head::of(&found.stat, path, b'1');
                head.link = &first;
                return self.head(&head);
            }
            self.links.insert(id, path.to_vec());
        }
        if kind == FileType::RegularFile {
            return self.regular(found);
        }
        let fd = found.open_path().map_err(|error| failed("open", path, error))?;
        let records = xattr_records(fd.as_fd(), path)?;
        match kind {
            FileType::Directory => {
                let slash = [path, b"/"].concat();
                self.head(&Head { records, ..Head::of(&found.stat, &slash, b'5') })?;
                if self.form == Form::Overlay
                    && is_opaque(fd.as_fd()).map_err(|error| failed("read", path, error))?
                {
                    self.head(&Head::marker(&[path, b"/.wh..wh..opq"].concat()))?;
                }
                Ok(())
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(&fd, c"", Vec::new())
                    .map_err(|error| failed("read link", path, error))?;
                self.head(&Head { records, link: link.as_bytes(), ..Head::of(&found.stat, path, b'2') })
            }
            FileType::Fifo => self.head(&Head { records, ..Head::of(&found.stat, path, b'6') }),
            kind => {
                let typeflag = if kind == FileType::CharacterDevice { b'3' } else { b'4' };
                let device = (major(found.stat.st_rdev), minor(found.stat.st_rdev));
                self.head(&Head { records, device, ..Head::of(&found.stat, path, typeflag) })
            }
        }
    }

    fn regular(&mut self, found: &Found) -> Result<(), LayerError> {
        let path = found.path.as_slice();
        let file = found
            .open(OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)
            .map_err(|error| failed("open", path, error))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| failed("stat", path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(LayerError::Changed(as_path(path)));
        }
        let mut records = xattr_records(file.as_fd(), path)?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        self.content += size;
        let used = u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512);
        if size < SPARSE_FROM || used > size / 2 {
            self.head(&Head { records, size, ..Head::of(&stat, path, b'0') })?;
            self.content(&file, path, &[(0, size)])?;
            return self.pad();
        }
        let pieces = walk::data_pieces(file.as_fd(), size)
            .map_err(|error| failed("find the holes of", path, error))?;
        let map = sparse_map(&pieces, size);
        records.push((b"GNU.sparse.major".to_vec(), b"1".to_vec()));
        records.push((b"GNU.sparse.minor".to_vec(), b"0".to_vec()));
        records.push((b"GNU.sparse.name".to_vec(), path.to_vec()));
        records.push((b"GNU.sparse.realsize".to_vec(), size.to_string().into_bytes()));
        let shown = with_directory(path, b"GNUSparseFile.0");
        let stored = map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>();
        self.head(&Head { records, size: stored, ..Head::of(&stat, &shown, b'0') })?;
        self.put(&map)?;
        self.content(&file, path, &pieces)?;
        self.pad()
    }

    fn content(&mut self, file: &OwnedFd, path: &[u8], pieces: &[(u64, u64)]) -> Result<(), LayerError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        for (offset, length) in pieces {
            let mut take = |_, bytes: &[u8]| self.put(bytes);
            let read = walk::read_piece(file.as_fd(), *offset, *length, &mut buffer, &mut take)?;
            let missing = *length - read.map_err(|error| failed("read", path, error))?;
            if missing != 0 && !self.living {
                return Err(LayerError::Changed(as_path(path)));
            }
            self.zeros(missing)?;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Writes a header, before it the pax records of what does not fit into it.
    fn head(&mut self, head: &Head<'_>) -> Result<(), LayerError> {
        let mut block = Block::new(head.typeflag);
        let mut records = Vec::new();
        if !block.name(head.path) {
            records.push((b"path".to_vec(), head.path.to_vec()));
        }
        if !block.bytes(157, 100, head.link) {
            records.push((b"linkpath".to_vec(), head.link.to_vec()));
        }
        block.number(100, 8, head.mode.into());
        for (offset, key, id) in [(108, "uid", head.uid), (116, "gid", head.gid)] {
            if !block.number(offset, 8, id.into()) {
                records.push((key.into(), id.to_string().into_bytes()));
            }
        }
        if !block.number(124, 12, head.size) {
            records.push((b"size".to_vec(), head.size.to_string().into_bytes()));
        }
        let fits = u64::try_from(head.seconds).is_ok_and(|seconds| block.number(136, 12, seconds));
        if !fits || head.nanos != 0 {
            records.push((b"mtime".to_vec(), time_record(head.seconds, head.nanos)));
        }
        if matches!(head.typeflag, b'3' | b'4') {
            block.number(329, 8, head.device.0.into());
            block.number(337, 8, head.device.1.into());
        }
        records.extend(head.records.iter().cloned());
        if !records.is_empty() {
            self.pax(head.path, records)?;
        }
        self.put(&block.finish())
    }

    fn pax(&mut self, path: &[u8], mut records: Xattrs) -> Result<(), LayerError> {
        records.sort_unstable();
        let mut data = Vec::new();
        for (key, value) in &records {
            pax_record(&mut data, key, value);
        }
        let mut block = Block::new(b'x');
        let name = with_directory(path, b"PaxHeaders.0");
        if !block.name(&name) {
            block.bytes(0, 100, b"PaxHeaders.0/long");
        }
        block.number(100, 8, 0o644);
        block.number(108, 8, 0);
        block.number(116, 8, 0);
        block.number(124, 12, data.len() as u64);
        block.number(136, 12, 0);
        self.put(&block.finish())?;
        self.put(&data)?;
        self.pad()
    }

    fn finish(mut self) -> Result<Written, LayerError> {
        self.put(&[0; 2 * BLOCK])?;
        self.writer.flush().map_err(LayerError::Write)?;
        Ok(Written {
            diff_id: DiffId(self.hasher.finish()),
            size: self.size,
            content: self.content,
            entries: self.entries,
        })
    }
}

/// A path with a directory put between its parent and its name.
fn with_directory(path: &[u8], directory: &[u8]) -> Vec<u8> {
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    let slash = trimmed.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (parent, name) = trimmed.split_at(slash);
    [parent, directory, b"/", name].concat()
}

fn xattr_records(fd: BorrowedFd<'_>, path: &[u8]) -> Result<Xattrs, LayerError> {
    let xattrs = image_xattrs(fd).map_err(|error| failed("read the extended attributes of", path, error))?;
    // A name with `=` cannot be expressed as a record.
    let usable = xattrs.into_iter().filter(|(name, _)| !name.contains(&b'='));
    Ok(usable.map(|(name, value)| ([b"SCHILY.xattr.", name.as_slice()].concat(), value)).collect())
}

/// `<length> <key>=<value>\n`, where the length counts itself.
fn pax_record(data: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    data.extend_from_slice(length.to_string().as_bytes());
    data.push(b' ');
    data.extend_from_slice(key);
    data.push(b'=');
    data.extend_from_slice(value);
    data.push(b'\n');
}

/// `[-]seconds[.nanoseconds]` without trailing zeros.
fn time_record(seconds: i64, nanos: u32) -> Vec<u8> {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, part) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    let text = if part == 0 {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{}", format!("{part:09}").trim_end_matches('0'))
    };
    text.into_bytes()
}

/// The map of GNU's version 1.0, padded to whole blocks. Ends with an empty piece at the file's end, as
/// GNU tar writes it.
fn sparse_map(pieces: &[(u64, u64)], size: u64) -> Vec<u8> {
    let ends_in_hole = pieces.last().is_none_or(|(offset, length)| offset + length < size);
    let extra = ends_in_hole.then_some((size, 0));
    let all: Vec<(u64, u64)> = pieces.iter().copied().chain(extra).collect();
    let mut map = format!("{}\n", all.len());
    for (offset, length) in all {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

struct Block([u8; BLOCK]);

impl Block {
    fn new(typeflag: u8) -> Self {
        let mut block = Self([0; BLOCK]);
        block.bytes(257, 8, b"ustar\x0000");
        block.0[156] = typeflag;
        block
    }

    /// Puts as much as fits; `true` when that was all of it and plain ASCII.
    fn bytes(&mut self, offset: usize, length: usize, bytes: &[u8]) -> bool {
        let count = bytes.len().min(length);
        if let (Some(target), Some(source)) = (self.0.get_mut(offset..offset + count), bytes.get(..count)) {
            target.copy_from_slice(source);
        }
        count == bytes.len() && bytes.is_ascii()
    }

    /// Puts a name, split between prefix and name if need be.
    fn name(&mut self, path: &[u8]) -> bool {
        if path.len() <= 100 {
            return self.bytes(0, 100, path);
        }
        let split = path
            .iter()
            .enumerate()
            .take(156)
            .find(|(index, byte)| **byte == b'/' && *index > 0 && path.len() - index - 1 <= 100)
            .map(|(index, _)| index)
            .filter(|index| path.len() - index > 1);
        match split {
            Some(index) if path.is_ascii() => {
                let (prefix, name) = path.split_at(index);
                self.bytes(345, 155, prefix);
                self.bytes(0, 100, name.get(1..).unwrap_or_default())
            }
            _ => {
                self.bytes(0, 100, OsStr::from_bytes(path).as_bytes());
                false
            }
        }
    }

    /// Puts a number in octal with a closing NUL; `false`, and zero, when it does not fit.
    fn number(&mut self, offset: usize, length: usize, value: u64) -> bool {
        let digits = length - 1;
        let fits = value < 1_u64 << (3 * digits as u32);
        let value = if fits { value } else { 0 };
        self.bytes(offset, digits, format!("{value:0digits$o}").as_bytes());
        fits
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.bytes(148, 8, b"        ");
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.number(148, 7, sum);
        self.0[154] = 0;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_count_their_own_length() {
        for length in [1, 80, 90, 91, 92, 93, 94, 95, 96, 980, 990, 994, 995, 996] {
            let mut data = Vec::new();
            pax_record(&mut data, b"k", &vec![b'v'; length]);
            let text = String::from_utf8(data.clone()).unwrap();
            let count: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(count, data.len(), "{length}");
        }
    }

    #[test]
    fn times_before_1970() {
        assert_eq!(time_record(-2, 500_000_000), b"-1.5");
        assert_eq!(time_record(1, 0), b"1");
        assert_eq!(time_record(1, 10), b"1.00000001");
    }
}
