use crate::fake::{Fake, Fault, settings};
use crate::repository;
use http::Method;
use yare_distribution::{Client, Credentials};
use yare_oci::{ContentDigest, Digest, MediaType};

fn page(body: &str, next: Option<&str>) -> Fault {
    let link = next.map(|next| ("link", format!("<{next}>; rel=\"next\"")));
    Fault::Answer(200, link.into_iter().collect(), body.to_owned())
}

#[tokio::test]
async fn lists_are_followed_to_their_end() {
    let fake = Fake::start().await;
    fake.fault(
        Method::GET,
        "/v2/a/tags/list?n=",
        1,
        page(r#"{"tags":["a","b"]}"#, Some("/v2/a/tags/list?last=b")),
    );
    fake.fault(Method::GET, "/v2/a/tags/list?last=b", 1, page(r#"{"tags":["b","c"]}"#, None));
    assert_eq!(repository(&fake, "a").await.tags().await.unwrap(), ["a", "b", "c"]);
    fake.fault(Method::GET, "/v2/b/tags", 1, page(r#"{"name":"b","tags":null}"#, None));
    assert!(repository(&fake, "b").await.tags().await.unwrap().is_empty());
    fake.fault(Method::GET, "/v2/_catalog", 2, page(r#"{"repositories":["x/y","z"]}"#, None));
    let client = Client::new(settings());
    let all = client.catalog(&fake.authority(), &Credentials::Anonymous).await.unwrap();
    assert_eq!(all, ["x/y", "z"]);
    let hits = client.search(&fake.authority(), "x", 10, &Credentials::Anonymous).await.unwrap();
    assert_eq!(hits.iter().map(|hit| hit.name.as_str()).collect::<Vec<_>>(), ["x/y"]);
}

#[tokio::test]
async fn circles_and_other_hosts_are_not_followed() {
    let fake = Fake::start().await;
    fake.fault(Method::GET, "/v2/a/tags", 9, page(r#"{"tags":["a"]}"#, Some("/v2/a/tags/list?last=a")));
    let error = repository(&fake, "a").await.tags().await.unwrap_err();
    assert!(error.to_string().contains("in circles"), "{error}");
    fake.fault(Method::GET, "/v2/b/tags", 9, page(r#"{"tags":["a"]}"#, Some("http://elsewhere.invalid/x")));
    assert_eq!(repository(&fake, "b").await.tags().await.unwrap(), ["a"]);
}

/// A registry that names more referrers than anybody needs, page after page.
#[tokio::test]
async fn a_list_of_referrers_has_a_largest_length() {
    let fake = Fake::start().await;
    let subject = Digest::of("image");
    let entry =
        format!(r#"{{"mediaType":"{}","digest":"{}","size":1}}"#, MediaType::OCI_MANIFEST, Digest::of("x"));
    let entries = vec![entry; 10_000].join(",");
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
    for number in 0..8 {
        let next = format!("/v2/a/referrers/{subject}?last={number}");
        fake.fault(Method::GET, "referrers", 1, page(&index, Some(&next)));
    }
    let error = repository(&fake, "a").await.referrers(&subject, None).await.unwrap_err();
    assert!(error.to_string().contains("has no end"), "{error}");
    assert_eq!(fake.seen().len(), 6, "50,000 entries are enough");
}

#[tokio::test]
async fn referrers_come_from_the_api_or_from_the_tag() {
    let fake = Fake::start().await;
    let subject = Digest::of("image");
    let entry = |kind: &str| {
        format!(
            r#"{{"mediaType":"{}","digest":"{}","size":1,"artifactType":"{kind}"}}"#,
            MediaType::OCI_MANIFEST,
            Digest::of(kind)
        )
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{},{}]}}"#,
        MediaType::OCI_INDEX,
        entry("sig"),
        entry("sbom")
    );
    let repository = repository(&fake, "a").await;
    assert!(repository.referrers(&subject, None).await.unwrap().is_empty());
    fake.manifest(&format!("sha256-{}", subject.hex()), MediaType::OCI_INDEX, &index);
    let found = repository.referrers(&subject, Some("sig")).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].digest, Digest::of("sig"));
    fake.fault(Method::GET, "referrers", 1, page(&index, None));
    assert_eq!(repository.referrers(&subject, None).await.unwrap().len(), 2);
    fake.fault(Method::GET, "referrers/sha256", 1, page(&index, Some("/v2/a/referrers/next?last=x")));
    fake.fault(Method::GET, "referrers/next", 1, page(&index.replace("sig", "att"), None));
    assert_eq!(repository.referrers(&subject, None).await.unwrap().len(), 4);
    // What is named by SHA-512 has a tag of as many digits.
    let long: ContentDigest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
    fake.manifest(
        &format!("sha512-{}", "ab".repeat(32)),
        MediaType::OCI_INDEX,
        &index.replace("sha256", "sha512"),
    );
    assert!(
        repository.referrers(long, None).await.is_err(),
        "digests of one algorithm with digits of another"
    );
    let named = index.replace(&Digest::of("sig").to_string(), &long.to_string());
    fake.manifest(&format!("sha512-{}", "ab".repeat(32)), MediaType::OCI_INDEX, &named);
    assert_eq!(repository.referrers(long, None).await.unwrap()[0].digest, long);
}
