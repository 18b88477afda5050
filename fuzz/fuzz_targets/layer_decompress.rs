//! A compressed stream decompresses to the same bytes, or fails, however it arrives; and what this crate
//! compresses comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::{self, Read};
use yare_layer::{Compression, Decompressor, compress};

/// A few bytes may decompress to very many; memory and time are what the caller bounds.
const MOST: u64 = 4 << 20;

/// Gives at most so many bytes at once, as a connection does.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.1);
        self.0.read(&mut buffer[..most])
    }
}

fn decompress(source: impl Read) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    Decompressor::new(source).ok()?.take(MOST).read_to_end(&mut out).ok()?;
    Some(out)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (how, bytes) = input;
    let whole = decompress(bytes);
    assert_eq!(whole, decompress(Trickle(bytes, usize::from(how >> 2) + 1)));

    let compression =
        [Compression::Plain, Compression::Gzip, Compression::Zstd, Compression::Xz][usize::from(how & 3)];
    if compression == Compression::Plain {
        return;
    }
    let mut writer = compress(Vec::new(), compression, Some(1)).expect("memory");
    io::Write::write_all(&mut writer, bytes).expect("memory");
    let packed = writer.finish().expect("memory");
    assert_eq!(Compression::sniff(&packed), compression);
    assert_eq!(decompress(packed.as_slice()).as_deref(), Some(bytes));
});
