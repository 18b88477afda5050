//! Local files as a tar stream.

use std::io::{self, Write};
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
    let name = pack.name.as_deref().unwrap_or(".");
    if pack.source.symlink_metadata()?.is_dir() {
        directory(&mut archive, &pack.source, Path::new(name))?;
    } else {
        archive.append_path_with_name(&pack.source, name)?;
    }
    archive.into_inner()?.flush()
}

fn directory<W: Write>(archive: &mut tar::Builder<W>, source: &Path, name: &Path) -> io::Result<()> {
    archive.append_dir(name, source)?;
    let mut entries = std::fs::read_dir(source)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            directory(archive, &path, &name)?;
        } else if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
            // Sockets cannot be archived; Docker leaves them out too.
            archive.append_path_with_name(&path, &name)?;
        }
    }
    Ok(())
}
