//! What a path names: repositories, tags, digests; and patterns over repositories.

use crate::problem::{Code, Refusal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt;
use yare_oci::ContentDigest;

/// The most bytes of a repository name; Docker's limit, and that of file names and labels elsewhere.
const NAME_MAX: usize = 255;

/// The name of a repository: `team/app`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

impl RepositoryName {
    /// Parses by the grammar of the distribution spec.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() <= NAME_MAX && yare_oci::reference::is_path(text) {
            return Ok(Self(text.to_owned()));
        }
        let why = if text.len() > NAME_MAX { "longer than 255 bytes" } else { "not of the form a/b-c/d" };
        Err(Refusal::new(Code::NameInvalid, format!("invalid repository name: {why}"))
            .with_detail(json!({ "name": text.chars().take(NAME_MAX).collect::<String>() })))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// Parses by the grammar of the distribution spec.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if yare_oci::reference::is_tag(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Refusal::new(Code::TagInvalid, "invalid tag: want up to 128 letters, digits, `_`, `.`, `-`")
            .with_detail(json!({ "tag": text.chars().take(128).collect::<String>() })))
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a manifest is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// By a name that may move.
    Tag(Tag),
    /// By its content.
    Digest(ContentDigest),
}

impl Reference {
    /// What has a colon is a digest.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.contains(':') {
            parse_digest(text).map(Self::Digest)
        } else {
            Tag::parse(text).map(Self::Tag)
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Parses a digest, or refuses with the spec's code.
pub fn parse_digest(text: &str) -> Result<ContentDigest, Refusal> {
    text.parse().map_err(|error: yare_oci::digest::DigestError| {
        let shown: String = text.chars().take(NAME_MAX).collect();
        Refusal::new(Code::DigestInvalid, error.to_string()).with_detail(json!({ "digest": shown }))
    })
}

/// Which repositories (or tags) a rule is about: `*` stands for anything but a slash, `**` for anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern; every text is one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What all texts that it covers begin with.
    pub fn prefix(&self) -> &str {
        self.0.split('*').next().unwrap_or_default()
    }

    /// Whether it stands for more than one text.
    pub fn has_stars(&self) -> bool {
        self.0.contains('*')
    }

    /// Whether the pattern covers all of `text`. Takes time proportional to the product of both lengths.
    pub fn matches(&self, text: &str) -> bool {
        let pattern = self.0.as_bytes();
        let text = text.as_bytes();
        // reached[i]: the pattern so far can end after i bytes of the text.
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        let mut at = 0;
        while let Some(&byte) = pattern.get(at) {
            let deep = byte == b'*' && pattern.get(at + 1) == Some(&b'*');
            let mut next = vec![false; text.len() + 1];
            let mut open = false;
            for end in 0..=text.len() {
                let before = end.checked_sub(1);
                let last = before.and_then(|index| text.get(index)).copied();
                if byte == b'*' {
                    open = reached[end] || (open && (deep || last != Some(b'/')));
                    next[end] = open;
                } else {
                    next[end] = before.is_some_and(|before| reached[before]) && last == Some(byte);
                }
            }
            reached = next;
            at += if deep { 2 } else { 1 };
        }
        reached[text.len()]
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "a/b", "a.b/c_d/e__f/g---h", "0/1"] {
            assert!(RepositoryName::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in ["", "A", "a/", "/a", "a//b", "..", "a/../b", "a/./b", "-a", "a___b", "a b", "a\0", &long]
        {
            assert!(RepositoryName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest() {
        assert!(matches!(Reference::parse("v1"), Ok(Reference::Tag(_))));
        let digest = yare_oci::Digest::of("x").to_string();
        assert!(matches!(Reference::parse(&digest), Ok(Reference::Digest(_))));
        assert_eq!(Reference::parse("sha256:x").unwrap_err().code, Code::DigestInvalid);
        assert_eq!(Reference::parse(".x").unwrap_err().code, Code::TagInvalid);
    }

    #[test]
    fn stars_stop_at_slashes_unless_doubled() {
        let cases = [
            ("team/*", "team/app", true),
            ("team/*", "team/app/x", false),
            ("team/**", "team/app/x", true),
            ("**", "", true),
            ("**", "a/b", true),
            ("*", "a/b", false),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("v*-rc*", "v1-rc2", true),
            ("a", "a", true),
            ("a", "aa", false),
            ("*/app", "team/app", true),
        ];
        for (pattern, text, want) in cases {
            assert_eq!(Pattern::new(pattern).matches(text), want, "{pattern} {text}");
            assert!(!want || text.starts_with(Pattern::new(pattern).prefix()), "{pattern} {text}");
        }
    }
}
