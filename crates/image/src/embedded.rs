//! Images that the engine carries in itself.

use crate::archive::Writer;
use crate::commit::NewImage;
use crate::db::{self, EmbeddedRecord};
use crate::failure::Lift;
use crate::image::Image;
use crate::store::Store;
use crate::unpack::unpack;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_oci::{ContainerConfig, DiffId, Digest, Hasher, History, ImageConfig, Platform, Reference, RootFs};

/// Where the bytes of a file of an embedded image come from.
#[derive(Debug)]
pub enum EmbeddedContent {
    /// From memory.
    Bytes(Vec<u8>),
    /// From an open file, from its start; its offset is not used.
    File(File),
}

/// One file of an embedded image, owned by root.
#[derive(Debug)]
pub struct EmbeddedFile {
    /// Path below the image's root, without a slash in front; at most 100 bytes a part.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its bytes.
    pub content: EmbeddedContent,
}

/// The date of everything in an embedded image: fixed, so that equal files make an equal image.
const DATE: &str = "1970-01-01T00:00:00Z";

impl Store {
    /// Makes sure that an image of exactly these files and this config is there under this name.
    ///
    /// The image is made when it is missing or the files changed; the check reads no file whose inode, size
    /// and times are as before. Equal files and config give an equal id. Platform, history and date
    /// are filled in here.
    pub fn ensure_embedded(
        &self,
        reference: &Reference,
        files: &[EmbeddedFile],
        config: &ContainerConfig,
    ) -> Result<Arc<Image>> {
        let reference = reference.clone().or_latest();
        let fingerprint = fingerprint(files, config)?;
        let known = db::embedded(&self.inner.database, &reference)?
            .filter(|record| record.fingerprint == fingerprint);
        if let Some(image) = known.and_then(|record| self.index().image(&record.image).cloned()) {
            if !image.references.contains(&reference) {
                self.tag(&image.id, &reference)?;
            }
            return Ok(self.image(&image.id).unwrap_or(image));
        }
        let image = self.make_embedded(&reference, files, config)?;
        db::put_embedded(&self.inner.database, &reference, &EmbeddedRecord { fingerprint, image: image.id })?;
        Ok(image)
    }

    fn make_embedded(
        &self,
        reference: &Reference,
        files: &[EmbeddedFile],
        config: &ContainerConfig,
    ) -> Result<Arc<Image>> {
        let mut tar = spool()?;
        write_tar(files, &mut io::BufWriter::new(&mut tar))?;
        tar.rewind()?;
        let mut hasher = Hasher::new();
        io::copy(&mut tar, &mut hasher)?;
        let layer = DiffId(hasher.finish());
        let mut lease = self.lease();
        lease.layer(layer);
        // Embedded images have the same program in their layer: it is written once.
        if !self.inner.snapshots.has_layer(&layer) {
            tar.rewind()?;
            let unpacked = unpack(self, tar)?;
            self.inner.snapshots.commit_layers(vec![(unpacked.pending, unpacked.applied)]).lift()?;
        }
        let platform = Platform::host();
        let config = ImageConfig {
            created: Some(DATE.into()),
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            rootfs: RootFs { diff_ids: vec![layer], ..RootFs::default() },
            history: vec![History {
                created: Some(DATE.into()),
                comment: "embedded".into(),
                ..History::default()
            }],
            config: config.clone(),
            ..ImageConfig::default()
        };
        let mut new = NewImage::from_config(&config)?;
        new.references.push(reference.clone());
        Ok(self.commit_image(new)?.image)
    }
}

/// A nameless file for the tar: it is written once and read once.
fn spool() -> Result<File> {
    tempfile::tempfile().map_err(|error| Error::internal("cannot make a temporary file").caused_by(error))
}

/// Tells different sources apart without reading files that did not change.
fn fingerprint(files: &[EmbeddedFile], config: &ContainerConfig) -> Result<Digest> {
    let mut text = serde_json::to_string(config)
        .map_err(|error| Error::internal("cannot write the image config as JSON").caused_by(error))?;
    for file in files {
        text.push_str(&format!("\n{:?} {:o} ", file.path, file.mode));
        text.push_str(&match &file.content {
            EmbeddedContent::Bytes(bytes) => Digest::of(bytes).to_string(),
            EmbeddedContent::File(source) => {
                let meta = source.metadata()?;
                let (changed, modified) =
                    ((meta.ctime(), meta.ctime_nsec()), (meta.mtime(), meta.mtime_nsec()));
                format!("{} {} {} {changed:?} {modified:?}", meta.dev(), meta.ino(), meta.len())
            }
        });
    }
    Ok(Digest::of(text))
}

fn write_tar(files: &[EmbeddedFile], sink: &mut dyn Write) -> Result<()> {
    let mut writer = Writer::new(sink);
    let mut folders = BTreeSet::new();
    for file in files {
        for (place, _) in file.path.match_indices('/') {
            let folder = &file.path[..=place];
            if folders.insert(folder) {
                writer.directory(folder, 0)?;
            }
        }
        match &file.content {
            EmbeddedContent::Bytes(bytes) => writer.file(&file.path, file.mode, 0, bytes)?,
            EmbeddedContent::File(source) => {
                let size = source.metadata()?.len();
                writer.stream(&file.path, (file.mode, 0, size), |sink| copy(source, size, sink))?;
            }
        }
    }
    writer.finish()?;
    Ok(())
}

fn copy(source: &File, size: u64, sink: &mut dyn Write) -> Result<()> {
    let mut reader = FromStart { file: source, offset: 0 }.take(size);
    io::copy(&mut reader, sink)?;
    Ok(())
}

/// Reads a file from its start without moving its offset.
struct FromStart<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
