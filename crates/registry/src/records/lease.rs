//! The right to do a work that one of several processes does at a time: the table `leases`.

use super::{LEASES, Writing, find, written};
use crate::problem::Result;
use serde::{Deserialize, Serialize};

/// A right that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// Who has it: a random name.
    pub(crate) holder: String,
    /// Until when.
    pub(crate) until: u64,
}

/// Takes the right to do `work` for `term` seconds, or again once half of them are over. Returns the lease of
/// another process that has it.
pub(crate) fn take(
    writing: &Writing,
    work: &str,
    holder: &str,
    (now, term): (u64, u64),
) -> Result<Option<Lease>> {
    let mut leases = writing.tables.open_table(LEASES)?;
    match find::<_, Lease>(&leases, work)? {
        Some(other) if other.holder != holder && other.until > now => return Ok(Some(other)),
        Some(own) if own.holder == holder && own.until > now + term / 2 => return Ok(None),
        _ => {}
    }
    let lease = Lease { holder: holder.to_owned(), until: now + term };
    leases.insert(work, written(&lease)?.as_slice())?;
    Ok(None)
}

/// Gives the right back, unless another process has it by now.
pub(crate) fn give_back(writing: &Writing, work: &str, holder: &str) -> Result<()> {
    let mut leases = writing.tables.open_table(LEASES)?;
    if find::<_, Lease>(&leases, work)?.is_some_and(|lease| lease.holder == holder) {
        leases.remove(work)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;
    use std::sync::Arc;

    #[tokio::test]
    async fn one_has_it_until_it_is_over_or_given_back() {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(yare_content::Store::open(root.path()).unwrap());
        let records = Records::open(root.path(), store).unwrap();
        let ask = |who: &'static str, now: u64| {
            records.write(move |writing| take(writing, "work", who, (now, 60)).map(|other| other.is_none()))
        };
        assert!(ask("a", 100).await.unwrap());
        assert!(!ask("b", 159).await.unwrap(), "it lasts for its term");
        assert!(ask("a", 140).await.unwrap());
        assert!(!ask("b", 170).await.unwrap(), "it was taken again");
        assert!(ask("b", 200).await.unwrap());
        records.write(|writing| give_back(writing, "work", "a")).await.unwrap();
        assert!(!ask("a", 201).await.unwrap(), "only who has it gives it back");
        records.write(|writing| give_back(writing, "work", "b")).await.unwrap();
        assert!(ask("a", 202).await.unwrap());
    }
}
