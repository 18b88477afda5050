//! Builds whose client or frontend made the graph: from what came over the wire to what the build engine does.

use crate::builds::Build;
use crate::calls::Loaded;
use crate::context::{Fetched, Source, Transfer, noted};
use crate::frontend::Options;
use crate::grpc::{Code, Status};
use crate::llb::{Assembly, Local, Surroundings};
use crate::proto::{Definition as Wire, Range, SourceInfo};
use crate::session::Session;
use crate::sync::{Folder, Limits, Wanted, receive};
use prost::Message;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError};
use yare_build::context::{ContextTree, Contexts};
use yare_build::definition::{Definition, Goal};
use yare_dockerfile::ignore::Ignore;
use yare_errdefs::{Error, Result};
use yare_oci::{ImageConfig, Platform, Reference};

/// File systems that a client wants, as graphs.
#[derive(Debug, Default)]
pub(crate) struct Graphs {
    pub(crate) all: Vec<Graph>,
    /// Images that are here for the graphs: results of this engine's own frontend by the identifier of their
    /// source, images of the client's layouts by the digest of their operation.
    pub(crate) results: BTreeMap<String, Reference>,
    /// Graphs that were in files, by the digests of the operations that they stand for.
    pub(crate) contained: BTreeMap<String, Wire>,
    /// What holds those.
    pub(crate) _on: Vec<Arc<Loaded>>,
}

/// One of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graph {
    pub(crate) wire: Wire,
    /// The config of the image, as its frontend has it.
    pub(crate) config: Option<Box<ImageConfig>>,
    /// What it is for; the host without one.
    pub(crate) platform: Option<Platform>,
}

/// What the build engine takes.
pub(crate) struct Assembled {
    pub(crate) definition: Definition,
    pub(crate) locals: BTreeMap<String, Local>,
    /// Operations that count as done when this is.
    pub(crate) fresh: HashSet<String>,
}

impl Graphs {
    /// Bytes of them all.
    pub(crate) fn size(&self) -> usize {
        let all = self.all.iter().map(|graph| &graph.wire);
        all.chain(self.contained.values()).map(Wire::encoded_len).sum()
    }

    /// The empty file system.
    pub(crate) fn empty() -> Self {
        Self::of(Wire::default(), BTreeMap::new())
    }

    /// A single one.
    pub(crate) fn of(wire: Wire, results: BTreeMap<String, Reference>) -> Self {
        Self { all: vec![Graph { wire, ..Graph::default() }], results, ..Self::default() }
    }

    /// Reads them.
    ///
    /// # Errors
    /// One of them is not understood.
    pub(crate) fn assemble(&self, build: &Build) -> Result<Assembled> {
        let done = build.done.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (results, contained) = (self.results.clone(), self.contained.clone());
        let mut assembly = Assembly::new(Surroundings { results, contained, done });
        let mut goals = Vec::new();
        for graph in &self.all {
            let root = assembly.add(&graph.wire)?;
            let platform = graph.platform.clone().unwrap_or_else(Platform::host);
            goals.push(Goal { root, config: graph.config.clone(), platform });
        }
        let Assembly { mut definition, locals, fresh, .. } = assembly;
        definition.goals = goals;
        Ok(Assembled { definition, locals, fresh })
    }
}

impl Graphs {
    /// The places in files that an operation is of, each with its file.
    pub(crate) fn origins(&self, digest: &str) -> Vec<(&SourceInfo, &[Range])> {
        let mut found = Vec::new();
        for origins in self.all.iter().filter_map(|graph| graph.wire.source.as_ref()) {
            let places =
                origins.locations.get(digest).map(|all| all.locations.as_slice()).unwrap_or_default();
            for place in places {
                let file = usize::try_from(place.file).ok().and_then(|file| origins.files.get(file));
                found.extend(file.map(|file| (file, place.ranges.as_slice())));
            }
        }
        found
    }
}

/// The graphs of a frontend's result, with what its metadata says of each.
///
/// # Errors
/// The metadata is not what it should be.
pub(crate) fn described(
    refs: Vec<(String, Wire)>,
    metadata: &BTreeMap<String, Vec<u8>>,
) -> Result<Vec<Graph>> {
    let platforms = platforms(metadata)?;
    let only = refs.len() == 1;
    let mut graphs = Vec::new();
    for (id, wire) in refs {
        let own = metadata.get(&format!("containerimage.config/{id}"));
        let config = own.or_else(|| metadata.get("containerimage.config").filter(|_| only));
        let config = config.filter(|config| !config.is_empty()).map(|config| {
            serde_json::from_slice::<Box<ImageConfig>>(config).map_err(|error| {
                Error::invalid("the frontend's result has an image config that cannot be read")
                    .caused_by(error)
            })
        });
        graphs.push(Graph { wire, config: config.transpose()?, platform: platforms.get(&id).cloned() });
    }
    Ok(graphs)
}

/// What the metadata `refs.platforms` says.
fn platforms(metadata: &BTreeMap<String, Vec<u8>>) -> Result<BTreeMap<String, Platform>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Row {
        #[serde(rename = "ID")]
        id: String,
        platform: Platform,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Table {
        platforms: Vec<Row>,
    }
    let Some(text) = metadata.get("refs.platforms") else { return Ok(BTreeMap::new()) };
    let table: Table = serde_json::from_slice(text).map_err(|error| {
        Error::invalid("the frontend's result has a list of platforms that cannot be read").caused_by(error)
    })?;
    Ok(table.platforms.into_iter().map(|row| (row.id, row.platform)).collect())
}

/// The options of a graph's build that come with it.
pub(crate) fn options(options: &Options) -> Options {
    let prefixes = ["local-sessionid:", "attest:"];
    let counts = |name: &str| {
        name == "build-arg:SOURCE_DATE_EPOCH" || prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let kept = options.iter().filter(|(name, _)| counts(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The folders of a client that a graph names.
pub(crate) struct LocalContexts<'a> {
    source: &'a Source,
    locals: &'a BTreeMap<String, Local>,
    open: Fetched,
}

impl<'a> LocalContexts<'a> {
    pub(crate) fn new(source: &'a Source, locals: &'a BTreeMap<String, Local>) -> Self {
        Self { source, locals, open: Fetched::default() }
    }

    /// The session that has a folder: the build's own, or one that the client named for it.
    fn session(&self, local: &Local) -> Result<&Session> {
        let source = self.source;
        if local.session.is_empty() || local.session == source.link.session.offer.id {
            return Ok(source.session(&local.dir));
        }
        source.session_of(&local.session, &format!("the folder {}", local.dir))
    }

    fn fetch(&self, local: &Local) -> Result<(ContextTree, Folder)> {
        let source = self.source;
        let session = self.session(local)?;
        let ignore = hidden(local, &local.include)?;
        let work = source.progress.work(&format!("[internal] load local source {}", local.dir));
        let fetch = |work: &yare_build::progress::Work| {
            let shared = &session.offer.shared_key;
            let key = match shared.as_str() {
                "" => String::new(),
                shared => format!(
                    "{}\0{shared}\0{:?}{:?}{:?}",
                    local.dir, local.include, local.exclude, local.follow
                ),
            };
            let folder = source.folders.take(&key)?;
            let mut tree = folder.tree()?;
            let wanted = Wanted {
                dir: local.dir.clone(),
                include: local.include.clone(),
                follow: local.follow.clone(),
                exclude: local.exclude.clone(),
            };
            let mut transfer = Transfer::new(&source.progress, work, &local.dir);
            let progress = &mut |bytes| transfer.at(bytes);
            let received = receive(session, &wanted, &mut tree, Limits::default(), progress);
            let received = source.link.wait(received)?;
            transfer.done(received.bytes);
            let root = Arc::new(tree.into_root());
            Ok((ContextTree { root, ignore, lasting: folder.lasting() }, folder))
        };
        noted(work, fetch)
    }
}

/// What is not seen of a folder of which only this is wanted.
fn hidden(local: &Local, include: &[String]) -> Result<Option<Arc<Ignore>>> {
    match crate::llb::left_out(include, &local.exclude).as_slice() {
        [] => Ok(None),
        patterns => {
            let patterns = Ignore::from_patterns(patterns.iter().map(String::as_str));
            let bad = |error| Error::invalid(format!("local://{}: {error}", local.dir));
            Ok(Some(Arc::new(patterns.map_err(bad)?)))
        }
    }
}

/// A folder that is here, as a client would send it. Links of the paths that are followed are not.
fn seen(tree: &ContextTree, local: &Local) -> Result<ContextTree> {
    let include = if local.include.is_empty() { &local.follow } else { &local.include };
    Ok(ContextTree { ignore: hidden(local, include)?, ..tree.clone() })
}

impl Contexts for LocalContexts<'_> {
    fn open(&self, name: &str) -> Result<ContextTree> {
        let local = self
            .locals
            .get(name)
            .ok_or_else(|| Error::internal("a graph has a folder that it does not name"))?;
        if let Some(here) = &self.source.local {
            return seen(&here.contexts.open(&local.dir)?, local);
        }
        self.open.get(name, || self.fetch(local))
    }

    fn ignore(&self) -> Option<Arc<Ignore>> {
        None
    }
}

/// A graph that is refused says why before anything is done.
pub(crate) fn check(graphs: &Graphs, build: &Build) -> Result<(), Status> {
    let assembled = graphs.assemble(build).map_err(Status::from)?;
    match assembled.definition.goals.is_empty() {
        true => Err(Status::new(Code::InvalidArgument, "a build without anything to build")),
        false => Ok(()),
    }
}
