//! The manifests behind a name, as `manifests=1` asks for them.

use super::signed;
use crate::Engine;
use yare_api::{
    ImageManifestAttestationData, ImageManifestImageData, ImageManifestSize, ImageManifestSummary,
    ImageManifestUnpackedSize,
};
use yare_errdefs::Result;
use yare_image::{Image, Member, platforms};
use yare_oci::{Descriptor, Digest, MediaType};

/// Every image of the index that a name stands for, and what is attested of them; without an index the one
/// image. `name` may be an id.
pub(super) fn summaries(engine: &Engine, name: &str, image: &Image) -> Result<Vec<ImageManifestSummary>> {
    let Some(index) = engine.images.index_of(name) else {
        return Ok(vec![of_image(engine, &descriptor(engine, image)?, Some(image))]);
    };
    let mut summaries = Vec::new();
    for member in engine.images.members(&index) {
        let mut summary = of_image(engine, &member.descriptor, member.image.as_deref());
        if let Some(data) = &mut summary.image_data {
            data.platform = member.platform();
        }
        summaries.push(summary);
        summaries.extend(attestations(engine, &member, &index.kept));
    }
    Ok(summaries)
}

/// What a name stands for.
pub(super) fn target(engine: &Engine, name: &str, image: &Image) -> Result<Descriptor> {
    let Some(index) = engine.images.index_of(name) else { return descriptor(engine, image) };
    let bytes = engine.images.document(&index.digest)?;
    Ok(Descriptor::of(platforms::media_type(&index.document), &bytes))
}

fn descriptor(engine: &Engine, image: &Image) -> Result<Descriptor> {
    let bytes = engine.images.manifest_bytes(image)?;
    let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let kind = said.get("mediaType").and_then(serde_json::Value::as_str).unwrap_or(MediaType::OCI_MANIFEST);
    let mut descriptor = Descriptor::of(kind, &bytes);
    descriptor.platform = Some(image.config.platform());
    Ok(descriptor)
}

fn of_image(engine: &Engine, descriptor: &Descriptor, image: Option<&Image>) -> ImageManifestSummary {
    let kept = image.map(|image| image.kept.iter().copied().chain([descriptor.digest, image.id.0]));
    let content = kept.into_iter().flatten().map(|blob| size(engine, &blob)).sum::<u64>();
    let unpacked = image.map_or(0, |image| image.size);
    let containers = image.map(|image| {
        let all = engine.containers.all();
        let mine = all.iter().filter(|container| container.record().image == image.id.0);
        mine.map(|container| container.record().id.to_string()).collect()
    });
    ImageManifestSummary {
        id: descriptor.digest.to_string(),
        descriptor: Some(descriptor.clone()),
        available: image.is_some(),
        size: ImageManifestSize { content: signed(content), total: signed(content + unpacked) },
        kind: "image".to_owned(),
        image_data: Some(ImageManifestImageData {
            platform: descriptor.platform.clone().or(image.map(|image| image.config.platform())),
            size: ImageManifestUnpackedSize { unpacked: signed(unpacked) },
            containers: Some(containers.unwrap_or_default()),
        }),
        attestation_data: None,
    }
}

fn attestations(
    engine: &Engine,
    member: &Member,
    kept: &std::collections::BTreeSet<Digest>,
) -> Vec<ImageManifestSummary> {
    let summary = |attestation: &Descriptor| {
        let available = kept.contains(&attestation.digest);
        let blobs = match available {
            true => engine.images.attestation_blobs(&attestation.digest).unwrap_or_default(),
            false => Vec::new(),
        };
        let content = blobs.iter().map(|blob| blob.size).sum::<u64>() + size(engine, &attestation.digest);
        ImageManifestSummary {
            id: attestation.digest.to_string(),
            descriptor: Some(attestation.clone()),
            available,
            size: ImageManifestSize { content: signed(content), total: signed(content) },
            kind: "attestation".to_owned(),
            image_data: None,
            attestation_data: Some(ImageManifestAttestationData {
                r#for: member.descriptor.digest.to_string(),
            }),
        }
    };
    member.attestations.iter().map(summary).collect()
}

/// Bytes of a document or compressed layer; none where it is not here.
fn size(engine: &Engine, blob: &Digest) -> u64 {
    engine.images.blob_size(blob).ok().flatten().unwrap_or_default()
}
