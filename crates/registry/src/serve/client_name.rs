//! Whom a client certificate names: the common name of its subject (X.509, RFC 5280, 4.1.2.6).
//!
//! The certificate was verified against the configured authorities before it gets here. Only as much of DER
//! is read as leads to the subject; what is not as expected names nobody.

use yare_tls::der::{INTEGER, SEQUENCE, expect, value};

/// The object identifier of common names, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// The longest name that X.520 allows (ub-common-name).
const LONGEST: usize = 64;

const OBJECT: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const SET: u8 = 0x31;
/// The tag of the version, which may be left out.
const VERSION: u8 = 0xa0;

/// The common name of a certificate's subject, when it has exactly one and that can be a user's name.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (mut fields, _) = expect(SEQUENCE, certificate)?;
    if let Some((_, rest)) = expect(VERSION, fields) {
        fields = rest;
    }
    // Serial number, algorithm, issuer, validity.
    for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE] {
        (_, fields) = expect(tag, fields)?;
    }
    let (mut subject, _) = expect(SEQUENCE, fields)?;
    let mut found = None;
    while !subject.is_empty() {
        let (mut attributes, rest) = expect(SET, subject)?;
        subject = rest;
        while !attributes.is_empty() {
            let (attribute, rest) = expect(SEQUENCE, attributes)?;
            attributes = rest;
            let (kind, name) = expect(OBJECT, attribute)?;
            if kind == COMMON_NAME && found.replace(text(name)?).is_some() {
                return None;
            }
        }
    }
    found
}

fn text(encoded: &[u8]) -> Option<String> {
    let (tag, content, rest) = value(encoded)?;
    let text = std::str::from_utf8(content).ok().filter(|_| [UTF8, PRINTABLE].contains(&tag))?;
    let is_name = !text.is_empty()
        && text.chars().count() <= LONGEST
        && !text.contains(|character: char| character == ':' || character.is_control());
    (is_name && rest.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, name) in names {
            params.distinguished_name.push(kind.clone(), *name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_is_found() {
        let names =
            [(DnType::OrganizationName, "Yare"), (DnType::CommonName, "alice"), (DnType::CountryName, "DE")];
        assert_eq!(common_name(&certificate(&names)).as_deref(), Some("alice"));
        assert_eq!(
            common_name(&certificate(&[(DnType::CommonName, "Zo\u{eb}")])).as_deref(),
            Some("Zo\u{eb}")
        );
        assert_eq!(common_name(&certificate(&[(DnType::OrganizationName, "alice")])), None);
    }

    #[test]
    fn what_can_be_no_user_names_nobody() {
        for name in ["", "a:b", "a\nb", &"x".repeat(65)] {
            assert_eq!(common_name(&certificate(&[(DnType::CommonName, name)])), None, "{name:?}");
        }
    }

    #[test]
    fn two_names_are_none() {
        let attribute =
            |name: u8| [&[SET, 10, SEQUENCE, 8, OBJECT, 3][..], COMMON_NAME, &[UTF8, 1, name]].concat();
        let with = |subject: &[u8]| {
            let named = [&[SEQUENCE, u8::try_from(subject.len()).unwrap()][..], subject].concat();
            let fields = [&[INTEGER, 0, SEQUENCE, 0, SEQUENCE, 0, SEQUENCE, 0][..], &named].concat();
            let inner = [&[SEQUENCE, u8::try_from(fields.len()).unwrap()][..], &fields].concat();
            [&[SEQUENCE, u8::try_from(inner.len()).unwrap()][..], &inner].concat()
        };
        assert_eq!(common_name(&with(&attribute(b'a'))).as_deref(), Some("a"));
        assert_eq!(common_name(&with(&[attribute(b'a'), attribute(b'b')].concat())), None);
    }

    #[test]
    fn hostile_bytes_end_in_nobody_or_a_name() {
        let whole = certificate(&[(DnType::CommonName, "alice")]);
        for end in 0..whole.len() {
            assert_eq!(common_name(&whole[..end]), None, "a certificate that was cut");
        }
        for at in 0..whole.len() {
            for byte in [0, 0x7f, 0x80, 0x83, 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _ = common_name(&changed);
            }
        }
    }
}
