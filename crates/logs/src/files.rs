//! The files of one log: names, and a consistent look at all of them while a writer rotates.

use crate::{LogError, Result};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which file of a log a name means: the higher the index, the older; compressed after plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) index: u32,
    pub(crate) compressed: bool,
}

impl Name {
    pub(crate) fn plain(index: u32) -> Self {
        Self { index, compressed: false }
    }

    pub(crate) fn compressed(index: u32) -> Self {
        Self { index, compressed: true }
    }

    /// The path, given that of the current file.
    pub(crate) fn of(self, log: &Path) -> PathBuf {
        if self.index == 0 {
            return log.to_owned();
        }
        let mut path = OsString::from(log);
        path.push(format!(".{}{}", self.index, if self.compressed { ".gz" } else { "" }));
        path.into()
    }

    /// From what follows the log's own name: nothing, `.N` or `.N.gz`.
    fn parse(suffix: &[u8]) -> Option<Self> {
        if suffix.is_empty() {
            return Some(Self::plain(0));
        }
        let number = std::str::from_utf8(suffix.strip_prefix(b".")?).ok()?;
        let (number, compressed) = match number.strip_suffix(".gz") {
            Some(number) => (number, true),
            None => (number, false),
        };
        let index = number.parse().ok().filter(|index| *index > 0)?;
        Some(Self { index, compressed })
    }
}

/// Names of the files there are, the newest first.
pub(crate) fn list(log: &Path) -> io::Result<Vec<Name>> {
    let own = log.file_name().unwrap_or_default().as_bytes();
    let directory = match log.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        names.extend(name.as_bytes().strip_prefix(own).and_then(Name::parse));
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens for reading, never through a symbolic link.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32).open(path)
}

/// One file of a snapshot.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) name: Name,
    pub(crate) file: File,
    pub(crate) inode: u64,
}

/// Opens all files of a log at one moment, the newest first: no file twice, none missed in between.
///
/// A writer may rename meanwhile; so names and inodes are compared again at the end, and the look is repeated
/// until nothing moved.
pub(crate) fn snapshot(log: &Path) -> Result<Vec<Opened>> {
    const TRIES: u32 = 200;
    let failed = || LogError::file("read", log);
    for attempt in 0..TRIES {
        let names = match list(log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed())?,
        };
        let opened = open_all(log, &names).map_err(failed())?;
        let again = list(log).map_err(failed())?;
        if let Some(opened) = opened
            && again == names
            && opened.iter().all(|file| inode_of(&file.name.of(log)) == Some(file.inode))
        {
            return Ok(without_twins(opened));
        }
        if attempt > 10 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let busy =
        io::Error::new(io::ErrorKind::ResourceBusy, "it is rotated faster than its files can be opened");
    Err(failed()(busy))
}

fn open_all(log: &Path, names: &[Name]) -> io::Result<Option<Vec<Opened>>> {
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        match open(&name.of(log)) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                all.push(Opened { name: *name, file, inode });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(all))
}

/// While a compressed file takes the place of the plain one, both are there; the plain one comes first and wins.
fn without_twins(mut all: Vec<Opened>) -> Vec<Opened> {
    all.dedup_by_key(|file| file.name.index);
    all
}

/// The inode at a path, if there is one.
pub(crate) fn inode_of(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|metadata| metadata.ino())
}

/// The temporary name under which a file with this inode is compressed.
pub(crate) fn temporary(log: &Path, inode: u64) -> PathBuf {
    let mut path = OsString::from(log);
    path.push(format!(".{inode}.tmp"));
    path.into()
}

/// Whether a name in the log's directory is one of [`temporary`].
pub(crate) fn is_temporary(log: &Path, name: &OsStr) -> bool {
    let own = log.file_name().unwrap_or_default().as_bytes();
    let middle = name.as_bytes().strip_prefix(own).and_then(|rest| rest.strip_suffix(b".tmp"));
    middle
        .and_then(|middle| middle.strip_prefix(b"."))
        .is_some_and(|rest| rest.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_ordered() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a-json.log");
        for name in ["", ".1", ".1.gz", ".2.gz", ".10", ".0", ".x", ".77.tmp", "2", ".3.gz.bak"] {
            std::fs::write(dir.path().join(format!("a-json.log{name}")), "").unwrap();
        }
        let names = list(&log).unwrap();
        let wanted =
            [Name::plain(0), Name::plain(1), Name::compressed(1), Name::compressed(2), Name::plain(10)];
        assert_eq!(names, wanted);
        assert!(is_temporary(&log, OsStr::new("a-json.log.77.tmp")));
        assert!(!is_temporary(&log, OsStr::new("a-json.log.1")));
        assert_eq!(snapshot(&log).unwrap().len(), 4, "the compressed twin is left out");
    }

    #[test]
    fn no_directory_is_an_empty_log() {
        assert!(snapshot(Path::new("/nonexistent/x.log")).unwrap().is_empty());
    }
}
