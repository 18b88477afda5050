//! `RUN`: what a process sees, and what is kept of what it did.

use super::agent::{Agent, Looks};
use super::emulation;
use super::stubs::Stubs;
use super::{Made, Outcome, Solver};
use crate::cache::{Claim, MountLease, NewMount, Step};
use crate::failure::Failure;
use crate::files::{self, ChecksumOptions, CopySpec, Tree};
use crate::graph::{CopyOp, CopySource, MountKind, Op, RunDefinition, RunDevice, RunMount, RunOp, VertexId};
use crate::keys::Parts;
use crate::worker::{Exit, Run, RunMount as WorkerMount, Stream};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use yare_api::{HostConfig, Ulimit};
use yare_errdefs::{Class, Classified};
use yare_oci::Digest;
use yare_snapshot::{DraftId, PendingDraft, Place, Stack};

/// What the mounts of one process keep alive.
#[derive(Default)]
pub(super) struct Mounted {
    mounts: BTreeMap<String, WorkerMount>,
    env: Vec<String>,
    caches: Vec<MountLease>,
    /// What is written into writable views and thrown away.
    scratch: Vec<PendingDraft>,
    /// What is written into mounts that are kept, by mount.
    kept: BTreeMap<usize, PendingDraft>,
    agents: Vec<Agent>,
}

/// A mount that is kept afterwards.
struct Kept {
    mount: usize,
    key: Digest,
    /// What it begins with.
    from: Stack,
}

impl Solver<'_> {
    pub(super) fn run(&self, id: VertexId, op: &RunOp) -> Result<Outcome, Failure> {
        let base = self.outcome(op.base)?;
        let mut parts = Parts::of("run", &op.spec).with("base", base.key).with("epoch", self.epoch(id));
        for (index, mount) in op.spec.mounts.iter().enumerate() {
            if let Some(sum) = self.mount_sum(mount)? {
                parts = parts.with(format!("the content of mount {index} ({})", mount.target), sum);
            }
        }
        let kept = self.kept(op, &parts)?;
        // A result without all that was kept of it is none.
        let whole = kept.iter().all(|kept| self.tools.cache.hold(&kept.key, self.lease).is_some());
        let fresh = self.graph.vertex(id).no_cache || !whole;
        let make = |pending: &PendingDraft, _: Option<&DraftId>| {
            emulation::check(&op.platform)?;
            let stubs = Stubs::look(&self.view(&base.stack)?, op, &self.places_of_devices(op))?;
            let mut mounted = self.mount_all(op)?;
            let exit = self.process(id, op, pending, &mounted)?;
            let written = std::mem::take(&mut mounted.kept);
            drop(mounted);
            ended(op, exit)?;
            stubs.remove(&pending.upper())?;
            self.keep(id, &kept, written)?;
            size_of(pending).map(Made::from)
        };
        let made = self.cached_unless(fresh, id, &parts, &base.stack, ("regular", make))?;
        let outputs = kept.into_iter().map(|kept| self.written(kept)).collect::<Result<_>>()?;
        Ok(Outcome { outputs, ..made })
    }

    /// Where the devices of a process have mounts.
    fn places_of_devices(&self, op: &RunOp) -> Vec<String> {
        let names = names(&op.spec.devices);
        if names.is_empty() { Vec::new() } else { self.tools.worker.devices().mount_points(&names) }
    }

    /// The mounts that are kept.
    fn kept(&self, op: &RunOp, parts: &Parts) -> Result<Vec<Kept>> {
        let mut all = Vec::new();
        for (mount, written) in op.spec.mounts.iter().enumerate() {
            if let MountKind::Kept { from } = &written.kind {
                let key = self.key(&Parts::of("output", &mount).with("run", self.key(parts)));
                all.push(Kept { mount, key, from: self.outcome(*from)?.stack });
            }
        }
        Ok(all)
    }

    /// Records what was written into mounts, each under its own key.
    fn keep(
        &self,
        id: VertexId,
        kept: &[Kept],
        mut written: BTreeMap<usize, PendingDraft>,
    ) -> Result<(), Failure> {
        for kept in kept {
            let pending = written
                .remove(&kept.mount)
                .ok_or_else(|| Error::internal("a mount that is kept was not mounted"))?;
            let size = size_of(&pending)?;
            let dir = yare_sys::fs::open_dir(pending.upper()).map_err(Error::from)?;
            files::clamp_times(dir.as_fd(), self.epoch(id), self.tools.cancel)?;
            let draft =
                pending.keep().map_err(|error| Error::wrap("cannot keep the result of a step", error))?;
            if let Claim::Run(claimed) =
                self.tools.cache.claim(kept.key, true, self.lease, self.tools.cancel)?
            {
                claimed.finish(Step {
                    draft: Some(draft),
                    description: self.graph.vertex(id).name.clone(),
                    size,
                    ..Step::default()
                });
            }
        }
        Ok(())
    }

    /// The file system that a mount is now.
    fn written(&self, kept: Kept) -> Result<(usize, (Digest, Stack))> {
        let step = self.tools.cache.hold(&kept.key, self.lease);
        let draft = step.and_then(|step| step.draft).ok_or_else(|| {
            Error::unavailable("what a step kept of a mount was pruned while it was needed")
                .with_hint("build again")
        })?;
        let mut stack = kept.from;
        stack.drafts.push(draft);
        Ok((kept.mount, (kept.key, stack)))
    }

    /// The content that a mount shows, where it decides the result.
    fn mount_sum(&self, mount: &RunMount) -> Result<Option<String>> {
        let (from, source) = match &mount.kind {
            MountKind::Bind { from, source, .. } => (from, source),
            MountKind::Kept { from } => return Ok(Some(self.outcome(*from)?.key.to_string())),
            _ => return Ok(None),
        };
        let shown = self.outcome(*from)?;
        // A copy out of the context has a key that is its content already; of a whole file system nobody
        // wants to read all.
        let copy =
            matches!(&self.graph.vertex(*from).op, Op::Copy(CopyOp { source: CopySource::Context(_), .. }));
        if copy || source == "/" {
            return Ok(Some(shown.key.to_string()));
        }
        let wanted = Parts::of("mounted", source).key();
        if let Some(sum) = self.tools.cache.sum(&shown.key, &wanted) {
            return Ok(Some(sum.to_string()));
        }
        let name = self.graph.vertex(*from).name.clone();
        let tree = Tree { root: self.view(&shown.stack)?, ignore: None, name };
        let spec = CopySpec {
            sources: std::slice::from_ref(source),
            dest: "/",
            parents: false,
            exclude: None,
            keep_link: false,
            literal: false,
            whole: false,
        };
        let selection = files::select(&tree, &spec, self.tools.cancel)?;
        let options = ChecksumOptions { owners: true, cache: None };
        let sum = files::checksum(&selection, &options, self.tools.cancel)?;
        self.tools.cache.keep_sum(shown.key, &wanted, sum);
        Ok(Some(sum.to_string()))
    }

    pub(super) fn mount_all(&self, op: &RunOp) -> Result<Mounted> {
        let mut mounted = Mounted::default();
        for (path, content) in &op.spec.files {
            let content = content.clone().into_bytes();
            mounted.mounts.insert(path.clone(), WorkerMount::File { content, mode: 0o755, uid: 0, gid: 0 });
        }
        let mut is_first = true;
        for (place, mount) in op.spec.mounts.iter().enumerate() {
            match &mount.kind {
                MountKind::Kept { from } => {
                    let view = self.kept_mount(place, &self.outcome(*from)?.stack, &mut mounted)?;
                    mounted.mounts.insert(mount.target.clone(), view);
                }
                MountKind::Bind { from, source, writable } => {
                    let shown = self.outcome(*from)?;
                    let view = self.bind(&shown.stack, source, *writable, &mut mounted)?;
                    mounted.mounts.insert(mount.target.clone(), view);
                }
                MountKind::Cache { .. } => self.cache_mount(mount, &mut mounted)?,
                MountKind::Tmpfs { size } => {
                    mounted.mounts.insert(mount.target.clone(), WorkerMount::Tmpfs { size: *size });
                }
                MountKind::Secret { .. } => self.secret(mount, &mut mounted)?,
                MountKind::Ssh { .. } => {
                    self.agent(mount, is_first, &mut mounted)?;
                    is_first = false;
                }
            }
        }
        Ok(mounted)
    }

    /// A file system that takes what is written.
    fn kept_mount(&self, place: usize, from: &Stack, mounted: &mut Mounted) -> Result<WorkerMount> {
        let failed = |error: yare_snapshot::Error| Error::wrap("cannot make room for a mount", error);
        let pending = self.tools.snapshots.begin_draft(from).map_err(failed)?;
        let (upper, work) = (pending.upper(), pending.work());
        mounted.kept.insert(place, pending);
        if *from == Stack::default() {
            return Ok(WorkerMount::Bind { path: upper, read_only: false });
        }
        match self.tools.snapshots.place(from, "/").map_err(failed)? {
            Some(Place::Dirs(lower)) => {
                Ok(WorkerMount::Overlay { lower, upper: Some(upper), work: Some(work) })
            }
            _ => Err(Error::internal("a file system has no root directory")),
        }
    }

    /// A part of another file system.
    fn bind(
        &self,
        stack: &Stack,
        source: &str,
        writable: bool,
        mounted: &mut Mounted,
    ) -> Result<WorkerMount> {
        let place = self
            .tools
            .snapshots
            .place(stack, source)
            .map_err(|error| Error::wrap(format!("cannot mount {source}"), error))?
            .ok_or_else(|| Error::not_found(format!("cannot mount {source}: not found")))?;
        Ok(match place {
            Place::File(path) => WorkerMount::Bind { path, read_only: true },
            Place::Dirs(lower) if writable => {
                let scratch = self
                    .tools
                    .snapshots
                    .begin_draft(&Stack::default())
                    .map_err(|error| Error::wrap("cannot make room for a writable mount", error))?;
                let (upper, work) = (scratch.upper(), scratch.work());
                mounted.scratch.push(scratch);
                WorkerMount::Overlay { lower, upper: Some(upper), work: Some(work) }
            }
            Place::Dirs(mut dirs) if dirs.len() == 1 => {
                WorkerMount::Bind { path: dirs.pop().unwrap_or_default(), read_only: true }
            }
            Place::Dirs(lower) => WorkerMount::Overlay { lower, upper: None, work: None },
        })
    }

    fn cache_mount(&self, mount: &RunMount, mounted: &mut Mounted) -> Result<()> {
        let MountKind::Cache { id, from, source, read_only, sharing, mode, uid, gid } = &mount.kind else {
            return Ok(());
        };
        let fill = |dir: &std::path::Path| -> Result<()> {
            if let Some(imports) = self.imports
                && imports.fill(id, dir, &self.tools)?
            {
                return Ok(());
            }
            let Some(from) = from else { return Ok(()) };
            let root = self.view(&self.outcome(*from)?.stack)?;
            let path = source.trim_start_matches('/');
            let path = if path.is_empty() { "." } else { path };
            let flags =
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
            let tree = yare_sys::fs::open_beneath(root.as_fd(), path, flags, rustix::fs::Mode::empty());
            let tree = tree.map_err(|error| {
                Error::not_found(format!("cannot fill the cache {id} from {source}")).caused_by(error)
            })?;
            yare_layer::copy_tree(tree.as_fd(), yare_sys::fs::open_dir(dir)?.as_fd())
                .map(drop)
                .map_err(|error| Error::wrap("cannot fill a new cache directory", error))
        };
        let new = NewMount { mode: *mode, uid: *uid, gid: *gid };
        let lease = self.tools.cache.mount(id, *sharing, new, &fill, self.tools.cancel)?;
        let view = WorkerMount::Bind { path: lease.path.clone(), read_only: *read_only };
        mounted.mounts.insert(mount.target.clone(), view);
        mounted.caches.push(lease);
        Ok(())
    }

    fn secret(&self, mount: &RunMount, mounted: &mut Mounted) -> Result<()> {
        let MountKind::Secret { id, env, required, mode, uid, gid } = &mount.kind else { return Ok(()) };
        let Some(content) = self.tools.worker.secret(id)? else {
            if *required {
                return Err(Error::not_found(format!("secret {id}: not found")).with_hint(format!(
                    "give it: --secret id={id},src=FILE or --secret id={id},env=VARIABLE"
                )));
            }
            return Ok(());
        };
        if !env.is_empty() {
            let text = String::from_utf8(content.clone())
                .map_err(|_| Error::invalid(format!("secret {id} is no text and cannot be a variable")))?;
            mounted.env.push(format!("{env}={text}"));
        }
        if !mount.target.is_empty() {
            let file = WorkerMount::File { content, mode: *mode, uid: *uid, gid: *gid };
            mounted.mounts.insert(mount.target.clone(), file);
        }
        Ok(())
    }

    fn agent(&self, mount: &RunMount, is_first: bool, mounted: &mut Mounted) -> Result<()> {
        let MountKind::Ssh { id, required, mode, uid, gid } = &mount.kind else { return Ok(()) };
        let Some(mut path): Option<PathBuf> = self.tools.worker.ssh(id)? else {
            if *required {
                return Err(Error::not_found(format!("unset ssh forward key {id}"))
                    .with_hint(format!("give an agent: --ssh {id}")));
            }
            return Ok(());
        };
        let looks = Looks { mode: *mode, uid: *uid, gid: *gid };
        if looks != Looks::PLAIN {
            let agent = Agent::serve(path, self.tools.scratch, looks)?;
            path = agent.socket();
            mounted.agents.push(agent);
        }
        if is_first {
            mounted.env.push(format!("SSH_AUTH_SOCK={}", mount.target));
        }
        mounted.mounts.insert(mount.target.clone(), WorkerMount::Bind { path, read_only: false });
        Ok(())
    }

    fn process(&self, id: VertexId, op: &RunOp, pending: &PendingDraft, mounted: &Mounted) -> Result<Exit> {
        let run = self.described(id, op, pending, mounted);
        let vertex = self.digest(id);
        let mut output = |stream: Stream, bytes: &[u8]| self.tools.progress.log(&vertex, stream, bytes);
        self.tools.worker.run(&run, &mut output, self.tools.cancel).map_err(|error| match error.class() {
            Class::Cancelled => error,
            _ => Error::wrap(unfinished(&op.spec.argv), error),
        })
    }

    /// The process as the engine takes it.
    pub(super) fn described(
        &self,
        id: VertexId,
        op: &RunOp,
        pending: &PendingDraft,
        mounted: &Mounted,
    ) -> Run {
        let spec = &op.spec;
        let mut env = spec.env.clone();
        let has = |env: &[String], name: &str| env.iter().any(|entry| entry.split('=').next() == Some(name));
        for (name, value) in &op.proxies {
            if !has(&env, name) {
                env.push(format!("{name}={value}"));
            }
        }
        if !has(&env, "SOURCE_DATE_EPOCH") {
            // What the tools of the field take as the time of all that they make.
            env.push(format!("SOURCE_DATE_EPOCH={}", self.epoch(id)));
        }
        env.extend(mounted.env.iter().cloned());
        Run {
            argv: spec.argv.clone(),
            env,
            cwd: spec.cwd.clone(),
            user: spec.user.clone(),
            hostname: spec.hostname.clone(),
            network: spec.network.clone(),
            insecure: spec.insecure,
            devices: names(&spec.devices),
            extra_hosts: spec.extra_hosts.clone(),
            shm_size: spec.shm_size,
            limits: limits(spec, &self.request.run.limits),
            rootfs: Some(pending.rootfs()),
            mounts: mounted.mounts.clone(),
            conversation: None,
        }
    }
}

/// The limits of a step: those of the build, and its own before them.
fn limits(spec: &RunDefinition, build: &HostConfig) -> HostConfig {
    let mut limits = HostConfig { readonly_rootfs: spec.read_only, ..build.clone() };
    if !spec.cgroup_parent.is_empty() {
        limits.cgroup_parent.clone_from(&spec.cgroup_parent);
    }
    if !spec.ulimits.is_empty() {
        let mut all = limits.ulimits.take().unwrap_or_default();
        all.retain(|other| spec.ulimits.iter().all(|own| own.name != other.name));
        let own = spec.ulimits.iter();
        all.extend(own.map(|own| Ulimit { name: own.name.clone(), soft: own.soft, hard: own.hard }));
        limits.ulimits = Some(all);
    }
    limits
}

fn names(devices: &[RunDevice]) -> Vec<String> {
    devices.iter().map(|device| device.name.clone()).collect()
}

fn size_of(pending: &PendingDraft) -> Result<u64, Failure> {
    let upper = pending.upper();
    let dir = yare_sys::fs::open_dir(&upper)
        .map_err(|error| Error::internal(format!("cannot open {}", upper.display())).caused_by(error))?;
    let size = yare_layer::tree_size(dir.as_fd())
        .map_err(|error| Error::wrap("cannot measure the result of a step", error))?;
    Ok(size)
}

fn unfinished(argv: &[String]) -> String {
    format!("process {:?} did not complete successfully", argv.join(" "))
}

/// The field's words for a process that failed.
fn ended(op: &RunOp, exit: Exit) -> Result<(), Failure> {
    let valid = &op.spec.valid_codes;
    if exit.code == 0 && valid.is_empty() || valid.contains(&exit.code) {
        return Ok(());
    }
    let unfinished = unfinished(&op.spec.argv);
    let mut error = Error::invalid(format!("{unfinished}: exit code: {}", exit.code));
    if exit.oom {
        error = Error::invalid(format!(
            "{unfinished}: cannot allocate memory: it was killed because it ran out of memory (exit code: {})",
            exit.code
        ))
        .with_hint("give the build's steps more memory with --memory, or let the step use less");
    } else if exit.code == 127 {
        error = error
            .with_hint("127 means that a program was not found: is it installed in this stage, and in PATH?");
    } else if exit.code == 126 {
        error = error.with_hint("126 means that a file is no program that can run here: is it executable, and for this architecture?");
    } else if exit.code == 137 {
        error = error.with_hint("137 means that it was killed: by a limit on memory, or by somebody");
    }
    Err(Failure { code: Some(exit.code), ..Failure::from(error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Ulimit as Own;

    #[test]
    fn limits_of_a_step_go_before_those_of_the_build() {
        let limit = |name: &str, soft: i64| Ulimit { name: name.to_owned(), soft, hard: 9 };
        let build = HostConfig {
            memory: 7,
            cgroup_parent: "/build".to_owned(),
            ulimits: Some(vec![limit("nofile", 1), limit("core", 1)]),
            ..HostConfig::default()
        };
        let plain = limits(&RunDefinition::default(), &build);
        assert_eq!(plain, build);
        let own = Own { name: "nofile".to_owned(), soft: 2, hard: 9 };
        let cgroup_parent = "/step".to_owned();
        let spec = RunDefinition { ulimits: vec![own], cgroup_parent, ..RunDefinition::default() };
        let both = limits(&spec, &build);
        assert_eq!((both.memory, both.cgroup_parent.as_str()), (7, "/step"));
        assert_eq!(both.ulimits, Some(vec![limit("core", 1), limit("nofile", 2)]));
    }
}
