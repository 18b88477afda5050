//! What can go wrong with a cgroup.

use yare_errdefs::{Class, Classified};

/// A failed operation on a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The limit cannot be, whatever the machine.
    #[error("invalid {name}: {reason}")]
    InvalidLimit {
        /// The limit in the words of the runtime specification.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The kernel refused a value.
    #[error("the kernel refused {value:?} for {file} of cgroup {path}")]
    Refused {
        /// Path of the group.
        path: String,
        /// The file written to.
        file: String,
        /// What was written.
        value: String,
        /// Its reason.
        source: std::io::Error,
    },
    /// The path of a group is not usable.
    #[error("invalid cgroup path {0:?}")]
    InvalidPath(String),
    /// Processes are in a group that was to be new.
    #[error("cgroup {0} is in use")]
    InUse(String),
    /// Nothing to keep groups in.
    #[error("no cgroup filesystem is mounted")]
    NoHierarchy,
    /// Groups are not for this user to make.
    #[error("this engine runs without root and has no control groups for its containers")]
    NoGroups,
    /// A call failed.
    #[error("cannot {action} cgroup {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// Path of the group, with the file if there is one.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// `Result` with [`CgroupError`].
pub type Result<T, E = CgroupError> = std::result::Result<T, E>;

impl CgroupError {
    pub(crate) fn io(action: &'static str, path: &str, source: impl Into<std::io::Error>) -> Self {
        Self::Io { action, path: path.to_string(), source: source.into() }
    }

    pub(crate) fn invalid(name: &str, reason: impl Into<String>) -> Self {
        Self::InvalidLimit { name: name.to_string(), reason: reason.into() }
    }
}

impl Classified for CgroupError {
    fn class(&self) -> Class {
        match self {
            Self::InvalidLimit { .. } | Self::Refused { .. } | Self::InvalidPath(_) => Class::InvalidArgument,
            Self::InUse(_) => Class::Conflict,
            Self::NoHierarchy | Self::NoGroups => Class::FailedPrecondition,
            Self::Io { source, .. } => yare_errdefs::class_of_io(source),
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Self::NoHierarchy)
            .then(|| "mount one: mount -t cgroup2 none /sys/fs/cgroup".to_string())
    }
}
