use crate::fake::{Fake, Fault, settings};
use crate::{open, repository};
use http::Method;
use std::sync::Arc;
use tokio::sync::Semaphore;
use yare_distribution::{Blob, BlobStream, Credentials, Parts, Result, Resume};
use yare_errdefs::{Class, Classified, chain};
use yare_oci::{ContentDigest, Digest, Hasher};

async fn read(stream: &mut BlobStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Bytes that no shift of themselves equals.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[tokio::test]
async fn content_comes_whole() {
    let fake = Fake::start().await;
    let bytes = content(300_000);
    let blob = fake.blob(bytes.clone());
    let mut stream = repository(&fake, "a").await.blob(&blob, Resume::default()).unwrap();
    assert_eq!(read(&mut stream).await.unwrap(), bytes);
    assert_eq!((stream.received(), stream.offset()), (300_000, 300_000));
    let empty = fake.blob(Vec::new());
    let mut stream = repository(&fake, "a").await.blob(&empty, Resume::default()).unwrap();
    assert_eq!(read(&mut stream).await.unwrap(), Vec::<u8>::new());
}

#[tokio::test]
async fn other_algorithms_are_checked_alike() {
    let fake = Fake::start().await;
    let repository = repository(&fake, "a").await;
    let sha512 = |bytes: &[u8]| ContentDigest::Sha512([0; 64]).same_of(bytes);
    for (name, is_right) in [(sha512(b"content"), true), (sha512(b"another"), false)] {
        fake.fault(Method::GET, "blobs", 1, Fault::Answer(200, Vec::new(), "content".to_owned()));
        let read = read(&mut repository.blob_called(Blob { name, size: 7 }).unwrap()).await;
        assert_eq!(read.is_ok_and(|bytes| bytes == b"content"), is_right);
    }
}

#[tokio::test]
async fn a_broken_connection_costs_what_was_under_way() {
    let fake = Fake::start().await;
    let bytes = content(400_000);
    let blob = fake.blob(bytes.clone());
    let repository = repository(&fake, "a").await;
    for fault in [Fault::Cut(100_000), Fault::Stall(100_000), Fault::Drop, Fault::Cut(0)] {
        fake.fault(Method::GET, "blobs", 2, fault);
        let mut stream = repository.blob(&blob, Resume::default()).unwrap();
        assert_eq!(read(&mut stream).await.unwrap(), bytes);
        assert_eq!(stream.received(), 400_000, "nothing came twice");
    }
    let ranges: Vec<_> =
        fake.seen().iter().filter_map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert!(ranges.contains(&"bytes=100000-".to_owned()), "{ranges:?}");
}

/// Parts of 50 kB over that many connections beside the first.
fn parts(spare: usize) -> Parts {
    Parts { spare: Arc::new(Semaphore::new(spare)), least: 100_000, size: 50_000 }
}

/// The ranges that were asked for, sorted.
fn ranges(fake: &Fake) -> Vec<(u64, u64)> {
    let seen = fake.seen();
    let asked = seen.iter().filter_map(|seen| seen.header("range")?.strip_prefix("bytes=")?.split_once('-'));
    let mut ranges: Vec<_> =
        asked.map(|(start, end)| (start.parse().unwrap(), end.parse().unwrap_or(u64::MAX))).collect();
    ranges.sort_unstable();
    ranges
}

#[tokio::test]
async fn a_large_blob_comes_in_parts_as_one() {
    let fake = Fake::start().await;
    let bytes = content(420_001);
    let blob = fake.blob(bytes.clone());
    let repository = repository(&fake, "a").await;
    let parts = parts(2);
    let mut stream = repository.blob(&blob, Resume::default()).unwrap().in_parts(parts.clone());
    assert_eq!(read(&mut stream).await.unwrap(), bytes);
    assert_eq!((stream.received(), stream.offset()), (420_001, 420_001));
    let wanted: Vec<(u64, u64)> =
        (0..9).map(|part| (part * 50_000, (part * 50_000 + 49_999).min(420_000))).collect();
    assert_eq!(ranges(&fake), wanted, "each byte is asked for once");
    assert_eq!(parts.spare.available_permits(), 2, "the connections are given back");
    // What is there is not asked for.
    let mut hasher = Hasher::new();
    hasher.update(&bytes[..123_456]);
    let mut stream =
        repository.blob(&blob, Resume { offset: 123_456, hasher }).unwrap().in_parts(parts.clone());
    assert_eq!(read(&mut stream).await.unwrap(), bytes[123_456..]);
    assert_eq!(stream.received(), 420_001 - 123_456);
}

#[tokio::test]
async fn parts_are_not_asked_for_where_they_do_not_help() {
    let fake = Fake::start().await;
    let bytes = content(420_000);
    let (large, small) = (fake.blob(bytes.clone()), fake.blob(content(99_999)));
    let repository = repository(&fake, "a").await;
    let mut stream = repository.blob(&large, Resume::default()).unwrap().in_parts(parts(0));
    assert_eq!(read(&mut stream).await.unwrap(), bytes);
    let mut stream = repository.blob(&small, Resume::default()).unwrap().in_parts(parts(2));
    read(&mut stream).await.unwrap();
    assert_eq!((fake.seen().len(), ranges(&fake)), (2, Vec::new()), "no connection to spare, or too small");
    // A registry that knows no ranges, or not their ends.
    for fault in [Fault::NoRange, Fault::NoEnd] {
        let before = fake.seen().len();
        fake.fault(Method::GET, "blobs", 1, fault);
        let mut stream = repository.blob(&large, Resume::default()).unwrap().in_parts(parts(2));
        assert_eq!(read(&mut stream).await.unwrap(), bytes);
        assert_eq!((stream.received(), fake.seen().len()), (420_000, before + 1));
    }
}

#[tokio::test]
async fn parts_that_break_cost_what_was_under_way() {
    let fake = Fake::start().await;
    let bytes = content(420_000);
    let blob = fake.blob(bytes.clone());
    let repository = repository(&fake, "a").await;
    for fault in [Fault::Cut(20_000), Fault::Stall(20_000), Fault::Drop, Fault::NoRange] {
        for after in 0..4 {
            // Some right answers before, so that the fault hits the first connection or another.
            fake.fault(Method::GET, "blobs", after, Fault::None);
            fake.fault(Method::GET, "blobs", 1, fault.clone());
            let mut stream = repository.blob(&blob, Resume::default()).unwrap().in_parts(parts(2));
            assert_eq!(read(&mut stream).await.unwrap(), bytes);
            assert_eq!(stream.received(), 420_000, "nothing came twice");
        }
    }
    // When nothing else comes, it ends with an error; what is wrong is noticed.
    fake.fault(Method::GET, "blobs", 1, Fault::None);
    fake.fault(Method::GET, "blobs", 1, Fault::Garble);
    let mut stream = repository.blob(&blob, Resume::default()).unwrap().in_parts(parts(2));
    let error = read(&mut stream).await.unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
}

#[tokio::test]
async fn a_registry_without_ranges_sends_again_and_nothing_is_doubled() {
    let fake = Fake::start().await;
    let bytes = content(200_000);
    let blob = fake.blob(bytes.clone());
    fake.fault(Method::GET, "blobs", 1, Fault::Cut(70_000));
    fake.fault(Method::GET, "blobs", 1, Fault::NoRange);
    let mut stream = repository(&fake, "a").await.blob(&blob, Resume::default()).unwrap();
    assert_eq!(read(&mut stream).await.unwrap(), bytes);
    assert_eq!(stream.received(), 270_000);
}

#[tokio::test]
async fn a_download_goes_on_where_an_earlier_one_ended() {
    let fake = Fake::start().await;
    let bytes = content(200_000);
    let blob = fake.blob(bytes.clone());
    let repository = repository(&fake, "a").await;
    for there in [1, 150_000, 200_000] {
        let mut hasher = Hasher::new();
        hasher.update(&bytes[..there]);
        let mut stream = repository.blob(&blob, Resume { offset: there as u64, hasher }).unwrap();
        assert_eq!(read(&mut stream).await.unwrap(), bytes[there..]);
        assert_eq!(stream.received(), 200_000 - there as u64);
    }
    assert_eq!(fake.seen().len(), 2, "what is there whole is not asked for");
    let beyond = Resume { offset: 200_001, hasher: Hasher::new() };
    assert!(repository.blob(&blob, beyond).is_err());
}

#[tokio::test]
async fn wrong_content_is_refused() {
    let fake = Fake::start().await;
    let bytes = content(50_000);
    let mut blob = fake.blob(bytes.clone());
    let repository = repository(&fake, "a").await;
    fake.fault(Method::GET, "blobs", 1, Fault::Garble);
    let error = read(&mut repository.blob(&blob, Resume::default()).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("has digest"), "{error}");
    assert_eq!(error.class(), Class::FailedPrecondition);
    // Shorter and longer than announced.
    for size in [49_999, 50_001] {
        blob.size = size;
        let error = read(&mut repository.blob(&blob, Resume::default()).unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(&format!("it has 50000 bytes, expected {size}")), "{error}");
    }
    // Without a length in the answer.
    let endless = Fault::Answer(206, vec![("transfer-encoding", "chunked".to_owned())], "x".repeat(60_000));
    blob.size = 50_000;
    fake.fault(Method::GET, "blobs", 1, endless);
    let error = read(&mut repository.blob(&blob, Resume::default()).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("more than its 50000 bytes"), "{error}");
}

#[tokio::test]
async fn a_line_that_breaks_all_the_time_ends() {
    let fake = Fake::start().await;
    let blob = fake.blob(content(100_000));
    fake.fault(Method::GET, "blobs", 1000, Fault::Cut(10));
    let error =
        read(&mut repository(&fake, "a").await.blob(&blob, Resume::default()).unwrap()).await.unwrap_err();
    assert_eq!((error.class(), fake.seen().len()), (Class::Unavailable, 4));
}

#[tokio::test]
async fn a_missing_blob_is_not_found() {
    let fake = Fake::start().await;
    let blob = yare_oci::Descriptor::new("", Digest::of("x"), 1);
    let repository = repository(&fake, "a").await;
    let error = read(&mut repository.blob(&blob, Resume::default()).unwrap()).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(error.to_string().contains("BLOB_UNKNOWN"), "{error}");
    assert_eq!(repository.blob_size(&blob.digest).await.unwrap(), None);
}

#[tokio::test]
async fn blobs_may_lie_at_another_host_that_sees_no_credentials() {
    let (fake, store) = (Fake::start().await, Fake::start().await);
    let bytes = content(10_000);
    let blob = fake.blob(bytes.clone());
    store.blob(bytes.clone());
    fake.guard("Basic dTpw", "Basic realm=x");
    let elsewhere = store.url(&format!("/v2/x/blobs/{}?X-Signature=secret", blob.digest));
    let lead = Fault::Answer(307, vec![("location", elsewhere)], String::new());
    // The first is without proof and gets the challenge.
    let repository = open(settings(), &fake.name("a"), &Credentials::basic("u", "p")).await;
    assert_eq!(repository.blob_size(&blob.digest).await.unwrap(), Some(10_000));
    fake.fault(Method::GET, "blobs", 9, lead);
    store.fault(Method::GET, "blobs", 1, Fault::Cut(5000));
    let mut stream = repository.blob(&blob, Resume::default()).unwrap();
    assert_eq!(read(&mut stream).await.unwrap(), bytes);
    assert_eq!(stream.received(), 10_000);
    assert!(fake.seen().iter().any(|seen| seen.header("authorization").is_some()));
    assert!(store.seen().iter().all(|seen| seen.header("authorization").is_none()));
    // A refusal there does not show the signature, and asks for no login.
    store.answer(Method::GET, "blobs", 9, 401, "");
    let error = read(&mut repository.blob(&blob, Resume::default()).unwrap()).await.unwrap_err();
    assert!(!chain(&error).contains("secret"), "{error}");
}

#[tokio::test]
async fn leading_on_has_an_end_and_stays_outside() {
    let fake = Fake::start().await;
    let blob = fake.blob(content(10));
    let repository = repository(&fake, "a").await;
    let lead = |to: &str| Fault::Answer(302, vec![("location", to.to_owned())], String::new());
    let digest = blob.digest.to_string();
    for (to, why) in [
        (format!("/v2/a/blobs/{digest}"), "leads on more than 5 times"),
        ("http://169.254.169.254/latest/meta-data".to_owned(), "further inside"),
        ("ftp://x".to_owned(), "404"),
        ("http://user:pw@127.0.0.1/".to_owned(), "no address"),
    ] {
        let fake_again = fake.clone();
        fake_again.fault(Method::GET, &digest, if to.starts_with("/v2") { 6 } else { 1 }, lead(&to));
        let error = read(&mut repository.blob(&blob, Resume::default()).unwrap()).await.unwrap_err();
        assert!(chain(&error).contains(why), "{to}: {}", chain(&error));
    }
}
