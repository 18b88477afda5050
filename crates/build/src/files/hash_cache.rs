//! Hashes of files, remembered between builds and restarts.
//!
//! A file is known by device, inode, size and both times to the nanosecond. The change time cannot be set by
//! a program, so content that was replaced is noticed even when its modification time was put back. An entry
//! made so soon after the file's last change that a second change could carry the same time is not kept.
//!
//! On disk: the file `hashes` in the caller's folder. `yare-hashes 1\n`, entries of 84 bytes in
//! little-endian (device, inode, size: 8 each; modified, changed: 8 for seconds and 4 for nanoseconds each;
//! generation of last use: 4; SHA-256: 32), CRC-32 of all that. A damaged or unknown file is an empty cache.

use super::Stamp;
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use yare_oci::Digest;
use yare_sys::fs::{Durability, atomic_write};

const NAME: &str = "hashes";
const MAGIC: &[u8] = b"yare-hashes 1\n";
const ENTRY: usize = 84;
/// Entries that are kept on disk: 42 MB.
const MOST: usize = 500_000;
/// Clocks of file systems tick every few milliseconds; those that keep no nanoseconds, every two seconds.
const TICK_NANOS: i128 = 50_000_000;
const COARSE_TICK_NANOS: i128 = 2_000_000_000;

/// Remembers hashes. One for an engine; builds share it.
#[derive(Debug)]
pub struct HashCache {
    folder: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<(u64, u64), Known>,
    generation: u32,
    dirty: bool,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    stamp: Stamp,
    digest: Digest,
    used: u32,
}

impl HashCache {
    /// A cache that is forgotten with the process.
    pub fn in_memory() -> Self {
        Self { folder: None, state: Mutex::default() }
    }

    /// The cache that `folder` has, or an empty one when it has none, or one that cannot be read.
    pub fn open(folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref();
        let state = match read(folder) {
            Ok(bytes) => decode(&bytes).unwrap_or_else(|| {
                tracing::warn!(folder = %folder.display(), "the cache of file hashes is unusable, starting anew");
                State::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot read the cache of file hashes");
                State::default()
            }
        };
        Self { folder: Some(folder.to_owned()), state: Mutex::new(state) }
    }

    /// Writes what was learned into the folder, the longest unused left out when there is too much.
    pub fn save(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let bytes = {
            let mut state = self.lock();
            if !state.dirty {
                return Ok(());
            }
            state.dirty = false;
            encode(&mut state, MOST)
        };
        let written = atomic_write(folder, NAME, &bytes, Durability::Relaxed);
        if written.is_err() {
            self.lock().dirty = true;
        }
        written
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hashes of these files, where known.
    pub(super) fn look_up<'s>(&self, stamps: impl Iterator<Item = &'s Stamp>) -> Vec<Option<Digest>> {
        let mut state = self.lock();
        let generation = state.generation;
        let mut find = |stamp: &Stamp| {
            let known = state.known.get_mut(&(stamp.device, stamp.inode))?;
            if known.stamp != *stamp {
                return None;
            }
            known.used = generation;
            Some(known.digest)
        };
        stamps.map(&mut find).collect()
    }

    /// Remembers hashes that were taken of files at or after `begun`.
    pub(super) fn learn(&self, hashes: impl Iterator<Item = (Stamp, Digest)>, begun: Moment) {
        let mut state = self.lock();
        let used = state.generation;
        for (stamp, digest) in hashes.filter(|(stamp, _)| begun.is_well_after(stamp)) {
            state.known.insert((stamp.device, stamp.inode), Known { stamp, digest, used });
            state.dirty = true;
        }
    }
}

/// A time of the wall clock, as files have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment(i128);

impl Moment {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Realtime);
        Self(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec))
    }

    /// Whether a change at this moment would give the file other times than it has.
    fn is_well_after(self, stamp: &Stamp) -> bool {
        let nanos = |(seconds, nanos): (i64, u32)| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let tick = if stamp.changed.1 == 0 { COARSE_TICK_NANOS } else { TICK_NANOS };
        nanos(stamp.changed) + tick < self.0
    }
}

fn read(folder: &Path) -> io::Result<Vec<u8>> {
    let dir = yare_sys::fs::open_dir(folder)?;
    let most = (MAGIC.len() + MOST * ENTRY + 4) as u64;
    super::single::read_below(std::os::fd::AsFd::as_fd(&dir), NAME.as_bytes(), most)
}

fn encode(state: &mut State, most: usize) -> Vec<u8> {
    let mut kept: Vec<&Known> = state.known.values().collect();
    if kept.len() > most {
        kept.sort_unstable_by_key(|known| std::cmp::Reverse(known.used));
        kept.truncate(most);
    }
    let mut bytes = Vec::with_capacity(MAGIC.len() + kept.len() * ENTRY + 4);
    bytes.extend_from_slice(MAGIC);
    for known in &kept {
        let stamp = &known.stamp;
        for number in [stamp.device, stamp.inode, stamp.size] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for (seconds, nanos) in [stamp.modified, stamp.changed] {
            bytes.extend_from_slice(&seconds.to_le_bytes());
            bytes.extend_from_slice(&nanos.to_le_bytes());
        }
        bytes.extend_from_slice(&known.used.to_le_bytes());
        bytes.extend_from_slice(known.digest.as_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let stays: HashMap<_, _> =
        kept.into_iter().map(|known| ((known.stamp.device, known.stamp.inode), *known)).collect();
    if stays.len() < state.known.len() {
        state.known = stays;
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<State> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
        return None;
    }
    let entries = content.strip_prefix(MAGIC)?;
    let mut state = State::default();
    state.known.reserve(entries.len() / ENTRY);
    let mut chunks = entries.chunks_exact(ENTRY);
    for chunk in &mut chunks {
        let known = decode_entry(chunk)?;
        state.generation = state.generation.max(known.used);
        state.known.insert((known.stamp.device, known.stamp.inode), known);
    }
    state.generation = state.generation.saturating_add(1);
    chunks.remainder().is_empty().then_some(state)
}

fn decode_entry(mut bytes: &[u8]) -> Option<Known> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (head, rest) = bytes.split_first_chunk::<N>()?;
        *bytes = rest;
        Some(*head)
    }
    let device = u64::from_le_bytes(take(&mut bytes)?);
    let inode = u64::from_le_bytes(take(&mut bytes)?);
    let size = u64::from_le_bytes(take(&mut bytes)?);
    let modified = (i64::from_le_bytes(take(&mut bytes)?), u32::from_le_bytes(take(&mut bytes)?));
    let changed = (i64::from_le_bytes(take(&mut bytes)?), u32::from_le_bytes(take(&mut bytes)?));
    let used = u32::from_le_bytes(take(&mut bytes)?);
    let digest = Digest::from_bytes(take(&mut bytes)?);
    Some(Known { stamp: Stamp { device, inode, size, modified, changed }, digest, used })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(inode: u64) -> Stamp {
        Stamp { device: 1, inode, size: inode, modified: (5, 6), changed: (-7, 8) }
    }

    fn find(cache: &HashCache, stamp: Stamp) -> Option<Digest> {
        cache.look_up([stamp].iter()).pop().unwrap()
    }

    #[test]
    fn what_was_learned_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HashCache::open(folder.path());
        cache.learn((0..100).map(|n| (stamp(n), Digest::of(n.to_le_bytes()))), Moment::now());
        cache.save().unwrap();
        let again = HashCache::open(folder.path());
        assert_eq!(find(&again, stamp(99)), Some(Digest::of(99_u64.to_le_bytes())));
        for other in [
            Stamp { size: 0, ..stamp(99) },
            Stamp { modified: (5, 7), ..stamp(99) },
            Stamp { changed: (-7, 9), ..stamp(99) },
            Stamp { device: 2, ..stamp(99) },
        ] {
            assert_eq!(find(&again, other), None);
        }
    }

    #[test]
    fn a_damaged_file_is_an_empty_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HashCache::open(folder.path());
        cache.learn([(stamp(1), Digest::of(b"x"))].into_iter(), Moment::now());
        cache.save().unwrap();
        let path = folder.path().join(NAME);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode(&bad).is_none(), "{at}");
            assert!(decode(&good[..at]).is_none(), "{at}");
        }
        std::fs::write(&path, b"rubbish").unwrap();
        assert_eq!(find(&HashCache::open(folder.path()), stamp(1)), None);
    }

    #[test]
    fn the_longest_unused_go_first() {
        let mut state = State::default();
        for inode in 0..10 {
            let used = u32::try_from(inode).unwrap();
            state.known.insert((1, inode), Known { stamp: stamp(inode), digest: Digest::of(b""), used });
        }
        let kept = decode(&encode(&mut state, 3)).unwrap();
        let mut inodes: Vec<u64> = kept.known.keys().map(|(_, inode)| *inode).collect();
        inodes.sort_unstable();
        assert_eq!(inodes, [7, 8, 9]);
        assert_eq!((kept.generation, state.known.len()), (10, 3));
    }

    #[test]
    fn fresh_files_are_not_trusted() {
        let cache = HashCache::in_memory();
        let now = Moment::now();
        let seconds = i64::try_from(now.0 / 1_000_000_000).unwrap();
        let at = |seconds, nanos| Stamp { changed: (seconds, nanos), ..stamp(1) };
        for (stamp, kept) in [
            (at(seconds, 999_999_999), false),
            (at(seconds + 100, 1), false),
            (at(seconds - 1, 0), false),
            (at(seconds - 4, 0), true),
            (at(seconds - 2, 1), true),
        ] {
            cache.learn([(stamp, Digest::of(b"x"))].into_iter(), now);
            assert_eq!(find(&cache, stamp).is_some(), kept, "{stamp:?}");
        }
    }
}
