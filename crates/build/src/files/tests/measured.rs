//! What dockerd with BuildKit did with one context, case by case.

use super::*;
use std::os::unix::fs::symlink;

fn context() -> Bench {
    let bench = Bench::empty();
    let files = ["a.txt", "b.txt", "priv.txt", "sp ace.txt", "README.md", "secret.log"];
    for name in files.iter().chain(&["dir/c.txt", "dir/.hidden", "dir/sub/d.txt", "node_modules/m/i.js"]) {
        bench.write(name, "x\n");
    }
    bench.write("exec.sh", "#!/bin/sh\necho hi");
    let root = bench.context();
    for (name, mode) in [("priv.txt", 0o600), ("exec.sh", 0o755)] {
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::create_dir(root.join("empty")).unwrap();
    std::fs::hard_link(root.join("a.txt"), root.join("hard.txt")).unwrap();
    for (name, target) in
        [("link", "a.txt"), ("dirlink", "dir"), ("abslink", "/etc/passwd"), ("uplink", "../outside")]
    {
        symlink(target, root.join(name)).unwrap();
    }
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["x/y.txt", "x/z.txt"] {
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &b"y\n"[..]).unwrap();
    }
    let mut packed = yare_layer::compress(Vec::new(), yare_layer::Compression::Gzip, None).unwrap();
    std::io::Write::write_all(&mut packed, &tar.into_inner().unwrap()).unwrap();
    bench.write("arch.tar.gz", packed.finish().unwrap());
    bench
}

fn check(sources: &[&str], dest: &str, expected: &[&str]) {
    let bench = context();
    bench.copy(sources, dest).unwrap();
    assert_eq!(listing(&bench.image()), expected, "{sources:?} {dest}");
}

const DIR: [&str; 5] =
    ["x dir 755", "x/.hidden file 644 2", "x/c.txt file 644 2", "x/sub dir 755", "x/sub/d.txt file 644 2"];

#[test]
fn files_and_directories() {
    check(&["a.txt"], "/", &["a.txt file 644 2"]);
    check(&["a.txt"], "/x/y/", &["x dir 755", "x/y dir 755", "x/y/a.txt file 644 2"]);
    check(&["a.txt", "b.txt"], "/d/", &["d dir 755", "d/a.txt file 644 2", "d/b.txt file 644 2"]);
    check(&["a.txt", "b.txt"], "/d", &["d file 644 2"]);
    check(&["dir"], "/x", &DIR);
    check(&["dir/"], "/x/", &DIR);
    check(&["dirlink"], "x", &DIR);
    check(&["sp ace.txt"], "/d/", &["d dir 755", "d/sp ace.txt file 644 2"]);
    check(&["link"], "/", &["link file 644 2"]);
    check(&["arch.tar.gz"], "/d/", &["d dir 755", &arch()]);
}

fn arch() -> String {
    format!("d/arch.tar.gz file 644 {}", context().context().join("arch.tar.gz").metadata().unwrap().len())
}

#[test]
fn the_whole_context() {
    let bench = context();
    let copied = bench.copy(&["."], "/").unwrap();
    assert_eq!(listing(&bench.image()), listing(&bench.context()));
    assert!(listing(&bench.image()).contains(&"hard.txt hardlink 644 -> a.txt".to_owned()));
    assert_eq!(copied.files, listing(&bench.context()).len() as u64);
    let no_dirs = listing(&bench.context()).iter().filter(|line| !line.contains(" dir ")).count();
    assert_eq!(copied.paths.len(), no_dirs);
    assert_eq!(copied.paths[0], Path::new("README.md"));
}

#[test]
fn wildcards() {
    let d = |names: &[&str]| -> Vec<String> {
        let mut lines = vec!["d dir 755".to_owned()];
        lines.extend(names.iter().map(|name| format!("d/{name}")));
        lines
    };
    let cases: [(&str, Vec<String>); 5] = [
        (
            "*.txt",
            d(&[
                "a.txt file 644 2",
                "b.txt file 644 2",
                "hard.txt file 644 2",
                "priv.txt file 600 2",
                "sp ace.txt file 644 2",
            ]),
        ),
        ("?.txt", d(&["a.txt file 644 2", "b.txt file 644 2"])),
        ("*.nope", Vec::new()),
        ("d*", d(&[".hidden file 644 2", "c.txt file 644 2", "sub dir 755", "sub/d.txt file 644 2"])),
        ("**/*.txt", d(&["c.txt file 644 2"])),
    ];
    for (pattern, expected) in cases {
        let bench = context();
        bench.copy(&[pattern], "/d/").unwrap();
        assert_eq!(listing(&bench.image()), expected, "{pattern}");
    }
}

#[test]
fn what_is_not_there() {
    let bench = context();
    for (source, text) in [("../x", "\"/x\": not found"), ("abslink", "\"/abslink\": not found")] {
        let error = bench.copy(&[source], "/d/").unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
        assert!(text_of(&error).contains(text), "{error:?}");
    }
    assert!(text_of(&bench.copy(&["abslink"], "/").unwrap_err()).contains("leads by a link to /etc/passwd"));
    assert!(text_of(&bench.copy(&["readme.md"], "/").unwrap_err()).contains("did you mean /README.md?"));
}

#[test]
fn modes_and_exclusion() {
    let bench = context();
    let change = |mode: u32, is_dir: bool| {
        let x = if is_dir || mode & 0o111 != 0 { 0o111 } else { 0 };
        0o644 | x
    };
    let options =
        CopyOptions { owner: mine(), mode: Some(ModeChange::With(&change)), ..CopyOptions::default() };
    bench.copy_with(&["priv.txt", "dir"], "/x/", &options).unwrap();
    let mut expected = DIR.to_vec();
    expected.insert(3, "x/priv.txt file 644 2");
    assert_eq!(listing(&bench.image()), expected);

    let bench = context();
    let exclude = Patterns(&["*.txt", "dir/sub"]);
    let sources = strings(&["."]);
    let spec = CopySpec { exclude: Some(&exclude), ..spec(&sources, "/p/") };
    bench.run(&spec, &CopyOptions { owner: mine(), ..CopyOptions::default() }).unwrap();
    let lines = listing(&bench.image());
    assert!(
        !lines.iter().any(|line| line.starts_with("p/a.txt") || line.starts_with("p/dir/sub")),
        "{lines:?}"
    );
    assert!(lines.contains(&"p/dir/c.txt file 644 2".to_owned()), "{lines:?}");
}

#[test]
fn owners() {
    if !require_root("owners") {
        return;
    }
    let bench = context();
    let options = CopyOptions { owner: Owner::Set(12, 34), ..CopyOptions::default() };
    bench.copy_with(&["dir"], "/d/", &options).unwrap();
    for path in ["d", "d/sub", "d/sub/d.txt"] {
        let meta = bench.image().join(path).metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12, 34), "{path}");
    }
}

#[test]
fn over_a_directory_and_twice() {
    let bench = context();
    bench.copy(&["dir"], "/x").unwrap();
    bench.copy(&["a.txt"], "/x").unwrap();
    let mut expected = DIR.to_vec();
    expected.insert(2, "x/a.txt file 644 2");
    assert_eq!(listing(&bench.image()), expected);
}

#[test]
fn an_archive_is_unpacked_by_add_alone() {
    let bench = context();
    let options = CopyOptions { owner: mine(), unpack: true, ..CopyOptions::default() };
    bench.copy_with(&["arch.tar.gz"], "/d/", &options).unwrap();
    let expected = ["d dir 755", "d/x dir 755", "d/x/y.txt file 644 2", "d/x/z.txt file 644 2"];
    assert_eq!(listing(&bench.image()), expected);
}

#[test]
fn ignored_files_are_not_there() {
    let mut bench = context();
    bench.ignore = Some(Patterns(&["*", "!a.txt", "!dir", "dir/sub"]));
    bench.copy(&["."], "/").unwrap();
    let expected = ["a.txt file 644 2", "dir dir 755", "dir/.hidden file 644 2", "dir/c.txt file 644 2"];
    assert_eq!(listing(&bench.image()), expected);
    let error = bench.copy(&["b.txt"], "/").unwrap_err();
    let text = text_of(&error);
    assert!(text.contains("\"/b.txt\": not found") && text.contains("pattern \"*\" hides it"), "{text}");
    bench.ignore = Some(Patterns(&["a.txt"]));
    assert!(text_of(&bench.copy(&["link"], "/").unwrap_err()).contains("\"a.txt\" hides it"));
}

#[test]
fn heredocs_and_working_directories() {
    let bench = Bench::empty();
    let root = open(&bench.image());
    let file = FileToWrite {
        dest: "/d/",
        name: "E2",
        bytes: b"raw\n",
        owner: mine(),
        mode: 0o644,
        dir_mode: 0o755,
        times: Times::Keep,
    };
    assert_eq!(write_file(root.as_fd(), &file).unwrap(), Path::new("d/E2"));
    let other = FileToWrite { dest: "f", mode: 0o700, bytes: b"", ..file };
    assert_eq!(write_file(root.as_fd(), &other).unwrap(), Path::new("f"));
    let into = FileToWrite { dest: "d", name: "E3", ..file };
    assert_eq!(write_file(root.as_fd(), &into).unwrap(), Path::new("d/E3"));
    let made = make_dirs(root.as_fd(), "w/a/../b/", mine(), 0o755, Times::Set(7)).unwrap();
    assert_eq!(made, [Path::new("w"), Path::new("w/b")]);
    assert_eq!(make_dirs(root.as_fd(), "/w/b", mine(), 0o700, Times::Set(8)).unwrap(), [] as [PathBuf; 0]);
    assert_eq!(bench.image().join("w").metadata().unwrap().mtime(), 7);
    let expected =
        ["d dir 755", "d/E2 file 644 4", "d/E3 file 644 4", "f file 700 0", "w dir 755", "w/b dir 755"];
    assert_eq!(listing(&bench.image()), expected);
    let error = make_dirs(root.as_fd(), "/f/x", mine(), 0o755, Times::Keep).unwrap_err();
    assert!(text_of(&error).contains("/f is not a directory"), "{error:?}");
}
