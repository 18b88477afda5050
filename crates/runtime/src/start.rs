//! The caller's side of a start.

use crate::channel::{Report, order_joined, order_start, receive};
use crate::confine::Filter;
use crate::container::{Plan, become_container};
use crate::error::{Result, StartError, Step};
use crate::user::Wanted;
use crate::{Created, Running, Start, hooks};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::path::Path;
use yare_cgroup::Group;
use yare_oci::runtime::{Linux, Spec, State};
use yare_sys::privilege::Privilege;
use yare_sys::process::{self as sys, Fork};
use yare_sys::socket::seqpacket_pair;

/// Which namespaces are made and which are joined.
#[derive(Debug, Default)]
struct Namespaces {
    /// For clone3.
    new: u64,
    /// Made after the child is in its cgroup.
    new_cgroup: bool,
    /// Joined by the child.
    joins: Vec<(OwnedFd, u64)>,
    /// Joined by the caller around the clone: a process never changes its own pid namespace.
    pid: Option<OwnedFd>,
}

/// Creates a container: all but the last `execve` of its program.
pub fn create(start: Start<'_>) -> Result<Created> {
    let none = Linux::default();
    let linux = start.spec.linux.as_ref().unwrap_or(&none);
    let process = start
        .spec
        .process
        .as_ref()
        .ok_or_else(|| StartError::invalid(Step::Spec, "the specification has no process"))?;
    let namespaces = Namespaces::settle(linux, start.netns)?;
    let (ours, theirs) =
        seqpacket_pair().map_err(|error| StartError::io(Step::Namespaces, "cannot make a channel", error))?;
    let plan = Plan {
        id: start.id,
        spec: start.spec,
        process,
        root: &start.root,
        origins: start.origins,
        stdio: &start.stdio,
        joins: &namespaces.joins,
        new_cgroup_namespace: namespaces.new_cgroup,
        init: start.init,
        user: start.user.map(|user| Wanted { user, groups: start.groups }),
        group: start.group,
        bundle: start.bundle.unwrap_or(Path::new("/")),
        gate: start.gate.as_ref(),
        channel: &theirs,
    };
    let (pid, pidfd) = match clone(&namespaces, start.group.v2_fd())? {
        Fork::Child => {
            drop(ours);
            become_container(&plan)
        }
        Fork::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let state = state(start.id, start.spec, pid, start.bundle);
    match attend(&ours, start.spec, start.filter, start.group, &state) {
        Ok(Ready { warnings, console, filter }) => {
            Ok(Created { pid, pidfd, console, warnings, filter, channel: ours })
        }
        Err(error) => {
            end(&pidfd);
            Err(error)
        }
    }
}

/// Clones, in the pid namespace to join if there is one.
fn clone(namespaces: &Namespaces, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork> {
    let failed = |error| StartError::io(Step::Namespaces, "cannot make the namespaces", error);
    match &namespaces.pid {
        None => sys::fork(namespaces.new, cgroup).map_err(failed),
        Some(pid) => fork_in(pid, namespaces.new, cgroup),
    }
}

/// Forks so that the child is born in another pid namespace.
///
/// `namespace` is a namespace file or the pidfd of a process in it.
pub(crate) fn fork_in(namespace: impl AsFd, flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork> {
    let failed = |error| StartError::io(Step::Namespaces, "cannot join the pid namespace", error);
    if Privilege::current() != Privilege::Host {
        return sys::fork_within(namespace, flags, cgroup).map_err(failed);
    }
    let own = sys::pidfd_open(rustix::process::getpid().as_raw_nonzero().get()).map_err(failed)?;
    sys::join_namespaces(namespace, sys::NEWPID).map_err(failed)?;
    let forked = sys::fork(flags, cgroup)
        .map_err(|error| StartError::io(Step::Namespaces, "cannot make the namespaces", error));
    if !matches!(forked, Ok(Fork::Child)) {
        // Without the way back every later child would be born in that namespace.
        sys::join_namespaces(&own, sys::NEWPID).map_err(failed)?;
    }
    forked
}

/// What is known of a child that only waits for its start.
struct Ready {
    warnings: Vec<String>,
    console: Option<OwnedFd>,
    filter: Option<Filter>,
}

/// Puts the child into its cgroup, runs hooks, and waits until it is ready.
fn attend(
    channel: &OwnedFd,
    spec: &Spec,
    filter: Option<Filter>,
    group: &Group,
    state: &State,
) -> Result<Ready> {
    group
        .add_v1(state.pid.unwrap_or(0))
        .map_err(|error| StartError::internal(Step::Cgroup, yare_errdefs::chain(&error)))?;
    let hooks = spec.hooks.clone().unwrap_or_default();
    if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() {
        match receive(channel)? {
            Some((Report::Namespaces, _)) => {}
            other => return unexpected(other),
        }
        hooks::run(&hooks.prestart, state)?;
        hooks::run(&hooks.create_runtime, state)?;
    }
    let profile = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
    let filter = match filter {
        Some(filter) => Some(filter),
        None => Filter::compile(profile)?,
    };
    order_joined(channel, filter.as_ref());
    match receive(channel)? {
        Some((Report::Ready { warnings }, console)) => Ok(Ready { warnings, console, filter }),
        other => unexpected(other),
    }
}

fn unexpected<T>(report: Option<(Report, Option<OwnedFd>)>) -> Result<T> {
    match report {
        Some((Report::Failed(error), _)) => Err(error),
        Some(_) => Err(StartError::internal(Step::Namespaces, "the child reported out of turn")),
        None => Err(StartError::internal(
            Step::Namespaces,
            "the process died while the container was set up (out of memory?)",
        )),
    }
}

/// Kills a child that failed and reaps it.
pub(crate) fn end(pidfd: &OwnedFd) {
    let _ = sys::pidfd_send_signal(pidfd, 9);
    let _ = sys::wait(pidfd, true);
}

/// The state that hooks of the caller get.
pub(crate) fn state(id: &str, spec: &Spec, pid: i32, bundle: Option<&Path>) -> State {
    State {
        oci_version: "1.2.0".to_string(),
        id: id.to_string(),
        status: "creating".to_string(),
        pid: Some(pid),
        bundle: bundle.unwrap_or(Path::new("/")).to_string_lossy().into_owned(),
        annotations: spec.annotations.clone(),
    }
}

impl Created {
    /// Starts the program. An `execve` that fails is reported here; the process is then gone and reaped.
    ///
    /// With a [`crate::Gate`] it only waits for what comes over the gate.
    pub fn start(self) -> Result<Running> {
        order_start(&self.channel);
        wait_for_program(&self.channel, &self.pidfd)?;
        Ok(Running { pid: self.pid, pidfd: self.pidfd, console: self.console, warnings: self.warnings })
    }

    /// Kills and reaps what was created and will not be started.
    pub fn abort(self) {
        end(&self.pidfd);
    }
}

/// Waits for the end of the channel (the program runs) or the reason why it does not.
pub(crate) fn wait_for_program(channel: &OwnedFd, pidfd: &OwnedFd) -> Result<()> {
    match receive(channel) {
        Ok(None) => Ok(()),
        Ok(other) => {
            end(pidfd);
            unexpected(other)
        }
        Err(error) => {
            end(pidfd);
            Err(error)
        }
    }
}

impl Namespaces {
    fn settle(linux: &Linux, netns: Option<OwnedFd>) -> Result<Self> {
        let mut settled = Self::default();
        let given = netns.is_some();
        if let Some(netns) = netns {
            settled.joins.push((netns, sys::NEWNET));
        }
        for namespace in &linux.namespaces {
            let kind = match namespace.kind.as_str() {
                "pid" => sys::NEWPID,
                "uts" => sys::NEWUTS,
                "ipc" => sys::NEWIPC,
                "mount" if namespace.path.is_empty() => sys::NEWNS,
                "network" if given => continue,
                "network" => sys::NEWNET,
                "cgroup" => sys::NEWCGROUP,
                "user" | "time" | "mount" => {
                    let text = format!("{} namespaces are not built into this Yare yet", namespace.kind);
                    return Err(StartError::unimplemented(Step::Spec, text));
                }
                other => {
                    return Err(StartError::invalid(Step::Spec, format!("unknown namespace {other:?}")));
                }
            };
            settled.add(kind, &namespace.path)?;
        }
        if settled.new & sys::NEWNS == 0 {
            return Err(StartError::invalid(Step::Spec, "a container needs a mount namespace of its own"));
        }
        Ok(settled)
    }

    fn add(&mut self, kind: u64, path: &str) -> Result<()> {
        if path.is_empty() {
            if kind == sys::NEWCGROUP {
                self.new_cgroup = true;
            } else {
                self.new |= kind;
            }
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
            StartError::io(Step::Namespaces, format!("cannot open namespace {path}"), error)
        })?;
        if kind == sys::NEWPID {
            self.pid = Some(namespace);
        } else {
            self.joins.push((namespace, kind));
        }
        Ok(())
    }
}
