//! `--change`: Dockerfile instructions applied to a container config, for import and commit.
//!
//! `CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD SHELL STOPSIGNAL USER VOLUME WORKDIR`, in the JSON
//! and the shell form, with quotes, escapes and `$VARIABLES` as in a Dockerfile.

mod words;

use words::{expand, pairs, split};
use yare_errdefs::{Error, Result};
use yare_oci::image::Empty;
use yare_oci::{ContainerConfig, Healthcheck};

/// Applies instructions in order. An error leaves the config half changed and is to end the request.
pub fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<()> {
    for change in changes {
        for line in logical_lines(change) {
            apply_one(config, &line)?;
        }
    }
    Ok(())
}

/// Whether instructions can be applied.
pub fn check(changes: &[String]) -> Result<()> {
    apply(&mut ContainerConfig::default(), changes)
}

/// Lines with continuations joined, without comments and empty ones.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        if current.is_empty() && line.trim_start().starts_with('#') {
            continue;
        }
        match line.trim_end().strip_suffix('\\') {
            Some(begun) => current.push_str(begun),
            None => {
                current.push_str(line);
                lines.push(std::mem::take(&mut current));
            }
        }
    }
    lines.push(current);
    lines.retain(|line| !line.trim().is_empty());
    lines
}

fn apply_one(config: &mut ContainerConfig, line: &str) -> Result<()> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let instruction = word.to_ascii_uppercase();
    let known = [
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    if !known.contains(&instruction.as_str()) {
        return Err(Error::invalid(format!("{word} is not a valid change command"))
            .with_hint(format!("a change starts with one of {}", known.join(" "))));
    }
    if rest.is_empty() && !matches!(instruction.as_str(), "CMD" | "ENTRYPOINT") {
        return Err(Error::invalid(format!("{instruction} requires at least one argument")));
    }
    match instruction.as_str() {
        "CMD" => config.cmd = Some(command(config, rest)),
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(config, rest));
        }
        "ENV" => env(config, rest)?,
        "EXPOSE" => expose(config, rest)?,
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        "LABEL" => {
            for (key, value) in pairs("LABEL", rest, &config.env)? {
                config.labels.insert(key, value);
            }
        }
        "ONBUILD" => config.on_build.push(on_build(rest)?),
        "SHELL" => {
            let shell = json_form(rest).filter(|shell| !shell.is_empty());
            config.shell =
                shell.ok_or_else(|| Error::invalid("SHELL requires the arguments to be in JSON form"))?;
        }
        "STOPSIGNAL" => config.stop_signal = single("STOPSIGNAL", rest, &config.env)?,
        "USER" => config.user = single("USER", rest, &config.env)?,
        "VOLUME" => volume(config, rest)?,
        _ => workdir(config, rest)?,
    }
    Ok(())
}

/// A list of strings in JSON; anything else is the shell form.
fn json_form(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

/// The program of `CMD` and `ENTRYPOINT`: as it is in JSON, through the shell otherwise.
fn command(config: &ContainerConfig, text: &str) -> Vec<String> {
    if let Some(list) = json_form(text) {
        return list;
    }
    if text.is_empty() {
        return Vec::new();
    }
    let shell = match config.shell.as_slice() {
        [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        shell => shell.to_vec(),
    };
    shell.into_iter().chain([text.to_owned()]).collect()
}

fn env(config: &mut ContainerConfig, text: &str) -> Result<()> {
    for (key, value) in pairs("ENV", text, &config.env)? {
        let entry = format!("{key}={value}");
        let same =
            |known: &&mut String| known.split_once('=').map_or(known.as_str(), |(known, _)| known) == key;
        match config.env.iter_mut().find(same) {
            Some(known) => *known = entry,
            None => config.env.push(entry),
        }
    }
    Ok(())
}

fn expose(config: &mut ContainerConfig, text: &str) -> Result<()> {
    for word in split(text, &config.env)? {
        for port in ports(&word)? {
            config.exposed_ports.insert(port, Empty {});
        }
    }
    Ok(())
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn ports(text: &str) -> Result<Vec<String>> {
    let bad = || Error::invalid(format!("invalid containerPort: {text}"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_ascii_lowercase() };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(Error::invalid(format!("invalid proto: {protocol}")));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first > last {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn volume(config: &mut ContainerConfig, text: &str) -> Result<()> {
    let paths = match json_form(text) {
        Some(paths) => paths.iter().map(|path| expand(path, &config.env)).collect::<Result<_>>()?,
        None => split(text, &config.env)?,
    };
    for path in paths {
        let path = path.trim().to_owned();
        if path.is_empty() {
            return Err(Error::invalid("VOLUME specified can not be an empty string"));
        }
        config.volumes.insert(path, Empty {});
    }
    Ok(())
}

fn workdir(config: &mut ContainerConfig, text: &str) -> Result<()> {
    let path = single("WORKDIR", text, &config.env)?;
    let joined = if path.starts_with('/') { path } else { format!("{}/{path}", config.working_dir) };
    config.working_dir = yare_oci::path::clean(&joined);
    Ok(())
}

/// The one argument of an instruction; spaces in it belong to it.
fn single(instruction: &str, text: &str, env: &[String]) -> Result<String> {
    let value = expand(text, env)?;
    if value.is_empty() {
        return Err(Error::invalid(format!("{instruction} requires exactly one argument")));
    }
    Ok(value)
}

fn on_build(text: &str) -> Result<String> {
    let (word, _) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match word.to_ascii_uppercase().as_str() {
        "ONBUILD" => Err(Error::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        trigger @ ("MAINTAINER" | "FROM") => {
            Err(Error::invalid(format!("{trigger} isn't allowed as an ONBUILD trigger")))
        }
        _ => Ok(text.to_owned()),
    }
}

fn healthcheck(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        let duration = || duration(name, value);
        match name {
            "interval" => check.interval = duration()?,
            "timeout" => check.timeout = duration()?,
            "start-period" => check.start_period = duration()?,
            "start-interval" => check.start_interval = duration()?,
            "retries" => {
                let retries = value.parse().ok().filter(|retries| *retries >= 0);
                let bad = || Error::invalid(format!("--retries must be at least 0 (not {value:?})"));
                check.retries = retries.ok_or_else(bad)?;
            }
            _ => return Err(Error::invalid(format!("unknown flag: {name}"))),
        }
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => vec!["NONE".into()],
        "NONE" => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" if command.is_empty() => return Err(Error::invalid("missing command after HEALTHCHECK CMD")),
        "CMD" => match json_form(command) {
            Some(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
            None => vec!["CMD-SHELL".into(), command.to_owned()],
        },
        _ => return Err(Error::invalid(format!("unknown type {kind:?} in HEALTHCHECK (try CMD)"))),
    };
    Ok(check)
}

/// A Go duration in nanoseconds; 0, or at least a millisecond.
fn duration(name: &str, value: &str) -> Result<i64> {
    let nanoseconds = yare_gotext::parse_duration(value)
        .map_err(|_| Error::invalid(format!("invalid duration {value:?} for --{name}")))?;
    if nanoseconds != 0 && nanoseconds < 1_000_000 {
        return Err(Error::invalid(format!("interval {name:?} cannot be less than 1ms")));
    }
    Ok(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<ContainerConfig> {
        let mut config = ContainerConfig::default();
        apply(&mut config, &changes.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        Ok(config)
    }

    #[test]
    fn commands_have_two_forms() {
        let config = changed(&["CMD [\"a\", \"b c\"]", "entrypoint exec $HOME \"x\""]).unwrap();
        assert_eq!(config.cmd.unwrap(), ["a", "b c"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "exec $HOME \"x\""]);
        let config = changed(&["SHELL [\"/bin/bash\",\"-ec\"]", "CMD [not json"]).unwrap();
        assert_eq!(config.cmd.unwrap(), ["/bin/bash", "-ec", "[not json"]);
        assert!(changed(&["CMD []"]).unwrap().cmd.unwrap().is_empty());
    }

    #[test]
    fn environment_and_labels_are_pairs() {
        let config = changed(&[
            "ENV A=1 B='two words' C=\"x ${A} \\\"y\\\"\" D=a\\ b",
            "ENV OLD style with spaces",
            "ENV A=2",
            "LABEL a=b \"c d\"=\"e\" path=$B${NONE:-default}",
        ])
        .unwrap();
        assert_eq!(config.env, ["A=2", "B=two words", "C=x  \"y\"", "D=a b", "OLD=style with spaces"]);
        assert_eq!(config.labels["c d"], "e");
        assert_eq!(config.labels["path"], "two wordsdefault");
        assert!(changed(&["ENV A"]).is_err());
        assert!(changed(&["ENV =x"]).is_err());
    }

    #[test]
    fn the_rest_of_the_instructions() {
        let config = changed(&[
            "EXPOSE 80 443/tcp 53/UDP 8000-8002",
            "VOLUME [\"/a\", \"/b c\"]",
            "VOLUME /d /e",
            "WORKDIR /srv",
            "WORKDIR app/../www",
            "USER 1000:1000",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=5s --retries=3 CMD curl -f localhost || exit 1",
        ])
        .unwrap();
        let ports: Vec<_> = config.exposed_ports.keys().map(String::as_str).collect();
        assert_eq!(ports, ["443/tcp", "53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
        let volumes: Vec<_> = config.volumes.keys().map(String::as_str).collect();
        assert_eq!(volumes, ["/a", "/b c", "/d", "/e"]);
        assert_eq!(config.working_dir, "/srv/www");
        assert_eq!((config.user.as_str(), config.stop_signal.as_str()), ("1000:1000", "SIGQUIT"));
        assert_eq!(config.on_build, ["RUN make"]);
        let check = config.healthcheck.unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "curl -f localhost || exit 1"]);
        assert_eq!((check.interval, check.retries), (5_000_000_000, 3));
        assert_eq!(changed(&["HEALTHCHECK NONE"]).unwrap().healthcheck.unwrap().test, ["NONE"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (change, text) in [
            ("FROM x", "FROM is not a valid change command"),
            ("EXPOSE 99999", "invalid containerPort: 99999"),
            ("EXPOSE 80/icmp", "invalid proto: icmp"),
            ("USER", "USER requires at least one argument"),
            ("SHELL sh", "SHELL requires the arguments to be in JSON form"),
            ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
            ("HEALTHCHECK --interval=1us CMD x", "interval \"interval\" cannot be less than 1ms"),
        ] {
            assert_eq!(changed(&[change]).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn lines_continue_and_comments_do_not_count() {
        let config = changed(&["# note\nENV A=1 \\\n  B=2\n\nUSER me"]).unwrap();
        assert_eq!(config.env, ["A=1", "B=2"]);
        assert_eq!(config.user, "me");
    }
}
