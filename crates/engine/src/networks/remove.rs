//! Removing networks.

use super::{UserNetwork, predefined_by_id};
use crate::Engine;
use crate::images::blocking;
use crate::records::Table;
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::NetworkPruneResponse;
use yare_api::filters::Filters;
use yare_errdefs::{Error, Result};

const PRUNE_FILTERS: &[&str] = &["label", "label!", "until", "unused-for", "dry-run"];

/// Removes a network that no container that runs is on. Goes on when the caller leaves.
pub async fn remove(engine: &Arc<Engine>, wanted: &str) -> Result<()> {
    if let Some(name) = predefined_by_id(engine, wanted) {
        return Err(Error::denied(format!("{name} is a pre-defined network and cannot be removed")));
    }
    let network = engine.networks.find(wanted)?;
    let engine = Arc::clone(engine);
    engine.clone().detached(async move { remove_found(&engine, &network).await }).await
}

async fn remove_found(engine: &Arc<Engine>, network: &Arc<UserNetwork>) -> Result<()> {
    let _changing = engine.networks.changing.lock().await;
    let record = &network.record;
    if let Ok(bridge) = &network.bridge {
        bridge.close().map_err(|holders| in_use(&record.name, &holders))?;
        let bridge = Arc::clone(bridge);
        let destroyed = blocking(move || {
            bridge.destroy().map_err(|error| Error::wrap("cannot delete its bridge", error))
        });
        if let Err(error) = destroyed.await {
            // Somebody may have deleted it before; what is left is nobody's.
            tracing::warn!(network = record.name, error = yare_errdefs::chain(&error), "removing a network");
        }
    }
    // Commit point. An engine that dies before it makes the bridge anew.
    engine.records.delete(Table::Networks, &record.id).await?;
    super::publish(engine, "destroy", &record.name, BTreeMap::new());
    engine.networks.by_id.write().remove(&record.id);
    Ok(())
}

fn in_use(name: &str, holders: &[(String, String)]) -> Error {
    let holders: Vec<_> = holders
        .iter()
        .map(|(name, endpoint)| format!("name:{name:?} id:{:?}", &endpoint[..endpoint.len().min(12)]))
        .collect();
    Error::denied(format!(
        "error while removing network: network {name} has active endpoints ({})",
        holders.join(", ")
    ))
    .with_hint("stop or disconnect these containers first")
}

/// Removes networks that no container is on, running or not. Goes on when the caller leaves.
pub async fn prune(engine: &Arc<Engine>, filters: &Filters) -> Result<NetworkPruneResponse> {
    filters.validate(PRUNE_FILTERS)?;
    let now = engine.clock.now();
    let until = filters.until(now)?;
    // Nobody notes when a network was last used, and one takes no space: asked for what was long unused, which
    // `system prune` asks of everything, none goes.
    let any_age = yare_image::parse_unused_for(filters.values("unused-for"), now)?.is_none();
    let candidates = engine.networks.all().into_iter().filter(|network| {
        let record = &network.record;
        any_age
            && until.is_none_or(|until| record.created < until)
            && filters.match_prune_labels(&record.labels)
    });
    let candidates: Vec<_> = candidates.collect();
    let dry_run = filters.boolean("dry-run")?.unwrap_or(false);
    let engine = Arc::clone(engine);
    engine.clone().detached(async move { prune_now(&engine, candidates, dry_run).await }).await
}

async fn prune_now(
    engine: &Arc<Engine>,
    candidates: Vec<Arc<UserNetwork>>,
    dry_run: bool,
) -> Result<NetworkPruneResponse> {
    let mut response = NetworkPruneResponse::default();
    for network in candidates {
        let name = &network.record.name;
        let containers = engine.containers.all();
        if containers.iter().any(|container| super::wanted(engine, &container.record()).contains_key(name)) {
            continue;
        }
        if dry_run {
            response.networks_deleted.get_or_insert_default().push(name.clone());
            continue;
        }
        match remove_found(engine, &network).await {
            Ok(()) => response.networks_deleted.get_or_insert_default().push(name.clone()),
            Err(error) => tracing::debug!(network = name, error = yare_errdefs::chain(&error), "not pruned"),
        }
    }
    if !dry_run {
        let reclaimed = BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]);
        engine.publish("network", "prune", "", reclaimed);
    }
    Ok(response)
}
