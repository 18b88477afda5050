//! A log whose files a container's writer did not leave as they should be: damaged, torn, swapped.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::cell::OnceCell;
use std::path::Path;
use tempfile::TempDir;
use yare_logs::{Entry, ReadOptions, Reader};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    tail: Option<u8>,
    since: Option<i32>,
    until: Option<i32>,
    stderr: bool,
    compressed: &'a [u8],
    rotated: &'a [u8],
    current: &'a [u8],
}

fn read(path: &Path, options: ReadOptions) -> Option<Vec<Entry>> {
    let mut reader = Reader::open(path, options).ok()?;
    let mut entries = Vec::new();
    while let Some(chunk) = reader.next_chunk().ok()? {
        assert!(!chunk.is_empty(), "a chunk has at least one entry");
        entries.extend(chunk);
    }
    assert!(matches!(reader.next_chunk(), Ok(None)), "after the end there is nothing");
    Some(entries)
}

fuzz_target!(|input: Input<'_>| {
    thread_local!(static FOLDER: OnceCell<TempDir> = const { OnceCell::new() });
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| TempDir::new().expect("a temporary folder"));
        let path = folder.path().join("log");
        for (name, bytes) in
            [("log", input.current), ("log.1", input.rotated), ("log.2.gz", input.compressed)]
        {
            std::fs::write(folder.path().join(name), bytes).expect("a temporary file");
        }
        let second = |seconds: i32| jiff::Timestamp::from_second(i64::from(seconds)).expect("in range");
        let both = ReadOptions { stdout: true, stderr: true, ..ReadOptions::default() };
        let all = read(&path, both.clone());
        let since = input.since.map(second);
        let options = ReadOptions {
            stderr: input.stderr,
            tail: input.tail.map(u64::from),
            since,
            until: input.until.map(second),
            ..both
        };
        let (Some(all), Some(some)) = (all, read(&path, options)) else { return };
        assert!(some.len() <= all.len());
        assert!(input.tail.is_none_or(|tail| some.len() <= usize::from(tail)));
        assert!(some.iter().all(|entry| since.is_none_or(|since| entry.time >= since)));
    });
});
