//! The child's side of a start: from a fork of the caller to the container's program.

use crate::channel::{self, Report, await_joined, report};
use crate::confine::{self, Confinement};
use crate::error::{Result, StartError, Step};
use crate::mounts::{self, Layout};
use crate::program::Program;
use crate::rootfs::{self, Links};
use crate::user::{self, Wanted};
use crate::{Gate, Origin, Root, Stdio, devices, hooks, idmap, init, masks, sysctl};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::DumpableBehavior;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use yare_cgroup::Group;
use yare_oci::runtime::{Hooks, Process, Spec, State};
use yare_sys::mount::{Attributes, Propagation, clone_tree, set_attributes};
use yare_sys::process::{self as sys, Fork, TitleArea};

/// What the child needs, prepared by the caller before the fork.
pub(crate) struct Plan<'a> {
    pub(crate) id: &'a str,
    pub(crate) spec: &'a Spec,
    pub(crate) process: &'a Process,
    pub(crate) root: &'a Root,
    pub(crate) origins: &'a [Origin],
    pub(crate) stdio: &'a Stdio,
    /// Namespaces to join, in order.
    pub(crate) joins: &'a [(OwnedFd, u64)],
    pub(crate) new_cgroup_namespace: bool,
    pub(crate) init: bool,
    pub(crate) user: Option<Wanted<'a>>,
    pub(crate) group: &'a Group,
    pub(crate) bundle: &'a Path,
    pub(crate) gate: Option<&'a Gate>,
    pub(crate) channel: &'a OwnedFd,
}

/// Becomes the container. A failure is reported and ends the process.
pub(crate) fn become_container(plan: &Plan<'_>) -> ! {
    let error = caught(|| walk(plan));
    fail(plan.channel, plan.gate, error)
}

/// Why a walk ended. A panic must not unwind into the caller's frames, which this process has a copy of.
pub(crate) fn caught(walk: impl FnOnce() -> Result<Infallible>) -> StartError {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(walk)) {
        Ok(Err(error)) => error,
        Err(_) => StartError::internal(Step::Spec, "a fault in the runtime (panic)"),
    }
}

/// Reports a failure to whoever waits and ends the process with the code a shell would give.
pub(crate) fn fail(channel: &OwnedFd, gate: Option<&Gate>, error: StartError) -> ! {
    let code = error.exit_code().unwrap_or(125);
    if let Some(gate) = gate {
        let _ = rustix::io::write(&gate.status, &serde_json::to_vec(&error).unwrap_or_default());
    }
    let _ = report(channel, &Report::Failed(error), None);
    sys::exit_now(code)
}

fn walk(plan: &Plan<'_>) -> Result<Infallible> {
    let mut warnings = Vec::new();
    leave_the_caller()?;
    join_namespaces(plan.joins)?;
    let hooks = plan.spec.hooks.clone().unwrap_or_default();
    if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() {
        report(plan.channel, &Report::Namespaces, None)?;
    }
    let mut sources = mounts::clone_sources(plan.spec, plan.origins)?;
    let root = take_root(plan.root)?;
    mounts::make_private()?;
    mounts::narrow_trees(plan.spec, plan.origins, &mut sources)?;
    let counted = idmap::apply(plan, &sources, &root)?;
    mounts::attach_root(&root, &place_of_root(plan, &hooks))?;
    let mut filter = None;
    if plan.new_cgroup_namespace {
        filter = await_joined(plan.channel)?;
        sys::unshare(sys::NEWCGROUP)
            .map_err(|error| StartError::io(Step::Namespaces, "cannot make a cgroup namespace", error))?;
    }
    let mut layout = Layout { root, proc: None, devpts: None, foreign_dev: false };
    mounts::attach_all(&mut layout, plan.spec, sources, plan.group)?;
    let null = devices::populate(&layout, plan.spec)?;
    let streams = Streams::open(plan, &layout)?;
    let proc = trusted_proc(&mut layout)?;
    sysctl::apply(proc.as_fd(), plan.spec)?;
    set_names(plan.spec)?;
    if let Some(score) = plan.process.oom_score_adj {
        confine::set_oom_score(proc.as_fd(), score, &mut warnings)?;
    }
    confine::set_apparmor(proc.as_fd(), &plan.process.apparmor_profile)?;
    let own_profile = match plan.init {
        true => confine::open_own_apparmor(proc.as_fd(), &plan.process.apparmor_profile)?,
        false => None,
    };
    masks::make_readonly(&layout, plan.spec)?;
    masks::mask(&layout, plan.spec, &null)?;
    let mut joined = plan.new_cgroup_namespace;
    if !hooks.create_container.is_empty() {
        // They run after the caller's, which are done when this order comes.
        if !std::mem::replace(&mut joined, true) {
            filter = await_joined(plan.channel)?;
        }
        hooks::run(&hooks.create_container, &state(plan, "creating"))?;
    }
    // Later /proc is the container's, which may be anything.
    let title = if plan.init { TitleArea::find() } else { None };
    mounts::pivot(&layout.root)?;
    let settled = Settled::new(&layout.root, plan.process, plan.user)?;
    if let Some(counted) = counted {
        counted.check(settled.uid, settled.gid)?;
    }
    enter_directory(&layout.root, &plan.process.cwd, Missing::Made)?;
    mounts::finish_root(&layout, plan.spec)?;
    confine::set_limits(plan.process, &mut warnings)?;
    if !joined {
        filter = await_joined(plan.channel)?;
    }
    let confinement = Confinement {
        process: plan.process,
        uid: settled.uid,
        gid: settled.gid,
        groups: &settled.groups,
        filter: filter.as_ref(),
    };
    if plan.init {
        fork_program(&confinement, &streams, title, &own_profile)?;
    }
    run_program(plan, &settled.program, &confinement, &streams, warnings)
}

/// Not dumpable until the program runs, a session and keyring of its own, nothing of the caller's open after `execve`.
pub(crate) fn leave_the_caller() -> Result<()> {
    let failed = |error: std::io::Error| StartError::io(Step::Namespaces, "cannot leave the caller", error);
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| failed(error.into()))?;
    rustix::process::umask(Mode::empty());
    sys::cloexec_from(3).map_err(failed)?;
    rustix::process::setsid().map_err(|error| failed(error.into()))?;
    // Keys of the host's session stay there; out of quota (or forbidden) is no reason not to start.
    let _ = sys::new_session_keyring();
    Ok(())
}

fn join_namespaces(joins: &[(OwnedFd, u64)]) -> Result<()> {
    for (namespace, kind) in joins {
        sys::join_namespaces(namespace, *kind)
            .map_err(|error| StartError::io(Step::Namespaces, "cannot join a namespace", error))?;
    }
    Ok(())
}

/// Where the root is attached until the pivot: out of the way, or where hooks in the container's namespace look
/// for it.
fn place_of_root(plan: &Plan<'_>, hooks: &Hooks) -> PathBuf {
    match plan.root {
        _ if hooks.create_container.is_empty() => PathBuf::from("/"),
        Root::Path(path) => path.clone(),
        Root::Detached(_) => plan.bundle.join(crate::BUNDLE_ROOT),
    }
}

fn take_root(root: &Root) -> Result<OwnedFd> {
    match root {
        Root::Detached(mount) => rustix::io::fcntl_dupfd_cloexec(mount, 3)
            .map_err(|error| StartError::io(Step::Root, "cannot take the root", error)),
        Root::Path(path) => {
            let failed = |error| {
                StartError::io(Step::Root, format!("cannot use {} as the root", path.display()), error)
            };
            let name = CString::new(path.as_os_str().as_bytes())
                .map_err(|_| failed(std::io::ErrorKind::InvalidInput.into()))?;
            let clone = clone_tree(CWD, &name, true).map_err(failed)?;
            set_attributes(&clone, &Attributes::propagation(Propagation::Private), true).map_err(failed)?;
            Ok(clone)
        }
    }
}

/// The procfs the specification mounted, or one that nobody else sees.
fn trusted_proc(layout: &mut Layout) -> Result<OwnedFd> {
    if let Some(proc) = layout.proc.take() {
        return Ok(proc);
    }
    private_proc()
}

/// A procfs that is attached nowhere.
pub(crate) fn private_proc() -> Result<OwnedFd> {
    yare_sys::mount::new_filesystem("proc", Some("proc"), &[], rustix::mount::MountAttrFlags::empty())
        .map_err(|error| StartError::io(Step::Sysctl, "cannot open a private procfs", error))
}

fn set_names(spec: &Spec) -> Result<()> {
    let failed = |what: &'static str| move |error| StartError::io(Step::Sysctl, what, error);
    if !spec.hostname.is_empty() {
        rustix::system::sethostname(spec.hostname.as_bytes()).map_err(failed("cannot set the host name"))?;
    }
    if !spec.domainname.is_empty() {
        rustix::system::setdomainname(spec.domainname.as_bytes())
            .map_err(failed("cannot set the domain name"))?;
    }
    Ok(())
}

/// The state that hooks get.
fn state(plan: &Plan<'_>, status: &str) -> State {
    State {
        oci_version: "1.2.0".to_string(),
        id: plan.id.to_string(),
        status: status.to_string(),
        pid: Some(rustix::process::getpid().as_raw_nonzero().get()),
        bundle: plan.bundle.to_string_lossy().into_owned(),
        annotations: plan.spec.annotations.clone(),
    }
}

/// Where the program's streams come from.
enum Streams<'a> {
    Given(&'a OwnedFd, &'a OwnedFd, &'a OwnedFd),
    Terminal { master: OwnedFd, slave: OwnedFd },
}

impl<'a> Streams<'a> {
    fn open(plan: &Plan<'a>, layout: &Layout) -> Result<Self> {
        match plan.stdio {
            Stdio::Descriptors { stdin, stdout, stderr } => Ok(Self::Given(stdin, stdout, stderr)),
            Stdio::Terminal { size } => {
                let pty = match &layout.devpts {
                    Some(devpts) => devices::open_terminal(devpts, *size)?,
                    None => devices::open_terminal(devices::find_devpts(&layout.root)?, *size)?,
                };
                if !layout.foreign_dev {
                    devices::attach_console(layout, &pty.slave)?;
                }
                Ok(Self::Terminal { master: pty.master, slave: pty.slave })
            }
        }
    }

    fn ends(&self) -> [BorrowedFd<'_>; 3] {
        match self {
            Self::Given(stdin, stdout, stderr) => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            Self::Terminal { slave, .. } => [slave.as_fd(); 3],
        }
    }

    fn master(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Given(..) => None,
            Self::Terminal { master, .. } => Some(master.as_fd()),
        }
    }

    fn terminal(&self) -> Option<&OwnedFd> {
        match self {
            Self::Given(..) => None,
            Self::Terminal { slave, .. } => Some(slave),
        }
    }
}

/// Identity, environment and program, looked up in the container's root.
pub(crate) struct Settled {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) program: Program,
}

impl Settled {
    /// Looks everything up. The root is the container's, the files in it are not trusted.
    pub(crate) fn new(root: &OwnedFd, process: &Process, wanted: Option<Wanted<'_>>) -> Result<Self> {
        let user = &process.user;
        let mut settled_home = None;
        let (uid, gid, mut groups) = match wanted {
            Some(wanted) => {
                let identity = user::resolve(root, wanted)?;
                settled_home = Some(identity.home);
                (identity.uid, identity.gid, identity.groups)
            }
            None => (user.uid, user.gid, Vec::new()),
        };
        for gid in &user.additional_gids {
            // With a name to look up, what the caller guessed for the primary group does not count.
            if !groups.contains(gid) && (wanted.is_none() || *gid != user.gid) {
                groups.push(*gid);
            }
        }
        if i32::try_from(uid).is_err() || i32::try_from(gid).is_err() {
            let text = format!("uids and gids must be in range 0-{}", i32::MAX);
            return Err(StartError::invalid(Step::User, text));
        }
        let mut environment = process.env.clone();
        if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
            let home = settled_home.unwrap_or_else(|| user::home_of(root, uid));
            environment.push(format!("HOME={home}"));
        }
        let program = Program::new(&process.args, &environment)?;
        Ok(Self { uid, gid, groups, program })
    }
}

/// What becomes of a working directory that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Made,
    Refused,
}

/// Enters the working directory and checks that it is inside the root.
pub(crate) fn enter_directory(root: &OwnedFd, path: &str, missing: Missing) -> Result<()> {
    let path = if path.is_empty() { "/" } else { path };
    if !path.starts_with('/') {
        let text = format!("the working directory {path:?} is not an absolute path");
        return Err(StartError::invalid(Step::WorkingDirectory, text));
    }
    let failed = |error: rustix::io::Errno| {
        let text =
            format!("cannot enter the working directory {path}: {}", crate::error::reason(&error.into()));
        StartError::invalid(Step::WorkingDirectory, text)
    };
    let directory = match rootfs::open(root, path, OFlags::PATH | OFlags::DIRECTORY, Links::Inside) {
        Err(rustix::io::Errno::NOENT) if missing == Missing::Made => {
            rootfs::make_directory(root, path, Links::Inside).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    rustix::process::fchdir(&directory).map_err(failed)?;
    let current = rustix::process::getcwd(Vec::new()).map_err(failed)?;
    if !current.to_bytes().starts_with(b"/") {
        let text = format!("the working directory {path} is outside of the container");
        return Err(StartError::denied(Step::WorkingDirectory, text));
    }
    Ok(())
}

/// The program becomes a child; this process stays as pid 1 and never comes back.
fn fork_program(
    confinement: &Confinement<'_>,
    streams: &Streams<'_>,
    title: Option<TitleArea>,
    own_profile: &Option<OwnedFd>,
) -> Result<()> {
    let failed = |error| StartError::io(Step::Exec, "cannot fork from the init process", error);
    // An ignored SIGCHLD of the caller's would reap the program behind our back.
    sys::default_all_signals().map_err(failed)?;
    sys::block_signals().map_err(failed)?;
    if let Some(terminal) = streams.terminal() {
        sys::set_controlling_terminal(terminal)
            .map_err(|error| StartError::io(Step::Terminal, "cannot take the terminal", error))?;
    }
    match sys::fork(0, None).map_err(failed)? {
        Fork::Child => {
            let own = rustix::process::getpid();
            rustix::process::setpgid(None, None).map_err(|error| failed(error.into()))?;
            if let Some(terminal) = streams.terminal() {
                // Signals are blocked, so that being in the background does not stop us here.
                rustix::termios::tcsetpgrp(terminal, own)
                    .map_err(|error| StartError::io(Step::Terminal, "cannot take the foreground", error))?;
            }
            Ok(())
        }
        Fork::Parent { pid, .. } => {
            if let Some(title) = title {
                title.write(init::TITLE);
            }
            let _ = rustix::process::chdir(c"/");
            // The streams stay open here: programs write to /proc/1/fd/1 to reach the container's log.
            // It executes nothing, and the program could not signal a pid 1 of another profile.
            let ready = confine::enter_apparmor(own_profile, &confinement.process.apparmor_profile)
                .and_then(|()| confine::place_streams(streams.ends(), confinement.uid))
                .and_then(|()| confinement.begin())
                .and_then(|()| confinement.finish());
            // The program's own report says what went wrong; without confinement there is no init.
            if ready.is_err() || sys::close_range(3, u32::MAX).is_err() {
                sys::exit_now(125);
            }
            // From here on it holds nothing that the program does not: what /proc shows of pid 1 is open as
            // it would be of the program itself.
            let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
            sys::exit_now(init::serve(pid))
        }
    }
}

fn run_program(
    plan: &Plan<'_>,
    program: &Program,
    confinement: &Confinement<'_>,
    streams: &Streams<'_>,
    warnings: Vec<String>,
) -> Result<Infallible> {
    confine::place_streams(streams.ends(), confinement.uid)?;
    if let Some(terminal) = streams.terminal().filter(|_| !plan.init) {
        sys::set_controlling_terminal(terminal)
            .map_err(|error| StartError::io(Step::Terminal, "cannot take the terminal", error))?;
    }
    confinement.begin()?;
    report(plan.channel, &Report::Ready { warnings }, streams.master())?;
    await_start(plan)?;
    if let Some(hooks) = plan.spec.hooks.as_ref().filter(|hooks| !hooks.start_container.is_empty()) {
        hooks::run(&hooks.start_container, &state(plan, "created"))?;
    }
    // With an init they were reset before the fork.
    let reset = if plan.init { sys::unblock_signals() } else { sys::default_all_signals() };
    reset.map_err(|error| StartError::io(Step::Exec, "cannot reset signals", error))?;
    confinement.finish()?;
    program.run()
}

fn await_start(plan: &Plan<'_>) -> Result<()> {
    let Some(gate) = plan.gate else { return channel::await_start(plan.channel) };
    let mut byte = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(&gate.start, &mut byte)) {
        Ok(1) => Ok(()),
        Ok(_) => Err(StartError::internal(Step::Exec, "the start signal never came")),
        Err(error) => Err(StartError::io(Step::Exec, "cannot wait for the start signal", error)),
    }
}
