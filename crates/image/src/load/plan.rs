//! From the documents of a docker archive to the images to commit.

use super::{Item, Loader};
use crate::archive::clean;
use crate::commit::{NewImage, NewIndex};
use crate::document;
use crate::failure::Lift;
use crate::image::ImageId;
use serde::Deserialize;
use yare_errdefs::{Error, Result};
use yare_oci::{DiffId, Digest, ImageConfig, Manifest, Platform, Reference};

/// What an archive holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) images: Vec<Wanted>,
    pub(super) indexes: Vec<NewIndex>,
}

/// An image that the archive holds whole.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) config: Vec<u8>,
    pub(super) manifest: Option<Vec<u8>>,
    pub(super) layers: Vec<DiffId>,
    pub(super) references: Vec<Reference>,
    pub(super) parent: Option<ImageId>,
}

impl Wanted {
    pub(super) fn into_new(self) -> NewImage {
        NewImage {
            config: self.config,
            manifest: self.manifest,
            references: self.references,
            digests: Vec::new(),
            parent: self.parent,
            built: false,
            kept: Vec::new(),
        }
    }
}

/// One member of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
    #[serde(default)]
    parent: Option<String>,
}

/// A layer as a document names it.
pub(super) struct Named<'a> {
    /// Its path in the archive.
    pub(super) path: &'a str,
    /// Digest and size of the file, where the document has them.
    pub(super) blob: Option<(Digest, u64)>,
}

impl Loader<'_> {
    /// Images of a docker archive: `manifest.json`.
    pub(super) fn docker_images(&mut self) -> Result<Vec<Wanted>> {
        let bytes = self.read("manifest.json")?;
        let items: Vec<DockerItem> = document::parse(&bytes, "manifest.json in the archive")?;
        let mut manifests = self.manifests_by_config();
        let mut wanted = Vec::with_capacity(items.len());
        let mut passed = Vec::new();
        for item in items {
            if !self.platforms.is_empty() {
                let config: ImageConfig = document::parse(&self.read(&item.config)?, "the image config")?;
                if !self.is_wanted(&config.platform()) {
                    passed.push(config.platform().to_string());
                    continue;
                }
            }
            wanted.push(self.docker_image(item, &mut manifests)?);
        }
        match wanted.is_empty() && !passed.is_empty() {
            true => Err(self.no_wanted("manifest.json in the archive", &passed)),
            false => Ok(wanted),
        }
    }

    /// Whether an image for this platform is asked for.
    pub(super) fn is_wanted(&self, platform: &Platform) -> bool {
        self.platforms.is_empty() || self.platforms.iter().any(|wanted| platform.is_exactly(wanted))
    }

    /// Nothing of what an index lists is asked for, or here.
    pub(super) fn no_wanted(&self, what: &str, has: &[String]) -> Error {
        let wanted: Vec<String> = match self.platforms {
            [] => vec![Platform::host().to_string()],
            wanted => wanted.iter().map(Platform::to_string).collect(),
        };
        Error::not_found(format!(
            "{what} has no image for {}, only for {}",
            wanted.join(", "),
            has.join(", ")
        ))
    }

    fn docker_image(&mut self, item: DockerItem, manifests: &mut Vec<(Digest, Vec<u8>)>) -> Result<Wanted> {
        let config = self.read(&item.config)?;
        let paths = item.layers.unwrap_or_default();
        let named: Vec<_> = paths.iter().map(|path| Named { path, blob: None }).collect();
        let layers = self.check_image(&config, &named)?;
        let mut references = Vec::new();
        for text in item.repo_tags.unwrap_or_default() {
            let reference = Reference::parse(&text)
                .map_err(|error| Error::invalid(format!("invalid tag {text:?}: {error}")))?;
            if reference.tag().is_none() || reference.digest().is_some() {
                return Err(Error::invalid(format!("invalid tag {text:?}")));
            }
            references.push(reference);
        }
        let id = Digest::of(&config);
        let place = manifests.iter().position(|(config, _)| *config == id);
        let manifest = place.map(|place| manifests.swap_remove(place).1);
        let parent = item.parent.and_then(|parent| parent.parse().ok());
        Ok(Wanted { config, manifest, layers, references, parent })
    }

    /// The manifests that an archive of both kinds has beside `manifest.json`. They are a courtesy there:
    /// what cannot be used is passed over.
    fn manifests_by_config(&self) -> Vec<(Digest, Vec<u8>)> {
        let mut found = Vec::new();
        let Ok(index) = self.read("index.json") else { return found };
        let Ok(index) = document::parse::<yare_oci::Index>(&index, "index.json") else { return found };
        for descriptor in index.manifests {
            let Ok(bytes) = self.read(&format!("blobs/sha256/{}", descriptor.digest.hex())) else { continue };
            if !matches!(document::kind(&bytes, "a manifest"), Ok(document::Kind::Manifest)) {
                continue;
            }
            if let Ok(manifest) = document::parse::<Manifest>(&bytes, "a manifest") {
                found.push((manifest.config.digest, bytes));
            }
        }
        found
    }

    /// Verifies that a config and its layers fit, and that every layer is there.
    pub(super) fn check_image(&mut self, config: &[u8], named: &[Named<'_>]) -> Result<Vec<DiffId>> {
        let config: ImageConfig = document::parse(config, "the image config")?;
        if !config.os.is_empty() && config.os != "linux" {
            return Err(Error::invalid(format!("cannot load {} image on linux", config.os)));
        }
        let expected = config.rootfs.diff_ids;
        if expected.len() != named.len() {
            return Err(Error::invalid(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                named.len(),
                expected.len()
            )));
        }
        for (place, (diff_id, named)) in expected.iter().zip(named).enumerate() {
            self.check_layer(place, *diff_id, named)?;
        }
        Ok(expected)
    }

    fn check_layer(&mut self, place: usize, expected: DiffId, named: &Named<'_>) -> Result<()> {
        match self.find(named.path)?.cloned() {
            Some(Item::Layer { blob, size, diff_id }) => {
                if let Some((digest, bytes)) = named.blob
                    && (digest, bytes) != (blob, size)
                {
                    return Err(Error::invalid(format!(
                        "layer {place} has digest {blob} and {size} bytes, and its manifest says {digest} and {bytes}"
                    )));
                }
                if diff_id != expected {
                    return Err(Error::invalid(format!(
                        "invalid diffID for layer {place}: expected \"{expected}\", got \"{diff_id}\""
                    )));
                }
                Ok(())
            }
            Some(Item::Broken { why }) => {
                Err(Error::invalid(format!("cannot unpack layer {place} ({}): {why}", named.path)))
            }
            Some(Item::Document { size, .. } | Item::Opaque { size }) => {
                Err(Error::invalid(format!("{} in the archive ({size} bytes) is no layer", named.path)))
            }
            Some(Item::Link(_)) | None => {
                // Docker takes a layer that it has already from its own store; so do we.
                self.lease.layer(expected);
                if self.store.inner.snapshots.has_layer(&expected) {
                    return Ok(());
                }
                Err(missing(named.path))
            }
        }
    }

    /// The bytes of a document of the archive.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>> {
        match self.find(path)? {
            Some(Item::Document { digest, .. }) => self.store.inner.content.read(digest).lift(),
            Some(Item::Opaque { size } | Item::Layer { size, .. }) => {
                document::check_size(*size, &format!("{path} in the archive"))?;
                Err(Error::invalid(format!("{path} in the archive is no document")))
            }
            Some(Item::Broken { .. }) => Err(Error::invalid(format!("{path} in the archive is no document"))),
            Some(Item::Link(_)) | None => Err(missing(path)),
        }
    }

    /// What a path of the archive leads to, through at most eight links.
    pub(super) fn find(&self, path: &str) -> Result<Option<&Item>> {
        let mut name = clean(path, "")?;
        for _ in 0..8 {
            match self.items.get(&name) {
                Some(Item::Link(target)) => name.clone_from(target),
                found => return Ok(found),
            }
        }
        Err(Error::invalid(format!("{path} in the archive is a link that leads nowhere")))
    }
}

pub(super) fn missing(path: &str) -> Error {
    Error::invalid(format!("{path} is missing in the archive"))
        .with_hint("the archive is incomplete: save it again")
}
