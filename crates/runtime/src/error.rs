//! Why a container or a process in one did not start.

use serde::{Deserialize, Serialize};
use yare_errdefs::{Class, Classified};

/// How far a start had come. The order is that of the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Reading the specification.
    Spec,
    /// Making or joining namespaces.
    Namespaces,
    /// Joining the cgroup.
    Cgroup,
    /// Attaching the root filesystem.
    Root,
    /// Mounts, devices, masked paths.
    Mounts,
    /// The terminal.
    Terminal,
    /// Hooks.
    Hooks,
    /// Kernel parameters and the host name.
    Sysctl,
    /// Looking the user up and becoming it.
    User,
    /// The working directory.
    WorkingDirectory,
    /// Limits, capabilities, system call filter.
    Confinement,
    /// Running the program.
    Exec,
}

impl Step {
    /// The step in words, for "while …".
    pub fn words(self) -> &'static str {
        match self {
            Self::Spec => "reading the specification",
            Self::Namespaces => "making namespaces",
            Self::Cgroup => "joining the cgroup",
            Self::Root => "attaching the root filesystem",
            Self::Mounts => "mounting",
            Self::Terminal => "opening the terminal",
            Self::Hooks => "running hooks",
            Self::Sysctl => "setting kernel parameters",
            Self::User => "becoming the user",
            Self::WorkingDirectory => "entering the working directory",
            Self::Confinement => "confining the process",
            Self::Exec => "running the program",
        }
    }
}

/// `Class` in a form that crosses a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    NotFound,
    Invalid,
    Denied,
    Unimplemented,
    Unavailable,
    Internal,
}

/// A start that failed: at which step, why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    step: Step,
    kind: Kind,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
}

/// `Result` with [`StartError`].
pub type Result<T, E = StartError> = std::result::Result<T, E>;

impl StartError {
    fn new(step: Step, kind: Kind, message: impl Into<String>) -> Self {
        Self { step, kind, message: message.into(), hint: None, exit_code: None }
    }

    /// A fault of ours or of the machine.
    pub fn internal(step: Step, message: impl Into<String>) -> Self {
        Self::new(step, Kind::Internal, message)
    }

    /// Something wrong with the specification or the image.
    pub fn invalid(step: Step, message: impl Into<String>) -> Self {
        Self::new(step, Kind::Invalid, message)
    }

    /// Something asked for that is not there.
    pub fn not_found(step: Step, message: impl Into<String>) -> Self {
        Self::new(step, Kind::NotFound, message)
    }

    /// Something that may not be done.
    pub fn denied(step: Step, message: impl Into<String>) -> Self {
        Self::new(step, Kind::Denied, message)
    }

    /// Known, and not built.
    pub fn unimplemented(step: Step, message: impl Into<String>) -> Self {
        Self::new(step, Kind::Unimplemented, message)
    }

    /// A failed call: what was tried, and the system's reason.
    pub fn io(step: Step, what: impl std::fmt::Display, error: impl Into<std::io::Error>) -> Self {
        let error = error.into();
        let kind = match yare_errdefs::class_of_io(&error) {
            Class::Unavailable => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Self::new(step, kind, format!("{what}: {}", reason(&error)))
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the exit code that a shell gives for this (126 or 127).
    #[must_use]
    pub(crate) fn with_exit_code(mut self, code: i32) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// The step that failed.
    pub fn step(&self) -> Step {
        self.step
    }

    /// 127 for a program that is not there, 126 for one that cannot run, `None` for anything else.
    pub fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }
}

/// The system's words in lower case without Rust's "(os error n)".
pub(crate) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = match text.find(" (os error") {
        Some(at) if error.raw_os_error().is_some() => &text[..at],
        _ => &text,
    };
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if letters.clone().next().is_some_and(|second| !second.is_uppercase()) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_string(),
    }
}

impl Classified for StartError {
    fn class(&self) -> Class {
        match self.kind {
            Kind::NotFound => Class::NotFound,
            Kind::Invalid => Class::InvalidArgument,
            Kind::Denied => Class::PermissionDenied,
            Kind::Unimplemented => Class::Unimplemented,
            Kind::Unavailable => Class::Unavailable,
            Kind::Internal => Class::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
