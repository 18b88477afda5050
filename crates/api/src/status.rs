//! The status line of a container: `Up 2 minutes (healthy)`.

use crate::container::ContainerState;
use crate::units::human_duration;
use jiff::Timestamp;
use std::time::Duration;

/// What `docker ps` shows for a state at this moment.
pub fn status(state: &ContainerState, now: Timestamp) -> String {
    let since = |moment: &str| human_duration(elapsed(moment, now).unwrap_or_default());
    if state.restarting {
        return format!("Restarting ({}) {} ago", state.exit_code, since(&state.finished_at));
    }
    if state.running {
        let up = since(&state.started_at);
        if state.paused {
            return format!("Up {up} (Paused)");
        }
        return match state.health.as_ref().map(|health| health.status.as_str()) {
            None | Some("" | "none") => format!("Up {up}"),
            Some("starting") => format!("Up {up} (health: starting)"),
            Some(health) => format!("Up {up} ({health})"),
        };
    }
    if state.status == "removing" {
        return "Removal In Progress".to_owned();
    }
    if state.dead {
        return "Dead".to_owned();
    }
    if elapsed(&state.started_at, now).is_none() {
        return "Created".to_owned();
    }
    match elapsed(&state.finished_at, now) {
        None => String::new(),
        Some(ago) => format!("Exited ({}) {} ago", state.exit_code, human_duration(ago)),
    }
}

/// The time since then; `None` for the zero time.
fn elapsed(moment: &str, now: Timestamp) -> Option<Duration> {
    if moment.is_empty() || moment == crate::time::ZERO {
        return None;
    }
    let moment: Timestamp = moment.parse().ok()?;
    Some(Duration::try_from(now.duration_since(moment)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Health;

    fn text(change: impl FnOnce(&mut ContainerState)) -> String {
        let mut state = ContainerState {
            started_at: "2026-11-23T14:00:00Z".into(),
            finished_at: crate::time::ZERO.into(),
            ..ContainerState::default()
        };
        change(&mut state);
        status(&state, "2026-11-23T14:02:03Z".parse().unwrap())
    }

    #[test]
    fn says_what_docker_says() {
        let running = |state: &mut ContainerState| state.running = true;
        let healthy = |status: &str| Some(Health { status: status.into(), ..Health::default() });
        assert_eq!(text(running), "Up 2 minutes");
        assert_eq!(text(|s| (s.running, s.paused) = (true, true)), "Up 2 minutes (Paused)");
        assert_eq!(text(|s| (s.running, s.health) = (true, healthy("healthy"))), "Up 2 minutes (healthy)");
        assert_eq!(
            text(|s| (s.running, s.health) = (true, healthy("starting"))),
            "Up 2 minutes (health: starting)"
        );
        assert_eq!(
            text(|s| {
                (s.restarting, s.running, s.exit_code) = (true, true, 1);
                s.finished_at = "2026-11-23T14:02:01Z".into();
            }),
            "Restarting (1) 2 seconds ago"
        );
        assert_eq!(text(|s| s.finished_at = "2026-11-23T14:02:00Z".into()), "Exited (0) 3 seconds ago");
        assert_eq!(text(|s| s.started_at = crate::time::ZERO.into()), "Created");
        assert_eq!(text(|s| s.dead = true), "Dead");
        assert_eq!(text(|s| s.status = "removing".into()), "Removal In Progress");
        assert_eq!(
            text(|s| s.finished_at = "2026-11-23T14:02:09Z".into()),
            "Exited (0) Less than a second ago",
            "a clock that went back"
        );
    }
}
