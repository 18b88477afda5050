//! Content hashes: `sha256:<64 hex>`.

use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::SerializableState as _;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io;
use std::str::FromStr;

/// A SHA-256 content hash. Printed and parsed as `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is no digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    /// No `algorithm:` in front.
    #[error("invalid checksum digest format: {0:?} has no algorithm prefix")]
    Format(String),
    /// An algorithm that Yare does not know.
    #[error("unsupported digest algorithm {0:?}")]
    Algorithm(String),
    /// Not as many lower-case hex digits as the algorithm has.
    #[error("invalid checksum digest length or characters in {0:?}")]
    Hex(String),
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes.as_ref()).into())
    }

    /// The digest with this value.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 12 hex digits, as people see them.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// Parses 64 hex digits without an algorithm.
    pub fn from_hex(text: &str) -> Result<Self, DigestError> {
        parse_hex(text).map(Self)
    }
}

/// Parses so many bytes as lower-case hex digits.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], DigestError> {
    let bad = || DigestError::Hex(text.to_owned());
    if text.len() != 2 * N || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(bad());
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| bad())?;
    Ok(bytes)
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.split_once(':') {
            Some(("sha256", hex)) => Self::from_hex(hex),
            Some((algorithm, _)) => Err(DigestError::Algorithm(algorithm.to_owned())),
            None => Err(DigestError::Format(text.to_owned())),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! digest_newtype {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// The 64 hex digits, without the algorithm.
            pub fn hex(&self) -> String {
                self.0.hex()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    };
}

digest_newtype! {
    /// The digest of a layer's uncompressed tar.
    DiffId
}
digest_newtype! {
    /// The digest of a stack of layers, bottom first (image-spec, config.md, "Layer ChainID").
    ChainId
}

impl ChainId {
    /// The chain of a single bottom layer.
    pub fn of_bottom(layer: DiffId) -> Self {
        Self(layer.0)
    }

    /// This chain with one more layer on top.
    #[must_use]
    pub fn then(self, layer: DiffId) -> Self {
        Self(Digest::of(format!("{} {}", self.0, layer.0)))
    }

    /// The chain of these layers, bottom first; `None` for no layer at all.
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        let (first, rest) = layers.split_first()?;
        Some(rest.iter().fold(Self::of_bottom(*first), |chain, layer| chain.then(*layer)))
    }
}

/// Hashes a stream piece by piece.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }

    /// What there is to remember in order to go on later, in another process perhaps.
    pub fn state(&self) -> Vec<u8> {
        self.0.serialize().to_vec()
    }

    /// Goes on from a state that [`Hasher::state`] told; `None` when it is none.
    pub fn from_state(state: &[u8]) -> Option<Self> {
        let state = state.try_into().ok()?;
        Sha256::deserialize(&state).ok().map(Self)
    }
}

/// What is written is added; it never fails.
impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_lower_case_sha256() {
        let text = format!("sha256:{}", "a".repeat(64));
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        assert!(format!("sha256:{}", "A".repeat(64)).parse::<Digest>().is_err());
        assert!("sha512:aa".parse::<Digest>().is_err());
        assert!("aa".parse::<Digest>().is_err());
        assert!(format!("sha256:{}", "a".repeat(63)).parse::<Digest>().is_err());
    }

    #[test]
    fn chain_of_one_layer_is_the_layer() {
        let layer = DiffId(Digest::of("x"));
        assert_eq!(ChainId::of(&[layer]).unwrap().0, layer.0);
        assert_eq!(ChainId::of(&[]), None);
    }

    #[test]
    fn a_hasher_goes_on_from_its_state() {
        let text = "x".repeat(200);
        for cut in [0, 1, 63, 64, 65, 128, 200] {
            let mut hasher = Hasher::new();
            hasher.update(&text.as_bytes()[..cut]);
            let mut again = Hasher::from_state(&hasher.state()).unwrap();
            again.update(&text.as_bytes()[cut..]);
            assert_eq!(again.finish(), Digest::of(&text), "{cut}");
        }
        assert!(Hasher::from_state(b"short").is_none());
    }

    #[test]
    fn hasher_and_of_agree() {
        let mut hasher = Hasher::new();
        hasher.update(b"he");
        hasher.update(b"llo");
        assert_eq!(hasher.finish(), Digest::of("hello"));
    }
}
