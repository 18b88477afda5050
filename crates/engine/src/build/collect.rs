//! The build cache kept within bounds, beside everything else: after builds, no more than once a minute.

use crate::config::{BuildCacheRule, BuildCacheSettings};
use crate::facts::disk;
use crate::images::blocking;
use crate::{Config, Engine};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};
use yare_build::cache::{Policy, PruneOptions, Rule, Space};
use yare_build::source::git::Git;
use yare_build::source::http::Downloads;
use yare_errdefs::{Error, Result};

/// How often at most.
const PAUSE: Duration = Duration::from_secs(60);
/// Days after which an unused result goes.
const DAYS: i64 = 30;
/// Days after which a download or a repository that no build asked for goes: it can be had again.
const SOURCE_DAYS: u64 = 7;
/// Bytes of the cache on a disk that is large enough.
const LARGEST: u64 = 20_000_000_000;
/// A tenth of a smaller one.
const PART: u64 = 10;

/// The policy of an engine; `None` where collecting is switched off.
///
/// # Errors
/// A filter of a rule is unknown or malformed.
pub(super) fn policy(config: &Config) -> Result<Option<Policy>> {
    let settings = &config.build_cache;
    if !settings.is_on {
        return Ok(None);
    }
    if !settings.rules.is_empty() {
        let rules = settings.rules.iter().map(rule).collect::<Result<_>>()?;
        return Ok(Some(Policy(rules)));
    }
    let mut policy = Policy::bounded(most(settings, &config.data_root), DAYS);
    for rule in policy.0.iter_mut().skip(1) {
        rule.space.reserved = settings.reserved;
        rule.space.min_free = settings.min_free;
        if settings.max_used.is_none() && settings.reserved.is_some() {
            // dockerd's defaultKeepStorage alone is the bound.
            rule.space.max_used = settings.reserved;
        }
    }
    Ok(Some(policy))
}

/// The bound in bytes.
fn most(settings: &BuildCacheSettings, root: &Path) -> u64 {
    settings.max_used.unwrap_or_else(|| (disk(root).0 / PART).min(LARGEST))
}

fn rule(written: &BuildCacheRule) -> Result<Rule> {
    let mut rule = Rule {
        all: written.all,
        space: Space { reserved: written.reserved, max_used: written.max_used, min_free: written.min_free },
        ..Rule::default()
    };
    for filter in &written.filters {
        let invalid = || {
            Error::invalid(format!("invalid filter {filter:?} of a rule of the build cache"))
                .with_hint("the filters are unused-for=DURATION, until=DURATION, type=, id= and description=")
        };
        let (name, value) = filter.split_once('=').ok_or_else(invalid)?;
        let value = value.trim_start_matches('=').to_owned();
        match name {
            "unused-for" | "until" => rule.unused_for = Some(super::seconds(&value)?),
            "type" => rule.kinds.push(value),
            "id" => rule.ids.push(value),
            "description" => rule.descriptions.push(value),
            _ => return Err(invalid()),
        }
    }
    Ok(rule)
}

/// What `info` says of the bound.
pub(crate) fn shown(engine: &Engine) -> String {
    let settings = &engine.config.build_cache;
    if !settings.is_on {
        return "none: collecting is switched off".to_owned();
    }
    if !settings.rules.is_empty() {
        return format!("{} rules of the configuration", settings.rules.len());
    }
    let most = match (settings.max_used, settings.reserved) {
        (None, Some(reserved)) => reserved,
        _ => most(settings, &engine.config.data_root),
    };
    format!("{most} bytes, unused for {DAYS} days")
}

/// Bytes that nothing but the cache has and no build uses.
pub(crate) fn reclaimable(engine: &Engine) -> u64 {
    let rows = engine.builder.cache.usage();
    rows.iter().filter(|row| !row.shared && !row.in_use).map(|row| row.size).sum()
}

/// Makes the cache smaller by so many bytes, the least recently used first; says by how many it became.
pub(crate) fn give_back(engine: &Engine, bytes: u64) -> u64 {
    let used: u64 = engine.builder.cache.usage().iter().filter(|row| !row.shared).map(|row| row.size).sum();
    let keep_bytes = Some(used.saturating_sub(bytes));
    engine.builder.cache.prune(&PruneOptions { keep_bytes, ..PruneOptions::default() }).bytes
}

/// Collects after each build.
pub(crate) fn keep_small(engine: &Arc<Engine>) {
    let (wake, engine) = (Arc::clone(&engine.builder.built), Arc::downgrade(engine));
    tokio::spawn(async move {
        loop {
            wake.notified().await;
            let Some(collected) = once(&engine).await else { return };
            if let Err(error) = collected {
                tracing::warn!(error = yare_errdefs::chain(&error), "the build cache is not collected");
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}

async fn once(engine: &Weak<Engine>) -> Option<Result<()>> {
    let engine = engine.upgrade()?;
    Some(blocking(move || collect(&engine)).await)
}

fn collect(engine: &Engine) -> Result<()> {
    let Some(Policy(rules)) = &engine.builder.policy else { return Ok(()) };
    for (place, rule) in rules.iter().enumerate() {
        let used = engine
            .builder
            .cache
            .usage()
            .iter()
            .filter(|row| rule.all || !row.shared)
            .map(|row| row.size)
            .sum();
        let pruned = engine.builder.cache.prune(&rule.options(used, disk(&engine.config.data_root).1));
        if !pruned.keys.is_empty() {
            let (results, bytes) = (pruned.keys.len(), pruned.bytes);
            tracing::info!(rule = place + 1, results, bytes, "results of old builds were removed");
        }
    }
    let limit = SystemTime::now() - Duration::from_secs(SOURCE_DAYS * 86_400);
    let sources = engine.builder.folder.join("sources");
    let downloads = Downloads::open(&sources.join("http"))?.prune(limit)?;
    let repositories = Git::new(sources.join("git")).prune(limit)?;
    if downloads + repositories > 0 {
        tracing::info!(downloads, repositories, "bytes of sources that no build asked for were removed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(build_cache: BuildCacheSettings) -> Config {
        Config { build_cache, data_root: "/".into(), ..Config::default() }
    }

    #[test]
    fn the_default_is_bounded_by_age_and_size() {
        let Policy(rules) = policy(&config(BuildCacheSettings::default())).unwrap().unwrap();
        assert_eq!(rules[0].unused_for, Some(DAYS * 86_400));
        let most = rules[1].space.max_used.unwrap();
        assert!(most > 0 && most <= LARGEST, "{most}");
        let off = BuildCacheSettings { is_on: false, ..BuildCacheSettings::default() };
        assert_eq!(policy(&config(off)).unwrap(), None);
        let kept = BuildCacheSettings { reserved: Some(5), ..BuildCacheSettings::default() };
        let Policy(rules) = policy(&config(kept)).unwrap().unwrap();
        assert_eq!(rules[2].space.keep(100, 0), Some(5));
    }

    #[test]
    fn rules_of_the_configuration_take_the_place_of_the_default() {
        let written = |filter: &str| BuildCacheSettings {
            rules: vec![BuildCacheRule { filters: vec![filter.to_owned()], ..BuildCacheRule::default() }],
            ..BuildCacheSettings::default()
        };
        let Policy(rules) = policy(&config(written("unused-for=2h"))).unwrap().unwrap();
        assert_eq!((rules.len(), rules[0].unused_for), (1, Some(7200)));
        let Policy(rules) = policy(&config(written("type==exec.cachemount"))).unwrap().unwrap();
        assert_eq!(rules[0].kinds, ["exec.cachemount"]);
        for bad in ["what=x", "unused-for", "until=soon"] {
            assert!(policy(&config(written(bad))).is_err(), "{bad}");
        }
    }
}
