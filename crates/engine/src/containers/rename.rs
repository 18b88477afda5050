//! Renaming a container.

use crate::Engine;
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_errdefs::{Error, Result};

/// Gives a container another name. It keeps its id, and what knows it by its old name in a file keeps that.
pub async fn rename(engine: &Arc<Engine>, id: &str, new_name: &str) -> Result<()> {
    let container = engine.containers.find(id)?;
    let new_name = new_name.trim_start_matches('/');
    if new_name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty"));
    }
    let refused = |error| Error::wrap("Error when allocating new name", error);
    yare_api::names::check(&format!("/{new_name}")).map_err(refused)?;
    let _operation = container.operation.lock().await;
    let old_name = container.record().name.clone();
    if old_name == new_name {
        return Err(Error::invalid("Renaming a container with the same name as its current name"));
    }
    let claim = engine.containers.claim(new_name, &container.id).map_err(refused)?;
    container.update(|record| record.name = new_name.to_owned());
    if let Err(error) = engine.save(&container).await {
        container.update(|record| record.name = old_name);
        return Err(error);
    }
    claim.keep();
    engine.containers.release_name(&old_name);
    crate::networks::renamed(engine, &container.record());
    engine.publish_container(
        &container,
        "rename",
        BTreeMap::from([("oldName".to_owned(), format!("/{old_name}"))]),
    );
    Ok(())
}
