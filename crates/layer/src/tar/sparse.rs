//! Maps of sparse files.

use super::header::{self, BLOCK};
use super::pax::{self, SparseRecords};

/// More pieces than this no layer needs (16 MiB of map in memory).
const MOST_SEGMENTS: usize = 1 << 20;

/// A piece of a file that is in the archive; all else are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A sparse file: its size with holes, and its pieces in ascending order without overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sparse {
    pub(crate) size: u64,
    pub(crate) segments: Vec<Segment>,
}

impl Sparse {
    /// Checks a map against the file's size and the bytes that the archive holds.
    pub(super) fn new(size: u64, segments: Vec<Segment>, stored: u64) -> Result<Self, String> {
        let (mut end, mut total) = (0_u64, 0_u64);
        for segment in &segments {
            if segment.offset < end {
                return Err("sparse map is out of order or overlaps".into());
            }
            end = segment.offset.checked_add(segment.length).ok_or("sparse map overflows")?;
            total += segment.length;
            if end > size {
                return Err("sparse map reaches beyond the file".into());
            }
        }
        if i64::try_from(size).is_err() || total != stored {
            return Err(format!("sparse map covers {total} bytes, the archive holds {stored}"));
        }
        Ok(Self { size, segments })
    }
}

/// Which pax format a file is stored in.
pub(super) enum PaxForm {
    None,
    /// Versions 0.0 and 0.1: the map was in the header.
    Header(Vec<Segment>),
    /// Version 1.0: the map is before the data.
    InData,
}

pub(super) fn pax_form(records: &SparseRecords) -> Result<PaxForm, String> {
    let version = (records.major.as_deref(), records.minor.as_deref());
    match version {
        (Some(b"1"), Some(b"0")) => Ok(PaxForm::InData),
        (Some(b"0"), Some(b"0" | b"1")) => Ok(PaxForm::Header(header_map(records)?)),
        (None, None) if records.map.is_some() || !records.pairs.is_empty() => {
            Ok(PaxForm::Header(header_map(records)?))
        }
        (None, None) => Ok(PaxForm::None),
        _ => Err("unknown version of the pax sparse format".into()),
    }
}

fn header_map(records: &SparseRecords) -> Result<Vec<Segment>, String> {
    if !records.pairs.is_empty() {
        return segments(&records.pairs);
    }
    let numbers: Option<Vec<u64>> =
        records.map.as_deref().unwrap_or_default().split(|byte| *byte == b',').map(pax::decimal).collect();
    segments(&numbers.ok_or("malformed sparse map")?)
}

fn segments(numbers: &[u64]) -> Result<Vec<Segment>, String> {
    if !numbers.len().is_multiple_of(2) {
        return Err("sparse map with an offset but no length".into());
    }
    Ok(numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect())
}

/// Pairs of an old GNU sparse header or of one of its extension blocks; `true` when the list ended.
pub(super) fn old_gnu_pairs(field: &[u8], found: &mut Vec<Segment>) -> Result<bool, String> {
    for pair in field.chunks_exact(24) {
        if pair[0] == 0 {
            return Ok(true);
        }
        let (offset, length) = pair.split_at(12);
        let parse = |field| header::number(field).and_then(|value| u64::try_from(value).ok());
        let (Some(offset), Some(length)) = (parse(offset), parse(length)) else {
            return Err("malformed sparse map".into());
        };
        if found.len() >= MOST_SEGMENTS {
            return Err(format!("sparse map of more than {MOST_SEGMENTS} pieces"));
        }
        found.push(Segment { offset, length });
    }
    Ok(false)
}

/// Reads the map of version 1.0, which is a count and that many pairs, each number on a line of its own.
#[derive(Default)]
pub(super) struct MapInData {
    numbers: Vec<u64>,
    digits: Vec<u8>,
    count: Option<usize>,
}

impl MapInData {
    /// Takes a block; `true` when the map is complete. The rest of the last block is padding.
    pub(super) fn take(&mut self, block: &[u8; BLOCK]) -> Result<bool, String> {
        for byte in block {
            if *byte != b'\n' {
                if self.digits.len() > 20 {
                    return Err("malformed sparse map".into());
                }
                self.digits.push(*byte);
                continue;
            }
            let number = pax::decimal(&self.digits).ok_or("malformed sparse map")?;
            self.digits.clear();
            match self.count {
                None => {
                    let count = usize::try_from(number).unwrap_or(usize::MAX);
                    if count > MOST_SEGMENTS {
                        return Err(format!("sparse map of more than {MOST_SEGMENTS} pieces"));
                    }
                    self.count = Some(count * 2);
                }
                Some(_) => self.numbers.push(number),
            }
            if self.count == Some(self.numbers.len()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn segments(self) -> Result<Vec<Segment>, String> {
        segments(&self.numbers)
    }
}
