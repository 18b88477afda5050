//! A second run of a copy takes unchanged files over from the first.

use super::*;
use crate::files::Twin;
use crate::files::twin::encode;

struct Run {
    image: PathBuf,
    copied: Copied,
}

/// Copies `.` to `/src` of an empty image as a build does: hashes first, links afterwards.
fn run(bench: &Bench, name: &str, before: Option<&Run>, change: impl Fn(&mut CopyOptions<'_>)) -> Run {
    let image = bench.folder.path().join(name);
    std::fs::create_dir(&image).unwrap();
    let twin = before.map(|run| Twin::read(open(&run.image), &encode(&run.copied.origins)).unwrap());
    let tree = bench.tree();
    let sources = strings(&["."]);
    let mut selection = select(&tree, &spec(&sources, "/src"), &Cancel::default()).unwrap();
    let options = ChecksumOptions::default();
    let sum = checksum_noted(&mut selection, &options, 0, &Cancel::default()).unwrap().0;
    assert_eq!(sum, checksum(&selection, &options, &Cancel::default()).unwrap());
    let mut options =
        CopyOptions { owner: mine(), times: Times::Set(7), twin: twin.as_ref(), ..CopyOptions::default() };
    change(&mut options);
    let root = open(&image);
    let copied = copy(&selection, root.as_fd(), &options, &Cancel::default()).unwrap();
    if let Some(twin) = &twin {
        twin.link(&copied.unchanged, root.as_fd(), &Cancel::default()).unwrap();
    }
    Run { image, copied }
}

fn inode(run: &Run, path: &str) -> u64 {
    run.image.join(path).symlink_metadata().unwrap().ino()
}

fn unchanged(run: &Run) -> Vec<String> {
    let mut paths: Vec<String> =
        run.copied.unchanged.iter().map(|path| String::from_utf8(path.clone()).unwrap()).collect();
    paths.sort();
    paths
}

#[test]
fn only_what_changed_is_copied() {
    let bench = Bench::empty();
    for (path, text) in [("a", "1"), ("d/b", "2"), ("d/e/c", "3"), ("d/gone", "4")] {
        bench.write(path, text);
    }
    std::os::unix::fs::symlink("a", bench.context().join("l")).unwrap();
    let first = run(&bench, "first", None, |_| ());
    assert!(first.copied.unchanged.is_empty());

    bench.write("d/b", "X");
    bench.write("new", "5");
    std::fs::remove_file(bench.context().join("d/gone")).unwrap();
    let second = run(&bench, "second", Some(&first), |_| ());
    assert_eq!(unchanged(&second), ["src/a", "src/d/e/c"]);
    assert_eq!(inode(&first, "src/a"), inode(&second, "src/a"));
    assert_eq!(std::fs::read(second.image.join("src/d/b")).unwrap(), b"X");
    assert_eq!(std::fs::read(first.image.join("src/d/b")).unwrap(), b"2");

    let plain = run(&bench, "plain", None, |_| ());
    assert_eq!(listing(&plain.image), listing(&second.image));
    assert_eq!((plain.copied.bytes, plain.copied.paths), (second.copied.bytes, second.copied.paths.clone()));
    // What was taken over can be taken over again.
    assert_eq!(unchanged(&run(&bench, "third", Some(&second), |_| ())).len(), 4);
}

#[test]
fn a_file_with_other_metadata_is_another_file() {
    let bench = Bench::empty();
    bench.write("a", "1");
    let first = run(&bench, "first", None, |_| ());
    let time = run(&bench, "time", Some(&first), |options| options.times = Times::Set(8));
    let mode = run(&bench, "mode", Some(&first), |options| options.mode = Some(ModeChange::Set(0o600)));
    assert!(time.copied.unchanged.is_empty() && mode.copied.unchanged.is_empty());
    let meta = |run: &Run| run.image.join("src/a").metadata().unwrap();
    assert_eq!((meta(&time).mtime(), meta(&first).mtime(), meta(&mode).mode() & 0o777), (8, 7, 0o600));
}

#[test]
fn a_twin_that_is_not_what_its_note_says_serves_nothing() {
    let bench = Bench::empty();
    for path in ["gone", "link", "dir", "stays"] {
        bench.write(path, path);
    }
    let first = run(&bench, "first", None, |_| ());
    for path in ["gone", "link", "dir"] {
        std::fs::remove_file(first.image.join("src").join(path)).unwrap();
    }
    std::os::unix::fs::symlink("stays", first.image.join("src/link")).unwrap();
    std::fs::create_dir(first.image.join("src/dir")).unwrap();
    let second = run(&bench, "second", Some(&first), |_| ());
    assert_eq!(unchanged(&second), ["src/stays"]);
    for path in ["gone", "link", "dir", "stays"] {
        assert_eq!(std::fs::read(second.image.join("src").join(path)).unwrap(), path.as_bytes());
    }
}

#[test]
fn a_damaged_note_is_none() {
    let bench = Bench::empty();
    bench.write("a", "1");
    let first = run(&bench, "first", None, |_| ());
    let note = encode(&first.copied.origins);
    assert!(Twin::read(open(&first.image), &note).is_some());
    for at in 0..note.len() {
        let mut bad = note.clone();
        bad[at] ^= 1;
        assert!(Twin::read(open(&first.image), &bad).is_none(), "{at}");
        assert!(Twin::read(open(&first.image), &note[..at]).is_none(), "{at}");
    }
}

#[test]
fn the_later_of_two_sources_counts_whether_taken_over_or_not() {
    let bench = Bench::empty();
    for (path, text) in [("one/f", "1"), ("two/f", "2")] {
        bench.write(path, text);
    }
    let both = |name: &str, before: Option<&Run>, sources: &[&str]| {
        let image = bench.folder.path().join(name);
        std::fs::create_dir(&image).unwrap();
        let twin = before.map(|run| Twin::read(open(&run.image), &encode(&run.copied.origins)).unwrap());
        let tree = bench.tree();
        let sources = strings(sources);
        let mut selection = select(&tree, &spec(&sources, "/to/"), &Cancel::default()).unwrap();
        checksum_noted(&mut selection, &ChecksumOptions::default(), 0, &Cancel::default()).unwrap();
        let options = CopyOptions {
            owner: mine(),
            times: Times::Set(7),
            twin: twin.as_ref(),
            ..CopyOptions::default()
        };
        let copied = copy(&selection, open(&image).as_fd(), &options, &Cancel::default()).unwrap();
        if let Some(twin) = &twin {
            twin.link(&copied.unchanged, open(&image).as_fd(), &Cancel::default()).unwrap();
        }
        assert_eq!(std::fs::read(image.join("to/f")).unwrap(), b"2");
        Run { image, copied }
    };
    let first = both("first", None, &["one", "two"]);
    // The last word of the note is of the file that stayed, and of no other.
    assert_eq!(unchanged(&both("second", Some(&first), &["one", "two"])), ["to/f"]);
    let only = both("only", None, &["two"]);
    assert_eq!(unchanged(&both("mixed", Some(&only), &["one", "two"])), ["to/f"]);
}
