//! Reading: the whole, the end of it, and what is being written.

use crate::compress::Positioned;
use crate::files::{self, Opened};
use crate::format::{Entry, Stream};
use crate::{LogError, Result};
use flate2::bufread::GzDecoder;
use jiff::{SignedDuration, Timestamp};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes of a file read at once.
const CHUNK: usize = 64 << 10;

/// A line longer than this is no entry: an entry has at most six bytes for one of its text, plus attributes.
const LONGEST: usize = 4 << 20;

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Entries of standard output.
    pub stdout: bool,
    /// Entries of standard error.
    pub stderr: bool,
    /// Only the last so many entries, of both streams together, as Docker counts; before `since` is applied.
    pub tail: Option<u64>,
    /// Only entries of this time or later.
    pub since: Option<Timestamp>,
    /// Only entries up to this time; the first later one ends the reading.
    pub until: Option<Timestamp>,
    /// Go on with what is written later, also into files that are begun later.
    pub follow: bool,
}

/// Reads a log in order, through rotated and compressed files, while it is being written.
///
/// [`Reader::next_chunk`] gives what there is. With `follow`, its `None` means "nothing yet": wait until a
/// [`Watch`](crate::Watch) says that the log may have grown, and ask again. Whoever knows that the container has
/// ended asks until `None` once more and stops; the log is complete by then.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    options: ReadOptions,
    /// Files to read after `current`, in order.
    queue: VecDeque<Source>,
    current: Option<Source>,
    /// The start of a line whose end has not been read.
    partial: Vec<u8>,
    done: bool,
}

#[derive(Debug)]
struct Source {
    inode: u64,
    kind: Kind,
    /// Whole lines still to be passed over.
    skip: u64,
}

#[derive(Debug)]
enum Kind {
    Plain {
        file: File,
        offset: u64,
        /// Where to stop when not following; a fast writer would keep the reader for ever.
        end: u64,
    },
    Compressed(Box<GzDecoder<BufReader<File>>>),
}

impl Reader {
    /// Opens the log with the files there are now. A log that does not exist yet is empty.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn open(path: &Path, options: ReadOptions) -> Result<Self> {
        let mut snapshot = files::snapshot(path)?;
        let skips = match options.tail {
            Some(tail) => select_tail(&mut snapshot, tail).map_err(LogError::file("read", path))?,
            None => vec![0; snapshot.len()],
        };
        let mut queue = VecDeque::new();
        for (opened, skip) in snapshot.into_iter().zip(skips) {
            if !ends_before(&opened, options.since) {
                queue.push_front(
                    Source::new(opened, skip, options.follow).map_err(LogError::file("read", path))?,
                );
            }
        }
        let current = queue.pop_front();
        Ok(Self { path: path.to_owned(), options, queue, current, partial: Vec::new(), done: false })
    }

    /// The next entries, at least one; `None` when there are no more, with `follow`: for now.
    ///
    /// Lines that are no entries (torn by a crash) are passed over.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<Entry>>> {
        while !self.done {
            let Some(bytes) = self.read().map_err(LogError::file("read", &self.path))? else {
                if self.advance()? {
                    continue;
                }
                return Ok(None);
            };
            let entries = self.take_entries(bytes);
            if !entries.is_empty() {
                return Ok(Some(entries));
            }
        }
        Ok(None)
    }

    /// Whether an entry later than `until` was met: nothing will follow.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// More bytes of the current file; `None` at its end.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(source) = &mut self.current else { return Ok(None) };
        let mut bytes = std::mem::take(&mut self.partial);
        let start = bytes.len();
        bytes.resize(start + CHUNK, 0);
        let length = source.read(&mut bytes[start..])?;
        bytes.truncate(start + length);
        if length == 0 {
            self.partial = bytes;
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    /// Whole lines of `bytes` as entries that are wanted; the rest is kept.
    fn take_entries(&mut self, bytes: Vec<u8>) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut rest = &bytes[..];
        let source = self.current.as_mut().expect("bytes came from it");
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if source.skip > 0 {
                source.skip -= 1;
                continue;
            }
            let Some(entry) = Entry::parse(line) else { continue };
            if self.options.until.is_some_and(|until| entry.time > until) {
                self.done = true;
                break;
            }
            if self.options.wants(&entry) {
                entries.push(entry);
            }
        }
        self.partial = if rest.len() > LONGEST { Vec::new() } else { rest.to_vec() };
        entries
    }

    /// Goes on to the next file, if the current one is complete and there is one.
    fn advance(&mut self) -> Result<bool> {
        if self.queue.is_empty() && !(self.options.follow && self.find_successors()?) {
            return Ok(false);
        }
        let next = self.queue.pop_front();
        if next.is_some() {
            self.current = next;
            self.partial.clear();
        }
        Ok(true)
    }

    /// At the end of the last known file: whether there is more in it after all, or files after it.
    ///
    /// The file is complete once its name belongs to another; what was written before that moment is in it,
    /// so it is read to its end once more after the name was seen to move.
    fn find_successors(&mut self) -> Result<bool> {
        let Some(current) = &self.current else {
            self.queue = self.open_successors(files::snapshot(&self.path)?)?;
            return Ok(!self.queue.is_empty());
        };
        match files::inode_of(&self.path) {
            None => return Ok(false),
            Some(inode) if inode == current.inode && current.is_plain() => {
                return Ok(self.rewind_if_truncated());
            }
            Some(_) if current.has_more() => return Ok(true),
            Some(_) => {}
        }
        let mut snapshot = files::snapshot(&self.path)?;
        let own = snapshot.iter().position(|file| current.is(file)).unwrap_or(snapshot.len());
        snapshot.truncate(own);
        self.queue = self.open_successors(snapshot)?;
        Ok(!self.queue.is_empty())
    }

    /// People empty a log that is too large with `truncate`; what is written then starts anew.
    fn rewind_if_truncated(&mut self) -> bool {
        let Some(Source { kind: Kind::Plain { file, offset, .. }, .. }) = &mut self.current else {
            return false;
        };
        let truncated = file.metadata().is_ok_and(|metadata| metadata.size() < *offset);
        if truncated {
            *offset = 0;
            self.partial.clear();
        }
        truncated
    }

    fn open_successors(&self, newest_first: Vec<Opened>) -> Result<VecDeque<Source>> {
        let oldest_first = newest_first.into_iter().rev();
        let sources = oldest_first.map(|opened| Source::new(opened, 0, true)).collect::<io::Result<_>>();
        sources.map_err(LogError::file("read", &self.path))
    }
}

impl ReadOptions {
    fn wants(&self, entry: &Entry) -> bool {
        let stream = match entry.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        stream && self.since.is_none_or(|since| entry.time >= since)
    }
}

impl Source {
    fn new(opened: Opened, skip: u64, follow: bool) -> io::Result<Self> {
        let inode = opened.inode;
        if opened.name.compressed {
            let reader = BufReader::with_capacity(CHUNK, opened.file);
            return Ok(Self { inode, kind: Kind::Compressed(Box::new(GzDecoder::new(reader))), skip });
        }
        // `select_tail` counts bytes of plain files and lines of compressed ones.
        let end = if follow { u64::MAX } else { opened.file.metadata()?.size() };
        Ok(Self { inode, kind: Kind::Plain { file: opened.file, offset: skip, end }, skip: 0 })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Plain { file, offset, end } => {
                let room = usize::try_from(*end - *offset).unwrap_or(usize::MAX).min(buffer.len());
                let length = file.read_at(&mut buffer[..room], *offset)?;
                *offset += length as u64;
                Ok(length)
            }
            // A damaged file ends where the damage is.
            Kind::Compressed(decoder) => match decoder.read(buffer) {
                Err(error) if is_damage(&error) => Ok(0),
                other => other,
            },
        }
    }

    fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::Plain { .. })
    }

    fn has_more(&self) -> bool {
        match &self.kind {
            Kind::Plain { file, offset, .. } => {
                file.metadata().is_ok_and(|metadata| metadata.size() > *offset)
            }
            Kind::Compressed(_) => false,
        }
    }

    /// Whether `other` has the same entries: the same file, or what the file was compressed to.
    ///
    /// Inodes are used again once a file is gone, but this source holds its own. Against a compressed file
    /// only the first entry tells: its time is unique in the log.
    fn is(&self, other: &Opened) -> bool {
        match &self.kind {
            _ if !other.name.compressed && self.is_plain() => self.inode == other.inode,
            Kind::Plain { file, .. } => {
                let own = first_line(Positioned { file, offset: 0 });
                own.is_some() && own == first_line(GzDecoder::new(BufReader::new(other.at_start())))
            }
            Kind::Compressed(_) => other.name.compressed && self.inode == other.inode,
        }
    }
}

impl Opened {
    fn at_start(&self) -> Positioned<'_> {
        Positioned { file: &self.file, offset: 0 }
    }
}

fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

fn first_line(mut source: impl Read) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    while line.len() < LONGEST {
        let length = source.read(&mut buffer).ok().filter(|length| *length > 0)?;
        if let Some(end) = buffer[..length].iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&buffer[..end]);
            return Some(line);
        }
        line.extend_from_slice(&buffer[..length]);
    }
    None
}

/// Whether a rotated file's last entry is older than `since`; when in doubt, it is not.
fn ends_before(opened: &Opened, since: Option<Timestamp>) -> bool {
    /// File times come from a coarser clock than entries.
    const SLACK: SignedDuration = SignedDuration::from_secs(2);
    let Some(since) = since.filter(|_| opened.name.index > 0) else { return false };
    if opened.name.compressed {
        let decoder = GzDecoder::new(BufReader::new(opened.at_start()));
        let extra = decoder.header().and_then(flate2::GzHeader::extra);
        return extra.and_then(last_time).is_some_and(|last| last < since);
    }
    let modified = opened.file.metadata().ok().and_then(|metadata| metadata.modified().ok());
    modified
        .and_then(|time| Timestamp::try_from(time).ok())
        .is_some_and(|modified| modified.saturating_add(SLACK).is_ok_and(|modified| modified < since))
}

/// The time in the extra field of a compressed file.
fn last_time(extra: &[u8]) -> Option<Timestamp> {
    let value: serde_json::Value = serde_json::from_slice(extra).ok()?;
    value.get("lastTime")?.as_str()?.parse().ok()
}

/// Drops the files that the last `tail` lines do not need, and gives for each of the others where to start:
/// a byte offset for a plain file, a number of lines for a compressed one.
fn select_tail(newest_first: &mut Vec<Opened>, tail: u64) -> io::Result<Vec<u64>> {
    let mut starts = Vec::new();
    let mut wanted = tail;
    for opened in newest_first.iter() {
        if wanted == 0 && !starts.is_empty() {
            break;
        }
        let (start, found) = if opened.name.compressed {
            let lines = count_lines(GzDecoder::new(BufReader::new(opened.at_start())))?;
            (lines.saturating_sub(wanted), lines)
        } else {
            last_lines(&opened.file, wanted)?
        };
        wanted = wanted.saturating_sub(found);
        starts.push(start);
    }
    newest_first.truncate(starts.len());
    Ok(starts)
}

fn count_lines(mut source: impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut lines = 0;
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(lines),
            Ok(length) => lines += newlines(&buffer[..length]),
            Err(error) if is_damage(&error) => return Ok(lines),
            Err(error) => return Err(error),
        }
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Where the last `wanted` whole lines start, and how many there are: blocks are read from the end, so that
/// a long file costs no more than a short one.
fn last_lines(file: &File, wanted: u64) -> io::Result<(u64, u64)> {
    let size = file.metadata()?.size();
    let mut block = vec![0; CHUNK];
    let mut end = size;
    let mut seen = 0;
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let bytes = &mut block[..(end - start) as usize];
        file.read_exact_at(bytes, start)?;
        let here = newlines(bytes);
        if seen + here > wanted {
            // One newline too many: the lines wanted start after it.
            let mut extra = seen + here - wanted;
            let mut offset = start;
            for (position, byte) in bytes.iter().enumerate() {
                if *byte == b'\n' {
                    extra -= 1;
                    if extra == 0 {
                        offset = start + position as u64 + 1;
                        break;
                    }
                }
            }
            return Ok((offset, wanted));
        }
        seen += here;
        end = start;
    }
    Ok((0, seen))
}
