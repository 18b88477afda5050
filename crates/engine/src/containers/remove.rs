//! Removing containers: records first, then what they kept on disk.

use crate::Engine;
use crate::container::{Condition, Container, Record};
use crate::lifecycle::State;
use crate::records::{Edit, Table};
use crate::volumes::holds::Leaving;
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::filters::Filters;
use yare_api::{ContainerPruneResponse, ContainerWaitResponse};
use yare_errdefs::{Error, Result};

/// How to remove a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove the volumes made for it too.
    pub volumes: bool,
    /// Remove a link instead: the name that one container has for another.
    pub link: bool,
}

/// Removes a container. Goes on when the caller leaves.
pub async fn remove(engine: &Arc<Engine>, id: &str, options: RemoveOptions) -> Result<()> {
    if options.link {
        return crate::links::remove(engine, id).await;
    }
    let container = engine.containers.find(id)?;
    let (engine, id) = (Arc::clone(engine), id.to_owned());
    engine.clone().detached(async move { remove_found(&engine, &container, &id, options).await }).await
}

async fn remove_found(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    id: &str,
    options: RemoveOptions,
) -> Result<()> {
    let gone = container.wait(Condition::Removed);
    {
        let _operation = container.operation.lock().await;
        let state = container.state();
        match state {
            State::Removing | State::Dead if container.progress.borrow().removed => return Ok(()),
            // Its own end removes it (--rm).
            State::Removing if options.force && container.record().auto_remove() => {
                return removed(container, gone).await;
            }
            State::Removing => {
                return Err(Error::conflict(format!(
                    "removal of container {} is already in progress",
                    name(container)
                )));
            }
            State::Running | State::Paused | State::Restarting if !options.force => {
                return Err(refusal(state, id));
            }
            _ => {}
        }
        if state.counts_as_running() {
            end_now(engine, container).await?;
        }
        if !claim(container) {
            return removed(container, gone).await;
        }
    }
    finish(engine, container, options.volumes).await
}

/// Waits for a removal that is under way.
async fn removed(container: &Container, gone: impl Future<Output = ContainerWaitResponse>) -> Result<()> {
    drop(gone.await);
    let stuck = container.progress.borrow().stuck.clone();
    stuck.map_or(Ok(()), |why| Err(Error::internal(why)))
}

fn name(container: &Container) -> String {
    container.record().name.clone()
}

fn refusal(state: State, id: &str) -> Error {
    let (what, then) = match state {
        State::Paused => ("paused and must be unpaused first", ""),
        State::Restarting => ("restarting", ": stop the container before removing or force remove"),
        _ => ("running", ": stop the container before removing or force remove"),
    };
    Error::conflict(format!("cannot remove container {id:?}: container is {what}{then}"))
}

async fn end_now(engine: &Arc<Engine>, container: &Arc<Container>) -> Result<()> {
    if super::stop::end_pause(container) {
        return Ok(());
    }
    let ended = container.wait(Condition::NotRunning);
    container.update(|record| record.state.stopped_by_user = true);
    engine.publish_container(container, "kill", BTreeMap::from([("signal".to_owned(), "9".to_owned())]));
    super::stop::kill_all(engine, container).await?;
    tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.map(drop).map_err(|_| {
        Error::internal(format!("cannot remove container {}: it does not end after SIGKILL", container.id))
    })
}

/// Marks a stopped container as being removed; `false` when somebody else did.
fn claim(container: &Container) -> bool {
    let mut ours = false;
    container.progress.send_modify(|progress| progress.stuck = None);
    container.update(|record| {
        ours = !record.state.status.has_process() && record.state.status != State::Removing;
        if ours {
            record.state.status = State::Removing;
        }
    });
    ours
}

/// Removes what is left of a container that is marked as being removed. What cannot be unlinked now is
/// swept by a later start of the engine: without a record it has no owner. Fails when it cannot be taken off
/// the records; then it is dead, and can be removed again.
pub(crate) async fn finish(engine: &Arc<Engine>, container: &Arc<Container>, volumes: bool) -> Result<()> {
    let record = container.record();
    let volumes = if volumes { volumes_of(engine, &record).await } else { Vec::new() };
    let edits: Vec<Edit> = volumes.iter().map(|(name, _)| Edit::delete(Table::Volumes, name)).collect();
    // Commit point: without its record the container is gone, whatever happens next.
    if let Err(error) = engine.delete(container, edits).await {
        container.update(|record| record.state.status = State::Dead);
        let error = Error::wrap(format!("cannot remove container {}", container.id), error);
        container.note_progress(|progress| progress.stuck = Some(yare_errdefs::chain(&error)));
        return Err(error);
    }
    engine.trash_run_dir(&container.id);
    engine.containers.remove(&container.id);
    if let Err(error) = engine.images.snapshots().remove(&container.id) {
        tracing::warn!(
            container = container.id,
            error = yare_errdefs::chain(&error),
            "cannot remove the writable layer"
        );
    }
    let files = engine.container_dir(&container.id);
    if let Err(error) = engine.trash.take(&files) {
        tracing::warn!(
            container = container.id,
            error = yare_errdefs::chain(&error),
            "cannot remove {}",
            files.display()
        );
    }
    for (volume, _leaving) in volumes {
        if let Err(error) = crate::volumes::take_away(engine, volume) {
            tracing::warn!(volume, error = yare_errdefs::chain(&error), "cannot remove the volume");
        }
    }
    engine.publish_container(container, "destroy", BTreeMap::new());
    container.progress.send_modify(|progress| {
        progress.running = false;
        progress.removed = true;
    });
    engine.reap_images();
    Ok(())
}

/// The volumes that were made for a container and that no other one mounts, claimed for their removal.
async fn volumes_of<'a>(engine: &Engine, record: &'a Record) -> Vec<(&'a str, Leaving)> {
    let mut alone = Vec::new();
    for name in &record.anonymous {
        if let Ok(leaving) = crate::volumes::leave(engine, name, Some(&record.id)).await {
            alone.push((name.as_str(), leaving));
        }
    }
    alone
}

const PRUNE_FILTERS: &[&str] = &["label", "label!", "until", "unused-for", "dry-run"];

/// Removes all stopped containers that pass the filters.
pub async fn prune(engine: &Arc<Engine>, filters: &Filters) -> Result<ContainerPruneResponse> {
    filters.validate(PRUNE_FILTERS)?;
    let now = engine.clock.now();
    let until = filters.until(now)?;
    let unused_since = yare_image::parse_unused_for(filters.values("unused-for"), now)?;
    let dry_run = filters.boolean("dry-run")?.unwrap_or(false);
    let mut response = ContainerPruneResponse::default();
    for container in engine.containers.all() {
        let record = container.record();
        let labels = record.config.labels.clone().unwrap_or_default();
        let stopped = matches!(record.state.status, State::Created | State::Exited | State::Dead);
        let wanted = stopped
            && until.is_none_or(|until| record.created < until)
            && unused_since.is_none_or(|since| record.unused_since() <= since)
            && filters.match_prune_labels(&labels);
        if !wanted {
            continue;
        }
        let size = crate::images::blocking({
            let (engine, record) = (Arc::clone(engine), Arc::clone(&record));
            move || Ok(super::logs::own_size(&engine, &record))
        });
        let size = i64::try_from(size.await?).unwrap_or(i64::MAX);
        if !dry_run && !discard(engine, &container, record.unused_since()).await? {
            continue;
        }
        response.space_reclaimed += size;
        response.explained.get_or_insert_default().push(explained(&record, size));
        response.containers_deleted.get_or_insert_default().push(container.id.clone());
    }
    if !dry_run {
        let reclaimed = response.space_reclaimed.to_string();
        engine.publish("container", "prune", "", BTreeMap::from([("reclaimed".to_owned(), reclaimed)]));
    }
    Ok(response)
}

/// Removes a container that is still stopped, as it has been since that moment; says whether it did.
pub(crate) async fn discard(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    since: jiff::Timestamp,
) -> Result<bool> {
    let _operation = container.operation.lock().await;
    if container.record().unused_since() != since || !claim(container) {
        return Ok(false);
    }
    finish(engine, container, false).await?;
    Ok(true)
}

fn explained(record: &Record, size: i64) -> yare_api::image::Pruned {
    let since = record.unused_since().strftime("%Y-%m-%d %H:%M:%S UTC");
    yare_api::image::Pruned {
        id: record.id.clone(),
        names: vec![record.name.clone()],
        last_used: record.unused_since().as_second(),
        size,
        reason: format!("it is {} since {since}", record.state.status),
    }
}
