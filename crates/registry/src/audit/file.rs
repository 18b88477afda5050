//! The file of the audit log: appending, rotating, and making it anew when somebody else rotated it.
//!
//! When a line does not fit `max_size` any more, `audit.log` becomes `audit.log.1`, that one `audit.log.2`, and
//! so on up to `max_files` with `audit.log` itself; what was the last one is gone. A line is in one file, whole.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The pause after a rotation that failed.
const PAUSE: Duration = Duration::from_secs(60);

/// Where the audit log is, and how much of the disk it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The file that is written to.
    pub path: PathBuf,
    /// The most bytes of a file; 0 for no limit.
    pub max_size: u64,
    /// How many files there are at most.
    pub max_files: u32,
}

impl Log {
    /// The log at `path`, with the limits that it has when none are given.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_size: 100_000_000, max_files: 5 }
    }
}

impl<'de> Deserialize<'de> for Log {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Spelling)
    }
}

/// A path, or a table of settings.
struct Spelling;

impl<'de> Visitor<'de> for Spelling {
    type Value = Log;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a path, or a table with `path`, `max_size` and `max_files`")
    }

    fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Log, E> {
        Ok(Log::at(path))
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Log, M::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            path: PathBuf,
            #[serde(default = "max_size", deserialize_with = "crate::config::bytes")]
            max_size: u64,
            #[serde(default = "max_files")]
            max_files: u32,
        }
        fn max_size() -> u64 {
            Log::at("").max_size
        }
        fn max_files() -> u32 {
            Log::at("").max_files
        }
        let Table { path, max_size, max_files } = Table::deserialize(MapAccessDeserializer::new(map))?;
        if max_files == 0 {
            return Err(serde::de::Error::custom("`max_files` is 0; the file that is written to is one"));
        }
        Ok(Log { path, max_size, max_files })
    }
}

/// Lines that are to be written.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// How many of them the file has already: the beginning of a line.
    sent: usize,
}

impl Batch {
    /// Adds a line, with its end.
    pub(super) fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
    }

    /// How many lines are not written to their end.
    pub(super) fn lines(&self) -> usize {
        self.bytes.iter().filter(|byte| **byte == b'\n').count()
    }

    /// The bytes of as many whole lines as have room, and whether the first one has.
    fn fitting(&self, room: u64) -> (usize, bool) {
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(self.bytes.len());
        let end = |position: usize| position + 1;
        let newline = |byte: &u8| *byte == b'\n';
        match self.bytes.get(..room).unwrap_or_default().iter().rposition(newline) {
            Some(last) => (end(last), true),
            None => (self.bytes.iter().position(newline).map_or(self.bytes.len(), end), false),
        }
    }

    /// Writes up to `end`, and forgets the lines that are written.
    fn write_to(&mut self, out: &mut impl Write, end: usize) -> io::Result<()> {
        while self.sent < end {
            match out.write(self.bytes.get(self.sent..end).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.drain(..end);
        self.sent = 0;
        Ok(())
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct Appender {
    log: Log,
    file: File,
    /// Before which a rotation is not tried again.
    rest_until: Option<Instant>,
}

impl Appender {
    pub(super) fn open(log: Log) -> io::Result<Self> {
        let file = append_to(&log.path)?;
        Ok(Self { log, file, rest_until: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.log.path
    }

    /// Writes all of a batch, or takes from it the lines that were written.
    pub(super) fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        if self.was_moved() {
            self.reopen(batch)?;
        }
        while !batch.bytes.is_empty() {
            let metadata = self.file.metadata()?;
            // Where a line began it goes on.
            let room = self.room(&metadata, batch.sent as u64);
            let (end, fits) = batch.fitting(room);
            if fits || batch.sent > 0 || metadata.len() == 0 {
                batch.write_to(&mut self.file, end)?;
            } else if let Err(error) = self.rotate() {
                // A log that is too long is better than none.
                self.rest_until = Some(Instant::now() + PAUSE);
                tracing::error!(path = %self.path().display(), %error, "cannot rotate the audit log; it grows");
            }
        }
        Ok(())
    }

    /// How many more bytes the file takes, with those that it has of the first line.
    fn room(&self, metadata: &std::fs::Metadata, sent: u64) -> u64 {
        let rests = self.rest_until.is_some_and(|until| Instant::now() < until);
        if self.log.max_size == 0 || rests || !metadata.is_file() {
            return u64::MAX;
        }
        self.log.max_size.saturating_sub(metadata.len().saturating_sub(sent))
    }

    /// Opens the path anew. A line of which the former file has a part is written again, whole.
    pub(super) fn reopen(&mut self, batch: &mut Batch) -> io::Result<()> {
        self.file = append_to(&self.log.path)?;
        batch.sent = 0;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let name = |number: u32| match number {
            0 => self.log.path.clone(),
            _ => {
                let mut name = self.log.path.clone().into_os_string();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            }
        };
        for number in (1..self.log.max_files).rev() {
            match rustix::fs::rename(name(number - 1), name(number)) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.log.max_files == 1 {
            rustix::fs::unlink(&self.log.path)?;
        }
        self.file = append_to(&self.log.path)?;
        Ok(())
    }

    /// Whether somebody else rotated the log.
    fn was_moved(&self) -> bool {
        match (std::fs::metadata(&self.log.path), self.file.metadata()) {
            (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
            (Err(_), _) => true,
            (_, Err(_)) => false,
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(text: &str) -> Batch {
        Batch { bytes: text.as_bytes().to_vec(), sent: 0 }
    }

    /// Takes three bytes, fails, and takes three more.
    struct Stuttering(Vec<u8>, bool);

    impl Write for Stuttering {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if !self.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(3);
            self.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_failed_write_left_is_written_later() {
        let (mut out, mut batch) = (Stuttering(Vec::new(), false), batch("one\ntwo\nthree\n"));
        while batch.write_to(&mut out, batch.bytes.len()).is_err() {}
        assert_eq!((out.0.as_slice(), batch.lines()), (b"one\ntwo\nthree\n".as_slice(), 0));
    }

    #[test]
    fn lines_stay_whole_and_files_within_their_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut appender = Appender::open(Log { path: path.clone(), max_size: 10, max_files: 3 }).unwrap();
        appender.write(&mut batch("1234\n1234\n5678\n")).unwrap();
        appender.write(&mut batch("longer than a file\n")).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        let all = || ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3"].map(read);
        assert_eq!(all(), ["longer than a file\n", "5678\n", "1234\n1234\n", ""]);
        appender.write(&mut batch("9\n")).unwrap();
        assert_eq!(all(), ["9\n", "longer than a file\n", "5678\n", ""]);
    }

    #[test]
    fn one_file_begins_anew_and_no_limit_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut one = Appender::open(Log { path: path.clone(), max_size: 4, max_files: 1 }).unwrap();
        one.write(&mut batch("123\n456\n")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "456\n");
        let mut endless = Appender::open(Log { path: path.clone(), max_size: 0, max_files: 1 }).unwrap();
        endless.write(&mut batch("789\n")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "456\n789\n");
    }

    #[test]
    fn a_line_that_another_file_has_a_part_of_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut appender = Appender::open(Log::at(&path)).unwrap();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        let mut batch = Batch { sent: 3, ..batch("begun\nnext\n") };
        appender.write(&mut batch).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "begun\nnext\n");
    }

    #[test]
    fn a_rotation_that_fails_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        // A folder that is not empty stands where the file should go.
        std::fs::create_dir_all(folder.path().join("audit.log.1/x")).unwrap();
        let mut appender = Appender::open(Log { path: path.clone(), max_size: 4, max_files: 2 }).unwrap();
        appender.write(&mut batch("123\n456\n789\n")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "123\n456\n789\n");
    }

    #[test]
    fn a_path_or_a_table() {
        #[derive(Deserialize)]
        struct Config {
            audit: Log,
        }
        let parse = |text: &str| toml::from_str::<Config>(text).map(|config| config.audit);
        assert_eq!(parse("audit = '/x'").unwrap(), Log::at("/x"));
        let table = parse("[audit]\npath = '/x'\nmax_size = '1MiB'\nmax_files = 2\n").unwrap();
        assert_eq!(table, Log { path: "/x".into(), max_size: 1 << 20, max_files: 2 });
        for (text, why) in [
            ("[audit]\npath = '/x'\nmaxsize = 1", "unknown field"),
            ("[audit]\npath = '/x'\nmax_files = 0", "max_files"),
            ("[audit]\nmax_files = 1", "path"),
            ("audit = 1", "a path, or a table"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
