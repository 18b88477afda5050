//! Signatures by policy. The keys and signatures are made as cosign makes them, by ring and, where it is
//! installed, by openssl.

use crate::fake::Fake;
use crate::repository;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use yare_distribution::{Policy, Verdict};
use yare_errdefs::{Class, Classified};
use yare_oci::{Digest, MediaType};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

struct Signer(EcdsaKeyPair);

impl Signer {
    /// A new key, whose public half is written to `file`.
    fn new(file: &Path) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
        // SubjectPublicKeyInfo of P-256.
        let mut der = BASE64.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=").unwrap();
        der.extend(pair.public_key().as_ref());
        let body = BASE64.encode(der);
        std::fs::write(file, format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"))
            .unwrap();
        Self(pair)
    }

    fn sign(&self, payload: &str) -> String {
        BASE64.encode(self.0.sign(&SystemRandom::new(), payload.as_bytes()).unwrap())
    }
}

fn payload(name: &str, digest: &Digest) -> String {
    json!({ "critical": {
        "identity": { "docker-reference": name },
        "image": { "docker-manifest-digest": digest.to_string() },
        "type": "cosign container image signature",
    }, "optional": null })
    .to_string()
}

/// The manifest that holds signatures.
fn holder(fake: &Fake, signatures: &[(String, String)]) -> String {
    let layers: Vec<_> = signatures
        .iter()
        .map(|(payload, signature)| {
            let blob = fake.blob(payload.clone());
            json!({ "mediaType": PAYLOAD, "digest": blob.digest.to_string(), "size": blob.size,
                    "annotations": { "dev.cosignproject.cosign/signature": signature } })
        })
        .collect();
    let config = fake.blob("{}");
    json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": { "mediaType": MediaType::OCI_CONFIG, "digest": config.digest.to_string(), "size": 2 },
            "layers": layers })
    .to_string()
}

fn put(fake: &Fake, image: &Digest, signatures: &[(String, String)]) {
    let tag = format!("sha256-{}.sig", image.hex());
    fake.manifest(&tag, MediaType::OCI_MANIFEST, &holder(fake, signatures));
}

fn policy(folder: &Path, rule: &str) -> Policy {
    let path = folder.join("policy.toml");
    std::fs::write(&path, format!("default = 'refuse'\n[[rule]]\n{rule}")).unwrap();
    Policy::read(&path).unwrap()
}

#[tokio::test]
async fn a_good_signature_of_this_image_in_this_repository_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("team.pub");
    let (team, stranger) = (Signer::new(&key), Signer::new(&folder.path().join("other.pub")));
    let fake = Fake::start().await;
    let (image, name) = (Digest::of("image"), fake.name("team/app"));
    let repository = repository(&fake, "team/app").await;
    let rule = format!("repositories = '{}/team'\nkeys = ['team.pub']\n", fake.authority());
    let strict = policy(folder.path(), &rule);
    let verdict = async |policy: &Policy| match repository.verify(policy, &image).await {
        Ok(verdict) => Ok(verdict),
        Err(error) => {
            assert_eq!(error.class(), Class::PermissionDenied, "{error}");
            Err(error.to_string())
        }
    };
    assert!(verdict(&strict).await.unwrap_err().contains("has no signature"));

    let right = payload(&name, &image);
    for (wrong, by, why) in [
        (right.clone(), &stranger, "no key of the policy"),
        (payload(&name, &Digest::of("another")), &team, "it is for sha256:"),
        (payload(&fake.name("team/old"), &image), &team, "made for"),
        (right.replace("container image", "something"), &team, "not of an image"),
        ("{}".to_owned(), &team, "not understood"),
    ] {
        put(&fake, &image, &[(wrong.clone(), by.sign(&wrong))]);
        let refusal = verdict(&strict).await.unwrap_err();
        assert!(refusal.contains(why), "{refusal}");
    }
    // A signature of other bytes.
    put(&fake, &image, &[(right.clone(), team.sign("x"))]);
    verdict(&strict).await.unwrap_err();

    let moved = payload(&fake.name("team/old"), &image);
    put(&fake, &image, &[(moved.clone(), team.sign(&moved))]);
    let lax = policy(folder.path(), &format!("{rule}any_name = true"));
    assert_eq!(verdict(&lax).await, Ok(Verdict::Signed(key.clone())));

    put(&fake, &image, &[(right.clone(), stranger.sign(&right)), (right.clone(), team.sign(&right))]);
    assert_eq!(verdict(&strict).await, Ok(Verdict::Signed(key)));

    let other = policy(folder.path(), "repositories = 'r.example'\nwant = 'nothing'");
    assert!(verdict(&other).await.unwrap_err().contains("refuses this repository"));
    let open = policy(folder.path(), &format!("repositories = '{}'\nwant = 'nothing'", fake.authority()));
    assert_eq!(verdict(&open).await, Ok(Verdict::NotWanted));
}

#[tokio::test]
async fn signatures_among_the_referrers_and_an_absent_answer() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("team.pub");
    let team = Signer::new(&key);
    let fake = Fake::start().await;
    let image = Digest::of("image");
    let repository = repository(&fake, "app").await;
    let strict =
        policy(folder.path(), &format!("repositories = '{}'\nkeys = ['team.pub']", fake.authority()));
    let right = payload(&fake.name("app"), &image);
    let signature = holder(&fake, &[(right.clone(), team.sign(&right))]);
    let digest = fake.manifest("unused", MediaType::OCI_MANIFEST, &signature);
    let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [
        { "mediaType": MediaType::OCI_MANIFEST, "digest": digest.to_string(), "size": signature.len(),
          "artifactType": "application/vnd.dev.cosign.artifact.sig.v1+json" }]});
    fake.answer(http::Method::GET, "/referrers/", 1, 200, &index.to_string());
    assert_eq!(repository.verify(&strict, &image).await.unwrap(), Verdict::Signed(key));
    // A registry that cannot say whether there are signatures is no reason to do without.
    fake.answer(http::Method::GET, ".sig", 9, 403, "{}");
    repository.verify(&strict, &image).await.unwrap_err();
}

#[tokio::test]
async fn keys_and_signatures_of_openssl_are_understood() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIP: openssl is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"]);
    openssl(&["ec", "-in", "key.pem", "-pubout", "-out", "key.pub"]);
    let fake = Fake::start().await;
    let image = Digest::of("image");
    let text = payload(&fake.name("app"), &image);
    std::fs::write(folder.path().join("payload"), &text).unwrap();
    let signature = BASE64.encode(openssl(&["dgst", "-sha256", "-sign", "key.pem", "payload"]));
    put(&fake, &image, &[(text, signature)]);
    let strict = policy(folder.path(), &format!("repositories = '{}'\nkeys = ['key.pub']", fake.authority()));
    let verdict = repository(&fake, "app").await.verify(&strict, &image).await.unwrap();
    assert_eq!(verdict, Verdict::Signed(folder.path().join("key.pub")));
}
