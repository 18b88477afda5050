//! A full disk. Alone in its program: the limit that stands in for it counts for the whole process.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use jiff::Timestamp;
use yare_logs::{LogError, ReadOptions, Reader, Stream, Writer, WriterOptions};

fn append(writer: &mut Writer, text: &str) {
    writer.append(Stream::Stdout, text.as_bytes(), Timestamp::now()).unwrap();
}

#[test]
fn a_full_disk_loses_lines_and_says_how_many() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x-json.log");
    let mut writer = Writer::open(&path, WriterOptions::default()).unwrap();
    append(&mut writer, "0\n1\n");
    writer.flush().unwrap();
    // Room for one entry and a part of another.
    limit_file_size(Some(std::fs::metadata(&path).unwrap().len() + 100));
    append(&mut writer, "2\n3\n4\n");
    let error = writer.flush().unwrap_err();
    limit_file_size(None);
    assert!(matches!(error, LogError::Lost { lost: 2, .. }), "{error}");
    append(&mut writer, "5\n");
    writer.flush().unwrap();
    let options = ReadOptions { stdout: true, stderr: true, ..ReadOptions::default() };
    let entries = Reader::open(&path, options).unwrap().next_chunk().unwrap().unwrap();
    let texts: Vec<_> = entries.iter().map(|entry| entry.line[0]).collect();
    assert_eq!(texts, b"0125");
}

/// Writes beyond this offset fail in this process. `SIGXFSZ` must be ignored for that, or it kills.
fn limit_file_size(current: Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const SIGXFSZ: i32 = 25;
    yare_sys::process::ignore_signal(SIGXFSZ).unwrap();
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
}
