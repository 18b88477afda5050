//! What is done with a container that is unhealthy.

use yare_oci::Healthcheck;

/// The label that says it for clients whose requests cannot.
pub const LABEL: &str = "yare.health-on-failure";

/// What is done with a container that is unhealthy. Docker does nothing; the words are Podman's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Its state says so.
    #[default]
    None,
    /// It is killed, as if it had died: its restart policy decides what follows.
    Kill,
    /// It is stopped and started.
    Restart,
    /// It is stopped, and stays so whatever its restart policy.
    Stop,
}

impl OnFailure {
    /// What a check asks for.
    pub fn of(check: &Healthcheck) -> Self {
        Self::parse(&check.on_failure).unwrap_or_default()
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "" | "none" => Self::None,
            "kill" => Self::Kill,
            "restart" => Self::Restart,
            "stop" => Self::Stop,
            _ => return None,
        })
    }
}
