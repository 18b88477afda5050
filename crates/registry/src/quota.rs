//! How much repositories may hold.

use crate::name::Pattern;
use crate::problem::{Code, Refusal, Result};
use crate::records::{Repository, read};
use redb::ReadableTable;
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

/// What all repositories of a quota hold together.
pub(crate) fn used(
    repositories: &impl ReadableTable<&'static str, &'static [u8]>,
    pattern: &Pattern,
) -> Result<u64> {
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

/// Refuses when `repository` cannot take `more` bytes.
pub(crate) fn check(
    repositories: &impl ReadableTable<&'static str, &'static [u8]>,
    repository: &str,
    more: u64,
    quotas: &[Quota],
) -> Result<()> {
    for quota in quotas.iter().filter(|quota| quota.repositories.matches(repository)) {
        let used = used(repositories, &quota.repositories)?;
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
