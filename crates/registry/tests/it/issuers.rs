//! Tokens of another server: real signatures by RSA and P-256, and what is wrong with others.

use crate::client::Client;
use crate::served::Served;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// An RSA key of 2048 bits that only this test knows, PKCS #8. `ring` makes none.
const RSA: &[u8] = include_bytes!("rsa-key.pk8");

/// Another server.
struct Issuer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    random: SystemRandom,
}

impl Issuer {
    fn new() -> Self {
        let (random, kind) = (SystemRandom::new(), &signature::ECDSA_P256_SHA256_FIXED_SIGNING);
        let made = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let p256 = EcdsaKeyPair::from_pkcs8(kind, made.as_ref(), &random).unwrap();
        Self { rsa: RsaKeyPair::from_pkcs8(RSA).unwrap(), p256, random }
    }

    /// Its keys as a JSON Web Key Set.
    fn key_set(&self) -> Value {
        let rsa = signature::RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        let point = self.p256.public_key().as_ref();
        json!({ "keys": [
            { "kty": "RSA", "kid": "rsa", "use": "sig", "n": BASE64.encode(rsa.n), "e": BASE64.encode(rsa.e) },
            { "kty": "EC", "crv": "P-256", "kid": "p256",
              "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..]) },
            { "kty": "oct", "kid": "of another kind", "k": "c2VjcmV0" },
        ] })
    }

    fn sign(&self, algorithm: &str, text: &[u8]) -> Vec<u8> {
        match algorithm {
            "RS256" => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                self.rsa.sign(&signature::RSA_PKCS1_SHA256, &self.random, text, &mut signature).unwrap();
                signature
            }
            "ES256" => self.p256.sign(&self.random, text).unwrap().as_ref().to_vec(),
            // The public key as a secret: what a verifier does that believes the header.
            "HS256" => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.rsa.public().as_ref());
                ring::hmac::sign(&key, text).as_ref().to_vec()
            }
            _ => Vec::new(),
        }
    }

    /// A token with this header, whose signature is by `algorithm`.
    fn token(&self, header: &Value, claims: &Value, algorithm: &str) -> String {
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        format!("{signed}.{}", BASE64.encode(self.sign(algorithm, signed.as_bytes())))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that are right, with `more` in their place.
fn claims(more: &Value) -> Value {
    let mut claims = json!({ "iss": "auth.example.com", "sub": "alice", "aud": "registry.example.com",
        "exp": now() + 300, "nbf": now() - 10, "iat": now(), "jti": "1",
        "access": [{ "type": "repository", "name": "team/app", "actions": ["pull", "push"] }] });
    for (key, value) in more.as_object().into_iter().flatten() {
        claims[key] = value.clone();
    }
    claims
}

fn registry(folder: &Path, keys: &Value) -> Served {
    let path = folder.join("keys.json");
    std::fs::write(&path, keys.to_string()).unwrap();
    Served::new(&format!(
        "[auth.token]\nservice = 'registry.example.com'\nissuer = 'auth.example.com'\n\
         realm = 'https://auth.example.com/token'\nkeys = '{}'\n",
        path.display()
    ))
}

/// A registry that takes the tokens of an issuer.
fn both() -> (Issuer, Served, TempDir) {
    let (issuer, folder) = (Issuer::new(), tempfile::tempdir().unwrap());
    let served = registry(folder.path(), &issuer.key_set());
    (issuer, served, folder)
}

fn with(served: &Served, token: &str) -> Client {
    served.client.with(format!("Bearer {token}"))
}

#[test]
fn tokens_of_either_algorithm_are_taken() {
    let (issuer, served, _folder) = both();
    let challenge = served.client.get("/v2/").refused(401, "UNAUTHORIZED");
    assert_eq!(
        challenge.header("WWW-Authenticate"),
        Some("Bearer realm=\"https://auth.example.com/token\",service=\"registry.example.com\"")
    );
    for (algorithm, id) in [("RS256", "rsa"), ("ES256", "p256")] {
        let headers = [json!({ "typ": "JWT", "alg": algorithm, "kid": id }), json!({ "alg": algorithm })];
        for header in &headers {
            let client = with(&served, &issuer.token(header, &claims(&json!({})), algorithm));
            client.get("/v2/").expect(200);
            client.push_image("team/app", algorithm, algorithm);
            client.get(&format!("/v2/team/app/manifests/{algorithm}")).expect(200);
        }
    }
    served.client.get("/token?service=registry.example.com").expect(404);
}

#[test]
fn a_token_allows_what_it_says() {
    let (issuer, served, _folder) = both();
    let header = json!({ "alg": "ES256", "kid": "p256" });
    let token = |access: Value| issuer.token(&header, &claims(&json!({ "access": access })), "ES256");
    let scope =
        |name: &str, actions: Value| json!([{ "type": "repository", "name": name, "actions": actions }]);
    with(&served, &token(scope("team/app", json!(["*"])))).push_image("team/app", "v1", "first");
    let (read, push, delete) =
        ("/v2/team/app/manifests/v1", "/v2/team/app/blobs/uploads/", "/v2/team/app/manifests/v1");
    let cases = [
        (scope("team/app", json!(["pull"])), (200, 401, 401)),
        (scope("team/app", json!(["push"])), (401, 202, 401)),
        (scope("team/app", json!(["pull", "push"])), (200, 202, 401)),
        (scope("team/other", json!(["*"])), (401, 401, 401)),
        (scope("team/app", json!([])), (401, 401, 401)),
        (scope("team/app", json!(["unheard", "of"])), (401, 401, 401)),
        (json!([{ "type": "registry", "name": "catalog", "actions": ["*"] }]), (401, 401, 401)),
        (json!([]), (401, 401, 401)),
        (Value::Null, (401, 401, 401)),
    ];
    for (access, want) in cases {
        let client = with(&served, &token(access.clone()));
        let got = (
            client.get(read).status,
            client.send("POST", push, &[], b"").status,
            client.delete(delete).status,
        );
        assert_eq!(got, want, "{access}");
    }
    let refused = with(&served, &token(scope("team/app", json!(["pull"])))).delete(delete);
    let challenge = refused.header("WWW-Authenticate").unwrap().to_owned();
    assert!(
        challenge.ends_with("scope=\"repository:team/app:delete\",error=\"insufficient_scope\""),
        "{challenge}"
    );
    let lister = token(json!([{ "type": "registry", "name": "catalog", "actions": ["*"] }]));
    with(&served, &lister).get("/v2/_catalog").expect(200);
    with(&served, &token(scope("team/app", json!(["delete"])))).delete(delete).expect(202);
}

#[test]
fn claims_have_to_be_right() {
    let (issuer, served, _folder) = both();
    let cases = [
        (json!({}), true),
        (json!({ "aud": ["another", "registry.example.com"] }), true),
        // Clocks may differ by a minute.
        (json!({ "exp": now() - 30 }), true),
        (json!({ "nbf": now() + 30 }), true),
        (json!({ "exp": now() - 90 }), false),
        (json!({ "nbf": now() + 120 }), false),
        (json!({ "exp": Value::Null }), false),
        (json!({ "exp": -1 }), false),
        (json!({ "iss": "other.example.com" }), false),
        (json!({ "iss": Value::Null }), false),
        (json!({ "aud": "other.example.com" }), false),
        (json!({ "aud": ["registry.example.com.evil"] }), false),
        (json!({ "aud": [] }), false),
        (json!({ "aud": Value::Null }), false),
        (json!({ "access": "everything" }), false),
    ];
    for (more, is_right) in cases {
        for (algorithm, id) in [("RS256", "rsa"), ("ES256", "p256")] {
            let header = json!({ "alg": algorithm, "kid": id });
            let answer = with(&served, &issuer.token(&header, &claims(&more), algorithm)).get("/v2/");
            assert_eq!(answer.status, if is_right { 200 } else { 401 }, "{algorithm} {more}");
        }
    }
}

#[test]
fn a_token_does_not_choose_how_it_is_checked() {
    let (issuer, served, _folder) = both();
    // What the header says, and what the signature is made with.
    let cases = [
        (json!({ "alg": "none" }), "none"),
        (json!({ "alg": "none", "kid": "rsa" }), "RS256"),
        (json!({ "alg": "HS256", "kid": "rsa" }), "HS256"),
        (json!({ "alg": "RS256", "kid": "rsa" }), "HS256"),
        (json!({ "alg": "HS256", "kid": "of another kind" }), "HS256"),
        (json!({ "alg": "ES256", "kid": "rsa" }), "ES256"),
        (json!({ "alg": "RS256", "kid": "p256" }), "RS256"),
        (json!({ "alg": "RS256", "kid": "p256" }), "ES256"),
        (json!({ "alg": "RS256", "kid": "unknown" }), "RS256"),
        (json!({ "alg": "RS512", "kid": "rsa" }), "RS256"),
        (json!({ "alg": "rs256", "kid": "rsa" }), "RS256"),
        (json!({ "kid": "rsa" }), "RS256"),
        (json!("RS256"), "RS256"),
    ];
    for (header, algorithm) in cases {
        let answer = with(&served, &issuer.token(&header, &claims(&json!({})), algorithm)).get("/v2/");
        let challenge = answer.refused(401, "UNAUTHORIZED").header("WWW-Authenticate").unwrap().to_owned();
        assert!(challenge.ends_with("error=\"invalid_token\""), "{header} {challenge}");
    }
    // Another server with keys of the same names.
    let stranger = Issuer::new();
    let header = json!({ "alg": "ES256", "kid": "p256" });
    with(&served, &stranger.token(&header, &claims(&json!({})), "ES256")).get("/v2/").expect(401);
    // Claims that were changed after they were signed.
    let token = issuer.token(&header, &claims(&json!({})), "ES256");
    let parts: Vec<&str> = token.split('.').collect();
    let other = BASE64.encode(claims(&json!({ "sub": "mallory" })).to_string());
    with(&served, &format!("{}.{other}.{}", parts[0], parts[2])).get("/v2/").expect(401);
}
