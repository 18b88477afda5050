//! Regular expressions of clients, for name filters and options.
//!
//! Matching takes time proportional to pattern times text whatever they are, and a pattern has a largest size,
//! written and read.

use regex_lite::{Regex, RegexBuilder};

/// Longest pattern taken, in bytes.
const LONGEST: usize = 1000;
/// Most bytes that a pattern may take in memory: repetitions of repetitions grow.
const LARGEST: usize = 1 << 20;

/// A regular expression.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Reads an expression; `None` when it cannot be read or is too large.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        RegexBuilder::new(text).size_limit(LARGEST).build().ok().map(Self)
    }

    /// Whether any part of the text matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_what_go_matches() {
        for (pattern, text, fits) in [
            ("web", "my-web-1", true),
            ("^web", "my-web-1", false),
            ("^/?web$", "/web", true),
            ("^web|db$", "a-db", true),
            ("(a|b)+c", "xabac", true),
            ("(a|b)+c", "xc", false),
            ("a.c", "abc", true),
            ("[a-c]x[^0-9]", "bxz", true),
            ("[a-c]x[^0-9]", "bx1", false),
            (r"\d+\.\w*", "v12.", true),
            (r"[\w-]+$", "a-b", true),
            ("a?b", "b", true),
            ("", "anything", true),
            ("(?:ab)*$", "abab", true),
            ("a|", "zzz", true),
            ("^a{2,3}$", "aaaa", false),
            ("(?i)^WEB", "web-1", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().is_match(text), fits, "{pattern} on {text}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for bad in ["(", "a)", "*a", "[a", "\\", "a{1000}{1000}", &"(".repeat(60), &"a".repeat(1001)] {
            assert!(Pattern::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn takes_linear_time_on_patterns_made_to_be_slow() {
        let pattern = Pattern::parse(&format!("{}{}$", "a?".repeat(200), "a".repeat(200))).unwrap();
        assert!(!pattern.is_match(&"a".repeat(199)));
        assert!(Pattern::parse("(a*)*b").unwrap().is_match(&format!("{}b", "a".repeat(500))));
    }
}
