//! Reading a cache: what it has is known at once, what a step added is unpacked when a build wants it.

use super::folder::Folder;
use super::history::Known;
use super::options::{Import, Place};
use super::store::{self, ContentStore, LONGEST, parse, read};
use super::{Config, INLINE, Inline, Layer, MEDIA_TYPE, Map, VERSION};
use crate::cache::Step;
use crate::graph::VertexId;
use crate::lower::Lowered;
use crate::solve::Tools;
use crate::{Error, Result};
use std::collections::HashMap;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use yare_image::{Image, Store};
use yare_layer::{Applied, ApplyOptions, Decompressor, Form, Limits, apply};
use yare_oci::{Descriptor, DiffId, Digest, Hasher, ImageConfig, Index, Manifest, MediaType, Reference};
use yare_snapshot::{DraftId, Stack};

/// Most bytes of a cache's config. What it says of a step is larger in memory, though not by much.
const LARGEST: u64 = 32 << 20;
/// Most images of an index that are looked into.
const MOST_IMAGES: usize = 16;

/// Everything that was named with `--cache-from`.
#[derive(Default)]
pub(crate) struct Imports<'a> {
    stores: Vec<Box<dyn ContentStore + 'a>>,
    steps: HashMap<Digest, Found>,
    mounts: HashMap<String, (usize, Layer)>,
    images: Option<&'a Store>,
    /// Images whose history tells what their layers are.
    told: Vec<Arc<Image>>,
    known: Known,
}

#[derive(Debug, Clone)]
struct Found {
    step: Step,
    layer: Option<Source>,
}

#[derive(Debug, Clone)]
enum Source {
    /// A blob of the store at this place.
    Blob(usize, Layer),
    /// A layer of an image in the store; it may be gone when it is wanted.
    Stored(DiffId),
}

impl<'a> Imports<'a> {
    /// Reads every `--cache-from`. A cache that is not there, or cannot be read, is told of and not used.
    ///
    /// # Errors
    /// An option is malformed, or names a kind of cache that is not here.
    pub(crate) fn open(all: &[Map], images: &'a Store, tools: &Tools<'a>) -> Result<Self> {
        let mut imports = Self { images: Some(images), ..Self::default() };
        let all = all.iter().map(Import::of).collect::<Result<Vec<_>>>()?;
        for import in all {
            let work = tools.progress.work(&format!("importing cache manifest from {}", import.name()));
            if let Err(error) = imports.read(import, images, tools) {
                tools.cancel.check()?;
                tracing::warn!(error = yare_errdefs::chain(&error), "a build cache is not used");
                work.failed(&yare_errdefs::chain(&error));
            }
        }
        Ok(imports)
    }

    fn read(&mut self, import: Import, images: &Store, tools: &Tools<'a>) -> Result<()> {
        match import {
            Import::Apart { place: Place::Folder { path, tag }, digest } => {
                self.cache(Box::new(Folder::open(&path, &tag)?), digest.as_ref())
            }
            Import::Apart { place: Place::Client(id), digest } => {
                self.cache(tools.worker.client_folder(&id)?, digest.as_ref())
            }
            Import::Apart { place: Place::Registry(reference), digest } => {
                // An image that is here needs no registry.
                match images.resolve(&reference.to_string(), None) {
                    Ok(image) if image.config.extra.contains_key(INLINE) => self.image(&image),
                    _ => self.registry(&reference, digest.as_ref(), tools),
                }
            }
            Import::Image(reference) => {
                let image = images.resolve(&reference.to_string(), None)?;
                if image.config.extra.contains_key(INLINE) {
                    self.image(&image)?;
                }
                self.told.push(image);
                Ok(())
            }
        }
    }

    fn cache(&mut self, store: Box<dyn ContentStore + 'a>, digest: Option<&Digest>) -> Result<()> {
        let (config, _) = read_cache(store.as_ref(), digest)?;
        self.take(store, config);
        Ok(())
    }

    fn take(&mut self, store: Box<dyn ContentStore + 'a>, config: Config) {
        let place = self.stores.len();
        self.stores.push(store);
        for entry in config.steps {
            // A kind decides what is done about a row: there is none of a step but these.
            let kind = match entry.kind.as_str() {
                kind @ ("source.git" | "source.http") => kind,
                _ => "regular",
            };
            let step = Step {
                description: entry.description,
                kind: kind.to_owned(),
                remark: entry.remark,
                parents: entry.parents,
                ..Step::default()
            };
            let layer = entry.layer.map(|layer| Source::Blob(place, layer));
            self.steps.entry(entry.key).or_insert(Found { step, layer });
        }
        for mount in config.mounts {
            self.mounts.entry(mount.id).or_insert((place, mount.layer));
        }
    }

    /// A name in a registry: a cache, an image with a cache in it, or several.
    fn registry(&mut self, reference: &Reference, digest: Option<&Digest>, tools: &Tools<'a>) -> Result<()> {
        let open = || tools.worker.repository(reference, false, tools.cancel);
        let store = open()?;
        let bytes = store.manifest(digest)?;
        if MediaType::is_index(&kind_of(&bytes)) {
            let index: Index = parse(&bytes, "the index")?;
            let images = index.manifests.iter().filter(|image| !is_attestation(image));
            let mut last = Err(no_cache());
            for image in images.take(MOST_IMAGES) {
                let store = open()?;
                let manifest = store::verified(store.manifest(Some(&image.digest))?, &image.digest)?;
                let read = self.single(store, &manifest);
                // One platform's is as good as any: the keys tell them apart.
                if last.is_err() {
                    last = read;
                }
            }
            return last;
        }
        self.single(store, &bytes)
    }

    fn single(&mut self, store: Box<dyn ContentStore + 'a>, manifest: &[u8]) -> Result<()> {
        let manifest: Manifest = parse(manifest, "the manifest")?;
        if manifest.config.media_type == MEDIA_TYPE {
            let config = config_of(store.as_ref(), &manifest)?;
            self.take(store, config);
            return Ok(());
        }
        let bytes = document(store.as_ref(), &manifest.config, LONGEST)?;
        let config: ImageConfig = parse(&bytes, "the config")?;
        let keys = inline_keys(&config)?;
        let place = self.stores.len();
        self.stores.push(store);
        for ((key, diff_id), blob) in keys.into_iter().zip(&config.rootfs.diff_ids).zip(&manifest.layers) {
            let Some(key) = key else { continue };
            let layer = Layer { diff_id: *diff_id, blob: blob.digest, size: blob.size, tar: None };
            self.inline(key, Source::Blob(place, layer));
        }
        Ok(())
    }

    fn image(&mut self, image: &Image) -> Result<()> {
        for (key, layer) in inline_keys(&image.config)?.into_iter().zip(image.layers.iter()) {
            if let Some(key) = key {
                self.inline(key, Source::Stored(*layer));
            }
        }
        Ok(())
    }

    fn inline(&mut self, key: Digest, layer: Source) {
        let step = Step { description: "from the cache in an image".to_owned(), ..Step::default() };
        self.steps.entry(key).or_insert(Found { step, layer: Some(layer) });
    }

    /// Compares the histories of images with the one that is to be.
    pub(crate) fn compare(&mut self, lowered: &Lowered) {
        for image in &self.told {
            self.known.compare(lowered, image);
        }
    }

    /// The result of a step, unpacked above `base`; `None` when no cache has it or what it has is damaged.
    pub(crate) fn fetch(
        &self,
        (id, key): (VertexId, &Digest),
        base: &Stack,
        tools: &Tools<'_>,
    ) -> Result<Option<Step>> {
        let found = match self.steps.get(key) {
            Some(found) => found.clone(),
            None => match self.known.layer(id, base, tools)? {
                Some(layer) => {
                    let description = "from the layers of an image".to_owned();
                    let step = Step { description, ..Step::default() };
                    Found { step, layer: Some(Source::Stored(layer)) }
                }
                None => return Ok(None),
            },
        };
        let mut step = found.step;
        let Some(source) = &found.layer else { return Ok(Some(step)) };
        match self.unpack(source, base, tools) {
            Ok((draft, size)) => {
                (step.draft, step.size) = (Some(draft), size);
                Ok(Some(step))
            }
            Err(error) => {
                tools.cancel.check()?;
                tracing::warn!(%key, error = yare_errdefs::chain(&error), "a result of a build cache is not used");
                Ok(None)
            }
        }
    }

    /// Fills a new directory of a cache mount; whether a cache had it. What is damaged leaves nothing.
    pub(crate) fn fill(&self, id: &str, path: &Path, tools: &Tools<'_>) -> Result<bool> {
        let Some((place, layer)) = self.mounts.get(id) else { return Ok(false) };
        let dir = yare_sys::fs::open_dir(path)?;
        let filled = self.stores[*place].open(&layer.descriptor()).and_then(|blob| {
            let form = Form::Plain;
            unpack_blob(blob, layer, (dir.as_fd(), form)).map(drop)
        });
        let Err(error) = filled else { return Ok(true) };
        tools.cancel.check()?;
        tracing::warn!(id, error = yare_errdefs::chain(&error), "a cache mount of a build cache is not used");
        yare_sys::fs::remove_tree(path)?;
        std::fs::create_dir(path)?;
        Ok(false)
    }

    fn unpack(&self, source: &Source, base: &Stack, tools: &Tools<'_>) -> Result<(DraftId, u64)> {
        let wrap = |error: yare_snapshot::Error| Error::wrap("cannot make room for a result", error);
        let pending = tools.snapshots.begin_draft(base).map_err(wrap)?;
        let target = yare_sys::fs::open_dir(pending.upper())?;
        let applied = match source {
            Source::Blob(place, layer) => {
                let blob = self.stores[*place].open(&layer.descriptor())?;
                unpack_blob(blob, layer, (target.as_fd(), Form::Overlay))?
            }
            Source::Stored(layer) => {
                let store = self.images.ok_or_else(|| Error::internal("no image store"))?;
                let mut file = tempfile::tempfile_in(tools.scratch)?;
                store.export_layer(layer, &mut file)?;
                file.flush()?;
                file.rewind()?;
                unpack_tar(file, (layer, None), (target.as_fd(), Form::Overlay))?
            }
        };
        // Results of steps list every directory they are in and have no links to what lies below.
        if applied.root_opaque || !applied.implied_dirs.is_empty() || !applied.lower_links.is_empty() {
            let text = format!("the result {} is in no form that a step leaves", applied.diff_id);
            return Err(Error::invalid(text));
        }
        tools.cancel.check()?;
        Ok((pending.keep().map_err(wrap)?, applied.content))
    }
}

/// The keys of an image's layers.
fn inline_keys(config: &ImageConfig) -> Result<Vec<Option<Digest>>> {
    let value = config.extra.get(INLINE).ok_or_else(no_cache)?;
    let inline: Inline = serde_json::from_value(value.clone())
        .map_err(|error| Error::invalid("the build cache of the image cannot be read").caused_by(error))?;
    known(inline.version)?;
    Ok(inline.keys)
}

fn no_cache() -> Error {
    Error::not_found("the image has no build cache in it").with_hint("build it with --cache-to type=inline")
}

/// What a document says that it is; an index by its members where it says nothing.
fn kind_of(bytes: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    match document.get("mediaType").and_then(serde_json::Value::as_str) {
        Some(kind) => kind.to_owned(),
        None if document.get("manifests").is_some() => MediaType::OCI_INDEX.to_owned(),
        None => MediaType::OCI_MANIFEST.to_owned(),
    }
}

fn is_attestation(image: &Descriptor) -> bool {
    image.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
}

/// Unpacks a blob, which must be what its layer says, to the last byte.
pub(super) fn unpack_blob(blob: impl Read, layer: &Layer, target: (BorrowedFd<'_>, Form)) -> Result<Applied> {
    let mut hashed = Hashing { source: blob.take(layer.size + 1), hasher: Hasher::new() };
    let mut plain = Decompressor::new(&mut hashed)?;
    let applied = unpack_tar(&mut plain, (&layer.diff_id, layer.tar), target)?;
    drop(plain);
    std::io::copy(&mut hashed, &mut std::io::sink())?;
    let found = hashed.hasher.finish();
    if found != layer.blob {
        return Err(Error::invalid(format!("the blob {} has digest {found}", layer.blob)));
    }
    Ok(applied)
}

fn unpack_tar(
    source: impl Read,
    (diff_id, bytes): (&DiffId, Option<u64>),
    (target, form): (BorrowedFd<'_>, Form),
) -> Result<Applied> {
    let limits = Limits { bytes, ..Limits::default() };
    let applied = apply(source, target, ApplyOptions { limits, form, ..ApplyOptions::default() })
        .map_err(|error| Error::wrap("cannot unpack a result", error))?;
    if applied.diff_id != *diff_id {
        return Err(Error::invalid(format!("a result was to be {diff_id} and is {}", applied.diff_id)));
    }
    Ok(applied)
}

struct Hashing<R> {
    source: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Reads what a store has under its name or a digest.
pub(super) fn read_cache(store: &dyn ContentStore, digest: Option<&Digest>) -> Result<(Config, Manifest)> {
    let bytes = store.manifest(digest)?;
    let bytes = match digest {
        Some(digest) => store::verified(bytes, digest)?,
        None => bytes,
    };
    let manifest: Manifest = parse(&bytes, "the manifest")?;
    if manifest.config.media_type != MEDIA_TYPE {
        let kind = &manifest.config.media_type;
        return Err(Error::invalid(format!("it is no build cache of this engine: its config is {kind}")));
    }
    Ok((config_of(store, &manifest)?, manifest))
}

fn config_of(store: &dyn ContentStore, manifest: &Manifest) -> Result<Config> {
    let config: Config = parse(&document(store, &manifest.config, LARGEST)?, "the config")?;
    known(config.version)?;
    Ok(config)
}

fn document(store: &dyn ContentStore, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
    if blob.size > limit {
        return Err(Error::invalid(format!("a document of the build cache has more than {limit} bytes")));
    }
    store::verified(read(store.open(blob)?, limit)?, &blob.digest)
}

fn known(version: u32) -> Result<()> {
    match version {
        VERSION => Ok(()),
        other => Err(Error::precondition(format!("the build cache has format {other}, known is {VERSION}"))),
    }
}
