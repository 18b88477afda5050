//! Several platforms of one image: an OCI index that names stand for, and which of its images are here.

use crate::failure::Lift;
use crate::image::{Image, ImageId};
use crate::index::Index;
use crate::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, Digest, MediaType, Platform};

/// Annotation of what is attached to an image of the same index: its kind.
const ATTACHED: &str = "vnd.docker.reference.type";
/// Annotation of the same: the digest of the image's manifest.
const ATTACHED_TO: &str = "vnd.docker.reference.digest";

/// An index of the store.
#[derive(Debug, Clone)]
pub struct ImageIndex {
    /// Digest of its document.
    pub digest: Digest,
    /// Its document; the raw bytes are in the content store.
    pub document: Arc<yare_oci::Index>,
    /// Those of its images that are here, by the digest of their manifest in the index.
    pub present: BTreeMap<Digest, ImageId>,
    /// What is here of the attestations: manifests, configs and statements.
    pub kept: BTreeSet<Digest>,
}

/// An image of an index.
#[derive(Debug, Clone)]
pub struct Member {
    /// What the index says of it.
    pub descriptor: Descriptor,
    /// The image, when it is here.
    pub image: Option<Arc<Image>>,
    /// Manifests of what is attached to it.
    pub attestations: Vec<Descriptor>,
}

impl Member {
    /// What it was built for.
    pub fn platform(&self) -> Option<Platform> {
        let image = self.image.as_ref().map(|image| image.config.platform());
        self.descriptor.platform.clone().or(image)
    }
}

/// Whether a member of an index is no image, but something attached to one.
pub fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.annotations.contains_key(ATTACHED)
        || descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
}

/// The manifest that such a member is attached to.
pub fn attached_to(descriptor: &Descriptor) -> Option<Digest> {
    descriptor.annotations.get(ATTACHED_TO).and_then(|text| text.parse().ok())
}

/// Of platforms that may serve `wanted` the place of the best; of equals the earliest.
pub fn best<'a>(platforms: impl IntoIterator<Item = &'a Platform>, wanted: &Platform) -> Option<usize> {
    let ranked = platforms.into_iter().enumerate();
    let fitting = ranked.filter_map(|(place, platform)| Some((platform.rank(wanted)?, place)));
    fitting.min().map(|(_, place)| place)
}

impl ImageIndex {
    /// Its images, in the order of the document.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.document.manifests.iter().filter(|member| !is_attestation(member))
    }

    /// The documents that it keeps.
    pub(crate) fn blobs(&self) -> BTreeSet<Digest> {
        self.kept.iter().chain(self.present.keys()).copied().chain([self.digest]).collect()
    }

    /// Whether all of its images and attestations are here.
    pub fn is_whole(&self) -> bool {
        self.document.manifests.iter().all(|member| match is_attestation(member) {
            true => self.kept.contains(&member.digest),
            false => self.present.contains_key(&member.digest),
        })
    }
}

impl Index {
    /// The images of an index that are here, in its order.
    pub(crate) fn present(&self, index: &ImageIndex) -> Vec<Arc<Image>> {
        let ids = index.images().filter_map(|member| index.present.get(&member.digest));
        ids.filter_map(|id| self.image(id).cloned()).collect()
    }

    /// The image that a name of this index shows: the host's, or the first that is here.
    pub(crate) fn shown(&self, index: &ImageIndex) -> Option<Arc<Image>> {
        let present = self.present(index);
        self.pick(&present, &Platform::host()).or_else(|| present.first().cloned())
    }

    /// The image for a platform among these.
    pub(crate) fn pick(&self, images: &[Arc<Image>], wanted: &Platform) -> Option<Arc<Image>> {
        let platforms: Vec<Platform> = images.iter().map(|image| image.config.platform()).collect();
        best(&platforms, wanted).map(|place| Arc::clone(&images[place]))
    }

    /// Whether an image is kept by an index alone, and has no row of its own in lists.
    pub(crate) fn is_hidden(&self, image: &Image) -> bool {
        image.is_unreferenced() && self.is_member(&image.id)
    }

    /// An image, and the others that its names stand for too.
    pub(crate) fn family(&self, image: &Image) -> Vec<Arc<Image>> {
        let names = image.references.iter().chain(&image.digests);
        let mut family: Vec<Arc<Image>> = self.image(&image.id).cloned().into_iter().collect();
        for other in names.filter_map(|name| self.index_named(name)).flat_map(|index| self.present(index)) {
            if !family.iter().any(|known| known.id == other.id) {
                family.push(other);
            }
        }
        family
    }
}

impl Store {
    /// The index that a name stands for, when it does.
    pub fn index_of(&self, name: &str) -> Option<Arc<ImageIndex>> {
        self.index().find(name).ok().and_then(|(_, index)| index)
    }

    /// The images of an index, in its order.
    pub fn members(&self, index: &ImageIndex) -> Vec<Member> {
        let shown = self.index();
        let attached = |image: &Descriptor| {
            let members = index.document.manifests.iter().filter(|member| is_attestation(member));
            members.filter(|member| attached_to(member) == Some(image.digest)).cloned().collect()
        };
        let member = |descriptor: &Descriptor| Member {
            image: index.present.get(&descriptor.digest).and_then(|id| shown.image(id).cloned()),
            attestations: attached(descriptor),
            descriptor: descriptor.clone(),
        };
        index.images().map(member).collect()
    }

    /// The exact bytes of a document of the content store: an index, a manifest, a statement.
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.inner.content.read(digest).lift()
    }

    /// The blobs that the manifest of an attestation names.
    pub fn attestation_blobs(&self, manifest: &Digest) -> Result<Vec<Descriptor>> {
        let manifest: yare_oci::Manifest =
            crate::document::parse(&self.document(manifest)?, "the manifest of an attestation")?;
        Ok(manifest.layers.into_iter().chain([manifest.config]).collect())
    }
}

/// Docker's text for a name that has other platforms only.
pub(crate) fn no_platform(text: &str, wanted: &Platform, has: &[Arc<Image>]) -> Error {
    let has: Vec<String> = has.iter().map(|image| image.config.platform().to_string()).collect();
    Error::not_found(format!(
        "image with reference {text} was found but does not provide the specified platform ({wanted})"
    ))
    .with_hint(format!(
        "here it is for {}; get the other: yare pull --platform {wanted} {text}",
        has.join(", ")
    ))
}

/// What kind of document an index is.
pub fn media_type(index: &yare_oci::Index) -> &str {
    match index.media_type.as_str() {
        "" => MediaType::OCI_INDEX,
        other => other,
    }
}
