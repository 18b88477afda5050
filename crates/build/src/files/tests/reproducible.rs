//! Checksums, what they forget, and times.

use super::*;
use rustix::fs::{Timespec, Timestamps};
use rustix::time::{ClockId, clock_gettime};

fn sum(tree: &Tree<'_>, cache: Option<&HashCache>) -> Result<yare_oci::Digest> {
    let sources = strings(&["."]);
    let selection = select(tree, &spec(&sources, "/"), &Cancel::default())?;
    checksum(&selection, &ChecksumOptions { owners: false, cache }, &Cancel::default())
}

fn some_files() -> Bench {
    let bench = Bench::empty();
    for name in ["a", "b/c", "b/d/e"] {
        bench.write(name, name);
    }
    std::os::unix::fs::symlink("a", bench.context().join("l")).unwrap();
    bench
}

#[test]
fn the_same_files_have_the_same_checksum_anywhere() {
    let (one, two) = (some_files(), some_files());
    let time = Timespec { tv_sec: 1, tv_nsec: 2 };
    let times = Timestamps { last_access: time, last_modification: time };
    let file = std::fs::File::open(two.context().join("b/c")).unwrap();
    rustix::fs::futimens(&file, &times).unwrap();
    assert_eq!(one.checksum(&["."]), two.checksum(&["/"]));
    assert_ne!(one.checksum(&["."]), one.checksum(&["b"]));
}

type Change<'c> = &'c dyn Fn(&Bench);

#[test]
fn every_difference_of_the_image_changes_the_checksum() {
    let root = |bench: &Bench| bench.context();
    let changes: [(&str, Change); 8] = [
        ("content", &|bench| bench.write("a", "A")),
        ("new file", &|bench| bench.write("z", "")),
        ("name", &|bench| std::fs::rename(root(bench).join("a"), root(bench).join("aa")).unwrap()),
        ("mode", &|bench| {
            std::fs::set_permissions(root(bench).join("a"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        }),
        ("kind", &|bench| {
            std::fs::remove_file(root(bench).join("a")).unwrap();
            std::fs::create_dir(root(bench).join("a")).unwrap();
        }),
        ("link", &|bench| {
            std::fs::remove_file(root(bench).join("l")).unwrap();
            std::os::unix::fs::symlink("b", root(bench).join("l")).unwrap();
        }),
        ("hard link", &|bench| {
            std::fs::remove_file(root(bench).join("b/c")).unwrap();
            std::fs::hard_link(root(bench).join("a"), root(bench).join("b/c")).unwrap();
        }),
        ("attribute", &|bench| {
            let file = std::fs::File::open(root(bench).join("a")).unwrap();
            yare_sys::fs::set_xattr(file.as_fd(), b"user.x", b"1").unwrap();
        }),
    ];
    let mut seen = vec![some_files().checksum(&["."])];
    for (what, change) in changes {
        let bench = some_files();
        change(&bench);
        let sum = bench.checksum(&["."]);
        assert!(!seen.contains(&sum), "{what}");
        seen.push(sum);
    }
    // Two files with one content are not one file with two names.
    let bench = some_files();
    bench.write("b/c", "a");
    assert!(!seen.contains(&bench.checksum(&["."])));
}

#[test]
fn the_name_of_a_file_counts_and_that_of_a_directory_does_not() {
    let bench = some_files();
    bench.write("a2", "a");
    bench.write("b2/c", "b/c");
    bench.write("b2/d/e", "b/d/e");
    assert_ne!(bench.checksum(&["a"]), bench.checksum(&["a2"]));
    assert_eq!(bench.checksum(&["b"]), bench.checksum(&["b2"]));
}

#[test]
fn owners_count_only_when_they_are_kept() {
    if !require_root("owners_count_only_when_they_are_kept") {
        return;
    }
    let sum = |bench: &Bench, owners| {
        let (tree, sources) = (bench.tree(), strings(&["."]));
        let selection = select(&tree, &spec(&sources, "/"), &Cancel::default()).unwrap();
        checksum(&selection, &ChecksumOptions { owners, cache: None }, &Cancel::default()).unwrap()
    };
    let (one, two) = (some_files(), some_files());
    std::os::unix::fs::chown(two.context().join("a"), Some(7), Some(8)).unwrap();
    assert_eq!(sum(&one, false), sum(&two, false));
    assert_ne!(sum(&one, true), sum(&two, true));
}

#[test]
fn remembered_hashes_give_the_same_checksum_and_notice_changes() {
    let bench = some_files();
    let tree = bench.tree();
    let cache = HashCache::in_memory();
    let first = sum(&tree, Some(&cache)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(120));
    assert_eq!(sum(&tree, Some(&cache)).unwrap(), first);
    assert_eq!(sum(&tree, Some(&cache)).unwrap(), first);
    // Same size, and the modification time put back.
    let path = bench.context().join("a");
    let before = path.metadata().unwrap().modified().unwrap();
    std::fs::write(&path, "A").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    let second = sum(&tree, Some(&cache)).unwrap();
    assert_ne!(second, first);
    assert_eq!(second, sum(&tree, None).unwrap());
}

#[test]
fn large_sets_are_hashed_by_two_threads_with_the_same_result() {
    let bench = Bench::empty();
    for n in 0..600_u32 {
        bench.write(&format!("d{}/f{n}", n % 7), vec![u8::try_from(n % 251).unwrap(); 10_000]);
    }
    let all = bench.checksum(&["."]);
    assert_eq!(all, bench.checksum(&["."]));
    bench.write("d3/f3", "other");
    assert_ne!(all, bench.checksum(&["."]));
}

#[test]
fn times_are_kept_clamped_or_set() {
    for (times, expected) in
        [(Times::Keep, [100, 300]), (Times::Clamp(200), [100, 200]), (Times::Set(5), [5, 5])]
    {
        let bench = Bench::empty();
        for (name, time) in [("d/old", 100), ("d/new", 300)] {
            bench.write(name, "");
            let file = std::fs::File::options().write(true).open(bench.context().join(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(time)).unwrap();
        }
        let options = CopyOptions { owner: mine(), times, ..CopyOptions::default() };
        bench.copy_with(&["."], "/x", &options).unwrap();
        let time = |name: &str| bench.image().join("x").join(name).metadata().unwrap().mtime();
        assert_eq!([time("d/old"), time("d/new")], expected);
        match times {
            Times::Keep => {}
            Times::Clamp(epoch) | Times::Set(epoch) => {
                assert_eq!([time("."), time("d")], [epoch, epoch], "{times:?}");
            }
        }
    }
}

#[test]
fn an_upper_directory_is_clamped_to_its_last_corner() {
    let bench = some_files();
    make_whiteout(&bench.context().join("gone"));
    let root = open(&bench.context());
    assert_eq!(clamp_times(root.as_fd(), 1000, &Cancel::default()).unwrap(), 7);
    for name in [".", "a", "b", "b/c", "b/d", "b/d/e", "l"] {
        let meta = bench.context().join(name).symlink_metadata().unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1000, 0), "{name}");
    }
    assert_eq!(clamp_times(root.as_fd(), 1000, &Cancel::default()).unwrap(), 0);
}

/// Figures: `cargo test -p yare-build --lib -- --ignored fifty_thousand --nocapture`.
#[test]
#[ignore = "a measurement"]
fn fifty_thousand_files() {
    let bench = Bench::empty();
    for n in 0..50_000_u32 {
        bench.write(&format!("d{}/e{}/file-{n}", n % 50, n % 500), vec![7; 2000]);
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let folder = tempfile::tempdir().unwrap();
    let timed = |what: &str, run: &mut dyn FnMut()| {
        // Processor time as well: the machine may have other things to do.
        let used = || std::time::Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
        let (begun, before) = (std::time::Instant::now(), used());
        run();
        eprintln!("{what}: {:?}, {:?} of the processor", begun.elapsed(), used() - before);
    };
    let tree = bench.tree();
    let cache = HashCache::open(folder.path());
    timed("cold", &mut || {
        sum(&tree, Some(&cache)).unwrap();
    });
    timed("save", &mut || cache.save().unwrap());
    let mut again = HashCache::in_memory();
    timed("load", &mut || again = HashCache::open(folder.path()));
    for _ in 0..3 {
        timed("warm", &mut || {
            sum(&tree, Some(&again)).unwrap();
        });
    }
    let sources = strings(&["."]);
    timed("select", &mut || drop(select(&tree, &spec(&sources, "/"), &Cancel::default()).unwrap()));
    timed("copy", &mut || drop(bench.copy(&["."], "/").unwrap()));
    let image = open(&bench.image());
    timed("clamp", &mut || {
        clamp_times(image.as_fd(), 1, &Cancel::default()).unwrap();
    });
}
