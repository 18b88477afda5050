//! Reading JSON documents that others wrote.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use yare_errdefs::{Error, Result};

/// The longest document that is read, in bytes.
pub(crate) const LIMIT: u64 = 8 << 20;

/// What a manifest-like document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Has `manifests`.
    Index,
    /// Has `layers` and `config`.
    Manifest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
}

/// Parses a document; `what` names it in the error.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    check_size(bytes.len() as u64, what)?;
    serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid(format!("cannot read {what}")).caused_by(error))
}

/// Refuses documents that are too long to be honest.
pub(crate) fn check_size(size: u64, what: &str) -> Result<()> {
    if size > LIMIT {
        return Err(Error::invalid(format!(
            "{what} is {size} bytes long, and documents have at most {LIMIT}"
        )));
    }
    Ok(())
}

/// Tells manifests from indexes by their members, and refuses what could be read as both.
pub(crate) fn kind(bytes: &[u8], what: &str) -> Result<Kind> {
    let probe: Probe = parse(bytes, what)?;
    match probe {
        Probe { manifests: Some(_), layers: None, config: None, fs_layers: None } => Ok(Kind::Index),
        Probe { manifests: None, layers: Some(_), fs_layers: None, .. } => Ok(Kind::Manifest),
        Probe { manifests: Some(_), .. } => Err(Error::invalid(format!(
            "{what} has both manifests and layers or config: it could be read in two ways and is refused"
        ))),
        Probe { fs_layers: Some(_), .. } => {
            Err(Error::invalid(format!("{what} is of schema version 1, which is no longer supported")))
        }
        _ => Err(Error::invalid(format!("{what} is neither an image manifest nor an index"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_document_that_could_be_two_things() {
        let both = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(kind(both, "m").unwrap_err().to_string().contains("two ways"));
        assert!(kind(br#"{"manifests":[],"config":{}}"#, "m").is_err());
        assert!(kind(br#"{"layers":[],"layers":[]}"#, "m").is_err());
        assert_eq!(kind(br#"{"manifests":[]}"#, "m").unwrap(), Kind::Index);
        assert_eq!(kind(br#"{"layers":[],"config":{}}"#, "m").unwrap(), Kind::Manifest);
        assert!(kind(b"{}", "m").is_err());
        assert!(kind(b"[]", "m").is_err());
    }

    #[test]
    fn refuses_documents_over_the_limit() {
        let error = parse::<serde_json::Value>(&vec![b' '; LIMIT as usize + 1], "the manifest").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the manifest is 8388609 bytes long, and documents have at most 8388608"
        );
    }
}
