//! Content with two names: what is pushed under SHA-512 digests is known by SHA-256, too.

use crate::client::{Client, with_digest};
use crate::replication::{digest_of, from, to, wait};
use crate::served::Served;
use crate::suite::Algorithm;
use serde_json::{Value, json};
use yare_oci::{Digest, MediaType};

const NO_GRACE: &str = "[collect]\ngrace = '0'\n";

fn sha512(bytes: &[u8]) -> String {
    Algorithm::Sha512.of(bytes)
}

/// Pushes a blob under its SHA-512 digest.
fn push(client: &Client, repository: &str, bytes: &[u8]) -> String {
    let digest = sha512(bytes);
    client.send("PUT", &with_digest(&client.start(repository), &digest), &[], bytes).expect(201);
    digest
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": sha512(bytes), "size": bytes.len() })
}

/// An image whose parts are named by SHA-512.
fn image(layer: &[u8], more: &Value) -> Vec<u8> {
    let mut manifest = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": descriptor(MediaType::OCI_CONFIG, b"{}"), "layers": [descriptor(MediaType::OCI_LAYER, layer)] });
    for (key, value) in more.as_object().into_iter().flatten() {
        manifest[key] = value.clone();
    }
    manifest.to_string().into_bytes()
}

/// Pushes such an image under its SHA-512 digest; `tag` is a query that may name tags.
fn push_image(client: &Client, repository: &str, (layer, more, query): (&[u8], &Value, &str)) -> Vec<u8> {
    push(client, repository, b"{}");
    push(client, repository, layer);
    let bytes = image(layer, more);
    client
        .put(repository, &format!("{}{query}", sha512(&bytes)), MediaType::OCI_MANIFEST, &bytes)
        .expect(201);
    bytes
}

#[test]
fn one_content_is_one_blob() {
    let served = Served::new("[[quota]]\nrepositories = 'a'\nbytes = '1500'\n");
    let (client, bytes) = (&served.client, vec![7; 1000]);
    let short = client.push_blob("a", &bytes);
    let long = sha512(&bytes);
    client.get(&format!("/v2/a/blobs/{long}")).refused(404, "BLOB_UNKNOWN");
    // The quota would not allow it twice.
    push(client, "a", &bytes);
    for name in [&short.to_string(), &long] {
        let answer = client.get(&format!("/v2/a/blobs/{name}")).expect(200);
        assert_eq!(
            (answer.body.as_slice(), answer.header("Docker-Content-Digest")),
            (bytes.as_slice(), Some(name.as_str()))
        );
    }
    client.send("POST", &format!("/v2/b/blobs/uploads/?mount={long}&from=a"), &[], b"").expect(201);
    client.head(&format!("/v2/b/blobs/{short}")).expect(200);
    client.delete(&format!("/v2/b/blobs/{long}")).expect(202);
    client.head(&format!("/v2/b/blobs/{short}")).expect(404);
    client.head(&format!("/v2/a/blobs/{short}")).expect(200);
}

#[test]
fn a_manifest_is_had_by_both_names_and_a_tag_tells_the_one_it_was_pushed_by() {
    let served = Served::new("");
    let client = &served.client;
    let bytes = push_image(client, "a", (b"layer", &json!({}), "?tag=long"));
    let (short, long) = (Digest::of(&bytes).to_string(), sha512(&bytes));
    client.put("a", "short", MediaType::OCI_MANIFEST, &bytes).expect(201);
    for (reference, name) in
        [(&short, &short), (&long, &long), (&"long".to_owned(), &long), (&"short".to_owned(), &short)]
    {
        let answer = client.get(&format!("/v2/a/manifests/{reference}")).expect(200);
        assert_eq!(
            (answer.body.as_slice(), answer.header("Docker-Content-Digest")),
            (bytes.as_slice(), Some(name.as_str()))
        );
        let known = [("If-None-Match", name.as_str())];
        client.send("GET", &format!("/v2/a/manifests/{reference}"), &known, b"").expect(304);
    }
    client.delete(&format!("/v2/a/manifests/{long}")).expect(202);
    for reference in [&short, &long, "long", "short"] {
        client.get(&format!("/v2/a/manifests/{reference}")).expect(404);
    }
}

#[test]
fn names_outlive_a_restart_and_go_with_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("registry");
    let (lost, bytes) = {
        let served = Served::at(root.clone(), NO_GRACE);
        (
            push(&served.client, "a", b"lost"),
            push_image(&served.client, "a", (b"layer", &json!({}), "?tag=v1")),
        )
    };
    let served = Served::at(root, NO_GRACE);
    let client = &served.client;
    // What a manifest needs by its second name stays, and its name with it.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(served.collect(false).links, 1);
    client.get(&format!("/v2/a/blobs/{lost}")).expect(404);
    assert_eq!(client.get(&format!("/v2/a/blobs/{}", sha512(b"layer"))).expect(200).body, b"layer");
    assert_eq!(client.get(&format!("/v2/a/manifests/{}", sha512(&bytes))).expect(200).body, bytes);
    client.delete(&format!("/v2/a/blobs/{}", sha512(b"layer"))).refused(405, "UNSUPPORTED");
    // The same bytes under one name only have no other again.
    client.push_blob("a", b"lost");
    client.get(&format!("/v2/a/blobs/{lost}")).expect(404);
    client.delete(&format!("/v2/a/manifests/{}", sha512(&bytes))).expect(202);
    client.put("a", "v1", MediaType::OCI_MANIFEST, &bytes).expect(201);
    client.get(&format!("/v2/a/manifests/{}", sha512(&bytes))).expect(404);
}

#[test]
fn what_speaks_about_a_second_name_stays_as_long_as_its_subject() {
    let rules = format!("{NO_GRACE}[[retention]]\nrepositories = '**'\nuntagged_after = '0s'\n");
    let served = Served::new(&rules);
    let client = &served.client;
    let subject = push_image(client, "a", (b"subject", &json!({}), "?tag=v1"));
    let about =
        json!({ "subject": descriptor(MediaType::OCI_MANIFEST, &subject), "artifactType": "application/x" });
    let referrer = push_image(client, "a", (b"referrer", &about, ""));
    let listed = || {
        client.get(&format!("/v2/a/referrers/{}", sha512(&subject))).expect(200).json()["manifests"].clone()
    };
    assert_eq!(listed()[0]["digest"], sha512(&referrer));
    assert!(served.collect(false).manifests.is_empty());
    assert_eq!(listed()[0]["digest"], sha512(&referrer));
    client.delete("/v2/a/manifests/v1").expect(202);
    assert_eq!(served.collect(false).manifests.len(), 2);
    assert_eq!(listed(), json!([]));
}

#[test]
fn members_that_come_after_their_index_are_held_by_it() {
    let rules =
        "[storage]\nsparse_indexes = true\n[[retention]]\nrepositories = '**'\nuntagged_after = '0s'\n";
    let served = Served::new(&format!("{NO_GRACE}{rules}"));
    let client = &served.client;
    let member = image(b"late", &json!({}));
    let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX,
        "manifests": [descriptor(MediaType::OCI_MANIFEST, &member)] });
    client.put("a", "index", MediaType::OCI_INDEX, index.to_string().as_bytes()).expect(201);
    push_image(client, "a", (b"late", &json!({}), ""));
    assert!(served.collect(false).manifests.is_empty());
    client.get(&format!("/v2/a/manifests/{}", sha512(&member))).expect(200);
}

#[test]
fn a_cache_fetches_by_second_names() {
    let upstream = Served::new("");
    let bytes = push_image(&upstream.client, "app", (b"layer", &json!({}), "?tag=v1"));
    let address = &upstream.client.address;
    let cache = Served::new(&format!("{NO_GRACE}[[proxy]]\nprefix = 'hub'\nupstream = '{address}'\n"));
    let client = &cache.client;
    for reference in ["v1", &sha512(&bytes)] {
        assert_eq!(client.get(&format!("/v2/hub/app/manifests/{reference}")).expect(200).body, bytes);
    }
    let layer = format!("/v2/hub/app/blobs/{}", sha512(b"layer"));
    assert_eq!(client.head(&layer).expect(200).header("Content-Length"), Some("5"));
    assert_eq!(client.get(&layer).expect(200).body, b"layer");
    drop(upstream);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    cache.collect(false);
    assert_eq!(client.get(&layer).expect(200).body, b"layer", "the manifest needs it, which came before it");
    assert_eq!(client.get(&format!("/v2/hub/app/blobs/{}", Digest::of("layer"))).expect(200).body, b"layer");
    client.get(&format!("/v2/hub/app/blobs/{}", sha512(b"{}"))).expect(502);
}

/// Pushes an image and an index of one, both under tags and called by SHA-512, and what speaks about the image by
/// both of its names. Gives their bytes, and the names of what speaks.
fn push_all(client: &Client) -> (Vec<u8>, Vec<u8>, [String; 2]) {
    let image = push_image(client, "app", (b"layer", &json!({}), "?tag=v1"));
    let member = push_image(client, "app", (b"member", &json!({}), ""));
    let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX,
        "manifests": [descriptor(MediaType::OCI_MANIFEST, &member)] });
    let index = index.to_string().into_bytes();
    client.put("app", &format!("{}?tag=all", sha512(&index)), MediaType::OCI_INDEX, &index).expect(201);
    let about = |subject: &Value| json!({ "subject": subject, "artifactType": "application/x" });
    let mut short = descriptor(MediaType::OCI_MANIFEST, &image);
    let by_long = push_image(client, "app", (b"about the long name", &about(&short), ""));
    short["digest"] = json!(Digest::of(&image).to_string());
    let by_short = push_image(client, "app", (b"about the short name", &about(&short), ""));
    (image, index, [sha512(&by_long), sha512(&by_short)])
}

/// Whether a repository has all of that by the same names.
fn has_all(client: &Client, name: &str, (image, index, about): &(Vec<u8>, Vec<u8>, [String; 2])) -> bool {
    let called = |reference: &str| digest_of(client, name, reference);
    let blob = |bytes: &[u8]| client.get(&format!("/v2/{name}/blobs/{}", sha512(bytes)));
    let speaks = |subject: &str| {
        let list = client.get(&format!("/v2/{name}/referrers/{subject}"));
        let list = if list.status == 200 { list.json() } else { Value::Null };
        list["manifests"][0]["digest"].as_str().map(str::to_owned)
    };
    called("v1") == Some(sha512(image))
        && called("all") == Some(sha512(index))
        && called(&sha512(&self::image(b"member", &json!({})))).is_some()
        && blob(b"layer").body == b"layer"
        && blob(b"about the long name").status == 200
        && speaks(&sha512(image)).as_ref() == Some(&about[0])
        && speaks(&Digest::of(image).to_string()).as_ref() == Some(&about[1])
}

#[test]
fn replication_copies_by_second_names() {
    let target = Served::new("");
    let source = Served::new(&to(&target.client.address, ""));
    let pushed = push_all(&source.client);
    wait("all is at the target", || has_all(&target.client, "copy/app", &pushed));
    source.settles();
    assert_eq!(source.plan(), Vec::<String>::new());
    let blobs = source.counter("blobs_total");

    let address = &source.client.address;
    let mirror = Served::new(&from(address, "repositories = ['app']\nevery = '1s'"));
    wait("all is at the mirror", || has_all(&mirror.client, "mirror/app", &pushed));
    wait("both are alike", || mirror.plan().is_empty());

    // What the target has by the first name only it gets by the second one, too.
    let again = image(b"again", &json!({}));
    for bytes in [b"{}".as_slice(), b"again"] {
        push(&target.client, "copy/app", bytes);
    }
    target.client.put("copy/app", "v2", MediaType::OCI_MANIFEST, &again).expect(201);
    push_image(&source.client, "app", (b"again", &json!({}), "?tag=v2"));
    wait("it is called so there", || digest_of(&target.client, "copy/app", "v2") == Some(sha512(&again)));
    source.settles();
    assert_eq!(source.counter("blobs_total"), blobs, "its blobs were there");
}

/// So large that a bucket has it in parts, before anybody says by which algorithm it is to be checked.
#[test]
fn a_large_blob_is_checked_by_its_second_name() {
    let served = Served::new("");
    let (client, bytes) = (&served.client, crate::suite::noise("large", 9 << 20));
    let put = |digest: &str| client.send("PUT", &with_digest(&client.start("a"), &digest), &[], &bytes);
    let digest = sha512(&bytes);
    put(&sha512(b"other")).refused(400, "DIGEST_INVALID");
    client.head(&format!("/v2/a/blobs/{digest}")).expect(404);
    put(&digest).expect(201);
    assert_eq!(client.get(&format!("/v2/a/blobs/{digest}")).expect(200).body, bytes);
}
