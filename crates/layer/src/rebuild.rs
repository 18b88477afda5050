//! The exact bytes of the tar from which a layer was applied.

use crate::LayerError;
use crate::record::{END, FILE, Fields, LOST, MAGIC, VERBATIM};
use crate::tar::Segment;
use crate::walk;
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use yare_oci::{DiffId, Digest, Hasher};

fn damaged(error: io::Error) -> LayerError {
    LayerError::Record(error.to_string())
}

fn failed(operation: &'static str, path: &[u8], source: impl Into<io::Error>) -> LayerError {
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    LayerError::Io { operation, path, source: source.into() }
}

/// Opens the record at its beginning.
fn fields(mut record: impl Read + Seek) -> Result<Fields<impl Read>, LayerError> {
    let mut magic = [0; MAGIC.len()];
    record.seek(SeekFrom::Start(0)).and_then(|_| record.read_exact(&mut magic)).map_err(damaged)?;
    if &magic != MAGIC {
        return Err(LayerError::Record("it is of another version, or none".into()));
    }
    let decoder = zstd::stream::read::Decoder::new(record).map_err(damaged)?;
    Ok(Fields::new(BufReader::with_capacity(64 * 1024, decoder)))
}

/// Writes the tar from which the layer in `dir` was applied, byte for byte, and returns its hash, which was
/// compared with the one in the record. Content that changed since is an error, but only after it was
/// written.
pub fn rebuild_tar(
    dir: BorrowedFd<'_>,
    mut record: impl Read + Seek,
    mut writer: impl Write,
) -> Result<DiffId, LayerError> {
    let lost = Lost::gather(dir, &mut record)?;
    let mut output = Output { buffer: Vec::new(), writer: &mut writer, hasher: Hasher::new(), size: 0 };
    let mut fields = fields(record)?;
    let mut ordinal = 0;
    loop {
        match fields.byte().map_err(damaged)? {
            VERBATIM => output.write(&fields.bytes().map_err(damaged)?)?,
            FILE => {
                let path = fields.bytes().map_err(damaged)?;
                let pieces = fields.pieces().map_err(damaged)?;
                let crc = u32::from_le_bytes(fields.array().map_err(damaged)?);
                let written = match lost.contents.get(&ordinal) {
                    Some(content) => lost.write(content, &pieces, &mut output)?,
                    None => write_file(dir, &path, &pieces, &mut output)?,
                };
                if written != crc {
                    return Err(LayerError::Changed(PathBuf::from(OsString::from_vec(path))));
                }
                ordinal += 1;
            }
            LOST => drop(skip_lost(&mut fields)?),
            END => break,
            tag => return Err(LayerError::Record(format!("it has a record of unknown kind {tag}"))),
        }
    }
    let size = fields.number().map_err(damaged)?;
    let expected = Digest::from_bytes(fields.array().map_err(damaged)?);
    let digest = output.hasher.finish();
    if digest != expected || size != output.size {
        return Err(LayerError::Record(format!("it gives {digest}, the layer was {expected}")));
    }
    writer.flush().map_err(LayerError::Write)?;
    Ok(DiffId(digest))
}

struct Output<'w> {
    /// For reading files; taken out while it is used.
    buffer: Vec<u8>,
    writer: &'w mut dyn Write,
    hasher: Hasher,
    size: u64,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(LayerError::Write)
    }
}

/// Writes the pieces of a file of the layer and returns their CRC-32.
fn write_file(
    dir: BorrowedFd<'_>,
    path: &[u8],
    pieces: &[Segment],
    output: &mut Output<'_>,
) -> Result<u32, LayerError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = walk::open(dir, path, flags).map_err(|error| failed("open", path, error))?;
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = std::mem::take(&mut output.buffer);
    for piece in pieces {
        let mut take = |_, bytes: &[u8]| {
            crc.update(bytes);
            output.write(bytes)
        };
        let read = walk::read_piece(file.as_fd(), piece.offset, piece.length, &mut buffer, &mut take)?;
        if read.map_err(|error| failed("read", path, error))? != piece.length {
            return Err(LayerError::Changed(PathBuf::from(OsString::from_vec(path.to_vec()))));
        }
    }
    output.buffer = buffer;
    Ok(crc.finalize())
}

/// A piece of content: where it was in its file, and where it is in the arena.
struct Extent {
    offset: u64,
    length: u64,
    kept_at: u64,
}

/// Contents that later entries of the same tar replaced, in one nameless file. Nearly every layer has none.
struct Lost {
    arena: Option<OwnedFd>,
    /// By the ordinal of the FILE record.
    contents: HashMap<u64, Vec<Extent>>,
}

impl Lost {
    fn gather(dir: BorrowedFd<'_>, record: &mut (impl Read + Seek)) -> Result<Self, LayerError> {
        let mut lost = Self { arena: None, contents: HashMap::new() };
        let paths = lost_paths(&mut fields(&mut *record)?)?;
        if paths.is_empty() {
            return Ok(lost);
        }
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let arena = rustix::fs::openat(dir, ".", flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed("make a temporary file in", b".", error))?;
        let mut last: HashMap<Vec<u8>, Option<u64>> = paths.into_iter().map(|path| (path, None)).collect();
        let mut fields = fields(&mut *record)?;
        let (mut ordinal, mut end) = (0, 0);
        loop {
            match fields.byte().map_err(damaged)? {
                VERBATIM => drop(fields.bytes().map_err(damaged)?),
                FILE => {
                    let path = fields.bytes().map_err(damaged)?;
                    fields.pieces().and_then(|_| fields.array::<4>()).map_err(damaged)?;
                    if let Some(last) = last.get_mut(&path) {
                        *last = Some(ordinal);
                    }
                    ordinal += 1;
                }
                LOST => {
                    let path = fields.bytes().map_err(damaged)?;
                    let extents = read_lost(&mut fields, &arena, &mut end)?;
                    // A hard link that was replaced has no FILE of its own.
                    if let Some(ordinal) = last.get_mut(&path).and_then(Option::take) {
                        lost.contents.insert(ordinal, extents);
                    }
                }
                _ => break,
            }
        }
        lost.arena = Some(arena);
        Ok(lost)
    }

    fn write(
        &self,
        content: &[Extent],
        pieces: &[Segment],
        output: &mut Output<'_>,
    ) -> Result<u32, LayerError> {
        let Some(arena) = &self.arena else {
            return Err(LayerError::Record("content of a replaced file is missing".into()));
        };
        let mut crc = crc32fast::Hasher::new();
        let mut buffer = Vec::new();
        for piece in pieces {
            let mut position = piece.offset;
            let end = piece.offset.saturating_add(piece.length);
            while position < end {
                let extent = content.iter().find(|extent| extent.offset + extent.length > position);
                let until = extent.map_or(end, |extent| extent.offset.clamp(position, end));
                let mut take = |_, bytes: &[u8]| {
                    crc.update(bytes);
                    output.write(bytes)
                };
                if until > position {
                    // A hole: bytes that were zero.
                    let zeros = [0; 4096];
                    let count = (until - position).min(zeros.len() as u64);
                    take(
                        position,
                        zeros.get(..usize::try_from(count).unwrap_or_default()).unwrap_or_default(),
                    )?;
                    position += count;
                } else if let Some(extent) = extent {
                    let skip = position - extent.offset;
                    let length = (extent.length - skip).min(end - position);
                    walk::read_piece(arena.as_fd(), extent.kept_at + skip, length, &mut buffer, &mut take)?
                        .map_err(|error| failed("read the temporary file in", b".", error))?;
                    position += length;
                }
            }
        }
        Ok(crc.finalize())
    }
}

/// The paths of all LOST records.
fn lost_paths(fields: &mut Fields<impl Read>) -> Result<Vec<Vec<u8>>, LayerError> {
    let mut paths = Vec::new();
    loop {
        match fields.byte().map_err(damaged)? {
            VERBATIM => drop(fields.bytes().map_err(damaged)?),
            FILE => {
                fields.bytes().map_err(damaged)?;
                fields.pieces().and_then(|_| fields.array::<4>()).map_err(damaged)?;
            }
            LOST => paths.push(skip_lost(fields)?),
            _ => return Ok(paths),
        }
    }
}

/// Passes over a LOST record and returns its path.
fn skip_lost(fields: &mut Fields<impl Read>) -> Result<Vec<u8>, LayerError> {
    let path = fields.bytes().map_err(damaged)?;
    while !fields.number().and_then(|_| fields.bytes()).map_err(damaged)?.is_empty() {}
    Ok(path)
}

/// Copies the content of a LOST record to the end of the arena.
fn read_lost(
    fields: &mut Fields<impl Read>,
    arena: &OwnedFd,
    end: &mut u64,
) -> Result<Vec<Extent>, LayerError> {
    let mut extents: Vec<Extent> = Vec::new();
    loop {
        let offset = fields.number().map_err(damaged)?;
        let bytes = fields.bytes().map_err(damaged)?;
        if bytes.is_empty() {
            return Ok(extents);
        }
        yare_sys::fs::write_all(arena, &bytes)
            .map_err(|error| failed("write the temporary file in", b".", error))?;
        let length = bytes.len() as u64;
        match extents.last_mut() {
            Some(last) if last.offset + last.length == offset => last.length += length,
            _ => extents.push(Extent { offset, length, kept_at: *end }),
        }
        *end += length;
    }
}
