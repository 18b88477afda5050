//! The public keys of a policy: PEM files with a SubjectPublicKeyInfo, as cosign and openssl write them.

use super::read_file;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use std::path::PathBuf;
use yare_tls::der::{BIT_STRING, INTEGER, SEQUENCE, expect};

const KNOWN: &str = "known are ECDSA P-256 and P-384 (P-521 is not), RSA of 2048 to 8192 bits and Ed25519";
/// Bits of an RSA key.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The most bytes of a key's DER, several times what the longest takes.
const LONGEST: usize = 64 << 10;

/// How a key is written.
enum Form {
    /// A point that is not compressed, in so many bytes.
    Point(usize),
    /// So many bytes.
    Bytes(usize),
    /// Two numbers.
    Rsa,
}

/// A kind of keys.
struct Kind {
    /// The content of its AlgorithmIdentifier in DER (RFC 5480, 8017, 8410).
    id: &'static [u8],
    form: Form,
    /// How its signatures are made: by cosign, by its predecessors, by key services.
    makes: &'static [&'static dyn VerificationAlgorithm],
}

static KINDS: [Kind; 4] = [
    Kind {
        id: b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
        form: Form::Point(65),
        makes: &[&ECDSA_P256_SHA256_ASN1],
    },
    Kind {
        id: b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
        form: Form::Point(97),
        makes: &[&ECDSA_P384_SHA384_ASN1, &ECDSA_P384_SHA256_ASN1],
    },
    Kind {
        id: b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00",
        form: Form::Rsa,
        makes: &[&RSA_PKCS1_2048_8192_SHA256, &RSA_PSS_2048_8192_SHA256],
    },
    Kind { id: b"\x06\x03\x2b\x65\x70", form: Form::Bytes(32), makes: &[&ED25519] },
];

/// A public key.
pub(super) struct Key {
    pub(super) file: PathBuf,
    kind: &'static Kind,
    bytes: Vec<u8>,
}

impl Key {
    /// Reads a file.
    pub(super) fn read(file: PathBuf) -> Result<Self, String> {
        let (kind, bytes) = parse(&read_file(&file)?)?;
        Ok(Self { file, kind, bytes })
    }

    /// Whether it made this signature of these bytes.
    pub(super) fn made(&self, signature: &[u8], bytes: &[u8]) -> bool {
        let by = |how: &&'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(*how, &self.bytes).verify(bytes, signature).is_ok()
        };
        self.kind.makes.iter().any(by)
    }
}

fn parse(text: &str) -> Result<(&'static Kind, Vec<u8>), String> {
    let der = pem(text).ok_or("want a PEM public key (BEGIN PUBLIC KEY), as cosign writes it")?;
    let (id, key) = public_key(&der).ok_or("its content is no public key")?;
    let Some(kind) = KINDS.iter().find(|kind| kind.id == id) else {
        return Err(format!("the key is of a kind that is not known; {KNOWN}"));
    };
    let is_right = match kind.form {
        Form::Point(length) => key.len() == length && key.first() == Some(&4),
        Form::Bytes(length) => key.len() == length,
        Form::Rsa => {
            let bits = modulus_bits(key).ok_or("its content is no RSA key")?;
            if !RSA_BITS.contains(&bits) {
                return Err(format!("the RSA key has {bits} bits; {KNOWN}"));
            }
            true
        }
    };
    if !is_right {
        return Err("its content is no public key in the usual form".to_owned());
    }
    Ok((kind, key.to_vec()))
}

fn pem(text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
    let (body, _) = rest.split_once("-----END PUBLIC KEY-----")?;
    BASE64.decode(body.split_whitespace().collect::<String>()).ok()
}

/// Algorithm and key of a SubjectPublicKeyInfo.
fn public_key(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (info, []) = expect(SEQUENCE, der).filter(|_| der.len() <= LONGEST)? else { return None };
    let (algorithm, rest) = expect(SEQUENCE, info)?;
    let (bits, []) = expect(BIT_STRING, rest)? else { return None };
    // A key is whole bytes: none of the bits of the last one is unused.
    Some((algorithm, bits.strip_prefix(&[0])?))
}

/// How many bits an RSA key has.
fn modulus_bits(key: &[u8]) -> Option<usize> {
    let (numbers, []) = expect(SEQUENCE, key)? else { return None };
    let (modulus, _) = expect(INTEGER, numbers)?;
    let start = modulus.iter().position(|byte| *byte != 0)?;
    Some((modulus.len() - start) * 8 - modulus[start].leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(der: &[u8]) -> String {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(der))
    }

    fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], length.as_slice(), content].concat()
    }

    fn info(id: &[u8], key: &[u8]) -> Vec<u8> {
        tagged(SEQUENCE, &[tagged(SEQUENCE, id), tagged(BIT_STRING, &[&[0], key].concat())].concat())
    }

    fn rsa(bytes: usize, first: u8) -> Vec<u8> {
        let modulus = [&[0, first], vec![1; bytes - 1].as_slice()].concat();
        let numbers = [tagged(INTEGER, &modulus), tagged(INTEGER, &[1, 0, 1])].concat();
        info(KINDS[2].id, &tagged(SEQUENCE, &numbers))
    }

    #[test]
    fn each_kind_has_its_size() {
        let point = |length: usize| [&[4], vec![7; length - 1].as_slice()].concat();
        for good in [
            info(KINDS[0].id, &point(65)),
            info(KINDS[1].id, &point(97)),
            info(KINDS[3].id, &[7; 32]),
            rsa(256, 0x80),
            rsa(1024, 0xff),
        ] {
            assert!(parse(&file(&good)).is_ok(), "{good:?}");
        }
        let p521 = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23";
        for (bad, why) in [
            (info(KINDS[0].id, &point(97)), "usual form"),
            (info(KINDS[1].id, &[3; 97]), "usual form"),
            (info(KINDS[3].id, &[7; 33]), "usual form"),
            (info(p521, &point(133)), "not known"),
            (rsa(256, 0x7f), "2047 bits"),
            (rsa(128, 0x80), "1024 bits"),
            (rsa(1025, 0x80), "8200 bits"),
            (info(KINDS[2].id, b"x"), "no RSA key"),
            ([rsa(256, 0x80), vec![0]].concat(), "no public key"),
            (tagged(SEQUENCE, b""), "no public key"),
            (vec![SEQUENCE, 0x84, 0, 0, 0, 0], "no public key"),
            (vec![SEQUENCE, 5], "no public key"),
            (Vec::new(), "no public key"),
        ] {
            let error = parse(&file(&bad)).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
        assert!(parse("-----BEGIN CERTIFICATE-----").err().unwrap().contains("PEM public key"));
    }
}
