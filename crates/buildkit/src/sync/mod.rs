//! A client's files, brought into a folder of ours: `FileSync/DiffCopy`. The other way: `send`.
//!
//! The client tells one stat an entry, directories before what is in them, and a number counts them. What we
//! do not have as told is asked for by number, and comes in pieces. A client is hostile: names are checked
//! one by one, nothing is opened through a link, only what was asked for is taken, and entries, names and
//! bytes are bounded.

mod folder;
mod name;
mod receive;
mod send;
#[cfg(test)]
mod tests;
mod tree;

use rustix::fs::FileType;

pub(crate) use folder::{Folder, Folders};
pub(crate) use receive::receive;
pub(crate) use send::{send_folder, stat_of};
pub(crate) use tree::Tree;

/// Which files of a client are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What the client calls the folder: `context`, `dockerfile`, the name of a named context.
    pub(crate) dir: String,
    /// Patterns of what is wanted; empty is all.
    pub(crate) include: Vec<String>,
    /// Only these, with what links of them lead to; empty is all.
    pub(crate) follow: Vec<String>,
    /// Not these.
    pub(crate) exclude: Vec<String>,
}

/// Bits of Go's `FileMode`, in which modes travel.
struct Go;

impl Go {
    const DIRECTORY: u32 = 1 << 31;
    const LINK: u32 = 1 << 27;
    const SETUID: u32 = 1 << 23;
    const SETGID: u32 = 1 << 22;
    const STICKY: u32 = 1 << 20;
    /// Devices, pipes, sockets and what else is no file.
    const SPECIAL: u32 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19;
    /// The bits beside the permissions, with those of Unix.
    const BITS: [(u32, u32); 3] = [(Self::SETUID, 0o4000), (Self::SETGID, 0o2000), (Self::STICKY, 0o1000)];

    /// Permissions with setuid, setgid and sticky, as Unix has them.
    fn permissions(go: u32) -> u32 {
        Self::BITS.iter().filter(|(bit, _)| go & bit != 0).fold(go & 0o777, |mode, (_, unix)| mode | unix)
    }

    /// A mode of Unix as Go has it.
    fn mode(kind: FileType, unix: u32) -> u32 {
        let kind = match kind {
            FileType::Directory => Self::DIRECTORY,
            FileType::Symlink => Self::LINK,
            _ => 0,
        };
        Self::BITS
            .iter()
            .filter(|(_, bit)| unix & bit != 0)
            .fold(kind | unix & 0o777, |mode, (go, _)| mode | go)
    }
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
