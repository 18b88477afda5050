//! `pull`: from a reference to an image.
//!
//! Each layer is one pass over a stream: what comes in is hashed, kept on the disk, decompressed, hashed
//! again and unpacked. Three threads share that work, and bounded channels between them let a slow disk slow
//! the socket. The compressed bytes are written to a *partial* as they come, which outlives a broken line, a
//! client that left and a killed engine: the next pull reads it again and fetches the rest.

use super::lines::{Bar, Lines};
use super::registries::{self, failed};
use super::{Output, blocking, lifted, parse, publish};
use crate::Engine;
use bytes::{Buf, Bytes};
use futures_util::stream::{FuturesUnordered, TryStreamExt};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::sync::Arc;
use tokio::sync::mpsc;
use yare_api::AuthConfig;
use yare_content::Partial;
use yare_distribution::{Document, Intent, Name, Parts, Policy, Repository, Resume, Verdict};
use yare_errdefs::{Class, Classified, Error, Result, is_full};
use yare_image::{Allowance, Image, Lease, NewImage, NewIndex, platforms};
use yare_oci::{Descriptor, DiffId, Digest, ImageConfig, Index, Manifest, MediaType, Platform, Reference};

/// Pieces of a layer that wait between the network and the disk.
const PIECES: usize = 16;
/// The largest image config, in bytes.
pub(crate) const LARGEST_CONFIG: u64 = 8 << 20;
/// Bytes of all manifests of an index that is pulled whole, and of what is attested of an image: they are in
/// memory for a moment.
const DOCUMENTS: u64 = 64 << 20;
/// Indexes within indexes.
const DEPTH: usize = 4;

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image as the client names it; without tag and digest, all tags.
    pub reference: String,
    /// For which platform; the host's when absent.
    pub platform: Option<Platform>,
    /// All platforms that the image is there for, and what is attested of them.
    pub all_platforms: bool,
    /// Credentials for its registry.
    pub auth: AuthConfig,
}

/// Pulls an image, or all tags of a repository. What can be said before anything is fetched is an error of
/// the call; from then on there are progress lines, and an error is the last of them.
pub async fn pull(engine: &Arc<Engine>, request: PullRequest) -> Result<Output> {
    let reference = parse(&request.reference)?;
    let credentials = registries::credentials(&request.auth);
    let client = &engine.transfers.client;
    let repository = client.repository(&reference, &credentials, Intent::Pull).await;
    let repository = repository.map_err(|error| failed(&reference, error))?;
    if request.all_platforms && request.platform.is_some() {
        return Err(Error::invalid("all platforms and one of them cannot both be pulled"));
    }
    let wanted = request.platform.clone();
    let pull = |reference: Reference, found: Descriptor| Pull {
        engine: Arc::clone(engine),
        repository: repository.clone(),
        reference,
        found,
        wanted: wanted.clone(),
        all: request.all_platforms,
        lease: Arc::new(Mutex::new(engine.images.lease())),
    };
    let names = match (reference.tag(), reference.digest()) {
        (None, None) => {
            let tags = repository.tags().await.map_err(|error| failed(&reference, error))?;
            tags.iter().filter_map(|tag| reference.with_tag(tag).ok()).collect()
        }
        _ => vec![reference.clone()],
    };
    let mut pulls = Vec::new();
    for name in names {
        let found = repository.resolve(&name_of(&name)).await.map_err(|error| failed(&name, error))?;
        pulls.push(pull(name, found));
    }
    let (lines, output) = Lines::new();
    tokio::spawn(async move {
        let work = async {
            for pull in &pulls {
                pull.run(&lines).await?;
            }
            Ok(())
        };
        // Nobody waits any more: what is on the disk stays for the next try.
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = lines.closed() => return,
        };
        if let Err(error) = outcome {
            lines.send(yare_api::progress::JSONMessage::error(crate::system::full_text(&error))).await;
        }
    });
    Ok(output)
}

fn name_of(reference: &Reference) -> Name {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Name::from(digest),
        (None, tag) => Name::Tag(tag.unwrap_or("latest").to_owned()),
    }
}

/// One image that is being pulled.
struct Pull {
    engine: Arc<Engine>,
    repository: Repository,
    reference: Reference,
    /// What the reference stands for at the registry.
    found: Descriptor,
    wanted: Option<Platform>,
    all: bool,
    lease: Arc<Mutex<Lease>>,
}

/// A layer by both of its names.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Descriptor,
    pub(crate) diff_id: DiffId,
    /// Whether the image has it more than once, and this is not the first.
    pub(crate) again: bool,
}

impl Pull {
    async fn run(&self, lines: &Lines) -> Result<()> {
        let name = name_of(&self.reference);
        lines.status(&name.to_string(), format!("Pulling from {}", short_path(&self.reference))).await;
        self.verify(lines).await?;
        let known = self.known();
        let is_new = known.is_none();
        let image = match known {
            Some(image) => image,
            None => self.fetch(lines).await?,
        };
        let is_new = self.name(&image, is_new).await?;
        lines.status("", format!("Digest: {}", self.found.digest)).await;
        let state = if is_new { "Downloaded newer image for" } else { "Image is up to date for" };
        lines.status("", format!("Status: {state} {}", self.reference.familiar())).await;
        publish(&self.engine, "pull", &image.id, &self.reference.familiar());
        Ok(())
    }

    /// Refuses what the signature policy does not want; also what is here already, which may be from before
    /// there was a policy.
    async fn verify(&self, lines: &Lines) -> Result<()> {
        let Some(path) = self.engine.transfers.client.settings().signatures.clone() else { return Ok(()) };
        let failed = |error: yare_distribution::Error| Error::new(error.class(), error.to_string());
        let policy = blocking(move || Policy::read(&path).map_err(failed)).await?;
        match self.repository.verify(&policy, &self.found.digest).await.map_err(failed)? {
            Verdict::NotWanted => {}
            Verdict::Signed(key) => {
                lines.status("", format!("Signature: good, by {}", key.display())).await;
            }
        }
        Ok(())
    }

    /// The image, when it came from this digest of this repository before.
    fn known(&self) -> Option<Arc<Image>> {
        let name = self.reference.with_digest(self.found.digest);
        let image = self.engine.images.named(&name)?;
        match self.engine.images.index_of(&name.to_string()) {
            Some(index) if self.all => index.is_whole().then_some(image),
            Some(_) => self.chosen(&name).ok(),
            None if self.all && MediaType::is_index(&self.found.media_type) => None,
            None => {
                let has = image.config.platform();
                self.wanted.as_ref().is_none_or(|wanted| has.satisfies(wanted)).then_some(image)
            }
        }
    }

    /// The image of the wanted platform under a name that is here.
    fn chosen(&self, name: &Reference) -> Result<Arc<Image>> {
        let host = Platform::host();
        let wanted = self.wanted.as_ref().unwrap_or(&host);
        self.engine.images.resolve(&name.to_string(), Some(wanted))
    }

    /// Gives the image its names; whether anything is new here.
    async fn name(&self, image: &Arc<Image>, is_new: bool) -> Result<bool> {
        let (engine, id, reference) = (Arc::clone(&self.engine), image.id, self.reference.clone());
        if reference.digest().is_some() {
            return Ok(is_new);
        }
        let known = reference.with_digest(self.found.digest).to_string();
        let digest = |name: &str| engine.images.index_of(name).map(|index| index.digest);
        let (index, named) = (digest(&known), digest(&reference.to_string()));
        let had = index == named
            && (index.is_some() || engine.images.named(&reference).is_some_and(|image| image.id == id));
        if !had {
            blocking(move || match index {
                Some(_) => engine.images.tag_as(&known, &reference).map(drop),
                None => engine.images.tag(&id, &reference).map(drop),
            })
            .await?;
        }
        Ok(is_new || !had)
    }

    /// From the descriptor down: manifests, configs, layers; ● the record of images and index is the commit
    /// point.
    async fn fetch(&self, lines: &Lines) -> Result<Arc<Image>> {
        let (index, manifests) = self.manifests().await?;
        let mut fetched = Vec::with_capacity(manifests.len());
        for document in manifests {
            fetched.push(self.image(document, lines).await?);
        }
        let mut kept = Vec::new();
        if let Some((_, index)) = index.as_ref().filter(|_| self.all) {
            for attestation in index.manifests.iter().filter(|entry| platforms::is_attestation(entry)) {
                kept.extend(self.attestation(attestation).await?);
            }
        }
        self.commit(index.map(|(document, _)| document), fetched, kept).await
    }

    /// One image, whose layers are here then.
    async fn image(&self, document: Document, lines: &Lines) -> Result<Fetched> {
        let manifest: Manifest = read_document(&document.bytes, "the manifest")?;
        let config = self.config(&manifest).await?;
        let parsed: ImageConfig = read_document(&config, "the image config")?;
        self.check_platform(&parsed)?;
        let layers = layers(&manifest, &parsed)?;
        self.protect(&layers);
        for layer in layers.iter().filter(|layer| !layer.again) {
            let state = match self.engine.images.snapshots().has_layer(&layer.diff_id) {
                true => "Already exists",
                false => "Pulling fs layer",
            };
            lines.state(&layer.blob.digest.short(), state).await;
        }
        if let Err(error) = self.all_layers(&layers, lines).await {
            if is_full(&error) {
                self.give_space_back(&layers).await?;
            }
            return Err(error);
        }
        Ok(Fetched { document, config, layers })
    }

    async fn all_layers(&self, layers: &[Layer], lines: &Lines) -> Result<()> {
        let allowance = allowance(layers);
        let each: FuturesUnordered<_> = layers
            .iter()
            .filter(|layer| !layer.again)
            .map(|layer| self.layer(layer.clone(), &allowance, lines))
            .collect();
        each.try_collect::<Vec<()>>().await.map(drop)
    }

    /// On a full disk others need the space more than the next try of this pull. Layers that are there whole
    /// go with the lease.
    async fn give_space_back(&self, layers: &[Layer]) -> Result<()> {
        for layer in layers {
            let blob = layer.blob.digest;
            // Whoever fetches it now, such as a thread of this pull that has not heard of the end, is waited for.
            let _mine = self.engine.transfers.claim(blob).await;
            self.discard_partial(blob).await?;
        }
        Ok(())
    }

    async fn discard_partial(&self, blob: Digest) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        blocking(move || {
            let content = engine.images.content();
            match content.has_partial(&blob) {
                true => content.partial(&blob).and_then(Partial::discard).map_err(lifted),
                false => Ok(()),
            }
        })
        .await
    }

    /// The manifests of the wanted platforms, with the index that lists them. An index within an index
    /// stands for one platform, and none is kept of it.
    async fn manifests(&self) -> Result<(Option<(Document, Index)>, Vec<Document>)> {
        let failed = |error| failed(&self.reference, error);
        let top = self.repository.manifest(&Name::from(self.found.digest)).await.map_err(failed)?;
        if !MediaType::is_index(&top.descriptor.media_type) {
            return Ok((None, vec![top]));
        }
        let index: Index = read_document(&top.bytes, "the index")?;
        let is_nested = index.manifests.iter().any(|entry| MediaType::is_index(&entry.media_type));
        if is_nested {
            return Ok((None, vec![self.nested(index).await?]));
        }
        let wanted = match self.all {
            true => all(&index, &self.reference)?,
            false => vec![choose(&index, self.wanted.as_ref(), &self.reference)?],
        };
        let (mut manifests, mut room) = (Vec::with_capacity(wanted.len()), Room::new("the manifests"));
        for digest in wanted {
            let document = self.repository.manifest(&Name::from(digest)).await.map_err(failed)?;
            room.take(document.bytes.len() as u64, &self.reference)?;
            manifests.push(document);
        }
        Ok((Some((top, index)), manifests))
    }

    /// The manifest of the wanted platform below indexes of indexes.
    async fn nested(&self, mut index: Index) -> Result<Document> {
        for _ in 1..DEPTH {
            let entry = choose(&index, self.wanted.as_ref(), &self.reference)?;
            let document = self.repository.manifest(&Name::from(entry)).await;
            let document = document.map_err(|error| failed(&self.reference, error))?;
            if !MediaType::is_index(&document.descriptor.media_type) {
                return Ok(document);
            }
            index = read_document(&document.bytes, "the index")?;
        }
        Err(Error::precondition(format!(
            "{} is an index of indexes, more than {DEPTH} deep",
            self.reference.familiar()
        )))
    }

    /// Fetches what is attested of an image; the digests of its documents.
    async fn attestation(&self, entry: &Descriptor) -> Result<Vec<Digest>> {
        let failed = |error| failed(&self.reference, error);
        let document = self.repository.manifest(&Name::from(entry.digest)).await.map_err(failed)?;
        let manifest: Manifest = read_document(&document.bytes, "the manifest of an attestation")?;
        let mut room = Room::new("the attestations");
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            room.take(blob.size, &self.reference)?;
        }
        let mut documents = vec![document.bytes.to_vec()];
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            documents.push(self.small_blob(blob, "what is attested of").await?);
        }
        let (engine, lease) = (Arc::clone(&self.engine), Arc::clone(&self.lease));
        blocking(move || {
            let put = |bytes: &Vec<u8>| {
                lease.lock().blob(Digest::of(bytes));
                engine.images.content().put(bytes).map_err(lifted)
            };
            documents.iter().map(put).collect()
        })
        .await
    }

    async fn config(&self, manifest: &Manifest) -> Result<Vec<u8>> {
        let config = &manifest.config;
        let kind = config.media_type.as_str();
        if !matches!(kind, MediaType::OCI_CONFIG | MediaType::DOCKER_CONFIG | "application/octet-stream" | "")
            || manifest.artifact_type.is_some()
        {
            let kind = manifest.artifact_type.as_deref().unwrap_or(kind);
            return Err(Error::precondition(format!(
                "{} is no image but an artifact of kind {kind}",
                self.reference.familiar()
            )));
        }
        self.small_blob(config, "the config of").await
    }

    /// A blob that is a document.
    async fn small_blob(&self, blob: &Descriptor, what: &str) -> Result<Vec<u8>> {
        if blob.size > LARGEST_CONFIG {
            return Err(Error::precondition(format!(
                "{what} {} has {} bytes, more than {LARGEST_CONFIG}",
                self.reference.familiar(),
                blob.size
            )));
        }
        let failed = |error| failed(&self.reference, error);
        let mut stream = self.repository.blob(blob, Resume::default()).map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// An image that is for one platform only may be for another than the wanted one.
    fn check_platform(&self, config: &ImageConfig) -> Result<()> {
        let has = config.platform();
        match &self.wanted {
            Some(wanted) if !has.satisfies(wanted) => Err(Error::not_found(format!(
                "image with reference {} was found but its platform ({has}) does not match the specified \
                 platform ({wanted})",
                self.reference.familiar()
            ))),
            _ => Ok(()),
        }
    }

    /// From here until the image is on record, nothing of it is collected.
    fn protect(&self, layers: &[Layer]) {
        let mut lease = self.lease.lock();
        for layer in layers {
            lease.layer(layer.diff_id);
            lease.blob(layer.blob.digest);
        }
    }

    /// Makes one layer be there.
    async fn layer(&self, layer: Layer, allowance: &Allowance, lines: &Lines) -> Result<()> {
        let id = layer.blob.digest.short();
        let has = || self.engine.images.snapshots().has_layer(&layer.diff_id);
        if has() {
            return Ok(());
        }
        let mine = Arc::new(self.engine.transfers.claim(layer.blob.digest).await);
        if has() {
            lines.state(&id, "Pull complete").await;
            return Ok(());
        }
        let permit = match self.engine.transfers.downloads.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                lines.state(&id, "Waiting").await;
                let permit = self.engine.transfers.downloads.acquire().await;
                permit.map_err(|error| Error::internal("the engine is ending").caused_by(error))?
            }
        };
        let goes_on = self.engine.images.content().has_partial(&layer.blob.digest);
        let mut done = self.transfer(&layer, allowance, lines, &mine).await;
        if goes_on && done.as_ref().is_err_and(is_wrong) {
            // What was on the disk was wrong, and is gone: once more from the beginning.
            done = self.transfer(&layer, allowance, lines, &mine).await;
        }
        drop(permit);
        done?;
        lines.state(&id, "Pull complete").await;
        Ok(())
    }

    /// The one pass: the network on this task, decompression and unpacking on threads of their own.
    async fn transfer(
        &self,
        layer: &Layer,
        allowance: &Allowance,
        lines: &Lines,
        mine: &Claim,
    ) -> Result<()> {
        let (engine, digest, diff_id) = (Arc::clone(&self.engine), layer.blob.digest, layer.diff_id);
        let size = layer.blob.size;
        let (partial, hasher) = blocking(move || {
            let content = engine.images.content();
            let mut partial = content.partial(&digest).map_err(lifted)?;
            if partial.size() > size {
                // Longer than the whole: not from this blob.
                partial.discard().map_err(lifted)?;
                partial = content.partial(&digest).map_err(lifted)?;
            }
            let hasher = partial.hasher().map_err(lifted)?;
            Ok((partial, hasher))
        })
        .await?;
        let resume = Resume { offset: partial.size(), hasher };
        let (pieces, received) = mpsc::channel(PIECES);
        let source = Incoming::new(partial, received)?;
        let (engine, held, allowance) = (Arc::clone(&self.engine), Arc::clone(mine), allowance.clone());
        let unpacking = blocking(move || {
            // When the client leaves, this thread ends a little later than the pull: nobody else may begin
            // with the same file before.
            let _held = held;
            engine.images.unpack_layer(source, diff_id, &allowance)
        });
        let fetching = self.feed(&layer.blob, resume, pieces, lines);
        let (fetched, unpacked) = tokio::join!(fetching, unpacking);
        // When the disk fails first, or what comes is no layer, the network side only sees that nobody takes
        // its pieces.
        let (done, is_useless) = match (fetched, unpacked) {
            (Ok(Fed::Whole), Ok(())) => return Ok(()),
            (Ok(_), Err(error)) => (self.not_unpacked(&digest, error), true),
            (Ok(Fed::Unwanted), Ok(())) => {
                (Error::internal(format!("layer {digest} ended before its content")), true)
            }
            (Err(error), _) => {
                let is_wrong = error.class() == Class::FailedPrecondition;
                (error, is_wrong)
            }
        };
        if is_useless {
            // The next try would fail by the same bytes.
            self.discard_partial(digest).await?;
        }
        Err(done)
    }

    fn not_unpacked(&self, layer: &Digest, error: Error) -> Error {
        let what = format!("cannot unpack layer {layer} of {}", self.reference.familiar());
        if is_full(&error) {
            let root = self.engine.config.data_root.display();
            return Error::wrap(what, error).with_hint(format!(
                "the disk of {root} is full: free some space, for example with `yare system prune`"
            ));
        }
        // A hint about archives is for those who brought one.
        Error::new(error.class(), what).caused_by(error)
    }

    /// Sends what comes from the registry to the thread that unpacks it. Its end is sent when all of it is
    /// verified.
    async fn feed(
        &self,
        blob: &Descriptor,
        resume: Resume,
        pieces: mpsc::Sender<Piece>,
        lines: &Lines,
    ) -> Result<Fed> {
        let failed = |error| failed(&self.reference, error);
        let id = &blob.digest.short();
        let bar: Bar = lines.bar(id, "Downloading", blob.size);
        let parts = Parts::of(blob.size, Arc::clone(&self.engine.transfers.downloads));
        let mut stream = self.repository.blob(blob, resume).map_err(failed)?.in_parts(parts);
        while let Some(chunk) = stream.chunk().await.map_err(failed)? {
            bar.at(stream.offset());
            if pieces.send(Piece::Bytes(chunk)).await.is_err() {
                return Ok(Fed::Unwanted);
            }
        }
        lines.state(id, "Download complete").await;
        lines.state(id, "Extracting").await;
        Ok(if pieces.send(Piece::End).await.is_ok() { Fed::Whole } else { Fed::Unwanted })
    }

    /// Puts images and index on record; the image that was asked for.
    async fn commit(
        &self,
        index: Option<Document>,
        fetched: Vec<Fetched>,
        attested: Vec<Digest>,
    ) -> Result<Arc<Image>> {
        let (engine, lease) = (Arc::clone(&self.engine), Arc::clone(&self.lease));
        let references = match self.reference.digest() {
            Some(_) => Vec::new(),
            None => vec![self.reference.clone().or_latest()],
        };
        let digests = vec![self.reference.with_digest(self.found.digest)];
        let has_index = index.is_some();
        let shown = blocking(move || {
            let to_new = |image: &Fetched| image.to_new(&engine.images);
            let mut images = fetched.iter().map(to_new).collect::<Result<Vec<_>>>()?;
            let indexes = match (index, images.as_mut_slice()) {
                (Some(index), _) => {
                    let id = |image: &Fetched| yare_image::ImageId(Digest::of(&image.config));
                    let present = fetched.iter().map(|image| (image.document.bytes.to_vec(), id(image)));
                    let present = present.collect();
                    let document = index.bytes.to_vec();
                    vec![NewIndex { document, present, kept: attested, references, digests }]
                }
                (None, [image]) => {
                    (image.references, image.digests) = (references, digests);
                    Vec::new()
                }
                (None, _) => return Err(Error::internal("several images were fetched without an index")),
            };
            let (images, indexes) = engine.images.commit(images, indexes)?;
            drop(lease);
            super::once::settle(&engine);
            let shown = indexes.into_iter().chain(images).next();
            shown
                .map(|shown| shown.image)
                .ok_or_else(|| Error::internal("an image was committed and is gone"))
        })
        .await?;
        match has_index && !self.all {
            true => self.chosen(&self.reference.with_digest(self.found.digest)),
            false => Ok(shown),
        }
    }
}

/// An image whose layers are here.
struct Fetched {
    document: Document,
    config: Vec<u8>,
    layers: Vec<Layer>,
}

impl Fetched {
    /// The image as it is to be recorded, still without names.
    fn to_new(&self, images: &yare_image::Store) -> Result<NewImage> {
        let content = images.content();
        let mut kept = Vec::new();
        for layer in &self.layers {
            let blob = layer.blob.digest;
            if content.has_partial(&blob) && !images.has_blob(&blob) {
                let partial = content.partial(&blob).map_err(lifted)?;
                match partial.size() == layer.blob.size {
                    true => partial.commit().map_err(lifted)?,
                    // Somebody else's, not ours: the layer came by another way.
                    false => continue,
                }
            }
            if images.has_blob(&blob) {
                kept.push(blob);
            }
        }
        let (config, manifest) = (self.config.clone(), Some(self.document.bytes.to_vec()));
        Ok(NewImage { config, manifest, kept, ..NewImage::default() })
    }
}

/// The right to fetch a layer.
type Claim = Arc<tokio::sync::OwnedMutexGuard<()>>;

/// Whether the content may not be what it should be: by its digest, or, noticed earlier, because it is no layer.
fn is_wrong(error: &Error) -> bool {
    matches!(error.class(), Class::FailedPrecondition | Class::InvalidArgument)
}

/// What is left for documents that are in memory together.
struct Room {
    what: &'static str,
    left: u64,
}

impl Room {
    fn new(what: &'static str) -> Self {
        Self { what, left: DOCUMENTS }
    }

    fn take(&mut self, bytes: u64, reference: &Reference) -> Result<()> {
        let (what, name) = (self.what, reference.familiar());
        let too_much =
            || Error::precondition(format!("{what} of {name} have more than {DOCUMENTS} bytes in all"));
        self.left = self.left.checked_sub(bytes).ok_or_else(too_much)?;
        Ok(())
    }
}

/// What the layers of an image may become.
pub(crate) fn allowance(layers: &[Layer]) -> Allowance {
    Allowance::of_image(layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.blob.size)))
}

/// How the network's side of a layer ended.
enum Fed {
    /// Everything was sent and is right.
    Whole,
    /// Nobody took it any more.
    Unwanted,
}

/// What goes from the network to the thread that unpacks.
enum Piece {
    Bytes(Bytes),
    /// Everything came and its digest is right.
    End,
}

/// A layer as a plain stream: first what is on the disk of it, then what comes in, which goes to the disk.
/// It ends only when the network's side says that all is there and right.
struct Incoming {
    there: io::Take<std::fs::File>,
    partial: Partial,
    received: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Incoming {
    fn new(partial: Partial, received: mpsc::Receiver<Piece>) -> Result<Self> {
        let there = partial.reader().map_err(lifted)?;
        Ok(Self { there, partial, received, current: Bytes::new(), ended: false })
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.there.read(buffer)?;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        while self.current.is_empty() {
            match (self.ended, self.received.blocking_recv()) {
                (true, _) => return Ok(0),
                (false, Some(Piece::End)) => self.ended = true,
                (false, Some(Piece::Bytes(bytes))) => {
                    self.partial.write_all(&bytes)?;
                    self.current = bytes;
                }
                (false, None) => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download broke off"));
                }
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

fn read_document<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::precondition(format!("the registry's answer for {what} cannot be read")).caused_by(error)
    })
}

/// The layers of a manifest with the names that the config has for them.
pub(crate) fn layers(manifest: &Manifest, config: &ImageConfig) -> Result<Vec<Layer>> {
    let diff_ids = &config.rootfs.diff_ids;
    if manifest.layers.len() != diff_ids.len() {
        return Err(Error::precondition(format!(
            "the manifest has {} layers, and its image config {}",
            manifest.layers.len(),
            diff_ids.len()
        )));
    }
    if !config.os.is_empty() && config.os != "linux" {
        return Err(Error::precondition(format!(
            "image operating system {:?} cannot be used on this platform",
            config.os
        )));
    }
    let (mut layers, mut known) = (Vec::with_capacity(diff_ids.len()), HashSet::new());
    for (blob, diff_id) in manifest.layers.iter().zip(diff_ids) {
        let kind = blob.media_type.as_str();
        if kind.contains("foreign") || kind.contains("nondistributable") {
            return Err(Error::precondition(format!(
                "layer {} may not be distributed by registries",
                blob.digest
            )));
        }
        let again = !known.insert(blob.digest);
        layers.push(Layer { blob: blob.clone(), diff_id: *diff_id, again });
    }
    Ok(layers)
}

/// The images of an index.
fn entries(index: &Index) -> impl DoubleEndedIterator<Item = &Descriptor> + Clone {
    index.manifests.iter().filter(|entry| entry.artifact_type.is_none() && !platforms::is_attestation(entry))
}

/// All images of an index that can run on some Linux.
fn all(index: &Index, reference: &Reference) -> Result<Vec<Digest>> {
    let is_linux =
        |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|platform| platform.os == "linux");
    let mut known = HashSet::new();
    let digests = entries(index).filter(is_linux).map(|entry| entry.digest);
    let found: Vec<Digest> = digests.filter(|digest| known.insert(*digest)).collect();
    match found.is_empty() {
        true => Err(Error::not_found(format!("{} has no image for linux", reference.familiar()))),
        false => Ok(found),
    }
}

/// The entry of an index for a platform: the wanted one, or the host's; of several that fit the most exact.
fn choose(index: &Index, wanted: Option<&Platform>, reference: &Reference) -> Result<Digest> {
    let host = Platform::host();
    let wanted = wanted.unwrap_or(&host);
    let entries = entries(index);
    let rank = |entry: &Descriptor| match &entry.platform {
        Some(platform) => platform.rank(wanted),
        None => (index.manifests.len() == 1).then_some(0),
    };
    let fitting = entries.clone().filter_map(|entry| Some((rank(entry)?, entry)));
    // Of equals the first, as Docker does.
    let best = fitting.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
    best.map(|entry| entry.digest).ok_or_else(|| {
        let has: Vec<String> =
            entries.filter_map(|entry| entry.platform.as_ref()).map(Platform::to_string).take(20).collect();
        Error::not_found(format!("no matching manifest for {wanted} in the manifest list entries")).with_hint(
            format!("{} is there for {}; choose with --platform", reference.familiar(), has.join(", ")),
        )
    })
}

/// The repository as Docker prints it here: with `library/`, without the registry.
fn short_path(reference: &Reference) -> &str {
    reference.path()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn entry(platform: &str, annotation: bool) -> Descriptor {
        let mut entry = Descriptor::new(MediaType::OCI_MANIFEST, Digest::of(platform), 1);
        entry.platform = Platform::parse(platform).ok();
        if annotation {
            entry.annotations = BTreeMap::from([("vnd.docker.reference.type".to_owned(), "x".to_owned())]);
        }
        entry
    }

    #[test]
    fn the_platform_that_fits_best_is_chosen() {
        let manifests = vec![
            entry("linux/amd64", true),
            entry("linux/arm/v6", false),
            entry("linux/arm/v7", false),
            entry("linux/amd64", false),
        ];
        let index =
            Index { schema_version: 2, media_type: String::new(), manifests, annotations: BTreeMap::new() };
        let reference = Reference::parse("a/b:1").unwrap();
        let pick = |platform: &str| choose(&index, Platform::parse(platform).ok().as_ref(), &reference);
        assert_eq!(pick("linux/arm/v7").unwrap(), Digest::of("linux/arm/v7"));
        assert_eq!(pick("linux/arm/v6").unwrap(), Digest::of("linux/arm/v6"));
        assert_eq!(pick("linux/amd64").unwrap(), Digest::of("linux/amd64"));
        // A lesser variant that runs there, the closest; never a greater one.
        assert_eq!(pick("linux/arm64").unwrap(), Digest::of("linux/arm/v7"));
        assert_eq!(pick("linux/amd64/v3").unwrap(), Digest::of("linux/amd64"));
        assert!(pick("linux/arm/v5").is_err());
        let error = pick("linux/s390x").unwrap_err();
        assert_eq!(error.to_string(), "no matching manifest for linux/s390x in the manifest list entries");
        assert!(error.hint().unwrap().contains("linux/arm/v6"));
    }

    #[test]
    fn manifest_and_config_must_fit() {
        let manifest = |layers: Vec<Descriptor>| Manifest {
            schema_version: 2,
            media_type: String::new(),
            artifact_type: None,
            config: Descriptor::of(MediaType::OCI_CONFIG, b"{}"),
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let one = Descriptor::new(MediaType::OCI_LAYER_GZIP, Digest::of("1"), 1);
        let mut config = ImageConfig::default();
        config.rootfs.diff_ids = vec![DiffId(Digest::of("a")), DiffId(Digest::of("a"))];
        let found = layers(&manifest(vec![one.clone(), one.clone()]), &config).unwrap();
        assert_eq!(found.iter().map(|layer| layer.again).collect::<Vec<_>>(), [false, true]);
        assert!(layers(&manifest(vec![one]), &config).is_err());
        // There may be as many as the documents can name.
        let many: Vec<Descriptor> = (0..2000_u32)
            .map(|number| Descriptor::of(MediaType::OCI_LAYER_GZIP, &number.to_le_bytes()))
            .collect();
        config.rootfs.diff_ids = many.iter().map(|layer| DiffId(layer.digest)).collect();
        assert!(layers(&manifest(many), &config).unwrap().iter().all(|layer| !layer.again));
        config.os = "windows".to_owned();
        assert!(layers(&manifest(Vec::new()), &config).is_err());
    }

    #[test]
    fn documents_of_an_image_have_a_largest_size_together() {
        let (reference, mut room) = (Reference::parse("a/b:1").unwrap(), Room::new("the manifests"));
        room.take(DOCUMENTS - 5, &reference).unwrap();
        room.take(5, &reference).unwrap();
        let error = room.take(1, &reference).unwrap_err();
        assert_eq!(error.to_string(), "the manifests of a/b:1 have more than 67108864 bytes in all");
        assert!(Room::new("x").take(u64::MAX, &reference).is_err());
    }
}
