//! OCI runtime: create, start, exec, and the same behind a command line; seccomp compiler.
//!
//! The caller is single-threaded and becomes the parent of what it starts. The walk of a start is in
//! `start.rs` (the caller's side) and `container.rs` (the child's side); an additional process in a
//! running container is `exec.rs`.

mod cgroups;
mod channel;
mod confine;
mod container;
mod devices;
mod error;
mod exec;
mod hooks;
mod idmap;
mod init;
mod masks;
mod mounts;
mod options;
mod origin;
mod program;
mod rootfs;
mod start;
mod sysctl;
mod user;

pub mod seccomp;

pub mod cli;
pub mod selfexec;

pub use confine::Filter;
pub use error::{Result, StartError, Step};
pub use exec::exec;
pub use hooks::run_all as run_hooks;
pub use mounts::mount_at;
pub use origin::Origin;
pub use start::create;

use rustix::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use yare_cgroup::Group;
use yare_oci::runtime::Spec;

/// Where in a bundle the root is, for hooks of the container's namespace.
pub const BUNDLE_ROOT: &str = "rootfs";

/// The root filesystem of a container.
#[derive(Debug)]
pub enum Root {
    /// A detached mount (`fsmount` or `open_tree`); attached in the container's namespace only.
    Detached(OwnedFd),
    /// A directory on the host, cloned with the mounts beneath it.
    Path(PathBuf),
}

/// Standard input, output and error of a process.
#[derive(Debug)]
pub enum Stdio {
    /// These descriptors.
    Descriptors {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal of the container's own devpts; the master is handed to the caller.
    Terminal {
        /// First size as (rows, columns).
        size: Option<(u16, u16)>,
    },
}

/// Everything needed to create a container.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its id.
    pub id: &'a str,
    /// The specification. `spec.root.readonly` counts, `spec.root.path` does not.
    pub spec: &'a Spec,
    /// The root filesystem.
    pub root: Root,
    /// Where mounts of the specification come from, if not just from their source.
    pub origins: &'a [Origin],
    /// Where its standard streams go.
    pub stdio: Stdio,
    /// A ready network namespace; without it the specification decides.
    pub netns: Option<OwnedFd>,
    /// Whether pid 1 is the built-in init.
    pub init: bool,
    /// `name`, `uid`, `name:group`, … to look up in the root's passwd and group; sets uid, gid, groups and
    /// a missing HOME. Without it the numbers of the specification count.
    pub user: Option<&'a str>,
    /// Further groups by name or number, looked up there too; needs [`Start::user`].
    pub groups: &'a [String],
    /// Its system call filter, compiled already; without it that of the specification is compiled.
    pub filter: Option<Filter>,
    /// Its cgroup, with limits set.
    pub group: &'a Group,
    /// The bundle directory, for hooks. A detached root is attached at [`BUNDLE_ROOT`] in it while hooks of the
    /// container's namespace run.
    pub bundle: Option<&'a Path>,
    /// The start signal comes over these instead of [`Created::start`].
    pub gate: Option<Gate>,
}

/// How another process tells a created container to start (both ends opened read-write by the creator).
#[derive(Debug)]
pub struct Gate {
    /// One byte read from here is the start signal.
    pub start: OwnedFd,
    /// A serialised [`StartError`] is written here; closed by a successful `execve`.
    pub status: OwnedFd,
}

/// A container that exists and waits for its start signal.
#[derive(Debug)]
pub struct Created {
    /// Process id of its pid 1, on the host.
    pub pid: i32,
    /// A descriptor of that process, close-on-exec.
    pub pidfd: OwnedFd,
    /// Master of its terminal.
    pub console: Option<OwnedFd>,
    /// What was asked for and could not be had, as sentences.
    pub warnings: Vec<String>,
    /// Its filter, for further processes.
    pub filter: Option<Filter>,
    channel: OwnedFd,
}

/// A process whose program runs.
#[derive(Debug)]
pub struct Running {
    /// Process id on the host.
    pub pid: i32,
    /// A descriptor of that process, close-on-exec.
    pub pidfd: OwnedFd,
    /// Master of its terminal.
    pub console: Option<OwnedFd>,
    /// What was asked for and could not be had, as sentences.
    pub warnings: Vec<String>,
}

/// The container that an additional process joins.
#[derive(Debug)]
pub struct ExecTarget<'a> {
    /// Its pid 1.
    pub pidfd: BorrowedFd<'a>,
    /// Its cgroup.
    pub group: &'a Group,
    /// The filter of the container.
    pub filter: Option<&'a Filter>,
}
