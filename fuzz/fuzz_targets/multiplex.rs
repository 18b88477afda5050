//! Frames come apart the same wherever the connection cuts them, and what is framed again reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yare_api::stream::{Demultiplexer, Stream, frame};

/// Payload by stream with neighbours of one stream joined, the error, whether the end is between frames.
type Parsed = (Vec<(Stream, Vec<u8>)>, Option<u8>, bool);

fn parse<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Parsed {
    let mut demultiplexer = Demultiplexer::new();
    let mut payload: Vec<(Stream, Vec<u8>)> = Vec::new();
    for piece in pieces {
        let fed = demultiplexer.feed(piece, |stream, bytes| match payload.last_mut() {
            Some((last, joined)) if *last == stream => joined.extend_from_slice(bytes),
            _ => payload.push((stream, bytes.to_vec())),
        });
        if let Err(bad) = fed {
            return (payload, Some(bad.0), false);
        }
    }
    (payload, None, demultiplexer.at_boundary())
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, wire) = input;
    let whole = parse(std::iter::once(wire));
    assert_eq!(whole, parse(wire.chunks(usize::from(cut) + 1)));

    let mut again = Vec::new();
    for (stream, payload) in &whole.0 {
        frame(*stream, payload, &mut again);
    }
    assert_eq!(parse(std::iter::once(again.as_slice())), (whole.0, None, true));
});
