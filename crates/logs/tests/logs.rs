//! Writing, rotating and reading together.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use yare_logs::{
    Entry, Grown, LogError, MAX_LINE, ReadOptions, Reader, Stream, Watch, Writer, WriterOptions,
};

struct Log {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Log {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        Self { _dir: dir, path }
    }

    fn writer(&self, max_size: Option<u64>, max_file: u32, compress: bool) -> Writer {
        let options = WriterOptions { max_size, max_file, compress, ..WriterOptions::default() };
        Writer::open(&self.path, options).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn all() -> ReadOptions {
    ReadOptions { stdout: true, stderr: true, ..ReadOptions::default() }
}

fn read(path: &Path, options: ReadOptions) -> Vec<Entry> {
    let mut reader = Reader::open(path, options).unwrap();
    let mut entries = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        assert!(!chunk.is_empty());
        entries.extend(chunk);
    }
    entries
}

fn texts(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8(entry.line.clone()).unwrap()).collect()
}

fn numbers(entries: &[Entry]) -> Vec<u64> {
    texts(entries).iter().map(|text| text.trim().parse().unwrap()).collect()
}

fn append(writer: &mut Writer, text: &str) {
    writer.append(Stream::Stdout, text.as_bytes(), Timestamp::now()).unwrap();
}

fn compress_now(writer: &mut Writer) {
    while let Some(work) = writer.compression() {
        work.run().unwrap();
        writer.compressed(true);
    }
}

/// Lines `range`, flushed one by one.
fn write_numbers(writer: &mut Writer, range: std::ops::Range<u64>, compress: bool) {
    for number in range {
        append(writer, &format!("{number}\n"));
        writer.flush().unwrap();
        if compress {
            compress_now(writer);
        }
    }
}

#[test]
fn writes_dockers_format() {
    let log = Log::new();
    let mut writer = log.writer(None, 1, false);
    let now: Timestamp = "2026-11-23T15:07:16.785492143Z".parse().unwrap();
    writer.append(Stream::Stdout, b"one\ntw", now).unwrap();
    writer.append(Stream::Stderr, b"<err>\n", now).unwrap();
    writer.append(Stream::Stdout, b"o\nlast", now).unwrap();
    writer.finish(Stream::Stdout, now).unwrap();
    writer.finish(Stream::Stderr, now).unwrap();
    writer.flush().unwrap();
    let text = std::fs::read_to_string(&log.path).unwrap();
    let wanted = concat!(
        r#"{"log":"one\n","stream":"stdout","time":"2026-11-23T15:07:16.785492143Z"}"#,
        "\n",
        r#"{"log":"\u003cerr\u003e\n","stream":"stderr","time":"2026-11-23T15:07:16.785492144Z"}"#,
        "\n",
        r#"{"log":"two\n","stream":"stdout","time":"2026-11-23T15:07:16.785492145Z"}"#,
        "\n",
        r#"{"log":"last","stream":"stdout","time":"2026-11-23T15:07:16.785492146Z"}"#,
        "\n",
    );
    assert_eq!(text, wanted);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&log.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "nobody else reads logs");
}

#[test]
fn long_lines_are_split_as_docker_splits_them() {
    for length in [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE + 7] {
        for step in [1000, MAX_LINE, 100_000] {
            let log = Log::new();
            let mut writer = log.writer(None, 1, false);
            let text = format!("{}\nnext\n", "x".repeat(length));
            for piece in text.as_bytes().chunks(step) {
                writer.append(Stream::Stdout, piece, Timestamp::now()).unwrap();
            }
            writer.flush().unwrap();
            let entries = texts(&read(&log.path, all()));
            let (next, parts) = entries.split_last().unwrap();
            assert_eq!(next, "next\n");
            assert_eq!(parts.concat(), text[..=length]);
            assert_eq!(parts.len(), length / MAX_LINE + 1);
            for part in &parts[..parts.len() - 1] {
                assert_eq!(part.len(), MAX_LINE, "{length} in steps of {step}");
            }
        }
    }
}

#[test]
fn a_split_never_damages_a_character() {
    for shift in 0..4 {
        let log = Log::new();
        let mut writer = log.writer(None, 1, false);
        let text = format!("{}{}\n", "x".repeat(shift), "🚀ψ€".repeat(5000));
        for piece in text.as_bytes().chunks(4099) {
            writer.append(Stream::Stdout, piece, Timestamp::now()).unwrap();
        }
        writer.flush().unwrap();
        assert!(texts(&read(&log.path, all())).concat() == text, "shifted by {shift}");
    }
}

#[test]
fn bytes_that_are_not_utf8_cost_only_themselves() {
    let log = Log::new();
    let mut writer = log.writer(None, 1, false);
    writer.append(Stream::Stdout, b"a\xff\xfeb\n", Timestamp::now()).unwrap();
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    writer.append(Stream::Stderr, &binary, Timestamp::now()).unwrap();
    writer.finish(Stream::Stderr, Timestamp::now()).unwrap();
    writer.flush().unwrap();
    let entries = read(&log.path, all());
    assert_eq!(entries[0].line, "a\u{fffd}\u{fffd}b\n".as_bytes());
    // 391 newlines, and what follows the last of them.
    assert_eq!(entries.len(), 1 + 391 + 1);
}

#[test]
fn times_strictly_increase() {
    let log = Log::new();
    let mut writer = log.writer(None, 1, false);
    let now = Timestamp::now();
    for _ in 0..10 {
        // The clock of a machine may be set back.
        writer.append(Stream::Stdout, b"a\nb\nc\n", now).unwrap();
        writer.append(Stream::Stderr, b"d\n", now - jiff::SignedDuration::from_secs(5)).unwrap();
    }
    writer.flush().unwrap();
    let entries = read(&log.path, all());
    assert_eq!(entries.len(), 40);
    assert!(entries.windows(2).all(|pair| pair[0].time < pair[1].time));
    let since = ReadOptions { since: Some(entries[17].time), until: Some(entries[20].time), ..all() };
    assert_eq!(read(&log.path, since), entries[17..=20]);
}

#[test]
fn rotates_by_size_and_keeps_so_many_files() {
    let log = Log::new();
    let mut writer = log.writer(Some(1000), 3, false);
    write_numbers(&mut writer, 0..100, false);
    assert_eq!(log.names(), ["x-json.log", "x-json.log.1", "x-json.log.2"]);
    for name in log.names() {
        let size = std::fs::metadata(log.path.with_file_name(name)).unwrap().len();
        assert!((1..=1000).contains(&size), "{size}");
    }
    let kept = numbers(&read(&log.path, all()));
    assert_eq!(kept, (100 - kept.len() as u64..100).collect::<Vec<_>>());
    assert!(kept.len() > 20, "{}", kept.len());
}

#[test]
fn an_entry_larger_than_the_limit_has_a_file_of_its_own() {
    let log = Log::new();
    let mut writer = log.writer(Some(100), 4, false);
    for length in [500, 500, 10] {
        append(&mut writer, &format!("{}\n", "x".repeat(length)));
    }
    writer.flush().unwrap();
    assert_eq!(log.names().len(), 3);
    assert_eq!(read(&log.path, all()).len(), 3);
}

#[test]
fn one_file_alone_starts_anew() {
    let log = Log::new();
    let mut writer = log.writer(Some(1000), 1, true);
    write_numbers(&mut writer, 0..100, true);
    assert_eq!(log.names(), ["x-json.log"]);
    assert_eq!(numbers(&read(&log.path, all())).last(), Some(&99));
}

#[test]
fn compressed_files_are_read_like_others() {
    let log = Log::new();
    let mut writer = log.writer(Some(1000), 4, true);
    write_numbers(&mut writer, 0..100, true);
    assert_eq!(log.names(), ["x-json.log", "x-json.log.1.gz", "x-json.log.2.gz", "x-json.log.3.gz"]);
    let whole = read(&log.path, all());
    let kept = numbers(&whole);
    assert_eq!(kept, (100 - kept.len() as u64..100).collect::<Vec<_>>());
    for index in 0..whole.len() {
        let since = ReadOptions { since: Some(whole[index].time), ..all() };
        assert_eq!(read(&log.path, since), whole[index..]);
    }
}

/// A filesystem like ext4 gives the number of a file that is gone to the next one that is made.
#[test]
fn a_late_compression_replaces_no_other_file() {
    for lines in (30..90).step_by(3) {
        let log = Log::new();
        let mut writer = log.writer(Some(1000), 4, true);
        write_numbers(&mut writer, 0..15, false);
        let work = writer.compression().unwrap();
        work.run().unwrap();
        // As when the process that compressed has ended, and its file is rotated away before that is noticed.
        drop(work);
        write_numbers(&mut writer, 15..15 + lines, false);
        writer.compressed(true);
        let kept = numbers(&read(&log.path, all()));
        let newest = 15 + lines;
        assert_eq!(kept, (newest - kept.len() as u64..newest).collect::<Vec<_>>(), "{:?}", log.names());
    }
}

#[test]
fn a_slow_compression_finds_its_file_wherever_it_is() {
    let log = Log::new();
    let mut writer = log.writer(Some(1000), 4, true);
    write_numbers(&mut writer, 0..15, false);
    let work = writer.compression().unwrap();
    assert!(writer.compression().is_none(), "one at a time");
    write_numbers(&mut writer, 15..28, false);
    work.run().unwrap();
    writer.compressed(true);
    assert_eq!(log.names(), ["x-json.log", "x-json.log.1", "x-json.log.2.gz"]);
    assert_eq!(numbers(&read(&log.path, all())), (0..28).collect::<Vec<_>>());
    // The next one is not only compressed late, but when its file has gone.
    let work = writer.compression().unwrap();
    write_numbers(&mut writer, 28..100, false);
    work.run().unwrap();
    writer.compressed(true);
    assert!(!log.names().iter().any(|name| name.ends_with(".tmp")), "{:?}", log.names());
    let kept = numbers(&read(&log.path, all()));
    assert_eq!(kept, (100 - kept.len() as u64..100).collect::<Vec<_>>());
}

#[test]
fn tail_counts_lines_over_all_files() {
    for compress in [false, true] {
        let log = Log::new();
        let mut writer = log.writer(Some(1000), 5, compress);
        write_numbers(&mut writer, 0..40, compress);
        let whole = numbers(&read(&log.path, all()));
        for tail in 0..=whole.len() + 3 {
            let options = ReadOptions { tail: Some(tail as u64), ..all() };
            let wanted = &whole[whole.len().saturating_sub(tail)..];
            assert_eq!(numbers(&read(&log.path, options)), wanted, "tail {tail}, compress {compress}");
        }
    }
}

#[test]
fn tail_of_a_long_file_reads_only_its_end() {
    let log = Log::new();
    let mut writer = log.writer(None, 1, false);
    for number in 0..300_000u64 {
        append(&mut writer, &format!("{number}\n"));
    }
    writer.flush().unwrap();
    for tail in [1, 2, 999, 5000] {
        let options = ReadOptions { tail: Some(tail), ..all() };
        assert_eq!(numbers(&read(&log.path, options)), (300_000 - tail..300_000).collect::<Vec<_>>());
    }
}

#[test]
fn streams_can_be_chosen() {
    let log = Log::new();
    let mut writer = log.writer(None, 1, false);
    writer.append(Stream::Stdout, b"out\n", Timestamp::now()).unwrap();
    writer.append(Stream::Stderr, b"err\n", Timestamp::now()).unwrap();
    writer.flush().unwrap();
    assert_eq!(texts(&read(&log.path, ReadOptions { stderr: false, ..all() })), ["out\n"]);
    assert_eq!(texts(&read(&log.path, ReadOptions { stdout: false, ..all() })), ["err\n"]);
}

#[test]
fn a_torn_line_spoils_only_itself() {
    let log = Log::new();
    let mut writer = log.writer(None, 1, false);
    write_numbers(&mut writer, 0..3, false);
    drop(writer);
    let mut text = std::fs::read(&log.path).unwrap();
    text.extend_from_slice(b"{\"log\":\"tor");
    std::fs::write(&log.path, text).unwrap();
    assert_eq!(numbers(&read(&log.path, all())), [0, 1, 2]);
    write_numbers(&mut log.writer(None, 1, false), 3..5, false);
    assert_eq!(numbers(&read(&log.path, all())), [0, 1, 2, 3, 4]);
}

#[test]
fn leftovers_are_swept_when_a_writer_opens() {
    let log = Log::new();
    std::fs::write(log.path.with_file_name("x-json.log.txt"), "").unwrap();
    write_numbers(&mut log.writer(None, 1, false), 0..1, false);
    for name in ["x-json.log.12345.tmp", "x-json.log.7", "x-json.log.3.gz"] {
        std::fs::write(log.path.with_file_name(name), "").unwrap();
    }
    let _writer = log.writer(Some(1000), 3, true);
    assert_eq!(log.names(), ["x-json.log", "x-json.log.txt"]);
}

#[test]
fn a_log_is_made_with_its_first_entry() {
    let log = Log::new();
    let mut writer = Writer::new(&log.path, WriterOptions::default());
    writer.flush().unwrap();
    writer.finish(Stream::Stdout, Timestamp::now()).unwrap();
    assert!(log.names().is_empty());
    append(&mut writer, "0\n");
    writer.flush().unwrap();
    assert_eq!(log.names(), ["x-json.log"]);
}

#[test]
fn a_log_that_cannot_be_made_loses_lines_until_it_can() {
    let log = Log::new();
    let path = log.path.with_file_name("missing").join("x-json.log");
    let mut writer = Writer::new(&path, WriterOptions::default());
    append(&mut writer, "0\n1\n");
    assert!(matches!(writer.flush(), Err(LogError::Lost { lost: 2, .. })));
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    append(&mut writer, "2\n");
    writer.flush().unwrap();
    assert_eq!(numbers(&read(&path, all())), [2]);
}

#[test]
fn a_log_behind_a_symbolic_link_is_refused() {
    let log = Log::new();
    std::os::unix::fs::symlink("/etc/passwd", &log.path).unwrap();
    assert!(Writer::open(&log.path, WriterOptions::default()).is_err());
    assert!(Reader::open(&log.path, all()).is_err());
}

#[test]
fn a_log_that_does_not_exist_yet_is_empty_and_can_be_followed() {
    let log = Log::new();
    let watch = Watch::open().unwrap();
    let watched = watch.add(&log.path).unwrap();
    let mut reader = Reader::open(&log.path, ReadOptions { follow: true, ..all() }).unwrap();
    assert!(reader.next_chunk().unwrap().is_none());
    assert!(!watch.wait(Duration::from_millis(10)).unwrap());
    let mut writer = log.writer(None, 1, false);
    write_numbers(&mut writer, 0..2, false);
    assert!(watch.wait(Duration::from_secs(60)).unwrap());
    assert_eq!(watch.take().unwrap(), Grown::These(vec![watched]));
    assert_eq!(numbers(&reader.next_chunk().unwrap().unwrap()), [0, 1]);
}

#[test]
fn following_with_tail_nought_shows_only_what_is_new() {
    let log = Log::new();
    let mut writer = log.writer(Some(1000), 3, true);
    write_numbers(&mut writer, 0..50, true);
    let options = ReadOptions { follow: true, tail: Some(0), ..all() };
    let mut reader = Reader::open(&log.path, options).unwrap();
    assert!(reader.next_chunk().unwrap().is_none());
    write_numbers(&mut writer, 50..51, true);
    assert_eq!(numbers(&reader.next_chunk().unwrap().unwrap()), [50]);
}

#[test]
fn following_survives_any_number_of_rotations_between_two_looks() {
    for compress in [false, true] {
        // 12 lines fill a file; with 5 files, 40 lines never fall off the end.
        for step in [1u64, 5, 11, 12, 13, 25, 40] {
            let log = Log::new();
            let mut writer = log.writer(Some(1000), 5, compress);
            let mut reader = Reader::open(&log.path, ReadOptions { follow: true, ..all() }).unwrap();
            let mut seen = Vec::new();
            for round in 0..8 {
                write_numbers(&mut writer, round * step..(round + 1) * step, compress);
                while let Some(chunk) = reader.next_chunk().unwrap() {
                    seen.extend(numbers(&chunk));
                }
            }
            assert_eq!(seen, (0..8 * step).collect::<Vec<_>>(), "step {step}, compress {compress}");
        }
    }
}

#[test]
fn a_truncated_log_is_followed_from_its_new_start() {
    let log = Log::new();
    let mut writer = log.writer(None, 1, false);
    let mut reader = Reader::open(&log.path, ReadOptions { follow: true, ..all() }).unwrap();
    write_numbers(&mut writer, 0..5, false);
    assert_eq!(reader.next_chunk().unwrap().unwrap().len(), 5);
    std::fs::File::options().write(true).open(&log.path).unwrap().set_len(0).unwrap();
    write_numbers(&mut writer, 5..6, false);
    assert_eq!(numbers(&reader.next_chunk().unwrap().unwrap()), [5]);
}

/// A fast writer that rotates all the time, followers that begin at any moment, and readers of the whole.
#[test]
fn nothing_is_lost_or_doubled_while_a_fast_writer_rotates() {
    const LINES: u64 = 60_000;
    let log = Log::new();
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for start in 0..3 {
            let (log, finished) = (&log, &finished);
            scope.spawn(move || follow(&log.path, Duration::from_millis(start * 40), finished));
        }
        scope.spawn(|| {
            while !finished.load(Ordering::Acquire) {
                assert_consecutive(&numbers(&read(&log.path, all())));
                let tail = numbers(&read(&log.path, ReadOptions { tail: Some(1500), ..all() }));
                assert_consecutive(&tail);
            }
        });
        // A file has about 1000 lines; so many are kept that a slow machine's readers keep up.
        let mut writer = log.writer(Some(80_000), 80, true);
        for number in 0..LINES {
            append(&mut writer, &format!("{number}\n"));
            if number % 100 == 0 {
                writer.flush().unwrap();
                if number % 500 == 0 {
                    compress_now(&mut writer);
                }
            }
        }
        writer.flush().unwrap();
        finished.store(true, Ordering::Release);
    });
}

fn follow(path: &Path, delay: Duration, finished: &AtomicBool) {
    std::thread::sleep(delay);
    let watch = Watch::open().unwrap();
    watch.add(path).unwrap();
    let mut reader = Reader::open(path, ReadOptions { follow: true, ..all() }).unwrap();
    let mut seen = Vec::new();
    loop {
        let last = finished.load(Ordering::Acquire);
        while let Some(chunk) = reader.next_chunk().unwrap() {
            seen.extend(numbers(&chunk));
        }
        if last {
            break;
        }
        watch.wait(Duration::from_millis(100)).unwrap();
        watch.take().unwrap();
    }
    assert_consecutive(&seen);
    assert_eq!(seen.last(), Some(&59_999));
}

fn assert_consecutive(numbers: &[u64]) {
    for pair in numbers.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "lines lost or doubled");
    }
}

#[test]
fn is_fast() {
    let log = Log::new();
    let mut writer = log.writer(None, 1, false);
    let block = b"y\n".repeat(32 << 10);
    let start = Instant::now();
    for _ in 0..16 {
        writer.append(Stream::Stdout, &block, Timestamp::now()).unwrap();
        writer.flush().unwrap();
    }
    let megabytes = std::fs::metadata(&log.path).unwrap().len() as f64 / 1e6;
    let rate = megabytes / start.elapsed().as_secs_f64();
    println!("{rate:.0} MB/s of log");
    // 200 MB/s is promised of a release build; this only notices that something is very wrong.
    assert!(rate > if cfg!(debug_assertions) { 2.0 } else { 100.0 }, "{rate:.0} MB/s");
}
