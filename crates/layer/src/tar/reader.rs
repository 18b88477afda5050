//! Entries, one after the other.

use super::header::{self, BLOCK, Dialect, Header};
use super::input::{Input, Kept};
use super::pax::{self, Extended};
use super::sparse::{self, MapInData, PaxForm, Segment, Sparse};
use crate::ApplyError;
use std::io::Read;

/// The most bytes of an extended header or a long name, as in Go's reader.
const MOST_SPECIAL: u64 = 1 << 20;

/// Seconds since 1970, possibly before it, and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// Below a thousand million.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    HardLink,
    Symlink,
    Directory,
    Fifo,
    Character,
    Block,
}

/// One entry. Names are bytes as they are in the archive.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, at most 0o7777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of data that follow in the archive.
    pub(crate) stored: u64,
    pub(crate) sparse: Option<Sparse>,
}

impl Entry {
    /// The pieces of the file that the archive holds.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        match &self.sparse {
            Some(sparse) => sparse.segments.iter().copied().filter(|segment| segment.length > 0).collect(),
            None if self.stored == 0 => Vec::new(),
            None => vec![Segment { offset: 0, length: self.stored }],
        }
    }
}

/// Reads entries; after each, its `stored` bytes must be taken from [`Reader::input`] or passed over by
/// [`Reader::finish_entry`].
pub(crate) struct Reader<'a, R> {
    pub(crate) input: Input<'a, R>,
    /// Bytes of the current entry that are still to come, without and with padding.
    left: u64,
    padding: u64,
}

impl<'a, R: Read> Reader<'a, R> {
    pub(crate) fn new(input: Input<'a, R>) -> Self {
        Self { input, left: 0, padding: 0 }
    }

    /// Up to `most` of the current entry's data; empty when there is no more.
    pub(crate) fn data(&mut self, most: u64) -> Result<&[u8], ApplyError> {
        let most = most.min(self.left);
        if most == 0 {
            return Ok(&[]);
        }
        // Asked twice because a borrow cannot be returned from within a condition on it.
        if self.input.peek(most)?.is_empty() {
            return Err(self.input.ends_early());
        }
        self.input.peek(most)
    }

    /// Takes data that went into a file.
    pub(crate) fn consume(&mut self, count: usize) -> Result<(), ApplyError> {
        self.left = self.left.saturating_sub(count as u64);
        self.input.consume(count, Kept::InFile)
    }

    /// Passes over what is left of the current entry.
    pub(crate) fn finish_entry(&mut self) -> Result<(), ApplyError> {
        let (left, padding) = (std::mem::take(&mut self.left), std::mem::take(&mut self.padding));
        self.input.skip(left)?;
        self.input.skip_padding(padding)
    }

    fn expect_data(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    /// The next entry, or `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ApplyError> {
        self.finish_entry()?;
        let (mut extended, mut long_name, mut long_link) = (None, None, None);
        loop {
            let Some(header) = self.header()? else {
                if extended.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(self.input.invalid("an extended header without an entry"));
                }
                return Ok(None);
            };
            match header.typeflag() {
                b'x' => {
                    let bytes = self.special(&header)?;
                    extended = Some(pax::parse(&bytes).map_err(|reason| self.input.invalid(reason))?);
                }
                // Global records are passed over, as the field's engines do.
                b'g' => drop(self.special(&header)?),
                b'L' => long_name = Some(header::text(&self.special(&header)?).to_vec()),
                b'K' => long_link = Some(header::text(&self.special(&header)?).to_vec()),
                _ => {
                    let mut extended: Extended = extended.unwrap_or_default();
                    extended.path = long_name.or(extended.path);
                    extended.link = long_link.or(extended.link);
                    return self.entry(&header, extended).map(Some);
                }
            }
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, ApplyError> {
        let mut block = [0; BLOCK];
        match self.input.fill(&mut block)? {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(self.input.ends_early()),
        }
    }

    /// A header block with a right checksum; `None` at the end: two blocks of zeros, or no more bytes.
    fn header(&mut self) -> Result<Option<Header>, ApplyError> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        let header = Header::new(block);
        if header.is_zero() {
            return match self.block()? {
                Some(block) if !Header::new(block).is_zero() => {
                    Err(self.input.invalid("one block of zeros between entries"))
                }
                _ => Ok(None),
            };
        }
        if !header.checksum_holds() {
            return Err(self.input.invalid("wrong header checksum"));
        }
        Ok(Some(header))
    }

    fn size(&self, header: &Header) -> Result<u64, ApplyError> {
        let size = header.size().and_then(|size| u64::try_from(size).ok());
        size.ok_or_else(|| self.input.invalid("invalid size"))
    }

    /// The data of an entry that only describes the next one.
    fn special(&mut self, header: &Header) -> Result<Vec<u8>, ApplyError> {
        let size = self.size(header)?;
        if size > MOST_SPECIAL {
            return Err(self
                .input
                .invalid(format!("extended header of {size} bytes, the limit is {MOST_SPECIAL}")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        if self.input.fill(&mut bytes)? != bytes.len() {
            return Err(self.input.ends_early());
        }
        self.input.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(bytes)
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, ApplyError> {
        let invalid = |what: &str| self.input.invalid(format!("invalid {what}"));
        let path = extended.path.unwrap_or_else(|| header.name());
        let kind = kind(header.typeflag(), &path)
            .ok_or_else(|| invalid(&format!("entry type {:?}", char::from(header.typeflag()))))?;
        let id = |value: Option<i64>, what| {
            let value = value.ok_or_else(|| invalid(what))?;
            // The last value means "leave as it is" to chown(2).
            u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or_else(|| ApplyError::Entry {
                path: lossy(&path),
                reason: format!("{what} {value} is out of range"),
            })
        };
        let (uid, gid) =
            (id(extended.uid.or(header.uid()), "uid")?, id(extended.gid.or(header.gid()), "gid")?);
        let mode = header.mode().ok_or_else(|| invalid("mode"))?;
        let mode = u32::try_from(mode & 0o7777).map_err(|_| invalid("mode"))?;
        let seconds = header.mtime().ok_or_else(|| invalid("time"))?;
        let mut stored = match extended.size {
            Some(size) => size,
            None => self.size(header)?,
        };
        let device = match kind {
            Kind::Character | Kind::Block => device(header).ok_or_else(|| invalid("device number"))?,
            _ => (0, 0),
        };
        if kind != Kind::Regular {
            // As in Go's reader: such entries have no data, whatever their size field says.
            stored = 0;
        }
        self.expect_data(stored);
        let mut entry = Entry {
            path,
            link: extended.link.unwrap_or_else(|| header.link()),
            kind,
            mode,
            uid,
            gid,
            mtime: extended.mtime.unwrap_or(Timestamp { seconds, nanos: 0 }),
            device,
            xattrs: extended.xattrs,
            stored,
            sparse: None,
        };
        if kind == Kind::Regular {
            self.settle_sparse(header, &extended.sparse, &mut entry)?;
        }
        Ok(entry)
    }

    /// Reads the map of a sparse file, wherever it is kept.
    fn settle_sparse(
        &mut self,
        header: &Header,
        records: &pax::SparseRecords,
        entry: &mut Entry,
    ) -> Result<(), ApplyError> {
        let (size, segments) = if header.typeflag() == b'S' {
            if header.dialect() != Dialect::Gnu {
                return Err(self.input.invalid("sparse file in a header that is not GNU's"));
            }
            let size = header.sparse_size().and_then(|size| u64::try_from(size).ok());
            (size, self.old_gnu_map(header)?)
        } else {
            let form = sparse::pax_form(records).map_err(|reason| self.input.invalid(reason))?;
            let segments = match form {
                PaxForm::None => return Ok(()),
                PaxForm::Header(segments) => segments,
                PaxForm::InData => self.map_in_data(entry)?,
            };
            if let Some(name) = &records.name {
                entry.path.clone_from(name);
            }
            (records.size.or(records.real_size), segments)
        };
        let size = size.ok_or_else(|| self.input.invalid("sparse file without a size"))?;
        let sparse =
            Sparse::new(size, segments, entry.stored).map_err(|reason| self.input.invalid(reason))?;
        entry.sparse = Some(sparse);
        Ok(())
    }

    fn old_gnu_map(&mut self, header: &Header) -> Result<Vec<Segment>, ApplyError> {
        let mut found = Vec::new();
        let (pairs, mut more) = header.sparse_pairs();
        let mut ended =
            sparse::old_gnu_pairs(pairs, &mut found).map_err(|reason| self.input.invalid(reason))?;
        while more {
            let block = self.block()?.ok_or_else(|| self.input.ends_early())?;
            more = block[504] != 0;
            if !ended {
                let pairs = block.get(..504).unwrap_or_default();
                ended =
                    sparse::old_gnu_pairs(pairs, &mut found).map_err(|reason| self.input.invalid(reason))?;
            }
        }
        Ok(found)
    }

    /// Reads the map at the start of the data, which then is that much shorter.
    fn map_in_data(&mut self, entry: &mut Entry) -> Result<Vec<Segment>, ApplyError> {
        let mut map = MapInData::default();
        loop {
            if self.left < BLOCK as u64 {
                return Err(self.input.invalid("sparse map beyond the entry's data"));
            }
            let block = self.block()?.ok_or_else(|| self.input.ends_early())?;
            self.left -= BLOCK as u64;
            entry.stored -= BLOCK as u64;
            if map.take(&block).map_err(|reason| self.input.invalid(reason))? {
                break;
            }
        }
        map.segments().map_err(|reason| self.input.invalid(reason))
    }
}

fn kind(typeflag: u8, path: &[u8]) -> Option<Kind> {
    Some(match typeflag {
        // Before POSIX a directory was a name that ends in a slash.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::Regular,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return None,
    })
}

/// Major and minor within the kernel's 12 and 20 bits.
fn device(header: &Header) -> Option<(u32, u32)> {
    let (major, minor) = header.device()?;
    let (major, minor) = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
    (major < 1 << 12 && minor < 1 << 20).then_some((major, minor))
}

pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
