//! Compression of a rotated file, apart from the process that writes the log.

use flate2::{Compression as Level, GzBuilder};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

/// Work that [`crate::Writer::compression`] hands out: it reads the rotated file by descriptor, wherever its name has
/// moved meanwhile, and writes a temporary file. [`crate::Writer::compressed`] then puts that in its place.
///
/// A shim runs it in a forked child at low priority, so that the container's output never waits for it.
#[derive(Debug)]
pub struct Compression {
    pub(crate) source: Arc<File>,
    pub(crate) temporary: PathBuf,
}

impl Compression {
    /// The one descriptor that [`Compression::run`] needs to be open.
    pub fn descriptor(&self) -> RawFd {
        self.source.as_raw_fd()
    }

    /// Compresses. Takes about 15 ms per MB.
    ///
    /// # Errors
    /// The temporary file cannot be written, or the source not be read.
    pub fn run(&self) -> io::Result<()> {
        let target = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(&self.temporary)?;
        let mut builder = GzBuilder::new();
        if let Some(time) = last_time(&self.source)? {
            // The same extra field that Docker writes, and its readers use.
            builder = builder.extra(format!("{{\"lastTime\":\"{time}\"}}"));
        }
        let mut encoder = builder.write(BufWriter::new(target), Level::default());
        io::copy(
            &mut BufReader::with_capacity(64 << 10, Positioned { file: &self.source, offset: 0 }),
            &mut encoder,
        )?;
        encoder.finish()?.flush()
    }
}

/// Reads a file from its start without moving the offset that other descriptors of it share.
pub(crate) struct Positioned<'a> {
    pub(crate) file: &'a File,
    pub(crate) offset: u64,
}

impl io::Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// The time of the last entry, as it stands in the file.
fn last_time(file: &File) -> io::Result<Option<String>> {
    const TAIL: u64 = 128;
    let size = file.metadata()?.size();
    let length = TAIL.min(size);
    let mut tail = vec![0; length as usize];
    file.read_exact_at(&mut tail, size - length)?;
    let text = String::from_utf8_lossy(&tail);
    let time =
        text.rsplit_once(r#","time":""#).and_then(|(_, rest)| rest.split_once('"')).map(|(time, _)| time);
    Ok(time.filter(|time| time.parse::<jiff::Timestamp>().is_ok()).map(str::to_owned))
}
