//! How much repositories may hold.
//!
//! What all repositories of a quota hold is a row of the table `sums`, by the quota's pattern, that each
//! change of a repository's size changes in the same commit: a push reads as many rows as there are quotas,
//! however many repositories there are.

use crate::name::Pattern;
use crate::problem::{Code, Refusal, Result};
use crate::records::{REPOSITORIES, Repository, SUMS, Writing, read};
use redb::{ReadTransaction, ReadableTable};
use serde::Deserialize;
use serde_json::json;

/// A limit on what all matching repositories hold together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Which repositories.
    pub repositories: Pattern,
    /// The most bytes; blobs that several repositories share count in each.
    #[serde(deserialize_with = "crate::config::bytes")]
    pub bytes: u64,
}

/// What all repositories of a quota hold together, as of a view.
pub(crate) fn used(view: &ReadTransaction, pattern: &Pattern) -> Result<u64> {
    match view.open_table(SUMS)?.get(pattern.to_string().as_str())? {
        Some(sum) => Ok(sum.value()),
        None => count(&view.open_table(REPOSITORIES)?, pattern),
    }
}

/// The same by looking at each of them.
fn count(repositories: &impl ReadableTable<&'static str, &'static [u8]>, pattern: &Pattern) -> Result<u64> {
    let (prefix, mut used) = (pattern.prefix(), 0_u64);
    for row in repositories.range(prefix..)? {
        let (name, value) = row?;
        if !name.value().starts_with(prefix) {
            break;
        }
        if pattern.matches(name.value()) {
            used = used.saturating_add(read::<Repository>(value.value())?.bytes);
        }
    }
    Ok(used)
}

/// The sum of a quota, which is made when it is asked for the first time.
fn sum(writing: &Writing, pattern: &Pattern) -> Result<u64> {
    let mut sums = writing.tables.open_table(SUMS)?;
    let key = pattern.to_string();
    let known = sums.get(key.as_str())?.map(|sum| sum.value());
    if let Some(known) = known {
        return Ok(known);
    }
    let counted = count(&writing.tables.open_table(REPOSITORIES)?, pattern)?;
    sums.insert(key.as_str(), counted)?;
    Ok(counted)
}

/// Refuses when `repository` cannot take `more` bytes.
pub(crate) fn check(writing: &Writing, repository: &str, more: u64, quotas: &[Quota]) -> Result<()> {
    for quota in quotas.iter().filter(|quota| quota.repositories.matches(repository)) {
        let used = sum(writing, &quota.repositories)?;
        if used.saturating_add(more) > quota.bytes {
            let message = format!(
                "quota of {} exceeded: {used} of {} bytes are used, and {more} more were to come; delete \
                 something there, or ask for more",
                quota.repositories, quota.bytes
            );
            let detail = json!({ "used": used, "limit": quota.bytes, "requested": more });
            return Err(Refusal::new(Code::Denied, message).with_detail(detail).into());
        }
    }
    Ok(())
}

/// Keeps the sums right when a repository that held `before` bytes holds `after`: all sums that there are,
/// since another process may have other quotas.
pub(crate) fn adjust(writing: &Writing, repository: &str, (before, after): (u64, u64)) -> Result<()> {
    let mut sums = writing.tables.open_table(SUMS)?;
    let mut changed = Vec::new();
    for row in sums.iter()? {
        let (pattern, sum) = row?;
        if Pattern::new(pattern.value()).matches(repository) {
            let sum = sum.value().saturating_sub(before).saturating_add(after);
            changed.push((pattern.value().to_owned(), sum));
        }
    }
    changed.iter().try_for_each(|(pattern, sum)| sums.insert(pattern.as_str(), *sum))?;
    Ok(())
}

/// The sums that are not those of the repositories (an older yare changed these), or of no quota any more.
/// They are to be forgotten: each is made anew when it is asked for.
pub(crate) fn wrong_sums(view: &ReadTransaction, quotas: &[Quota]) -> Result<Vec<String>> {
    let repositories = view.open_table(REPOSITORIES)?;
    let mut wrong = Vec::new();
    for row in view.open_table(SUMS)?.iter()? {
        let (key, sum) = row?;
        let pattern = Pattern::new(key.value());
        let is_used = quotas.iter().any(|quota| quota.repositories == pattern);
        let counted = if is_used { Some(count(&repositories, &pattern)?) } else { None };
        if counted != Some(sum.value()) {
            if let Some(counted) = counted {
                tracing::error!(quota = %pattern, sum = sum.value(), counted, "the sum of a quota was wrong");
            }
            wrong.push(pattern.to_string());
        }
    }
    Ok(wrong)
}

/// Forgets sums.
pub(crate) fn forget(writing: &Writing, sums: &[String]) -> Result<()> {
    let mut table = writing.tables.open_table(SUMS)?;
    sums.iter().try_for_each(|pattern| table.remove(pattern.as_str()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::links::{grow, shrink};
    use crate::records::{Records, written};
    use crate::registry::Registry;
    use std::sync::Arc;

    fn records(root: &std::path::Path) -> Records {
        Records::open(root, Arc::new(yare_content::Store::open(root).unwrap())).unwrap()
    }

    fn quota(pattern: &str, bytes: u64) -> Quota {
        Quota { repositories: Pattern::new(pattern), bytes }
    }

    fn fill(writing: &Writing, value: &[u8]) -> Result<()> {
        let mut table = writing.tables.open_table(REPOSITORIES)?;
        (0..10_000).try_for_each(|number| table.insert(format!("team/{number}").as_str(), value))?;
        Ok(())
    }

    #[tokio::test]
    async fn a_push_reads_no_repository_but_its_own() {
        let root = tempfile::tempdir().unwrap();
        let records = records(root.path());
        let quotas = [quota("team/**", 10_100), quota("**", 1 << 40)];
        let push = |bytes: u64| {
            let quotas = quotas.clone();
            records.write(move |writing| {
                check(writing, "team/new", bytes, &quotas)?;
                grow(writing, "team/new", bytes, 1)
            })
        };
        let one = written(&Repository { created: 1, bytes: 1 }).unwrap();
        records.write(move |writing| fill(writing, &one)).await.unwrap();
        push(40).await.unwrap();
        // From here on, whoever reads one of the 10,000 others fails.
        records.write(|writing| fill(writing, b"unreadable")).await.unwrap();
        push(60).await.unwrap();
        let refused = push(1).await.unwrap_err().refusal();
        assert!(refused.message.contains("10100 of 10100 bytes are used"), "{}", refused.message);
        let used = |pattern: &str| used(&records.view().unwrap(), &Pattern::new(pattern)).unwrap();
        assert_eq!((used("team/**"), used("**")), (10_100, 10_100));
        records.write(|writing| shrink(writing, "team/new", 100)).await.unwrap();
        assert_eq!((used("team/**"), used("**")), (10_000, 10_000));
        assert!(
            count(&records.view().unwrap().open_table(REPOSITORIES).unwrap(), &Pattern::new("**")).is_err()
        );
    }

    #[tokio::test]
    async fn a_collection_forgets_sums_that_are_wrong_or_of_no_quota() {
        let root = tempfile::tempdir().unwrap();
        let quotas = vec![quota("a/**", 1000), quota("b/**", 1000)];
        let config = Config { root: root.path().to_owned(), quota: quotas.clone(), ..Config::default() };
        let registry = Registry::open(config).unwrap();
        let change = move |writing: &Writing| {
            for (repository, bytes) in [("a/1", 10), ("b/1", 20)] {
                check(writing, repository, bytes, &quotas)?;
                grow(writing, repository, bytes, 1)?;
            }
            let mut sums = writing.tables.open_table(SUMS)?;
            sums.insert("a/**", 7)?;
            Ok(sums.insert("former/**", 7)?)
        };
        registry.records.write(change).await.unwrap();
        let sums = || {
            let table = registry.records.view().unwrap().open_table(SUMS).unwrap();
            table.iter().unwrap().map(|row| row.unwrap().0.value().to_owned()).collect::<Vec<_>>()
        };
        let used = || used(&registry.records.view().unwrap(), &Pattern::new("a/**")).unwrap();
        crate::collect(&registry, true).await.unwrap();
        assert_eq!((sums().len(), used()), (3, 7), "a dry run changes nothing");
        crate::collect(&registry, false).await.unwrap();
        assert_eq!(sums(), ["b/**"]);
        assert_eq!(used(), 10);
    }
}
