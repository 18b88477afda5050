use crate::fake::{Fake, Fault, settings};
use crate::open;
use http::Method;
use std::time::Duration;
use yare_distribution::{Client, Credentials, Name, Resume, Secret};
use yare_errdefs::{Class, Classified, chain};
use yare_oci::MediaType;

const IMAGE: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;

fn latest() -> Name {
    Name::Tag("latest".to_owned())
}

fn bearer(realm: &str) -> String {
    format!(r#"Bearer realm="{realm}",service="fake",scope="repository:a/b:pull""#)
}

fn token(text: &str) -> Fault {
    Fault::Answer(200, Vec::new(), text.to_owned())
}

/// A registry that wants `Bearer good`, and its token server.
async fn guarded() -> (Fake, Fake) {
    let (fake, server) = (Fake::start().await, Fake::start().await);
    fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    fake.guard("Bearer good", &bearer(&server.url("/token?x=1")));
    (fake, server)
}

#[tokio::test]
async fn basic_is_sent_when_asked_for() {
    let fake = Fake::start().await;
    fake.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
    fake.guard("Basic dXNlcjpwYXNz", "Basic realm=\"r\"");
    let repository = open(settings(), &fake.name("a/b"), &Credentials::basic("user", "pass")).await;
    repository.manifest(&latest()).await.unwrap();
    repository.manifest(&latest()).await.unwrap();
    let shown: Vec<_> = fake.seen().iter().map(|seen| seen.header("authorization").is_some()).collect();
    assert_eq!(shown, [false, true, true]);
    for credentials in [Credentials::Anonymous, Credentials::basic("user", "wrong-password")] {
        let repository = open(settings(), &fake.name("a/b"), &credentials).await;
        let error = repository.manifest(&latest()).await.unwrap_err();
        assert_eq!(error.class(), Class::Unauthenticated);
        assert!(!chain(&error).contains("wrong-password"));
        assert!(error.hint().unwrap().contains("yare login"));
    }
}

#[tokio::test]
async fn a_token_is_fetched_once_for_all() {
    let (fake, server) = guarded().await;
    server.fault(Method::GET, "/token", 9, token(r#"{"access_token":"good","expires_in":300}"#));
    let repository = open(settings(), &fake.name("a/b"), &Credentials::basic("user", "pass")).await;
    let name = latest();
    let all = futures_util::future::join_all((0..8).map(|_| repository.manifest(&name))).await;
    assert!(all.iter().all(Result::is_ok));
    repository.manifest(&latest()).await.unwrap();
    let asked = server.seen();
    assert_eq!(asked.len(), 1, "{:?}", server.lines());
    assert_eq!(
        asked[0].target,
        "/token?x=1&service=fake&scope=repository%3Aa%2Fb%3Apull%2Cpush&account=user"
    );
    assert_eq!(asked[0].header("authorization"), Some("Basic dXNlcjpwYXNz"));
}

#[tokio::test]
async fn a_token_that_is_refused_is_fetched_anew() {
    let (fake, server) = guarded().await;
    server.fault(Method::GET, "/token", 1, token(r#"{"token":"stale"}"#));
    server.fault(Method::GET, "/token", 1, token(r#"{"token":"good"}"#));
    let repository = open(settings(), &fake.name("a/b"), &Credentials::Anonymous).await;
    repository.manifest(&latest()).await.unwrap();
    assert!(server.seen().iter().all(|seen| seen.header("authorization").is_none()));
    // A server that gives nothing but wrong ones is not asked for ever.
    let (fake, server) = guarded().await;
    server.fault(Method::GET, "/token", 99, token(r#"{"token":"wrong"}"#));
    let repository = open(settings(), &fake.name("a/b"), &Credentials::Anonymous).await;
    let error = repository.manifest(&latest()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unauthenticated);
    assert!(server.seen().len() <= 3, "{:?}", server.lines());
}

#[tokio::test]
async fn an_identity_token_is_exchanged() {
    let (fake, server) = guarded().await;
    server.fault(Method::POST, "/token", 1, token(r#"{"access_token":"good"}"#));
    let identity = Credentials::Identity(Secret::new("id+1"));
    open(settings(), &fake.name("a/b"), &identity).await.manifest(&latest()).await.unwrap();
    let body = String::from_utf8(server.seen()[0].body.to_vec()).unwrap();
    assert_eq!(
        body,
        "grant_type=refresh_token&refresh_token=id%2B1&service=fake&client_id=yare&scope=repository%3Aa%2Fb%3Apull%2Cpush"
    );
    // A login keeps the identity that it is given.
    server.fault(Method::GET, "/token", 1, token(r#"{"token":"good","refresh_token":"keep"}"#));
    let client = Client::new(settings());
    let login = client.login(&fake.authority(), &Credentials::basic("u", "p")).await.unwrap();
    assert_eq!(login.identity, Some(Secret::new("keep")));
    let asked = server.seen().pop().unwrap().target;
    assert!(asked.contains("offline_token=true") && asked.contains("account=u"), "{asked}");
}

#[tokio::test]
async fn a_token_server_is_not_believed() {
    let cases = [
        ("https://169.254.169.254/token", "further inside"),
        ("http://169.254.169.254/token", "does not use TLS"),
        ("ftp://x/token", "no http address"),
        ("http://u:p@127.0.0.1/token", "no http address"),
        ("http://token.example/t", "does not use TLS"),
        ("", "does not say whose"),
    ];
    for (realm, why) in cases {
        let fake = Fake::start().await;
        fake.guard("Bearer good", &bearer(realm));
        let repository = open(settings(), &fake.name("a/b"), &Credentials::basic("user", "pass")).await;
        let error = repository.manifest(&latest()).await.unwrap_err();
        assert!(chain(&error).contains(why), "{realm}: {}", chain(&error));
    }
    let (fake, server) = guarded().await;
    let other = Fake::start().await;
    let lead = Fault::Answer(307, vec![("location", other.url("/token"))], String::new());
    server.fault(Method::GET, "/token", 9, lead);
    let repository = open(settings(), &fake.name("a/b"), &Credentials::basic("user", "pass")).await;
    let error = repository.manifest(&latest()).await.unwrap_err();
    assert!(chain(&error).contains("leads to another host"), "{}", chain(&error));
    assert!(other.seen().is_empty());
    for answer in ["{}", "", "[]", r#"{"token":""}"#, &"x".repeat(2 << 20)] {
        server.fault(Method::GET, "/token", 0, token(""));
        let (fake, server) = guarded().await;
        server.fault(Method::GET, "/token", 9, token(answer));
        let repository = open(settings(), &fake.name("a/b"), &Credentials::Anonymous).await;
        assert!(repository.manifest(&latest()).await.is_err(), "{answer:.20}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_token_server_is_told() {
    let (fake, server) = guarded().await;
    server.answer(Method::GET, "/token", 9, 401, r#"{"details":"incorrect username or password hunter2"}"#);
    let repository = open(settings(), &fake.name("a/b"), &Credentials::basic("user", "hunter2")).await;
    let error = repository.manifest(&latest()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unauthenticated);
    let text = chain(&error);
    assert!(text.contains("incorrect username or password ***"), "{text}");
}

#[tokio::test]
async fn blobs_get_the_token_and_broken_challenges_end() {
    let (fake, server) = guarded().await;
    server.fault(Method::GET, "/token", 9, token(r#"{"token":"good"}"#));
    let blob = fake.blob("content");
    let repository = open(settings(), &fake.name("a/b"), &Credentials::Anonymous).await;
    let mut stream = repository.blob(&blob, Resume::default()).unwrap();
    assert_eq!(&stream.chunk().await.unwrap().unwrap()[..], b"content");
    assert!(stream.chunk().await.unwrap().is_none());
    for challenge in ["", "Negotiate", "Bearer", "\"\"\"", "Bearer realm"] {
        let fake = Fake::start().await;
        fake.guard("x", challenge);
        let repository = open(settings(), &fake.name("a/b"), &Credentials::basic("u", "p")).await;
        assert!(repository.manifest(&latest()).await.is_err(), "{challenge:?}");
    }
}

/// A token server that gives nothing for the neighbour: what goes on beside that question, and after it, is
/// done with tokens of its own.
#[tokio::test]
async fn a_neighbour_that_is_refused_spoils_no_upload() {
    for late in [0, 200] {
        let (fake, server) = guarded().await;
        // The question is still open when the uploads ask for their token, or it was answered before.
        fake.fault(Method::POST, "mount=", 9, Fault::Late(Duration::from_millis(late)));
        server.answer(Method::GET, "neighbour", 9, 403, r#"{"details":"denied"}"#);
        server.fault(Method::GET, "/token", 9, token(r#"{"access_token":"good","expires_in":300}"#));
        let repository = open(settings(), &fake.name("a/b"), &Credentials::basic("user", "pass")).await;
        let blob = yare_oci::Descriptor::of("x", b"bytes");
        let content = |_| -> yare_distribution::Content {
            Box::pin(futures_util::stream::iter([Ok(bytes::Bytes::from_static(b"bytes"))]))
        };
        let mounts =
            futures_util::future::join_all((0..3).map(|_| repository.mount(&blob.digest, "neighbour")));
        let uploads = futures_util::future::join_all((0..3).map(|_| repository.upload(&blob, &content)));
        let (mounts, uploads) = futures_util::future::join(mounts, uploads).await;
        assert!(mounts.iter().all(|mounted| matches!(mounted, Ok(false))), "{mounts:?}");
        assert!(uploads.iter().all(Result::is_ok), "{uploads:?}");
        repository.upload(&blob, &content).await.unwrap();
        let own = server.lines().iter().filter(|line| !line.contains("neighbour")).count();
        assert_eq!(own, 1, "the uploads share one token: {:?}", server.lines());
    }
}

/// One that is given is asked for once, whatever is borrowed from the neighbour.
#[tokio::test]
async fn all_that_is_borrowed_from_a_neighbour_shares_a_token() {
    let (fake, server) = guarded().await;
    server.fault(Method::GET, "/token", 9, token(r#"{"access_token":"good","expires_in":300}"#));
    let repository = open(settings(), &fake.name("a/b"), &Credentials::basic("user", "pass")).await;
    for content in ["one", "two", "three"] {
        let blob = fake.blob(content);
        assert!(repository.mount(&blob.digest, "neighbour").await.unwrap());
    }
    let scope = "scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Aneighbour%3Apull";
    let lines = server.lines();
    assert!(lines.len() == 1 && lines[0].contains(scope), "{lines:?}");
}
