//! What a container changed of its image.

use crate::Engine;
use crate::images::blocking;
use std::sync::Arc;
use yare_api::FilesystemChange;
use yare_errdefs::{Error, Result};
use yare_snapshot::ChangeKind;

/// The paths that differ from the image, sorted. Only what the container has written is walked.
pub async fn changes(engine: &Arc<Engine>, id: &str) -> Result<Vec<FilesystemChange>> {
    let container = engine.containers.find(id)?;
    let engine = Arc::clone(engine);
    blocking(move || {
        let record = container.record();
        let changes = engine.images.snapshots().changes(&record.id, &record.layers);
        let changes = changes.map_err(|error| {
            Error::wrap(format!("cannot list what container {} changed", record.id), error)
        })?;
        Ok(changes
            .into_iter()
            .map(|change| FilesystemChange {
                path: change.path.to_string_lossy().into_owned(),
                kind: match change.kind {
                    ChangeKind::Modified => 0,
                    ChangeKind::Added => 1,
                    ChangeKind::Deleted => 2,
                },
            })
            .collect())
    })
    .await
}
