//! Changing the limits of a container.

use crate::Engine;
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::{ContainerUpdateRequest, ContainerUpdateResponse};
use yare_errdefs::{Error, Result};

/// Changes limits and the restart policy; members that are zero leave theirs as it is. A running container
/// gets the new limits at once.
pub async fn update(
    engine: &Arc<Engine>,
    id: &str,
    request: ContainerUpdateRequest,
) -> Result<ContainerUpdateResponse> {
    let container = engine.containers.find(id)?;
    let _operation = container.operation.lock().await;
    let record = container.record();
    let update = yare_specgen::settle_update(&request, &record.host_config, &engine.facts)
        .map_err(super::create::together)?;
    let mut warnings = update.warnings;
    let group = match record.state.status.has_process() {
        true => Some(super::stop::group(engine, &container)?),
        false => None,
    };
    if let Some(group) = &group {
        let applied = group
            .update(&update.resources)
            .map_err(|error| Error::wrap(format!("Cannot update container {}", container.id), error))?;
        warnings.extend(applied);
    }
    container.update(|record| {
        record.host_config = update.host_config;
        record.plan.resources = update.resources;
        record.plan.block_io = update.block_io;
    });
    if let Err(error) = engine.save(&container).await {
        container.update(|now| {
            now.host_config = record.host_config.clone();
            now.plan.resources = record.plan.resources.clone();
            now.plan.block_io = record.plan.block_io.clone();
        });
        if let Some(Err(undoing)) = group.map(|group| group.update(&record.plan.resources)) {
            tracing::warn!(
                container = container.id,
                error = yare_errdefs::chain(&undoing),
                "it keeps limits that are not on record until it is started again"
            );
        }
        return Err(error);
    }
    engine.publish_container(&container, "update", BTreeMap::new());
    Ok(ContainerUpdateResponse { warnings: (!warnings.is_empty()).then_some(warnings) })
}
