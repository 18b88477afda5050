//! Comparisons: which repositories there are, and which tags differ.

use super::queue::Key;
use super::side::{Side, is_list_of_referrers};
use super::{Here, Work, copy, failed};
use crate::registry::Registry;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use yare_distribution::Name;
use yare_errdefs::Result;

/// Tags that are asked about at a time.
const AT_ONCE: usize = 8;

/// What would be done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// By which rule.
    pub rule: String,
    /// The repository, as it is called here.
    pub repository: String,
    /// The tag; a digest, when what speaks about that is to be copied; empty when the repository could not
    /// be compared.
    pub what: String,
    /// `copy`, `delete`, `referrers`, or why it is not known.
    pub action: String,
}

/// The repositories at the source, as the rule calls them.
pub(super) async fn repositories(registry: &Arc<Registry>, work: &Work) -> Result<Vec<String>> {
    let rule = &work.rule;
    if rule.is_push() {
        registry.records.catch_up().await.map_err(failed)?;
        return super::side::here(registry, rule).map_err(failed);
    }
    let (listed, named): (Vec<_>, Vec<_>) = rule.repositories.iter().partition(|pattern| pattern.has_stars());
    let mut found: BTreeSet<String> = named.into_iter().map(ToString::to_string).collect();
    if !listed.is_empty() {
        let remote = rule.remote();
        let credentials = remote.credentials().map_err(failed)?;
        let all = work.client.catalog(remote.domain(), &credentials).await;
        let all = all.map_err(|error| {
            yare_errdefs::Error::wrap("cannot list the other registry's repositories", error)
                .with_hint("registries that have no such list need names without stars in `repositories`")
        })?;
        let below = remote.of.split_once('/').map(|(_, path)| format!("{path}/")).unwrap_or_default();
        let rests = all.iter().filter_map(|name| name.strip_prefix(&below));
        found.extend(rests.filter(|rest| rule.covers(rest)).map(str::to_owned));
    }
    Ok(found.into_iter().collect())
}

/// What differs in a repository: what, and what is to be done.
pub(super) async fn differences(here: &Here, rest: &str) -> Result<Vec<(String, &'static str)>> {
    let rule = &here.work.rule;
    let (source, target) = copy::sides(here, rest).await?;
    let tags = match source.tags().await? {
        Some(tags) => tags,
        // The records know all that is here. Elsewhere it may only be hidden.
        None if rule.is_push() => Vec::new(),
        None => {
            let message = format!("there is no repository {rest} at {}", rule.remote().of);
            return Err(yare_errdefs::Error::not_found(message));
        }
    };
    let tags: BTreeSet<String> = tags.into_iter().filter(|tag| rule.covers_tag(tag)).collect();
    let compared: Vec<_> = tags.iter().map(|tag| compare(here, &source, &target, tag)).collect();
    let compared: Vec<_> = stream::iter(compared).buffered(AT_ONCE).try_collect().await?;
    let mut found: Vec<_> = compared.into_iter().flatten().collect();
    if rule.delete {
        let gone = target
            .tags()
            .await?
            .unwrap_or_default()
            .into_iter()
            .filter(|tag| rule.covers_tag(tag) && !tags.contains(tag) && !is_list_of_referrers(tag));
        found.extend(gone.map(|tag| (tag, "delete")));
    }
    Ok(found)
}

/// Compares a tag; `None` when both sides are alike.
async fn compare(
    here: &Here,
    source: &Side,
    target: &Side,
    tag: &str,
) -> Result<Option<(String, &'static str)>> {
    let name = Name::Tag(tag.to_owned());
    let Some(called) = source.called(&name).await? else { return Ok(None) };
    let is_alike = match target.called(&name).await? {
        None => false,
        Some(there) if there.algorithm() == called.algorithm() => there == called,
        // One of them may not call it as the other does.
        Some(_) => match source.document(&name).await? {
            Some(document) => copy::is_alike(target, Some(tag), &document).await?,
            None => return Ok(None),
        },
    };
    if !is_alike {
        return Ok(Some((tag.to_owned(), "copy")));
    }
    if !here.work.rule.referrers {
        return Ok(None);
    }
    let wanted = copy::referrers(source, &called).await?;
    if wanted.is_empty() {
        return Ok(None);
    }
    let there: BTreeSet<_> = copy::referrers(target, &called).await?.into_iter().collect();
    let is_less = wanted.iter().any(|referrer| !there.contains(referrer));
    Ok(is_less.then(|| (called.to_string(), "referrers")))
}

/// All that would be copied or deleted now.
///
/// # Errors
/// The records cannot be read. What another registry does not tell is a row.
pub async fn replication_plan(registry: &Arc<Registry>) -> Result<Vec<Difference>> {
    let mut plan = Vec::new();
    for work in &registry.replication.works {
        let row = |repository: &str, what: &str, action: &str| Difference {
            rule: work.rule.name.clone(),
            repository: repository.to_owned(),
            what: what.to_owned(),
            action: action.to_owned(),
        };
        match repositories(registry, work).await {
            Ok(repositories) => {
                for rest in repositories {
                    let here = copy::here(registry, work, &rest);
                    match differences(&here, &rest).await {
                        Ok(found) => {
                            plan.extend(found.iter().map(|(what, action)| row(&here.name, what, action)));
                        }
                        Err(error) => plan.push(row(&here.name, "", &yare_errdefs::chain(&error))),
                    }
                }
            }
            Err(error) => plan.push(row("", "", &yare_errdefs::chain(&error))),
        }
    }
    Ok(plan)
}

/// What a comparison leads to: rows for the queue.
pub(super) fn keys(work: &Work, rest: &str, found: &[(String, &'static str)]) -> Vec<Key> {
    found.iter().map(|(what, _)| Key::new(&work.rule, rest, what)).collect()
}
