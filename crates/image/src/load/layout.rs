//! From the documents of an OCI layout to the images to commit.

use super::Loader;
use super::plan::{Named, Wanted};
use crate::document::{self, Kind};
use crate::documents::blob_path;
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, Digest, Index, Manifest, MediaType, Platform, Reference};

/// How deep indexes may be nested.
const DEPTH: usize = 4;

impl Loader<'_> {
    /// Images of an OCI layout: `index.json`.
    pub(super) fn layout_images(&mut self) -> Result<Vec<Wanted>> {
        let bytes = self.read("index.json")?;
        if document::kind(&bytes, "index.json in the archive")? != Kind::Index {
            return Err(Error::invalid("index.json in the archive is no index"));
        }
        let index: Index = document::parse(&bytes, "index.json in the archive")?;
        let mut wanted: Vec<(Digest, Wanted)> = Vec::new();
        for descriptor in chosen(&index.manifests)? {
            let names = names(descriptor);
            let (manifest, bytes) = self.descend(descriptor, 0)?;
            match wanted.iter_mut().find(|(digest, _)| *digest == manifest) {
                Some((_, image)) => image.references.extend(names),
                None => wanted.push((manifest, self.layout_image(bytes, names)?)),
            }
        }
        Ok(wanted.into_iter().map(|(_, image)| image).collect())
    }

    /// Follows indexes to the manifest for this machine.
    fn descend(&self, descriptor: &Descriptor, depth: usize) -> Result<(Digest, Vec<u8>)> {
        let what = format!("manifest {}", descriptor.digest);
        document::check_size(descriptor.size, &what)?;
        let bytes = self.read(&blob_path(&descriptor.digest))?;
        if bytes.len() as u64 != descriptor.size {
            return Err(Error::invalid(format!(
                "{what} has {} bytes, and its descriptor says {}",
                bytes.len(),
                descriptor.size
            )));
        }
        let kind = document::kind(&bytes, &what)?;
        check_media_type(descriptor, kind, &what)?;
        if kind == Kind::Manifest {
            return Ok((descriptor.digest, bytes));
        }
        if depth == DEPTH {
            return Err(Error::invalid(format!("{what}: indexes are nested more than {DEPTH} deep")));
        }
        let index: Index = document::parse(&bytes, &what)?;
        let host = Platform::host();
        let images: Vec<_> = index.manifests.iter().filter(|member| !is_attestation(member)).collect();
        let fits = |member: &&&Descriptor| {
            member.platform.as_ref().is_some_and(|platform| platform.satisfies(&host))
        };
        let member = match images.as_slice() {
            [only] if only.platform.is_none() => only,
            _ => images
                .iter()
                .find(fits)
                .or_else(|| images.iter().find(|member| member.platform.is_none()))
                .ok_or_else(|| no_platform(&what, &host, &images))?,
        };
        self.descend(member, depth + 1)
    }

    fn layout_image(&mut self, bytes: Vec<u8>, references: Vec<Reference>) -> Result<Wanted> {
        let manifest: Manifest = document::parse(&bytes, "a manifest of the archive")?;
        let config_type = manifest.config.media_type.as_str();
        if !matches!(config_type, MediaType::OCI_CONFIG | MediaType::DOCKER_CONFIG | "") {
            return Err(Error::invalid(format!(
                "the archive holds no image but an artifact of type {config_type}"
            )));
        }
        let config = self.read(&blob_path(&manifest.config.digest))?;
        if config.len() as u64 != manifest.config.size {
            return Err(Error::invalid(format!(
                "config {} has {} bytes, and its manifest says {}",
                manifest.config.digest,
                config.len(),
                manifest.config.size
            )));
        }
        let paths: Vec<_> = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        let named: Vec<_> = paths
            .iter()
            .zip(&manifest.layers)
            .map(|(path, layer)| Named { path, blob: Some((layer.digest, layer.size)) })
            .collect();
        let layers = self.check_image(&config, &named)?;
        Ok(Wanted { config, manifest: Some(bytes), layers, references, parent: None })
    }
}

/// The members of the top index to load: everything that has a name, and of nameless ones those for this
/// machine where they say what they are for.
fn chosen(members: &[Descriptor]) -> Result<Vec<&Descriptor>> {
    let host = Platform::host();
    let images: Vec<_> = members.iter().filter(|member| !is_attestation(member)).collect();
    let fits =
        |member: &Descriptor| member.platform.as_ref().is_none_or(|platform| platform.satisfies(&host));
    let chosen: Vec<_> =
        images.iter().copied().filter(|member| !names(member).is_empty() || fits(member)).collect();
    if chosen.is_empty() && images.is_empty() {
        return Err(Error::invalid("index.json in the archive names no image"));
    }
    if chosen.is_empty() {
        return Err(no_platform("index.json in the archive", &host, &images));
    }
    Ok(chosen)
}

fn no_platform(what: &str, host: &Platform, members: &[&Descriptor]) -> Error {
    let has: Vec<_> =
        members.iter().filter_map(|member| member.platform.as_ref()).map(Platform::to_string).collect();
    Error::not_found(format!("{what} has no image for {host}, only for {}", has.join(", ")))
}

/// Build attestations sit in indexes as images of an unknown platform.
fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.annotations.contains_key("vnd.docker.reference.type")
        || descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
}

/// The names that annotations give. `org.opencontainers.image.ref.name` may be a bare tag, which names
/// nothing without a repository.
fn names(descriptor: &Descriptor) -> Vec<Reference> {
    let full = descriptor.annotations.get("io.containerd.image.name");
    let short = descriptor.annotations.get("org.opencontainers.image.ref.name");
    let short = short.filter(|name| name.contains([':', '/']));
    let text = full.or(short);
    let reference = text.and_then(|text| Reference::parse(text).ok());
    reference.filter(|reference| reference.digest().is_none()).map(Reference::or_latest).into_iter().collect()
}

fn check_media_type(descriptor: &Descriptor, kind: Kind, what: &str) -> Result<()> {
    let claimed = descriptor.media_type.as_str();
    let fits = match kind {
        Kind::Index => !MediaType::is_manifest(claimed),
        Kind::Manifest => !MediaType::is_index(claimed),
    };
    if fits {
        Ok(())
    } else {
        Err(Error::invalid(format!("{what} is not of the media type {claimed} that its descriptor says")))
    }
}
