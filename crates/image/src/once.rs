//! Layers kept once: the compressed blob of a layer gives way to a recipe that makes it again.
//!
//! A layer that was pulled is pushed elsewhere with the same digest only if there are the same compressed bytes.
//! The blob is kept for that at first, beside the directory that it was unpacked into. Later, when nobody waits,
//! [`Store::keep_once`] finds out what makes the same bytes of the directory, does it once, compares, and only
//! then lets the blob go. What it cannot be done for is kept as it is.
//!
//! A recipe in the content store (format 1): the eight bytes `yareblb1`, the DiffID (32 bytes), the length of the
//! blob in bytes (8, little endian), one byte for the compression (0 none, 1 gzip), and for gzip what
//! [`yare_layer::write_gzip_recipe`] writes.

use crate::failure::Lift;
use crate::image::Image;
use crate::store::Store;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use yare_content::{Ingest, Recipe};
use yare_errdefs::{Error, Result};
use yare_layer::Compression;
use yare_oci::{DiffId, Digest, Hasher, Manifest};

const MAGIC: &[u8; 8] = b"yareblb1";
const PLAIN: u8 = 0;
const GZIP: u8 = 1;

/// A recipe of more than this part of its blob is not worth the time that it takes to follow.
const WORTH: u64 = 4;

/// What became of a blob beside its layer's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptOnce {
    /// It is gone; the recipe takes so many bytes.
    Recipe(u64),
    /// It stays, because no recipe of a sensible size makes it again: so zstd, and damage that gzip tolerates.
    Blob,
    /// It, or the layer, was removed meanwhile.
    Gone,
}

/// What a recipe says before it says how.
struct Head {
    layer: DiffId,
    size: u64,
    compression: u8,
}

impl Head {
    fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(MAGIC)?;
        writer.write_all(self.layer.0.as_bytes())?;
        writer.write_all(&self.size.to_le_bytes())?;
        writer.write_all(&[self.compression])
    }

    fn read(reader: &mut impl Read) -> io::Result<Self> {
        let (mut magic, mut layer, mut size, mut compression) = ([0; 8], [0; 32], [0; 8], [0]);
        reader.read_exact(&mut magic)?;
        reader.read_exact(&mut layer)?;
        reader.read_exact(&mut size)?;
        reader.read_exact(&mut compression)?;
        if &magic != MAGIC || compression[0] > GZIP {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is of another version, or none"));
        }
        let layer = DiffId(Digest::from_bytes(layer));
        Ok(Self { layer, size: u64::from_le_bytes(size), compression: compression[0] })
    }
}

impl Store {
    /// Whether a document or compressed layer can be had: it is here, or can be made again.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let content = &self.inner.content;
        content.contains(digest) || matches!(content.recipe(digest), Ok(Recipe::Some(_)))
    }

    /// The length of a document or compressed layer, in bytes; `None` when it cannot be had.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        match self.inner.content.size(digest) {
            Ok(size) => Ok(Some(size)),
            Err(yare_content::Error::NotFound(_)) => match self.inner.content.recipe(digest).lift()? {
                Recipe::Some(mut recipe) => Ok(Some(read_head(digest, &mut recipe)?.size)),
                Recipe::None | Recipe::Unknown => Ok(None),
            },
            Err(error) => Err(error).lift(),
        }
    }

    /// A document or compressed layer, at its beginning. One that is not here is made again, into a file without
    /// a name; that takes as long as compressing it.
    ///
    /// # Errors
    /// Class not found when it cannot be had; internal when the layer's directory was changed since.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        match self.inner.content.open_blob(digest) {
            Err(yare_content::Error::NotFound(_)) => {}
            opened => return opened.lift(),
        }
        match self.inner.content.recipe(digest).lift()? {
            Recipe::Some(recipe) => self.make_again(digest, recipe),
            // Whoever replaces a blob puts the recipe there first; whoever pulls it again does not.
            Recipe::None | Recipe::Unknown => self.inner.content.open_blob(digest).lift(),
        }
    }

    fn make_again(&self, digest: &Digest, recipe: File) -> Result<File> {
        let ingest = self.inner.content.ingest().lift()?;
        let (made, _, mut file) = self.rebuild(digest, recipe, ingest)?.take().lift()?;
        if made != *digest {
            return Err(Error::internal(format!("what makes layer {digest} again gives {made}"))
                .with_hint("remove the image and get it again"));
        }
        file.rewind().map_err(Error::from)?;
        Ok(file)
    }

    /// Writes what a recipe makes of the directory that it names. The layer's tar is made on a thread of its own.
    fn rebuild<W: Write>(&self, digest: &Digest, mut recipe: File, writer: W) -> Result<W> {
        let Head { layer, compression, .. } = read_head(digest, &mut recipe)?;
        let mut writer = BufWriter::with_capacity(256 << 10, writer);
        let failed = |error: io::Error| {
            Error::new(yare_errdefs::class_of_io(&error), format!("cannot make layer {digest} again"))
                .caused_by(error)
        };
        if compression == PLAIN {
            self.export_layer(&layer, &mut writer)?;
            return writer.into_inner().map_err(|error| failed(error.into_error()));
        }
        let (text, mut sink) = io::pipe().map_err(failed)?;
        std::thread::scope(|scope| {
            let exporting = scope.spawn(move || self.export_layer(&layer, &mut sink));
            let rebuilt = yare_layer::rebuild_gzip(BufReader::new(recipe), text, writer);
            let exported = exporting.join().map_err(|_| Error::internal("a thread ended early"))?;
            // Where the tar broke off, so did what is made of it: the first of the two errors says why. But one
            // who writes to a reader that gave up has nothing to tell.
            match (rebuilt, exported) {
                (Ok(_), Err(error)) => Err(error),
                (Err(error), Err(cause)) if !is_broken_pipe(&cause) => {
                    tracing::debug!(%error, "what is made of a tar that broke off");
                    Err(cause)
                }
                (Err(error), _) => Err(failed(error)),
                (Ok(writer), Ok(())) => writer.into_inner().map_err(|error| failed(error.into_error())),
            }
        })
    }

    /// Compressed layers that are kept beside their directories and for which [`Store::keep_once`] was not
    /// tried, each once, with their layers. Reads manifests: for a thread that may wait.
    pub fn kept_twice(&self) -> Vec<(Digest, DiffId)> {
        let (index, mut seen) = (self.index(), HashSet::new());
        let mut found = Vec::new();
        for image in index.images().chain(index.detached()).filter(|image| !image.kept.is_empty()) {
            found.extend(self.pairs(image).into_iter().filter(|(blob, _)| seen.insert(*blob)));
        }
        let content = &self.inner.content;
        let is_twice = |blob: &Digest| {
            content.contains(blob) && !matches!(content.recipe(blob), Ok(Recipe::None) | Err(_))
        };
        found.retain(|(blob, _)| is_twice(blob));
        found
    }

    /// The compressed layers that are kept for an image, with what they unpack to.
    fn pairs(&self, image: &Image) -> Vec<(Digest, DiffId)> {
        let manifest = self.manifest_bytes(image).ok();
        let manifest = manifest.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
        let blobs = manifest.into_iter().flat_map(|manifest| manifest.layers).map(|layer| layer.digest);
        let pairs = blobs.zip(image.layers.iter().copied());
        pairs.filter(|(blob, _)| image.kept.contains(blob)).collect()
    }

    /// Lets go of the blob of a layer, if what is left makes it again. Takes about twice as long as compressing
    /// it: for a thread that nobody waits for. It may be killed at any moment.
    pub fn keep_once(&self, blob: &Digest, layer: &DiffId) -> Result<KeptOnce> {
        let mut lease = self.lease();
        lease.blob(*blob);
        lease.layer(*layer);
        let content = &self.inner.content;
        if !content.contains(blob) || !self.inner.snapshots.has_layer(layer) {
            return Ok(KeptOnce::Gone);
        }
        if let Recipe::Some(_) = content.recipe(blob).lift()? {
            content.drop_blob(blob).lift()?;
            return Ok(KeptOnce::Recipe(content.disk_size(blob)));
        }
        let written = self.write_recipe(blob, layer)?;
        let right = match written {
            Some(recipe) => self.is_right(blob, &recipe).then_some(recipe),
            None => None,
        };
        let Some(recipe) = right else {
            content.place_recipe(blob, content.ingest().lift()?).lift()?;
            return Ok(KeptOnce::Blob);
        };
        let size = recipe.size();
        content.place_recipe(blob, recipe).lift()?; // the commit point
        Ok(KeptOnce::Recipe(size))
    }

    /// A recipe of the blob, not yet tried; `None` when there is none of a sensible size.
    fn write_recipe(&self, blob: &Digest, layer: &DiffId) -> Result<Option<Ingest>> {
        let content = &self.inner.content;
        let (mut file, size) = (content.open_blob(blob).lift()?, content.size(blob).lift()?);
        let mut start = [0; 6];
        let is_gzip = size >= 18 && {
            file.read_exact(&mut start).map_err(Error::from)?;
            file.rewind().map_err(Error::from)?;
            Compression::sniff(&start) == Compression::Gzip
        };
        let compression = match (blob == &layer.0, is_gzip) {
            (true, _) => PLAIN,
            (false, true) => GZIP,
            (false, false) => return Ok(None),
        };
        let mut recipe = BufWriter::new(content.ingest().lift()?);
        let head = Head { layer: *layer, size, compression };
        head.write(&mut recipe).map_err(Error::from)?;
        let limited = Limited { writer: recipe, left: size / WORTH };
        let limited = match compression {
            PLAIN => Ok(limited),
            _ => yare_layer::write_gzip_recipe(file, limited),
        };
        match limited.and_then(|limited| limited.writer.into_inner().map_err(io::Error::from)) {
            Ok(recipe) => Ok(Some(recipe)),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge) =>
            {
                tracing::debug!(%blob, %error, "no recipe makes a compressed layer again");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a recipe makes its blob, all of it tried on what is on the disk.
    fn is_right(&self, blob: &Digest, recipe: &Ingest) -> bool {
        let made = recipe.reopen().lift().and_then(|recipe| self.rebuild(blob, recipe, Hasher::new()));
        match made.map(Hasher::finish) {
            Ok(made) if made == *blob => true,
            Ok(made) => {
                tracing::warn!(%blob, %made, "the recipe of a compressed layer makes another one; the layer stays");
                false
            }
            Err(error) => {
                let error = yare_errdefs::chain(&error);
                tracing::warn!(%blob, error, "the recipe of a compressed layer makes none; the layer stays");
                false
            }
        }
    }
}

fn read_head(digest: &Digest, recipe: &mut File) -> Result<Head> {
    Head::read(recipe).map_err(|error| {
        Error::internal(format!("cannot read what makes layer {digest} again"))
            .caused_by(error)
            .with_hint("remove the image and get it again")
    })
}

fn is_broken_pipe(error: &Error) -> bool {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Refuses more than so many bytes.
struct Limited<W> {
    writer: W,
    left: u64,
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
