//! `load`: images from a docker archive or an OCI layout, in one pass over a stream.
//!
//! The stream cannot be rewound and a layer often comes before the document that names it (in archives of
//! `docker save` always). So every file that looks like a layer is unpacked as it passes by, into a layer
//! that is not visible yet; every other file of at most [`document::LIMIT`] bytes goes to the content store.
//! Memory holds names, digests and sizes alone. At the end the documents decide: what they need is verified
//! and committed together, the rest vanishes.

mod layout;
mod plan;

use crate::archive::{self, Entry, Kind, Reader, read_failed};
use crate::commit::{Committed, NewImage, NewIndex};
use crate::document;
use crate::failure::Lift;
use crate::image::ImageId;
use crate::lease::Lease;
use crate::store::Store;
use crate::unpack::{Unpacked, Watched, unpack};
use plan::{Found, Wanted};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use yare_errdefs::{Error, Result, chain};
use yare_layer::Decompressor;
use yare_oci::{DiffId, Digest, Platform, Reference};

/// The most entries of an archive, and the most bytes of their names: far beyond honest use.
const ENTRY_LIMIT: usize = 100_000;
const NAMES_LIMIT: usize = 16 << 20;
/// The most layers that wait for the documents: each is a directory and an open file.
const PENDING_LIMIT: usize = 1024;

/// What `load` did, told after everything is durable. `Display` is Docker's line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadEvent {
    /// A name was taken from another image.
    Renamed {
        /// The name.
        reference: Reference,
        /// Who had it.
        previous: ImageId,
    },
    /// An image was loaded: told once for each of its names, or once without one.
    Loaded {
        /// The image.
        id: ImageId,
        /// Its name.
        reference: Option<Reference>,
    },
}

impl fmt::Display for LoadEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Renamed { reference, previous } => write!(
                f,
                "The image {} already exists, renaming the old one with ID {previous} to empty string",
                reference.familiar()
            ),
            Self::Loaded { reference: Some(reference), .. } => {
                write!(f, "Loaded image: {}", reference.familiar())
            }
            Self::Loaded { id, reference: None } => write!(f, "Loaded image ID: {id}"),
        }
    }
}

/// How far the layer is that passes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadProgress {
    /// The first 12 hex digits of its name in the archive.
    pub id: String,
    /// Bytes read.
    pub current: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A file of the archive.
#[derive(Debug, Clone)]
enum Item {
    /// Kept in the content store.
    Document { digest: Digest, size: u64 },
    /// Unpacked, or known before.
    Layer { blob: Digest, size: u64, diff_id: DiffId },
    /// Looked like a layer and could not be unpacked.
    Broken { why: String },
    /// Too long for a document and no layer.
    Opaque { size: u64 },
    /// Another name of a file.
    Link(String),
}

struct Loader<'a> {
    store: &'a Store,
    lease: Lease,
    items: HashMap<String, Item>,
    names: usize,
    pending: HashMap<DiffId, Unpacked>,
    /// What of the archive is wanted; everything when empty.
    platforms: &'a [Platform],
    on_progress: &'a mut dyn FnMut(LoadProgress),
}

impl Store {
    /// Loads all images of an archive, which may be compressed as a whole. All or none.
    pub fn load(&self, source: impl Read, on_event: &mut dyn FnMut(LoadEvent)) -> Result<()> {
        self.load_with_progress(source, &[], on_event, &mut |_| {})
    }

    /// The same of these platforms alone, where some are given, and tells how far it is.
    pub fn load_with_progress(
        &self,
        source: impl Read,
        platforms: &[Platform],
        on_event: &mut dyn FnMut(LoadEvent),
        on_progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<()> {
        let source = Decompressor::new(source).map_err(read_failed)?;
        let mut loader = Loader {
            store: self,
            lease: self.lease(),
            items: HashMap::new(),
            names: 0,
            pending: HashMap::new(),
            platforms,
            on_progress,
        };
        let mut reader = Reader::new(source);
        while let Some(entry) = reader.next()? {
            loader.take(entry, &mut reader)?;
        }
        reader.drain();
        let found = loader.decide()?;
        announce(&loader.commit(found)?, on_event);
        Ok(())
    }
}

fn announce(committed: &[Committed], on_event: &mut dyn FnMut(LoadEvent)) {
    for Committed { image, asked, replaced } in committed {
        for (reference, previous) in replaced {
            on_event(LoadEvent::Renamed { reference: reference.clone(), previous: *previous });
        }
        for reference in asked {
            on_event(LoadEvent::Loaded { id: image.id, reference: Some(reference.clone()) });
        }
        if asked.is_empty() {
            on_event(LoadEvent::Loaded { id: image.id, reference: None });
        }
    }
}

impl Loader<'_> {
    /// Takes one entry of the archive in.
    fn take(&mut self, entry: Entry, reader: &mut Reader<impl Read>) -> Result<()> {
        self.names += entry.name.len();
        if self.items.len() >= ENTRY_LIMIT || self.names > NAMES_LIMIT {
            return Err(Error::invalid(format!(
                "the archive has more than {ENTRY_LIMIT} entries or too long names"
            )));
        }
        let item = match entry.kind {
            Kind::Other => return Ok(()),
            Kind::Link(target) => Item::Link(target),
            Kind::File => self.file(&entry, reader.data())?,
        };
        self.items.insert(entry.name, item);
        Ok(())
    }

    fn file(&mut self, entry: &Entry, mut data: impl Read) -> Result<Item> {
        let mut start = Vec::with_capacity(512);
        (&mut data).take(512).read_to_end(&mut start).map_err(read_failed)?;
        let promised = promised_digest(&entry.name)?;
        let compressed = is_compressed(&start);
        let plain = !compressed && archive::is_tar(&start);
        let looks_like_layer = plain || compressed;
        let data = io::Cursor::new(start).chain(data);
        let item = if looks_like_layer {
            self.layer(entry, promised, plain, data)?
        } else if entry.size <= document::LIMIT {
            self.document(entry, data)?
        } else if entry.name.ends_with(".json") || entry.name == "repositories" || entry.name == "oci-layout"
        {
            document::check_size(entry.size, &format!("{} in the archive", entry.name))?;
            Item::Opaque { size: entry.size }
        } else {
            let (digest, size) = Watched::new(data, &mut |_| {}).finish().map_err(read_failed)?;
            digest.map_or(Ok(()), |digest| check_promise(&entry.name, promised, digest))?;
            return Ok(Item::Opaque { size });
        };
        match &item {
            Item::Document { digest, .. } | Item::Layer { blob: digest, .. } => {
                check_promise(&entry.name, promised, *digest)?;
            }
            _ => {}
        }
        Ok(item)
    }

    fn document(&mut self, entry: &Entry, mut data: impl Read) -> Result<Item> {
        let mut bytes = Vec::with_capacity(usize::try_from(entry.size).unwrap_or_default());
        data.read_to_end(&mut bytes).map_err(read_failed)?;
        let digest = Digest::of(&bytes);
        self.lease.blob(digest);
        self.store.inner.content.put(&bytes).lift()?;
        Ok(Item::Document { digest, size: bytes.len() as u64 })
    }

    /// Unpacks what looks like a layer, unless its name says that it is one that the store has.
    fn layer(
        &mut self,
        entry: &Entry,
        promised: Option<Digest>,
        plain: bool,
        data: impl Read,
    ) -> Result<Item> {
        let (id, total) = (short_name(&entry.name), entry.size);
        let on_progress = &mut *self.on_progress;
        let mut tell = |current| on_progress(LoadProgress { id: id.clone(), current, total });
        if let Some(known) = promised.map(DiffId) {
            self.lease.layer(known);
            if self.store.inner.snapshots.has_layer(&known) {
                let (digest, size) = Watched::new(data, &mut tell).finish().map_err(read_failed)?;
                digest.map_or(Ok(()), |digest| check_promise(&entry.name, promised, digest))?;
                return Ok(Item::Layer { blob: known.0, size, diff_id: known });
            }
        }
        if self.pending.len() >= PENDING_LIMIT {
            return Err(Error::invalid(format!("the archive has more than {PENDING_LIMIT} layers")));
        }
        // The digest of a plain tar is its DiffID: it need not be hashed twice.
        let mut watched =
            if plain { Watched::counting(data, &mut tell) } else { Watched::new(data, &mut tell) };
        let unpacked = unpack(self.store, &mut watched);
        let (blob, size) = watched.finish().map_err(read_failed)?;
        tell(size);
        match unpacked {
            Ok(unpacked) => {
                let diff_id = unpacked.applied.diff_id;
                if plain && unpacked.applied.size != size {
                    return Err(Error::internal(format!("layer {} was not read to its end", entry.name)));
                }
                self.lease.layer(diff_id);
                self.pending.entry(diff_id).or_insert(unpacked);
                Ok(Item::Layer { blob: blob.unwrap_or(diff_id.0), size, diff_id })
            }
            Err(error) if is_fault_of_the_archive(&error) => Ok(Item::Broken { why: chain(&error) }),
            Err(error) => Err(error),
        }
    }

    /// Reads the documents and finds out which images there are.
    fn decide(&mut self) -> Result<Found> {
        // A docker archive cannot say what an index says: of an archive of both kinds the layout is read then.
        if self.items.contains_key("manifest.json") && !self.has_indexes() {
            return Ok(Found { images: self.docker_images()?, indexes: Vec::new() });
        }
        if self.items.contains_key("index.json") {
            return self.layout_images();
        }
        let error =
            Error::invalid("the archive holds no image: neither manifest.json nor index.json is in it");
        Err(if self.items.contains_key("repositories") {
            error.with_hint(
                "it was saved by a Docker older than 1.10: load and save it again with a newer one",
            )
        } else {
            error.with_hint("to make an image of a file system in a tar, use `yare import`")
        })
    }

    /// Makes what is wanted visible: layers first, then all images in one transaction.
    fn commit(&mut self, found: Found) -> Result<Vec<Committed>> {
        let mut layers = Vec::new();
        for wanted in &found.images {
            for layer in &wanted.layers {
                if let Some(unpacked) = self.pending.remove(layer) {
                    layers.push((unpacked.pending, unpacked.applied));
                }
            }
        }
        self.pending.clear();
        self.store.inner.snapshots.commit_layers(layers).lift()?;
        let members: Vec<_> =
            found.indexes.iter().flat_map(|index| &index.present).map(|(_, id)| *id).collect();
        let images: Vec<NewImage> = found.images.into_iter().map(Wanted::into_new).collect();
        let indexes: Vec<NewIndex> = found.indexes;
        let (images, indexes) = self.store.commit(images, indexes)?;
        // A member is told of by the name of its index.
        let told = |image: &Committed| !image.asked.is_empty() || !members.contains(&image.image.id);
        Ok(images.into_iter().filter(told).chain(indexes).collect())
    }
}

/// `blobs/sha256/<hex>` promises its content.
fn promised_digest(name: &str) -> Result<Option<Digest>> {
    let Some(rest) = name.strip_prefix("blobs/") else { return Ok(None) };
    let Some((algorithm, hex)) = rest.split_once('/') else { return Ok(None) };
    if algorithm != "sha256" {
        return Ok(None);
    }
    let digest = Digest::from_hex(hex);
    digest
        .map(Some)
        .map_err(|error| Error::invalid(format!("the archive has a blob with a bad name: {error}")))
}

fn check_promise(name: &str, promised: Option<Digest>, actual: Digest) -> Result<()> {
    match promised {
        Some(expected) if expected != actual => Err(Error::invalid(format!(
            "{name} in the archive has digest {actual}: its content is not what its name says"
        ))
        .with_hint("the archive is damaged: copy or save it again")),
        _ => Ok(()),
    }
}

fn is_compressed(start: &[u8]) -> bool {
    matches!(
        start,
        [0x1f, 0x8b, ..]
            | [0x28, 0xb5, 0x2f, 0xfd, ..]
            | [0xfd, b'7', b'z', b'X', b'Z', 0, ..]
            | [b'B', b'Z', b'h', ..]
    )
}

/// Whether an unpacking failed because of what was unpacked; a full disk is no such case.
fn is_fault_of_the_archive(error: &Error) -> bool {
    use yare_errdefs::{Class, Classified};
    error.class() == Class::InvalidArgument
}

/// What to call a layer in progress lines: the part of its path that looks like an id.
fn short_name(path: &str) -> String {
    let best = path
        .rsplit('/')
        .find(|part| part.len() >= 12 && part.bytes().take(12).all(|byte| byte.is_ascii_hexdigit()));
    best.unwrap_or(path).chars().take(12).collect()
}
