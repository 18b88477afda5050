//! What the build engine asks of this one: base images, and processes. A step's process is a container
//! without record, name or log: it lives as long as its build.

use super::caches::CacheRepository;
use super::keys::Keys;
use crate::container::{Record, StateRecord};
use crate::images::{Output, PullRequest, PushRequest};
use crate::networks::join::Wired;
use crate::{Engine, containers, wiring};
use futures_util::StreamExt;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;
use yare_api::build::VertexStatus;
use yare_api::progress::JSONMessage;
use yare_api::{ContainerConfig, ContainerCreateRequest, DeviceRequest, HostConfig};
use yare_build::worker::{Exit, Run, RunMount, Stream, Worker};
use yare_build::{Cancel, ContentStore, Progress};
use yare_cdi::Registry;
use yare_errdefs::{Class, Classified, Error, Result};
use yare_image::Image;
use yare_oci::runtime::{Mount, Spec};
use yare_oci::{Descriptor, Digest, ImageConfig, MediaType, Platform, Reference};
use yare_shim::{AttachSpec, Connection, Launch, LogDriver, LogSpec, Reply};

/// The engine, as one build sees it.
pub(super) struct EngineWorker<'a> {
    engine: &'a Arc<Engine>,
    keys: &'a dyn Keys,
    runtime: Handle,
    progress: &'a Progress,
}

impl<'a> EngineWorker<'a> {
    pub(super) fn new(
        engine: &'a Arc<Engine>,
        keys: &'a dyn Keys,
        (runtime, progress): (Handle, &'a Progress),
    ) -> Self {
        Self { engine, keys, runtime, progress }
    }

    /// Fetches a base image as `pull` does.
    fn pull(&self, reference: &Reference, platform: Option<&Platform>) -> Result<()> {
        let request = PullRequest {
            all_platforms: false,
            reference: reference.to_string(),
            platform: platform.cloned(),
            auth: self.keys.credentials(reference.domain())?,
        };
        let title = format!("[internal] pull {}", reference.familiar());
        self.transfer(&title, crate::images::pull(self.engine, request)).map(drop)
    }

    /// Sends an image of the store to the registry of its name as `push` does.
    pub(super) fn push(&self, reference: &Reference, by_digest: bool) -> Result<Option<Descriptor>> {
        let request = PushRequest {
            name: reference.to_string(),
            tag: None,
            by_digest,
            platform: None,
            auth: self.keys.credentials(reference.domain())?,
        };
        let title = format!("pushing {}", reference.familiar());
        let pushed = self.transfer(&title, crate::images::push(self.engine, request))?;
        let Some(Pushed { digest, size }) = pushed else { return Ok(None) };
        let is_index = self.engine.images.index_of(&reference.to_string()).is_some();
        let media_type = if is_index { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST };
        Ok(Some(Descriptor::new(media_type, digest, size)))
    }

    /// Follows a transfer to its end, and tells of it.
    fn transfer(&self, title: &str, begun: impl Future<Output = Result<Output>>) -> Result<Option<Pushed>> {
        let work = self.progress.work(title);
        let followed = self.follow(work.digest(), begun);
        if let Err(error) = &followed {
            work.failed(&yare_errdefs::chain(error));
        }
        followed
    }

    /// What was pushed, if something was. Waits for each line by itself: who takes the news may wait for the
    /// client, which nobody may do while in the runtime.
    fn follow(&self, vertex: &str, begun: impl Future<Output = Result<Output>>) -> Result<Option<Pushed>> {
        let mut lines = self.runtime.block_on(begun)?;
        let mut pushed = None;
        while let Some(line) = self.runtime.block_on(lines.next()) {
            let message: JSONMessage = serde_json::from_slice(&line?).unwrap_or_default();
            if let Some(detail) = message.error_detail {
                return Err(Error::unavailable(detail.message));
            }
            if let Some(told) = message.aux.and_then(|aux| serde_json::from_value(aux).ok()) {
                pushed = Some(told);
            }
            if let Some(detail) = message.progress_detail.filter(|detail| detail.total > 0) {
                self.progress.status(VertexStatus {
                    id: format!("{} {}", message.id, message.status),
                    vertex: vertex.to_owned(),
                    current: detail.current,
                    total: detail.total,
                    timestamp: yare_build::progress::now(),
                    ..VertexStatus::default()
                });
            }
        }
        Ok(pushed)
    }
}

/// What the last line of a push tells of the manifest or index.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pushed {
    digest: Digest,
    size: u64,
}

impl Worker for EngineWorker<'_> {
    fn image(&self, reference: &Reference, platform: Option<&Platform>, pull: bool) -> Result<Arc<Image>> {
        let name = reference.to_string();
        if !pull {
            match self.engine.images.resolve(&name, platform) {
                Err(error) if error.class() == Class::NotFound => {}
                found => return found.inspect(|image| self.engine.images.touch(&image.id)),
            }
        }
        self.pull(reference, platform).map_err(|error| {
            let (Some(wanted), Ok(other)) = (platform, self.engine.images.resolve(&name, None)) else {
                return error;
            };
            let (name, has) = (reference.familiar(), other.config.platform());
            let text = format!("{name}: not found for {wanted}: the image store has it for {has}");
            Error::not_found(text)
                .caused_by(error)
                .with_hint(format!("build for {has}, or load the image for {wanted} and tag it {name}"))
        })?;
        self.engine.images.resolve(&name, platform)
    }

    fn run(&self, run: &Run, output: &mut dyn FnMut(Stream, &[u8]), cancel: &Cancel) -> Result<Exit> {
        let step = Step::new(self.engine, run)?;
        let exit = step.run(run, output, cancel);
        if exit.is_err() {
            // Its shim may not have lived to do so; what still ran would write into a stage that is given up.
            crate::task::clear_group_now(self.engine, &step.record);
        }
        exit
    }

    fn devices(&self) -> Registry {
        crate::devices::registry(self.engine)
    }

    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        self.keys.secret(id)
    }

    fn ssh(&self, id: &str) -> Result<Option<PathBuf>> {
        self.keys.agent(id)
    }

    fn repository(
        &self,
        reference: &Reference,
        write: bool,
        cancel: &Cancel,
    ) -> Result<Box<dyn ContentStore + '_>> {
        let auth = self.keys.credentials(reference.domain())?;
        let opened = CacheRepository::open(self.engine, &self.runtime, (reference, &auth), write, cancel)?;
        Ok(Box::new(opened))
    }

    fn client_folder(&self, id: &str) -> Result<Box<dyn ContentStore + '_>> {
        self.keys.folder(id)
    }
}

/// The container of one step; what was made for it goes with it.
pub(super) struct Step<'a> {
    engine: &'a Arc<Engine>,
    pub(super) record: Record,
}

impl<'a> Step<'a> {
    pub(super) fn new(engine: &'a Arc<Engine>, run: &Run) -> Result<Self> {
        let id = crate::random_id();
        let request = request(run);
        let mut plan = yare_specgen::settle(&request, &ImageConfig::default(), &engine.facts)
            .map_err(containers::create::together)?;
        plan.identify(&id);
        let config = std::mem::take(&mut plan.config);
        let host_config = std::mem::take(&mut plan.host_config);
        let record = Record {
            name: format!("build-{}", &id[..12]),
            id,
            created: engine.clock.now(),
            image: Digest::of(""),
            image_name: String::new(),
            layers: Vec::new(),
            config,
            host_config,
            networks: BTreeMap::new(),
            links: Vec::new(),
            plan,
            mounts: Vec::new(),
            origins: BTreeMap::new(),
            anonymous: Vec::new(),
            state: StateRecord::default(),
            endpoints: Vec::new(),
        };
        let step = Self { engine, record };
        let folder = engine.container_dir(&step.record.id);
        std::fs::DirBuilder::new().mode(0o710).create(&folder).map_err(|error| {
            Error::internal(format!("cannot make the folder {}", folder.display())).caused_by(error)
        })?;
        Ok(step)
    }

    /// Runs the process to its end.
    fn run(&self, run: &Run, output: &mut dyn FnMut(Stream, &[u8]), cancel: &Cancel) -> Result<Exit> {
        let mut process = self.launch(run)?;
        let killed = process.forward(output, cancel)?;
        let exit = process.wait()?;
        if killed {
            cancel.check()?;
        }
        Ok(exit)
    }

    /// Starts the process. As the start of a container, without anything that is kept.
    pub(super) fn launch(&self, run: &Run) -> Result<Process<'_>> {
        let conversation = run.conversation.unwrap_or_default();
        let (engine, record) = (self.engine, &self.record);
        let network = Wired::connect(engine, record)?;
        wiring::write_files(engine, record, &network.endpoints)?;
        let mut spec = wiring::spec(engine, record)?;
        let run_dir = containers::start::make_run_dir(engine, record, network.endpoints.clone())?;
        self.mount(run, &run_dir, &mut spec)?;
        let rootfs = run.rootfs.clone().ok_or_else(|| Error::internal("a step without a file system"))?;
        let failed = |error: std::io::Error| {
            Error::unavailable("cannot make a socket pair for the output of a step").caused_by(error)
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let launch = Launch {
            id: record.id.clone(),
            groups: wiring::groups(record, &spec),
            spec,
            rootfs: wiring::rootfs(rootfs),
            user: record.plan.user.clone(),
            cgroup_path: engine.cgroup_path(record),
            log: LogSpec { driver: LogDriver::None, ..LogSpec::default() },
            run_dir,
            attaches: vec![AttachSpec { stdin: conversation.stdin, stdout: true, stderr: true }],
            open_stdin: conversation.stdin,
            stdin_once: conversation.stdin,
            terminal: conversation.terminal,
            has_netns: network.netns.is_some(),
            own_roots: vec![engine.config.data_root.clone(), engine.config.exec_root.clone()],
            ..Launch::default()
        };
        let theirs: OwnedFd = theirs.into();
        let descriptors: Vec<_> = network.netns.iter().chain([&theirs]).map(AsFd::as_fd).collect();
        let folder = launch.run_dir.clone();
        let control = engine.launcher.launch(launch, &descriptors)?;
        drop(descriptors);
        drop(theirs);
        let lost = |error: std::io::Error| {
            Error::internal("the shim of a step ended before it answered").caused_by(error)
        };
        let reply = yare_shim::recv_reply(&control, crate::task::START).inspect_err(|error| {
            if error.kind() == std::io::ErrorKind::TimedOut {
                yare_shim::kill_shim(&folder);
            }
        });
        match reply.map_err(lost)? {
            (Reply::Started { .. }, descriptors) => {
                let pidfd = descriptors
                    .into_iter()
                    .next()
                    .ok_or_else(|| lost(std::io::ErrorKind::InvalidData.into()))?;
                Ok(Process { pidfd, output: ours, control: Connection::new(control), _network: network })
            }
            (Reply::Failed(failure), _) => Err(failure.into_error()),
            _ => Err(lost(std::io::ErrorKind::InvalidData.into())),
        }
    }

    /// Adds the step's own mounts, the deeper ones later.
    fn mount(&self, run: &Run, run_dir: &Path, spec: &mut Spec) -> Result<()> {
        let mut mounts: Vec<(&String, &RunMount)> = run.mounts.iter().collect();
        mounts.sort_by_key(|(destination, _)| destination.matches('/').count());
        let files = run_dir.join("files");
        for (index, (destination, mount)) in mounts.into_iter().enumerate() {
            let (kind, source, options) = match mount {
                RunMount::Bind { path, read_only } => {
                    ("bind", path.display().to_string(), bind_options(*read_only))
                }
                RunMount::File { content, mode, uid, gid } => {
                    let path = files.join(index.to_string());
                    write_private(&files, &path, content, *mode, (*uid, *gid))?;
                    ("bind", path.display().to_string(), bind_options(true))
                }
                RunMount::Tmpfs { size } => {
                    let mut options = vec!["nosuid".to_owned(), "mode=1777".to_owned()];
                    if *size > 0 {
                        options.push(format!("size={size}"));
                    }
                    ("tmpfs", "tmpfs".to_owned(), options)
                }
                RunMount::Overlay { lower, upper, work } => (
                    "overlay",
                    "overlay".to_owned(),
                    overlay_options(lower, upper.as_deref(), work.as_deref()),
                ),
            };
            spec.mounts.push(Mount {
                destination: destination.clone(),
                kind: kind.to_owned(),
                source,
                options,
                ..Mount::default()
            });
        }
        Ok(())
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.engine.trash_run_dir(&self.record.id);
        if let Err(error) = self.engine.trash.take(&self.engine.container_dir(&self.record.id)) {
            tracing::warn!(
                error = yare_errdefs::chain(&error),
                "a folder of a build step stays until the next start"
            );
        }
    }
}

fn bind_options(read_only: bool) -> Vec<String> {
    let mut options = vec!["rbind".to_owned(), "rprivate".to_owned()];
    if read_only {
        options.push("ro".to_owned());
    }
    options
}

fn overlay_options(lower: &[PathBuf], upper: Option<&Path>, work: Option<&Path>) -> Vec<String> {
    let mut options: Vec<String> = lower.iter().map(|dir| format!("lowerdir+={}", dir.display())).collect();
    let own = yare_snapshot::OVERLAY_OPTIONS.iter().map(|(name, value)| format!("{name}={value}"));
    options.extend(own);
    match (upper, work) {
        (Some(upper), Some(work)) => {
            options.push(format!("upperdir={}", upper.display()));
            options.push(format!("workdir={}", work.display()));
            options.push("volatile".to_owned());
        }
        _ => options.push("ro".to_owned()),
    }
    options
}

/// Writes a file into the run directory, which is in memory: a secret never reaches a disk.
fn write_private(folder: &Path, path: &Path, content: &[u8], mode: u32, owner: (u32, u32)) -> Result<()> {
    let failed =
        |error: std::io::Error| Error::internal(format!("cannot write {}", path.display())).caused_by(error);
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    std::fs::write(path, content).map_err(failed)?;
    std::os::unix::fs::chown(path, Some(owner.0), Some(owner.1)).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

/// A step as a request for a container, so that the same rules settle it.
fn request(run: &Run) -> ContainerCreateRequest {
    let conversation = run.conversation.unwrap_or_default();
    let config = ContainerConfig {
        tty: conversation.terminal,
        open_stdin: conversation.stdin,
        cmd: Some(run.argv.clone()),
        env: Some(run.env.clone()),
        working_dir: run.cwd.clone(),
        user: run.user.clone(),
        hostname: if run.network == "host" { String::new() } else { run.hostname.clone() },
        attach_stdout: true,
        attach_stderr: true,
        ..ContainerConfig::default()
    };
    let host_config = HostConfig {
        network_mode: if run.network == "default" { String::new() } else { run.network.clone() },
        extra_hosts: (!run.extra_hosts.is_empty()).then(|| run.extra_hosts.clone()),
        privileged: run.insecure,
        shm_size: run.shm_size,
        // The step's own program is process 1, as in the field: what it leaves running ends with it.
        init: Some(false),
        device_requests: devices(&run.devices),
        ..run.limits.clone()
    };
    ContainerCreateRequest { config, host_config: Some(host_config), ..ContainerCreateRequest::default() }
}

/// Devices by qualified names, as a container asks for them.
fn devices(names: &[String]) -> Option<Vec<DeviceRequest>> {
    let request = DeviceRequest {
        driver: "cdi".to_owned(),
        device_ids: Some(names.to_vec()),
        ..DeviceRequest::default()
    };
    (!names.is_empty()).then(|| vec![request])
}

/// A process under way.
pub(super) struct Process<'a> {
    pub(super) pidfd: OwnedFd,
    pub(super) output: UnixStream,
    pub(super) control: Connection,
    pub(super) _network: Wired<'a>,
}

/// How often a silent process is looked at for a cancelled build.
pub(super) const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The longest piece of output that a shim frames.
const LONGEST_FRAME: usize = 1 << 20;

impl Process<'_> {
    /// Passes output on until it ends. `true` when the process was killed because the build was cancelled.
    fn forward(&mut self, output: &mut dyn FnMut(Stream, &[u8]), cancel: &Cancel) -> Result<bool> {
        let failed =
            |error: std::io::Error| Error::internal("cannot read the output of a step").caused_by(error);
        let mut killed = false;
        let mut pending = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            if cancel.is_cancelled() && !killed {
                killed = true;
                // It may have ended by itself.
                let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            }
            let mut wait = [PollFd::new(&self.output, PollFlags::IN)];
            match rustix::event::poll(&mut wait, Some(&LOOK)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(failed(error.into())),
            }
            match self.output.read(&mut buffer) {
                Ok(0) => return Ok(killed),
                Ok(count) => pending.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(killed),
                Err(error) => return Err(failed(error)),
            }
            let used = frames(&pending, output)?;
            pending.drain(..used);
        }
    }

    /// The exit, which the shim tells when all output was taken.
    fn wait(&mut self) -> Result<Exit> {
        let lost = || {
            Error::internal("the shim of a step died, and with it the step's exit code")
                .with_hint("build again; if it happens again, look into the engine's log")
        };
        loop {
            match self.control.recv().map_err(|error| lost().caused_by(error))? {
                Some((Reply::Exited(exit), _)) => return Ok(Exit { code: exit.code, oom: exit.oom }),
                Some(_) => {}
                None => return Err(lost()),
            }
        }
    }
}

/// Takes whole frames off the front: kind, three zeros, length in network order, bytes.
fn frames(mut bytes: &[u8], output: &mut dyn FnMut(Stream, &[u8])) -> Result<usize> {
    let all = bytes.len();
    while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if length > LONGEST_FRAME {
            return Err(Error::internal("a step's output is damaged: a frame is too long"));
        }
        let Some(piece) = rest.get(..length) else { break };
        output(if head[0] == 2 { Stream::Stderr } else { Stream::Stdout }, piece);
        bytes = &rest[length..];
    }
    Ok(all - bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_may_be_split_anywhere() {
        let wire =
            [&[1, 0, 0, 0, 0, 0, 0, 2][..], b"ab", &[2, 0, 0, 0, 0, 0, 0, 1], b"c", &[1, 0, 0]].concat();
        let mut said = Vec::new();
        let mut take = |stream: Stream, bytes: &[u8]| said.push((stream, bytes.to_vec()));
        assert_eq!(frames(&wire[..9], &mut take).unwrap(), 0);
        assert_eq!(frames(&wire, &mut take).unwrap(), 19);
        assert_eq!(said, [(Stream::Stdout, b"ab".to_vec()), (Stream::Stderr, b"c".to_vec())]);
        assert!(frames(&[1, 0, 0, 0, 255, 0, 0, 0], &mut |_, _| ()).is_err());
    }
}
