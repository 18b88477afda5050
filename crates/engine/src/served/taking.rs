//! An image, or an index of images, that is pushed to the engine's registry becomes one of the store.

use crate::Engine;
use crate::images::{self, lifted, pull};
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use yare_errdefs::{Class, Classified, Error, Result};
use yare_image::{Allowance, Image, ImageId, Lease, NewImage, NewIndex, platforms};
use yare_oci::{Descriptor, DiffId, Digest, Hasher, ImageConfig, Index, Manifest, MediaType, Reference};
use yare_registry::Pushed;

/// The most bytes that the manifests of one index have together: they are in memory while it is taken.
const LARGEST_LISTED: usize = 64 << 20;

/// What a pushed manifest speaks of, when that is an image.
pub(super) struct Wanted {
    manifest: Manifest,
    digest: Digest,
}

impl Wanted {
    /// `None` for artifacts, some of which have the config of an image: their layers tell.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
        let has_config =
            matches!(manifest.config.media_type.as_str(), MediaType::OCI_CONFIG | MediaType::DOCKER_CONFIG);
        let is_layer = |kind: &str| kind.contains(".image.layer.") || kind.contains(".image.rootfs.diff.tar");
        let is_image = has_config
            && manifest.artifact_type.is_none()
            && manifest.layers.iter().all(|layer| is_layer(layer.media_type.as_str()));
        is_image.then(|| Self { manifest, digest: Digest::of(bytes) })
    }

    /// Whether this image of the store came by another manifest.
    fn differs(&self, image: &Image) -> bool {
        image.manifest != self.digest
    }

    /// All that it names.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        let layers = self.manifest.layers.iter();
        layers.chain([&self.manifest.config]).map(|part| &part.digest)
    }
}

/// An image that is to be taken.
pub(super) struct Taking<'a> {
    pub(super) wanted: &'a Wanted,
    /// The repository by its name in the store.
    pub(super) repository: &'a Reference,
    pub(super) names: &'a [Reference],
    /// The images that the repository has already.
    pub(super) images: &'a [Arc<Image>],
    pub(super) pushed: &'a Pushed<'a>,
}

/// Layers, config, ● the image's record with its names. `false` when the store has the image by another
/// manifest, or cannot hold it. The repository must be one that may have all blobs of it.
pub(super) fn take(engine: &Engine, taking: &Taking<'_>) -> Result<bool> {
    let Taking { wanted, names, pushed, .. } = *taking;
    let mut lease = engine.images.lease();
    let Some(mut new) = place(engine, taking, &mut lease)? else { return Ok(false) };
    let id = ImageId(wanted.manifest.config.digest);
    if let Some(image) = engine.images.image(&id) {
        // It is here: all that is missing is the name.
        name(engine, &id, names)?;
        return Ok(!wanted.differs(&image));
    }
    new.manifest = Some(pushed.manifest.to_vec());
    new.references = names.to_vec();
    new.digests = vec![taking.repository.with_digest(wanted.digest)];
    let committed = engine.images.commit_image(new)?;
    drop(lease);
    for name in names {
        images::publish(engine, "tag", &id, &name.familiar());
    }
    Ok(!wanted.differs(&committed.image))
}

/// An index that is to be taken: its document, and the manifests of what it lists.
pub(super) struct WantedIndex {
    images: Vec<(Wanted, Vec<u8>)>,
    attestations: Vec<(Manifest, Vec<u8>)>,
}

impl WantedIndex {
    /// `None` when something that it lists is neither an image nor attached to one, or was not pushed.
    pub(super) fn of(pushed: &Pushed<'_>) -> Result<Option<Self>> {
        let Ok(index) = serde_json::from_slice::<Index>(pushed.manifest) else { return Ok(None) };
        let mut wanted = Self { images: Vec::new(), attestations: Vec::new() };
        let (mut seen, mut size) = (HashSet::new(), 0);
        // A list may name one manifest as often as it likes: each is read once.
        let named = |member: &&Descriptor| seen.insert((member.digest, platforms::is_attestation(member)));
        for member in index.manifests.iter().filter(named) {
            let Some(bytes) = (pushed.document)(&member.digest)? else { return Ok(None) };
            size += bytes.len();
            if size > LARGEST_LISTED {
                tracing::info!(
                    "an index of more than {LARGEST_LISTED} bytes of manifests is kept in the registry only"
                );
                return Ok(None);
            }
            if platforms::is_attestation(member) {
                let Ok(manifest) = serde_json::from_slice(&bytes) else { return Ok(None) };
                wanted.attestations.push((manifest, bytes.to_vec()));
            } else {
                let Some(image) = Wanted::of(&bytes) else { return Ok(None) };
                wanted.images.push((image, bytes.to_vec()));
            }
        }
        Ok(Some(wanted).filter(|wanted| !wanted.images.is_empty()))
    }

    /// All that its images and attestations name.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        let attached = self.attestations.iter().flat_map(|(manifest, _)| parts(manifest));
        self.images.iter().flat_map(|(image, _)| image.blobs()).chain(attached)
    }
}

fn parts(manifest: &Manifest) -> impl Iterator<Item = &Digest> {
    manifest.layers.iter().chain([&manifest.config]).map(|part| &part.digest)
}

/// As [`take`], for an index: layers and configs of all its images, its attestations, ● one record with its
/// names. `false` when the store has one of the images by another manifest, or cannot hold it.
pub(super) fn take_index(
    engine: &Engine,
    (wanted, repository, names): (WantedIndex, &Reference, &[Reference]),
    (images, pushed): (&[Arc<Image>], &Pushed<'_>),
) -> Result<bool> {
    let mut lease = engine.images.lease();
    let (mut new, mut present) = (Vec::new(), Vec::new());
    for (image, bytes) in &wanted.images {
        let id = ImageId(image.manifest.config.digest);
        if engine.images.image(&id).is_some_and(|known| image.differs(&known)) {
            return Ok(false);
        }
        let taking = Taking { wanted: image, repository, names: &[], images, pushed };
        let Some(placed) = place(engine, &taking, &mut lease)? else { return Ok(false) };
        new.push(NewImage { manifest: Some(bytes.clone()), ..placed });
        present.push((bytes.clone(), id));
    }
    let mut kept = Vec::new();
    for (manifest, bytes) in &wanted.attestations {
        kept.extend(keep_attestation(engine, (manifest, bytes), pushed, &mut lease)?);
    }
    let index = NewIndex {
        document: pushed.manifest.to_vec(),
        present,
        kept,
        references: names.to_vec(),
        digests: vec![repository.with_digest(Digest::of(pushed.manifest))],
    };
    let (_, committed) = engine.images.commit(new, vec![index])?;
    drop(lease);
    for shown in committed {
        for name in names {
            images::publish(engine, "tag", &shown.image.id, &name.familiar());
        }
    }
    Ok(true)
}

/// Puts what is attached to an image beside the images' documents.
fn keep_attestation(
    engine: &Engine,
    (manifest, bytes): (&Manifest, &[u8]),
    pushed: &Pushed<'_>,
    lease: &mut Lease,
) -> Result<Vec<Digest>> {
    let content = engine.images.content();
    let own = Digest::of(bytes);
    lease.blob(own);
    content.put(bytes).map_err(lifted)?;
    let mut kept = vec![own];
    for blob in parts(manifest) {
        lease.blob(*blob);
        if let Some(file) = (pushed.blob)(blob)?.filter(|_| !content.contains(blob)) {
            content.adopt(&file, blob).map_err(lifted)?;
        }
        kept.push(*blob);
    }
    Ok(kept)
}

/// Makes the layers of an image be there. The image as it is to be recorded, without manifest and names;
/// `None` when the store cannot hold it.
fn place(engine: &Engine, taking: &Taking<'_>, lease: &mut Lease) -> Result<Option<NewImage>> {
    let Taking { wanted, pushed, .. } = *taking;
    let id = ImageId(wanted.manifest.config.digest);
    let config_bytes = match (pushed.blob)(&id.0)? {
        Some(file) => read_config(file)?,
        None => engine.images.config_bytes(&id)?,
    };
    let config: ImageConfig = serde_json::from_slice(&config_bytes)
        .map_err(|error| Error::invalid("the image config cannot be read").caused_by(error))?;
    let layers = match pull::layers(&wanted.manifest, &config) {
        Ok(layers) => layers,
        Err(error) if error.class() == Class::FailedPrecondition => {
            tracing::info!(
                error = yare_errdefs::chain(&error),
                "a pushed image is kept in the registry only"
            );
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut kept = Vec::new();
    let allowance = pull::allowance(&layers);
    for layer in &layers {
        place_layer(engine, layer, (lease, &allowance), taking)?;
        let blob = layer.blob.digest;
        if blob != layer.diff_id.0 && !layer.again {
            kept.push(blob);
        }
    }
    Ok(Some(NewImage { config: config_bytes, kept, ..NewImage::default() }))
}

fn name(engine: &Engine, id: &ImageId, names: &[Reference]) -> Result<()> {
    for name in names {
        let had = engine.images.named(name).is_some_and(|image| image.id == *id);
        engine.images.tag(id, name)?;
        if !had {
            images::publish(engine, "tag", id, &name.familiar());
        }
    }
    Ok(())
}

/// Makes a layer be there, unpacked, and its compressed bytes beside it.
fn place_layer(
    engine: &Engine,
    layer: &pull::Layer,
    (lease, allowance): (&mut Lease, &Allowance),
    taking: &Taking<'_>,
) -> Result<()> {
    let (content, blob) = (engine.images.content(), layer.blob.digest);
    lease.layer(layer.diff_id);
    lease.blob(blob);
    for image in taking.images {
        let known: Manifest = serde_json::from_slice(&engine.images.manifest_bytes(image)?)
            .map_err(|error| Error::internal("a stored manifest cannot be read").caused_by(error))?;
        let mut pairs = known.layers.iter().zip(image.layers.iter());
        if pairs.any(|(known, diff_id)| known.digest == blob && *diff_id == layer.diff_id)
            && (engine.images.has_blob(&blob) || blob == layer.diff_id.0)
        {
            return Ok(());
        }
    }
    let opened = match (taking.pushed.blob)(&blob)? {
        Some(file) => file,
        None => engine.images.open_blob(&blob)?,
    };
    let is_plain = blob == layer.diff_id.0;
    if !is_plain && !engine.images.has_blob(&blob) {
        content.adopt(&opened, &blob).map_err(lifted)?;
    }
    if engine.images.snapshots().has_layer(&layer.diff_id) {
        // What others have here is given to those who have it themselves.
        return if is_plain { Ok(()) } else { check_content(engine, opened, layer.diff_id) };
    }
    engine.images.unpack_layer(opened, layer.diff_id, allowance)
}

/// Refuses compressed bytes that are not those of a layer that is here.
fn check_content(engine: &Engine, compressed: File, wanted: DiffId) -> Result<()> {
    let info = engine.images.snapshots().layer(&wanted);
    let most = info.map_err(|error| Error::wrap(error.to_string(), error))?.size;
    let failed = |error: std::io::Error| Error::invalid("a pushed layer cannot be read").caused_by(error);
    let mut reader = yare_layer::Decompressor::new(compressed).map_err(failed)?.take(most + 1);
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 256 << 10]);
    loop {
        match reader.read(&mut buffer).map_err(failed)? {
            0 => break,
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
    let actual = hasher.finish();
    if actual != wanted.0 {
        let text = format!("the layer unpacks to {actual}, and the image config names {wanted}");
        return Err(Error::invalid(text));
    }
    Ok(())
}

fn read_config(file: File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(pull::LARGEST_CONFIG + 1).read_to_end(&mut bytes).map_err(Error::from)?;
    if bytes.len() as u64 > pull::LARGEST_CONFIG {
        return Err(Error::invalid(format!("the image config has more than {} bytes", pull::LARGEST_CONFIG)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::json;
    use std::cell::Cell;

    fn image(padding: usize) -> Vec<u8> {
        let config = json!({ "mediaType": MediaType::OCI_CONFIG, "digest": Digest::of("c"), "size": 1 });
        let annotations = json!({ "note": "x".repeat(padding) });
        json!({ "schemaVersion": 2, "config": config, "layers": [], "annotations": annotations })
            .to_string()
            .into_bytes()
    }

    /// How many images an index of these becomes, and how often a document was read.
    fn listed(members: &[Digest], document: &[u8]) -> (Option<usize>, usize) {
        let member = |digest| json!({ "mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": 1 });
        let members: Vec<_> = members.iter().map(member).collect();
        let index = json!({ "schemaVersion": 2, "manifests": members }).to_string();
        let read = Cell::new(0);
        let document = |_: &Digest| {
            read.set(read.get() + 1);
            Ok(Some(Bytes::copy_from_slice(document)))
        };
        let pushed = Pushed {
            repository: "a",
            tags: &[],
            manifest: index.as_bytes(),
            blob: &|_: &Digest| Ok(None),
            document: &document,
        };
        let wanted = WantedIndex::of(&pushed).unwrap();
        (wanted.map(|wanted| wanted.images.len()), read.get())
    }

    #[test]
    fn what_an_index_lists_often_is_read_once() {
        let members = vec![Digest::of("a"); 20_000];
        assert_eq!(listed(&members, &image(0)), (Some(1), 1));
        assert_eq!(listed(&[Digest::of("a"), Digest::of("b")], &image(0)), (Some(2), 2));
    }

    #[test]
    fn manifests_that_fill_the_memory_are_not_taken() {
        let members: Vec<Digest> = (0..100).map(|number: u32| Digest::of(number.to_string())).collect();
        let (wanted, read) = listed(&members, &image(LARGEST_LISTED / 10));
        assert_eq!(wanted, None);
        assert!(read <= 10, "{read}");
    }
}
