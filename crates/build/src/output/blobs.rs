//! Layers as blobs: plain from the store, or packed once into a folder and used by every output.
//!
//! ```text
//! <folder>/<DiffID>.<gzip|zstd>-<level>   packed layers, for one build
//! ```

use super::Packing;
use super::layout::layer_type;
use crate::Cancel;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use yare_errdefs::{Classified, Error, Result};
use yare_image::Store;
use yare_layer::{Compression, compress};
use yare_oci::{Descriptor, DiffId, Digest, Hasher};

/// Where a blob's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bytes {
    /// The layer's own tar.
    Layer(DiffId),
    Packed(PathBuf),
}

/// Layers of a store, packed as an output wants them.
#[derive(Debug)]
pub struct Blobs<'a> {
    store: &'a Store,
    folder: &'a Path,
    packing: Packing,
    known: HashMap<DiffId, (Descriptor, Bytes)>,
}

impl<'a> Blobs<'a> {
    /// Packs into `folder`, a folder of this build's.
    pub fn new(store: &'a Store, folder: &'a Path, packing: Packing) -> Self {
        Self { store, folder, packing, known: HashMap::new() }
    }

    /// The blob of a layer, packed now if it was not yet.
    pub fn descriptor(&mut self, layer: &DiffId, cancel: &Cancel) -> Result<Descriptor> {
        if let Some((descriptor, _)) = self.known.get(layer) {
            return Ok(descriptor.clone());
        }
        let media_type = layer_type(self.packing.compression)?;
        let (descriptor, bytes) = if self.packing.compression == Compression::Plain {
            let info = self.store.snapshots().layer(layer).map_err(lift)?;
            (Descriptor::new(media_type, layer.0, info.size), Bytes::Layer(*layer))
        } else {
            let (path, digest, size) = self.pack(layer, cancel)?;
            (Descriptor::new(media_type, digest, size), Bytes::Packed(path))
        };
        self.known.insert(*layer, (descriptor.clone(), bytes));
        Ok(descriptor)
    }

    /// Writes the bytes of a layer's blob, whose descriptor was asked for before.
    pub fn write(&self, layer: &DiffId, sink: &mut dyn Write) -> Result<()> {
        match self.known.get(layer) {
            Some((_, Bytes::Layer(layer))) => self.store.export_layer(layer, sink),
            Some((_, Bytes::Packed(path))) => {
                let mut file = File::open(path).map_err(|error| failed("open", path, error))?;
                io::copy(&mut file, sink).map(drop).map_err(|error| failed("copy", path, error))
            }
            None => Err(Error::internal(format!("layer {layer} was not packed"))),
        }
    }

    fn pack(&self, layer: &DiffId, cancel: &Cancel) -> Result<(PathBuf, Digest, u64)> {
        let Packing { compression, level } = self.packing;
        let level_text = level.map_or_else(|| "default".to_owned(), |level| level.to_string());
        let kind = if compression == Compression::Gzip { "gzip" } else { "zstd" };
        let path = self.folder.join(format!("{}.{kind}-{level_text}", layer.hex()));
        let temporary = path.with_extension("unfinished");
        let file = File::create(&temporary).map_err(|error| failed("create", &temporary, error))?;
        let counted = Counted::new(BufWriter::with_capacity(256 << 10, file));
        let cannot = |error| failed("write", &temporary, error);
        let mut packer = compress(counted, compression, level).map_err(cannot)?;
        let exported = self.store.export_layer(layer, &mut Watched { sink: &mut packer, cancel });
        cancel.check()?;
        exported?;
        let counted = packer.finish().map_err(cannot)?;
        counted.sink.into_inner().map_err(|error| cannot(error.into_error()))?;
        std::fs::rename(&temporary, &path).map_err(|error| failed("rename", &temporary, error))?;
        Ok((path, counted.hasher.finish(), counted.size))
    }
}

fn lift(error: impl Classified + Send + Sync + 'static) -> Error {
    Error::wrap(error.to_string(), error)
}

fn failed(operation: &str, path: &Path, error: io::Error) -> Error {
    Error::new(yare_errdefs::class_of_io(&error), format!("cannot {operation} {}", path.display()))
        .caused_by(error)
}

/// Hashes and counts what passes by.
pub(crate) struct Counted<W> {
    pub(crate) sink: W,
    pub(crate) hasher: Hasher,
    pub(crate) size: u64,
}

impl<W> Counted<W> {
    pub(crate) fn new(sink: W) -> Self {
        Self { sink, hasher: Hasher::new(), size: 0 }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.sink.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Ends writing when the build ends.
pub(super) struct Watched<'a, W> {
    pub(super) sink: W,
    pub(super) cancel: &'a Cancel,
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
