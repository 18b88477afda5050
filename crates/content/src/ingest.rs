use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use yare_oci::{Digest, Hasher};

/// A blob that is being written: hashed as it goes, invisible until [`Ingest::commit`], removed when
/// dropped before that.
#[derive(Debug)]
pub struct Ingest {
    file: File,
    path: PathBuf,
    blobs: PathBuf,
    hasher: Hasher,
    size: u64,
    committed: bool,
}

impl Ingest {
    pub(crate) fn create(path: PathBuf, blobs: PathBuf) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| Error::io("create", &path, error))?;
        Ok(Self { file: file.into(), path, blobs, hasher: Hasher::new(), size: 0, committed: false })
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends it without making a blob: the digest, the size and the file, which has no name any more.
    pub fn take(mut self) -> Result<(Digest, u64, File)> {
        let digest = std::mem::take(&mut self.hasher).finish();
        let file = self.file.try_clone().map_err(|error| Error::io("keep", &self.path, error))?;
        Ok((digest, self.size, file))
    }

    /// Another handle of the file, at its beginning.
    pub fn reopen(&self) -> Result<File> {
        File::open(&self.path).map_err(|error| Error::io("open", &self.path, error))
    }

    /// Makes the file what is at `target`, durably when asked for.
    pub(crate) fn place(mut self, target: &Path, durable: bool) -> Result<()> {
        if durable {
            self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error))?;
        }
        rustix::fs::rename(&self.path, target).map_err(|error| Error::io("place", target, error))?;
        self.committed = true;
        Ok(())
    }

    /// Verifies the announced digest and size, where given, and makes the blob visible. Returns what the
    /// bytes really are. A blob that was there already is replaced by these, equal, bytes.
    pub fn commit(mut self, expected: Option<Digest>, size: Option<u64>) -> Result<(Digest, u64)> {
        if let Some(expected) = size.filter(|expected| *expected != self.size) {
            return Err(Error::SizeMismatch { expected, actual: self.size });
        }
        let actual = std::mem::take(&mut self.hasher).finish();
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(Error::DigestMismatch { expected, actual });
        }
        let target = self.blobs.join(actual.hex());
        rustix::fs::rename(&self.path, &target).map_err(|error| Error::io("commit", &target, error))?;
        self.committed = true;
        Ok((actual, self.size))
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        let written = bytes.get(..count).unwrap_or(bytes);
        self.hasher.update(written);
        self.size += written.len() as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = rustix::fs::unlink(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "an abandoned ingest stays until the next start");
        }
    }
}
