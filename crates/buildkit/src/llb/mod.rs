//! Graphs of operations as clients send them (LLB), made the build engine's own. Pure.
//!
//! An operation is known by the digest of its bytes, and so are its inputs: a graph without holes has no
//! cycle. What is not understood is refused before anything is done.

pub(crate) mod caps;
mod exec;
mod file;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use file::left_out;
pub(crate) use source::{Local, image, layout, platform};

use crate::layout::LayoutImage;
use crate::proto::Definition as Wire;
use crate::proto::graph::{DiffOp, Input, MergeOp, Op};
use prost::Message;
use std::collections::{BTreeMap, HashMap, HashSet};
use yare_build::definition::{Definition, Does, Node};
use yare_build::graph::{DiffOp as Diff, Op as Vertex, VertexId};
use yare_errdefs::{Error, Result};
use yare_oci::{Digest, Platform, Reference};

/// Most operations of a graph.
const MOST: usize = 20_000;
/// Most inputs, mounts or actions of an operation.
const MOST_PARTS: usize = 1000;

/// What a graph may refer to outside of itself.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// Images that are here for the graph, as [`crate::graphs::Graphs`] has them.
    pub(crate) results: BTreeMap<String, Reference>,
    /// Graphs that were in files, by the digests of the operations that they stand for.
    pub(crate) contained: BTreeMap<String, Wire>,
    /// Operations whose cache counts again, since this build did them.
    pub(crate) done: HashSet<String>,
}

/// Graphs being made one definition.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    pub(crate) definition: Definition,
    /// The client's folders, by the name of their context.
    pub(crate) locals: BTreeMap<String, Local>,
    /// Operations that are to be done whatever the cache has.
    pub(crate) fresh: HashSet<String>,
    surroundings: Surroundings,
    /// Outputs of operations that are in the definition.
    known: HashMap<String, BTreeMap<i64, VertexId>>,
    /// Which vertices are nothing but a folder of the client, by context.
    folders: HashMap<VertexId, String>,
    scratch: Option<VertexId>,
}

/// An operation under way, with what a client says of it.
struct Operation<'a> {
    digest: &'a str,
    op: Op,
    name: Option<String>,
    no_cache: bool,
    /// What it stands on, in the order of its inputs.
    inputs: Vec<VertexId>,
}

/// A graph by the digests of its operations.
type Table<'a> = HashMap<String, &'a [u8]>;

impl Assembly {
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        Self { surroundings, ..Self::default() }
    }

    /// Adds a graph and gives the vertex that it stands for. An empty one is the empty file system.
    ///
    /// # Errors
    /// It has holes, is too large, or asks for something that is not understood.
    pub(crate) fn add(&mut self, wire: &Wire) -> Result<VertexId> {
        let Some((last, operations)) = wire.def.split_last() else { return Ok(self.scratch()) };
        if operations.len() > MOST {
            let text = format!("a graph of {} operations is too large: {MOST} is the most", operations.len());
            return Err(Error::invalid(text));
        }
        let table: Table<'_> =
            operations.iter().map(|bytes| (Digest::of(bytes).to_string(), bytes.as_slice())).collect();
        let root = decode(last, "the last operation")?;
        let [root] = root.inputs.as_slice() else {
            return Err(Error::invalid("invalid definition: its last operation must have one input"));
        };
        self.walk(&root.digest, &table, wire)?;
        self.output(&root.digest, root.index)
    }

    /// Adds an operation and everything that it stands on, that first.
    fn walk(&mut self, root: &str, table: &Table<'_>, wire: &Wire) -> Result<()> {
        let mut open = vec![(root.to_owned(), None::<Op>)];
        while let Some((digest, op)) = open.pop() {
            if self.known.contains_key(&digest) {
                continue;
            }
            let Some(op) = op else {
                let bytes = table.get(&digest).ok_or_else(|| {
                    Error::invalid(format!(
                        "invalid definition: the operation {digest} is needed and not there"
                    ))
                })?;
                let op = decode(bytes, &digest)?;
                check_size(&op)?;
                let inputs: Vec<_> = op.inputs.iter().map(|input| (input.digest.clone(), None)).collect();
                open.push((digest, Some(op)));
                open.extend(inputs);
                continue;
            };
            let inputs = op
                .inputs
                .iter()
                .map(|input| self.output(&input.digest, input.index))
                .collect::<Result<Vec<_>>>()?;
            let about = wire.metadata.get(&digest);
            caps::check(about.iter().flat_map(|about| about.caps.keys()))?;
            let name = about.and_then(|about| about.description.get("llb.customname")).cloned();
            let asked = about.is_some_and(|about| about.ignore_cache);
            if asked {
                self.fresh.insert(digest.clone());
            }
            let no_cache = asked && !self.surroundings.done.contains(&digest);
            let outputs = self.operation(Operation { digest: &digest, op, name, no_cache, inputs })?;
            self.known.insert(digest, outputs);
        }
        Ok(())
    }

    /// The vertex of an output of an operation that was added.
    fn output(&self, digest: &str, index: i64) -> Result<VertexId> {
        let outputs = self.known.get(digest).ok_or_else(|| {
            Error::invalid(format!("invalid definition: the operation {digest} is needed and not there"))
        })?;
        outputs.get(&index).copied().ok_or_else(|| {
            Error::invalid(format!("invalid definition: the operation {digest} has no output {index}"))
        })
    }

    fn operation(&mut self, operation: Operation<'_>) -> Result<BTreeMap<i64, VertexId>> {
        let op = &operation.op;
        if let Some(source) = &op.source {
            let vertex = self.source(&operation, source)?;
            return Ok([(0, vertex)].into());
        }
        if let Some(exec) = &op.exec {
            return self.exec(&operation, exec);
        }
        if let Some(file) = &op.file {
            return self.file(&operation, file);
        }
        let vertex = match (&op.merge, &op.diff, &op.build) {
            (Some(merge), _, _) => self.merge(&operation, merge)?,
            (_, Some(diff), _) => self.diff(&operation, diff)?,
            (_, _, Some(_)) => self.contained(&operation)?,
            _ => {
                let what = match &op.passthrough {
                    Some(_) => "an operation that passes its inputs on",
                    None => "an operation of an unknown kind",
                };
                return Err(Error::unimplemented(format!("{what} is not built into this Yare yet")));
            }
        };
        Ok([(0, vertex)].into())
    }

    fn merge(&mut self, operation: &Operation<'_>, merge: &MergeOp) -> Result<VertexId> {
        let inputs = merge.inputs.iter().map(|place| self.input(operation, place.input));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        Ok(self.push(operation, "merge", Vertex::Merge(inputs)))
    }

    fn diff(&mut self, operation: &Operation<'_>, diff: &DiffOp) -> Result<VertexId> {
        let place = |place: Option<crate::proto::graph::Place>| place.map_or(-1, |place| place.input);
        let lower = self.input(operation, place(diff.lower))?;
        let upper = self.input(operation, place(diff.upper))?;
        Ok(self.push(operation, "diff", Vertex::Diff(Diff { lower, upper })))
    }

    /// A graph that was in a file.
    fn contained(&mut self, operation: &Operation<'_>) -> Result<VertexId> {
        let wire = self.surroundings.contained.get(operation.digest).cloned();
        let wire = wire.ok_or_else(|| Error::internal("a graph that is in a file was not read"))?;
        self.add(&wire)
    }

    /// The vertex at a place among the inputs; -1 is the empty file system.
    fn input(&mut self, operation: &Operation<'_>, place: i64) -> Result<VertexId> {
        if place == -1 {
            return Ok(self.scratch());
        }
        let found = usize::try_from(place).ok().and_then(|place| operation.inputs.get(place));
        found.copied().ok_or_else(|| {
            Error::invalid(format!(
                "invalid definition: the operation {} has no input {place}",
                operation.digest
            ))
        })
    }

    /// The empty file system.
    fn scratch(&mut self) -> VertexId {
        if let Some(vertex) = self.scratch {
            return vertex;
        }
        let vertex = self.definition.add(Node {
            does: Does::Op(Vertex::Scratch),
            name: "scratch".to_owned(),
            digest: Digest::of("scratch").to_string(),
            no_cache: false,
        });
        *self.scratch.insert(vertex)
    }

    /// Adds a vertex that is what an operation does, or a part of it.
    fn push(&mut self, operation: &Operation<'_>, name: &str, does: Vertex) -> VertexId {
        self.push_node(operation, name, Does::Op(does))
    }

    fn push_node(&mut self, operation: &Operation<'_>, name: &str, does: Does) -> VertexId {
        self.definition.add(Node {
            does,
            name: operation.name.clone().unwrap_or_else(|| name.to_owned()),
            digest: operation.digest.to_owned(),
            no_cache: operation.no_cache,
        })
    }
}

/// The identifiers of sources that are results of this engine's own frontend.
pub(crate) fn results(wire: &Wire) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for bytes in wire.def.iter().take(MOST) {
        let source = decode(bytes, "an operation")?.source;
        let identifier = source.map(|source| source.identifier);
        found.extend(identifier.filter(|identifier| identifier.starts_with(crate::inputs::SCHEME)));
    }
    Ok(found)
}

/// A graph that is in a file (`BuildOp`).
pub(crate) struct Contained {
    /// The digest of the operation that it stands for.
    pub(crate) operation: String,
    /// The graph of the file system that the file is in.
    pub(crate) holder: Wire,
    pub(crate) file: String,
}

/// The graphs in files that a graph needs.
pub(crate) fn contained(wire: &Wire) -> Result<Vec<Contained>> {
    const FILE: &str = "buildkit.llb.definition";
    let bad = |what: &str| Error::invalid(format!("invalid definition: a graph in a file {what}"));
    let Some(last) = wire.def.last() else { return Ok(Vec::new()) };
    let Some(root) = decode(last, "the last operation")?.inputs.into_iter().next() else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    // What nobody needs is not read.
    for bytes in part(wire, &root)?.def.iter().take(MOST) {
        let op = decode(bytes, "an operation")?;
        let Some(build) = &op.build else { continue };
        if build.builder != crate::proto::graph::BUILDER {
            return Err(bad("that another builder shall build"));
        }
        let place = build.inputs.get(FILE).ok_or_else(|| bad("without an input"))?.input;
        let input = usize::try_from(place).ok().and_then(|place| op.inputs.get(place));
        let holder = part(wire, input.ok_or_else(|| bad("without an input"))?)?;
        let file = build.attributes.get("llbbuild.filename").cloned().unwrap_or_else(|| FILE.to_owned());
        found.push(Contained { operation: Digest::of(bytes).to_string(), holder, file });
    }
    Ok(found)
}

/// The part of a graph that an output stands on.
fn part(wire: &Wire, root: &Input) -> Result<Wire> {
    let table: Table<'_> =
        wire.def.iter().map(|bytes| (Digest::of(bytes).to_string(), bytes.as_slice())).collect();
    let mut open = vec![root.digest.clone()];
    let mut needed = HashSet::new();
    while let Some(digest) = open.pop() {
        if let Some(bytes) = table.get(&digest)
            && needed.insert(digest.clone())
        {
            open.extend(decode(bytes, &digest)?.inputs.into_iter().map(|input| input.digest));
        }
    }
    let is_needed = |bytes: &&Vec<u8>| needed.contains(&Digest::of(bytes).to_string());
    let mut def: Vec<Vec<u8>> = wire.def.iter().filter(is_needed).cloned().collect();
    def.push(Op { inputs: vec![root.clone()], ..Op::default() }.encode_to_vec());
    let metadata = wire.metadata.iter().filter(|(digest, _)| needed.contains(*digest));
    let metadata = metadata.map(|(digest, about)| (digest.clone(), about.clone())).collect();
    Ok(Wire { def, metadata, source: wire.source.clone() })
}

/// An image in a client's layout that a graph stands on.
pub(crate) struct Layout {
    /// The digest of its operation.
    pub(crate) operation: String,
    pub(crate) image: LayoutImage,
    pub(crate) platform: Platform,
}

/// The images in clients' layouts that a graph stands on.
pub(crate) fn layouts(wire: &Wire) -> Result<Vec<Layout>> {
    let mut found = Vec::new();
    for bytes in wire.def.iter().take(MOST) {
        let op = decode(bytes, "an operation")?;
        if let Some(source) = &op.source
            && let Some(image) = source::layout(source)?
        {
            let platform = op.platform.as_ref().map_or_else(Platform::host, platform);
            found.push(Layout { operation: Digest::of(bytes).to_string(), image, platform });
        }
    }
    Ok(found)
}

fn decode(bytes: &[u8], name: &str) -> Result<Op> {
    Op::decode(bytes).map_err(|error| {
        Error::invalid(format!("invalid definition: {name} cannot be read")).caused_by(error)
    })
}

/// An operation is small, whatever the graph is.
fn check_size(op: &Op) -> Result<()> {
    let mounts = op.exec.as_ref().map_or(0, |exec| exec.mounts.len());
    let actions = op.file.as_ref().map_or(0, |file| file.actions.len());
    let merged = op.merge.as_ref().map_or(0, |merge| merge.inputs.len());
    if [op.inputs.len(), mounts, actions, merged].into_iter().any(|count| count > MOST_PARTS) {
        let text = format!("an operation has too many inputs, mounts or actions: {MOST_PARTS} is the most");
        return Err(Error::invalid(text));
    }
    Ok(())
}
