//! A context that arrives as a stream: a tar, plain or compressed, or the text of a Dockerfile.
//!
//! The tar is unpacked into a folder of the caller's, by the code that applies layers: every name is opened
//! below its parent without following links. Owners stay the caller's, devices are passed over, names may
//! hold any bytes.

use crate::Cancel;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use yare_errdefs::{Error, Result};
use yare_layer::{ApplyError, ApplyOptions, Compression, Decompressor, Form, Limits};

/// Most bytes of a Dockerfile that is a context by itself.
pub const MOST_DOCKERFILE: u64 = 8 << 20;
const BLOCK: usize = 512;

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A tar, now in the folder.
    Files {
        /// Bytes of the uncompressed tar.
        size: u64,
        /// Files, folders and links.
        entries: u64,
    },
    /// The text of a Dockerfile; the folder is empty.
    Dockerfile(Vec<u8>),
}

/// Takes a context from a stream into `dir`, an empty folder of the caller's. After an error the folder holds
/// a part of the context.
pub fn receive(source: impl Read, dir: BorrowedFd<'_>, limits: Limits, cancel: &Cancel) -> Result<Received> {
    let mut source = Watched { source, cancel };
    let start = peek(&mut source).map_err(|error| read_failed(error, cancel))?;
    if start.is_empty() {
        return Err(Error::invalid("the build context is empty")
            .with_hint("send a tar or a Dockerfile: tar -c . | yare build -"));
    }
    let plain = Compression::sniff(&start) == Compression::Plain;
    let dockerfile = plain && !is_tar(&start);
    let stream = io::Cursor::new(start).chain(source);
    if dockerfile { read_dockerfile(stream, cancel) } else { unpack(stream, dir, limits, cancel) }
}

/// Unpacks a tar, plain or compressed, into an empty folder of the caller's.
pub fn unpack(source: impl Read, dir: BorrowedFd<'_>, limits: Limits, cancel: &Cancel) -> Result<Received> {
    let failed = |error: ApplyError| match cancel.check() {
        Err(cancelled) => cancelled,
        Ok(()) => Error::wrap("cannot unpack the build context", error),
    };
    let reader = Decompressor::new(source).map_err(|error| failed(ApplyError::Read(error)))?;
    let options = ApplyOptions { limits, unprivileged: true, form: Form::Plain, ..ApplyOptions::default() };
    let applied = yare_layer::apply(reader, dir, options).map_err(failed)?;
    Ok(Received::Files { size: applied.size, entries: applied.files })
}

fn read_dockerfile(stream: impl Read, cancel: &Cancel) -> Result<Received> {
    let mut text = Vec::new();
    let read = stream.take(MOST_DOCKERFILE + 1).read_to_end(&mut text);
    read.map_err(|error| read_failed(error, cancel))?;
    if text.len() as u64 > MOST_DOCKERFILE {
        let limit = MOST_DOCKERFILE >> 20;
        return Err(Error::invalid(format!(
            "the context is no archive, and longer than a Dockerfile of {limit} MiB"
        )));
    }
    // A binary format that nobody knows is better named here than as a syntax error in line 1.
    if text.contains(&0) {
        return Err(Error::invalid("the build context is neither a tar nor the text of a Dockerfile")
            .with_hint("tar with gzip, bzip2, xz, zstd or without compression is understood"));
    }
    Ok(Received::Dockerfile(text))
}

/// Whether the first block is a tar header with a right checksum, or the end of an empty tar.
fn is_tar(start: &[u8]) -> bool {
    let Some(block) = start.first_chunk::<BLOCK>() else { return false };
    if *block == [0; BLOCK] {
        return true;
    }
    let field = std::str::from_utf8(&block[148..156]).unwrap_or_default().trim_matches(['\0', ' ']);
    let Ok(claimed) = u64::from_str_radix(field, 8) else { return false };
    let sum = |value: fn(u8) -> i64| -> i64 {
        let bytes = block.iter().enumerate();
        bytes.map(|(place, byte)| if (148..156).contains(&place) { 32 } else { value(*byte) }).sum()
    };
    let (unsigned, signed) = (sum(i64::from), sum(|byte| i64::from(byte.cast_signed())));
    i64::try_from(claimed).is_ok_and(|claimed| claimed == unsigned || claimed == signed)
}

fn peek(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(BLOCK);
    source.by_ref().take(BLOCK as u64).read_to_end(&mut start)?;
    Ok(start)
}

fn read_failed(error: io::Error, cancel: &Cancel) -> Error {
    match cancel.check() {
        Err(cancelled) => cancelled,
        Ok(()) => Error::from(error),
    }
}

/// Ends a stream when the build ends.
struct Watched<'a, R> {
    source: R,
    cancel: &'a Cancel,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        self.source.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use yare_errdefs::{Class, Classified};

    /// A tar of (type, name, link, content).
    fn tar(entries: &[(u8, &[u8], &str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name, link, content) in entries {
            let mut block = [0; BLOCK];
            block[..name.len()].copy_from_slice(name);
            block[100..107].copy_from_slice(b"0000644");
            block[108..115].copy_from_slice(b"0001750");
            block[116..123].copy_from_slice(b"0001750");
            block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            block[136..147].copy_from_slice(b"00000001000");
            block[156] = *kind;
            block[157..157 + link.len()].copy_from_slice(link.as_bytes());
            block[257..265].copy_from_slice(b"ustar\x0000");
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            bytes.extend_from_slice(&block);
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    fn take(bytes: &[u8]) -> Result<(tempfile::TempDir, Received)> {
        let folder = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(folder.path()).unwrap();
        let received = receive(bytes, dir.as_fd(), Limits::default(), &Cancel::default())?;
        Ok((folder, received))
    }

    #[test]
    fn a_tar_in_every_compression() {
        let name = b"odd\xff\nname";
        let bytes = tar(&[
            (b'0', b"Dockerfile", "", b"FROM scratch"),
            (b'0', name, "", b"x"),
            (b'0', b".wh.a", "", b""),
        ]);
        for compression in
            [Compression::Plain, Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2]
        {
            let mut writer = yare_layer::compress(Vec::new(), compression, None).unwrap();
            writer.write_all(&bytes).unwrap();
            let (folder, received) = take(&writer.finish().unwrap()).unwrap();
            assert_eq!(received, Received::Files { size: bytes.len() as u64, entries: 3 }, "{compression:?}");
            assert_eq!(std::fs::read(folder.path().join("Dockerfile")).unwrap(), b"FROM scratch");
            assert!(folder.path().join(OsStr::from_bytes(name)).exists());
            let literal = std::fs::symlink_metadata(folder.path().join(".wh.a")).unwrap();
            assert!(literal.is_file(), "a context has no whiteouts");
            assert_eq!(literal.uid(), rustix::process::geteuid().as_raw(), "owner as running");
            assert_eq!(literal.mtime(), 0o1000);
        }
    }

    #[test]
    fn a_dockerfile_by_itself() {
        let (folder, received) = take(b"FROM scratch\n").unwrap();
        assert_eq!(received, Received::Dockerfile(b"FROM scratch\n".to_vec()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        for (bytes, words) in [(&b""[..], "empty"), (&b"\x7fELF\0\0"[..], "neither a tar")] {
            let error = take(bytes).map(|_| ()).unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn hostile_tars_stay_inside_or_are_refused() {
        let outside = tempfile::tempdir().unwrap();
        let there = outside.path().to_str().unwrap();
        let through = tar(&[(b'2', b"out", there, b""), (b'0', b"out/canary", "", b"x")]);
        drop(take(&through));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "nothing goes through a link");
        let devices = tar(&[(b'3', b"null", "", b""), (b'4', b"sda", "", b"")]);
        let (folder, _) = take(&devices).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        for bad in [tar(&[(b'0', b"../x", "", b"")]), tar(&[(b'1', b"a", "/etc/passwd", b"")])] {
            let error = take(&bad).map(|_| ()).unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument, "{error:?}");
        }
        let cut = &tar(&[(b'0', b"a", "", &[1; 4096])])[..1024];
        assert_eq!(take(cut).map(|_| ()).unwrap_err().class(), Class::InvalidArgument);
    }

    #[test]
    fn limits_and_the_end_of_the_build() {
        let bytes = tar(&[(b'0', b"a", "", &[1; 4096]), (b'0', b"b", "", &[1; 4096])]);
        let folder = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(folder.path()).unwrap();
        for limits in [Limits { bytes: Some(4096), entries: 10 }, Limits { bytes: None, entries: 1 }] {
            let error = receive(&bytes[..], dir.as_fd(), limits, &Cancel::default()).unwrap_err();
            assert!(yare_errdefs::chain(&error).contains("limit"), "{error:?}");
        }
        let cancel = Cancel::default();
        cancel.cancel();
        let error = receive(&bytes[..], dir.as_fd(), Limits::default(), &cancel).unwrap_err();
        assert_eq!(error.class(), Class::Cancelled);
    }
}
