//! A client's files, brought into a folder of ours: `FileSync/DiffCopy`.
//!
//! The client tells one stat an entry, directories before what is in them, and a number counts them. What we
//! do not have as told is asked for by number, and comes in pieces. A client is hostile: names are checked
//! one by one, nothing is opened through a link, only what was asked for is taken, and entries, names and
//! bytes are bounded.

mod folder;
mod name;
mod receive;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use folder::{Folder, Folders};
pub(crate) use receive::receive;
pub(crate) use tree::Tree;

/// Which files of a client are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What the client calls the folder: `context`, `dockerfile`, the name of a named context.
    pub(crate) dir: String,
    /// Only these, with what links of them lead to; empty is all.
    pub(crate) follow: Vec<String>,
    /// Not these.
    pub(crate) exclude: Vec<String>,
}

/// What a client may send at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Files, directories and links.
    pub(crate) entries: usize,
    /// Bytes of all names together.
    pub(crate) names: usize,
    /// Bytes of files.
    pub(crate) bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 2_000_000, names: 256 << 20, bytes: 256 << 30 }
    }
}
