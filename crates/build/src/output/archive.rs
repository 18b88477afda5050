//! Images as one tar: a docker archive or an OCI layout; both can be read as either where they hold one image.

use super::blobs::{Blobs, Watched};
use super::layout::{Attested, Document, attested, index, manifest};
use super::{Annotations, Image, Kind, Request};
use crate::Cancel;
use crate::attest::Subject;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use yare_errdefs::{Error, Result, class_of_io};
use yare_image::documents::{DockerItem, blob_path, named_descriptors, oci_layout, repositories};
use yare_image::{ArchiveWriter, Store};
use yare_oci::{Descriptor, DiffId, Digest, MediaType, Reference};

/// What an archive holds: documents by digest, and the layers behind them.
#[derive(Debug)]
pub struct Packed {
    /// The manifest of a single image without attestations, else the index.
    pub top: Document,
    /// Manifests, configs, statements.
    documents: BTreeMap<Digest, Vec<u8>>,
    /// Layers by the digest of their blob.
    layers: BTreeMap<Digest, (DiffId, u64)>,
    /// The first image's config and layers with their blobs.
    first: (Digest, Vec<(DiffId, Descriptor)>),
}

/// Packs the layers and makes the documents of images: what an archive holds, and what a push would send.
pub fn pack(
    images: &[Image],
    names: &[Reference],
    annotations: &Annotations,
    blobs: &mut Blobs<'_>,
    cancel: &Cancel,
) -> Result<Packed> {
    let first = images.first().ok_or_else(|| Error::internal("there is no image to export"))?;
    let mut packed = Packed {
        top: manifest(&first.config, Vec::new(), BTreeMap::new())?,
        documents: BTreeMap::new(),
        layers: BTreeMap::new(),
        first: (Digest::of(&first.config), Vec::new()),
    };
    let (mut members, mut attestations) = (Vec::new(), Vec::new());
    for (place, image) in images.iter().enumerate() {
        let layers = image.layers.iter().map(|layer| Ok((*layer, blobs.descriptor(layer, cancel)?)));
        let layers: Vec<(DiffId, Descriptor)> = layers.collect::<Result<_>>()?;
        let descriptors = layers.iter().map(|(_, blob)| blob.clone()).collect();
        let mut made = manifest(&image.config, descriptors, annotations.manifest(&image.platform))?;
        packed.documents.insert(Digest::of(&image.config), image.config.clone());
        packed.documents.insert(made.descriptor.digest, made.bytes.clone());
        packed.layers.extend(layers.iter().map(|(layer, blob)| (blob.digest, (*layer, blob.size))));
        if !image.attestations.is_empty() {
            let subjects = Subject::of(&made.descriptor.digest, names, &image.platform);
            attestations.push(packed.add(attested(&made.descriptor, &subjects, &image.attestations)?));
        }
        made.descriptor.platform = Some(image.platform.clone());
        made.descriptor.annotations = annotations.manifest_descriptor(&image.platform);
        members.push(made.descriptor.clone());
        if place == 0 {
            (packed.top, packed.first.1) = (made, layers);
        }
    }
    let single = members.len() == 1 && attestations.is_empty();
    if !single {
        // As in BuildKit's indexes, what is attested follows the images.
        packed.top = index(members.into_iter().chain(attestations).collect(), annotations.index())?;
        packed.top.descriptor.annotations = annotations.index_descriptor();
        packed.documents.insert(packed.top.descriptor.digest, packed.top.bytes.clone());
    }
    Ok(packed)
}

impl Packed {
    fn add(&mut self, attested: Attested) -> Descriptor {
        let manifest = attested.manifest;
        for document in attested.statements.into_iter().chain([attested.config]) {
            self.documents.insert(document.descriptor.digest, document.bytes);
        }
        self.documents.insert(manifest.descriptor.digest, manifest.bytes);
        manifest.descriptor
    }

    /// All documents by digest: manifests, configs, statements, the index.
    pub fn documents(&self) -> &BTreeMap<Digest, Vec<u8>> {
        &self.documents
    }

    /// The layers by the digest of their blob, with its size.
    pub fn layers(&self) -> &BTreeMap<Digest, (DiffId, u64)> {
        &self.layers
    }
}

/// Writes the archive that `request` asks for, packing into `folder`, and returns the digest of its manifest
/// or index.
pub fn write_archive(
    store: &Store,
    images: &[Image],
    request: &Request,
    folder: &Path,
    (sink, cancel): (&mut dyn Write, &Cancel),
) -> Result<Digest> {
    if request.kind == Kind::Docker && images.len() > 1 {
        return Err(Error::invalid("docker exporter does not currently support exporting manifest lists")
            .with_hint("use type=oci for several platforms"));
    }
    let mut blobs = Blobs::new(store, folder, request.packing);
    let packed = pack(images, &request.names, &request.annotations, &mut blobs, cancel)?;
    let mut writer = ArchiveWriter::new(Watched { sink, cancel });
    let written = write_all(&mut writer, &packed, &blobs, request);
    // The tar's own error only says that it was told to stop.
    cancel.check()?;
    written?;
    writer.finish().map_err(write_failed)?;
    Ok(packed.top.descriptor.digest)
}

fn write_failed(error: std::io::Error) -> Error {
    Error::new(class_of_io(&error), "cannot write the archive").caused_by(error)
}

fn write_all<W: Write>(
    writer: &mut ArchiveWriter<W>,
    packed: &Packed,
    blobs: &Blobs<'_>,
    request: &Request,
) -> Result<()> {
    writer.directory("blobs/", 0).map_err(write_failed)?;
    writer.directory("blobs/sha256/", 0).map_err(write_failed)?;
    let mut digests: Vec<&Digest> = packed.documents.keys().chain(packed.layers.keys()).collect();
    digests.sort_unstable();
    digests.dedup();
    for digest in digests {
        let name = blob_path(digest);
        if let Some(bytes) = packed.documents.get(digest) {
            writer.file(&name, 0o644, 0, bytes).map_err(write_failed)?;
        } else if let Some((layer, size)) = packed.layers.get(digest) {
            writer.stream(&name, (0o644, 0, *size), |sink| blobs.write(layer, sink))?;
        }
    }
    let layout = oci_layout(named_descriptors(&packed.top.descriptor, &request.names));
    write_json(writer, "index.json", &layout)?;
    // An index has no form in a docker archive; attestations do not stop the image from having one.
    if request.kind == Kind::Docker || packed.top.descriptor.media_type == MediaType::OCI_MANIFEST {
        let (config, layers) = &packed.first;
        write_json(writer, "manifest.json", &[DockerItem::new(config, layers, &request.names, None)])?;
        let top = layers.last().map(|(layer, _)| layer);
        let repositories = repositories([(request.names.as_slice(), top)]);
        if request.kind == Kind::Docker && !repositories.is_empty() {
            write_json(writer, "repositories", &repositories)?;
        }
    }
    write_json(writer, "oci-layout", &BTreeMap::from([("imageLayoutVersion", "1.0.0")]))
}

fn write_json<W: Write>(
    writer: &mut ArchiveWriter<W>,
    name: &str,
    value: &impl serde::Serialize,
) -> Result<()> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::internal(format!("cannot write {name} as JSON")).caused_by(error))?;
    writer.file(name, 0o644, 0, &bytes).map_err(write_failed)
}
