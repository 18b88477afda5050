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
use crate::index::{Index, distinct};
use crate::platforms::{ImageIndex, media_type};
use crate::store::Store;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, DiffId, Digest, Hasher, Manifest, MediaType, Platform, Reference};

/// An image to save, under these names.
struct Chosen {
    image: Arc<Image>,
    tags: Vec<Reference>,
    /// Its layers with the blobs that hold them in the archive.
    layers: Vec<(DiffId, Descriptor)>,
}

/// Where the bytes of a blob come from.
enum Source {
    Document {
        bytes: Vec<u8>,
        time: u64,
    },
    /// The plain tar of a layer.
    Layer(DiffId),
    /// A compressed layer, as it came.
    Kept(u64),
}

/// What an archive holds.
#[derive(Default)]
struct Saved {
    /// What the docker archive names.
    images: Vec<Chosen>,
    /// What the OCI layout names.
    tops: Vec<Descriptor>,
    blobs: BTreeMap<Digest, Source>,
}

impl Saved {
    fn document(&mut self, bytes: Vec<u8>, time: u64) {
        self.blobs.insert(Digest::of(&bytes), Source::Document { bytes, time });
    }
}

impl Store {
    /// Writes the images of these names into one archive. A name without a tag means all tags of the
    /// repository; an id saves without names. A name of an index saves all of it that is here, or of one
    /// platform alone the image. Nothing is written when a name is unknown.
    pub fn save(&self, names: &[String], platforms: &[Platform], sink: impl Write) -> Result<()> {
        let index = self.index();
        let chosen = choose(&index, names, platforms)?;
        let mut lease = self.lease();
        for (image, whole, _) in &chosen {
            let members = whole.as_ref().map(|whole| index.present(whole)).unwrap_or_default();
            for image in members.iter().chain([image]) {
                image.kept.iter().chain([&image.id.0]).for_each(|blob| lease.blob(*blob));
                image.layers.iter().for_each(|layer| lease.layer(*layer));
            }
            whole.iter().flat_map(|whole| whole.blobs()).for_each(|blob| lease.blob(blob));
        }
        let mut saved = Saved::default();
        for (image, whole, tags) in chosen {
            match whole {
                Some(whole) => self.take_index(&mut saved, (&image, &whole, tags), platforms, &index)?,
                None => self.take_image(&mut saved, image, tags, &index)?,
            }
        }
        let mut writer = Writer::new(io::BufWriter::with_capacity(256 << 10, sink));
        self.write_blobs(&mut writer, &saved.blobs, &index)?;
        write_documents(&mut writer, &saved)?;
        writer.finish().map_err(write_failed)?;
        Ok(())
    }

    fn take_image(
        &self,
        saved: &mut Saved,
        image: Arc<Image>,
        tags: Vec<Reference>,
        index: &Index,
    ) -> Result<()> {
        let (manifest, layers) = self.plain(saved, &image, index)?;
        saved.tops.extend(named_descriptors(&manifest, &tags));
        saved.images.push(Chosen { image, tags, layers });
        Ok(())
    }

    /// Takes an image in over its uncompressed layers.
    fn plain(
        &self,
        saved: &mut Saved,
        image: &Image,
        index: &Index,
    ) -> Result<(Descriptor, Vec<(DiffId, Descriptor)>)> {
        let config = self.config_bytes(&image.id)?;
        let sizes: Vec<(DiffId, LayerRecord)> = distinct(&image.layers)
            .into_iter()
            .map(|layer| (layer, index.layer(&layer).unwrap_or_default()))
            .collect();
        let manifest = plain_manifest(&config, &image.layers, &sizes)?;
        let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
        let size = |layer: &DiffId| index.layer(layer).map_or(0, |record| record.tar);
        let layer = |layer: &DiffId| (*layer, Descriptor::new(MediaType::OCI_LAYER, layer.0, size(layer)));
        saved.document(config, u64::try_from(image.created_unix()).unwrap_or_default());
        saved.document(manifest, 0);
        saved.blobs.extend(image.layers.iter().map(|layer| (layer.0, Source::Layer(*layer))));
        Ok((descriptor, image.layers.iter().map(layer).collect()))
    }

    /// Takes an image of an index in as the manifest says, or where its layers are not here in that form as
    /// [`Store::plain`] does.
    fn packed(
        &self,
        saved: &mut Saved,
        (image, digest): (&Image, &Digest),
        index: &Index,
    ) -> Result<(Descriptor, Vec<(DiffId, Descriptor)>)> {
        let bytes = self.document(digest)?;
        let manifest: Manifest = crate::document::parse(&bytes, "a stored manifest")?;
        let layers: Vec<(DiffId, Descriptor)> =
            image.layers.iter().copied().zip(manifest.layers.iter().cloned()).collect();
        let is_here = |(layer, blob): &(DiffId, Descriptor)| {
            blob.digest == layer.0 || (image.kept.contains(&blob.digest) && self.has_blob(&blob.digest))
        };
        if layers.len() != manifest.layers.len() || !layers.iter().all(is_here) {
            return self.plain(saved, image, index);
        }
        for (layer, blob) in &layers {
            let source = if blob.digest == layer.0 { Source::Layer(*layer) } else { Source::Kept(blob.size) };
            saved.blobs.insert(blob.digest, source);
        }
        let kind = manifest.media_type.as_str();
        let kind = if kind.is_empty() { MediaType::OCI_MANIFEST } else { kind };
        let descriptor = Descriptor::of(kind, &bytes);
        let config = self.config_bytes(&image.id)?;
        saved.document(config, u64::try_from(image.created_unix()).unwrap_or_default());
        saved.document(bytes, 0);
        Ok((descriptor, layers))
    }

    /// Takes an index in with its images that are here and wanted, and with what is attached to them.
    fn take_index(
        &self,
        saved: &mut Saved,
        (shown, whole, tags): (&Arc<Image>, &ImageIndex, Vec<Reference>),
        platforms: &[Platform],
        index: &Index,
    ) -> Result<()> {
        let mut changed = BTreeMap::new();
        for (digest, id) in &whole.present {
            let Some(image) = index.image(id) else { continue };
            let platform = image.config.platform();
            if !platforms.is_empty() && !platforms.iter().any(|wanted| platform.is_exactly(wanted)) {
                continue;
            }
            let (descriptor, layers) = self.packed(saved, (image, digest), index)?;
            if descriptor.digest != *digest {
                changed.insert(*digest, descriptor);
            }
            if image.id == shown.id {
                saved.images.push(Chosen { image: Arc::clone(image), tags: tags.clone(), layers });
            }
        }
        let rewritten = self.rewrite_index(whole, &changed)?;
        let fresh = rewritten.documents;
        for attestation in &rewritten.attestations {
            let manifest = match fresh.get(&attestation.digest) {
                Some(bytes) => bytes.clone(),
                None => self.document(&attestation.digest)?,
            };
            let parsed: Manifest = crate::document::parse(&manifest, "the manifest of an attestation")?;
            saved.document(manifest, 0);
            for blob in parsed.layers.iter().chain([&parsed.config]) {
                let bytes = fresh.get(&blob.digest).cloned();
                saved.document(bytes.map_or_else(|| self.document(&blob.digest), Ok)?, 0);
            }
        }
        let top = Descriptor::of(media_type(&whole.document), &rewritten.document);
        saved.tops.extend(named_descriptors(&top, &tags));
        saved.document(rewritten.document, 0);
        Ok(())
    }

    /// `blobs/sha256/`, sorted by digest.
    fn write_blobs<W: Write>(
        &self,
        writer: &mut Writer<W>,
        blobs: &BTreeMap<Digest, Source>,
        index: &Index,
    ) -> Result<()> {
        writer.directory("blobs/", 0).map_err(write_failed)?;
        writer.directory("blobs/sha256/", 0).map_err(write_failed)?;
        for (digest, source) in blobs {
            let name = blob_path(digest);
            match source {
                Source::Document { bytes, time } => {
                    writer.file(&name, 0o644, *time, bytes).map_err(write_failed)?;
                }
                Source::Layer(layer) => {
                    let size = index.layer(layer).map_or(0, |record| record.tar);
                    writer.stream(&name, (0o644, 0, size), |sink| self.export_layer(layer, sink))?;
                }
                Source::Kept(size) => {
                    let mut blob = self.open_blob(digest)?;
                    writer.stream(&name, (0o644, 0, *size), |sink| {
                        io::copy(&mut blob, sink).map(drop).map_err(write_failed)
                    })?;
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

type Named = (Arc<Image>, Option<Arc<ImageIndex>>, Vec<Reference>);

/// The images and indexes that these names mean, each once, in the order of the names.
fn choose(index: &Index, names: &[String], platforms: &[Platform]) -> Result<Vec<Named>> {
    let mut chosen: Vec<Named> = Vec::new();
    let mut add = |name: &str, tag: Option<Reference>| -> Result<()> {
        let (shown, whole) = index.find(name)?;
        // One platform is one image; its index would promise more.
        let (image, whole) = match platforms {
            [] => (shown, whole),
            [only] => (index.resolve(name, Some(only))?, None),
            _ => (index.resolve(name, platforms.first())?, whole),
        };
        let digest = |whole: &Option<Arc<ImageIndex>>| whole.as_ref().map(|whole| whole.digest);
        let same = |known: &Named| known.0.id == image.id && digest(&known.1) == digest(&whole);
        let place = chosen.iter().position(same);
        let place = place.unwrap_or_else(|| {
            chosen.push((image, whole, Vec::new()));
            chosen.len() - 1
        });
        if let Some(tag) = tag.filter(|tag| !chosen[place].2.contains(tag)) {
            chosen[place].2.push(tag);
        }
        Ok(())
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
            add(name, None)?;
        }
        for (tag, _) in tags {
            add(&tag.to_string(), Some(tag))?;
        }
    }
    Ok(chosen)
}

/// The four documents beside the blobs.
fn write_documents<W: Write>(writer: &mut Writer<W>, saved: &Saved) -> Result<()> {
    let ids: BTreeSet<_> = saved.images.iter().map(|chosen| chosen.image.id).collect();
    let items: Vec<_> = saved.images.iter().map(|chosen| docker_item(chosen, &ids)).collect();
    let layout = oci_layout(saved.tops.clone());
    let repositories =
        repositories(saved.images.iter().map(|chosen| (chosen.tags.as_slice(), chosen.image.layers.last())));
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

fn docker_item(chosen: &Chosen, saved: &BTreeSet<crate::ImageId>) -> DockerItem {
    let parent = chosen.image.parent.filter(|parent| saved.contains(parent));
    DockerItem::new(&chosen.image.id.0, &chosen.layers, &chosen.tags, parent)
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
