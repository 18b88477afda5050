//! From the documents of an OCI layout to the images to commit.

use super::plan::{Found, Named, Wanted};
use super::{Item, Loader};
use crate::commit::NewIndex;
use crate::document::{self, Kind};
use crate::documents::blob_path;
use crate::image::ImageId;
use crate::platforms::is_attestation;
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, Digest, Index, Manifest, MediaType, Platform, Reference};

/// How deep indexes may be nested.
const DEPTH: usize = 4;

impl Loader<'_> {
    /// Images of an OCI layout: `index.json`.
    pub(super) fn layout_images(&mut self) -> Result<Found> {
        let bytes = self.read("index.json")?;
        if document::kind(&bytes, "index.json in the archive")? != Kind::Index {
            return Err(Error::invalid("index.json in the archive is no index"));
        }
        let top: Index = document::parse(&bytes, "index.json in the archive")?;
        let mut found = Found::default();
        let mut taken: Vec<(Digest, Place)> = Vec::new();
        for descriptor in self.chosen(&top.manifests)? {
            let names = names(descriptor);
            let digest = descriptor.digest;
            if let Some((_, place)) = taken.iter().find(|(known, _)| *known == digest) {
                match place {
                    Place::Image(at) => found.images[*at].references.extend(names),
                    Place::Index(at) => found.indexes[*at].references.extend(names),
                }
                continue;
            }
            let (digest, bytes) = self.descend(descriptor, 0)?;
            if document::kind(&bytes, "a manifest of the archive")? == Kind::Manifest {
                taken.push((digest, Place::Image(found.images.len())));
                let image = self.layout_image(bytes, names)?;
                found.images.push(image);
                continue;
            }
            taken.push((digest, Place::Index(found.indexes.len())));
            let index = self.layout_index(bytes, names, &mut found.images)?;
            found.indexes.push(index);
        }
        Ok(found)
    }

    /// Whether a member of the top index is an index: what the archive says of it goes beyond one image.
    pub(super) fn has_indexes(&self) -> bool {
        let top = self.read("index.json").and_then(|bytes| document::parse::<Index>(&bytes, "index.json"));
        top.is_ok_and(|top| top.manifests.iter().any(|member| MediaType::is_index(&member.media_type)))
    }

    /// The bytes that a descriptor promises.
    fn promised(&self, descriptor: &Descriptor) -> Result<(Vec<u8>, Kind)> {
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
        Ok((bytes, kind))
    }

    /// A manifest, or an index of images. An index within an index stands for the image for this machine.
    fn descend(&self, descriptor: &Descriptor, depth: usize) -> Result<(Digest, Vec<u8>)> {
        let what = format!("manifest {}", descriptor.digest);
        let (bytes, kind) = self.promised(descriptor)?;
        if kind == Kind::Manifest {
            return Ok((descriptor.digest, bytes));
        }
        if depth == DEPTH {
            return Err(Error::invalid(format!("{what}: indexes are nested more than {DEPTH} deep")));
        }
        let index: Index = document::parse(&bytes, &what)?;
        let images: Vec<_> = index.manifests.iter().filter(|member| !is_attestation(member)).collect();
        let nested: Vec<_> =
            images.iter().copied().filter(|member| self.is_index(&blob_path(&member.digest))).collect();
        if nested.is_empty() {
            return Ok((descriptor.digest, bytes));
        }
        let host = Platform::host();
        let rank = |member: &Descriptor| member.platform.as_ref().and_then(|platform| platform.rank(&host));
        let ranked = images.iter().filter_map(|member| Some((rank(member)?, member)));
        let member = ranked
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, member)| member)
            .or_else(|| images.iter().find(|member| member.platform.is_none()))
            .ok_or_else(|| self.no_wanted(&what, &platforms(&images)))?;
        self.descend(member, depth + 1)
    }

    fn is_index(&self, path: &str) -> bool {
        self.read(path).is_ok_and(|bytes| document::kind(&bytes, path).is_ok_and(|kind| kind == Kind::Index))
    }

    /// An index with those of its images that are wanted and in the archive, which are added to `images`.
    fn layout_index(
        &mut self,
        bytes: Vec<u8>,
        references: Vec<Reference>,
        images: &mut Vec<Wanted>,
    ) -> Result<NewIndex> {
        let document: Index = document::parse(&bytes, "an index of the archive")?;
        let listed: Vec<&Descriptor> =
            document.manifests.iter().filter(|member| !is_attestation(member)).collect();
        let mut index = NewIndex { document: bytes, references, ..NewIndex::default() };
        for member in &listed {
            let is_linux = member.platform.as_ref().is_none_or(|platform| platform.os == "linux");
            let is_wanted = member.platform.as_ref().is_none_or(|platform| self.is_wanted(platform));
            // An archive need not have every image that its index lists.
            if !is_linux || !is_wanted || self.find(&blob_path(&member.digest))?.is_none() {
                continue;
            }
            let (manifest, _) = self.promised(member)?;
            let image = self.layout_image(manifest.clone(), Vec::new())?;
            index.present.push((manifest, ImageId(Digest::of(&image.config))));
            images.push(image);
        }
        if index.present.is_empty() {
            return Err(self.no_wanted("the index in the archive", &platforms(&listed)));
        }
        for attested in document.manifests.iter().filter(|member| is_attestation(member)) {
            index.kept.extend(self.attestation(attested)?);
        }
        Ok(index)
    }

    /// The documents of an attestation, none when the archive lacks one of them.
    fn attestation(&self, descriptor: &Descriptor) -> Result<Vec<Digest>> {
        if self.find(&blob_path(&descriptor.digest))?.is_none() {
            return Ok(Vec::new());
        }
        let (bytes, _) = self.promised(descriptor)?;
        let manifest: Manifest = document::parse(&bytes, "the manifest of an attestation")?;
        let mut kept = vec![descriptor.digest];
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            match self.find(&blob_path(&blob.digest))? {
                Some(Item::Document { .. }) => kept.push(blob.digest),
                _ => return Ok(Vec::new()),
            }
        }
        Ok(kept)
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

/// Where something of an archive went.
enum Place {
    Image(usize),
    Index(usize),
}

impl Loader<'_> {
    /// The members of the top index to load: everything that has a name, and of nameless ones those for this
    /// machine where they say what they are for; when platforms are asked for, those.
    fn chosen<'a>(&self, members: &'a [Descriptor]) -> Result<Vec<&'a Descriptor>> {
        let host = Platform::host();
        let images: Vec<_> = members.iter().filter(|member| !is_attestation(member)).collect();
        let fits = |member: &Descriptor| match (&member.platform, self.platforms) {
            (None, _) => true,
            (Some(platform), []) => !names(member).is_empty() || platform.satisfies(&host),
            (Some(platform), _) => self.is_wanted(platform),
        };
        let chosen: Vec<_> = images.iter().copied().filter(|member| fits(member)).collect();
        if chosen.is_empty() && images.is_empty() {
            return Err(Error::invalid("index.json in the archive names no image"));
        }
        if chosen.is_empty() {
            return Err(self.no_wanted("index.json in the archive", &platforms(&images)));
        }
        Ok(chosen)
    }
}

fn platforms(members: &[&Descriptor]) -> Vec<String> {
    members.iter().filter_map(|member| member.platform.as_ref()).map(Platform::to_string).collect()
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
