//! `push`: an image to a registry.
//!
//! What came from a registry goes to the next with the same digest: its manifest as it is, its layers from
//! the compressed bytes that were kept. A layer that was made here, or of which only the unpacked form is
//! here, is compressed on the way; the manifest then names what it became.

use super::lines::{Bar, Lines};
use super::registries::{self, not_pushed};
use super::{Output, blocking, parse, publish};
use crate::Engine;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::sync::Arc;
use yare_api::AuthConfig;
use yare_api::progress::JSONMessage;
use yare_distribution::{Content, Intent, Name, Repository};
use yare_errdefs::{Error, Result};
use yare_image::{Image, ImageIndex, Rewritten};
use yare_layer::Compression;
use yare_oci::{Descriptor, DiffId, Digest, Manifest, MediaType, Platform, Reference};

/// Bytes that are read of a layer at once.
const PIECE: usize = 256 * 1024;

/// What to push.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The repository, with or without a tag in it.
    pub name: String,
    /// The tag; without any, all tags of the repository.
    pub tag: Option<String>,
    /// The registry is told no tag.
    pub by_digest: bool,
    /// Only an image of this platform.
    pub platform: Option<Platform>,
    /// Credentials for the registry.
    pub auth: AuthConfig,
}

/// Pushes an image, or all tags of a repository. An image that is not here is an error of the call; all
/// that follows is told in progress lines, an error as the last of them.
pub async fn push(engine: &Arc<Engine>, request: PushRequest) -> Result<Output> {
    let mut reference = parse(&request.name)?;
    if reference.digest().is_some() {
        return Err(Error::invalid("cannot push a digest reference"));
    }
    if let Some(tag) = request.tag.as_deref().filter(|tag| !tag.is_empty()) {
        reference = reference.with_tag(tag).map_err(|error| Error::invalid(error.to_string()))?;
    }
    let chosen = choose(engine, &reference, request.platform.as_ref())?;
    let credentials = registries::credentials(&request.auth);
    let client = &engine.transfers.client;
    let repository = client.repository(&reference, &credentials, Intent::Push).await;
    let repository = repository.map_err(|error| not_pushed(&reference, error))?;
    let engine = Arc::clone(engine);
    let (lines, output) = Lines::new();
    tokio::spawn(async move {
        let work = async {
            let to = format!("The push refers to repository [{}]", reference.repository());
            lines.status("", to).await;
            for Chosen { name, image, index, instead } in chosen {
                let by_digest = request.by_digest;
                let push = Push { engine: &engine, repository: &repository, name, image, by_digest };
                match index {
                    Some(index) => push.index(&index, &lines).await?,
                    None => push.run(&lines).await?,
                }
                if let Some(instead) = instead {
                    lines.send(JSONMessage::aux(instead)).await;
                }
            }
            Ok(())
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = lines.closed() => return,
        };
        if let Err(error) = outcome {
            lines.send(JSONMessage::error(crate::system::full_text(&error))).await;
        }
    });
    Ok(output)
}

/// What goes to a registry under a name.
struct Chosen {
    name: Reference,
    image: Arc<Image>,
    /// All of its platforms.
    index: Option<Arc<ImageIndex>>,
    /// An image goes alone, because others of its index are not here: what is told of that.
    instead: Option<serde_json::Value>,
}

/// What a reference means, by its names.
fn choose(engine: &Engine, reference: &Reference, platform: Option<&Platform>) -> Result<Vec<Chosen>> {
    let names: Vec<Reference> = match reference.tag() {
        Some(_) => engine.images.named(reference).map(|_| reference.clone()).into_iter().collect(),
        None => engine.images.tags_of(reference).into_iter().map(|(name, _)| name).collect(),
    };
    if names.is_empty() {
        let name = reference.repository();
        return Err(Error::not_found(format!("An image does not exist locally with the tag: {name}")));
    }
    names.into_iter().map(|name| choose_one(engine, name, platform)).collect()
}

/// As Docker chooses: an index that is here whole, else the only image of it, else the host's.
fn choose_one(engine: &Engine, name: Reference, platform: Option<&Platform>) -> Result<Chosen> {
    let text = name.to_string();
    let image = engine.images.resolve(&text, platform)?;
    let index = engine.images.index_of(&text);
    let Some(index) = index.filter(|_| platform.is_none()) else {
        return Ok(Chosen { name, image, index: None, instead: None });
    };
    if index.is_whole() {
        return Ok(Chosen { name, image, index: Some(index), instead: None });
    }
    if index.present.len() > 1 && !image.config.platform().satisfies(&Platform::host()) {
        return Err(Error::conflict("multiple matching manifests found but no specific platform requested")
            .with_hint("not all platforms of the image are here: choose one with --platform"));
    }
    let members = engine.images.members(&index);
    let own = members.iter().find(|member| member.image.as_ref().is_some_and(|own| own.id == image.id));
    let original = Descriptor::of(
        yare_image::platforms::media_type(&index.document),
        &engine.images.document(&index.digest)?,
    );
    let instead = serde_json::json!({
        "manifestPushedInsteadOfIndex": true,
        "originalIndex": original,
        "selectedManifest": own.map(|member| &member.descriptor),
    });
    Ok(Chosen { name, image, index: None, instead: Some(instead) })
}

struct Push<'a> {
    engine: &'a Arc<Engine>,
    repository: &'a Repository,
    name: Reference,
    image: Arc<Image>,
    /// Under no tag.
    by_digest: bool,
}

impl Push<'_> {
    /// Layers, config, then ● the manifest under the tag.
    async fn run(&self, lines: &Lines) -> Result<()> {
        let bytes = self.send(self.image.manifest, lines).await?;
        let digest = self.tag(&bytes, lines).await?;
        let (engine, id, known) = (Arc::clone(self.engine), self.image.id, self.name.with_digest(digest));
        blocking(move || engine.images.add_digest(&id, &known)).await?;
        publish(self.engine, "push", &self.image.id, &self.name.familiar());
        Ok(())
    }

    /// Every image and its manifest, what is attested of them, then ● the index under the tag.
    async fn index(&self, index: &Arc<ImageIndex>, lines: &Lines) -> Result<()> {
        let mut lease = self.engine.images.lease();
        index.kept.iter().chain([&index.digest]).for_each(|blob| lease.blob(*blob));
        let mut changed = BTreeMap::new();
        for (digest, id) in &index.present {
            let image = self.engine.images.image(id);
            let image = image.ok_or_else(|| Error::not_found(format!("image {id} was removed meanwhile")))?;
            let name = self.name.clone();
            let (engine, repository, by_digest) = (self.engine, self.repository, self.by_digest);
            let member = Push { engine, repository, name, image, by_digest };
            let bytes = member.send(*digest, lines).await?;
            let sent = self.put_manifest(&bytes).await?;
            if sent.digest != *digest {
                changed.insert(*digest, sent);
            }
        }
        let (engine, whole) = (Arc::clone(self.engine), Arc::clone(index));
        let rewritten = blocking(move || engine.images.rewrite_index(&whole, &changed)).await?;
        for attestation in &rewritten.attestations {
            let bytes = self.document(&attestation.digest, &rewritten)?;
            let manifest: Manifest = serde_json::from_slice(&bytes)
                .map_err(|error| Error::internal("a stored manifest cannot be read").caused_by(error))?;
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                self.put(blob, Bytes::from(self.document(&blob.digest, &rewritten)?)).await?;
            }
            self.put_manifest(&bytes).await?;
        }
        let digest = self.tag(&rewritten.document, lines).await?;
        drop(lease);
        let (engine, index, known) = (Arc::clone(self.engine), index.digest, self.name.with_digest(digest));
        blocking(move || engine.images.add_index_digest(&index, &known)).await?;
        publish(self.engine, "push", &self.image.id, &self.name.familiar());
        Ok(())
    }

    fn document(&self, digest: &Digest, rewritten: &Rewritten) -> Result<Vec<u8>> {
        match rewritten.documents.get(digest) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.engine.images.document(digest),
        }
    }

    /// A manifest without a name.
    async fn put_manifest(&self, bytes: &[u8]) -> Result<Descriptor> {
        let descriptor = Descriptor::of(&media_type(bytes), bytes);
        let name = Name::from(descriptor.digest);
        let put = self.repository.put_manifest(&name, &descriptor.media_type, bytes).await;
        put.map(|_| descriptor).map_err(|error| not_pushed(&self.name, error))
    }

    /// Layers and config of a manifest; the manifest as it is then.
    async fn send(&self, manifest: Digest, lines: &Lines) -> Result<Vec<u8>> {
        let (engine, image) = (Arc::clone(self.engine), Arc::clone(&self.image));
        // Held over the push: a layer that is being sent is not collected.
        let mut lease = engine.images.lease();
        image.layers.iter().for_each(|layer| lease.layer(*layer));
        image.kept.iter().chain([&manifest, &image.id.0]).for_each(|blob| lease.blob(*blob));
        let (config, bytes) = blocking(move || {
            let config = engine.images.config_bytes(&image.id)?;
            Ok((config, engine.images.document(&manifest)?))
        })
        .await?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| Error::internal("a stored manifest cannot be read").caused_by(error))?;
        for diff_id in self.image.layers.iter().rev() {
            lines.state(&diff_id.0.short(), "Preparing").await;
        }
        let pairs: Vec<(Descriptor, DiffId)> =
            manifest.layers.iter().cloned().zip(self.image.layers.iter().copied()).collect();
        let sent: Vec<Descriptor> = stream::iter(pairs)
            .map(|(blob, diff_id)| self.layer(blob, diff_id, lines))
            .buffered(16)
            .try_collect()
            .await?;
        self.put(&manifest.config, Bytes::from(config)).await?;
        drop(lease);
        if sent == manifest.layers { Ok(bytes) } else { renamed(manifest, sent) }
    }

    async fn put(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<()> {
        let open = |offset: u64| -> Content {
            let rest = bytes.slice(usize::try_from(offset).unwrap_or(bytes.len()).min(bytes.len())..);
            Box::pin(stream::iter([Ok(rest)]))
        };
        let pushed = self.repository.push_blob(descriptor, &[], &open).await;
        pushed.map(drop).map_err(|error| not_pushed(&self.name, error))
    }

    async fn tag(&self, bytes: &[u8], lines: &Lines) -> Result<Digest> {
        let tag = if self.by_digest { "" } else { self.name.tag().unwrap_or("latest") };
        let name = match tag {
            "" => Name::from(Digest::of(bytes)),
            tag => Name::Tag(tag.to_owned()),
        };
        let put = self.repository.put_manifest(&name, &media_type(bytes), bytes).await;
        let digest = put.map_err(|error| not_pushed(&self.name, error))?;
        let size = bytes.len();
        lines.status("", format!("{tag}: digest: {digest} size: {size}")).await;
        let result = serde_json::json!({ "Tag": tag, "Digest": digest, "Size": size });
        lines
            .send(JSONMessage { progress_detail: Some(Default::default()), ..JSONMessage::aux(result) })
            .await;
        Ok(digest)
    }

    /// Makes a layer be at the registry; what it is there.
    async fn layer(&self, blob: Descriptor, diff_id: DiffId, lines: &Lines) -> Result<Descriptor> {
        let id = diff_id.0.short();
        let failed = |error| not_pushed(&self.name, error);
        let made_here = blob.digest == diff_id.0;
        let known = self.engine.transfers.compressed(&diff_id);
        // A layer that a registry had is asked for by that name, one of ours by what it became last time. The
        // engine's own registry has all of them by the names that the manifest has.
        let is_self = self.engine.served.has(self.name.domain());
        let named = if made_here && !is_self { known.as_ref() } else { Some(&blob) };
        if let Some(named) = named
            && self.is_there(named, &id, lines).await?
        {
            return Ok(named.clone());
        }
        let permit = self.engine.transfers.uploads.acquire().await;
        let _permit = permit.map_err(|error| Error::internal("the engine is ending").caused_by(error))?;
        let engine = Arc::clone(self.engine);
        let digest = blob.digest;
        let (descriptor, file) = match self.engine.images.has_blob(&digest) {
            true => {
                if !self.engine.images.content().contains(&digest) {
                    lines.state(&id, "Compressing").await;
                }
                (blob.clone(), blocking(move || engine.images.open_blob(&digest)).await?)
            }
            false => {
                lines.state(&id, "Compressing").await;
                blocking(move || compress(&engine, diff_id)).await?
            }
        };
        if named != Some(&descriptor) && self.is_there(&descriptor, &id, lines).await? {
            return Ok(descriptor);
        }
        let bar = lines.bar(&id, "Pushing", descriptor.size);
        let file = Arc::new(file);
        let open = |offset: u64| {
            let bar: Bar = bar.clone();
            read_from(&file, offset, move |at| bar.at(at))
        };
        self.repository.upload(&descriptor, &open).await.map_err(failed)?;
        lines.state(&id, "Pushed").await;
        Ok(descriptor)
    }

    /// Whether the registry has a blob, in this repository or in one that it may be borrowed from.
    async fn is_there(&self, blob: &Descriptor, id: &str, lines: &Lines) -> Result<bool> {
        let failed = |error| not_pushed(&self.name, error);
        if self.repository.has_blob(blob).await.map_err(failed)? {
            lines.state(id, "Layer already exists").await;
            return Ok(true);
        }
        for neighbour in self.neighbours() {
            if self.repository.mount(&blob.digest, &neighbour).await.map_err(failed)? {
                lines.state(id, &format!("Mounted from {neighbour}")).await;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Repositories of the same registry that know this image, or images with the same layers.
    fn neighbours(&self) -> Vec<String> {
        let (domain, path) = (self.name.domain(), self.name.path());
        let shares = |image: &Image| image.layers.first() == self.image.layers.first();
        let images = self.engine.images.list();
        let digests = images.iter().filter(|image| shares(image)).flat_map(|image| image.digests.iter());
        let mut paths: Vec<String> = digests
            .filter(|known| known.domain() == domain && known.path() != path)
            .map(|known| known.path().to_owned())
            .collect();
        paths.sort();
        paths.dedup();
        paths.truncate(3);
        paths
    }
}

/// What a manifest or index says it is.
pub(crate) fn media_type(bytes: &[u8]) -> String {
    let said: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let kind = said.get("mediaType").and_then(serde_json::Value::as_str);
    let silent = if said.get("manifests").is_some() { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST };
    kind.unwrap_or(silent).to_owned()
}

/// The manifest with what its layers became.
fn renamed(mut manifest: Manifest, layers: Vec<Descriptor>) -> Result<Vec<u8>> {
    manifest.layers = layers;
    serde_json::to_vec(&manifest)
        .map_err(|error| Error::internal("cannot write a manifest as JSON").caused_by(error))
}

/// Compresses a layer into a file without a name. The same layer gives the same bytes.
fn compress(engine: &Engine, diff_id: DiffId) -> Result<(Descriptor, File)> {
    let failed = |error: io::Error| {
        Error::new(yare_errdefs::class_of_io(&error), format!("cannot compress layer {diff_id}"))
            .caused_by(error)
    };
    let content = engine.images.content();
    let ingest = content.ingest().map_err(|error| Error::wrap(error.to_string(), error))?;
    let mut writer = yare_layer::compress(ingest, Compression::Gzip, None).map_err(failed)?;
    engine
        .images
        .snapshots()
        .export_layer(&diff_id, &mut writer)
        .map_err(|error| Error::wrap(error.to_string(), error))?;
    let mut ingest = writer.finish().map_err(failed)?;
    ingest.flush().map_err(failed)?;
    let (digest, size, mut file) = ingest.take().map_err(|error| Error::wrap(error.to_string(), error))?;
    file.rewind().map_err(failed)?;
    let descriptor = Descriptor::new(MediaType::OCI_LAYER_GZIP, digest, size);
    engine.transfers.remember(diff_id, descriptor.clone());
    Ok((descriptor, file))
}

/// The content of a file from an offset on; `taken` is told how far it was taken.
pub(crate) fn read_from(
    file: &Arc<File>,
    offset: u64,
    taken: impl Fn(u64) + Clone + Send + 'static,
) -> Content {
    use std::os::unix::fs::FileExt;
    let file = Arc::clone(file);
    let read = move |at: u64| {
        let file = Arc::clone(&file);
        tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE];
            let count = file.read_at(&mut piece, at)?;
            piece.truncate(count);
            Ok::<_, io::Error>(Bytes::from(piece))
        })
    };
    Box::pin(stream::try_unfold(offset, move |at| {
        let reading = read(at);
        let taken = taken.clone();
        async move {
            let piece = reading.await.map_err(io::Error::other)??;
            let next = at + piece.len() as u64;
            taken(next);
            Ok((!piece.is_empty()).then_some((piece, next)))
        }
    }))
}
