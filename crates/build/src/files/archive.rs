//! Archives that `ADD` unpacks: tar, plain or compressed with gzip, bzip2, xz or zstd, told by their content.

use super::{CopyOptions, Owner, shown};
use crate::Cancel;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use yare_errdefs::{Error, Result};
use yare_layer::{Decompressor, ExtractOptions, Extracted, Form, Timestamp, extract};

/// Reads a file from its beginning, whatever others did with the descriptor.
struct FileReader<'f> {
    file: &'f OwnedFd,
    offset: u64,
    cancel: Option<&'f Cancel>,
    progress: Option<&'f dyn Fn(u64)>,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_some_and(Cancel::is_cancelled) {
            return Err(io::Error::other("the build was cancelled"));
        }
        let count = rustix::io::pread(self.file, buffer, self.offset)?;
        self.offset += count as u64;
        if let Some(progress) = self.progress {
            progress(self.offset);
        }
        Ok(count)
    }
}

pub(super) fn is_archive(file: &OwnedFd) -> bool {
    yare_layer::is_archive(FileReader { file, offset: 0, cancel: None, progress: None })
}

/// Unpacks into a directory. As in Docker, `--chmod` does not concern what is in an archive, and without
/// `--chown` the owners are the archive's own.
pub(super) fn unpack(
    file: &OwnedFd,
    path: &[u8],
    dir: BorrowedFd<'_>,
    options: &CopyOptions<'_>,
    cancel: &Cancel,
) -> Result<Extracted> {
    let time = |seconds, nanos| {
        let time = options.times.settle(Timestamp { seconds, nanos });
        (time.seconds, time.nanos)
    };
    let owner = match options.owner {
        Owner::Keep | Owner::Root => None,
        Owner::Set(uid, gid) => Some((uid, gid)),
    };
    let now = options.times.now().seconds;
    let extraction = ExtractOptions {
        limits: options.limits,
        owner,
        time: &time,
        now,
        form: Form::Overlay,
        root: false,
        kinds_stay: None,
        list: true,
    };
    let reader = FileReader { file, offset: 0, cancel: Some(cancel), progress: options.progress };
    let failed = |error: &dyn Fn(String) -> Error| error(format!("cannot unpack {}", shown(path)));
    let reader =
        Decompressor::new(reader).map_err(|error| failed(&|text| Error::invalid(text)).caused_by(error))?;
    let extracted = extract(reader, dir, &extraction);
    cancel.check()?;
    extracted.map_err(|error| Error::wrap(format!("cannot unpack {}", shown(path)), error))
}
