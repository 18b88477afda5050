//! Environments of processes.

/// What `PATH` is when nobody says.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Replaces and appends: `KEY=value` sets, `KEY` alone unsets.
pub(crate) fn overlay(mut base: Vec<String>, overrides: &[String]) -> Vec<String> {
    for entry in overrides {
        let (key, sets) = entry.split_once('=').map_or((entry.as_str(), false), |(key, _)| (key, true));
        let at = base.iter().position(|have| have.split_once('=').is_some_and(|(name, _)| name == key));
        match (at, sets) {
            (Some(at), true) => base[at].clone_from(entry),
            (None, true) => base.push(entry.clone()),
            (Some(at), false) => drop(base.remove(at)),
            (None, false) => {}
        }
    }
    base
}

/// The environment of a container's first process.
pub(crate) fn of_container(hostname: &str, terminal: bool, env: &[String]) -> Vec<String> {
    let mut base = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if terminal {
        base.push("TERM=xterm".to_owned());
    }
    overlay(base, env)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn replaces_appends_and_unsets() {
        let base = list(&["HOME=/", "FOO=foo_default"]);
        let overrides = list(&["HOME=/root", "TERM=xterm", "FOO", "BAR"]);
        assert_eq!(overlay(base, &overrides), ["HOME=/root", "TERM=xterm"]);
    }

    #[test]
    fn defaults_can_be_overridden() {
        let env = of_container("h", true, &list(&["PATH=/x", "A=b=c", "TERM"]));
        assert_eq!(env, ["PATH=/x", "HOSTNAME=h", "A=b=c"]);
    }
}
