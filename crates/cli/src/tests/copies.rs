//! `image copy` between registries of ours.

use futures_util::stream;
use serde_json::json;
use yare_distribution::{Blob, Client, Content, Credentials, Document, Intent, Repository, Settings};
use yare_oci::{ContentDigest, Descriptor, MediaType, Reference};

use super::artifacts::{Served, User};

fn sha512(bytes: &[u8]) -> ContentDigest {
    let any: ContentDigest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
    any.same_of(bytes)
}

fn blob(bytes: &[u8]) -> Blob {
    Blob { name: sha512(bytes), size: bytes.len() as u64 }
}

async fn repository(name: &str) -> Repository {
    let reference = Reference::parse(name).unwrap();
    let client = Client::new(Settings::default());
    client.repository(&reference, &Credentials::Anonymous, Intent::Push).await.unwrap()
}

/// Pushes an image whose parts, and which itself, are named by SHA-512.
async fn push(name: &str, tag: &str) {
    let repository = repository(name).await;
    for bytes in [b"{}".as_slice(), b"layer"] {
        let open = |offset: u64| -> Content {
            let rest = bytes[offset as usize..].to_vec();
            Box::pin(stream::iter([Ok(rest.into())]))
        };
        repository.upload(blob(bytes), &open).await.unwrap();
    }
    let part =
        |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": sha512(bytes), "size": bytes.len() });
    let manifest = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": part(MediaType::OCI_CONFIG, b"{}"), "layers": [part(MediaType::OCI_LAYER, b"layer")] });
    let bytes = manifest.to_string().into_bytes();
    let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &bytes);
    let document = Document { descriptor, name: sha512(&bytes), bytes: bytes.into() };
    repository.put_called(tag, &document).await.unwrap();
}

#[test]
fn what_is_named_by_sha512_is_copied_by_that_name() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Served::new(&folder.path().join("one")), Served::new(&folder.path().join("two")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let source = format!("{}/team/app", one.address);
    runtime.block_on(push(&source, "v1"));
    let user = User::new();
    for (target, sent) in [(&two, 2), (&one, 0)] {
        let name = format!("{}/other/copy", target.address);
        let told = user.run(&format!("image copy {source}:v1 {name}:v2")).unwrap();
        assert!(told.contains(&format!("{name}:v2: {sent} blobs sent, {} were there", 2 - sent)), "{told}");
        let copy = runtime.block_on(repository(&name));
        assert_eq!(runtime.block_on(copy.blob_size(sha512(b"layer"))).unwrap(), Some(5));
    }
}
