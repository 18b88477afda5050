use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use yare_oci::{Digest, Hasher};

/// How long the bytes of a broken download are kept for the next try.
pub(crate) const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A blob that is being fetched. Unlike an [`crate::Ingest`] it survives a crash, and goes on where it was:
/// what is on the disk need not come over the network again. It is not visible before [`Partial::commit`].
///
/// One writer at a time: the caller sees to that.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    size: u64,
}

impl Partial {
    pub(crate) fn open(path: PathBuf, target: PathBuf) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| Error::io("create", &path, error))?;
        let file = File::from(file);
        // Its age counts from its last use, also when nothing more comes.
        file.set_modified(SystemTime::now()).map_err(|error| Error::io("touch", &path, error))?;
        let size = file.metadata().map_err(|error| Error::io("stat", &path, error))?.len();
        Ok(Self { file, path, target, size })
    }

    /// Bytes that are there.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A hasher that has seen the bytes that are there.
    pub fn hasher(&self) -> Result<Hasher> {
        let (mut reader, mut hasher) = (self.reader()?, Hasher::new());
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut buffer).map_err(|error| Error::io("read", &self.path, error))? {
                0 => return Ok(hasher),
                count => hasher.update(buffer.get(..count).unwrap_or_default()),
            }
        }
    }

    /// Reads the bytes that are there from the first one.
    pub fn reader(&self) -> Result<io::Take<File>> {
        let file =
            rustix::fs::open(&self.path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let file = file.map_err(|error| Error::io("open", &self.path, error))?;
        Ok(File::from(file).take(self.size))
    }

    /// Removes it: the bytes are wrong.
    pub fn discard(self) -> Result<()> {
        match rustix::fs::unlink(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io("remove", &self.path, error)),
        }
    }

    /// Makes it a blob. That its bytes hash to its name is for the caller to know.
    pub fn commit(self) -> Result<()> {
        rustix::fs::rename(&self.path, &self.target).map_err(|error| Error::io("commit", &self.target, error))
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes).map_err(|error| {
            let text = format!("cannot write {}: {}", self.path.display(), error);
            io::Error::new(error.kind(), text)
        })?;
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a partial of this age is of no more use.
pub(crate) fn is_stale(metadata: &std::fs::Metadata, now: SystemTime) -> bool {
    let age = metadata.modified().ok().and_then(|written| now.duration_since(written).ok());
    age.is_some_and(|age| age > LIFE)
}

/// The name of a partial in its folder.
pub(crate) fn name(digest: &Digest) -> String {
    digest.hex()
}
