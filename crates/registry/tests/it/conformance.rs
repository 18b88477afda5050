//! The distribution spec, section by section, as cases over any registry. `docker-registry`, where it is
//! installed, checks the cases.
//!
//! The specification's own suite is a Go program. What its older form (1.1.0) checks, and where that is here; its
//! newer form, with every kind of content, is in `suite`:
//!
//! | suite 1.1 | cases |
//! |---|---|
//! | 01 pull: blobs and manifests by `HEAD` and `GET`, 404s, digests in headers | `pull: blobs`, `manifests`, `what is not there` |
//! | 01 pull: the body of an error | `errors` |
//! | 02 push: streamed; `POST` and `PUT`; one `POST`; stale sessions | `push: streamed`, `in two requests`, `in one request`, `in pieces` |
//! | 02 push: chunks: 202, `Range`, `Location`, 416 out of order, status of a session | `push: in pieces`, `pieces out of order` |
//! | 02 push: mounts: with a source, of what is not there, without a source | `push: mounts`, `mount without a source` |
//! | 02 push: manifests by tag and digest, without layers, 4 MB | `push: manifests`, `manifests without layers`, `large manifest` |
//! | 03 discovery: tags, `n`, `last`, `Link`, order | `discovery: tags`, `tags by pages`, `order of tags` |
//! | 03 discovery: referrers: empty, `OCI-Subject`, filter and `OCI-Filters-Applied`, subjects that come later | `discovery: referrers`, `referrers of an index, and of nothing` |
//! | 04 management: tags, manifests, blobs: 202, then 404 | `management: …` |
//!
//! Beyond it: ranges of blobs and 416, conditions, schema 2, `oci-tag`, `_catalog`, other digests. No
//! `OCI-Chunk-Min-Length` is sent: pieces may have any length.

use crate::client::{Answer, Client, free_port, image, location, patch_streamed, with_digest};
use crate::served::Served;
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use yare_oci::{Digest, MediaType};

/// Whether Docker's registry 2.8 does it, too.
#[derive(PartialEq)]
enum By {
    All,
    /// Newer parts of the spec, or choices it leaves open.
    Ours,
}

type Case = (&'static str, By, fn(&Client));

const CASES: &[Case] = &[
    ("base", By::All, base),
    ("pull: blobs", By::All, pull_blobs),
    ("pull: ranges of blobs", By::All, pull_ranges),
    ("pull: ranges beyond the end", By::Ours, pull_beyond),
    ("pull: manifests", By::All, pull_manifests),
    ("pull: what is not there", By::All, pull_nothing),
    ("pull: conditional", By::All, pull_conditional),
    ("push: in two requests", By::All, push_post_put),
    ("push: in one request", By::Ours, push_single_post),
    ("push: streamed", By::All, push_streamed),
    ("push: in pieces", By::All, push_chunked),
    ("push: pieces out of order", By::Ours, push_out_of_order),
    ("push: cancelled", By::All, push_cancelled),
    ("push: mounts", By::All, push_mount),
    ("push: mount without a source", By::Ours, push_mount_anywhere),
    ("push: manifests", By::All, push_manifests),
    ("push: manifests without layers", By::All, push_without_layers),
    ("push: manifests that need what is not there", By::All, push_incomplete),
    ("push: schema 2 and lists", By::All, push_docker),
    ("push: with tags in the query", By::Ours, push_tagged),
    ("push: large manifest", By::Ours, push_large_manifest),
    ("discovery: tags", By::All, tags),
    ("discovery: tags by pages", By::All, tag_pages),
    ("discovery: order of tags", By::Ours, tag_order),
    ("discovery: catalog", By::All, catalog),
    ("discovery: referrers", By::Ours, referrers),
    ("discovery: referrers of an index, and of nothing", By::Ours, referrers_of_nothing),
    ("management: tags", By::Ours, delete_tag),
    ("management: manifests", By::All, delete_manifest),
    ("management: blobs", By::All, delete_blob),
    ("errors", By::All, errors),
    ("errors: methods", By::All, methods),
    ("errors: tags that cannot be", By::Ours, impossible_tags),
    ("errors: other digests than SHA-256 and SHA-512", By::Ours, other_digests),
];

#[test]
fn ours() {
    let served = Served::new("");
    assert_eq!(failing(&served.client, CASES.iter().collect()), Vec::<&str>::new());
}

#[test]
fn ours_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("registry");
    let image = {
        let served = Served::at(root.clone(), "");
        served.client.push_image("a/b", "v1", "kept")
    };
    let served = Served::at(root, "");
    let answer = served.client.get("/v2/a/b/manifests/v1").expect(200);
    assert_eq!(answer.body, image.bytes);
    assert_eq!(served.client.get(&format!("/v2/a/b/blobs/{}", image.layer)).expect(200).body, b"kept");
}

/// The same cases against Docker's registry: one that fails there is wrong, or is marked.
#[test]
fn the_cases_are_right() {
    let Some(peer) = DockerRegistry::start() else { return };
    let common = CASES.iter().filter(|(_, by, _)| *by == By::All).collect();
    assert_eq!(failing(&peer.client, common), Vec::<&str>::new());
}

/// Runs cases and names those that fail.
fn failing(client: &Client, cases: Vec<&Case>) -> Vec<&'static str> {
    let fails = |case: &&Case| std::panic::catch_unwind(|| case.2(client)).is_err();
    cases.into_iter().filter(fails).map(|(name, _, _)| *name).collect()
}

struct DockerRegistry {
    client: Client,
    child: Child,
    _folder: tempfile::TempDir,
}

impl DockerRegistry {
    fn start() -> Option<Self> {
        let program = ["docker-registry", "/usr/bin/docker-registry"]
            .into_iter()
            .map(str::to_owned)
            .chain(std::env::var("DOCKER_REGISTRY").ok())
            .find(|program| {
                let tried = Command::new(program).arg("--version").stdout(Stdio::null()).status();
                tried.is_ok_and(|status| status.success())
            });
        let Some(program) = program else {
            println!("SKIP: docker-registry is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let root = folder.path().display();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {root}/data}}\n  \
             delete: {{enabled: true}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        );
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new(program)
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let client = Client::new(format!("127.0.0.1:{port}"));
        let begun = Instant::now();
        while client.try_send("GET", "/v2/", &[], b"").is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(Self { client, child, _folder: folder })
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn base(client: &Client) {
    let answer = client.get("/v2/").expect(200);
    assert_eq!(answer.header("Docker-Distribution-Api-Version"), Some("registry/2.0"));
}

fn pull_blobs(client: &Client) {
    let digest = client.push_blob("pull/blobs", b"hello");
    let path = format!("/v2/pull/blobs/blobs/{digest}");
    let answer = client.head(&path).expect(200);
    assert_eq!(answer.header("Content-Length"), Some("5"));
    assert_eq!(answer.header("Docker-Content-Digest"), Some(digest.to_string().as_str()));
    let answer = client.get(&path).expect(200);
    assert_eq!(answer.body, b"hello");
    assert_eq!(answer.header("Docker-Content-Digest"), Some(digest.to_string().as_str()));
    let empty = client.push_blob("pull/blobs", b"");
    let answer = client.get(&format!("/v2/pull/blobs/blobs/{empty}")).expect(200);
    assert_eq!((answer.body.len(), answer.header("Content-Length")), (0, Some("0")));
    // Another repository does not have it.
    client.push_blob("pull/other", b"other");
    client.get(&format!("/v2/pull/other/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
    client.head(&format!("/v2/pull/other/blobs/{digest}")).expect(404);
}

fn pull_ranges(client: &Client) {
    let digest = client.push_blob("ranges", b"0123456789");
    let path = format!("/v2/ranges/blobs/{digest}");
    let get = |range: &str| client.send("GET", &path, &[("Range", range)], b"");
    let cases = [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=5-100", "56789", "bytes 5-9/10"),
    ];
    for (range, want, content_range) in cases {
        let answer = get(range).expect(206);
        assert_eq!(
            (answer.body.as_slice(), answer.header("Content-Range")),
            (want.as_bytes(), Some(content_range))
        );
    }
}

/// Docker's registry announces another length than it sends here.
fn pull_beyond(client: &Client) {
    let digest = client.push_blob("beyond", b"0123456789");
    let answer = client.send("GET", &format!("/v2/beyond/blobs/{digest}"), &[("Range", "bytes=20-30")], b"");
    assert_eq!(answer.expect(416).header("Content-Range"), Some("bytes */10"));
}

fn pull_manifests(client: &Client) {
    let image = client.push_image("pull/image", "v1", "layer");
    for reference in ["v1".to_owned(), image.digest.to_string()] {
        let path = format!("/v2/pull/image/manifests/{reference}");
        let accept = [("Accept", MediaType::OCI_MANIFEST)];
        let answer = client.send("GET", &path, &accept, b"").expect(200);
        assert_eq!(answer.body, image.bytes);
        assert_eq!(answer.header("Content-Type"), Some(MediaType::OCI_MANIFEST));
        let answer = client.send("HEAD", &path, &accept, b"").expect(200);
        assert_eq!(answer.header("Docker-Content-Digest"), Some(image.digest.to_string().as_str()));
        assert_eq!(answer.header("Content-Length"), Some(image.bytes.len().to_string().as_str()));
    }
}

fn pull_nothing(client: &Client) {
    let digest = Digest::of("nothing");
    client.push_image("pull/some", "v1", "some");
    client.get("/v2/pull/some/manifests/v2").refused(404, "MANIFEST_UNKNOWN");
    client.get(&format!("/v2/pull/some/manifests/{digest}")).refused(404, "MANIFEST_UNKNOWN");
    client.head("/v2/pull/some/manifests/v2").expect(404);
    client.get("/v2/pull/some/manifests/.INVALID_MANIFEST_NAME").expect(404);
    client.head("/v2/pull/some/manifests/.INVALID_MANIFEST_NAME").expect(404);
    client.get(&format!("/v2/pull/some/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
    client.get("/v2/pull/none/tags/list").refused(404, "NAME_UNKNOWN");
}

fn pull_conditional(client: &Client) {
    let image = client.push_image("conditional", "v1", "layer");
    for path in [
        "/v2/conditional/manifests/v1".to_owned(),
        format!("/v2/conditional/manifests/{}", image.digest),
        format!("/v2/conditional/blobs/{}", image.layer),
    ] {
        let accept = ("Accept", MediaType::OCI_MANIFEST);
        let tag = client.send("GET", &path, &[accept], b"").expect(200).header("ETag").unwrap().to_owned();
        let answer = client.send("GET", &path, &[accept, ("If-None-Match", &tag)], b"").expect(304);
        assert!(answer.body.is_empty());
        client.send("GET", &path, &[accept, ("If-None-Match", "\"other\"")], b"").expect(200);
    }
}

fn push_post_put(client: &Client) {
    let digest = Digest::of("monolithic");
    let at = with_digest(&client.start("push/put"), &digest);
    let answer = client.send("PUT", &at, &[], b"monolithic").expect(201);
    assert_eq!(location(&answer), format!("/v2/push/put/blobs/{digest}"));
    assert_eq!(client.get(&location(&answer)).expect(200).body, b"monolithic");
    // A second time is as good.
    let at = with_digest(&client.start("push/put"), &digest);
    client.send("PUT", &at, &[], b"monolithic").expect(201);
}

fn push_single_post(client: &Client) {
    let digest = Digest::of("single");
    let path = format!("/v2/push/single/blobs/uploads/?digest={digest}");
    client.send("POST", &path, &[], b"single").expect(201);
    assert_eq!(client.get(&format!("/v2/push/single/blobs/{digest}")).expect(200).body, b"single");
    let path = format!("/v2/push/single/blobs/uploads/?digest={}", Digest::of("other"));
    client.send("POST", &path, &[], b"single").refused(400, "DIGEST_INVALID");
}

fn push_streamed(client: &Client) {
    let digest = Digest::of("streamed bytes");
    let at = client.start("push/stream");
    let answer = patch_streamed(client, &at, b"streamed bytes").expect(202);
    assert_eq!(answer.header("Range"), Some("0-13"));
    client.send("PUT", &with_digest(&location(&answer), &digest), &[], b"").expect(201);
    client.head(&format!("/v2/push/stream/blobs/{digest}")).expect(200);
}

fn patch(client: &Client, at: &str, range: &str, bytes: &[u8]) -> Answer {
    let headers = [("Content-Range", range), ("Content-Type", "application/octet-stream")];
    client.send("PATCH", at, &headers, bytes)
}

fn push_chunked(client: &Client) {
    let digest = Digest::of("first second third");
    let at = client.start("push/chunks");
    let answer = patch(client, &at, "0-5", b"first ").expect(202);
    assert_eq!(answer.header("Range"), Some("0-5"));
    let at = location(&answer);
    let answer = client.get(&at).expect(204);
    assert_eq!(answer.header("Range"), Some("0-5"));
    let answer = patch(client, &location(&answer), "6-12", b"second ").expect(202);
    let at = with_digest(&location(&answer), &digest);
    client.send("PUT", &at, &[("Content-Range", "13-17")], b"third").expect(201);
    assert_eq!(
        client.get(&format!("/v2/push/chunks/blobs/{digest}")).expect(200).body,
        b"first second third"
    );
}

fn push_out_of_order(client: &Client) {
    let at = client.start("push/order");
    let answer = patch(client, &at, "0-2", b"abc").expect(202);
    let at = location(&answer);
    patch(client, &at, "5-7", b"xyz").expect(416);
    patch(client, &at, "0-2", b"abc").expect(416);
    let answer = client.get(&at).expect(204);
    assert_eq!(answer.header("Range"), Some("0-2"));
    let answer = patch(client, &location(&answer), "3-5", b"def").expect(202);
    client.send("PUT", &with_digest(&location(&answer), &Digest::of("abcdef")), &[], b"").expect(201);
}

fn push_cancelled(client: &Client) {
    let at = client.start("push/cancel");
    client.delete(&at).expect(204);
    client.get(&at).refused(404, "BLOB_UPLOAD_UNKNOWN");
    client.delete(&at).expect(404);
}

fn push_mount(client: &Client) {
    let digest = client.push_blob("mount/from", b"mounted");
    let path = format!("/v2/mount/to/blobs/uploads/?mount={digest}&from=mount/from");
    let answer = client.send("POST", &path, &[], b"").expect(201);
    assert_eq!(location(&answer), format!("/v2/mount/to/blobs/{digest}"));
    assert_eq!(client.get(&format!("/v2/mount/to/blobs/{digest}")).expect(200).body, b"mounted");
    // What cannot be mounted is uploaded.
    let path = format!("/v2/mount/to/blobs/uploads/?mount={}&from=mount/from", Digest::of("no such"));
    let at = location(&client.send("POST", &path, &[], b"").expect(202));
    client.send("PUT", &with_digest(&at, &Digest::of("no such")), &[], b"no such").expect(201);
}

fn push_mount_anywhere(client: &Client) {
    let digest = client.push_blob("anywhere/from", b"mounted from anywhere");
    let path = format!("/v2/anywhere/to/blobs/uploads/?mount={digest}");
    client.send("POST", &path, &[], b"").expect(201);
}

fn push_manifests(client: &Client) {
    let first = client.push_image("push/manifest", "v1", "one");
    let second = client.push_image("push/manifest", "v1", "two");
    let answer = client
        .send("GET", "/v2/push/manifest/manifests/v1", &[("Accept", MediaType::OCI_MANIFEST)], b"")
        .expect(200);
    assert_eq!(answer.body, second.bytes, "the tag moved");
    let accept = [("Accept", MediaType::OCI_MANIFEST)];
    client.send("GET", &format!("/v2/push/manifest/manifests/{}", first.digest), &accept, b"").expect(200);
    let answer =
        client.put("push/manifest", &second.digest.to_string(), MediaType::OCI_MANIFEST, &second.bytes);
    let answer = answer.expect(201);
    assert_eq!(location(&answer), format!("/v2/push/manifest/manifests/{}", second.digest));
    assert_eq!(answer.header("Docker-Content-Digest"), Some(second.digest.to_string().as_str()));
    let wrong = Digest::of("wrong").to_string();
    client
        .put("push/manifest", &wrong, MediaType::OCI_MANIFEST, &second.bytes)
        .refused(400, "DIGEST_INVALID");
    client.put("push/manifest", "v2", MediaType::OCI_MANIFEST, b"{").refused(400, "MANIFEST_INVALID");
}

fn push_without_layers(client: &Client) {
    let config = client.push_blob("push/bare", b"{}");
    let bytes = image(&[(config, 2)]).to_string().into_bytes();
    client.put("push/bare", "v1", MediaType::OCI_MANIFEST, &bytes).expect(201);
    let accept = [("Accept", MediaType::OCI_MANIFEST)];
    assert_eq!(client.send("GET", "/v2/push/bare/manifests/v1", &accept, b"").expect(200).body, bytes);
}

fn push_incomplete(client: &Client) {
    let config = client.push_blob("push/incomplete", b"{}");
    let manifest = image(&[(config, 2), (Digest::of("missing"), 7)]).to_string();
    let answer = client.put("push/incomplete", "v1", MediaType::OCI_MANIFEST, manifest.as_bytes());
    assert!((400..500).contains(&answer.status));
    assert!(answer.code().ends_with("BLOB_UNKNOWN"), "{}", answer.code());
    let index = index(&[(Digest::of("missing"), 7)], MediaType::OCI_INDEX);
    let answer = client.put("push/incomplete", "v1", MediaType::OCI_INDEX, index.to_string().as_bytes());
    assert!((400..500).contains(&answer.status));
}

fn index(members: &[(Digest, usize)], kind: &str) -> Value {
    let member =
        if kind == MediaType::OCI_INDEX { MediaType::OCI_MANIFEST } else { MediaType::DOCKER_MANIFEST };
    let members: Vec<Value> = members
        .iter()
        .map(|(digest, size)| {
            json!({ "mediaType": member, "digest": digest.to_string(), "size": size,
                "platform": { "architecture": "amd64", "os": "linux" } })
        })
        .collect();
    json!({ "schemaVersion": 2, "mediaType": kind, "manifests": members })
}

fn push_docker(client: &Client) {
    let config = client.push_blob("push/docker", b"{\"docker\":1}");
    let layer = client.push_blob("push/docker", b"docker layer");
    let mut manifest = image(&[(config, 12), (layer, 12)]);
    manifest["mediaType"] = json!(MediaType::DOCKER_MANIFEST);
    manifest["config"]["mediaType"] = json!(MediaType::DOCKER_CONFIG);
    manifest["layers"][0]["mediaType"] = json!(MediaType::DOCKER_LAYER_GZIP);
    let bytes = manifest.to_string().into_bytes();
    client.put("push/docker", "amd64", MediaType::DOCKER_MANIFEST, &bytes).expect(201);
    let list = index(&[(Digest::of(&bytes), bytes.len())], MediaType::DOCKER_LIST).to_string();
    client.put("push/docker", "v1", MediaType::DOCKER_LIST, list.as_bytes()).expect(201);
    let accept = [("Accept", MediaType::DOCKER_LIST)];
    let answer = client.send("GET", "/v2/push/docker/manifests/v1", &accept, b"").expect(200);
    assert_eq!(answer.body, list.as_bytes());
    assert_eq!(answer.header("Content-Type"), Some(MediaType::DOCKER_LIST));
}

fn push_tagged(client: &Client) {
    let image = client.push_image("push/tags", "v1", "tagged");
    let path = format!("/v2/push/tags/manifests/{}?tag=a&tag=b", image.digest);
    let answer = client.send("PUT", &path, &[("Content-Type", MediaType::OCI_MANIFEST)], &image.bytes);
    let answer = answer.expect(201);
    let set: Vec<&str> =
        answer.headers.iter().filter(|(name, _)| name == "oci-tag").map(|(_, tag)| tag.as_str()).collect();
    assert_eq!(set, ["a", "b"]);
    assert_eq!(client.get("/v2/push/tags/tags/list").json()["tags"], json!(["a", "b", "v1"]));
}

fn push_large_manifest(client: &Client) {
    let config = client.push_blob("push/large", b"{}");
    let mut manifest = image(&[(config, 2)]);
    let text = "A".repeat(10_000);
    manifest["annotations"] = (0..390).map(|number| (format!("large-{number}"), json!(text))).collect();
    let bytes = manifest.to_string().into_bytes();
    assert!(bytes.len() > 3_900_000 && bytes.len() < 4 << 20);
    client.put("push/large", "v1", MediaType::OCI_MANIFEST, &bytes).expect(201);
    assert_eq!(client.get("/v2/push/large/manifests/v1").expect(200).body, bytes);
}

fn tags(client: &Client) {
    for tag in ["b", "a", "c"] {
        client.push_image("discovery/tags", tag, "tags");
    }
    let answer = client.get("/v2/discovery/tags/tags/list").expect(200);
    // Docker's registry 2.8 does not sort.
    let mut tags: Vec<Value> = answer.json()["tags"].as_array().cloned().unwrap_or_default();
    tags.sort_by_key(Value::to_string);
    assert_eq!(
        (answer.json()["name"].clone(), tags),
        (json!("discovery/tags"), vec![json!("a"), json!("b"), json!("c")])
    );
}

/// Follows `Link` headers.
fn pages(client: &Client, path: &str, key: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next {
        let answer = client.get(&path).expect(200);
        pages.push(answer.json()[key].as_array().cloned().unwrap_or_default());
        next = answer.header("Link").map(|link| {
            assert!(link.ends_with("rel=\"next\""), "{link}");
            link[1..link.find('>').unwrap()].to_owned()
        });
        assert!(pages.len() < 100, "pages without end");
    }
    pages
}

fn tag_pages(client: &Client) {
    let tags = ["a", "b", "c", "d", "e"];
    for tag in tags {
        client.push_image("discovery/pages", tag, "pages");
    }
    // Docker's registry 2.8 does not page tags; then all come at once.
    let pages = pages(client, "/v2/discovery/pages/tags/list?n=2", "tags");
    let mut all = pages.concat();
    all.sort_by_key(Value::to_string);
    assert_eq!(all, tags);
    let list = |query: &str| client.get(&format!("/v2/discovery/pages/tags/list?{query}"));
    if pages.len() > 1 {
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(list("n=0").expect(200).json()["tags"], json!([]));
        assert_eq!(list("last=c").expect(200).json()["tags"], json!(["d", "e"]));
        assert_eq!(list("last=bb&n=1").expect(200).json()["tags"], json!(["c"]));
        for bad in ["n=-1", "n=x", "n=99999999999", "n=1001"] {
            list(bad).refused(400, "PAGINATION_NUMBER_INVALID");
        }
    }
}

fn tag_order(client: &Client) {
    for tag in ["B", "a", "C", "_x", "1"] {
        client.push_image("discovery/order", tag, "order");
    }
    let answer = client.get("/v2/discovery/order/tags/list").expect(200);
    assert_eq!(answer.json()["tags"], json!(["1", "_x", "a", "B", "C"]));
    assert_eq!(pages(client, "/v2/discovery/order/tags/list?n=1", "tags").concat().len(), 5);
}

fn catalog(client: &Client) {
    for name in ["catalog/a", "catalog/b", "catalog/c"] {
        client.push_image(name, "v1", "catalog");
    }
    let all = pages(client, "/v2/_catalog?n=2", "repositories").concat();
    for name in ["catalog/a", "catalog/b", "catalog/c"] {
        assert!(all.contains(&json!(name)), "{all:?}");
    }
    let answer = client.get("/v2/_catalog?n=1&last=catalog/a").expect(200);
    assert_eq!(answer.json()["repositories"], json!(["catalog/b"]));
}

/// An artifact about `subject`.
fn artifact(
    client: &Client,
    name: &str,
    kind: Option<&str>,
    subject: (&Digest, usize),
    note: &str,
) -> Digest {
    let config = client.push_blob(name, b"{}");
    let mut manifest = image(&[(config, 2)]);
    manifest["config"]["mediaType"] = json!("application/vnd.test.config+json");
    if let Some(kind) = kind {
        manifest["artifactType"] = json!(kind);
    }
    manifest["subject"] =
        json!({ "mediaType": MediaType::OCI_MANIFEST, "digest": subject.0.to_string(), "size": subject.1 });
    manifest["annotations"] = json!({ "note": note });
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    let answer = client.put(name, &digest.to_string(), MediaType::OCI_MANIFEST, &bytes).expect(201);
    assert_eq!(answer.header("OCI-Subject"), Some(subject.0.to_string().as_str()));
    digest
}

fn referrers(client: &Client) {
    let name = "discovery/referrers";
    let image = client.push_image(name, "v1", "subject");
    let subject = (&image.digest, image.bytes.len());
    let path = format!("/v2/{name}/referrers/{}", image.digest);
    let empty = client.get(&path).expect(200);
    assert_eq!(empty.json()["manifests"], json!([]));
    let sbom = artifact(client, name, Some("application/vnd.test.sbom+json"), subject, "sbom");
    let signature = artifact(client, name, None, subject, "signature");
    let answer = client.get(&path).expect(200);
    assert_eq!(answer.header("Content-Type"), Some(MediaType::OCI_INDEX));
    let listed = answer.json();
    assert_eq!(
        (listed["schemaVersion"].as_u64(), listed["mediaType"].as_str()),
        (Some(2), Some(MediaType::OCI_INDEX))
    );
    let find = |digest: &Digest| {
        let found =
            listed["manifests"].as_array().unwrap().iter().find(|one| one["digest"] == digest.to_string());
        found.cloned().unwrap()
    };
    assert_eq!(find(&sbom)["artifactType"], "application/vnd.test.sbom+json");
    assert_eq!(find(&sbom)["annotations"]["note"], "sbom");
    assert_eq!(find(&signature)["artifactType"], "application/vnd.test.config+json");
    for escaped in ["application/vnd.test.sbom%2Bjson", "application/vnd.test.sbom+json"] {
        let answer = client.get(&format!("{path}?artifactType={escaped}")).expect(200);
        assert_eq!(answer.header("OCI-Filters-Applied"), Some("artifactType"));
        assert_eq!(answer.json()["manifests"].as_array().unwrap().len(), 1);
    }
    assert_eq!(pages(client, &format!("{path}?n=1"), "manifests").concat().len(), 2);
    client.delete(&format!("/v2/{name}/manifests/{sbom}")).expect(202);
    assert_eq!(client.get(&path).json()["manifests"].as_array().unwrap().len(), 1);
}

fn referrers_of_nothing(client: &Client) {
    let missing = Digest::of("not pushed yet");
    artifact(client, "discovery/early", Some("application/x"), (&missing, 14), "early");
    let listed = client.get(&format!("/v2/discovery/early/referrers/{missing}")).expect(200).json();
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 1);
    let answer = client.get(&format!("/v2/no/such/repository/referrers/{missing}")).expect(200);
    assert_eq!(answer.json()["manifests"], json!([]));
    client.get("/v2/discovery/early/referrers/sha256:x").refused(400, "DIGEST_INVALID");
    let image = client.push_image("discovery/early", "v1", "image");
    let mut index = index(&[(image.digest, image.bytes.len())], MediaType::OCI_INDEX);
    index["subject"] = json!({ "mediaType": "application/x", "digest": missing.to_string(), "size": 14 });
    client.put("discovery/early", "index", MediaType::OCI_INDEX, index.to_string().as_bytes()).expect(201);
    let listed = client.get(&format!("/v2/discovery/early/referrers/{missing}")).expect(200).json();
    let member =
        &listed["manifests"].as_array().unwrap().iter().find(|one| one["mediaType"] == MediaType::OCI_INDEX);
    assert!(member.is_some_and(|member| member.get("artifactType").is_none()));
}

fn delete_tag(client: &Client) {
    let image = client.push_image("delete/tag", "v1", "tag");
    client.put("delete/tag", "v2", MediaType::OCI_MANIFEST, &image.bytes).expect(201);
    client.delete("/v2/delete/tag/manifests/v1").expect(202);
    client.get("/v2/delete/tag/manifests/v1").refused(404, "MANIFEST_UNKNOWN");
    client.get("/v2/delete/tag/manifests/v2").expect(200);
    client.get(&format!("/v2/delete/tag/manifests/{}", image.digest)).expect(200);
    client.delete("/v2/delete/tag/manifests/v1").refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(client.get("/v2/delete/tag/tags/list").json()["tags"], json!(["v2"]));
}

fn delete_manifest(client: &Client) {
    let image = client.push_image("delete/manifest", "v1", "manifest");
    client.push_image("delete/manifest", "other", "other");
    let path = format!("/v2/delete/manifest/manifests/{}", image.digest);
    client.delete(&path).expect(202);
    client.get(&path).expect(404);
    client.get("/v2/delete/manifest/manifests/v1").expect(404);
    client.delete(&path).refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(client.get("/v2/delete/manifest/tags/list").json()["tags"], json!(["other"]));
    client.put("delete/manifest", "v1", MediaType::OCI_MANIFEST, &image.bytes).expect(201);
    client.send("GET", &path, &[("Accept", MediaType::OCI_MANIFEST)], b"").expect(200);
}

fn delete_blob(client: &Client) {
    let digest = client.push_blob("delete/blob", b"deleted");
    client.push_blob("delete/other", b"deleted");
    let path = format!("/v2/delete/blob/blobs/{digest}");
    client.delete(&path).expect(202);
    client.get(&path).expect(404);
    client.delete(&path).refused(404, "BLOB_UNKNOWN");
    assert_eq!(client.get(&format!("/v2/delete/other/blobs/{digest}")).expect(200).body, b"deleted");
}

fn errors(client: &Client) {
    client.push_blob("errors", b"errors");
    let answer = client.get("/v2/errors/manifests/none").refused(404, "MANIFEST_UNKNOWN");
    let error = &answer.json()["errors"][0];
    assert!(error["message"].is_string() && error.get("detail").is_some(), "{error}");
    let at = with_digest(&client.start("errors"), &Digest::of("expected"));
    client.send("PUT", &at, &[], b"sent").refused(400, "DIGEST_INVALID");
    client.get(&format!("/v2/errors/blobs/{}", Digest::of("expected"))).expect(404);
    client.get(&format!("/v2/errors/blobs/{}", Digest::of("sent"))).expect(404);
    let at = client.start("errors");
    client.send("PUT", &at, &[], b"sent").refused(400, "DIGEST_INVALID");
}

fn methods(client: &Client) {
    client.push_image("methods", "v1", "methods");
    client.send("POST", "/v2/methods/manifests/v1", &[], b"").expect(405);
    client.send("PUT", "/v2/methods/tags/list", &[], b"").expect(405);
}

/// By such a tag nothing can be there, which is what those learn who look for it; who pushes learns more.
fn impossible_tags(client: &Client) {
    let image = client.push_image("impossible", "v1", "impossible");
    for tag in [".hidden".to_owned(), "-v1".to_owned(), "a+b".to_owned(), "a".repeat(129)] {
        let path = format!("/v2/impossible/manifests/{tag}");
        client.get(&path).refused(404, "MANIFEST_UNKNOWN");
        client.head(&path).expect(404);
        client.delete(&path).refused(404, "MANIFEST_UNKNOWN");
        client.put("impossible", &tag, MediaType::OCI_MANIFEST, &image.bytes).refused(400, "TAG_INVALID");
        let both = format!("{}?tag={tag}", image.digest);
        client.put("impossible", &both, MediaType::OCI_MANIFEST, &image.bytes).refused(400, "TAG_INVALID");
    }
    assert_eq!(client.get("/v2/impossible/tags/list").json()["tags"], json!(["v1"]));
}

/// Algorithms that are not registered, or not here, are refused and not misread.
fn other_digests(client: &Client) {
    let long = format!("sha384:{}", "ab".repeat(48));
    let told = |answer: Answer| answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    let at = client.start("digests");
    let answer = client.send("PUT", &with_digest(&at, &long), &[], b"sent");
    assert!(told(answer.refused(400, "DIGEST_INVALID")).contains("sha384"));
    client.send("PUT", &with_digest(&at, &Digest::of("sent")), &[], b"sent").expect(201);
    for path in [
        format!("/v2/digests/blobs/uploads/?digest={long}"),
        "/v2/digests/blobs/uploads/?digest-algorithm=sha384".to_owned(),
    ] {
        let answer = client.send("POST", &path, &[], b"");
        assert!(told(answer.refused(400, "DIGEST_INVALID")).contains("sha384"), "{path}");
    }
    client.get(&format!("/v2/digests/blobs/{long}")).refused(400, "DIGEST_INVALID");
    client.get(&format!("/v2/digests/manifests/{long}")).refused(400, "DIGEST_INVALID");
    let mut manifest = image(&[(Digest::of("sent"), 4)]);
    manifest["config"]["digest"] = json!(long);
    let answer = client.put("digests", "v1", MediaType::OCI_MANIFEST, manifest.to_string().as_bytes());
    assert!(told(answer.refused(400, "MANIFEST_INVALID")).contains("sha384"));
}
