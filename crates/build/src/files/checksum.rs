//! A digest of everything of a selection that makes a difference to the image.

use super::hash_cache::Moment;
use super::resolve::Opener;
use super::select::{Entry, Item, Selection};
use super::{HashCache, Stamp, Tree, changed, failed, is_dir, join, shown};
use crate::Cancel;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use yare_errdefs::Result;
use yare_layer::image_xattrs;
use yare_oci::{Digest, Hasher};

/// Begins what is hashed; a change of the rules changes every digest.
const VERSION: &[u8] = b"yare selection 1\n";
/// Fewer bytes than this are not worth a second thread.
const WORTH_A_THREAD: u64 = 4 << 20;
const BUFFER: usize = 256 * 1024;

/// What a checksum covers, and with what help.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChecksumOptions<'a> {
    /// Whether the copy keeps owners, as from another stage without `--chown`.
    pub owners: bool,
    /// Hashes of earlier builds. Only for trees whose inode numbers last: context folders, not mounts made
    /// for one build.
    pub cache: Option<&'a HashCache>,
}

/// The checksum: names, kinds, modes, link targets, content, attributes, which names are one file; owners if
/// asked for. Times and inode numbers are no part of it.
pub fn checksum(selection: &Selection<'_>, options: &ChecksumOptions<'_>, cancel: &Cancel) -> Result<Digest> {
    let bodies = bodies(selection, options.cache, cancel)?;
    Ok(summed(selection, &bodies, options.owners, None))
}

/// As [`checksum`], with what each file adds to it, by its path in the tree: to say later which one changed.
/// A listing of more than `most` files is empty. The selection remembers the hashes of its files.
pub fn checksum_noted(
    selection: &mut Selection<'_>,
    options: &ChecksumOptions<'_>,
    most: usize,
    cancel: &Cancel,
) -> Result<(Digest, BTreeMap<String, String>)> {
    let bodies = bodies(selection, options.cache, cancel)?;
    let mut listing = BTreeMap::new();
    let wanted = (selection.len() <= most).then_some(&mut listing);
    let sum = summed(selection, &bodies, options.owners, wanted);
    let entries = selection.items.iter_mut().flat_map(|item| &mut item.entries);
    for (entry, body) in entries.zip(bodies) {
        entry.body = Some(body);
    }
    Ok((sum, listing))
}

fn summed(
    selection: &Selection<'_>,
    bodies: &[Digest],
    owners: bool,
    mut listing: Option<&mut BTreeMap<String, String>>,
) -> Digest {
    let mut hasher = Hasher::new();
    let mut bodies = bodies.iter();
    hasher.update(VERSION);
    for item in &selection.items {
        // The name of a directory that is copied does not appear in the image.
        let name = if item.directory { &[][..] } else { &item.name };
        field(&mut hasher, if item.directory { b"d" } else { b"f" });
        field(&mut hasher, name);
        hasher.update(&(item.entries.len() as u64).to_le_bytes());
        let mut names = HashMap::new();
        for (entry, body) in item.entries.iter().zip(&mut bodies) {
            let first = if entry.linked { first_name(&mut names, entry) } else { None };
            let bytes = encoded(entry, body, first, owners);
            if let Some(listing) = &mut listing {
                let path = shown(&join(&item.base, &entry.path)).trim_start_matches('/').to_owned();
                listing.insert(path, Digest::of(&bytes).hex()[..16].to_owned());
            }
            hasher.update(&bytes);
        }
    }
    hasher.finish()
}

fn first_name<'e>(names: &mut HashMap<(u64, u64), &'e [u8]>, entry: &'e Entry) -> Option<&'e [u8]> {
    match names.entry((entry.stamp.device, entry.stamp.inode)) {
        std::collections::hash_map::Entry::Occupied(first) => Some(first.get()),
        std::collections::hash_map::Entry::Vacant(place) => {
            place.insert(&entry.path);
            None
        }
    }
}

fn field(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// What an entry adds to the checksum, in one buffer: a hasher is slow with many small pieces.
fn encoded(entry: &Entry, body: &Digest, first: Option<&[u8]>, owners: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entry.path.len() + 96);
    let mut put = |part: &[u8]| {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    };
    put(&entry.path);
    put(&entry.mode.to_le_bytes());
    put(entry.link.as_deref().unwrap_or_default());
    put(first.unwrap_or_default());
    put(&[u8::from(first.is_some()), u8::from(entry.implied)]);
    put(body.as_bytes());
    if matches!(entry.kind(), FileType::CharacterDevice | FileType::BlockDevice) {
        put(&entry.device.to_le_bytes());
    }
    if owners {
        put(&entry.uid.to_le_bytes());
        put(&entry.gid.to_le_bytes());
    }
    bytes
}

/// Hashes of content and attributes, for each entry in turn.
fn bodies(selection: &Selection<'_>, cache: Option<&HashCache>, cancel: &Cancel) -> Result<Vec<Digest>> {
    let entries: Vec<(&Item, &Entry)> =
        selection.items.iter().flat_map(|item| item.entries.iter().map(move |entry| (item, entry))).collect();
    let mut known = match cache {
        Some(cache) => cache.look_up(entries.iter().map(|(_, entry)| &entry.stamp)),
        None => vec![None; entries.len()],
    };
    let unknown: Vec<usize> = (0..entries.len()).filter(|at| known[*at].is_none()).collect();
    if !unknown.is_empty() {
        let begun = Moment::now();
        let todo: Vec<(&Item, &Entry)> = unknown.iter().map(|at| entries[*at]).collect();
        let hashed = hash_all(selection.tree, &todo, cancel)?;
        if let Some(cache) = cache {
            let stamps = todo.iter().map(|(_, entry)| entry.stamp);
            cache.learn(stamps.zip(hashed.iter().copied()), begun);
        }
        for (at, digest) in unknown.into_iter().zip(hashed) {
            known[at] = Some(digest);
        }
    }
    Ok(known.into_iter().flatten().collect())
}

fn hash_all(tree: &Tree<'_>, todo: &[(&Item, &Entry)], cancel: &Cancel) -> Result<Vec<Digest>> {
    let bytes: u64 = todo.iter().map(|(_, entry)| entry.stamp.size.saturating_add(4096)).sum();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Digest)>> {
        let mut reader = Reader { opener: Opener::new(tree.root.as_fd()), tree, buffer: vec![0; BUFFER] };
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((item, entry)) = todo.get(at) else { return Ok(done) };
            cancel.check()?;
            done.push((at, reader.hash(item, entry, cancel)?));
        }
    };
    let mut hashed = if bytes < WORTH_A_THREAD {
        work()?
    } else {
        std::thread::scope(|scope| {
            let second = scope.spawn(work);
            let first = work();
            let second = second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            first.and_then(|mut first| {
                first.extend(second?);
                Ok(first)
            })
        })?
    };
    hashed.sort_unstable_by_key(|(at, _)| *at);
    Ok(hashed.into_iter().map(|(_, digest)| digest).collect())
}

struct Reader<'t> {
    opener: Opener<'t>,
    tree: &'t Tree<'t>,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn hash(&mut self, item: &Item, entry: &Entry, cancel: &Cancel) -> Result<Digest> {
        let path = join(&item.base, &entry.path);
        let regular = entry.kind() == FileType::RegularFile;
        let flags = if regular { OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY } else { OFlags::PATH };
        let tree = self.tree;
        let fd = self.opener.open(&path, flags).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => changed(tree, &path),
            _ => failed("read", &path, error),
        })?;
        let is_same = || -> Result<()> {
            let stat = rustix::fs::fstat(&fd).map_err(|error| failed("stat", &path, error))?;
            // Another name in a directory is no change of it, unless it was chosen.
            let same =
                entry.kind() == FileType::Directory && is_dir(&stat) || Stamp::of(&stat) == entry.stamp;
            if same { Ok(()) } else { Err(changed(tree, &path)) }
        };
        is_same()?;
        let mut hasher = Hasher::new();
        if regular {
            loop {
                cancel.check()?;
                match rustix::io::read(&fd, &mut self.buffer[..]) {
                    Ok(0) => break,
                    Ok(count) => hasher.update(self.buffer.get(..count).unwrap_or_default()),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(failed("read", &path, error)),
                }
            }
        }
        let xattrs =
            image_xattrs(fd.as_fd()).map_err(|error| failed("read the attributes of", &path, error))?;
        for (name, value) in &xattrs {
            field(&mut hasher, name);
            field(&mut hasher, value);
        }
        // Content and attributes cannot be taken for each other: here the content's length is.
        hasher.update(&if regular { entry.stamp.size } else { 0 }.to_le_bytes());
        is_same()?;
        Ok(hasher.finish())
    }
}
