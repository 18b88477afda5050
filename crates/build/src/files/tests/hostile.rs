//! Trees, images and archives made to lead somewhere else.

use super::*;
use std::os::unix::fs::symlink;
use tar::{Builder, EntryType, Header};

/// A folder beside the others that nothing may touch or read.
fn canary(bench: &Bench) -> PathBuf {
    let path = bench.folder.path().join("canary");
    write(&path.join("secret"), "secret");
    path
}

fn untouched(canary: &Path) {
    assert_eq!(listing(canary), ["secret file 644 6"]);
    assert_eq!(std::fs::read(canary.join("secret")).unwrap(), b"secret");
}

#[test]
fn links_of_the_context_stay_inside() {
    let bench = Bench::empty();
    let canary = canary(&bench);
    let root = bench.context();
    symlink(&canary, root.join("absolute")).unwrap();
    symlink("../canary", root.join("up")).unwrap();
    symlink("/../../../canary/secret", root.join("file")).unwrap();
    for source in ["absolute", "up", "absolute/secret", "up/secret", "file", "../canary", "up*", "/../up/."] {
        let error = bench.copy(&[source], "/d/").unwrap_err();
        assert_eq!(error.class(), Class::NotFound, "{source}");
    }
    // They lead to what the context has under that name.
    bench.write("canary/secret", "mine");
    bench.copy(&["up/secret", "file"], "/d/").unwrap();
    assert_eq!(std::fs::read(bench.image().join("d/secret")).unwrap(), b"mine");
    assert_eq!(std::fs::read(bench.image().join("d/file")).unwrap(), b"mine");
    let error = read_file(&bench.tree(), "absolute/secret", 10).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
}

#[test]
fn loops_end() {
    let bench = Bench::empty();
    for (name, target) in [("self", "self"), ("a", "b/x"), ("b", "a/y")] {
        symlink(target, bench.context().join(name)).unwrap();
        symlink(target, bench.image().join(name)).unwrap();
    }
    bench.write("f", "");
    for source in ["self", "a", "b/c"] {
        let text = text_of(&bench.copy(&[source], "/d/").unwrap_err());
        assert!(text.contains("symbolic links"), "{text}");
    }
    assert!(bench.copy(&["f"], "/a/").is_err());
    bench.copy(&["."], "/copy/").unwrap();
    assert_eq!(bench.image().join("copy/self").read_link().unwrap(), Path::new("self"));
}

#[test]
fn links_of_the_image_stay_inside() {
    let bench = Bench::empty();
    let canary = canary(&bench);
    symlink(&canary, bench.image().join("absolute")).unwrap();
    symlink("../../canary", bench.image().join("up")).unwrap();
    symlink(canary.join("secret"), bench.image().join("file")).unwrap();
    bench.write("secret", "new");
    for dest in ["/absolute/", "/up/", "/file", "/absolute/secret", "up/x/y/"] {
        bench.copy(&["secret"], dest).unwrap();
    }
    untouched(&canary);
    let inside = bench.image().join(canary.strip_prefix("/").unwrap());
    assert_eq!(std::fs::read(inside.join("secret")).unwrap(), b"new");
    assert_eq!(std::fs::read(bench.image().join("canary/x/y/secret")).unwrap(), b"new");
    let file = FileToWrite {
        dest: "/absolute/h",
        name: "h",
        bytes: b"x",
        owner: mine(),
        mode: 0o644,
        dir_mode: 0o755,
        times: Times::Keep,
    };
    write_file(open(&bench.image()).as_fd(), &file).unwrap();
    untouched(&canary);
}

#[test]
fn a_link_below_the_destination_is_not_written_through() {
    let bench = Bench::empty();
    let canary = canary(&bench);
    bench.write("d/secret", "new");
    symlink(&canary, bench.image().join("d")).unwrap();
    let text = text_of(&bench.copy(&["."], "/").unwrap_err());
    assert!(text.contains("cannot copy to non-directory: /d"), "{text}");
    bench.write("file", "new");
    std::fs::remove_dir_all(bench.context().join("d")).unwrap();
    symlink(canary.join("secret"), bench.image().join("file")).unwrap();
    bench.copy(&["."], "/").unwrap();
    assert_eq!(std::fs::read(bench.image().join("file")).unwrap(), b"new");
    untouched(&canary);
}

#[test]
fn a_directory_that_becomes_a_link_meanwhile_ends_the_build() {
    let bench = Bench::empty();
    let canary = canary(&bench);
    bench.write("d/secret", "mine");
    let (tree, sources) = (bench.tree(), strings(&["."]));
    let selection = select(&tree, &spec(&sources, "/"), &Cancel::default()).unwrap();
    std::fs::rename(bench.context().join("d"), bench.context().join("e")).unwrap();
    symlink(&canary, bench.context().join("d")).unwrap();
    let sum = checksum(&selection, &ChecksumOptions::default(), &Cancel::default());
    let options = CopyOptions { owner: mine(), ..CopyOptions::default() };
    let copied = copy(&selection, open(&bench.image()).as_fd(), &options, &Cancel::default());
    for error in [sum.unwrap_err(), copied.unwrap_err()] {
        assert_eq!(error.class(), Class::Unavailable);
        assert!(text_of(&error).contains("changed during the build"), "{error:?}");
    }
    assert!(listing(&bench.image()).iter().all(|line| !line.contains("secret")));
}

/// Name, kind and where it leads.
type Member = (&'static str, EntryType, &'static str);

fn archive(entries: &[Member]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, link) in entries {
        let mut header = Header::new_gnu();
        // Names as they are, which the builder's own functions refuse.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_size(if kind.is_file() { 3 } else { 0 });
        header.set_cksum();
        builder.append(&header, if kind.is_file() { &b"new"[..] } else { b"" }).unwrap();
    }
    builder.into_inner().unwrap()
}

fn add(bench: &Bench, bytes: Vec<u8>, limits: yare_layer::Limits) -> Result<Copied> {
    bench.write("a.tar", bytes);
    let options = CopyOptions { owner: mine(), unpack: true, limits, ..CopyOptions::default() };
    bench.copy_with(&["a.tar"], "/d/", &options)
}

#[test]
fn archives_are_refused_or_stay_below_their_destination() {
    use EntryType::{Char, Link, Regular, Symlink};
    let away = "../../canary";
    let cases: [(&str, Vec<Member>, bool); 9] = [
        ("traversal", vec![("../canary/secret", Regular, "")], false),
        ("deep traversal", vec![("a/../../../canary/secret", Regular, "")], false),
        ("absolute", vec![("/canary/secret", Regular, "")], true),
        ("below a link", vec![("l", Symlink, away), ("l/secret", Regular, "")], true),
        ("below an absolute link", vec![("l", Symlink, "/canary"), ("l/secret", Regular, "")], true),
        ("hard link out", vec![("h", Link, "../../canary/secret")], false),
        ("hard link below a link", vec![("l", Symlink, away), ("h", Link, "l/secret")], false),
        ("whiteout", vec![("x/.wh.y", Regular, "")], false),
        ("whiteout device", vec![("x", Char, "")], false),
    ];
    for (what, entries, fits) in cases {
        let bench = Bench::empty();
        let canary = canary(&bench);
        let result = add(&bench, archive(&entries), CopyOptions::default().limits);
        assert_eq!(result.is_ok(), fits, "{what}: {result:?}");
        untouched(&canary);
        let outside = listing(&bench.image()).into_iter().filter(|line| !line.starts_with("d/"));
        assert_eq!(outside.map(|line| line[..5].to_owned()).collect::<Vec<_>>(), ["d dir"], "{what}");
    }
}

#[test]
fn an_archive_has_its_own_owners_unless_told_otherwise() {
    if !require_root("an_archive_has_its_own_owners_unless_told_otherwise") {
        return;
    }
    let bench = Bench::empty();
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_uid(12);
    header.set_gid(34);
    header.set_mode(0o4755);
    header.set_size(0);
    header.set_cksum();
    builder.append_data(&mut header, "dir/f", &b""[..]).unwrap();
    bench.write("a.tar", builder.into_inner().unwrap());
    for (owner, expected) in [(Owner::Root, (12, 34)), (Owner::Keep, (12, 34)), (Owner::Set(5, 6), (5, 6))] {
        let options = CopyOptions { owner, unpack: true, ..CopyOptions::default() };
        bench.copy_with(&["a.tar"], "/d", &options).unwrap();
        let meta = bench.image().join("d/dir/f").metadata().unwrap();
        assert_eq!(((meta.uid(), meta.gid()), meta.mode() & 0o7777), (expected, 0o4755));
        let dir = bench.image().join("d").metadata().unwrap();
        assert_eq!(dir.uid(), if owner == Owner::Set(5, 6) { 5 } else { 0 });
        std::fs::remove_dir_all(bench.image().join("d")).unwrap();
    }
}

#[test]
fn an_archive_merges_with_what_is_there() {
    use EntryType::{Directory, Link, Regular};
    let bench = Bench::empty();
    write(&bench.image().join("d/kept/old"), "old");
    write(&bench.image().join("d/file"), "old");
    std::fs::set_permissions(bench.image().join("d"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let entries = [
        ("./", Directory, ""),
        ("kept/new", Regular, ""),
        ("file", Directory, ""),
        ("file/x", Regular, ""),
        ("h", Link, "kept/old"),
    ];
    let copied = add(&bench, archive(&entries), CopyOptions::default().limits).unwrap();
    let expected = [
        "d dir 700",
        "d/file dir 755",
        "d/file/x file 755 3",
        "d/h file 644 3",
        "d/kept dir 755",
        "d/kept/new file 755 3",
        "d/kept/old hardlink 644 -> d/h",
    ];
    assert_eq!(listing(&bench.image()), expected);
    assert_eq!(copied.paths, ["d/file/x", "d/h", "d/kept/new"].map(PathBuf::from));
}

#[test]
fn bombs_stop_at_their_bounds() {
    let zeros = yare_layer::compress(Vec::new(), yare_layer::Compression::Bzip2, None);
    let mut builder = Builder::new(zeros.unwrap());
    let mut header = Header::new_gnu();
    header.set_size(64 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, "zeros", std::io::Read::take(std::io::repeat(0), 64 << 20)).unwrap();
    let bomb = builder.into_inner().unwrap().finish().unwrap();
    assert!(bomb.len() < 10_000);
    let bench = Bench::empty();
    let limits = yare_layer::Limits { bytes: Some(1 << 20), ..yare_layer::Limits::default() };
    let text = text_of(&add(&bench, bomb, limits).unwrap_err());
    assert!(text.contains("cannot unpack /a.tar") && text.contains("1048576 bytes"), "{text}");
    assert!(bench.image().join("d/zeros").metadata().unwrap().len() <= 1 << 20);

    let many: Vec<_> = (0..20).map(|_| ("same", EntryType::Regular, "")).collect();
    let limits = yare_layer::Limits { entries: 10, ..yare_layer::Limits::default() };
    assert!(add(&Bench::empty(), archive(&many), limits).is_err());
}

#[test]
fn archives_are_told_by_their_content() {
    use yare_layer::Compression::{Bzip2, Gzip, Plain, Xz, Zstd};
    let bytes = archive(&[("f", EntryType::Regular, "")]);
    for compression in [Plain, Gzip, Bzip2, Xz, Zstd] {
        let mut packed = yare_layer::compress(Vec::new(), compression, None).unwrap();
        std::io::Write::write_all(&mut packed, &bytes).unwrap();
        let bench = Bench::empty();
        add(&bench, packed.finish().unwrap(), CopyOptions::default().limits).unwrap();
        assert_eq!(listing(&bench.image()), ["d dir 755", "d/f file 755 3"], "{compression:?}");
    }
    for other in [&b""[..], b"text", &[0; 2048], b"\x1f\x8brubbish", b"BZh91AY&SYrubbish"] {
        let bench = Bench::empty();
        add(&bench, other.to_vec(), CopyOptions::default().limits).unwrap();
        let expected = ["d dir 755".to_owned(), format!("d/a.tar file 644 {}", other.len())];
        assert_eq!(listing(&bench.image()), expected);
    }
}
