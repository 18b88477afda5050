//! Who asks.

use base64::Engine as _;
use std::fmt;

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the caller has to show to one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    #[default]
    Anonymous,
    /// User name and password.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// What a token server gave at an earlier login, to be changed into tokens.
    Identity(Secret),
    /// A token that is sent as it is.
    Token(Secret),
}

impl Credentials {
    /// User name and password.
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Basic { username: username.into(), password: Secret::new(password) }
    }

    /// The `Authorization` header of user name and password.
    pub(crate) fn basic_header(&self) -> Option<Secret> {
        let Self::Basic { username, password } = self else { return None };
        let pair = format!("{username}:{}", password.expose());
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        Some(Secret::new(format!("Basic {encoded}")))
    }

    /// The text with every secret of ours in it made unreadable: a registry may send back what it was sent.
    pub(crate) fn redact(&self, text: &str) -> String {
        let secret = match self {
            Self::Anonymous => return text.to_owned(),
            Self::Basic { password: secret, .. } | Self::Identity(secret) | Self::Token(secret) => secret,
        };
        let mut text = text.to_owned();
        if let Some(header) = self.basic_header() {
            let encoded = header.expose().trim_start_matches("Basic ").to_owned();
            text = text.replace(&encoded, "***");
        }
        if secret.expose().is_empty() { text } else { text.replace(secret.expose(), "***") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials::basic("user", "hunter2");
        assert!(!format!("{credentials:?}").contains("hunter2"));
        let echoed = credentials.redact("bad password hunter2, header dXNlcjpodW50ZXIy");
        assert_eq!(echoed, "bad password ***, header ***");
        assert_eq!(Credentials::Anonymous.redact("x"), "x");
    }
}
