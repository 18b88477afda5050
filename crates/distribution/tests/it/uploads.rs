use crate::fake::{Fake, Fault, settings};
use crate::repository;
use bytes::Bytes;
use http::Method;
use std::io;
use yare_distribution::{Content, Name, Pushed};
use yare_errdefs::{Class, Classified, chain};
use yare_oci::{Descriptor, MediaType};

/// Opens these bytes at any offset.
fn opened(bytes: &Bytes) -> impl Fn(u64) -> Content + Send + Sync + '_ {
    move |offset| {
        let rest = bytes.slice(offset as usize..);
        let pieces: Vec<io::Result<Bytes>> =
            rest.chunks(64 * 1024).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Box::pin(futures_util::stream::iter(pieces))
    }
}

fn content(length: usize) -> (Bytes, Descriptor) {
    let bytes: Bytes = (0..length).map(|at| (at * 7 + at / 253) as u8).collect::<Vec<u8>>().into();
    let descriptor = Descriptor::of(MediaType::OCI_LAYER_GZIP, &bytes);
    (bytes, descriptor)
}

#[tokio::test]
async fn a_blob_is_sent_once() {
    let fake = Fake::start().await;
    let repository = repository(&fake, "a/b").await;
    let (bytes, blob) = content(200_000);
    assert_eq!(repository.push_blob(&blob, &[], &opened(&bytes)).await.unwrap(), Pushed::Uploaded);
    assert_eq!(fake.stored(&blob.digest).unwrap(), bytes);
    assert_eq!(repository.push_blob(&blob, &[], &opened(&bytes)).await.unwrap(), Pushed::Present);
    let methods: Vec<_> = fake.seen().iter().map(|seen| seen.method.to_string()).collect();
    assert_eq!(methods, ["HEAD", "POST", "PUT", "HEAD"]);
    let digest =
        repository.put_manifest(&Name::Tag("v1".into()), MediaType::OCI_MANIFEST, b"{}").await.unwrap();
    let put = fake.seen().pop().unwrap();
    assert_eq!(
        (put.line(), put.header("content-type")),
        ("PUT /v2/a/b/manifests/v1".into(), Some(MediaType::OCI_MANIFEST))
    );
    assert_eq!(digest, yare_oci::Digest::of("{}"));
}

#[tokio::test]
async fn a_blob_of_a_neighbour_is_borrowed() {
    let fake = Fake::start().await;
    let (bytes, blob) = content(10);
    fake.answer(Method::HEAD, "blobs", 1, 404, "");
    fake.blob(bytes.clone());
    let repository = repository(&fake, "a").await;
    let neighbours = ["a".to_owned(), "base/image".to_owned()];
    assert_eq!(repository.push_blob(&blob, &neighbours, &opened(&bytes)).await.unwrap(), Pushed::Mounted);
    let lines = fake.lines();
    assert_eq!(lines[1], format!("POST /v2/a/blobs/uploads/?mount={}&from=base%2Fimage", blob.digest));
    // A registry that does not lend opens an upload, which is given back.
    let (bytes, blob) = content(20);
    assert_eq!(repository.push_blob(&blob, &neighbours, &opened(&bytes)).await.unwrap(), Pushed::Uploaded);
    assert!(fake.lines().iter().any(|line| line.starts_with("DELETE ")));
}

#[tokio::test]
async fn a_registry_that_takes_no_whole_gets_pieces() {
    let fake = Fake::start().await;
    let (bytes, blob) = content((16 << 20) + 5000);
    fake.answer(Method::PUT, "blobs", 1, 413, "");
    // The second piece breaks once: what is there stays there.
    fake.answer(Method::PATCH, "_state=y", 1, 502, "");
    repository(&fake, "a").await.upload(&blob, &opened(&bytes)).await.unwrap();
    assert_eq!(fake.stored(&blob.digest).unwrap(), bytes);
    let patched: usize =
        fake.seen().iter().filter(|seen| seen.method == Method::PATCH).map(|seen| seen.body.len()).sum();
    assert_eq!(patched, bytes.len() + 5000);
}

#[tokio::test]
async fn an_upload_that_breaks_is_begun_again() {
    let fake = Fake::start().await;
    let (bytes, blob) = content(100_000);
    fake.fault(Method::PUT, "blobs", 2, Fault::Drop);
    repository(&fake, "a").await.upload(&blob, &opened(&bytes)).await.unwrap();
    assert_eq!(fake.stored(&blob.digest).unwrap(), bytes);
}

#[tokio::test]
async fn refusals_and_bad_sources_end_it() {
    let fake = Fake::start().await;
    let repository = repository(&fake, "a").await;
    let (bytes, blob) = content(1000);
    let other = Descriptor { digest: yare_oci::Digest::of("other"), ..blob.clone() };
    let error = repository.upload(&other, &opened(&bytes)).await.unwrap_err();
    assert_eq!(error.class(), Class::InvalidArgument);
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
    fake.answer(Method::POST, "uploads", 1, 403, r#"{"errors":[{"code":"DENIED","message":"read only"}]}"#);
    let error = repository.upload(&blob, &opened(&bytes)).await.unwrap_err();
    assert_eq!(error.class(), Class::PermissionDenied);
    let longer = Descriptor { size: 2000, ..blob };
    let error = repository.upload(&longer, &opened(&bytes)).await.unwrap_err();
    assert!(chain(&error).contains("1000 bytes are missing"), "{}", chain(&error));
}

#[tokio::test]
async fn a_registry_that_forgets_pieces_is_not_fed_for_ever() {
    let fake = Fake::start().await;
    let (bytes, blob) = content(3000);
    fake.answer(Method::PUT, "blobs", 1, 413, "");
    let nothing = vec![("range", "0-0".to_owned())];
    fake.fault(Method::PATCH, "blobs", 1000, Fault::Answer(202, nothing, String::new()));
    let error = repository(&fake, "a").await.upload(&blob, &opened(&bytes)).await.unwrap_err();
    assert!(error.to_string().contains("does not keep the pieces"), "{error}");
    assert!(fake.seen().len() < 20);
}

/// Whoever may not read the neighbour sends the blob, as one who has none.
#[tokio::test]
async fn a_neighbour_that_may_not_be_read_costs_nothing() {
    for status in [400, 401, 403, 500] {
        let fake = Fake::start().await;
        let (bytes, blob) = content(3000);
        fake.answer(
            Method::POST,
            "mount=",
            9,
            status,
            r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#,
        );
        let neighbours = ["base/image".to_owned()];
        let repository = repository(&fake, "a").await;
        assert_eq!(
            repository.push_blob(&blob, &neighbours, &opened(&bytes)).await.unwrap(),
            Pushed::Uploaded
        );
        assert_eq!(fake.stored(&blob.digest).unwrap(), bytes);
    }
}

/// The registry still has the connection that broke, or got more of the piece than was known.
#[tokio::test]
async fn an_upload_goes_on_after_refusals_about_its_offset() {
    for status in [409, 416] {
        let fake = Fake::start().await;
        let (bytes, blob) = content((16 << 20) + 5000);
        fake.answer(Method::PUT, "blobs", 1, 413, "");
        fake.answer(Method::PATCH, "_state=y", 2, status, "");
        repository(&fake, "a").await.upload(&blob, &opened(&bytes)).await.unwrap();
        assert_eq!(fake.stored(&blob.digest).unwrap(), bytes);
        // For ever it does not.
        fake.answer(Method::PUT, "blobs", 1, 413, "");
        fake.answer(Method::PATCH, "_state", 99, status, "");
        let error = repository(&fake, "a").await.upload(&blob, &opened(&bytes)).await.unwrap_err();
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
}

/// A registry that puts a blob together takes its time; it is not sent again for that.
#[tokio::test]
async fn a_commit_may_take_longer_than_a_peer_may_be_silent() {
    let fake = Fake::start().await;
    let (bytes, blob) = content(3000);
    fake.fault(Method::PUT, "blobs", 1, Fault::Late(2 * settings().patience.idle));
    repository(&fake, "a").await.upload(&blob, &opened(&bytes)).await.unwrap();
    let puts = fake.seen().iter().filter(|seen| seen.method == Method::PUT).count();
    assert_eq!(puts, 1, "it was sent again");
}
