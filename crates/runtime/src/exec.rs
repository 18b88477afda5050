//! A further process in a running container.

use crate::channel::{Report, await_joined, await_start, order_joined, order_start, receive, report};
use crate::confine::{self, Confinement};
use crate::container::{Missing, Settled, caught, enter_directory, fail, leave_the_caller, private_proc};
use crate::error::{Result, StartError, Step};
use crate::start::{end, fork_in, wait_for_program};
use crate::user::Wanted;
use crate::{ExecTarget, Running, Stdio, devices};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::convert::Infallible;
use yare_oci::runtime::Process;
use yare_sys::privilege::Privilege;
use yare_sys::process::{self as sys, Fork};
use yare_sys::socket::seqpacket_pair;

/// All namespaces but the pid namespace, which is for children only.
const NAMESPACES: u64 = sys::NEWNS | sys::NEWUTS | sys::NEWIPC | sys::NEWNET | sys::NEWCGROUP;

/// What the child needs.
struct Plan<'a> {
    target: &'a ExecTarget<'a>,
    process: &'a Process,
    stdio: &'a Stdio,
    user: Option<Wanted<'a>>,
    channel: &'a OwnedFd,
}

/// Runs a further process in a container. It is a child of the caller.
///
/// `user` and `groups` are looked up in the container's root as in [`crate::Start::user`] and
/// [`crate::Start::groups`].
pub fn exec(
    target: &ExecTarget<'_>,
    process: &Process,
    stdio: Stdio,
    user: Option<&str>,
    groups: &[String],
) -> Result<Running> {
    let (ours, theirs) =
        seqpacket_pair().map_err(|error| StartError::io(Step::Namespaces, "cannot make a channel", error))?;
    let plan = Plan {
        target,
        process,
        stdio: &stdio,
        user: user.map(|user| Wanted { user, groups }),
        channel: &theirs,
    };
    let forked = fork_in(target.pidfd, 0, target.group.v2_fd())?;
    let (pid, pidfd) = match forked {
        Fork::Child => {
            drop(ours);
            become_process(&plan)
        }
        Fork::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    match attend(&ours, pid, target) {
        Ok((warnings, console)) => {
            order_start(&ours);
            wait_for_program(&ours, &pidfd)?;
            Ok(Running { pid, pidfd, console, warnings })
        }
        Err(error) => {
            end(&pidfd);
            Err(error)
        }
    }
}

fn attend(channel: &OwnedFd, pid: i32, target: &ExecTarget<'_>) -> Result<(Vec<String>, Option<OwnedFd>)> {
    target
        .group
        .add_v1(pid)
        .map_err(|error| StartError::internal(Step::Cgroup, yare_errdefs::chain(&error)))?;
    order_joined(channel, target.filter);
    match receive(channel)? {
        Some((Report::Ready { warnings }, console)) => Ok((warnings, console)),
        Some((Report::Failed(error), _)) => Err(error),
        _ => Err(StartError::internal(Step::Namespaces, "the process died while it joined the container")),
    }
}

fn become_process(plan: &Plan<'_>) -> ! {
    let error = caught(|| walk(plan));
    fail(plan.channel, None, error)
}

fn walk(plan: &Plan<'_>) -> Result<Infallible> {
    let mut warnings = Vec::new();
    leave_the_caller()?;
    keep_only_ours(plan)?;
    sys::join_namespaces(plan.target.pidfd, NAMESPACES)
        .map_err(|error| StartError::io(Step::Namespaces, "cannot join the container", error))?;
    let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| StartError::io(Step::Root, "cannot open the container's root", error))?;
    if plan.process.oom_score_adj.is_some() || !plan.process.apparmor_profile.is_empty() {
        match private_proc() {
            Ok(proc) => {
                if let Some(score) = plan.process.oom_score_adj {
                    confine::set_oom_score(proc.as_fd(), score, &mut warnings)?;
                }
                confine::set_apparmor(proc.as_fd(), &plan.process.apparmor_profile)?;
            }
            // In the host's pid namespace there is none for root of a user namespace, who has no profiles either.
            Err(error) if Privilege::current() != Privilege::Namespace => return Err(error),
            Err(_) => warnings.push("oom_score_adj stays as it is: no procfs can be mounted".to_owned()),
        }
    }
    let settled = Settled::new(&root, plan.process, plan.user)?;
    enter_directory(&root, &plan.process.cwd, Missing::Refused)?;
    let console = place_streams(plan, &root, settled.uid)?;
    confine::set_limits(plan.process, &mut warnings)?;
    let filter = await_joined(plan.channel)?;
    let confinement = Confinement {
        process: plan.process,
        uid: settled.uid,
        gid: settled.gid,
        groups: &settled.groups,
        filter: filter.as_ref(),
    };
    confinement.begin()?;
    report(plan.channel, &Report::Ready { warnings }, console.as_ref().map(AsFd::as_fd))?;
    await_start(plan.channel)?;
    sys::default_all_signals().map_err(|error| StartError::io(Step::Exec, "cannot reset signals", error))?;
    confinement.finish()?;
    settled.program.run()
}

/// Closes everything of the caller's before the container can see this process's namespaces.
fn keep_only_ours(plan: &Plan<'_>) -> Result<()> {
    let mut keep = vec![plan.channel.as_raw_fd(), plan.target.pidfd.as_raw_fd()];
    if let Stdio::Descriptors { stdin, stdout, stderr } = plan.stdio {
        keep.extend([stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()]);
    }
    sys::close_all_but(&keep)
        .map_err(|error| StartError::io(Step::Namespaces, "cannot close the caller's files", error))
}

/// The streams at 0, 1 and 2; the master of a terminal.
fn place_streams(plan: &Plan<'_>, root: &OwnedFd, uid: u32) -> Result<Option<OwnedFd>> {
    match plan.stdio {
        Stdio::Descriptors { stdin, stdout, stderr } => {
            confine::place_streams([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()], uid)?;
            Ok(None)
        }
        Stdio::Terminal { size } => {
            let pty = devices::open_terminal(devices::find_devpts(root)?, *size)?;
            confine::place_streams([pty.slave.as_fd(); 3], uid)?;
            sys::set_controlling_terminal(&pty.slave)
                .map_err(|error| StartError::io(Step::Terminal, "cannot take the terminal", error))?;
            Ok(Some(pty.master))
        }
    }
}
