//! An engine with a signature policy, and signatures as cosign 2 and 3 make them, by openssl.

#![expect(clippy::unwrap_used, reason = "tests may")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use yare_testkit::{Engine, Registry, require_root};

fn openssl(folder: &Path, args: &[&str]) -> Vec<u8> {
    let mut command = std::process::Command::new("openssl");
    let output = command.args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Sends a request to the registry and returns the status.
fn send(registry: &Registry, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(registry.host()).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n",
        registry.host()
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

/// Puts a blob and returns its digest.
fn blob(registry: &Registry, folder: &Path, name: &str) -> String {
    let hash = openssl(folder, &["dgst", "-sha256", "-r", name]);
    let digest = format!("sha256:{}", String::from_utf8(hash).unwrap().split(' ').next().unwrap());
    let (_, begun) = send(registry, "POST", "/v2/team/app/blobs/uploads/", "text/plain", b"");
    let location = begun.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().trim();
    let path = location.split_once("//").map_or(location, |(_, rest)| &rest[rest.find('/').unwrap()..]);
    let path = format!("{path}&digest={digest}");
    let bytes = std::fs::read(folder.join(name)).unwrap();
    assert_eq!(send(registry, "PUT", &path, "application/octet-stream", &bytes).0, 201);
    digest
}

#[test]
fn only_signed_images_are_pulled() {
    if !require_root("only_signed_images_are_pulled") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let registry = Registry::start(&folder.join("registry"));
    openssl(folder, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"]);
    openssl(folder, &["ec", "-in", "key.pem", "-pubout", "-out", "team.pub"]);
    let policy = folder.join("policy.toml");
    let rule = format!("[[rule]]\nrepositories = '{}/team'\nkeys = ['team.pub']\n", registry.host());
    std::fs::write(&policy, format!("default = 'accept'\n{rule}")).unwrap();
    let engine = Engine::start_with(&["--signature-policy", policy.to_str().unwrap()]);
    engine.load_busybox();
    let name = format!("{}/team/app:1", registry.host());
    let other = format!("{}/other:1", registry.host());
    for name in [&name, &other] {
        engine.yare(&["tag", "busybox", name]).ok();
        engine.yare(&["push", "-q", name]).ok();
    }
    let digest = engine.yare(&["image", "inspect", "-f", "{{index .RepoDigests 0}}", &name]).ok();
    let digest = digest.trim().split('@').nth(1).unwrap();
    engine.yare(&["pull", "-q", &other]).ok();
    // The image is here already, and refused all the same.
    let refused = engine.yare(&["pull", &name]).run();
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("it has no signature"), "{refused:?}");

    let payload = serde_json::json!({ "critical": {
        "identity": { "docker-reference": format!("{}/team/app", registry.host()) },
        "image": { "docker-manifest-digest": digest },
        "type": "cosign container image signature" }, "optional": null })
    .to_string();
    std::fs::write(folder.join("payload"), &payload).unwrap();
    std::fs::write(folder.join("config"), "{}").unwrap();
    openssl(folder, &["dgst", "-sha256", "-sign", "key.pem", "-out", "signature", "payload"]);
    let signature = String::from_utf8(openssl(folder, &["base64", "-A", "-in", "signature"])).unwrap();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({ "schemaVersion": 2, "mediaType": kind,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "size": 2,
                    "digest": blob(&registry, folder, "config") },
        "layers": [{ "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "size": payload.len(),
                     "digest": blob(&registry, folder, "payload"),
                     "annotations": { "dev.cosignproject.cosign/signature": signature.trim() } }] });
    let path = format!("/v2/team/app/manifests/{}.sig", digest.replace(':', "-"));
    assert_eq!(send(&registry, "PUT", &path, kind, manifest.to_string().as_bytes()).0, 201);
    let pulled = engine.yare(&["pull", &name]).ok();
    assert!(pulled.contains("Signature: good, by "), "{pulled}");

    // The policy is read anew for each pull, and one that cannot be read refuses.
    std::fs::write(&policy, "default = 'refuse'\n").unwrap();
    assert!(engine.yare(&["pull", &other]).run().stderr.contains("refuses this repository"));
    std::fs::write(&policy, "default = \n").unwrap();
    assert!(engine.yare(&["pull", &other]).run().stderr.contains("signature policy"));
    engine.finish();
}

/// The registry is Debian's, without the referrers API: cosign keeps the list under a tag there.
#[test]
fn a_bundle_signs_an_image_behind_a_rewritten_name() {
    if !require_root("a_bundle_signs_an_image_behind_a_rewritten_name") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let registry = Registry::start(&folder.join("registry"));
    openssl(folder, &["ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", "key.pem"]);
    openssl(folder, &["ec", "-in", "key.pem", "-pubout", "-out", "team.pub"]);
    let (policy, certs) = (folder.join("policy.toml"), folder.join("certs.d"));
    let rule = "[[rule]]\nrepositories = 'reg.example'\nkeys = ['team.pub']\nany_name = true\n";
    std::fs::write(&policy, format!("default = 'refuse'\n{rule}")).unwrap();
    std::fs::create_dir_all(certs.join("reg.example")).unwrap();
    let hosts = format!("server = 'http://{}'\n[rewrite]\n'^(.*)$' = 'team/$1'\n", registry.host());
    std::fs::write(certs.join("reg.example/hosts.toml"), hosts).unwrap();
    let flags = ["--signature-policy", policy.to_str().unwrap(), "--certs-dir", certs.to_str().unwrap()];
    let engine = Engine::start_with(&flags);
    engine.load_busybox();
    engine.yare(&["tag", "busybox", "reg.example/app:1"]).ok();
    engine.yare(&["push", "-q", "reg.example/app:1"]).ok();
    let (_, tags) = send(&registry, "GET", "/v2/team/app/tags/list", "text/plain", b"");
    assert!(tags.contains(r#""tags":["1"]"#), "{tags}");
    let digest =
        engine.yare(&["image", "inspect", "-f", "{{index .RepoDigests 0}}", "reg.example/app:1"]).ok();
    let digest = digest.trim().strip_prefix("reg.example/app@").unwrap().to_owned();
    let pull = || engine.yare(&["pull", "reg.example/app:1"]).run();
    assert!(pull().stderr.contains("it has no signature"), "{:?}", pull());

    let statement = serde_json::json!({ "_type": "https://in-toto.io/Statement/v1", "predicate": {},
        "predicateType": "https://sigstore.dev/cosign/sign/v1",
        "subject": [{ "digest": { "sha256": digest.strip_prefix("sha256:").unwrap() } }] })
    .to_string();
    let kind = "application/vnd.in-toto+json";
    let signed = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
    std::fs::write(folder.join("signed"), signed).unwrap();
    std::fs::write(folder.join("statement"), statement).unwrap();
    openssl(folder, &["dgst", "-sha384", "-sign", "key.pem", "-out", "signature", "signed"]);
    let base64 = |name: &str| String::from_utf8(openssl(folder, &["base64", "-A", "-in", name])).unwrap();
    let kind_of_bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let bundle = serde_json::json!({ "mediaType": kind_of_bundle,
        "verificationMaterial": { "publicKey": { "hint": "" } },
        "dsseEnvelope": { "payload": base64("statement"), "payloadType": kind,
                          "signatures": [{ "sig": base64("signature") }] } })
    .to_string();
    std::fs::write(folder.join("bundle"), &bundle).unwrap();
    std::fs::write(folder.join("config"), "{}").unwrap();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({ "schemaVersion": 2, "mediaType": kind, "artifactType": kind_of_bundle,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
                    "digest": blob(&registry, folder, "config") },
        "layers": [{ "mediaType": kind_of_bundle, "size": bundle.len(),
                     "digest": blob(&registry, folder, "bundle") }] })
    .to_string();
    std::fs::write(folder.join("manifest"), &manifest).unwrap();
    let hash = String::from_utf8(openssl(folder, &["dgst", "-sha256", "-r", "manifest"])).unwrap();
    let referrer = format!("sha256:{}", hash.split(' ').next().unwrap());
    let put = |name: &str, kind: &str, body: &str| {
        send(&registry, "PUT", &format!("/v2/team/app/manifests/{name}"), kind, body.as_bytes()).0
    };
    assert_eq!(put(&referrer, kind, &manifest), 201);
    let kind_of_index = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": kind_of_index, "manifests": [
        { "mediaType": kind, "digest": referrer, "size": manifest.len(), "artifactType": kind_of_bundle }] });
    assert_eq!(put(&digest.replace(':', "-"), kind_of_index, &index.to_string()), 201);
    let pulled = pull();
    assert!(pulled.stdout.contains("Signature: good, by "), "{pulled:?}");
    engine.finish();
}
