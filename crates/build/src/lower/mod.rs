//! From a Dockerfile to a graph: stages that the target needs become vertices, everything else becomes
//! edits of an image config.
//!
//! Nothing is built here, but base images are looked up: their configs decide what the lines after `FROM`
//! mean.

mod scope;
mod stage;
mod steps;
mod words;

pub(crate) use stage::{DEFAULT_EPOCH, DEFAULT_PATH, given_epoch};

use crate::failure::Failure;
use crate::graph::{Graph, VertexId};
use crate::request::Request;
use crate::worker::Worker;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use yare_dockerfile::ignore::Ignore;
use yare_dockerfile::lint::Warning;
use yare_dockerfile::{Dockerfile, Span, args};
use yare_image::Image;
use yare_oci::{ImageConfig, Platform, Reference};

/// What a Dockerfile means.
#[derive(Debug, Default)]
pub(crate) struct Lowered {
    /// What is to be done.
    pub(crate) graph: Graph,
    /// What is to come out, one for each platform.
    pub(crate) targets: Vec<Target>,
    /// Arguments that were given and that nothing declares.
    pub(crate) unused_args: Vec<String>,
    /// What the rules say that need values.
    pub(crate) warnings: Vec<Warning>,
    /// The images that it stands on and takes files from, as they are named.
    pub(crate) images: Vec<(Reference, Platform, Arc<Image>)>,
}

/// One image to be.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Its file system.
    pub(crate) root: VertexId,
    /// Its config, with the base image's layers and history.
    pub(crate) config: ImageConfig,
    /// What this build adds to the history.
    pub(crate) history: Vec<HistoryStep>,
    /// Its time, seconds since 1970.
    pub(crate) epoch: i64,
    /// The build cache that its config has in it, when that was asked for.
    pub(crate) cache: Option<serde_json::Value>,
    /// Whether the config is another frontend's, with a history that may not fit.
    pub(crate) given: bool,
}

/// One line of the history to be.
#[derive(Debug, Clone)]
pub(crate) struct HistoryStep {
    /// By what command.
    pub(crate) created_by: String,
    /// The vertex that may have made a layer.
    pub(crate) vertex: Option<VertexId>,
}

/// Lowers what the request's target needs.
///
/// # Errors
/// The Dockerfile asks for something that is not there or not allowed, with the line.
pub(crate) fn lower(
    dockerfile: &Dockerfile,
    request: &Request,
    worker: &dyn Worker,
    ignore: Option<Arc<Ignore>>,
) -> Result<Lowered, Failure> {
    let target = dockerfile
        .target(Some(&request.target))
        .map_err(|text| Failure::from(crate::Error::invalid(text)))?;
    let host = Platform::host();
    let platforms = if request.platforms.is_empty() { vec![host] } else { request.platforms.clone() };
    let mut lowering = Lowering {
        dockerfile,
        request,
        worker,
        graph: Graph::default(),
        many_platforms: platforms.len() > 1,
        stages: HashMap::new(),
        open: Vec::new(),
        images: HashMap::new(),
        contexts: BTreeMap::new(),
        declared: std::collections::BTreeSet::new(),
        ignore,
        at: Cell::default(),
        warnings: RefCell::default(),
    };
    let mut targets = Vec::new();
    for platform in platforms {
        let state = lowering.stage(target.index, &platform)?;
        targets.push(state.into_target(request));
    }
    let known = |name: &String| {
        lowering.declared.contains(name) || args::CONTROL.contains(&name.as_str()) || args::is_proxy(name)
    };
    let unused_args = request.build_args.keys().filter(|name| !known(name)).cloned().collect();
    let parsed = |((name, platform), image): ((String, Platform), Arc<Image>)| {
        Some((Reference::parse(&name).ok()?.or_latest(), platform, image))
    };
    let images = lowering.images.into_iter().filter_map(parsed).collect();
    let warnings = lowering.warnings.into_inner();
    Ok(Lowered { graph: lowering.graph, targets, unused_args, warnings, images })
}

/// A Dockerfile under way to a graph.
struct Lowering<'a> {
    dockerfile: &'a Dockerfile,
    request: &'a Request,
    worker: &'a dyn Worker,
    graph: Graph,
    many_platforms: bool,
    /// Stages that are done, by number and platform.
    stages: HashMap<(usize, Platform), stage::State>,
    /// Stages under way, the innermost last.
    open: Vec<usize>,
    images: HashMap<(String, Platform), Arc<Image>>,
    /// Vertices of named contexts and images that files are copied from.
    contexts: BTreeMap<String, VertexId>,
    /// Arguments that some stage declares.
    declared: std::collections::BTreeSet<String>,
    /// What of the main context is not seen.
    ignore: Option<Arc<Ignore>>,
    /// The instruction under way.
    at: Cell<Span>,
    warnings: RefCell<Vec<Warning>>,
}

impl Lowering<'_> {
    fn warn(&self, found: impl IntoIterator<Item = Warning>) {
        self.warnings.borrow_mut().extend(found);
    }
}
