use crate::fake::{Fake, Fault, settings};
use crate::{open, repository};
use http::Method;
use std::time::{Duration, Instant};
use yare_distribution::{Credentials, Document, Name};
use yare_errdefs::{Class, Classified, chain};
use yare_oci::{ContentDigest, Digest, MediaType};

const IMAGE: &str = r#"{"schemaVersion":2,"config":{"digest":"sha256:aa","size":1},"layers":[]}"#;

fn latest() -> Name {
    Name::Tag("latest".to_owned())
}

#[tokio::test]
async fn a_tag_is_resolved_and_fetched() {
    let fake = Fake::start().await;
    let digest = fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let repository = repository(&fake, "a/b").await;
    let resolved = repository.resolve(&latest()).await.unwrap();
    assert_eq!((resolved.digest, resolved.size), (digest, IMAGE.len() as u64));
    assert_eq!(resolved.media_type, MediaType::OCI_MANIFEST);
    let document = repository.manifest(&Name::from(digest)).await.unwrap();
    assert_eq!((document.descriptor, &document.bytes[..]), (resolved, IMAGE.as_bytes()));
    assert_eq!(
        fake.lines(),
        ["HEAD /v2/a/b/manifests/latest".to_owned(), format!("GET /v2/a/b/manifests/{digest}")]
    );
    let accepted = fake.seen()[0].header("accept").unwrap().to_owned();
    assert!(accepted.contains(MediaType::OCI_INDEX) && accepted.contains(MediaType::DOCKER_LIST));
}

#[tokio::test]
async fn a_missing_tag_is_not_found_with_the_registrys_words() {
    let fake = Fake::start().await;
    let error = repository(&fake, "a/b").await.resolve(&latest()).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    let text = chain(&error);
    assert!(text.contains("404 Not Found: MANIFEST_UNKNOWN: manifest unknown"), "{text}");
    assert!(text.contains(&fake.name("a/b")), "{text}");
    assert_eq!(error.told()[0].code, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_registry_without_head_is_asked_for_the_whole() {
    let fake = Fake::start().await;
    let digest = fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    fake.answer(Method::HEAD, "manifests", 1, 405, "");
    assert_eq!(repository(&fake, "a").await.resolve(&latest()).await.unwrap().digest, digest);
}

/// The SHA-512 digest of these bytes.
fn sha512(bytes: &str) -> ContentDigest {
    ContentDigest::Sha512([0; 64]).same_of(bytes.as_bytes())
}

#[tokio::test]
async fn other_algorithms_are_checked_alike() {
    let fake = Fake::start().await;
    let repository = repository(&fake, "a").await;
    let kind = ("content-type", MediaType::OCI_MANIFEST.to_owned());
    let answer = |headers| Fault::Answer(200, headers, IMAGE.to_owned());
    let named = |bytes: &str| ("docker-content-digest", sha512(bytes).to_string());
    for (name, headers, is_right) in [
        (Name::Digest(sha512(IMAGE)), vec![kind.clone()], true),
        (Name::Digest(sha512("{}")), vec![kind.clone()], false),
        (latest(), vec![kind.clone(), named(IMAGE)], true),
        (latest(), vec![kind.clone(), named("{}")], false),
    ] {
        fake.fault(Method::GET, "manifests", 1, answer(headers));
        match repository.manifest(&name).await {
            Ok(document) => assert_eq!((document.descriptor.digest, is_right), (Digest::of(IMAGE), true)),
            Err(error) => {
                assert!(!is_right && error.to_string().contains("has digest sha512:"), "{name}: {error}");
            }
        }
    }
    // What the head of an answer cannot say comes with the whole.
    fake.fault(Method::HEAD, "manifests", 1, answer(vec![kind.clone(), named(IMAGE)]));
    fake.fault(Method::GET, "manifests", 1, answer(vec![kind, named(IMAGE)]));
    assert_eq!(repository.resolve(&latest()).await.unwrap().digest, Digest::of(IMAGE));
}

#[tokio::test]
async fn wrong_documents_are_refused() {
    let fake = Fake::start().await;
    fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let other = fake.manifest("other", MediaType::OCI_MANIFEST, "{}");
    let repository = repository(&fake, "a").await;
    let kind = ("content-type", MediaType::OCI_MANIFEST.to_owned());
    let lie = ("docker-content-digest", other.to_string());
    fake.fault(
        Method::GET,
        "manifests/latest",
        1,
        Fault::Answer(200, vec![kind.clone(), lie], IMAGE.to_owned()),
    );
    let error = repository.manifest(&latest()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("expected {other}")), "{error}");
    assert_eq!(error.class(), Class::FailedPrecondition);

    fake.fault(Method::GET, "manifests/sha256", 1, Fault::Answer(200, vec![kind.clone()], "{}".to_owned()));
    let error = repository.manifest(&Name::from(Digest::of(IMAGE))).await.unwrap_err();
    assert!(error.to_string().contains("has digest"), "{error}");

    let huge = "x".repeat(yare_distribution::LARGEST_MANIFEST + 1);
    fake.fault(Method::GET, "manifests/latest", 1, Fault::Answer(200, vec![kind], huge));
    let error = repository.manifest(&latest()).await.unwrap_err();
    assert!(error.to_string().contains("more than the 8388608"), "{error}");
}

#[tokio::test]
async fn failures_that_pass_are_tried_again_and_others_are_not() {
    let fake = Fake::start().await;
    let digest = fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let repository = repository(&fake, "a").await;
    fake.answer(Method::GET, "manifests", 2, 503, "");
    fake.fault(Method::GET, "manifests", 1, Fault::Drop);
    assert_eq!(repository.manifest(&latest()).await.unwrap().descriptor.digest, digest);
    assert_eq!(fake.seen().len(), 4);
    fake.answer(Method::GET, "manifests", 9, 403, r#"{"errors":[{"code":"DENIED","message":"go away"}]}"#);
    let error = repository.manifest(&latest()).await.unwrap_err();
    assert_eq!((error.class(), fake.seen().len()), (Class::PermissionDenied, 5));
    assert!(error.to_string().contains("DENIED: go away"), "{error}");
}

#[tokio::test]
async fn retry_after_is_honoured_and_a_long_one_ends_it() {
    let fake = Fake::start().await;
    fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    let repository = repository(&fake, "a").await;
    let wait = |seconds: &str| Fault::Answer(429, vec![("retry-after", seconds.to_owned())], String::new());
    fake.fault(Method::GET, "manifests", 1, wait("1"));
    let started = Instant::now();
    repository.manifest(&latest()).await.unwrap();
    assert!(started.elapsed().as_millis() >= 1000);
    // Not even as long as the longest pause.
    let mut patient = settings();
    patient.patience.longest_pause = Duration::from_secs(60);
    let repository = open(patient, &fake.name("a"), &Credentials::Anonymous).await;
    fake.fault(Method::GET, "manifests", 1, wait("3600"));
    let started = Instant::now();
    let error = repository.manifest(&latest()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.hint().unwrap().contains("limits the rate"));
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("127.0.0.1:{}/a", listener.local_addr().unwrap().port());
    drop(listener);
    let repository = open(settings(), &name, &Credentials::Anonymous).await;
    let error = repository.manifest(&latest()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    let text = chain(&error);
    assert!(text.contains("cannot connect to 127.0.0.1:") && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn silence_ends() {
    let fake = Fake::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("127.0.0.1:{}/a", listener.local_addr().unwrap().port());
    let mut impatient = settings();
    impatient.patience.attempts = 1;
    impatient.patience.connect = std::time::Duration::from_millis(300);
    let repository = open(impatient, &name, &Credentials::Anonymous).await;
    let error = repository.manifest(&latest()).await.unwrap_err();
    assert!(
        chain(&error).contains("no connection within") || chain(&error).contains("no answer"),
        "{}",
        chain(&error)
    );
    drop(fake);
}

/// A registry calls a tag as it was told, if it can be told; another one gets the name and the tag one by one.
#[tokio::test]
async fn a_second_name_and_a_tag_are_given_at_once_where_that_can_be_done() {
    let fake = Fake::start().await;
    let long: ContentDigest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
    let name = long.same_of(IMAGE.as_bytes());
    let descriptor = yare_oci::Descriptor::of(MediaType::OCI_MANIFEST, IMAGE.as_bytes());
    let document = Document { descriptor, name, bytes: IMAGE.into() };
    let repository = repository(&fake, "a").await;
    let named = [("docker-content-digest", name.to_string()), ("oci-tag", "v1".to_owned())];
    fake.fault(Method::PUT, "manifests/sha512", 1, Fault::Answer(201, named.into(), String::new()));
    repository.put_called("v1", &document).await.unwrap();
    assert_eq!(fake.lines(), [format!("PUT /v2/a/manifests/{name}?tag=v1")]);
    assert!(!fake.has_manifest("v1"));

    repository.put_called("v1", &document).await.unwrap();
    assert_eq!(fake.lines()[2], "PUT /v2/a/manifests/v1");
    let called = async |name| repository.called(&name).await.unwrap();
    assert_eq!(called(Name::Tag("v1".into())).await.unwrap(), Digest::of(IMAGE));
    assert_eq!(called(Name::Digest(name)).await, Some(name), "by its bytes, whatever the registry calls it");
    assert_eq!(called(Name::Tag("v2".into())).await, None);
    assert_eq!(called(Name::Digest(long)).await, None);
}
