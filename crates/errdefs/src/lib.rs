//! Error classes: what an error *is* decides behaviour, its text informs people.
//!
//! Two questions, two answers. The [`Class`] of an error decides the HTTP status, whether a retry makes
//! sense and which exit code the command line uses; nothing in Yare matches on texts. The text says what
//! failed, on which object or path, and why; a *hint* says what to do about it and is kept apart, so that a
//! client that matches a text exactly never sees it changed by advice.
//!
//! Crates with a family of errors of their own write an enum and implement [`Classified`] for it. Where an
//! enum would only repeat a class and a sentence, [`Error`] is that pair.

use std::error::Error as StdError;
use std::fmt;

/// What kind of failure this is. The words are those of containerd's `errdefs` and gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The named object does not exist.
    NotFound,
    /// The request itself is wrong, whatever the state of the engine.
    InvalidArgument,
    /// The request clashes with the state of an object (in use, running, not running).
    Conflict,
    /// The name or object is taken.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// The caller did not prove who it is.
    Unauthenticated,
    /// Something that must hold first does not.
    FailedPrecondition,
    /// Nothing to do: the object is in the wanted state already.
    NotModified,
    /// A resource or peer is not there now; a later try may succeed.
    Unavailable,
    /// Known, and not built.
    Unimplemented,
    /// The caller left or a deadline passed.
    Cancelled,
    /// A fault of ours or of the machine.
    Internal,
}

/// An error that knows its class.
pub trait Classified: StdError {
    /// The class that decides behaviour.
    fn class(&self) -> Class;

    /// What the user can do about it, as a sentence, when there is something.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// A class, a text, and optionally a cause and a hint.
///
/// `Display` prints the text alone; [`chain`] prints it with its causes.
pub struct Error {
    class: Class,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// `Result` with [`Error`] as its default error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($name:ident => $class:ident),* $(,)?) => {
        $(
            #[doc = concat!("An error of class [`Class::", stringify!($class), "`].")]
            pub fn $name(message: impl Into<String>) -> Self {
                Self::new(Class::$class, message)
            }
        )*
    };
}

impl Error {
    /// An error with this class and text.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: None, source: None }
    }

    constructors! {
        not_found => NotFound,
        invalid => InvalidArgument,
        conflict => Conflict,
        already_exists => AlreadyExists,
        denied => PermissionDenied,
        unauthenticated => Unauthenticated,
        precondition => FailedPrecondition,
        not_modified => NotModified,
        unavailable => Unavailable,
        unimplemented => Unimplemented,
        cancelled => Cancelled,
        internal => Internal,
    }

    /// Takes the class and hint of `cause` and puts `message` before it.
    pub fn wrap(message: impl Into<String>, cause: impl Classified + Send + Sync + 'static) -> Self {
        let (class, hint) = (cause.class(), cause.hint());
        Self { class, message: message.into(), hint, source: Some(Box::new(cause)) }
    }

    /// Adds the cause. The message should not repeat it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.class, chain(self))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        self.class
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        Self { class: class_of_io(&source), message: source.to_string(), hint: None, source: None }
    }
}

/// The class of a file error: only what is certain from its kind, [`Class::Internal`] otherwise.
pub fn class_of_io(error: &std::io::Error) -> Class {
    match error.kind() {
        kind if is_full_kind(kind) => Class::Unavailable,
        _ => Class::Internal,
    }
}

/// Whether it is for want of space: a full disk, or a quota, among the causes.
pub fn is_full(error: &(dyn StdError + 'static)) -> bool {
    let is_it = error.downcast_ref::<std::io::Error>().is_some_and(|error| is_full_kind(error.kind()));
    is_it || error.source().is_some_and(is_full)
}

fn is_full_kind(kind: std::io::ErrorKind) -> bool {
    matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// The error and its causes, outermost first, joined by `: `, each text once.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_prints_each_fact_once() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::internal("cannot write /x").caused_by(cause);
        assert_eq!(chain(&error), "cannot write /x: disk on fire");
        let again = Error::internal("outer: disk on fire").caused_by(std::io::Error::other("disk on fire"));
        assert_eq!(chain(&again), "outer: disk on fire");
    }

    #[test]
    fn wrap_keeps_class_and_hint() {
        let inner = Error::not_found("no such image: x").with_hint("pull it");
        let outer = Error::wrap("cannot create the container", inner);
        assert_eq!(outer.class(), Class::NotFound);
        assert_eq!(outer.hint().as_deref(), Some("pull it"));
    }

    #[test]
    fn a_full_disk_is_found_in_the_causes() {
        let full = std::io::Error::new(std::io::ErrorKind::StorageFull, "cannot write /x: no space");
        let error =
            Error::internal("cannot unpack").caused_by(Error::internal("cannot read").caused_by(full));
        assert!(is_full(&error));
        assert!(!is_full(&Error::internal("x").caused_by(std::io::Error::other("y"))));
    }

    #[test]
    fn a_full_disk_is_unavailable_not_internal() {
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(class_of_io(&full), Class::Unavailable);
    }
}
