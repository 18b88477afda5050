//! What is kept of what was pushed: rules, and the decision, which is pure.

use crate::name::Pattern;
use crate::records::TagRecord;
use serde::Deserialize;
use std::time::Duration;

/// A rule. Tags that match go unless something keeps them; tags that no rule matches stay.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// In which repositories.
    pub repositories: Pattern,
    /// Which tags; all when it is left out.
    #[serde(default = "every")]
    pub tags: Vec<Pattern>,
    /// Keeps the tags that were pushed last, so many of them.
    #[serde(default)]
    pub keep_newest: Option<usize>,
    /// Keeps tags that were pushed within this time.
    #[serde(default, deserialize_with = "crate::config::some_duration")]
    pub pushed_within: Option<Duration>,
    /// Keeps tags that were pulled, or whose manifest was by its digest, within this time.
    #[serde(default, deserialize_with = "crate::config::some_duration")]
    pub pulled_within: Option<Duration>,
    /// Manifests without a tag go when they were neither pushed nor pulled for this time; they stay when it
    /// is left out. Those that an index lists, and referrers of what is there, are not meant.
    #[serde(default, deserialize_with = "crate::config::some_duration")]
    pub untagged_after: Option<Duration>,
}

fn every() -> Vec<Pattern> {
    vec![Pattern::new("*")]
}

impl Retention {
    fn keeps_something(&self) -> bool {
        self.keep_newest.is_some() || self.pushed_within.is_some() || self.pulled_within.is_some()
    }

    fn covers(&self, tag: &str) -> bool {
        self.tags.iter().any(|pattern| pattern.matches(tag))
    }
}

/// The tags of `repository` that go. A tag is judged by the first rule that matches repository and tag; a
/// rule that keeps nothing by any of its three measures says nothing about tags.
pub(crate) fn expired<'a>(
    rules: &[Retention],
    repository: &str,
    tags: &'a [(String, TagRecord)],
    now: u64,
) -> Vec<&'a (String, TagRecord)> {
    let rules: Vec<&Retention> =
        rules.iter().filter(|rule| rule.repositories.matches(repository) && rule.keeps_something()).collect();
    let mut gone = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let earlier = rules.get(..number).unwrap_or_default();
        let mut judged: Vec<&(String, TagRecord)> = tags
            .iter()
            .filter(|(tag, _)| rule.covers(tag) && !earlier.iter().any(|earlier| earlier.covers(tag)))
            .collect();
        judged.sort_by(|(tag, record), (other, than)| {
            than.pushed.cmp(&record.pushed).then_with(|| tag.cmp(other))
        });
        let within = |time: u64, limit: Option<Duration>| {
            limit.is_some_and(|limit| time > 0 && now.saturating_sub(time) < limit.as_secs())
        };
        let newest = rule.keep_newest.unwrap_or(0);
        gone.extend(judged.into_iter().skip(newest).filter(|(_, record)| {
            !within(record.pushed, rule.pushed_within) && !within(record.pulled, rule.pulled_within)
        }));
    }
    gone
}

/// After which time without a push or pull manifests without tags go from `repository`.
pub(crate) fn untagged_after(rules: &[Retention], repository: &str) -> Option<Duration> {
    rules.iter().filter(|rule| rule.repositories.matches(repository)).find_map(|rule| rule.untagged_after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_oci::Digest;

    fn tag(name: &str, pushed: u64, pulled: u64) -> (String, TagRecord) {
        (name.to_owned(), TagRecord { digest: Digest::of(name), name: None, pushed, pulled })
    }

    fn rule(text: &str) -> Retention {
        toml::from_str(text).unwrap()
    }

    fn names(rules: &[Retention], tags: &[(String, TagRecord)], now: u64) -> Vec<String> {
        expired(rules, "team/app", tags, now).into_iter().map(|(tag, _)| tag.clone()).collect()
    }

    #[test]
    fn the_newest_are_kept() {
        let tags = [tag("a", 1, 0), tag("b", 3, 0), tag("c", 2, 0)];
        let rules = [rule("repositories = '**'\nkeep_newest = 2")];
        assert_eq!(names(&rules, &tags, 100), ["a"]);
        assert!(names(&[rule("repositories = 'other/**'\nkeep_newest = 0")], &tags, 100).is_empty());
        assert!(names(&[rule("repositories = '**'\nuntagged_after = '1d'")], &tags, 100).is_empty());
    }

    #[test]
    fn what_was_used_lately_is_kept() {
        let day = 86_400;
        let tags = [tag("old", 1, 0), tag("pulled", 1, 99 * day), tag("new", 99 * day, 0)];
        let rules = [rule("repositories = '**'\npushed_within = '7d'\npulled_within = '7d'")];
        assert_eq!(names(&rules, &tags, 100 * day), ["old"]);
    }

    #[test]
    fn the_first_matching_rule_judges() {
        let tags = [tag("v1", 1, 0), tag("v2", 2, 0), tag("pr-1", 1, 0), tag("pr-2", 2, 0)];
        let rules = [
            rule("repositories = '**'\ntags = ['v*']\nkeep_newest = 100"),
            rule("repositories = '**'\nkeep_newest = 1"),
        ];
        assert_eq!(names(&rules, &tags, 100), ["pr-1"]);
    }
}
