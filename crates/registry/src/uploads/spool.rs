//! Bytes that are read while they come in, and kept elsewhere.

use super::files::write;
use super::random_id;
use crate::problem::{Result, file_error};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file without a name, which is gone with the last who has it open.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    folder: PathBuf,
    size: u64,
    /// Bytes of the file system that it leaves free.
    reserve: u64,
}

impl Spool {
    /// An empty one, on the file system of `folder`. What a crash leaves there has no meaning.
    pub(crate) fn new(folder: &Path, reserve: u64) -> Result<Self> {
        let path = folder.join(random_id()?);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| file_error("create", &path, error))?;
        rustix::fs::unlink(&path).map_err(|error| file_error("unlink", &path, error))?;
        Ok(Self { file: file.into(), folder: folder.to_owned(), size: 0, reserve })
    }

    /// The same file, to read from.
    pub(crate) fn reader(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| file_error("open a file in", &self.folder, error))
    }

    /// How many bytes there are.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes. Blocks.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        write(&self.file, bytes, self.size, self.reserve)
            .map_err(|error| file_error("write a file in", &self.folder, error))?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}
