//! A container's root file system as one tar, without what is mounted on it.

use super::view;
use crate::Engine;
use crate::images::{self, Output, blocking};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_layer::{Form, WriteOptions};

/// The tar, as it is written. A running container goes on meanwhile.
pub async fn export(engine: &Arc<Engine>, id: &str) -> Result<Output> {
    let container = engine.containers.find(id)?;
    let pidfd = container.live.lock().pidfd.clone();
    let record = container.record();
    let root: OwnedFd = blocking({
        let engine = Arc::clone(engine);
        move || {
            let live = pidfd.map(|pidfd| view::root_of(&record.id, &pidfd)).transpose()?;
            // One that has ended just now has none any more.
            if let Some(root) = live.flatten() {
                return Ok(root);
            }
            let root = engine.images.snapshots().look_fd(&record.id, &record.layers);
            root.map_err(|error| {
                Error::wrap(format!("cannot read the root of container {}", record.id), error)
            })
        }
    })
    .await?;
    engine.publish_container(&container, "export", BTreeMap::new());
    images::written(move |writer| {
        let options = WriteOptions { form: Form::Plain, living: true, ..WriteOptions::default() };
        yare_layer::write_tar(root.as_fd(), writer, &options)
            .map(drop)
            .map_err(|error| Error::wrap("cannot export the container", error))
    })
}
