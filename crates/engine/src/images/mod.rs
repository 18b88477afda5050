//! Images, as the API sees them. The work is the image store's; here it gets its threads and its events.

mod import;
mod lines;
mod manifests;
pub(crate) mod once;
pub(crate) mod pull;
mod push;
pub mod registries;
mod transfers;

pub use import::{ImportRequest, import};
pub use pull::{PullRequest, pull};
pub use push::{PushRequest, push};
pub(crate) use push::{media_type, read_from};
pub(crate) use registries::{credentials, failed as registry_error};
pub(crate) use transfers::Transfers;

use crate::Engine;
use crate::clock::rfc3339;
use crate::holders;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use yare_api::filters::Filters;
use yare_api::{
    GraphDriver, HistoryResponseItem, ImageConfig, ImageDeleteResponseItem, ImageInspect, ImageMetadata,
    ImagePruneResponse, ImageSummary, RootFS,
};
use yare_errdefs::{Error, Result};
pub use yare_image::RemoveOptions;
use yare_image::{Image, ImageEvent, ImageId, ListFilters, LoadEvent, PrunedImage, Removed};
use yare_oci::{Digest, Platform, Reference};

/// A request body on its way in.
pub type Body = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;
/// A reply on its way out.
pub type Output = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Pieces that wait between the network and a blocking thread: a slow disk slows the socket.
const PIECES: usize = 16;

/// How to list images.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Intermediate images too.
    pub all: bool,
    /// Compute the bytes that other images share.
    pub shared_size: bool,
    /// Tell of the manifests behind each name.
    pub manifests: bool,
    /// Docker's filters.
    pub filters: Filters,
}

/// The images that pass, newest first.
pub fn list(engine: &Engine, options: &ListOptions) -> Result<Vec<ImageSummary>> {
    let filters = ListFilters::parse(&engine.images, &pairs(&options.filters), engine.clock.now())?;
    let users = users(engine);
    let usage = if options.shared_size { Some(engine.images.usage()) } else { None };
    let listed = engine.images.listed(&filters, options.all);
    listed
        .iter()
        .map(|listed| {
            let mut summary = summary(&listed.image, users.get(&listed.image.id.0).copied().unwrap_or(0));
            if filters.names_only() {
                summary.repo_tags = Some(listed.tags.clone());
                summary.repo_digests = Some(listed.digests.clone());
            }
            if let Some(image) = usage.as_ref().and_then(|usage| usage.image(&listed.image.id)) {
                summary.shared_size = signed(image.shared);
            }
            summary.size = signed(engine.images.family_size(&listed.image));
            if options.manifests {
                let name = shown_name(&listed.image);
                summary.descriptor = Some(manifests::target(engine, &name, &listed.image)?);
                summary.manifests = Some(manifests::summaries(engine, &name, &listed.image)?);
            }
            Ok(summary)
        })
        .collect()
}

/// The name that stands for what a row of a list shows; of several the first that stands for an index.
fn shown_name(image: &Image) -> String {
    let names = image.references.iter().chain(&image.digests);
    names.map(ToString::to_string).next().unwrap_or_else(|| image.id.to_string())
}

/// Filters as the image store has them.
type Pairs = BTreeMap<String, Vec<String>>;

fn pairs(filters: &Filters) -> Pairs {
    filters.names().map(|name| (name.to_owned(), filters.values(name).to_vec())).collect()
}

fn users(engine: &Engine) -> HashMap<Digest, i64> {
    let mut users = HashMap::new();
    for container in engine.containers.all() {
        *users.entry(container.record().image).or_default() += 1;
    }
    users
}

pub(crate) fn summary(image: &Image, containers: i64) -> ImageSummary {
    let labels = &image.config.config.labels;
    ImageSummary {
        containers,
        created: image.dated().map_or(0, jiff::Timestamp::as_second),
        id: image.id.to_string(),
        labels: (!labels.is_empty()).then(|| labels.clone()),
        parent_id: image.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        repo_digests: Some(image.repo_digests()),
        repo_tags: Some(image.tags()),
        shared_size: -1,
        size: signed(image.size),
        last_used: image.unused_since().map_or(0, jiff::Timestamp::as_second),
        ..ImageSummary::default()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What to tell of an image.
#[derive(Debug, Clone, Default)]
pub struct InspectOptions {
    /// That of this platform.
    pub platform: Option<Platform>,
    /// Tell of the manifests behind the name.
    pub manifests: bool,
}

/// Everything about one image, the one that the name shows.
pub fn inspect(engine: &Engine, name: &str) -> Result<ImageInspect> {
    inspect_with(engine, name, &InspectOptions::default())
}

/// Everything about one image.
pub fn inspect_with(engine: &Engine, name: &str, options: &InspectOptions) -> Result<ImageInspect> {
    if options.manifests && options.platform.is_some() {
        return Err(Error::invalid("conflicting options: manifests and platform options cannot both be set"));
    }
    let image = engine.images.resolve(name, options.platform.as_ref())?;
    let mut told = told(engine, &image);
    // The image of another platform has these names, too.
    if options.platform.is_some() {
        let shown = engine.images.resolve(name, None)?;
        (told.repo_tags, told.repo_digests) = (shown.tags(), shown.repo_digests());
    }
    if options.manifests {
        told.descriptor = Some(manifests::target(engine, name, &image)?);
        told.manifests = Some(manifests::summaries(engine, name, &image)?);
    }
    Ok(told)
}

fn told(engine: &Engine, image: &Image) -> ImageInspect {
    let config = &image.config;
    ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.tags(),
        repo_digests: image.repo_digests(),
        parent: image.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        comment: if config.comment.is_empty() {
            config.history.last().map(|step| step.comment.clone()).unwrap_or_default()
        } else {
            config.comment.clone()
        },
        created: config.created.clone().unwrap_or_default(),
        docker_version: text(config.extra.get("docker_version")),
        author: config.author.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        os_version: config.os_version.clone(),
        size: signed(image.size),
        graph_driver: graph_driver(engine, image),
        root_fs: RootFS {
            r#type: "layers".to_owned(),
            layers: Some(image.layers.iter().map(ToString::to_string).collect()),
        },
        metadata: ImageMetadata {
            last_tag_time: rfc3339(image.tagged),
            last_used: image.unused_since().map(|used| rfc3339(Some(used))).unwrap_or_default(),
        },
        config: container_config(&config.config),
        ..ImageInspect::default()
    }
}

fn text(value: Option<&serde_json::Value>) -> String {
    value.and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

fn graph_driver(engine: &Engine, image: &Image) -> GraphDriver {
    let mut data = BTreeMap::new();
    let folders: Vec<String> = image
        .layers
        .iter()
        .rev()
        .map(|layer| engine.images.snapshots().layer_dir(layer).display().to_string())
        .collect();
    if let Some((top, lower)) = folders.split_first() {
        data.insert("UpperDir".to_owned(), top.clone());
        if !lower.is_empty() {
            data.insert("LowerDir".to_owned(), lower.join(":"));
        }
    }
    GraphDriver { data: Some(data), name: "overlay2".to_owned() }
}

fn container_config(config: &yare_oci::ContainerConfig) -> ImageConfig {
    let map = |map: &BTreeMap<String, yare_api::Empty>| (!map.is_empty()).then(|| map.clone());
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    ImageConfig {
        args_escaped: config.args_escaped,
        cmd: config.cmd.clone(),
        entrypoint: config.entrypoint.clone(),
        env: list(&config.env),
        exposed_ports: map(&config.exposed_ports),
        healthcheck: config.healthcheck.clone(),
        labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
        on_build: list(&config.on_build),
        shell: list(&config.shell),
        stop_signal: config.stop_signal.clone(),
        user: config.user.clone(),
        volumes: map(&config.volumes),
        working_dir: config.working_dir.clone(),
    }
}

/// How an image came to be, newest step first.
pub fn history(engine: &Engine, name: &str, platform: Option<&Platform>) -> Result<Vec<HistoryResponseItem>> {
    let image = engine.images.resolve(name, platform)?;
    let steps = engine.images.history(&image);
    Ok(steps
        .into_iter()
        .map(|step| HistoryResponseItem {
            comment: step.comment,
            created: step.created,
            created_by: step.created_by,
            id: step.id,
            size: signed(step.size),
            tags: (!step.tags.is_empty()).then_some(step.tags),
        })
        .collect())
}

/// Gives an image one more name.
pub async fn tag(engine: &Arc<Engine>, name: &str, repository: &str, tag: &str) -> Result<()> {
    let mut reference = parse(repository)?.trimmed();
    reference = match tag {
        "" => parse(repository)?.or_latest(),
        tag => reference.with_tag(tag).map_err(|error| Error::invalid(error.to_string()))?,
    };
    let (engine, name) = (Arc::clone(engine), name.to_owned());
    blocking(move || {
        let image = engine.images.tag_as(&name, &reference)?;
        publish(&engine, "tag", &image.id, &reference.familiar());
        Ok(())
    })
    .await
}

pub(crate) fn parse(text: &str) -> Result<Reference> {
    Reference::parse(text).map_err(|error| Error::invalid(error.to_string()))
}

/// Removes a name, or with its last name the image; with platforms, these of what the name stands for.
pub async fn remove(
    engine: &Arc<Engine>,
    name: &str,
    options: RemoveOptions,
    platforms: Vec<Platform>,
) -> Result<Vec<ImageDeleteResponseItem>> {
    let (engine, name) = (Arc::clone(engine), name.to_owned());
    blocking(move || {
        let holders = |image: &ImageId| holders::of_image(&engine, &image.0);
        let removal = match platforms.as_slice() {
            [] => engine.images.remove(&name, options, &holders)?,
            platforms => engine.images.remove_platforms(&name, platforms, options, &holders)?,
        };
        publish_all(&engine, &removal.events);
        Ok(items(&removal.removed))
    })
    .await
}

fn items(removed: &[Removed]) -> Vec<ImageDeleteResponseItem> {
    let item = |removed: &Removed| match removed {
        Removed::Untagged(name) => ImageDeleteResponseItem { untagged: name.clone(), ..Default::default() },
        Removed::Deleted(id) => ImageDeleteResponseItem { deleted: id.clone(), ..Default::default() },
    };
    removed.iter().map(item).collect()
}

/// Removes images that no container uses: untagged ones, or with `dangling=false` all.
pub async fn prune(engine: &Arc<Engine>, filters: &Filters) -> Result<ImagePruneResponse> {
    let (engine, filters) = (Arc::clone(engine), filters.clone());
    blocking(move || {
        let dry_run = filters.boolean("dry-run")?.unwrap_or(false);
        let (filters, supposed_gone) = prune_filters(&filters, dry_run)?;
        let holders = |image: &ImageId| {
            let mut holders = holders::of_image(&engine, &image.0);
            holders.retain(|holder| !supposed_gone.contains(&holder.id));
            holders
        };
        let removal = engine.images.prune(&filters, engine.clock.now(), &holders)?;
        if !dry_run {
            publish_all(&engine, &removal.events);
            let attributes = BTreeMap::from([("reclaimed".to_owned(), removal.reclaimed.to_string())]);
            engine.publish("image", "prune", "", attributes);
        }
        let removed = items(&removal.removed);
        Ok(ImagePruneResponse {
            images_deleted: (!removed.is_empty()).then_some(removed),
            space_reclaimed: signed(removal.reclaimed),
            explained: Some(removal.pruned.iter().map(explained).collect()),
        })
    })
    .await
}

/// The filters as the store has them, and containers that a dry run is to suppose removed: those that a prune of
/// everything would take before it comes to the images.
fn prune_filters(filters: &Filters, dry_run: bool) -> Result<(Pairs, Vec<String>)> {
    let mut pairs = pairs(filters);
    for size in pairs.get_mut("keep-storage").into_iter().flatten() {
        let bytes = yare_api::units::ram_in_bytes(size)
            .map_err(|error| Error::invalid(format!("invalid filter 'keep-storage={size}': {error}")))?;
        *size = bytes.to_string();
    }
    let gone = pairs.remove("without-container").unwrap_or_default();
    if !gone.is_empty() && !dry_run {
        return Err(Error::invalid("the filter 'without-container' goes with 'dry-run=true' alone"));
    }
    Ok((pairs, gone))
}

fn explained(pruned: &PrunedImage) -> yare_api::image::Pruned {
    yare_api::image::Pruned {
        id: pruned.id.to_string(),
        names: pruned.names.clone(),
        last_used: pruned.unused_since.map_or(0, jiff::Timestamp::as_second),
        size: signed(pruned.bytes),
        reason: pruned.why.clone(),
    }
}

/// Takes in an archive of images, or what it has for these platforms. Gives progress lines.
pub fn load(engine: &Arc<Engine>, platforms: Vec<Platform>, body: Body) -> Result<Output> {
    let engine = Arc::clone(engine);
    with_progress(body, move |reader, progress| {
        let mut told = |event: LoadEvent| {
            if let LoadEvent::Loaded { id, .. } = &event {
                publish(&engine, "load", id, &id.to_string());
            }
            progress.line(&serde_json::json!({ "stream": format!("{event}\n") }));
        };
        engine.images.load_with_progress(reader, &platforms, &mut told, &mut |_| {})
    })
}

/// Takes an archive that was made here, and tells nobody of it.
pub fn adopt(engine: &Engine, archive: impl std::io::Read) -> Result<()> {
    engine.images.load(archive, &mut |_| {})
}

/// Writes images as one archive, or what they have for these platforms. Names are looked up before anything
/// is written.
pub fn save(engine: &Arc<Engine>, names: Vec<String>, platforms: Vec<Platform>) -> Result<Output> {
    for name in &names {
        let image = engine.images.resolve(name, platforms.first())?;
        publish(engine, "save", &image.id, &image.id.to_string());
    }
    let engine = Arc::clone(engine);
    written(move |writer| engine.images.save(&names, &platforms, writer))
}

/// Makes the image that the first run needs without any network: one layer with the given program.
pub fn ensure_embedded(
    engine: &Engine,
    reference: &Reference,
    files: &[yare_image::EmbeddedFile],
    config: &yare_oci::ContainerConfig,
) -> Result<Arc<Image>> {
    engine.images.ensure_embedded(reference, files, config)
}

pub(crate) fn publish(engine: &Engine, action: &str, id: &ImageId, name: &str) {
    let mut attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
    if let Some(image) = engine.images.image(id) {
        attributes.extend(image.config.config.labels.clone());
    }
    engine.publish("image", action, &id.to_string(), attributes);
}

pub(crate) fn publish_all(engine: &Engine, events: &[ImageEvent]) {
    for event in events {
        publish_with(engine, event, BTreeMap::from([("name".to_owned(), event.name.clone())]));
    }
}

pub(crate) fn publish_with(engine: &Engine, event: &ImageEvent, attributes: BTreeMap<String, String>) {
    engine.publish("image", event.action, &event.id.to_string(), attributes);
}

/// An error of the content store in its own words.
pub(crate) fn lifted(error: yare_content::Error) -> Error {
    Error::wrap(error.to_string(), error)
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::internal("the operation broke off").caused_by(error)))
}

/// Progress lines of an operation.
struct Progress(mpsc::Sender<io::Result<Bytes>>);

impl Progress {
    /// Sends a line; a client that left misses it and the operation goes on.
    fn line(&mut self, value: &serde_json::Value) {
        let mut line = value.to_string();
        line.push_str("\r\n");
        let _ = self.0.blocking_send(Ok(line.into()));
    }
}

/// Runs work that lasts as long as a client likes, on a thread of its own: the shared ones are for what ends
/// by itself, and starts need them.
pub(crate) fn lasting(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = std::thread::Builder::new().name("archive".into()).spawn(work);
    spawned.map(drop).map_err(|error| Error::unavailable("cannot start a thread").caused_by(error))
}

/// Runs an operation over a body on a thread of its own; its error becomes the last line.
fn with_progress(
    body: Body,
    work: impl FnOnce(&mut dyn Read, &mut Progress) -> Result<()> + Send + 'static,
) -> Result<Output> {
    let (lines, out) = mpsc::channel(PIECES);
    let mut reader = BodyReader::new(body);
    lasting(move || {
        let mut progress = Progress(lines);
        if let Err(error) = work(&mut reader, &mut progress) {
            let message = crate::system::full_text(&error);
            progress.line(&serde_json::json!({ "errorDetail": { "message": message }, "error": message }));
        }
        // What the operation did not need is read all the same: a client that still sends sees its answer.
        let _ = io::copy(&mut reader.take(DRAINED), &mut io::sink());
    })?;
    Ok(receive(out))
}

/// Bytes of a body that are read after an operation has failed, so that the client gets to read why.
const DRAINED: u64 = 1 << 30;

/// Runs a writer on a thread of its own and streams what it writes.
pub(crate) fn written(work: impl FnOnce(&mut dyn Write) -> Result<()> + Send + 'static) -> Result<Output> {
    let (pieces, out) = mpsc::channel(PIECES);
    lasting(move || {
        let mut writer = io::BufWriter::with_capacity(256 << 10, PieceWriter(pieces.clone()));
        let outcome = work(&mut writer).and_then(|()| writer.flush().map_err(Error::from));
        if let Err(error) = outcome {
            tracing::warn!(error = yare_errdefs::chain(&error), "an archive broke off");
            let _ = pieces.blocking_send(Err(io::Error::other(yare_errdefs::chain(&error))));
        }
    })?;
    Ok(receive(out))
}

pub(crate) fn receive(out: mpsc::Receiver<io::Result<Bytes>>) -> Output {
    Box::pin(futures_util::stream::unfold(out, |mut out| async {
        out.recv().await.map(|piece| (piece, out))
    }))
}

struct PieceWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map(|()| bytes.len())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body read by a blocking thread.
pub(crate) struct BodyReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl BodyReader {
    pub(crate) fn new(mut body: Body) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            while let Some(piece) = body.next().await {
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        });
        Self { pieces, current: Bytes::new() }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}
