//! `WWW-Authenticate`: what a registry wants to see before it answers (RFC 9110, 11.6.1).
//!
//! ```text
//! header     := challenge { "," challenge }
//! challenge  := scheme SP param { "," param }
//! param      := token "=" ( token | quoted )
//! ```
//!
//! The header is hostile input: lengths are bounded, nothing panics, and what cannot be read is passed over.

use crate::bounded;

/// The longest header that is looked at, in bytes.
const LONGEST: usize = 8 * 1024;

/// One way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User name and password.
    Basic,
    /// A token of a token server.
    Bearer(Bearer),
}

/// Where and for what a token is to be had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bearer {
    /// Address of the token server.
    pub realm: String,
    /// Name of the registry, for the token server.
    pub service: String,
    /// What the token must allow: `repository:a/b:pull`, several separated by spaces.
    pub scope: String,
    /// Why the last token was not enough.
    pub error: String,
}

/// The challenges of a header, in its order; schemes that Yare does not speak are left out.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut rest = Scanner(bounded(header, LONGEST));
    let mut found = Vec::new();
    let mut scheme = "";
    let mut params: Vec<(String, String)> = Vec::new();
    loop {
        rest.skip(|byte| byte == b' ' || byte == b'\t' || byte == b',');
        let Some(word) = rest.token() else { break };
        rest.skip(|byte| byte == b' ' || byte == b'\t');
        match rest.value() {
            Some(value) => params.push((word.to_ascii_lowercase(), value)),
            None => {
                found.extend(challenge(scheme, &params));
                (scheme, params) = (word, Vec::new());
            }
        }
    }
    found.extend(challenge(scheme, &params));
    found
}

fn challenge(scheme: &str, params: &[(String, String)]) -> Option<Challenge> {
    let param = |name: &str| {
        params.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
    };
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (realm, service) = (param("realm"), param("service"));
    Some(Challenge::Bearer(Bearer { realm, service, scope: param("scope"), error: param("error") }))
}

struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    fn skip(&mut self, which: impl Fn(u8) -> bool) {
        self.0 = self.0.trim_start_matches(|character: char| character.is_ascii() && which(character as u8));
    }

    /// A word of RFC 9110, 5.6.2.
    fn token(&mut self) -> Option<&'a str> {
        let end = self.0.find(|character: char| !is_token(character)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }

    /// `= value`, quoted or not. A word that no `=` follows has none.
    fn value(&mut self) -> Option<String> {
        self.0 = self.0.strip_prefix('=')?;
        self.skip(|byte| byte == b' ' || byte == b'\t');
        match self.0.strip_prefix('"') {
            Some(quoted) => Some(self.quoted(quoted)),
            None => {
                let end = self.0.find([',', ' ', '\t']).unwrap_or(self.0.len());
                let (value, rest) = self.0.split_at(end);
                self.0 = rest;
                Some(value.to_owned())
            }
        }
    }

    /// To the closing quote, or to the end where there is none.
    fn quoted(&mut self, text: &'a str) -> String {
        let mut value = String::new();
        let mut characters = text.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &text[at + 1..];
                    return value;
                }
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                other => value.push(other),
            }
        }
        self.0 = "";
        value
    }
}

fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str, error: &str) -> Challenge {
        let [realm, service, scope, error] = [realm, service, scope, error].map(str::to_owned);
        Challenge::Bearer(Bearer { realm, service, scope, error })
    }

    #[test]
    fn reads_what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push""#;
        let expected = bearer(
            "https://auth.docker.io/token",
            "registry.docker.io",
            "repository:library/x:pull,push",
            "",
        );
        assert_eq!(parse(hub), [expected]);
        assert_eq!(parse(r#"Basic realm="Registry Realm""#), [Challenge::Basic]);
        let two = r#"Negotiate, bearer realm=https://a/t , error="insufficient_scope", BASIC realm="x, y""#;
        assert_eq!(parse(two), [bearer("https://a/t", "", "", "insufficient_scope"), Challenge::Basic]);
        assert_eq!(parse(r#"Bearer realm="a\"b\\c""#), [bearer("a\"b\\c", "", "", "")]);
    }

    #[test]
    fn hostile_headers_end_quietly() {
        for text in
            ["", ",", "=", "\"", "Bearer", "Bearer realm", "Bearer =x", "Bearer realm=\"x", "é=é", "\\"]
        {
            let _ = parse(text);
        }
        assert_eq!(parse("Bearer realm=\"x"), [bearer("x", "", "", "")]);
        assert!(parse(&"Basic ,".repeat(100_000)).len() <= LONGEST);
        // Any prefix of a good header, and any single byte of it replaced.
        let good = r#"Bearer realm="https://a/t",service="s",scope="repository:a:pull", Basic realm="x""#;
        for end in 0..good.len() {
            let _ = parse(&good[..end]);
            for byte in ["\"", "\\", ",", "=", " ", "ü"] {
                let _ = parse(&format!("{}{byte}{}", &good[..end], &good[end + 1..]));
            }
        }
    }
}
