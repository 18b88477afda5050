//! Errors of the crates below, as this crate's error.

use yare_errdefs::{Classified, Error, Result};

/// Turns an error of a crate below into ours.
pub(crate) trait Lift<T> {
    /// Keeps text, class and hint.
    fn lift(self) -> Result<T>;
    /// Puts a text before it.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Classified + Send + Sync + 'static> Lift<T> for Result<T, E> {
    fn lift(self) -> Result<T> {
        self.map_err(|error| Error::wrap(error.to_string(), error))
    }

    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::wrap(message(), error))
    }
}
