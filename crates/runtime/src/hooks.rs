//! Hooks: programs of the host run at points of a container's life.

use crate::error::{Result, StartError, Step};
use std::io::Write;
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

fn run_one(hook: &Hook, state: &State) -> Result<()> {
    let failed = |what: String| StartError::internal(Step::Hooks, format!("hook {}: {what}", hook.path));
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command.args(arguments);
    }
    command.env_clear();
    command.envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(format!("cannot run: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read it.
        let _ = input.write_all(&serde_json::to_vec(state).expect("a state is plain data"));
    }
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
