//! The end of a run, and what follows from it.

use super::start::Cause;
use crate::Engine;
use crate::container::{Container, Record};
use crate::lifecycle::{self, AfterExit, State};
use crate::task;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use yare_shim::Exit;

/// Settles the end of a run, once: later calls for the same run change nothing.
pub(crate) async fn settle(engine: &Arc<Engine>, container: &Arc<Container>, exit: Exit) {
    let settling = Arc::clone(&container.settling).lock_owned().await;
    let finished: Timestamp = exit.at.parse().unwrap_or_else(|_| engine.clock.now());
    let before = container.record();
    if !before.state.status.has_process() {
        return;
    }
    // The shim notes the end of a very short run before the engine has noted its start.
    let started = before.state.started_at.unwrap_or(finished);
    let finished = finished.max(started);
    let ran_for = Duration::try_from(finished.duration_since(started)).unwrap_or_default();
    let (orphaned, stays) = {
        let mut live = container.live.lock();
        live.pidfd = None;
        (std::mem::take(&mut live.orphaned), live.stays)
    };
    let left = engine.detach_networks(container);
    let mut follows = AfterExit::Stay;
    // One step: a stop that comes now is either seen here, or sees what was decided.
    container.update(|record| {
        follows = lifecycle::after_exit(
            record.restart_policy(),
            &lifecycle::Exit {
                code: exit.code,
                ran_for,
                restarts: record.state.restarts,
                last_delay: record.state.restart_delay,
                stopped_by_user: record.state.stopped_by_user || engine.stopping(),
                auto_remove: record.auto_remove() && !stays,
            },
        );
        let state = &mut record.state;
        state.status = match follows {
            AfterExit::Restart(_) => State::Restarting,
            AfterExit::Remove => State::Removing,
            AfterExit::Stay => State::Exited,
        };
        state.pid = 0;
        state.exit_code = exit.code;
        state.oom_killed = exit.oom;
        state.finished_at = Some(finished);
        state.error = exit.error.clone().unwrap_or_default();
        record.endpoints.clear();
    });
    engine.images.touch(&yare_image::ImageId(before.image));
    publish_end(engine, container, &exit, ran_for);
    for network in &left {
        crate::networks::publish_member(engine, "disconnect", network, &container.id);
    }
    engine.publish_unmounted(container);
    let mut released = Some(release_volumes(engine, &before));
    engine.execs.forget_container(&container.id);
    if follows != AfterExit::Remove {
        keep(engine, container, settling, released.take());
    }
    container.note_progress(|progress| {
        progress.exits += 1;
        progress.code = exit.code;
        progress.error = exit.error.clone().filter(|_| orphaned);
    });
    match follows {
        AfterExit::Stay => {}
        AfterExit::Remove => {
            let_go(released).await;
            if let Err(error) = super::remove::finish(engine, container, true).await {
                tracing::warn!(
                    container = container.id,
                    error = yare_errdefs::chain(&error),
                    "cannot remove"
                );
            }
        }
        AfterExit::Restart(pause) => restart_after(engine, container, pause),
    }
}

/// Lets go of volumes that are mounts. Nobody waits for that but the next start, which would find them mounted and
/// then lose them, and a removal.
fn release_volumes(engine: &Arc<Engine>, record: &Arc<Record>) -> JoinHandle<()> {
    let (engine, record) = (Arc::clone(engine), Arc::clone(record));
    tokio::task::spawn_blocking(move || crate::volumes::local::release(&engine, &record))
}

async fn let_go(released: Option<JoinHandle<()>>) {
    if let Some(released) = released
        && let Err(error) = released.await
    {
        tracing::warn!(%error, "cannot let go of volumes");
    }
}

/// Puts the end on record, and only then lets go of the run directory, which until then is what the next
/// engine would learn it from. Nobody waits for that but the next start.
fn keep(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    settling: tokio::sync::OwnedMutexGuard<()>,
    released: Option<JoinHandle<()>>,
) {
    let kept = engine.hand_over(container, Vec::new());
    let (engine, container) = (Arc::clone(engine), Arc::clone(container));
    tokio::spawn(async move {
        let id = &container.id;
        let kept = kept.await;
        // The next run has the same cgroup: its shim must find the lock of one that still cleans up.
        task::unlocked(&task::run_dir(&engine, id)).await;
        match kept {
            // It has its record there.
            Ok(()) if container.record().auto_remove() => {}
            Ok(()) => engine.trash_run_dir(id),
            Err(error) => tracing::warn!(container = id, %error, "the end of its run is not on record"),
        }
        let_go(released).await;
        drop(settling);
    });
}

fn publish_end(engine: &Engine, container: &Container, exit: &Exit, ran_for: Duration) {
    if exit.oom {
        engine.publish_container(container, "oom", BTreeMap::new());
    }
    let attributes = BTreeMap::from([
        ("exitCode".to_owned(), exit.code.to_string()),
        ("execDuration".to_owned(), ran_for.as_secs().to_string()),
    ]);
    engine.publish_container(container, "die", attributes);
}

/// Starts a container again after a pause that a stop can end.
fn restart_after(engine: &Arc<Engine>, container: &Arc<Container>, pause: Duration) {
    container.update(|record| {
        record.state.restarts += 1;
        record.state.restart_delay = pause;
    });
    let task = tokio::spawn({
        let (engine, container) = (Arc::clone(engine), Arc::clone(container));
        async move {
            tokio::time::sleep(pause).await;
            container.live.lock().restart = None;
            // Its own task: a stop may end the pause, not a start that is under way.
            tokio::spawn(async move {
                if let Err(error) = super::start::start_found(&engine, &container, Cause::Policy).await {
                    tracing::warn!(
                        container = container.id,
                        error = yare_errdefs::chain(&error),
                        "cannot restart"
                    );
                }
            });
        }
    });
    let mut live = container.live.lock();
    // A stop may have come before there was a pause to end.
    match container.state() {
        State::Restarting => live.restart = Some(task.abort_handle()),
        _ => task.abort(),
    }
}
