//! Compressed streams: recognised by their first bytes, read to their end.

use crate::blocks::Blocks;
use std::io::{self, BufRead, BufReader, Read, Write};

const BUFFER: usize = 128 * 1024;

/// A compression that layers of the field use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    Plain,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames, skippable frames included.
    Zstd,
    /// The xz format, one or more streams.
    Xz,
    /// The bzip2 format, one or more streams. Archives have it, layers do not.
    Bzip2,
}

impl Compression {
    /// What a stream that begins with these bytes is compressed with. Six bytes are enough.
    pub fn sniff(start: &[u8]) -> Self {
        let skippable = start.len() >= 4 && start[1..4] == [0x2a, 0x4d, 0x18] && start[0] & 0xf0 == 0x50;
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ if skippable => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Self::Bzip2,
            _ => Self::Plain,
        }
    }
}

enum Inner<R: BufRead> {
    Plain(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
    Xz(Box<liblzma::bufread::XzDecoder<R>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<R>>),
}

/// Reads a stream that may be compressed as plain bytes. Reading it to its end reads the source to its end,
/// so that a hash of the source covers every byte.
pub struct Decompressor<R: Read> {
    inner: Inner<Replay<R>>,
    compression: Compression,
}

/// The source with its first bytes put back before it.
type Replay<R> = io::Chain<io::Cursor<Vec<u8>>, BufReader<R>>;

impl<R: Read> Decompressor<R> {
    /// Looks at the first bytes and chooses.
    pub fn new(source: R) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(BUFFER, source);
        let mut start = Vec::with_capacity(6);
        source.by_ref().take(6).read_to_end(&mut start)?;
        let compression = Compression::sniff(&start);
        let source = io::Cursor::new(start).chain(source);
        let inner = match compression {
            Compression::Plain => Inner::Plain(source),
            Compression::Gzip => Inner::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                // 128 MiB, the most that RFC 8878 recommends decoders to accept beyond 8 MiB; bounds memory.
                decoder.window_log_max(27)?;
                Inner::Zstd(Box::new(decoder))
            }
            Compression::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(256 << 20, liblzma::stream::CONCATENATED)?;
                Inner::Xz(Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream)))
            }
            Compression::Bzip2 => Inner::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(source))),
        };
        Ok(Self { inner, compression })
    }

    /// What the source is compressed with.
    pub fn compression(&self) -> Compression {
        self.compression
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Plain(source) => source.read(buffer),
            Inner::Gzip(decoder) => decoder.read(buffer),
            Inner::Zstd(decoder) => decoder.read(buffer),
            Inner::Xz(decoder) => decoder.read(buffer),
            Inner::Bzip2(decoder) => decoder.read(buffer),
        }
    }
}

impl<R: Read> std::fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").field("compression", &self.compression).finish_non_exhaustive()
    }
}

enum Packer<W: Write> {
    Plain(W),
    Gzip(Box<Blocks<W>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
    Xz(Box<liblzma::write::XzEncoder<W>>),
    Bzip2(Box<bzip2::write::BzEncoder<W>>),
}

/// Compresses what is written to it; [`Compressor::finish`] must be called.
pub struct Compressor<W: Write> {
    inner: Packer<W>,
}

/// A writer that compresses into `writer`. `level` is the format's own scale; `None` is gzip 6, zstd 3, xz 6,
/// bzip2 6.
/// The same input gives the same output: no time, no name.
pub fn compress<W: Write>(
    writer: W,
    compression: Compression,
    level: Option<u32>,
) -> io::Result<Compressor<W>> {
    let inner = match compression {
        Compression::Plain => Packer::Plain(writer),
        Compression::Gzip => {
            let level = flate2::Compression::new(level.unwrap_or(6).min(9));
            Packer::Gzip(Box::new(Blocks::new(writer, level)))
        }
        Compression::Zstd => {
            let level = i32::try_from(level.unwrap_or(3).min(22)).unwrap_or(3);
            Packer::Zstd(Box::new(zstd::stream::write::Encoder::new(writer, level)?))
        }
        Compression::Xz => {
            Packer::Xz(Box::new(liblzma::write::XzEncoder::new(writer, level.unwrap_or(6).min(9))))
        }
        Compression::Bzip2 => {
            let level = bzip2::Compression::new(level.unwrap_or(6).clamp(1, 9));
            Packer::Bzip2(Box::new(bzip2::write::BzEncoder::new(writer, level)))
        }
    };
    Ok(Compressor { inner })
}

impl<W: Write> Compressor<W> {
    /// Writes the end of the compressed stream and gives the writer back.
    pub fn finish(self) -> io::Result<W> {
        match self.inner {
            Packer::Plain(writer) => Ok(writer),
            Packer::Gzip(encoder) => encoder.finish(),
            Packer::Zstd(encoder) => encoder.finish(),
            Packer::Xz(encoder) => encoder.finish(),
            Packer::Bzip2(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.inner {
            Packer::Plain(writer) => writer.write(bytes),
            Packer::Gzip(encoder) => encoder.write(bytes),
            Packer::Zstd(encoder) => encoder.write(bytes),
            Packer::Xz(encoder) => encoder.write(bytes),
            Packer::Bzip2(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Packer::Plain(writer) => writer.flush(),
            Packer::Gzip(encoder) => encoder.flush(),
            Packer::Zstd(encoder) => encoder.flush(),
            Packer::Xz(encoder) => encoder.flush(),
            Packer::Bzip2(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}
