//! Signatures by policy. The keys and signatures are made as cosign makes them, by ring and, where it is
//! installed, by openssl.

use crate::fake::Fake;
use crate::repository;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use yare_distribution::{Policy, Verdict};
use yare_errdefs::{Class, Classified};
use yare_oci::{Digest, MediaType};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

#[derive(Clone)]
struct Signer(Arc<EcdsaKeyPair>);

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
        Self(Arc::new(pair))
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

/// What a bundle is made of.
struct Parts {
    media_type: &'static str,
    payload_type: &'static str,
    statement: Value,
    /// Who signs it, in order.
    by: Vec<Signer>,
    material: Value,
}

impl Parts {
    /// As `cosign sign --key` of cosign 3 makes them.
    fn of(image: &Digest, by: &Signer) -> Self {
        Self {
            media_type: BUNDLE,
            payload_type: "application/vnd.in-toto+json",
            statement: json!({ "_type": "https://in-toto.io/Statement/v1",
                "subject": [{ "digest": { "sha256": image.hex() } }],
                "predicateType": "https://sigstore.dev/cosign/sign/v1", "predicate": {} }),
            by: vec![by.clone()],
            material: json!({ "publicKey": { "hint": "team" }, "tlogEntries": [] }),
        }
    }

    fn bundle(&self) -> String {
        let (kind, payload) = (self.payload_type, self.statement.to_string());
        let signed = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
        let signatures: Vec<_> = self.by.iter().map(|by| json!({ "sig": by.sign(&signed) })).collect();
        json!({ "mediaType": self.media_type, "verificationMaterial": self.material, "dsseEnvelope": {
            "payload": BASE64.encode(payload), "payloadType": kind, "signatures": signatures } })
        .to_string()
    }
}

/// Puts bundles among the referrers of an image; what the list says that they state comes with each.
fn refer(fake: &Fake, image: &Digest, bundles: &[(&str, Option<&str>)]) {
    let config = fake.blob("{}");
    let entry = |(bundle, states): &(&str, Option<&str>)| {
        let blob = fake.blob((*bundle).to_owned());
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "artifactType": BUNDLE,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config.digest.to_string(),
                        "size": 2 },
            "layers": [{ "mediaType": BUNDLE, "digest": blob.digest.to_string(), "size": blob.size }] })
            .to_string();
        let digest = fake.manifest("unused", MediaType::OCI_MANIFEST, &manifest);
        let mut entry = json!({ "mediaType": MediaType::OCI_MANIFEST, "digest": digest.to_string(),
                                "size": manifest.len(), "artifactType": BUNDLE });
        if let Some(states) = states {
            entry["annotations"] = json!({ "dev.sigstore.bundle.predicateType": states });
        }
        entry
    };
    let entries: Vec<_> = bundles.iter().map(entry).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries });
    fake.page(&format!("/v2/app/referrers/{image}"), &index.to_string());
}

#[tokio::test]
async fn a_bundle_of_cosign_3_signs_an_image_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("team.pub");
    let team = Signer::new(&key);
    let fake = Fake::start().await;
    let image = Digest::of("image");
    let repository = repository(&fake, "app").await;
    let rule = format!("repositories = '{}'\nkeys = ['team.pub']\n", fake.authority());
    let strict = policy(folder.path(), &rule);
    let lax = policy(folder.path(), &format!("{rule}any_name = true"));
    let good = Parts::of(&image, &team);
    refer(&fake, &image, &[(&good.bundle(), None)]);
    assert_eq!(repository.verify(&lax, &image).await.unwrap(), Verdict::Signed(key.clone()));
    // It names no repository, and the policy wants a signature that was made for this one.
    let refusal = repository.verify(&strict, &image).await.unwrap_err();
    assert!(refusal.to_string().contains("any_name = true in the policy takes it"), "{refusal}");
    let mut named = Parts::of(&image, &team);
    for (name, good) in [(fake.name("app"), true), (fake.name("old"), false), ("//".to_owned(), false)] {
        named.statement["subject"][0]["name"] = json!(name);
        refer(&fake, &image, &[(&named.bundle(), None)]);
        assert_eq!(repository.verify(&strict, &image).await.is_ok(), good, "{name}");
        repository.verify(&lax, &image).await.unwrap();
    }
    // Attestations beside it are not even fetched, and a bad bundle does not hide a good one.
    let (attested, huge) = ("an attestation", "x".repeat(300 << 10));
    let states = Some("https://sigstore.dev/cosign/sign/v1");
    let bundles =
        [(attested, Some("https://slsa.dev/provenance/v1")), (&huge, None), (&good.bundle(), states)];
    refer(&fake, &image, &bundles);
    repository.verify(&lax, &image).await.unwrap();
    let is_fetched =
        |bytes: &str| fake.lines().iter().any(|line| line.contains(&Digest::of(bytes).to_string()));
    assert!(!is_fetched(attested) && !is_fetched(&huge));
    refer(&fake, &image, &bundles[..1]);
    let refusal = repository.verify(&lax, &image).await.unwrap_err();
    assert!(refusal.to_string().contains("it has no signature"), "{refusal}");
}

#[tokio::test]
async fn bundles_that_sign_no_image_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let team = Signer::new(&folder.path().join("team.pub"));
    let stranger = Signer::new(&folder.path().join("other.pub"));
    let fake = Fake::start().await;
    let image = Digest::of("image");
    let repository = repository(&fake, "app").await;
    let rule = format!("repositories = '{}'\nkeys = ['team.pub']\nany_name = true", fake.authority());
    let lax = policy(folder.path(), &rule);
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::of(&image, &team);
        change(&mut parts);
        parts.bundle()
    };
    let edited = |path: &str, value: Value| {
        let mut bundle: Value = serde_json::from_str(&Parts::of(&image, &team).bundle()).unwrap();
        *bundle.pointer_mut(path).unwrap() = value;
        bundle.to_string()
    };
    let other = Parts::of(&Digest::of("another"), &team);
    let other: Value = serde_json::from_str(&other.bundle()).unwrap();
    let predicate = |kind: &'static str| with(&move |parts| parts.statement["predicateType"] = json!(kind));
    for (bundle, why) in [
        (with(&|parts| parts.by = vec![stranger.clone()]), "no key of the policy made it)"),
        (
            with(&|parts| {
                parts.by = vec![stranger.clone()];
                parts.material = json!({ "certificate": { "rawBytes": "" } });
            }),
            "keyless signatures are not built",
        ),
        // Another one's payload, a signature of the bare payload, and a type that was not signed.
        (edited("/dsseEnvelope/payload", other["dsseEnvelope"]["payload"].clone()), "no key of the policy"),
        (edited("/dsseEnvelope/signatures/0/sig", json!(team.sign("{}"))), "no key of the policy"),
        (edited("/dsseEnvelope/payloadType", json!("text/plain")), "\"text/plain\" and no statement"),
        (with(&|parts| parts.payload_type = "application/json"), "and no statement"),
        (with(&|parts| parts.by.clear()), "0 signatures"),
        (with(&|parts| parts.by = vec![stranger.clone(), team.clone()]), "2 signatures"),
        (other.to_string(), "none of its 1 subjects"),
        (with(&|parts| parts.statement["subject"] = json!([])), "none of its 0 subjects"),
        (
            with(&|parts| parts.statement["subject"][0]["digest"] = json!({ "sha512": image.hex() })),
            "is this image",
        ),
        (with(&|parts| parts.statement["subject"] = json!({})), "not understood"),
        (
            predicate("https://slsa.dev/provenance/v1"),
            "\"https://slsa.dev/provenance/v1\" and signs no image",
        ),
        (predicate("https://sigstore.dev/cosign/sign/v1 "), "signs no image"),
        (with(&|parts| parts.statement["_type"] = json!("https://example.com/")), "its statement is a"),
        (
            with(&|parts| parts.media_type = "application/vnd.dev.sigstore.bundle+json;version=0.1"),
            "bundle is a",
        ),
        (edited("/dsseEnvelope", Value::Null), "no envelope"),
        (edited("/dsseEnvelope/payload", json!("%")), "no base64"),
        ("{}".to_owned(), "not understood"),
        ("x".repeat(300 << 10), "307200 bytes"),
    ] {
        refer(&fake, &image, &[(&bundle, None)]);
        let error = repository.verify(&lax, &image).await.unwrap_err();
        assert_eq!(error.class(), Class::PermissionDenied, "{error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

#[tokio::test]
async fn keys_and_signatures_of_openssl_are_understood() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIP: openssl is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let openssl = |args: &str| {
        let args = args.split(' ');
        let output = Command::new("openssl").args(args).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let make = |options: &str| {
        openssl(&format!("genpkey -out key.pem -algorithm {options}"));
        openssl("pkey -in key.pem -pubout -out key.pub");
    };
    let fake = Fake::start().await;
    let image = Digest::of("image");
    let text = payload(&fake.name("app"), &image);
    std::fs::write(folder.path().join("payload"), &text).unwrap();
    let repository = repository(&fake, "app").await;
    let rule = format!("repositories = '{}'\nkeys = ['key.pub']", fake.authority());
    let hashed = |hash: &str| format!("dgst -{hash} -sign key.pem");
    let pss = |salt: &str| hashed("sha256") + " -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:" + salt;
    let raw = "pkeyutl -sign -rawin -inkey key.pem -in".to_owned();
    for (key, ways) in [
        ("EC -pkeyopt ec_paramgen_curve:P-256", [(hashed("sha256"), true), (hashed("sha512"), false)]),
        ("EC -pkeyopt ec_paramgen_curve:P-384", [(hashed("sha256"), true), (hashed("sha384"), true)]),
        ("RSA -pkeyopt rsa_keygen_bits:2048", [(hashed("sha256"), true), (hashed("sha1"), false)]),
        ("RSA -pkeyopt rsa_keygen_bits:3072", [(pss("digest"), true), (pss("0"), false)]),
        ("ED25519", [(raw.clone(), true), (raw, true)]),
    ] {
        make(key);
        let strict = policy(folder.path(), &rule);
        for (way, good) in ways {
            let signature = BASE64.encode(openssl(&format!("{way} payload")));
            put(&fake, &image, &[(text.clone(), signature)]);
            assert_eq!(repository.verify(&strict, &image).await.is_ok(), good, "{key}, {way}");
        }
    }
    for (key, why) in [
        ("EC -pkeyopt ec_paramgen_curve:P-521", "a kind that is not known"),
        ("RSA -pkeyopt rsa_keygen_bits:1024", "1024 bits"),
    ] {
        make(key);
        let error = Policy::read(&folder.path().join("policy.toml")).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("key.pub"), "{error}");
    }
}
