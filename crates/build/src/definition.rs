//! Builds whose graph is given: a client or its frontend made it, and no Dockerfile says what is to be done.
//!
//! A [`Definition`] has the vertices of a [`Graph`] but for images, which are known by name. They are looked
//! up when it is assembled, as those of a Dockerfile are when it is lowered.

use crate::cache::Lease;
use crate::devices;
use crate::failure::Failure;
use crate::graph::{Graph, Op, RunOp, Vertex, VertexId};
use crate::lower::{DEFAULT_EPOCH, Lowered, Target};
use crate::request::{Entitlement, Request, SecretScan};
use crate::solve::{Beside, Prepared, Solver, Tools};
use crate::worker::Worker;
use crate::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use yare_image::Image;
use yare_oci::{ImageConfig, Platform, Reference};
use yare_snapshot::Stack;

/// What a client wants to be done and to come out.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    nodes: Vec<Node>,
    /// What is to come out, one for each platform.
    pub goals: Vec<Goal>,
}

/// A vertex to be.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it does.
    pub does: Does,
    /// For people.
    pub name: String,
    /// What its client knows it by.
    pub digest: String,
    /// Whether its cache does not count.
    pub no_cache: bool,
}

/// What a node does.
#[derive(Debug, Clone)]
pub enum Does {
    /// The files of an image.
    Image {
        /// Its name.
        reference: Reference,
        /// What it shall be for; without one, the host.
        platform: Option<Platform>,
        /// Whether its registry is asked for a newer one.
        pull: bool,
    },
    /// As in a graph.
    Op(Op),
}

/// An image to be.
#[derive(Debug, Clone)]
pub struct Goal {
    /// Its file system.
    pub root: VertexId,
    /// Its config as the frontend made it, without layers. Boxed, lest every goal be as large.
    pub config: Option<Box<ImageConfig>>,
    /// What it is for, when the config does not say so.
    pub platform: Platform,
}

impl Definition {
    /// Adds a node; it refers to those added before.
    pub fn add(&mut self, node: Node) -> VertexId {
        self.nodes.push(node);
        VertexId(self.nodes.len() - 1)
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// Makes a graph of what a client wants.
///
/// # Errors
/// An image cannot be had, or something is asked for that is not granted.
pub(crate) fn assemble(definition: &Definition, request: &Request, worker: &dyn Worker) -> Result<Lowered> {
    let given = crate::lower::given_epoch(request)?;
    let mut graph = Graph::default();
    let mut images: BTreeMap<String, (Reference, Platform, Arc<Image>)> = BTreeMap::new();
    let wanted: HashSet<VertexId> = needed(definition);
    let mut epochs: Vec<i64> = Vec::with_capacity(definition.nodes.len());
    for (place, node) in definition.nodes.iter().enumerate() {
        let mut epoch = given.unwrap_or(DEFAULT_EPOCH);
        let op = match &node.does {
            // What nobody needs is not fetched.
            Does::Image { .. } if !wanted.contains(&VertexId(place)) => Op::Scratch,
            Does::Image { reference, platform, pull } => {
                let host = Platform::host();
                let own = platform.as_ref().unwrap_or(&host);
                let key = format!("{reference} {own}");
                let image = match images.get(&key) {
                    Some((_, _, image)) => Arc::clone(image),
                    None => {
                        // The host's own images are taken as they are, whatever they say of themselves.
                        let asked = platform.as_ref().filter(|platform| **platform != host);
                        let image = worker.image(reference, asked, *pull)?;
                        images.insert(key, (reference.clone(), own.clone(), Arc::clone(&image)));
                        image
                    }
                };
                if given.is_none() {
                    epoch = epoch.max(image.created_unix());
                }
                Op::Image(image.layers.to_vec())
            }
            Does::Op(op) => {
                granted(op, request)?;
                let op = match op {
                    Op::Run(run) if wanted.contains(&VertexId(place)) => with_devices(run, request, worker)?,
                    op => op.clone(),
                };
                let inputs = op.inputs();
                epoch = inputs.iter().filter_map(|input| epochs.get(input.0)).fold(epoch, |a, b| a.max(*b));
                op
            }
        };
        epochs.push(epoch);
        let (name, no_cache) = (node.name.clone(), node.no_cache);
        let id = graph.add(Vertex { op, name, line: 0, no_cache, epoch });
        graph.know(id, node.digest.clone());
    }
    let target = |goal: &Goal| Target {
        root: goal.root,
        config: goal.config.as_deref().cloned().unwrap_or_else(|| empty(&goal.platform)),
        history: Vec::new(),
        epoch: epochs.get(goal.root.0).copied().unwrap_or(DEFAULT_EPOCH),
        cache: None,
        given: true,
    };
    let targets = definition.goals.iter().map(target).collect();
    let images = images.into_values().collect();
    Ok(Lowered { graph, targets, images, ..Lowered::default() })
}

/// The nodes that the goals need.
fn needed(definition: &Definition) -> HashSet<VertexId> {
    let mut open: Vec<VertexId> = definition.goals.iter().map(|goal| goal.root).collect();
    let mut found = HashSet::new();
    while let Some(id) = open.pop() {
        if found.insert(id)
            && let Some(Node { does: Does::Op(op), .. }) = definition.nodes.get(id.0)
        {
            open.extend(op.inputs());
        }
    }
    found
}

/// Whether the client granted what a process asks for beyond the usual.
fn granted(op: &Op, request: &Request) -> Result<()> {
    let Op::Run(run) = op else { return Ok(()) };
    let rights = [
        (run.spec.network == "host", Entitlement::NetworkHost, "network.host"),
        (run.spec.insecure, Entitlement::SecurityInsecure, "security.insecure"),
    ];
    match rights.iter().find(|(asked, right, _)| *asked && !request.allow.contains(right)) {
        Some((_, _, name)) => Err(Error::denied(format!("{name} is not allowed"))
            .with_hint(format!("grant it with --allow {name} if you trust this build"))),
        None => Ok(()),
    }
}

/// A process with the devices that it gets.
fn with_devices(run: &RunOp, request: &Request, worker: &dyn Worker) -> Result<Op> {
    let devices = devices::settle(&run.spec.devices, &request.devices, || worker.devices())?;
    let mut run = run.clone();
    run.spec.devices = devices;
    Ok(Op::Run(Box::new(run)))
}

/// The config of an image whose frontend made none.
fn empty(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    config.config.env = vec![format!("PATH={}", crate::lower::DEFAULT_PATH)];
    config.config.working_dir = "/".to_owned();
    config
}

/// File systems that are there, and stay as long as this does.
#[derive(Debug)]
pub struct Evaluated {
    stacks: Vec<Stack>,
    lease: Lease,
}

impl Evaluated {
    /// The file system of a goal, mounted nowhere and read-only.
    ///
    /// # Errors
    /// There is no such goal, or the kernel refused.
    pub fn open(&self, goal: usize, snapshots: &yare_snapshot::Snapshots) -> Result<OwnedFd> {
        let stack = self.stacks.get(goal).ok_or_else(|| Error::internal("a build has no such goal"))?;
        snapshots.stack_fd(stack).map_err(|error| Error::wrap("cannot mount a result", error))
    }

    /// The file system of a goal as a chain.
    pub fn stack(&self, goal: usize) -> Option<&Stack> {
        self.stacks.get(goal)
    }

    /// The keys of the results it used, to be settled ([`crate::cache::Cache::settle`]).
    pub fn keys(&self) -> Vec<yare_oci::Digest> {
        self.lease.keys()
    }
}

/// Does what is needed for the goals of a request's definition, and makes nothing of it.
///
/// # Errors
/// What failed, or that there is no definition.
pub fn evaluate(request: &Request, tools: Tools<'_>) -> Result<Evaluated, Failure> {
    let (lowered, lease, beside) = begin(request, &tools)?;
    let none = HashSet::new();
    let needed = lowered.graph.needed(lowered.targets.iter().map(|target| target.root));
    let outcomes = Solver::new(&lowered.graph, request, tools, &lease, (&none, &beside)).solve(&needed)?;
    let stack = |target: &Target| {
        let outcome = outcomes.get(&target.root);
        outcome.map(|outcome| outcome.stack.clone()).ok_or_else(|| Error::internal("a goal was not built"))
    };
    let stacks = lowered.targets.iter().map(stack).collect::<Result<_>>()?;
    Ok(Evaluated { stacks, lease })
}

/// Does what the one goal of a request's definition needs, a process, and makes that ready for somebody who
/// wants to speak with it.
///
/// # Errors
/// What failed, or that the goal is no process.
pub fn prepare(request: &Request, tools: Tools<'_>) -> Result<Prepared, Failure> {
    let (lowered, lease, beside) = begin(request, &tools)?;
    let [Target { root, .. }] = lowered.targets.as_slice() else {
        return Err(Error::internal("processes are made ready one at a time").into());
    };
    let none = HashSet::new();
    let ready = Solver::new(&lowered.graph, request, tools, &lease, (&none, &beside)).prepare(*root)?;
    Ok(ready.holding(lease))
}

/// What a definition's graph is solved with when no image is made of it.
fn begin(request: &Request, tools: &Tools<'_>) -> Result<(Lowered, Lease, Beside), Failure> {
    let definition =
        request.definition.as_ref().ok_or_else(|| Error::internal("a build without a definition"))?;
    let lowered = assemble(definition, request, tools.worker)?;
    let (progress, cancel) = (tools.progress.clone(), tools.cancel.clone());
    let beside = Beside::new(tools.snapshots.clone(), progress, cancel, SecretScan::Off);
    Ok((lowered, tools.cache.lease(), beside))
}
