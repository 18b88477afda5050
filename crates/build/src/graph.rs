//! The graph of a build: vertices that make file systems, and what they need.
//!
//! Vertices are in the order of the Dockerfile, and each refers to earlier ones only: the order is
//! topological, and there can be no cycle.

use crate::source::git::GitKeys;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
pub use yare_dockerfile::instruction::Sharing;
use yare_oci::{DiffId, Digest, Platform};

/// Names a vertex of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexId(pub(crate) usize);

/// A step, or a source of one.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// For people: `[build 2/5] RUN make`.
    pub name: String,
    /// The line of the Dockerfile that asks for it, from 1; 0 when none does.
    pub line: u32,
    /// Whether its cache does not count.
    pub no_cache: bool,
    /// The time that files it makes get, seconds since 1970.
    pub epoch: i64,
}

/// What a vertex does.
#[derive(Debug, Clone)]
pub enum Op {
    /// An empty file system.
    Scratch,
    /// The layers of an image that is in the store.
    Image(Vec<DiffId>),
    /// Files of a context, a git repository or a URL, as a file system of their own.
    Fetch(FetchOp),
    /// Files from somewhere into a file system.
    Copy(CopyOp),
    /// A directory that is made unless it is there.
    MakeDir(MakeDirOp),
    /// A process.
    Run(Box<RunOp>),
    /// What a process left in a mount that is kept.
    Output(OutputOp),
    /// One change of files.
    Edit(EditOp),
    /// File systems laid one above the other.
    Merge(Vec<VertexId>),
    /// What a file system has above another.
    Diff(DiffOp),
}

/// A file system beside the root that a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputOp {
    /// The process.
    pub run: VertexId,
    /// Which of its mounts.
    pub mount: usize,
}

/// What is left of `upper` without `lower`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffOp {
    /// What is taken away.
    pub lower: VertexId,
    /// What it is taken from.
    pub upper: VertexId,
}

/// A change of a few files, as other frontends than the Dockerfile's ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditOp {
    /// The file system.
    pub base: VertexId,
    /// What happens to it; part of the key.
    pub edit: Edit,
    /// Where names of owners are looked up, when not in the base.
    pub names: Option<VertexId>,
}

/// What an edit does. Paths are absolute and clean, owners `user[:group]`, and a time is seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Edit {
    /// A file with this content, in a directory that is there.
    MakeFile {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// The content.
        content: Vec<u8>,
        /// Whose.
        owner: String,
        /// Its time; that of the build without one.
        time: Option<i64>,
    },
    /// A directory.
    MakeDir {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Whether those above it are made too, and one that is there is no error.
        parents: bool,
        /// Whose.
        owner: String,
        /// Its time; that of the build without one.
        time: Option<i64>,
    },
    /// A symbolic link.
    MakeLink {
        /// Where.
        path: String,
        /// Where it leads, as written.
        target: String,
        /// Whose.
        owner: String,
        /// Its time; that of the build without one.
        time: Option<i64>,
    },
    /// A file or a directory with everything in it goes.
    Remove {
        /// Which.
        path: String,
        /// Whether its absence is fine.
        may_lack: bool,
        /// Whether the last names may be patterns.
        wildcard: bool,
    },
}

/// Something from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum FetchOp {
    /// A file from the web.
    Http {
        /// Where it is.
        url: String,
        /// Its name in the file system; empty takes the one that the server or the URL gives.
        name: String,
        /// What it must be.
        checksum: Option<Digest>,
    },
    /// A tree of a git repository.
    Git {
        /// The reference as given.
        remote: String,
        /// Whether `.git` is kept.
        keep_git_dir: bool,
        /// Start of the commit that it must be.
        checksum: Option<String>,
        /// What proves who asks. A commit is the same for whoever may see it.
        #[serde(skip)]
        keys: GitKeys,
    },
}

/// Where files of a copy come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A context by name; the empty name is the main one.
    Context(String),
    /// The file system of another vertex.
    Vertex(VertexId),
    /// Heredocs: name and content.
    Inline(Vec<(String, Vec<u8>)>),
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOp {
    /// The file system that takes the files.
    pub base: VertexId,
    /// Where they come from.
    pub source: CopySource,
    /// What is copied and how; part of the key.
    pub spec: CopyDefinition,
}

/// What decides the result of a copy beside the files themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopyDefinition {
    /// Paths or patterns.
    pub sources: Vec<String>,
    /// Absolute path that takes them; a final slash makes it a directory.
    pub dest: String,
    /// `user[:group]`, names of the base or numbers; `None` leaves files of other stages as they are and
    /// gives those of a context to root.
    pub chown: Option<String>,
    /// Octal or symbolic.
    pub chmod: Option<String>,
    /// Whether the layer is independent of what lies below.
    pub link: bool,
    /// Whether parents of the sources are kept.
    pub parents: bool,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// Whether archives are unpacked.
    pub unpack: bool,
    /// Whether the sources come from a fetched vertex rather than a stage: owners are not kept.
    pub fetched: bool,
    /// Where a copy differs from the Dockerfile's.
    #[serde(skip_serializing_if = "CopyRules::is_dockerfile")]
    pub rules: CopyRules,
}

/// Rules of a copy that are fixed in a Dockerfile. The default is its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopyRules {
    /// Whether a source that is a directory is copied itself, and not what is in it.
    pub whole: bool,
    /// Whether a source that is a link is copied as one.
    pub keep_link: bool,
    /// Whether sources are names and not patterns.
    pub literal: bool,
    /// Whether a pattern must match something.
    pub must_match: bool,
    /// Whether the directory that takes the files must be there.
    pub no_parents: bool,
    /// The time of all that is copied, seconds since 1970.
    pub time: Option<i64>,
}

impl CopyRules {
    /// Whether these are the Dockerfile's.
    pub fn is_dockerfile(&self) -> bool {
        *self == Self::default()
    }
}

/// `WORKDIR`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MakeDirOp {
    /// The file system.
    #[serde(skip)]
    pub base: VertexId,
    /// Absolute and clean.
    pub path: String,
    /// Who owns it: `USER` as it is then.
    pub user: String,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOp {
    /// The file system.
    pub base: VertexId,
    /// What decides the result; part of the key.
    pub spec: RunDefinition,
    /// Proxies: known to the process, not part of the key.
    pub proxies: BTreeMap<String, String>,
    /// What its programs are for; the base says so, too. Boxed, lest every vertex be as large.
    pub platform: Box<Platform>,
}

/// What decides the result of a process beside the file systems it sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunDefinition {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Absolute.
    pub cwd: String,
    /// `user[:group]`.
    pub user: String,
    /// `default`, `none`, `host`.
    pub network: String,
    /// Whether it has every right.
    pub insecure: bool,
    /// Devices: those it asks for, and when the graph is whole, those that it gets.
    pub devices: Vec<RunDevice>,
    /// Host name.
    pub hostname: String,
    /// `host:address` each.
    pub extra_hosts: Vec<String>,
    /// Bytes of `/dev/shm`, 0 for the default.
    pub shm_size: i64,
    /// Heredocs that become files: path and content.
    pub files: Vec<(String, String)>,
    /// What is mounted.
    pub mounts: Vec<RunMount>,
    /// Whether the root cannot be written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Exit codes that are no failure; without any, 0 alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub valid_codes: Vec<i32>,
    /// Limits of its own, which go before those of the build.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// Its cgroup's parent, where it is not the build's; decides nothing.
    #[serde(skip)]
    pub cgroup_parent: String,
}

/// How much of something a process may have; -1 is any amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ulimit {
    /// Of what: `nofile`.
    pub name: String,
    /// What it has.
    pub soft: i64,
    /// How far it may raise that.
    pub hard: i64,
}

/// A device of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunDevice {
    /// `vendor/class=name`; a name that is asked for may also be `*`, a class of devices, or lack.
    pub name: String,
    /// Whether its absence is fine.
    pub optional: bool,
}

/// One mount of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunMount {
    /// Absolute path in the process's file system; empty for a secret that is only a variable.
    pub target: String,
    /// What it is.
    pub kind: MountKind,
}

/// Kind of mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum MountKind {
    /// Files of another file system, read-only or thrown away afterwards.
    Bind {
        /// Whose; its content is in the key, not its number.
        #[serde(skip)]
        from: VertexId,
        /// Path in it.
        source: String,
        /// Whether it may be written; what is written is lost.
        writable: bool,
    },
    /// A file system that is kept afterwards with what was written ([`Op::Output`]).
    Kept {
        /// What it begins with; its content is in the key, not its number.
        #[serde(skip)]
        from: VertexId,
    },
    /// A directory that outlives the build.
    Cache {
        /// Names it.
        id: String,
        /// What an empty one begins with.
        #[serde(skip)]
        from: Option<VertexId>,
        /// Path in that.
        source: String,
        /// Whether it may not be written.
        read_only: bool,
        /// Who else may use it at the same time.
        sharing: Sharing,
        /// Mode of a new one.
        mode: u32,
        /// Owner of a new one.
        uid: u32,
        /// Group of a new one.
        gid: u32,
    },
    /// Memory.
    Tmpfs {
        /// Bytes, 0 for no limit.
        size: u64,
    },
    /// A secret, as a file or a variable or both.
    Secret {
        /// Names it.
        id: String,
        /// The variable; empty for none.
        env: String,
        /// Whether its absence is an error.
        required: bool,
        /// Mode of the file.
        mode: u32,
        /// Owner of the file.
        uid: u32,
        /// Group of the file.
        gid: u32,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Names it.
        id: String,
        /// Whether its absence is an error.
        required: bool,
        /// Mode of the socket.
        mode: u32,
        /// Owner of the socket.
        uid: u32,
        /// Group of the socket.
        gid: u32,
    },
}

/// Everything that one build may have to do.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    vertices: Vec<Vertex>,
    /// What makes vertices known to clients; without it, their number.
    digests: BTreeMap<VertexId, String>,
}

impl Graph {
    /// Adds a vertex; it refers to those added before.
    pub fn add(&mut self, vertex: Vertex) -> VertexId {
        self.vertices.push(vertex);
        VertexId(self.vertices.len() - 1)
    }

    /// Gives a vertex the digest that its client knows it by.
    pub fn know(&mut self, id: VertexId, digest: String) {
        self.digests.insert(id, digest);
    }

    /// The digest that a vertex's client knows it by.
    pub fn known(&self, id: VertexId) -> Option<&str> {
        self.digests.get(&id).map(String::as_str)
    }

    /// What a vertex is called in news.
    pub fn digest(&self, id: VertexId) -> String {
        let known = self.digests.get(&id).cloned();
        known.unwrap_or_else(|| Digest::of(format!("vertex {}", id.0)).to_string())
    }

    /// The vertex of this id.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0]
    }

    /// The line that asks for a vertex: its own, or that of the first step that needs it; 0 when none does.
    pub fn line(&self, id: VertexId) -> u32 {
        let needs = |vertex: &&Vertex| vertex.line > 0 && vertex.op.inputs().contains(&id);
        match self.vertex(id).line {
            0 => self.vertices.iter().find(needs).map_or(0, |vertex| vertex.line),
            line => line,
        }
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// Which vertices these need, themselves included, in order.
    pub fn needed(&self, targets: impl IntoIterator<Item = VertexId>) -> Vec<VertexId> {
        let mut wanted = vec![false; self.vertices.len()];
        let mut open: Vec<VertexId> = targets.into_iter().collect();
        while let Some(id) = open.pop() {
            if !std::mem::replace(&mut wanted[id.0], true) {
                open.extend(self.vertex(id).op.inputs());
            }
        }
        wanted.iter().enumerate().filter(|(_, wanted)| **wanted).map(|(index, _)| VertexId(index)).collect()
    }

    /// The paths and patterns of each context that these vertices take files from, relative to its root, each
    /// once; none where one of them takes all.
    pub fn context_paths(&self, vertices: &[VertexId]) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for id in vertices {
            if let Op::Copy(CopyOp { source: CopySource::Context(name), spec, .. }) = &self.vertex(*id).op {
                let clean = |path: &String| yare_dockerfile::ignore::clean(path).trim_matches('/').to_owned();
                found.entry(name.clone()).or_default().extend(spec.sources.iter().map(clean));
            }
        }
        let all = |path: &String| matches!(path.as_str(), "" | "." | "*") || path.starts_with("..");
        let paths = |paths: BTreeSet<String>| match paths.iter().any(all) {
            true => Vec::new(),
            false => paths.into_iter().collect(),
        };
        found.into_iter().map(|(name, found)| (name, paths(found))).collect()
    }
}

impl Op {
    /// The file system it stands on.
    pub fn base(&self) -> Option<VertexId> {
        match self {
            Self::Scratch | Self::Image(_) | Self::Fetch(_) | Self::Merge(_) | Self::Output(_) => None,
            Self::Copy(copy) => Some(copy.base),
            Self::MakeDir(make) => Some(make.base),
            Self::Edit(edit) => Some(edit.base),
            Self::Run(run) => Some(run.base),
            Self::Diff(diff) => Some(diff.upper),
        }
    }

    /// Everything it needs, its base first.
    pub fn inputs(&self) -> Vec<VertexId> {
        let mut inputs: Vec<VertexId> = self.base().into_iter().collect();
        match self {
            Self::Copy(CopyOp { source: CopySource::Vertex(from), .. }) => inputs.push(*from),
            Self::Edit(EditOp { names: Some(names), .. }) => inputs.push(*names),
            Self::Merge(all) => inputs.extend(all),
            Self::Diff(diff) => inputs.push(diff.lower),
            Self::Output(output) => inputs.push(output.run),
            Self::Run(run) => inputs.extend(run.spec.mounts.iter().filter_map(|mount| mount.kind.from())),
            _ => {}
        }
        inputs
    }
}

impl MountKind {
    /// The vertex whose files it shows.
    pub fn from(&self) -> Option<VertexId> {
        match self {
            Self::Bind { from, .. } | Self::Kept { from } => Some(*from),
            Self::Cache { from, .. } => *from,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vertex(op: Op) -> Vertex {
        Vertex { op, name: String::new(), line: 0, no_cache: false, epoch: 0 }
    }

    fn copy(base: VertexId, from: VertexId) -> Vertex {
        let source = CopySource::Vertex(from);
        vertex(Op::Copy(CopyOp { base, source, spec: CopyDefinition::default() }))
    }

    #[test]
    fn what_nobody_needs_is_not_done() {
        let mut graph = Graph::default();
        let [a, b, unused] = [(); 3].map(|()| graph.add(vertex(Op::Scratch)));
        let joined = graph.add(copy(a, b));
        let _late = graph.add(copy(joined, unused));
        assert_eq!(graph.needed([joined]), [a, b, joined]);
    }
}
