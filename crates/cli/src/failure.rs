//! Why a command failed, and with which exit code.

use yare_errdefs::Classified;

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub code: i32,
    /// What is printed; nothing when empty.
    pub text: String,
    /// What to do about it, printed on a line of its own.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with this text and exit code 1.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into(), hint: None }
    }

    /// Exits with this code and prints nothing.
    pub(crate) fn silent(code: i32) -> Self {
        Self { code, text: String::new(), hint: None }
    }

    /// The same failure with another exit code.
    #[must_use]
    pub(crate) fn with_code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// The same failure with advice.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<yare_client::Error> for Failure {
    fn from(error: yare_client::Error) -> Self {
        Self { code: 1, text: error.to_string(), hint: error.hint() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // Whoever read our output has left: as if SIGPIPE had ended us.
            return Self::silent(128 + 13);
        }
        Self::new(error.to_string())
    }
}
