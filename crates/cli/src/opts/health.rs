//! `--health-*`.

use yare_api::HealthConfig;

use crate::flags::Given;

/// The health check that the flags ask for; `None` when they say nothing.
pub(crate) fn config(given: &Given) -> Result<Option<HealthConfig>, String> {
    let command = given.text("health-cmd");
    let times = [
        ("health-interval", given.duration("health-interval").unwrap_or(0)),
        ("health-timeout", given.duration("health-timeout").unwrap_or(0)),
        ("health-start-period", given.duration("health-start-period").unwrap_or(0)),
        ("health-start-interval", given.duration("health-start-interval").unwrap_or(0)),
    ];
    let retries = given.int("health-retries").unwrap_or(0);
    let on_failure = given.text("health-on-failure");
    let any = !command.is_empty()
        || !on_failure.is_empty()
        || times.iter().any(|(_, time)| *time != 0)
        || retries != 0;
    if given.bool("no-healthcheck") {
        if any {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        return Ok(Some(HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() }));
    }
    if !any {
        return Ok(None);
    }
    for (name, time) in times {
        if time < 0 {
            return Err(format!("--{name} cannot be negative"));
        }
    }
    if retries < 0 {
        return Err("--health-retries cannot be negative".to_owned());
    }
    let mut config = HealthConfig {
        test: if command.is_empty() { Vec::new() } else { vec!["CMD-SHELL".to_owned(), command.to_owned()] },
        ..HealthConfig::default()
    };
    (config.interval, config.timeout) = (times[0].1, times[1].1);
    (config.start_period, config.start_interval) = (times[2].1, times[3].1);
    config.retries = retries;
    on_failure.clone_into(&mut config.on_failure);
    Ok(Some(config))
}
