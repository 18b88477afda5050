//! Durable files, and paths below a root.
#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;
use tempfile::TempDir;
use yare_sys::fs::{self as files, Durability};

fn errno(result: std::io::Result<impl Sized>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

#[test]
fn atomic_write_replaces_and_leaves_nothing_else() {
    let top = TempDir::new().unwrap();
    for (text, durability) in [("one", Durability::Synced), ("two", Durability::Relaxed)] {
        files::atomic_write(top.path(), "f", text.as_bytes(), durability).unwrap();
        assert_eq!(std::fs::read_to_string(top.path().join("f")).unwrap(), text);
    }
    let dir = File::open(top.path()).unwrap();
    files::atomic_write(dir.as_fd(), "f", b"three", Durability::Relaxed).unwrap();
    assert_eq!(std::fs::read(top.path().join("f")).unwrap(), b"three");
    let error = files::atomic_write(&top.path().join("none"), "f", b"", Durability::Relaxed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("none"), "{error}");
    std::fs::create_dir(top.path().join("d")).unwrap();
    assert!(files::atomic_write(top.path(), "d", b"", Durability::Relaxed).is_err());
    assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 2);
}

#[test]
fn a_lock_is_exclusive_until_it_is_dropped() {
    let top = TempDir::new().unwrap();
    let path = top.path().join("lock");
    let lock = files::lock_file(&path).unwrap();
    assert_eq!(files::lock_file(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(lock);
    files::lock_file(&path).unwrap();
}

fn tree() -> (TempDir, File) {
    let top = TempDir::new().unwrap();
    std::fs::create_dir_all(top.path().join("root/d")).unwrap();
    std::fs::write(top.path().join("root/d/f"), "inside").unwrap();
    std::fs::write(top.path().join("secret"), "outside").unwrap();
    for (name, target) in
        [("abs", "/d"), ("up", "../.."), ("file", "../secret"), ("magic", "/proc/self/root")]
    {
        std::os::unix::fs::symlink(target, top.path().join("root").join(name)).unwrap();
    }
    let root = File::open(top.path().join("root")).unwrap();
    (top, root)
}

fn text(fd: std::os::fd::OwnedFd) -> String {
    std::io::read_to_string(File::from(fd)).unwrap()
}

#[test]
fn open_beneath_follows_links_inside_only() {
    let (_top, root) = tree();
    let open = |path: &str| files::open_beneath(root.as_fd(), path, OFlags::RDONLY, Mode::empty());
    for path in ["d/f", "/d/f", "abs/f", "up/d/f", "../../d/f"] {
        assert_eq!(text(open(path).unwrap()), "inside", "{path}");
    }
    for path in ["file", "up/secret", "../secret", "magic", "/etc/passwd"] {
        assert_eq!(errno(open(path)), Some(Errno::NOENT), "{path}");
    }
    let strict = |path: &str| files::open_strict(root.as_fd(), path, OFlags::RDONLY, Mode::empty());
    assert_eq!(text(strict("d/f").unwrap()), "inside");
    assert_eq!(errno(strict("abs/f")), Some(Errno::LOOP));
    assert_eq!(errno(strict("../secret")), Some(Errno::XDEV));
}

#[test]
fn directories_are_made_inside_only() {
    let (top, root) = tree();
    let make = |path: &str| files::mkdir_all_beneath(root.as_fd(), path, Mode::RWXU);
    for path in ["a/b/c", "/abs/x/y", "up/z", "../../w", "a/../q/r"] {
        make(path).unwrap();
    }
    for path in ["a/b/c", "d/x/y", "z", "w", "q/r"] {
        assert!(top.path().join("root").join(path).is_dir(), "{path}");
    }
    assert!(make("d/f/x").is_err());
    files::create_beneath(root.as_fd(), "/abs/new/file", Mode::RUSR).unwrap();
    assert!(top.path().join("root/d/new/file").is_file());
    std::os::unix::fs::symlink("/not/there", top.path().join("root/dangling")).unwrap();
    assert!(make("dangling").is_err());
    let mut names: Vec<_> =
        std::fs::read_dir(top.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["root", "secret"]);
}

#[test]
fn trees_are_removed_without_following_links() {
    let (top, _root) = tree();
    files::remove_tree(top.path().join("root")).unwrap();
    files::remove_tree(top.path().join("root")).unwrap();
    files::remove_tree(Path::new("/no/such/place/at/all")).unwrap();
    assert_eq!(std::fs::read_to_string(top.path().join("secret")).unwrap(), "outside");
    std::os::unix::fs::symlink(top.path(), top.path().join("link")).unwrap();
    files::remove_tree(top.path().join("link")).unwrap();
    assert!(top.path().join("secret").exists());
}

#[test]
fn trees_deeper_than_any_path_are_removed() {
    let top = TempDir::new().unwrap();
    let mut dir: std::os::fd::OwnedFd = File::open(top.path()).unwrap().into();
    for _ in 0..2500 {
        rustix::fs::mkdirat(&dir, "directory", Mode::RWXU).unwrap();
        rustix::fs::mkdirat(&dir, "other", Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, "directory", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    files::remove_tree(top.path().join("directory")).unwrap();
    files::remove_tree(top.path().join("other")).unwrap();
    assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 0);
}

#[test]
fn trash_gets_new_names() {
    let top = TempDir::new().unwrap();
    let trash = top.path().join("trash");
    std::fs::create_dir(&trash).unwrap();
    for _ in 0..2 {
        std::fs::create_dir(top.path().join("x")).unwrap();
        assert!(files::rename_to_trash(top.path().join("x"), &trash).unwrap().unwrap().is_dir());
    }
    assert_eq!(std::fs::read_dir(&trash).unwrap().count(), 2);
    assert_eq!(files::rename_to_trash(top.path().join("x"), &trash).unwrap(), None);
}

#[test]
fn attributes_of_links_are_reached() {
    let top = TempDir::new().unwrap();
    let path = top.path().join("f");
    std::fs::write(&path, "").unwrap();
    let fd = rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
    let long = vec![7; 2000];
    files::set_xattr(fd.as_fd(), b"user.b", &long).unwrap();
    files::set_xattr(fd.as_fd(), b"user.a", b"1").unwrap();
    let all = files::xattrs(fd.as_fd()).unwrap();
    let users: Vec<_> = all.into_iter().filter(|(name, _)| name.starts_with(b"user.")).collect();
    assert_eq!(users, [(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), long)]);
    assert_eq!(files::xattr(fd.as_fd(), "user.c").unwrap(), None);
}

#[test]
fn a_thread_becomes_idle() {
    std::thread::spawn(|| files::become_idle().unwrap()).join().unwrap();
}
