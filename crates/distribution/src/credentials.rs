//! Who asks.

use crate::address::encode;
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

    fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Anonymous => None,
            Self::Basic { password: secret, .. } | Self::Identity(secret) | Self::Token(secret) => {
                Some(secret)
            }
        }
    }
}

/// The secrets that a peer was shown. It may send them back, and they must not come into an error's text.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) credentials: &'a Credentials,
    /// The `Authorization` header of the request, as far as it had one: a token is in no credentials.
    pub(crate) proof: Option<&'a Secret>,
}

impl<'a> From<&'a Credentials> for Shown<'a> {
    fn from(credentials: &'a Credentials) -> Self {
        Self { credentials, proof: None }
    }
}

impl Shown<'_> {
    /// The text with every secret in it made unreadable, in each form in which it was sent.
    pub(crate) fn redact(&self, text: &str) -> String {
        let own = self.credentials.secret().map(|secret| secret.expose().to_owned());
        let basic = self.credentials.basic_header();
        let headers = self.proof.into_iter().chain(&basic);
        let sent =
            headers.filter_map(|header| header.expose().split_once(' ')).map(|(_, value)| value.to_owned());
        let mut secrets: Vec<String> =
            own.into_iter().chain(sent).flat_map(|secret| [encode(&secret), secret]).collect();
        secrets.retain(|secret| !secret.is_empty());
        // One may be part of another, whose rest would stay.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials::basic("user", "hunter2");
        assert!(!format!("{credentials:?}").contains("hunter2"));
        let echoed = Shown::from(&credentials).redact("bad password hunter2, header dXNlcjpodW50ZXIy");
        assert_eq!(echoed, "bad password ***, header ***");
        assert_eq!(Shown::from(&Credentials::Anonymous).redact("x"), "x");
    }

    #[test]
    fn what_comes_back_is_unreadable_in_each_form() {
        let (credentials, proof) = (Credentials::basic("u", "a&b"), Secret::new("Bearer eyJ.to-ken/+"));
        let shown = Shown { credentials: &credentials, proof: Some(&proof) };
        let cases = [
            ("no a&b", "no ***"),
            ("password=a%26b&x", "password=***&x"),
            ("Bearer eyJ.to-ken/+ is stale", "Bearer *** is stale"),
            ("token=eyJ.to-ken%2F%2B", "token=***"),
            ("nothing", "nothing"),
        ];
        for (text, wanted) in cases {
            assert_eq!(shown.redact(text), wanted);
        }
        // A token that has the password in it leaves nothing of itself.
        let proof = Secret::new("Bearer x-a&b-y");
        assert_eq!(Shown { credentials: &credentials, proof: Some(&proof) }.redact("x-a&b-y"), "***");
    }
}
