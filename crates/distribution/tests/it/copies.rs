use crate::fake::Fake;
use crate::repository;
use http::Method;
use yare_distribution::Name;
use yare_oci::MediaType;

#[tokio::test]
async fn an_index_goes_over_with_all_that_it_names() {
    let (one, two) = (Fake::start().await, Fake::start().await);
    let mut entries = Vec::new();
    for platform in ["amd64", "arm64"] {
        let (config, layer) = (one.blob(format!("config {platform}")), one.blob(vec![7; 90_000]));
        let describe = |blob: &yare_oci::Descriptor| serde_json::to_string(blob).unwrap();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            MediaType::OCI_MANIFEST,
            describe(&config),
            describe(&layer)
        );
        let digest = one.manifest(platform, MediaType::OCI_MANIFEST, &manifest);
        entries
            .push(format!(r#"{{"mediaType":"{}","digest":"{digest}","size":1}}"#, MediaType::OCI_MANIFEST));
    }
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
        MediaType::OCI_INDEX,
        entries.join(",")
    );
    let digest = one.manifest("latest", MediaType::OCI_INDEX, &index);
    let (from, to) = (repository(&one, "a").await, repository(&two, "b").await);
    let name = |tag: &str| Name::Tag(tag.to_owned());
    let copied = from.copy_to(&name("latest"), &to, &name("v2")).await.unwrap();
    assert_eq!((copied.digest, copied.sent, copied.spared), (digest, 3, 1));
    assert_eq!(to.resolve(&name("v2")).await.unwrap().digest, digest);
    // The index is last: until then the name does not exist.
    let puts: Vec<_> =
        two.lines().into_iter().filter(|line| line.starts_with("PUT /v2/b/manifests")).collect();
    assert!(puts.len() == 3 && puts[2].ends_with("/v2"), "{puts:?}");
    let copied = from.copy_to(&name("latest"), &to, &name("v3")).await.unwrap();
    assert_eq!((copied.sent, copied.spared), (0, 4));
}

#[tokio::test]
async fn wrong_content_does_not_arrive() {
    let (one, two) = (Fake::start().await, Fake::start().await);
    let (config, layer) = (one.blob("config"), one.blob(vec![7; 90_000]));
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer] }).to_string();
    one.manifest("latest", MediaType::OCI_MANIFEST, &manifest);
    one.fault(Method::GET, "blobs", 99, crate::fake::Fault::Garble);
    let (from, to) = (repository(&one, "a").await, repository(&two, "b").await);
    let name = Name::Tag("latest".to_owned());
    assert!(from.copy_to(&name, &to, &name).await.is_err());
    assert!(two.stored(&layer.digest).is_none() && to.resolve(&name).await.is_err());
}

/// An index of indexes that names the same over and over is not followed until memory is full.
#[tokio::test]
async fn a_bomb_of_indexes_is_not_followed() {
    let (one, two) = (Fake::start().await, Fake::start().await);
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": one.blob("config"), "layers": [] });
    let mut inner = one.manifest("inner", MediaType::OCI_MANIFEST, &manifest.to_string());
    let mut kind = MediaType::OCI_MANIFEST;
    for level in ["low", "middle", "latest"] {
        let entry = serde_json::json!({ "mediaType": kind, "digest": inner, "size": 1 });
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX,
            "manifests": vec![entry; 900] });
        inner = one.manifest(level, MediaType::OCI_INDEX, &index.to_string());
        kind = MediaType::OCI_INDEX;
    }
    let (from, to) = (repository(&one, "a").await, repository(&two, "b").await);
    let error = from.copy_to(&Name::Tag("latest".into()), &to, &Name::Tag("v".into())).await.unwrap_err();
    assert!(error.to_string().contains("bytes of them"), "{error}");
    assert!(one.seen().len() < 11_000, "{}", one.seen().len());
}
