//! What repositories hold, how much of their quotas that is, and when it was last used.

use crate::events::rfc3339;
use crate::problem::{Error, Result};
use crate::quota;
use crate::records::{REPOSITORIES, Repository, read};
use crate::registry::{Registry, fault};
use crate::{collect, problem};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::sync::Arc;

/// What a registry holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// The quotas, as they are configured.
    pub quotas: Vec<QuotaUse>,
    /// All repositories, by name.
    pub repositories: Vec<RepositoryUse>,
}

/// How much of a quota is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaUse {
    /// Which repositories it is about.
    pub repositories: String,
    /// The bytes that they hold.
    pub used: u64,
    /// The bytes that they may hold.
    pub limit: u64,
}

/// What a repository holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryUse {
    /// Its name.
    pub name: String,
    /// Bytes of its blobs and manifests; those shared with others count in each.
    pub bytes: u64,
    /// How many tags it has.
    pub tags: u64,
    /// How many manifests it has.
    pub manifests: u64,
    /// When something of it was last pushed (RFC 3339).
    pub pushed: Option<String>,
    /// When something of it was last pulled.
    pub pulled: Option<String>,
}

/// Reads what the registry holds.
pub async fn holdings(registry: &Arc<Registry>) -> yare_errdefs::Result<Holdings> {
    read_all(registry).await.map_err(Error::into_failed)
}

async fn read_all(registry: &Arc<Registry>) -> Result<Holdings> {
    // What was pulled lately is not in the records yet.
    registry.usage.flush(&registry.records).await?;
    registry.records.catch_up().await?;
    let reader = Arc::clone(registry);
    let reading = tokio::task::spawn_blocking(move || {
        Ok::<_, problem::Error>(Holdings { quotas: quotas(&reader)?, repositories: repositories(&reader)? })
    });
    reading.await.map_err(fault)?
}

fn quotas(registry: &Registry) -> Result<Vec<QuotaUse>> {
    let view = registry.records.view()?;
    let used = registry.config.quota.iter().map(|quota| {
        let used = quota::used(&view, &quota.repositories)?;
        Ok(QuotaUse { repositories: quota.repositories.to_string(), used, limit: quota.bytes })
    });
    used.collect()
}

fn repositories(registry: &Registry) -> Result<Vec<RepositoryUse>> {
    let view = registry.records.view()?;
    let table = view.open_table(REPOSITORIES)?;
    let mut all = Vec::new();
    for row in table.range::<&str>(..)? {
        let (name, value) = row?;
        let name = name.value().to_owned();
        let manifests = collect::manifests_of(&view, &name)?;
        let latest = |times: &mut dyn Iterator<Item = u64>| times.max().filter(|time| *time > 0).map(rfc3339);
        all.push(RepositoryUse {
            bytes: read::<Repository>(value.value())?.bytes,
            tags: collect::tags(&view, &name)?.len() as u64,
            manifests: manifests.len() as u64,
            pushed: latest(&mut manifests.iter().map(|(_, record)| record.pushed)),
            pulled: latest(&mut manifests.iter().map(|(_, record)| record.pulled)),
            name,
        });
    }
    Ok(all)
}

/// Which number of a quota a row shows.
type Pick = fn(&QuotaUse) -> u64;

/// The rows of the page of metrics; nothing without quotas.
pub(crate) fn metrics(registry: &Registry) -> String {
    let mut text = String::new();
    let quotas = match quotas(registry) {
        Ok(quotas) => quotas,
        Err(error) => {
            let error = yare_errdefs::chain(&error.into_failed());
            tracing::warn!(error, "the quotas cannot be read");
            return text;
        }
    };
    let gauges: [(&str, &str, Pick); 2] = [
        ("used_bytes", "Bytes that the repositories of a quota hold", |quota| quota.used),
        ("limit_bytes", "Bytes that they may hold", |quota| quota.limit),
    ];
    for (name, help, pick) in gauges.iter().filter(|_| !quotas.is_empty()) {
        let name = format!("yare_registry_quota_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for quota in &quotas {
            let label = crate::metrics::label(&quota.repositories);
            let _ = writeln!(text, "{name}{{repositories=\"{label}\"}} {}", pick(quota));
        }
    }
    text
}
