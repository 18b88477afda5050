//! Files that the last run of the same copy made already, taken over by a link instead of a copy.
//!
//! Making a file costs the file system several times what another name for one costs, and a context is
//! mostly what it was. A layer's files are never written again (overlay copies them before a container
//! writes), so one file may be in the results of many runs.
//!
//! What a run made is written down as a note of its draft: `yare-origins 1\n`, for each file the length of
//! its path (4 bytes, little-endian), the path, and the SHA-256 of content and attributes (32 bytes); CRC-32
//! of all that. A note that cannot be read is none: files are copied then.

use super::resolve::Opener;
use super::{failed, kind_of, split};
use crate::Cancel;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use yare_errdefs::Result;
use yare_layer::Metadata;
use yare_oci::Digest;

const MAGIC: &[u8] = b"yare-origins 1\n";
/// Fewer files than this are copied faster than notes of them are read.
pub const WORTH_A_NOTE: usize = 256;

/// The result of an earlier run, in overlay form, and what is known of its files.
#[derive(Debug)]
pub struct Twin {
    dir: OwnedFd,
    known: Origins,
}

/// Files of a copy, by their paths in the image, with the hash of their content and attributes.
pub(super) type Origins = BTreeMap<Vec<u8>, Digest>;

impl Twin {
    /// The twin in this directory with its note; `None` when the note is damaged.
    pub fn read(dir: OwnedFd, note: &[u8]) -> Option<Self> {
        Some(Self { dir, known: decode(note)? })
    }

    pub(super) fn opener(&self) -> Opener<'_> {
        Opener::new(self.dir.as_fd())
    }

    /// Whether the twin's file at this path is what the copy would be; attributes are part of the hash.
    pub(super) fn has(&self, opener: &mut Opener<'_>, path: &[u8], body: &Digest, wanted: &Metadata) -> bool {
        if self.known.get(path) != Some(body) {
            return false;
        }
        let (parent, name) = split(path);
        let Ok(parent) = opener.directory(parent) else { return false };
        let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
        let Metadata { mode, uid, gid, mtime, .. } = Metadata::of(&stat, Vec::new());
        let same = (mode, uid, gid, mtime) == (wanted.mode, wanted.uid, wanted.gid, wanted.mtime);
        // ext4 allows 65,000 names of a file.
        same && kind_of(&stat) == FileType::RegularFile && stat.st_nlink < 60_000
    }

    /// Puts links to the twin's files at these paths of a layer that nobody else works on, whose directories
    /// are there.
    pub fn link(&self, paths: &HashSet<Vec<u8>>, upper: BorrowedFd<'_>, cancel: &Cancel) -> Result<()> {
        let (mut from, mut to) = (self.opener(), Opener::new(upper));
        let mut sorted: Vec<&Vec<u8>> = paths.iter().collect();
        sorted.sort_unstable();
        for path in sorted {
            cancel.check()?;
            let (parent, name) = split(path);
            let source = from.directory(parent).map_err(|error| failed("open", path, error))?;
            let target = to.directory(parent).map_err(|error| failed("open", path, error))?;
            let link = || rustix::fs::linkat(source, name, target, name, AtFlags::empty());
            let linked = match link() {
                // Of two sources the later one counts.
                Err(Errno::EXIST) => {
                    rustix::fs::unlinkat(target, name, AtFlags::empty()).and_then(|()| link())
                }
                result => result,
            };
            linked.map_err(|error| failed("make a link to the unchanged", path, error))?;
        }
        Ok(())
    }
}

/// The note of a draft; see the head of this file.
pub fn encode(origins: &Origins) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (path, body) in origins {
        bytes.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(path);
        bytes.extend_from_slice(body.as_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(note: &[u8]) -> Option<Origins> {
    let (content, crc) = note.split_last_chunk::<4>()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rest = content.strip_prefix(MAGIC)?;
    let mut origins = Origins::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (path, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let (body, after) = after.split_first_chunk::<32>()?;
        origins.insert(path.to_vec(), Digest::from_bytes(*body));
        rest = after;
    }
    Some(origins)
}
