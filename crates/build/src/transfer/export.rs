//! Writing a cache.

use super::{Config, Entry, Inline, Layer, MEDIA_TYPE, Map, VERSION, attribute, check, unbuilt};
use crate::graph::{Graph, VertexId};
use crate::lower::Target;
use crate::output::blobs::Counted;
use crate::output::layout::{layer_type, manifest};
use crate::solve::{Outcome, Tools};
use crate::{Error, Result, export};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use yare_layer::{Compression, Form, WriteOptions, compress, write_tar};
use yare_oci::{Descriptor, DiffId, Digest, Index, MediaType};
use yare_snapshot::DraftId;
use yare_sys::fs::{Durability, atomic_write};

/// One `--cache-to`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Export {
    Inline,
    Local { dest: PathBuf, tag: String, all: bool, packing: (Compression, Option<u32>) },
}

/// Annotation of a manifest in an index: its tag.
pub(super) const TAG: &str = "org.opencontainers.image.ref.name";

impl Export {
    /// Reads the attributes.
    ///
    /// # Errors
    /// They are malformed, or name a kind of cache that is not here.
    pub(crate) fn of(attributes: &Map) -> Result<Self> {
        let kind = attribute(attributes, "type").unwrap_or_default();
        if kind == "inline" {
            check("--cache-to", attributes, &["mode"])?;
            return Ok(Self::Inline);
        }
        if kind != "local" {
            return Err(unbuilt("--cache-to", kind));
        }
        let known = ["dest", "mode", "tag", "compression", "compression-level", "force-compression"];
        check("--cache-to", attributes, &[&known[..], &["oci-mediatypes", "image-manifest"]].concat())?;
        let dest = attribute(attributes, "dest")
            .ok_or_else(|| Error::invalid("--cache-to type=local needs dest=DIR"))?;
        let all = match attribute(attributes, "mode").unwrap_or("min") {
            "min" => false,
            "max" => true,
            other => return Err(Error::invalid(format!("invalid mode {other:?} of --cache-to: min or max"))),
        };
        // The same words as for an output, and the same rules.
        let words = ["compression", "compression-level"].into_iter();
        let words = words.filter_map(|name| Some((name.to_owned(), attributes.get(name)?.clone())));
        let mut words: Map = words.collect();
        words.entry("compression".to_owned()).or_insert_with(|| "zstd".to_owned());
        let packing = crate::output::Request::parse("oci", &words)?.packing;
        Ok(Self::Local {
            dest: dest.into(),
            tag: attribute(attributes, "tag").unwrap_or("latest").to_owned(),
            all,
            packing: (packing.compression, packing.level),
        })
    }

    /// Writes the results of a build.
    pub(crate) fn write(
        &self,
        (graph, targets, needed): (&Graph, &[Target], &[VertexId]),
        outcomes: &BTreeMap<VertexId, Outcome>,
        tools: &Tools<'_>,
    ) -> Result<()> {
        let Self::Local { dest, tag, all, packing } = self else { return Ok(()) };
        let chain = export::layer_vertices(graph, targets);
        let wanted = needed.iter().filter(|id| *all || chain.contains(id));
        let outcomes = wanted.filter_map(|id| outcomes.get(id));
        let folder = Folder { path: dest, packing: *packing, tools };
        folder.prepare()?;
        let known = folder.known(tag);
        let mut config = Config { version: VERSION, steps: Vec::new() };
        let mut seen = HashSet::new();
        for outcome in outcomes {
            // Sources that cost nothing have no row, and need none.
            let Some(step) = tools.cache.look(&outcome.key).filter(|_| seen.insert(outcome.key)) else {
                continue;
            };
            let layer = step.draft.as_ref().map(|draft| folder.layer(draft, &known)).transpose()?;
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
        folder.finish(&config, tag)
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

struct Folder<'a> {
    path: &'a Path,
    packing: (Compression, Option<u32>),
    tools: &'a Tools<'a>,
}

impl Folder<'_> {
    fn blobs(&self) -> PathBuf {
        self.path.join("blobs/sha256")
    }

    fn prepare(&self) -> Result<()> {
        std::fs::create_dir_all(self.blobs()).map_err(|error| failed("make", &self.blobs(), error))?;
        self.put(self.path, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    fn put(&self, folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        atomic_write(folder, name, bytes, Durability::Relaxed)
            .map_err(|error| failed("write", &folder.join(name), error))
    }

    /// Blobs that an earlier export left under this tag, by what they hold.
    fn known(&self, tag: &str) -> BTreeMap<DiffId, Layer> {
        let read = super::import::read_folder(self.path, tag, None).unwrap_or_default();
        let layers = read.steps.into_iter().filter_map(|step| step.layer);
        let there = |layer: &Layer| {
            let found = std::fs::metadata(self.blobs().join(layer.blob.hex()));
            found.is_ok_and(|found| found.len() == layer.size)
        };
        layers.filter(there).map(|layer| (layer.diff_id, layer)).collect()
    }

    fn layer(&self, draft: &DraftId, known: &BTreeMap<DiffId, Layer>) -> Result<Layer> {
        let snapshots = self.tools.snapshots;
        if snapshots.is_hashed(draft) {
            let info =
                snapshots.hash_draft(draft).map_err(|error| Error::wrap("cannot export a layer", error))?;
            if let Some(layer) = known.get(&info.diff_id) {
                return Ok(layer.clone());
            }
        }
        let temporary = self.blobs().join(yare_sys::fs::unique_name(".unfinished-"));
        let packed = self.pack(draft, &temporary);
        let layer = packed.inspect_err(|_| {
            // Nobody looks for it.
            let _ = std::fs::remove_file(&temporary);
        })?;
        let place = self.blobs().join(layer.blob.hex());
        std::fs::rename(&temporary, &place).map_err(|error| failed("write", &place, error))?;
        Ok(layer)
    }

    fn pack(&self, draft: &DraftId, path: &Path) -> Result<Layer> {
        let cannot = |error| failed("write", path, error);
        let file = File::options().write(true).create_new(true).open(path).map_err(cannot)?;
        let counted = Counted::new(BufWriter::new(file));
        let mut packer = compress(counted, self.packing.0, self.packing.1).map_err(cannot)?;
        let dir = yare_sys::fs::open_dir(self.tools.snapshots.draft_dir(draft))?;
        let options = WriteOptions { form: Form::Overlay, root: false };
        let written = write_tar(dir.as_fd(), &mut packer, &options);
        self.tools.cancel.check()?;
        let written = written.map_err(|error| Error::wrap("cannot export a layer", error))?;
        let counted = packer.finish().map_err(cannot)?;
        counted.sink.into_inner().map_err(|error| cannot(error.into_error()))?;
        let (diff_id, tar) = (written.diff_id, written.size);
        Ok(Layer { diff_id, blob: counted.hasher.finish(), size: counted.size, tar })
    }

    /// ● The index is the commit point: until it names the manifest, the folder holds what it held.
    fn finish(&self, config: &Config, tag: &str) -> Result<()> {
        let config_bytes = json(config)?;
        let media_type = layer_type(self.packing.0)?;
        let layers = config.steps.iter().filter_map(|step| step.layer.as_ref());
        let layers = layers.map(|layer| Descriptor::new(media_type, layer.blob, layer.size)).collect();
        let mut document = manifest(&config_bytes, layers, Map::new())?;
        // The config is no image's.
        let mut parsed: yare_oci::Manifest = serde_json::from_slice(&document.bytes)
            .map_err(|error| Error::internal("cannot write a manifest as JSON").caused_by(error))?;
        parsed.config.media_type = MEDIA_TYPE.to_owned();
        document.bytes = json(&parsed)?;
        document.descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &document.bytes);
        self.put(&self.blobs(), &Digest::of(&config_bytes).hex(), &config_bytes)?;
        self.put(&self.blobs(), &document.descriptor.digest.hex(), &document.bytes)?;
        let mut descriptor = document.descriptor;
        descriptor.annotations.insert(TAG.to_owned(), tag.to_owned());
        let others = std::fs::read(self.path.join("index.json")).ok();
        let others = others.and_then(|bytes| serde_json::from_slice::<Index>(&bytes).ok());
        let mut manifests = others.map(|index| index.manifests).unwrap_or_default();
        manifests.retain(|other| other.annotations.get(TAG).is_some_and(|other| other != tag));
        manifests.push(descriptor);
        let media_type = MediaType::OCI_INDEX.to_owned();
        let index = Index { schema_version: 2, media_type, manifests, annotations: Map::new() };
        self.put(self.path, "index.json", &json(&index)?)
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::internal("cannot write the build cache as JSON").caused_by(error))
}

fn failed(operation: &str, path: &Path, error: io::Error) -> Error {
    Error::new(yare_errdefs::class_of_io(&error), format!("cannot {operation} {}", path.display()))
        .caused_by(error)
}
