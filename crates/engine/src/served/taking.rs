//! An image that is pushed to the engine's registry becomes an image of the store.

use crate::Engine;
use crate::images::{self, lifted, pull};
use std::fs::File;
use yare_errdefs::{Class, Classified, Error, Result};
use yare_image::{ImageId, Lease, NewImage};
use yare_oci::{Digest, ImageConfig, Manifest, MediaType, Reference};
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
}

/// Layers, config, ● the image's record with its names. `false` when the store has the image by another
/// manifest, or cannot hold it.
pub(super) fn take(
    engine: &Engine,
    wanted: &Wanted,
    repository: &Reference,
    names: &[Reference],
    pushed: &Pushed<'_>,
) -> Result<bool> {
    let id = ImageId(wanted.manifest.config.digest);
    if let Some(image) = engine.images.image(&id) {
        // It is here: all that is missing is the name.
        name(engine, &id, names)?;
        return Ok(image.manifest == wanted.digest);
    }
    let mut lease = engine.images.lease();
    let config_bytes = match (pushed.blob)(&id.0)? {
        Some(file) => read_config(file)?,
        None => return Ok(false),
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
    for layer in layers.iter().filter(|layer| !layer.again) {
        if !place_layer(engine, layer, &mut lease, pushed)? {
            return Ok(false);
        }
        let blob = layer.blob.digest;
        if blob != layer.diff_id.0 {
            kept.push(blob);
        }
    }
    let new = NewImage {
        config: config_bytes,
        manifest: Some(pushed.manifest.to_vec()),
        references: names.to_vec(),
        digests: vec![repository.with_digest(wanted.digest)],
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

/// Makes a layer be there, unpacked, and its compressed bytes beside it. `false` when neither the push nor
/// the store has the bytes.
fn place_layer(engine: &Engine, layer: &pull::Layer, lease: &mut Lease, pushed: &Pushed<'_>) -> Result<bool> {
    let (content, blob) = (engine.images.content(), layer.blob.digest);
    lease.layer(layer.diff_id);
    lease.blob(blob);
    let file = (pushed.blob)(&blob)?;
    let is_plain = blob == layer.diff_id.0;
    if !is_plain && !content.contains(&blob) {
        let Some(file) = &file else { return Ok(false) };
        content.adopt(file, &blob).map_err(lifted)?;
    }
    if engine.images.snapshots().has_layer(&layer.diff_id) {
        return Ok(true);
    }
    let source = match file {
        Some(file) => file,
        None if content.contains(&blob) => content.open_blob(&blob).map_err(lifted)?,
        None => return Ok(false),
    };
    engine.images.unpack_layer(source, layer.blob.size, layer.diff_id)?;
    Ok(true)
}

fn read_config(file: File) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    file.take(pull::LARGEST_CONFIG + 1).read_to_end(&mut bytes).map_err(Error::from)?;
    if bytes.len() as u64 > pull::LARGEST_CONFIG {
        return Err(Error::invalid(format!("the image config has more than {} bytes", pull::LARGEST_CONFIG)));
    }
    Ok(bytes)
}
