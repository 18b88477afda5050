//! What others name content by: a digest of any registered algorithm.

use crate::digest::{Digest, DigestError, Hasher, parse_hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha512};
use std::fmt;
use std::str::FromStr;

/// A digest by one of the algorithms that the image-spec registers.
///
/// What this program stores it knows by [`Digest`], SHA-256; this is what a registry's clients, or another
/// registry, may call it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContentDigest {
    /// `sha256:` and 64 hex digits.
    Sha256(Digest),
    /// `sha512:` and 128 hex digits.
    Sha512([u8; 64]),
}

impl ContentDigest {
    /// The algorithm.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
        }
    }

    /// The digest, where it is one of SHA-256.
    pub fn sha256(&self) -> Option<Digest> {
        match self {
            Self::Sha256(digest) => Some(*digest),
            Self::Sha512(_) => None,
        }
    }

    /// A hasher by the algorithm of this digest.
    pub fn hasher(&self) -> ContentHasher {
        match self {
            Self::Sha256(_) => ContentHasher::Sha256(Hasher::new()),
            Self::Sha512(_) => ContentHasher::Sha512(Sha512::new()),
        }
    }

    /// What `bytes` have for a digest by the algorithm of this one.
    pub fn same_of(&self, bytes: &[u8]) -> Self {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl From<Digest> for ContentDigest {
    fn from(digest: Digest) -> Self {
        Self::Sha256(digest)
    }
}

impl From<&Digest> for ContentDigest {
    fn from(digest: &Digest) -> Self {
        Self::Sha256(*digest)
    }
}

impl PartialEq<Digest> for ContentDigest {
    fn eq(&self, other: &Digest) -> bool {
        self.sha256().is_some_and(|digest| digest == *other)
    }
}

impl FromStr for ContentDigest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.split_once(':') {
            Some(("sha512", hex)) => parse_hex(hex).map(Self::Sha512),
            _ => text.parse().map(Self::Sha256),
        }
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => digest.fmt(f),
            Self::Sha512(bytes) => write!(f, "sha512:{}", hex::encode(bytes)),
        }
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream piece by piece, by any registered algorithm.
#[derive(Clone)]
pub enum ContentHasher {
    /// By SHA-256.
    Sha256(Hasher),
    /// By SHA-512.
    Sha512(Sha512),
}

impl From<Hasher> for ContentHasher {
    fn from(hasher: Hasher) -> Self {
        Self::Sha256(hasher)
    }
}

impl ContentHasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all that was added.
    pub fn finish(self) -> ContentDigest {
        match self {
            Self::Sha256(hasher) => ContentDigest::Sha256(hasher.finish()),
            Self::Sha512(hasher) => ContentDigest::Sha512(hasher.finalize().into()),
        }
    }
}

impl fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentHasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4, the example of one block.
    const ABC: &str = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                       2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    #[test]
    fn digests_are_read_as_they_are_printed() {
        let sha256 = Digest::of("abc").to_string();
        for text in [ABC, &sha256] {
            let digest: ContentDigest = text.parse().unwrap();
            assert_eq!(digest.to_string(), text);
            assert_eq!(digest.same_of(b"abc"), digest);
            assert_ne!(digest.same_of(b"abd"), digest);
            assert!(text.starts_with(digest.algorithm()));
            assert_eq!(serde_json::from_str::<ContentDigest>(&format!("{text:?}")).unwrap(), digest);
        }
        assert_eq!(sha256.parse::<ContentDigest>().unwrap(), Digest::of("abc"));
        assert_eq!(ABC.parse::<ContentDigest>().unwrap().sha256(), None);
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let (long, short) = (format!("{ABC}00"), &ABC[..ABC.len() - 1]);
        let upper = ABC.to_uppercase().replace("SHA512", "sha512");
        for text in ["", "abc", "md5:00", "sha512:", "sha384:00", &long, short, &upper] {
            assert!(text.parse::<ContentDigest>().is_err(), "{text}");
        }
    }
}
