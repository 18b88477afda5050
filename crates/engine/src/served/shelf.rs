//! What the registry sees of the image store.
//!
//! A repository `team/app` of the registry is, in this order: what this engine calls `localhost:PORT/team/app`
//! (and `127.0.0.1:PORT/…`), PORT being one that the registry listens on; what the name stands for without a
//! registry in it (`docker.io/team/app`); and for a name that begins with a host, `quay.io/team/app`, that.
//! What is pushed gets the first of these names, so that nobody from elsewhere moves any other.
//!
//! Manifests are those that the store has, byte by byte, wherever all that they name can be had; a name of an
//! index is served as that index where all of it can be had, else as the image that it shows. Layers that came
//! compressed are served as they came; others exist unpacked only, and are named by their DiffID in their image's
//! manifest. What is not on the disk in the form that somebody wants is rebuilt.

use super::taking::{self, Taking, Wanted, WantedIndex};
use crate::Engine;
use crate::images::{lifted, once, publish_all};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::sync::{Arc, Weak};
use yare_errdefs::{Error, Result};
use yare_image::{Image, ImageIndex, RemoveOptions, platforms};
use yare_oci::reference::DEFAULT_DOMAIN;
use yare_oci::{Descriptor, DiffId, Digest, Manifest, MediaType, Reference};
use yare_registry::name::Reference as Name;
use yare_registry::{Document, Images, Pushed};

/// The images of an engine as a registry serves them.
#[derive(Debug)]
pub(super) struct Shelf {
    engine: Weak<Engine>,
    /// What clients on this machine call the registry; what is pushed is named by the first.
    domains: Vec<String>,
    rebuilt: Rebuilt,
}

impl Shelf {
    pub(super) fn new(engine: &Arc<Engine>, domains: Vec<String>) -> Self {
        Self { engine: Arc::downgrade(engine), domains, rebuilt: Rebuilt::default() }
    }

    fn engine(&self) -> Result<Arc<Engine>> {
        self.engine.upgrade().ok_or_else(|| Error::unavailable("the engine is ending"))
    }

    /// What a repository may be called in the store, without tags.
    fn names(&self, repository: &str) -> Vec<Reference> {
        let own = self.own_names(repository);
        own.into_iter().chain(Reference::parse(repository).ok().map(|name| name.trimmed())).collect()
    }

    fn own_names(&self, repository: &str) -> Vec<Reference> {
        let named = |domain: &String| Reference::parse(&format!("{domain}/{repository}")).ok();
        self.domains.iter().filter_map(named).map(|name| name.trimmed()).collect()
    }

    /// The repository that an image's name is in; `None` when no name of a repository says it.
    fn repository_of(&self, name: &Reference) -> Option<String> {
        if self.domains.iter().any(|domain| domain == name.domain()) {
            return Some(name.path().to_owned());
        }
        match name.domain() {
            DEFAULT_DOMAIN => Some(name.familiar_name()),
            domain if domain.contains(':') => None,
            domain => Some(format!("{domain}/{}", name.path())),
        }
    }

    /// The images of a repository: by a tag, or by a digest that they had there.
    fn images(&self, engine: &Engine, repository: &str) -> Vec<Arc<Image>> {
        let names = self.names(repository);
        let tagged = names.iter().flat_map(|name| engine.images.tags_of(name));
        let mut images: Vec<Arc<Image>> = tagged.filter_map(|(_, id)| engine.images.image(&id)).collect();
        let is_known =
            |image: &Arc<Image>| image.digests.iter().any(|known| names.contains(&known.trimmed()));
        images.extend(engine.images.list().into_iter().filter(is_known));
        let members =
            self.indexes(engine, repository).into_iter().flat_map(|index| engine.images.members(&index));
        images.extend(members.filter_map(|member| member.image));
        images
    }

    /// The indexes of a repository: by a tag.
    fn indexes(&self, engine: &Engine, repository: &str) -> Vec<Arc<ImageIndex>> {
        let tagged = self.names(repository).into_iter().flat_map(|name| engine.images.tags_of(&name));
        tagged.filter_map(|(name, _)| engine.images.index_of(&name.to_string())).collect()
    }

    /// An index of a repository, or a manifest that one of them lists.
    fn in_indexes(&self, engine: &Engine, repository: &str, digest: &Digest) -> Result<Option<Document>> {
        for index in self.indexes(engine, repository) {
            if !is_servable(engine, &index)? {
                continue;
            }
            let listed = index.document.manifests.iter().find(|member| member.digest == *digest);
            if index.digest == *digest {
                return index_document(engine, &index).map(Some);
            }
            if let Some(listed) = listed {
                let bytes = engine.images.document(digest)?.into();
                return Ok(Some(Document {
                    media_type: listed.media_type.clone(),
                    bytes,
                    tagged: tagged(engine, &index),
                }));
            }
        }
        Ok(None)
    }

    /// The image of a repository whose manifest has this digest.
    fn by_manifest(&self, engine: &Engine, repository: &str, digest: &Digest) -> Result<Option<Arc<Image>>> {
        for image in self.images(engine, repository) {
            if Digest::of(document(engine, &image)?) == *digest {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// Who names a blob must have sent it, or may have it from this repository: its digest alone gives nobody
    /// what others have here.
    fn may_have<'b>(
        &self,
        engine: &Engine,
        pushed: &Pushed<'_>,
        blobs: impl Iterator<Item = &'b Digest>,
    ) -> Result<bool> {
        for blob in blobs {
            if (pushed.blob)(blob)?.is_none() && self.find_blob(engine, pushed.repository, blob)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn find_blob(&self, engine: &Engine, repository: &str, digest: &Digest) -> Result<Option<Blob>> {
        let images = self.images(engine, repository);
        let is_document = |image: &Arc<Image>| image.id.0 == *digest || image.kept.contains(digest);
        if images.iter().any(is_document)
            && let Some(size) = engine.images.blob_size(digest)?
        {
            return Ok(Some(Blob { size, unpacked: None }));
        }
        let is_kept = |index: &Arc<ImageIndex>| index.kept.contains(digest);
        if self.indexes(engine, repository).iter().any(is_kept)
            && let Some(size) = engine.images.blob_size(digest)?
        {
            return Ok(Some(Blob { size, unpacked: None }));
        }
        let layer = DiffId(*digest);
        if images.iter().any(|image| image.layers.contains(&layer)) {
            let info = engine.images.snapshots().layer(&layer);
            let size = info.map_err(|error| Error::wrap(error.to_string(), error))?.size;
            return Ok(Some(Blob { size, unpacked: Some(layer) }));
        }
        Ok(None)
    }
}

/// Whether all that an index lists can be had, byte by byte.
fn is_servable(engine: &Engine, index: &ImageIndex) -> Result<bool> {
    let content = engine.images.content();
    for member in &index.document.manifests {
        if platforms::is_attestation(member) {
            if !index.kept.contains(&member.digest)
                || !engine
                    .images
                    .attestation_blobs(&member.digest)?
                    .iter()
                    .all(|blob| content.contains(&blob.digest))
            {
                return Ok(false);
            }
            continue;
        }
        let image = index.present.get(&member.digest).and_then(|id| engine.images.image(id));
        let Some(image) = image else { return Ok(false) };
        let manifest = read_manifest(&engine.images.document(&member.digest)?)?;
        if !is_had(&manifest, &image) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn index_document(engine: &Engine, index: &ImageIndex) -> Result<Document> {
    Ok(Document {
        media_type: platforms::media_type(&index.document).to_owned(),
        bytes: engine.images.document(&index.digest)?.into(),
        tagged: tagged(engine, index),
    })
}

/// When one of the images of an index got a name last.
fn tagged(engine: &Engine, index: &ImageIndex) -> u64 {
    let images = index.present.values().filter_map(|id| engine.images.image(id));
    let moments = images.filter_map(|image| u64::try_from(image.tagged?.as_second()).ok());
    moments.max().unwrap_or_default()
}

fn read_manifest(bytes: &[u8]) -> Result<Manifest> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::internal("a stored manifest cannot be read").caused_by(error))
}

/// Whether the layers of an image are here as this manifest of it names them.
fn is_had(manifest: &Manifest, image: &Image) -> bool {
    let mut pairs = manifest.layers.iter().zip(image.layers.iter());
    pairs.all(|(blob, layer)| blob.digest == layer.0 || image.kept.contains(&blob.digest))
}

/// A blob that can be had.
struct Blob {
    size: u64,
    /// The layer that it is rebuilt from.
    unpacked: Option<DiffId>,
}

impl Images for Shelf {
    fn manifest(&self, repository: &str, wanted: &Name) -> Result<Option<Document>> {
        let engine = self.engine()?;
        let image = match wanted {
            Name::Tag(tag) => {
                let names = self.names(repository);
                let mut tagged = names.iter().filter_map(|name| name.with_tag(tag.as_str()).ok());
                let found = tagged.find_map(|name| engine.images.named(&name).map(|image| (name, image)));
                let index = found.as_ref().and_then(|(name, _)| engine.images.index_of(&name.to_string()));
                if let Some(index) = index
                    && is_servable(&engine, &index)?
                {
                    return index_document(&engine, &index).map(Some);
                }
                found.map(|(_, image)| image)
            }
            Name::Digest(name) => {
                // Images of an engine have no other names.
                let Some(digest) = name.sha256() else { return Ok(None) };
                match self.in_indexes(&engine, repository, &digest)? {
                    Some(found) => return Ok(Some(found)),
                    None => self.by_manifest(&engine, repository, &digest)?,
                }
            }
        };
        let Some(image) = image else { return Ok(None) };
        let bytes = document(&engine, &image)?;
        let said: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| Error::internal("a stored manifest cannot be read").caused_by(error))?;
        let media_type = said["mediaType"].as_str().unwrap_or(MediaType::OCI_MANIFEST).to_owned();
        let tagged = image.tagged.and_then(|moment| u64::try_from(moment.as_second()).ok());
        Ok(Some(Document { media_type, bytes: bytes.into(), tagged: tagged.unwrap_or_default() }))
    }

    fn blob_size(&self, repository: &str, digest: &Digest) -> Result<Option<u64>> {
        let found = self.find_blob(&*self.engine()?, repository, digest)?;
        Ok(found.map(|blob| blob.size))
    }

    fn open_blob(&self, repository: &str, digest: &Digest) -> Result<Option<Arc<File>>> {
        let engine = self.engine()?;
        let Some(blob) = self.find_blob(&engine, repository, digest)? else { return Ok(None) };
        let file = match (engine.images.content().open_blob(digest), blob.unpacked) {
            (Ok(file), None) => Arc::new(file),
            (_, unpacked) => self.rebuilt.open(&engine, digest, unpacked)?,
        };
        Ok(Some(file))
    }

    fn repositories(&self) -> Vec<String> {
        let Ok(engine) = self.engine() else { return Vec::new() };
        let images = engine.images.list();
        let names = images.iter().flat_map(|image| image.references.iter());
        let found: BTreeSet<String> = names.filter_map(|name| self.repository_of(name)).collect();
        found.into_iter().collect()
    }

    fn tags(&self, repository: &str) -> Vec<String> {
        let Ok(engine) = self.engine() else { return Vec::new() };
        let names = self.names(repository);
        let tagged = names.iter().flat_map(|name| engine.images.tags_of(name));
        let found: BTreeSet<String> = tagged.filter_map(|(name, _)| name.tag().map(str::to_owned)).collect();
        found.into_iter().collect()
    }

    fn take(&self, pushed: &Pushed<'_>) -> Result<bool> {
        let Some(own) = self.own_names(pushed.repository).into_iter().next() else { return Ok(false) };
        let names = pushed.tags.iter().map(|tag| own.with_tag(tag.as_str()));
        let names =
            names.collect::<Result<Vec<_>, _>>().map_err(|error| Error::invalid(error.to_string()))?;
        let engine = self.engine()?;
        let images = self.images(&engine, pushed.repository);
        let document = |digest: &Digest| match (pushed.document)(digest)? {
            Some(bytes) => Ok(Some(bytes)),
            None => Ok(self
                .manifest(pushed.repository, &Name::Digest((*digest).into()))?
                .map(|found| found.bytes)),
        };
        let known = Pushed { document: &document, ..*pushed };
        if let Some(wanted) = WantedIndex::of(&known)? {
            if !self.may_have(&engine, pushed, wanted.blobs())? {
                return Ok(false);
            }
            let taken = taking::take_index(&engine, (wanted, &own, &names), (&images, pushed))?;
            once::settle(&engine);
            return Ok(taken);
        }
        let Some(wanted) = Wanted::of(pushed.manifest) else { return Ok(false) };
        if !self.may_have(&engine, pushed, wanted.blobs())? {
            return Ok(false);
        }
        let taking = Taking { wanted: &wanted, repository: &own, names: &names, images: &images, pushed };
        let taken = taking::take(&engine, &taking)?;
        once::settle(&engine);
        Ok(taken)
    }

    fn remove(&self, repository: &str, reference: &Name) -> Result<bool> {
        let engine = self.engine()?;
        let own = self.own_names(repository);
        let by_digest = match reference {
            Name::Tag(_) => None,
            Name::Digest(name) => match name.sha256() {
                Some(digest) => self.by_manifest(&engine, repository, &digest)?,
                None => None,
            },
        };
        let is_meant = |name: &Reference, image: &Image| match reference {
            Name::Tag(tag) => name.tag() == Some(tag.as_str()),
            Name::Digest(digest) => match engine.images.index_of(&name.to_string()) {
                Some(index) => *digest == index.digest,
                None => by_digest.as_ref().is_some_and(|meant| meant.id == image.id),
            },
        };
        let mut meant = Vec::new();
        for name in self.names(repository) {
            let tags = engine.images.tags_of(&name).into_iter();
            let images = tags.filter_map(|(tag, id)| engine.images.image(&id).map(|image| (tag, image)));
            meant.extend(images.filter(|(tag, image)| is_meant(tag, image)).map(|(tag, _)| tag));
        }
        let (own, others): (Vec<_>, Vec<_>) =
            meant.into_iter().partition(|name| own.contains(&name.trimmed()));
        if let (true, Some(other)) = (own.is_empty(), others.first()) {
            let name = other.familiar();
            return Err(Error::conflict(format!(
                "{name} is an image of the engine, and can only be removed there"
            )));
        }
        for name in &own {
            let holders = |image: &yare_image::ImageId| crate::holders::of_image(&engine, &image.0);
            let options = RemoveOptions { force: false, no_prune: false };
            let removal = engine.images.remove(&name.to_string(), options, &holders)?;
            publish_all(&engine, &removal.events);
        }
        Ok(!own.is_empty())
    }
}

/// The manifest of an image over what can be had of it: the stored one, or where compressed layers of that
/// were never here (the layer came by another way), one over the unpacked layers.
fn document(engine: &Engine, image: &Image) -> Result<Vec<u8>> {
    let bytes = engine.images.manifest_bytes(image)?;
    let manifest = read_manifest(&bytes)?;
    if is_had(&manifest, image) {
        return Ok(bytes);
    }
    let unpacked = |layer: &DiffId| {
        let info = engine.images.snapshots().layer(layer);
        let info = info.map_err(|error| Error::wrap(error.to_string(), error))?;
        Ok(Descriptor::new(MediaType::OCI_LAYER, layer.0, info.size))
    };
    let layers = image.layers.iter().map(unpacked).collect::<Result<_>>()?;
    let config = Descriptor::new(MediaType::OCI_CONFIG, image.id.0, manifest.config.size);
    let plain = Manifest { media_type: MediaType::OCI_MANIFEST.to_owned(), config, layers, ..manifest };
    serde_json::to_vec(&plain)
        .map_err(|error| Error::internal("cannot write a manifest as JSON").caused_by(error))
}

/// Layers that were rebuilt for somebody: files without a name, shared by those who read at the same time.
#[derive(Debug, Default)]
struct Rebuilt {
    files: Mutex<HashMap<Digest, Arc<Mutex<Weak<File>>>>>,
}

impl Rebuilt {
    /// The tar of a layer, or without one the blob of this digest, which was compressed once.
    fn open(&self, engine: &Engine, digest: &Digest, unpacked: Option<DiffId>) -> Result<Arc<File>> {
        let place = {
            let mut files = self.files.lock();
            files.retain(|_, place| Arc::strong_count(place) > 1 || place.lock().strong_count() > 0);
            Arc::clone(files.entry(*digest).or_default())
        };
        let mut place = place.lock();
        if let Some(file) = place.upgrade() {
            return Ok(file);
        }
        let file = Arc::new(match unpacked {
            Some(layer) => rebuild(engine, layer)?,
            None => engine.images.open_blob(digest)?,
        });
        *place = Arc::downgrade(&file);
        Ok(file)
    }
}

/// Writes the tar of a layer, the bytes that it was made of, into a file without a name.
fn rebuild(engine: &Engine, layer: DiffId) -> Result<File> {
    let mut lease = engine.images.lease();
    lease.layer(layer);
    let mut writer = BufWriter::with_capacity(256 << 10, engine.images.content().ingest().map_err(lifted)?);
    let exported = engine.images.snapshots().export_layer(&layer, &mut writer);
    exported.map_err(|error| Error::wrap(error.to_string(), error))?;
    writer.flush().map_err(Error::from)?;
    let ingest = writer.into_inner().map_err(|error| Error::from(error.into_error()))?;
    let (_, _, mut file) = ingest.take().map_err(lifted)?;
    file.rewind().map_err(Error::from)?;
    Ok(file)
}

/// What clients on this machine call the registry that the engine serves; empty when it serves none.
#[derive(Debug, Default)]
pub(crate) struct Domains(RwLock<Vec<String>>);

impl Domains {
    pub(super) fn set(&self, domains: Vec<String>) {
        *self.0.write() = domains;
    }

    /// Whether a registry by this name is the engine itself.
    pub(crate) fn has(&self, domain: &str) -> bool {
        self.0.read().iter().any(|known| known == domain)
    }
}
