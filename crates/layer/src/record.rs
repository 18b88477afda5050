//! The record of a layer's tar, beside its directory: all bytes of the tar that are in no file.
//!
//! Format, version 1: the eight bytes `yaretar1`, then one zstd frame of records. A record is a tag byte
//! and fields; numbers are LEB128, byte strings a length and that many bytes:
//!
//! ```text
//! 0 END       size of the tar, its SHA-256 (32 bytes)
//! 1 VERBATIM  bytes
//! 2 FILE      path, number of pieces, (offset, length) of each, CRC-32 of all (4 bytes, little endian)
//! 3 LOST      path, then (offset, bytes) until empty bytes
//! ```
//!
//! VERBATIM and FILE, in order, are the tar. LOST is content that a later entry of the same tar replaced:
//! it belongs to the last FILE of that path before it.

use crate::ApplyError;
use crate::tar::Segment;
use std::io::{self, Read, Write};
use yare_oci::Digest;

pub(crate) const MAGIC: &[u8; 8] = b"yaretar1";
pub(crate) const END: u8 = 0;
pub(crate) const VERBATIM: u8 = 1;
pub(crate) const FILE: u8 = 2;
pub(crate) const LOST: u8 = 3;

/// Paths and verbatim pieces in a record are at most this long.
pub(crate) const MOST_BYTES: u64 = 1 << 20;
const GATHERED: usize = 64 * 1024;

/// Writes the record.
pub(crate) struct Recorder<'a> {
    writer: zstd::stream::write::Encoder<'static, &'a mut (dyn Write + Send)>,
    gathered: Vec<u8>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(writer: &'a mut (dyn Write + Send)) -> Result<Self, ApplyError> {
        writer.write_all(MAGIC).map_err(ApplyError::Record)?;
        let writer = zstd::stream::write::Encoder::new(writer, 1).map_err(ApplyError::Record)?;
        Ok(Self { writer, gathered: Vec::new() })
    }

    /// Bytes of the tar that no file has.
    pub(crate) fn verbatim(&mut self, bytes: &[u8]) -> Result<(), ApplyError> {
        if self.gathered.len() + bytes.len() > GATHERED {
            self.flush()?;
        }
        if bytes.len() > GATHERED {
            return bytes.chunks(GATHERED).try_for_each(|piece| self.put_verbatim(piece));
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    fn put_verbatim(&mut self, bytes: &[u8]) -> Result<(), ApplyError> {
        self.put(&[VERBATIM])?;
        self.put_bytes(bytes)
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let gathered = std::mem::take(&mut self.gathered);
        self.put_verbatim(&gathered)?;
        self.gathered = gathered;
        self.gathered.clear();
        Ok(())
    }

    /// Content of the tar that is now in these pieces of the file.
    pub(crate) fn file(&mut self, path: &[u8], pieces: &[Segment], crc: u32) -> Result<(), ApplyError> {
        self.flush()?;
        self.put(&[FILE])?;
        self.put_bytes(path)?;
        self.put_number(pieces.len() as u64)?;
        for piece in pieces {
            self.put_number(piece.offset)?;
            self.put_number(piece.length)?;
        }
        self.put(&crc.to_le_bytes())
    }

    /// Begins the content of a file that is about to be replaced.
    pub(crate) fn lost(&mut self, path: &[u8]) -> Result<(), ApplyError> {
        self.flush()?;
        self.put(&[LOST])?;
        self.put_bytes(path)
    }

    /// A piece of it; an empty one is the end.
    pub(crate) fn lost_piece(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ApplyError> {
        self.put_number(offset)?;
        self.put_bytes(bytes)
    }

    pub(crate) fn finish(mut self, size: u64, digest: &Digest) -> Result<(), ApplyError> {
        self.flush()?;
        self.put(&[END])?;
        self.put_number(size)?;
        self.put(digest.as_bytes())?;
        self.writer.finish().and_then(Write::flush).map_err(ApplyError::Record)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ApplyError> {
        self.writer.write_all(bytes).map_err(ApplyError::Record)
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), ApplyError> {
        self.put_number(bytes.len() as u64)?;
        self.put(bytes)
    }

    fn put_number(&mut self, mut number: u64) -> Result<(), ApplyError> {
        let mut encoded = [0_u8; 10];
        let mut length = 0;
        for byte in &mut encoded {
            *byte = (number & 0x7f) as u8;
            length += 1;
            number >>= 7;
            if number == 0 {
                break;
            }
            *byte |= 0x80;
        }
        self.put(encoded.get(..length).unwrap_or_default())
    }
}

/// Reads the pieces of which records are made.
pub(crate) struct Fields<R> {
    reader: R,
}

impl<R: Read> Fields<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader }
    }

    pub(crate) fn byte(&mut self) -> io::Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn number(&mut self) -> io::Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    pub(crate) fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let length = self.number()?;
        if length > MOST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn pieces(&mut self) -> io::Result<Vec<Segment>> {
        let count = self.number()?;
        let mut pieces = Vec::new();
        for _ in 0..count {
            pieces.push(Segment { offset: self.number()?, length: self.number()? });
        }
        Ok(pieces)
    }
}
