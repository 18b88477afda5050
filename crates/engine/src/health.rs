//! Health checks: a probe runs in the container now and then, and what follows from its end is decided purely.

use crate::Engine;
use crate::container::Container;
use crate::containers;
use crate::exec;
use crate::lifecycle::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use yare_api::{ExecConfig, HealthConfig};
use yare_specgen::health::OnFailure;

/// How many ends of probes are kept.
const KEPT: usize = 5;
/// The longest output of a probe that is kept, in bytes.
const LONGEST: usize = 4096;

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// How a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No probe has succeeded, nor enough of them failed.
    #[default]
    Starting,
    /// The last probe succeeded, or not enough have failed since.
    Healthy,
    /// Too many probes failed in a row.
    Unhealthy,
}

impl Status {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The end of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 is healthy; -1 that it could not run, or did not end in time.
    pub code: i32,
    /// What it said.
    pub output: String,
}

/// What is recorded of a container's health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// How it is.
    pub status: Status,
    /// Failures in a row.
    pub streak: u32,
    /// The last probes, oldest first.
    pub log: Vec<Probe>,
}

/// The settings of a check, with Docker's defaults.
#[derive(Debug, Clone, Copy)]
struct Settings {
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
    on_failure: OnFailure,
}

impl Settings {
    fn of(config: &HealthConfig) -> Self {
        let or = |nanoseconds: i64, default: Duration| match u64::try_from(nanoseconds) {
            Ok(0) | Err(_) => default,
            Ok(some) => Duration::from_nanos(some),
        };
        Self {
            interval: or(config.interval, INTERVAL),
            timeout: or(config.timeout, TIMEOUT),
            start_period: or(config.start_period, Duration::ZERO),
            start_interval: or(config.start_interval, START_INTERVAL),
            retries: u32::try_from(config.retries).ok().filter(|retries| *retries != 0).unwrap_or(RETRIES),
            on_failure: OnFailure::of(config),
        }
    }

    /// The pause before the next probe of a container that has run for so long.
    fn pause(&self, status: Status, age: Duration) -> Duration {
        if status == Status::Starting && age < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }
}

impl Health {
    /// Takes a probe's end into account, of a container that had run for `age` when it ended.
    fn note(&mut self, probe: Probe, settings: &Settings, age: Duration) {
        if probe.code == 0 {
            self.streak = 0;
            self.status = Status::Healthy;
        } else if self.status != Status::Starting || age >= settings.start_period {
            self.streak += 1;
            if self.streak >= settings.retries {
                self.status = Status::Unhealthy;
            }
        }
        if self.log.len() >= KEPT {
            self.log.drain(..=self.log.len() - KEPT);
        }
        self.log.push(probe);
    }
}

/// Begins to watch over a container that runs, if it has a health check. It ends with the run.
pub(crate) fn watch(engine: &Arc<Engine>, container: &Arc<Container>) {
    let record = container.record();
    let Some(check) = record.plan.healthcheck.clone() else { return };
    let settings = Settings::of(&check);
    let command = command(&check, record.config.shell.as_deref());
    let (engine, watched) = (Arc::downgrade(engine), Arc::clone(container));
    let mut ends = container.progress.subscribe();
    let seen = ends.borrow().exits;
    tokio::spawn(async move {
        let ended = ends.wait_for(|progress| progress.exits > seen || progress.removed);
        tokio::select! {
            _ = ended => {}
            () = probe_on(&engine, &watched, &settings, &command) => {}
        }
    });
}

async fn probe_on(
    engine: &Weak<Engine>,
    container: &Arc<Container>,
    settings: &Settings,
    command: &[String],
) {
    loop {
        let pause = {
            let Some(engine) = engine.upgrade() else { return };
            settings.pause(status(container), age(&engine, container))
        };
        tokio::time::sleep(pause).await;
        let Some(engine) = engine.upgrade() else { return };
        if container.state() != State::Running {
            continue;
        }
        let probe = probe(&engine, container, settings, command).await;
        // Not only when it becomes unhealthy: the engine may have been killed between that and what follows.
        if settle(&engine, container, settings, probe) && settings.on_failure != OnFailure::None {
            // On its own: what is done ends this run, and with it whoever watches over it.
            let act = tokio::spawn(act(engine, Arc::clone(container), settings.on_failure));
            act.await.unwrap_or_default();
        }
    }
}

fn status(container: &Container) -> Status {
    container.record().state.health.as_ref().map_or(Status::Starting, |health| health.status)
}

fn age(engine: &Engine, container: &Container) -> Duration {
    let started = container.record().state.started_at;
    let age = started.map(|started| engine.clock.now().duration_since(started));
    age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default()
}

async fn probe(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    settings: &Settings,
    command: &[String],
) -> Probe {
    let start = engine.clock.now();
    let config = ExecConfig {
        cmd: Some(command.to_vec()),
        attach_stdout: true,
        attach_stderr: true,
        ..ExecConfig::default()
    };
    let (code, output) = match exec::run_aside(engine, container, config, settings.timeout, LONGEST).await {
        Ok(Some(aside)) => (aside.code, aside.output),
        Ok(None) => (-1, format!("Health check exceeded timeout ({:?})", settings.timeout)),
        Err(error) => (-1, yare_errdefs::chain(&error)),
    };
    Probe { start, end: engine.clock.now(), code, output }
}

/// Takes a probe's end into account; `true` when it failed and the container is unhealthy.
fn settle(engine: &Arc<Engine>, container: &Arc<Container>, settings: &Settings, probe: Probe) -> bool {
    let age = age(engine, container);
    let failed = probe.code != 0;
    let (mut before, mut after) = (Status::Starting, Status::Starting);
    container.update(|record| {
        // It may have ended meanwhile.
        if record.state.status.has_process() {
            let health = record.state.health.get_or_insert_default();
            before = health.status;
            health.note(probe, settings, age);
            after = health.status;
        }
    });
    if before != after {
        engine.save_soon(container);
        engine.publish_container(container, &format!("health_status: {}", after.as_str()), BTreeMap::new());
    }
    failed && after == Status::Unhealthy
}

async fn act(engine: Arc<Engine>, container: Arc<Container>, on_failure: OnFailure) {
    tracing::info!(container = container.id, ?on_failure, "a container is unhealthy");
    let id = &container.id;
    let done = match on_failure {
        OnFailure::None => Ok(()),
        OnFailure::Kill => containers::stop::put_down(&engine, &container).await,
        OnFailure::Restart => containers::restart(&engine, id, None, None).await,
        OnFailure::Stop => containers::stop(&engine, id, None, None).await.map(drop),
    };
    if let Err(error) = done {
        let error = yare_errdefs::chain(&error);
        tracing::warn!(container = id, ?on_failure, error, "an unhealthy container stays as it is");
    }
}

/// The program of a check.
fn command(check: &HealthConfig, shell: Option<&[String]>) -> Vec<String> {
    let rest = check.test.get(1..).unwrap_or_default();
    match check.test.first().map(String::as_str) {
        Some("CMD-SHELL") => {
            let shell = shell.filter(|shell| !shell.is_empty()).map(<[String]>::to_vec);
            let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
            command.extend(rest.iter().cloned());
            command
        }
        _ => rest.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(code: i32) -> Probe {
        Probe { start: Timestamp::UNIX_EPOCH, end: Timestamp::UNIX_EPOCH, code, output: String::new() }
    }

    fn settings(start_period: u64) -> Settings {
        let config = HealthConfig { retries: 2, ..HealthConfig::default() };
        Settings { start_period: Duration::from_secs(start_period), ..Settings::of(&config) }
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let (mut health, settings) = (Health::default(), settings(0));
        let mut after = |code| {
            health.note(probe(code), &settings, Duration::from_secs(1));
            (health.status, health.streak)
        };
        assert_eq!(after(1), (Status::Starting, 1));
        assert_eq!(after(0), (Status::Healthy, 0));
        assert_eq!(after(1), (Status::Healthy, 1));
        assert_eq!(after(-1), (Status::Unhealthy, 2));
        assert_eq!(after(1), (Status::Unhealthy, 3));
        assert_eq!(after(0), (Status::Healthy, 0));
        assert_eq!(health.log.iter().map(|probe| probe.code).collect::<Vec<_>>(), [0, 1, -1, 1, 0]);
    }

    #[test]
    fn failures_of_the_start_period_do_not_count_until_it_was_healthy() {
        let (mut health, settings) = (Health::default(), settings(60));
        let young = Duration::from_secs(5);
        for _ in 0..9 {
            health.note(probe(1), &settings, young);
        }
        assert_eq!((health.status, health.streak, health.log.len()), (Status::Starting, 0, KEPT));
        assert_eq!(settings.pause(health.status, young), START_INTERVAL);
        assert_eq!(settings.pause(health.status, Duration::from_secs(61)), INTERVAL);
        health.note(probe(0), &settings, young);
        assert_eq!(settings.pause(health.status, young), INTERVAL);
        health.note(probe(1), &settings, young);
        health.note(probe(1), &settings, young);
        assert_eq!(health.status, Status::Unhealthy);
    }

    #[test]
    fn a_check_is_a_program_or_a_line_for_the_shell() {
        let check = |words: &[&str]| HealthConfig {
            test: words.iter().map(|word| (*word).to_owned()).collect(),
            ..HealthConfig::default()
        };
        assert_eq!(command(&check(&["CMD", "a", "b c"]), None), ["a", "b c"]);
        assert_eq!(command(&check(&["CMD-SHELL", "a; b"]), None), ["/bin/sh", "-c", "a; b"]);
        let shell = ["bash".to_owned(), "-ec".to_owned()];
        assert_eq!(command(&check(&["CMD-SHELL", "a; b"]), Some(&shell)), ["bash", "-ec", "a; b"]);
    }
}
