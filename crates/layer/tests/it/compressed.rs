//! Compressed streams, ours and those of the usual programs.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use yare_layer::{Compression, Decompressor, ReadAhead, compress};

fn text() -> Vec<u8> {
    (0..200_000_u32).flat_map(|index| (index / 7).to_le_bytes()).collect()
}

fn unpacked(bytes: &[u8]) -> (Compression, std::io::Result<Vec<u8>>) {
    let mut reader = match Decompressor::new(bytes) {
        Ok(reader) => reader,
        Err(error) => return (Compression::Plain, Err(error)),
    };
    let mut out = Vec::new();
    let result = reader.read_to_end(&mut out).map(|_| out);
    (reader.compression(), result)
}

fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut writer = compress(Vec::new(), compression, None).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

const ALL: [Compression; 5] =
    [Compression::Plain, Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2];

#[test]
fn every_compression_round_trips_and_is_recognised() {
    for compression in ALL {
        let bytes = packed(compression, &text());
        assert!(bytes == packed(compression, &text()), "{compression:?} depends on something else");
        let (found, out) = unpacked(&bytes);
        assert_eq!(found, compression);
        assert!(out.unwrap() == text(), "{compression:?}");
    }
}

#[test]
fn several_members_frames_and_streams_are_one() {
    let (first, second) = (text(), b"second".to_vec());
    for compression in ALL {
        let bytes = [packed(compression, &first), packed(compression, &second)].concat();
        assert!(unpacked(&bytes).1.unwrap() == [first.clone(), second.clone()].concat(), "{compression:?}");
    }
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    let frames =
        [skippable.clone(), packed(Compression::Zstd, &second), skippable, packed(Compression::Zstd, &first)];
    let (found, out) = unpacked(&frames.concat());
    assert_eq!(found, Compression::Zstd);
    assert!(out.unwrap() == [second, first].concat());
}

#[test]
fn truncated_streams_are_errors() {
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2] {
        let bytes = packed(compression, &text());
        for length in [bytes.len() / 2, bytes.len() - 1] {
            assert!(unpacked(&bytes[..length]).1.is_err(), "{compression:?} {length}");
        }
    }
}

#[test]
fn short_and_plain_streams() {
    for bytes in [&b""[..], b"a", b"\x1f", b"ustar"] {
        let (found, out) = unpacked(bytes);
        assert_eq!((found, out.unwrap().as_slice()), (Compression::Plain, bytes));
    }
    assert!(unpacked(b"BZh91AY&SY").1.is_err());
}

#[test]
fn a_source_is_read_to_its_end() {
    for compression in ALL {
        let bytes = packed(compression, &text());
        let mut source = bytes.as_slice();
        let mut reader = Decompressor::new(&mut source).unwrap();
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        drop(reader);
        assert!(source.is_empty(), "{compression:?}");
    }
}

#[test]
fn programs_of_the_field_agree() {
    let programs = [
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
        ("xz", Compression::Xz),
        ("bzip2", Compression::Bzip2),
    ];
    for (program, compression) in programs {
        let pipe = |arguments: &[&str], input: Vec<u8>| {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .ok()?;
            let mut stdin = child.stdin.take().unwrap();
            let feeder = std::thread::spawn(move || stdin.write_all(&input).unwrap());
            let output = child.wait_with_output().unwrap();
            feeder.join().unwrap();
            assert!(output.status.success());
            Some(output.stdout)
        };
        let Some(bytes) = pipe(&["-c"], text()) else {
            eprintln!("SKIP {program}: not installed");
            continue;
        };
        assert!(unpacked(&bytes).1.unwrap() == text(), "{program}");
        assert!(pipe(&["-dc"], packed(compression, &text())).unwrap() == text(), "{program}");
    }
}

/// Gives one byte, then fails.
struct Broken(bool);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if std::mem::replace(&mut self.0, false) {
            buffer[0] = b'x';
            return Ok(1);
        }
        Err(std::io::Error::other("broken"))
    }
}

#[test]
fn reading_ahead_changes_nothing() {
    let mut out = Vec::new();
    ReadAhead::spawn(std::io::Cursor::new(text())).unwrap().read_to_end(&mut out).unwrap();
    assert!(out == text());
    let bytes = packed(Compression::Gzip, &text());
    let unpacked = std::thread::scope(|scope| {
        let mut out = Vec::new();
        let decompressor = Decompressor::new(bytes.as_slice()).unwrap();
        ReadAhead::spawn_scoped(scope, decompressor).unwrap().read_to_end(&mut out).unwrap();
        out
    });
    assert!(unpacked == text());
    let mut broken = ReadAhead::spawn(Broken(true)).unwrap();
    assert_eq!(broken.read(&mut [0; 10]).unwrap(), 1);
    assert_eq!(broken.read(&mut [0; 10]).unwrap_err().to_string(), "broken");
    // Dropping it early ends the thread.
    drop(ReadAhead::spawn(std::io::repeat(0)).unwrap());
}
