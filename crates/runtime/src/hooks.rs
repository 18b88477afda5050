//! Hooks: programs of the host run at points of a container's life.

use crate::error::{Result, StartError, Step};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use yare_oci::runtime::{Hook, State};

/// Runs hooks in order with the state on their standard input; the first failure ends it.
pub(crate) fn run(hooks: &[Hook], state: &State) -> Result<()> {
    for hook in hooks {
        run_one(hook, state)?;
    }
    Ok(())
}

/// Runs all of them; failures become warnings.
pub fn run_all(hooks: &[Hook], state: &State) -> Vec<String> {
    hooks.iter().filter_map(|hook| run_one(hook, state).err()).map(|error| error.to_string()).collect()
}

/// The state as a file. A hook need not read it, and whoever writes into a pipe that nobody reads is ended by a
/// signal, which the process that becomes the container's does not ignore.
fn input(state: &State) -> io::Result<File> {
    let mut file = File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(state)?)?;
    file.rewind()?;
    Ok(file)
}

fn run_one(hook: &Hook, state: &State) -> Result<()> {
    let failed = |what: String| StartError::internal(Step::Hooks, format!("hook {}: {what}", hook.path));
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command.args(arguments);
    }
    command.env_clear();
    command.envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    let input = input(state).map_err(|error| failed(format!("cannot write the state: {error}")))?;
    command.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(format!("cannot run: {error}")))?;
    let deadline = hook.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    loop {
        match child.try_wait().map_err(|error| failed(format!("cannot wait: {error}")))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                let mut text = String::new();
                if let Some(mut output) = child.stderr.take() {
                    let _ = std::io::Read::read_to_string(&mut output, &mut text);
                }
                return Err(failed(format!("{status}: {}", text.trim())));
            }
            None => {}
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed("timed out".to_string()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_any_size_is_there_to_be_read_or_left() {
        let annotations = (0..10_000).map(|number| (number.to_string(), "x".repeat(30))).collect();
        let state = State { annotations, ..State::default() };
        let hook = |script: &str| Hook {
            path: "/bin/sh".to_owned(),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: Some(20),
            ..Hook::default()
        };
        run(&[hook("[ $(cat | wc -c) -gt 300000 ]"), hook("exit 0")], &state).unwrap();
        let error = run(&[hook("grep -q nothing-like-it || { echo no luck >&2; exit 3; }")], &state);
        assert!(error.unwrap_err().to_string().ends_with("exit status: 3: no luck"));
    }
}
