//! Tar archives into a tree that has content of its own, as `ADD` of a build and `cp` into a container do.
//!
//! The steps are those of [`crate::apply`], so a hostile archive meets the same walls, and so does one who
//! exchanges directories and links of the tree meanwhile. What differs: existing directories are merged with,
//! other things are replaced; in a build names that mean a deletion in a layer are refused, because a file of
//! that name cannot be in an image.

use crate::apply::{Applier, Limits, Target};
use crate::metadata::Metadata;
use crate::tar::{Entry, Input, Kind, Reader, Timestamp, lossy};
use crate::tree::{Occupant, Tree};
use crate::{ApplyError, Decompressor, Form};
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// How to extract an archive.
pub struct ExtractOptions<'a> {
    /// Bounds.
    pub limits: Limits,
    /// Owner of all entries; the archive's own when `None`.
    pub owner: Option<(u32, u32)>,
    /// What a modification time becomes, in seconds since 1970 and nanoseconds.
    pub time: &'a dyn Fn(i64, u32) -> (i64, u32),
    /// The time of directories that are implied, in seconds since 1970.
    pub now: i64,
    /// What it goes into: names that delete files of a layer are refused there, and are names like others in a
    /// plain tree.
    pub form: Form,
    /// Refuse to replace a directory by something else, or something else by a directory. The text is what is
    /// extracted into, as its users call it.
    pub kinds_stay: Option<&'a str>,
    /// Whether the directory that is extracted into takes owner, mode and times that the archive has for its root;
    /// otherwise it is the caller's and stays as it is.
    pub root: bool,
    /// Tell what was extracted; otherwise memory does not grow with the archive's files.
    pub list: bool,
}

impl std::fmt::Debug for ExtractOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExtractOptions")
            .field("limits", &self.limits)
            .field("owner", &self.owner)
            .field("form", &self.form)
            .field("kinds_stay", &self.kinds_stay)
            .finish_non_exhaustive()
    }
}

/// What was extracted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    /// Bytes of file content.
    pub bytes: u64,
    /// If asked for, everything that is no directory, below the directory of the extraction, in the archive's order.
    pub paths: Vec<PathBuf>,
}

/// Whether the stream, which may be compressed, is a tar archive with at least one entry.
pub fn is_archive(reader: impl Read) -> bool {
    let Ok(reader) = Decompressor::new(reader) else { return false };
    // A header and its extensions; more is not needed to know.
    matches!(Reader::new(Input::new(reader, Some(4 << 20), None)).next(), Ok(Some(_)))
}

/// Extracts an uncompressed archive into the directory `dir`. After an error a part of it is there.
pub fn extract(
    reader: impl Read,
    dir: BorrowedFd<'_>,
    options: &ExtractOptions<'_>,
) -> Result<Extracted, ApplyError> {
    let unprivileged = !rustix::process::geteuid().is_root();
    let extraction = Extraction {
        owner: options.owner,
        time: options.time,
        kinds_stay: options.kinds_stay,
        root: options.root,
        paths: options.list.then(Vec::new),
    };
    let mut tree = Tree::new(dir, unprivileged, options.limits.entries);
    let now = Timestamp { seconds: options.now, nanos: 0 };
    tree.implied = extraction.settle(Metadata { mtime: now, ..Metadata::implied() });
    let mut applier = Applier {
        reader: Reader::new(Input::new(reader, options.limits.bytes, None)),
        tree,
        unprivileged,
        form: options.form,
        content: 0,
        disk: 0,
        root_opaque: false,
        extraction: Some(extraction),
    };
    while let Some(entry) = applier.reader.next()? {
        applier.entry(entry)?;
        if let Some((link, target)) = applier.tree.lower_links.pop_first() {
            let reason = format!("hard link to {}, which is not there", lossy(&target));
            return Err(ApplyError::Entry { path: lossy(&link), reason });
        }
    }
    applier.tree.finish(false)?;
    applier.reader.input.finish()?;
    let paths = applier.extraction.and_then(|extraction| extraction.paths).unwrap_or_default();
    Ok(Extracted { bytes: applier.content, paths })
}

/// What is particular about an archive that is no layer.
pub(crate) struct Extraction<'a> {
    owner: Option<(u32, u32)>,
    time: &'a dyn Fn(i64, u32) -> (i64, u32),
    kinds_stay: Option<&'a str>,
    root: bool,
    paths: Option<Vec<PathBuf>>,
}

impl Extraction<'_> {
    /// Whether the entry is to be made; an error says why the archive is refused.
    pub(crate) fn admit(&mut self, entry: &Entry, target: &Target<'_>) -> Result<bool, &'static str> {
        match target {
            Target::Root => return Ok(self.root || entry.kind != Kind::Directory),
            Target::Nowhere | Target::Opaque { .. } | Target::Whiteout { .. } => {
                return Err("names that begin with .wh. delete files of an image and cannot be in it");
            }
            Target::Name { .. } => {}
        }
        if entry.kind == Kind::Character && entry.device == (0, 0) {
            return Err("the device 0:0 deletes files of an image and cannot be in it");
        }
        if let Some(paths) = self.paths.as_mut().filter(|_| entry.kind != Kind::Directory) {
            paths.push(PathBuf::from(OsString::from_vec(entry.path.clone())));
        }
        Ok(true)
    }

    /// Whether an entry may take the place of what is there.
    pub(crate) fn may_replace(&self, entry: &Entry, occupant: Occupant) -> Result<(), ApplyError> {
        let Some(target) = self.kinds_stay else { return Ok(()) };
        let directory = occupant == Occupant::Directory;
        let is_free = matches!(occupant, Occupant::Nothing | Occupant::Whiteout);
        if is_free || directory == (entry.kind == Kind::Directory) {
            return Ok(());
        }
        Err(ApplyError::Overwrite { path: lossy(&entry.path), directory, target: target.to_owned() })
    }

    /// The metadata that the entry gets instead of the archive's.
    pub(crate) fn settle(&self, mut metadata: Metadata) -> Metadata {
        if let Some((uid, gid)) = self.owner {
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        let (seconds, nanos) = (self.time)(metadata.mtime.seconds, metadata.mtime.nanos);
        metadata.mtime = Timestamp { seconds, nanos };
        metadata
    }
}
