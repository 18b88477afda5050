//! The process that keeps the namespaces of a user's engine, so that they outlive it.
//!
//! It is made by the first engine, noted in its exec root and found there by the next ones, which join the same
//! namespaces: what runs and what serves it is in them. It does nothing but wait for its end.

use super::ids::Maps;
use super::resolv;
use rustix::process::DumpableBehavior;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use yare_errdefs::{Class, Error, Result};
use yare_sys::process::{self, NEWCGROUP, NEWIPC, NEWNET, NEWNS, NEWUSER, NEWUTS};
use yare_sys::{companion, socket};

/// The first argument of its process.
pub(crate) const WORD: &str = "holder";

/// Where it is noted.
const NOTE: &str = "holder.pid";

/// What it keeps, but for the network. Of process numbers there is no namespace: people see those of the host.
const KEPT: u64 = NEWUSER | NEWNS | NEWIPC | NEWUTS | NEWCGROUP;

/// How long it may take to make namespaces, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

const SIGTERM: i32 = 15;

/// What it says when the next step is the other's.
const DONE: &[u8] = b"+";

/// A process that keeps namespaces.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: u32,
    process: OwnedFd,
}

impl Holder {
    /// The one of this exec root, if it lives. Should somebody have ended it, the shim of any container takes its
    /// place, for it is in the same namespaces: new ones would leave the containers behind in theirs.
    pub(super) fn find(exec_root: &Path) -> Option<Self> {
        Self::noted(exec_root).or_else(|| Self::of_containers(exec_root))
    }

    fn of_containers(exec_root: &Path) -> Option<Self> {
        let folders = std::fs::read_dir(exec_root.join("containers")).ok()?.flatten();
        let (pid, process) = folders.filter_map(|folder| yare_shim::living_shim(&folder.path())).next()?;
        Some(Self { pid: u32::try_from(pid).ok()?, process })
    }

    fn noted(exec_root: &Path) -> Option<Self> {
        let note = std::fs::read_to_string(exec_root.join(NOTE)).ok()?;
        let (pid, born) = note.trim().split_once(' ')?;
        let pid: u32 = pid.parse().ok()?;
        let process = process::pidfd_open(i32::try_from(pid).ok()?).ok()?;
        // Asked afterwards: the descriptor is of that process, then. One that has ended and that nobody waited for has
        // a birth, but no mounts.
        let is_it = process::birth(pid)? == born && namespace(&pid.to_string(), "mnt").is_some();
        is_it.then_some(Self { pid, process })
    }

    /// Makes one with namespaces of these maps.
    ///
    /// # Errors
    /// The kernel makes no user namespaces for users, or the programs that map ids are not there.
    pub(super) fn make(exec_root: &Path, maps: &Maps) -> Result<Self> {
        let failed =
            |error: io::Error| Error::internal("cannot start a process for namespaces").caused_by(error);
        let (ours, theirs) = socket::seqpacket_pair().map_err(failed)?;
        for direction in [rustix::net::sockopt::Timeout::Send, rustix::net::sockopt::Timeout::Recv] {
            rustix::net::sockopt::set_socket_timeout(&ours, direction, Some(PATIENCE))
                .map_err(|error| failed(error.into()))?;
        }
        let mut command = Command::new("/proc/self/exe");
        command.arg0("yare").arg(WORD).arg("--of").arg(exec_root).env_clear().current_dir("/");
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(failed)?;
        // With its end of the socket: only then is the end of the process seen.
        drop(command);
        let pid = child.id();
        // Dropped before it is noted, it ends: it is told nothing, and hears that nobody is there.
        await_step(ours.as_fd())?;
        map("newuidmap", pid, &maps.uids)?;
        map("newgidmap", pid, &maps.gids)?;
        companion::send(&ours, DONE, &[]).map_err(failed)?;
        await_step(ours.as_fd())?;
        let number = i32::try_from(pid).map_err(|error| failed(io::Error::other(error)))?;
        let process = process::pidfd_open(number).map_err(failed)?;
        let note = format!("{pid} {}\n", process::birth(pid).unwrap_or_default());
        std::fs::write(exec_root.join(NOTE), note).map_err(failed)?;
        companion::send(&ours, DONE, &[]).map_err(failed)?;
        Ok(Self { pid, process })
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Moves this process, which has one thread, into its namespaces, but for that of the network.
    pub(super) fn enter(&self) -> io::Result<()> {
        process::join_namespaces(&self.process, KEPT)
    }

    /// Moves this thread into its network namespace.
    pub(super) fn enter_network(&self) -> io::Result<()> {
        process::join_namespaces(&self.process, NEWNET)
    }

    /// Whether this process is in its user namespace.
    pub(super) fn is_around_us(&self) -> bool {
        namespace("self", "user").is_some_and(|ours| namespace(&self.pid.to_string(), "user") == Some(ours))
    }

    /// Ends it. The namespaces go with the last process in them.
    pub(super) fn end(&self, exec_root: &Path) {
        // It may be gone already.
        let _ = process::pidfd_send_signal(&self.process, SIGTERM);
        let _ = std::fs::remove_file(exec_root.join(NOTE));
    }
}

/// A namespace of a process.
fn namespace(pid: &str, kind: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// Waits until the other side has done its step.
fn await_step(socket: BorrowedFd<'_>) -> Result<()> {
    let why = match companion::receive(socket) {
        Ok(Some((word, _))) if word == DONE => return Ok(()),
        Ok(Some((why, _))) => String::from_utf8_lossy(&why).into_owned(),
        Ok(None) => "its process ended".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(refused(&why))
}

/// The kernel's refusal, with the switch that is set against it.
fn refused(why: &str) -> Error {
    let error = Error::new(
        Class::FailedPrecondition,
        format!("cannot make the namespaces of an engine without root: {why}"),
    );
    let set = |path: &str, value: &str| {
        std::fs::read_to_string(format!("/proc/sys/{path}")).is_ok_and(|text| text.trim() == value)
    };
    let switches = [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("user/max_user_namespaces", "0", "65536"),
    ];
    match switches.iter().find(|(path, value, _)| set(path, value)) {
        Some((path, value, other)) => error.with_hint(format!(
            "{} is {value}, which keeps users from making namespaces: sudo sysctl {}={other}",
            path.replace('/', "."),
            path.replace('/', ".")
        )),
        None => error,
    }
}

/// Has one of the two programs that may do so write a map.
fn map(program: &str, pid: u32, arguments: &[String]) -> Result<()> {
    let output = Command::new(program).arg(pid.to_string()).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::precondition(format!("{program} is not installed"))
            .with_hint("an engine without root needs it: sudo apt-get install uidmap (elsewhere the package is shadow-utils)"),
        _ => Error::internal(format!("cannot run {program}")).caused_by(error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::precondition(format!("{program} refuses: {}", words.trim())).with_hint(format!(
        "is {program} set-user-id root, and are the ids in /etc/subuid and /etc/subgid right?"
    )))
}

/// Runs `yare holder --of EXEC_ROOT`; standard input is the socket of who started it.
pub(crate) fn main(args: &[String]) -> i32 {
    let [_, exec_root] = args else { return 2 };
    let kept = io::stdin().as_fd().try_clone_to_owned().and_then(|starter| {
        let kept = hold(&starter, &PathBuf::from(exec_root));
        if let Err(why) = &kept {
            companion::send(&starter, why.to_string().as_bytes(), &[])?;
        }
        kept
    });
    i32::from(kept.is_err())
}

fn hold(starter: &OwnedFd, exec_root: &Path) -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    process::duplicate_to(&null, 0)?;
    drop(null);
    process::close_all_but(&[starter.as_raw_fd()])?;
    rustix::process::setsid()?;
    rustix::thread::set_name(c"yare-holder")?;
    process::unshare(KEPT | NEWNET)?;
    say_and_wait(starter)?;
    // Its map is written: it is root here. Whoever is the same user may look at its namespaces.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    yare_sys::netlink::raise_loopback()?;
    replace_resolvers(exec_root)?;
    process::block_signals()?;
    say_and_wait(starter)?;
    while process::wait_signal(None)? != SIGTERM {}
    Ok(())
}

fn say_and_wait(starter: &OwnedFd) -> io::Result<()> {
    companion::send(starter, DONE, &[])?;
    match companion::receive(starter)? {
        Some((word, _)) if word == DONE => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Resolvers that listen on the host's loopback interface cannot be reached from another network namespace: here
/// the file names one that the uplink leads to them.
fn replace_resolvers(exec_root: &Path) -> io::Result<()> {
    use yare_sys::mount::{attach, clone_tree};
    let Ok(text) = std::fs::read_to_string(resolv::FILE) else { return Ok(()) };
    let Some(text) = resolv::reachable(&text) else { return Ok(()) };
    let path = exec_root.join("resolv.conf");
    std::fs::write(&path, text)?;
    let replacement = clone_tree(rustix::fs::CWD, &CString::new(path.as_os_str().as_bytes())?, false)?;
    // Over a link, not over what it leads to, which others replace now and then.
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    let target = rustix::fs::open(resolv::FILE, flags, rustix::fs::Mode::empty())?;
    attach(&replacement, &target)
}
