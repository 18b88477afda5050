//! After a start: finding what runs, settling what ended meanwhile, sweeping what nobody owns.
//!
//! The truth is in three places: the records, the run directories (with the shims' sockets and exit files),
//! and the kernel. Whatever the last engine was doing when it died, comparing the three says what is left
//! to do; nothing is assumed about an orderly end.

use crate::Engine;
use crate::container::{Container, Record};
use crate::containers::start::Cause;
use crate::lifecycle::{self, State};
use crate::records::Table;
use crate::task;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use yare_errdefs::{Error, Result};
use yare_shim::Exit;

/// The record of a container that removes itself, in its run directory.
pub(crate) const RUN_RECORD: &str = "record.json";

/// Brings records and reality together. Containers that are to run and don't are started in the background.
pub(crate) fn restore(engine: &Arc<Engine>) -> Result<()> {
    let unreadable = load(engine)?;
    let containers = engine.containers.all();
    let mut to_start = Vec::new();
    let since = Instant::now();
    for container in &containers {
        if let Some(start) = reconcile(engine, container, since) {
            to_start.push(start);
        }
    }
    sweep(engine, &containers, &unreadable)?;
    let starting: Arc<HashSet<String>> =
        Arc::new(to_start.iter().map(|container| container.id.clone()).collect());
    for container in to_start {
        let (engine, starting) = (Arc::clone(engine), Arc::clone(&starting));
        tokio::spawn(async move {
            crate::links::wait(&engine, &container.record(), &starting).await;
            if let Err(error) = crate::containers::start::start_found(&engine, &container, Cause::Boot).await
            {
                tracing::warn!(container = container.id, error = yare_errdefs::chain(&error), "cannot start");
            }
        });
    }
    engine.reap_images();
    Ok(())
}

/// Reads all records: the database's, and those of the run directories. Gives the ids of containers that run
/// and whose record in the run directory cannot be read.
fn load(engine: &Engine) -> Result<HashSet<String>> {
    for (id, row) in engine.records.all(Table::Containers)? {
        match serde_json::from_slice::<Record>(&row) {
            Ok(record) => engine.containers.adopt(Arc::new(Container::new(record))),
            Err(error) => {
                return Err(Error::internal(format!("cannot read the record of container {id}: {error}"))
                    .with_hint("it was written by another version; use that version, or remove the container with it"));
            }
        }
    }
    let mut unreadable = HashSet::new();
    for entry in run_dirs(engine) {
        let Ok(row) = std::fs::read(entry.join(RUN_RECORD)) else { continue };
        match serde_json::from_slice::<Record>(&row) {
            Ok(record) if engine.containers.by_id(&record.id).is_none() => {
                engine.containers.adopt(Arc::new(Container::new(record)));
            }
            Ok(_) => {}
            Err(error) if yare_shim::is_locked(&entry) => {
                unreadable.extend(leave_alone(engine, &entry, &error))
            }
            Err(error) => tracing::warn!(%error, "unreadable record in {}", entry.display()),
        }
    }
    Ok(unreadable)
}

/// A container runs whose record says nothing to this engine: another version wrote it. It runs on, its address
/// stays its own, and the first engine that starts after its end sweeps it.
fn leave_alone(engine: &Engine, run_dir: &Path, error: &serde_json::Error) -> Option<String> {
    let id = run_dir.file_name()?.to_str()?.to_owned();
    tracing::error!(
        container = id,
        %error,
        "cannot read the record of a container that runs: it is left alone, and not listed; \
         use the version of yare that started it to see it"
    );
    if let Some(begun) = task::Begun::read(run_dir) {
        crate::networks::restore(engine, &id, &begun.endpoints);
    }
    Some(id)
}

fn run_dirs(engine: &Engine) -> Vec<std::path::PathBuf> {
    let folder = engine.config.exec_root.join("containers");
    std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// Brings one container's record and reality together; gives it back when it is to be started.
fn reconcile(engine: &Arc<Engine>, container: &Arc<Container>, since: Instant) -> Option<Arc<Container>> {
    let record = container.record();
    let run_dir = task::run_dir(engine, &record.id);
    match task::find_shim(&run_dir, &record, since) {
        Some(task::Found::Answering(found)) => {
            resume(engine, container, found);
            return None;
        }
        Some(task::Found::Silent) => {
            adopt_run(container, &run_dir);
            go_on(engine, container, yare_shim::noted_pid(&run_dir).unwrap_or(record.state.pid));
            task::follow_silent(engine, container);
            return None;
        }
        None => {}
    }
    let exit = Exit::read(&run_dir).ok().flatten().filter(|exit| is_news(&record, exit));
    match (record.state.status, exit) {
        (State::Removing | State::Dead, _) => {
            finish_removal(engine, container);
            None
        }
        (_, Some(exit)) => {
            // It ran and ended while nobody looked.
            adopt_run(container, &run_dir);
            settle_later(engine, container, exit);
            None
        }
        (State::Running | State::Paused, None) => lost_run(engine, container, &record),
        (State::Created | State::Exited | State::Restarting, None)
            if surviving_process(engine, &record, yare_shim::noted_pid(&run_dir)).is_some() =>
        {
            adopt_run(container, &run_dir);
            let pid = yare_shim::noted_pid(&run_dir).unwrap_or_default();
            let record = container.update(|record| record.state.pid = pid);
            lost_run(engine, container, &record)
        }
        (State::Created | State::Exited, None) if record.auto_remove() => {
            // Its engine died before the start, or in the middle of a restart; nobody will start it now.
            container.update(|record| record.state.status = State::Removing);
            finish_removal(engine, container);
            None
        }
        (status, None) => {
            if run_dir.exists() {
                // What an end that is on record, or a start that came to nothing, has left.
                task::clear_group_now(engine, &record);
                engine.trash_run_dir(&record.id);
            }
            let state = &record.state;
            let was_running = status == State::Restarting;
            if was_running {
                container.update(|record| record.state.status = State::Exited);
            }
            let boots = matches!(status, State::Exited | State::Restarting)
                && lifecycle::start_at_boot(
                    record.restart_policy(),
                    state.stopped_by_user,
                    was_running,
                    state.exit_code,
                );
            boots.then(|| Arc::clone(container))
        }
    }
}

/// Whether an exit file tells of a run whose end is not on record.
fn is_news(record: &Record, exit: &Exit) -> bool {
    // A recorded end may be later than what the shim noted (`settle`), never earlier.
    record.state.status.has_process() || exit.at.parse::<jiff::Timestamp>().ok() > record.state.finished_at
}

/// Makes the record one of a run that began and did not get on record: the engine died in between.
fn adopt_run(container: &Container, run_dir: &Path) {
    let begun = task::Begun::read(run_dir);
    container.update(|record| {
        let state = &mut record.state;
        if state.status.has_process() {
            return;
        }
        state.status = State::Running;
        state.exit_code = 0;
        state.error.clear();
        state.oom_killed = false;
        state.stopped_by_user = false;
        if let Some(begun) = begun {
            state.started_at = Some(begun.at);
            record.endpoints = begun.endpoints;
        }
    });
    container.progress.send_modify(|progress| progress.running = true);
}

/// A living shim: the run goes on.
fn resume(engine: &Arc<Engine>, container: &Arc<Container>, found: task::Reconnected) {
    adopt_run(container, &task::run_dir(engine, &container.id));
    if let Some(exit) = found.exit {
        settle_later(engine, container, exit);
        return;
    }
    go_on(engine, container, found.pid);
    task::follow(engine, container, found.control);
}

/// Takes up what the last engine had of a run that goes on.
fn go_on(engine: &Arc<Engine>, container: &Arc<Container>, pid: i32) {
    container.live.lock().pidfd = yare_sys::process::pidfd_open(pid).ok().map(Arc::new);
    container.update(|record| {
        record.state.pid = pid;
        record.state.started_at.get_or_insert_with(|| engine.clock.now());
    });
    let record = note_frozen(engine, container);
    engine.save_soon(container);
    crate::networks::restore_run(engine, &record);
    crate::health::watch(engine, container);
}

/// Whether it is paused is for the kernel to say. What a commit froze that the last engine did not end goes on.
fn note_frozen(engine: &Engine, container: &Container) -> Arc<Record> {
    let group = yare_cgroup::Group::open(&engine.cgroups, &engine.cgroup_path(&container.record()));
    let note = task::run_dir(engine, &container.id).join(crate::containers::commit::FROZEN);
    if let (Ok(group), Ok(())) = (&group, std::fs::remove_file(note))
        && let Err(error) = group.thaw()
    {
        tracing::warn!(
            container = container.id,
            error = yare_errdefs::chain(&error),
            "it stays paused: a commit had frozen it"
        );
    }
    let frozen = group.is_ok_and(|group| group.is_frozen());
    container.update(|record| record.state.status = if frozen { State::Paused } else { State::Running })
}

/// The record says that it runs, but there is neither shim nor exit file: the shim was killed, or the host
/// was restarted.
fn lost_run(engine: &Arc<Engine>, container: &Arc<Container>, record: &Record) -> Option<Arc<Container>> {
    if let Some(pidfd) = surviving_process(engine, record, Some(record.state.pid)) {
        container.live.lock().pidfd = Some(Arc::new(pidfd));
        note_frozen(engine, container);
        crate::networks::restore_run(engine, record);
        task::follow_orphan(engine, container);
        return None;
    }
    container.live.lock().orphaned = true;
    let exit = Exit {
        code: 255,
        oom: false,
        at: engine.clock.now().to_string(),
        error: Some("the host or the container's shim went down while it ran".to_owned()),
    };
    settle_later(engine, container, exit);
    None
}

/// Process 1 of a container whose shim is gone, if it is still that process.
fn surviving_process(engine: &Engine, record: &Record, pid: Option<i32>) -> Option<OwnedFd> {
    let pid = pid.filter(|pid| *pid != 0)?;
    let pidfd = yare_sys::process::pidfd_open(pid).ok()?;
    crate::processes::is_first(engine, record, pid).then_some(pidfd)
}

fn settle_later(engine: &Arc<Engine>, container: &Arc<Container>, exit: Exit) {
    let (engine, container) = (Arc::clone(engine), Arc::clone(container));
    tokio::spawn(async move {
        // Its shim may not have lived to do so.
        task::clear_group(&engine, &container).await;
        crate::containers::exit::settle(&engine, &container, exit).await;
    });
}

fn finish_removal(engine: &Arc<Engine>, container: &Arc<Container>) {
    let (engine, container) = (Arc::clone(engine), Arc::clone(container));
    tokio::spawn(async move {
        task::clear_group(&engine, &container).await;
        let volumes = container.record().auto_remove();
        if let Err(error) = crate::containers::remove::finish(&engine, &container, volumes).await {
            tracing::warn!(container = container.id, error = yare_errdefs::chain(&error), "cannot remove");
        }
    });
}

/// Removes what no record owns, but for what belongs to containers whose record cannot be read.
fn sweep(engine: &Arc<Engine>, containers: &[Arc<Container>], unreadable: &HashSet<String>) -> Result<()> {
    let recorded = containers.iter().map(|container| container.id.as_str());
    let known: HashSet<&str> = recorded.chain(unreadable.iter().map(String::as_str)).collect();
    for run_dir in run_dirs(engine) {
        if !owned(&run_dir, &known) {
            end_stray(&run_dir);
            engine.run_trash.take(&run_dir)?;
        }
    }
    let snapshots = engine.images.snapshots();
    let failed = |error| Error::wrap("cannot sweep writable layers that no container owns", error);
    for snapshot in snapshots.snapshots().map_err(failed)? {
        if !known.contains(snapshot.as_str()) {
            snapshots.remove(&snapshot).map_err(failed)?;
        }
    }
    for folder in std::fs::read_dir(engine.config.data_root.join("containers"))?.flatten() {
        if !owned(&folder.path(), &known) {
            engine.trash.take(&folder.path())?;
        }
    }
    crate::volumes::local::restore(engine);
    sweep_volumes(engine)?;
    crate::volumes::fill::empty_half_filled(engine);
    crate::networks::sweep(engine);
    Ok(())
}

/// Folders of anonymous volumes that never came on record go. Any other folder may be somebody's data, put
/// back from a backup or older than the records: it is left alone and named.
fn sweep_volumes(engine: &Engine) -> Result<()> {
    for folder in std::fs::read_dir(engine.config.data_root.join("volumes"))?.flatten() {
        let name = folder.file_name().to_string_lossy().into_owned();
        if engine.volumes.find(&name).is_some() {
            continue;
        }
        if !yare_api::names::is_id(&name) {
            tracing::warn!("no volume is on record for {}: it is left as it is", folder.path().display());
            continue;
        }
        if let Err(error) = crate::volumes::trash(engine, &name) {
            tracing::warn!(
                error = yare_errdefs::chain(&error),
                "cannot sweep a volume that never was on record"
            );
        }
    }
    Ok(())
}

fn owned(path: &Path, known: &HashSet<&str>) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| known.contains(name))
}

/// Ends a container that has a shim but no record: its removal was under way.
fn end_stray(run_dir: &Path) {
    if !yare_shim::is_locked(run_dir) {
        return;
    }
    tracing::info!("ending a container without a record, run directory {}", run_dir.display());
    if let Err(error) = task::end_stray(run_dir) {
        tracing::warn!(%error, "cannot end it");
    }
}
