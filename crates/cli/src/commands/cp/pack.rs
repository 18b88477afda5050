//! Local files as a tar stream.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;
use yare_client::Body;

use crate::failure::Failure;

/// What is packed.
pub(super) struct Pack {
    /// The file or directory.
    pub source: PathBuf,
    /// The name it has in the archive; none for the contents of a directory.
    pub name: Option<String>,
}

/// How many bytes were packed, once all are.
pub(super) struct Count(oneshot::Receiver<io::Result<u64>>);

impl Count {
    /// Waits for the end.
    pub(super) async fn wait(self) -> Result<u64, Failure> {
        match self.0.await {
            Ok(count) => Ok(count?),
            Err(_) => Err("packing ended early".into()),
        }
    }
}

/// Packs on a thread of its own, as fast as the engine takes it.
pub(super) fn stream(pack: Pack) -> Result<(Body, Count), Failure> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let reader = tokio::net::UnixStream::from_std(ours)?;
    let (done, count) = oneshot::channel();
    std::thread::Builder::new().name("pack".to_owned()).spawn(move || {
        let mut writer = Counting { inner: io::BufWriter::with_capacity(64 * 1024, theirs), bytes: 0 };
        let packed = write(&pack, &mut writer).and_then(|()| writer.flush());
        // Whoever waited may have failed already.
        drop(done.send(packed.map(|()| writer.bytes)));
    })?;
    Ok((Body::reader(reader), Count(count)))
}

struct Counting<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write(pack: &Pack, writer: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(writer);
    archive.follow_symlinks(false);
    // Names are relative; targets of links are as they are.
    archive.preserve_absolute(true);
    let name = Path::new(pack.name.as_deref().unwrap_or("."));
    let mut links = Links::new();
    if pack.source.symlink_metadata()?.is_dir() {
        directory(&mut archive, &pack.source, name, &mut links)?;
    } else {
        one(&mut archive, &pack.source, name, &mut links)?;
    }
    archive.into_inner()?.flush()
}

/// Where files with several names were packed first, by device and inode.
type Links = HashMap<(u64, u64), PathBuf>;

fn directory<W: Write>(
    archive: &mut tar::Builder<W>,
    source: &Path,
    name: &Path,
    links: &mut Links,
) -> io::Result<()> {
    archive.append_dir(name, source)?;
    let mut entries = std::fs::read_dir(source)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            directory(archive, &path, &name, links)?;
        } else {
            one(archive, &path, &name, links)?;
        }
    }
    Ok(())
}

/// Packs what is no directory. Sockets cannot be archived; Docker leaves them out too.
fn one<W: Write>(
    archive: &mut tar::Builder<W>,
    source: &Path,
    name: &Path,
    links: &mut Links,
) -> io::Result<()> {
    let metadata = source.symlink_metadata()?;
    let kind = metadata.file_type();
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&metadata);
    header.set_size(0);
    if let Some(first) = first_name(links, &metadata, name) {
        header.set_entry_type(tar::EntryType::Link);
        return archive.append_link(&mut header, name, first);
    }
    if kind.is_file() || kind.is_symlink() {
        return archive.append_path_with_name(source, name);
    }
    let special = match kind {
        kind if kind.is_fifo() => tar::EntryType::Fifo,
        kind if kind.is_char_device() => tar::EntryType::Char,
        kind if kind.is_block_device() => tar::EntryType::Block,
        _ => return Ok(()),
    };
    header.set_entry_type(special);
    header.set_device_major(rustix::fs::major(metadata.rdev()))?;
    header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
    archive.append_data(&mut header, name, io::empty())
}

/// Where a file was packed before under another name.
fn first_name(links: &mut Links, metadata: &Metadata, name: &Path) -> Option<PathBuf> {
    if metadata.nlink() < 2 {
        return None;
    }
    match links.entry((metadata.dev(), metadata.ino())) {
        Entry::Occupied(first) => Some(first.get().clone()),
        Entry::Vacant(place) => {
            place.insert(name.to_owned());
            None
        }
    }
}
