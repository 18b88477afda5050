//! The image's config under the user's.

use yare_api::{ContainerConfig, HealthConfig};
use yare_oci::ContainerConfig as ImageContainerConfig;

/// Fills in from the image what the user left open, with Docker's rule for each member.
pub(crate) fn merge(config: &mut ContainerConfig, image: &ImageContainerConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    merge_maps(config, image);
    merge_env(config, &image.env);
    merge_command(config, image);
    merge_healthcheck(&mut config.healthcheck, image.healthcheck.as_ref());
    if config.shell.as_ref().is_none_or(Vec::is_empty) && !image.shell.is_empty() {
        config.shell = Some(image.shell.clone());
    }
}

fn merge_maps(config: &mut ContainerConfig, image: &ImageContainerConfig) {
    for (port, value) in &image.exposed_ports {
        config.exposed_ports.get_or_insert_default().entry(port.clone()).or_insert(*value);
    }
    let labels = config.labels.get_or_insert_default();
    for (name, value) in &image.labels {
        labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    let volumes = config.volumes.get_or_insert_default();
    for (path, value) in &image.volumes {
        volumes.entry(path.clone()).or_insert(*value);
    }
    if volumes.is_empty() {
        config.volumes = None;
    }
}

fn merge_env(config: &mut ContainerConfig, image: &[String]) {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let own = config.env.take().unwrap_or_default();
    let given: Vec<_> = own.iter().map(|entry| key(entry)).collect();
    let more = image.iter().filter(|entry| !given.contains(&key(entry))).cloned();
    let merged: Vec<_> = own.into_iter().chain(more).collect();
    config.env = (!merged.is_empty()).then_some(merged);
}

/// A new entrypoint makes the image's command void; an empty one (`[""]`) only resets it.
fn merge_command(config: &mut ContainerConfig, image: &ImageContainerConfig) {
    let none = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if none(&config.entrypoint) {
        if none(&config.cmd) {
            config.cmd.clone_from(&image.cmd);
            config.args_escaped = image.args_escaped;
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    let reset =
        config.entrypoint.as_ref().is_some_and(|words| matches!(words.as_slice(), [word] if word.is_empty()));
    if reset || none(&config.entrypoint) {
        config.entrypoint = None;
    }
}

fn merge_healthcheck(own: &mut Option<HealthConfig>, image: Option<&HealthConfig>) {
    let Some(image) = image else { return };
    let Some(own) = own else {
        *own = Some(image.clone());
        return;
    };
    if own.test.is_empty() {
        own.test.clone_from(&image.test);
    }
    for (own, image) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ] {
        if *own == 0 {
            *own = image;
        }
    }
    if own.on_failure.is_empty() {
        own.on_failure.clone_from(&image.on_failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Option<Vec<String>> {
        Some(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    fn image() -> ImageContainerConfig {
        ImageContainerConfig {
            entrypoint: list(&["/entry"]),
            cmd: list(&["default"]),
            env: list(&["A=image", "B=image"]).unwrap(),
            user: "u".to_owned(),
            ..ImageContainerConfig::default()
        }
    }

    fn merged(mut config: ContainerConfig) -> ContainerConfig {
        merge(&mut config, &image());
        config
    }

    #[test]
    fn commands() {
        let both = |config: ContainerConfig| (config.entrypoint, config.cmd);
        let of =
            |entrypoint, cmd| both(merged(ContainerConfig { entrypoint, cmd, ..ContainerConfig::default() }));
        assert_eq!(of(None, None), (list(&["/entry"]), list(&["default"])));
        assert_eq!(of(None, list(&["x"])), (list(&["/entry"]), list(&["x"])));
        assert_eq!(of(list(&["/e"]), None), (list(&["/e"]), None));
        assert_eq!(of(list(&[""]), list(&["x"])), (None, list(&["x"])));
        assert_eq!(of(Some(Vec::new()), None), (None, list(&["default"])));
    }

    #[test]
    fn environment_of_the_user_goes_first() {
        let config = merged(ContainerConfig { env: list(&["B=user", "C"]), ..ContainerConfig::default() });
        assert_eq!(config.env, list(&["B=user", "C", "A=image"]));
        assert_eq!(
            (config.user.as_str(), config.volumes, config.labels),
            ("u", None, Some(Default::default()))
        );
    }

    #[test]
    fn health_checks_merge_by_member() {
        let image =
            HealthConfig { test: vec!["CMD".into()], interval: 5, retries: 3, ..HealthConfig::default() };
        let mut own = Some(HealthConfig { interval: 9, ..HealthConfig::default() });
        merge_healthcheck(&mut own, Some(&image));
        let own = own.unwrap();
        assert_eq!((own.test, own.interval, own.retries), (vec!["CMD".to_owned()], 9, 3));
    }
}
