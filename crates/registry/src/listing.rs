//! Lists, a page at a time: tags, repositories, referrers.

use crate::problem::{Code, Refusal, Result};
use crate::records::{GREATEST, LEAST, REFERRERS, REPOSITORIES, TAGS};
use redb::ReadTransaction;
use serde_json::value::RawValue;
use yare_oci::{ContentDigest, Digest};

/// The entries of a page when the client does not say, and the most that it may ask for.
pub(crate) const PAGE: usize = 1000;
/// The most bytes of a page of referrers; its entries carry annotations of unbounded size.
const REFERRERS_BYTES: usize = 4 << 20;

/// What part of a list is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// At most so many; [`PAGE`] when it is not said.
    pub(crate) count: Option<usize>,
    /// Only what comes after this.
    pub(crate) after: Option<String>,
}

impl Wanted {
    /// Reads `n` and `last`.
    pub(crate) fn parse(count: Option<&str>, after: Option<String>) -> Result<Self, Refusal> {
        let count = match count {
            None | Some("") => None,
            Some(text) => match text.parse::<usize>() {
                Ok(count) if count <= PAGE => Some(count),
                _ => {
                    let message = format!("n must be a number up to {PAGE}");
                    return Err(Refusal::new(Code::PaginationNumberInvalid, message));
                }
            },
        };
        Ok(Self { count, after })
    }

    fn limit(&self) -> usize {
        self.count.unwrap_or(PAGE)
    }
}

/// A part of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page<T> {
    /// The entries.
    pub(crate) entries: Vec<T>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<String>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), next: None }
    }
}

impl Page<String> {
    /// Adds names of another list, which has all of them, in the order of `key`.
    pub(crate) fn with(mut self, more: Vec<String>, wanted: &Wanted, key: impl Fn(&str) -> String) -> Self {
        let order = |name: &str| (key(name), name.to_owned());
        let after = wanted.after.as_deref().map(order);
        self.entries
            .extend(more.into_iter().filter(|name| after.as_ref().is_none_or(|after| order(name) > *after)));
        self.entries.sort_by_key(|name| order(name));
        self.entries.dedup();
        if self.entries.len() > wanted.limit() || self.next.is_some() {
            self.entries.truncate(wanted.limit());
            self.next = self.entries.last().cloned();
        }
        self
    }
}

/// The tags of a repository, in the order of the distribution spec: alphabetical, cases together. `None`
/// when there is no such repository.
pub(crate) fn tags(
    view: &ReadTransaction,
    repository: &str,
    wanted: &Wanted,
) -> Result<Option<Page<String>>> {
    if view.open_table(REPOSITORIES)?.get(repository)?.is_none() {
        return Ok(None);
    }
    let after = wanted.after.clone().unwrap_or_default();
    let folded = after.to_lowercase();
    let start = (repository, folded.as_str(), after.as_str());
    let mut page = Page::default();
    let table = view.open_table(TAGS)?;
    for row in table.range(start..)? {
        let (key, _) = row?;
        let key = key.value();
        if key.0 != repository {
            break;
        }
        if key == start {
            continue;
        }
        if page.entries.len() >= wanted.limit() {
            page.next = page.entries.last().cloned();
            break;
        }
        page.entries.push(key.2.to_owned());
    }
    Ok(Some(page))
}

/// The repositories that `may_see` lets through, in the order of their names.
pub(crate) fn repositories(
    view: &ReadTransaction,
    wanted: &Wanted,
    may_see: impl Fn(&str) -> bool,
) -> Result<Page<String>> {
    let after = wanted.after.as_deref().unwrap_or_default();
    let mut page = Page::default();
    for row in view.open_table(REPOSITORIES)?.range(after..)? {
        let (name, _) = row?;
        let name = name.value();
        if name == after || !may_see(name) {
            continue;
        }
        if page.entries.len() >= wanted.limit() {
            page.next = page.entries.last().cloned();
            break;
        }
        page.entries.push(name.to_owned());
    }
    Ok(page)
}

/// The manifests of the repository that speak about `subject` by this name of it, as descriptors; of one kind only
/// when `artifact_type` says so.
pub(crate) fn referrers(
    view: &ReadTransaction,
    (repository, subject): (&str, &ContentDigest),
    artifact_type: Option<&str>,
    wanted: &Wanted,
) -> Result<Page<Box<RawValue>>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        artifact_type: Option<String>,
    }
    let after: Option<Digest> = wanted.after.as_deref().and_then(|after| after.parse().ok());
    let from = after.map_or(LEAST, |after| *after.as_bytes());
    let (table, subject) = (view.open_table(REFERRERS)?, crate::names::stand_in(subject));
    let range = (repository, subject.as_bytes(), &from)..=(repository, subject.as_bytes(), &GREATEST);
    let mut page = Page::default();
    let (mut size, mut last) = (0, None);
    for row in table.range(range)? {
        let (key, value) = row?;
        let hash = *key.value().2;
        if after.is_some_and(|after| *after.as_bytes() == hash) {
            continue;
        }
        let text = value.value();
        if let Some(kind) = artifact_type
            && serde_json::from_slice::<Kind>(text)?.artifact_type.as_deref() != Some(kind)
        {
            continue;
        }
        let is_full = page.entries.len() >= wanted.limit() || size + text.len() > REFERRERS_BYTES;
        if is_full && !page.entries.is_empty() {
            page.next = last;
            break;
        }
        size += text.len();
        last = Some(Digest::from_bytes(hash).to_string());
        page.entries.push(serde_json::from_slice(text)?);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pages of two lists that are shown as one.
    fn pages(recorded: &[&str], more: &[&str], count: usize) -> Vec<String> {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (mut wanted, mut all) = (Wanted { count: Some(count), after: None }, Vec::new());
        loop {
            let after = wanted.after.clone().unwrap_or_default();
            let rest = recorded.iter().copied().filter(|name| *name > after.as_str()).collect::<Vec<_>>();
            let own = &rest[..rest.len().min(count)];
            let next = (rest.len() > count).then(|| own.last().map(|name| (*name).to_owned())).flatten();
            let page = Page { entries: names(own), next };
            let page = page.with(names(more), &wanted, str::to_owned);
            assert!(page.entries.len() <= count);
            all.extend(page.entries);
            if page.next.is_none() {
                return all;
            }
            wanted.after = page.next;
        }
    }

    #[test]
    fn two_lists_are_paged_as_one() {
        let all = ["a", "b", "c", "d", "e"];
        for count in 1..7 {
            assert_eq!(pages(&["b", "d", "e"], &["a", "b", "c"], count), all, "{count}");
            assert_eq!(pages(&[], &all, count), all, "{count}");
            assert_eq!(pages(&all, &[], count), all, "{count}");
        }
    }
}
