//! What engine and shim say to each other, one enum per direction.

use crate::exit::Exit;
use crate::wire::Message;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use yare_errdefs::{Class, Classified, Error};
use yare_logs::{About, Target};
use yare_oci::runtime::{IdMap, Process, Spec};
use yare_runtime::Filter;

/// Everything a shim needs to run one container: the first frame on a launch socket.
///
/// Its descriptors are, in this order: the network namespace if `has_netns`, then one stream socket for
/// each entry of `attaches`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Launch {
    /// Container id; also names the shim in `ps`.
    pub id: String,
    /// What to run, without the root filesystem.
    pub spec: Spec,
    /// The system call filter of `spec.linux.seccomp`, when the engine's half has compiled it; the profile is not
    /// in the message then.
    pub filter: Option<Filter>,
    /// What to mount as root.
    pub rootfs: Rootfs,
    /// Where mounts of the spec come from, if not just from their source.
    pub origins: Vec<MountOrigin>,
    /// `user[:group]`, names or numbers, looked up in the root filesystem; empty takes the spec's ids.
    pub user: String,
    /// Further groups by name or number, looked up there too; needs `user`.
    pub groups: Vec<String>,
    /// Whether the built-in init is process 1.
    pub init: bool,
    /// The container's cgroup, relative to the root of each hierarchy. The shim makes and removes it.
    pub cgroup_path: String,
    /// Whether standard input stays open for attached streams; otherwise it is `/dev/null`.
    pub open_stdin: bool,
    /// Whether standard input is closed when the first stream with stdin ends.
    pub stdin_once: bool,
    /// Whether the process gets a terminal. Its first size is in `spec.process.console_size`.
    pub terminal: bool,
    /// Where the output is kept.
    pub log: LogSpec,
    /// The container's run directory; it exists and belongs to root.
    pub run_dir: PathBuf,
    /// Streams that are attached before the process starts, so that not a byte is missed.
    pub attaches: Vec<AttachSpec>,
    /// Whether the first descriptor is a network namespace to join.
    pub has_netns: bool,
    /// Directories whose mounts the launcher kept (`LauncherConfig::keep`). A bind mount with a source
    /// elsewhere makes the shim enter the host's mount namespace first.
    pub own_roots: Vec<PathBuf>,
    /// Whether it has to go there in any case.
    pub host_mounts: bool,
}

/// What is mounted as a container's root; the same serde form as the snapshotter's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay mount.
    Overlay {
        /// Read-only directories, the topmost first.
        lower: Vec<PathBuf>,
        /// Where changes go; read-only without.
        upper: Option<PathBuf>,
        /// Scratch directory on the same filesystem as `upper`.
        work: Option<PathBuf>,
    },
    /// A directory, as it is.
    Bind(PathBuf),
}

impl Default for Rootfs {
    fn default() -> Self {
        Self::Bind(PathBuf::from("/nonexistent"))
    }
}

/// Where one mount of the spec comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountOrigin {
    /// Destination of the mount.
    pub destination: String,
    /// A tree that is made for it and takes the place of its source: an image's.
    pub tree: Option<Rootfs>,
    /// What of it is mounted, relative; empty for all of it.
    pub subpath: String,
    /// How owners appear.
    pub id_map: Option<IdMap>,
}

/// Which streams a client takes part in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachSpec {
    /// Its bytes go to standard input.
    pub stdin: bool,
    /// It gets standard output; with a terminal, the terminal's output.
    pub stdout: bool,
    /// It gets standard error.
    pub stderr: bool,
}

/// What is kept of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// A file in the form of Docker's `json-file`.
    #[default]
    JsonFile,
    /// Nothing.
    None,
}

/// Where and how output is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    /// What is kept of it.
    pub driver: LogDriver,
    /// Path of the current file.
    pub path: PathBuf,
    /// Bytes after which the file is rotated; `None` never rotates.
    pub max_size: Option<u64>,
    /// How many files are kept, the current one included; 0 counts as 1.
    pub max_file: u32,
    /// Whether rotated files are compressed.
    pub compress: bool,
    /// Written with each entry (`labels`, `env` and `tag` of `--log-opt`).
    pub attrs: BTreeMap<String, String>,
    /// Bytes that may wait for a slow log before some are thrown away; without it the container waits.
    pub buffer: Option<u64>,
    /// Where entries are sent besides.
    pub target: Option<Target>,
    /// What is said of the container there.
    pub about: About,
}

/// An additional process in the container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Names it in later requests.
    pub exec_id: String,
    /// What to run.
    pub process: Process,
    /// As in [`Launch::user`].
    pub user: String,
    /// As in [`Launch::groups`].
    #[serde(default)]
    pub groups: Vec<String>,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Whether standard input comes from the attached stream; otherwise it is `/dev/null`.
    pub open_stdin: bool,
    /// The stream that is attached, the request's descriptor; without one, output is dropped.
    pub attach: Option<AttachSpec>,
}

/// Engine to shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Asks for [`Reply::Exited`] when it happens; answered with [`Reply::State`] at once.
    Subscribe,
    /// Attaches the stream socket that comes with the request; answered with [`Reply::Ok`].
    Attach(AttachSpec),
    /// Runs another process; answered with [`Reply::Started`], later [`Reply::ExecExited`].
    Exec(Box<ExecSpec>),
    /// Sets the size of a terminal; answered with [`Reply::Ok`].
    Resize {
        /// An exec's terminal instead of the container's.
        exec_id: Option<String>,
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Sends a signal to process 1 or to an exec's process; answered with [`Reply::Ok`].
    Signal {
        /// An exec instead of the container.
        exec_id: Option<String>,
        /// Signal number.
        signal: i32,
    },
    /// Answered with [`Reply::State`].
    State,
}

/// Shim to engine. Replies to requests come in the order of the requests; [`Reply::Exited`] and
/// [`Reply::ExecExited`] may come between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The process runs; its pidfd comes with the reply.
    Started {
        /// Process id on the host.
        pid: i32,
    },
    /// The request, or the launch, failed.
    Failed(Failure),
    /// Done.
    Ok,
    /// What the shim knows.
    State {
        /// Process 1 on the host.
        pid: i32,
        /// Ids of the execs that run.
        execs: Vec<String>,
        /// How it ended, once it has.
        exit: Option<Exit>,
    },
    /// The container ended; its output is complete in the log.
    Exited(Exit),
    /// An exec ended and all its output was written to its stream.
    ExecExited {
        /// Which.
        exec_id: String,
        /// Exit status, 128+n for signal n.
        code: i32,
    },
}

/// An error on its way to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Name of the [`Class`], as `Debug` prints it.
    pub class: String,
    /// The whole text.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// Which step of a start failed, when that is known: `yare_runtime::Step` as it serialises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// 127 for a program that is not there, 126 for one that cannot run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// The classes by name.
const CLASSES: [Class; 12] = [
    Class::NotFound,
    Class::InvalidArgument,
    Class::Conflict,
    Class::AlreadyExists,
    Class::PermissionDenied,
    Class::Unauthenticated,
    Class::FailedPrecondition,
    Class::NotModified,
    Class::Unavailable,
    Class::Unimplemented,
    Class::Cancelled,
    Class::Internal,
];

impl Failure {
    /// The error with its causes as one text.
    pub fn new(error: &impl Classified) -> Self {
        Self {
            class: format!("{:?}", error.class()),
            message: yare_errdefs::chain(&error),
            hint: error.hint(),
            step: None,
            exit_code: None,
        }
    }

    /// The class; [`Class::Internal`] for a name from a newer shim.
    pub fn class(&self) -> Class {
        CLASSES.into_iter().find(|class| format!("{class:?}") == self.class).unwrap_or(Class::Internal)
    }

    /// Back to an error.
    pub fn into_error(self) -> Error {
        let error = Error::new(self.class(), self.message);
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

impl Message for Launch {
    fn descriptors(&self) -> usize {
        usize::from(self.has_netns) + self.attaches.len()
    }
}

impl Message for Request {
    fn descriptors(&self) -> usize {
        match self {
            Self::Attach(_) => 1,
            Self::Exec(exec) => usize::from(exec.attach.is_some()),
            _ => 0,
        }
    }
}

impl Message for Reply {
    fn descriptors(&self) -> usize {
        usize::from(matches!(self, Self::Started { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_class_and_hint() {
        for class in CLASSES {
            let failure = Failure::new(&Error::new(class, "no such thing").with_hint("make it"));
            let text = serde_json::to_string(&failure).unwrap();
            let error = serde_json::from_str::<Failure>(&text).unwrap().into_error();
            assert_eq!(error.class(), class);
            assert_eq!(error.hint().as_deref(), Some("make it"));
        }
    }

    #[test]
    fn a_root_filesystem_has_the_snapshotters_form() {
        let text = r#"{"Overlay":{"lower":["/a"],"upper":"/u","work":"/w"}}"#;
        let rootfs: Rootfs = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&rootfs).unwrap(), text);
    }
}
