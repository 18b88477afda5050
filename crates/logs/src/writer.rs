//! Writing and rotating.

use crate::compress::Compression;
use crate::files::{self, Name};
use crate::format::{Encoder, Stream};
use crate::lines::Lines;
use crate::{LogError, Result};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Encoded bytes after which they are written without waiting for [`Writer::flush`].
const BATCH: usize = 128 << 10;

/// How a log is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriterOptions {
    /// Bytes beyond which the file is rotated before the next entry; `None` never rotates.
    pub max_size: Option<u64>,
    /// How many files there are at most, the current one included; 0 counts as 1.
    pub max_file: u32,
    /// Whether rotated files are to be compressed.
    pub compress: bool,
    /// Written with each entry.
    pub attrs: BTreeMap<String, String>,
}

/// Writes one log. Entries are collected and written by [`Writer::flush`], one `write` for many; nothing is synced.
///
/// A full disk loses entries and nothing else: the file always ends with a whole entry, the caller goes on
/// and hears how many were lost.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    options: WriterOptions,
    /// `None` before the first entry, and while it cannot be opened.
    file: Option<File>,
    /// Bytes in `file`.
    size: u64,
    /// Whole entries that are not in `file` yet.
    out: Vec<u8>,
    encoder: Encoder,
    lines: Lines,
    last: Timestamp,
    /// The rotated file that is being compressed. It is told by its inode, which belongs to it for as long as it is
    /// open: were it closed, the filesystem would give the number of a file that was rotated away to a new one.
    compressing: Option<Arc<File>>,
    may_compress: bool,
    failure: Option<LogError>,
}

impl Writer {
    /// A log that is opened or created with its first entry: a container that says nothing costs no file.
    /// What a crash left is cleared away then: a torn last line, temporary files, and files beyond `max_file`.
    pub fn new(path: &Path, options: WriterOptions) -> Self {
        Self {
            path: path.to_owned(),
            may_compress: false,
            encoder: Encoder::new(&options.attrs),
            options,
            file: None,
            size: 0,
            out: Vec::new(),
            lines: Lines::default(),
            last: Timestamp::MIN,
            compressing: None,
            failure: None,
        }
    }

    /// As [`Writer::new`], opened at once.
    ///
    /// # Errors
    /// The file cannot be created or read.
    pub fn open(path: &Path, options: WriterOptions) -> Result<Self> {
        let mut writer = Self::new(path, options);
        writer.open_current()?;
        Ok(writer)
    }

    fn open_current(&mut self) -> Result<()> {
        let (file, size) = open_file(&self.path)?;
        if size > 0 {
            sweep(&self.path, self.files());
        }
        self.file = Some(file);
        self.size = size;
        self.may_compress = self.options.compress;
        Ok(())
    }

    /// Adds output as it was read from the container; lines may be cut anywhere. `now` is the time of the
    /// first entry that it completes.
    ///
    /// # Errors
    /// [`LogError::Lost`] when entries were lost on the way, of this call or earlier ones; all input has been
    /// consumed all the same.
    pub fn append(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> Result<()> {
        self.last = self.last.max(now);
        if self.file.is_none() {
            // A failure shows when the entries are to be written.
            let _ = self.open_current();
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(stream, bytes, &mut |text, whole| self.entry(stream, text, whole));
        self.lines = lines;
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Ends a stream: an unfinished line is written as it is, without a newline, as Docker 28 does.
    ///
    /// # Errors
    /// As for [`Writer::append`].
    pub fn finish(&mut self, stream: Stream, now: Timestamp) -> Result<()> {
        self.last = self.last.max(now);
        let mut lines = std::mem::take(&mut self.lines);
        lines.finish(stream, &mut |text, whole| self.entry(stream, text, whole));
        self.lines = lines;
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Writes what has been collected.
    ///
    /// # Errors
    /// [`LogError::Lost`] when not all of it could be written.
    pub fn flush(&mut self) -> Result<()> {
        self.write_out();
        if self.out.capacity() > BATCH {
            self.out = Vec::new();
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    /// A rotated file that is to be compressed now, if there is one and none is under way. The caller runs it
    /// wherever it likes and reports with [`Writer::compressed`].
    pub fn compression(&mut self) -> Option<Compression> {
        if !self.may_compress || self.compressing.is_some() {
            return None;
        }
        self.may_compress = false;
        let name =
            files::list(&self.path).ok()?.into_iter().find(|name| name.index > 0 && !name.compressed)?;
        let source = Arc::new(files::open(&name.of(&self.path)).ok()?);
        let inode = source.metadata().ok()?.ino();
        self.compressing = Some(Arc::clone(&source));
        Some(Compression { source, temporary: files::temporary(&self.path, inode) })
    }

    /// Puts a compressed file in the place of the plain one, wherever that has moved; drops it when that is
    /// gone, or when compressing failed.
    pub fn compressed(&mut self, success: bool) {
        let Some(source) = self.compressing.take() else { return };
        let Ok(inode) = source.metadata().map(|metadata| metadata.ino()) else { return };
        let temporary = files::temporary(&self.path, inode);
        let index = (1..self.files()).find(|index| self.inode(*index) == Some(inode)).filter(|_| success);
        match index {
            Some(index) => {
                let plain = Name::plain(index).of(&self.path);
                if std::fs::rename(&temporary, Name::compressed(index).of(&self.path)).is_ok() {
                    let _ = std::fs::remove_file(plain);
                }
                self.may_compress = true;
            }
            None => {
                let _ = std::fs::remove_file(temporary);
                // After a failure it is tried again with the next rotation.
                self.may_compress = success;
            }
        }
    }

    /// Path of the current file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn files(&self) -> u32 {
        self.options.max_file.max(1)
    }

    fn inode(&self, index: u32) -> Option<u64> {
        files::inode_of(&Name::plain(index).of(&self.path))
    }

    fn entry(&mut self, stream: Stream, text: &[u8], whole: bool) {
        let start = self.out.len();
        self.encoder.write(stream, text, whole, self.last, &mut self.out);
        self.last = self.last.checked_add(SignedDuration::from_nanos(1)).unwrap_or(self.last);
        let before = self.size + start as u64;
        if before > 0 && self.options.max_size.is_some_and(|max| self.size + self.out.len() as u64 > max) {
            let next = self.out.split_off(start);
            self.write_out();
            self.rotate();
            self.out = next;
        } else if self.out.len() >= BATCH {
            self.write_out();
        }
    }

    /// Empties `out` into the file. What cannot be written is lost, and the file is cut back to its last
    /// whole entry.
    fn write_out(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let opened = if self.file.is_none() { self.open_current() } else { Ok(()) };
        let (written, failure) = match (opened, &self.file) {
            (Err(LogError::File { source, .. }), _) => (0, Some(source)),
            (_, Some(file)) => write_whole_lines(file, &self.out, self.size),
            (_, None) => (0, Some(io::ErrorKind::NotFound.into())),
        };
        if let Some(source) = failure {
            let lost = self.out[written..].iter().filter(|byte| **byte == b'\n').count() + self.lost_before();
            self.failure = Some(LogError::Lost { path: self.path.clone(), lost, source });
        }
        self.size += written as u64;
        self.out.clear();
    }

    fn lost_before(&self) -> usize {
        match &self.failure {
            Some(LogError::Lost { lost, .. }) => *lost,
            _ => 0,
        }
    }

    /// Moves every file one place on and starts a new one. When that fails the present file goes on growing.
    fn rotate(&mut self) {
        if let Err(failure) = self.try_rotate() {
            self.failure.get_or_insert(failure);
        }
    }

    fn try_rotate(&mut self) -> Result<()> {
        if self.size == 0 {
            return Ok(());
        }
        self.make_room()?;
        match open_file(&self.path) {
            Ok((file, size)) => {
                self.file = Some(file);
                self.size = size;
                self.may_compress = self.options.compress;
                Ok(())
            }
            Err(failure) => {
                let _ = std::fs::rename(Name::plain(1).of(&self.path), &self.path);
                Err(failure)
            }
        }
    }

    fn make_room(&self) -> Result<()> {
        let last = self.files() - 1;
        if last == 0 {
            return std::fs::remove_file(&self.path).map_err(LogError::file("remove", &self.path));
        }
        for name in [Name::plain(last), Name::compressed(last)] {
            let path = name.of(&self.path);
            ignore_missing(std::fs::remove_file(&path)).map_err(LogError::file("remove", path))?;
        }
        for index in (0..last).rev() {
            self.shift(Name::plain(index), Name::plain(index + 1))?;
            if index > 0 {
                self.shift(Name::compressed(index), Name::compressed(index + 1))?;
            }
        }
        Ok(())
    }

    fn shift(&self, from: Name, to: Name) -> Result<()> {
        let from = from.of(&self.path);
        ignore_missing(std::fs::rename(&from, to.of(&self.path))).map_err(LogError::file("rename", from))
    }
}

/// Writes as much as is taken, and cuts the file back to the last whole line of it. Gives the bytes that stay.
fn write_whole_lines(mut file: &File, lines: &[u8], size: u64) -> (usize, Option<io::Error>) {
    let mut written = 0;
    let failure = loop {
        if written == lines.len() {
            return (written, None);
        }
        match file.write(&lines[written..]) {
            Ok(0) => break io::ErrorKind::WriteZero.into(),
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break error,
        }
    };
    let whole = lines[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    // By what the file has now: somebody may have truncated it to save space.
    let length = file.metadata().map_or(size + written as u64, |metadata| metadata.size());
    let _ = file.set_len(length.saturating_sub((written - whole) as u64));
    (whole, Some(failure))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Opens the current file for appending and gives its size. A torn last line is closed with a newline, so
/// that it spoils only itself.
fn open_file(path: &Path) -> Result<(File, u64)> {
    let open = || -> io::Result<(File, u64)> {
        let mut file = File::options()
            .append(true)
            .read(true)
            .create(true)
            .mode(0o640)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(path)?;
        let mut size = file.metadata()?.size();
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
        Ok((file, size))
    };
    open().map_err(LogError::file("open", path))
}

/// Removes files beyond the last one, and temporary ones. Best effort: they only waste space.
fn sweep(path: &Path, files: u32) {
    for name in files::list(path).unwrap_or_default() {
        if name.index >= files {
            let _ = std::fs::remove_file(name.of(path));
        }
    }
    let Some(Ok(entries)) = path.parent().map(std::fs::read_dir) else { return };
    for entry in entries.flatten() {
        if files::is_temporary(path, &entry.file_name()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
