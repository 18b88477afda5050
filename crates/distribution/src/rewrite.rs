//! `rewrite` of a `hosts.toml`: what a host calls the repositories of a registry.
//!
//! Patterns are regular expressions, replacements name their groups as Go's do (`$1`, `${1}x`, `${name}`). The
//! first rule, in the order of the file, whose pattern is found in the name is applied, and no other one
//! after it. A rule that leaves a name as it is so makes an exception from those below it.

use crate::{Error, Result};
use regex_lite::Regex;
use yare_oci::reference::{NAME_MAX, is_path};

/// The rules of one host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rewrites {
    /// File and table, for errors.
    place: String,
    rules: Vec<(Regex, String)>,
}

impl Rewrites {
    /// Reads rules of pattern and replacement, in order.
    pub(crate) fn new<'a>(
        place: String,
        rules: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let rule = |(pattern, with): (&str, &str)| {
            let read = Regex::new(pattern)
                .map_err(|error| format!("cannot read the regular expression {pattern:?}: {error}"))?;
            match unknown_group(&read, with) {
                None => Ok((read, with.to_owned())),
                Some(group) => Err(format!(
                    "{with:?} names a group {group:?}, and {pattern:?} has none (${{1}}x is group 1 before an x)"
                )),
            }
        };
        Ok(Self { place, rules: rules.map(rule).collect::<Result<_, String>>()? })
    }

    /// What the host calls a repository.
    pub(crate) fn apply(&self, repository: &str) -> Result<String> {
        let Some((pattern, with)) = self.rules.iter().find(|(pattern, _)| pattern.is_match(repository))
        else {
            return Ok(repository.to_owned());
        };
        let name = pattern.replace_all(repository, with.as_str()).into_owned();
        if is_path(&name) && name.len() <= NAME_MAX {
            return Ok(name);
        }
        let (place, pattern) = (&self.place, pattern.as_str());
        let what =
            format!("{place}: {pattern:?} makes {name:?} of {repository:?}, which names no repository");
        Err(Error::Settings { what })
    }
}

/// A group that a replacement names and its pattern does not have: it would be empty.
fn unknown_group<'a>(pattern: &Regex, with: &'a str) -> Option<&'a str> {
    let is_known = |name: &str| match name.parse::<usize>() {
        Ok(number) => number < pattern.captures_len(),
        Err(_) => pattern.capture_names().any(|known| known == Some(name)),
    };
    let mut rest = with;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
            continue;
        }
        let name;
        (name, rest) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(parts) => parts,
            None => {
                let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_';
                after.split_at(after.find(|char| !is_part(char)).unwrap_or(after.len()))
            }
        };
        // A `$` before anything else is one, and no name of a repository.
        if !name.is_empty() && !is_known(name) {
            return Some(name);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrites(rules: &[(&str, &str)]) -> Result<Rewrites, String> {
        Rewrites::new("hosts.toml".to_owned(), rules.iter().copied())
    }

    #[test]
    fn the_first_rule_that_matches_is_applied() {
        let rules = rewrites(&[
            ("^library/keep$", "library/keep"),
            ("^library/(.*)$", "hub/$1"),
            ("^(?P<team>[a-z]+)/(.+)", "mirror/${team}x/$2"),
            ("o", "0"),
        ]);
        let rules = rules.unwrap();
        for (name, called) in [
            ("library/keep", "library/keep"),
            ("library/debian", "hub/debian"),
            ("team/app/sub", "mirror/teamx/app/sub"),
            ("foo", "f00"),
            ("bar", "bar"),
        ] {
            assert_eq!(rules.apply(name).unwrap(), called, "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_told() {
        let long = "x".repeat(300);
        for (with, name) in [("", "\"\""), ("A", "\"A\""), ("a//b", "a//b"), ("$$x", "$x"), (&long, "xxx")] {
            let error = rewrites(&[("^a.*$", with)]).unwrap().apply("abc").unwrap_err().to_string();
            assert!(error.contains("hosts.toml: \"^a.*$\" makes") && error.contains(name), "{error}");
        }
    }

    #[test]
    fn mistakes_in_rules_are_told() {
        for (pattern, with, why) in [
            ("(", "a", "regular expression \"(\""),
            ("a{2,1}", "a", "regular expression"),
            ("^a/(.*)", "b/$2", "group \"2\""),
            ("^a/(.*)", "b/$1_x", "group \"1_x\""),
            ("^a/(.*)", "$$1/${one}", "group \"one\""),
        ] {
            let error = rewrites(&[(pattern, with)]).unwrap_err();
            assert!(error.contains(why) && error.contains(pattern), "{error}");
        }
    }
}
