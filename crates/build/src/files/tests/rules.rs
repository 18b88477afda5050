//! Single rules of copying.

use super::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

fn options() -> CopyOptions<'static> {
    CopyOptions { owner: mine(), ..CopyOptions::default() }
}

#[test]
fn files_and_directories_in_each_others_way() {
    let bench = Bench::empty();
    bench.write("tree/name/x", "");
    bench.write("other/name", "");
    bench.copy(&["other"], "/a").unwrap();
    let text = text_of(&bench.copy(&["tree"], "/a").unwrap_err());
    assert!(text.contains("cannot copy to non-directory: /a/name"), "{text}");
    bench.copy(&["tree"], "/b").unwrap();
    let text = text_of(&bench.copy(&["other"], "/b").unwrap_err());
    assert!(text.contains("cannot replace to directory /b/name with file"), "{text}");
    let text = text_of(&bench.copy(&["tree"], "/a/name").unwrap_err());
    assert!(text.contains("cannot copy to non-directory: /a/name"), "{text}");
    assert!(
        text_of(&bench.copy(&["tree"], "/a/name/x/").unwrap_err()).contains("/a/name is not a directory")
    );
}

#[test]
fn the_directories_of_a_source_are_kept_from_the_pivot_on() {
    let bench = Bench::empty();
    for name in ["a/b/c.txt", "a/b/d.md", "a/e/f/g.txt", "h.txt"] {
        bench.write(name, "");
    }
    std::fs::set_permissions(bench.context().join("a/b"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let run = |sources: &[&str]| {
        let image = bench.image();
        std::fs::remove_dir_all(&image).unwrap();
        std::fs::create_dir(&image).unwrap();
        let sources = strings(sources);
        let result = bench.run(&CopySpec { parents: true, ..spec(&sources, "/") }, &options());
        result.map(|_| listing(&image))
    };
    assert_eq!(
        run(&["a/b/c.txt", "h.txt"]).unwrap(),
        ["a dir 755", "a/b dir 700", "a/b/c.txt file 644 0", "h.txt file 644 0"]
    );
    assert_eq!(run(&["a/./b/c.txt"]).unwrap(), ["b dir 700", "b/c.txt file 644 0"]);
    assert_eq!(run(&["./a/./*/*.md"]).unwrap(), ["b dir 700", "b/d.md file 644 0"]);
    let deep = run(&["a/./**/*.txt"]).unwrap();
    let expected = ["b dir 700", "b/c.txt file 644 0", "e dir 755", "e/f dir 755", "e/f/g.txt file 644 0"];
    assert_eq!(deep, expected);
    assert_eq!(run(&["a/./e"]).unwrap(), ["e dir 755", "e/f dir 755", "e/f/g.txt file 644 0"]);
    assert_eq!(run(&["x*"]).unwrap(), [] as [String; 0]);
    assert_eq!(run(&["a/x"]).unwrap_err().class(), Class::NotFound);
}

#[test]
fn names_of_any_bytes_long_paths_and_empty_files() {
    let bench = Bench::empty();
    let odd = OsStr::from_bytes(b"a\xff\n \\*");
    let mut deep = PathBuf::from("deep");
    for _ in 0..15 {
        deep.push("x".repeat(250));
    }
    for path in [Path::new(odd), &deep.join("f")] {
        // The path of the whole is too long for one call, that below the root is not.
        let root = open(&bench.context());
        let parent = path.parent().unwrap();
        let dir =
            yare_sys::fs::mkdir_all_beneath(root.as_fd(), parent, rustix::fs::Mode::from_raw_mode(0o755));
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::openat(dir.unwrap(), path.file_name().unwrap(), flags, mode).unwrap();
    }
    let copied = bench.copy(&["."], "/").unwrap();
    assert_eq!(copied.paths, [PathBuf::from(odd), deep.join("f")]);
    let image = open(&bench.image());
    yare_sys::fs::open_strict(
        image.as_fd(),
        deep.join("f"),
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    yare_sys::fs::remove_tree(bench.context()).unwrap();
    yare_sys::fs::remove_tree(bench.image()).unwrap();
}

#[test]
fn holes_links_attributes_and_set_id_bits_are_kept() {
    let bench = Bench::empty();
    bench.write("sparse", "");
    let file = std::fs::File::options().write(true).open(bench.context().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 64 << 20).unwrap();
    yare_sys::fs::set_xattr(file.as_fd(), b"user.key", b"value").unwrap();
    std::fs::hard_link(bench.context().join("sparse"), bench.context().join("again")).unwrap();
    bench.write("tool", vec![3; 700_000]);
    let mode = std::fs::Permissions::from_mode(0o6755);
    std::fs::set_permissions(bench.context().join("tool"), mode).unwrap();
    let copied = bench.copy(&["."], "/").unwrap();
    assert_eq!(listing(&bench.image()), listing(&bench.context()));
    assert_eq!(copied.bytes, (64 << 20) + 3 + 700_000);
    let copy = std::fs::File::open(bench.image().join("sparse")).unwrap();
    assert!(copy.metadata().unwrap().blocks() < 1000, "the holes were filled");
    assert_eq!(yare_sys::fs::xattr(copy.as_fd(), "user.key").unwrap().unwrap(), b"value");
    assert_eq!(std::fs::read(bench.image().join("tool")).unwrap(), vec![3; 700_000]);
}

#[test]
fn devices_and_owners_of_a_stage_are_kept() {
    if !require_root("devices_and_owners_of_a_stage_are_kept") {
        return;
    }
    let bench = Bench::empty();
    let make = |name: &str, kind, device| {
        let path = bench.context().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::RUSR, device).unwrap();
        std::os::unix::fs::chown(&path, Some(5), Some(6)).unwrap();
    };
    make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("fifo", FileType::Fifo, 0);
    let keep = CopyOptions { owner: Owner::Keep, ..CopyOptions::default() };
    bench.copy_with(&["."], "/x/", &keep).unwrap();
    for name in ["null", "fifo"] {
        let (old, new) = (bench.context().join(name), bench.image().join("x").join(name));
        let (old, new) = (old.metadata().unwrap(), new.metadata().unwrap());
        assert_eq!((new.mode(), new.rdev(), new.uid(), new.gid()), (old.mode(), old.rdev(), 5, 6));
    }
    if make_whiteout(&bench.context().join("gone")) {
        assert!(text_of(&bench.copy(&["gone"], "/").unwrap_err()).contains("device 0:0"));
    }
}

#[test]
fn a_file_that_changes_after_its_checksum_ends_the_build() {
    let bench = Bench::empty();
    bench.write("f", "one");
    let (tree, sources) = (bench.tree(), strings(&["f"]));
    let selection = select(&tree, &spec(&sources, "/"), &Cancel::default()).unwrap();
    checksum(&selection, &ChecksumOptions::default(), &Cancel::default()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    bench.write("f", "two");
    let error = copy(&selection, open(&bench.image()).as_fd(), &options(), &Cancel::default()).unwrap_err();
    assert!(text_of(&error).contains("/f of the build context changed during the build"), "{error:?}");
}

#[test]
fn a_cancelled_build_stops_and_progress_is_told() {
    let bench = Bench::empty();
    bench.write("big", vec![1; 40 << 20]);
    let told = std::cell::Cell::new(0);
    let progress = |bytes| told.set(bytes);
    bench.copy_with(&["big"], "/", &CopyOptions { progress: Some(&progress), ..options() }).unwrap();
    assert!(told.get() > 0 && told.get() <= 40 << 20);
    let (tree, sources, cancel) = (bench.tree(), strings(&["."]), Cancel::default());
    let selection = select(&tree, &spec(&sources, "/x/"), &cancel).unwrap();
    cancel.cancel();
    let copied = copy(&selection, open(&bench.image()).as_fd(), &options(), &cancel);
    assert_eq!(copied.unwrap_err().class(), Class::Cancelled);
    let sum = checksum(&selection, &ChecksumOptions::default(), &cancel);
    assert_eq!(sum.unwrap_err().class(), Class::Cancelled);
    assert_eq!(select(&tree, &spec(&sources, "/"), &cancel).unwrap_err().class(), Class::Cancelled);
}

#[test]
fn names_that_would_delete_are_refused() {
    let bench = Bench::empty();
    bench.write("d/.wh.x", "");
    assert!(text_of(&bench.copy(&["."], "/").unwrap_err()).contains(".wh."));
    assert!(text_of(&bench.copy(&["d/.wh.x"], "/").unwrap_err()).contains(".wh."));
    bench.copy(&["d/.wh.x"], "/y").unwrap_err();
}

#[test]
fn malformed_wildcards_are_errors() {
    let bench = Bench::empty();
    let error = bench.copy(&["a[b"], "/").unwrap_err();
    assert_eq!(error.class(), Class::InvalidArgument);
    assert!(text_of(&error).contains("invalid source \"a[b\": syntax error in pattern"), "{error:?}");
}

#[test]
fn a_dockerfile_is_read_also_when_it_is_ignored() {
    let mut bench = Bench::empty();
    bench.write("sub/Dockerfile", "FROM scratch\n");
    std::os::unix::fs::symlink("sub/Dockerfile", bench.context().join("Dockerfile")).unwrap();
    bench.ignore = Some(Patterns(&["*"]));
    let tree = bench.tree();
    assert_eq!(read_file(&tree, "./Dockerfile", 13).unwrap(), b"FROM scratch\n");
    let text = text_of(&read_file(&tree, "Dockerfile", 12).unwrap_err());
    assert!(text.contains("/Dockerfile of the build context is larger than 12 bytes"), "{text}");
    assert!(text_of(&read_file(&tree, "sub", 12).unwrap_err()).contains("no regular file"));
    assert_eq!(read_file(&tree, "nope", 12).unwrap_err().class(), Class::NotFound);
}
