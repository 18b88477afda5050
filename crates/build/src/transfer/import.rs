//! Reading a cache: what it has is known at once, what a step added is unpacked when a build wants it.

use super::export::TAG;
use super::{Config, INLINE, Inline, Layer, MEDIA_TYPE, Map, VERSION, attribute, check, unbuilt};
use crate::cache::Step;
use crate::solve::Tools;
use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use yare_image::{Image, Store};
use yare_layer::{ApplyOptions, Decompressor, Limits, apply};
use yare_oci::{DiffId, Digest, Hasher, Index, Manifest, Reference};
use yare_snapshot::{DraftId, Stack};
use yare_sys::fs::open_beneath;

/// Most bytes of an index or a manifest.
const LONGEST: u64 = 8 << 20;
/// Most bytes of a cache's config.
const LARGEST: u64 = 128 << 20;

/// Everything that was named with `--cache-from`.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    steps: HashMap<Digest, Found>,
    store: Option<Store>,
}

#[derive(Debug, Clone)]
struct Found {
    step: Step,
    layer: Option<Place>,
}

#[derive(Debug, Clone)]
enum Place {
    /// A blob of a folder.
    Blob(PathBuf, Layer),
    /// A layer of an image in the store; it may be gone when it is wanted.
    Stored(DiffId),
}

impl Imports {
    /// Reads every `--cache-from`. A cache that is not there, or cannot be read, is told of and not used.
    ///
    /// # Errors
    /// An option is malformed, or names a kind of cache that is not here.
    pub(crate) fn open(all: &[Map], images: &Store, tools: &Tools<'_>) -> Result<Self> {
        let mut imports = Self { store: Some(images.clone()), ..Self::default() };
        for attributes in all {
            let kind = attribute(attributes, "type").unwrap_or_default();
            let name = attribute(attributes, if kind == "local" { "src" } else { "ref" }).unwrap_or_default();
            let work = || tools.progress.work(&format!("importing cache manifest from {name}"));
            let read = match kind {
                "local" => {
                    check("--cache-from", attributes, &["src", "tag", "digest"])?;
                    if name.is_empty() {
                        return Err(Error::invalid("--cache-from type=local needs src=DIR"));
                    }
                    let work = work();
                    let read = imports.folder(Path::new(name), attributes);
                    if let Err(error) = &read {
                        work.failed(&yare_errdefs::chain(error));
                    }
                    read
                }
                "registry" => {
                    check("--cache-from", attributes, &["ref"])?;
                    let reference =
                        Reference::parse(name).map_err(|error| Error::invalid(error.to_string()))?;
                    let work = work();
                    let found = tools.worker.image(&reference.or_latest(), None, false);
                    let read = found.and_then(|image| imports.image(&image));
                    if let Err(error) = &read {
                        work.failed(&yare_errdefs::chain(error));
                    }
                    read
                }
                other => return Err(unbuilt("--cache-from", other)),
            };
            if let Err(error) = read {
                tracing::warn!(error = yare_errdefs::chain(&error), "a build cache is not used");
            }
        }
        Ok(imports)
    }

    fn folder(&mut self, path: &Path, attributes: &Map) -> Result<()> {
        let digest = attribute(attributes, "digest");
        let digest = digest
            .map(|text| text.parse::<Digest>())
            .transpose()
            .map_err(|error| Error::invalid("invalid digest of --cache-from").caused_by(error))?;
        let tag = attribute(attributes, "tag").unwrap_or("latest");
        for entry in read_folder(path, tag, digest)?.steps {
            let step = Step {
                description: entry.description,
                kind: entry.kind,
                size: entry.size,
                remark: entry.remark,
                parents: entry.parents,
                ..Step::default()
            };
            let layer = entry.layer.map(|layer| Place::Blob(path.to_owned(), layer));
            self.steps.entry(entry.key).or_insert(Found { step, layer });
        }
        Ok(())
    }

    fn image(&mut self, image: &Image) -> Result<()> {
        let Some(value) = image.config.extra.get(INLINE) else {
            return Err(Error::not_found("the image has no build cache in it")
                .with_hint("build it with --cache-to type=inline"));
        };
        let inline: Inline = serde_json::from_value(value.clone()).map_err(|error| {
            Error::invalid("the build cache of the image cannot be read").caused_by(error)
        })?;
        known(inline.version)?;
        for (key, layer) in inline.keys.iter().zip(image.layers.iter()) {
            let Some(key) = key else { continue };
            let layer = Some(Place::Stored(*layer));
            let step = Step { description: "from the cache in an image".to_owned(), ..Step::default() };
            self.steps.entry(*key).or_insert(Found { step, layer });
        }
        Ok(())
    }

    /// The result of a step, unpacked above `base`; `None` when no cache has it or what it has is damaged.
    pub(crate) fn fetch(&self, key: &Digest, base: &Stack, tools: &Tools<'_>) -> Result<Option<Step>> {
        let Some(found) = self.steps.get(key) else { return Ok(None) };
        let mut step = found.step.clone();
        let Some(place) = &found.layer else { return Ok(Some(step)) };
        match self.unpack(place, base, tools) {
            Ok((draft, size)) => {
                (step.draft, step.size) = (Some(draft), if step.size == 0 { size } else { step.size });
                Ok(Some(step))
            }
            Err(error) => {
                tools.cancel.check()?;
                tracing::warn!(%key, error = yare_errdefs::chain(&error), "a result of a build cache is not used");
                Ok(None)
            }
        }
    }

    fn unpack(&self, place: &Place, base: &Stack, tools: &Tools<'_>) -> Result<(DraftId, u64)> {
        let wrap = |error: yare_snapshot::Error| Error::wrap("cannot make room for a result", error);
        let pending = tools.snapshots.begin_draft(base).map_err(wrap)?;
        let target = yare_sys::fs::open_dir(pending.upper())?;
        let size = match place {
            Place::Blob(folder, layer) => {
                let file = blob(open_folder(folder)?.as_fd(), &layer.blob)?;
                unpack_blob(file, layer, target.as_fd())?
            }
            Place::Stored(layer) => {
                let store = self.store.as_ref().ok_or_else(|| Error::internal("no image store"))?;
                let mut file = tempfile::tempfile_in(tools.scratch)?;
                store.export_layer(layer, &mut file)?;
                file.rewind()?;
                unpack_tar(file, (layer, None), target.as_fd())?
            }
        };
        tools.cancel.check()?;
        Ok((pending.keep().map_err(wrap)?, size))
    }
}

/// Unpacks a blob, which must be what its layer says, to the last byte.
fn unpack_blob(file: File, layer: &Layer, target: std::os::fd::BorrowedFd<'_>) -> Result<u64> {
    let mut hashed = Hashing { source: file.take(layer.size + 1), hasher: Hasher::new() };
    let mut plain = Decompressor::new(&mut hashed)?;
    let size = unpack_tar(&mut plain, (&layer.diff_id, Some(layer.tar)), target)?;
    drop(plain);
    std::io::copy(&mut hashed, &mut std::io::sink())?;
    let found = hashed.hasher.finish();
    if found != layer.blob {
        return Err(Error::invalid(format!("the blob {} has digest {found}", layer.blob)));
    }
    Ok(size)
}

fn unpack_tar(
    source: impl Read,
    (diff_id, bytes): (&DiffId, Option<u64>),
    target: std::os::fd::BorrowedFd<'_>,
) -> Result<u64> {
    let limits = Limits { bytes, ..Limits::default() };
    let applied = apply(source, target, ApplyOptions { limits, ..ApplyOptions::default() })
        .map_err(|error| Error::wrap("cannot unpack a result", error))?;
    if applied.diff_id != *diff_id {
        return Err(Error::invalid(format!("a result was to be {diff_id} and is {}", applied.diff_id)));
    }
    // Results of steps list every directory they are in and have no links to what lies below.
    if applied.root_opaque || !applied.implied_dirs.is_empty() || !applied.lower_links.is_empty() {
        return Err(Error::invalid(format!("the result {diff_id} is in no form that a step leaves")));
    }
    Ok(applied.content)
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

/// Reads what a folder has under a tag or digest.
pub(super) fn read_folder(path: &Path, tag: &str, digest: Option<Digest>) -> Result<Config> {
    let folder = open_folder(path)?;
    let index: Index = parse(&read(open(folder.as_fd(), Path::new("index.json"))?, LONGEST)?, "index.json")?;
    let wanted = |descriptor: &&yare_oci::Descriptor| match &digest {
        Some(digest) => descriptor.digest == *digest,
        None => descriptor.annotations.get(TAG).is_some_and(|other| other == tag),
    };
    let descriptor = index.manifests.iter().find(wanted).ok_or_else(|| {
        Error::not_found(format!("the build cache {} has no manifest of that name", path.display()))
    })?;
    let manifest: Manifest = parse(&verified(folder.as_fd(), &descriptor.digest, LONGEST)?, "the manifest")?;
    if manifest.config.media_type != MEDIA_TYPE {
        return Err(Error::invalid(format!(
            "{} is no build cache of this engine: its config is {}",
            path.display(),
            manifest.config.media_type
        )));
    }
    let config: Config = parse(&verified(folder.as_fd(), &manifest.config.digest, LARGEST)?, "the config")?;
    known(config.version)?;
    Ok(config)
}

fn known(version: u32) -> Result<()> {
    match version {
        VERSION => Ok(()),
        other => Err(Error::precondition(format!("the build cache has format {other}, known is {VERSION}"))),
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    yare_sys::fs::open_dir(path).map_err(|error| {
        let class = yare_errdefs::class_of_io(&error);
        Error::new(class, format!("cannot open the build cache {}", path.display())).caused_by(error)
    })
}

/// A regular file below the folder; a link out of it is none.
fn open(folder: std::os::fd::BorrowedFd<'_>, path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open_beneath(folder, path, flags, Mode::empty()).map(File::from).map_err(|error| {
        let class = yare_errdefs::class_of_io(&error);
        Error::new(class, format!("cannot open {} of the build cache", path.display())).caused_by(error)
    })?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(Error::invalid(format!("{} of the build cache is no file", path.display())))
    }
}

fn blob(folder: std::os::fd::BorrowedFd<'_>, digest: &Digest) -> Result<File> {
    open(folder, &Path::new("blobs/sha256").join(digest.hex()))
}

fn read(file: File, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Error::invalid(format!("a document of the build cache has more than {limit} bytes")));
    }
    Ok(bytes)
}

fn verified(folder: std::os::fd::BorrowedFd<'_>, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
    let bytes = read(blob(folder, digest)?, limit)?;
    let found = Digest::of(&bytes);
    if found == *digest {
        Ok(bytes)
    } else {
        Err(Error::invalid(format!("the document {digest} of the build cache has digest {found}")))
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid(format!("{what} of the build cache cannot be read")).caused_by(error))
}
