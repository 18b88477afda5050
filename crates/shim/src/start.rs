//! From a [`Launch`] to a running container.

use crate::exit;
use crate::hooks::Hooks;
use crate::journal::Journal;
use crate::launcher::Surroundings;
use crate::log::Log;
use crate::protocol::{ExecSpec, Failure, Launch, MountOrigin};
use crate::rootfs;
use crate::session::{Session, StreamOptions};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::thread::LinkNameSpaceType;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use yare_cgroup::Group;
use yare_errdefs::{Classified, Error};
use yare_oci::runtime::{ConsoleSize, Process, Spec};
use yare_runtime::{ExecTarget, Filter, Origin, Running, Start, StartError};

/// Name of the file whose lock the shim of a run directory holds until it has cleaned up behind the
/// container, and in which its process id stands.
const PID_FILE: &str = "shim.pid";

/// A container that runs, and everything the shim has of it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) run_dir: PathBuf,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) group: Group,
    pub(crate) session: Session,
    pub(crate) log: Log,
    pub(crate) journal: Journal,
    pub(crate) listener: UnixListener,
    /// Held while the run directory, the cgroup and the log are this shim's.
    pub(crate) lock: OwnedFd,
    pub(crate) filter: Option<Filter>,
    /// Whether the kernel ends all its processes with the first.
    pub(crate) own_pids: bool,
    /// Programs that are told of its end.
    pub(crate) hooks: Option<Hooks>,
    /// Its mount namespace, held so that its mounts go when the shim cleans up and not in the middle of the end
    /// that others wait for. `None` when something of the user's is mounted: who has been told of the end
    /// must be able to unmount that.
    pub(crate) mounts: Option<OwnedFd>,
}

/// Starts the container of `launch`; `descriptors` are those that came with it.
pub(crate) fn start(
    mut launch: Launch,
    descriptors: Vec<OwnedFd>,
    surroundings: &Surroundings,
) -> Result<Container, Failure> {
    let lock = take_run_dir(&launch.run_dir).map_err(|error| failed("take the run directory", error))?;
    if needs_host_mounts(&launch) {
        rustix::thread::move_into_link_name_space(
            surroundings.mounts.as_fd(),
            Some(LinkNameSpaceType::Mount),
        )
        .map_err(|error| failed("enter the host's mount namespace", error.into()))?;
    }
    let resources = launch.spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let (group, warnings) = Group::create(&surroundings.host, &launch.cgroup_path, resources)
        .map_err(|error| Failure::new(&error))?;
    let guard = GroupGuard(Some(&group));
    let mut journal = Journal::new(&launch.run_dir);
    warnings.iter().for_each(|warning| journal.note(warning));
    let filter = launch.filter.take();
    let mut hooks = Hooks::prepare(&launch.id, &launch.spec, &launch.run_dir)
        .map_err(|error| failed("make a bundle for hooks", error))?;
    let started = start_in(&launch, filter, descriptors, &group, &mut journal).inspect_err(|_| {
        if let Some(hooks) = &mut hooks {
            hooks.stopped(&mut journal);
        }
    })?;
    guard.keep();
    if let Some(hooks) = &mut hooks {
        hooks.started(started.running.pid, &mut journal);
    }
    let mounts = if needs_host_mounts(&launch) { None } else { mounts_of(started.running.pid) };
    let Launch { id, run_dir, spec, .. } = launch;
    let own_pids = has_own_pids(&spec);
    let Started { running, filter, session, log, listener } = started;
    let Running { pid, pidfd, .. } = running;
    Ok(Container {
        id,
        run_dir,
        pid,
        pidfd,
        group,
        session,
        log,
        journal,
        listener,
        lock,
        filter,
        own_pids,
        hooks,
        mounts,
    })
}

/// The mount namespace of a process; `None` when that has ended already.
fn mounts_of(pid: i32) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{pid}/ns/mnt"), flags, Mode::empty()).ok()
}

/// What [`start_in`] makes.
struct Started {
    running: Running,
    filter: Option<Filter>,
    session: Session,
    log: Log,
    listener: UnixListener,
}

fn start_in(
    launch: &Launch,
    filter: Option<Filter>,
    descriptors: Vec<OwnedFd>,
    group: &Group,
    journal: &mut Journal,
) -> Result<Started, Failure> {
    let mut descriptors = descriptors.into_iter();
    let netns = if launch.has_netns { descriptors.next() } else { None };
    let log = Log::open(&launch.log, &launch.run_dir)?;
    let process = launch.spec.process.as_ref();
    let options = StreamOptions {
        terminal: launch.terminal.then(|| size_of(process)),
        open_stdin: launch.open_stdin,
        stdin_once: launch.stdin_once,
    };
    let (mut session, stdio) = Session::open(options).map_err(|error| failed("make the streams", error))?;
    for (spec, socket) in launch.attaches.iter().zip(descriptors) {
        session.attach(socket, *spec);
    }
    let listener = listen(&launch.run_dir).map_err(|error| failed("listen", error))?;
    let root = rootfs::open(&launch.rootfs, &launch.run_dir).map_err(|error| Failure::new(&error))?;
    let origins = origins(launch)?;
    let mut created = yare_runtime::create(Start {
        id: &launch.id,
        spec: &launch.spec,
        root,
        origins: &origins,
        stdio,
        netns,
        init: launch.init,
        user: Some(launch.user.as_str()).filter(|user| !user.is_empty()),
        groups: &launch.groups,
        filter,
        group,
        bundle: launch.spec.hooks.is_some().then_some(launch.run_dir.as_path()),
        gate: None,
    })
    .map_err(|error| start_failed(&error))?;
    let filter = created.filter.take();
    let mut running = created.start().map_err(|error| start_failed(&error))?;
    running.warnings.iter().for_each(|warning| journal.note(warning));
    if let Some(console) = running.console.take() {
        session.set_console(console).map_err(|error| failed("use the terminal", error))?;
    }
    Ok(Started { running, filter, session, log, listener })
}

/// Trees made, the rest as it was sent.
fn origins(launch: &Launch) -> Result<Vec<Origin>, Failure> {
    let one = |origin: &MountOrigin| {
        let tree = origin.tree.as_ref().map(|tree| rootfs::tree(tree, &launch.run_dir)).transpose()?;
        let (destination, subpath) = (origin.destination.clone(), origin.subpath.clone());
        Ok(Origin { destination, tree, subpath, id_map: origin.id_map.clone() })
    };
    launch.origins.iter().map(one).collect::<yare_errdefs::Result<_>>().map_err(|error| Failure::new(&error))
}

/// Runs another process in the container.
pub(crate) fn exec(
    container: &Container,
    spec: &ExecSpec,
    socket: Option<OwnedFd>,
) -> Result<(Running, Session), Failure> {
    let options = StreamOptions {
        terminal: spec.terminal.then(|| size_of(Some(&spec.process))),
        // Input that nobody could ever end would keep the process for ever.
        open_stdin: spec.open_stdin && spec.attach.is_some_and(|attach| attach.stdin),
        stdin_once: true,
    };
    let (mut session, stdio) = Session::open(options).map_err(|error| failed("make the streams", error))?;
    if let Some((attach, socket)) = spec.attach.zip(socket) {
        session.attach(socket, attach);
    }
    let target = ExecTarget {
        pidfd: container.pidfd.as_fd(),
        group: &container.group,
        filter: container.filter.as_ref(),
    };
    let user = Some(spec.user.as_str()).filter(|user| !user.is_empty());
    let mut running = yare_runtime::exec(&target, &spec.process, stdio, user, &spec.groups)
        .map_err(|error| start_failed(&error))?;
    if let Some(console) = running.console.take() {
        session.set_console(console).map_err(|error| failed("use the terminal", error))?;
    }
    Ok((running, session))
}

/// Removes the cgroup of a start that failed.
struct GroupGuard<'a>(Option<&'a Group>);

impl GroupGuard<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for GroupGuard<'_> {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = group.kill();
            let _ = group.remove();
        }
    }
}

/// Waits until an earlier shim of the same container has cleaned up, and forgets its exit.
fn take_run_dir(run_dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(run_dir.join(PID_FILE), flags, Mode::from_raw_mode(0o600))?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))?;
    // For an engine that waits in vain.
    let own = format!("{}\n", std::process::id());
    rustix::io::pwrite(&lock, own.as_bytes(), 0)?;
    rustix::fs::ftruncate(&lock, own.len() as u64)?;
    match rustix::fs::unlink(run_dir.join(exit::FILE)) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(lock),
        Err(error) => Err(error.into()),
    }
}

/// Whether a shim has the run directory: it is beginning, runs, or cleans up.
pub fn is_locked(run_dir: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Ok(lock) = rustix::fs::open(run_dir.join(PID_FILE), flags, Mode::empty()) else { return false };
    // Should a shim come just now, it waits for the lock, which goes with the descriptor.
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// Writes this process's id and the container's where a restarted engine looks for them.
pub(crate) fn write_pids(lock: &OwnedFd, container: i32) -> io::Result<()> {
    let pids = format!("{}\n{container}\n", std::process::id());
    rustix::io::pwrite(lock, pids.as_bytes(), 0)?;
    Ok(rustix::fs::ftruncate(lock, pids.len() as u64)?)
}

/// Process 1 of the container of a run directory, as its shim has noted it: for an engine that finds the shim
/// dead. Whether the number still means that process is for the caller to find out.
pub fn noted_pid(run_dir: &Path) -> Option<i32> {
    std::fs::read_to_string(run_dir.join(PID_FILE)).ok()?.lines().nth(1)?.parse().ok()
}

/// Kills the shim of a run directory, because it does not answer; its container is left alone. `false` when
/// there is none.
pub fn kill_shim(run_dir: &Path) -> bool {
    living_shim(run_dir).is_some_and(|(_, process)| yare_sys::process::pidfd_send_signal(&process, 9).is_ok())
}

/// The shim of a run directory, if it lives: its number, and a descriptor of that process.
pub fn living_shim(run_dir: &Path) -> Option<(i32, OwnedFd)> {
    let noted = std::fs::read_to_string(run_dir.join(PID_FILE)).ok()?;
    let pid = noted.lines().next()?.parse::<i32>().ok()?;
    let process = yare_sys::process::pidfd_open(pid).ok()?;
    // Whoever has the lock has written the number; the rest of doubt is that it was just about to.
    let is_ours =
        || std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"yare-"));
    (is_locked(run_dir) && is_ours()).then_some((pid, process))
}

/// Whether the launcher's trimmed mounts do not do: something from outside our own roots is mounted, mounts are
/// to propagate, or programs of the host are run.
fn needs_host_mounts(launch: &Launch) -> bool {
    let own = |path: &Path| launch.own_roots.iter().any(|root| path.starts_with(root));
    let propagates = |option: &String| {
        let kind = option.strip_prefix('r').unwrap_or(option);
        matches!(kind, "shared" | "slave")
    };
    let is_bind = |option: &String| option == "bind" || option == "rbind";
    let mounts = launch.spec.mounts.iter().any(|mount| {
        let bind = mount.kind == "bind" || mount.options.iter().any(is_bind);
        (bind && !own(Path::new(&mount.source))) || mount.options.iter().any(propagates)
    });
    let root = match &launch.rootfs {
        crate::protocol::Rootfs::Bind(path) => !own(path),
        crate::protocol::Rootfs::Overlay { .. } => false,
    };
    let linux = launch.spec.linux.as_ref();
    launch.host_mounts
        || mounts
        || root
        || launch.spec.hooks.is_some()
        || linux.is_some_and(|linux| propagates(&linux.rootfs_propagation))
}

fn has_own_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux.iter().flat_map(|linux| &linux.namespaces);
    namespaces.into_iter().any(|namespace| namespace.kind == "pid" && namespace.path.is_empty())
}

/// The socket's name may be left from a shim that was killed; the lock says that it is gone.
fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    let directory =
        rustix::fs::open(run_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let _ = rustix::fs::unlinkat(&directory, crate::client::SOCKET, rustix::fs::AtFlags::empty());
    let listener = UnixListener::bind(crate::wire::short_path(directory.as_fd(), crate::client::SOCKET))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn size_of(process: Option<&Process>) -> Option<(u16, u16)> {
    let ConsoleSize { height, width } = process?.console_size.clone()?;
    Some((height, width))
}

fn failed(what: &str, error: io::Error) -> Failure {
    Failure::new(&Error::internal(format!("shim: cannot {what}")).caused_by(error))
}

fn start_failed(error: &StartError) -> Failure {
    let step = serde_json::to_value(error.step()).ok();
    let step = step.and_then(|step| step.as_str().map(str::to_owned));
    Failure {
        class: format!("{:?}", error.class()),
        message: error.to_string(),
        hint: error.hint(),
        step,
        exit_code: error.exit_code(),
    }
}
