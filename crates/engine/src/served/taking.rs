//! An image that is pushed to the engine's registry becomes an image of the store.

use crate::Engine;
use crate::images::{self, lifted, pull};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use yare_errdefs::{Class, Classified, Error, Result};
use yare_image::{Image, ImageId, Lease, NewImage};
use yare_oci::{DiffId, Digest, Hasher, ImageConfig, Manifest, MediaType, Reference};
use yare_registry::Pushed;

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
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let mut kept = Vec::new();
    for layer in &layers {
        place_layer(engine, layer, &mut lease, taking)?;
        let blob = layer.blob.digest;
        if blob != layer.diff_id.0 && !layer.again {
            kept.push(blob);
        }
    }
    if let Some(image) = engine.images.image(&id) {
        // It is here: all that is missing is the name.
        name(engine, &id, names)?;
        return Ok(image.manifest == wanted.digest);
    }
    let new = NewImage {
        config: config_bytes,
        manifest: Some(pushed.manifest.to_vec()),
        references: names.to_vec(),
        digests: vec![taking.repository.with_digest(wanted.digest)],
        kept,
        parent: None,
        built: false,
    };
    let committed = engine.images.commit_image(new)?;
    drop(lease);
    for name in names {
        images::publish(engine, "tag", &id, &name.familiar());
    }
    Ok(committed.image.manifest == wanted.digest)
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
fn place_layer(engine: &Engine, layer: &pull::Layer, lease: &mut Lease, taking: &Taking<'_>) -> Result<()> {
    let (content, blob) = (engine.images.content(), layer.blob.digest);
    lease.layer(layer.diff_id);
    lease.blob(blob);
    for image in taking.images {
        let known: Manifest = serde_json::from_slice(&engine.images.manifest_bytes(image)?)
            .map_err(|error| Error::internal("a stored manifest cannot be read").caused_by(error))?;
        let mut pairs = known.layers.iter().zip(image.layers.iter());
        if pairs.any(|(known, diff_id)| known.digest == blob && *diff_id == layer.diff_id)
            && (content.contains(&blob) || blob == layer.diff_id.0)
        {
            return Ok(());
        }
    }
    let opened = match (taking.pushed.blob)(&blob)? {
        Some(file) => file,
        None => content.open_blob(&blob).map_err(lifted)?,
    };
    let is_plain = blob == layer.diff_id.0;
    if !is_plain && !content.contains(&blob) {
        content.adopt(&opened, &blob).map_err(lifted)?;
    }
    if engine.images.snapshots().has_layer(&layer.diff_id) {
        // What others have here is given to those who have it themselves.
        return if is_plain { Ok(()) } else { check_content(engine, opened, layer.diff_id) };
    }
    engine.images.unpack_layer(opened, layer.blob.size, layer.diff_id)
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
