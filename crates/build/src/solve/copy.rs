//! `COPY` and `ADD`.

use super::beside::CLEAN;
use super::{Made, Outcome, Solver};
use crate::context::{ContextTree, Ignored};
use crate::failure::Failure;
use crate::files::{
    self, ChecksumOptions, Copied, CopyOptions, CopySpec, FileToWrite, ModeChange, Owner, Selection, Times,
    Tree, Twin,
};
use crate::graph::{CopyDefinition, CopyOp, CopySource, VertexId};
use crate::keys::Parts;
use crate::{Error, Result, owner};
use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use yare_api::build::VertexStatus;
use yare_dockerfile::ignore::Ignore as Patterns;
use yare_dockerfile::text::Mode;
use yare_oci::Digest;
use yare_snapshot::{DraftId, PendingDraft, Stack};

/// Files of a copy that are remembered one by one, for `--explain`: some 40 bytes and the path each.
const MOST_LISTED: usize = 4096;
/// The note of a draft with what [`Twin`] wants to know.
const ORIGINS: &str = "origins";

impl Solver<'_> {
    pub(super) fn copy(&self, id: VertexId, op: &CopyOp) -> Result<Outcome, Failure> {
        match &op.source {
            CopySource::Inline(contents) => self.copy_inline(id, op, contents),
            CopySource::Context(name) => {
                let context = self.tools.contexts.open(name)?;
                let title =
                    if name.is_empty() { "build context".to_owned() } else { format!("context {name:?}") };
                self.copy_context(id, op, &context, title)
            }
            CopySource::Vertex(from) => self.copy_vertex(id, op, *from),
        }
    }

    /// What the result depends on beside the files.
    fn copy_parts(&self, id: VertexId, op: &CopyOp, files: &Digest) -> Result<Parts> {
        let base = self.outcome(op.base)?;
        let parts = Parts::of("copy", &op.spec).with("files", files).with("epoch", self.epoch(id));
        // Files of another stage keep their times, up to this stage's.
        let parts = match &op.source {
            CopySource::Vertex(from) => parts.with("time of the source", self.epoch(*from)),
            _ => parts,
        };
        // An independent layer still needs the base for names of users.
        let needs_base = !op.spec.link || op.spec.chown.as_deref().is_some_and(owner::is_named);
        Ok(if needs_base { parts.with("base", base.key) } else { parts })
    }

    fn copy_context(
        &self,
        id: VertexId,
        op: &CopyOp,
        context: &ContextTree,
        title: String,
    ) -> Result<Outcome, Failure> {
        let ignored = context.ignore.as_deref().map(Ignored::new);
        let root = context
            .root
            .try_clone()
            .map_err(|error| Error::unavailable("cannot open the build context").caused_by(error))?;
        let ignore = ignored.as_ref().map(|ignored| ignored as &dyn files::Ignore);
        let tree = Tree { root, ignore, name: title };
        let exclude = excludes(&op.spec)?;
        let exclude = exclude.as_ref().map(Ignored::new);
        let spec = spec(&op.spec, exclude.as_ref());
        let mut selection = files::select(&tree, &spec, self.tools.cancel)?;
        let cache = context.lasting.then_some(self.tools.hashes);
        let options = ChecksumOptions { owners: false, cache };
        let sum = files::checksum_noted(&mut selection, &options, MOST_LISTED, self.tools.cancel)?;
        self.copy_selection(id, op, sum, Owner::Root, Times::Set(self.epoch(id)), || Ok(selection))
    }

    fn copy_vertex(&self, id: VertexId, op: &CopyOp, from: VertexId) -> Result<Outcome, Failure> {
        let source = self.outcome(from)?;
        let exclude = excludes(&op.spec)?;
        let exclude = exclude.as_ref().map(Ignored::new);
        let tree = std::cell::OnceCell::new();
        let open = || -> Result<&Tree<'_>> {
            if tree.get().is_none() {
                let root = self.view(&source.stack)?;
                let name = self.graph.vertex(from).name.clone();
                let _ = tree.set(Tree { root, ignore: None, name });
            }
            tree.get().ok_or_else(|| Error::internal("a stage that was opened is not there"))
        };
        let keeps_owners = op.spec.chown.is_none() && !op.spec.fetched;
        let wanted = (&op.spec.sources, &op.spec.exclude, op.spec.parents, keeps_owners, &op.spec.dest);
        let mut wanted = Parts::of("selection", &wanted);
        if !op.spec.rules.is_dockerfile() {
            wanted = wanted.with("rules", format!("{:?}", op.spec.rules));
        }
        let wanted = wanted.key();
        let select = || files::select(open()?, &spec(&op.spec, exclude.as_ref()), self.tools.cancel);
        let sum = match self.tools.cache.sum(&source.key, &wanted) {
            Some(sum) => sum,
            None => {
                let options = ChecksumOptions { owners: keeps_owners, cache: None };
                let sum = files::checksum(&select()?, &options, self.tools.cancel)?;
                self.tools.cache.keep_sum(source.key, &wanted, sum);
                sum
            }
        };
        let owner = if op.spec.fetched { Owner::Root } else { Owner::Keep };
        self.copy_selection(id, op, (sum, BTreeMap::new()), owner, Times::Clamp(self.epoch(id)), select)
    }

    /// A stack, mounted nowhere.
    pub(super) fn view(&self, stack: &Stack) -> Result<OwnedFd> {
        self.tools.snapshots.stack_fd(stack).map_err(|error| Error::wrap("cannot mount a stage", error))
    }

    fn copy_selection<'t>(
        &self,
        id: VertexId,
        op: &CopyOp,
        (sum, listing): (Digest, BTreeMap<String, String>),
        owner: Owner,
        times: Times,
        select: impl FnOnce() -> Result<Selection<'t>>,
    ) -> Result<Outcome, Failure> {
        let parts = self.copy_parts(id, op, &sum)?.listing(listing);
        let rules = &op.spec.rules;
        let times = rules.time.map_or(times, Times::Set);
        self.copied(id, op, &parts, |root, names, twin| {
            let selection = select()?;
            if rules.must_match && selection.is_empty() {
                let text = format!("{}: nothing matches", op.spec.sources.join(" "));
                return Err(Error::not_found(text).into());
            }
            if rules.no_parents {
                files::check_parent(root, &op.spec.dest)?;
            }
            let owner = match &op.spec.chown {
                Some(chown) => set_owner(names, chown)?,
                None => owner,
            };
            let mode = mode_of(&op.spec)?;
            let change = mode.as_ref().map(|mode| move |old, directory| mode.apply(old, directory));
            let total = i64::try_from(selection.bytes()).unwrap_or(i64::MAX);
            let progress = |bytes| self.copy_progress(id, bytes, total);
            let options = CopyOptions {
                owner,
                mode: change.as_ref().map(|change| ModeChange::With(change)),
                times,
                unpack: op.spec.unpack,
                whole: rules.whole,
                progress: Some(&progress),
                twin,
                ..CopyOptions::default()
            };
            Ok(files::copy(&selection, root, &options, self.tools.cancel)?)
        })
    }

    fn copy_progress(&self, id: VertexId, bytes: u64, total: i64) {
        let time = crate::progress::now();
        self.tools.progress.status(VertexStatus {
            id: "copying files".to_owned(),
            vertex: self.digest(id),
            current: i64::try_from(bytes).unwrap_or(i64::MAX),
            total,
            timestamp: time.clone(),
            started: Some(time),
            ..VertexStatus::default()
        });
    }

    /// Looks the copy up or does it: `fill` gets the root to write below, the root whose names of users
    /// count, and what the last run made. With `--link` the first is empty.
    fn copied(
        &self,
        id: VertexId,
        op: &CopyOp,
        parts: &Parts,
        fill: impl FnOnce(BorrowedFd<'_>, BorrowedFd<'_>, Option<&Twin>) -> Result<Copied, Failure>,
    ) -> Result<Outcome, Failure> {
        let base = self.outcome(op.base)?;
        let below = if op.spec.link { Stack::default() } else { base.stack.clone() };
        let made = self.cached(id, parts, &below, "regular", |pending, before| {
            let twin = before.and_then(|draft| self.twin(draft));
            let root = mounted(pending)?;
            let copied = if op.spec.link && op.spec.chown.as_deref().is_some_and(owner::is_named) {
                let names = self.view(&base.stack)?;
                fill(root.as_fd(), names.as_fd(), twin.as_ref())?
            } else {
                fill(root.as_fd(), root.as_fd(), twin.as_ref())?
            };
            // What follows changes the layer beneath the mount.
            drop(root);
            Ok(self.take_over(pending, copied, before.zip(twin.as_ref()))?)
        })?;
        if !op.spec.link {
            return Ok(made);
        }
        // The layer is its own; here it lies on the base.
        let mut stack = base.stack;
        stack.drafts.extend(made.stack.drafts.iter().cloned());
        let key = Parts::of("link", &made.key).with("base", base.key).key();
        Ok(Outcome { stack, key, ..made })
    }

    /// What an earlier run of a copy made, if it was worth a note.
    fn twin(&self, draft: &DraftId) -> Option<Twin> {
        let snapshots = self.tools.snapshots;
        let note = snapshots.note(draft, ORIGINS).ok().flatten()?;
        Twin::read(yare_sys::fs::open_dir(snapshots.draft_dir(draft)).ok()?, &note)
    }

    /// Links what the twin has, and leaves a note for the next run.
    fn take_over(
        &self,
        pending: &PendingDraft,
        copied: Copied,
        before: Option<(&DraftId, &Twin)>,
    ) -> Result<Made> {
        let mut clean = HashSet::new();
        if let Some((draft, twin)) = before.filter(|_| !copied.unchanged.is_empty()) {
            let upper = pending.upper();
            let upper = yare_sys::fs::open_dir(&upper).map_err(|error| {
                Error::internal(format!("cannot open {}", upper.display())).caused_by(error)
            })?;
            twin.link(&copied.unchanged, upper.as_fd(), self.tools.cancel)?;
            if matches!(self.tools.snapshots.note(draft, CLEAN), Ok(Some(_))) {
                clean = copied.unchanged;
            }
        }
        if copied.origins.len() >= files::WORTH_A_NOTE {
            pending
                .put_note(ORIGINS, &files::encode_origins(&copied.origins))
                .map_err(|error| Error::wrap("cannot note what a step copied", error))?;
        }
        Ok(Made { bytes: copied.bytes, clean })
    }

    fn copy_inline(
        &self,
        id: VertexId,
        op: &CopyOp,
        contents: &[(String, Vec<u8>)],
    ) -> Result<Outcome, Failure> {
        let sums: Vec<(&String, Digest)> =
            contents.iter().map(|(name, content)| (name, Digest::of(content))).collect();
        let parts = self.copy_parts(id, op, &Parts::of("inline", &sums).key())?;
        self.copied(id, op, &parts, |root, names, _| {
            let owner = match &op.spec.chown {
                Some(chown) => set_owner(names, chown)?,
                None => Owner::Root,
            };
            let chmod = mode_of(&op.spec)?;
            let bits =
                |default, directory| chmod.as_ref().map_or(default, |mode| mode.apply(default, directory));
            for (name, bytes) in contents {
                let file = FileToWrite {
                    dest: &op.spec.dest,
                    name,
                    bytes,
                    owner,
                    mode: bits(0o644, false),
                    dir_mode: bits(0o755, true),
                    times: Times::Set(self.epoch(id)),
                };
                files::write_file(root, &file)?;
            }
            let bytes = contents.iter().map(|(_, content)| content.len() as u64).sum();
            Ok(Copied { bytes, ..Copied::default() })
        })
    }
}

fn mounted(pending: &PendingDraft) -> Result<OwnedFd> {
    pending.rootfs().mount().map_err(|error| Error::wrap("cannot mount the stage", error))
}

fn set_owner(names: BorrowedFd<'_>, chown: &str) -> Result<Owner> {
    owner::resolve(names, chown).map(|(uid, gid)| Owner::Set(uid, gid))
}

fn mode_of(spec: &CopyDefinition) -> Result<Option<Mode>> {
    let parse = |text: &String| Mode::parse(text).map_err(|error| Error::wrap("--chmod", error));
    spec.chmod.as_ref().map(parse).transpose()
}

fn excludes(spec: &CopyDefinition) -> Result<Option<Patterns>> {
    if spec.exclude.is_empty() {
        return Ok(None);
    }
    Patterns::from_patterns(spec.exclude.iter().map(String::as_str))
        .map(Some)
        .map_err(|error| Error::invalid(format!("--exclude: {error}")))
}

fn spec<'a>(spec: &'a CopyDefinition, exclude: Option<&'a Ignored<'a>>) -> CopySpec<'a> {
    CopySpec {
        sources: &spec.sources,
        dest: &spec.dest,
        parents: spec.parents,
        exclude: exclude.map(|exclude| exclude as &dyn files::Ignore),
        keep_link: spec.rules.keep_link,
        literal: spec.rules.literal,
        whole: spec.rules.whole,
    }
}
