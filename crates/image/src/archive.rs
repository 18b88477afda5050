//! The outer tar of an image archive: read from a stream, written to a stream.
//!
//! Only names, sizes and links are taken from it; nothing is ever unpacked by the names that it claims.

use std::io::{self, Read, Write};
use yare_errdefs::{Error, Result};

const BLOCK: usize = 512;
/// The longest extended header (long names, PAX records) that is read, in bytes.
const EXTENDED_LIMIT: u64 = 1 << 20;
/// The longest name, in bytes.
const NAME_LIMIT: usize = 4096;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    /// A link to another entry: its target, resolved against the root of the archive.
    Link(String),
    /// Directories and whatever else has no content that matters.
    Other,
}

/// One entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Clean path: no leading slash, no `.` or `..`.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
}

/// Reads a tar of any dialect from a stream.
pub(crate) struct Reader<R> {
    source: R,
    left: u64,
    padding: u64,
}

#[derive(Default)]
struct Extended {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

/// Docker's text for an archive that ends too early.
pub(crate) fn unexpected_eof() -> Error {
    Error::invalid("unexpected EOF").with_hint("the archive is incomplete: copy or save it again")
}

fn invalid_header() -> Error {
    Error::invalid("archive/tar: invalid tar header").with_hint("this is no tar archive, or it is damaged")
}

/// An error while reading from the client.
pub(crate) fn read_failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => unexpected_eof(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            Error::invalid(format!("cannot read the archive: {error}"))
        }
        _ => Error::internal("cannot read the archive").caused_by(error),
    }
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0 }
    }

    /// The next entry; what was not read of the previous one is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? || block == [0; BLOCK] {
                return Ok(None);
            }
            check(&block)?;
            let size = number(&block[124..136]).ok_or_else(invalid_header)?;
            self.set_size(size);
            match block[156] {
                b'x' => self.read_pax(&mut extended)?,
                b'L' => extended.name = Some(self.read_long_name()?),
                b'K' => extended.link = Some(self.read_long_name()?),
                b'g' => {}
                kind => return self.entry(&block, kind, extended).map(Some),
            }
        }
    }

    fn entry(&mut self, block: &[u8; BLOCK], kind: u8, extended: Extended) -> Result<Entry> {
        if let Some(size) = extended.size {
            self.set_size(size);
        }
        let raw = match extended.name {
            Some(name) => name,
            None => header_name(block)?,
        };
        let name = clean(&raw, "")?;
        let link = || extended.link.clone().map_or_else(|| text(&block[157..257]), Ok);
        let kind = match kind {
            b'0' | 0 | b'7' if raw.ends_with('/') => Kind::Other,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::Link(clean(&link()?, "")?),
            b'2' => Kind::Link(clean(&link()?, parent(&name))?),
            _ => Kind::Other,
        };
        if matches!(kind, Kind::Link(_)) {
            self.set_size(0);
        }
        Ok(Entry { name, kind, size: self.left })
    }

    /// The content of the entry that was read last.
    pub(crate) fn data(&mut self) -> Data<'_, R> {
        Data { reader: self }
    }

    /// Reads what follows the end of the archive, so that a writer on the other side of a pipe can finish.
    pub(crate) fn drain(mut self) {
        let _ = io::copy(&mut (&mut self.source).take(EXTENDED_LIMIT), &mut io::sink());
    }

    fn set_size(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn skip(&mut self) -> Result<()> {
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.source).take(rest), &mut io::sink()).map_err(read_failed)?;
        // Some writers leave out the padding of the last entry.
        if skipped < self.left {
            return Err(unexpected_eof());
        }
        self.set_size(0);
        Ok(())
    }

    /// Reads a header; false at the end of the stream.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(unexpected_eof()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_failed(error)),
            }
        }
        Ok(true)
    }

    fn read_extended(&mut self) -> Result<Vec<u8>> {
        if self.left > EXTENDED_LIMIT {
            return Err(Error::invalid(format!("the archive has an extended header of {} bytes", self.left)));
        }
        let mut bytes = Vec::new();
        self.data().read_to_end(&mut bytes).map_err(read_failed)?;
        Ok(bytes)
    }

    fn read_long_name(&mut self) -> Result<String> {
        text(&self.read_extended()?)
    }

    fn read_pax(&mut self, extended: &mut Extended) -> Result<()> {
        let bytes = self.read_extended()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(invalid_header)?;
            let length = std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse::<usize>().ok());
            let length = length.filter(|length| *length > space + 1 && *length <= rest.len());
            let length = length.ok_or_else(invalid_header)?;
            let record = rest[space + 1..length].strip_suffix(b"\n").ok_or_else(invalid_header)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(invalid_header)?;
            let value = || text(&record[equals + 1..]);
            match &record[..equals] {
                b"path" => extended.name = Some(value()?),
                b"linkpath" => extended.link = Some(value()?),
                b"size" => extended.size = Some(value()?.parse().map_err(|_| invalid_header())?),
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }
}

/// The content of one entry; an archive that ends inside it is an error of kind `UnexpectedEof`.
pub(crate) struct Data<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.reader.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let count = self.reader.source.read(&mut buffer[..want])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF"));
        }
        self.reader.left -= count as u64;
        Ok(count)
    }
}

/// Whether this first block of something is the header of a tar entry, or the end of an empty tar.
pub(crate) fn is_tar(start: &[u8]) -> bool {
    let Some(block) = start.first_chunk::<BLOCK>() else { return false };
    *block == [0; BLOCK] || check(block).is_ok()
}

fn check(block: &[u8; BLOCK]) -> Result<()> {
    let claimed = number(&block[148..156]).ok_or_else(invalid_header)?;
    let blank = |place: usize, byte: u8| if (148..156).contains(&place) { b' ' } else { byte };
    let unsigned: u64 = block.iter().enumerate().map(|(place, byte)| u64::from(blank(place, *byte))).sum();
    // Some old writers summed signed bytes.
    let signed: i64 =
        block.iter().enumerate().map(|(place, byte)| i64::from(blank(place, *byte).cast_signed())).sum();
    if claimed == unsigned || i64::try_from(claimed) == Ok(signed) { Ok(()) } else { Err(invalid_header()) }
}

/// Octal text, or a big-endian number with the top bit set (GNU).
fn number(field: &[u8]) -> Option<u64> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        let mut bytes = field.to_vec();
        bytes[0] &= 0x7f;
        let (high, low) = bytes.split_at(bytes.len().checked_sub(8)?);
        return high
            .iter()
            .all(|byte| *byte == 0)
            .then(|| low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn text(field: &[u8]) -> Result<String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8(field[..end].to_vec())
        .map_err(|_| Error::invalid("the archive has a name that is not UTF-8"))
}

fn header_name(block: &[u8; BLOCK]) -> Result<String> {
    let name = text(&block[..100])?;
    let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500])? } else { String::new() };
    Ok(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Resolves a path inside the archive; one that leaves it is refused.
pub(crate) fn clean(path: &str, folder: &str) -> Result<String> {
    if path.len() > NAME_LIMIT {
        return Err(Error::invalid(format!("the archive has a name of {} bytes", path.len())));
    }
    let folder = if path.starts_with('/') { "" } else { folder };
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                let inside = parts.pop().is_some();
                inside.then_some(()).ok_or_else(|| {
                    Error::invalid(format!("the archive names {path:?}, which is outside of it"))
                })?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Writes a tar whose bytes depend on nothing but what it is given.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
    owner: (u32, u32),
}

impl<W: Write> Writer<W> {
    /// An empty archive whose entries belong to user and group 0.
    pub fn new(sink: W) -> Self {
        Self { sink, owner: (0, 0) }
    }

    /// The same with another owner of all entries: user and group id.
    #[cfg(test)]
    pub(crate) fn with_owner(sink: W, user: u32, group: u32) -> Self {
        Self { sink, owner: (user, group) }
    }

    /// A symbolic link.
    #[cfg(test)]
    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, b'2', (0o777, 0, 0), target)
    }

    /// A directory of mode 0755; `name` ends with a slash.
    pub fn directory(&mut self, name: &str, mtime: u64) -> io::Result<()> {
        self.header(name, b'5', 0o755, 0, mtime)
    }

    /// A file whose content is in memory.
    pub fn file(&mut self, name: &str, mode: u32, mtime: u64, content: &[u8]) -> io::Result<()> {
        self.header(name, b'0', mode, content.len() as u64, mtime)?;
        self.sink.write_all(content)?;
        self.pad(content.len() as u64)
    }

    /// A file of known size whose content `write` writes; another size than announced is an error.
    pub fn stream<E: From<io::Error>>(
        &mut self,
        name: &str,
        (mode, mtime, size): (u32, u64, u64),
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        self.header(name, b'0', mode, size, mtime)?;
        let mut counted = Counted { sink: &mut self.sink, count: 0, limit: size };
        write(&mut counted)?;
        if counted.count != size {
            let text = format!("{name} has {} bytes, announced were {size}", counted.count);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text).into());
        }
        Ok(self.pad(size)?)
    }

    /// Ends the archive and gives the sink back.
    pub fn finish(mut self) -> io::Result<W> {
        self.sink.write_all(&[0; 2 * BLOCK])?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0);
        self.sink.write_all(&[0; BLOCK][..padding])
    }

    fn header(&mut self, name: &str, kind: u8, mode: u32, size: u64, mtime: u64) -> io::Result<()> {
        self.entry(name, kind, (mode, size, mtime), "")
    }

    fn entry(
        &mut self,
        name: &str,
        kind: u8,
        (mode, size, mtime): (u32, u64, u64),
        link: &str,
    ) -> io::Result<()> {
        let (prefix, name) = split_name(name)?;
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        octal(&mut block[100..108], u64::from(mode));
        octal(&mut block[108..116], u64::from(self.owner.0));
        octal(&mut block[116..124], u64::from(self.owner.1));
        octal(&mut block[124..136], size);
        octal(&mut block[136..148], mtime);
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.sink.write_all(&block)
    }
}

/// Octal where it fits, GNU's binary form where not.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if value.checked_shr(u32::try_from(digits * 3).unwrap_or(63)).unwrap_or(0) == 0 {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
        return;
    }
    field.fill(0);
    field[0] = 0x80;
    let at = field.len() - 8;
    field[at..].copy_from_slice(&value.to_be_bytes());
}

/// Splits a name over the two fields of ustar.
fn split_name(name: &str) -> io::Result<(&str, &str)> {
    if name.len() <= 100 {
        return Ok(("", name));
    }
    let split = name
        .match_indices('/')
        .map(|(place, _)| place)
        .find(|place| *place <= 155 && name.len() - place - 1 <= 100);
    let split = split.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("the name {name:?} is too long"))
    })?;
    Ok((&name[..split], &name[split + 1..]))
}

struct Counted<'a, W> {
    sink: &'a mut W,
    count: u64,
    limit: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.count + bytes.len() as u64 > self.limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes than were announced"));
        }
        let count = self.sink.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
        let mut reader = Reader::new(bytes);
        let mut found = Vec::new();
        while let Some(entry) = reader.next()? {
            let mut content = Vec::new();
            reader.data().read_to_end(&mut content).map_err(read_failed)?;
            found.push((entry, content));
        }
        Ok(found)
    }

    fn sample() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.directory("blobs/", 0).unwrap();
        writer.file("blobs/one", 0o644, 7, b"hello").unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn reads_what_it_writes() {
        let found = read_all(&sample()).unwrap();
        assert_eq!(found[0].0, Entry { name: "blobs".into(), kind: Kind::Other, size: 0 });
        assert_eq!(found[1].0, Entry { name: "blobs/one".into(), kind: Kind::File, size: 5 });
        assert_eq!(found[1].1, b"hello");
    }

    #[test]
    fn an_archive_cut_short_says_so_in_dockers_words() {
        let bytes = sample();
        for end in [100, 700, 1026] {
            assert_eq!(read_all(&bytes[..end]).unwrap_err().to_string(), "unexpected EOF", "cut at {end}");
        }
        assert_eq!(read_all(&[b'x'; 600]).unwrap_err().to_string(), "archive/tar: invalid tar header");
    }

    #[test]
    fn names_that_leave_the_archive_are_refused() {
        for bad in ["../x", "a/../../x", "..", "/../x"] {
            assert!(clean(bad, "").is_err(), "{bad}");
        }
        assert_eq!(clean("./a//b/../c", "").unwrap(), "a/c");
        assert_eq!(clean("../other/layer.tar", "this").unwrap(), "other/layer.tar");
        assert_eq!(clean("/abs", "this").unwrap(), "abs");
    }

    #[test]
    fn sizes_beyond_octal_are_written_and_read() {
        let mut field = [0; 12];
        for value in [0, 0o77_777_777_777, 0o1_000_000_000_000, u64::MAX >> 1] {
            octal(&mut field, value);
            assert_eq!(number(&field), Some(value));
        }
    }
}
