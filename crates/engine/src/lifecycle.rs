//! What may happen to a container next: decided here, purely; done elsewhere.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The seven states of the Docker API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It ended and waits to be started again.
    Restarting,
    /// It is being removed.
    Removing,
    /// Its process has ended.
    Exited,
    /// Its removal failed half way.
    Dead,
}

impl State {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether there is a live process.
    pub fn has_process(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Whether the API says `Running: true` (a restarting container counts).
    pub fn counts_as_running(self) -> bool {
        self.has_process() || self == Self::Restarting
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answer to a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Go,
    /// It is so already.
    Already,
    /// It cannot be; the sentence is Docker's.
    Refuse(&'static str),
}

/// May a container in this state be started?
pub fn start(state: State) -> Verdict {
    match state {
        State::Created | State::Exited | State::Restarting => Verdict::Go,
        State::Running => Verdict::Already,
        State::Paused => Verdict::Refuse("cannot start a paused container, try unpause instead"),
        State::Removing | State::Dead => {
            Verdict::Refuse("container is marked for removal and cannot be started")
        }
    }
}

/// May it be frozen?
pub fn pause(state: State) -> Verdict {
    match state {
        State::Running => Verdict::Go,
        State::Paused => Verdict::Refuse("is already paused"),
        State::Restarting => Verdict::Refuse("is restarting, wait until the container is running"),
        _ => Verdict::Refuse("is not running"),
    }
}

/// When a container comes back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Whatever the exit code, and when the engine starts.
    Always,
    /// As `Always`, unless a user stopped it.
    UnlessStopped,
    /// After a failure, at most this often; 0 is without limit.
    OnFailure(u32),
}

impl RestartPolicy {
    /// Reads the API's pair of name and count.
    pub fn parse(name: &str, maximum: i64) -> Option<Self> {
        match name {
            "" | "no" => Some(Self::No),
            "always" => Some(Self::Always),
            "unless-stopped" => Some(Self::UnlessStopped),
            "on-failure" => u32::try_from(maximum).ok().map(Self::OnFailure),
            _ => None,
        }
    }
}

/// The facts about an exit that decide what follows.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// Exit code, 128+n for a signal.
    pub code: i32,
    /// How long the process ran.
    pub ran_for: Duration,
    /// How often the policy has restarted it since a user last did.
    pub restarts: u32,
    /// The pause before the last restart.
    pub last_delay: Duration,
    /// Whether a user asked for the end (stop, kill).
    pub stopped_by_user: bool,
    /// Whether it is to be removed at its end.
    pub auto_remove: bool,
}

/// What follows an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterExit {
    /// It stays, as `exited`.
    Stay,
    /// It is removed.
    Remove,
    /// It is started again after this pause.
    Restart(Duration),
}

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run this long starts the doubling afresh.
const STEADY: Duration = Duration::from_secs(10);

/// What follows this exit under this policy. The pauses are Docker's: 100 ms, doubled up to a minute, from
/// the beginning again after a run of ten seconds.
pub fn after_exit(policy: RestartPolicy, exit: &Exit) -> AfterExit {
    let wanted = !exit.stopped_by_user
        && match policy {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure(limit) => exit.code != 0 && (limit == 0 || exit.restarts < limit),
        };
    if wanted {
        let fresh = exit.restarts == 0 || exit.ran_for >= STEADY || exit.last_delay.is_zero();
        return AfterExit::Restart(if fresh {
            FIRST_DELAY
        } else {
            (exit.last_delay * 2).min(LONGEST_DELAY)
        });
    }
    if exit.auto_remove { AfterExit::Remove } else { AfterExit::Stay }
}

/// Whether a container that does not run is started when the engine comes up.
pub fn start_at_boot(policy: RestartPolicy, stopped_by_user: bool, was_running: bool, code: i32) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !stopped_by_user,
        RestartPolicy::OnFailure(_) => was_running && code != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Exit {
        Exit {
            code,
            ran_for: Duration::from_secs(1),
            restarts: 0,
            last_delay: Duration::ZERO,
            stopped_by_user: false,
            auto_remove: false,
        }
    }

    #[test]
    fn only_a_stopped_container_starts() {
        assert_eq!(start(State::Created), Verdict::Go);
        assert_eq!(start(State::Running), Verdict::Already);
        assert!(matches!(start(State::Paused), Verdict::Refuse(_)));
        assert!(matches!(start(State::Removing), Verdict::Refuse(_)));
    }

    #[test]
    fn on_failure_restarts_a_counted_number_of_times() {
        let policy = RestartPolicy::OnFailure(2);
        assert_eq!(after_exit(policy, &exit(0)), AfterExit::Stay);
        assert_eq!(after_exit(policy, &exit(1)), AfterExit::Restart(FIRST_DELAY));
        assert_eq!(after_exit(policy, &Exit { restarts: 2, ..exit(1) }), AfterExit::Stay);
    }

    #[test]
    fn the_pause_doubles_up_to_a_minute_and_starts_afresh_after_a_steady_run() {
        let mut run = Exit { restarts: 1, last_delay: FIRST_DELAY, ..exit(1) };
        let mut delays = Vec::new();
        for _ in 0..12 {
            let AfterExit::Restart(delay) = after_exit(RestartPolicy::Always, &run) else {
                panic!("restarts")
            };
            delays.push(delay);
            run.last_delay = delay;
            run.restarts += 1;
        }
        assert_eq!(delays[0], Duration::from_millis(200));
        assert_eq!(*delays.last().unwrap(), LONGEST_DELAY);
        run.ran_for = STEADY;
        assert_eq!(after_exit(RestartPolicy::Always, &run), AfterExit::Restart(FIRST_DELAY));
    }

    #[test]
    fn what_a_user_stopped_stays_stopped() {
        let stopped = Exit { stopped_by_user: true, ..exit(137) };
        assert_eq!(after_exit(RestartPolicy::Always, &stopped), AfterExit::Stay);
        let gone = Exit { auto_remove: true, ..stopped };
        assert_eq!(after_exit(RestartPolicy::Always, &gone), AfterExit::Remove);
        assert!(!start_at_boot(RestartPolicy::UnlessStopped, true, false, 0));
        assert!(start_at_boot(RestartPolicy::UnlessStopped, false, false, 0));
    }
}
