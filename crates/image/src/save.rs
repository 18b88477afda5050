//! `save`: one tar that is a docker archive and an OCI layout at once, as Docker 25 and later write it.
//!
//! Layers are written as the exact tars that they came from, so that a load gives equal ids. The bytes
//! depend on the images and the order of the names alone.

use crate::archive::Writer;
use crate::commit::plain_manifest;
use crate::db::LayerRecord;
use crate::documents::{DockerItem, blob_path, named_descriptors, oci_layout, repositories};
use crate::failure::Lift;
use crate::image::Image;
use crate::index::{Index, distinct, no_such_image};
use crate::store::Store;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, DiffId, Digest, Hasher, MediaType, Reference};

/// An image to save, under these names.
struct Chosen {
    image: Arc<Image>,
    tags: Vec<Reference>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Store {
    /// Writes the images of these names into one archive. A name without a tag means all tags of the
    /// repository; an id saves without names. Nothing is written when a name is unknown.
    pub fn save(&self, names: &[String], sink: impl Write) -> Result<()> {
        let index = self.index();
        let chosen = choose(&index, names)?;
        let mut lease = self.lease();
        for (image, _) in &chosen {
            lease.blob(image.id.0);
            image.layers.iter().for_each(|layer| lease.layer(*layer));
        }
        let sizes = |layers: &[DiffId]| -> Vec<(DiffId, LayerRecord)> {
            distinct(layers)
                .into_iter()
                .map(|layer| (layer, index.layer(&layer).unwrap_or_default()))
                .collect()
        };
        let mut images = Vec::with_capacity(chosen.len());
        for (image, tags) in chosen {
            let config = self.config_bytes(&image.id)?;
            let manifest = plain_manifest(&config, &image.layers, &sizes(&image.layers))?;
            images.push(Chosen { image, tags, config, manifest });
        }
        let mut writer = Writer::new(io::BufWriter::with_capacity(256 << 10, sink));
        self.write_blobs(&mut writer, &images, &index)?;
        write_documents(&mut writer, &images, &index)?;
        writer.finish().map_err(write_failed)?;
        Ok(())
    }

    /// `blobs/sha256/`, sorted by digest.
    fn write_blobs<W: Write>(&self, writer: &mut Writer<W>, images: &[Chosen], index: &Index) -> Result<()> {
        let mut blobs: BTreeMap<Digest, Option<(&[u8], u64)>> = BTreeMap::new();
        for chosen in images {
            let time = u64::try_from(chosen.image.created_unix()).unwrap_or_default();
            blobs.insert(chosen.image.id.0, Some((&chosen.config, time)));
            blobs.insert(Digest::of(&chosen.manifest), Some((&chosen.manifest, 0)));
            blobs.extend(chosen.image.layers.iter().map(|layer| (layer.0, None)));
        }
        writer.directory("blobs/", 0).map_err(write_failed)?;
        writer.directory("blobs/sha256/", 0).map_err(write_failed)?;
        for (digest, document) in blobs {
            let name = blob_path(&digest);
            match document {
                Some((bytes, time)) => writer.file(&name, 0o644, time, bytes).map_err(write_failed)?,
                None => {
                    let layer = DiffId(digest);
                    let size = index.layer(&layer).map_or(0, |record| record.tar);
                    writer.stream(&name, (0o644, 0, size), |sink| self.export_layer(&layer, sink))?;
                }
            }
        }
        Ok(())
    }

    /// Writes the plain tar of a layer, the bytes of its DiffID; an error, after they were written, when they
    /// are not.
    pub fn export_layer(&self, layer: &DiffId, sink: &mut dyn Write) -> Result<()> {
        let mut hashed = Hashed { sink, hasher: Hasher::new() };
        self.inner
            .snapshots
            .export_layer(layer, &mut hashed)
            .context(|| format!("cannot write layer {layer}"))?;
        let actual = hashed.hasher.finish();
        if actual != layer.0 {
            return Err(Error::internal(format!(
                "layer {layer} was changed on the disk: its tar now has digest {actual}"
            ))
            .with_hint("remove the image and get it again"));
        }
        Ok(())
    }
}

fn write_failed(error: io::Error) -> Error {
    Error::new(yare_errdefs::class_of_io(&error), "cannot write the archive").caused_by(error)
}

type Named = (Arc<Image>, Vec<Reference>);

/// The images that these names mean, each once, in the order of the names.
fn choose(index: &Index, names: &[String]) -> Result<Vec<Named>> {
    let mut chosen: Vec<Named> = Vec::new();
    let mut add = |image: Arc<Image>, tag: Option<Reference>| {
        let place = chosen.iter().position(|(known, _)| known.id == image.id);
        let place = place.unwrap_or_else(|| {
            chosen.push((image, Vec::new()));
            chosen.len() - 1
        });
        if let Some(tag) = tag.filter(|tag| !chosen[place].1.contains(tag)) {
            chosen[place].1.push(tag);
        }
    };
    if names.is_empty() {
        return Err(Error::invalid("no images to save"));
    }
    for name in names {
        let reference = Reference::parse(name).ok().filter(|reference| reference.digest().is_none());
        let tags = match &reference {
            Some(reference) if reference.tag().is_none() => index.tags_of(reference),
            Some(reference) => index.named(reference).map(|id| (reference.clone(), id)).into_iter().collect(),
            None => Vec::new(),
        };
        if tags.is_empty() {
            add(index.resolve(name, None)?, None);
        }
        for (tag, id) in tags {
            let image = index.image(&id).cloned().ok_or_else(|| no_such_image(name))?;
            add(image, Some(tag));
        }
    }
    Ok(chosen)
}

/// The four documents beside the blobs.
fn write_documents<W: Write>(writer: &mut Writer<W>, images: &[Chosen], index: &Index) -> Result<()> {
    let saved: BTreeSet<_> = images.iter().map(|chosen| chosen.image.id).collect();
    let items: Vec<_> = images.iter().map(|chosen| docker_item(chosen, &saved, index)).collect();
    let manifests = images.iter().flat_map(|chosen| {
        named_descriptors(&Descriptor::of(MediaType::OCI_MANIFEST, &chosen.manifest), &chosen.tags)
    });
    let layout = oci_layout(manifests.collect());
    let repositories =
        repositories(images.iter().map(|chosen| (chosen.tags.as_slice(), chosen.image.layers.last())));
    write_json(writer, "index.json", &layout, "")?;
    write_json(writer, "manifest.json", &items, "\n")?;
    write_json(writer, "oci-layout", &BTreeMap::from([("imageLayoutVersion", "1.0.0")]), "")?;
    if !repositories.is_empty() {
        write_json(writer, "repositories", &repositories, "\n")?;
    }
    Ok(())
}

fn write_json<W: Write>(writer: &mut Writer<W>, name: &str, value: &impl Serialize, end: &str) -> Result<()> {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|error| Error::internal(format!("cannot write {name} as JSON")).caused_by(error))?;
    bytes.extend_from_slice(end.as_bytes());
    writer.file(name, 0o644, 0, &bytes).map_err(write_failed)
}

fn docker_item(chosen: &Chosen, saved: &BTreeSet<crate::ImageId>, index: &Index) -> DockerItem {
    let image = &chosen.image;
    let size = |layer: &DiffId| index.layer(layer).map_or(0, |record| record.tar);
    let layers = image.layers.iter();
    let layers = layers.map(|layer| (*layer, Descriptor::new(MediaType::OCI_LAYER, layer.0, size(layer))));
    let parent = image.parent.filter(|parent| saved.contains(parent));
    DockerItem::new(&image.id.0, &layers.collect::<Vec<_>>(), &chosen.tags, parent)
}

struct Hashed<'a> {
    sink: &'a mut dyn Write,
    hasher: Hasher,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.sink.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
