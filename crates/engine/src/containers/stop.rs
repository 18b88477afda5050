//! Stop, kill, restart, pause: what ends or holds a run.

use super::start::Cause;
use crate::Engine;
use crate::container::{Condition, Container, Record};
use crate::images::blocking;
use crate::lifecycle::{self, RestartPolicy, State, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use yare_errdefs::{Error, Result};

pub(crate) const KILL: i32 = 9;
const TERM: i32 = 15;
/// How long the kernel may take to end a killed container before that is an error.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks a container to stop, and kills it when its time is up. `false` when it did not run.
///
/// Goes on when the caller leaves. A timeout below zero waits for ever.
pub async fn stop(
    engine: &Arc<Engine>,
    id: &str,
    signal: Option<&str>,
    timeout: Option<i64>,
) -> Result<bool> {
    let container = engine.containers.find(id)?;
    let signal = signal.filter(|signal| !signal.is_empty()).map(parse_signal).transpose()?;
    engine.detached(stop_found(Arc::clone(engine), container, signal, timeout)).await
}

async fn stop_found(
    engine: Arc<Engine>,
    container: Arc<Container>,
    signal: Option<i32>,
    timeout: Option<i64>,
) -> Result<bool> {
    let (record, waited) = mark_stopped(&engine, &container).await?;
    if waited {
        return Ok(true);
    }
    if !record.state.status.has_process() {
        return Ok(false);
    }
    let ended = container.wait(Condition::NotRunning);
    tokio::pin!(ended);
    let signal = signal.or_else(|| parse_signal(&record.plan.stop_signal).ok()).unwrap_or(TERM);
    let timeout = timeout.or(record.plan.stop_timeout).unwrap_or(engine.config.stop_timeout.into());
    deliver(&engine, &container, signal)?;
    if record.state.status == State::Paused {
        thaw(&engine, &container).await?;
    }
    let patience = u64::try_from(timeout).map(Duration::from_secs).unwrap_or(Duration::MAX);
    if tokio::time::timeout(patience, &mut ended).await.is_err() {
        kill_all(&engine, &container).await?;
        tokio::time::timeout(KILL_TIMEOUT, &mut ended).await.map_err(|_| {
            Error::internal(format!("container {} does not end after SIGKILL", container.id))
                .with_hint("a process in it waits for a device or file server; see the kernel log (dmesg)")
        })?;
    }
    on_record(&container).await;
    engine.publish_container(&container, "stop", BTreeMap::new());
    Ok(true)
}

/// Waits until the end of a run is on record, where something follows from it: a container that a user has
/// stopped must not come back because the engine was killed a moment later.
async fn on_record(container: &Container) {
    if container.record().restart_policy() != RestartPolicy::No {
        drop(container.settling.lock().await);
    }
}

/// Notes that a user ends what runs or is about to run again; a start that is under way is let through first.
/// `true` when it was waiting to be restarted, which it does no more.
async fn mark_stopped(engine: &Arc<Engine>, container: &Container) -> Result<(Arc<Record>, bool)> {
    let _operation = container.operation.lock().await;
    container.update(|record| record.state.stopped_by_user |= record.state.status.has_process());
    let waited = end_pause(container);
    if waited {
        engine.save(container).await?;
        engine.publish_container(container, "stop", BTreeMap::new());
    }
    Ok((container.record(), waited))
}

/// Ends the pause before a restart; `false` when there is none. Whoever calls holds the operation lock: no
/// start is under way, and the one that the pause ends with finds nothing to do.
pub(super) fn end_pause(container: &Container) -> bool {
    let mut waited = false;
    container.update(|record| {
        let state = &mut record.state;
        waited = state.status == State::Restarting;
        if waited {
            state.status = State::Exited;
            state.stopped_by_user = true;
        }
    });
    if waited {
        if let Some(pause) = container.live.lock().restart.take() {
            pause.abort();
        }
        container.note_progress(|_| {});
    }
    waited
}

/// Stops a container if it runs, and starts it. One that removes itself at its end stays this once.
pub async fn restart(
    engine: &Arc<Engine>,
    id: &str,
    signal: Option<&str>,
    timeout: Option<i64>,
) -> Result<()> {
    let container = engine.containers.find(id)?;
    let signal = signal.filter(|signal| !signal.is_empty()).map(parse_signal).transpose()?;
    let engine = Arc::clone(engine);
    engine
        .clone()
        .detached(async move {
            container.live.lock().stays = true;
            let stopped = stop_found(Arc::clone(&engine), Arc::clone(&container), signal, timeout).await;
            container.live.lock().stays = false;
            stopped?;
            super::start::start_found(&engine, &container, Cause::User).await?;
            engine.publish_container(&container, "restart", BTreeMap::new());
            Ok(())
        })
        .await
}

/// Sends a signal to a running container; SIGKILL also waits for its end.
pub async fn kill(engine: &Arc<Engine>, id: &str, signal: &str) -> Result<()> {
    let container = engine.containers.find(id)?;
    let signal =
        if signal.is_empty() { KILL } else { parse_signal(signal).map_err(|error| prefix(id, error))? };
    let record = if signal == KILL {
        let (record, waited) = mark_stopped(engine, &container).await?;
        if waited {
            return Ok(());
        }
        record
    } else {
        container.settled().await
    };
    if !record.state.status.has_process() {
        return Err(Error::conflict(format!(
            "cannot kill container: {id}: container {} is not running",
            container.id
        )));
    }
    let stop_signal = parse_signal(&record.plan.stop_signal).unwrap_or(TERM);
    if signal == stop_signal {
        container.update(|record| record.state.stopped_by_user = true);
    }
    if signal != KILL {
        deliver(engine, &container, signal)?;
        // As in Docker, a signal that is to end it reaches a paused container too.
        let to_end = record.config.stop_signal.is_empty() || signal == stop_signal;
        if to_end && record.state.status == State::Paused {
            thaw(engine, &container).await?;
        }
        return Ok(());
    }
    let ended = container.wait(Condition::NotRunning);
    publish_kill(engine, &container, signal);
    kill_all(engine, &container).await?;
    tokio::time::timeout(KILL_TIMEOUT, ended)
        .await
        .map_err(|_| Error::internal(format!("container {} does not end after SIGKILL", container.id)))?;
    on_record(&container).await;
    Ok(())
}

fn prefix(id: &str, error: Error) -> Error {
    Error::invalid(format!("cannot kill container: {id}: {error}"))
}

/// Sends a signal to pid 1 through the handle that cannot mean another process.
fn deliver(engine: &Engine, container: &Container, signal: i32) -> Result<()> {
    let pidfd = container.live.lock().pidfd.clone();
    publish_kill(engine, container, signal);
    let Some(pidfd) = pidfd else { return Ok(()) };
    send(container, &pidfd, signal)
}

fn send(container: &Container, pidfd: &std::os::fd::OwnedFd, signal: i32) -> Result<()> {
    match yare_sys::process::pidfd_send_signal(pidfd, signal) {
        Ok(()) => Ok(()),
        // It ended just now: its end is on its way.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
        Err(error) => {
            Err(Error::internal(format!("cannot send signal {signal} to container {}", container.id))
                .caused_by(error))
        }
    }
}

/// Kills everything in the container: its whole cgroup where that can be, else its pid 1 and with it the
/// pid namespace.
pub(crate) async fn kill_all(engine: &Arc<Engine>, container: &Arc<Container>) -> Result<()> {
    let pidfd = container.live.lock().pidfd.clone();
    if container.state() == State::Paused {
        thaw(engine, container).await?;
    }
    let Some(pidfd) = pidfd else { return Ok(()) };
    send(container, &pidfd, KILL)
}

/// Ends a run as if the container had died: its restart policy decides what follows.
pub(crate) async fn put_down(engine: &Arc<Engine>, container: &Arc<Container>) -> Result<()> {
    publish_kill(engine, container, KILL);
    kill_all(engine, container).await
}

fn publish_kill(engine: &Engine, container: &Container, signal: i32) {
    let number = signal.to_string();
    engine.publish_container(container, "kill", BTreeMap::from([("signal".to_owned(), number)]));
}

/// Freezes a container's processes.
pub async fn pause(engine: &Arc<Engine>, id: &str) -> Result<()> {
    let container = engine.containers.find(id)?;
    let _operation = container.operation.lock().await;
    if container.state() == State::Paused {
        return Err(Error::conflict(yare_api::texts::already_paused(&container.id)));
    }
    if let Verdict::Refuse(why) = lifecycle::pause(container.state()) {
        return Err(Error::conflict(format!("container {} {why}", container.id)));
    }
    let group = group(engine, &container)?;
    // The kernel may take its time.
    let failed = format!("cannot pause container {id}");
    blocking(move || group.freeze().map_err(|error| Error::wrap(failed, error))).await?;
    let paused = container.update(|record| {
        // Its end may have come between: an empty group freezes too.
        if record.state.status == State::Running {
            record.state.status = State::Paused;
        }
    });
    if paused.state.status != State::Paused {
        return Err(Error::conflict(format!("container {} is not running", container.id)));
    }
    engine.save_soon(&container);
    engine.publish_container(&container, "pause", BTreeMap::new());
    Ok(())
}

/// Lets a frozen container go on.
pub async fn unpause(engine: &Arc<Engine>, id: &str) -> Result<()> {
    let container = engine.containers.find(id)?;
    let _operation = container.operation.lock().await;
    if container.state() != State::Paused {
        return Err(Error::conflict(yare_api::texts::not_paused(&container.id)));
    }
    thaw(engine, &container).await?;
    engine.publish_container(&container, "unpause", BTreeMap::new());
    Ok(())
}

async fn thaw(engine: &Arc<Engine>, container: &Arc<Container>) -> Result<()> {
    let thawed = blocking({
        let (engine, container) = (Arc::clone(engine), Arc::clone(container));
        move || {
            let failed = |error| Error::wrap(format!("cannot unpause container {}", container.id), error);
            group(&engine, &container)?.thaw().map_err(failed)
        }
    });
    if let Err(error) = thawed.await
        && !has_ended(container)
    {
        return Err(error);
    }
    container.update(|record| {
        if record.state.status == State::Paused {
            record.state.status = State::Running;
        }
    });
    engine.save_soon(container);
    Ok(())
}

/// Whether process 1 is gone: its group goes with it, before its end is on record.
fn has_ended(container: &Container) -> bool {
    let pidfd = container.live.lock().pidfd.clone();
    pidfd.is_none_or(|pidfd| yare_sys::process::pidfd_send_signal(&*pidfd, 0).is_err())
}

pub(crate) fn group(engine: &Engine, container: &Container) -> Result<yare_cgroup::Group> {
    yare_cgroup::Group::open(&engine.cgroups, &engine.cgroup_path(&container.record()))
        .map_err(|error| Error::wrap(format!("cannot open the cgroup of container {}", container.id), error))
}

/// Reads `TERM`, `SIGTERM`, `15`, `RTMIN+1`.
pub fn parse_signal(text: &str) -> Result<i32> {
    let bad = || Error::invalid(format!("invalid signal: {text}"));
    let number = match text.parse::<i32>() {
        Ok(number) => number,
        Err(_) => {
            let upper = text.to_ascii_uppercase();
            signal_number(upper.strip_prefix("SIG").unwrap_or(&upper)).ok_or_else(bad)?
        }
    };
    if (1..=REAL_TIME.1).contains(&number) { Ok(number) } else { Err(bad()) }
}

/// The first and last real-time signals that programs may use (glibc keeps 32 and 33).
const REAL_TIME: (i32, i32) = (34, 64);

fn signal_number(name: &str) -> Option<i32> {
    const NAMES: &[&str] = &[
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Some(place) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(place + 1).ok();
    }
    let number = match name {
        "IOT" => 6,
        "CLD" => 17,
        "POLL" => 29,
        "RTMIN" => REAL_TIME.0,
        "RTMAX" => REAL_TIME.1,
        _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(above), _) => REAL_TIME.0.checked_add(above.parse().ok()?)?,
            (_, Some(below)) => REAL_TIME.1.checked_sub(below.parse().ok()?)?,
            _ => return None,
        },
    };
    (1..=REAL_TIME.1).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_signals_as_people_write_them() {
        for (text, number) in
            [("TERM", 15), ("sigterm", 15), ("9", 9), ("SIGRTMIN+1", 35), ("RTMAX-1", 63), ("WINCH", 28)]
        {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["FOO", "0", "65", "-1", "SIGSIG", "RTMIN+99", ""] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
