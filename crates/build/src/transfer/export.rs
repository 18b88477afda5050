//! Writing a cache.

use super::folder::{Folder, UNFINISHED, failed};
use super::options::{Apart, Mounts, Place};
use super::store::{ContentStore, json};
use super::{Config, Entry, Inline, Layer, MEDIA_TYPE, Map, Mount, VERSION};
use crate::graph::{Graph, MountKind, Op, VertexId};
use crate::lower::Target;
use crate::output::blobs::Counted;
use crate::output::layout::layer_type;
use crate::solve::{Outcome, Tools};
use crate::{Error, Result, export};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::BufWriter;
use std::os::fd::BorrowedFd;
use std::path::Path;
use yare_errdefs::{Class, Classified};
use yare_layer::{Form, WriteOptions, compress, write_tar};
use yare_oci::{Descriptor, DiffId, Digest, Manifest, MediaType};
use yare_snapshot::DraftId;

impl Apart {
    /// What this piece of work is called, as in the field.
    pub(crate) fn title(&self) -> &'static str {
        match self.place {
            Place::Registry(_) => "exporting cache to registry",
            Place::Folder { .. } | Place::Client(_) => "exporting cache to client directory",
        }
    }

    /// Writes the results of a build.
    pub(crate) fn write(
        &self,
        (graph, targets, needed): (&Graph, &[Target], &[VertexId]),
        outcomes: &BTreeMap<VertexId, Outcome>,
        tools: &Tools<'_>,
    ) -> Result<()> {
        let chain = export::layer_vertices(graph, targets);
        let wanted = needed.iter().filter(|id| self.all || chain.contains(id));
        let outcomes = wanted.filter_map(|id| outcomes.get(id));
        let store = self.open(tools)?;
        let mut writer = Writer::new(self, store.as_ref(), tools)?;
        let mut config = Config { version: VERSION, ..Config::default() };
        let mut seen = HashSet::new();
        for outcome in outcomes {
            // Sources that cost nothing have no row, and need none.
            let Some(step) = tools.cache.look(&outcome.key).filter(|_| seen.insert(outcome.key)) else {
                continue;
            };
            let layer = step.draft.as_ref().map(|draft| writer.draft(draft)).transpose()?;
            config.steps.push(Entry {
                key: outcome.key,
                layer,
                description: step.description,
                kind: step.kind,
                size: step.size,
                remark: step.remark,
                parents: step.parents,
            });
        }
        config.steps.sort_by_key(|step| step.key);
        for id in self.mounts.of(graph, needed) {
            config.mounts.extend(writer.mount(&id, matches!(self.mounts, Mounts::Named(_)))?);
        }
        writer.finish(&config)
    }

    fn open<'a>(&self, tools: &Tools<'a>) -> Result<Box<dyn ContentStore + 'a>> {
        Ok(match &self.place {
            Place::Folder { path, tag } => Box::new(Folder::create(path, tag, tools.cancel)?),
            Place::Registry(reference) => tools.worker.repository(reference, true, tools.cancel)?,
            Place::Client(id) => tools.worker.client_folder(id)?,
        })
    }
}

impl Mounts {
    /// The ids of the mounts that go along, each once.
    fn of(&self, graph: &Graph, needed: &[VertexId]) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        match self {
            Self::None => {}
            Self::Named(named) => ids.clone_from(named),
            Self::All => {
                for vertex in needed {
                    let Op::Run(run) = &graph.vertex(*vertex).op else { continue };
                    let mounts = run.spec.mounts.iter();
                    ids.extend(mounts.filter_map(|mount| match &mount.kind {
                        MountKind::Cache { id, .. } => Some(id.clone()),
                        _ => None,
                    }));
                }
            }
        }
        ids
    }
}

/// The member of an image's config: the keys of its layers.
pub(crate) fn inline(
    graph: &Graph,
    target: &Target,
    outcomes: &BTreeMap<VertexId, Outcome>,
    layers: usize,
) -> serde_json::Value {
    let mut keys = Vec::new();
    let mut next = Some(target.root);
    while let Some(id) = next {
        if let Some(outcome) = outcomes.get(&id).filter(|outcome| outcome.added) {
            keys.push(Some(outcome.key));
        }
        next = graph.vertex(id).op.base();
    }
    keys.resize(layers, None);
    keys.reverse();
    serde_json::json!(Inline { version: VERSION, keys })
}

/// Packs what the store does not have yet.
struct Writer<'a> {
    export: &'a Apart,
    store: &'a dyn ContentStore,
    tools: &'a Tools<'a>,
    media_type: &'static str,
    /// Blobs of the cache that is there under this name, by what they hold.
    known: BTreeMap<DiffId, (Layer, String)>,
    /// What the manifest names: each blob once, in the order of their making.
    blobs: Vec<Descriptor>,
}

impl<'a> Writer<'a> {
    fn new(export: &'a Apart, store: &'a dyn ContentStore, tools: &'a Tools<'a>) -> Result<Self> {
        let media_type = layer_type(export.packing.0)?;
        let known = match super::import::read_cache(store, None) {
            Ok((config, manifest)) => {
                let kinds = manifest.layers.into_iter().map(|blob| (blob.digest, blob.media_type));
                let kinds: BTreeMap<Digest, String> = kinds.collect();
                let layers = config.steps.into_iter().filter_map(|step| step.layer);
                let layers = layers.chain(config.mounts.into_iter().map(|mount| mount.layer));
                let known = layers.filter_map(|layer| {
                    let kind = kinds.get(&layer.blob)?.clone();
                    Some((layer.diff_id, (layer, kind)))
                });
                known.filter(|(_, (_, kind))| !export.force || kind == media_type).collect()
            }
            // There is none, or none of ours: it is written anew.
            Err(error) => {
                tracing::debug!(error = yare_errdefs::chain(&error), "no build cache is there yet");
                BTreeMap::new()
            }
        };
        Ok(Self { export, store, tools, media_type, known, blobs: Vec::new() })
    }

    /// The result of a step.
    fn draft(&mut self, draft: &DraftId) -> Result<Layer> {
        let snapshots = self.tools.snapshots;
        if snapshots.is_hashed(draft) {
            let info =
                snapshots.hash_draft(draft).map_err(|error| Error::wrap("cannot export a layer", error))?;
            if let Some((layer, blob)) = self.there(&info.diff_id)? {
                self.name(blob);
                return Ok(layer);
            }
        }
        let dir = yare_sys::fs::open_dir(snapshots.draft_dir(draft))?;
        self.tree(std::os::fd::AsFd::as_fd(&dir), Form::Overlay)
    }

    /// The blob that this tar is already, whatever its compression.
    fn there(&self, tar: &DiffId) -> Result<Option<(Layer, Descriptor)>> {
        let Some((layer, kind)) = self.known.get(tar) else { return Ok(None) };
        let blob = Descriptor::new(kind, layer.blob, layer.size);
        Ok(self.store.has(&blob)?.then(|| (layer.clone(), blob)))
    }

    /// A cache mount, while nobody uses it. One that is not here is an error when it was named.
    fn mount(&mut self, id: &str, named: bool) -> Result<Option<Mount>> {
        let Some(lease) = self.tools.cache.mount_alone(id, self.tools.cancel)? else {
            return match named {
                true => Err(Error::not_found(format!("cannot export the cache mount {id}: there is none"))),
                false => Ok(None),
            };
        };
        let dir = yare_sys::fs::open_dir(&lease.path)?;
        let layer = self.tree(std::os::fd::AsFd::as_fd(&dir), Form::Plain)?;
        Ok(Some(Mount { id: id.to_owned(), layer }))
    }

    /// Packs a directory into a blob, and sends it where it is not there.
    fn tree(&mut self, dir: BorrowedFd<'_>, form: Form) -> Result<Layer> {
        let room = self.store.room().unwrap_or(self.tools.scratch);
        let temporary = room.join(yare_sys::fs::unique_name(UNFINISHED));
        let sent = self.pack(dir, form, &temporary).and_then(|layer| {
            if let Some(there) = self.there(&layer.diff_id)? {
                return Ok(there);
            }
            let blob = Descriptor::new(self.media_type, layer.blob, layer.size);
            if !self.store.has(&blob)? {
                self.store.put(&blob, &temporary)?;
            }
            Ok((layer, blob))
        });
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "a packed layer stays until the next start");
            }
            _ => {}
        }
        let (layer, blob) = sent?;
        self.name(blob);
        Ok(layer)
    }

    fn pack(&self, dir: BorrowedFd<'_>, form: Form, path: &Path) -> Result<Layer> {
        let cannot = |error| failed("write", path, error);
        let file = File::options().write(true).create_new(true).open(path).map_err(cannot)?;
        let counted = Counted::new(BufWriter::new(file));
        let (compression, level) = self.export.packing;
        let mut packer = compress(counted, compression, level).map_err(cannot)?;
        let written = write_tar(dir, &mut packer, &WriteOptions { form, ..WriteOptions::default() });
        self.tools.cancel.check()?;
        let written = written.map_err(|error| Error::wrap("cannot export a layer", error))?;
        let counted = packer.finish().map_err(cannot)?;
        counted.sink.into_inner().map_err(|error| cannot(error.into_error()))?;
        let (diff_id, tar) = (written.diff_id, written.size);
        Ok(Layer { diff_id, blob: counted.hasher.finish(), size: counted.size, tar: Some(tar) })
    }

    fn name(&mut self, blob: Descriptor) {
        if self.blobs.iter().all(|other| other.digest != blob.digest) {
            self.blobs.push(blob);
        }
    }

    /// The config, then ● the manifest under its name.
    fn finish(mut self, config: &Config) -> Result<()> {
        let bytes = json(config)?;
        let config = Descriptor::of(MEDIA_TYPE, &bytes);
        if !self.store.has(&config)? {
            let room = self.store.room().unwrap_or(self.tools.scratch);
            let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(room)?;
            std::io::Write::write_all(&mut file, &bytes)?;
            let path = file.into_temp_path();
            self.store.put(&config, &path)?;
        }
        // The same cache gives the same bytes, whatever the order of steps that ran beside one another.
        self.blobs.sort_by_key(|blob| blob.digest);
        let manifest = Manifest {
            schema_version: 2,
            media_type: MediaType::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers: self.blobs,
            subject: None,
            annotations: Map::new(),
        };
        let bytes = json(&manifest)?;
        self.tools.cancel.check()?;
        let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &bytes);
        self.store.publish(&descriptor, &bytes).map_err(|error| match error.class() {
            Class::NotFound => Error::precondition("the build cache was not taken").caused_by(error),
            _ => error,
        })
    }
}
