//! Versions of the API.

use std::fmt;
use std::str::FromStr;
use yare_errdefs::Error;

/// A version such as `1.51`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The number before the dot.
    pub major: u16,
    /// The number after the dot.
    pub minor: u16,
}

impl Version {
    /// The oldest served.
    pub const MIN: Self = Self::new(1, 24);
    /// The newest served, and the one meant by a path without a version.
    pub const MAX: Self = Self::new(1, 51);

    /// The version `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Whether this is older than `1.minor`.
    pub fn before(self, minor: u16) -> bool {
        self < Self::new(1, minor)
    }

    /// Parses the version of a request's path and checks that it is served; the texts are Docker's.
    pub fn negotiate(text: &str) -> Result<Self, Error> {
        let version: Self =
            text.parse().map_err(|_| Error::invalid(format!("invalid API version {text:?}")))?;
        if version > Self::MAX {
            Err(Error::invalid(crate::texts::client_too_new(version)))
        } else if version < Self::MIN {
            Err(Error::invalid(crate::texts::client_too_old(version)))
        } else {
            Ok(version)
        }
    }
}

impl Default for Version {
    fn default() -> Self {
        Self::MAX
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The text is not two numbers with a dot between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API version")]
pub struct NotAVersion;

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten().ok_or(NotAVersion)
        };
        let (major, minor) = text.split_once('.').ok_or(NotAVersion)?;
        Ok(Self::new(number(major)?, number(minor)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_numbers_not_texts() {
        let old: Version = "1.9".parse().unwrap();
        assert!(old < Version::MIN);
        assert_eq!(Version::MAX.to_string(), "1.51");
        for bad in ["", "1", "1.", ".5", "v1.5", "1.5.1", "1.-5", "1.+5", "1.99999"] {
            assert_eq!(bad.parse::<Version>(), Err(NotAVersion), "{bad}");
        }
    }

    #[test]
    fn refuses_with_the_texts_of_docker() {
        assert_eq!(
            Version::negotiate("1.99").unwrap_err().to_string(),
            "client version 1.99 is too new. Maximum supported API version is 1.51"
        );
        assert_eq!(
            Version::negotiate("1.20").unwrap_err().to_string(),
            "client version 1.20 is too old. Minimum supported API version is 1.24, please upgrade your client \
             to a newer version"
        );
        assert_eq!(Version::negotiate("1.41").unwrap(), Version::new(1, 41));
    }
}
