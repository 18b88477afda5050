//! One layer from a stream into the snapshotter.

use crate::archive::read_failed;
use crate::failure::Lift;
use crate::store::Store;
use std::error::Error as _;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use yare_errdefs::{Error, Result};
use yare_layer::{Applied, ApplyError, ApplyOptions, Decompressor, ReadAhead};
use yare_oci::{DiffId, Digest, Hasher};
use yare_snapshot::PendingLayer;

/// A layer that is unpacked and not yet visible.
pub(crate) struct Unpacked {
    pub(crate) pending: PendingLayer,
    pub(crate) applied: Applied,
}

/// Unpacks a layer tar, compressed or not, into a layer that still is to be committed.
pub(crate) fn unpack(store: &Store, source: impl Read) -> Result<Unpacked> {
    let pending = store.inner.snapshots.begin_layer().lift()?;
    let mut record = io::BufWriter::with_capacity(64 << 10, pending.record().lift()?);
    let reader = Decompressor::new(source).map_err(read_failed)?;
    let options = ApplyOptions { record: Some(&mut record), ..ApplyOptions::default() };
    let applied = yare_layer::apply(reader, pending.dir(), options).map_err(apply_failed)?;
    io::Write::flush(&mut record)
        .map_err(|error| Error::from(error).with_hint("free some space where the data root is"))?;
    Ok(Unpacked { pending, applied })
}

/// The layers of an image may become this large together, and beyond it this many times what they are
/// compressed: further ones are made to fill a disk.
const LARGEST: u64 = 16 << 30;
const LARGEST_RATIO: u64 = 100;

/// How much the layers of one image may still become. Clones are about the same image.
#[derive(Debug, Clone)]
pub struct Allowance {
    left: Arc<AtomicU64>,
    all: u64,
}

impl Allowance {
    /// For an image whose layers have so many bytes, compressed.
    pub fn of_image(compressed: u64) -> Self {
        Self::new(LARGEST.max(compressed.saturating_mul(LARGEST_RATIO)))
    }

    pub(crate) fn new(all: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(all)), all }
    }

    /// For the next layer: what it takes comes back when it fails.
    fn ration(&self) -> Ration {
        Ration { allowance: self.clone(), taken: AtomicU64::new(0) }
    }
}

/// What one layer took of an allowance. Dropped, it is given back.
struct Ration {
    allowance: Allowance,
    taken: AtomicU64,
}

impl Ration {
    fn take(&self, count: u64) -> io::Result<()> {
        let left = |left: u64| left.checked_sub(count);
        if self.allowance.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_err() {
            let all = self.allowance.all;
            let what = format!(
                "the layers of the image have more than {all} bytes, unpacked: it is made to fill a disk"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.taken.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// The layer is there.
    fn keep(self) {
        self.taken.store(0, Ordering::Relaxed);
    }
}

impl Drop for Ration {
    fn drop(&mut self) {
        self.allowance.left.fetch_add(self.taken.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A stream that draws on a ration.
struct Rationed<'a, R> {
    source: R,
    ration: &'a Ration,
}

impl<R: Read> Read for Rationed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.ration.take(count as u64)?;
        Ok(count)
    }
}

impl Store {
    /// Unpacks a compressed layer of an image from a stream, in one pass, and makes it visible. Decompression
    /// runs on a thread of its own. Nothing is done when the layer is there; the caller holds a lease on it.
    ///
    /// # Errors
    /// Class invalid argument when the stream is no layer, its tar has another hash, or it is larger than the
    /// image's allowance.
    pub fn unpack_layer(
        &self,
        source: impl Read + Send + 'static,
        wanted: DiffId,
        allowance: &Allowance,
    ) -> Result<()> {
        let pending = self.inner.snapshots.begin_layer().lift()?;
        let mut record = io::BufWriter::with_capacity(64 << 10, pending.record().lift()?);
        let reader = Decompressor::new(source).map_err(read_failed)?;
        let ration = allowance.ration();
        let reader = Rationed { source: ReadAhead::spawn(reader)?, ration: &ration };
        let options = ApplyOptions { record: Some(&mut record), ..ApplyOptions::default() };
        let applied = yare_layer::apply(reader, pending.dir(), options).map_err(apply_failed)?;
        io::Write::flush(&mut record)
            .map_err(|error| Error::from(error).with_hint("free some space where the data root is"))?;
        drop(record);
        if applied.diff_id != wanted {
            return Err(Error::invalid(format!(
                "the layer unpacks to {}, and the image config names {wanted}",
                applied.diff_id
            )));
        }
        pending.commit(&applied).lift()?;
        ration.keep();
        Ok(())
    }
}

fn apply_failed(error: ApplyError) -> Error {
    let cut_short = error
        .source()
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof);
    if cut_short {
        return crate::archive::unexpected_eof();
    }
    Error::wrap(error.to_string(), error)
}

/// Hashes and counts what passes by, and tells how far it is.
pub(crate) struct Watched<'a, R> {
    source: R,
    hasher: Option<Hasher>,
    count: u64,
    told: u64,
    tell: &'a mut dyn FnMut(u64),
}

/// Bytes between two reports of progress.
const STEP: u64 = 4 << 20;

impl<'a, R: Read> Watched<'a, R> {
    pub(crate) fn new(source: R, tell: &'a mut dyn FnMut(u64)) -> Self {
        Self { source, hasher: Some(Hasher::new()), count: 0, told: 0, tell }
    }

    /// The same without hashing, for what somebody else hashes.
    pub(crate) fn counting(source: R, tell: &'a mut dyn FnMut(u64)) -> Self {
        Self { hasher: None, ..Self::new(source, tell) }
    }

    /// Reads the rest and returns the digest, where it was asked for, and the number of all bytes.
    pub(crate) fn finish(mut self) -> io::Result<(Option<Digest>, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.hasher.map(Hasher::finish), self.count))
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.count += count as u64;
        if self.count - self.told >= STEP {
            self.told = self.count;
            (self.tell)(self.count);
        }
        Ok(count)
    }
}
