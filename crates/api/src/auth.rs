//! The headers `X-Registry-Auth`, [`AuthConfig`] as JSON in base64url, and `X-Registry-Config`, several.

use crate::system::AuthConfig;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::collections::BTreeMap;
use yare_errdefs::Error;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);

/// Reads the header, padded or not, with either alphabet; an empty one is no credentials.
///
/// # Errors
/// Class invalid argument when it is not base64 or not JSON. The text never shows the header.
pub fn decode(header: &str) -> Result<AuthConfig, Error> {
    if header.is_empty() {
        return Ok(AuthConfig::default());
    }
    let bytes = URL
        .decode(header)
        .or_else(|_| STANDARD.decode(header))
        .map_err(|_| Error::invalid("invalid X-Registry-Auth header: not base64"))?;
    serde_json::from_slice(&bytes).map_err(|_| Error::invalid("invalid X-Registry-Auth header: not JSON"))
}

/// Writes the header.
pub fn encode(auth: &AuthConfig) -> String {
    URL.encode(serde_json::to_vec(auth).expect("texts are always JSON"))
}

/// Writes the `X-Registry-Config` header of a build: credentials by registry.
pub fn encode_all(auths: &BTreeMap<String, AuthConfig>) -> String {
    URL.encode(serde_json::to_vec(auths).expect("texts are always JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_clients_send() {
        assert_eq!(decode("").unwrap(), AuthConfig::default());
        assert_eq!(decode("e30=").unwrap(), AuthConfig::default());
        assert_eq!(decode("e30").unwrap(), AuthConfig::default());
        let auth = AuthConfig { username: "u".into(), password: "p?>~".into(), ..AuthConfig::default() };
        assert_eq!(decode(&encode(&auth)).unwrap(), auth);
        let error = decode("c2VjcmV0").unwrap_err().to_string();
        assert_eq!(error, "invalid X-Registry-Auth header: not JSON");
        assert!(decode("%%%").is_err());
    }
}
