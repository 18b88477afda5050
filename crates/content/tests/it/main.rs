//! The blob store on a real file system.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::allow_attributes, reason = "tests")]

use std::io::Write;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use yare_content::{Error, Store};
use yare_errdefs::{Class, Classified};
use yare_oci::Digest;

fn store() -> (TempDir, Store) {
    let top = TempDir::new().unwrap();
    let store = Store::open(top.path()).unwrap();
    (top, store)
}

fn files(top: &TempDir, dir: &str) -> usize {
    std::fs::read_dir(top.path().join(dir)).unwrap().count()
}

#[test]
fn what_was_put_is_read() {
    let (top, store) = store();
    let digest = store.put(b"hello").unwrap();
    assert_eq!(digest, Digest::of("hello"));
    assert_eq!(store.put(b"hello").unwrap(), digest);
    assert_eq!(store.read(&digest).unwrap(), b"hello");
    assert_eq!(store.size(&digest).unwrap(), 5);
    assert!(store.contains(&digest));
    assert_eq!(store.list().unwrap(), [digest]);
    store.verify(&digest).unwrap();
    store.sync().unwrap();
    let again = Store::open(top.path()).unwrap();
    assert_eq!(again.list().unwrap(), [digest]);
    store.delete(&digest).unwrap();
    store.delete(&digest).unwrap();
    assert!(!store.contains(&digest));
    let error = store.read(&digest).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert_eq!(error.to_string(), format!("blob {digest} not found"));
}

#[test]
fn a_file_that_stays_is_adopted() {
    let (top, store) = store();
    let path = top.path().join("file");
    std::fs::write(&path, "hello").unwrap();
    let (file, digest) = (std::fs::File::open(&path).unwrap(), Digest::of("hello"));
    for _ in 0..2 {
        store.adopt(&file, &digest).unwrap();
        assert_eq!(store.read(&digest).unwrap(), b"hello");
    }
    assert!(path.exists());
    store.delete(&digest).unwrap();
    // One without a name any more is copied.
    std::fs::remove_file(&path).unwrap();
    store.adopt(&file, &digest).unwrap();
    assert_eq!(store.read(&digest).unwrap(), b"hello");
    assert_eq!(files(&top, "ingest"), 0);
}

#[test]
fn a_blob_is_invisible_until_it_is_verified() {
    let (top, store) = store();
    let digest = Digest::of("hello");
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"hello").unwrap();
    assert!(!store.contains(&digest));
    assert_eq!(ingest.commit(Some(digest), Some(5)).unwrap(), (digest, 5));
    assert!(store.contains(&digest));
    assert_eq!(files(&top, "ingest"), 0);
}

#[test]
fn wrong_bytes_leave_nothing_behind() {
    let (top, store) = store();
    for (expected, size) in
        [(Some(Digest::of("other")), None), (Some(Digest::of("hello")), Some(6)), (None, Some(4))]
    {
        let mut ingest = store.ingest().unwrap();
        ingest.write_all(b"hello").unwrap();
        let error = ingest.commit(expected, size).unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
    }
    drop(store.ingest().unwrap());
    assert!(store.list().unwrap().is_empty());
    assert_eq!(files(&top, "ingest"), 0);
}

#[test]
fn unfinished_blobs_of_an_earlier_process_are_swept() {
    let (top, store) = store();
    std::mem::forget(store.ingest().unwrap());
    assert_eq!(files(&top, "ingest"), 1);
    drop(store);
    Store::open(top.path()).unwrap();
    assert_eq!(files(&top, "ingest"), 0);
}

#[test]
fn documents_are_limited_and_verified() {
    let (top, store) = store();
    let digest = store.put(&[b'x'; 100]).unwrap();
    assert!(matches!(store.read_at_most(&digest, 99), Err(Error::TooLarge { size: 100, limit: 99, .. })));
    assert_eq!(store.read_at_most(&digest, 100).unwrap().len(), 100);
    std::fs::write(top.path().join("blobs/sha256").join(digest.hex()), "damaged").unwrap();
    assert!(matches!(store.read(&digest), Err(Error::Damaged(_))));
    assert!(matches!(store.verify(&digest), Err(Error::Damaged(_))));
    // Fetching it again mends it.
    store.put(&[b'x'; 100]).unwrap();
    store.verify(&digest).unwrap();
}

#[test]
fn a_file_is_taken_in_and_out() {
    let (top, store) = store();
    let (file, digest) = (top.path().join("finished"), Digest::of("taken"));
    std::fs::write(&file, "taken").unwrap();
    store.place(&file, &digest).unwrap();
    store.sync_names().unwrap();
    assert!(!file.exists());
    assert_eq!(store.read(&digest).unwrap(), b"taken");
    let away = top.path().join("away");
    store.take_out(&digest, &away).unwrap();
    store.take_out(&digest, &away).unwrap();
    assert!(!store.contains(&digest));
    assert_eq!(std::fs::read(&away).unwrap(), b"taken");
    assert!(matches!(store.place(&file, &digest), Err(Error::Io { .. })), "it names the path");
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A download that broke off waits a week for the next try, from when it was last gone on with.
#[test]
fn downloads_that_broke_off_are_swept_by_their_age() {
    let (top, store) = store();
    let digest = Digest::of("whole");
    store.partial(&digest).unwrap().write_all(b"who").unwrap();
    let now = SystemTime::now();
    assert_eq!(store.sweep_partials(now + 6 * DAY).unwrap(), 0);
    assert!(store.has_partial(&digest));
    // Also one to which nothing was added.
    let file = top.path().join("partial").join(digest.hex());
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(now - 6 * DAY).unwrap();
    assert_eq!(store.partial(&digest).unwrap().size(), 3);
    assert_eq!(store.sweep_partials(now + 2 * DAY).unwrap(), 0);
    assert_eq!(store.sweep_partials(now + 8 * DAY).unwrap(), 1);
    assert!(!store.has_partial(&digest));
}
