//! Bundles of cosign 3 (`cosign sign`): Sigstore's bundle 0.3, which holds a DSSE envelope, whose payload is an
//! in-toto statement about the image's digest.
//!
//! ```text
//! { "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
//!   "verificationMaterial": { "publicKey": { "hint": "…" } },
//!   "dsseEnvelope": { "payloadType": "application/vnd.in-toto+json", "payload": BASE64,
//!                     "signatures": [{ "sig": BASE64 }] } }
//!
//! { "_type": "https://in-toto.io/Statement/v1", "predicateType": "https://sigstore.dev/cosign/sign/v1",
//!   "subject": [{ "digest": { "sha256": HEX } }], "predicate": {} }
//! ```
//!
//! A key of the policy decides, not what the bundle says of its key; log entries and timestamps are left
//! aside. A statement of another predicate type is an attestation and does not sign the image. cosign writes
//! no `name` into the subject: such a signature is for every repository that has the image.

use super::keys::Key;
use super::{Wanted, made_for};
use crate::Referrer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// The type of a bundle, in its manifest and its layer.
pub(super) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The largest bundle, in bytes.
pub(super) const LARGEST: u64 = 256 << 10;
/// Where the list of referrers says what a bundle states.
const STATES: &str = "dev.sigstore.bundle.predicateType";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    #[serde(default)]
    verification_material: Material,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Material {
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    name: String,
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

/// Whether a referrer may be a bundle with a signature. What the list says is a hint: it spares the fetching
/// of attestations.
pub(super) fn may_sign(referrer: &Referrer) -> bool {
    referrer.artifact_type.as_deref() == Some(BUNDLE)
        && referrer.annotations.get(STATES).is_none_or(|states| states == SIGNATURE)
}

/// Which key made the signature of a bundle, or why it is not good.
pub(super) fn judge<'a>(bundle: &[u8], keys: &'a [Key], wanted: &Wanted<'_>) -> Result<&'a Key, String> {
    let bundle: Bundle =
        serde_json::from_slice(bundle).map_err(|error| format!("its bundle is not understood: {error}"))?;
    if bundle.media_type != BUNDLE {
        return Err(format!("its bundle is a {:?}", bundle.media_type));
    }
    let envelope = bundle.dsse_envelope.ok_or("its bundle holds no envelope")?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(format!("its envelope holds a {:?} and no statement", envelope.payload_type));
    }
    let [Signature { sig }] = envelope.signatures.as_slice() else {
        return Err(format!("its envelope has {} signatures, and not one", envelope.signatures.len()));
    };
    let decode =
        |text: &str| BASE64.decode(text).map_err(|error| format!("its envelope is no base64: {error}"));
    let (payload, signature) = (decode(&envelope.payload)?, decode(sig)?);
    let signed = encoding(&payload);
    let Some(key) = keys.iter().find(|key| key.made(&signature, &signed)) else {
        let material = bundle.verification_material;
        return Err(match material.certificate.or(material.x509_certificate_chain) {
            Some(_) => "no key of the policy made it; it has a certificate, and keyless signatures are not \
                        built into Yare"
                .to_owned(),
            None => "no key of the policy made it".to_owned(),
        });
    };
    about(&payload, wanted)?;
    Ok(key)
}

/// What is signed: DSSE's "pre-authentication encoding".
fn encoding(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Whether a signed statement is a signature of this manifest in this repository.
fn about(statement: &[u8], wanted: &Wanted<'_>) -> Result<(), String> {
    let statement: Statement = serde_json::from_slice(statement)
        .map_err(|error| format!("its statement is not understood: {error}"))?;
    if statement.kind != STATEMENT {
        return Err(format!("its statement is a {:?}", statement.kind));
    }
    if statement.predicate_type != SIGNATURE {
        return Err(format!("it states a {:?} and signs no image", statement.predicate_type));
    }
    let hex = wanted.manifest.hex();
    let mut why = format!("none of its {} subjects is this image", statement.subject.len());
    for subject in statement.subject.iter().filter(|subject| subject.digest.get("sha256") == Some(&hex)) {
        match (wanted.any_name, subject.name.as_str()) {
            (true, _) => return Ok(()),
            (false, "") => {
                why = "it names no repository, as cosign 3 makes it; any_name = true in the policy takes it"
                    .to_owned();
            }
            (false, name) => match made_for(name, wanted) {
                Ok(()) => return Ok(()),
                Err(other) => why = other,
            },
        }
    }
    Err(why)
}
