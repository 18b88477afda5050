//! From a solved target to an image: names for its layers, a config.

use crate::graph::{Op, VertexId};
use crate::lower::{HistoryStep, Target};
use crate::output::Image;
use crate::solve::{Beside, Outcome, Tools};
use crate::squash::squash;
use crate::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use yare_dockerfile::text::history::COMMENT;
use yare_image::{Lease, Store};
use yare_oci::{DiffId, History, ImageConfig};
use yare_snapshot::{DraftId, Stack};

/// What came out for one platform.
#[derive(Debug)]
pub(crate) struct Product {
    /// Its file system.
    pub(crate) stack: Stack,
    /// The image; without config and layers while only files are wanted.
    pub(crate) image: Image,
    /// How many layers became one.
    pub(crate) squashed: Option<usize>,
}

impl Product {
    /// The files of a target.
    pub(crate) fn new(target: &Target, outcomes: &BTreeMap<VertexId, Outcome>) -> Result<Self> {
        let root = outcomes
            .get(&target.root)
            .ok_or_else(|| Error::internal("the target of a build was not built"))?;
        let image = Image {
            platform: target.config.platform(),
            config: Vec::new(),
            layers: Vec::new(),
            attestations: Vec::new(),
        };
        Ok(Self { stack: root.stack.clone(), image, squashed: None })
    }

    /// Makes one of its drafts. The caller lets go of it when its layer is named.
    pub(crate) fn squash(&mut self, tools: &Tools<'_>) -> Result<Option<DraftId>> {
        let snapshots = tools.snapshots;
        let failed =
            |error: yare_snapshot::Error| Error::wrap("cannot squash the layers of the build", error);
        if self.stack.drafts.len() < 2 {
            return Ok(None);
        }
        let base = Stack { layers: self.stack.layers.clone(), drafts: Vec::new() };
        let pending = snapshots.begin_draft(&base).map_err(failed)?;
        let open = |path: PathBuf| {
            yare_sys::fs::open_dir(&path)
                .map_err(|error| Error::internal(format!("cannot open {}", path.display())).caused_by(error))
        };
        let drafts = self.stack.drafts.iter().rev().map(|draft| open(snapshots.draft_dir(draft)));
        let drafts: Vec<OwnedFd> = drafts.collect::<Result<_>>()?;
        let below = snapshots.stack_fd(&base).map_err(failed)?;
        squash(&drafts, below.as_fd(), open(pending.upper())?.as_fd(), tools.cancel)?;
        let draft = pending.keep().map_err(failed)?;
        self.squashed = Some(self.stack.drafts.len());
        self.stack = Stack { drafts: vec![draft.clone()], ..base };
        Ok(Some(draft))
    }

    /// Makes layers of its drafts, which `lease` protects then, and the exact bytes of the config.
    pub(crate) fn assemble(
        &mut self,
        target: &Target,
        outcomes: &BTreeMap<VertexId, Outcome>,
        beside: &Beside,
        images: &Store,
        lease: &mut Lease,
    ) -> Result<()> {
        for draft in &self.stack.drafts {
            let info = images
                .snapshots()
                .hash_draft(draft)
                .map_err(|error| Error::wrap("cannot make a layer of a step", error))?;
            // Leased before it is named: until the image is on record nobody else wants it.
            lease.layer(info.diff_id);
        }
        for layer in &self.stack.layers {
            lease.layer(*layer);
        }
        let named = beside.name(&self.stack.drafts)?;
        let mut layers = self.stack.layers.clone();
        layers.extend(named.iter().map(|info| info.diff_id));
        let config = settle(target, outcomes, &layers, self.squashed)?;
        self.image.config = serde_json::to_vec(&config)
            .map_err(|error| Error::internal("cannot write the image config as JSON").caused_by(error))?;
        if self.squashed.is_some() {
            // The draft may turn out to be a layer that is there already.
            self.stack = Stack { layers: layers.clone(), drafts: Vec::new() };
        }
        self.image.layers = layers;
        Ok(())
    }
}

/// The config of the image, with nothing in it that depends on when, where or by whom it is built. Pure.
fn settle(
    target: &Target,
    outcomes: &BTreeMap<VertexId, Outcome>,
    layers: &[DiffId],
    squashed: Option<usize>,
) -> Result<ImageConfig> {
    let mut config = target.config.clone();
    let created = jiff::Timestamp::from_second(target.epoch)
        .map_err(|error| {
            Error::invalid(format!("SOURCE_DATE_EPOCH {} is no time", target.epoch)).caused_by(error)
        })?
        .to_string();
    config.extra.retain(|name, _| name == "os.features");
    config.config.extra.clear();
    if let Some(cache) = target.cache.as_ref().filter(|_| squashed.is_none()) {
        config.extra.insert(crate::transfer::INLINE.to_owned(), cache.clone());
    }
    config.comment.clear();
    let added = |step: &HistoryStep| {
        squashed.is_none()
            && step.vertex.is_some_and(|vertex| outcomes.get(&vertex).is_some_and(|made| made.added))
    };
    let step = |step: &HistoryStep| History {
        created: Some(created.clone()),
        created_by: step.created_by.clone(),
        comment: COMMENT.to_owned(),
        empty_layer: !added(step),
        ..History::default()
    };
    config.history.extend(target.history.iter().map(step));
    if target.given {
        fit(&mut config.history, layers.len(), &created);
    }
    if let Some(count) = squashed {
        // As the classic builder does: the steps stay, and the one layer has a line of its own.
        config.history.push(History {
            created: Some(created.clone()),
            comment: format!("{count} layers of the build made one"),
            ..History::default()
        });
    }
    if !target.given || config.created.is_none() {
        config.created = Some(created.clone());
    }
    config.rootfs.kind = "layers".to_owned();
    config.rootfs.diff_ids = layers.to_vec();
    Ok(config)
}

/// Makes a history have a line for each layer: what a frontend expected need not be what came out.
fn fit(history: &mut Vec<History>, layers: usize, created: &str) {
    let mut with_layer = 0;
    for line in history.iter_mut().filter(|line| !line.empty_layer) {
        with_layer += 1;
        line.empty_layer = with_layer > layers;
    }
    let line =
        History { created: Some(created.to_owned()), comment: COMMENT.to_owned(), ..History::default() };
    history.extend(std::iter::repeat_n(line, layers.saturating_sub(with_layer)));
}

/// The vertices whose drafts become layers of a target.
pub(crate) fn layer_vertices(graph: &crate::graph::Graph, targets: &[Target]) -> HashSet<VertexId> {
    let mut found = HashSet::new();
    for target in targets {
        let mut open = vec![target.root];
        while let Some(id) = open.pop() {
            if found.insert(id) {
                let op = &graph.vertex(id).op;
                match op {
                    Op::Merge(inputs) => open.extend(inputs),
                    _ => open.extend(op.base()),
                }
            }
        }
    }
    found
}
